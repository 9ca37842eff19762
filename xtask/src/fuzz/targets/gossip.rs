//! Sealed datagrams, and the keys they are sealed under.

use std::sync::Arc;

use anyhow::{Result, ensure};
use rivven_transport::datagram::{DatagramOpener, DatagramSealer, GossipKey, GossipKeys, KeyRing};

use super::{CLUSTER, Target, local};

/// Every stage of two changes of keys, in order.
fn rings() -> [KeyRing; 6] {
    let key = |byte| GossipKey::from_bytes([byte; 32]);
    let first = KeyRing::bootstrap(key(1));
    let staged = first.stage(key(2), 3, 1_000, 0, false);
    let activated = staged.activate(3, 2_000);
    let retired = activated.retire(3, 3_000);
    let urgent = activated.stage(key(3), 4, 4_000, 1, true);
    let last = urgent.activate(4, 5_000);
    [first, staged, activated, retired, urgent, last]
}

/// An opener with three keys, and what was sealed under each of them and under one that it has not.
pub(super) struct Datagram {
    sealed: Vec<Vec<u8>>,
    opener: DatagramOpener,
    out: Vec<u8>,
}

impl Datagram {
    pub(super) fn new() -> Result<Self> {
        let [first, _, activated, _, urgent, last] = rings();
        let stranger = KeyRing::bootstrap(GossipKey::from_bytes([9; 32]));
        let keys = |ring| {
            let keys = GossipKeys::empty();
            keys.set(Arc::new(ring));
            keys
        };
        // This one has the keys of the three others: as the previous, the current and the next one.
        let mut opener = DatagramOpener::new(keys(urgent), CLUSTER);
        let (mut sealed, mut out) = (Vec::new(), Vec::new());
        for (ring, opens) in [(first, true), (activated, true), (last, true), (stranger, false)] {
            let keys = keys(ring);
            let sealers = [
                DatagramSealer::new(&keys, &local(3)),
                DatagramSealer::salted(&keys, &local(4))?,
            ];
            for mut sealer in sealers {
                for text in ["", "ping", "a longer payload, with more to damage"] {
                    let mut datagram = Vec::new();
                    sealer.seal(text.as_bytes(), &mut datagram)?;
                    // Opened once, so that the unchanged datagram is a replay from here on.
                    ensure!(opener.open(&datagram, &mut out).is_ok() == opens);
                    sealed.push(datagram);
                }
            }
        }
        Ok(Self { sealed, opener, out })
    }
}

impl Target for Datagram {
    fn corpus(&self) -> Vec<Vec<u8>> {
        self.sealed.clone()
    }

    fn feed(&mut self, input: &[u8]) -> bool {
        self.opener.open(input, &mut self.out).is_err() && self.out.is_empty()
    }
}

/// The ring in the data directory, which is also how peers hand it out.
pub(super) struct Ring {
    ours: KeyRing,
}

impl Ring {
    pub(super) fn new() -> Self {
        let [.., ours] = rings();
        Self { ours }
    }
}

impl Target for Ring {
    fn corpus(&self) -> Vec<Vec<u8>> {
        rings()
            .iter()
            .map(|ring| ring.to_text().as_bytes().to_vec())
            .collect()
    }

    fn feed(&mut self, input: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(input) else {
            return true;
        };
        let Ok(ring) = KeyRing::from_text(text) else {
            return true;
        };
        // A ring is spelled in one way, and of two different ones at most one supersedes the other.
        let both = [
            ring.supersedes(Some(&self.ours)),
            self.ours.supersedes(Some(&ring)),
        ];
        ring.to_text().as_str() == text && both != [Ok(true), Ok(true)]
    }
}
