//! Who has no certificate, against real endpoints.

use bytes::BufMut;
use futures_util::FutureExt;
use quinn::{Connection, ConnectionError};
use rivven_types::PeerAddr;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{
    names::{addresses, named},
    *,
};
use crate::{
    MethodSpec,
    quic::{config, hello, knock::KnockError, lookup::Lookups, shared::write_hello},
};

/// For strangers.
struct Knock;

impl Method for Knock {
    const ID: u16 = 0x8020;
    const NAME: &'static str = "knock";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = 16;
    const MAX_RESPONSE: usize = 16;
    const STRANGERS: bool = true;
    type Request = bool;
    type Response = NodeId;
}

/// A node that strangers may call; `true` makes its handler panic.
fn open(ca: &CertificateAuthority) -> Transport {
    let one = identity(ca, 1);
    let router = router(&Slept::default());
    router.register::<Knock, _, _>(|caller, panic| async move {
        assert!(!panic);
        Ok(caller.peer.node)
    });
    let local = local(&one, 1);
    QuicTransport::builder(one, local).router(router).start().unwrap()
}

/// Believes anybody.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ED25519]
    }
}

/// Dials without a certificate, for `protocol`.
async fn dial(to: &Transport, protocol: &[u8]) -> (Endpoint, Result<Connection, ConnectionError>) {
    dial_from(Ipv4Addr::LOCALHOST, to, protocol).await
}

async fn dial_from(
    source: Ipv4Addr,
    to: &Transport,
    protocol: &[u8],
) -> (Endpoint, Result<Connection, ConnectionError>) {
    let provider = Provider::default();
    let socket = UdpSocket::bind((source, 0)).unwrap();
    let endpoint = provider.quic_endpoint(&[7; 32]);
    let endpoint = Endpoint::new(endpoint, None, socket, Arc::new(quinn::TokioRuntime)).unwrap();
    let client = config::stranger_client(Arc::new(Gullible), &provider, protocol).unwrap();
    let connecting = endpoint.connect_with(client, to.local_addr().unwrap(), config::SERVER_NAME);
    let connection = connecting.unwrap().await;
    (endpoint, connection)
}

fn close_code(error: &ConnectionError) -> Option<u64> {
    match error {
        ConnectionError::ApplicationClosed(frame) => Some(frame.error_code.into_inner()),
        _ => None,
    }
}

async fn knock(to: &Transport, ca: &CertificateAuthority, panic: bool) -> Result<Vec<u8>, KnockError> {
    let addr: PeerAddr = to.local_addr().unwrap().into();
    knock_by(&Lookups::default(), &addr, ca, panic).await
}

/// How long [`knock_by`] tries.
const KNOCK_TIME: Duration = Duration::from_secs(4);

async fn knock_by(
    lookups: &Lookups,
    addr: &PeerAddr,
    ca: &CertificateAuthority,
    panic: bool,
) -> Result<Vec<u8>, KnockError> {
    let until = Instant::now() + KNOCK_TIME;
    let (pin, spec) = (ca.fingerprint(), MethodSpec::of::<Knock>());
    let body = postcard::to_allocvec(&panic).unwrap();
    let answer = crate::quic::knock((addr, lookups), &pin, spec, &body, until).await;
    answer.map(|bytes| bytes.to_vec())
}

#[tokio::test]
async fn a_stranger_is_node_0_and_the_end_of_a_handler_is_told() {
    let ca = authority();
    let one = open(&ca);
    assert_eq!(knock(&one, &ca, false).await.unwrap(), [0]);
    let error = knock(&one, &ca, true).await.unwrap_err();
    assert!(matches!(error, KnockError::Interrupted(_)), "{error:?}");
    assert_eq!(knock(&one, &ca, false).await.unwrap(), [0]);
}

#[tokio::test]
async fn every_address_of_a_name_is_tried_and_a_resolver_that_hangs_keeps_nobody() {
    let ca = authority();
    let one = open(&ca);
    let addr = named("issuer.example", &one);
    // The first one has no listener, as that of a family which the issuer does not listen on.
    let (absent_first, absent_last) = (addresses(&["::1", "127.0.0.1"]), addresses(&["127.0.0.1", "::1"]));
    let (found, silent) = (
        addresses(&["127.0.0.1"]),
        Lookups::by(|_| std::future::pending().boxed()),
    );
    let (other, began) = (authority(), Instant::now());
    let (answered, stranger_and_nobody, stranger, unresolved) = tokio::join!(
        knock_by(&absent_first, &addr, &ca, false),
        // Who is somebody else at one address does not keep the caller from another.
        knock_by(&absent_last, &addr, &other, false),
        knock_by(&found, &addr, &other, false),
        knock_by(&silent, &addr, &ca, false),
    );
    assert!(began.elapsed() < KNOCK_TIME * 2, "{:?}", began.elapsed());
    assert_eq!(answered.unwrap(), [0]);
    let error = stranger_and_nobody.unwrap_err();
    assert!(matches!(error, KnockError::Unreachable(_)), "{error:?}");
    assert!(matches!(stranger, Err(KnockError::Stranger(_))), "{stranger:?}");
    let error = unresolved.unwrap_err();
    assert!(format!("{error:?}").contains("resolver"), "{error:?}");
}

#[tokio::test]
async fn without_a_certificate_the_protocol_of_members_is_closed() {
    let ca = authority();
    let one = open(&ca);
    let (_endpoint, connection) = dial(&one, b"rivven/0").await;
    let connection = connection.unwrap();
    // A hello that would be right, were it proven.
    let hello = hello::Hello {
        versions: hello::VERSIONS,
        purpose: hello::Purpose::Main,
        cluster: ca.cluster(),
        identity: PeerIdentity {
            node: 2,
            instance: InstanceId::from_bytes([2; 16]),
            boot_epoch: BootEpoch(1),
        },
        observed: "127.0.0.1:1".parse().unwrap(),
        number: 1,
        seen: rank::Turn::default(),
    };
    if let Ok((mut send, _recv)) = connection.open_bi().await {
        // The node may have closed already.
        let _ = write_hello(&mut send, &hello).await;
    }
    assert_eq!(close_code(&connection.closed().await), Some(5));
    assert_eq!((one.peer(2), one.status(2)), (None, PeerStatus::Unknown));
    // Where nobody may join, TLS itself wants a certificate.
    let closed = start(identity(&ca, 3));
    for protocol in [&b"rivven/0"[..], b"rivven-join/0"] {
        let (_endpoint, connection) = dial(&closed, protocol).await;
        let error = match connection {
            Ok(connection) => connection.closed().await,
            Err(error) => error,
        };
        let ConnectionError::ConnectionClosed(frame) = error else {
            panic!("{error}")
        };
        assert_eq!(u64::from(frame.error_code), 0x100 + 116);
    }
}

#[tokio::test]
async fn strangers_have_few_places_and_take_none_from_members() {
    let ca = authority();
    let one = open(&ca);
    let mut idle = Vec::new();
    // Nobody has more than a few of them, so they come from several addresses.
    let sources = [2, 3, 4, 5].map(|host| Ipv4Addr::new(127, 0, 0, host));
    for source in sources.into_iter().cycle().take(limits::MAX_STRANGERS) {
        let (endpoint, connection) = dial_from(source, &one, b"rivven-join/0").await;
        idle.push((endpoint, connection.unwrap()));
    }
    // A place is taken once the node has seen the end of the handshake.
    let end = Instant::now() + Duration::from_secs(5);
    let error = loop {
        match knock(&one, &ca, false).await {
            Err(error) => break error,
            Ok(_) => assert!(Instant::now() < end, "everybody found a place"),
        }
    };
    assert!(
        format!("{error:?}").contains("too many nodes are joining"),
        "{error:?}"
    );
    let two = start(identity(&ca, 2));
    introduce(&two, &one);
    assert_eq!(echo(&two, 1, ctx(5_000)).await.unwrap().0, 2);
    drop(idle);
    let end = Instant::now() + limits::STRANGER_TIME + Duration::from_secs(5);
    while let Err(error) = knock(&one, &ca, false).await {
        assert!(Instant::now() < end, "{error:?}");
    }
}

#[tokio::test]
async fn what_breaks_the_protocol_of_strangers_ends_the_connection() {
    let ca = authority();
    let one = open(&ca);
    let frame = |len: u32, kind: u8, rest: usize| {
        let mut bytes = Vec::new();
        bytes.put_u32(len);
        bytes.put_slice(&[kind, 0, 0x80, 0x20]);
        bytes.put_u64(0);
        bytes.put_bytes(0, rest);
        bytes
    };
    let source = Ipv4Addr::new(127, 0, 0, 2);
    for bytes in [
        frame(u32::MAX, 0, 0),
        frame(12, 0, 0),
        frame(16, 1, 4),
        frame(16, 9, 4),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let (_endpoint, connection) = dial_from(source, &one, b"rivven-join/0").await;
        let connection = connection.unwrap();
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(&bytes).await.unwrap();
        let _ = send.finish();
        let error = connection.closed().await;
        assert_eq!(close_code(&error), Some(1), "{bytes:?}: {error}");
    }
    // It has used up its attempts, and nobody else's.
    let (_endpoint, connection) = dial_from(source, &one, b"rivven-join/0").await;
    let closed = connection.unwrap().closed().await;
    assert!(closed.to_string().contains("too many attempts"), "{closed}");
    assert_eq!(knock(&one, &ca, false).await.unwrap(), [0]);
}
