//! Feature levels, as requests.

use bytes::Bytes;
use hyper::Method;
use rivven_admin::{FeaturesBody, FinalizedBody};

use super::{AdminClient, ClientError, member::percent_encoded};

impl AdminClient {
    /// Which feature levels are finalised, and which every member supports.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn features(&mut self) -> Result<FeaturesBody, ClientError> {
        self.get_json("/v1/features").await
    }

    /// Lets the cluster use `level` of `feature`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn finalize_feature(
        &mut self,
        feature: &str,
        level: u32,
    ) -> Result<FinalizedBody, ClientError> {
        let path = format!("/v1/features/{}?level={level}", percent_encoded(feature));
        self.json(Method::POST, &path, Bytes::new()).await
    }
}
