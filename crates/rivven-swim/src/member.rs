//! What is known of one member, and its public view.

use alloc::vec::Vec;
use core::{net::SocketAddr, time::Duration};

use rivven_types::{BootEpoch, InstanceId, NodeId};
use serde::{Deserialize, Serialize};

use crate::{Incarnation, addr::CompactAddr, meta::Meta, rng::mix};

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

/// How well a live member does. Says nothing about membership: data need not move because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Health {
    /// As it should.
    #[default]
    Good,
    /// It says of itself that it is starved or badly connected, or it was doubted by several members again
    /// and again within a minute. Prefer others for new work.
    Degraded,
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
    /// How well it does.
    pub health: Health,
    /// Where its gossip port is. Of this node itself: as advertised, or the bound address until peers
    /// have said what they observe.
    pub addr: SocketAddr,
    /// The bytes it describes itself with; empty until they have arrived.
    pub meta: Vec<u8>,
}

/// Smoothed round-trip time and its deviation (RFC 6298, section 2), in units of 16 microseconds.
///
/// Two bytes each reach to a second, beyond any timeout that is derived from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rtt {
    smoothed: u16,
    deviation: u16,
}

impl Rtt {
    const UNIT_MICROS: u64 = 16;

    pub(crate) fn sample(&mut self, rtt: Duration) {
        let units = rtt.as_micros() / u128::from(Self::UNIT_MICROS);
        let rtt = u16::try_from(units).unwrap_or(u16::MAX).max(1);
        if self.smoothed == 0 {
            (self.smoothed, self.deviation) = (rtt, rtt / 2);
            return;
        }
        self.deviation = self.deviation - self.deviation / 4 + self.smoothed.abs_diff(rtt) / 4;
        self.smoothed = (self.smoothed - self.smoothed / 8).saturating_add(rtt / 8).max(1);
    }

    /// `srtt + 4 * var`, if there was a sample.
    pub(crate) fn timeout(self) -> Option<Duration> {
        let units = u64::from(self.smoothed) + 4 * u64::from(self.deviation);
        (self.smoothed > 0).then(|| Duration::from_micros(units * Self::UNIT_MICROS))
    }
}

/// Everything known of one other member, but for its suspicion and the end of its memory.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) node: NodeId,
    pub(crate) instance: InstanceId,
    pub(crate) incarnation: Incarnation,
    pub(crate) meta: Meta,
    pub(crate) addr: CompactAddr,
    pub(crate) rtt: Rtt,
    /// Its place in the table's list of live or of gone members.
    pub(crate) place: u32,
    pub(crate) state: MemberState,
    /// What it says of itself.
    pub(crate) claimed_health: Health,
    /// What was seen of it.
    pub(crate) observed_health: Health,
}

impl Member {
    pub(crate) const fn is_live(&self) -> bool {
        self.state.is_live()
    }

    /// What orders statements about the member: a statement replaces what is known if it is greater.
    pub(crate) const fn standing(&self) -> (Incarnation, MemberState) {
        (self.incarnation, self.state)
    }

    pub(crate) fn socket_addr(&self) -> SocketAddr {
        self.addr.into()
    }

    pub(crate) fn health(&self) -> Health {
        self.claimed_health.max(self.observed_health)
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        let described = self.state == MemberState::Alive && self.meta.is_described();
        fingerprint(self.node, self.incarnation, self.state, described)
    }

    pub(crate) fn view(&self, confirmed: bool) -> MemberView {
        MemberView {
            node: self.node,
            instance: self.instance,
            boot_epoch: self.incarnation.boot_epoch(),
            incarnation: self.incarnation,
            state: self.state,
            confirmed,
            health: self.health(),
            addr: self.socket_addr(),
            meta: self.meta.bytes().unwrap_or_default().to_vec(),
        }
    }
}

/// A member's term in the view digest: the sum of these, wrapping, is equal where the views are.
///
/// Part of the wire format. Metadata counts only as "known of or not", since within an incarnation it is fixed.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_takes_at_most_88_bytes() {
        assert!(size_of::<Member>() <= 88, "{}", size_of::<Member>());
    }

    #[test]
    fn timeouts_follow_the_round_trip_time() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(), None);
        rtt.sample(Duration::from_millis(8));
        assert_eq!(rtt.timeout(), Some(Duration::from_millis(24)));
        for _ in 0..100 {
            rtt.sample(Duration::from_millis(8));
        }
        let steady = rtt.timeout().unwrap();
        assert!(
            (Duration::from_millis(7)..Duration::from_millis(10)).contains(&steady),
            "{steady:?}"
        );
        rtt.sample(Duration::from_secs(9));
        assert!(rtt.timeout().unwrap() > Duration::from_millis(500));
    }
}
