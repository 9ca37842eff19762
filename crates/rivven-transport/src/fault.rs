//! Faults around any network, also the real one: calls lost, delayed, repeated or cut off, from a seed.
//!
//! The layer stands between the caller and its network, so it can do to a call what a network can: lose
//! the request, lose the response, be slow, or deliver twice. What a caller sees is what the network
//! underneath would have said: a lost message is a deadline with unknown outcome. Of a transfer, whose stream
//! is reliable while its connection lives, it delays frames, holds them back behind a cut, and ends it.

#[cfg(test)]
mod tests;
mod transfer;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Either, select},
};
use rivven_types::{NodeId, PeerAddr};
use tokio::time::{Instant, sleep_until};

use crate::{
    CallCtx, CallError, LocalIdentity, MethodSpec, Network, Outcome, PeerIdentity, PeerStatus, TaskGroup,
    TransferPipe, TransferSpec, Transport, seeded::Seeded,
};

/// Pause between looks at whether a frame of a transfer still meets a cut.
const RETRY: Duration = Duration::from_millis(50);

/// What happens to calls and transfers from one node to another. Probabilities lie between 0 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FaultProfile {
    /// Probability that a request is lost: the peer never sees it, the caller waits for its deadline. Also
    /// the probability, with each frame that a sender writes, that a transfer loses its connection.
    pub lose_request: f64,
    /// Probability that a response is lost: the peer has acted, the caller waits for its deadline. Also the
    /// probability, with each frame that comes back, that a transfer loses its connection.
    pub lose_response: f64,
    /// Probability that a request is sent twice. The first response counts.
    pub duplicate: f64,
    /// Time before each request, and each frame of a transfer, is sent.
    pub delay: Duration,
    /// Additional time, drawn evenly between zero and this for each request.
    pub jitter: Duration,
}

/// What a [`FaultLayer`] has done so far. A test that relies on faults should check that they happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultStats {
    /// Calls that passed through the layer.
    pub calls: u64,
    /// Requests lost by chance.
    pub lost_requests: u64,
    /// Responses lost by chance.
    pub lost_responses: u64,
    /// Requests and responses lost to a cut.
    pub cut: u64,
    /// Requests sent twice.
    pub duplicated: u64,
    /// Transfers that were ended.
    pub broken_transfers: u64,
}

/// A source of faults for the networks that it wraps. Clones are the same source.
///
/// One layer may wrap the transports of several nodes, so that one handle cuts and heals between them. A
/// cut between two nodes holds for both only if both are wrapped.
///
/// ```
/// use rivven_transport::{FaultLayer, FaultProfile, Transport};
///
/// fn lossy(transport: Transport) -> (FaultLayer, Transport) {
///     let faults = FaultLayer::seeded(42);
///     faults.default_profile(FaultProfile { lose_response: 0.1, ..FaultProfile::default() });
///     let transport = faults.wrap(transport);
///     (faults, transport)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct FaultLayer(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    seed: u64,
    default_profile: FaultProfile,
    profiles: BTreeMap<(NodeId, NodeId), FaultProfile>,
    chance: BTreeMap<(NodeId, NodeId), Seeded>,
    cut: BTreeSet<(NodeId, NodeId)>,
    stats: FaultStats,
}

/// What chance has in store for one call.
struct Plan {
    lose_request: bool,
    lose_response: bool,
    duplicate: bool,
    wait: Duration,
}

impl FaultLayer {
    /// A layer without faults, which will draw them from `seed`.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            seed,
            default_profile: FaultProfile::default(),
            profiles: BTreeMap::new(),
            chance: BTreeMap::new(),
            cut: BTreeSet::new(),
            stats: FaultStats::default(),
        })))
    }

    /// The same network with faults. The one given keeps working without.
    #[must_use]
    pub fn wrap(&self, transport: Transport) -> Transport {
        Transport::new(Faulty {
            inner: transport.into_network(),
            layer: self.clone(),
            unawaited: OnceLock::new(),
        })
    }

    /// Gives calls from `from` to `to` a profile of their own.
    pub fn profile(&self, from: NodeId, to: NodeId, profile: FaultProfile) {
        self.lock().profiles.insert((from, to), profile);
    }

    /// Gives all calls without a profile of their own this one.
    pub fn default_profile(&self, profile: FaultProfile) {
        self.lock().default_profile = profile;
    }

    /// Loses every message from `from` to `to`, responses included, until [`Self::heal`].
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.lock().cut.insert((from, to));
    }

    /// Cuts every pair of a node of `left` and one of `right`, in both directions.
    pub fn partition(&self, left: &[NodeId], right: &[NodeId]) {
        let mut state = self.lock();
        for (one, other) in left
            .iter()
            .flat_map(|one| right.iter().map(move |other| (*one, *other)))
        {
            state.cut.extend([(one, other), (other, one)]);
        }
    }

    /// Ends every cut. Profiles stay.
    pub fn heal(&self) {
        self.lock().cut.clear();
    }

    /// What the layer has done so far.
    #[must_use]
    pub fn stats(&self) -> FaultStats {
        self.lock().stats
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Poisoning changes nothing: the state is consistent after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, from: NodeId, to: NodeId) -> Plan {
        self.lock().stats.calls += 1;
        self.plan_frame(from, to)
    }

    fn plan_frame(&self, from: NodeId, to: NodeId) -> Plan {
        let mut state = self.lock();
        let profile = *state.profiles.get(&(from, to)).unwrap_or(&state.default_profile);
        let seed = state.seed;
        let chance = state
            .chance
            .entry((from, to))
            .or_insert_with(|| Seeded::of_link(seed, from, to));
        // One draw for each question, whatever the answers: see the links of the memory network.
        Plan {
            lose_request: chance.happens(profile.lose_request),
            lose_response: chance.happens(profile.lose_response),
            duplicate: chance.happens(profile.duplicate),
            wait: profile.delay + chance.up_to(profile.jitter),
        }
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.lock().cut.contains(&(from, to))
    }

    /// Whether a message meets a cut at this moment, counted.
    fn meets_cut(&self, from: NodeId, to: NodeId) -> bool {
        let mut state = self.lock();
        let cut = state.cut.contains(&(from, to));
        state.stats.cut += u64::from(cut);
        cut
    }
}

/// A network with faults.
struct Faulty {
    inner: Arc<dyn Network>,
    layer: FaultLayer,
    /// Repeated requests whose caller has its response.
    unawaited: OnceLock<TaskGroup>,
}

impl Faulty {
    async fn call_faulty(
        &self,
        to: NodeId,
        method: MethodSpec,
        body: Bytes,
        ctx: CallCtx,
    ) -> Result<Bytes, CallError> {
        let from = self.inner.local().node;
        let plan = self.layer.plan(from, to);
        if !plan.wait.is_zero() {
            sleep_until(ctx.deadline.min(Instant::now() + plan.wait)).await;
        }
        let cut = self.layer.meets_cut(from, to);
        if cut || plan.lose_request {
            self.layer.lock().stats.lost_requests += u64::from(!cut);
            return lost(ctx).await;
        }
        let result = if plan.duplicate {
            self.layer.lock().stats.duplicated += 1;
            self.call_twice(to, method, body, ctx).await
        } else {
            self.inner.call(to, method, body, ctx).await
        };
        // What never reached the peer brings no response that could be lost.
        if !is_response(&result) {
            return result;
        }
        let cut = self.layer.meets_cut(to, from);
        if cut || plan.lose_response {
            self.layer.lock().stats.lost_responses += u64::from(!cut);
            return lost(ctx).await;
        }
        result
    }
}

impl Faulty {
    /// Sends a request twice. The first response counts; the other request goes on without anybody who waits.
    async fn call_twice(
        &self,
        to: NodeId,
        method: MethodSpec,
        body: Bytes,
        ctx: CallCtx,
    ) -> Result<Bytes, CallError> {
        let send = |body| {
            let inner = Arc::clone(&self.inner);
            async move { inner.call(to, method, body, ctx).await }.boxed()
        };
        let (Either::Left((answer, other)) | Either::Right((answer, other))) =
            select(send(body.clone()), send(body)).await;
        if is_response(&answer) {
            self.unawaited.get_or_init(TaskGroup::current).spawn(other);
            return answer;
        }
        let other = other.await;
        // That the peer may have acted once holds whatever it says of the other request.
        match &answer {
            Err(error) if error.outcome() == Outcome::Unknown && other.is_err() => answer,
            Ok(_) | Err(_) => other,
        }
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        if let Some(unawaited) = self.unawaited.get() {
            unawaited.abort();
        }
    }
}

/// Whether the peer has answered.
const fn is_response(result: &Result<Bytes, CallError>) -> bool {
    matches!(result, Ok(_) | Err(CallError::Rejected(_)))
}

/// What a lost message looks like to the caller.
async fn lost(ctx: CallCtx) -> Result<Bytes, CallError> {
    sleep_until(ctx.deadline).await;
    Err(CallError::Deadline)
}

impl Network for Faulty {
    fn local(&self) -> &LocalIdentity {
        self.inner.local()
    }

    fn call(
        &self,
        to: NodeId,
        method: MethodSpec,
        body: Bytes,
        ctx: CallCtx,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        if to == self.inner.local().node {
            return self.inner.call(to, method, body, ctx);
        }
        self.call_faulty(to, method, body, ctx).boxed()
    }

    fn open_transfer(
        &self,
        to: NodeId,
        spec: TransferSpec,
        until: Instant,
    ) -> BoxFuture<'_, Result<TransferPipe, CallError>> {
        self.open_faulty(to, spec, until).boxed()
    }

    fn set_address(&self, node: NodeId, addr: PeerAddr) {
        self.inner.set_address(node, addr);
    }

    fn discover(&self, addr: PeerAddr, ctx: CallCtx) -> BoxFuture<'_, Result<PeerIdentity, CallError>> {
        async move {
            let found = self.inner.discover(addr, ctx).await?;
            let here = self.inner.local().node;
            if self.layer.meets_cut(here, found.node) || self.layer.meets_cut(found.node, here) {
                sleep_until(ctx.deadline).await;
                let cause = "no answer before the deadline".into();
                return Err(CallError::Unreachable { node: 0, cause });
            }
            Ok(found)
        }
        .boxed()
    }

    fn status(&self, node: NodeId) -> PeerStatus {
        self.inner.status(node)
    }

    fn peer(&self, node: NodeId) -> Option<PeerIdentity> {
        self.inner.peer(node)
    }

    fn deny(&self, node: NodeId) {
        self.inner.deny(node);
    }

    fn allow(&self, node: NodeId) {
        self.inner.allow(node);
    }

    fn refused(&self, node: NodeId, patience: Duration) -> BoxFuture<'_, bool> {
        let here = self.inner.local().node;
        if self.layer.meets_cut(here, node) || self.layer.meets_cut(node, here) {
            return tokio::time::sleep(patience).map(|()| false).boxed();
        }
        self.inner.refused(node, patience)
    }

    fn observed_ip(&self) -> Option<IpAddr> {
        self.inner.observed_ip()
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.inner.local_addr()
    }

    fn shutdown(&self, grace: Duration) -> BoxFuture<'_, ()> {
        self.inner.shutdown(grace)
    }
}
