//! Every metric of this crate: its name, kind, unit, labels and meaning.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric: its name, kind, unit, labels and meaning.
pub(super) type Described = (&'static str, Kind, Unit, &'static [&'static str], &'static str);

pub(super) const CALLS_STARTED: &str = "transport_calls_started_total";
pub(super) const CALLS: &str = "transport_calls_total";
pub(super) const CALL_SECONDS: &str = "transport_call_seconds";
pub(super) const SENT_BYTES: &str = "transport_sent_bytes_total";
pub(super) const RECEIVED_BYTES: &str = "transport_received_bytes_total";
pub(super) const SERVED_STARTED: &str = "transport_served_started_total";
pub(super) const SERVED: &str = "transport_served_total";
pub(super) const SERVED_SECONDS: &str = "transport_served_seconds";

pub(super) const HANDSHAKE_FAILURES: &str = "transport_handshake_failures_total";
pub(super) const CONNECTIONS: &str = "transport_connections";
pub(super) const REFUSED: &str = "transport_refused_total";
pub(super) const TRANSFERS: &str = "transport_transfers_total";
pub(super) const TRANSFER_BYTES: &str = "transport_transfer_bytes_total";

pub(super) const SEALED: &str = "transport_datagrams_sealed_total";
pub(super) const SEALED_BYTES: &str = "transport_datagram_sealed_bytes_total";
pub(super) const OPENED: &str = "transport_datagrams_opened_total";
pub(super) const OPENED_BYTES: &str = "transport_datagram_opened_bytes_total";
pub(super) const DROPPED: &str = "transport_datagrams_dropped_total";

/// Labels of what is counted for each peer.
const CLASS: &[&str] = &["peer", "class"];
const OUTCOME: &[&str] = &["peer", "class", "outcome"];

pub(super) const ALL: [Described; 18] = [
    (
        CALLS_STARTED,
        Kind::Counter,
        Unit::Count,
        CLASS,
        "Calls that this node began.",
    ),
    (
        CALLS,
        Kind::Counter,
        Unit::Count,
        OUTCOME,
        "Calls of this node that ended, by what the caller was told.",
    ),
    (
        CALL_SECONDS,
        Kind::Histogram,
        Unit::Seconds,
        CLASS,
        "Time from the begin of an answered call to its response, queues included.",
    ),
    (
        SENT_BYTES,
        Kind::Counter,
        Unit::Bytes,
        CLASS,
        "Bytes of requests and responses that this node sent, without their frames.",
    ),
    (
        RECEIVED_BYTES,
        Kind::Counter,
        Unit::Bytes,
        CLASS,
        "Bytes of requests and responses that this node received, without their frames.",
    ),
    (
        SERVED_STARTED,
        Kind::Counter,
        Unit::Count,
        CLASS,
        "Calls of peers whose handler began here.",
    ),
    (
        SERVED,
        Kind::Counter,
        Unit::Count,
        OUTCOME,
        "Calls of peers whose handler ended here, by how.",
    ),
    (
        SERVED_SECONDS,
        Kind::Histogram,
        Unit::Seconds,
        CLASS,
        "Time that a handler took for a call it answered.",
    ),
    (
        REFUSED,
        Kind::Counter,
        Unit::Count,
        &["class", "reason"],
        "Calls and transfers of peers that were refused before a handler saw them, by the code of the refusal.",
    ),
    (
        TRANSFERS,
        Kind::Counter,
        Unit::Count,
        &["direction", "transfer", "outcome"],
        "Transfers that ended, by what they carried and how they ended.",
    ),
    (
        TRANSFER_BYTES,
        Kind::Counter,
        Unit::Bytes,
        &["peer", "direction", "transfer"],
        "Bytes of the contents of transfers, without their frames.",
    ),
    (
        CONNECTIONS,
        Kind::Gauge,
        Unit::Count,
        &["side", "purpose"],
        "Connections that have passed both hellos, by who made them and what for.",
    ),
    (
        HANDSHAKE_FAILURES,
        Kind::Counter,
        Unit::Count,
        &["side", "reason"],
        "Connections that came to nothing, by who made them and why.",
    ),
    (
        SEALED,
        Kind::Counter,
        Unit::Count,
        &[],
        "Datagrams sealed, to be sent.",
    ),
    (
        SEALED_BYTES,
        Kind::Counter,
        Unit::Bytes,
        &[],
        "Bytes of sealed datagrams, seal included.",
    ),
    (
        OPENED,
        Kind::Counter,
        Unit::Count,
        &[],
        "Datagrams received and found authentic and new.",
    ),
    (
        OPENED_BYTES,
        Kind::Counter,
        Unit::Bytes,
        &[],
        "Bytes of opened datagrams, seal included.",
    ),
    (
        DROPPED,
        Kind::Counter,
        Unit::Count,
        &["reason"],
        "Datagrams received and dropped, by the code of the error.",
    ),
];

/// Tells the recorder what the metrics mean. Saying it again changes nothing.
pub(super) fn describe() {
    for (name, kind, unit, _, text) in ALL {
        match kind {
            Kind::Counter => describe_counter!(name, unit, text),
            Kind::Gauge => describe_gauge!(name, unit, text),
            Kind::Histogram => describe_histogram!(name, unit, text),
        }
    }
}
