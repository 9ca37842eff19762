//! Snapshots that are damaged, or made to do harm.

use proptest::prelude::*;

use super::{
    super::{decode::decode, history::Limits},
    *,
};
use crate::records::{write_record, write_u64};

fn restored(bytes: &[u8]) -> io::Result<KvStore> {
    KvStore::decode_snapshot(&mut &bytes[..])
}

#[test]
fn damaged_snapshots_are_errors() {
    let mut store = KvStore::new();
    let lease = grant(&mut store, 1_000);
    for value in ["1", "2"] {
        apply(&mut store, KvCommand::put_for("a", value, Lifetime::Lease(lease)));
    }
    let bytes = encoded(&store);
    for len in 0..bytes.len() {
        assert!(restored(&bytes[..len]).is_err(), "cut at {len}");
    }
    assert!(restored(&[9; 32]).is_err());
    let without_lease = KvStore {
        leases: Leases::default(),
        ..store.clone()
    };
    let error = restored(&encoded(&without_lease));
    assert!(error.unwrap_err().to_string().contains("does not exist"));
    let early = KvStore { revision: 1, ..store };
    assert!(restored(&encoded(&early)).is_err());
}

/// Revision of creation and of the last change, and version.
type Numbers = (u64, u64, u64);

type Changes = Vec<(&'static str, Option<Numbers>)>;

/// A snapshot of one key, "k", beside what its history says of it.
#[derive(Clone)]
struct Forged {
    revision: u64,
    oldest: u64,
    granted: u64,
    now: Option<Numbers>,
    /// By revision: what it replaced.
    history: Vec<Changes>,
}

impl Forged {
    fn restored(&self) -> io::Result<KvStore> {
        let entry = |(create_revision, mod_revision, version)| KvEntry {
            value: "v".into(),
            create_revision,
            mod_revision,
            version,
            lease: None,
        };
        let mut out = vec![0];
        for number in [
            self.revision,
            self.oldest,
            self.granted,
            0,
            u64::from(self.now.is_some()),
        ] {
            write_u64(&mut out, number)?;
        }
        if let Some(now) = self.now {
            write_record(&mut out, &("k", entry(now)))?;
        }
        for changes in &self.history {
            write_u64(&mut out, changes.len() as u64)?;
            for (key, previous) in changes {
                write_record(&mut out, &(key, previous.map(entry)))?;
            }
        }
        restored(&out)
    }
}

#[test]
fn a_history_whose_changes_do_not_follow_from_one_another_is_an_error() {
    // Put at 1, forgotten; put at 2, removed at 3, put at 4.
    let right = Forged {
        revision: 4,
        oldest: 1,
        granted: 0,
        now: Some((4, 4, 1)),
        history: vec![
            vec![("k", Some((1, 1, 1)))],
            vec![("k", Some((1, 2, 2)))],
            vec![("k", None)],
        ],
    };
    let store = right.restored().unwrap();
    let at = |revision| {
        store
            .get_at("k", revision)
            .unwrap()
            .map(|entry| entry.mod_revision)
    };
    assert_eq!([1, 2, 3, 4].map(at), [Some(1), Some(2), None, Some(4)]);
    let check = |what: &str, part: &str, damage: fn(&mut Forged)| {
        let mut forged = right.clone();
        damage(&mut forged);
        let error = forged.restored().expect_err(what).to_string();
        assert!(error.contains(part), "{what}: {error}");
    };
    let (order, chain, trace, entry) = ("order", "follow", "trace", "cannot be");
    check("a change replaces itself", entry, |it| {
        it.history[1][0].1 = Some((1, 3, 2))
    });
    check("a change is left out", chain, |it| {
        it.history[1][0].1 = Some((1, 1, 1))
    });
    check("one replaces what the one before removed", chain, |it| {
        it.history[2][0].1 = Some((1, 1, 1));
    });
    check("the first replaces what is not remembered", trace, |it| {
        it.history[0][0].0 = "j"
    });
    check("a key of the map that was removed last", chain, |it| {
        it.now = Some((2, 2, 1))
    });
    check("a key that is not in the map was put last", chain, |it| {
        it.now = None
    });
    check("a change of nothing", chain, |it| it.history[2].push(("z", None)));
    check("a key that changed and has no change", trace, |it| {
        it.history = ["h", "i", "j"].map(|key| vec![(key, Some((1, 1, 1)))]).to_vec();
    });
    check("the same key twice", order, |it| it.history[0].push(("k", None)));
    check("a revision of no change", "nothing", |it| it.history[1].clear());
    check("a version that would not count on", entry, |it| {
        it.now = Some((4, 4, u64::MAX))
    });
    check("a version of nothing", entry, |it| it.now = Some((4, 4, 0)));
    check("a creation after the change", entry, |it| {
        it.now = Some((5, 4, 1))
    });
    check("no creation", entry, |it| it.now = Some((0, 4, 1)));
    check("a key of the future", entry, |it| it.now = Some((5, 5, 1)));
    check("the future is the oldest", "oldest", |it| it.oldest = 5);
    check("revisions that would not count on", "there can be", |it| {
        it.revision = u64::MAX
    });
    check("leases that would not count on", "there can be", |it| {
        it.granted = u64::MAX
    });
}

#[test]
fn a_snapshot_of_a_longer_history_is_cut_to_the_limits_while_it_is_read() {
    let mut store = KvStore::new();
    for i in 0..100 {
        apply(&mut store, KvCommand::put(format!("{}", i % 9), vec![0; i]));
    }
    apply(
        &mut store,
        KvCommand::DeleteRange {
            range: KeyRange::prefix("1"),
        },
    );
    let bytes = encoded(&store);
    for changes in [0, 1, 7] {
        let limits = Limits {
            changes,
            bytes: 1_500,
        };
        let cut = decode(&mut &bytes[..], limits).unwrap();
        let oldest = cut.oldest_revision();
        assert_eq!(oldest, store.revision() - changes.min(5) as u64);
        for revision in oldest..=store.revision() {
            for key in ["1", "2", "8"] {
                assert_eq!(
                    cut.get_at(key, revision),
                    store.get_at(key, revision),
                    "{key} at {revision}"
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_an_error_or_a_store(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = restored(&bytes);
    }

    /// Whatever is accepted can be read at every revision, is a snapshot again, and can be written to.
    #[test]
    fn a_snapshot_with_some_bytes_changed_is_an_error_or_a_store(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut store = KvStore::new();
        for (key, value) in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("a", "3")] {
            apply(&mut store, KvCommand::put(key, value));
            apply(&mut store, KvCommand::delete("b"));
        }
        let mut bytes = encoded(&store);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(mut store) = restored(&bytes) {
            let all = KeyRange::all();
            for revision in store.oldest_revision()..=store.revision() {
                let then: Vec<_> = store.range_at(&all, revision).unwrap().collect();
                prop_assert!(then.iter().all(|(_, entry)| entry.mod_revision <= revision));
                for (key, entry) in then {
                    prop_assert_eq!(store.get_at(key, revision), Ok(Some(entry)));
                }
            }
            prop_assert_eq!(encoded(&restored(&encoded(&store)).unwrap()), encoded(&store));
            for key in ["a", "b", "c"] {
                apply(&mut store, KvCommand::put(key, "new"));
            }
            apply(&mut store, KvCommand::DeleteRange { range: all });
            prop_assert!(store.is_empty());
        }
    }
}
