//! Carries proposals to a leader elsewhere: one at once, and those that come while it is on its way together. No timer.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rivven_transport::{CallCtx, CallError, TaskGroup, TraceContext, Transport};
use rivven_types::NodeId;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::wire::{
    WireProposal, WireProposeResponse,
    client::{BATCH_BYTES, HeldReply, MAX_BATCH, PROPOSAL_OVERHEAD_BYTES, ProposeMany},
};

/// Messages on their way to one leader at a time.
///
/// As with Nagle's algorithm (RFC 896), a second one leaves only if it is full: each message costs the leader and its
/// followers a round of wake-ups and an fsync, so what waits is better off in one of them. The busier the leader, the
/// larger the messages.
const MAX_CARRIERS: usize = 4;

/// What became of a proposal on its way.
type Carried = Result<WireProposeResponse, CallError>;

/// Takes proposals to leaders. Its callers bound what waits.
#[derive(Debug)]
pub(crate) struct Courier {
    transport: Transport,
    group: TaskGroup,
    ways: Mutex<BTreeMap<NodeId, Way>>,
}

/// What is to be carried to one node.
#[derive(Debug, Default)]
struct Way {
    waiting: VecDeque<Parcel>,
    /// Of what waits.
    bytes: usize,
    carriers: usize,
    last: u64,
}

#[derive(Debug)]
struct Parcel {
    number: u64,
    proposal: WireProposal,
    deadline: Instant,
    answer: oneshot::Sender<Carried>,
    /// That of the proposer.
    trace: Option<TraceContext>,
}

impl Parcel {
    const fn bytes(&self) -> usize {
        self.proposal.body.len() + PROPOSAL_OVERHEAD_BYTES
    }
}

impl Way {
    fn push(&mut self, parcel: Parcel) {
        self.bytes = self.bytes.saturating_add(parcel.bytes());
        self.waiting.push_back(parcel);
    }

    /// Whether a message should leave before the answers to those on their way.
    fn is_due(&self) -> bool {
        self.carriers == 0 || (self.is_full() && self.carriers < MAX_CARRIERS)
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_BATCH || self.bytes >= BATCH_BYTES
    }

    /// The next message of a carrier that has delivered one; without one it is dismissed.
    fn next(&mut self) -> Option<Vec<Parcel>> {
        if !self.waiting.is_empty() && (self.carriers == 1 || self.is_full()) {
            return Some(self.take());
        }
        self.carriers -= 1;
        None
    }

    /// What goes together: in order, within the limits of a message.
    fn take(&mut self) -> Vec<Parcel> {
        let (mut count, mut bytes) = (0, 0_usize);
        for parcel in self.waiting.iter().take(MAX_BATCH) {
            let with = bytes.saturating_add(parcel.bytes());
            if count > 0 && with > BATCH_BYTES {
                break;
            }
            (count, bytes) = (count + 1, with);
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        self.waiting.drain(..count).collect()
    }

    /// Takes back one that still waits.
    fn withdraw(&mut self, number: u64) -> bool {
        let Some(at) = self.waiting.iter().position(|parcel| parcel.number == number) else {
            return false;
        };
        let withdrawn = self.waiting.remove(at);
        let bytes = withdrawn.map_or(0, |parcel| parcel.bytes());
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}

impl Courier {
    pub(crate) fn new(transport: Transport, group: TaskGroup) -> Self {
        Self {
            transport,
            group,
            ways: Mutex::default(),
        }
    }

    /// Has `proposal` proposed by node `to`.
    ///
    /// Cancel safety: after dropping the future the outcome is unknown.
    pub(crate) async fn carry(
        self: &Arc<Self>,
        to: NodeId,
        proposal: WireProposal,
        deadline: Instant,
    ) -> Carried {
        let (answer, answered) = oneshot::channel();
        let number = self.accept(to, proposal, deadline, answer);
        let carried = match timeout_at(deadline, answered).await {
            Ok(Ok(carried)) => carried,
            Ok(Err(_ended)) => Err(CallError::MaybeExecuted {
                node: to,
                cause: "this end was stopped".into(),
            }),
            Err(_) if self.withdraw(to, number) => Err(CallError::NotSent {
                cause: "the deadline passed before its turn".into(),
            }),
            Err(_) => Err(CallError::Deadline),
        };
        match carried {
            Ok(WireProposeResponse::Held { ticket }) => {
                Ok(fetch_held(&self.transport, to, ticket, deadline).await)
            }
            carried => carried,
        }
    }

    /// Queues a proposal, and sends a carrier for it if there is one left.
    fn accept(
        self: &Arc<Self>,
        to: NodeId,
        proposal: WireProposal,
        deadline: Instant,
        answer: oneshot::Sender<Carried>,
    ) -> u64 {
        let mut ways = self.ways();
        let way = ways.entry(to).or_default();
        way.last = way.last.wrapping_add(1);
        let number = way.last;
        way.push(Parcel {
            number,
            proposal,
            deadline,
            answer,
            trace: TraceContext::sampled(),
        });
        if way.is_due() {
            way.carriers += 1;
            drop(self.group.spawn(Arc::clone(self).carrier(to)));
        }
        number
    }

    /// Takes back what no carrier has taken.
    fn withdraw(&self, to: NodeId, number: u64) -> bool {
        self.ways().get_mut(&to).is_some_and(|way| way.withdraw(number))
    }

    /// Carries what waits, message after message, until nothing does.
    async fn carrier(self: Arc<Self>, to: NodeId) {
        while let Some(parcels) = self.next(to) {
            self.deliver(to, parcels).await;
        }
    }

    /// The next message; without one, the carrier is dismissed.
    fn next(&self, to: NodeId) -> Option<Vec<Parcel>> {
        let mut ways = self.ways();
        let way = ways.get_mut(&to)?;
        let parcels = way.next();
        if way.carriers == 0 {
            ways.remove(&to);
        }
        parcels
    }

    async fn deliver(&self, to: NodeId, parcels: Vec<Parcel>) {
        let mut answers = Vec::with_capacity(parcels.len());
        let mut proposals = Vec::with_capacity(parcels.len());
        let (mut deadline, mut trace) = (Instant::now(), None);
        // Whoever has stopped waiting is not proposed for.
        for parcel in parcels.into_iter().filter(|parcel| !parcel.answer.is_closed()) {
            deadline = deadline.max(parcel.deadline);
            // A call has one parent.
            trace = trace.or(parcel.trace);
            answers.push(parcel.answer);
            proposals.push(parcel.proposal);
        }
        if proposals.is_empty() {
            return;
        }
        let ctx = CallCtx { deadline, trace };
        let called = self.transport.call::<ProposeMany>(to, &proposals, ctx).await;
        let called = called.and_then(|outcomes| {
            let whole = outcomes.len() == answers.len();
            whole.then_some(outcomes).ok_or_else(|| CallError::MaybeExecuted {
                node: to,
                cause: "not every proposal was answered".into(),
            })
        });
        // Whoever has stopped waiting wants no answer.
        match called {
            Ok(outcomes) => {
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    drop(answer.send(Ok(outcome)));
                }
            }
            Err(error) => {
                for answer in answers {
                    drop(answer.send(Err(error.clone())));
                }
            }
        }
    }

    fn ways(&self) -> MutexGuard<'_, BTreeMap<NodeId, Way>> {
        // Each critical section leaves the queues whole.
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fetches a reply that its message had no room for.
pub(crate) async fn fetch_held(
    transport: &Transport,
    from: NodeId,
    ticket: u64,
    deadline: Instant,
) -> WireProposeResponse {
    let fetched = transport.call::<HeldReply>(from, &ticket, CallCtx::until(deadline));
    match fetched.await {
        Ok(Some(reply)) => WireProposeResponse::Done { reply },
        Ok(None) => lost("the leader no longer keeps it"),
        Err(error) => lost(&error.to_string()),
    }
}

fn lost(cause: &str) -> WireProposeResponse {
    WireProposeResponse::Unknown {
        cause: format!("the command was applied, but its response was lost: {cause}"),
    }
}

#[cfg(test)]
mod tests;
