//! Bodies about feature levels.

use rivven_types::NodeId;
use serde::{Deserialize, Serialize};

/// Answer of `GET /v1/features`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeaturesBody {
    /// Every feature that is finalised or that a member supports, by name.
    pub features: Vec<FeatureBody>,
    /// Members that did not say what they support; no level can be finalised before they do.
    pub silent: Vec<NodeId>,
}

/// One feature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureBody {
    /// Its name; `rivven` for the formats of this software itself.
    pub feature: String,
    /// The level that is finalised; 0 if none is.
    pub finalized: u32,
    /// The highest level that every member supports that said so.
    pub common: u32,
    /// What each of them supports.
    pub members: Vec<MemberLevelBody>,
}

/// What a member supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberLevelBody {
    /// The member.
    pub node_id: NodeId,
    /// The highest level; 0 if it does not know the feature.
    pub level: u32,
}

/// Answer of `POST /v1/features/{feature}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalizedBody {
    /// The level that is finalised, which is higher than asked for if a higher one was before.
    pub level: u32,
}
