//! Why a member could not start.

use std::io;

use rivven_transport::EntropyError;
use rivven_types::PeerAddr;

use crate::ConfigError;

/// Why a [`SwimNode`](crate::SwimNode) did not start. Nothing keeps running, nothing was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting cannot work. Correct it; trying again does not help.
    #[error("gossip configuration: {0}")]
    Config(#[from] ConfigError),
    /// Another process, or another node of this one, has the gossip port.
    ///
    /// Stop it or choose another port, then try again.
    #[error("gossip port {addr} (UDP) is in use; stop the process that has it or choose another port")]
    PortInUse {
        /// The address as configured.
        addr: PeerAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The gossip address cannot be bound: it is not of this machine, does not resolve, or is privileged.
    ///
    /// Bind an address of this machine, or 0.0.0.0 for all of them.
    #[error("cannot bind gossip address {addr} (UDP): {source}; bind an address of this machine or 0.0.0.0")]
    Bind {
        /// The address as configured.
        addr: PeerAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// No key was given, and running in the clear was not asked for by name.
    #[error("no gossip key: call key(..) with the cluster's gossip.key, or insecure() to run in the clear")]
    NoKey,
    /// The operating system gave no randomness, which a member without a durable boot epoch needs.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// A key was given without the identity to seal under.
    #[error("a gossip key needs an identity: call identity(..)")]
    NoIdentity,
}

impl StartError {
    /// Stable name of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Config(error) => error.code(),
            Self::PortInUse { .. } => "port-in-use",
            Self::Bind { .. } => "gossip-bind",
            Self::NoKey => "gossip-no-key",
            Self::Entropy(error) => error.code(),
            Self::NoIdentity => "gossip-no-identity",
        }
    }
}
