//! Who belongs to the group and who votes: the rules, as pure functions over what the leader knows.
//!
//! - [`view`]: what the rules look at.
//! - [`quorum`]: what a set of voters survives.
//! - [`goal`]: who should vote.
//! - [`plan`]: the next step towards that, and all steps of a change that somebody asks for.
//! - [`priority`]: who should lead.
//! - [`driver`]: carries the steps out, on the leader. [`gate`]: keeps out who must not come back.
//!
//! A change is written into the replicated state first; the steps are then decided anew after every one of
//! them, from replicated state and the leader's view of its peers alone. So whoever leads next goes on where
//! the last leader stopped.

mod api;
mod driver;
mod events;
mod gate;
mod goal;
mod joining;
mod lead;
mod meter;
mod plan;
mod priority;
mod quorum;
mod record;
mod refusal;
mod replace;
#[cfg(test)]
mod tests;
mod text;
mod view;
mod wire;

#[cfg(test)]
pub(crate) use self::wire::{WireAnswer, WireAsk};
pub(crate) use self::{
    api::answer,
    driver::Driver,
    events::Journal,
    gate::Gate,
    goal::MAX_VOTERS as MAX_VOTER_TARGET,
    joining::introduce,
    plan::{Next, next, plan},
    priority::Preference,
    record::{MAX_REASON_BYTES, MemberCommand, MemberRecord, Records},
    view::{Health, Policy, Seated, View},
    wire::{AskMembership, RemovedNotice},
};
pub use self::{
    api::{MemberChanged, MemberError, MemberOptions, ask_to_join},
    events::{MAX_MEMBERSHIP_EVENTS, MembershipEvent, MembershipEventKind},
    joining::JoinAs,
    plan::{MemberChange, MemberHold, MemberStep, MembershipPlan},
    priority::{DEFAULT_PRIORITY, MAX_PRIORITY},
    quorum::QuorumState,
    record::{MAX_MEMBERS, MemberRole},
    refusal::MemberRefusal,
    replace::Replace,
    wire::{JoinRequest, MemberInfo, MemberStanding, MembershipView},
};
