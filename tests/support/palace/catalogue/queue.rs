//! The queue: writes that wait, writes that cannot be applied, and writes that should have been purged.

use super::means::{one, segment, topic};
use super::{Case, Class, DRAWERS};

pub(super) const CLASSES: &[Class] = &[
    Class::quick("writes wait to be applied", &["queue-pending"], |case| {
        case.assert_rows("embeddings_queue WHERE seq_id > 299", 60);
        case.has_waiting_writes = true;
        case.checks.push(|arena| {
            let waiting = "SELECT count(*) FROM embeddings_queue WHERE seq_id > 299";
            assert_eq!(one::<i64>(&arena.palace(), waiting), 60, "writes that wait");
        });
    })
    .on("chroma-1.5.9-killed")
    .noted(),
    pill("a waiting write has an unknown operation", |case| {
        enqueue(case, &Write { operation: 9, ..PILL });
    }),
    pill("a waiting write's vector ends within a number", |case| {
        enqueue(case, &Write { vector: "zeroblob(63)", ..PILL });
    }),
    pill("a waiting write's vector has another dimension", |case| {
        enqueue(case, &Write { vector: "randomblob(60)", ..PILL });
    }),
    pill("a waiting write has no vector", |case| {
        enqueue(case, &Write { vector: "NULL", encoding: "NULL", ..PILL });
    }),
    pill("a waiting write's vector has no encoding", |case| {
        enqueue(case, &Write { encoding: "NULL", ..PILL });
    }),
    pill("a waiting write's vector holds integers", |case| {
        enqueue(case, &Write { encoding: "'INT32'", ..PILL });
    }),
    pill("a waiting write's metadata is no JSON", |case| {
        enqueue(case, &Write { metadata: "{\"wing\": \"cut of", ..PILL });
    }),
    pill("a waiting write's metadata is nested", |case| {
        enqueue(case, &Write { metadata: "{\"wing\": {\"deep\": [1, null]}}", ..PILL });
    }),
    pill("a waiting write's document is a number", |case| {
        enqueue(case, &Write { metadata: "{\"chroma:document\": 5}", ..PILL });
    }),
    pill("a waiting write's date is no date", |case| {
        enqueue(case, &Write { created_at: "'yesterday'", ..PILL });
    }),
    pill("the write of an applied record is cut short", |case| {
        case.sql("UPDATE embeddings_queue SET vector = zeroblob(63) WHERE id = 'tail-001';");
        case.assert_rows("embeddings_queue WHERE length(vector) = 63", 1);
    })
    .also(&["vector-missing"])
    .losing(1, 0),
    Class::quick("applied writes were never purged", &["queue-unpurged"], |case| {
        let (topic, vector) = (topic(DRAWERS), segment(DRAWERS, "VECTOR"));
        let row = "SELECT created_at, 2, topic, id, vector, encoding, metadata FROM embeddings_queue
                   WHERE seq_id = (SELECT min(seq_id) FROM embeddings_queue q WHERE q.topic = ?1 AND vector NOT NULL)";
        case.sql(&format!(
            "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 240)
             INSERT INTO embeddings_queue (seq_id, created_at, operation, topic, id, vector, encoding, metadata)
             SELECT n, old.* FROM numbers, ({}) old WHERE n NOT IN (SELECT seq_id FROM embeddings_queue);",
            row.replace("?1", &topic)
        ));
        let purgeable = format!("seq_id < (SELECT seq_id FROM max_seq_id WHERE segment_id = {vector})");
        let from = format!("embeddings_queue WHERE topic = {topic} AND {purgeable}");
        assert!(case.one::<i64>(&format!("SELECT count(*) FROM {from}")) > 150, "the queue is short");
    })
    .noted(),
];

/// A write that chromadb stumbles over, with a good one behind it that must not be lost with it.
const fn pill(name: &'static str, inject: fn(&mut Case)) -> Class {
    Class::quick(name, &["queue-poison"], inject).also(&["queue-pending"]).losing(0, 0)
}

/// A row of the queue, in terms of SQL.
struct Write {
    operation: i64,
    vector: &'static str,
    encoding: &'static str,
    metadata: &'static str,
    created_at: &'static str,
}

/// Nothing is wrong with it yet.
const PILL: Write = Write {
    operation: 0,
    vector: "zeroblob(64)",
    encoding: "'FLOAT32'",
    metadata: "{\"wing\": \"pharmacy\"}",
    created_at: "CURRENT_TIMESTAMP",
};

fn enqueue(case: &mut Case, pill: &Write) {
    let topic = topic(DRAWERS);
    for (id, write) in [("pill", pill), ("behind-the-pill", &PILL)] {
        let Write { operation, vector, encoding, metadata, created_at } = write;
        case.sql(&format!(
            "INSERT INTO embeddings_queue (created_at, operation, topic, id, vector, encoding, metadata)
             VALUES ({created_at}, {operation}, {topic}, '{id}', {vector}, {encoding}, '{metadata}');"
        ));
    }
    case.assert_rows("embeddings_queue WHERE seq_id > 299", 2);
    case.has_waiting_writes = true;
    case.checks.push(|arena| {
        let count = |id: &str| {
            let sql = format!("SELECT count(*) FROM embeddings_queue WHERE id = '{id}' AND operation < 3");
            one::<i64>(&arena.palace(), &sql)
        };
        assert_eq!(count("pill"), 0, "the write that cannot be applied is still there");
        assert_eq!(count("behind-the-pill"), 1, "the good write behind it is gone");
    });
}
