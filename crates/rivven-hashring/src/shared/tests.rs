//! The shared handle: snapshots stay, changes are whole, no change is lost.

use alloc::{format, string::ToString, vec::Vec};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::*;

#[test]
fn clones_share_the_ring_and_snapshots_keep_theirs() {
    let ring = HashRing::new(16);
    assert_eq!(ring.add_node("node1"), Ok(Generation(1)));
    let before = ring.snapshot();
    let owner = ring.get_partition_owner("orders", 0).unwrap();
    assert_eq!(ring.clone().add_node(&*format!("node{}", 2)), Ok(Generation(2)));
    assert_eq!((before.len(), ring.snapshot().len()), (1, 2));

    // The owner belongs to the snapshot that it was looked up in.
    assert_eq!(ring.remove_node("node1"), Ok(Generation(3)));
    assert_eq!(owner, "node1");
    assert_eq!((owner.to_string().as_str(), owner.len()), ("node1", 5));
    assert_eq!(owner.generation(), Generation(1));
    assert_eq!(ring.get_partition_owner("orders", 0).unwrap(), "node2");
}

#[test]
fn the_handle_answers_as_its_snapshot_does() {
    let ring = HashRing::new(16);
    let empty = ring.get_partition_owner("orders", 0).unwrap_err();
    assert_eq!(empty, RingError::EmptyRing);
    for i in 0..5 {
        ring.add_node(format!("node{i}")).unwrap();
    }
    let snapshot = ring.snapshot();
    for partition in 0..100 {
        let owner = ring.get_partition_owner("orders", partition).unwrap();
        assert_eq!(owner.name(), snapshot.owner("orders", partition).unwrap());
    }
}

#[test]
fn a_reader_sees_every_change_at_its_next_look() {
    fn is_send<T: Send>(reader: T) -> T {
        reader
    }
    let ring = HashRing::new(16);
    let mut reader = is_send(ring.reader());
    assert_eq!(reader.owner("orders", 0), Err(RingError::EmptyRing));
    for i in 0..5 {
        ring.add_node(format!("node{i}")).unwrap();
        assert_eq!(reader.ring().generation(), ring.generation());
        for partition in 0..20 {
            let owner = ring.get_partition_owner("orders", partition).unwrap();
            assert_eq!(reader.owner("orders", partition).unwrap(), owner.name());
        }
    }
    let mut other = reader.clone();
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(other.ring().len(), 5));
    });
    drop(ring);
    assert_eq!(reader.ring().len(), 5, "it needs no handle to live on");
}

#[test]
fn a_failed_update_changes_nothing() {
    let ring = HashRing::new(16);
    ring.add_node("node1").unwrap();
    let refused = ring.update(|ring| {
        ring.add("node2")?;
        ring.add("node1")
    });
    assert_eq!(refused, Err(RingError::DuplicateNode { name: "node1".into() }));
    assert_eq!((ring.snapshot().len(), ring.generation()), (1, Generation(1)));
}

#[test]
fn writers_on_many_threads_lose_no_change() {
    let ring = HashRing::new(4);
    let names: Vec<_> = (0..4)
        .map(|thread| (0..8).map(move |i| format!("{thread}-{i}")))
        .collect();
    thread::scope(|scope| {
        for names in names {
            scope.spawn(|| {
                for name in names {
                    ring.add_node(name).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for partition in 0..1_000 {
                if let Ok(owner) = ring.get_partition_owner("orders", partition) {
                    assert!(!owner.is_empty());
                }
            }
        });
    });
    assert_eq!((ring.snapshot().len(), ring.generation()), (32, Generation(32)));
}

#[test]
fn a_change_made_during_another_one_is_not_lost() {
    let (ring, done) = (HashRing::new(4), AtomicBool::new(false));
    thread::scope(|scope| {
        let first = ring.update(|next| {
            scope.spawn(|| {
                ring.add_node("second").unwrap();
                done.store(true, Ordering::Release);
            });
            // Time for the second writer to get past this one, if it could.
            for _ in 0..1_000 {
                if done.load(Ordering::Acquire) {
                    break;
                }
                thread::yield_now();
            }
            next.add("first")
        });
        assert_eq!(first, Ok(Generation(1)));
    });
    assert_eq!(ring.snapshot().len(), 2);
}

#[test]
fn an_owner_may_cross_threads() {
    const fn crosses<T: Send + Sync>() {}
    crosses::<(Owner, HashRing)>();
}
