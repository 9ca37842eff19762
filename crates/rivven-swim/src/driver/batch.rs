//! Changes of the membership in batches: what was true only for a moment is left out.

use std::{collections::BTreeMap, time::Duration, vec::Vec};

use rivven_types::{BootEpoch, NodeId};
use tokio::time::{Instant, timeout_at};

use super::MemberEvents;
use crate::{Health, MemberEvent, MemberState, MemberView};

/// How long changes are collected, from the first on.
pub(super) const BATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Changes in the membership for those who do something costly at each, such as rebuilding a ring. Made by
/// [`SwimNode::batches`](crate::SwimNode::batches).
#[derive(Debug)]
pub struct MemberBatches {
    events: MemberEvents,
    folder: Folder,
}

impl MemberBatches {
    pub(super) fn new(events: MemberEvents, members: &[MemberView]) -> Self {
        let folder = Folder::new(members);
        Self { events, folder }
    }

    /// What has changed within 250 ms from the first change on, at most one event for each member; `None` once
    /// the member is shut down and all has been read.
    ///
    /// A suspicion that was contradicted within that time does not show. Cancel safe: what was collected comes
    /// with the next call.
    pub async fn next(&mut self) -> Option<Vec<MemberEvent>> {
        loop {
            if self.folder.is_empty() {
                let first = self.events.next().await?;
                self.folder.take(first, Instant::now());
            }
            let until = self.folder.begun + BATCH_INTERVAL;
            while let Ok(Some(event)) = timeout_at(until, self.events.next()).await {
                self.folder.take(event, until);
            }
            let batch = self.folder.finish();
            if !batch.is_empty() {
                return Some(batch);
            }
        }
    }
}

/// What a consumer has been told of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    boot_epoch: BootEpoch,
    state: MemberState,
    confirmed: bool,
    health: Health,
    addr: std::net::SocketAddr,
    meta: Vec<u8>,
}

impl Known {
    fn of(view: &MemberView) -> Self {
        Self {
            boot_epoch: view.boot_epoch,
            state: view.state,
            confirmed: view.confirmed,
            health: view.health,
            addr: view.addr,
            meta: view.meta.clone(),
        }
    }
}

/// Folds events: the last word about each member counts, and only if it differs from the last one told.
#[derive(Debug)]
struct Folder {
    told: BTreeMap<NodeId, Known>,
    latest: BTreeMap<NodeId, MemberEvent>,
    /// What is about no member in particular, or about this node itself.
    others: Vec<MemberEvent>,
    begun: Instant,
}

/// Most events of [`Folder::others`] in a batch; the machine itself reports each problem once a minute.
const MAX_OTHERS: usize = 1_024;

impl Folder {
    fn new(members: &[MemberView]) -> Self {
        Self {
            told: members.iter().map(|view| (view.node, Known::of(view))).collect(),
            latest: BTreeMap::new(),
            others: Vec::new(),
            begun: Instant::now(),
        }
    }

    fn is_empty(&self) -> bool {
        self.latest.is_empty() && self.others.is_empty()
    }

    fn take(&mut self, event: MemberEvent, now: Instant) {
        if self.is_empty() {
            self.begun = now;
        }
        match subject(&event) {
            Some(node) => {
                self.latest.insert(node, event);
            }
            None if self.others.len() < MAX_OTHERS => self.others.push(event),
            None => {}
        }
    }

    fn finish(&mut self) -> Vec<MemberEvent> {
        let mut batch = std::mem::take(&mut self.others);
        for (node, event) in std::mem::take(&mut self.latest) {
            let known = view(&event).map(Known::of);
            if known.as_ref() != self.told.get(&node) {
                batch.push(event);
            }
            match known {
                Some(known) => self.told.insert(node, known),
                None => self.told.remove(&node),
            };
        }
        batch
    }
}

const fn view(event: &MemberEvent) -> Option<&MemberView> {
    match event {
        MemberEvent::Alive(view)
        | MemberEvent::Updated(view)
        | MemberEvent::Degraded(view)
        | MemberEvent::Recovered(view)
        | MemberEvent::Suspect(view)
        | MemberEvent::Confirmed(view)
        | MemberEvent::Dead(view)
        | MemberEvent::Left(view) => Some(view),
        MemberEvent::Forgotten(_)
        | MemberEvent::Conflict { .. }
        | MemberEvent::Superseded { .. }
        | MemberEvent::Missed { .. } => None,
    }
}

const fn subject(event: &MemberEvent) -> Option<NodeId> {
    match event {
        MemberEvent::Forgotten(node) => Some(*node),
        _ => match view(event) {
            Some(view) => Some(view.node),
            None => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use rivven_types::InstanceId;

    use super::*;
    use crate::Incarnation;

    fn member(node: NodeId, epoch: u64, state: MemberState) -> MemberView {
        MemberView {
            node,
            instance: InstanceId::from_bytes([1; 16]),
            boot_epoch: BootEpoch(epoch),
            incarnation: Incarnation::first(BootEpoch(epoch)),
            state,
            confirmed: false,
            health: Health::Good,
            addr: ([10, 0, 0, 1], 1).into(),
            meta: Vec::new(),
        }
    }

    #[tokio::test]
    async fn the_last_word_counts_and_what_is_as_before_is_left_out() {
        let alive = |node, epoch| MemberEvent::Alive(member(node, epoch, MemberState::Alive));
        let suspect = |node| MemberEvent::Suspect(member(node, 1, MemberState::Suspect));
        let dead = |node| MemberEvent::Dead(member(node, 1, MemberState::Dead));
        let mut folder = Folder::new(&[member(1, 1, MemberState::Alive), member(2, 1, MemberState::Alive)]);
        let mut batch = |events: &[MemberEvent]| {
            for event in events {
                folder.take(event.clone(), Instant::now());
            }
            folder.finish()
        };
        assert_eq!(
            batch(&[suspect(1), alive(1, 1)]),
            [],
            "contradicted within the time"
        );
        assert_eq!(
            batch(&[suspect(1), alive(1, 2)]),
            [alive(1, 2)],
            "a restart shows"
        );
        assert_eq!(batch(&[suspect(2), dead(2), alive(3, 1)]), [dead(2), alive(3, 1)]);
        assert_eq!(batch(&[alive(3, 1)]), []);
        let missed = MemberEvent::Missed { count: 3 };
        let forgotten = MemberEvent::Forgotten(2);
        assert_eq!(
            batch(&[forgotten.clone(), missed.clone()]),
            [missed, forgotten.clone()]
        );
        assert_eq!(batch(&[forgotten]), [], "it was forgotten already");
    }
}
