//! Who may send what, and where.

use super::*;

/// A transfer that nobody takes.
struct Unknown;

impl Transfer for Unknown {
    const ID: u16 = 0x8001;
    const NAME: &'static str = "unknown";
    const MAX_HEADER: usize = 8;
    const MAX_RECEIPT: usize = 8;
    type Header = String;
    type Receipt = ();
}

/// [`Unknown`] as a receiver with smaller headers has it.
struct Smaller;

impl Transfer for Smaller {
    const ID: u16 = Unknown::ID;
    const NAME: &'static str = "smaller";
    const MAX_HEADER: usize = 4;
    const MAX_RECEIPT: usize = 8;
    type Header = String;
    type Receipt = ();
}

async fn said(from: &Transport, to: NodeId, header: &str) -> String {
    let source = |_| async { Ok(Bytes::new()) };
    let ctx = TransferCtx::new().idle_timeout(ms(2_000));
    match from
        .send_stream::<Unknown, _, _>(to, &header.to_owned(), source, ctx)
        .await
    {
        Ok(()) => "ok".into(),
        Err(error) => {
            assert_eq!(error.outcome(), Outcome::NotDone, "{error}");
            error.code().into()
        }
    }
}

async fn check(one: Transport, two: Transport, router: Router) {
    assert_eq!(said(&one, 2, "a").await, "unknown-transfer");
    assert_eq!(said(&one, 3, "a").await, "unreachable");
    assert_eq!(said(&one, 1, "a").await, "not-sent");
    assert_eq!(said(&one, 2, "far too long").await, "not-sent");
    router.register_transfer::<Smaller, _, _>(|caller, header, offered| async move {
        assert_eq!((caller.peer.node, header.as_str()), (1, "a"));
        let mut incoming = offered.accept_from(0).await;
        assert_eq!(incoming.chunk().await?, None);
        Ok(())
    });
    assert_eq!(said(&one, 2, "a").await, "ok");
    assert_eq!(said(&one, 2, "abcdef").await, "request-too-large");
    two.shutdown(Duration::ZERO).await;
    assert_ne!(said(&one, 2, "a").await, "ok");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_taken_is_refused_in_memory() {
    let (network, router) = (MemoryNetwork::new(), Router::new());
    let one = network.join(local(1), Router::new()).unwrap();
    let two = network.join(local(2), router.clone()).unwrap();
    check(one, two, router).await;
}

#[tokio::test]
async fn what_is_not_taken_is_refused_on_loopback() {
    let ca = CertificateAuthority::generate(ClusterId::from_bytes([1; 16])).unwrap();
    let router = Router::new();
    let (one, two) = (on_quic(&ca, 1, Router::new()), on_quic(&ca, 2, router.clone()));
    one.set_address(2, two.local_addr().unwrap().into());
    check(one, two, router).await;
}
