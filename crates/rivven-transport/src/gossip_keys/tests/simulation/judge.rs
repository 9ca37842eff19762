//! What a run is judged by, and whether it has been through enough for that to mean anything.

use std::{collections::BTreeMap, time::Duration};

use rivven_types::NodeId;
use tokio::time::Instant;

use super::{TICK, world::World};
use crate::{
    datagram::{KeyRing, RingVersion},
    gossip_keys::keeper::{CALL_TIMEOUT, FETCH_INTERVAL},
};

/// How old a controller's picture of who lives may be when it acts on it: two steps of one round, each
/// after offers, which take two round trips, and a confirmation.
const PICTURE_AGE: Duration = Duration::from_secs(2);

/// How long newer keys take over one link, at most.
///
/// Whoever cannot read a datagram asks three of its peers, and may just have begun to ask somebody else: one
/// attempt under way, one with the right peer left out, one that succeeds. Each takes a call that times out
/// and the wait after it.
const HOP: Duration = CALL_TIMEOUT.saturating_add(FETCH_INTERVAL).saturating_mul(3);

/// What one run has been through.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) cuts: u64,
    pub(super) splits: u64,
    pub(super) crashes: u64,
    pub(super) blackouts: u64,
    pub(super) elections: u64,
    /// Elections while an earlier controller went on.
    pub(super) overlaps: u64,
    /// Nodes that came back two keys or more behind.
    pub(super) long_absent: u64,
    /// Those of them that caught up while nobody led.
    pub(super) alone: u64,
    /// Keys that came into use.
    pub(super) keys: u64,
    /// Datagrams understood.
    pub(super) understood: u64,
    /// Datagrams understood between nodes with different rings, where misunderstanding is never excused.
    pub(super) mixed: u64,
    /// Datagrams misunderstood, with an excuse.
    pub(super) excused: u64,
}

impl Tally {
    /// A run in which nothing happened proves nothing.
    pub(super) fn check(&self) -> Result<(), String> {
        let least = [
            ("cuts", self.cuts, 10),
            ("splits", self.splits, 3),
            ("crashes", self.crashes, 3),
            ("blackouts", self.blackouts, 1),
            ("elections", self.elections, 10),
            ("overlaps", self.overlaps, 5),
            ("long absent", self.long_absent, 3),
            ("caught up alone", self.alone, 3),
            ("keys", self.keys, 8),
            ("understood", self.understood, 10_000),
            ("mixed", self.mixed, 20),
        ];
        for (what, count, least) in least {
            if count < least {
                return Err(format!(
                    "too little happened: {what} {count}, not {least}: {self:?}"
                ));
            }
        }
        Ok(())
    }
}

/// Watches a run and says when a promise is broken.
pub(super) struct Judge {
    pub(super) tally: Tally,
    start: Instant,
    /// When the first key was made; everybody is mute before.
    founded: Option<Instant>,
    /// The ring each node was last seen with.
    seen: BTreeMap<NodeId, RingVersion>,
    /// The key that anybody has ever sealed under, by number.
    keys: BTreeMap<u64, String>,
}

impl Judge {
    pub(super) fn new() -> Self {
        Self {
            tally: Tally::default(),
            start: Instant::now(),
            founded: None,
            seen: BTreeMap::new(),
            keys: BTreeMap::new(),
        }
    }

    /// Two keys never come into use under one number.
    pub(super) fn sees_ring(&mut self, node: NodeId, ring: &KeyRing) -> Result<(), String> {
        self.founded.get_or_insert_with(Instant::now);
        if self.seen.insert(node, ring.version()) == Some(ring.version()) {
            return Ok(());
        }
        let epoch = ring.current().epoch();
        let text = ring.to_text();
        let line = text.lines().find(|line| line.starts_with("current ")).unwrap();
        let known = self.keys.entry(epoch).or_insert_with(|| line.into());
        if known.as_str() == line {
            self.tally.keys = u64::try_from(self.keys.len()).unwrap();
            return Ok(());
        }
        Err(format!(
            "{node} seals under another key of number {epoch} at {:?}",
            self.start.elapsed()
        ))
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        self.seen.remove(&node);
    }

    /// Two nodes that reach each other understand each other, unless one of them has had new company so
    /// recently that it can not have caught up.
    ///
    /// A node that has been in touch with the same others all along, even if over many links, has no excuse:
    /// no key comes into use before it has it.
    pub(super) fn hears(
        &mut self,
        world: &World,
        (from, to): (NodeId, NodeId),
        understood: bool,
        mixed: bool,
    ) -> Result<(), String> {
        let settled = world.settled(from).max(world.settled(to));
        let since = self.founded.map_or(settled, |founded| founded.max(settled));
        let (_, links) = world.reached_from(from);
        let excused = since.elapsed() <= PICTURE_AGE + TICK + HOP * links;
        match (understood, excused) {
            (true, excused) => {
                self.tally.understood += 1;
                self.tally.mixed += u64::from(mixed && !excused);
                Ok(())
            }
            (false, true) => {
                self.tally.excused += 1;
                Ok(())
            }
            (false, false) => Err(format!(
                "{to} does not understand {from} at {:?}, {:?} after either got new company",
                self.start.elapsed(),
                since.elapsed()
            )),
        }
    }
}
