//! A member that shakes hands as it should and then does what it should not.

use quinn::{Connection, ConnectionError, VarInt};

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

impl Raw {
    async fn dial(identity: NodeIdentity, to: &Transport) -> Self {
        let keys = QuicKeys::generate().unwrap();
        let watch = IdentityWatch::from(identity.clone());
        let configs = config::build(watch, &Router::new(), &keys, &Provider::default()).unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = Endpoint::new(configs.endpoint, None, socket, runtime).unwrap();
        let addr = to.local_addr().unwrap();
        let connecting = endpoint.connect_with(configs.client, addr, config::SERVER_NAME);
        let connection = connecting.unwrap().await.unwrap();
        Self {
            identity,
            endpoint,
            connection,
        }
    }

    /// Both hellos, for the main connection. The control stream stays open as long as what is returned.
    async fn greet(&self) -> control::Streams {
        let local = local(&self.identity, 1);
        let hello = Hello {
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
        };
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
