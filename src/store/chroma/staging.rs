//! Writes a new store: the database that is being built, filled from the one it is to replace.
//!
//! Rows go over inside SQLite, from the attached source, so that every value keeps its type and its bytes. The
//! database is written without a single sync: until it is proved, synced and committed, losing it costs nothing but
//! the work.

use super::amend::Scope;
use super::apply;
use super::blueprint::{Blueprint, NewCollection, Renamed};
use super::carry;
use super::database::prepare;
use super::error::{During, Error};
use super::format::Format;
use super::text::Text;
use super::{Batch, QueueBatch, Source};
use rusqlite::{Connection, OpenFlags, Transaction, params};
use std::path::{Path, PathBuf};

/// The database under construction.
pub(super) struct Staging {
    connection: Connection,
    path: PathBuf,
    /// What the old database is written as.
    source: &'static Format,
    /// What this one is written as.
    format: &'static Format,
}

/// Written at once and without syncs; kept sound over a kill, for a resume, by the ordinary rollback journal.
const BUILDING: &str = "PRAGMA journal_mode=DELETE; PRAGMA synchronous=OFF; PRAGMA cache_size=-65536;";

impl Staging {
    /// Makes the database, with schema, migrations and the catalog of the source under new names, in one transaction.
    pub(super) fn create(path: &Path, source: &Source, blueprint: &Blueprint) -> Result<Staging, Error> {
        let flags = OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_READ_WRITE;
        let (old, new) = (source.format(), blueprint.target()?);
        let settings = carry::settings(source, blueprint, new)?;
        let mut staging = Staging::connect(path, flags, old, new)?;
        staging.attach(source, blueprint)?;
        let doing = "making the new database";
        staging.transact(doing, |transaction| {
            for statement in new.immediate() {
                transaction.execute_batch(statement)?;
            }
            write_migrations(transaction, new)?;
            carry::copy_catalogue(transaction, old)?;
            write_fixed_rows(transaction, new)?;
            for collection in &blueprint.collections {
                write_segments(transaction, collection)?;
                write_sequences(transaction, collection, new)?;
            }
            settings.iter().try_for_each(|(collection, settings)| settings.write(transaction, collection, new))?;
            let sequence = carry::sequence("seq_id", old, new);
            let others = format!(
                "INSERT INTO main.max_seq_id (segment_id, seq_id) SELECT segment_id, {sequence} FROM source.max_seq_id
                 WHERE segment_id NOT IN (SELECT old FROM temp.renamed)"
            );
            transaction.execute(&others, []).map(drop)
        })?;
        Ok(staging)
    }

    /// Opens a database that was made before; what a kill left half done is rolled back by that.
    pub(super) fn open(path: &Path, source: &Source, blueprint: &Blueprint) -> Result<Staging, Error> {
        let staging = Staging::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, source.format(), blueprint.target()?)?;
        staging.attach(source, blueprint)?;
        Ok(staging)
    }

    fn connect(
        path: &Path,
        flags: OpenFlags,
        source: &'static Format,
        format: &'static Format,
    ) -> Result<Staging, Error> {
        let flags = flags | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).during(path, "opening the new database")?;
        let prepared = prepare(&connection).and_then(|()| connection.execute_batch(BUILDING));
        prepared.during(path, "opening the new database")?;
        Ok(Staging { connection, path: path.to_owned(), source, format })
    }

    /// Makes the source readable from here, and the old names known.
    fn attach(&self, source: &Source, blueprint: &Blueprint) -> Result<(), Error> {
        let attach = || {
            self.connection.execute("ATTACH ?1 AS source", [source.uri()])?;
            self.connection
                .execute_batch("CREATE TEMP TABLE renamed (old TEXT PRIMARY KEY, new TEXT NOT NULL) WITHOUT ROWID")?;
            let mut insert = self.connection.prepare("INSERT OR REPLACE INTO temp.renamed VALUES (?1, ?2)")?;
            for (old, new) in blueprint.renamed() {
                insert.execute([old, new])?;
            }
            Ok(())
        };
        attach().during(&self.path, "attaching the old database")
    }

    /// Records of a batch that are here.
    pub(super) fn count_records(&self, batch: &Batch) -> Result<u64, Error> {
        self.count("SELECT count(*) FROM main.embeddings WHERE id BETWEEN ?1 AND ?2", [batch.first, batch.last])
    }

    /// Rows of the queue between two sequence numbers that are here.
    pub(super) fn count_queue(&self, first: i64, last: i64) -> Result<u64, Error> {
        self.count("SELECT count(*) FROM main.embeddings_queue WHERE seq_id BETWEEN ?1 AND ?2", [first, last])
    }

    /// Migrations that are written down here.
    pub(super) fn count_migrations(&self) -> Result<u64, Error> {
        self.count("SELECT count(*) FROM main.migrations", [])
    }

    /// Indexes that are built, and those there have to be.
    pub(super) fn count_indexes(&self) -> Result<(u64, u64), Error> {
        let built =
            self.count("SELECT count(*) FROM main.sqlite_master WHERE type = 'index' AND sql IS NOT NULL", [])?;
        Ok((built, self.format.deferred().count() as u64))
    }

    fn count(&self, sql: &str, range: impl rusqlite::Params) -> Result<u64, Error> {
        let count = || self.connection.prepare_cached(sql)?.query_row(range, |row| row.get::<_, i64>(0));
        Ok(count().during(&self.path, "counting rows")? as u64)
    }

    /// Copies the records of a batch. They are here after the transaction, or none of them is.
    pub(super) fn upsert(&mut self, batch: &Batch) -> Result<(), Error> {
        let has_arrays = self.source.has_arrays() && self.format.has_arrays();
        let sequence = carry::sequence("seq_id", self.source, self.format);
        self.transact("copying records", |transaction| {
            let range = [batch.first, batch.last];
            let copy = format!(
                "INSERT INTO main.embeddings (id, segment_id, embedding_id, seq_id, created_at)
                 SELECT id, coalesce((SELECT new FROM temp.renamed WHERE old = segment_id), segment_id),
                     embedding_id, {sequence}, created_at
                 FROM source.embeddings WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3"
            );
            transaction.execute(&copy, params![batch.first, batch.last, batch.records as i64])?;
            copy_metadata(transaction, "embedding_metadata", "m.key", range)?;
            if has_arrays {
                copy_metadata(transaction, "embedding_metadata_array", "m.rowid", range)?;
            }
            index_documents(transaction, range)
        })
    }

    /// Copies a run of the queue.
    pub(super) fn copy_queue(&mut self, batch: &QueueBatch) -> Result<(), Error> {
        self.transact("copying the queue", |transaction| {
            transaction.execute(
                "INSERT INTO main.embeddings_queue
                     (seq_id, created_at, operation, topic, id, vector, encoding, metadata)
                 SELECT seq_id, created_at, operation,
                     coalesce((SELECT new FROM temp.renamed WHERE old = topic), topic), id, vector, encoding, metadata
                 FROM source.embeddings_queue
                 WHERE seq_id BETWEEN ?1 AND ?2 ORDER BY seq_id",
                [batch.first, batch.last],
            )?;
            Ok(())
        })
    }

    /// Keeps a number taken: without a row of the highest number in the queue, chromadb would hand the number out again
    /// and drop the write that gets it (rule R2). The row deletes a record that nobody has.
    pub(super) fn leave_sentinel(&mut self, collection: &NewCollection, sequence: i64) -> Result<(), Error> {
        self.transact("keeping a number taken in the queue", |transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO main.embeddings_queue (seq_id, operation, topic, id) VALUES (?1, 3, ?2, ?3)",
                params![sequence, collection.topic.new, SENTINEL],
            )?;
            Ok(())
        })
    }

    /// Gives the copy of a database the names and numbers that its blueprint says.
    pub(super) fn amend(path: &Path, blueprint: &Blueprint) -> Result<(), Error> {
        let format = blueprint.target()?;
        let mut staging = Staging::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, format, format)?;
        staging.transact("amending the new database", |transaction| {
            for collection in &blueprint.collections {
                for (old, new) in [&collection.metadata, &collection.vector].into_iter().filter_map(renamed) {
                    transaction.execute("UPDATE segments SET id = ?2 WHERE id = ?1", [old, new])?;
                    transaction
                        .execute("UPDATE segment_metadata SET segment_id = ?2 WHERE segment_id = ?1", [old, new])?;
                    transaction.execute("DELETE FROM max_seq_id WHERE segment_id = ?1", [old])?;
                }
                write_segments(transaction, collection)?;
                write_sequences(transaction, collection, format)?;
            }
            Ok(())
        })
    }

    /// Ids of a collection's records, in their order.
    pub(super) fn ids(&self, collection: &NewCollection) -> Result<Vec<Text>, Error> {
        let ids = || {
            let sql = "SELECT embedding_id FROM main.embeddings WHERE segment_id = ?1 ORDER BY id";
            self.connection
                .prepare(sql)?
                .query_map([&collection.metadata.new], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()
        };
        ids().during(&self.path, "listing records")
    }

    /// Builds what is cheaper to build at the end, by sorting, than row by row.
    pub(super) fn build_indexes(&mut self) -> Result<(), Error> {
        let format = self.format;
        self.transact("building indexes", |transaction| {
            for statement in format.deferred() {
                transaction.execute_batch(&statement.replacen("INDEX ", "INDEX IF NOT EXISTS ", 1))?;
            }
            Ok(())
        })
    }

    fn transact(
        &mut self,
        doing: &'static str,
        act: impl FnOnce(&Transaction) -> rusqlite::Result<()>,
    ) -> Result<(), Error> {
        let transact = || {
            let transaction = self.connection.transaction()?;
            act(&transaction)?;
            transaction.commit()
        };
        transact().during(&self.path, doing)
    }
}

/// Id of the record that a sentinel deletes.
const SENTINEL: &str = "palacekeeper-sentinel";

fn renamed(name: &Renamed) -> Option<(&str, &str)> {
    Some((name.old.as_deref()?, &*name.new))
}

pub(super) fn write_migrations(transaction: &Connection, format: &Format) -> rusqlite::Result<()> {
    let mut insert = transaction
        .prepare("INSERT INTO main.migrations (dir, version, filename, sql, hash) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for row in &format.migrations {
        insert.execute(params![row.dir, row.version, row.filename, row.sql, row.hash])?;
    }
    Ok(())
}

/// Rows without which chromadb opens nothing, where the source has lost them.
pub(super) fn write_fixed_rows(transaction: &Connection, format: &Format) -> rusqlite::Result<()> {
    for (table, rows) in &format.rows {
        for row in rows {
            let names = row.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let places = (1..=row.len()).map(|place| format!("?{place}")).collect::<Vec<_>>().join(", ");
            let values = row.values().map(|value| match value {
                serde_json::Value::String(text) => rusqlite::types::Value::Text(text.clone()),
                other => other.as_i64().into(),
            });
            let sql = format!("INSERT OR IGNORE INTO main.{table} ({names}) VALUES ({places})");
            transaction.execute(&sql, rusqlite::params_from_iter(values))?;
        }
    }
    Ok(())
}

/// A segment that the source has lost is written down anew: without both, chromadb refuses the collection.
fn write_segments(transaction: &Transaction, collection: &NewCollection) -> rusqlite::Result<()> {
    let scopes = [(&collection.metadata, Scope::Metadata), (&collection.vector, Scope::Vector)];
    for (segment, scope) in scopes.into_iter().filter(|(segment, _)| segment.old.is_none()) {
        let [kind, scope] = scope.names();
        transaction.execute(
            "INSERT INTO main.segments (id, type, scope, collection) VALUES (?1, ?2, ?3, ?4)",
            params![segment.new, kind, scope, collection.id.new],
        )?;
    }
    Ok(())
}

/// Rule R3: integers where migration metadb 5 is recorded, 8-byte big-endian blobs where it is not. 0.4 has the number
/// of the vectors in the pickle, and would never raise one that stands here.
fn write_sequences(transaction: &Transaction, collection: &NewCollection, format: &Format) -> rusqlite::Result<()> {
    let of_vectors = collection.vector_sequence.filter(|_| !format.has_topics());
    let sequences = [(&collection.metadata, collection.metadata_sequence), (&collection.vector, of_vectors)];
    for (segment, sequence) in sequences {
        let Some(sequence) = sequence else { continue };
        let value = apply::number(format, sequence);
        transaction
            .execute("INSERT INTO main.max_seq_id (segment_id, seq_id) VALUES (?1, ?2)", params![segment.new, value])?;
    }
    Ok(())
}

/// Copies the metadata of the records that are here, record by record as the survey read them: a scan would step on
/// to the page behind the last one, and that page may be damaged.
fn copy_metadata(transaction: &Transaction, table: &str, order: &str, range: [i64; 2]) -> rusqlite::Result<()> {
    let sql = format!(
        "INSERT INTO main.{table} (id, key, string_value, int_value, float_value, bool_value)
         SELECT m.id, m.key, m.string_value, m.int_value, m.float_value, m.bool_value
         FROM main.embeddings e CROSS JOIN source.{table} m ON m.id = e.id
         WHERE e.id BETWEEN ?1 AND ?2 ORDER BY e.id, {order}"
    );
    transaction.execute(&sql, range).map(drop)
}

/// Fills the full-text index from the documents. For the length of the transaction the index gathers more in memory
/// and merges less often than chromadb lets it; the settings are gone from its configuration before anybody could see
/// them.
pub(super) fn index_documents(transaction: &Transaction, range: [i64; 2]) -> rusqlite::Result<()> {
    for (setting, value) in [("hashsize", 32 << 20), ("automerge", 0)] {
        let set = "INSERT INTO main.embedding_fulltext_search (embedding_fulltext_search, rank) VALUES (?1, ?2)";
        transaction.execute(set, params![setting, value])?;
    }
    let documents = "FROM main.embedding_metadata
        WHERE id BETWEEN ?1 AND ?2 AND key = 'chroma:document' AND string_value IS NOT NULL";
    let until_nul = "CASE instr(string_value, char(0)) WHEN 0 THEN string_value
        ELSE substr(string_value, 1, instr(string_value, char(0)) - 1) END";
    transaction.execute(
        &format!(
            "INSERT INTO main.embedding_fulltext_search (rowid, string_value)
             SELECT id, {until_nul} {documents} ORDER BY id"
        ),
        range,
    )?;
    // The SQLite inside chromadb indexes a document up to its first NUL, ours goes on. The index is made as chromadb
    // would make it, and would find it damaged otherwise; the stored document is whole.
    transaction.execute(
        &format!(
            "UPDATE main.embedding_fulltext_search_content AS c
             SET c0 = (SELECT string_value FROM main.embedding_metadata WHERE id = c.id AND key = 'chroma:document')
             WHERE id IN (SELECT id {documents} AND instr(string_value, char(0)) > 0)"
        ),
        range,
    )?;
    transaction.execute("DELETE FROM main.embedding_fulltext_search_config WHERE k <> 'version'", []).map(drop)
}
