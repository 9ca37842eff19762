//! Random events, a controller that changes at any step, and one that remembers beside one that does not.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{Goal, RebalanceCommand, plan};

/// What happens to one node, to the topic, to the rebalance, or to nobody.
#[derive(Clone, Copy, Debug)]
enum Event {
    Becomes(NodeId, Liveness),
    Restarts(NodeId),
    Drains(NodeId),
    Weighs(NodeId, u16),
    Factor(u16),
    Plans,
    Pauses,
    Resumes,
    Cancels,
    Passes(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let life = select(vec![
        Liveness::Alive,
        Liveness::Alive,
        Liveness::Suspect,
        Liveness::Dead,
        Liveness::Left,
        Liveness::Unknown,
    ]);
    prop_oneof![
        8 => (1..6u64, life).prop_map(|(node, life)| Event::Becomes(node, life)),
        2 => (1..6u64).prop_map(Event::Restarts),
        2 => (1..6u64).prop_map(Event::Drains),
        2 => (1..6u64, select(vec![0, 50, 100, 200])).prop_map(|(node, weight)| Event::Weighs(node, weight)),
        1 => (1..4u16).prop_map(Event::Factor),
        3 => Just(Event::Plans),
        1 => Just(Event::Pauses),
        1 => Just(Event::Resumes),
        1 => Just(Event::Cancels),
        2 => (0..2 * LATER).prop_map(Event::Passes),
        1 => Just(Event::Passes(crate::REBUILD_HOLD_MS * 9)),
    ]
}

/// The world, and a controller that remembers where to look.
struct World {
    state: PartitionState,
    members: Members,
    now_ms: u64,
    boot_epoch: u64,
    reconciler: Reconciler,
}

impl World {
    fn happens(&mut self, event: Event) {
        let state = &mut self.state;
        match event {
            Event::Becomes(node, life) => drop(self.members.insert(node, life)),
            Event::Restarts(node) => {
                self.boot_epoch += 1;
                let zone = state.map().node(node).unwrap().zone().map(String::from);
                let again = registration(node, self.boot_epoch, zone.as_deref());
                apply(state, PartitionCommand::RegisterNode(again));
            }
            Event::Drains(node) => set_status(state, node, NodeStatus::Draining),
            Event::Weighs(node, weight) => {
                let weight = Some(weight);
                apply(state, PartitionCommand::SetNodeWeight { node, weight });
            }
            Event::Factor(replication_factor) => {
                let topic = state.map().topic("orders").unwrap().id;
                let command = PartitionCommand::SetReplicationFactor {
                    topic,
                    replication_factor,
                };
                apply(state, command);
            }
            Event::Plans => self.plan(),
            Event::Pauses => self.rebalance(|id| RebalanceCommand::Pause { id }),
            Event::Resumes => self.rebalance(|id| RebalanceCommand::Resume { id }),
            Event::Cancels => self.rebalance(|id| RebalanceCommand::Cancel { id }),
            Event::Passes(ms) => self.now_ms += ms,
        }
    }

    fn plan(&mut self) {
        let Ok(made) = plan(&self.state, &self.members, &Goal::default()) else {
            return;
        };
        if made.is_empty() || self.state.map().rebalance().is_some() {
            return;
        }
        let command = RebalanceCommand::Begin {
            against: made.against(),
            at_ms: self.now_ms,
            moves: made.moves().collect(),
            more: false,
        };
        apply(&mut self.state, PartitionCommand::Rebalance(command));
    }

    fn rebalance(&mut self, command: fn(u64) -> RebalanceCommand) {
        if let Some(running) = self.state.map().rebalance() {
            let command = command(running.id);
            // Refused where it does not fit how the rebalance goes on.
            let _ = self
                .state
                .apply(self.state.generation() + 1, PartitionCommand::Rebalance(command));
        }
    }

    /// What a controller decides, which is the same whether it remembers or not.
    fn decide(&mut self) -> Result<Vec<PartitionCommand>, TestCaseError> {
        let remembered = self.reconciler.reconcile(&self.state, &self.members, self.now_ms);
        let fresh = reconcile(&self.state, &self.members, self.now_ms);
        prop_assert_eq!(
            &remembered,
            &fresh,
            "a controller that remembers decides otherwise"
        );
        Ok(fresh)
    }

    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..200 {
            let commands = self.decide()?;
            if commands.is_empty() {
                return Ok(());
            }
            for command in commands {
                apply(&mut self.state, command);
            }
        }
        Err(TestCaseError::fail("two hundred rounds have not settled it"))
    }

    /// Everything that must hold once nothing is left to do.
    fn check_settled(&self) -> Result<(), TestCaseError> {
        let (state, members) = (&self.state, &self.members);
        let alive = |node: NodeId| members.get(&node) == Some(&Liveness::Alive);
        let gone = |node: NodeId| matches!(members.get(&node), Some(Liveness::Dead | Liveness::Left));
        let leaving = |node: NodeId| {
            let node = state.map().node(node).unwrap();
            node.status == NodeStatus::Draining || node.weight() == 0
        };
        let current =
            |start: crate::Start| state.map().node(start.node).unwrap().registration.start() == start;
        for partition in state.map().topics().flat_map(crate::TopicRef::partitions) {
            let live: BTreeSet<_> = partition.replicas().filter(|node| alive(*node)).collect();
            prop_assert!(live.is_empty() || partition.leader().is_some());
            if let Some(leader) = partition.leader() {
                prop_assert!(!gone(leader));
                prop_assert!(!leaving(leader) || live.iter().all(|node| leaving(*node)));
                prop_assert!(
                    live.iter()
                        .all(|node| partition.in_sync().any(|other| other == *node))
                );
                prop_assert!(!partition.in_sync().any(gone));
                prop_assert!(partition.leader_start().is_some_and(current));
                let mut known = partition.in_sync_starts().filter(|start| alive(start.node));
                prop_assert!(known.all(current));
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_controller_comes_to_rest_whatever_happens(
        events in vec((event(), 0..6usize), 1..40),
        replicas in 1..4u16,
    ) {
        let (state, members) = with_orders(&["a", "b", "a", "b", ""], 24, replicas);
        let mut world = World {
            state,
            members,
            now_ms: 0,
            boot_epoch: 1,
            reconciler: Reconciler::default(),
        };
        for (event, done) in events {
            let before = world.state.clone();
            world.happens(event);
            // A controller that changes half way loses nothing: the next one finds the rest to do.
            for command in world.decide()?.into_iter().take(done) {
                apply(&mut world.state, command);
            }
            if done % 2 == 0 {
                world.reconciler = Reconciler::default();
            }
            world.settle()?;
            if world.members.values().any(|life| *life == Liveness::Alive) {
                world.check_settled()?;
            }
            // A stale answer is refused whole, never half applied.
            for command in reconcile(&before, &world.members, world.now_ms) {
                let kept = world.state.clone();
                if world.state.apply(kept.generation() + 1, command).is_err() {
                    prop_assert_eq!(&world.state, &kept);
                }
                prop_assert_eq!(world.state.check(), Ok(()));
            }
            world.settle()?;
        }
    }
}
