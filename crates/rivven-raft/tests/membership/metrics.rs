//! What the membership tells the `metrics` facade.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    set_default_local_recorder,
};
use rivven_raft::{JoinAs, MemberChange, MemberOptions};

use crate::support::Group;

/// The last value of each gauge and the sum of each counter, by name and label.
#[derive(Clone, Default)]
struct Values(Arc<Mutex<BTreeMap<String, f64>>>);

struct Value(Values, String);

impl Value {
    fn with(&self, change: impl FnOnce(&mut f64)) {
        change(self.0.0.lock().unwrap().entry(self.1.clone()).or_default());
    }
}

impl CounterFn for Value {
    fn increment(&self, by: u64) {
        self.with(|value| *value += by as f64);
    }
    fn absolute(&self, _: u64) {}
}

impl GaugeFn for Value {
    fn increment(&self, _: f64) {}
    fn decrement(&self, _: f64) {}
    fn set(&self, to: f64) {
        self.with(|value| *value = to);
    }
}

impl Values {
    fn value(&self, key: &Key) -> Arc<Value> {
        let labels: String = key.labels().map(|label| format!(" {}", label.value())).collect();
        Arc::new(Value(self.clone(), format!("{}{labels}", key.name())))
    }

    fn of(&self, name: &str) -> f64 {
        self.0.lock().unwrap().get(name).copied().unwrap_or_default()
    }
}

impl Recorder for Values {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.value(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.value(key))
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn changes_are_counted_by_everybody_and_refusals_by_the_leader() {
    let values = Values::default();
    let _installed = set_default_local_recorder(&values);
    let group = Group::start(3).await;
    group.join(4, JoinAs::new()).await;
    group.settled().await;
    assert_eq!(
        (
            values.of("raft_members_voters"),
            values.of("raft_members_learners")
        ),
        (3.0, 1.0)
    );
    // Three founders and the newcomer itself, which applies what was before it came.
    assert_eq!(values.of("raft_members_changes_total joins"), 4.0);
    let leader = group.leader().await;
    let node = group.node(leader);
    node.remove_member(99).await.unwrap_err();
    node.remove_member(leader).await.unwrap();
    assert_eq!(values.of("raft_members_refused_total unknown-member"), 1.0);
    group.settled_without(leader).await;
    assert_eq!(values.of("raft_members_voters"), 3.0);
    assert!(
        values.of("raft_members_changes_total promoted") >= 3.0,
        "node 4 votes in its place"
    );
    assert!(values.of("raft_members_changes_total leaves") >= 3.0);
    let change = MemberChange::Replace { node: 4 };
    let asked = group.any_but(&[leader]);
    let refused = asked.change_membership(change, MemberOptions::default());
    assert_eq!(refused.await.unwrap_err().code(), "member-lives");
    assert_eq!(values.of("raft_members_refused_total member-lives"), 1.0);
}
