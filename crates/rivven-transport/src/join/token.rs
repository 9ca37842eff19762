//! What lets one node join: made by a member, carried by a person, spent once.

mod text;

use std::fmt;

use rivven_crypto::{EntropyError, hkdf_sha256, random_bytes};
use rivven_types::{ClusterId, NodeId, PeerAddr};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

pub use text::{MAX_TOKEN_TEXT, ParseTokenError};

/// Most addresses in one token.
pub const MAX_ADDRESSES: usize = 4;

/// Binds what is derived from a secret to its use.
const DERIVE: &[u8] = b"rivven join token 0";

/// The secret in a token, wiped from memory on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinSecret(Zeroizing<[u8; 32]>);

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(redacted)")
    }
}

impl Serialize for JoinSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JoinSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Zeroizing::new(<[u8; 32]>::deserialize(deserializer)?)))
    }
}

/// A token as issuers know it: derived from cluster and secret, and of no use to whoever reads it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TokenId([u8; 32]);

impl TokenId {
    /// The token of `cluster` with this secret.
    #[must_use]
    pub fn of(cluster: ClusterId, secret: &JoinSecret) -> Self {
        let mut id = [0; 32];
        // HKDF yields up to 8,160 bytes, so 32 cannot be too many.
        let _ = hkdf_sha256(&cluster.to_bytes(), &secret.0[..], &[DERIVE], &mut id);
        Self(id)
    }

    /// An id for tests and simulation.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// The first 8 bytes, enough to find a token again in a log.
impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g, h, i, ..] = self.0;
        write!(f, "{:016x}", u64::from_be_bytes([a, b, c, d, e, g, h, i]))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

/// Lets one node get its certificate, once.
///
/// Whoever holds the text can become that node until the token is spent or ends: hand it over like a
/// password. The text is `rivven-join-` and base32; `docs/formats/wire.md` has the layout.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    cluster: ClusterId,
    authority: [u8; 32],
    secret: JoinSecret,
    node: NodeId,
    expires_s: u64,
    addresses: Vec<PeerAddr>,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .field("id", &self.id())
            .field("expires_s", &self.expires_s)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// What a token is made of, beside its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSpec {
    /// The cluster to join.
    pub cluster: ClusterId,
    /// SHA-256 of the certificate, DER, of the authority that whoever answers must be certified by.
    pub authority: [u8; 32],
    /// The node to become, above 0.
    pub node: NodeId,
    /// When it ends, in seconds since the beginning of 1970, UTC. For people: the ledger decides.
    pub expires_s: u64,
    /// Where issuers answer; 1 to [`MAX_ADDRESSES`].
    pub addresses: Vec<PeerAddr>,
}

/// Why no token was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MakeTokenError {
    /// Node 0 is nobody. Name a node id above 0.
    #[error("node id 0 is nobody's; name an id above 0")]
    NoNode,
    /// A token names 1 to 4 addresses that can be dialled.
    #[error("a join token names 1 to 4 addresses that can be dialled")]
    Addresses,
    /// The operating system gave no randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

impl MakeTokenError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoNode | Self::Addresses => "join-token-not-made",
            Self::Entropy(_) => "no-entropy",
        }
    }
}

impl JoinToken {
    /// A new token with a secret of its own. It opens nothing until a ledger knows its [`Self::id`].
    ///
    /// # Errors
    /// [`MakeTokenError`].
    pub fn generate(spec: TokenSpec) -> Result<Self, MakeTokenError> {
        Self::with_secret(spec, JoinSecret(Zeroizing::new(random_bytes()?)))
    }

    fn with_secret(spec: TokenSpec, secret: JoinSecret) -> Result<Self, MakeTokenError> {
        let dialable = |addr: &PeerAddr| !addr.is_unspecified() && addr.port() != 0;
        if spec.node == 0 {
            return Err(MakeTokenError::NoNode);
        }
        if !(1..=MAX_ADDRESSES).contains(&spec.addresses.len()) || !spec.addresses.iter().all(dialable) {
            return Err(MakeTokenError::Addresses);
        }
        Ok(Self {
            cluster: spec.cluster,
            authority: spec.authority,
            secret,
            node: spec.node,
            expires_s: spec.expires_s,
            addresses: spec.addresses,
        })
    }

    /// The token as issuers know it.
    #[must_use]
    pub fn id(&self) -> TokenId {
        TokenId::of(self.cluster, &self.secret)
    }

    /// The cluster to join.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The node to become.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// When it ends, in seconds since the beginning of 1970, UTC.
    #[must_use]
    pub const fn expires_s(&self) -> u64 {
        self.expires_s
    }

    /// Where issuers answer.
    #[must_use]
    pub fn addresses(&self) -> &[PeerAddr] {
        &self.addresses
    }

    pub(crate) const fn authority(&self) -> &[u8; 32] {
        &self.authority
    }

    pub(crate) const fn secret(&self) -> &JoinSecret {
        &self.secret
    }
}
