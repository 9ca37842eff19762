//! Coordination for distributed systems: leader election, membership, partition assignment.
