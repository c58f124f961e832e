"""Write drawers to a palace with the real chromadb, as MemPalace does while palacekeeper may be at work beside it.

    client.py PALACE COLLECTION NAME COUNT   add COUNT drawers NAME-0, NAME-1, ... to a collection, which is made where
                                             there is none, and print each name once chromadb has acknowledged it
    client.py PALACE COLLECTION NAME on      the same without an end, until standard input is closed

Whoever reads a name on standard output may rely on that drawer. A write that fails ends the client with an error.
"""

import itertools
import select
import sys
import time

from snapshot import open_client

DIMENSION_WHEN_EMPTY = 8


def main(palace, name, prefix, count):
    collection = open_client(palace).get_or_create_collection(name)
    known = collection.get(limit=1, include=["embeddings"])["embeddings"]
    dimension = len(known[0]) if len(known) else DIMENSION_WHEN_EMPTY
    numbers = itertools.count() if count == "on" else range(int(count))
    for number in numbers:
        drawer = f"{prefix}-{number}"
        vector = [1.0 / (number + 1 + place) for place in range(dimension)]
        collection.add(ids=[drawer], documents=[f"what is in {drawer}"], embeddings=[vector])
        print(drawer, flush=True)
        if count == "on":
            if select.select([sys.stdin], [], [], 0)[0]:
                break
            time.sleep(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
