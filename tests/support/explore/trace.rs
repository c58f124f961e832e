//! The way to a crash image: a line that leads there again.

use super::course::Act;
use super::walk::Cut;
use crate::support::memory::{Fate, MemoryDisk};
use std::fmt;
use std::str::FromStr;

/// One crash on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash {
    /// What was going on: the operation's first run, or what was done about it since.
    pub act: Option<Act>,
    /// At which of its events.
    pub event: usize,
    /// What became of what was not synced; `None` where only the process was killed.
    pub fate: Option<Fate>,
}

impl Crash {
    /// What the next process finds after it.
    pub fn image(&self, moment: &MemoryDisk) -> MemoryDisk {
        self.fate.map_or_else(|| moment.kill(), |fate| moment.crash(fate))
    }

    pub fn cut(&self) -> Cut {
        match self.fate {
            None => Cut::Kill,
            Some(Fate::POWER_CUT) => Cut::Power,
            Some(_) => Cut::Torn,
        }
    }
}

/// `run@17#3`, `recover@4#kill`.
impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let act = self.act.map_or_else(|| "run".to_owned(), |act| format!("{act:?}").to_lowercase());
        match self.fate {
            None => write!(f, "{act}@{}#kill", self.event),
            Some(fate) => write!(f, "{act}@{}#{}", self.event, fate.0),
        }
    }
}

impl FromStr for Crash {
    type Err = String;

    fn from_str(text: &str) -> Result<Crash, String> {
        let parts = text.split_once('@').and_then(|(act, rest)| Some((act, rest.split_once('#')?)));
        let (act, (event, fate)) = parts.ok_or_else(|| format!("{text}: a crash is ACT@EVENT#FATE"))?;
        let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        let act = match act {
            "run" => None,
            "recover" => Some(Act::Recover),
            "resume" => Some(Act::Resume),
            "abort" => Some(Act::Abort),
            other => return Err(format!("{other}: it is run, recover, resume or abort")),
        };
        let fate = if fate == "kill" { None } else { Some(Fate(number(fate)?)) };
        Ok(Crash { act, event: number(event)? as usize, fate })
    }
}

/// Crashes in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace(pub Vec<Crash>);

impl Trace {
    /// The trace that `PALACEKEEPER_TRACE` asks for, alone.
    pub fn wanted() -> Option<Trace> {
        let text = std::env::var("PALACEKEEPER_TRACE").ok()?;
        Some(Trace(text.split('/').map(|crash| crash.parse().expect("a trace")).collect()))
    }

    pub fn and(&self, crash: Crash) -> Trace {
        Trace(self.0.iter().copied().chain([crash]).collect())
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let crashes: Vec<_> = self.0.iter().map(Crash::to_string).collect();
        write!(f, "PALACEKEEPER_TRACE={}", crashes.join("/"))
    }
}
