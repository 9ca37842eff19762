//! TLS sessions of rustls as quinn takes them (RFC 9001, section 4).

use std::{any::Any, io::Cursor, sync::Arc};

use bytes::BytesMut;
use quinn_proto::{
    ConnectError, ConnectionId, Side, TransportError, TransportErrorCode,
    crypto::{
        ClientConfig, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey,
        ServerConfig, Session, UnsupportedVersion,
    },
    transport_parameters::TransportParameters,
};
use rustls::{
    CipherSuite, NamedGroup,
    quic::{
        ClientConnection, Connection, DirectionalKeys, HeaderProtectionKey, KeyChange, Secrets,
        ServerConnection, Suite, Version,
    },
};
use rustls_pki_types::{CertificateDer, ServerName};

use super::{VERSION, retry};
use crate::cipher::TAG_LEN;

/// What a handshake settled on. quinn hands it out as `Connection::handshake_data`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Negotiated {
    /// The application protocol (RFC 7301).
    pub protocol: Option<Vec<u8>>,
    /// The host that the client asked for; on the server only.
    pub server_name: Option<String>,
    /// The cipher suite.
    pub suite: Option<CipherSuite>,
    /// The key exchange.
    pub key_exchange: Option<NamedGroup>,
}

/// The client side of every connection under one TLS configuration.
pub(crate) struct Client {
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) initial: Suite,
}

/// The server side of every connection under one TLS configuration.
pub(crate) struct Server {
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) initial: Suite,
}

impl ClientConfig for Client {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let version = known(version)?;
        let invalid = |_| ConnectError::InvalidServerName(server_name.into());
        let name = ServerName::try_from(server_name).map_err(invalid)?.to_owned();
        // rustls refuses a configuration without TLS 1.3 here, which `Provider` has checked already.
        let tls = ClientConnection::new(Arc::clone(&self.tls), version, name, encode(params))
            .map_err(|_| ConnectError::UnsupportedVersion)?;
        Ok(Box::new(TlsSession::new(tls.into(), Side::Client, self.initial)))
    }
}

impl ServerConfig for Server {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        known(version)?;
        Ok(initial_keys(&self.initial, id, Side::Server))
    }

    fn retry_tag(&self, _version: u32, original: &ConnectionId, packet: &[u8]) -> [u8; TAG_LEN] {
        retry::tag(original, &[packet])
    }

    #[expect(
        clippy::expect_used,
        reason = "quinn calls this for accepted versions only, and `Provider` has seen TLS 1.3 configured"
    )]
    fn start_session(self: Arc<Self>, _version: u32, params: &TransportParameters) -> Box<dyn Session> {
        let tls = ServerConnection::new(Arc::clone(&self.tls), Version::V1, encode(params))
            .expect("the configuration has TLS 1.3");
        Box::new(TlsSession::new(tls.into(), Side::Server, self.initial))
    }
}

const fn known(version: u32) -> Result<Version, UnsupportedVersion> {
    match version {
        VERSION => Ok(Version::V1),
        _ => Err(UnsupportedVersion),
    }
}

fn encode(params: &TransportParameters) -> Vec<u8> {
    let mut bytes = Vec::new();
    params.write(&mut bytes);
    bytes
}

/// Keys of Initial packets, which every observer can compute (RFC 9001, section 5.2).
fn initial_keys(suite: &Suite, id: &ConnectionId, side: Side) -> Keys {
    let side = match side {
        Side::Client => rustls::Side::Client,
        Side::Server => rustls::Side::Server,
    };
    keys(suite.keys(id, side, Version::V1))
}

fn keys(keys: rustls::quic::Keys) -> Keys {
    let (local_header, local_packet) = boxed(keys.local);
    let (remote_header, remote_packet) = boxed(keys.remote);
    Keys {
        header: KeyPair {
            local: local_header,
            remote: remote_header,
        },
        packet: KeyPair {
            local: local_packet,
            remote: remote_packet,
        },
    }
}

fn boxed(keys: DirectionalKeys) -> (Box<dyn HeaderKey>, Box<dyn PacketKey>) {
    (Box::new(Header(keys.header)), Box::new(Packet(keys.packet)))
}

struct TlsSession {
    tls: Connection,
    side: Side,
    initial: Suite,
    /// Secrets of the next key update (section 6), once the handshake has yielded them.
    next_secrets: Option<Secrets>,
    announced: bool,
}

impl TlsSession {
    const fn new(tls: Connection, side: Side, initial: Suite) -> Self {
        Self {
            tls,
            side,
            initial,
            next_secrets: None,
            announced: false,
        }
    }

    fn server_name(&self) -> Option<&str> {
        match &self.tls {
            Connection::Client(_) => None,
            Connection::Server(server) => server.server_name(),
        }
    }
}

impl Session for TlsSession {
    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        initial_keys(&self.initial, id, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        if !self.announced {
            return None;
        }
        Some(Box::new(Negotiated {
            protocol: self.tls.alpn_protocol().map(<[u8]>::to_vec),
            server_name: self.server_name().map(str::to_owned),
            suite: self.tls.negotiated_cipher_suite().map(|suite| suite.suite()),
            key_exchange: self.tls.negotiated_key_exchange_group().map(|group| group.name()),
        }))
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let chain: Vec<CertificateDer<'static>> = self
            .tls
            .peer_certificates()?
            .iter()
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        Some(Box::new(chain))
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.tls.zero_rtt_keys().map(boxed)
    }

    fn early_data_accepted(&self) -> Option<bool> {
        match &self.tls {
            Connection::Client(client) => Some(client.is_early_data_accepted()),
            Connection::Server(_) => None,
        }
    }

    fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        if let Err(error) = self.tls.read_hs(bytes) {
            // Section 4.8: a TLS alert becomes the connection's error.
            let code = self
                .tls
                .alert()
                .map_or(TransportErrorCode::PROTOCOL_VIOLATION, |alert| {
                    TransportErrorCode::crypto(alert.into())
                });
            return Err(TransportError {
                code,
                frame: None,
                reason: error.to_string(),
            });
        }
        // rustls does not say when the hello has been read; what it then knows does.
        let known = self.tls.alpn_protocol().is_some() || self.server_name().is_some();
        let first = !self.announced && (known || !self.is_handshaking());
        self.announced |= first;
        Ok(first)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(bytes) = self.tls.quic_transport_parameters() else {
            return Ok(None);
        };
        let params = TransportParameters::read(self.side, &mut Cursor::new(bytes))?;
        Ok(Some(params))
    }

    fn write_handshake(&mut self, bytes: &mut Vec<u8>) -> Option<Keys> {
        Some(keys(match self.tls.write_hs(bytes)? {
            KeyChange::Handshake { keys } => keys,
            KeyChange::OneRtt { keys, next } => {
                self.next_secrets = Some(next);
                keys
            }
        }))
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.next_secrets.as_mut()?.next_packet_keys();
        Some(KeyPair {
            local: Box::new(Packet(keys.local)),
            remote: Box::new(Packet(keys.remote)),
        })
    }

    fn is_valid_retry(&self, original: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        retry::is_valid(original, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.tls
            .export_keying_material(output, label, Some(context))
            .map(|_| ())
            .map_err(|_| ExportKeyingMaterialError)
    }
}

struct Packet(Box<dyn rustls::quic::PacketKey>);

impl PacketKey for Packet {
    #[expect(
        clippy::expect_used,
        reason = "quinn leaves room for the tag, and a datagram is far below an AEAD's limit; to go on \
                  after a failure would send the packet in the clear"
    )]
    fn encrypt(&self, number: u64, packet: &mut [u8], header_len: usize) {
        let (header, payload) = packet.split_at_mut(header_len);
        let len = payload.len() - self.0.tag_len();
        let (payload, room) = payload.split_at_mut(len);
        let tag = self
            .0
            .encrypt_in_place(number, header, payload)
            .expect("a datagram can be sealed");
        room[..].copy_from_slice(tag.as_ref());
    }

    fn decrypt(&self, number: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        let len = self
            .0
            .decrypt_in_place(number, header, payload)
            .map_err(|_| CryptoError)?
            .len();
        payload.truncate(len);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.0.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.0.integrity_limit()
    }
}

/// First byte, packet number and sample of a packet: the sample begins four bytes after the number does,
/// however long the number is (section 5.4.2).
fn parts(packet: &mut [u8], offset: usize, sample_len: usize) -> Option<(&mut u8, &mut [u8], &[u8])> {
    let (header, rest) = packet.split_at_mut_checked(offset.checked_add(4)?)?;
    let (first, header) = header.split_first_mut()?;
    let number = header.get_mut(offset.checked_sub(1)?..)?;
    Some((first, number, rest.get(..sample_len)?))
}

struct Header(Box<dyn HeaderProtectionKey>);

impl HeaderKey for Header {
    /// A packet too short for a sample stays as it is; it then fails to open.
    fn decrypt(&self, offset: usize, packet: &mut [u8]) {
        if let Some((first, number, sample)) = parts(packet, offset, self.0.sample_len()) {
            // The lengths are right, the only cause of failure.
            let _ = self.0.decrypt_in_place(sample, first, number);
        }
    }

    #[expect(
        clippy::expect_used,
        reason = "quinn pads packets to hold a sample; to go on would reveal packet numbers"
    )]
    fn encrypt(&self, offset: usize, packet: &mut [u8]) {
        let (first, number, sample) =
            parts(packet, offset, self.0.sample_len()).expect("a packet holds a sample");
        self.0
            .encrypt_in_place(sample, first, number)
            .expect("the lengths are right");
    }

    fn sample_size(&self) -> usize {
        self.0.sample_len()
    }
}
