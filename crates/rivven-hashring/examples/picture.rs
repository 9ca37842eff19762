//! Draws the picture of the README to standard output.

#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use rivven_hashring::{Ring, RingError, RingNode};

fn main() -> Result<(), RingError> {
    let mut ring = Ring::new(16);
    for (name, zone) in [("node1", "a"), ("node2", "b"), ("node3", "c"), ("node4", "a")] {
        ring.add(RingNode::new(name).in_zone(zone))?;
    }
    print!("{}", ring.svg());
    Ok(())
}
