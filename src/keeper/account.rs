//! What an operation could not carry over, and what it found elsewhere: written down with the operation when it begins,
//! so that whoever looks at its folder years later knows whether the old store in it is the only copy of something.

use super::{Error, Proposal};
use crate::disk::{Disk, Kind};
use crate::engine::{Contents, Enclosure};
use serde_json::{Value, json};
use std::path::Path;

/// Name of the account in an operation's folder.
pub(super) const ACCOUNT: &str = "report.json";

/// What an operation was going to leave behind, and to bring back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// What could not be carried over, each thing by itself; somebody consented to it.
    pub losses: Vec<String>,
    /// What was found elsewhere than where it should have been: from where, and how much.
    pub restored: Vec<(String, u64)>,
}

impl Account {
    pub(super) fn of(proposal: &Proposal) -> Account {
        let losses = proposal.losses.iter().map(ToString::to_string).collect();
        Account { losses, restored: proposal.restored.clone() }
    }

    /// The file that is born with the operation.
    pub(super) fn enclosure(&self) -> Enclosure {
        let restored = self.restored.iter().map(|(what, count)| json!({ "what": what, "count": count }));
        let account = json!({ "losses": self.losses, "restored": restored.collect::<Vec<_>>() });
        Enclosure { name: ACCOUNT, contents: Contents::Bytes(format!("{account:#}\n").into_bytes()) }
    }

    /// The account in an operation's folder; `None` where there is none that can be understood. Then nobody knows.
    pub(super) fn read(disk: &dyn Disk, folder: &Path) -> Result<Option<Account>, Error> {
        let path = folder.join(ACCOUNT);
        match disk.stat(&path)? {
            Some(stat) if stat.kind == Kind::File => Ok(understand(&disk.read(&path, 0, u64::MAX)?)),
            _ => Ok(None),
        }
    }
}

fn understand(bytes: &[u8]) -> Option<Account> {
    let account: Value = serde_json::from_slice(bytes).ok()?;
    let losses = account["losses"].as_array()?.iter().map(|loss| Some(loss.as_str()?.to_owned()));
    let restored = account["restored"].as_array()?.iter();
    let restored = restored.map(|one| Some((one["what"].as_str()?.to_owned(), one["count"].as_u64()?)));
    Some(Account { losses: losses.collect::<Option<_>>()?, restored: restored.collect::<Option<_>>()? })
}
