//! What a snapshot of a large state costs beside the state itself. A process of its own, since it looks at
//! the memory of the process.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail by panicking"
)]

use std::io::{self, Write};

use bytes::Bytes;
use rivven_raft::{ApplyCtx, KvCommand, KvStore, StateMachine};

const KEYS: u64 = 65_536;
const VALUE_BYTES: usize = 4 << 10;
const STATE_BYTES: usize = 256 << 20;

/// Values put while the snapshot is written.
const CHANGES: u64 = 1_024;

/// What a snapshot may take: the replaced values that it and the history keep, and room for buffers.
const MAX_EXTRA_BYTES: usize = 32 << 20;

/// Bytes of this process in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

fn put(store: &mut KvStore, key: u64) {
    let index = store.revision() + 1;
    let value = Bytes::from(vec![u8::try_from(index % 251).unwrap(); VALUE_BYTES]);
    store.apply(
        &ApplyCtx::new(index, 1),
        KvCommand::put(format!("{key:08}"), value),
    );
}

/// Applies changes to the live store as the snapshot goes by, and remembers the most memory seen.
struct Observer<'a, W> {
    store: &'a mut KvStore,
    out: W,
    written: usize,
    changed: u64,
    peak: usize,
}

impl<W: Write> Write for Observer<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.written += written;
        while self.changed < CHANGES
            && self.written > STATE_BYTES / 1_100 * usize::try_from(self.changed).unwrap()
        {
            put(self.store, self.changed * 61 % KEYS);
            self.changed += 1;
            if self.changed.is_multiple_of(64) {
                self.peak = self.peak.max(resident());
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[test]
fn a_large_state_is_written_and_restored_as_a_stream_while_it_changes() {
    let mut store = KvStore::new();
    for key in 0..KEYS {
        put(&mut store, key);
    }
    let before = resident();
    assert!(
        before > STATE_BYTES,
        "the state is as large as it should be: {before} bytes"
    );
    let snapshot = store.snapshot();
    let revision = snapshot.revision();

    // The reader restores what the writer has written so far: neither ever holds the encoded whole.
    let (reader, writer) = io::pipe().unwrap();
    let restorer = std::thread::Builder::new().name("restore".into());
    let restoring = restorer
        .spawn(move || KvStore::decode_snapshot(&mut io::BufReader::new(reader)).unwrap())
        .unwrap();
    let mut observer = Observer {
        store: &mut store,
        out: io::BufWriter::with_capacity(64 << 10, writer),
        written: 0,
        changed: 0,
        peak: before,
    };
    KvStore::encode_snapshot(&snapshot, &mut observer).unwrap();
    observer.flush().unwrap();
    let (changed, peak) = (observer.changed, observer.peak);
    drop(observer.out);
    let copy = restoring.join().unwrap();

    assert_eq!(changed, CHANGES, "the state changed meanwhile");
    // The copy is a whole state of its own.
    let extra = peak.saturating_sub(before + STATE_BYTES);
    println!("{} MiB beside the state and its copy", extra >> 20);
    assert!(
        extra < MAX_EXTRA_BYTES,
        "{extra} bytes beside the state and its copy"
    );
    assert_eq!((copy.revision(), copy.len()), (revision, store.len()));
    assert_eq!(store.revision(), revision + CHANGES);
    assert!(
        copy.range_from("").eq(snapshot.range_from("")),
        "the copy is what the snapshot was"
    );
    assert!(!copy.range_from("").eq(store.range_from("")));
}
