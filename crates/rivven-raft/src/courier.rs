//! Carries proposals to a leader elsewhere: those that wait go together, and nothing waits for company.

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

/// Messages on their way to one leader at a time. While all are, proposals gather for the next: the busier
/// the leader, the larger the messages.
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

impl Way {
    /// What goes together: in order, within the limits of a message.
    fn take(&mut self) -> Vec<Parcel> {
        let mut bytes = 0_usize;
        let fits = self.waiting.iter().take(MAX_BATCH).take_while(|parcel| {
            let first = bytes == 0;
            bytes = bytes.saturating_add(parcel.proposal.body.len() + PROPOSAL_OVERHEAD_BYTES);
            first || bytes <= BATCH_BYTES
        });
        let count = fits.count();
        self.waiting.drain(..count).collect()
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
        way.waiting.push_back(Parcel {
            number,
            proposal,
            deadline,
            answer,
            trace: TraceContext::sampled(),
        });
        if way.carriers < MAX_CARRIERS {
            way.carriers += 1;
            drop(self.group.spawn(Arc::clone(self).carrier(to)));
        }
        number
    }

    /// Takes back what no carrier has taken.
    fn withdraw(&self, to: NodeId, number: u64) -> bool {
        let mut ways = self.ways();
        let Some(way) = ways.get_mut(&to) else {
            return false;
        };
        let before = way.waiting.len();
        way.waiting.retain(|parcel| parcel.number != number);
        way.waiting.len() < before
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
        let parcels = way.take();
        if !parcels.is_empty() {
            return Some(parcels);
        }
        way.carriers -= 1;
        if way.carriers == 0 {
            ways.remove(&to);
        }
        None
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
