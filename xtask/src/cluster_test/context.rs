//! What every scenario has in hand: the cluster, a seeded choice, and a place for what it saw.

use std::{collections::BTreeMap, fmt, time::Duration};

use rivven_admin::CreateTopicBody;
use rivven_cluster::NodeId;
use rivven_node::{
    client::ReadLevel,
    harness::{Harness, History, Load, LoadOptions, Outcome},
};

/// Longest wait for any one step.
pub(super) const STEP_LIMIT: Duration = Duration::from_secs(30);
/// Acknowledged writes per second of load below which a scenario has not really run.
const TRAFFIC_FLOOR_PER_SECOND: u64 = 50;
/// Name and size of the topic that scenarios create.
const TOPIC: &str = "orders";
pub(super) const PARTITIONS: u32 = 12;

/// One run of one scenario.
pub(super) struct Context<'a> {
    pub(super) harness: Harness,
    pub(super) rounds: u32,
    pub(super) facts: &'a mut Facts,
    duration: u64,
    random: u64,
}

impl<'a> Context<'a> {
    pub(super) fn new(harness: Harness, rounds: u32, duration: u64, seed: u64, facts: &'a mut Facts) -> Self {
        Self {
            harness,
            rounds,
            facts,
            duration,
            random: seed,
        }
    }

    /// A number below `limit`, the same for the same seed (SplitMix64, Steele et al. 2014).
    pub(super) fn choose(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % limit.max(1)
    }

    /// Waits until every node is ready and all agree on a leader.
    pub(super) async fn formed(&mut self) -> anyhow::Result<NodeId> {
        let ids = self.harness.ids();
        self.harness.wait_ready(&ids, STEP_LIMIT).await?;
        self.harness.wait_leader(STEP_LIMIT).await
    }

    /// Creates the topic of the scenario and waits until each partition has a leader.
    pub(super) async fn create_topic(&mut self) -> anyhow::Result<()> {
        let asked = self.harness.wait_leader(STEP_LIMIT).await?;
        let topic = CreateTopicBody {
            name: TOPIC.into(),
            partitions: PARTITIONS,
            replication_factor: Some(3),
        };
        self.harness.client(asked)?.create_topic(&topic).await?;
        let partitions = usize::try_from(PARTITIONS)?;
        self.harness
            .wait_partition_leaders(asked, partitions, &[], STEP_LIMIT)
            .await?;
        Ok(())
    }

    /// Starts writers on every node.
    pub(super) fn load(&self, name: &str) -> anyhow::Result<Load> {
        let mut options = LoadOptions::new(name);
        options.pause = Duration::from_millis(5);
        Load::start(&self.harness, &options)
    }

    /// Lets the load run for its time, and insists that it really wrote.
    pub(super) async fn traffic(&self, load: &Load) -> anyhow::Result<()> {
        tokio::time::sleep(Duration::from_secs(self.duration)).await;
        load.wait_acknowledged(TRAFFIC_FLOOR_PER_SECOND * self.duration, STEP_LIMIT)
            .await
    }

    /// Counts on every node, in its own copy, every acknowledged write.
    pub(super) async fn verify(&mut self, history: &History) -> anyhow::Result<()> {
        let leader = self.harness.wait_leader(STEP_LIMIT).await?;
        let index = self.harness.status(leader).await?.commit_index;
        let mut lost = 0;
        for id in self.harness.ids() {
            self.harness.wait_applied(id, index, STEP_LIMIT).await?;
            lost += history.verify(&self.harness, id, ReadLevel::Stale).await?.lost();
        }
        self.facts
            .count("acknowledged", history.count(Outcome::Acknowledged));
        self.facts.count("unknown", history.count(Outcome::Unknown));
        self.facts.count("failed", history.count(Outcome::Failed));
        self.facts.count("retried", history.retried());
        self.facts.count("lost", lost);
        anyhow::ensure!(lost == 0, "{lost} acknowledged writes are lost or altered");
        Ok(())
    }

    /// Refuses to pass a run that injected less, or saw less, than it is meant to (design D12).
    pub(super) fn floor(&mut self, what: &'static str, seen: usize, least: usize) -> anyhow::Result<()> {
        self.facts.floor(what, seen, least)
    }
}

/// What a scenario saw, in the order it saw it.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    order: Vec<&'static str>,
    values: BTreeMap<&'static str, Fact>,
}

#[derive(Clone, Debug)]
enum Fact {
    Count(usize),
    Times(Vec<Duration>),
}

impl Facts {
    pub(super) fn count(&mut self, name: &'static str, value: usize) {
        self.set(name, Fact::Count(value));
    }

    /// Counts, and refuses too little.
    fn floor(&mut self, name: &'static str, seen: usize, least: usize) -> anyhow::Result<()> {
        self.count(name, seen);
        anyhow::ensure!(
            seen >= least,
            "only {seen} {name}, at least {least} are needed to show anything"
        );
        Ok(())
    }

    /// Adds one measured time.
    pub(super) fn time(&mut self, name: &'static str, value: Duration) {
        match self.values.get_mut(name) {
            Some(Fact::Times(times)) => times.push(value),
            Some(Fact::Count(_)) | None => self.set(name, Fact::Times(vec![value])),
        }
    }

    fn set(&mut self, name: &'static str, fact: Fact) {
        if self.values.insert(name, fact).is_none() {
            self.order.push(name);
        }
    }

    pub(super) fn to_text(&self) -> String {
        let facts = self
            .order
            .iter()
            .filter_map(|name| Some((name, self.values.get(name)?)));
        let facts: Vec<String> = facts.map(|(name, fact)| format!("{name} {fact}")).collect();
        facts.join(", ")
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        let value = |fact: &Fact| match fact {
            Fact::Count(count) => serde_json::json!(count),
            Fact::Times(times) => times.iter().map(|time| time.as_secs_f64() * 1000.0).collect(),
        };
        self.values
            .iter()
            .map(|(name, fact)| ((*name).to_owned(), value(fact)))
            .collect()
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Times(times) => {
                let mut sorted = times.clone();
                sorted.sort_unstable();
                let ms = |time: Option<&Duration>| time.map_or(0, Duration::as_millis);
                let median = ms(sorted.get(sorted.len() / 2));
                match sorted.len() {
                    1 => write!(f, "{median} ms"),
                    _ => write!(f, "median {median} ms, worst {} ms", ms(sorted.last())),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_read_in_the_order_they_were_seen() {
        let mut facts = Facts::default();
        facts.count("kills", 3);
        for ms in [300, 100, 200] {
            facts.time("next write", Duration::from_millis(ms));
        }
        facts.count("kills", 4);
        assert_eq!(facts.to_text(), "kills 4, next write median 200 ms, worst 300 ms");
        assert_eq!(facts.to_json()["next write"][0], 300.0);
    }

    #[test]
    fn a_run_that_injected_too_little_is_refused() {
        let mut facts = Facts::default();
        assert!(facts.floor("kills", 3, 3).is_ok());
        assert!(facts.floor("kills", 2, 3).is_err());
        assert_eq!(
            facts.to_text(),
            "kills 2",
            "what was seen is reported all the same"
        );
    }
}
