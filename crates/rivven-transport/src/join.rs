//! How a node without a certificate gets one: with a token that is good once, from an issuer it can verify.
//!
//! A [`JoinToken`] names the node, the cluster's authority and where an issuer answers. The joining node
//! makes its key, dials the issuer, and believes nobody but a member certified by that authority; only then
//! it shows the token's secret and a request for its key. The issuer has a [`TokenLedger`] spend the token,
//! and answers with the certificate and what else a node's directory holds.

mod client;
mod ledger;
#[cfg(test)]
mod tests;
mod token;

use std::{fmt, sync::Arc};

use rivven_types::NodeId;
use serde::{Deserialize, Serialize};
use tracing::info;
use zeroize::Zeroizing;

use crate::{
    Class, Method, Rejection,
    datagram::GossipKey,
    identity::{
        CertificateAuthority, CertificateName, IdentityError, IdentityWatch, MAX_REQUEST, Roles, Subject,
        Validity, request_key,
    },
};

pub use client::{JoinError, join};
pub(crate) use ledger::UNAVAILABLE;
pub use ledger::{KeyHash, MAX_TOKENS, MemoryLedger, TOKEN_LIFE, TokenBook, TokenLedger, TokenRefusal};
pub use token::{
    JoinSecret, JoinToken, MAX_ADDRESSES, MAX_TOKEN_TEXT, MakeTokenError, ParseTokenError, TokenId, TokenSpec,
};

/// Asks for the first certificate of a node. The only method that answers a caller without a certificate.
#[derive(Debug)]
pub struct Join;

/// See [`Join`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The node to become.
    pub node: NodeId,
    /// The secret of its token.
    pub secret: JoinSecret,
    /// PKCS #10, DER: proof that the caller holds the key to certify.
    pub request: Vec<u8>,
}

/// See [`Join`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinResponse {
    /// The certificate, PEM.
    pub certificate: String,
    /// What `ca.pem` is to hold.
    pub authorities: String,
    /// What `gossip.key` is to hold. A secret.
    pub gossip_key: Option<String>,
    /// How the cluster writes names, see [`SanTemplate`](crate::identity::SanTemplate).
    pub template: String,
}

impl fmt::Debug for JoinResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinResponse").finish_non_exhaustive()
    }
}

impl Drop for JoinResponse {
    fn drop(&mut self) {
        drop(self.gossip_key.take().map(Zeroizing::new));
    }
}

impl Method for Join {
    const ID: u16 = 0x0002;
    const NAME: &'static str = "join";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = MAX_REQUEST + 64;
    /// `ca.pem` has at most 64 KiB.
    const MAX_RESPONSE: usize = 128 << 10;
    /// Members have a certificate, and renew it.
    const ROLES: Roles = Roles::of(&[]);
    const STRANGERS: bool = true;
    type Request = JoinRequest;
    type Response = JoinResponse;
}

/// What an issuer needs to let nodes join.
#[derive(Clone)]
pub(crate) struct Admission {
    pub(crate) ledger: Arc<dyn TokenLedger>,
    pub(crate) identity: IdentityWatch,
    pub(crate) gossip_key: Option<GossipKey>,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Admission {
    /// Certifies the key of `asked` for the node of its token.
    pub(crate) async fn admit(
        &self,
        authority: &CertificateAuthority,
        life: Validity,
        asked: &JoinRequest,
    ) -> Result<JoinResponse, Rejection> {
        // First what costs the token nothing: a request that cannot be granted must not spend it.
        let key = request_key(&asked.request).map_err(rejection)?;
        let token = TokenId::of(authority.cluster(), &asked.secret);
        if let Err(refusal) = self.ledger.consume(token, asked.node, key).await {
            info!(node = asked.node, %token, code = refusal.code(), "refused to let a node join");
            return Err(Rejection::new(refusal.code(), refusal.to_string()));
        }
        let name = CertificateName {
            cluster: authority.cluster(),
            subject: Subject::Node(asked.node),
        };
        let certificate = authority
            .sign_request(&asked.request, name, life)
            .map_err(rejection)?;
        info!(node = asked.node, %token, "issued a certificate to a joining node");
        let current = self.identity.current();
        Ok(JoinResponse {
            certificate,
            authorities: current.authorities_pem().to_owned(),
            gossip_key: self.gossip_key.as_ref().map(|key| key.to_text().to_string()),
            template: current.template().to_string(),
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err hands over")]
fn rejection(error: IdentityError) -> Rejection {
    Rejection::new(error.code(), error.to_string())
}
