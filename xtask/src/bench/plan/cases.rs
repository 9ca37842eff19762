//! How long plans take, how much they move, and how even they leave things.

use std::hint::black_box;

use anyhow::Result;
use rivven_partition::{Goal, plan};

use super::{
    timing::{least, millis},
    world::World,
};
use crate::bench::report::Report;

/// One change of a cluster that calls for a plan.
struct Case {
    name: &'static str,
    nodes: usize,
    zones: usize,
    change: Change,
}

enum Change {
    /// So many nodes join, each in the next zone.
    Join(usize),
    /// These nodes get the weight 0.
    Drain(&'static [u64]),
    /// Every tenth node gets twice the weight.
    Weigh,
}

const CASES: [Case; 10] = [
    Case {
        name: "99 nodes, 3 zones, add 1",
        nodes: 99,
        zones: 3,
        change: Change::Join(1),
    },
    Case {
        name: "99 nodes, 3 zones, add 3",
        nodes: 99,
        zones: 3,
        change: Change::Join(3),
    },
    Case {
        name: "99 nodes, 3 zones, drain 1",
        nodes: 99,
        zones: 3,
        change: Change::Drain(&[7]),
    },
    Case {
        name: "100 nodes, 10 zones, add 1",
        nodes: 100,
        zones: 10,
        change: Change::Join(1),
    },
    Case {
        name: "100 nodes, 10 zones, drain 1",
        nodes: 100,
        zones: 10,
        change: Change::Drain(&[7]),
    },
    Case {
        name: "100 nodes, 10 zones, drain a zone",
        nodes: 100,
        zones: 10,
        change: Change::Drain(&[4, 14, 24, 34, 44, 54, 64, 74, 84, 94]),
    },
    Case {
        name: "100 nodes, 10 zones, weights",
        nodes: 100,
        zones: 10,
        change: Change::Weigh,
    },
    Case {
        name: "1000 nodes, 20 zones, add 1",
        nodes: 1_000,
        zones: 20,
        change: Change::Join(1),
    },
    Case {
        name: "1000 nodes, 20 zones, drain 1",
        nodes: 1_000,
        zones: 20,
        change: Change::Drain(&[7]),
    },
    Case {
        name: "100 nodes, no zones, drain 1",
        nodes: 100,
        zones: 0,
        change: Change::Drain(&[7]),
    },
];

/// Every case, on as few clusters as that needs.
pub(super) fn all(topics: usize, passes: u32, report: &mut Report) -> Result<()> {
    let mut built: Option<((usize, usize), World)> = None;
    for case in &CASES {
        let size = (case.nodes, case.zones);
        let world = match built.take().filter(|(of, _)| *of == size) {
            Some((_, world)) => world,
            None => World::new(case.nodes, case.zones, topics)?,
        };
        one(case, world.clone(), passes, report)?;
        built = Some((size, world));
    }
    Ok(())
}

fn one(case: &Case, mut world: World, passes: u32, report: &mut Report) -> Result<()> {
    match case.change {
        Change::Join(count) => {
            for node in case.nodes + 1..=case.nodes + count {
                world.join(node as u64, case.zones)?;
            }
        }
        Change::Drain(nodes) => nodes.iter().try_for_each(|node| world.weigh(*node, 0))?,
        Change::Weigh => {
            (1..=case.nodes as u64)
                .step_by(10)
                .try_for_each(|node| world.weigh(node, 200))?;
        }
    }
    let goal = Goal::default();
    let made = plan(&world.state, &world.members, &goal)?;
    let time = least(passes, || {
        drop(black_box(plan(&world.state, &world.members, &goal)))
    });
    let summary = made.summary();
    report.add(case.name, "plan", millis(time), &[]);
    let bound = [("lower bound", summary.lower_bound as f64)];
    report.add(case.name, "copies", (summary.replica_moves as f64, ""), &bound);
    let before = [("before", summary.replicas.before)];
    report.add(
        case.name,
        "replicas",
        (summary.replicas.after, "max/mean"),
        &before,
    );
    let before = [("before", summary.leaders.before)];
    report.add(case.name, "leaders", (summary.leaders.after, "max/mean"), &before);
    Ok(())
}
