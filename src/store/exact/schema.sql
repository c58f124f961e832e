CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE collections (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    dimension INTEGER,
    created_at TEXT NOT NULL
);
CREATE TABLE documents (
    collection_id INTEGER NOT NULL,
    id TEXT NOT NULL,
    document TEXT NOT NULL,
    metadata_json TEXT NOT NULL,
    embedding BLOB NOT NULL,
    dim INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    wing TEXT GENERATED ALWAYS AS (json_extract(metadata_json, '$.wing')) VIRTUAL,
    room TEXT GENERATED ALWAYS AS (json_extract(metadata_json, '$.room')) VIRTUAL,
    hall TEXT GENERATED ALWAYS AS (json_extract(metadata_json, '$.hall')) VIRTUAL,
    PRIMARY KEY (collection_id, id),
    FOREIGN KEY(collection_id) REFERENCES collections(id) ON DELETE CASCADE
);
CREATE INDEX idx_documents_collection ON documents(collection_id);
-- MemPalace adds two more indexes when it opens the palace for writing, over what json_extract makes of metadata. They
-- are left to it: another SQLite writes some values (long floats, text with NUL) otherwise, and then finds them missing.
CREATE VIRTUAL TABLE docs_fts USING fts5(collection_id UNINDEXED, doc_id UNINDEXED, document);
INSERT INTO meta VALUES ('fts5_available', '1');
