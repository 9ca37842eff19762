//! The replicated map of topics and partitions, and the pure decisions about it.
