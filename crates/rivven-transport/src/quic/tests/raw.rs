//! A member that shakes hands as it should and then does what it should not.

use quinn::{Connection, ConnectionError, VarInt};
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::quic::{
    frame::{Head, Kind},
    hello::{Hello, Purpose, close},
    rank::Turn,
    shared::{read_hello, write_hello},
};

/// The QUIC of a member, without its transport.
struct Raw {
    identity: NodeIdentity,
    endpoint: Endpoint,
    connection: Connection,
}

/// An endpoint that shows `identity`, and how it dials.
fn endpoint(identity: &NodeIdentity) -> (Endpoint, quinn::ClientConfig) {
    let keys = QuicKeys::generate().unwrap();
    let watch = IdentityWatch::from(identity.clone());
    let configs = config::build(watch, &Router::new(), &keys, &Provider::default()).unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let runtime = Arc::new(quinn::TokioRuntime);
    let endpoint = Endpoint::new(configs.endpoint, Some(configs.server), socket, runtime).unwrap();
    (endpoint, configs.client)
}

impl Raw {
    async fn dial(identity: NodeIdentity, to: &Transport) -> Self {
        let (endpoint, client) = endpoint(&identity);
        Self::dial_as(identity, endpoint, client, to).await
    }

    async fn dial_as(
        identity: NodeIdentity,
        endpoint: Endpoint,
        client: quinn::ClientConfig,
        to: &Transport,
    ) -> Self {
        let addr = to.local_addr().unwrap();
        let connecting = endpoint.connect_with(client, addr, config::SERVER_NAME);
        let connection = connecting.unwrap().await.unwrap();
        Self {
            identity,
            endpoint,
            connection,
        }
    }

    fn hello(&self) -> Hello {
        let local = local(&self.identity, 1);
        Hello {
            versions: hello::VERSIONS,
            purpose: Purpose::Main,
            cluster: local.cluster,
            identity: PeerIdentity {
                node: local.node,
                instance: local.instance,
                boot_epoch: local.boot_epoch,
            },
            observed: self.connection.remote_address(),
            number: 1,
            seen: Turn::default(),
        }
    }

    /// Both hellos, for the main connection. The control stream stays open as long as what is returned.
    async fn greet(&self) -> control::Streams {
        let hello = self.hello();
        let (mut send, mut recv) = self.connection.open_bi().await.unwrap();
        write_hello(&mut send, &hello).await.unwrap();
        read_hello(&mut recv).await.unwrap();
        (send, recv)
    }

    /// The code with which the peer closes.
    async fn closed(&self, within: Duration) -> u64 {
        match tokio::time::timeout(within, self.connection.closed()).await {
            Ok(ConnectionError::ApplicationClosed(frame)) => frame.error_code.into_inner(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_connection_without_a_hello_is_closed_when_its_time_is_over() {
    let ca = authority();
    let one = start(identity(&ca, 1));
    let raw = Raw::dial(identity(&ca, 2), &one).await;
    let began = Instant::now();
    assert_eq!(
        raw.closed(limits::HELLO_TIMEOUT * 5).await,
        u64::from(close::PROTOCOL)
    );
    assert!(began.elapsed() > limits::HELLO_TIMEOUT / 2);
    drop(raw.endpoint);
}

#[tokio::test]
async fn a_peer_that_leaves_no_room_for_calls_loses_the_connection() {
    let ca = authority();
    let one = start(identity(&ca, 1));
    let two = identity(&ca, 2);
    let (endpoint, mut client) = endpoint(&two);
    let mut transport = quinn::TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    client.transport_config(Arc::new(transport));
    let raw = Raw::dial_as(two, endpoint, client, &one).await;
    let _control = raw.greet().await;
    assert_eq!(
        raw.closed(limits::HELLO_TIMEOUT * 5).await,
        u64::from(close::PROTOCOL)
    );
}

#[tokio::test]
async fn a_connection_is_kept_by_who_dialled_it_as_long_as_the_other_end_may_answer() {
    let ca = authority();
    let one = start(identity(&ca, 1));
    let two = identity(&ca, 2);
    let (endpoint, _) = endpoint(&two);
    one.set_address(2, endpoint.local_addr().unwrap().into());
    let answering = async {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let raw = Raw {
            identity: two,
            endpoint: endpoint.clone(),
            connection,
        };
        let (mut send, mut recv) = raw.connection.accept_bi().await.unwrap();
        let heard = Hello::decode(&read_hello(&mut recv).await.unwrap(), hello::VERSIONS).unwrap();
        // Busy for longer than a node that is not heard of at all is dialled.
        sleep(limits::DIAL_TIMEOUT).await;
        let answer = Hello {
            number: heard.number,
            seen: heard.seen,
            ..raw.hello()
        };
        write_hello(&mut send, &answer).await.unwrap();
        // Its calls come over this very connection.
        let (_answers, mut calls) = raw.connection.accept_bi().await.unwrap();
        assert!(calls.read_u8().await.unwrap() <= dial::class_byte(Class::Client));
        (raw, send, recv)
    };
    let called = echo(&one, 2, ctx(10_000));
    tokio::select! {
        biased;
        _ = answering => {}
        result = called => panic!("{result:?}"),
    }
}

#[tokio::test]
async fn a_peer_that_takes_no_more_answers_loses_the_connection() {
    let ca = authority();
    let one = start(identity(&ca, 1));
    let raw = Raw::dial(identity(&ca, 2), &one).await;
    let _control = raw.greet().await;
    let (mut send, mut recv) = raw.connection.open_bi().await.unwrap();
    recv.stop(VarInt::from_u32(0)).unwrap();
    let body = postcard::to_allocvec("hi").unwrap();
    let head = Head {
        kind: Kind::Request {
            deadline_ms: 60_000,
            trace: None,
        },
        method: Echo::ID,
        call: 1,
        len: body.len(),
    };
    let mut request = bytes::BytesMut::from(&[dial::class_byte(Class::Client)][..]);
    assert!(head.encode(&mut request));
    request.extend_from_slice(&body);
    send.write_all(&request).await.unwrap();
    assert_eq!(
        raw.closed(Duration::from_secs(10)).await,
        u64::from(close::PROTOCOL)
    );
}
