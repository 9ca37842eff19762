//! RSA signatures, verified only (RFC 8017, sections 8.1.2 and 8.2.2).
//!
//! Nothing here is secret, so nothing here needs to take constant time. There is no private RSA key in
//! this crate, and so nothing for a timing attack on one to find.

use crypto_bigint::{
    BoxedUint, Odd,
    modular::{BoxedMontyForm, BoxedMontyParams},
};
use p256::pkcs8::der::{Decode, Reader, SliceReader, asn1::UintRef};
use sha2::{Digest, Sha256, Sha384, Sha512};

/// Smallest and largest modulus; beyond, verifying takes long enough to be an attack.
const MODULUS_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;
/// Longest public exponent; beyond, likewise.
const MAX_EXPONENT_BITS: u32 = 33;

/// A hash, and the head of the DER `DigestInfo` that names it (RFC 8017, section 9.2, note 1).
pub(super) trait Hash: Digest {
    const DIGEST_INFO: [u8; 19];
}

macro_rules! hash {
    ($digest:ty, $oid:literal, $len:literal) => {
        impl Hash for $digest {
            const DIGEST_INFO: [u8; 19] = [
                0x30,
                17 + $len,
                0x30,
                0x0d,
                0x06,
                0x09,
                0x60,
                0x86,
                0x48,
                0x01,
                0x65,
                0x03,
                0x04,
                0x02,
                $oid,
                0x05,
                0x00,
                0x04,
                $len,
            ];
        }
    };
}

hash!(Sha256, 1, 32);
hash!(Sha384, 2, 48);
hash!(Sha512, 3, 64);

/// RSASSA-PKCS1-v1_5: the one encoding of `message` is built and compared whole, so that no laxity of a
/// parser can be abused to forge signatures of keys with small exponents.
pub(super) fn verify_pkcs1<H: Hash>(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let (encoded, _) = recover(key, signature)?;
    let tail = [&[0][..], &H::DIGEST_INFO, &H::digest(message)].concat();
    let padding = encoded.len().checked_sub(2 + tail.len())?;
    let mut expected = vec![0, 1];
    expected.resize(2 + padding, 0xff);
    expected.extend(tail);
    (encoded == expected).then_some(())
}

/// RSASSA-PSS with MGF1 over the same hash and a salt as long as its output (RFC 8446, section 4.2.3).
pub(super) fn verify_pss<H: Hash>(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let (encoded, modulus_bits) = recover(key, signature)?;
    let hash_len = <H as Digest>::output_size();
    // RFC 8017, section 9.1.2: the encoded message is one bit shorter than the modulus.
    let bits = modulus_bits - 1;
    let len = bits.div_ceil(8) as usize;
    let (above, encoded) = encoded.split_at_checked(encoded.len().checked_sub(len)?)?;
    let (encoded, trailer) = encoded.split_at_checked(len.checked_sub(1)?)?;
    let (masked, hash) = encoded.split_at_checked(encoded.len().checked_sub(hash_len)?)?;
    let unused_bits = 8 * u32::try_from(len).ok()? - bits;
    let top = 0xff_u8.checked_shr(unused_bits)?;
    if above.iter().any(|byte| *byte != 0) || trailer != [0xbc] || masked.first()? & !top != 0 {
        return None;
    }
    let mut block: Vec<u8> = masked
        .iter()
        .zip(mask::<H>(hash, masked.len()))
        .map(|(masked, mask)| masked ^ mask)
        .collect();
    *block.first_mut()? &= top;
    let (padding, salt) = block.split_at_checked(block.len().checked_sub(hash_len)?)?;
    let (one, zeros) = padding.split_last()?;
    if *one != 1 || zeros.iter().any(|byte| *byte != 0) {
        return None;
    }
    let mut digest = H::new();
    digest.update([0; 8]);
    digest.update(H::digest(message));
    digest.update(salt);
    (digest.finalize()[..] == *hash).then_some(())
}

/// MGF1 (RFC 8017, appendix B.2.1).
fn mask<H: Hash>(seed: &[u8], len: usize) -> Vec<u8> {
    let mut mask = Vec::with_capacity(len + <H as Digest>::output_size());
    for counter in 0_u32.. {
        if mask.len() >= len {
            break;
        }
        mask.extend(
            H::new()
                .chain_update(seed)
                .chain_update(counter.to_be_bytes())
                .finalize(),
        );
    }
    mask.truncate(len);
    mask
}

/// RSAVP1 (RFC 8017, section 5.2.2): the encoded message, as long as the modulus, and the modulus' bits.
fn recover(key: &[u8], signature: &[u8]) -> Option<(Vec<u8>, u32)> {
    let (modulus, exponent) = public_key(key)?;
    let bits = modulus.bits_vartime();
    let bytes = bits.div_ceil(8) as usize;
    if !MODULUS_BITS.contains(&bits) || signature.len() != bytes {
        return None;
    }
    let exponent = BoxedUint::from_be_slice_vartime(exponent);
    let exponent_bits = exponent.bits_vartime();
    let exponent_is_odd = exponent.as_words().first().is_some_and(|word| word & 1 == 1);
    if !(2..=MAX_EXPONENT_BITS).contains(&exponent_bits) || !exponent_is_odd {
        return None;
    }
    let precision = modulus.bits_precision();
    let signature = BoxedUint::from_be_slice(signature, precision).ok()?;
    if signature >= modulus {
        return None;
    }
    let modulus = Option::<Odd<BoxedUint>>::from(Odd::new(modulus))?;
    let params = BoxedMontyParams::new_vartime(modulus);
    let message = BoxedMontyForm::new(signature, &params)
        .pow_bounded_exp(&exponent, exponent_bits)
        .retrieve()
        .to_be_bytes();
    let padded = message.len().checked_sub(bytes)?;
    Some((message.get(padded..)?.to_vec(), bits))
}

/// Modulus and exponent of an `RSAPublicKey` (RFC 8017, appendix A.1.1).
fn public_key(der: &[u8]) -> Option<(BoxedUint, &[u8])> {
    let mut reader = SliceReader::new(der).ok()?;
    let (modulus, exponent) = reader
        .sequence(|reader| {
            Ok::<_, p256::pkcs8::der::Error>((UintRef::decode(reader)?, UintRef::decode(reader)?))
        })
        .ok()?;
    reader.finish().ok()?;
    // The length is checked first, so that nothing larger is ever computed with.
    let bits = u32::try_from(modulus.as_bytes().len()).ok()?.checked_mul(8)?;
    if bits > *MODULUS_BITS.end() || exponent.as_bytes().len() > 8 {
        return None;
    }
    Some((
        BoxedUint::from_be_slice_vartime(modulus.as_bytes()),
        exponent.as_bytes(),
    ))
}
