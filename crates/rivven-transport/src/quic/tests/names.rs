//! Host names that lead to several addresses, of which not all lead to somebody.

use std::net::IpAddr;

use futures_util::FutureExt;
use rivven_types::PeerAddr;

use super::*;
use crate::quic::lookup::Lookups;

/// A resolver that knows these addresses for every name.
pub(super) fn addresses(texts: &[&str]) -> Lookups {
    let found: Vec<IpAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
    Lookups::by(move |_| std::future::ready(Ok(found.clone())).boxed())
}

/// Where `to` listens, under a name.
pub(super) fn named(host: &str, to: &Transport) -> PeerAddr {
    format!("{host}:{}", to.local_addr().unwrap().port())
        .parse()
        .unwrap()
}

fn start_by(ca: &CertificateAuthority, node: NodeId, lookups: Lookups) -> Transport {
    let identity = identity(ca, node);
    let local = local(&identity, 1);
    QuicTransport::builder(identity, local)
        .bind(([0, 0, 0, 0], 0).into())
        .router(router(&Slept::default()))
        .lookups(lookups)
        .start()
        .unwrap()
}

#[tokio::test]
async fn discovery_and_calls_try_every_address_of_a_name() {
    let ca = authority();
    let two = start(identity(&ca, 2));
    // Nobody listens at the first two, and this node has no socket for the last one.
    let known = ["127.0.0.3", "127.0.0.2", "127.0.0.1", "::1"];
    let one = start_by(&ca, 1, addresses(&known));
    let addr = named("two.example", &two);
    let three = start_by(&ca, 3, addresses(&known));
    three.set_address(2, addr.clone());
    let (patient, hurried, called) = tokio::join!(
        one.discover(addr.clone(), ctx(10_000)),
        // With less time than one attempt may take, the last address is reached too.
        one.discover(addr, ctx(1_200)),
        echo(&three, 2, ctx(30_000)),
    );
    assert_eq!((patient.unwrap().node, hurried.unwrap().node), (2, 2));
    assert_eq!(called.unwrap().0, 3);
}

#[tokio::test]
async fn a_resolver_that_hangs_ends_discovery_at_its_deadline() {
    let ca = authority();
    let one = start_by(&ca, 1, Lookups::by(|_| std::future::pending().boxed()));
    let two = start(identity(&ca, 2));
    let error = one
        .discover(named("two.example", &two), ctx(300))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "unreachable");
    one.set_address(2, named("two.example", &two));
    let error = echo(&one, 2, ctx(2_000)).await.unwrap_err();
    assert!(error.to_string().contains("resolver"), "{error}");
}
