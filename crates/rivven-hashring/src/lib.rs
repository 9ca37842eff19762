//! Consistent hashing with virtual nodes, by a frozen and documented hash.
