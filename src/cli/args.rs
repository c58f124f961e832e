//! What a person can type.

use super::report::{Format, Verbosity};
use crate::keeper::{self, mempalace};
use crate::store::chroma::check::Code;
use crate::store::chroma::{Format as StoreFormat, Limits};
use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Checks, repairs and recovers MemPalace palaces. A kill, a full disk or a power cut loses nothing.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = AFTER_HELP)]
pub(super) struct Args {
    /// The palace; without this, the one MemPalace itself would use (MEMPALACE_PALACE_PATH, its config file)
    #[arg(long, global = true, value_name = "DIR")]
    palace: Option<PathBuf>,
    /// Print one JSON object on stdout
    #[arg(long, global = true, action = ArgAction::SetTrue)]
    json: bool,
    /// Print nothing but results and errors
    #[arg(long, short, global = true, action = ArgAction::SetTrue)]
    quiet: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  palacekeeper check                  is anything wrong? (--deep reads everything)
  palacekeeper repair --plan          what would mend it, and how much space that takes
  palacekeeper repair                 mend it: build aside, prove, replace
  palacekeeper rebuild                build the palace anew, prove it, replace it
  palacekeeper migrate --to chroma-1.5
                                      make it a palace of another version of chromadb
  palacekeeper export --to palace.jsonl
                                      every drawer as text; import makes a palace of it
  palacekeeper recover                finish or undo what was cut short
  palacekeeper restore 7              bring back what operation 7 replaced (palacekeeper log lists them)
  palacekeeper sweep                  what old operations keep, and the command that frees it

Exit codes:
  0 done · 1 failed, the palace is as it was · 2 usage · 3 damage found
  4 an operation is interrupted · 5 refused, a person must look · 6 in use · 130 stopped";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say what is wrong with the palace; changes nothing
    Check(CheckArgs),
    /// Mend what check finds, the smallest way that is safe
    Repair(RepairArgs),
    /// Say whether anything is unfinished
    Status,
    /// List the operations on this palace, or the steps of one
    Log {
        /// Number of the operation
        operation: Option<u32>,
    },
    /// Finish or undo what was cut short
    Recover(RecoverArgs),
    /// Remove what ended operations kept, never the only copy of anything. Without a choice nothing is removed: the
    /// command is printed that keeps the newest 2 and everything younger than 30 days
    Sweep(SweepArgs),
    /// Build the palace anew from all that can be read, prove it equal, and replace it
    Rebuild(GoArgs),
    /// Make it a palace of another version of chromadb, or of sqlite_exact; prove it equal, and replace it
    Migrate(MigrateArgs),
    /// Write every drawer out as JSON Lines; changes nothing
    Export(ExportArgs),
    /// Make a palace of an export, in a directory that has none
    Import(ImportArgs),
    /// Bring back what an operation replaced, byte for byte
    Restore(RestoreArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// A new file; without it, stdout
    #[arg(long, value_name = "FILE")]
    pub(super) to: Option<PathBuf>,
    /// Go ahead although some things cannot be written out; each is listed
    #[arg(long)]
    pub(super) accept_loss: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The export; without it, stdin
    #[arg(value_name = "FILE")]
    pub(super) from: Option<PathBuf>,
    /// The format of the new palace: chroma-1.5, chroma-1.0, chroma-0.6, chroma-0.5 or chroma-0.4
    #[arg(long, value_name = "FORMAT", default_value = "chroma-1.5", value_parser = parse_format)]
    pub(super) to: &'static StoreFormat,
    #[command(flatten)]
    pub(super) go: GoArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct MigrateArgs {
    /// The format it becomes
    #[arg(long, value_name = "FORMAT")]
    pub(super) to: Target,
    #[command(flatten)]
    pub(super) go: GoArgs,
}

/// What a palace can be migrated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Target {
    /// chromadb 1.5, which MemPalace 3.11 uses
    #[value(name = "chroma-1.5")]
    Chroma15,
    /// chromadb 1.0
    #[value(name = "chroma-1.0")]
    Chroma10,
    /// chromadb 0.6
    #[value(name = "chroma-0.6")]
    Chroma06,
    /// chromadb 0.5, as its last versions write
    #[value(name = "chroma-0.5")]
    Chroma05,
    /// chromadb 0.4
    #[value(name = "chroma-0.4")]
    Chroma04,
    /// MemPalace's sqlite_exact: one file, no index
    #[value(name = "exact")]
    Exact,
}

/// A format of chromadb's: an import makes no other store.
fn parse_format(name: &str) -> Result<&'static StoreFormat, String> {
    match <Target as ValueEnum>::from_str(name, false).map(keeper::Target::from) {
        Ok(keeper::Target::Chroma(format)) => Ok(format),
        _ => Err("an import makes palaces of chromadb's; migrate makes one of them sqlite_exact".into()),
    }
}

impl From<Target> for keeper::Target {
    /// 0.5 and 0.6 write the same.
    fn from(target: Target) -> keeper::Target {
        let name = match target {
            Target::Chroma15 => "1.5.9",
            Target::Chroma10 => "1.0.20",
            Target::Chroma06 | Target::Chroma05 => "0.5.23",
            Target::Chroma04 => "0.4.24",
            Target::Exact => return keeper::Target::Exact,
        };
        keeper::Target::Chroma(StoreFormat::named(name).expect("all of these are built in"))
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    /// Number of the operation whose work is taken back; palacekeeper log lists them
    pub(super) operation: u32,
    /// Show what would come back and what would give way, and stop
    #[arg(long)]
    pub(super) plan: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(super) yes: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct RecoverArgs {
    /// Go on from the last finished step instead of undoing
    #[arg(long)]
    pub(super) resume: bool,
    /// Show what would be done, and stop
    #[arg(long)]
    pub(super) plan: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct SweepArgs {
    #[command(flatten)]
    pub(super) gone: GoneArgs,
    /// Show what would go and what would stay, and stop
    #[arg(long)]
    pub(super) plan: bool,
    /// Do not ask
    #[arg(long, short, requires = "gone")]
    pub(super) yes: bool,
    /// Remove also the only copy of what an operation could not carry over
    #[arg(long)]
    pub(super) accept_loss: bool,
}

/// Which operations' folders go.
#[derive(Debug, clap::Args)]
#[group(id = "gone", multiple = false)]
pub(super) struct GoneArgs {
    /// Those of these numbers
    #[arg(value_name = "NUMBER")]
    pub(super) numbers: Vec<u32>,
    /// Those of all operations that began more than so many days ago
    #[arg(long, value_name = "DAYS")]
    pub(super) older_than: Option<u32>,
    /// All but those of the newest N operations
    #[arg(long, value_name = "N")]
    pub(super) keep: Option<usize>,
}

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Read every page, every row and every vector
    #[arg(long)]
    pub(super) deep: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct RepairArgs {
    /// Mend only findings of this code; may be given several times
    #[arg(long, value_name = "CODE", value_parser = parse_code)]
    pub(super) only: Vec<Code>,
    #[command(flatten)]
    pub(super) go: GoArgs,
}

fn parse_code(name: &str) -> Result<Code, String> {
    Code::named(name).ok_or_else(|| "no finding has this code; palacekeeper check prints those it finds".into())
}

/// How far to go.
#[derive(Debug, clap::Args)]
pub(super) struct GoArgs {
    /// Show what would be done and the space it needs, and stop
    #[arg(long)]
    pub(super) plan: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(super) yes: bool,
    /// Go ahead although some things cannot be carried over; each is listed
    #[arg(long)]
    pub(super) accept_loss: bool,
    /// Bytes of rows and vectors in one step; a kill costs at most one step when resumed
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    #[arg(default_value_t = Limits::default().batch_bytes)]
    pub(super) batch_bytes: u64,
    /// Build the new store in DIR, for instance on a disk with more room, and bring it over when it is whole
    #[arg(long, value_name = "DIR")]
    pub(super) staging: Option<PathBuf>,
}

impl Args {
    pub(super) fn format(&self) -> Format {
        if self.json { Format::Json } else { Format::Text }
    }

    pub(super) fn verbosity(&self) -> Verbosity {
        if self.quiet { Verbosity::Quiet } else { Verbosity::Normal }
    }

    /// The palace: as named here, else as MemPalace 3.11 finds it, by its environment, its config file or its default.
    pub(super) fn palace(&self) -> PathBuf {
        let aliases = || {
            ["MEMPALACE_PALACE_PATH", "MEMPALACE_PALACE", "MEMPAL_PALACE_PATH"]
                .into_iter()
                .find_map(mempalace::variable)
        };
        let named = self.palace.clone().filter(|path| !path.as_os_str().is_empty());
        let named = named.or_else(|| aliases().map(PathBuf::from));
        named.or_else(mempalace::configured_palace).unwrap_or_else(|| mempalace::config_directory().join("palace"))
    }
}
