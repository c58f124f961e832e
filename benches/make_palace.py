"""Make a palace of any size with the real chromadb, for benchmarks and for tests at scale.

    python benches/make_palace.py OUT --drawers 20000 --dimension 384 [--seed 1]

Run it with the requirements in tests/interop/requirements.txt. Every record is written through chromadb's public
API, never by SQL. The vectors are a mixture of 400 topics of unequal size in a 48-dimensional latent space, plus
noise, because embeddings of real text are clustered: on independent random vectors any two indexes disagree about
the nearest neighbours, and nothing can be compared.
"""

import argparse
import random
import time
from pathlib import Path

import chromadb
import numpy
from chromadb.config import Settings

TOPIC_COUNT = 400
LATENT_DIMENSION = 48
LATENT_SPREAD = 0.35
NOISE = 0.02
DOCUMENT_CHARACTERS = 800

# What mempalace 3.11 asks for when it creates a collection, apart from the thresholds and threads (see main).
BATCH_SIZE = 100

WORDS = [
    first + second
    for first in "ar bel cor dun el far gal hol in jas kel lor mar nor or pel".split()
    for second in "ado bin cel den eth fin gor han ith kor lan mon nis owen per".split()
]


class Embeddings:
    """Seeded clustered vectors, drawn batch by batch."""

    def __init__(self, dimension, seed):
        self.random = numpy.random.default_rng(seed)
        self.weights = self.random.dirichlet(numpy.full(TOPIC_COUNT, 0.5))
        self.centres = self.random.standard_normal((TOPIC_COUNT, LATENT_DIMENSION))
        self.projection = self.random.standard_normal((LATENT_DIMENSION, dimension)) / LATENT_DIMENSION**0.5
        self.dimension = dimension

    def draw(self, count):
        """Return (topics, float32 vectors)."""
        topics = self.random.choice(TOPIC_COUNT, size=count, p=self.weights)
        latent = self.centres[topics] + LATENT_SPREAD * self.random.standard_normal((count, LATENT_DIMENSION))
        noise = NOISE * self.random.standard_normal((count, self.dimension))
        return topics, (latent @ self.projection + noise).astype(numpy.float32)


def document(source):
    words = source.choices(WORDS, k=DOCUMENT_CHARACTERS // 5)
    return " ".join(words)[:DOCUMENT_CHARACTERS]


def metadata(i, topic):
    wing, room = f"wing_{topic % 12:02d}", f"room_{topic:03d}"
    return {
        "wing": wing,
        "room": room,
        "source_file": f"/home/ada/{wing}/{room}/{i // 8:06d}.md",
        "chunk_index": i % 8,
        "added_by": "mempalace",
        "filed_at": f"2026-{1 + i % 12:02d}-{1 + i % 28:02d}T{i % 24:02d}:{i % 60:02d}:00",
        "normalize_version": 2,
        "importance": (i % 100) / 100,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="palace directory to create")
    parser.add_argument("--drawers", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=2_000, help="records per add() (default: 2000)")
    parser.add_argument("--sync-threshold", type=int, default=1_000, help="as mempalace (default: 1000)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the vector index, as mempalace (default: 1)")
    arguments = parser.parse_args()
    if arguments.out.exists():
        raise SystemExit(f"{arguments.out} exists already")

    client = chromadb.PersistentClient(path=str(arguments.out), settings=Settings(anonymized_telemetry=False))
    drawers = client.create_collection(
        "mempalace_drawers",
        metadata={
            "hnsw:space": "cosine",
            "hnsw:num_threads": arguments.threads,
            "hnsw:batch_size": BATCH_SIZE,
            "hnsw:sync_threshold": arguments.sync_threshold,
        },
    )
    embeddings = Embeddings(arguments.dimension, arguments.seed)
    words = random.Random(arguments.seed)
    begin = time.monotonic()
    for start in range(0, arguments.drawers, arguments.batch):
        rows = range(start, min(start + arguments.batch, arguments.drawers))
        topics, vectors = embeddings.draw(len(rows))
        drawers.add(
            ids=[f"drawer_{i:08d}" for i in rows],
            embeddings=vectors,
            documents=[document(words) for _ in rows],
            metadatas=[metadata(i, int(topic)) for i, topic in zip(rows, topics)],
        )
        print(f"{rows.stop} of {arguments.drawers} drawers, {time.monotonic() - begin:.0f} s", flush=True)
    client.close()


if __name__ == "__main__":
    main()
