//! What a palace had and a new store has not.

use std::fmt;

/// Something that cannot be carried over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// A record whose rows cannot be read.
    Record {
        /// Its row in `embeddings`.
        rowid: i64,
        /// Its id, where that is known.
        id: Option<String>,
    },
    /// A value of a record, or its document, of which only the key is known.
    Value {
        /// The record's id.
        id: String,
        /// The key.
        key: String,
    },
    /// A record that may have had more metadata, or a document: nothing says so.
    Incomplete {
        /// The record's id.
        id: String,
    },
    /// Rows on a page that cannot be read; nothing says which.
    Page {
        /// The table they belong to.
        table: String,
        /// The page.
        page: u32,
    },
    /// A record whose vector is nowhere; ids, document and metadata are carried over.
    Vector {
        /// Name of its collection.
        collection: String,
        /// Its id.
        id: String,
    },
    /// The length of a vector, which is nowhere; its direction is carried over, with length 1.
    Length {
        /// Name of its collection.
        collection: String,
        /// Its id.
        id: String,
    },
    /// A vector whose record is nowhere.
    Orphan {
        /// Name of its collection.
        collection: String,
        /// Its id.
        id: String,
    },
    /// Rows that belong to no record.
    Unowned {
        /// The table they are in.
        table: String,
        /// How many.
        rows: i64,
    },
    /// A write in the queue that cannot be applied, by its number.
    Write(i64),
    /// A record that has another one of the same id which was written later.
    Older {
        /// Its row in `embeddings`.
        rowid: i64,
        /// Its id, where that is known.
        id: Option<String>,
    },
    /// A table, column, index, view or trigger that chromadb did not make.
    Stranger {
        /// Its name.
        name: String,
    },
    /// Something that the version it is migrated to has no place for.
    Unheld {
        /// Id of the record, or name of the collection.
        whose: String,
        /// What it is.
        what: String,
    },
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Record { rowid, id: Some(id) } => write!(f, "record {id} (row {rowid}): it cannot be read"),
            Loss::Record { rowid, id: None } => write!(f, "record in row {rowid}: it cannot be read"),
            Loss::Value { id, key } => write!(f, "{key} of {id}: it cannot be read"),
            Loss::Incomplete { id } => write!(f, "metadata or document of {id}: there may have been more"),
            Loss::Page { table, page } => write!(f, "rows of {table} on page {page}: nothing says which they were"),
            Loss::Vector { collection, id } => write!(f, "vector of {id} in {collection}: it is nowhere"),
            Loss::Length { collection, id } => {
                write!(f, "length of vector of {id} in {collection}: lost; kept with length 1")
            }
            Loss::Orphan { collection, id } => write!(f, "vector of {id} in {collection}: its record is nowhere"),
            Loss::Unowned { table, rows } => write!(f, "{rows} rows of {table}: they belong to no record"),
            Loss::Write(sequence) => write!(f, "write {sequence} in the queue: chromadb cannot apply it"),
            Loss::Older { rowid, id } => {
                let id = id.as_deref().unwrap_or("a record");
                write!(f, "{id} in row {rowid}: the same id was written again later")
            }
            Loss::Unheld { whose, what } => write!(f, "{what} of {whose}: the new format has no place for it"),
            Loss::Stranger { name } => write!(f, "{name} in the database: chromadb did not make it"),
        }
    }
}
