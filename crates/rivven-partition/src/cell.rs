//! A partition as it is kept: 64 bytes while it has up to three replicas and nothing moves.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{LeaderEpoch, PartitionEpoch};

/// Place of a node in the table of nodes, never given to another node.
pub(crate) type Slot = u16;

/// A replica: its node, and the start of that node which was last in sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seat {
    pub(crate) slot: Slot,
    /// Which data directory of the node, counted from its first.
    pub(crate) instance: u16,
    /// Which start of that directory; 0 if it has never been in sync.
    pub(crate) boot: u32,
}

/// The replicas by preference: up to three in place, more behind a pointer.
#[derive(Clone, Debug)]
pub(crate) enum Seats {
    Few { len: u8, seats: [Seat; FEW] },
    Many(Box<[Seat]>),
}

/// Replicas kept in place.
const FEW: usize = 3;

impl Seats {
    pub(crate) fn as_slice(&self) -> &[Seat] {
        match self {
            Self::Few { len, seats } => seats.get(..usize::from(*len)).unwrap_or(seats),
            Self::Many(seats) => seats,
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [Seat] {
        match self {
            Self::Few { len, seats } => match seats.get_mut(..usize::from(*len)) {
                Some(seats) => seats,
                None => &mut [],
            },
            Self::Many(seats) => seats,
        }
    }
}

impl From<&[Seat]> for Seats {
    fn from(from: &[Seat]) -> Self {
        let mut seats = [Seat::default(); FEW];
        match (u8::try_from(from.len()), seats.get_mut(..from.len())) {
            (Ok(len), Some(place)) => {
                place.copy_from_slice(from);
                Self::Few { len, seats }
            }
            _ => Self::Many(from.into()),
        }
    }
}

impl PartialEq for Seats {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Seats {}

impl Serialize for Seats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_slice().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Seats {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seats = Vec::<Seat>::deserialize(deserializer)?;
        Ok(Self::from(seats.as_slice()))
    }
}

/// How far the move of a partition to other replicas is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MovePhase {
    /// Part of a rebalance, and not begun.
    Queued,
    /// New replicas have been added and are catching up; nothing has been taken away.
    Adding,
    /// Part of a rebalance, and done; remembered so that a cancelled rebalance can be undone.
    Done,
    /// On its way back, because the rebalance was cancelled.
    Undoing,
}

/// A partition on its way to other replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Move {
    pub(crate) phase: MovePhase,
    /// Whether it belongs to the rebalance, or else to the controller's own upkeep.
    pub(crate) planned: bool,
    /// The replicas before, in order.
    pub(crate) prior: Box<[Slot]>,
    /// The replicas after, in order.
    pub(crate) target: Box<[Slot]>,
}

/// A leadership about to be handed over, while its holder is given time to finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandOver {
    pub(crate) to: Slot,
    /// When the leader was asked, in milliseconds of the controller's wall clock.
    pub(crate) since_ms: u64,
    /// Whether the leader has let go.
    pub(crate) released: bool,
}

/// What few partitions have at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extra {
    pub(crate) moving: Option<Move>,
    pub(crate) hand_over: Option<HandOver>,
}

/// One partition.
///
/// Invariants: the seats have distinct nodes and are not empty; `in_sync` has a bit for some of them and no
/// other; `leader` is the place of one in sync; both epochs only grow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) partition_epoch: PartitionEpoch,
    pub(crate) seats: Seats,
    /// One bit per seat.
    pub(crate) in_sync: u32,
    /// Place of the leader among the seats.
    leader: u8,
    /// Whether whoever led before the leader has let go, or its process is known to be over.
    pub(crate) cleared: bool,
    extra: Option<Box<Extra>>,
}

/// Nobody leads.
const NO_LEADER: u8 = u8::MAX;

/// Most seats of a partition: those it had and those it gets.
pub(crate) const MAX_SEATS: usize = 2 * crate::MAX_REPLICATION_FACTOR as usize;

const _: () = assert!(MAX_SEATS <= 32, "`in_sync` has a bit for each");

impl Cell {
    /// A new partition, all of whose replicas are in sync because all are empty, led by the first.
    pub(crate) fn new(seats: &[Seat]) -> Self {
        Self {
            leader_epoch: LeaderEpoch::FIRST,
            partition_epoch: PartitionEpoch::FIRST,
            seats: seats.into(),
            in_sync: all(seats.len()),
            leader: if seats.is_empty() { NO_LEADER } else { 0 },
            cleared: true,
            extra: None,
        }
    }

    pub(crate) fn seats(&self) -> &[Seat] {
        self.seats.as_slice()
    }

    pub(crate) fn place_of(&self, slot: Slot) -> Option<usize> {
        self.seats().iter().position(|seat| seat.slot == slot)
    }

    pub(crate) const fn is_in_sync(&self, at: usize) -> bool {
        at < 32 && self.in_sync & (1 << at) != 0
    }

    /// The seats in sync, in order.
    pub(crate) fn synced(&self) -> impl Iterator<Item = Seat> {
        let seats = self.seats().iter().enumerate();
        seats
            .filter(|(at, _)| self.is_in_sync(*at))
            .map(|(_, seat)| *seat)
    }

    pub(crate) fn leader(&self) -> Option<Seat> {
        self.seats().get(usize::from(self.leader)).copied()
    }

    /// Whether nobody leads, said as it is said here, or a seat that exists.
    pub(crate) fn has_sound_leader(&self) -> bool {
        self.leader == NO_LEADER || usize::from(self.leader) < self.seats().len()
    }

    /// Makes the node in the seat `at` the leader.
    pub(crate) fn set_leader(&mut self, at: Option<usize>) {
        self.leader = at.and_then(|at| u8::try_from(at).ok()).unwrap_or(NO_LEADER);
    }

    /// The partition in a cluster that begins anew: nobody leads, and whoever led may still believe to.
    pub(crate) fn refounded(&self, gap: u64) -> Self {
        let mut cell = self.clone();
        cell.set_leader(None);
        cell.set_hand_over(None);
        cell.cleared = false;
        cell.leader_epoch.0 = cell.leader_epoch.0.saturating_add(gap);
        cell.partition_epoch.0 = cell.partition_epoch.0.saturating_add(gap);
        cell
    }

    pub(crate) fn moving(&self) -> Option<&Move> {
        self.extra.as_ref()?.moving.as_ref()
    }

    pub(crate) fn hand_over(&self) -> Option<HandOver> {
        self.extra.as_ref()?.hand_over
    }

    pub(crate) fn set_moving(&mut self, moving: Option<Move>) {
        let hand_over = self.hand_over();
        self.set_extra(Extra { moving, hand_over });
    }

    pub(crate) fn set_hand_over(&mut self, hand_over: Option<HandOver>) {
        let moving = self.extra.take().and_then(|extra| extra.moving);
        self.set_extra(Extra { moving, hand_over });
    }

    fn set_extra(&mut self, extra: Extra) {
        self.extra = (extra != Extra::default()).then(|| Box::new(extra));
    }

    /// Replicas being added.
    pub(crate) fn adding(&self) -> impl Iterator<Item = Slot> {
        let active = self.active_move();
        let target = active.map_or(&[][..], |moving| &moving.target);
        let prior = active.map_or(&[][..], |moving| &moving.prior);
        target.iter().copied().filter(|slot| !prior.contains(slot))
    }

    /// Replicas that leave once the added ones are in sync.
    pub(crate) fn removing(&self) -> impl Iterator<Item = Slot> {
        let active = self.active_move();
        let target = active.map_or(&[][..], |moving| &moving.target);
        let prior = active.map_or(&[][..], |moving| &moving.prior);
        prior.iter().copied().filter(|slot| !target.contains(slot))
    }

    /// The move whose new replicas are catching up.
    pub(crate) fn active_move(&self) -> Option<&Move> {
        self.moving().filter(|moving| match moving.phase {
            MovePhase::Adding | MovePhase::Undoing => true,
            MovePhase::Queued | MovePhase::Done => false,
        })
    }

    /// Bytes on the heap.
    pub(crate) fn heap_size(&self) -> usize {
        let seats = match &self.seats {
            Seats::Few { .. } => 0,
            Seats::Many(seats) => size_of_val(&**seats),
        };
        let moving = self.moving().map_or(0, |moving| {
            size_of_val(&*moving.prior) + size_of_val(&*moving.target)
        });
        seats + moving + self.extra.as_ref().map_or(0, |_| size_of::<Extra>())
    }
}

/// A bit for each of so many seats.
pub(crate) const fn all(seats: usize) -> u32 {
    if seats >= 32 { u32::MAX } else { (1 << seats) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_of_three_replicas_fits_a_cache_line() {
        assert_eq!(size_of::<Cell>(), 64);
        let cell = Cell::new(&[Seat::default(); 3]);
        assert_eq!(cell.heap_size(), 0);
        assert!(Cell::new(&[Seat::default(); 4]).heap_size() > 0);
    }
}
