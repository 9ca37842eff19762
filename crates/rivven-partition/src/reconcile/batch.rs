//! Changes as commands that fit the log.

use std::collections::BTreeSet;

use super::{Change, view::View};
use crate::{
    MAX_BATCH_BYTES, MAX_CHANGES_PER_COMMAND, PartitionChange, PartitionCommand, Start, Step,
    cell::{Cell, Slot},
};

/// At most so many bytes make up the numbers and epochs of a change, and a node in it.
const CHANGE_BYTES: usize = 48;
const NODE_BYTES: usize = 10;

/// Cuts changes of distinct partitions into commands of fit sizes, each in order.
pub(super) fn commands(view: &View<'_>, mut changes: Vec<Change>) -> Vec<PartitionCommand> {
    changes.sort_unstable_by_key(|change| change.spot);
    let mut commands = Vec::new();
    let mut batch = Batch::default();
    let mut cursor = view.map.topics.cursor();
    for change in changes {
        let Some(cell) = cursor.cell(change.spot) else {
            continue;
        };
        let next = describe(view, cell, &change);
        let bytes = CHANGE_BYTES + NODE_BYTES * (next.in_sync.len() + 1 + listed(&next.step));
        if batch.changes.len() == MAX_CHANGES_PER_COMMAND || batch.bytes + bytes > MAX_BATCH_BYTES {
            commands.push(std::mem::take(&mut batch).command());
        }
        batch.bytes += bytes;
        batch.confirm(view, cell, change.in_sync);
        batch.changes.push(next);
    }
    if !batch.changes.is_empty() {
        commands.push(batch.command());
    }
    commands
}

#[derive(Default)]
struct Batch {
    /// Nodes whose start the command must name.
    starts: BTreeSet<Start>,
    named: BTreeSet<Slot>,
    changes: Vec<PartitionChange>,
    bytes: usize,
}

impl Batch {
    /// Names the starts of replicas that become in sync, or are so under an earlier start.
    fn confirm(&mut self, view: &View<'_>, cell: &Cell, in_sync: u32) {
        for (at, seat) in cell.seats().iter().enumerate() {
            let is = in_sync & (1 << at) != 0;
            let known = cell.is_in_sync(at) && view.is_current(*seat);
            if is && !known && view.confirms(*seat) && self.named.insert(seat.slot) {
                let node = view.map.nodes.at(seat.slot);
                self.starts.extend(node.map(|node| node.registration.start()));
            }
        }
    }

    fn command(self) -> PartitionCommand {
        PartitionCommand::ChangePartitions {
            starts: self.starts.into_iter().collect(),
            changes: self.changes,
        }
    }
}

fn listed(step: &Step) -> usize {
    match step {
        Step::Begin(target) => target.len(),
        Step::Stay | Step::Finish | Step::Revert | Step::Forget | Step::HandOver { .. } => 1,
    }
}

/// A change as the log is told of it: in-sync replicas in the order that they have after the step.
fn describe(view: &View<'_>, cell: &Cell, change: &Change) -> PartitionChange {
    let id = |slot: Slot| view.map.nodes.id(slot);
    let synced = |slot: &Slot| {
        let at = cell.place_of(*slot);
        at.is_some_and(|at| change.in_sync & (1 << at) != 0)
    };
    let moving = cell.active_move();
    let seats = || cell.seats().iter().map(|seat| seat.slot);
    let in_sync = match (&change.step, moving) {
        (Step::Finish, Some(moving)) => moving.target.iter().copied().filter(synced).map(id).collect(),
        (Step::Revert, Some(moving)) => moving.prior.iter().copied().filter(synced).map(id).collect(),
        _ => seats().filter(synced).map(id).collect(),
    };
    let leader = change.leader.and_then(|at| cell.seats().get(at));
    PartitionChange {
        topic: change.spot.topic(),
        partition: change.spot.partition(),
        leader_epoch: cell.leader_epoch,
        partition_epoch: cell.partition_epoch,
        in_sync,
        leader: leader.map(|seat| id(seat.slot)),
        step: change.step.clone(),
    }
}
