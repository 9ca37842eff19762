//! `KvStore` against a model that keeps a whole copy of the map for every revision.

mod steps;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use self::steps::{Step, limits, range, step};
use super::{
    super::{decode::decode, history::Limits, *},
    apply_at, encoded,
};

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap()
}

type Map = BTreeMap<String, KvEntry>;

#[derive(Clone, Copy, Debug)]
struct ModelLease {
    ttl_ms: u64,
    at_ms: Option<u64>,
    of_key: bool,
}

/// The map at each revision, from `base` on.
#[derive(Debug)]
struct Model {
    base: u64,
    maps: Vec<Map>,
    limits: Limits,
    oldest: u64,
    leases: BTreeMap<u64, ModelLease>,
    granted: u64,
}

fn store_with(limits: Limits) -> KvStore {
    let history = History::starting_at(0, limits);
    KvStore {
        history,
        ..KvStore::new()
    }
}

fn refused(code: &str) -> KvResponse {
    KvResponse::Refused(Refusal::new(code, ""))
}

impl Model {
    fn new(limits: Limits) -> Self {
        Self {
            base: 0,
            limits,
            maps: vec![Map::new()],
            oldest: 0,
            leases: BTreeMap::new(),
            granted: 0,
        }
    }

    fn revision(&self) -> u64 {
        self.base + self.maps.len() as u64 - 1
    }

    fn at(&self, revision: u64) -> &Map {
        &self.maps[usize::try_from(revision - self.base).unwrap()]
    }

    fn now(&self) -> &Map {
        self.maps.last().unwrap()
    }

    /// Ends a revision if the map differs, and a key's own lease with the key.
    fn commit(&mut self, map: Map) -> u64 {
        if map != *self.now() {
            self.maps.push(map);
        }
        let map = self.maps.last().unwrap();
        let used = |id: u64| map.values().any(|entry| entry.lease == Some(LeaseId(id)));
        self.leases.retain(|id, lease| !lease.of_key || used(*id));
        self.forget();
        self.revision()
    }

    /// Forgets whole revisions until the limits are kept.
    fn forget(&mut self) {
        let bytes = |event: &KvEvent| {
            let value = event.previous.as_ref().map_or(0, |entry| entry.value.len());
            let removal = if event.entry.is_none() { 64 } else { 0 };
            event.key.len() + value + removal + 160
        };
        let mut events = self.events(&KeyRange::all(), self.oldest + 1);
        let within = |events: &[KvEvent], limits: Limits| {
            events.len() <= limits.changes && events.iter().map(bytes).sum::<usize>() <= limits.bytes
        };
        while !within(&events, self.limits) {
            self.oldest += 1;
            events.retain(|event| event.revision > self.oldest);
        }
    }

    fn refound(&mut self) {
        self.base = self.revision() + REFOUNDING_GAP;
        self.maps = vec![self.now().clone()];
        self.oldest = self.base;
        self.granted += REFOUNDING_GAP;
    }

    fn usable(&self, lifetime: Lifetime) -> bool {
        match lifetime {
            Lifetime::Lease(id) => self.leases.get(&id.0).is_some_and(|lease| !lease.of_key),
            Lifetime::Unlimited | Lifetime::Ttl(_) => true,
        }
    }

    fn put(&mut self, map: &mut Map, key: &str, value: Bytes, lifetime: Lifetime) -> KvOpResult {
        let revision = self.revision() + 1;
        let lease = match lifetime {
            Lifetime::Unlimited => None,
            Lifetime::Lease(id) => Some(id),
            Lifetime::Ttl(ttl_ms) => {
                self.granted += 1;
                let (at_ms, of_key) = (None, true);
                self.leases.insert(
                    self.granted,
                    ModelLease {
                        ttl_ms,
                        at_ms,
                        of_key,
                    },
                );
                Some(LeaseId(self.granted))
            }
        };
        let old = map.get(key);
        let again = old.is_some_and(|old| old.mod_revision == revision);
        let entry = KvEntry {
            value,
            create_revision: old.map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: old.map_or(0, |old| old.version) + u64::from(!again),
            lease,
        };
        let previous = map.insert(key.to_owned(), entry).map(|old| old.mod_revision);
        KvOpResult::Written { previous, lease }
    }

    fn op(&mut self, map: &mut Map, op: KvOp) -> KvOpResult {
        let more = false;
        match op {
            KvOp::Put { key, value, lifetime } => self.put(map, &key, value, lifetime),
            KvOp::Delete { key } => {
                let deleted = u32::from(map.remove(&key).is_some());
                KvOpResult::Deleted { deleted, more }
            }
            KvOp::DeleteRange { range } => {
                let before = map.len();
                map.retain(|key, _| !range.contains(key));
                let deleted = number(before - map.len());
                KvOpResult::Deleted { deleted, more }
            }
            KvOp::Range { range, limit } => {
                let inside = map.iter().filter(|(key, _)| range.contains(key));
                let mut entries: Vec<_> = inside.map(|(key, entry)| (key.clone(), entry.clone())).collect();
                let more = entries.len() > limit as usize;
                entries.truncate(limit as usize);
                KvOpResult::Range { entries, more }
            }
        }
    }

    /// One operation as a command of its own.
    fn single(&mut self, op: KvOp) -> KvResponse {
        let delete = matches!(op, KvOp::Delete { .. });
        let previous = match &op {
            KvOp::Delete { key } => self.now().get(key).map(|old| old.mod_revision),
            _ => None,
        };
        match &op {
            KvOp::Put { lifetime, .. } if !self.usable(*lifetime) => return refused("lease-not-found"),
            _ => {}
        }
        let mut map = self.now().clone();
        let result = self.op(&mut map, op);
        let revision = self.commit(map);
        match result {
            KvOpResult::Written { previous, lease } => KvResponse::Written {
                revision,
                previous,
                lease,
            },
            KvOpResult::Deleted { .. } if delete => KvResponse::Deleted { revision, previous },
            KvOpResult::Deleted { deleted, more } => KvResponse::DeletedRange {
                revision,
                deleted,
                more,
            },
            KvOpResult::Range { .. } => unreachable!("not a command"),
        }
    }

    fn holds(&self, compare: &KvCompare) -> bool {
        let entry = self.now().get(&compare.key);
        match &compare.target {
            CompareTarget::Exists(exists) => entry.is_some() == *exists,
            CompareTarget::Value(Comparison::Less, value) => entry.is_some_and(|entry| entry.value < value),
            CompareTarget::Version(Comparison::Greater, to) => entry.map_or(0, |entry| entry.version) > *to,
            CompareTarget::ModRevision(Comparison::Equal, to) => {
                entry.map_or(0, |entry| entry.mod_revision) == *to
            }
            CompareTarget::CreateRevision(Comparison::NotEqual, to) => {
                entry.map_or(0, |entry| entry.create_revision) != *to
            }
            other => unreachable!("not generated: {other:?}"),
        }
    }

    fn txn(&mut self, txn: KvTxn) -> KvResponse {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { txn.then } else { txn.otherwise };
        for op in &ops {
            if matches!(op, KvOp::Put { lifetime, .. } if !self.usable(*lifetime)) {
                return refused("lease-not-found");
            }
        }
        let mut map = self.now().clone();
        let results = ops.into_iter().map(|op| self.op(&mut map, op)).collect();
        let revision = self.commit(map);
        KvResponse::Txn {
            revision,
            succeeded,
            results,
        }
    }

    fn end(&mut self, ended: &[u64]) -> KvResponse {
        let mut map = self.now().clone();
        let before = map.len();
        map.retain(|_, entry| entry.lease.is_none_or(|lease| !ended.contains(&lease.0)));
        self.leases.retain(|id, _| !ended.contains(id));
        let deleted = number(before - map.len());
        let (revision, more) = (self.commit(map), false);
        KvResponse::DeletedRange {
            revision,
            deleted,
            more,
        }
    }

    fn apply(&mut self, command: KvCommand) -> KvResponse {
        match command {
            KvCommand::Put { key, value, lifetime } => self.single(KvOp::Put { key, value, lifetime }),
            KvCommand::Delete { key } => self.single(KvOp::Delete { key }),
            KvCommand::Cas {
                key,
                expected,
                value,
                lifetime,
            } => {
                let current = self.now().get(&key).map(|entry| entry.mod_revision);
                match value {
                    _ if current != expected => KvResponse::Conflict { current },
                    Some(value) => self.single(KvOp::Put { key, value, lifetime }),
                    None => self.single(KvOp::Delete { key }),
                }
            }
            KvCommand::DeleteRange { range } => self.single(KvOp::DeleteRange { range }),
            KvCommand::Txn(txn) => self.txn(txn),
            KvCommand::GrantLease { ttl_ms } => {
                self.granted += 1;
                let (at_ms, of_key) = (None, false);
                self.leases.insert(
                    self.granted,
                    ModelLease {
                        ttl_ms,
                        at_ms,
                        of_key,
                    },
                );
                let lease = LeaseId(self.granted);
                KvResponse::Leased { lease, ttl_ms }
            }
            KvCommand::RenewLease { lease } => match self.leases.get_mut(&lease.0) {
                Some(found) => {
                    found.at_ms = None;
                    let ttl_ms = found.ttl_ms;
                    KvResponse::Leased { lease, ttl_ms }
                }
                None => refused("lease-not-found"),
            },
            KvCommand::RevokeLease { lease } if self.leases.contains_key(&lease.0) => self.end(&[lease.0]),
            KvCommand::RevokeLease { .. } => refused("lease-not-found"),
            KvCommand::Compact { revision } if revision > self.revision() => refused("future-revision"),
            KvCommand::Compact { revision } => {
                self.oldest = self.oldest.max(revision);
                let oldest = self.oldest;
                KvResponse::Compacted { oldest }
            }
        }
    }

    fn tick(&mut self, now_ms: u64) {
        let due = |lease: &ModelLease| lease.at_ms.is_some_and(|end| end <= now_ms);
        let ended: Vec<u64> = self
            .leases
            .iter()
            .filter(|(_, lease)| due(lease))
            .map(|(id, _)| *id)
            .collect();
        self.end(&ended);
        for lease in self.leases.values_mut() {
            lease.at_ms.get_or_insert(now_ms + lease.ttl_ms);
        }
    }

    /// What changed from revision `from` on.
    fn events(&self, range: &KeyRange, from: u64) -> Vec<KvEvent> {
        let mut events = Vec::new();
        for revision in from..=self.revision() {
            let (before, after) = (self.at(revision - 1), self.at(revision));
            let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
            keys.sort();
            keys.dedup();
            keys.retain(|key| before.get(*key) != after.get(*key) && range.contains(key));
            events.extend(keys.into_iter().map(|key| KvEvent {
                revision,
                key: key.clone(),
                entry: after.get(key).cloned(),
                previous: before.get(key).cloned(),
            }));
        }
        events
    }

    /// Compares everything that can be read, at `revision` where the past is concerned.
    fn check(&self, store: &KvStore, range: &KeyRange, revision: u64) {
        assert_eq!(
            (store.revision(), store.oldest_revision()),
            (self.revision(), self.oldest)
        );
        assert_eq!(
            (store.len(), store.leases()),
            (self.now().len(), self.leases.len())
        );
        let owned = |(key, entry): (&str, &KvEntry)| (key.to_owned(), entry.clone());
        assert!(store.range_from("").map(owned).eq(self.now().clone()));
        for (id, lease) in &self.leases {
            let found = store.lease(LeaseId(*id)).unwrap();
            assert_eq!(
                (found.ttl_ms, found.ends_at_ms),
                (lease.ttl_ms, lease.at_ms),
                "lease {id}"
            );
            let keys = self
                .now()
                .values()
                .filter(|entry| entry.lease == Some(LeaseId(*id)));
            assert_eq!(found.keys, keys.count(), "keys of lease {id}");
        }
        if revision < self.oldest {
            let oldest = self.oldest;
            assert_eq!(
                store.get_at("a", revision),
                Err(KvReadError::Compacted { oldest })
            );
            assert_eq!(
                store.changes(range, revision, 1),
                Err(KvReadError::Compacted { oldest })
            );
            return;
        }
        let then = self.at(revision);
        let inside = then.iter().filter(|(key, _)| range.contains(key));
        let inside: Vec<_> = inside.map(|(key, entry)| (key.clone(), entry.clone())).collect();
        let read: Vec<_> = store.range_at(range, revision).unwrap().map(owned).collect();
        assert_eq!(read, inside, "{range:?} at {revision}");
        for key in ["a", "b", "ab"]
            .into_iter()
            .chain(then.keys().map(String::as_str))
        {
            assert_eq!(
                store.get_at(key, revision).unwrap(),
                then.get(key),
                "{key} at {revision}"
            );
        }
        let (mut events, mut next) = (Vec::new(), revision + 1);
        while next <= store.revision() {
            let changes = store.changes(range, next, 3).unwrap();
            assert!(changes.next > next, "a watch makes progress");
            events.extend(changes.events);
            next = changes.next;
        }
        assert_eq!(
            events,
            self.events(range, revision + 1),
            "{range:?} from {}",
            revision + 1
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    /// Proptest prints the steps that fail and keeps their seed in `proptest-regressions`.
    #[test]
    fn the_store_agrees_with_a_copy_per_revision(
        limits in limits(),
        steps in vec((step(), range(), any::<u16>()), 1..80),
    ) {
        let (mut store, mut model, mut now_ms) = (store_with(limits), Model::new(limits), 0);
        let mut clones = Vec::new();
        for (index, (step, range, past)) in (1..).zip(steps) {
            // What is checked at one revision after every step is checked at all after these.
            let at_all = !matches!(step, Step::Apply(_) | Step::Tick(_)) || index % 16 == 0;
            match step {
                Step::Apply(command) => {
                    let answer = apply_at(&mut store, index, now_ms, command.clone());
                    match (&answer, model.apply(command)) {
                        (KvResponse::Refused(found), KvResponse::Refused(expected)) => {
                            prop_assert_eq!(&found.code, &expected.code);
                        }
                        (found, expected) => prop_assert_eq!(found, &expected),
                    }
                }
                Step::Tick(passed) => {
                    now_ms += passed;
                    store.tick(&ApplyCtx::new(index, 1).at(now_ms));
                    model.tick(now_ms);
                }
                Step::Restore => {
                    let bytes = encoded(&store);
                    store = decode(&mut bytes.as_slice(), limits).unwrap();
                    prop_assert_eq!(encoded(&store), bytes);
                }
                Step::Clone => clones.push((store.clone(), encoded(&store))),
                Step::Refound => {
                    store.refounded(&ApplyCtx::new(index, 1));
                    model.refound();
                }
            }
            let first = model.base.max(model.oldest.saturating_sub(1));
            if at_all {
                (first..=model.revision()).for_each(|revision| model.check(&store, &range, revision));
            }
            let past = u64::from(past) % (model.revision() - model.base + 1);
            model.check(&store, &range, model.base + past);
        }
        for (clone, bytes) in clones {
            prop_assert_eq!(encoded(&clone), bytes);
        }
    }
}
