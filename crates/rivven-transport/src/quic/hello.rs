//! The first words of a connection, and the reasons to refuse it. See `docs/formats/wire.md`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut};
use quinn::VarInt;
use rivven_types::{BootEpoch, ClusterId, InstanceId, NodeId};

use super::rank::{Claim, Turn};
use crate::{PeerIdentity, identity::Subject};

/// First bytes of a hello.
const MAGIC: &[u8; 4] = b"RVVN";

/// Oldest and newest protocol version of this release. 0 is unstable and will be refused later.
pub(super) const VERSIONS: Versions = (0, 0);

/// Bytes of a hello of version 0. A later version may append, up to [`MAX_LEN`].
const LEN: usize = 4 + 2 + 2 + 1 + 16 + 8 + 16 + 8 + 1 + 16 + 2 + 8 + 8 + 8;

/// Protocol versions, oldest and newest.
pub(super) type Versions = (u16, u16);

/// Bytes of magic and versions, which no version moves.
const HEAD_LEN: usize = 4 + 2 + 2;

/// Longest hello that is read.
pub(super) const MAX_LEN: usize = 512;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Control, Raft and Client calls.
    Main,
    /// Bulk calls.
    Bulk,
    /// Learning who answers at an address; carries no calls.
    Discover,
}

/// What each side says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) versions: Versions,
    pub(super) purpose: Purpose,
    pub(super) cluster: ClusterId,
    pub(super) identity: PeerIdentity,
    /// Where the sender sees the receiver.
    pub(super) observed: SocketAddr,
    /// Which of the dialler's connections this is; see [`Claim`]. An answer repeats it.
    pub(super) number: u64,
    /// The newest connection that the other one dialled and the dialler knew. An answer repeats it.
    pub(super) seen: Turn,
}

/// Why a connection is not accepted. The number travels in the QUIC close frame, the text beside it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("malformed hello")]
    Malformed,
    #[error(
        "no common protocol version: this node speaks {} to {}, the peer {} to {}; run releases that overlap",
        ours.0, ours.1, theirs.0, theirs.1
    )]
    Version { ours: Versions, theirs: Versions },
    #[error("the peer is of another cluster ({theirs}); this is cluster {ours}")]
    OtherCluster { ours: ClusterId, theirs: ClusterId },
    #[error("the peer's certificate names nobody by this cluster's template")]
    Nameless,
    #[error("the peer's hello claims node {claimed}, its certificate names node {certified}")]
    WrongNode { claimed: u64, certified: u64 },
    #[error("node {found} answered where node {expected} was expected")]
    Unexpected { found: u64, expected: u64 },
    #[error("the peer's boot epoch went back from {latest} to {claimed}: its disk was rolled back")]
    StaleEpoch { claimed: BootEpoch, latest: BootEpoch },
    #[error("duplicate node id: node {0} is connected with another data directory")]
    DuplicateNode(u64),
    #[error("this node knows too many peers")]
    TooManyPeers,
    #[error("this node has too many connections of such callers, or of {0} alone; close some, or share one")]
    TooManyGuests(Subject),
    #[error("{0} has been removed from the cluster; add it again, or stop it")]
    Removed(Subject),
    #[error("the certificate of {0} has expired; replace it with a new one of the same authority")]
    Expired(Subject),
    #[error(
        "the authority of the certificate of {0} is no longer in ca.pem; use a certificate of the new one"
    )]
    Untrusted(Subject),
    #[error("{0} answered where a node was expected")]
    NotANode(Subject),
    #[error("too many nodes are joining; try again in a moment")]
    TooManyStrangers,
    #[error("too many attempts to join from this address were refused; wait a minute")]
    Throttled,
    #[error("another connection of the two nodes is in use")]
    Superseded,
    #[error("this node is shutting down")]
    ShuttingDown,
}

impl Refusal {
    /// The code in the close frame.
    pub(super) const fn close_code(&self) -> VarInt {
        VarInt::from_u32(match self {
            Self::Malformed => close::MALFORMED,
            Self::Version { .. } => close::VERSION,
            Self::OtherCluster { .. } => close::OTHER_CLUSTER,
            Self::Nameless | Self::WrongNode { .. } | Self::Unexpected { .. } | Self::NotANode(_) => {
                close::WRONG_NODE
            }
            Self::StaleEpoch { .. } => close::STALE_EPOCH,
            Self::DuplicateNode(_) => close::DUPLICATE_NODE,
            Self::TooManyPeers | Self::TooManyGuests(_) | Self::TooManyStrangers => close::TOO_MANY_PEERS,
            Self::Removed(_) => close::REMOVED,
            Self::Expired(_) => close::EXPIRED,
            Self::Untrusted(_) => close::UNTRUSTED,
            Self::Throttled => close::THROTTLED,
            Self::Superseded => close::SUPERSEDED,
            Self::ShuttingDown => close::SHUTDOWN,
        })
    }

    /// What the refusal is counted as.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Version { .. } => "version",
            Self::OtherCluster { .. } => "other-cluster",
            Self::Nameless => "nameless",
            Self::WrongNode { .. } => "wrong-node",
            Self::Unexpected { .. } => "unexpected-node",
            Self::StaleEpoch { .. } => "stale-epoch",
            Self::DuplicateNode(_) => "duplicate-node-id",
            Self::TooManyPeers => "too-many-peers",
            Self::TooManyGuests(_) => "too-many-guests",
            Self::Removed(_) => "removed",
            Self::Expired(_) => "expired",
            Self::Untrusted(_) => "untrusted",
            Self::NotANode(_) => "not-a-node",
            Self::TooManyStrangers => "too-many-strangers",
            Self::Throttled => "throttled",
            Self::Superseded => "superseded",
            Self::ShuttingDown => "shutting-down",
        }
    }

    /// Whether this is in the nature of nodes that come, go and meet, and nothing to warn of.
    pub(super) const fn is_ordinary(&self) -> bool {
        matches!(self, Self::Superseded | Self::ShuttingDown)
    }

    /// Whether no retry can help while both sides are what they are.
    pub(super) const fn is_incompatible(code: u32) -> bool {
        matches!(code, close::VERSION | close::OTHER_CLUSTER)
    }
}

/// Codes of QUIC's application close frame.
pub(super) mod close {
    /// Done with the connection.
    pub(in super::super) const DONE: u32 = 0;
    /// A frame that no peer of this version sends.
    pub(in super::super) const PROTOCOL: u32 = 1;
    /// A hello that cannot be read.
    pub(in super::super) const MALFORMED: u32 = 2;
    /// No common protocol version.
    pub(in super::super) const VERSION: u32 = 3;
    /// Another cluster.
    pub(in super::super) const OTHER_CLUSTER: u32 = 4;
    /// Certificate, hello and expectation name different nodes.
    pub(in super::super) const WRONG_NODE: u32 = 5;
    /// A boot epoch below the latest one known.
    pub(in super::super) const STALE_EPOCH: u32 = 6;
    /// Another instance of this node is connected.
    pub(in super::super) const DUPLICATE_NODE: u32 = 7;
    /// The table of peers is full.
    pub(in super::super) const TOO_MANY_PEERS: u32 = 8;
    /// A newer connection or a newer start of the peer takes over.
    pub(in super::super) const SUPERSEDED: u32 = 9;
    /// The node shuts down.
    pub(in super::super) const SHUTDOWN: u32 = 10;
    /// The peer is no longer a member.
    pub(in super::super) const REMOVED: u32 = 11;
    /// The peer's certificate has expired since the connection was made.
    pub(in super::super) const EXPIRED: u32 = 12;
    /// The peer's certificate is of an authority that is no longer believed.
    pub(in super::super) const UNTRUSTED: u32 = 13;
    /// The peer has answered no ping.
    pub(in super::super) const SILENT: u32 = 14;
    /// Too many attempts to join from this address were refused.
    pub(in super::super) const THROTTLED: u32 = 15;
}

impl Purpose {
    /// What connections are counted by.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Bulk => "bulk",
            Self::Discover => "discover",
        }
    }
}

impl Hello {
    /// The claim of the connection on which its dialler said this to `other`.
    pub(super) const fn claim(&self, other: NodeId) -> Claim {
        Claim {
            by_lower: self.identity.node < other,
            turn: Turn {
                epoch: self.identity.boot_epoch,
                number: self.number,
            },
            seen: self.seen,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LEN);
        out.put_slice(MAGIC);
        out.put_u16(self.versions.0);
        out.put_u16(self.versions.1);
        out.put_u8(match self.purpose {
            Purpose::Main => 0,
            Purpose::Bulk => 1,
            Purpose::Discover => 2,
        });
        out.put_slice(&self.cluster.to_bytes());
        out.put_u64(self.identity.node);
        out.put_slice(&self.identity.instance.to_bytes());
        out.put_u64(self.identity.boot_epoch.0);
        match self.observed.ip() {
            IpAddr::V4(ip) => {
                out.put_u8(4);
                out.put_slice(&ip.octets());
                out.put_bytes(0, 12);
            }
            IpAddr::V6(ip) => {
                out.put_u8(6);
                out.put_slice(&ip.octets());
            }
        }
        out.put_u16(self.observed.port());
        out.put_u64(self.number);
        out.put_u64(self.seen.epoch.0);
        out.put_u64(self.seen.number);
        out
    }

    /// Reads a hello for a node that speaks `ours`; bytes that a later version appended are ignored.
    ///
    /// Magic and versions are the same in every version, so a peer that says the rest in another way is told
    /// that the versions differ.
    pub(super) fn decode(bytes: &[u8], ours: Versions) -> Result<Self, Refusal> {
        let mut head = bytes.get(..HEAD_LEN).ok_or(Refusal::Malformed)?;
        if head.copy_to_bytes(MAGIC.len()) != MAGIC[..] {
            return Err(Refusal::Malformed);
        }
        let versions = (head.get_u16(), head.get_u16());
        if versions.0 > versions.1 {
            return Err(Refusal::Malformed);
        }
        if versions.0 > ours.1 || versions.1 < ours.0 {
            let theirs = versions;
            return Err(Refusal::Version { ours, theirs });
        }
        let mut fixed = bytes.get(HEAD_LEN..LEN).ok_or(Refusal::Malformed)?;
        let purpose = match fixed.get_u8() {
            0 => Purpose::Main,
            1 => Purpose::Bulk,
            2 => Purpose::Discover,
            _ => return Err(Refusal::Malformed),
        };
        let cluster = ClusterId::from_bytes(fixed.get_u128().to_be_bytes());
        let identity = PeerIdentity {
            node: fixed.get_u64(),
            instance: InstanceId::from_bytes(fixed.get_u128().to_be_bytes()),
            boot_epoch: BootEpoch(fixed.get_u64()),
        };
        let (family, ip) = (fixed.get_u8(), fixed.get_u128());
        let ip = match family {
            4 => {
                let [a, b, c, d, ..] = ip.to_be_bytes();
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            6 => IpAddr::V6(Ipv6Addr::from_bits(ip)),
            _ => return Err(Refusal::Malformed),
        };
        Ok(Self {
            versions,
            purpose,
            cluster,
            identity,
            observed: SocketAddr::new(ip, fixed.get_u16()),
            number: fixed.get_u64(),
            seen: Turn {
                epoch: BootEpoch(fixed.get_u64()),
                number: fixed.get_u64(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello() -> Hello {
        Hello {
            versions: VERSIONS,
            purpose: Purpose::Bulk,
            cluster: ClusterId::from_bytes([1; 16]),
            identity: PeerIdentity {
                node: 2,
                instance: InstanceId::from_bytes([3; 16]),
                boot_epoch: BootEpoch(4),
            },
            observed: "10.0.0.5:9093".parse().unwrap(),
            number: 6,
            seen: Turn {
                epoch: BootEpoch(7),
                number: 8,
            },
        }
    }

    /// The layout of version 0; see `docs/formats/wire.md`.
    #[test]
    fn golden_vector() {
        let hex: String = hello()
            .encode()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let expected = [
            "5256564e",
            "0000",
            "0000",
            "01",
            "01010101010101010101010101010101",
            "0000000000000002",
            "03030303030303030303030303030303",
            "0000000000000004",
            "04",
            "0a000005000000000000000000000000",
            "2385",
            "0000000000000006",
            "0000000000000007",
            "0000000000000008",
        ];
        assert_eq!(hex, expected.concat());
    }

    #[test]
    fn a_hello_survives_the_wire_and_may_be_longer_in_later_versions() {
        let v6 = Hello {
            observed: "[fe80::1]:1".parse().unwrap(),
            ..hello()
        };
        for sent in [hello(), v6] {
            let mut bytes = sent.encode();
            assert_eq!(bytes.len(), LEN);
            assert_eq!(Hello::decode(&bytes, VERSIONS), Ok(sent.clone()));
            bytes.extend(b"later");
            assert_eq!(Hello::decode(&bytes, VERSIONS), Ok(sent));
        }
    }

    #[test]
    fn strange_hellos_are_refused() {
        let check = |at: usize, byte, expected| {
            let mut bytes = hello().encode();
            bytes[at] = byte;
            assert_eq!(Hello::decode(&bytes, VERSIONS), Err(expected));
        };
        check(0, b'X', Refusal::Malformed);
        check(5, 1, Refusal::Malformed);
        check(8, 3, Refusal::Malformed);
        check(LEN - 43, 5, Refusal::Malformed);
        let future = Hello {
            versions: (1, 2),
            ..hello()
        };
        let refused = Refusal::Version {
            ours: VERSIONS,
            theirs: (1, 2),
        };
        // However short or long it is.
        for len in [HEAD_LEN, LEN] {
            let bytes = &future.encode()[..len];
            assert_eq!(Hello::decode(bytes, VERSIONS), Err(refused.clone()));
        }
        let range = Hello {
            versions: (0, 2),
            ..hello()
        };
        assert!(Hello::decode(&range.encode(), VERSIONS).is_ok());
        assert_eq!(
            Hello::decode(&hello().encode()[..LEN - 1], VERSIONS),
            Err(Refusal::Malformed)
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Hello::decode(&bytes, VERSIONS);
            if let Some(start) = bytes.get_mut(..8) {
                start.copy_from_slice(b"RVVN\0\0\0\0");
            }
            let _ = Hello::decode(&bytes, VERSIONS);
        }
    }
}
