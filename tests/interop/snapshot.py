"""Write down everything a chromadb client returns for a palace, losing nothing.

Two snapshots are equal exactly when a user of chromadb could not tell the two palaces apart, so every value keeps
its type and its bits:

* a metadata value is an object with its type ("t"): {"t": "bool", "v": true}, {"t": "int", "v": "-3"} (decimal text,
  because JSON readers lose integers above 2^53), {"t": "float", "v": "0.1", "hex": "3fb999999999999a"} (the IEEE 754
  bits, most significant byte first), {"t": "str", "v": "..."}, {"t": "list", "of": "int", "v": ["1", "2"]} (elements
  written as the "v" of their type; floats by their "hex");
* an embedding is the hexadecimal text of its little-endian float32 bytes;
* a document that is absent is null, which is not the same as "";
* nothing is sorted: collections and records are in the order in which the client returned them.

It runs on Python 3.11 with any chromadb from 0.4.24 to 1.5.9.
"""

import json
import random
import struct
import sys

import chromadb
import numpy
from chromadb.config import Settings

# chromadb 1.x binds one SQL variable per record and SQLite allows 32,766 of them.
PAGE_RECORDS = 5_000
QUERY_COUNT = 10
QUERY_RESULTS = 10
# Ask for more than is kept: the search looks at no fewer candidates than that, and chromadb 0.x alone looks at 10,
# which is too few to find the ten nearest.
QUERY_CANDIDATES = 50


def open_client(palace):
    """Open a palace. This writes to it (chromadb always does), so give it a copy."""
    return chromadb.PersistentClient(path=str(palace), settings=Settings(anonymized_telemetry=False))


def collections_of(client):
    """Return the collections in client order; chromadb 0.6 lists names, every other version lists objects."""
    return [client.get_collection(found) if isinstance(found, str) else found for found in client.list_collections()]


def snapshot(palace):
    client = open_client(palace)
    return {
        "chromadb": chromadb.__version__,
        "collections": [snapshot_collection(collection) for collection in collections_of(client)],
    }


def snapshot_collection(collection):
    records = read_records(collection)
    count = collection.count()
    if not count == len(records["ids"]) == len(set(records["ids"])):
        raise SystemExit(f"{collection.name}: count() says {count}, get() returned {len(records['ids'])} records")
    return {
        "name": collection.name,
        "metadata": typed_metadata(collection.metadata),
        "count": count,
        **records,
        "queries": run_queries(collection, records["embeddings"]),
    }


def read_records(collection):
    """Read every record, page by page, in the order get() returns them."""
    records = {"ids": [], "documents": [], "metadatas": [], "embeddings": []}
    while True:
        page = collection.get(
            limit=PAGE_RECORDS,
            offset=len(records["ids"]),
            include=["documents", "metadatas", "embeddings"],
        )
        if len(page["ids"]) == 0:
            return records
        records["ids"].extend(page["ids"])
        records["documents"].extend(page["documents"])
        records["metadatas"].extend(typed_metadata(metadata) for metadata in page["metadatas"])
        records["embeddings"].extend(float32_hex(embedding) for embedding in page["embeddings"])


def run_queries(collection, embeddings):
    """Ask the same ten questions of every collection that has this name and dimension."""
    if not embeddings:
        return []
    dimension = len(embeddings[0]) // 8
    random_source = random.Random(f"{collection.name}/{dimension}")
    queries = []
    for _ in range(QUERY_COUNT):
        vector = [as_float32(random_source.gauss(0.0, 1.0)) for _ in range(dimension)]
        answer = collection.query(
            query_embeddings=[vector],
            n_results=min(QUERY_CANDIDATES, len(embeddings)),
            include=["distances"],
        )
        queries.append(
            {
                "vector": float32_hex(vector),
                "ids": answer["ids"][0][:QUERY_RESULTS],
                "distances": [typed(float(distance)) for distance in answer["distances"][0][:QUERY_RESULTS]],
            }
        )
    return queries


def typed_metadata(metadata):
    """Write the type beside every value; a record without metadata stays null."""
    return None if metadata is None else {key: typed(value) for key, value in metadata.items()}


def typed(value):
    # bool first: in Python a bool is also an int.
    if isinstance(value, bool):
        return {"t": "bool", "v": value}
    if isinstance(value, int):
        return {"t": "int", "v": str(value)}
    if isinstance(value, float):
        return {"t": "float", "v": repr(value), "hex": struct.pack(">d", value).hex()}
    if isinstance(value, str):
        return {"t": "str", "v": value}
    if isinstance(value, list):
        elements = [typed(element) for element in value]
        types = {element["t"] for element in elements}
        if len(types) > 1:
            raise TypeError(f"a metadata list with mixed types: {value!r}")
        return {
            "t": "list",
            "of": types.pop() if types else None,
            "v": [element.get("hex", element["v"]) for element in elements],
        }
    raise TypeError(f"a metadata value of an unknown type: {value!r}")


def float32_hex(vector):
    return numpy.asarray(vector, dtype="<f4").tobytes().hex()


def as_float32(value):
    """Round to the nearest float32, so that no client has to round it for us."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


if __name__ == "__main__":
    json.dump(snapshot(sys.argv[1]), sys.stdout, indent=1)
