//! Carrying out what [`plan`] decides.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use futures_util::{StreamExt as _, stream};
use rivven_types::NodeId;

use super::{Answer, KeyDemand, KeyKeeper, KeyMember, KeyStep, RotationPolicy, plan};
use crate::{
    Transport,
    datagram::{GossipKey, KeyRing},
};

/// Members asked at a time.
const CONCURRENT_OFFERS: usize = 32;

/// Steps in one round: to stage and to activate take two, and nothing needs more.
const MAX_STEPS: usize = 4;

/// What one round goes by.
#[derive(Clone, Debug)]
pub struct RotationInput {
    /// The term in which this node has the right to change the keys. A later one outranks it.
    pub term: u64,
    /// Milliseconds since 1970, of a clock that need not be right.
    pub now_ms: u64,
    /// Who belongs to the cluster, this node included, and whether it may be sealing datagrams.
    pub members: BTreeMap<NodeId, bool>,
    /// What asks for another key.
    pub demand: KeyDemand,
    /// How patient to be.
    pub policy: RotationPolicy,
}

/// Changes the keys of a cluster. Used by whoever leads it; what it remembers can be lost.
#[derive(Debug, Default)]
pub struct KeyRotation {
    answers: BTreeMap<NodeId, Answer>,
}

impl KeyRotation {
    /// One that has asked nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands the ring to live members that do not have it, and changes it if it is time. Says what was done.
    ///
    /// `confirm` is asked before each change, and says whether this node still has the right: no quorum
    /// knows of a later term. Cancel safe.
    pub async fn round<F: Future<Output = bool>>(
        &mut self,
        keeper: &Arc<KeyKeeper>,
        transport: &Transport,
        input: &RotationInput,
        confirm: impl Fn() -> F,
    ) -> Vec<KeyStep> {
        self.answers.retain(|node, _| input.members.contains_key(node));
        let mut done = Vec::new();
        let mut demand = input.demand;
        for _ in 0..MAX_STEPS {
            self.tell(keeper, transport, input).await;
            let ring = keeper.held();
            let members = self.members(input);
            let Some(step) = plan(ring.as_deref(), &members, demand, input.now_ms, &input.policy) else {
                break;
            };
            if !confirm().await {
                break;
            }
            let Some(changed) = apply(step, ring.as_deref(), input) else {
                break;
            };
            if let Err(error) = keeper.adopt(changed).await {
                tracing::error!(code = error.code(), %error, "gossip keys not changed");
                break;
            }
            tracing::info!(term = input.term, ?step, "gossip keys: one step");
            demand.by_hand &= !matches!(step, KeyStep::Stage { .. });
            done.push(step);
        }
        done
    }

    /// Members that may be sealing and have not acknowledged the ring held.
    #[must_use]
    pub fn waiting_for(&self, keeper: &KeyKeeper, input: &RotationInput) -> Vec<NodeId> {
        let held = keeper.held().map(|ring| Answer::Holds(ring.version()));
        let live = input.members.iter().filter(|(_, alive)| **alive);
        live.map(|(node, _)| *node)
            .filter(|node| self.answers.get(node).copied() != held)
            .collect()
    }

    fn members(&self, input: &RotationInput) -> Vec<KeyMember> {
        let member = |(node, alive): (&NodeId, &bool)| KeyMember {
            alive: *alive,
            answer: self.answers.get(node).copied().unwrap_or_default(),
        };
        input.members.iter().map(member).collect()
    }

    /// Brings members up to date, and this node if one of them is ahead.
    async fn tell(&mut self, keeper: &Arc<KeyKeeper>, transport: &Transport, input: &RotationInput) {
        let local = transport.local().node;
        let ring = keeper.held();
        let held = ring
            .as_ref()
            .map_or(Answer::Empty, |ring| Answer::Holds(ring.version()));
        let behind: Vec<NodeId> = input
            .members
            .iter()
            .filter(|(node, alive)| **alive && **node != local && self.answers.get(node) != Some(&held))
            .map(|(node, _)| *node)
            .collect();
        let asked = stream::iter(behind).map(|node| {
            let ring = ring.clone();
            async move { (node, ask(keeper, transport, node, ring.as_deref()).await) }
        });
        let answers: Vec<(NodeId, Answer)> = asked.buffer_unordered(CONCURRENT_OFFERS).collect().await;
        self.answers.extend(answers);
        // What was adopted meanwhile is a peer's, and this node holds it as well.
        let held = keeper.held();
        let own = held.map_or(Answer::Empty, |ring| Answer::Holds(ring.version()));
        self.answers.insert(local, own);
    }
}

/// Offers `ring` to one member, or asks for its ring if there is none to offer. Takes over a greater one.
async fn ask(keeper: &Arc<KeyKeeper>, transport: &Transport, node: NodeId, ring: Option<&KeyRing>) -> Answer {
    let asked = async {
        let Some(ring) = ring else {
            let has = keeper.fetch(transport, node).await?;
            return Ok(match keeper.held().filter(|_| has) {
                Some(ring) => Answer::Holds(ring.version()),
                None => Answer::Empty,
            });
        };
        let held = keeper.offer(transport, node, ring).await?;
        if held > ring.version() {
            keeper.fetch(transport, node).await?;
        }
        Ok::<_, crate::CallError>(Answer::Holds(held))
    };
    match asked.await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(peer = node, %error, "gossip keys not acknowledged");
            Answer::None
        }
    }
}

/// The ring after `step`; `None` if it cannot be made.
fn apply(step: KeyStep, ring: Option<&KeyRing>, input: &RotationInput) -> Option<KeyRing> {
    let generate = || match GossipKey::generate() {
        Ok(key) => Some(key),
        Err(error) => {
            tracing::error!(code = error.code(), %error, "no gossip key");
            None
        }
    };
    let (term, now_ms) = (input.term, input.now_ms);
    match (step, ring) {
        (KeyStep::Found, None) => Some(KeyRing::found(generate()?, term, now_ms)),
        (KeyStep::Stage { urgent }, Some(ring)) => {
            Some(ring.stage(generate()?, term, now_ms, input.demand.removals, urgent))
        }
        (KeyStep::Activate, Some(ring)) => Some(ring.activate(term, now_ms)),
        (KeyStep::Retire, Some(ring)) => Some(ring.retire(term, now_ms)),
        (KeyStep::Found, Some(_)) | (KeyStep::Stage { .. } | KeyStep::Activate | KeyStep::Retire, None) => {
            None
        }
    }
}
