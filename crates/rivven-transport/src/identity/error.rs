//! What can be wrong with certificates and keys.

use std::{io, path::PathBuf};

use rivven_types::NodeId;

/// Why an identity cannot be used or made. No file is changed unless the variant says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file of the identity does not exist. Make certificates, or point `tls_dir` at them.
    #[error(
        "{} does not exist; make certificates with `rivven-node cert init --nodes 1,2,3 --out DIR` \
         and give this node its directory DIR/node-<id>", path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The operating system does not let this process read the file. Check owner and mode.
    #[error("cannot read {}: {source}; check its owner and mode", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Others than the owner can read a private key. Restrict it.
    #[error("the private key {0} can be read by others; run `chmod 600 {0}`", path.display())]
    KeyExposed {
        /// The key file.
        path: PathBuf,
    },
    /// The file does not hold what its name says. Replace it.
    #[error("{} is not usable: {cause}; replace it with what `rivven-node cert init` wrote", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: &'static str,
    },
    /// The certificate's time is over. Have the cluster's certificate authority issue a new one.
    #[error(
        "the certificate {} expired on {not_after}; issue a new one with `rivven-node cert issue --ca DIR --node ID`, \
         where DIR holds the authority's ca.pem and ca.key", path.display()
    )]
    Expired {
        /// The certificate file.
        path: PathBuf,
        /// Its last second, for people.
        not_after: String,
    },
    /// The certificate's time has not come. Usually this machine's clock is behind.
    #[error(
        "the certificate {} is not valid before {not_before}; check this machine's clock", path.display()
    )]
    NotYetValid {
        /// The certificate file.
        path: PathBuf,
        /// Its first second, for people.
        not_before: String,
    },
    /// The certificate was not signed by the authority beside it. The files belong to two clusters.
    #[error(
        "the certificate {} was not signed by {}; use the files of one `rivven-node cert init` together",
        path.display(), ca.display()
    )]
    NotSignedByCa {
        /// The certificate file.
        path: PathBuf,
        /// The authority's certificate.
        ca: PathBuf,
    },
    /// The private key belongs to another certificate. The files belong to two nodes.
    #[error(
        "the private key {} does not belong to the certificate {}; use the files of one directory together",
        key.display(), path.display()
    )]
    KeyMismatch {
        /// The certificate file.
        path: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// The certificate that would replace the one in use is of another node or cluster. The one in use stays.
    #[error(
        "the new certificate is of node {found}, or of another cluster, and this is node {ours}; a running node \
         keeps its name: restore the certificate of node {ours}"
    )]
    OtherNode {
        /// The node in use.
        ours: NodeId,
        /// The node of the new certificate.
        found: NodeId,
    },
    /// A file that would be written exists. Nothing was written; choose an empty directory.
    #[error("{} exists already and is never overwritten; choose an empty directory", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be written. Those written before it stay; remove the directory and retry.
    #[error("cannot write {}: {source}; check the directory and the space left, then start over", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The list of nodes to make certificates for is unusable. Nothing was written.
    #[error("cannot make certificates for these nodes: {cause}; name 1 to 10000 different ids above 0")]
    BadNodes {
        /// What is wrong with the list.
        cause: BadNodes,
    },
    /// A certificate could not be made, for instance because its dates are out of range.
    #[error("cannot make a certificate: {cause}")]
    Issue {
        /// What the encoder said.
        cause: String,
    },
    /// A certificate signing request cannot be granted. No certificate was made.
    #[error("the certificate request is not usable: {cause}; make a new one with the key of the node")]
    BadRequest {
        /// What is wrong with it.
        cause: &'static str,
    },
    /// The operating system gave no randomness. Nothing was written.
    #[error(transparent)]
    Entropy(#[from] rivven_crypto::EntropyError),
}

/// What is wrong with a list of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadNodes {
    /// It is empty.
    #[error("there are none")]
    None,
    /// It is longer than a cluster may be.
    #[error("there are {0}")]
    TooMany(usize),
    /// A node stands in it twice.
    #[error("node {0} is named twice")]
    Twice(NodeId),
    /// Zero is not a node id.
    #[error("0 is no node id")]
    Zero,
}

impl IdentityError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "identity-missing",
            Self::Unreadable { .. } => "identity-unreadable",
            Self::KeyExposed { .. } => "identity-key-exposed",
            Self::Malformed { .. } => "identity-malformed",
            Self::Expired { .. } => "certificate-expired",
            Self::NotYetValid { .. } => "certificate-not-yet-valid",
            Self::NotSignedByCa { .. } => "certificate-not-signed-by-ca",
            Self::KeyMismatch { .. } => "identity-key-mismatch",
            Self::OtherNode { .. } => "identity-other-node",
            Self::Exists { .. } => "identity-exists",
            Self::Unwritable { .. } => "identity-unwritable",
            Self::BadNodes { .. } => "identity-bad-nodes",
            Self::Issue { .. } => "identity-issue-failed",
            Self::BadRequest { .. } => "bad-certificate-request",
            Self::Entropy(_) => "no-entropy",
        }
    }
}
