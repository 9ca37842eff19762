//! What applying commands to a `KvStore` costs, and reading it: `cargo bench -p rivven-raft --bench kv`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark ends by panicking where what it measures is not what it says"
)]

use std::hint::black_box;

use bytes::Bytes;
use divan::Bencher;
use rivven_raft::{
    ApplyCtx, KeyRange, KvCommand, KvResponse, KvStore, MAX_HISTORY_BYTES, MAX_HISTORY_EVENTS, StateMachine,
};

/// Calls behind one figure: fewer would measure the timer, and caches that something else has just used.
const CALLS: u32 = 1_000;

/// Keys of a store that is measured.
const KEYS: u64 = 100_000;

/// Changes that a reader of the past, or a watch, is behind.
const BEHIND: u32 = 1_024;

fn main() {
    divan::main();
}

fn key(number: u64) -> String {
    format!("service/{number:08}")
}

/// Numbers that look random and are the same in every run, after SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone)]
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

fn put(number: u64, value_bytes: usize) -> KvCommand {
    KvCommand::put(key(number), Bytes::from(vec![7; value_bytes]))
}

fn apply(store: &mut KvStore, command: KvCommand) -> KvResponse {
    store.apply(&ApplyCtx::new(store.revision() + 1, 1), command)
}

/// A store of [`KEYS`] keys whose history is as long as it gets.
fn full(value_bytes: usize) -> KvStore {
    let mut store = KvStore::new();
    let mut numbers = Numbers(1);
    // Keys come in no order, as those of clients do.
    for number in 0..KEYS {
        apply(&mut store, put(number * 61_803 % KEYS, value_bytes));
    }
    let most = MAX_HISTORY_EVENTS.min(MAX_HISTORY_BYTES / value_bytes.max(1));
    for _ in 0..most {
        apply(&mut store, put(numbers.next(KEYS), value_bytes));
    }
    assert!(store.len() as u64 == KEYS && store.oldest_revision() > 0);
    store
}

#[divan::bench(args = [16, 256], sample_size = CALLS)]
fn put_a_new_key(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let mut store = full(value_bytes);
    let mut numbers = Numbers(2);
    bencher
        .with_inputs(|| put(KEYS + numbers.next(1 << 40), value_bytes))
        .bench_local_values(|command| apply(&mut store, command));
}

/// Of 16 bytes the history is as long as it gets in changes, of more in bytes.
#[divan::bench(args = [16, 256, 4_096], sample_size = CALLS)]
fn overwrite_a_key(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let mut store = full(value_bytes);
    let mut numbers = Numbers(3);
    bencher
        .with_inputs(|| put(numbers.next(KEYS), value_bytes))
        .bench_local_values(|command| apply(&mut store, command));
}

/// One key of all is deleted and put again.
#[divan::bench(sample_size = CALLS)]
fn delete_a_key_and_put_it(bencher: Bencher<'_, '_>) {
    let mut store = full(256);
    let mut numbers = Numbers(4);
    bencher
        .with_inputs(|| {
            let number = numbers.next(KEYS);
            (KvCommand::delete(key(number)), put(number, 256))
        })
        .bench_local_values(|(delete, put)| (apply(&mut store, delete), apply(&mut store, put)));
}

#[divan::bench(sample_size = CALLS)]
fn get(bencher: Bencher<'_, '_>) {
    let store = full(256);
    let mut numbers = Numbers(5);
    bencher
        .with_inputs(|| key(numbers.next(KEYS)))
        .bench_local_refs(|key| store.get(key).unwrap().mod_revision);
}

#[divan::bench(sample_size = CALLS)]
fn get_at_the_oldest_revision(bencher: Bencher<'_, '_>) {
    let store = full(256);
    let oldest = store.oldest_revision();
    let mut numbers = Numbers(6);
    bencher
        .with_inputs(|| key(numbers.next(KEYS)))
        .bench_local_refs(|key| store.get_at(key, oldest).unwrap().unwrap().mod_revision);
}

/// The worst there is: every change of the history is one of the key.
#[divan::bench]
fn get_at_the_oldest_revision_of_one_key(bencher: Bencher<'_, '_>) {
    let mut store = KvStore::new();
    for _ in 0..2 * MAX_HISTORY_EVENTS {
        apply(&mut store, put(1, 16));
    }
    let oldest = store.oldest_revision();
    bencher.bench_local(|| {
        let entry = store.get_at("service/00000001", oldest).unwrap().unwrap();
        assert_eq!(entry.mod_revision, black_box(oldest));
    });
}

/// A page of 1,000 keys as they were when the history begins.
#[divan::bench]
fn range_at_the_oldest_revision(bencher: Bencher<'_, '_>) {
    let store = full(256);
    let oldest = store.oldest_revision();
    let range = KeyRange::starting_at(key(50_000));
    bencher.bench_local(|| store.range_at(&range, oldest).unwrap().take(1_000).count());
}

/// A watch of everything catches up.
#[divan::bench]
fn changes_of_1024_revisions(bencher: Bencher<'_, '_>) {
    let store = full(256);
    let from = store.revision() - u64::from(BEHIND) + 1;
    let range = KeyRange::all();
    bencher.bench_local(|| {
        let changes = store.changes(&range, from, BEHIND as usize).unwrap();
        assert_eq!(changes.events.len(), BEHIND as usize);
        changes
    });
}

/// What a snapshot costs those who write: so many puts after it are each the first of their place.
#[divan::bench(args = [0, 1, 100], sample_size = 16)]
fn clone_and_put(bencher: Bencher<'_, '_>, puts: usize) {
    let mut store = full(256);
    let mut numbers = Numbers(7);
    bencher
        .with_inputs(|| -> Vec<KvCommand> { (0..puts).map(|_| put(numbers.next(KEYS), 256)).collect() })
        .bench_local_values(|commands| {
            let snapshot = store.clone();
            for command in commands {
                apply(&mut store, command);
            }
            snapshot
        });
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn encode(bencher: Bencher<'_, '_>) {
    let store = full(256);
    bencher.bench_local(|| KvStore::encode_snapshot(&store, &mut std::io::sink()).unwrap());
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn decode(bencher: Bencher<'_, '_>) {
    let mut bytes = Vec::new();
    KvStore::encode_snapshot(&full(256), &mut bytes).unwrap();
    bencher.bench_local(|| KvStore::decode_snapshot(&mut &bytes[..]).unwrap());
}
