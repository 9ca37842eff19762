//! Opening what arrives.

use std::{collections::BTreeMap, fmt};

use rivven_crypto::AeadKey;
use rivven_types::{BootEpoch, ClusterId, InstanceId, NodeId};

use super::{GossipKey, HEADER_LEN, Header, MAX_DATAGRAM, SEAL_OVERHEAD, subkey, window::ReplayWindow};
use crate::{PeerIdentity, metrics::OpenMetrics};

/// Most senders remembered. Beyond that the one not heard for longest is forgotten, whose old datagrams
/// could then be replayed: harmless to members, who order what they learn by incarnation.
pub(super) const MAX_SENDERS: usize = 16_384;

/// Opens sealed datagrams, each at most once.
///
/// Only an authentic datagram creates or changes state, so strangers cannot fill the table.
pub struct DatagramOpener {
    key: GossipKey,
    cluster: ClusterId,
    senders: BTreeMap<(NodeId, InstanceId), Sender>,
    /// Counts opened datagrams; says which sender was heard last.
    tick: u64,
    metrics: OpenMetrics,
}

struct Sender {
    boot_epoch: BootEpoch,
    key: AeadKey,
    window: ReplayWindow,
    last_heard: u64,
}

impl fmt::Debug for DatagramOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramOpener")
            .field("cluster", &self.cluster)
            .field("senders", &self.senders.len())
            .finish_non_exhaustive()
    }
}

/// Why a datagram was dropped. No state was changed; send no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Shorter than header and tag.
    #[error("the datagram is too short")]
    TooShort,
    /// Longer than [`MAX_DATAGRAM`].
    #[error("the datagram is too long")]
    TooLong,
    /// Sealed by a release with another layout. Run the same release on all nodes.
    #[error("the datagram has version {0}, which this release does not know")]
    Version(u8),
    /// Altered, or sealed under another key or for another cluster. Check `gossip.key` on both nodes.
    #[error("the datagram is not authentic: another gossip key, another cluster, or altered")]
    NotAuthentic,
    /// Opened before, or so old that it cannot be told.
    #[error("the datagram was received before")]
    Replayed,
    /// From an earlier start of its sender than the latest one heard.
    #[error("the datagram comes from an earlier start of its sender")]
    StaleEpoch,
}

impl OpenError {
    /// Stable code in kebab case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooShort => "datagram-too-short",
            Self::TooLong => "datagram-too-long",
            Self::Version(_) => "datagram-version",
            Self::NotAuthentic => "datagram-not-authentic",
            Self::Replayed => "datagram-replayed",
            Self::StaleEpoch => "datagram-stale-epoch",
        }
    }
}

impl DatagramOpener {
    /// Opens datagrams that members of `cluster` sealed under `key`.
    #[must_use]
    pub fn new(key: &GossipKey, cluster: ClusterId) -> Self {
        Self {
            key: key.clone(),
            cluster,
            senders: BTreeMap::new(),
            tick: 0,
            metrics: OpenMetrics::new(),
        }
    }

    /// Replaces the content of `out` with the plaintext of `datagram`, and says who sealed it.
    ///
    /// # Errors
    /// [`OpenError`]; `out` is then empty.
    pub fn open(&mut self, datagram: &[u8], out: &mut Vec<u8>) -> Result<PeerIdentity, OpenError> {
        out.clear();
        let opened = self.try_open(datagram, out);
        match &opened {
            Ok(_) => self.metrics.opened(datagram.len()),
            Err(error) => {
                self.metrics.dropped(error.code());
                out.clear();
            }
        }
        opened
    }

    fn try_open(&mut self, datagram: &[u8], out: &mut Vec<u8>) -> Result<PeerIdentity, OpenError> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(OpenError::TooLong);
        }
        if datagram.len() < SEAL_OVERHEAD {
            return Err(OpenError::TooShort);
        }
        let (header_bytes, sealed) = datagram
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(OpenError::TooShort)?;
        let header = Header::decode(header_bytes)?;
        let id = (header.sender.node, header.sender.instance);
        let known = match self.senders.get(&id) {
            Some(known) if header.sender.boot_epoch < known.boot_epoch => return Err(OpenError::StaleEpoch),
            Some(known) if header.sender.boot_epoch == known.boot_epoch => Some(known),
            Some(_) | None => None,
        };
        // Checked before decryption, which costs more; nothing is believed yet.
        if known.is_some_and(|sender| sender.window.is_seen(header.counter)) {
            return Err(OpenError::Replayed);
        }
        let fresh_key = match known {
            Some(_) => None,
            None => Some(subkey(&self.key, self.cluster, &header.sender)),
        };
        let Some(key) = fresh_key.as_ref().or(known.map(|sender| &sender.key)) else {
            return Err(OpenError::NotAuthentic);
        };
        out.extend_from_slice(sealed);
        let plaintext_len = key
            .open(header.counter, header_bytes, out)
            .map_err(|_| OpenError::NotAuthentic)?
            .len();
        out.truncate(plaintext_len);
        self.record(id, &header, fresh_key);
        Ok(header.sender)
    }

    /// Remembers an authentic datagram.
    fn record(&mut self, id: (NodeId, InstanceId), header: &Header, fresh_key: Option<AeadKey>) {
        self.tick = self.tick.wrapping_add(1);
        if let Some(key) = fresh_key {
            if !self.senders.contains_key(&id) && self.senders.len() >= MAX_SENDERS {
                self.forget_one();
            }
            let sender = Sender {
                boot_epoch: header.sender.boot_epoch,
                key,
                window: ReplayWindow::default(),
                last_heard: self.tick,
            };
            self.senders.insert(id, sender);
        }
        if let Some(sender) = self.senders.get_mut(&id) {
            sender.window.mark(header.counter);
            sender.last_heard = self.tick;
        }
    }

    fn forget_one(&mut self) {
        let quietest = self.senders.iter().min_by_key(|(_, sender)| sender.last_heard);
        if let Some(id) = quietest.map(|(id, _)| *id) {
            self.senders.remove(&id);
        }
    }

    #[cfg(test)]
    pub(super) fn sender_count(&self) -> usize {
        self.senders.len()
    }
}
