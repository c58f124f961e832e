"""Open a palace with the real chromadb and the real mempalace, and say whether they are satisfied with it.

    judge.py dump PALACE                 print all that chromadb returns for the palace (see snapshot.py)
    judge.py compare A B [--ulps N] [--any-order] [--any-document] [--no-arrays]
                                         compare two dumps (JSON, or gzip of JSON)
    judge.py exercise PALACE             change every collection, reopen, and find exactly the changes
    judge.py mended ORIGINAL PALACE...   compare every palace with the original, write to it, and find what was written
    judge.py exact PALACE DUMP           let mempalace's sqlite_exact backend read the palace, compare with a dump of
                                         the palace it was made from, write to a copy, and find everything
    judge.py make-exact PALACE           let mempalace make a sqlite_exact palace; print it as a dump
    judge.py mempalace PALACE            let mempalace read the palace and compare with what chromadb reads

Each command prints one JSON object and exits 0, or names the difference on standard error and exits 1. chromadb writes
to every palace it opens, so each command works on copies; the palace it was given stays as it is.

Run it with the requirements in requirements.txt.
"""

import argparse
import concurrent.futures
import contextlib
import gzip
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import chromadb

from snapshot import as_float32, collections_of, float32_hex, open_client, snapshot, typed_metadata

RECORD_FIELDS = ("documents", "metadatas", "embeddings")

# Distances are sums of float32 terms: allow them this much, relatively, when embeddings may differ by some ulps.
DISTANCE_TOLERANCE = 1e-5

# chromadb's own default; an index is persisted after so many changes.
SYNC_THRESHOLD_DEFAULT = 1_000
ADD_RECORDS_MAX = 500

# A collection that never held a record has no dimension yet; the first add chooses it.
DIMENSION_WHEN_EMPTY = 8


# What mempalace 3.11 has chromadb make a collection with.
MEMPALACE_METADATA = typed_metadata(
    {"hnsw:space": "cosine", "hnsw:num_threads": 1, "hnsw:batch_size": 100, "hnsw:sync_threshold": 1000}
)


class Difference(Exception):
    """Something is not as it must be; the text says what."""


def require(condition, complaint):
    if not condition:
        raise Difference(complaint)


# Processes and copies


def in_new_process(function, *arguments):
    """Run a function in a fresh process: nothing that an earlier client cached can answer, and a crash is survived.

    It is forked from a process that has imported chromadb and done nothing else.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["snapshot"])
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except concurrent.futures.process.BrokenProcessPool:
            raise Difference(f"the client crashed in {function.__name__}") from None


@contextlib.contextmanager
def copy_of(palace):
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "palace"
        shutil.copytree(palace, copy)
        yield copy


# dump


def dump(palace):
    with copy_of(palace) as copy:
        return in_new_process(snapshot, copy)


# compare


def compare(before, after, ulps=0, any_order=False, any_document=False, arrays=True):
    """Compare two dumps; return how much was compared."""
    ours, theirs = by_name(before), by_name(after)
    if not arrays:
        ours = without_arrays(ours)
    if any_document:
        ours, theirs = never_none(ours), never_none(theirs)
    if any_order:
        ours, theirs = in_order_of_ids(ours), in_order_of_ids(theirs)
    require(ours.keys() == theirs.keys(), f"collections {sorted(ours)} against {sorted(theirs)}")
    for name, collection in ours.items():
        compare_collection(name, collection, theirs[name], ulps)
    return {"collections": len(ours), "records": sum(collection["count"] for collection in ours.values()), "ulps": ulps}


def by_name(dumped):
    return {collection["name"]: collection for collection in dumped["collections"]}


def without_arrays(collections):
    """Leave out of a dump the arrays in metadata, which chromadb before 1.5 has no place for."""
    return {
        name: {**collection, "metadatas": [scalars(metadata) for metadata in collection["metadatas"]]}
        for name, collection in collections.items()
    }


def scalars(metadata):
    kept = {key: value for key, value in (metadata or {}).items() if value["t"] != "list"}
    return kept or None  # without a single value, a record has no metadata


def in_order_of_ids(collections):
    """Sort records by id, for chromadb 0.4, which lists records by id and not by age."""
    return {name: {**collection, **sorted_columns(collection)} for name, collection in collections.items()}


def never_none(collections):
    """Take a missing document for an empty one and missing metadata for none, as a sqlite_exact store does."""
    return {
        name: {
            **collection,
            "documents": [document or "" for document in collection["documents"]],
            "metadatas": [metadata or {} for metadata in collection["metadatas"]],
        }
        for name, collection in collections.items()
    }


def sorted_columns(collection):
    fields = ("ids", *RECORD_FIELDS)
    rows = sorted(zip(*(collection[field] for field in fields)), key=lambda row: row[0])
    return {field: [row[column] for row in rows] for column, field in enumerate(fields)}


def compare_collection(name, ours, theirs, ulps):
    compare_metadata(f"{name}: collection", ours["metadata"], theirs["metadata"])
    compare_ids(name, ours["ids"], theirs["ids"])
    for position, id in enumerate(ours["ids"]):
        compare_value(f"{name}: {id!r}: document", ours["documents"][position], theirs["documents"][position])
        compare_metadata(f"{name}: {id!r}", ours["metadatas"][position], theirs["metadatas"][position])
        compare_embedding(f"{name}: {id!r}", ours["embeddings"][position], theirs["embeddings"][position], ulps)
    if not ours["queries"]:
        return
    require(len(ours["queries"]) == len(theirs["queries"]), f"{name}: a different number of queries")
    for number, (query, answer) in enumerate(zip(ours["queries"], theirs["queries"])):
        compare_answers(f"{name}: query {number}", query, answer, ulps)


def compare_ids(name, ours, theirs):
    missing, extra = set(ours) - set(theirs), set(theirs) - set(ours)
    require(not missing, f"{name}: {len(missing)} ids are missing, first {min(missing, default='')!r}")
    require(not extra, f"{name}: {len(extra)} ids are new, first {min(extra, default='')!r}")
    for position, (id, other) in enumerate(zip(ours, theirs)):
        require(id == other, f"{name}: the order differs at {position}: {id!r} against {other!r}")


def compare_value(what, ours, theirs):
    require(ours == theirs, f"{what}: {excerpt(ours)} against {excerpt(theirs)}")


def excerpt(value):
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def compare_metadata(what, ours, theirs):
    if ours is None or theirs is None:
        compare_value(f"{what}: metadata", ours, theirs)
        return
    compare_value(f"{what}: metadata keys", sorted(ours), sorted(theirs))
    for key, value in ours.items():
        compare_value(f"{what}: metadata {key!r}", value, theirs[key])


def compare_embedding(what, ours, theirs, ulps):
    if ours == theirs:
        return
    require(len(ours) == len(theirs), f"{what}: {len(ours) // 8} dimensions against {len(theirs) // 8}")
    distance = max(abs(a - b) for a, b in zip(ordinals(ours), ordinals(theirs)))
    require(distance <= ulps, f"{what}: the embeddings differ by {distance} ulps")


def ordinals(embedding):
    """Number the float32 values so that neighbours differ by one and -0.0 equals 0.0."""
    bits = struct.unpack(f"<{len(embedding) // 8}i", bytes.fromhex(embedding))
    return [value if value >= 0 else -(value & 0x7FFFFFFF) for value in bits]


def compare_answers(what, ours, theirs, ulps):
    """Compare the answers to one query.

    Without ulps: the same ids with the same bits of distance, in the same order. With ulps: the same distances within
    DISTANCE_TOLERANCE, position by position, and the same ids, except that ids whose distances are within that
    tolerance may change places, also with an id just beyond the last position.
    """
    compare_value(f"{what}: vector", ours["vector"], theirs["vector"])
    if ulps == 0:
        compare_value(f"{what}: ids", ours["ids"], theirs["ids"])
        for id, a, b in zip(ours["ids"], ours["distances"], theirs["distances"]):
            compare_value(f"{what}: distance of {id!r}", a["v"], b["v"])
        return
    mine, yours = distances_by_id(ours), distances_by_id(theirs)
    compare_value(f"{what}: number of results", len(mine), len(yours))
    for a, b in zip(mine.values(), yours.values()):
        require(is_close(a, b), f"{what}: distance {a} against {b}")
    last = max(mine.values(), default=0.0)
    for id in mine.keys() ^ yours.keys():
        distance = mine.get(id, yours.get(id))
        require(is_close(distance, last), f"{what}: only one answer has {id!r} at distance {distance}")


def distances_by_id(answer):
    return {id: float(distance["v"]) for id, distance in zip(answer["ids"], answer["distances"])}


def is_close(a, b):
    return math.isclose(a, b, rel_tol=DISTANCE_TOLERANCE, abs_tol=DISTANCE_TOLERANCE)


# exercise


def exercise(palace):
    """Change a copy in one process and look for exactly these changes in others."""
    return with_luck(exercise_copy, palace)


def exercise_copy(palace):
    # Before 1.0 a vector that is not in the index yet is returned as it was given, and normalised later.
    ulps = 2 if chromadb.__version__.startswith("0.") else 0
    with copy_of(palace) as copy:
        before = dump(palace)
        persisted_before = persisted_seq_ids(copy)
        changes = in_new_process(make_changes, copy)
        for name, change in changes.items():
            # chromadb 0.4 writes the number down beside the index, not in the database.
            if change["crosses_threshold"] and not chromadb.__version__.startswith("0.4."):
                seq_id = persisted_seq_ids(copy).get(name, 0)
                require(seq_id > persisted_before.get(name, 0), f"{name}: the vector index was not persisted")
        after = in_new_process(snapshot, copy)
        check_changes(by_name(before), by_name(after), changes, ulps)
        in_new_process(find_again, copy, changes)
        # Once more: what the second process did when it opened the palace must not show either.
        with_luck(compare_again, after, copy, ulps)
        check_database(copy)
    return {
        name: {"kept": before_count - len(change["deleted"]), "written": len(change["written"])}
        for name, change in changes.items()
        for before_count in [by_name(before)[name]["count"]]
    }


def compare_again(after, copy, ulps):
    compare(after, in_new_process(snapshot, copy), ulps)


def with_luck(function, *arguments):
    """Call a function that asks chromadb for nearest neighbours; what it finds must be right in one of three calls.

    chromadb draws the levels of its graph by lot whenever it inserts or updates a vector, and does so anew for the
    writes that wait, each time it loads an index; now and then the graph does not lead to one of them. Only answers to
    queries are a matter of luck: everything else must be right in every call.
    """
    for is_last in (False, False, True):
        try:
            return function(*arguments)
        except Difference as difference:
            if is_last or not any(query in str(difference) for query in (": query ", ": the query for ")):
                raise


def append(palace):
    """Add to the largest collection of the palace itself, not of a copy, until its index is persisted."""
    return in_new_process(make_additions, palace)


def make_additions(palace):
    client = open_client(palace)
    largest = max(collections_of(client), key=lambda collection: collection.count())
    present = largest.get(include=["embeddings"], limit=1)
    change = {"dimension": len(present["embeddings"][0]), "written": {}, "deleted": []}
    add_past_threshold(largest, change)
    client.close()
    return {largest.name: len(change["written"])}


def make_changes(palace):
    """Add, update, upsert and delete in every collection; return what must be found afterwards."""
    client = open_client(palace)
    collections = collections_of(client)
    largest = max(collections, key=lambda collection: collection.count(), default=None)
    changes = {}
    for collection in collections:
        change = change_collection(collection)
        change["crosses_threshold"] = collection is largest
        if collection is largest:
            add_past_threshold(collection, change)
        find_written(collection, change)
        changes[collection.name] = change
    getattr(client, "close", lambda: None)()  # chromadb before 1.5 has none
    return changes


def change_collection(collection):
    present = collection.get(include=["embeddings"], limit=5)
    dimension = len(present["embeddings"][0]) if present["ids"] else DIMENSION_WHEN_EMPTY
    change = {"dimension": dimension, "written": {}, "deleted": []}
    fresh = [new_record(f"judge-{i}", dimension) for i in range(6)]
    write(collection.add, fresh[:4], change)
    write(collection.upsert, fresh[4:], change)
    write(collection.update, [new_record("judge-1", dimension, salt="updated")], change)
    write(collection.upsert, [new_record("judge-2", dimension, salt="upserted")], change)
    if len(present["ids"]) == 5:
        write(collection.update, [new_record(present["ids"][0], dimension)], change, replaces_metadata=False)
        write(collection.upsert, [new_record(present["ids"][1], dimension)], change, replaces_metadata=False)
        delete(collection, [present["ids"][2], present["ids"][4]], change)
    delete(collection, ["judge-3"], change)
    return change


def add_past_threshold(collection, change):
    threshold = (collection.metadata or {}).get("hnsw:sync_threshold", SYNC_THRESHOLD_DEFAULT)
    records = [new_record(f"judge-many-{i}", change["dimension"]) for i in range(threshold + 50)]
    for start in range(0, len(records), ADD_RECORDS_MAX):
        write(collection.add, records[start : start + ADD_RECORDS_MAX], change)


def new_record(id, dimension, salt=""):
    source = random.Random(f"judge/{id}/{salt}")
    return {
        "id": id,
        "document": f"quixotic judgement of {id} {salt} \u2696\ufe0f",
        "metadata": {"judge": True, "judge_int": 2**53 + 1, "judge_float": 2.0, "judge_text": f"{salt} caf\u00e9"},
        "embedding": [as_float32(source.gauss(0.0, 1.0)) for _ in range(dimension)],
    }


def write(verb, records, change, replaces_metadata=True):
    verb(
        ids=[record["id"] for record in records],
        documents=[record["document"] for record in records],
        metadatas=[record["metadata"] for record in records],
        embeddings=[record["embedding"] for record in records],
    )
    for record in records:
        # Written over an existing record, metadata is merged: only the keys of the change are known.
        change["written"][record["id"]] = {**record, "all_keys_known": replaces_metadata}


def delete(collection, ids, change):
    collection.delete(ids=ids)
    for id in ids:
        change["written"].pop(id, None)
    change["deleted"].extend(id for id in ids if not id.startswith("judge-"))


def find_again(palace, changes):
    client = open_client(palace)
    for collection in collections_of(client):
        find_written(collection, changes[collection.name])
    getattr(client, "close", lambda: None)()  # chromadb before 1.5 has none


def find_written(collection, change):
    """Find a sample of the written records by vector, by metadata and by text."""
    name, written = collection.name, change["written"]
    for id in list(written)[:5] + list(written)[-5:]:
        answer = collection.query(query_embeddings=[written[id]["embedding"]], n_results=1)
        # chromadb 0.4 sometimes answers with more than it was asked for.
        require(answer["ids"][0][:1] == [id], f"{name}: the query for {id!r} found {answer['ids'][0]}")
        require(abs(answer["distances"][0][0]) < 1e-5, f"{name}: {id!r} is at {answer['distances'][0][0]} from itself")
    by_metadata = collection.get(where={"judge": True}, include=[])["ids"]
    require(set(by_metadata) == set(written), f"{name}: the filter on metadata found {len(by_metadata)} records")
    by_text = collection.get(where_document={"$contains": "quixotic judgement"}, include=[])["ids"]
    require(set(by_text) == set(written), f"{name}: the filter on documents found {len(by_text)} records")


def check_changes(before, after, changes, ulps=0):
    require(before.keys() == after.keys(), f"collections {sorted(before)} against {sorted(after)}")
    for name, change in changes.items():
        old, new = records_by_id(before[name]), records_by_id(after[name])
        compare_metadata(f"{name}: collection", before[name]["metadata"], after[name]["metadata"])
        untouched = [id for id in old if id not in change["written"] and id not in change["deleted"]]
        compare_ids(name, untouched, [id for id in new if id not in change["written"]])
        for id in untouched:
            what, ours, theirs = f"{name}: {id!r} (untouched)", dict(old[id]), dict(new[id])
            compare_embedding(what, ours.pop("embeddings"), theirs.pop("embeddings"), ulps)
            compare_value(what, ours, theirs)
        for id, record in change["written"].items():
            require(id in new, f"{name}: {id!r} was written and is gone")
            check_written(f"{name}: {id!r}", record, new[id])


def records_by_id(collection):
    columns = zip(*(collection[field] for field in RECORD_FIELDS))
    return {id: dict(zip(RECORD_FIELDS, values)) for id, values in zip(collection["ids"], columns)}


def check_written(what, record, found):
    compare_value(f"{what}: document", record["document"], found["documents"])
    wanted = typed_metadata(record["metadata"])
    if record["all_keys_known"]:
        compare_metadata(what, wanted, found["metadatas"])
    for key, value in wanted.items():
        compare_value(f"{what}: metadata {key}", value, found["metadatas"].get(key))
    # In cosine space chromadb stores direction and length, and multiplies them again.
    compare_embedding(what, float32_hex(record["embedding"]), found["embeddings"], ulps=2)


def persisted_seq_ids(palace):
    """Return how far the vector index of each collection is persisted, as chroma.sqlite3 records it."""
    with database_of(palace) as database:
        found = database.execute(
            "SELECT c.name, m.seq_id FROM max_seq_id m JOIN segments s ON s.id = m.segment_id"
            " JOIN collections c ON c.id = s.collection WHERE s.scope = 'VECTOR'"
        )
        return {name: int.from_bytes(seq_id, "big") if isinstance(seq_id, bytes) else seq_id for name, seq_id in found}


def check_database(palace):
    with database_of(palace) as database:
        compare_value("PRAGMA integrity_check", ["ok"], [row[0] for row in database.execute("PRAGMA integrity_check")])
        # SQLite does not look inside a full-text index unless it is asked this way.
        database.execute("INSERT INTO embedding_fulltext_search(embedding_fulltext_search) VALUES ('integrity-check')")


def database_of(palace):
    return contextlib.closing(sqlite3.connect(palace / "chroma.sqlite3"))


# mended


def judge_mended(original, palaces):
    """Judge many palaces that were damaged and mended; what is wrong with each, or that it is as the original."""
    before = dump(original)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        verdicts = dict(zip(map(str, palaces), pool.map(lambda palace: verdict_on(palace, before), palaces)))
    return {"verdicts": verdicts}


def verdict_on(palace, before):
    try:
        compare(before, dump(palace))
        with copy_of(palace) as copy:
            changes = in_new_process(make_small_changes, copy)
            in_new_process(find_again, copy, changes)
    except Exception as error:  # whatever a client raises is a verdict on the palace
        return f"{type(error).__name__}: {error}"
    return "content"


def make_small_changes(palace):
    """Add, update, upsert and delete a few records in every collection; return what must be found afterwards."""
    client = open_client(palace)
    changes = {}
    for collection in collections_of(client):
        changes[collection.name] = change_collection(collection)
        find_written(collection, changes[collection.name])
    getattr(client, "close", lambda: None)()  # chromadb before 1.5 has none
    return changes


# mempalace's sqlite_exact


def judge_exact(palace, dump_before):
    """Let mempalace read a copy through its sqlite_exact backend, write to it, and read it again."""
    before = never_none(by_name(dump_before))
    with copy_of(palace) as copy, tempfile.TemporaryDirectory() as home:
        isolate_mempalace(home)
        seen = in_new_process(read_exact, copy)
        require(set(before) == set(seen), f"collections {sorted(before)} against {sorted(seen)}")
        for name, collection in before.items():
            require("collection" not in seen[name], f"{name}: {seen[name]}")
            compare_records(f"exact: {name}", collection, seen[name], 0)
        written = in_new_process(write_exact, copy)
        again = in_new_process(read_exact, copy)
        for name, gone in written.items():
            kept = [id for id in before[name]["ids"] if id not in gone]
            compare_ids(f"exact: {name}: after writes", kept + ["judge-0", "judge-1"], again[name]["ids"])
        check_exact_database(copy)
    return {"records": sum(len(collection["ids"]) for collection in seen.values())}


def compare_records(what, ours, theirs, ulps):
    compare_ids(what, ours["ids"], theirs["ids"])
    for position, id in enumerate(ours["ids"]):
        compare_value(f"{what}: {id!r}: document", ours["documents"][position], theirs["documents"][position])
        compare_metadata(f"{what}: {id!r}", ours["metadatas"][position], theirs["metadatas"][position])
        compare_embedding(f"{what}: {id!r}", ours["embeddings"][position], theirs["embeddings"][position], ulps)


def exact_collections(palace, backend, read_only):
    from mempalace.backends.base import PalaceRef

    with contextlib.closing(sqlite3.connect(f"file:{palace}/sqlite_exact.sqlite3?mode=ro", uri=True)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM collections ORDER BY id")]
    reference = PalaceRef(id=str(palace), local_path=str(palace))
    for name in names:
        yield name, backend.get_collection(
            palace=reference, collection_name=name, create=False, options={"read_only": read_only}
        )


def read_exact(palace):
    """Read every collection read-only, and find every record again: by its vector and by a word of its document."""
    from mempalace.backends.sqlite_exact import SQLiteExactBackend

    backend, seen = SQLiteExactBackend(), {}
    for name, collection in exact_collections(palace, backend, True):
        found = read_pages(collection)
        require(collection.count() == len(found["ids"]), f"exact: {name}: count() differs from get()")
        for id, document, embedding in zip(found["ids"], found["documents"], found["embeddings"]):
            answer = collection.query(query_embeddings=[embedding], n_results=3)
            # Others may point the same way.
            is_near = id in answer.ids[0] or max(answer.distances[0]) < 1e-5
            require(is_near, f"exact: {name}: {id!r} is not found by its vector")
            words = re.findall(r"[A-Za-z0-9]{2,}", document)
            if words:
                hits = [hit.id for hit in collection.lexical_search(query=max(words, key=len), n_results=1000).hits]
                require(id in hits, f"exact: {name}: {id!r} is not found by {max(words, key=len)!r}")
        seen[name] = {**found, "embeddings": [float32_hex(embedding) for embedding in found["embeddings"]]}
    backend.close()
    return seen


def write_exact(palace):
    """Add, upsert, update and delete; return what was deleted of each collection."""
    from mempalace.backends.sqlite_exact import SQLiteExactBackend

    backend, written = SQLiteExactBackend(), {}
    for name, collection in exact_collections(palace, backend, False):
        present = collection.get(limit=4, include=["embeddings"])
        dimension = len(present.embeddings[0]) if present.ids else DIMENSION_WHEN_EMPTY
        fresh = [new_record(f"judge-{i}", dimension) for i in range(2)]
        for verb, record in ((collection.add, fresh[0]), (collection.upsert, fresh[1])):
            verb(**columns([record]))
        gone = []
        if len(present.ids) == 4:
            collection.update(ids=present.ids[:1], metadatas=[{"wing": "judged"}])
            collection.upsert(**columns([new_record(present.ids[1], dimension)]))
            collection.delete(ids=present.ids[2:4])
            gone = present.ids[2:4]
        for record in fresh:
            answer = collection.query(query_embeddings=[record["embedding"]], n_results=1)
            require(answer.ids[0] == [record["id"]], f"exact: {name}: {record['id']!r} was written and is not found")
        require(collection.lexical_search(query="quixotic").hits, f"exact: {name}: nothing new is found by its words")
        written[name] = gone
    backend.close()
    return written


def columns(records):
    fields = {"ids": "id", "documents": "document", "metadatas": "metadata", "embeddings": "embedding"}
    return {plural: [record[field] for record in records] for plural, field in fields.items()}


def check_exact_database(palace):
    with contextlib.closing(sqlite3.connect(palace / "sqlite_exact.sqlite3")) as database:
        compare_value("PRAGMA integrity_check", ["ok"], [row[0] for row in database.execute("PRAGMA integrity_check")])


def make_exact(palace):
    """Make a palace through mempalace's backend, with updates and deletions, and return it as a dump."""
    with tempfile.TemporaryDirectory() as home:
        isolate_mempalace(home)
        return in_new_process(make_exact_palace, palace)


def make_exact_palace(palace):
    from mempalace.backends.base import PalaceRef
    from mempalace.backends.sqlite_exact import SQLiteExactBackend

    backend, reference = SQLiteExactBackend(), PalaceRef(id=str(palace), local_path=str(palace))
    dumped = []
    for name, count, dimension in (("mempalace_drawers", 120, 16), ("mempalace_closets", 9, 5)):
        collection = backend.get_collection(palace=reference, collection_name=name, create=True)
        records = [new_record(f"{name}-{i}", dimension) for i in range(count)]
        for number, record in enumerate(records):
            record["document"] = f"what drawer {number} of {name} holds"
            wing = f"wing{number % 3}"
            record["metadata"] = {"wing": wing, "number": number, "third": number / 3, "tags": ["a", "b"]}
        collection.add(**columns(records))
        collection.delete(ids=[records[3]["id"]])
        collection.update(ids=[records[4]["id"]], metadatas=[{"wing": "moved"}])
        collection.upsert(**columns([{**records[5], "document": "put there again", "metadata": {"truth": True}}]))
        found = read_pages(collection)
        found["embeddings"] = [float32_hex(embedding) for embedding in found["embeddings"]]
        about = {"name": name, "count": len(found["ids"]), "metadata": MEMPALACE_METADATA, "queries": []}
        dumped.append({**about, **found})
    backend.close()
    return {"collections": dumped}


# mempalace


def judge_mempalace(palace):
    """Let mempalace read a copy through its own command line and classes."""
    before = by_name(dump(palace))
    with copy_of(palace) as copy, tempfile.TemporaryDirectory() as home:
        isolate_mempalace(home)
        entries = set(os.listdir(copy))
        in_new_process(open_with_mempalace, copy, list(before))
        check_quarantine(copy, entries)  # before the records: with its index put aside, a collection cannot be read
        seen = in_new_process(read_with_mempalace, copy, list(before))
        for name, collection in before.items():
            compare_ids(f"mempalace: {name}", collection["ids"], seen[name]["ids"])
            for field, compare_field in (("documents", compare_value), ("metadatas", compare_metadata)):
                for id, ours, theirs in zip(collection["ids"], collection[field], seen[name][field]):
                    compare_field(f"mempalace: {name}: {id!r}", ours, theirs)
        # Now that chromadb has applied its queue: these two read the tables without it.
        status, repair_status = run_mempalace(copy, "status"), run_mempalace(copy, "repair-status")
        check_status(before, status, repair_status)
        new = check_quarantine(copy, entries)
        compare({"collections": list(before.values())}, in_new_process(snapshot, copy))
    return {
        "status": status.split("\n"),
        "repair_status": repair_status.split("\n"),
        "records": {name: len(collection["ids"]) for name, collection in seen.items()},
        "new_entries": sorted(new),
    }


def isolate_mempalace(home):
    """Keep this machine's own mempalace out: its settings, its palace and its locks."""
    for variable in [name for name in os.environ if name.startswith(("MEMPALACE_", "MEMPAL_", "XDG_"))]:
        del os.environ[variable]
    os.environ["HOME"] = os.environ["USERPROFILE"] = home


def run_mempalace(palace, command):
    arguments = [sys.executable, "-m", "mempalace", "--palace", str(palace), command]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    require(done.returncode == 0, f"mempalace {command}: exit code {done.returncode}: {done.stdout}")
    return "\n".join(line.strip() for line in done.stdout.splitlines() if line.strip(" ="))


def check_quarantine(palace, entries):
    """mempalace renames an index that it distrusts. Return what else it created."""
    new = set(os.listdir(palace)) - entries
    quarantined = sorted(entry for entry in new if re.search(r"\.(drift|corrupt)-", entry))
    require(not quarantined, f"mempalace put aside {quarantined}")
    return new


def check_status(collections, status, repair_status):
    drawers = collections.get("mempalace_drawers")
    if drawers is not None:
        require(f"{drawers['count']} drawers" in status.replace(",", ""), f"mempalace status: {status}")
    states = re.findall(r"^status:\s+(.*)$", repair_status, flags=re.MULTILINE)
    # UNKNOWN is what it says of an index that chromadb has not persisted yet.
    require(states and set(states) <= {"OK", "UNKNOWN"}, f"mempalace repair-status: {repair_status}")


def open_with_mempalace(palace, names):
    from mempalace.backends.chroma import ChromaBackend

    backend = ChromaBackend()
    for name in names:
        backend.get_collection(str(palace), name, create=False)
    backend.close()


def read_with_mempalace(palace, names):
    """Read ids and documents through mempalace's backend, and search as it does: by vector and by word."""
    from mempalace.backends.chroma import ChromaBackend

    backend = ChromaBackend()
    seen = {}
    for name in names:
        collection = backend.get_collection(str(palace), name, create=False)
        found = read_pages(collection)
        for position in range(0, len(found["ids"]), max(1, len(found["ids"]) // 10)):
            answer = collection.query(query_embeddings=[found["embeddings"][position]], n_results=3)
            require(found["ids"][position] in answer.ids[0], f"mempalace: {name}: {found['ids'][position]!r} not found")
        seen[name] = {field: found[field] for field in ("ids", "documents", "metadatas")}
        require(collection.count() == len(found["ids"]), f"mempalace: {name}: count() differs from get()")
        words = re.findall(r"[A-Za-z]{6,}", " ".join(document or "" for document in found["documents"][:50]))
        if words:
            require(collection.lexical_search(query=words[0]).hits, f"mempalace: {name}: no document has {words[0]!r}")
    backend.close()
    return seen


def read_pages(collection):
    found = {"ids": [], "documents": [], "metadatas": [], "embeddings": []}
    while True:
        page = collection.get(limit=5_000, offset=len(found["ids"]), include=["documents", "metadatas", "embeddings"])
        if not page.ids:
            return found
        found["ids"].extend(page.ids)
        found["documents"].extend(page.documents)
        found["metadatas"].extend(typed_metadata(metadata) for metadata in page.metadatas)
        found["embeddings"].extend([float(x) for x in embedding] for embedding in page.embeddings)


# Command line


def read_dump(path):
    raw = path.read_bytes()
    return json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("dump", "append", "exercise", "mempalace", "make-exact"):
        commands.add_parser(name).add_argument("palace", type=Path)
    mended = commands.add_parser("mended")
    mended.add_argument("original", type=Path)
    mended.add_argument("palaces", type=Path, nargs="+")
    exact = commands.add_parser("exact")
    exact.add_argument("palace", type=Path)
    exact.add_argument("before", type=Path)
    comparison = commands.add_parser("compare")
    comparison.add_argument("a", type=Path)
    comparison.add_argument("b", type=Path)
    comparison.add_argument("--ulps", type=int, default=0, help="allowed difference per float32 (default: none)")
    comparison.add_argument("--any-order", action="store_true", help="ignore the order of the records")
    comparison.add_argument("--no-arrays", action="store_true", help="leave arrays in metadata out of the first dump")
    comparison.add_argument("--any-document", action="store_true", help="take no document for an empty one")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    try:
        if arguments.command == "compare":
            dumps = read_dump(arguments.a), read_dump(arguments.b)
            leniency = arguments.any_order, arguments.any_document, not arguments.no_arrays
            verdict = compare(*dumps, arguments.ulps, *leniency)
        elif arguments.command == "exact":
            verdict = judge_exact(arguments.palace, read_dump(arguments.before))
        elif arguments.command == "mended":
            verdict = judge_mended(arguments.original, arguments.palaces)
        else:
            commands = {"dump": dump, "append": append, "exercise": exercise, "make-exact": make_exact}
            verdict = commands.get(arguments.command, judge_mempalace)(arguments.palace)
    except Exception as error:  # whatever a client raises is a verdict on the palace
        raise SystemExit(f"judge.py {arguments.command}: {type(error).__name__}: {error}") from None
    json.dump(verdict, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
