//! The integrity of Retry packets (RFC 9001, section 5.8).

use aes_gcm::Aes128Gcm;
use quinn_proto::ConnectionId;
use subtle::ConstantTimeEq;

use crate::cipher::{Cipher, NONCE_LEN, TAG_LEN};

/// Public values: the tag keeps out those who cannot see the client's packets, nobody else.
const KEY: [u8; 16] = [
    0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a, 0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8, 0x4e,
];
const NONCE: [u8; NONCE_LEN] = [
    0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb,
];

/// The tag of a Retry `packet`, given in parts, that answers an Initial to `original`.
#[expect(
    clippy::expect_used,
    reason = "the message is empty; AES-GCM refuses by length alone"
)]
pub(super) fn tag(original: &ConnectionId, packet: &[&[u8]]) -> [u8; TAG_LEN] {
    // A connection id has at most 20 bytes.
    let len = u8::try_from(original.len()).unwrap_or(u8::MAX);
    let mut pseudo_packet = vec![len];
    pseudo_packet.extend_from_slice(original);
    for part in packet {
        pseudo_packet.extend_from_slice(part);
    }
    <Aes128Gcm as Cipher>::with_key(&KEY)
        .seal(&NONCE, &pseudo_packet, &mut [])
        .expect("an empty message can be sealed")
}

/// Whether `payload` ends with the tag of the Retry packet made of `header` and `payload`.
pub(super) fn is_valid(original: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
    payload
        .split_last_chunk::<TAG_LEN>()
        .is_some_and(|(payload, found)| tag(original, &[header, payload]).ct_eq(found).into())
}
