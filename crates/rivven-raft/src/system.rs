//! What every replicated state has beside the application's: log time, sessions, feature levels, the digest.

mod digest;
mod encode;
mod feature;
mod refounding;
mod reply;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use rivven_transport::identity::{Role, Roles};
use serde::{Deserialize, Serialize};

pub(crate) use self::{
    digest::Chain,
    feature::Features,
    refounding::{Refound, Refoundings},
    reply::{Reply, encode_response},
    session::{Admission, SessionTag, Sessions, body_crc},
};
pub use self::{
    digest::Digest,
    feature::{MAX_FEATURES, RIVVEN_FEATURE, RIVVEN_LEVEL},
    refounding::{MAX_REFOUNDINGS, REFOUNDING_GAP, Refounding, RefoundingCause},
    session::{
        MAX_KEPT_REPLY_BYTES, MAX_SESSION_REPLY_BYTES, MAX_SESSION_TTL_MS, MAX_SESSIONS, MIN_SESSION_TTL_MS,
        SESSION_WINDOW, SessionId,
    },
};
use crate::{
    Refusal,
    membership::{MemberCommand, Records},
    service::propose::not_allowed,
};

/// The part of the replicated state that wraps every state machine (design decision D13).
#[derive(Clone, Debug, Default)]
pub(crate) struct System {
    /// Milliseconds that the leaders' ticks say have passed.
    pub(crate) log_time_ms: u64,
    pub(crate) sessions: Sessions,
    pub(crate) features: Features,
    pub(crate) members: Records,
    pub(crate) chain: Chain,
    pub(crate) refoundings: Refoundings,
}

/// A command of namespace 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SystemCommand {
    /// Time has passed. Proposed by the leader alone.
    Tick { now_ms: u64 },
    /// Opens a session that ends when it is not used for so long.
    OpenSession { ttl_ms: u64 },
    /// Gives a session its whole time again.
    RenewSession { session: SessionId },
    /// Ends a session.
    CloseSession { session: SessionId },
    /// Allows what needs this level of a feature. Cannot be undone.
    Finalize { feature: String, level: u32 },
    /// Changes what is known and wanted of a member. Proposed by the leader alone, which checks it.
    Member(MemberCommand),
    /// The group begins anew with one member. Never proposed.
    Refound(Box<Refound>),
}

/// The answer to a [`SystemCommand`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SystemResponse {
    /// Done; there is nothing to say.
    Done,
    /// The session is open.
    SessionOpened { session: SessionId },
    /// There is no such session: it ended, or never was.
    NoSession,
    /// The level that is finalised: the one asked for, or a higher one from before.
    Finalized { level: u32 },
    /// Nothing was changed.
    Refused(Refusal),
}

impl SystemCommand {
    /// Refuses a command before it is proposed, for a peer or for this node.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        match self {
            // Time is the leader's to tell: a client that could would end everyone's leases.
            Self::Tick { .. } => Err(Refusal::new(
                "unknown-namespace",
                "ticks are not proposed by peers",
            )),
            Self::Refound(_) => Err(Refusal::new("unknown-namespace", "no running group begins anew")),
            Self::OpenSession { ttl_ms } => session::check_ttl(*ttl_ms),
            Self::RenewSession { .. } | Self::CloseSession { .. } => Ok(()),
            Self::Finalize { feature, .. } => feature::check_name(feature),
            Self::Member(command) => command.check(),
        }
    }

    /// The same for a command that comes from the holder of a certificate.
    pub(crate) fn check_from(&self, role: Option<Role>) -> Result<(), Refusal> {
        self.check()?;
        let allowed = match self {
            // Changes of members are asked of the leader, which checks them against all it knows.
            Self::Tick { .. } | Self::Member(_) | Self::Refound(_) => Roles::of(&[]),
            Self::OpenSession { .. } | Self::RenewSession { .. } | Self::CloseSession { .. } => {
                Roles::of(&[Role::Node, Role::Operator, Role::Client])
            }
            Self::Finalize { .. } => Roles::of(&[Role::Node, Role::Operator]),
        };
        if role.is_some_and(|role| allowed.contains(role)) {
            return Ok(());
        }
        Err(not_allowed(role))
    }
}

impl System {
    /// Whether something here waits for time to pass.
    pub(crate) const fn needs_ticks(&self) -> bool {
        !self.sessions.is_empty()
    }

    /// Carries out a command other than a tick or a refounding.
    ///
    /// # Errors
    /// This node does not support a level that the others have finalised, and must not go on.
    pub(crate) fn apply(&mut self, index: u64, command: SystemCommand) -> Result<SystemResponse, String> {
        // Limits were checked before it was proposed. Were they checked again here, two releases with different
        // limits would answer differently.
        Ok(match command {
            SystemCommand::Tick { .. } | SystemCommand::Refound(_) => SystemResponse::Done,
            SystemCommand::OpenSession { ttl_ms } => {
                let id = index.saturating_add(self.refoundings.offset());
                match self.sessions.open(id, ttl_ms) {
                    Ok(session) => SystemResponse::SessionOpened { session },
                    Err(refusal) => SystemResponse::Refused(refusal),
                }
            }
            SystemCommand::RenewSession { session } => answered(self.sessions.renew(session)),
            SystemCommand::CloseSession { session } => answered(self.sessions.close(session)),
            SystemCommand::Finalize { feature, level } => match self.features.finalize(&feature, level)? {
                Ok(level) => SystemResponse::Finalized { level },
                Err(refusal) => SystemResponse::Refused(refusal),
            },
            SystemCommand::Member(command) => match self.members.apply(command) {
                Ok(()) => SystemResponse::Done,
                Err(refusal) => SystemResponse::Refused(refusal),
            },
        })
    }

    /// Begins anew with one member. Everybody else is shut out, by data directory.
    pub(crate) fn refound(&mut self, refound: Refound) {
        self.members.refound(&refound);
        self.refoundings.add(refound.record);
    }

    /// Lets time pass. It never goes back: a new leader may not have heard of the last tick yet.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        self.log_time_ms = self.log_time_ms.max(now_ms);
        self.sessions.tick(self.log_time_ms);
    }
}

fn answered(found: Option<()>) -> SystemResponse {
    found.map_or(SystemResponse::NoSession, |()| SystemResponse::Done)
}

/// Levels by the names of their features.
pub(crate) type Levels = BTreeMap<String, u32>;

/// The encoded reply to a system command.
pub(crate) fn encode_system_response(response: &SystemResponse) -> Result<Bytes, postcard::Error> {
    postcard::to_allocvec(response).map(Bytes::from)
}

impl SystemResponse {
    /// Without texts for people, if it has any: releases may word them differently.
    pub(crate) fn without_texts(&self) -> Option<Self> {
        match self {
            Self::Refused(refusal) => Some(Self::Refused(refusal.without_text())),
            Self::Done | Self::SessionOpened { .. } | Self::NoSession | Self::Finalized { .. } => None,
        }
    }
}
