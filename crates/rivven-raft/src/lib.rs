//! Replicate a state machine: a Raft node that hides its consensus library.
