//! Transfers that end early, or while their node shuts down.

use bytes::Bytes;
use futures_util::future::join_all;

use super::*;
use crate::{Transfer, TransferCtx, TransferSpec, stream::MAX_TRANSFERS};

/// Bytes that are counted, or not looked at; the receipt is how many there were.
struct Count;

impl Transfer for Count {
    const ID: u16 = 0x8030;
    const NAME: &'static str = "count";
    const MAX_HEADER: usize = 16;
    const MAX_RECEIPT: usize = 16;
    type Header = bool;
    type Receipt = u64;
}

struct Node {
    transport: Transport,
    shared: Arc<Shared>,
}

fn node(identity: NodeIdentity) -> Node {
    let router = router(&Slept::default());
    router.register_transfer::<Count, _, _>(|_, look, offered| async move {
        if !look {
            return Ok(0);
        }
        let mut incoming = offered.accept_from(0).await;
        while incoming.chunk().await?.is_some() {}
        Ok(incoming.offset())
    });
    let local = local(&identity, 1);
    let network = QuicTransport::builder(identity, local)
        .router(router)
        .start_network()
        .unwrap();
    Node {
        shared: Arc::clone(&network.shared),
        transport: Transport::new(network),
    }
}

fn nodes() -> [Node; 2] {
    let ca = authority();
    let [one, two] = [1, 2].map(|id| node(identity(&ca, id)));
    introduce(&one.transport, &two.transport);
    [one, two]
}

async fn bulk_echo(from: &Transport) {
    let echoed = from.call::<BulkEcho>(2, &vec![7], ctx(5_000)).await;
    assert_eq!(echoed.unwrap(), [7]);
}

#[tokio::test]
async fn transfers_given_up_before_their_first_byte_leave_the_connection_to_the_others() {
    let [one, _two] = nodes();
    bulk_echo(&one.transport).await;
    for _ in 0..50 {
        let until = Instant::now() + Duration::from_secs(5);
        let spec = TransferSpec::of::<Count>();
        let pipe = one.transport.network().open_transfer(2, spec, until).await;
        drop(pipe.unwrap());
    }
    bulk_echo(&one.transport).await;
    assert_eq!(
        one.shared.peer(2).unwrap().dialled(),
        1,
        "the connection was replaced"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_follows_another_at_once_finds_room() {
    let [one, _two] = nodes();
    let sending = (0..MAX_TRANSFERS).map(|_| async {
        for _ in 0..200 {
            let source = async |_| Ok(Bytes::new());
            let sent = one
                .transport
                .send_stream::<Count, _, _>(2, &false, source, TransferCtx::new());
            assert_eq!(sent.await.unwrap(), 0);
        }
    });
    join_all(sending).await;
}

#[tokio::test]
async fn a_node_that_shuts_down_lets_the_transfer_that_it_sends_end() {
    const CHUNKS: u64 = 20;
    let [one, _two] = nodes();
    let begun = tokio::sync::Notify::new();
    let source = async |offset: u64| {
        begun.notify_one();
        sleep(Duration::from_millis(10)).await;
        Ok(Bytes::from(vec![7; usize::from(offset < CHUNKS * 1_000) * 1_000]))
    };
    let sent = one
        .transport
        .send_stream::<Count, _, _>(2, &true, source, TransferCtx::new());
    let shutdown = async {
        begun.notified().await;
        one.transport.shutdown(Duration::from_secs(10)).await;
    };
    let (sent, ()) = tokio::join!(sent, shutdown);
    assert_eq!(sent.unwrap(), CHUNKS * 1_000);
}
