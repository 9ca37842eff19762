//! Typed methods: number, traffic class, size limits, request and response.

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    identity::Roles,
    limits::{HEAD_ROOM, max_frame},
};

/// Traffic class of a method; a lower class never delays a higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Heartbeats, votes, pings: small and urgent.
    Control,
    /// Log replication.
    Raft,
    /// Calls made for a client of the cluster.
    Client,
    /// Snapshots and catch-up; on a connection of its own.
    Bulk,
}

impl Class {
    /// Every class, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Control, Self::Raft, Self::Client, Self::Bulk];

    /// The word for it in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Raft => "raft",
            Self::Client => "client",
            Self::Bulk => "bulk",
        }
    }

    /// Position in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// A method that peers can call.
///
/// Bodies are [postcard](https://docs.rs/postcard). Numbers below `0x8000` belong to this project:
/// `0x00xx` transport, `0x01xx` Raft, `0x02xx` cluster, `0x03xx` gossip.
pub trait Method: Send + Sync + 'static {
    /// Number on the wire; never reused for another meaning.
    const ID: u16;
    /// Name in logs and metrics.
    const NAME: &'static str;
    /// Traffic class.
    const CLASS: Class;
    /// Most bytes of an encoded request, up to [`max_body`] of the class; larger ones are refused before they are
    /// sent or allocated.
    const MAX_REQUEST: usize;
    /// Most bytes of an encoded response, up to [`max_body`] of the class.
    const MAX_RESPONSE: usize;
    /// Who may call it, by the role in the caller's certificate; nodes alone unless said otherwise.
    const ROLES: Roles = Roles::NODE;
    /// Whether it may be called with a certificate that has expired. Made for renewing it, and nothing else.
    const AFTER_EXPIRY: bool = false;
    /// Whether it may be called without a certificate, by who is no member yet. Made for joining, and nothing
    /// else: such a caller has node id 0, and has proven nothing.
    const STRANGERS: bool = false;
    /// What is asked.
    type Request: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What is answered.
    type Response: Serialize + DeserializeOwned + Send + Sync + 'static;
}

/// Most bytes of a request or response of `class`: a frame has a head too. 1 MiB less 64 bytes for Control, 8 MiB
/// less 64 for Raft and Client, 1 MiB and 64 KiB less 64 for Bulk.
#[must_use]
pub const fn max_body(class: Class) -> usize {
    max_frame(class) - HEAD_ROOM
}

/// The constants of a [`Method`] as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodSpec {
    /// [`Method::ID`].
    pub id: u16,
    /// [`Method::NAME`].
    pub name: &'static str,
    /// [`Method::CLASS`].
    pub class: Class,
    /// [`Method::MAX_REQUEST`].
    pub max_request: usize,
    /// [`Method::MAX_RESPONSE`].
    pub max_response: usize,
    /// [`Method::ROLES`].
    pub roles: Roles,
    /// [`Method::AFTER_EXPIRY`].
    pub after_expiry: bool,
    /// [`Method::STRANGERS`].
    pub strangers: bool,
}

impl MethodSpec {
    /// The constants of `M`.
    ///
    /// A method whose limits do not fit the frames of its class does not compile.
    #[must_use]
    pub const fn of<M: Method>() -> Self {
        const {
            assert!(
                M::MAX_REQUEST <= max_body(M::CLASS),
                "MAX_REQUEST is larger than the frames of the class"
            );
            assert!(
                M::MAX_RESPONSE <= max_body(M::CLASS),
                "MAX_RESPONSE is larger than the frames of the class"
            );
        }
        Self {
            id: M::ID,
            name: M::NAME,
            class: M::CLASS,
            max_request: M::MAX_REQUEST,
            max_response: M::MAX_RESPONSE,
            roles: M::ROLES,
            after_expiry: M::AFTER_EXPIRY,
            strangers: M::STRANGERS,
        }
    }
}
