//! Doors for the fuzzer to what is not public. No part of the interface of this crate.

/// Decodes `bytes` as a stream of calls: the number of whole frames up to the end or the first error.
#[must_use]
pub fn frames(bytes: &[u8]) -> usize {
    crate::quic::count_frames(bytes)
}
