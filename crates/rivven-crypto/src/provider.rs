//! The provider of TLS and QUIC cryptography, as a value.

use std::{fmt, sync::Arc};

use rustls::{CipherSuite, crypto::CryptoProvider, quic::Suite};

use crate::{
    quic::{Client, ResetKey, Server, TokenKey, VERSION},
    tls,
};

/// Cipher suites, key exchange and signatures for TLS 1.3, and what QUIC needs beside them.
///
/// A value handed to whoever builds an endpoint, so that no process-wide default is installed and no
/// feature that some other crate enables changes anyone's cryptography. Endpoints with different
/// providers understand each other. What is audited and which certificates each believes:
/// `docs/security.md`.
#[derive(Clone)]
pub struct Provider {
    name: &'static str,
    tls: Arc<CryptoProvider>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("name", &self.name).finish()
    }
}

/// The TLS configuration cannot carry QUIC: it lacks TLS 1.3 or its mandatory cipher suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the TLS configuration lacks TLS 1.3 or TLS13_AES_128_GCM_SHA256, which QUIC starts with")]
pub struct NotForQuic;

/// The provider of that name is not to be had. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// No provider has this name. Choose one of [`Provider::NAMES`].
    #[error("no cryptography provider is named `{name}`; it is one of rust-crypto, ring, aws-lc-rs")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The program was built without it. Build it with the feature, or choose `rust-crypto`.
    #[error(
        "the cryptography provider `{name}` is not part of this build; build with `--features {feature}`, \
         which needs a C compiler, or choose rust-crypto"
    )]
    NotBuilt {
        /// The name asked for.
        name: &'static str,
        /// The cargo feature, of the same name in every crate that passes it on.
        feature: &'static str,
    },
}

impl ProviderError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "unknown-provider",
            Self::NotBuilt { .. } => "provider-not-built",
        }
    }
}

impl Default for Provider {
    /// [`Provider::rust_crypto`].
    fn default() -> Self {
        Self::rust_crypto()
    }
}

impl Provider {
    /// Every name that [`Self::by_name`] knows, the default first.
    pub const NAMES: [&str; 3] = ["rust-crypto", "ring", "aws-lc-rs"];

    /// The provider of that [`name`](Self::name), for configuration files.
    ///
    /// # Errors
    /// [`ProviderError`]: no provider has the name, or this build lacks it.
    pub fn by_name(name: &str) -> Result<Self, ProviderError> {
        match name {
            "rust-crypto" => Ok(Self::rust_crypto()),
            #[cfg(feature = "crypto-ring")]
            "ring" => Ok(Self::ring()),
            #[cfg(not(feature = "crypto-ring"))]
            "ring" => Err(ProviderError::NotBuilt {
                name: "ring",
                feature: "crypto-ring",
            }),
            #[cfg(feature = "crypto-aws-lc-rs")]
            "aws-lc-rs" => Ok(Self::aws_lc_rs()),
            #[cfg(not(feature = "crypto-aws-lc-rs"))]
            "aws-lc-rs" => Err(ProviderError::NotBuilt {
                name: "aws-lc-rs",
                feature: "crypto-aws-lc-rs",
            }),
            other => Err(ProviderError::Unknown {
                name: other.to_owned(),
            }),
        }
    }

    /// The provider built on RustCrypto and dalek: pure Rust, for every target.
    ///
    /// AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305; X25519MLKEM768 and X25519; signs with Ed25519 and
    /// ECDSA P-256, and verifies RSA of 2,048 to 8,192 bits besides.
    #[must_use]
    pub fn rust_crypto() -> Self {
        Self::new("rust-crypto", tls::provider())
    }

    /// The provider built on ring: AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305; X25519, P-256, P-384.
    ///
    /// Building it needs a C compiler.
    #[cfg(feature = "crypto-ring")]
    #[must_use]
    pub fn ring() -> Self {
        Self::new("ring", only_tls13(rustls::crypto::ring::default_provider()))
    }

    /// The provider built on AWS-LC: AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305; X25519MLKEM768 and
    /// X25519, P-256, P-384.
    ///
    /// Building it needs a C compiler, on some targets also CMake.
    #[cfg(feature = "crypto-aws-lc-rs")]
    #[must_use]
    pub fn aws_lc_rs() -> Self {
        use rustls::crypto::aws_lc_rs as aws;
        let provider = CryptoProvider {
            kx_groups: vec![
                aws::kx_group::X25519MLKEM768,
                aws::kx_group::X25519,
                aws::kx_group::SECP256R1,
                aws::kx_group::SECP384R1,
            ],
            ..aws::default_provider()
        };
        Self::new("aws-lc-rs", only_tls13(provider))
    }

    fn new(name: &'static str, tls: CryptoProvider) -> Self {
        Self {
            name,
            tls: Arc::new(tls),
        }
    }

    /// The name in kebab case: `rust-crypto`, `ring` or `aws-lc-rs`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
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
        let initial = initial_suite(tls.crypto_provider()).ok_or(NotForQuic)?;
        let tls = Arc::new(tls);
        Ok(quinn::ClientConfig::new(Arc::new(Client { tls, initial })))
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
        let initial = initial_suite(tls.crypto_provider()).ok_or(NotForQuic)?;
        let tls = Arc::new(tls);
        let token_key = TokenKey::new(token_secret);
        Ok(quinn::ServerConfig::new(
            Arc::new(Server { tls, initial }),
            Arc::new(token_key),
        ))
    }

    /// Endpoint settings whose stateless resets (RFC 9000, section 10.3) are keyed by `reset_secret`.
    ///
    /// An endpoint that restarts with the same secret *and* the same connection-id key can tell its old
    /// peers at once that their connections are gone.
    #[must_use]
    pub fn quic_endpoint(&self, reset_secret: &[u8; 32]) -> quinn::EndpointConfig {
        let mut config = quinn::EndpointConfig::new(Arc::new(ResetKey::new(reset_secret)));
        config.supported_versions(vec![VERSION]);
        config
    }
}

/// `provider` without the suites of TLS 1.2, which other crates' features may have added.
#[cfg(any(feature = "crypto-ring", feature = "crypto-aws-lc-rs"))]
fn only_tls13(mut provider: CryptoProvider) -> CryptoProvider {
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    // AES-256 first would cost speed for nothing that 128 bits lack.
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

/// The suite of Initial packets (RFC 9001, section 5.2).
fn initial_suite(provider: &CryptoProvider) -> Option<Suite> {
    provider
        .cipher_suites
        .iter()
        .filter(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256)
        .find_map(|suite| suite.tls13()?.quic_suite())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same with every feature: `cargo xtask ci` runs it with and without them.
    #[test]
    fn no_feature_changes_the_default() {
        use rustls::{NamedGroup, SignatureScheme};
        let provider = Provider::default();
        assert_eq!(provider.name(), Provider::NAMES[0]);
        let tls = provider.tls();
        let mut suites: Vec<_> = tls
            .cipher_suites
            .iter()
            .map(|suite| u16::from(suite.suite()))
            .collect();
        suites.sort_unstable();
        // TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256.
        assert_eq!(suites, [0x1301, 0x1302, 0x1303]);
        let groups: Vec<_> = tls.kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups, [NamedGroup::X25519MLKEM768, NamedGroup::X25519]);
        let schemes = tls.signature_verification_algorithms.supported_schemes();
        assert_eq!(schemes.first(), Some(&SignatureScheme::ED25519));
        assert_eq!(schemes.len(), 8);
        // Nothing here leans on a default of the process, which is a value that other crates' features choose.
        assert!(CryptoProvider::get_default().is_none());
    }

    #[test]
    fn a_provider_is_found_by_name_or_its_absence_explained() {
        for name in Provider::NAMES {
            match Provider::by_name(name) {
                Ok(provider) => assert_eq!(provider.name(), name),
                Err(error) => {
                    assert_eq!(error.code(), "provider-not-built");
                    assert!(error.to_string().contains(&format!("--features crypto-{name}")));
                }
            }
        }
        assert_eq!(
            Provider::by_name("openssl").unwrap_err().code(),
            "unknown-provider"
        );
    }

    #[test]
    fn only_tls_1_3_is_offered_and_quic_accepts_it() {
        let provider = Provider::default();
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
