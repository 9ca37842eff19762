//! TLS and QUIC settings: mutual TLS 1.3 under the cluster's own authority, and nothing else.

use std::sync::Arc;

use quinn::{IdleTimeout, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use rivven_crypto::Provider;
use rustls::{
    client::{Resumption, danger::ServerCertVerifier},
    server::NoServerSessionStorage,
};

use super::{
    congestion::Congestion,
    keys::QuicKeys,
    limits::{
        CONNECTION_WINDOW, IDLE_TIMEOUT, INITIAL_RTT, KEEP_ALIVE, MAX_HANDSHAKES, MAX_STREAMS, SEND_WINDOW,
        STREAM_WINDOW,
    },
    trust::Trust,
};
use crate::{Router, clock::WallClock, identity::IdentityWatch};

/// Application protocol (RFC 7301); 0 is the unstable version.
const ALPN: &[u8] = b"rivven/0";

/// Application protocol of those without a certificate, see `door`.
pub(super) const JOIN_ALPN: &[u8] = b"rivven-join/0";

/// A name for the sake of TLS. Who the peer is says its certificate, not its host name.
pub(super) const SERVER_NAME: &str = "node.rivven.internal";

/// Everything an endpoint is made of.
pub(super) struct Configs {
    pub(super) endpoint: quinn::EndpointConfig,
    pub(super) server: quinn::ServerConfig,
    pub(super) client: quinn::ClientConfig,
    pub(super) trust: Arc<Trust>,
}

/// The settings of the node of `identity`, or the cause why TLS takes none of it.
pub(super) fn build(
    identity: IdentityWatch,
    router: &Router,
    keys: &QuicKeys,
    provider: &Provider,
) -> Result<Configs, String> {
    let transport = Arc::new(transport());
    let connection_ids = keys.connection_ids();
    let mut endpoint = provider.quic_endpoint(&keys.reset());
    endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(connection_ids)));
    let trust = Trust::new(identity, router.clone(), provider).map_err(|error| error.to_string())?;
    let server = server_tls(&trust, provider).map_err(|error| error.to_string())?;
    let mut server = provider
        .quic_server(server, &keys.token())
        .map_err(|error| error.to_string())?;
    server
        .transport_config(Arc::clone(&transport))
        .migration(false)
        .max_incoming(MAX_HANDSHAKES)
        .time_source(Arc::new(WallClock));
    let client = client_tls(&trust, provider).map_err(|error| error.to_string())?;
    let mut client = provider.quic_client(client).map_err(|error| error.to_string())?;
    client.transport_config(transport);
    Ok(Configs {
        endpoint,
        server,
        client,
        trust,
    })
}

fn transport() -> TransportConfig {
    let idle_ms = u32::try_from(IDLE_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_ms))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .congestion_controller_factory(Arc::new(Congestion));
    config
}

fn server_tls(trust: &Arc<Trust>, provider: &Provider) -> Result<rustls::ServerConfig, rustls::Error> {
    let mut config =
        rustls::ServerConfig::builder_with_details(Arc::clone(provider.tls()), Arc::new(WallClock))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::clone(trust) as _)
            .with_cert_resolver(Arc::clone(trust) as _);
    config.alpn_protocols = vec![ALPN.to_vec(), JOIN_ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

fn client_tls(trust: &Arc<Trust>, provider: &Provider) -> Result<rustls::ClientConfig, rustls::Error> {
    let mut config =
        rustls::ClientConfig::builder_with_details(Arc::clone(provider.tls()), Arc::new(WallClock))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(trust) as _)
            .with_client_cert_resolver(Arc::clone(trust) as _);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}

/// The client side of `protocol` for one without a certificate, who believes whom `verifier` does.
pub(super) fn stranger_client(
    verifier: Arc<dyn ServerCertVerifier>,
    provider: &Provider,
    protocol: &[u8],
) -> Result<quinn::ClientConfig, String> {
    let mut config =
        rustls::ClientConfig::builder_with_details(Arc::clone(provider.tls()), Arc::new(WallClock))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    let mut client = provider.quic_client(config).map_err(|error| error.to_string())?;
    client.transport_config(Arc::new(transport()));
    Ok(client)
}
