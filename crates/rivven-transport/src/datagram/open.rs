//! Opening what arrives.

use std::{collections::BTreeMap, fmt, sync::Arc};

use rivven_crypto::AeadKey;
use rivven_types::{BootEpoch, ClusterId, InstanceId, NodeId};

use super::{
    GossipKeys, KeyRing, MAX_DATAGRAM,
    header::{Header, MIN_DATAGRAM, Salt},
    window::ReplayWindow,
};
use crate::{PeerIdentity, metrics::OpenMetrics};

/// Most senders remembered, each once for every key it has used. Beyond that the one not heard for longest
/// is forgotten, whose old datagrams could then be replayed: harmless to members, who order what they learn
/// by incarnation.
///
/// The largest cluster has 10,000 members, and while keys change each uses two. A sender takes about
/// 700 bytes.
pub(super) const MAX_SENDERS: usize = 32_768;

/// Opens sealed datagrams, each at most once.
///
/// Only an authentic datagram creates or changes state, so strangers cannot fill the table.
pub struct DatagramOpener {
    keys: GossipKeys,
    cluster: ClusterId,
    /// The ring at the last datagram: what its keys do not open any more is forgotten.
    ring: Option<Arc<KeyRing>>,
    senders: BTreeMap<SenderId, Sender>,
    /// Every sender once, under a tick at which it was heard: the last one, or an earlier one.
    by_heard: BTreeMap<u64, SenderId>,
    /// Counts opened datagrams; says which sender was heard last.
    tick: u64,
    metrics: OpenMetrics,
}

/// A sender under one key.
///
/// What a sender has used is kept for each key on its own: whoever knows one key that has leaked can use
/// up all counters of a sender under that key, and under no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SenderId {
    node: NodeId,
    instance: InstanceId,
    salt: Option<Salt>,
    key_epoch: u32,
}

struct Sender {
    boot_epoch: BootEpoch,
    block: u64,
    key: AeadKey,
    window: ReplayWindow,
    last_heard: u64,
    /// Where it stands in `by_heard`.
    listed: u64,
}

impl fmt::Debug for DatagramOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramOpener")
            .field("cluster", &self.cluster)
            .field("keys", &self.keys)
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
    /// This node has no key of that epoch: it has missed a change of keys, or the sender has. Whichever it
    /// is fetches the newer keys from a peer.
    #[error("the datagram is sealed under a key of epoch {0}, which this node does not have")]
    UnknownKey(u32),
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
            Self::UnknownKey(_) => "datagram-unknown-key",
            Self::NotAuthentic => "datagram-not-authentic",
            Self::Replayed => "datagram-replayed",
            Self::StaleEpoch => "datagram-stale-epoch",
        }
    }
}

impl DatagramOpener {
    /// Opens datagrams that members of `cluster` sealed under one of `keys`.
    #[must_use]
    pub fn new(keys: impl Into<GossipKeys>, cluster: ClusterId) -> Self {
        Self {
            keys: keys.into(),
            cluster,
            ring: None,
            senders: BTreeMap::new(),
            by_heard: BTreeMap::new(),
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
        if datagram.len() < MIN_DATAGRAM {
            return Err(OpenError::TooShort);
        }
        let (header, clear, sealed) = Header::split(datagram)?;
        self.follow_ring();
        let unknown = OpenError::UnknownKey(header.key_epoch);
        let ring = self.ring.as_ref().ok_or(unknown)?;
        let epoch_key = ring.by_wire_epoch(header.key_epoch).ok_or(unknown)?;
        let id = SenderId::of(&header);
        let known = match self.senders.get(&id) {
            Some(known) if header.sender.boot_epoch < known.boot_epoch => return Err(OpenError::StaleEpoch),
            Some(known) if header.sender.boot_epoch == known.boot_epoch => Some(known),
            Some(_) => None,
            None if self.has_later_start(&header) => return Err(OpenError::StaleEpoch),
            None => None,
        };
        // Checked before decryption, which costs more; nothing is believed yet.
        if known.is_some_and(|sender| sender.window.is_seen(header.counter)) {
            return Err(OpenError::Replayed);
        }
        let cached = known.filter(|sender| sender.block == header.block());
        let fresh = match cached {
            Some(_) => None,
            None => Some(header.subkey(epoch_key, self.cluster)),
        };
        let key = fresh.as_ref().or(cached.map(|sender| &sender.key));
        let key = key.ok_or(OpenError::NotAuthentic)?;
        out.extend_from_slice(sealed);
        let plaintext_len = key
            .open(header.counter, clear, out)
            .map_err(|_| OpenError::NotAuthentic)?
            .len();
        out.truncate(plaintext_len);
        self.record(id, &header, fresh);
        Ok(header.sender)
    }

    /// Takes over a ring that was replaced, and forgets senders under keys that it has lost.
    fn follow_ring(&mut self) {
        let loaded = self.keys.load();
        let is_same = match (&self.ring, loaded.as_ref()) {
            (Some(seen), Some(ring)) => Arc::ptr_eq(seen, ring),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if is_same {
            return;
        }
        let before = std::mem::replace(&mut self.ring, loaded.clone());
        let (Some(before), Some(ring)) = (before, &self.ring) else {
            self.senders.clear();
            self.by_heard.clear();
            return;
        };
        let opens = |id: &SenderId| ring.opens_alike(&before, id.key_epoch);
        self.senders.retain(|id, _| opens(id));
        self.by_heard.retain(|_, id| opens(id));
    }

    /// Whether a later start of the sender was heard under another key.
    fn has_later_start(&self, header: &Header) -> bool {
        self.other_keys(header)
            .any(|(_, sender)| header.sender.boot_epoch < sender.boot_epoch)
    }

    /// What is known of a sender under any key.
    fn other_keys(&self, header: &Header) -> impl Iterator<Item = (&SenderId, &Sender)> {
        let of = |key_epoch| SenderId {
            key_epoch,
            ..SenderId::of(header)
        };
        self.senders.range(of(0)..=of(u32::MAX))
    }

    /// Remembers an authentic datagram. `fresh` is the key that opened it, if it was not the one kept.
    fn record(&mut self, id: SenderId, header: &Header, fresh: Option<AeadKey>) {
        self.tick = self.tick.wrapping_add(1);
        let (boot_epoch, block) = (header.sender.boot_epoch, header.block());
        let kept = self.senders.get_mut(&id);
        match (kept, fresh) {
            (Some(sender), fresh) if sender.boot_epoch == boot_epoch => {
                // A datagram that was late for its block leaves the key of the newer block in place.
                if let Some(key) = fresh.filter(|_| block > sender.block) {
                    (sender.key, sender.block) = (key, block);
                }
                sender.window.mark(header.counter);
                sender.last_heard = self.tick;
            }
            (_, Some(key)) => self.insert(id, header, key),
            // A key is kept only beside what it was kept for.
            (_, None) => {}
        }
    }

    /// Remembers a sender, or its new start, for the first time.
    fn insert(&mut self, id: SenderId, header: &Header, key: AeadKey) {
        let earlier: Vec<SenderId> = self
            .other_keys(header)
            .filter(|(_, sender)| sender.boot_epoch < header.sender.boot_epoch)
            .map(|(id, _)| *id)
            .collect();
        for id in earlier {
            self.forget(&id);
        }
        if self.senders.len() >= MAX_SENDERS {
            self.forget_quietest();
        }
        let mut window = ReplayWindow::default();
        window.mark(header.counter);
        let sender = Sender {
            boot_epoch: header.sender.boot_epoch,
            block: header.block(),
            key,
            window,
            last_heard: self.tick,
            listed: self.tick,
        };
        self.by_heard.insert(self.tick, id);
        self.senders.insert(id, sender);
    }

    fn forget(&mut self, id: &SenderId) {
        if let Some(sender) = self.senders.remove(id) {
            self.by_heard.remove(&sender.listed);
        }
    }

    /// Forgets the sender that was not heard for longest.
    ///
    /// Who stands first in the list and was heard since is listed anew. That happens at most once for each
    /// datagram that was opened, so a flood of new senders costs the logarithm of their number each.
    fn forget_quietest(&mut self) {
        while let Some((listed, id)) = self.by_heard.pop_first() {
            match self.senders.get_mut(&id) {
                Some(sender) if sender.last_heard > listed => {
                    sender.listed = sender.last_heard;
                    self.by_heard.insert(sender.last_heard, id);
                }
                Some(_) | None => {
                    self.senders.remove(&id);
                    return;
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn sender_count(&self) -> usize {
        assert_eq!(self.senders.len(), self.by_heard.len());
        self.senders.len()
    }
}

impl SenderId {
    const fn of(header: &Header) -> Self {
        Self {
            node: header.sender.node,
            instance: header.sender.instance,
            salt: header.salt,
            key_epoch: header.key_epoch,
        }
    }
}
