//! The other side of the door: one call by who has no certificate, to a member that proves itself.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{Connection, ConnectionError, Endpoint, VarInt};
use rivven_crypto::{Provider, random_bytes, sha256};
use rivven_types::PeerAddr;
use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::verify_tls13_signature,
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    config::{JOIN_ALPN, SERVER_NAME, stranger_client},
    dial::share,
    explain::explain,
    frame::{Head, Kind, PREFIX_LEN, Part},
    hello::close,
    limits::{CLOSE_TIME, MAX_REJECTION, STRANGER_TIME},
    lookup::Lookups,
    read::Frames,
    trust::no_tls12,
};
use crate::{MethodSpec, Rejection, TaskGroup};

/// Time for one address to answer the handshake.
const DIAL_TIME: Duration = Duration::from_secs(3);

/// The number of the only call on its connection.
const CALL: u64 = 0;

/// Why a call of a stranger has no answer.
#[derive(Debug)]
pub(crate) enum KnockError {
    /// Who answers is not certified by the authority asked for. The request was not sent.
    Stranger(String),
    /// Nobody let the caller in. The request was not carried out.
    Unreachable(String),
    /// The member refused.
    Rejected(Rejection),
    /// The request was sent and no answer came. It may have been carried out.
    Interrupted(String),
}

/// Calls `method` of the member at `addr`, which must be certified by the authority whose certificate has the
/// SHA-256 `authority`. Nothing of `body` is sent before that is proven.
///
/// Every address of a host name is tried in turn until one lets the caller in, within `deadline`.
pub(crate) async fn knock(
    (addr, lookups): (&PeerAddr, &Lookups),
    authority: &[u8; 32],
    method: MethodSpec,
    body: &[u8],
    deadline: Instant,
) -> Result<Bytes, KnockError> {
    let tasks = TaskGroup::current();
    let found = lookups.addresses(addr, &tasks, |_| true);
    let found = timeout_at(share(deadline, 1, DIAL_TIME), found).await;
    let remotes = found
        .unwrap_or_else(|_| {
            Err(format!(
                "the resolver did not answer what the addresses of {addr} are"
            ))
        })
        .map_err(KnockError::Unreachable)?;
    let mut failure = None;
    for (at, remote) in remotes.iter().enumerate() {
        let until = share(deadline, remotes.len() - at, DIAL_TIME);
        let failed = match knock_at(*remote, authority, (method, body), (until, deadline)).await {
            Err(failed @ (KnockError::Unreachable(_) | KnockError::Stranger(_))) => failed,
            answered => return answered,
        };
        // That nobody answered may pass; who is a stranger stays one.
        if !matches!(failure, Some(KnockError::Unreachable(_))) {
            failure = Some(failed);
        }
    }
    Err(failure.unwrap_or_else(|| KnockError::Unreachable(format!("{addr} has no address"))))
}

/// The same at one address, which is to answer the handshake before the first of two moments, and the call
/// before the second one.
async fn knock_at(
    remote: SocketAddr,
    authority: &[u8; 32],
    (method, body): (MethodSpec, &[u8]),
    (until, deadline): (Instant, Instant),
) -> Result<Bytes, KnockError> {
    let pinned = Arc::new(Pinned::new(*authority));
    let endpoint = endpoint(remote, &pinned).map_err(KnockError::Unreachable)?;
    let deadline = deadline.min(Instant::now() + STRANGER_TIME);
    let answered = match connect(&endpoint, remote, &pinned, until.min(deadline)).await {
        Ok(connection) => {
            let answer = timeout_at(deadline, exchange(&connection, method, body)).await;
            connection.close(VarInt::from_u32(close::DONE), b"done");
            answer.unwrap_or_else(|_| Err(KnockError::Interrupted("no answer in time".into())))
        }
        Err(error) => Err(error),
    };
    // So that the member need not wait for the end of a connection that is of no use any more.
    let _ = timeout(CLOSE_TIME, endpoint.wait_idle()).await;
    answered
}

/// A socket for one call.
fn endpoint(remote: SocketAddr, pinned: &Arc<Pinned>) -> Result<Endpoint, String> {
    let reset = random_bytes().map_err(|error| error.to_string())?;
    let any = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind(SocketAddr::new(any, 0)).map_err(|error| error.to_string())?;
    let config = pinned.provider.quic_endpoint(&reset);
    let runtime = Arc::new(quinn::TokioRuntime);
    let mut endpoint = Endpoint::new(config, None, socket, runtime).map_err(|error| error.to_string())?;
    endpoint.set_default_client_config(stranger_client(
        Arc::clone(pinned) as _,
        &pinned.provider,
        JOIN_ALPN,
    )?);
    Ok(endpoint)
}

async fn connect(
    endpoint: &Endpoint,
    remote: SocketAddr,
    pinned: &Pinned,
    until: Instant,
) -> Result<Connection, KnockError> {
    let connecting = endpoint
        .connect(remote, SERVER_NAME)
        .map_err(|error| KnockError::Unreachable(error.to_string()))?;
    match timeout_at(until, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(match pinned.refused.get() {
            Some(cause) => KnockError::Stranger(cause.clone()),
            None => KnockError::Unreachable(describe(&error)),
        }),
        Err(_) => Err(KnockError::Unreachable("nobody answered".into())),
    }
}

async fn exchange(connection: &Connection, method: MethodSpec, body: &[u8]) -> Result<Bytes, KnockError> {
    let lost = |error: &dyn std::fmt::Display| match connection.close_reason() {
        // A refusal of the door comes as a close frame, before or after the request has arrived.
        Some(reason) if turned_away(&reason) => KnockError::Unreachable(describe(&reason)),
        Some(reason) => KnockError::Interrupted(describe(&reason)),
        None => KnockError::Interrupted(error.to_string()),
    };
    let head = Head {
        kind: Kind::Request {
            deadline_ms: u32::try_from(STRANGER_TIME.as_millis()).unwrap_or(u32::MAX),
            trace: None,
        },
        method: method.id,
        call: CALL,
        len: body.len(),
    };
    let mut start = BytesMut::new();
    if !head.encode(&mut start) {
        return Err(KnockError::Unreachable("the request is too long".into()));
    }
    let mut request = zeroize::Zeroizing::new(Vec::with_capacity(start.len() + body.len()));
    request.put_slice(&start);
    request.put_slice(body);
    let (mut send, recv) = connection.open_bi().await.map_err(|error| lost(&error))?;
    send.write_all(&request).await.map_err(|error| lost(&error))?;
    // The stream is open, so this cannot fail.
    let _ = send.finish();
    let limit = PREFIX_LEN + method.max_response.max(MAX_REJECTION);
    let mut frames = Frames::new(recv, limit);
    let (head, body) = loop {
        match frames.next().await.map_err(|error| lost(&error))? {
            Some(Part::Head(_)) => {}
            Some(Part::Body(head, body)) => break (head, body),
            None => return Err(lost(&"the answer is empty")),
        }
    };
    match head.kind {
        Kind::Response => Ok(body),
        Kind::Rejection => Err(match postcard::from_bytes(&body) {
            Ok(rejection) => KnockError::Rejected(rejection),
            Err(_) => KnockError::Interrupted("its refusal cannot be read".into()),
        }),
        Kind::Lost | Kind::Request { .. } | Kind::Cancel => {
            Err(KnockError::Interrupted("it ended without an answer".into()))
        }
    }
}

/// Whether the member closed without having carried anything out: by TLS, or at the door.
fn turned_away(reason: &ConnectionError) -> bool {
    match reason {
        ConnectionError::ConnectionClosed(_) | ConnectionError::TransportError(_) => true,
        ConnectionError::ApplicationClosed(frame) => {
            let code = u32::try_from(frame.error_code.into_inner());
            matches!(
                code,
                Ok(close::TOO_MANY_PEERS | close::THROTTLED | close::SHUTDOWN)
            )
        }
        _ => false,
    }
}

/// Alert by which TLS asks for a certificate (RFC 8446, section 6.2): this member has no door.
const CERTIFICATE_REQUIRED: u64 = 0x100 + 116;

fn describe(reason: &ConnectionError) -> String {
    match reason {
        ConnectionError::ConnectionClosed(frame) if u64::from(frame.error_code) == CERTIFICATE_REQUIRED => {
            "it issues no certificates at the moment; name a member that does".into()
        }
        other => explain(other).to_string(),
    }
}

/// Believes a member certified by one authority, known by its hash alone.
#[derive(Debug)]
pub(super) struct Pinned {
    authority: [u8; 32],
    provider: Provider,
    /// Why the one who answered is not believed.
    refused: OnceLock<String>,
}

impl Pinned {
    fn new(authority: [u8; 32]) -> Self {
        Self {
            authority,
            provider: Provider::default(),
            refused: OnceLock::new(),
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let pinned = chain.iter().find(|found| sha256(found) == self.authority);
        let Some(authority) = pinned else {
            return Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let algorithms = self.provider.tls().signature_verification_algorithms.all;
        let leaf = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, chain, now, algorithms)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.verify(end_entity, intermediates, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(error) => {
                // One handshake per verifier, so this is the first word on it.
                let _ = self.refused.set(error.to_string());
                Err(error)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.tls().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .tls()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
