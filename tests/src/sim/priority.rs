//! Members that should lead more than others, and whether the right one leads in the end.

use std::{collections::BTreeMap, time::Duration};

use rivven_raft::{DEFAULT_PRIORITY, MAX_PRIORITY, NodeId};
use tokio::time::sleep;

use super::{chance::Chance, cluster::Cluster, run::CONVERGE_TIME};

/// The priority of each node; empty where nobody says anything of it.
pub type Priorities = BTreeMap<NodeId, u16>;

/// How long a node has to be fit before leadership is handed to it: the shortest, for many hand-overs in the middle of
/// trouble.
pub const HOLD: Duration = Duration::from_secs(1);

/// What is drawn from: both ends, and what lies around the middle.
const DRAWN: [u16; 5] = [
    0,
    DEFAULT_PRIORITY / 2,
    DEFAULT_PRIORITY,
    DEFAULT_PRIORITY * 2,
    MAX_PRIORITY,
];

/// Runs of a hundred in which priorities are said.
const SAID_PERCENT: u64 = 40;

/// How long it may take in peace until whoever should lead does: an election, the hold, and some hand-overs that fail.
const LEAD_TIME: Duration = Duration::from_secs(30);

/// For how long whoever leads then is watched: nobody may take over.
const STAYS: Duration = Duration::from_secs(5);

/// The priorities of a run with so many nodes.
#[must_use]
pub fn draw(seed: u64, nodes: u64) -> Priorities {
    let mut chance = Chance::new(seed, 3);
    if !chance.percent(SAID_PERCENT) {
        return Priorities::new();
    }
    let mut one = || chance.pick(&DRAWN).copied().unwrap_or(DEFAULT_PRIORITY);
    (1..=nodes).map(|node| (node, one())).collect()
}

/// Whether nobody should lead in place of `leader`.
fn may_lead(priorities: &Priorities, leader: NodeId) -> bool {
    priorities.get(&leader) == priorities.values().max()
}

/// Starts every machine anew, and sees one of the highest priority lead, and go on leading.
///
/// Anew, because who came and went is waited for up to an hour, which leaders remember for as long as they run.
pub async fn settle(cluster: &Cluster, chance: &mut Chance) {
    let world = cluster.world();
    let priorities = &world.priorities;
    if priorities.is_empty() {
        return;
    }
    cluster.kill_all().await;
    cluster.boot_all(chance).await;
    let preferred = |cluster: &Cluster| {
        let leader = cluster.leader().map(|host| host.id());
        leader.filter(|leader| may_lead(priorities, *leader))
    };
    cluster
        .until(LEAD_TIME, |cluster| preferred(cluster).is_some())
        .await;
    cluster.converge(CONVERGE_TIME).await;
    let leads = preferred(cluster);
    sleep(STAYS).await;
    if leads.is_none() || preferred(cluster) != leads {
        let leader = cluster.leader().map(|host| host.id());
        let text = format!("priority: {leads:?} led in peace, then {leader:?}, of {priorities:?}");
        world.trace.violation(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_the_highest_may_lead_and_nobody_else() {
        let priorities = Priorities::from([(1, 100), (2, 200), (3, 200)]);
        let may_lead = [1, 2, 3, 4].map(|leader| may_lead(&priorities, leader));
        assert_eq!(may_lead, [false, true, true, false]);
    }

    #[test]
    fn some_seeds_make_members_unequal_and_others_say_nothing() {
        let runs = (0..60).map(|seed| draw(seed, 3));
        let said: Vec<_> = runs.filter(|priorities| !priorities.is_empty()).collect();
        let unequal = said
            .iter()
            .filter(|said| said.values().min() != said.values().max());
        assert!((15..35).contains(&said.len()) && unequal.count() > 10, "{said:?}");
    }
}
