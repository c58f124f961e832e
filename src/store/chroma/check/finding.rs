//! One thing that is wrong with a palace.

use super::code::{Code, Remedy, Severity};
use crate::store::chroma::Amendment;

/// One thing that is wrong, with the evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// The collection, file or table it is about.
    pub subject: String,
    /// File, page, segment and numbers that show it.
    pub evidence: String,
    /// Records it is about, where they are known.
    pub ids: Vec<String>,
    /// How many there are of what is wrong.
    pub count: Option<u64>,
    /// What mends it; as its kind says, unless this one is another case.
    pub remedy: Remedy,
    /// What sets it right, where the database has to be amended for it before it is read.
    pub amendment: Option<Amendment>,
}

impl Finding {
    /// A finding of a kind, as grave as its kind is.
    pub fn new(code: Code, subject: impl Into<String>, evidence: impl Into<String>) -> Finding {
        let (subject, evidence) = (subject.into(), evidence.into());
        let (severity, remedy) = (code.entry().severity, code.remedy());
        Finding { code, severity, subject, evidence, ids: Vec::new(), count: None, remedy, amendment: None }
    }

    /// The same with another gravity.
    pub fn with_severity(self, severity: Severity) -> Finding {
        Finding { severity, ..self }
    }

    /// The same with a count.
    pub fn with_count(self, count: u64) -> Finding {
        Finding { count: Some(count), ..self }
    }

    /// The same with the records it is about.
    pub fn with_ids(self, ids: Vec<String>) -> Finding {
        Finding { count: Some(ids.len() as u64), ids, ..self }
    }

    /// The same with another remedy.
    pub fn with_remedy(self, remedy: Remedy) -> Finding {
        Finding { remedy, ..self }
    }

    /// The same with what sets it right.
    pub fn with_amendment(self, amendment: Amendment) -> Finding {
        Finding { amendment: Some(amendment), ..self }
    }

    /// What is wrong, in a sentence.
    pub fn what(&self) -> &'static str {
        self.code.entry().what
    }

    /// What it means for the person.
    pub fn meaning(&self) -> &'static str {
        self.code.entry().meaning
    }

    /// What is still there.
    pub fn survives(&self) -> &'static str {
        self.code.entry().survives
    }
}
