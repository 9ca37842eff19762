//! The cipher suites of TLS 1.3 (RFC 8446, appendix B.4), each able to carry QUIC.

use aes::{Aes128, Aes256};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use chacha20poly1305::ChaCha20Poly1305;
use rustls::{
    CipherSuite, CipherSuiteCommon, ConnectionTrafficSecrets, SupportedCipherSuite, Tls13CipherSuite,
    crypto::tls13::HkdfUsingHmac,
};

use super::{
    hash::{UseSha256, UseSha384},
    record::Records,
};
use crate::quic::packet::{AesMask, ChaChaMask, Packets};

/// Every suite, the fastest on this machine first.
///
/// Without AES and carry-less multiplication instructions, AES-GCM runs in constant time but slowly.
pub(super) fn preferred() -> Vec<SupportedCipherSuite> {
    let aes_128 = SupportedCipherSuite::Tls13(&AES_128_GCM_SHA256);
    let aes_256 = SupportedCipherSuite::Tls13(&AES_256_GCM_SHA384);
    let chacha20 = SupportedCipherSuite::Tls13(&CHACHA20_POLY1305_SHA256);
    if has_aes_instructions() {
        vec![aes_128, aes_256, chacha20]
    } else {
        vec![chacha20, aes_128, aes_256]
    }
}

fn has_aes_instructions() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

// The limits of use of a key are those of RFC 8446, section 5.5, for records, and of RFC 9001, section 6.6
// and appendix B, for packets.

static AES_128_GCM_SHA256: Tls13CipherSuite = Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS13_AES_128_GCM_SHA256,
        hash_provider: &UseSha256,
        confidentiality_limit: 1 << 24,
    },
    hkdf_provider: &HkdfUsingHmac(&UseSha256),
    aead_alg: &Records::<Aes128Gcm>::new(|key, iv| ConnectionTrafficSecrets::Aes128Gcm { key, iv }),
    quic: Some(&Packets::<Aes128Gcm, AesMask<Aes128>>::new(1 << 23, 1 << 52)),
};

static AES_256_GCM_SHA384: Tls13CipherSuite = Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS13_AES_256_GCM_SHA384,
        hash_provider: &UseSha384,
        confidentiality_limit: 1 << 24,
    },
    hkdf_provider: &HkdfUsingHmac(&UseSha384),
    aead_alg: &Records::<Aes256Gcm>::new(|key, iv| ConnectionTrafficSecrets::Aes256Gcm { key, iv }),
    quic: Some(&Packets::<Aes256Gcm, AesMask<Aes256>>::new(1 << 23, 1 << 52)),
};

static CHACHA20_POLY1305_SHA256: Tls13CipherSuite = Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        hash_provider: &UseSha256,
        confidentiality_limit: u64::MAX,
    },
    hkdf_provider: &HkdfUsingHmac(&UseSha256),
    aead_alg: &Records::<ChaCha20Poly1305>::new(|key, iv| ConnectionTrafficSecrets::Chacha20Poly1305 {
        key,
        iv,
    }),
    quic: Some(&Packets::<ChaCha20Poly1305, ChaChaMask>::new(u64::MAX, 1 << 36)),
};
