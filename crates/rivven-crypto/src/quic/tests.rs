//! The vectors of RFC 9001, appendix A.

use hkdf::Hkdf;
use quinn_proto::ConnectionId;
use rustls::{
    CipherSuite,
    crypto::cipher::{AeadKey, Iv},
    quic::{Algorithm, DirectionalKeys, Suite, Version},
};
use sha2::Sha256;

use super::{
    packet::{AesMask, ChaChaMask, Mask, Packets},
    retry,
};
use crate::{Provider, testing::hex};

/// The connection id that the client of appendix A chose.
const ID: &str = "8394c8f03e515708";

fn suite(wanted: CipherSuite) -> Suite {
    let provider = Provider::rust_crypto();
    let mut suites = provider.tls().cipher_suites.iter();
    suites
        .find(|suite| suite.suite() == wanted)
        .unwrap()
        .tls13()
        .unwrap()
        .quic_suite()
        .unwrap()
}

fn initial(side: rustls::Side) -> DirectionalKeys {
    suite(CipherSuite::TLS13_AES_128_GCM_SHA256)
        .keys(&hex(ID), side, Version::V1)
        .local
}

/// `HKDF-Expand-Label` of RFC 8446, section 7.1, without context.
fn expand(secret: &[u8], label: &str, len: usize) -> Vec<u8> {
    let mut info = vec![
        0,
        u8::try_from(len).unwrap(),
        u8::try_from(6 + label.len()).unwrap(),
    ];
    info.extend(b"tls13 ");
    info.extend(label.bytes());
    info.push(0);
    let mut out = vec![0; len];
    let secret = Hkdf::<Sha256>::from_prk(secret).unwrap();
    secret.expand(&info, &mut out).unwrap();
    out
}

/// Seals `payload` behind `header`, whose packet number `number` takes the last bytes of it.
fn protect(keys: &DirectionalKeys, number: u64, header: &str, payload: &str) -> Vec<u8> {
    let (header, mut payload) = (hex(header), hex(payload));
    let tag = keys
        .packet
        .encrypt_in_place(number, &header, &mut payload)
        .unwrap();
    payload.extend_from_slice(tag.as_ref());
    let mut header = header;
    let number_len = usize::from(header[0] & 3) + 1;
    let offset = header.len() - number_len;
    let (first, rest) = header.split_first_mut().unwrap();
    let sample = &payload[4 - number_len..][..16];
    let number = &mut rest[offset - 1..];
    keys.header.encrypt_in_place(sample, first, number).unwrap();
    [header, payload].concat()
}

/// Undoes [`protect`].
fn unprotect(keys: &DirectionalKeys, number: u64, offset: usize, packet: &[u8]) -> Option<Vec<u8>> {
    let mut packet = packet.to_vec();
    let (header, sample) = packet.split_at_mut(offset + 4);
    let (first, rest) = header.split_first_mut().unwrap();
    keys.header
        .decrypt_in_place(&sample[..16], first, &mut rest[offset - 1..])
        .unwrap();
    let number_len = usize::from(packet[0] & 3) + 1;
    let (header, payload) = packet.split_at_mut(offset + number_len);
    let plain = keys.packet.decrypt_in_place(number, header, payload).ok()?;
    Some(plain.to_vec())
}

/// Appendix A.1, and that the suite derives its keys from them as A.2 and A.3 do.
#[test]
fn initial_secrets() {
    let salt = hex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a");
    let (secret, _) = Hkdf::<Sha256>::extract(Some(&salt), &hex(ID));
    let client = expand(&secret, "client in", 32);
    assert_eq!(
        expand(&client, "quic key", 16),
        hex("1f369613dd76d5467730efcbe3b1a22d")
    );
    assert_eq!(expand(&client, "quic iv", 12), hex("fa044b2f42a3fd3b46fb255c"));
    assert_eq!(
        expand(&client, "quic hp", 16),
        hex("9f50449e04a0e810283a1e9933adedd2")
    );
    let server = expand(&secret, "server in", 32);
    assert_eq!(
        expand(&server, "quic key", 16),
        hex("cf3a5331653c364c88f0f379b6067e37")
    );
    assert_eq!(expand(&server, "quic iv", 12), hex("0ac1493ca1905853b0bba03e"));
    assert_eq!(
        expand(&server, "quic hp", 16),
        hex("c206b8d9b9f0f37644430b490eeaa314")
    );
}

/// Appendix A.2: a padded Initial packet of the client; its beginning and its tag.
#[test]
fn client_initial() {
    let crypto_frame = "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868\
        04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578\
        616d706c652e636f6dff01000100000a00080006001d00170018001000070005\
        04616c706e000500050100000000003300260024001d00209370b2c9caa47fba\
        baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400\
        0d0010000e0403050306030203080408050806002d00020101001c0002400100\
        3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000\
        75300901100f088394c8f03e51570806048000ffff";
    let payload = format!("{crypto_frame}{}", "00".repeat(1162 - crypto_frame.len() / 2));
    let keys = initial(rustls::Side::Client);
    let packet = protect(&keys, 2, "c300000001088394c8f03e5157080000449e00000002", &payload);
    assert_eq!(packet.len(), 1200);
    assert_eq!(packet[..22], hex("c000000001088394c8f03e5157080000449e7b9aec34"));
    assert_eq!(packet[22..38], hex("d1b1c98dd7689fb8ec11d242b123dc9b"));
    assert_eq!(packet[1184..], hex("e221af44860018ab0856972e194cd934"));
    assert_eq!(unprotect(&keys, 2, 18, &packet).unwrap(), hex(&payload));
}

/// Appendix A.3: an Initial packet of the server.
#[test]
fn server_initial() {
    let payload = "02000000000600405a020000560303eefce7f7b37ba1d1632e96677825ddf739\
        88cfc79825df566dc5430b9a045a1200130100002e00330024001d00209d3c94\
        0d89690b84d08a60993c144eca684d1081287c834d5311bcf32bb9da1a002b00\
        020304";
    let expected = "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a\
        5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf73c3ec2493a1839b3\
        dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84\
        022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456cbc4\
        2158407dd074ee";
    let keys = initial(rustls::Side::Server);
    let packet = protect(&keys, 1, "c1000000010008f067a5502a4262b50040750001", payload);
    assert_eq!(packet, hex(expected));
    assert_eq!(unprotect(&keys, 1, 18, &packet).unwrap(), hex(payload));
    for at in 0..packet.len() {
        let mut altered = packet.clone();
        altered[at] ^= 0x10;
        assert_eq!(
            unprotect(&keys, 1, 18, &altered),
            None,
            "byte {at} was altered unnoticed"
        );
    }
}

/// Appendix A.4: a Retry packet and its tag.
#[test]
fn retry_packet() {
    let id = ConnectionId::new(&hex(ID));
    let packet = hex("ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba");
    let (body, expected) = packet.split_at(packet.len() - 16);
    assert_eq!(retry::tag(&id, &[body]), expected);
    let (header, payload) = packet.split_at(15);
    assert!(retry::is_valid(&id, header, payload));
    for at in 0..payload.len() {
        let mut altered = payload.to_vec();
        altered[at] ^= 1;
        assert!(!retry::is_valid(&id, header, &altered));
    }
    assert!(!retry::is_valid(&id, header, &payload[..15]));
    assert!(!retry::is_valid(&ConnectionId::new(&[]), header, payload));
}

/// Appendix A.5: a packet with a short header under ChaCha20-Poly1305, and the secret after a key update.
#[test]
fn chacha20_short_header() {
    let secret = hex("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b");
    let key = |label| AeadKey::from(<[u8; 32]>::try_from(expand(&secret, label, 32)).unwrap());
    let iv = Iv::from(<[u8; 12]>::try_from(expand(&secret, "quic iv", 12)).unwrap());
    assert_eq!(iv.as_ref(), hex("e0459b3474bdd0e44a41c144"));
    assert_eq!(
        expand(&secret, "quic ku", 32),
        hex("1223504755036d556342ee9361d253421a826c9ecdf3c7148684b36b714881f9")
    );
    let suite = Packets::<chacha20poly1305::ChaCha20Poly1305, ChaChaMask>::new(u64::MAX, 1 << 36);
    let keys = DirectionalKeys {
        header: suite.header_protection_key(key("quic hp")),
        packet: suite.packet_key(key("quic key"), iv),
    };
    let packet = protect(&keys, 654_360_564, "4200bff4", "01");
    assert_eq!(packet, hex("4cfe4189655e5cd55c41f69080575d7999c25a5bfb"));
    assert_eq!(unprotect(&keys, 654_360_564, 1, &packet).unwrap(), [1]);
}

/// The masks of appendix A.2 and A.5; and a sample that names the last block of the key stream, where a
/// seekable stream ends (once in 2^32 packets).
#[test]
fn header_masks() {
    let aes = AesMask::<aes::Aes128>::with_key(&hex("9f50449e04a0e810283a1e9933adedd2"));
    let sample = |text| <[u8; 16]>::try_from(hex(text)).unwrap();
    assert_eq!(
        aes.mask(&sample("d1b1c98dd7689fb8ec11d242b123dc9b"))[..],
        hex("437b9aec36")
    );
    let chacha = ChaChaMask::with_key(&hex(
        "25a282b9e82f06f21f488917a4fc8f1b73573685608597d0efcb076b0ab7a7a4",
    ));
    assert_eq!(
        chacha.mask(&sample("5e5cd55c41f69080575d7999c25a5bfb"))[..],
        hex("aefefe7d03")
    );
    let last = chacha.mask(&sample("ffffffff41f69080575d7999c25a5bfb"));
    let before = chacha.mask(&sample("feffffff41f69080575d7999c25a5bfb"));
    assert_ne!(last, before);
}
