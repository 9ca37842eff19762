//! What is around a payload: a seal that proves the sender, or a plain header that claims it.

use std::{boxed::Box, vec::Vec};

use rivven_transport::{
    EntropyError, LocalIdentity,
    datagram::{DatagramOpener, DatagramSealer, GossipKeys, OpenError, SEAL_OVERHEAD, SealError},
};
use rivven_types::{BootEpoch, InstanceId, NodeId};

use crate::Identity;

/// Begins every plain datagram; its last byte is the version. A sealed one begins otherwise.
const PLAIN_MAGIC: [u8; 8] = *b"rv-open\0";

/// Magic, node id, instance id, boot epoch.
const PLAIN_OVERHEAD: usize = 8 + 8 + 16 + 8;

/// How this node's datagrams are wrapped. A sealed node refuses plain datagrams, and the other way round.
#[derive(Debug)]
pub(super) enum Envelope {
    /// Sealed under the cluster's keys.
    Sealed {
        keys: GossipKeys,
        sealer: Box<DatagramSealer>,
        opener: Box<DatagramOpener>,
    },
    /// In the clear; the sender is whoever it says.
    Plain(Identity),
}

/// A datagram was refused: not sealed, or not under this cluster's key, or not whole, or a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Sealed(OpenError),
    Plain,
}

impl Refused {
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::Sealed(error) => error.code(),
            Self::Plain => "datagram-not-plain",
        }
    }
}

impl Envelope {
    /// Seals for `local`; with a salt if nobody counts its starts.
    pub(super) fn sealed(
        keys: GossipKeys,
        local: &LocalIdentity,
        salted: bool,
    ) -> Result<Self, EntropyError> {
        let sealer = if salted {
            DatagramSealer::salted(&keys, local)?
        } else {
            DatagramSealer::new(&keys, local)
        };
        let opener = DatagramOpener::new(&keys, local.cluster);
        Ok(Self::Sealed {
            keys,
            sealer: Box::new(sealer),
            opener: Box::new(opener),
        })
    }

    /// Bytes that wrapping adds.
    pub(super) const fn overhead(&self) -> usize {
        match self {
            Self::Sealed { .. } => SEAL_OVERHEAD,
            Self::Plain(_) => PLAIN_OVERHEAD,
        }
    }

    /// Replaces the content of `out` with `payload`, wrapped.
    pub(super) fn pack(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        match self {
            Self::Sealed { sealer, .. } => sealer.seal(payload, out),
            Self::Plain(me) => {
                out.clear();
                out.extend_from_slice(&PLAIN_MAGIC);
                out.extend_from_slice(&me.node.to_be_bytes());
                out.extend_from_slice(&me.instance.to_bytes());
                out.extend_from_slice(&me.boot_epoch.0.to_be_bytes());
                out.extend_from_slice(payload);
                Ok(())
            }
        }
    }

    /// Replaces the content of `out` with the payload of `datagram`, and says who sent it.
    pub(super) fn unpack(&mut self, datagram: &[u8], out: &mut Vec<u8>) -> Result<Identity, Refused> {
        match self {
            Self::Sealed { keys, opener, .. } => {
                let peer = opener.open(datagram, out).map_err(|error| {
                    if let OpenError::UnknownKey(_) | OpenError::NotAuthentic = error {
                        // The keys may have changed without this node.
                        keys.report_missing();
                    }
                    Refused::Sealed(error)
                })?;
                Ok(Identity {
                    node: peer.node,
                    instance: peer.instance,
                    boot_epoch: peer.boot_epoch,
                })
            }
            Self::Plain(_) => {
                let (identity, payload) = split_plain(datagram).ok_or(Refused::Plain)?;
                out.clear();
                out.extend_from_slice(payload);
                Ok(identity)
            }
        }
    }
}

fn split_plain(datagram: &[u8]) -> Option<(Identity, &[u8])> {
    let rest = datagram.strip_prefix(&PLAIN_MAGIC)?;
    let (node, rest) = rest.split_first_chunk()?;
    let (instance, rest) = rest.split_first_chunk()?;
    let (epoch, payload) = rest.split_first_chunk()?;
    let identity = Identity {
        node: NodeId::from_be_bytes(*node),
        instance: InstanceId::from_bytes(*instance),
        boot_epoch: BootEpoch(u64::from_be_bytes(*epoch)),
    };
    Some((identity, payload))
}
