//! `export` and `import`.

use super::args::{ExportArgs, GoArgs, ImportArgs};
use super::progress::Progress;
use super::report::Report;
use super::{Call, Exit, go_ahead, may_ask, means, recover_first};
use crate::disk::Disk;
use crate::keeper::{self, Error, Keeper, Means};
use crate::store::chroma::Format;
use crate::store::lines;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Bytes gathered before they are written: a pipe takes no more at once.
const BUFFER_BYTES: usize = 64 << 10;

pub(super) fn export(Call { disk, palace, report }: Call, args: &ExportArgs) -> Result<Exit, Error> {
    let reading = Progress::reading(report);
    let export = keeper::export(disk, palace, &mut || reading.record())?;
    if !export.losses.is_empty() {
        report.losses(&export.losses);
        if !args.accept_loss {
            reading.finish();
            report.refuse_export(&export.losses);
            return Ok(Exit::Refused);
        }
    }
    let summary = match &args.to {
        None => {
            export.write(&mut BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock()), &mut || reading.record())
        }
        Some(path) => export_to(disk, export, path, &mut || reading.record()),
    };
    reading.finish();
    report.exported(&summary?, args.to.as_deref());
    Ok(Exit::Done)
}

/// The file is there whole, or not at all.
fn export_to(
    disk: &dyn Disk,
    export: keeper::Export,
    path: &Path,
    watch: &mut dyn FnMut(),
) -> Result<lines::Summary, Error> {
    let failed = |error: io::Error| {
        let what = format!("{}: {error}", path.display());
        Error::from(lines::Error::from(io::Error::new(error.kind(), what)))
    };
    if path.symlink_metadata().is_ok() {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let in_the_way = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("{}: {error}; if an export was cut short there, remove it", part.display()),
        )
    };
    let file = File::create_new(&part).map_err(|error| Error::from(lines::Error::from(in_the_way(error))))?;
    let mut output = BufWriter::with_capacity(BUFFER_BYTES, file);
    let written = export.write(&mut output, watch).and_then(|summary| {
        output.flush().and_then(|()| output.get_ref().sync_all()).map_err(failed)?;
        disk.rename(&part, path)?; // which replaces nothing
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        disk.sync(directory.unwrap_or(Path::new(".")))?;
        Ok(summary)
    });
    let _ = fs::remove_file(&part);
    written
}

pub(super) fn import(call: Call, args: &ImportArgs) -> Result<Exit, Error> {
    let Call { disk, palace, report } = call;
    if args.from.is_none() && !args.go.yes && !args.go.plan {
        let why = "the lines come from stdin, so nobody can be asked: say --yes to go ahead. Nothing was touched";
        report.refusal(why, Exit::Usage);
        return Ok(Exit::Usage);
    }
    let means = means(call, &args.go)?;
    let mut input = open(args.from.as_deref())?;
    if args.go.plan {
        let reading = Progress::reading(report);
        let proposal = keeper::propose_import(disk, palace, &mut input, args.to, means, &mut || reading.record());
        reading.finish();
        report.proposal(&proposal?);
        return Ok(Exit::Done);
    }
    if !args.go.yes && !may_ask(report) {
        return Ok(Exit::Usage);
    }
    let is_made = !palace.exists();
    let mut keeper = Keeper::lock_empty(disk, palace)?;
    let imported = import_to(&mut keeper, &mut input, args.to, means, &args.go, report);
    if is_made && !matches!(imported, Ok(Exit::Done)) {
        keeper.leave_empty()?;
    }
    imported
}

fn import_to(
    keeper: &mut Keeper,
    input: &mut dyn BufRead,
    to: &'static Format,
    means: Means,
    args: &GoArgs,
    report: &Report,
) -> Result<Exit, Error> {
    recover_first(keeper, report)?;
    let reading = Progress::reading(report);
    let proposal = keeper.propose_import(input, to, means, &mut || reading.record());
    reading.finish();
    go_ahead(keeper, proposal?, args, None, report)
}

fn open(path: Option<&Path>) -> Result<Box<dyn BufRead>, Error> {
    let Some(path) = path else { return Ok(Box::new(io::stdin().lock())) };
    let failed =
        |error: io::Error| lines::Error::from(io::Error::new(error.kind(), format!("{}: {error}", path.display())));
    Ok(Box::new(BufReader::new(File::open(path).map_err(failed)?)))
}
