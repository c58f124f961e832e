"""Compare the index that palacekeeper builds with chromadb's own, over the same vectors, in one run.

    python benches/compare_index.py PALACE PALACEKEEPER [--queries 1000] [--work DIR]

PALACE is one that make_palace.py made; it is only copied. PALACEKEEPER is the release binary. Run it with the
requirements in tests/interop/requirements.txt. Times are of one run on one machine, chromadb's first, each with the CPU
seconds it took, which say more where the machine has other things to do; recall is against an exact scan of the vectors
that chromadb itself returns.
"""

import argparse
import json
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import chromadb
import numpy
from chromadb.config import Settings

COLLECTION = "mempalace_drawers"
NEIGHBOURS = 10
PAGE = 2000


def collection(palace):
    client = chromadb.PersistentClient(path=str(palace), settings=Settings(anonymized_telemetry=False))
    return client.get_collection(COLLECTION, embedding_function=None)


def in_own_process(what, *arguments):
    """Each palace is opened by a process of its own: a client never lets go of its files."""
    run = subprocess.run([sys.executable, __file__, "--inner", what, *map(str, arguments)], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def vectors(palace):
    drawers = collection(palace)
    parts = []
    for offset in range(0, drawers.count(), PAGE):
        found = drawers.get(include=["embeddings"], limit=PAGE, offset=offset)
        parts.append((found["ids"], numpy.asarray(found["embeddings"], dtype=numpy.float32)))
    ids = [one for ids, _ in parts for one in ids]
    return ids, numpy.concatenate([part for _, part in parts])


def inner_vectors(palace, out):
    ids, found = vectors(palace)
    numpy.save(out, found)
    return ids


def inner_count(palace):
    began, cpu = time.perf_counter(), time.process_time()
    count = collection(palace).count()
    return [count, time.perf_counter() - began, time.process_time() - cpu]


def cpu_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def inner_query(palace, queries):
    drawers = collection(palace)
    found = []
    for some in numpy.array_split(numpy.load(queries), 20):
        found += drawers.query(query_embeddings=some, n_results=NEIGHBOURS, include=[])["ids"]
    return found


def recall(palace, queries, exact):
    found = in_own_process("query", palace, queries)
    return sum(len(set(a) & set(b)) for a, b in zip(found, exact)) / (NEIGHBOURS * len(exact))


def only_in_the_queue(palace, ids, found):
    """What chromadb replays: all vectors in the queue, none in a segment."""
    database = sqlite3.connect(palace / "chroma.sqlite3")
    identity, vector = database.execute(
        "SELECT c.id, s.id FROM collections c JOIN segments s ON s.collection = c.id"
        " WHERE c.name = ? AND s.scope = 'VECTOR'",
        [COLLECTION],
    ).fetchone()
    topic = f"persistent://default/default/{identity}"
    database.execute("DELETE FROM embeddings_queue WHERE topic = ?", [topic])
    database.execute("DELETE FROM max_seq_id WHERE segment_id = ?", [vector])
    database.executemany(
        "INSERT INTO embeddings_queue (seq_id, operation, topic, id, vector, encoding) VALUES (?, 0, ?, ?, ?, 'FLOAT32')",
        ((number, topic, one, row.tobytes()) for number, (one, row) in enumerate(zip(ids, found), 1)),
    )
    last = "UPDATE max_seq_id SET seq_id = ? WHERE segment_id IN (SELECT id FROM segments WHERE collection = ?)"
    database.execute(last, [len(ids), identity])
    database.commit()
    shutil.rmtree(palace / vector)


def without_links(palace):
    for links in palace.glob("*/link_lists.bin"):
        links.write_bytes(b"")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("palace", type=Path)
    arguments.add_argument("palacekeeper", type=Path)
    arguments.add_argument("--queries", type=int, default=1000)
    arguments.add_argument("--work", type=Path)
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        work = Path(work)
        copies = {name: work / name for name in ("chromadb", "replayed", "built")}
        for copy in copies.values():
            shutil.copytree(arguments.palace, copy)
        ids = in_own_process("vectors", copies["chromadb"], work / "vectors.npy")
        found = numpy.load(work / "vectors.npy")

        # Queries lie near the vectors, as those of people do, but on none of them.
        random = numpy.random.default_rng(7)
        near = found[random.choice(len(found), arguments.queries, replace=False)]
        queries = near + 0.3 * numpy.linalg.norm(near, axis=1, keepdims=True) / near.shape[1] ** 0.5 * (
            random.standard_normal(near.shape)
        )
        queries = queries.astype(numpy.float32)
        numpy.save(work / "queries.npy", queries)
        unit = found / numpy.linalg.norm(found, axis=1, keepdims=True)
        nearest = numpy.argsort(-(queries / numpy.linalg.norm(queries, axis=1, keepdims=True)) @ unit.T, axis=1)
        exact = [[ids[index] for index in row] for row in nearest[:, :NEIGHBOURS]]

        only_in_the_queue(copies["replayed"], ids, found)
        without_links(copies["built"])
        count, replay, replay_cpu = in_own_process("count", copies["replayed"])
        began, cpu = time.perf_counter(), cpu_of_children()
        command = [arguments.palacekeeper, "--palace", copies["built"], "--quiet", "--json", "repair", "--yes"]
        told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        build = sum(step["seconds"] for step in told["took"] if step["step"].startswith("build an HNSW index"))
        repair, repair_cpu = time.perf_counter() - began, cpu_of_children() - cpu
        again, load, _ = in_own_process("count", copies["built"])
        assert count == again == len(ids), (count, again, len(ids))
        print(f"{len(ids)} x {found.shape[1]}, recall@{NEIGHBOURS} of {arguments.queries} queries")
        print(f"chromadb's own index      recall {recall(copies['chromadb'], work / 'queries.npy', exact):.4f}")
        print(f"chromadb's replay         recall {recall(copies['replayed'], work / 'queries.npy', exact):.4f}   {replay:6.2f} s, CPU {replay_cpu:.2f} s")
        print(f"palacekeeper repair       recall {recall(copies['built'], work / 'queries.npy', exact):.4f}   {repair:6.2f} s, CPU {repair_cpu:.2f} s")
        print(f"  of that the build, with finding, reading and writing the vectors          {build:6.2f} s")
        print(f"  (the rest: check, copy, proof, swap; chromadb then opens it in {load:.2f} s)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inner"]:
        inner = {"vectors": inner_vectors, "count": inner_count, "query": inner_query}[sys.argv[2]]
        print(json.dumps(inner(*map(Path, sys.argv[3:]))))
    else:
        main()
