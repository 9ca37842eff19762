//! What is counted, how many series there can be, and that the document lists what the code tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use metrics::{
    CounterFn, Gauge, GaugeFn, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    set_default_local_recorder,
};
use rivven_types::{BootEpoch, ClusterId, InstanceId};
use tokio::runtime::Handle;

use super::{
    names::{ALL, HANDSHAKE_FAILURES},
    *,
};
use crate::{
    CallCtx, LocalIdentity, MemoryNetwork, Method, QuicTransport, Rejection, Router, Transfer, TransferCtx,
    TransferError, Transport,
    datagram::{DatagramOpener, DatagramSealer, GossipKey},
    identity::{CertificateAuthority, NodeIdentity},
};

/// Sum of what was recorded under each name and its labels' values.
#[derive(Clone, Default)]
struct Sums(Arc<Mutex<BTreeMap<String, f64>>>);

struct Sum(Sums, String);

impl Sum {
    fn add(&self, value: f64) {
        *self.0.0.lock().unwrap().entry(self.1.clone()).or_default() += value;
    }
}

impl CounterFn for Sum {
    fn increment(&self, value: u64) {
        self.add(value as f64);
    }
    fn absolute(&self, _: u64) {}
}

impl GaugeFn for Sum {
    fn increment(&self, value: f64) {
        self.add(value);
    }
    fn decrement(&self, value: f64) {
        self.add(-value);
    }
    fn set(&self, _: f64) {}
}

/// Counts how often, and not how long.
impl HistogramFn for Sum {
    fn record(&self, _: f64) {
        self.add(1.0);
    }
}

impl Sums {
    fn sum(&self, key: &Key) -> Arc<Sum> {
        let labels: String = key.labels().map(|label| format!(" {}", label.value())).collect();
        let name = format!("{}{labels}", key.name());
        self.0.lock().unwrap().entry(name.clone()).or_default();
        Arc::new(Sum(self.clone(), name))
    }

    fn sum_of(&self, name: &str) -> f64 {
        self.0.lock().unwrap().get(name).copied().unwrap_or(0.0)
    }

    fn check(&self, name: &str, expected: f64) {
        let found = self.sum_of(name);
        assert!(
            (found - expected).abs() < f64::EPSILON,
            "{name}: {found}, not {expected}"
        );
    }

    fn names(&self) -> BTreeSet<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }
}

impl Recorder for Sums {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.sum(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.sum(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.sum(key))
    }
}

/// Answers, refuses, or waits for ever, as its request says.
struct Do;

impl Method for Do {
    const ID: u16 = 0x8000;
    const NAME: &'static str = "do";
    const CLASS: Class = Class::Raft;
    const MAX_REQUEST: usize = 64;
    const MAX_RESPONSE: usize = 64;
    type Request = String;
    type Response = String;
}

fn local(node: NodeId) -> LocalIdentity {
    LocalIdentity {
        cluster: ClusterId::from_bytes([1; 16]),
        node,
        instance: InstanceId::from_bytes([2; 16]),
        boot_epoch: BootEpoch(1),
    }
}

fn join(network: &MemoryNetwork, node: NodeId) -> Transport {
    let router = Router::new();
    router.register::<Do, _, _>(|_, how| async move {
        match how.as_str() {
            "refuse" => Err(Rejection::new("no", "")),
            "wait" => std::future::pending().await,
            _ => Ok(how),
        }
    });
    network.join(local(node), router).unwrap()
}

async fn call(from: &Transport, to: NodeId, how: &str) -> Result<String, CallError> {
    let ctx = CallCtx::timeout(Duration::from_millis(100));
    from.call::<Do>(to, &how.to_owned(), ctx).await
}

#[tokio::test(start_paused = true)]
async fn both_ends_of_a_call_are_counted_by_peer_class_and_outcome() {
    let sums = Sums::default();
    let _installed = set_default_local_recorder(&sums);
    let network = MemoryNetwork::new();
    let (one, two) = (join(&network, 1), join(&network, 2));
    for _ in 0..3 {
        call(&one, 2, "answer").await.unwrap();
    }
    call(&one, 2, "refuse").await.unwrap_err();
    call(&one, 2, "wait").await.unwrap_err();
    call(&one, 3, "answer").await.unwrap_err();
    // Time for the cancellation to reach the handler.
    tokio::time::sleep(Duration::from_millis(1)).await;
    sums.check("transport_calls_started_total 2 raft", 5.0);
    sums.check("transport_calls_total 2 raft answered", 3.0);
    sums.check("transport_calls_total 2 raft rejected", 1.0);
    sums.check("transport_calls_total 2 raft deadline", 1.0);
    sums.check("transport_calls_total 3 raft unreachable", 1.0);
    sums.check("transport_call_seconds 2 raft", 3.0);
    sums.check("transport_served_started_total 1 raft", 5.0);
    sums.check("transport_served_total 1 raft answered", 3.0);
    sums.check("transport_served_total 1 raft rejected", 1.0);
    sums.check("transport_served_total 1 raft given-up", 1.0);
    sums.check("transport_served_seconds 1 raft", 3.0);
    // A postcard string is its length in a byte, and its text: one sent, the other received, and back.
    sums.check("transport_sent_bytes_total 2 raft", 3.0 * 7.0 + 7.0 + 5.0);
    sums.check("transport_received_bytes_total 2 raft", 3.0 * 7.0);
    sums.check("transport_received_bytes_total 1 raft", 3.0 * 7.0 + 7.0 + 5.0);
    sums.check("transport_sent_bytes_total 1 raft", 3.0 * 7.0);
    drop((one, two));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_counts_as_given_up() {
    let sums = Sums::default();
    let _installed = set_default_local_recorder(&sums);
    let network = MemoryNetwork::new();
    let (one, _two) = (join(&network, 1), join(&network, 2));
    let given_up = tokio::time::timeout(Duration::from_millis(5), call(&one, 2, "wait")).await;
    assert!(given_up.is_err());
    sums.check("transport_calls_total 2 raft given-up", 1.0);
}

#[test]
fn peers_beyond_the_bound_share_one_label() {
    let sums = Sums::default();
    let _installed = set_default_local_recorder(&sums);
    let calls = CallMetrics::new(End::Caller);
    let many = 3 * MAX_LABELLED_PEERS as u64;
    for node in (0..many).chain(0..many) {
        calls.begin(node, Class::Control, 1).answered(1);
    }
    let rest = 2.0 * (many as f64 - MAX_LABELLED_PEERS as f64);
    sums.check("transport_calls_total other control answered", rest);
    sums.check("transport_calls_total 0 control answered", 2.0);
    let labels = sums.names();
    let labels = labels.iter().filter(|name| name.starts_with(CALLS)).count();
    assert_eq!(labels, MAX_LABELLED_PEERS + 1);
}

#[test]
fn datagrams_are_counted_and_those_dropped_by_reason() {
    let sums = Sums::default();
    let _installed = set_default_local_recorder(&sums);
    let key = GossipKey::from_bytes([7; 32]);
    let mut sealer = DatagramSealer::new(&key, &local(1));
    let mut opener = DatagramOpener::new(&key, ClusterId::from_bytes([1; 16]));
    let (mut sealed, mut out) = (Vec::new(), Vec::new());
    sealer.seal(b"text", &mut sealed).unwrap();
    opener.open(&sealed, &mut out).unwrap();
    for _ in 0..2 {
        opener.open(&sealed, &mut out).unwrap_err();
    }
    opener.open(b"", &mut out).unwrap_err();
    sums.check(SEALED, 1.0);
    sums.check(SEALED_BYTES, sealed.len() as f64);
    sums.check(OPENED, 1.0);
    sums.check(OPENED_BYTES, sealed.len() as f64);
    sums.check("transport_datagrams_dropped_total datagram-replayed", 2.0);
    sums.check("transport_datagrams_dropped_total datagram-too-short", 1.0);
}

/// Takes a text; refuses `"no"` before its first byte.
struct Text;

impl Transfer for Text {
    const ID: u16 = 0x8000;
    const NAME: &'static str = "text";
    const MAX_HEADER: usize = 8;
    const MAX_RECEIPT: usize = 16;
    type Header = String;
    type Receipt = u64;
}

fn take_text(router: &Router) {
    router.register_transfer::<Text, _, _>(|_, how, offered| async move {
        if how == "no" {
            return Err(Rejection::new("any-code", ""));
        }
        let mut incoming = offered.accept_from(0).await;
        while incoming.chunk().await?.is_some() {}
        Ok(incoming.offset())
    });
}

async fn send_text(from: &Transport, to: NodeId, how: &str) -> Result<u64, TransferError> {
    let text = b"0123456789";
    let source = |offset: u64| {
        let rest = text.get(usize::try_from(offset).unwrap()..).unwrap();
        std::future::ready(Ok(rest.into()))
    };
    from.send_stream::<Text, _, _>(to, &how.to_owned(), source, TransferCtx::new())
        .await
}

#[tokio::test(start_paused = true)]
async fn both_ends_of_a_transfer_are_counted_and_refusals_before_a_handler_by_their_code() {
    let sums = Sums::default();
    let _installed = set_default_local_recorder(&sums);
    let network = MemoryNetwork::new();
    let router = Router::new();
    take_text(&router);
    let (one, two) = (join(&network, 1), network.join(local(2), router.clone()).unwrap());
    assert_eq!(send_text(&one, 2, "yes").await.unwrap(), 10);
    send_text(&one, 2, "no").await.unwrap_err();
    sums.check("transport_transfers_total sent text answered", 1.0);
    sums.check("transport_transfers_total received text answered", 1.0);
    sums.check("transport_transfer_bytes_total 2 sent text", 10.0);
    sums.check("transport_transfer_bytes_total 1 received text", 10.0);
    sums.check("transport_transfers_total sent text rejected", 1.0);
    sums.check("transport_transfers_total received text rejected", 1.0);
    router.clear();
    send_text(&one, 2, "yes").await.unwrap_err();
    call(&one, 2, "answer").await.unwrap_err();
    sums.check("transport_transfers_total received unknown refused", 1.0);
    sums.check("transport_refused_total bulk unknown-transfer", 1.0);
    sums.check("transport_refused_total raft unknown-method", 1.0);
    drop(two);
    send_text(&one, 3, "yes").await.unwrap_err();
    sums.check("transport_transfers_total sent text not-begun", 1.0);
}

/// A node whose tasks all run on the calling thread, where the recorder of this test is.
fn start(authority: &CertificateAuthority, node: NodeId) -> Transport {
    let issued = authority.issue(node).unwrap();
    let identity = NodeIdentity::from_pem(authority.cert_pem(), issued.cert_pem(), issued.key_pem());
    QuicTransport::builder(identity.unwrap(), local(node))
        .runtime(Handle::current())
        .start()
        .unwrap()
}

#[tokio::test]
async fn connections_are_counted_while_they_last_and_those_that_came_to_nothing_by_reason() {
    let sums = Sums::default();
    let _installed = set_default_local_recorder(&sums);
    let ours = CertificateAuthority::generate(ClusterId::from_bytes([1; 16])).unwrap();
    let theirs = CertificateAuthority::generate(ClusterId::from_bytes([1; 16])).unwrap();
    let (one, two, three) = (start(&ours, 1), start(&ours, 2), start(&theirs, 3));
    for to in [&two, &three] {
        one.set_address(to.local().node, to.local_addr().unwrap().into());
    }
    let ctx = || CallCtx::timeout(Duration::from_secs(2));
    let refused = one.call::<Do>(2, &"answer".into(), ctx()).await.unwrap_err();
    assert_eq!(refused.code(), "unknown-method");
    sums.check("transport_refused_total raft unknown-method", 1.0);
    sums.check("transport_connections dialled main", 1.0);
    sums.check("transport_connections accepted main", 1.0);
    one.call::<Do>(3, &"answer".into(), ctx()).await.unwrap_err();
    // Each believes its own authority alone: the one that sees the other's certificate first says so.
    let failures = |what: &str| sums.sum_of(&format!("{HANDSHAKE_FAILURES} {what}"));
    assert!(failures("dialled tls") > 0.0, "{:?}", sums.names());
    let end = Instant::now() + Duration::from_secs(10);
    while failures("accepted tls-by-peer") == 0.0 {
        assert!(Instant::now() < end, "{:?}", sums.names());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for other in ["dialled tls-by-peer", "accepted tls", "accepted timeout"] {
        assert_eq!(failures(other), 0.0, "{other} in {:?}", sums.names());
    }
    two.shutdown(Duration::from_millis(100)).await;
    while sums.sum_of("transport_connections dialled main")
        + sums.sum_of("transport_connections accepted main")
        > 0.0
    {
        assert!(Instant::now() < end, "the connection is still counted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Name, kind, unit and labels of each metric of this crate, as `docs/operating/metrics.md` has them.
fn documented() -> BTreeSet<[String; 4]> {
    let text = include_str!("../../../../docs/operating/metrics.md");
    let rows = text.lines().filter(|line| line.starts_with("| `transport_"));
    rows.map(|row| {
        let mut cells = row.split('|').skip(1).map(|cell| cell.trim().replace('`', ""));
        std::array::from_fn(|_| cells.next().unwrap())
    })
    .collect()
}

#[test]
fn the_document_lists_every_metric_as_it_is() {
    let told = ALL.map(|(name, kind, unit, labels, _)| {
        let unit = match unit {
            Unit::Count => "count",
            unit => unit.as_str(),
        };
        let kind = format!("{kind:?}").to_lowercase();
        [name.into(), kind, unit.into(), labels.join(", ")]
    });
    assert_eq!(documented(), told.into_iter().collect());
}
