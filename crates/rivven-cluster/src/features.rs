//! Feature levels: what the cluster may write to its log, so that every member understands it.

use rivven_raft::{FeatureView, FinalizeError};

use crate::{Cluster, inner::Inner};

/// Why there is no answer about feature levels, or none was finalised.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeatureError {
    /// The cluster is not founded yet, or this node is stopping. Not done; wait, or ask another node.
    #[error("this node cannot say which levels there are: {cause}")]
    NotReady {
        /// What it waits for.
        cause: String,
    },
    /// A member does not support the level or cannot be asked, or the level could not be written down.
    #[error(transparent)]
    Finalize(#[from] FinalizeError),
}

impl FeatureError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotReady { .. } => "not-ready",
            Self::Finalize(error) => error.code(),
        }
    }
}

fn not_ready(inner: &Inner) -> FeatureError {
    FeatureError::NotReady {
        cause: inner.waiting_for(),
    }
}

impl Cluster {
    /// Which feature levels are finalised, and which every member supports.
    ///
    /// # Errors
    /// [`FeatureError::NotReady`].
    pub async fn features(&self) -> Result<FeatureView, FeatureError> {
        let inner = self.inner();
        let raft = inner.raft().ok_or_else(|| not_ready(inner))?;
        Ok(raft.features().await)
    }

    /// Lets the cluster use `level` of `feature`, once every member supports it. Cannot be undone: from then on no
    /// member can go back to a release that does not support it.
    ///
    /// Returns the level that is finalised, which is higher if a higher one was before.
    /// Cancel safety: a dropped future may have finalised the level; asking again is harmless.
    ///
    /// # Errors
    /// [`FeatureError`].
    pub async fn finalize_feature(&self, feature: &str, level: u32) -> Result<u32, FeatureError> {
        let inner = self.inner();
        let raft = inner.raft().ok_or_else(|| not_ready(inner))?;
        Ok(raft.finalize_feature(feature, level).await?)
    }
}
