//! Doors for the fuzzer to what is not public. No part of the interface of this crate.

use bytes::Bytes;

use crate::stream::{Frame, LEN_BYTES};

/// Decodes `bytes` as a stream of calls: the number of whole frames up to the end or the first error.
#[must_use]
pub fn frames(bytes: &[u8]) -> usize {
    crate::quic::count_frames(bytes)
}

/// Decodes `bytes` as a hello; what was understood of it, encoded again.
#[must_use]
pub fn hello(bytes: &[u8]) -> Option<Vec<u8>> {
    crate::quic::read_hello_again(bytes)
}

/// Decodes `bytes` as words of the control stream: how many there are up to the end or the first error.
#[must_use]
pub fn words(bytes: &[u8]) -> usize {
    crate::quic::count_words(bytes)
}

/// Decodes `bytes` as frames of a transfer; those before the end or the first error, encoded again.
#[must_use]
pub fn transfer(mut bytes: &[u8]) -> Vec<u8> {
    let mut again = Vec::new();
    while let Some((prefix, rest)) = bytes.split_first_chunk::<LEN_BYTES>() {
        let Some((body, rest)) = Frame::len_of(*prefix)
            .ok()
            .and_then(|len| rest.split_at_checked(len))
        else {
            break;
        };
        let frame = Frame::decode(&Bytes::copy_from_slice(body)).ok();
        let Some(pieces) = frame.and_then(|frame| frame.encode()) else {
            break;
        };
        again.extend(pieces.concat());
        bytes = rest;
    }
    again
}
