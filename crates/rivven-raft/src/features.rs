//! Feature levels as an operator sees them: what is finalised, and what every member would support.

mod auto;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use rivven_transport::{CallCtx, CallError};
use rivven_types::NodeId;

pub(crate) use auto::finalize_when_agreed;

use crate::{
    FinalizeError, RaftNode, StateMachine,
    node::Inner,
    session::{SYSTEM_DEADLINE, unexpected},
    system::{Levels, SystemCommand, SystemResponse},
    wire::SupportedLevels,
};

/// How long a member may take to say which levels it supports.
const LEVELS_TIMEOUT: Duration = Duration::from_secs(2);

/// The feature levels of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FeatureView {
    /// Every feature that is finalised or that a member supports.
    pub features: BTreeMap<String, FeatureLevels>,
    /// Members that did not say what they support. No level can be finalised before they do.
    pub silent: BTreeSet<NodeId>,
}

/// The levels of one feature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FeatureLevels {
    /// What is finalised, as far as the node that was asked has applied the log; 0 if nothing is.
    pub finalized: u32,
    /// The highest level that each member supports that said so; 0 if it does not know the feature.
    pub supported: BTreeMap<NodeId, u32>,
}

impl FeatureLevels {
    /// The highest level that all members support that said so.
    #[must_use]
    pub fn common(&self) -> u32 {
        self.supported.values().copied().min().unwrap_or(0)
    }
}

/// Puts together what is finalised and what members said.
fn view(finalized: Levels, said: Vec<(NodeId, Option<Levels>)>) -> FeatureView {
    let mut view = FeatureView::default();
    for (name, level) in finalized {
        view.features.entry(name).or_default().finalized = level;
    }
    for name in said
        .iter()
        .filter_map(|(_, levels)| levels.as_ref())
        .flat_map(Levels::keys)
    {
        view.features.entry(name.clone()).or_default();
    }
    for (node, levels) in said {
        let Some(levels) = levels else {
            view.silent.insert(node);
            continue;
        };
        for (name, feature) in &mut view.features {
            let level = levels.get(name).copied().unwrap_or(0);
            feature.supported.insert(node, level);
        }
    }
    view
}

impl<S: StateMachine> RaftNode<S> {
    /// Which feature levels are finalised, and which every member supports. Asks all members, at most for 2 s.
    pub async fn features(&self) -> FeatureView {
        self.inner().features().await
    }

    /// Allows commands that need `level` of `feature`, once every member supports it. Cannot be undone: from
    /// then on no member can go back to a release that does not support it.
    ///
    /// Returns the level that is finalised, which is higher if a higher one was before.
    /// Done by itself with [`RaftBuilder::auto_finalize`](crate::RaftBuilder::auto_finalize).
    ///
    /// # Errors
    /// A member does not support the level or cannot be asked, or the proposal failed.
    pub async fn finalize_feature(&self, feature: &str, level: u32) -> Result<u32, FinalizeError> {
        self.inner().finalize_feature(feature, level).await
    }

    /// The finalised levels, by feature, as far as this node has applied the log.
    pub async fn finalized_features(&self) -> BTreeMap<String, u32> {
        self.inner().finalized_features().await
    }
}

impl<S: StateMachine> Inner<S> {
    async fn features(&self) -> FeatureView {
        let status = self.status();
        let members = status.voters.into_iter().chain(status.learners);
        let asked = members.map(|node| async move { (node, self.supported_by(node).await.ok()) });
        let said = join_all(asked).await;
        view(self.finalized_features().await, said)
    }

    /// What a member supports.
    async fn supported_by(&self, node: NodeId) -> Result<Levels, CallError> {
        if node == self.node_id {
            return Ok(self.supported.clone());
        }
        let ctx = CallCtx::timeout(LEVELS_TIMEOUT);
        self.transport.call::<SupportedLevels>(node, &(), ctx).await
    }

    async fn finalized_features(&self) -> Levels {
        let read = self
            .shared
            .read_system(|system| system.features.finalized().clone());
        read.await
    }

    async fn finalize_feature(self: &Arc<Self>, feature: &str, level: u32) -> Result<u32, FinalizeError> {
        let status = self.status();
        for node in status.voters.into_iter().chain(status.learners) {
            let supported = self.supported_by(node).await;
            let supported = supported.map_err(|error| FinalizeError::Unreachable {
                node,
                cause: error.to_string(),
            })?;
            let supported = supported.get(feature).copied().unwrap_or(0);
            if supported < level {
                let feature = feature.to_owned();
                return Err(FinalizeError::Unsupported {
                    node,
                    feature,
                    level,
                    supported,
                });
            }
        }
        let feature = feature.to_owned();
        let command = SystemCommand::Finalize { feature, level };
        match self.submit_system(&command, SYSTEM_DEADLINE).await? {
            SystemResponse::Finalized { level } => Ok(level),
            other => Err(unexpected(&other).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(levels: &[(&str, u32)]) -> Levels {
        levels
            .iter()
            .map(|(name, level)| ((*name).to_owned(), *level))
            .collect()
    }

    #[test]
    fn a_feature_is_as_far_as_the_member_that_is_least_far() {
        let seen = view(
            levels(&[("rivven", 1), ("old", 3)]),
            vec![
                (1, Some(levels(&[("rivven", 2), ("new", 1)]))),
                (2, Some(levels(&[("rivven", 3)]))),
                (3, None),
            ],
        );
        let common: Vec<_> = seen
            .features
            .iter()
            .map(|(name, levels)| (name.as_str(), levels.finalized, levels.common()))
            .collect();
        assert_eq!(common, [("new", 0, 0), ("old", 3, 0), ("rivven", 1, 2)]);
        assert_eq!(seen.silent, BTreeSet::from([3]));
    }
}
