//! The live handle to a node's ring of keys.

use std::{fmt, sync::Arc};

use arc_swap::{ArcSwapOption, Guard};
use tokio::sync::Notify;

use super::{GossipKey, KeyRing};

/// The keys a node seals and opens with, replaceable while it does. Clones are the same keys.
///
/// Without a ring nothing is sealed and nothing opens: a node that waits for its keys is mute.
#[derive(Clone, Default)]
pub struct GossipKeys(Arc<Shared>);

#[derive(Default)]
struct Shared {
    ring: ArcSwapOption<KeyRing>,
    /// Told when a datagram came that no key opens.
    missing: Notify,
}

impl fmt::Debug for GossipKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GossipKeys").field(&self.ring()).finish()
    }
}

impl GossipKeys {
    /// No keys yet.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// One key that nobody rotates, of epoch 0, for use without connections to hand keys out over.
    #[must_use]
    pub fn fixed(key: GossipKey) -> Self {
        let keys = Self::empty();
        keys.set(Arc::new(KeyRing::bootstrap(key)));
        keys
    }

    /// Replaces the ring; what is sealed and opened from this moment on follows it.
    pub fn set(&self, ring: Arc<KeyRing>) {
        self.0.ring.store(Some(ring));
    }

    /// The ring in use.
    #[must_use]
    pub fn ring(&self) -> Option<Arc<KeyRing>> {
        self.0.ring.load_full()
    }

    /// Says that a datagram came under a key that is not in the ring, or that no key opens.
    ///
    /// Cheap, and true of forgeries too: whoever acts on it limits how often.
    pub fn report_missing(&self) {
        self.0.missing.notify_one();
    }

    /// Waits for [`Self::report_missing`]; a report made before the call counts. Cancel safe.
    pub async fn missing(&self) {
        self.0.missing.notified().await;
    }

    pub(super) fn load(&self) -> Guard<Option<Arc<KeyRing>>> {
        self.0.ring.load()
    }
}

impl From<&Self> for GossipKeys {
    fn from(keys: &Self) -> Self {
        keys.clone()
    }
}

impl From<&GossipKey> for GossipKeys {
    fn from(key: &GossipKey) -> Self {
        Self::fixed(key.clone())
    }
}

impl From<GossipKey> for GossipKeys {
    fn from(key: GossipKey) -> Self {
        Self::fixed(key)
    }
}
