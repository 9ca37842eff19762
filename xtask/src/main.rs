//! The one door to every check, scenario and benchmark of this workspace.

fn main() {}
