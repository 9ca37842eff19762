//! What members tell each other about their rings, so that a difference is an alarm.

use rivven_hashring::Ring;

use crate::config::CheckedConfig;

/// Version of the metadata. 0 is unstable.
const VERSION: u8 = 0;

/// What decides where a ring puts things, its nodes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingMeta {
    pub(crate) spec: u16,
    pub(crate) virtual_nodes: u32,
}

impl RingMeta {
    /// That of this node.
    pub(crate) fn of(config: &CheckedConfig) -> Self {
        Self {
            spec: Ring::new(config.virtual_nodes).spec().number(),
            virtual_nodes: config.virtual_nodes,
        }
    }

    /// Seven bytes: version, specification, virtual nodes; little-endian.
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(self.spec.to_le_bytes());
        bytes.extend(self.virtual_nodes.to_le_bytes());
        bytes
    }

    /// `None` for what another release wrote, and for a member whose metadata has not arrived.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (spec, rest) = rest.split_first_chunk()?;
        let (virtual_nodes, rest) = rest.split_first_chunk()?;
        (*version == VERSION && rest.is_empty()).then(|| Self {
            spec: u16::from_le_bytes(*spec),
            virtual_nodes: u32::from_le_bytes(*virtual_nodes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_reads_back_and_nothing_else_is_believed() {
        let meta = RingMeta {
            spec: 1,
            virtual_nodes: 128,
        };
        assert_eq!(meta.encode(), [0, 1, 0, 128, 0, 0, 0]);
        assert_eq!(RingMeta::decode(&meta.encode()), Some(meta));
        for other in [
            &[][..],
            &[0],
            &[1, 1, 0, 128, 0, 0, 0],
            &[0, 1, 0, 128, 0, 0, 0, 0],
        ] {
            assert_eq!(RingMeta::decode(other), None, "{other:?}");
        }
    }
}
