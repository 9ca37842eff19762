//! The naive reference: quinn with one stream for each request.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use rivven_crypto::Provider;
use rivven_transport::TaskGroup;
use rustls::{
    DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};

use super::wire::RESPONSE;

const LIMIT: usize = 1 << 20;

/// Server settings with the certificate in `tls`.
fn endpoint_on(addr: SocketAddr, tls: Option<&Path>) -> Result<quinn::Endpoint> {
    let provider = Provider::rust_crypto();
    let server = tls.map(|dir| server_config(&provider, dir)).transpose()?;
    let socket = std::net::UdpSocket::bind(addr)?;
    let config = provider.quic_endpoint(&[1; 32]);
    Ok(quinn::Endpoint::new(
        config,
        server,
        socket,
        Arc::new(quinn::TokioRuntime),
    )?)
}

fn server_config(provider: &Provider, tls: &Path) -> Result<quinn::ServerConfig> {
    let chain = CertificateDer::pem_file_iter(tls.join("node.pem"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(tls.join("node.key"))?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::clone(provider.tls()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let mut config = provider.quic_server(config, &[2; 32])?;
    let mut transport = quinn::TransportConfig::default();
    transport.max_concurrent_bidi_streams(1024u32.into());
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Answers on every stream.
pub(super) fn serve(tls: &Path, tasks: &TaskGroup) -> Result<SocketAddr> {
    let endpoint = endpoint_on((Ipv4Addr::LOCALHOST, 0).into(), Some(tls))?;
    let addr = endpoint.local_addr()?;
    let streams = tasks.clone();
    tasks.spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let connection = incoming.await?;
            let each = streams.clone();
            streams.spawn(async move {
                while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                    each.spawn(async move {
                        receive.read_to_end(LIMIT).await?;
                        send.write_all(&[0; RESPONSE]).await?;
                        send.finish()?;
                        anyhow::Ok(())
                    });
                }
            });
        }
        anyhow::Ok(())
    });
    Ok(addr)
}

/// A connection to the reference.
pub(super) async fn connect(addr: SocketAddr, tls: &Path) -> Result<(quinn::Endpoint, quinn::Connection)> {
    let provider = Provider::rust_crypto();
    let mut roots = RootCertStore::empty();
    for anchor in CertificateDer::pem_file_iter(tls.join("ca.pem"))? {
        roots.add(anchor?)?;
    }
    let verifier = AnyHost(roots, Arc::clone(provider.tls()));
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(provider.tls()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let endpoint = endpoint_on((Ipv4Addr::LOCALHOST, 0).into(), None)?;
    let config = provider.quic_client(config)?;
    let connection = endpoint.connect_with(config, addr, "bench.internal")?.await;
    Ok((
        endpoint,
        connection.context("the quinn reference does not answer")?,
    ))
}

/// One request on a stream of its own.
pub(super) async fn request(connection: quinn::Connection, body: Bytes) -> Result<()> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&body).await?;
    send.finish()?;
    let response = receive.read_to_end(LIMIT).await?;
    ensure!(
        response.len() == RESPONSE,
        "a response of {} bytes",
        response.len()
    );
    Ok(())
}

/// Believes what the benchmark's own authority signed, whatever the host name.
#[derive(Debug)]
struct AnyHost(RootCertStore, Arc<CryptoProvider>);

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let algorithms = self.1.signature_verification_algorithms.all;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.0, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.1.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.signature_verification_algorithms.supported_schemes()
    }
}
