//! What is known of one member, and its public view.

use alloc::{boxed::Box, vec::Vec};
use core::{net::SocketAddr, time::Duration};

use rivven_types::{BootEpoch, InstanceId, NodeId};
use serde::{Deserialize, Serialize};

use crate::{Incarnation, Time, rng::mix, suspicion::Suspicion};

/// Largest metadata of a member, in bytes. It travels whole in every statement that it is alive.
pub const MAX_META_LEN: usize = 256;

/// What is believed of a member, in the order in which one belief replaces another within an incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MemberState {
    /// It answers, or nobody doubts that it would.
    Alive,
    /// Somebody could not reach it.
    Suspect,
    /// It was suspect for too long.
    Dead,
    /// It said goodbye.
    Left,
}

impl MemberState {
    /// Whether the member takes part: alive, or suspect and not yet given up.
    #[must_use]
    pub const fn is_live(self) -> bool {
        match self {
            Self::Alive | Self::Suspect => true,
            Self::Dead | Self::Left => false,
        }
    }
}

/// A member as its users see it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberView {
    /// The member's number.
    pub node: NodeId,
    /// Its data directory.
    pub instance: InstanceId,
    /// Which start of it.
    pub boot_epoch: BootEpoch,
    /// Age of this view.
    pub incarnation: Incarnation,
    /// What is believed.
    pub state: MemberState,
    /// Whether enough members accuse the suspect, each on its own; always false unless suspect.
    pub confirmed: bool,
    /// Where its gossip port is. Of this node itself: as advertised, or the bound address until peers
    /// have said what they observe.
    pub addr: SocketAddr,
    /// The bytes it describes itself with; empty until they have arrived.
    pub meta: Vec<u8>,
}

/// [`MemberState`] with what belongs to it.
#[derive(Clone, Debug)]
pub(crate) enum Status {
    Alive,
    Suspect(Suspicion),
    /// Remembered until `forget_at`, so that old news does not bring the member back.
    Dead {
        forget_at: Time,
    },
    Left {
        forget_at: Time,
    },
}

/// Smoothed round-trip time and its deviation, in microseconds (RFC 6298, section 2).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtt(Option<(u32, u32)>);

impl Rtt {
    pub(crate) fn sample(&mut self, rtt: Duration) {
        let rtt = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
        self.0 = Some(match self.0 {
            None => (rtt, rtt / 2),
            Some((srtt, var)) => {
                let var = var - var / 4 + srtt.abs_diff(rtt) / 4;
                (srtt - srtt / 8 + rtt / 8, var)
            }
        });
    }

    /// `srtt + 4 * var`, if there was a sample.
    pub(crate) fn timeout(self) -> Option<Duration> {
        let (srtt, var) = self.0?;
        Some(Duration::from_micros(u64::from(srtt) + 4 * u64::from(var)))
    }
}

/// Everything known of one other member.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) instance: InstanceId,
    pub(crate) incarnation: Incarnation,
    pub(crate) status: Status,
    pub(crate) addr: SocketAddr,
    /// `None` until a statement of this boot epoch brought it.
    pub(crate) meta: Option<Box<[u8]>>,
    pub(crate) rtt: Rtt,
    /// The term of this member in the view digest.
    pub(crate) fingerprint: u64,
    /// Until when a conflict about this member is not reported again.
    pub(crate) conflict_muted_until: Time,
}

impl Member {
    pub(crate) const fn state(&self) -> MemberState {
        match self.status {
            Status::Alive => MemberState::Alive,
            Status::Suspect(_) => MemberState::Suspect,
            Status::Dead { .. } => MemberState::Dead,
            Status::Left { .. } => MemberState::Left,
        }
    }

    pub(crate) const fn is_live(&self) -> bool {
        self.state().is_live()
    }

    /// What orders statements about the member: a statement replaces what is known if it is greater.
    pub(crate) const fn standing(&self) -> (Incarnation, MemberState) {
        (self.incarnation, self.state())
    }

    pub(crate) const fn suspicion(&self) -> Option<&Suspicion> {
        match &self.status {
            Status::Suspect(suspicion) => Some(suspicion),
            Status::Alive | Status::Dead { .. } | Status::Left { .. } => None,
        }
    }

    /// When the memory of a member that is gone ends.
    pub(crate) const fn forget_at(&self) -> Option<Time> {
        match self.status {
            Status::Dead { forget_at } | Status::Left { forget_at } => Some(forget_at),
            Status::Alive | Status::Suspect(_) => None,
        }
    }

    pub(crate) fn view(&self, node: NodeId, members: usize) -> MemberView {
        MemberView {
            node,
            instance: self.instance,
            boot_epoch: self.incarnation.boot_epoch(),
            incarnation: self.incarnation,
            state: self.state(),
            confirmed: self.suspicion().is_some_and(|s| s.is_confirmed(members)),
            addr: self.addr,
            meta: self.meta.as_deref().unwrap_or_default().to_vec(),
        }
    }
}

/// A member's term in the view digest: the sum of these, wrapping, is equal where the views are.
///
/// Part of the wire format. Metadata counts only as "known or not", since within a boot epoch it is fixed.
pub(crate) const fn fingerprint(
    node: NodeId,
    incarnation: Incarnation,
    state: MemberState,
    described: bool,
) -> u64 {
    let tag = (state as u64) << 1 | described as u64;
    let hash = mix(node ^ 0x7269_7676_656e_7377);
    let hash = mix(hash ^ incarnation.boot_epoch().0);
    let hash = mix(hash ^ incarnation.refutations());
    mix(hash ^ tag)
}
