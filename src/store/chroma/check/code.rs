//! Everything that can be found wrong with a palace: name, gravity, what it means, and what mends it.
//!
//! The names are published; programs depend on them, and they never change. The classes are those that real palaces
//! suffer (SPEC.md, "Findings").

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing has to be done.
    Note,
    /// Works, but not as it should; or what is left lies where it can get lost.
    Warning,
    /// Data is missing or wrong, or will be with the next write.
    Damage,
}

impl Severity {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Damage => "damage",
        }
    }
}

/// What mends a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing has to be.
    Nothing,
    /// A copy of the database is amended, and takes the place of the old one.
    Amend,
    /// The segment is built anew from its vectors.
    Index,
    /// The palace is built anew from everything that can be read.
    Rebuild,
    /// `recover` ends the operation.
    Recover,
    /// Only a person can decide.
    Person(&'static str),
}

/// What is said about a kind of finding.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) severity: Severity,
    pub(super) what: &'static str,
    pub(super) meaning: &'static str,
    pub(super) survives: &'static str,
    pub(super) remedy: Remedy,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident $name:literal $severity:ident $remedy:expr, $what:literal, $meaning:literal,
       $survives:literal;)*) => {
        /// A kind of finding.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $what] $code,)*
        }

        impl Code {
            /// Every kind there is.
            pub const ALL: &'static [Code] = &[$(Code::$code),*];

            pub(super) fn entry(self) -> Entry {
                match self {
                    $(Code::$code => Entry {
                        name: $name,
                        severity: Severity::$severity,
                        what: $what,
                        meaning: $meaning,
                        survives: $survives,
                        remedy: $remedy,
                    },)*
                }
            }
        }
    };
}

codes! {
    DatabaseHeader "database-header" Damage Remedy::Rebuild,
        "The first bytes of chroma.sqlite3 are not those of a database.",
        "Nothing can open the palace; what lies behind the header is usually whole.", "everything behind the header";
    DatabaseTruncated "database-truncated" Damage Remedy::Rebuild,
        "chroma.sqlite3 ends before its last page.",
        "A disk was full or a copy was cut short; what lay in the missing part is gone from this file.",
        "the rows on the pages that are there, and what indexes and segments say of the others";
    DatabasePage "database-page" Damage Remedy::Rebuild,
        "A page with rows is damaged.",
        "Reading fails when it comes to this page, and writing may spread the damage.",
        "the rows on all other pages, and what indexes, full-text copy and segments say of these";
    DatabaseIndex "database-index" Damage Remedy::Rebuild,
        "A page of an index is damaged.",
        "Queries and deletions that use the index fail; the rows themselves are whole.", "everything";
    DatabaseJournal "database-journal" Note Remedy::Nothing,
        "A transaction was cut short; its journal lies beside the database.",
        "SQLite undoes or finishes it when the palace is opened next. Never copy the database without that file.",
        "everything that was committed";
    DatabaseMigrations "database-migrations" Damage Remedy::Rebuild,
        "The table of migrations is not as chromadb wrote it.",
        "chromadb refuses to open the palace, or runs a migration twice.", "everything";
    DatabaseSchema "database-schema" Damage Remedy::Rebuild,
        "A table or an index is missing.",
        "chromadb fails as soon as it needs it.", "everything that is not in a missing table";
    DatabaseStranger "database-stranger" Note Remedy::Nothing,
        "The database holds something that chromadb did not make.",
        "Nothing reads it. A rebuild cannot carry it over, and asks first.", "everything";
    FulltextMissing "fulltext-missing" Damage Remedy::Amend,
        "The full-text table is missing.",
        "Searching for words fails, and so does every write.", "everything: it is made from the documents";
    FulltextDamaged "fulltext-damaged" Damage Remedy::Amend,
        "The full-text index does not agree with its own content.",
        "Searches miss documents, and writes fail once they touch the damaged part.",
        "everything: it is made from the documents";
    FulltextDiffers "fulltext-differs" Damage Remedy::Amend,
        "The full-text index does not hold the documents that are stored.",
        "Searches miss documents, or find what is no longer in them.", "everything: it is made from the documents";
    FulltextOrphan "fulltext-orphan" Warning Remedy::Amend,
        "The full-text index holds documents of records that are gone.",
        "chromadb 0.4 leaves them behind; when their number is used again, every write fails for ever.",
        "everything: it is made from the documents";
    SequencePoisoned "sequence-poisoned" Damage Remedy::Amend,
        "A sequence number was written over with its own digits.",
        "Writes are acknowledged and thrown away, and opening the palace deletes what waits in the queue.",
        "everything: the true number can be read back exactly";
    SequenceType "sequence-type" Damage Remedy::Amend,
        "A sequence number is of a type that this version does not write.",
        "chromadb fails on every call, or poisons the number when it opens the palace.", "everything";
    SequenceUnreadable "sequence-unreadable" Damage Remedy::Amend,
        "A sequence number is no number.",
        "chromadb fails on every call.", "everything: the number is found again from the records";
    SequenceAhead "sequence-ahead" Damage Remedy::Amend,
        "A sequence number is higher than what there is evidence of.",
        "Writes that wait in the queue are taken for done and deleted.",
        "everything: the number is found again from the records";
    WritesVanish "writes-vanish" Damage Remedy::Amend,
        "The next write would get a number that counts as done already.",
        "Every write is acknowledged and silently lost.", "everything that was written before";
    QueuePending "queue-pending" Note Remedy::Nothing,
        "Writes that were acknowledged wait to be applied.",
        "chromadb applies them when it reads the collection next.", "everything";
    QueuePoison "queue-poison" Damage Remedy::Amend,
        "A write in the queue cannot be applied.",
        "chromadb fails on it, and on everything behind it, at every call.",
        "everything but these writes themselves, which stay in the old database";
    QueueUnpurged "queue-unpurged" Note Remedy::Nothing,
        "The queue still holds many writes that every segment has.",
        "It only takes space, and keeps deleted text.", "everything";
    IndexMissing "index-missing" Damage Remedy::Index,
        "The directory of a segment is missing.",
        "Searching by meaning finds only what was written last.",
        "documents and metadata, and the vectors that are in the queue or in a copy";
    IndexHeader "index-header" Damage Remedy::Index,
        "The header of an index is damaged.",
        "chromadb crashes on it, or refuses.",
        "documents and metadata, and the vectors that are in the queue or in a copy";
    IndexLevel0 "index-level0" Damage Remedy::Index,
        "The file of vectors is damaged.",
        "Searches give wrong answers, or crash.", "the vectors that are still in the file, the queue or a copy";
    IndexLengths "index-lengths" Damage Remedy::Index,
        "The file with the lengths of vectors is damaged.",
        "Vectors are read back wrong, without a word; searches compare directions only.",
        "every direction, and each length that is still there, in the queue or in a copy; the others become 1";
    IndexLinks "index-links" Damage Remedy::Index,
        "The links of an index are damaged.",
        "Searches miss records, or crash.", "everything: links are built from the vectors";
    IndexSparse "index-sparse" Warning Remedy::Index,
        "link_lists.bin is far larger than its links.",
        "It goes on growing, and fills the disk when it is copied.", "everything: links are built from the vectors";
    IndexPickle "index-pickle" Damage Remedy::Index,
        "The file that says which vector belongs to which record is missing or damaged.",
        "chromadb fails, or empties the index when it opens it. Do not open it.",
        "the vectors whose record can be proved, or that are in the queue or a copy";
    IndexDiverged "index-diverged" Damage Remedy::Index,
        "Index and records do not name the same things.",
        "Searches miss records, or find some that are gone.",
        "everything that either side still has";
    VectorChanged "vector-changed" Damage
        Remedy::Person("mine these records again, so that MemPalace embeds them anew"),
        "A vector is not as it was written: its length is not one.",
        "Searches rank these records wrongly.", "documents and metadata; the vectors as they are now";
    VectorMissing "vector-missing" Damage
        Remedy::Person("mine these records again, so that MemPalace embeds them anew"),
        "The vector of a record is nowhere.",
        "Searching by meaning does not find the record.", "documents and metadata";
    RecordDuplicate "record-duplicate" Damage Remedy::Rebuild,
        "One id stands for several records.",
        "Which of them is found depends on the query.", "the one that was written last";
    MetadataOrphan "metadata-orphan" Warning Remedy::Amend,
        "There is metadata of records that are gone.",
        "Nothing shows it. It may be what is left of lost records.", "everything";
    CollectionSegments "collection-segments" Damage Remedy::Amend,
        "A collection lacks one of its two segments.",
        "chromadb refuses to open the collection.", "everything that the other segment and the queue hold";
    CollectionSpace "collection-space" Warning
        Remedy::Person("nothing is wrong for vectors of length one, which MemPalace makes; otherwise mine anew"),
        "A collection was meant for cosine distance and works with another one.",
        "Distances come out differently.", "everything";
    CollectionDimension "collection-dimension" Damage Remedy::Amend,
        "A collection does not say how long its vectors are, or says it wrongly.",
        "Searches find nothing, or fail.", "everything";
    CollectionConfig "collection-config" Damage Remedy::Amend,
        "The configuration of a collection lacks its type.",
        "chromadb fails to open the palace.", "everything";
    SegmentOrphan "segment-orphan" Note Remedy::Nothing,
        "A segment's directory belongs to no collection.",
        "chromadb leaves it behind when a collection is deleted.", "everything";
    SegmentQuarantined "segment-quarantined" Note Remedy::Nothing,
        "MemPalace has set a segment aside.",
        "It may hold vectors that are nowhere else; repair takes them from there where it needs them.", "everything";
    LeftoverCollection "leftover-collection" Warning Remedy::Rebuild,
        "A MemPalace repair was cut short: its temporary collection is still there.",
        "It may hold the only copy of records. Do not run mempalace repair: it would delete them.", "everything";
    LeftoverCopy "leftover-copy" Note Remedy::Nothing,
        "A copy that MemPalace made lies beside the palace.",
        "What can be read of it is in the palace as well; the copy only takes space.", "everything";
    LeftoverRicher "leftover-richer" Warning Remedy::Rebuild,
        "A copy that MemPalace made holds records that the palace has not.",
        "They were deleted since, or an operation was cut short and this copy is the only one of them. Repair \
         takes them over only when it is asked to, with --only leftover-richer.", "everything";
    OperationInterrupted "operation-interrupted" Warning Remedy::Recover,
        "An operation of palacekeeper was cut short.",
        "Nothing is lost; recovery finishes or undoes it.", "everything";
}

impl Code {
    /// Its published name.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.name() == name)
    }

    /// What mends it.
    pub fn remedy(self) -> Remedy {
        self.entry().remedy
    }

    /// Whether SQLite can no longer be trusted to read the database.
    pub fn is_of_pages(self) -> bool {
        use Code as C;
        matches!(self, C::DatabaseHeader | C::DatabaseTruncated | C::DatabasePage | C::DatabaseIndex)
    }
}
