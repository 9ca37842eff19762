//! Snapshots that are restored beside a state in use.

use std::{
    io::{Read, Write},
    sync::{
        Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::FutureExt;

use super::*;
use crate::types::log_id;

const RULE: SnapshotRule = SnapshotRule::Entries(1);

/// A number, and who is told when the last that shares it is dropped.
#[derive(Default)]
struct Part {
    number: u64,
    dropped: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(dropped) = &self.dropped {
            dropped();
        }
    }
}

#[derive(Default)]
struct Shares(Arc<Part>);

impl StateMachine for Shares {
    type Command = ();
    type Response = ();
    type Snapshot = Arc<Part>;
    fn apply(&mut self, _ctx: &ApplyCtx, (): ()) {}
    fn snapshot(&self) -> Arc<Part> {
        Arc::clone(&self.0)
    }
    fn encode_snapshot(part: &Arc<Part>, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&part.number.to_le_bytes())
    }
    fn decode_snapshot(input: &mut dyn Read) -> io::Result<Arc<Part>> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        let number = u64::from_le_bytes(bytes);
        assert!(number != u64::MAX, "it may not be so large");
        Ok(Arc::new(Part {
            number,
            dropped: None,
        }))
    }
    fn restore(&mut self, part: Arc<Part>) {
        assert!(part.number != u64::MAX - 1, "nor replace a state");
        self.0 = part;
    }
}

/// A snapshot of `number`, taken at this index.
fn snapshot(number: u64) -> (SnapshotMeta, SnapshotData) {
    let mut bytes = Vec::new();
    System::default().encode(&mut bytes).unwrap();
    bytes.extend(number.to_le_bytes());
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(1, number)),
        ..SnapshotMeta::default()
    };
    (meta, SnapshotData::Memory(bytes.into()))
}

fn shared(part: Part) -> Arc<Shared<Shares>> {
    Arc::new(Shared::new(Shares(Arc::new(part)), Features::default(), RULE))
}

fn number(shared: &Shared<Shares>) -> (u64, Option<u64>) {
    shared.read(|state| state.0.number).now_or_never().unwrap()
}

fn restore(shared: &Shared<Shares>, number: u64) -> io::Result<bool> {
    let (meta, data) = snapshot(number);
    let decoded = shared.decode(&meta, &data)?;
    let is_new = decoded.is_some();
    decoded.map_or(Ok(()), |decoded| shared.restore(&meta, decoded, data.len()))?;
    Ok(is_new)
}

#[test]
fn what_the_state_has_come_past_meanwhile_does_not_take_it_back() {
    let shared = shared(Part::default());
    let (meta, data) = snapshot(5);
    let older = shared.decode(&meta, &data).unwrap().unwrap();
    assert!(restore(&shared, 7).unwrap());
    shared.restore(&meta, older, data.len()).unwrap();
    assert_eq!(number(&shared), (7, Some(7)));
    assert_eq!(shared.applied_index(), Some(7));
    assert!(!restore(&shared, 7).unwrap(), "it is not even read");
    assert!(restore(&shared, 8).unwrap());
}

#[test]
fn a_snapshot_that_cannot_be_read_changes_nothing() {
    let shared = shared(Part::default());
    restore(&shared, 5).unwrap();
    let (_, whole) = snapshot(9);
    let (meta, _) = snapshot(6);
    for len in 0..whole.len() {
        let len = usize::try_from(len).unwrap();
        let cut = SnapshotData::Memory(whole.read_transfer(0, len).unwrap());
        assert!(shared.decode(&meta, &cut).is_err(), "cut at {len}");
    }
    let panicked = restore(&shared, u64::MAX).unwrap_err().to_string();
    assert!(
        panicked.contains("cannot be restored") && panicked.contains("may not be so large"),
        "{panicked}"
    );
    assert_eq!(number(&shared), (5, Some(5)));
    // Nothing of it is left that could be in the way of the next.
    assert!(restore(&shared, 6).unwrap());
    let panicked = restore(&shared, u64::MAX - 1).unwrap_err().to_string();
    assert!(panicked.contains("nor replace a state"), "{panicked}");
}

#[test]
fn the_replaced_state_is_dropped_when_readers_wait_no_more() {
    let seen = Arc::new(AtomicBool::new(false));
    let (told, shared) = (
        Arc::clone(&seen),
        Arc::new_cyclic(|shared: &Weak<Shared<Shares>>| {
            let (shared, seen) = (Weak::clone(shared), Arc::clone(&seen));
            let dropped = move || {
                let readable = shared
                    .upgrade()
                    .is_some_and(|shared| shared.state.try_read().is_ok());
                seen.store(readable, Ordering::Relaxed);
            };
            let part = Part {
                number: 1,
                dropped: Some(Box::new(dropped)),
            };
            Shared::new(Shares(Arc::new(part)), Features::default(), RULE)
        }),
    );
    restore(&shared, 5).unwrap();
    assert!(
        told.load(Ordering::Relaxed),
        "it was not, or while the state was locked"
    );
}
