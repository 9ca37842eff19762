//! Tests that need more than one crate: the promised snippets, and what only a whole cluster can show.

pub mod promises;
pub mod sim;
