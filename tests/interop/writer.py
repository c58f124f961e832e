"""A client of chromadb's that never stops: adds one drawer after the other to a palace, and says each id as soon as
chromadb has acknowledged it. Its arguments are the palace, and what the ids begin with."""

import sys

import chromadb

palace, prefix = sys.argv[1:]
client = chromadb.PersistentClient(path=palace)
collection = client.get_collection("mempalace_drawers", embedding_function=None)
dimension = len(collection.get(limit=1, include=["embeddings"])["embeddings"][0])
print("ready", flush=True)
for number in range(1_000_000):
    identity = f"{prefix}-{number}"
    vector = [float(number + at + 1) for at in range(dimension)]
    collection.add(ids=[identity], documents=[f"written meanwhile, {number}"], embeddings=[vector])
    print(identity, flush=True)
