//! Packet and header protection (RFC 9001, sections 5.3 and 5.4).

use std::marker::PhantomData;

use aes::cipher::{BlockCipherEncrypt, BlockSizeUser, KeyInit, consts::U16};
use chacha20::{
    ChaChaCore, R20,
    cipher::{KeyIvInit, StreamCipherCore},
    variants::Ietf,
};
use rustls::{
    Error,
    crypto::cipher::{AeadKey, Iv, Nonce},
    quic::{Algorithm, HeaderProtectionKey, PacketKey, Tag},
};
use zeroize::Zeroizing;

use crate::cipher::{Cipher, TAG_LEN};

/// Bytes of a header protection sample (RFC 9001, section 5.4.2).
const SAMPLE_LEN: usize = 16;
/// Bytes of a mask that are used: one for the first byte, four for the packet number.
const MASK_LEN: usize = 5;

/// The packets of a suite with the AEAD `C` and the header mask `M`.
pub(crate) struct Packets<C, M> {
    confidentiality_limit: u64,
    integrity_limit: u64,
    kind: PhantomData<fn() -> (C, M)>,
}

impl<C, M> Packets<C, M> {
    /// Limits: packets sealed under one key, and packets that may fail to open (section 6.6).
    pub(crate) const fn new(confidentiality_limit: u64, integrity_limit: u64) -> Self {
        Self {
            confidentiality_limit,
            integrity_limit,
            kind: PhantomData,
        }
    }
}

impl<C: Cipher, M: Mask> Algorithm for Packets<C, M> {
    fn packet_key(&self, key: AeadKey, iv: Iv) -> Box<dyn PacketKey> {
        Box::new(Packet {
            cipher: C::with_key(key.as_ref()),
            iv,
            confidentiality_limit: self.confidentiality_limit,
            integrity_limit: self.integrity_limit,
        })
    }

    fn header_protection_key(&self, key: AeadKey) -> Box<dyn HeaderProtectionKey> {
        Box::new(Header(M::with_key(key.as_ref())))
    }

    fn aead_key_len(&self) -> usize {
        C::key_len()
    }
}

/// Section 5.3: the nonce is the packet number over the IV, the header is the associated data.
struct Packet<C> {
    cipher: C,
    iv: Iv,
    confidentiality_limit: u64,
    integrity_limit: u64,
}

impl<C: Cipher> PacketKey for Packet<C> {
    fn encrypt_in_place(&self, number: u64, header: &[u8], payload: &mut [u8]) -> Result<Tag, Error> {
        self.cipher
            .seal(&Nonce::new(&self.iv, number).0, header, payload)
            .map(|tag| Tag::from(&tag[..]))
            .ok_or(Error::EncryptError)
    }

    fn decrypt_in_place<'a>(
        &self,
        number: u64,
        header: &[u8],
        payload: &'a mut [u8],
    ) -> Result<&'a [u8], Error> {
        self.cipher
            .open(&Nonce::new(&self.iv, number).0, header, payload)
            .map(|message| &*message)
            .ok_or(Error::DecryptError)
    }

    fn tag_len(&self) -> usize {
        TAG_LEN
    }

    fn confidentiality_limit(&self) -> u64 {
        self.confidentiality_limit
    }

    fn integrity_limit(&self) -> u64 {
        self.integrity_limit
    }
}

/// How a sample of the ciphertext becomes a mask for the header.
pub(crate) trait Mask: Send + Sync + 'static {
    fn with_key(key: &[u8]) -> Self;
    fn mask(&self, sample: &[u8; SAMPLE_LEN]) -> [u8; MASK_LEN];
}

/// Section 5.4.3: the sample, encrypted with AES.
pub(crate) struct AesMask<A>(A);

impl<A> Mask for AesMask<A>
where
    A: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16> + KeyInit + Send + Sync + 'static,
{
    #[expect(clippy::expect_used, reason = "rustls derives keys of the suite's length")]
    fn with_key(key: &[u8]) -> Self {
        Self(A::new_from_slice(key).expect("the length is right"))
    }

    fn mask(&self, sample: &[u8; SAMPLE_LEN]) -> [u8; MASK_LEN] {
        let mut block = (*sample).into();
        self.0.encrypt_block(&mut block);
        let [a, b, c, d, e, ..] = <[u8; SAMPLE_LEN]>::from(block);
        [a, b, c, d, e]
    }
}

/// Section 5.4.4: key stream of ChaCha20 at the block and nonce that the sample names.
pub(crate) struct ChaChaMask(Zeroizing<[u8; 32]>);

impl Mask for ChaChaMask {
    #[expect(clippy::expect_used, reason = "rustls derives keys of the suite's length")]
    fn with_key(key: &[u8]) -> Self {
        Self(Zeroizing::new(key.try_into().expect("the length is right")))
    }

    fn mask(&self, sample: &[u8; SAMPLE_LEN]) -> [u8; MASK_LEN] {
        let [c0, c1, c2, c3, nonce @ ..] = *sample;
        // The block function itself: the seekable stream refuses the last block, which a sample may name.
        let mut core = ChaChaCore::<R20, Ietf>::new((&*self.0).into(), (&nonce).into());
        core.set_block_pos(u32::from_le_bytes([c0, c1, c2, c3]));
        let mut block = Default::default();
        core.write_keystream_block(&mut block);
        let [a, b, c, d, e, ..] = <[u8; 64]>::from(block);
        [a, b, c, d, e]
    }
}

struct Header<M>(M);

impl<M: Mask> Header<M> {
    /// Section 5.4.1. Which side of the mask tells the packet number's length differs between the two.
    fn apply(&self, sample: &[u8], first: &mut u8, number: &mut [u8], masked: bool) -> Result<(), Error> {
        let sample = sample
            .try_into()
            .map_err(|_| Error::General("a header protection sample has 16 bytes".into()))?;
        let [first_mask, number_mask @ ..] = self.0.mask(sample);
        if number.len() > number_mask.len() {
            return Err(Error::General("a packet number has at most 4 bytes".into()));
        }
        let long_header = *first & 0x80 != 0;
        let plain_first = *first ^ (first_mask & if long_header { 0x0f } else { 0x1f });
        let number_len = usize::from(if masked { plain_first } else { *first } & 0x03) + 1;
        *first = plain_first;
        for (byte, mask) in number.iter_mut().zip(number_mask).take(number_len) {
            *byte ^= mask;
        }
        Ok(())
    }
}

impl<M: Mask> HeaderProtectionKey for Header<M> {
    fn encrypt_in_place(&self, sample: &[u8], first: &mut u8, number: &mut [u8]) -> Result<(), Error> {
        self.apply(sample, first, number, false)
    }

    fn decrypt_in_place(&self, sample: &[u8], first: &mut u8, number: &mut [u8]) -> Result<(), Error> {
        self.apply(sample, first, number, true)
    }

    fn sample_len(&self) -> usize {
        SAMPLE_LEN
    }
}
