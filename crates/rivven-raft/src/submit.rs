//! Having proposals done by whoever leads: attempt after attempt, to one of three outcomes.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, sleep},
};

use crate::{
    ProposeError,
    core::Down,
    propose::Proposal,
    wire::client::{BATCH_BYTES, MAX_BATCH, PROPOSAL_OVERHEAD_BYTES},
};

/// How often whoever has found no leader looks again.
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Proposals that wait for their outcome at one time. Beyond it they are refused as overloaded.
pub(crate) const MAX_PROPOSALS: usize = 65_536;

/// Bytes of proposals that wait for their outcome at one time.
pub(crate) const MAX_PROPOSAL_BYTES: usize = 64 << 20;

/// Counts against the limits while proposals wait.
pub(crate) type Admission<'a> = (SemaphorePermit<'a>, SemaphorePermit<'a>);

/// Room for proposals that wait for their outcome.
#[derive(Debug)]
pub(crate) struct Room {
    proposals: tokio::sync::Semaphore,
    bytes: tokio::sync::Semaphore,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            proposals: tokio::sync::Semaphore::new(MAX_PROPOSALS),
            bytes: tokio::sync::Semaphore::new(MAX_PROPOSAL_BYTES),
        }
    }
}

impl Room {
    /// A place for so many proposals with so many bytes, if there is one.
    pub(crate) fn admit(&self, count: usize, bytes: usize) -> Option<Admission<'_>> {
        let count = u32::try_from(count).ok()?;
        let bytes = u32::try_from(bytes.max(1)).ok()?;
        let places = self.proposals.try_acquire_many(count).ok()?;
        Some((places, self.bytes.try_acquire_many(bytes).ok()?))
    }
}

/// A way to the leader: that of a node, or that of a program outside.
pub(crate) trait Door: Sync {
    /// Where proposals are counted.
    fn room(&self) -> &Room;

    /// Tries once. Without a leader to ask there is no attempt; while this end cannot ask there is a reason.
    fn attempt(
        &self,
        proposal: &Proposal,
        deadline: Instant,
    ) -> impl Future<Output = Result<Option<Attempt>, Down>> + Send;

    /// Tries once with several, which stand next to one another in the log if they come to stand in it.
    fn attempt_group(
        &self,
        group: &[Proposal],
        deadline: Instant,
    ) -> impl Future<Output = Result<Option<GroupAttempt>, Down>> + Send;
}

/// How one attempt with several proposals ended.
#[derive(Debug)]
pub(crate) enum GroupAttempt {
    /// The outcome of each.
    Ended(Vec<Result<Bytes, ProposeError>>),
    /// None was done; the reason, should the deadline pass.
    Again(String),
}

/// Has a proposal done, or says what is known of it.
///
/// Boxed: the futures of callers, which hold it, would otherwise be thousands of bytes, and too deep to compile.
pub(crate) fn submit(
    door: &impl Door,
    proposal: Proposal,
    within: Duration,
) -> BoxFuture<'_, Result<Bytes, ProposeError>> {
    attempt_until(door, proposal, within).boxed()
}

async fn attempt_until(
    door: &impl Door,
    proposal: Proposal,
    within: Duration,
) -> Result<Bytes, ProposeError> {
    let Some(_admission) = door.room().admit(1, proposal.body.len()) else {
        return Err(ProposeError::Overloaded);
    };
    let deadline = Instant::now() + within;
    let mut attempts = Attempts::new(proposal.can_repeat());
    loop {
        match door.attempt(&proposal, deadline).await {
            Err(down) => return Err(attempts.down(down.into())),
            Ok(None) => {}
            Ok(Some(attempt)) => {
                if let Some(outcome) = attempts.settle(attempt) {
                    return outcome;
                }
            }
        }
        if Instant::now() + RETRY_INTERVAL >= deadline {
            return Err(attempts.expired(within));
        }
        sleep(RETRY_INTERVAL).await;
    }
}

/// Has several proposals done in their order, or says of each what is known of it.
///
/// Groups that fit a message go one after the other: were they on their way at the same time, a change of leaders
/// could let a later one in before an earlier one. The first that is not done ends it.
pub(crate) async fn submit_many(
    door: &impl Door,
    proposals: Vec<Result<Proposal, ProposeError>>,
    within: Duration,
) -> Vec<Result<Bytes, ProposeError>> {
    let deadline = Instant::now() + within;
    let mut outcomes: Vec<Option<Result<Bytes, ProposeError>>> = Vec::with_capacity(proposals.len());
    let mut sound = Vec::with_capacity(proposals.len());
    for proposal in proposals {
        match proposal {
            Ok(proposal) => {
                outcomes.push(None);
                sound.push(proposal);
            }
            Err(error) => outcomes.push(Some(Err(error))),
        }
    }
    let mut done = Vec::with_capacity(sound.len());
    let mut rest = sound.as_slice();
    while !rest.is_empty() {
        let (group, behind) = rest.split_at_checked(fitting(rest)).unwrap_or((rest, &[]));
        rest = behind;
        let outcome = submit_group(door, group, deadline, within).await;
        let failed = outcome.iter().find_map(|outcome| match outcome {
            Err(error) if !matches!(error, ProposeError::Refused(_)) => Some(error.to_string()),
            _ => None,
        });
        done.extend(outcome);
        if let Some(cause) = failed {
            let cause = format!("one before it was not done: {cause}");
            let not_done = || {
                Err(ProposeError::NoLeader {
                    waited: within,
                    cause: cause.clone(),
                })
            };
            done.extend(rest.iter().map(|_| not_done()));
            rest = &[];
        }
    }
    let mut done = done.into_iter();
    let lost = || ProposeError::Unknown {
        cause: "its outcome was lost".into(),
    };
    let whole = outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(|| done.next().unwrap_or_else(|| Err(lost()))));
    whole.collect()
}

/// How many of `proposals` fit one message; at least one.
fn fitting(proposals: &[Proposal]) -> usize {
    let mut bytes = 0_usize;
    let fits = proposals.iter().take(MAX_BATCH).take_while(|proposal| {
        bytes = bytes.saturating_add(proposal.body.len() + PROPOSAL_OVERHEAD_BYTES);
        bytes <= BATCH_BYTES
    });
    fits.count().max(1)
}

async fn submit_group(
    door: &impl Door,
    group: &[Proposal],
    deadline: Instant,
    within: Duration,
) -> Vec<Result<Bytes, ProposeError>> {
    let all = |error: ProposeError| group.iter().map(|_| Err(error.clone())).collect();
    let bytes = group.iter().map(|proposal| proposal.body.len()).sum();
    let Some(_admission) = door.room().admit(group.len(), bytes) else {
        return all(ProposeError::Overloaded);
    };
    let mut cause = String::from("no leader is known");
    loop {
        match door.attempt_group(group, deadline).await {
            Err(down) => return all(down.into()),
            Ok(None) => {}
            Ok(Some(GroupAttempt::Ended(outcomes))) => return outcomes,
            Ok(Some(GroupAttempt::Again(reason))) => cause = reason,
        }
        if Instant::now() + RETRY_INTERVAL >= deadline {
            return all(ProposeError::NoLeader {
                waited: within,
                cause,
            });
        }
        sleep(RETRY_INTERVAL).await;
    }
}

/// How one attempt ended.
#[derive(Debug)]
pub(crate) enum Attempt {
    Ended(Result<Bytes, ProposeError>),
    /// Nothing was done; the reason, should the deadline pass.
    Again(String),
}

/// The attempts made so far.
#[derive(Debug)]
struct Attempts {
    /// Whether it can be made again although it may have been done.
    can_repeat: bool,
    /// Whether an attempt may have been done, so that the proposal counts as not done no more.
    tried: bool,
    cause: String,
}

impl Attempts {
    fn new(can_repeat: bool) -> Self {
        Self {
            can_repeat,
            tried: false,
            cause: "no leader is known".into(),
        }
    }

    /// Takes note of an attempt. The outcome of the proposal, unless it is worth another attempt.
    fn settle(&mut self, attempt: Attempt) -> Option<Result<Bytes, ProposeError>> {
        match attempt {
            Attempt::Again(reason) => self.cause = reason,
            Attempt::Ended(Err(ProposeError::Unknown { cause })) if self.can_repeat => {
                self.tried = true;
                self.cause = cause;
            }
            // These say that this attempt did nothing; an earlier one may have.
            Attempt::Ended(Err(error @ (ProposeError::Overloaded | ProposeError::Refused(_))))
                if self.tried =>
            {
                self.cause = error.to_string();
            }
            Attempt::Ended(Err(error @ (ProposeError::Stopped { .. } | ProposeError::DiskFull { .. }))) => {
                return Some(Err(self.down(error)));
            }
            Attempt::Ended(outcome) => return Some(outcome),
        }
        None
    }

    /// The outcome when this end cannot go on.
    fn down(&self, error: ProposeError) -> ProposeError {
        if self.tried {
            ProposeError::Unknown {
                cause: error.to_string(),
            }
        } else {
            error
        }
    }

    /// The outcome when the deadline has passed.
    fn expired(self, waited: Duration) -> ProposeError {
        let cause = self.cause;
        if self.tried {
            ProposeError::Unknown { cause }
        } else {
            ProposeError::NoLeader { waited, cause }
        }
    }
}

#[cfg(test)]
mod tests {
    use rivven_transport::Outcome;

    use super::*;

    fn unknown() -> Attempt {
        Attempt::Ended(Err(ProposeError::Unknown { cause: "lost".into() }))
    }

    #[test]
    fn only_what_can_be_repeated_is_tried_again_after_an_unknown_outcome() {
        let mut once = Attempts::new(false);
        assert!(once.settle(Attempt::Again("elsewhere".into())).is_none());
        assert!(matches!(
            once.settle(unknown()),
            Some(Err(ProposeError::Unknown { .. }))
        ));

        let mut session = Attempts::new(true);
        assert!(session.settle(unknown()).is_none());
        assert!(
            session
                .settle(Attempt::Ended(Err(ProposeError::Overloaded)))
                .is_none()
        );
        assert!(session.settle(Attempt::Again("elsewhere".into())).is_none());
        assert_eq!(session.expired(Duration::ZERO).outcome(), Outcome::Unknown);
    }

    #[test]
    fn what_was_never_tried_is_not_done() {
        let mut attempts = Attempts::new(true);
        let overloaded = attempts.settle(Attempt::Ended(Err(ProposeError::Overloaded)));
        assert!(matches!(overloaded, Some(Err(ProposeError::Overloaded))));
        assert_eq!(
            attempts.down(Down::Stopped(String::new()).into()).outcome(),
            Outcome::NotDone
        );
        assert_eq!(attempts.expired(Duration::ZERO).outcome(), Outcome::NotDone);
    }
}
