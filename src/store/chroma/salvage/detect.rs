//! Which chromadb wrote a damaged database.

use super::orphans;
use super::shape::{Shapes, migration};
use crate::store::chroma::error::{During, Error};
use crate::store::chroma::format::Format;
use crate::store::sqlite::{Database, Entry, Object, Tree, Value, Visited, decode};
use std::cmp::Reverse;
use std::io;
use std::path::Path;

/// Rows of a page, such as lie on it whole, that are looked at to find out which format they fit.
const SAMPLES: usize = 4;

/// Whether the schema could be read to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Schema {
    Whole,
    Damaged,
}

/// The format whose migrations the database holds; where these are lost, the one whose tables it has; of several, the
/// one that most rows fit. If that does not tell either, it is one that has no other migrations; after that, a whole
/// schema lacks nothing, and a damaged one might lack anything.
pub(super) fn format(
    database: &Database,
    objects: &[Object],
    schema: Schema,
    path: &Path,
) -> Result<&'static Format, Error> {
    let failed = |source| Error::Scratch { path: path.to_owned(), source };
    let rows = migrations(database, objects).map_err(failed)?;
    let told = |format: &Format| {
        let known = rows.iter().filter(|(dir, version)| format.has_migration(dir, *version)).count();
        let made = objects.iter().filter(|object| format.makes(&object.name)).count();
        (known, made)
    };
    let most = Format::all().iter().map(told).max();
    let mut formats: Vec<&Format> = Format::all().iter().filter(|format| Some(told(format)) == most).collect();
    formats.sort_by_key(|format| {
        let is_whole = format.migrations.len() == told(format).0;
        match schema {
            Schema::Whole => (is_whole, Reverse(format.migrations.len()), 0),
            Schema::Damaged => (is_whole, Reverse(0), format.migrations.len()),
        }
    });
    if formats.len() > 1 {
        let shapes = formats.iter().map(|format| Shapes::of(format)).collect::<rusqlite::Result<Vec<_>>>();
        let fits = fits(database, &formats, &shapes.during(path, "reading its schema")?).map_err(failed)?;
        formats =
            fits.into_iter().zip(formats).max_by_key(|(fit, _)| *fit).map(|(_, format)| format).into_iter().collect();
    }
    Ok(formats.pop().expect("some format is known"))
}

fn migrations(database: &Database, objects: &[Object]) -> io::Result<Vec<(String, i64)>> {
    let mut rows = Vec::new();
    let mut visited = Visited::none(database);
    let root = objects.iter().find(|object| object.name == "migrations").map(|object| object.root);
    let mut take = |entry: Entry| {
        let values = entry.payload.ok().and_then(|payload| decode(&payload));
        rows.extend(values.and_then(|values| migration(&values)));
    };
    match root {
        Some(root) => Tree::new(database, &mut visited).walk(root, &mut take)?,
        None => orphans::each_leaf(database, &Visited::none(database), &mut |page| {
            Tree::new(database, &mut visited).cells(page, &mut take)
        })?,
    }
    rows.sort();
    rows.dedup();
    Ok(rows)
}

/// How well the first rows of every page fit each of some formats.
fn fits(database: &Database, formats: &[&Format], shapes: &[Shapes]) -> io::Result<Vec<(usize, usize)>> {
    let mut fits = vec![(0, 0); formats.len()];
    orphans::each_leaf(database, &Visited::none(database), &mut |page| {
        for cell in (0..page.count().min(SAMPLES)).filter_map(|index| page.cell(index).ok()) {
            let payload = page.payload(database, &cell, &mut |_| false)?;
            if let Some(row) = payload.ok().and_then(|payload| decode(&payload)) {
                let each = formats.iter().zip(shapes).zip(&mut fits);
                each.for_each(|((format, shapes), sum)| {
                    let (fit, exact) = fit(shapes, format, &row);
                    *sum = (sum.0 + fit, sum.1 + exact);
                });
            }
        }
        Ok(())
    })?;
    Ok(fits)
}

/// How well a row fits, and whether exactly: sequence numbers of records have been bytes, and are integers; rows from
/// before a column was added do without it.
fn fit(shapes: &Shapes, format: &Format, row: &[Value]) -> (usize, usize) {
    let tables = shapes.fitting(row);
    let is_native = !tables.contains(&"embeddings")
        || matches!((&row[3], format.has_integer_sequences()), (Value::Integer(_), true) | (Value::Blob(_), false));
    let is_exact = tables.iter().any(|table| shapes[table].columns.len() == row.len());
    (usize::from(!tables.is_empty()) + usize::from(!tables.is_empty() && is_native), usize::from(is_exact))
}
