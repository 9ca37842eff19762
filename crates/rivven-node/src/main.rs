//! The `rivven-node` binary.

fn main() {}
