//! Every exit code, and which error gets which. They are published in `--help` and SPEC.md, and never change.

use crate::keeper::Error;
use crate::store::{chroma, lines};
use crate::{engine, journal};
use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or nothing is wrong.
    Done = 0,
    /// Failed; the palace is as it was.
    Failed = 1,
    /// The command, or the palace it names, makes no sense.
    Usage = 2,
    /// Damage was found.
    Damage = 3,
    /// An operation is interrupted.
    Interrupted = 4,
    /// Refused; a person must look.
    Refused = 5,
    /// Somebody else has the palace.
    InUse = 6,
    /// Stopped by a signal.
    Stopped = 130,
}

impl Exit {
    /// The exit code of an error.
    pub fn of(error: &Error) -> Exit {
        match error {
            Error::Store(error) => of_store(error),
            Error::Engine(error) => of_engine(error),
            Error::Disk(_)
            | Error::HalfSwept { .. }
            | Error::NoSpace { .. }
            | Error::NotBegun { .. }
            | Error::RolledBack { .. } => Exit::Failed,
            Error::Unfit(_) | Error::NoStaging { .. } => Exit::Usage,
            Error::Stopped { .. } => Exit::Stopped,
            Error::InUse { .. } => Exit::InUse,
            Error::Interrupted { .. } | Error::NotEnded { .. } => Exit::Interrupted,
            Error::Refused { .. } | Error::MovedAway { .. } | Error::Strangers { .. } | Error::TwoKeeps { .. } => {
                Exit::Refused
            }
            Error::TwoInterrupted { .. } | Error::Unclear { .. } | Error::TwoStores { .. } => Exit::Refused,
            Error::NoOperation { .. } | Error::Exact { .. } | Error::InKeep { .. } | Error::HasStore { .. } => {
                Exit::Usage
            }
            Error::Lines(error) => of_lines(error),
            Error::NotAsSent { .. } => Exit::Damage,
            Error::ChangedMeanwhile { .. } => Exit::InUse,
            Error::AlreadyThere { .. } => Exit::Done,
            Error::Unrestorable { .. } | Error::Stray { .. } => Exit::Refused,
            Error::NothingReplaced { .. } => Exit::Usage,
        }
    }
}

fn of_store(error: &chroma::Error) -> Exit {
    use chroma::Error as E;
    match error {
        E::NoDirectory(_) | E::NotADirectory(_) | E::NotAPalace(_) | E::NotAFile(_) => Exit::Usage,
        E::UnknownFormat { .. } | E::Journal(_) => Exit::Refused,
        _ if error.is_of_the_machine() => Exit::Failed,
        _ => Exit::Damage,
    }
}

fn of_lines(error: &lines::Error) -> Exit {
    match error {
        lines::Error::Store(error) => of_store(error),
        lines::Error::Io(_) => Exit::Failed,
        _ => Exit::Damage,
    }
}

fn of_engine(error: &engine::Error) -> Exit {
    match error {
        engine::Error::Journal(journal::Error::Damaged { .. }) | engine::Error::Illegal { .. } => Exit::Refused,
        engine::Error::Refused { .. } | engine::Error::CannotResume => Exit::Refused,
        _ => Exit::Failed,
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}
