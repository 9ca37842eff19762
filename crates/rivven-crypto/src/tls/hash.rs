//! SHA-2 and HMAC as rustls asks for them.

use hmac::{Hmac, KeyInit, Mac};
use rustls::crypto::{hash, hmac as tls_hmac};
use sha2::{Digest, Sha256, Sha384};

/// SHA-256 (FIPS 180-4), also under HMAC (RFC 2104).
pub(super) struct UseSha256;
/// SHA-384 (FIPS 180-4), also under HMAC (RFC 2104).
pub(super) struct UseSha384;

/// The transcript hash, which TLS forks at every message that binds it.
#[derive(Clone)]
struct Transcript<D>(D);

impl<D: Digest + Clone + Send + Sync + 'static> hash::Context for Transcript<D> {
    fn fork_finish(&self) -> hash::Output {
        hash::Output::new(&self.0.clone().finalize())
    }

    fn fork(&self) -> Box<dyn hash::Context> {
        Box::new(self.clone())
    }

    fn finish(self: Box<Self>) -> hash::Output {
        hash::Output::new(&self.0.finalize())
    }

    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }
}

struct Keyed<M>(M);

impl<M: Mac + Clone + Send + Sync> tls_hmac::Key for Keyed<M> {
    fn sign_concat(&self, first: &[u8], middle: &[&[u8]], last: &[u8]) -> tls_hmac::Tag {
        let mut mac = self.0.clone();
        mac.update(first);
        for part in middle {
            mac.update(part);
        }
        mac.update(last);
        tls_hmac::Tag::new(&mac.finalize().into_bytes())
    }

    fn tag_len(&self) -> usize {
        M::output_size()
    }
}

macro_rules! sha2 {
    ($name:ident, $digest:ty, $algorithm:ident) => {
        impl hash::Hash for $name {
            fn start(&self) -> Box<dyn hash::Context> {
                Box::new(Transcript(<$digest>::new()))
            }

            fn hash(&self, data: &[u8]) -> hash::Output {
                hash::Output::new(&<$digest>::digest(data))
            }

            fn output_len(&self) -> usize {
                <$digest>::output_size()
            }

            fn algorithm(&self) -> hash::HashAlgorithm {
                hash::HashAlgorithm::$algorithm
            }
        }

        impl tls_hmac::Hmac for $name {
            // HMAC takes keys of every length (RFC 2104).
            fn with_key(&self, key: &[u8]) -> Box<dyn tls_hmac::Key> {
                let mac = Hmac::<$digest>::new_from_slice(key).expect("every length is right");
                Box::new(Keyed(mac))
            }

            fn hash_output_len(&self) -> usize {
                <$digest>::output_size()
            }
        }
    };
}

sha2!(UseSha256, Sha256, SHA256);
sha2!(UseSha384, Sha384, SHA384);
