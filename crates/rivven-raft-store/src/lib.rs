//! Durable log, vote and snapshots for openraft, on redb.
