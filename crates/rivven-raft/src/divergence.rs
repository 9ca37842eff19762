//! Finding a replica whose state is not that of the others: digests are compared, and a majority decides.
//!
//! Replicas apply the same log; a fault of memory, disk or program, or a state machine that is not deterministic,
//! lets one of them part ways unnoticed. Every node compares its digests with those of the voters at indexes that
//! all of them keep. Since the digest is chained, replicas that differed once differ from then on.

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use rivven_transport::{CallCtx, Transport};
use rivven_types::NodeId;
use tokio::time::sleep;

use crate::{Digest, StateMachine, applied::Shared, status::StatusSource, wire::DigestUpTo};

/// How often a node compares itself with the voters.
const COMPARE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a voter may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// What a replica is to make of the digests of the others at one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// None of those that answered differs.
    Agreed,
    /// Some differ, and a majority of the voters agree with this one.
    Confirmed,
    /// Some differ, and no majority agrees.
    Unclear,
    /// A majority of the voters agree on another digest.
    Outvoted,
}

/// Judges by majority of all voters: those that do not answer are not counted as being of anybody's mind.
fn judge(own: u128, others: &[Option<u128>], own_votes: bool) -> Verdict {
    let voters = others.len() + usize::from(own_votes);
    let agree = others.iter().flatten().filter(|other| **other == own).count();
    let mut against: Vec<u128> = others
        .iter()
        .flatten()
        .copied()
        .filter(|other| *other != own)
        .collect();
    against.sort_unstable();
    let most = against.chunk_by(|one, next| one == next).map(<[u128]>::len).max();
    match most {
        None => Verdict::Agreed,
        Some(most) if most > voters / 2 => Verdict::Outvoted,
        Some(_) if agree + usize::from(own_votes) > voters / 2 => Verdict::Confirmed,
        Some(_) => Verdict::Unclear,
    }
}

/// Compares this node's replica with those of the voters for as long as the node runs.
pub(crate) async fn compare_replicas<S: StateMachine>(
    node_id: NodeId,
    shared: Arc<Shared<S>>,
    transport: Transport,
    source: Arc<StatusSource>,
) {
    let comparer = Comparer {
        node_id,
        shared,
        transport,
    };
    loop {
        sleep(COMPARE_INTERVAL).await;
        if source.down().is_some() {
            continue;
        }
        let voters = source.status().voters;
        let (verdict, text) = comparer.compare(&voters).await;
        match verdict {
            Verdict::Agreed => source.set_divergence(None),
            Verdict::Confirmed | Verdict::Unclear => {
                tracing::error!(node_id, text, "replicas differ");
                source.set_divergence(Some(text));
            }
            Verdict::Outvoted => {
                tracing::error!(node_id, text, "this replica differs from a majority and stops");
                source.set_divergence(Some(text.clone()));
                source.stop(text);
            }
        }
    }
}

struct Comparer<S> {
    node_id: NodeId,
    shared: Arc<Shared<S>>,
    transport: Transport,
}

impl<S: StateMachine> Comparer<S> {
    /// Compares with each voter where both have a digest; where one differs, with all at that place.
    async fn compare(&self, voters: &BTreeSet<NodeId>) -> (Verdict, String) {
        let others: Vec<NodeId> = voters
            .iter()
            .copied()
            .filter(|voter| *voter != self.node_id)
            .collect();
        let Some(newest) = self.own(u64::MAX).await else {
            return (Verdict::Agreed, String::new());
        };
        let mut differs: Option<u64> = None;
        for theirs in self.ask(&others, newest.index).await.into_iter().flatten() {
            let own = self
                .shared
                .read_system(|system| system.chain.at(theirs.index))
                .await;
            if own.is_some_and(|own| own != theirs) {
                differs = Some(differs.map_or(theirs.index, |index| index.min(theirs.index)));
            }
        }
        let Some(index) = differs else {
            return (Verdict::Agreed, String::new());
        };
        let Some(own) = self.own(index).await.filter(|own| own.index == index) else {
            return (Verdict::Agreed, String::new());
        };
        let answers = self.ask(&others, index).await;
        let values: Vec<Option<u128>> = answers
            .iter()
            .map(|answer| {
                answer
                    .filter(|theirs| theirs.index == index)
                    .map(|theirs| theirs.value)
            })
            .collect();
        let verdict = judge(own.value, &values, voters.contains(&self.node_id));
        (verdict, describe(own, &others, &answers, verdict))
    }

    /// The newest digest of this node's that is kept, up to an index.
    async fn own(&self, upto: u64) -> Option<Digest> {
        self.shared
            .read_system(|system| system.chain.kept_upto(upto))
            .await
    }

    async fn ask(&self, others: &[NodeId], upto: u64) -> Vec<Option<Digest>> {
        let asked = others.iter().map(|other| async move {
            let ctx = CallCtx::timeout(CALL_TIMEOUT);
            let answer = self.transport.call::<DigestUpTo>(*other, &upto, ctx).await;
            answer.ok().flatten()
        });
        join_all(asked).await
    }
}

fn describe(own: Digest, others: &[NodeId], answers: &[Option<Digest>], verdict: Verdict) -> String {
    let mut text = format!("the digest of this replica is {own}");
    for (other, answer) in others.iter().zip(answers) {
        let answer = answer.filter(|answer| answer.index == own.index);
        match answer {
            Some(theirs) if theirs == own => text.push_str(&format!(", as on node {other}")),
            Some(theirs) => text.push_str(&format!(", on node {other} it is {:032x}", theirs.value)),
            None => text.push_str(&format!(", node {other} did not say")),
        }
    }
    match verdict {
        Verdict::Agreed => {}
        Verdict::Confirmed => text.push_str(&format!(
            "; a majority agree with it: the odd one stops by itself if it can, and is rebuilt with `rivven-node \
             member replace` ({})",
            names(own, others, answers)
        )),
        Verdict::Outvoted => text.push_str(
            "; a majority agree against it: move the data directory away and rebuild this node with \
             `rivven-node member replace`",
        ),
        Verdict::Unclear => text.push_str(
            "; no majority says which replica is wrong: take a backup of each, and look for a fault of memory or \
             a state machine that is not deterministic",
        ),
    }
    text
}

/// Those whose digest at the same place is not this one's.
fn names(own: Digest, others: &[NodeId], answers: &[Option<Digest>]) -> String {
    let differs = |answer: &Option<Digest>| {
        answer.is_some_and(|theirs| theirs.index == own.index && theirs.value != own.value)
    };
    let odd = others.iter().zip(answers).filter(|(_, answer)| differs(answer));
    let odd: Vec<String> = odd.map(|(node, _)| format!("node {node}")).collect();
    odd.join(", ")
}
