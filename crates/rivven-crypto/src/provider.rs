//! The provider of TLS and QUIC cryptography, as a value.

use std::{fmt, sync::Arc};

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use ring::{hkdf, hmac};
use rustls::crypto::{CryptoProvider, ring as tls};

/// Cipher suites, key exchange and signatures for TLS 1.3, and what QUIC needs beside them.
///
/// A value handed to whoever builds an endpoint, so that no process-wide default is installed.
#[derive(Clone)]
pub struct Provider {
    tls: Arc<CryptoProvider>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("name", &"ring").finish()
    }
}

/// The TLS configuration cannot carry QUIC: it lacks TLS 1.3 or its mandatory cipher suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the TLS configuration lacks TLS 1.3 or TLS13_AES_128_GCM_SHA256, which QUIC starts with")]
pub struct NotForQuic;

impl Provider {
    /// The provider built on ring: AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305; X25519, P-256, P-384.
    #[must_use]
    pub fn ring() -> Self {
        let tls = CryptoProvider {
            cipher_suites: vec![
                tls::cipher_suite::TLS13_AES_128_GCM_SHA256,
                tls::cipher_suite::TLS13_AES_256_GCM_SHA384,
                tls::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            ..tls::default_provider()
        };
        Self { tls: Arc::new(tls) }
    }

    /// What rustls builds configurations from.
    #[must_use]
    pub const fn tls(&self) -> &Arc<CryptoProvider> {
        &self.tls
    }

    /// The client side of QUIC under the TLS configuration `tls`.
    ///
    /// # Errors
    /// [`NotForQuic`].
    pub fn quic_client(&self, tls: rustls::ClientConfig) -> Result<quinn::ClientConfig, NotForQuic> {
        let config = QuicClientConfig::try_from(tls).map_err(|_| NotForQuic)?;
        Ok(quinn::ClientConfig::new(Arc::new(config)))
    }

    /// The server side of QUIC under the TLS configuration `tls`.
    ///
    /// `token_secret` protects the tokens of Retry packets (RFC 9000, section 8.1.2). Servers that
    /// shall accept each other's tokens, or their own after a restart, share it.
    ///
    /// # Errors
    /// [`NotForQuic`].
    pub fn quic_server(
        &self,
        tls: rustls::ServerConfig,
        token_secret: &[u8; 32],
    ) -> Result<quinn::ServerConfig, NotForQuic> {
        let config = QuicServerConfig::try_from(tls).map_err(|_| NotForQuic)?;
        let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, b"rivven quic token").extract(token_secret);
        Ok(quinn::ServerConfig::new(Arc::new(config), Arc::new(token_key)))
    }

    /// Endpoint settings whose stateless resets (RFC 9000, section 10.3) are keyed by `reset_secret`.
    ///
    /// An endpoint that restarts with the same secret *and* the same connection-id key can tell its old
    /// peers at once that their connections are gone.
    #[must_use]
    pub fn quic_endpoint(&self, reset_secret: &[u8; 32]) -> quinn::EndpointConfig {
        quinn::EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset_secret)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tls_1_3_is_offered_and_quic_accepts_it() {
        let provider = Provider::ring();
        assert!(
            provider
                .tls()
                .cipher_suites
                .iter()
                .all(|suite| suite.tls13().is_some())
        );
        let tls = rustls::ClientConfig::builder_with_provider(Arc::clone(provider.tls()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        assert!(provider.quic_client(tls).is_ok());
    }
}
