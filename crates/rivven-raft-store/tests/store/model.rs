//! The log as a map: what every store must amount to after any sequence of operations.

use std::{collections::BTreeMap, io};

use openraft::{RaftLogReader, storage::RaftLogStorage};
use proptest::prelude::*;
use rivven_raft_store::{LogOptions, MemLogStore};

use crate::{
    disk::Disk,
    support::{Entry, LogId, Random, Store, Types, Vote, append, entry, inline, log_id, threaded, vote},
};

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) entries: BTreeMap<u64, Entry>,
    pub(crate) purged: Option<LogId>,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Append(Vec<Entry>),
    TruncateAfter(Option<LogId>),
    Purge(LogId),
    Vote(Vote),
    Committed(Option<LogId>),
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.entries
            .values()
            .next_back()
            .map(|entry| entry.log_id)
            .or(self.purged)
    }

    pub(crate) fn apply(&mut self, step: &Step) {
        match step {
            Step::Append(entries) => {
                self.entries
                    .extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())));
            }
            Step::TruncateAfter(keep) => {
                self.entries
                    .retain(|index, _| keep.is_some_and(|keep| *index <= keep.index));
            }
            Step::Purge(upto) => {
                self.entries.retain(|index, _| *index > upto.index);
                if self.purged.is_none_or(|purged| purged.index < upto.index) {
                    self.purged = Some(*upto);
                }
            }
            Step::Vote(vote) => self.vote = Some(*vote),
            Step::Committed(id) => self.committed = *id,
        }
    }

    /// What a store contains.
    pub(crate) async fn of<S: RaftLogStorage<Types>>(store: &mut S) -> Self {
        let state = store.get_log_state().await.unwrap();
        let mut reader = store.get_log_reader().await;
        let entries = reader.try_get_log_entries(..).await.unwrap();
        let model = Self {
            entries: entries
                .into_iter()
                .map(|entry| (entry.log_id.index, entry))
                .collect(),
            purged: state.last_purged_log_id,
            vote: reader.read_vote().await.unwrap(),
            committed: store.read_committed().await.unwrap(),
        };
        assert_eq!(model.last(), state.last_log_id);
        model
    }

    pub(crate) fn without_committed(&self) -> Self {
        Self {
            committed: None,
            ..self.clone()
        }
    }
}

impl Step {
    /// A step that a Raft core could take in this state.
    pub(crate) fn random(random: &mut Random, model: &Model) -> Self {
        let last = model.last();
        let next = last.map_or(0, |id| id.index + 1);
        let term = model.vote.map_or(1, |vote| vote.leader_id.term);
        let some_entry = |random: &mut Random| {
            let count = model.entries.len() as u64;
            let skip = usize::try_from(random.below(count.max(1))).unwrap();
            model.entries.values().nth(skip).map(|entry| entry.log_id)
        };
        match random.below(10) {
            0..=4 => Self::Append(
                (next..=next + random.below(8))
                    .map(|index| entry(term, index))
                    .collect(),
            ),
            5 if random.below(4) == 0 && model.purged.is_none() => Self::TruncateAfter(None),
            5 => Self::TruncateAfter(some_entry(random).or(model.purged)),
            6 => match some_entry(random) {
                Some(upto) => Self::Purge(upto),
                // A snapshot of the leader was installed: the log begins behind it.
                None => Self::Purge(log_id(term, next + random.below(5))),
            },
            7 => match last {
                Some(_) if random.below(8) == 0 => Self::Committed(None),
                Some(last) => Self::Committed(Some(last)),
                None => Self::Vote(vote(term)),
            },
            _ => Self::Vote(vote(term + 1)),
        }
    }

    pub(crate) async fn run<S: RaftLogStorage<Types>>(&self, store: &mut S) -> io::Result<()> {
        match self {
            Self::Append(entries) => append(store, entries.clone()).await,
            Self::TruncateAfter(keep) => store.truncate_after(*keep).await,
            Self::Purge(upto) => store.purge(*upto).await,
            Self::Vote(vote) => store.save_vote(vote).await,
            Self::Committed(id) => store.save_committed(*id).await,
        }
    }
}

async fn follow<S: RaftLogStorage<Types>>(store: &mut S, model: &mut Model, random: &mut Random, steps: u64) {
    for _ in 0..steps {
        let step = Step::random(random, model);
        step.run(store).await.unwrap();
        model.apply(&step);
        let start = random.below(40);
        let end = start + random.below(40);
        let read = store
            .get_log_reader()
            .await
            .try_get_log_entries(start..end)
            .await
            .unwrap();
        let expected: Vec<Entry> = model
            .entries
            .range(start..end)
            .map(|(_, entry)| entry.clone())
            .collect();
        assert_eq!(read, expected, "after {step:?}");
        assert_eq!(Model::of(store).await, *model, "after {step:?}");
    }
}

async fn compare(seed: u64, options: LogOptions) {
    let mut random = Random(seed);
    let mut model = Model::default();
    let disk = Disk::default();
    for _ in 0..4 {
        let mut store = Store::open_with_backend(disk.clone(), "disk", options.clone()).unwrap();
        assert_eq!(Model::of(&mut store).await, model, "after reopening");
        let steps = random.below(25);
        follow(&mut store, &mut model, &mut random, steps).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_store_is_the_map_it_stands_for(seed: u64, tail_bytes in 0_usize..4000) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            compare(seed, LogOptions { tail_bytes, ..inline() }).await;
            compare(seed, LogOptions { tail_bytes, ..threaded() }).await;
            follow(&mut MemLogStore::new(), &mut Model::default(), &mut Random(seed), 50).await;
        });
    }
}
