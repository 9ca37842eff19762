//! Finding the founders and agreeing with them, for as long as it takes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use rivven_transport::{CallCtx, CallError, PeerIdentity, Transport, random_bytes};
use rivven_types::{NodeId, PeerAddr};
use tokio::time::{Instant, sleep};

use super::{Founder, Founders, Founding, FoundingId, Instances, Introduce, Propose, View};
use crate::{inner::Inner, membership, status::Problem};

/// How long one address may take to answer.
const DISCOVER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a founder may take to answer; a durable acceptance is among the answers.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Wait between rounds and between dials of an absent peer: doubles from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How often an address that does not answer is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Problems that concern no single peer are noted under this id, which no node has.
const NOBODY: NodeId = 0;

/// Who answers where, by node id.
type Peers = BTreeMap<NodeId, (PeerIdentity, PeerAddr)>;

/// Dials the peers of one node, and says who answers.
#[derive(Debug)]
pub(crate) struct Resolver {
    transport: Transport,
    found: Mutex<BTreeMap<PeerAddr, PeerIdentity>>,
    /// Addresses that want nothing to do with this node, and why: it is a double, or was removed.
    refusals: Mutex<BTreeMap<PeerAddr, Problem>>,
    addrs: Vec<PeerAddr>,
}

impl Resolver {
    pub(crate) fn new(transport: Transport, addrs: Vec<PeerAddr>) -> Arc<Self> {
        Arc::new(Self {
            transport,
            found: Mutex::default(),
            refusals: Mutex::default(),
            addrs,
        })
    }

    /// Dials every address until each has answered once. An absent peer is never fatal.
    pub(crate) async fn run(self: Arc<Self>) {
        join_all(self.addrs.iter().map(|addr| self.dial(addr))).await;
    }

    async fn dial(&self, addr: &PeerAddr) {
        let (mut wait, max) = RETRY;
        let mut reported: Option<Instant> = None;
        loop {
            match self
                .transport
                .discover(addr.clone(), CallCtx::timeout(DISCOVER_TIMEOUT))
                .await
            {
                Ok(identity) => {
                    lock(&self.refusals).remove(addr);
                    lock(&self.found).insert(addr.clone(), identity);
                    return;
                }
                Err(error) => {
                    self.failed(addr, &error, &mut reported);
                }
            }
            sleep(wait).await;
            wait = (wait * 2).min(max);
        }
    }

    /// Says now and then that an address does not answer, and at once that it wants nothing to do with this node.
    fn failed(&self, addr: &PeerAddr, error: &CallError, reported: &mut Option<Instant>) {
        let node_id = self.transport.local().node;
        let refusal = refusal(node_id, error);
        let lasting = refusal.is_some();
        let known = match refusal {
            Some(refusal) => lock(&self.refusals).insert(addr.clone(), refusal).is_some(),
            None => lock(&self.refusals).remove(addr).is_some(),
        };
        let code = error.code();
        if lasting && !known {
            tracing::error!(node_id, peer = %addr, code, %error, "turned away; trying again");
        } else if reported.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL) {
            *reported = Some(Instant::now());
            tracing::warn!(node_id, peer = %addr, code, %error, "peer not reached yet; trying again");
        }
    }

    /// What an operator must mend if some address turns this node away for good.
    pub(crate) fn turned_away(&self) -> Option<Problem> {
        let refusals = lock(&self.refusals);
        refusals.first_key_value().map(|(_, problem)| problem.clone())
    }

    /// Who has answered.
    pub(crate) fn found(&self) -> Vec<NodeId> {
        lock(&self.found).values().map(|identity| identity.node).collect()
    }

    /// Addresses that have not answered.
    pub(crate) fn missing(&self) -> Vec<PeerAddr> {
        let found = lock(&self.found);
        self.addrs
            .iter()
            .filter(|addr| !found.contains_key(*addr))
            .cloned()
            .collect()
    }

    /// Who answered where, this node left out. `None` until all have; an error if two are one.
    fn peers(&self) -> Option<Result<Peers, Problem>> {
        let found = lock(&self.found);
        if found.len() < self.addrs.len() {
            return None;
        }
        let local = self.transport.local();
        let mut peers = Peers::new();
        for (addr, identity) in found.iter() {
            // What the peer proved last counts: it may have restarted since it was found.
            let latest = self.transport.peer(identity.node);
            let identity = latest.as_ref().unwrap_or(identity);
            if identity.node == local.node {
                if identity.instance == local.instance {
                    continue;
                }
                return Some(Err(duplicate(local.node, &[addr])));
            }
            match peers.get(&identity.node) {
                None => {
                    peers.insert(identity.node, (identity.clone(), addr.clone()));
                }
                Some((known, _)) if known.instance == identity.instance => {}
                Some((_, other)) => return Some(Err(duplicate(identity.node, &[other, addr]))),
            }
        }
        Some(Ok(peers))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an operator must mend if a peer does not want to know this node.
fn refusal(node: NodeId, error: &CallError) -> Option<Problem> {
    match error {
        CallError::DuplicateNode { cause } => Some(Problem::new(
            "duplicate-node-id",
            format!(
                "another process uses node id {node}: {cause}; give each node an id and a certificate of its own"
            ),
        )),
        CallError::Removed { .. } => Some(Problem::new(
            "member-removed",
            format!(
                "node {node} was removed from the cluster; stop it, or let its id in again with `rivven-node \
                 member add {node}` and start it with an empty data directory"
            ),
        )),
        _ => None,
    }
}

fn duplicate(node: NodeId, addrs: &[&PeerAddr]) -> Problem {
    let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
    Problem::new(
        "duplicate-node-id",
        format!(
            "another data directory under node id {node} answers at {}; give each node an id and a certificate \
             of its own",
            addrs.join(" and ")
        ),
    )
}

/// Agrees with the other founders. Returns once this node has accepted, and if it is the lowest id once
/// all have.
pub(crate) async fn agree(inner: &Inner) -> Arc<Founding> {
    let founders = &inner.founders;
    let (mut wait, max) = RETRY;
    loop {
        if let Some(founding) = founders.accepted()
            && (!founding.is_led_by(&founders.local) || inner.is_initialized())
        {
            return founding;
        }
        if let Some(founding) = round(inner).await {
            return founding;
        }
        // A proposal that was accepted meanwhile ends the wait.
        tokio::select! {
            biased;
            founding = founders.wait_accepted(), if founders.accepted().is_none() => {
                if !founding.is_led_by(&founders.local) {
                    return founding;
                }
            }
            () = sleep(wait) => {}
        }
        wait = (wait * 2).min(max);
    }
}

/// One attempt: look who is there, compare, and if this node is the lowest id propose.
async fn round(inner: &Inner) -> Option<Arc<Founding>> {
    let (founders, resolver) = (&inner.founders, &inner.resolver);
    let local = &founders.local;
    if let Some(founding) = founders.accepted() {
        return propose(founders, &resolver.transport, &founding)
            .await
            .then_some(founding);
    }
    // One member that answers is enough to join by.
    if let Some(founding) = membership::join(inner).await {
        return Some(founding);
    }
    let peers = match resolver.peers()? {
        Ok(peers) => {
            founders.note(NOBODY, None);
            peers
        }
        Err(problem) => {
            founders.set_resolved(None);
            founders.note(NOBODY, Some(problem));
            return None;
        }
    };
    let mut resolved: Instances = peers
        .iter()
        .map(|(node, (peer, _))| (*node, peer.instance))
        .collect();
    resolved.insert(local.node, local.instance);
    founders.set_resolved(Some(resolved.clone()));
    let agreed = introduce(founders, &resolver.transport, &resolved).await;
    if !agreed || resolved.keys().next() != Some(&local.node) {
        return None;
    }
    let founder = |(node, (peer, addr)): (NodeId, (PeerIdentity, PeerAddr))| {
        let instance = peer.instance;
        (node, Founder { instance, addr })
    };
    let mut all: BTreeMap<NodeId, Founder> = peers.into_iter().map(founder).collect();
    let instance = local.instance;
    all.insert(
        local.node,
        Founder {
            instance,
            addr: inner.quic_addr().await,
        },
    );
    let random = match random_bytes() {
        Ok(random) => random,
        Err(error) => {
            founders.note(NOBODY, Some(Problem::new(error.code(), error.to_string())));
            return None;
        }
    };
    let founding = Founding::new(FoundingId::from_random(random), all);
    // This node is the first to accept: should it restart, it proposes the same founding again.
    if let Err(rejection) = Arc::clone(founders).proposed(local.node, founding).await {
        tracing::error!(
            node_id = local.node,
            code = rejection.code,
            cause = rejection.message,
            "cannot found"
        );
        return None;
    }
    let founding = founders.accepted()?;
    propose(founders, &resolver.transport, &founding)
        .await
        .then_some(founding)
}

/// Exchanges views with every peer. `true` if all resolved the same nodes.
async fn introduce(founders: &Founders, transport: &Transport, resolved: &Instances) -> bool {
    let others = resolved
        .keys()
        .copied()
        .filter(|node| *node != founders.local.node);
    let calls = others.map(|node| async move {
        let theirs = introduce_to(founders, transport, node).await;
        matches!(theirs, Some(View::Resolved(theirs)) if theirs == *resolved)
    });
    join_all(calls).await.into_iter().all(|agreed| agreed)
}

/// Exchanges views with one peer, and notes what is wrong.
pub(crate) async fn introduce_to(founders: &Founders, transport: &Transport, node: NodeId) -> Option<View> {
    let mine = founders.view();
    match transport
        .call::<Introduce>(node, &mine, CallCtx::timeout(CALL_TIMEOUT))
        .await
    {
        Ok(theirs) => {
            founders.note(node, super::judge(&founders.local, &mine, node, &theirs));
            Some(theirs)
        }
        Err(error) => {
            tracing::debug!(node_id = founders.local.node, peer = node, %error, "no introduction yet");
            None
        }
    }
}

/// Asks every other founder to accept. `true` once all have.
async fn propose(founders: &Founders, transport: &Transport, founding: &Founding) -> bool {
    let local = founders.local.node;
    let others = founding.founders.iter().filter(|(node, _)| **node != local);
    let calls = others.map(|(node, founder)| async move {
        if transport.peer(*node).is_none() {
            transport.set_address(*node, founder.addr.clone());
        }
        let accepted = transport
            .call::<Propose>(*node, founding, CallCtx::timeout(CALL_TIMEOUT))
            .await;
        founders.note(*node, accepted.as_ref().err().and_then(lasting));
        if let Err(error) = &accepted {
            tracing::debug!(node_id = local, peer = node, %error, "founding not accepted yet");
        }
        accepted.is_ok()
    });
    join_all(calls).await.into_iter().all(|accepted| accepted)
}

/// A refusal that only an operator can mend.
fn lasting(error: &CallError) -> Option<Problem> {
    let CallError::Rejected(rejection) = error else {
        return None;
    };
    let known = [
        "other-founding",
        "cluster-recovered",
        "founders-differ",
        "duplicate-node-id",
        "data-file-unusable",
        "not-lowest",
    ];
    let code = known.into_iter().find(|code| *code == rejection.code)?;
    Some(Problem::new(code, rejection.message.clone()))
}
