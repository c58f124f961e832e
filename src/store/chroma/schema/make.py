"""Record the database schema of an empty palace as the installed chromadb writes it.

    python make.py

Run it with the Python of an environment that holds exactly the chromadb version to record; it writes VERSION.json
beside itself, or says which file there already records the same schema. Nothing in those files is typed by hand:
chromadb refuses a database whose recorded migrations differ from its own by a single space.
"""

import contextlib
import json
import sqlite3
import tempfile
from pathlib import Path

import chromadb
from chromadb.config import Settings

HERE = Path(__file__).resolve().parent

# The rows without which chromadb does not open a database; every other table of an empty palace may be empty.
FIXED_ROWS = ("tenants", "databases", "embeddings_queue_config")


def main():
    with tempfile.TemporaryDirectory() as palace:
        chromadb.PersistentClient(path=palace, settings=Settings(anonymized_telemetry=False))
        uri = f"file:{palace}/chroma.sqlite3?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            schema = record(database)
    for path in HERE.glob("*.json"):
        known = json.loads(path.read_text(encoding="utf-8"))
        if {**known, "chromadb": None} == {**schema, "chromadb": None}:
            print(f"chromadb {chromadb.__version__} has the schema of {path.name}")
            return
    path = HERE / f"{chromadb.__version__}.json"
    path.write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path.name}")


def record(database):
    database.row_factory = sqlite3.Row
    return {
        "chromadb": chromadb.__version__,
        "ddl": [sql for (_, sql) in statements(database)],
        "migrations": rows(database, "migrations"),
        "rows": {name: rows(database, name) for name in FIXED_ROWS if name in dict(statements(database))},
    }


def statements(database):
    """Return (name, sql) in creation order, without the objects that SQLite makes on its own.

    Those are its internal tables and indexes, and the shadow tables of the full-text index.
    """
    return [
        (name, sql)
        for (name, sql) in database.execute("SELECT name, sql FROM sqlite_master ORDER BY rowid")
        if sql is not None and not name.startswith(("sqlite_", "embedding_fulltext_search_"))
    ]


def rows(database, table):
    return [dict(row) for row in database.execute(f"SELECT * FROM {table} ORDER BY rowid")]


if __name__ == "__main__":
    main()
