//! The rules, without a group: by cases, by chance, and for small groups by all there is.

mod cases;
mod search;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rivven_types::{InstanceId, NodeId};

use super::*;

pub(super) const POLICY: Policy = Policy {
    voter_target: 5,
    replace_after: Duration::from_secs(600),
    silence: Duration::from_secs(2),
    caught_up_lag: 100,
    bound: true,
    replace: Replace::Refuse,
    priority_hold: Duration::from_secs(30),
};

/// How a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Answers and has everything.
    Well,
    /// Answers and lacks much.
    Behind,
    /// Silent for a moment.
    Silent,
    /// Silent for long.
    Dead,
}

pub(super) fn instance(node: NodeId, disk: u8) -> InstanceId {
    let mut bytes = [disk; 16];
    bytes[..8].copy_from_slice(&node.to_le_bytes());
    InstanceId::from_random(bytes)
}

pub(super) fn seated(node: NodeId, life: Life) -> Seated {
    let (silent, lag) = match life {
        Life::Well => (0, Some(0)),
        Life::Behind => (0, Some(1_000)),
        Life::Silent => (10, Some(0)),
        Life::Dead => (1_000, None),
    };
    Seated {
        instance: Some(instance(node, 0)),
        addr: format!("node{node}:9093").parse().unwrap(),
        health: Health {
            silent: Duration::from_secs(silent),
            lag,
            proven: Some(instance(node, 0)),
        },
    }
}

/// A group led by the lowest voter, all of them well.
pub(super) fn group(voters: &[NodeId], learners: &[NodeId]) -> View {
    let seated = voters.iter().chain(learners);
    View {
        leader: voters[0],
        configs: vec![voters.iter().copied().collect()],
        seated: seated.map(|node| (*node, seated_well(*node))).collect(),
        records: Records::default(),
    }
}

fn seated_well(node: NodeId) -> Seated {
    seated(node, Life::Well)
}

impl View {
    pub(super) fn with(mut self, node: NodeId, life: Life) -> Self {
        self.seated.insert(node, seated(node, life));
        self
    }

    pub(super) fn told(mut self, command: MemberCommand) -> Self {
        self.records.apply(command).unwrap();
        self
    }

    pub(super) fn joined(self, node: NodeId, zone: &str, role: MemberRole) -> Self {
        self.told(join(node, 0, zone, role))
    }

    pub(super) fn in_zones(self, zones: &[(NodeId, &str)]) -> Self {
        zones.iter().fold(self, |view, (node, zone)| {
            view.joined(*node, zone, MemberRole::Auto)
        })
    }
}

pub(super) fn join(node: NodeId, disk: u8, zone: &str, role: MemberRole) -> MemberCommand {
    MemberCommand::Join {
        node,
        instance: instance(node, disk),
        addr: format!("node{node}:9093").parse().unwrap(),
        zone: zone.to_owned(),
        role,
        priority: DEFAULT_PRIORITY,
    }
}

/// The view once `node` has said its priority.
pub(super) fn prefers(view: View, node: NodeId, wanted: u16) -> View {
    let (zone, role) = (
        view.records.zone(node).unwrap_or_default().to_owned(),
        view.records.role(node),
    );
    let mut said = join(node, 0, &zone, role);
    if let MemberCommand::Join { priority, .. } = &mut said {
        *priority = wanted;
    }
    view.told(said)
}

/// Every step until there is none, and the view after them.
pub(super) fn settle(mut view: View) -> (Vec<MemberStep>, View) {
    let mut steps = Vec::new();
    while let Some(step) = next(&view, &POLICY).step {
        steps.push(step);
        view = view.after(step);
        assert!(steps.len() < 1_000, "no end: {steps:?}");
    }
    (steps, view)
}

pub(super) fn set(nodes: &[NodeId]) -> BTreeSet<NodeId> {
    nodes.iter().copied().collect()
}

pub(super) type Lives = BTreeMap<NodeId, Life>;
