//! Tests of the payload format.
