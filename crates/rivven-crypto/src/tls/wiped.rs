//! That what holds a secret for longer than one operation wipes it on drop.

use zeroize::ZeroizeOnDrop;

/// Compiles for what is wiped. A missing `zeroize` feature of a library fails the build of the tests.
const fn is_wiped<T: ZeroizeOnDrop>() {}

#[test]
fn every_kind_of_key_is_wiped_on_drop() {
    is_wiped::<aes::Aes128>();
    is_wiped::<aes::Aes256>();
    is_wiped::<aes_gcm::Aes128Gcm>();
    is_wiped::<aes_gcm::Aes256Gcm>();
    is_wiped::<chacha20poly1305::ChaCha20Poly1305>();
    is_wiped::<ed25519_dalek::SigningKey>();
    is_wiped::<p256::ecdsa::SigningKey>();
    is_wiped::<p256::SecretKey>();
    is_wiped::<x25519_dalek::StaticSecret>();
    is_wiped::<x25519_dalek::SharedSecret>();
    is_wiped::<ml_kem::ml_kem_768::DecapsulationKey>();
    // An HMAC, and HKDF with it, keeps its key as two states of its hash, and nothing else.
    is_wiped::<sha2::Sha256>();
    is_wiped::<sha2::Sha384>();
}

/// What rustls is handed is wiped by it: `SharedSecret`, `AeadKey`, `Iv` and `OkmBlock` do so in their `Drop`.
#[test]
fn a_private_key_handed_over_is_wiped_once_it_is_read() {
    // `PrivateKeyDer` is not wiped on drop, so `Keys` does it; this pins that the type asks for it.
    let mut key = crate::SigningKey::generate().unwrap().to_der();
    zeroize::Zeroize::zeroize(&mut key);
    assert!(key.secret_der().iter().all(|byte| *byte == 0));
}
