//! A ring in serde: what it was told, never the tokens, which the specification gives back.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Generation, Ring};
use crate::{MAX_NODES, RingError, RingNode, SpecVersion, Weight};

#[derive(Serialize, Deserialize)]
struct RingRepr {
    spec: u16,
    virtual_nodes: u32,
    generation: u64,
    nodes: Vec<NodeRepr>,
}

#[derive(Serialize, Deserialize)]
struct NodeRepr {
    name: String,
    weight_percent: u32,
    zone: Option<String>,
}

impl Serialize for Ring {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let nodes = self.nodes().map(|node| NodeRepr {
            name: node.name.as_str().into(),
            weight_percent: node.weight.as_percent(),
            zone: node.zone.as_ref().map(|zone| zone.as_str().into()),
        });
        let repr = RingRepr {
            spec: self.spec.number(),
            virtual_nodes: self.virtual_nodes,
            generation: self.generation.0,
            nodes: nodes.collect(),
        };
        repr.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Ring {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let repr = RingRepr::deserialize(deserializer)?;
        Self::try_from(repr).map_err(de::Error::custom)
    }
}

impl TryFrom<RingRepr> for Ring {
    type Error = RingError;

    fn try_from(repr: RingRepr) -> Result<Self, RingError> {
        SpecVersion::try_from(repr.spec)?;
        if repr.nodes.len() > MAX_NODES {
            return Err(RingError::TooManyNodes);
        }
        let mut ring = Self::try_new(repr.virtual_nodes)?;
        let nodes = repr.nodes.into_iter().map(|node| {
            let weight = Weight::percent(node.weight_percent)?;
            let mut next = RingNode::new(node.name).weighing(weight);
            next.zone = node.zone.map(Into::into);
            Ok(next)
        });
        ring.add_all(nodes.collect::<Result<Vec<_>, RingError>>()?)?;
        ring.generation = Generation(repr.generation);
        Ok(ring)
    }
}
