//! Tests of the machine by hand-made datagrams.
