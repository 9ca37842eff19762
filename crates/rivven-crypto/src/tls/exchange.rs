//! Key exchange: X25519 (RFC 7748), alone and together with ML-KEM-768 (FIPS 203).

use ml_kem::{
    B32, KeyExport, Seed,
    kem::{Decapsulate, Key, KeyInit},
    ml_kem_768::{Ciphertext, DecapsulationKey, EncapsulationKey},
};
use rustls::{
    Error, NamedGroup, PeerMisbehaved, ProtocolVersion,
    crypto::{ActiveKeyExchange, CompletedKeyExchange, GetRandomFailed, SharedSecret, SupportedKxGroup},
    ffdhe_groups::FfdheGroup,
};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::random::random_bytes;

const INVALID_SHARE: Error = Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare);

/// Bytes of an ML-KEM-768 encapsulation key (FIPS 203, section 8).
const ENCAPSULATION_KEY_LEN: usize = 1184;
/// Bytes of an ML-KEM-768 ciphertext.
const CIPHERTEXT_LEN: usize = 1088;

/// Elliptic-curve Diffie-Hellman over Curve25519.
#[derive(Debug)]
pub(super) struct UseX25519;
pub(super) static X25519: UseX25519 = UseX25519;

/// The hybrid of draft-ietf-tls-ecdhe-mlkem: safe while either of its halves is, so that traffic recorded
/// today is not readable with a quantum computer later.
#[derive(Debug)]
pub(super) struct UseHybrid;
pub(super) static X25519_ML_KEM_768: UseHybrid = UseHybrid;

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, Error> {
    random_bytes()
        .map(Zeroizing::new)
        .map_err(|_| GetRandomFailed.into())
}

pub(super) struct EcdhKey {
    pub(super) secret: StaticSecret,
    pub(super) public: PublicKey,
}

impl EcdhKey {
    fn generate() -> Result<Self, Error> {
        let secret = StaticSecret::from(*random::<32>()?);
        let public = PublicKey::from(&secret);
        Ok(Self { secret, public })
    }

    fn agree(&self, peer: &[u8; 32]) -> Result<x25519_dalek::SharedSecret, Error> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(*peer));
        // RFC 8446, section 7.4.2: an all-zero secret ends the handshake.
        shared.was_contributory().then_some(shared).ok_or(INVALID_SHARE)
    }
}

impl SupportedKxGroup for UseX25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(EcdhKey::generate()?))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl ActiveKeyExchange for EcdhKey {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer = peer.try_into().map_err(|_| INVALID_SHARE)?;
        Ok(SharedSecret::from(&self.agree(peer)?.as_bytes()[..]))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

/// The client's half of the hybrid.
struct HybridKey {
    ecdh: EcdhKey,
    kem: DecapsulationKey,
    share: Vec<u8>,
}

impl SupportedKxGroup for UseHybrid {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let ecdh = EcdhKey::generate()?;
        let seed = Zeroizing::new(Seed::from(*random::<64>()?));
        let kem = DecapsulationKey::new(&seed);
        let share = [
            &kem.encapsulation_key().to_bytes()[..],
            &ecdh.public.as_bytes()[..],
        ]
        .concat();
        Ok(Box::new(HybridKey { ecdh, kem, share }))
    }

    fn start_and_complete(&self, client_share: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let (kem_share, ecdh_share) = split(client_share, ENCAPSULATION_KEY_LEN)?;
        let encoded = Key::<EncapsulationKey>::try_from(kem_share).map_err(|_| INVALID_SHARE)?;
        // Checks that all coefficients are reduced (FIPS 203, section 7.2).
        let key = EncapsulationKey::new(&encoded).map_err(|_| INVALID_SHARE)?;
        // Deterministic given randomness; taken first, since the operating system may refuse it.
        let message = Zeroizing::new(B32::from(*random::<32>()?));
        let (ciphertext, kem_secret) = key.encapsulate_deterministic(&message);
        let kem_secret = Zeroizing::new(kem_secret);
        let ecdh = EcdhKey::generate()?;
        let ecdh_secret = ecdh.agree(ecdh_share)?;
        Ok(CompletedKeyExchange {
            group: self.name(),
            pub_key: [&ciphertext[..], &ecdh.public.as_bytes()[..]].concat(),
            secret: join(&kem_secret[..], &ecdh_secret),
        })
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        version == ProtocolVersion::TLSv1_3
    }
}

impl ActiveKeyExchange for HybridKey {
    fn complete(self: Box<Self>, server_share: &[u8]) -> Result<SharedSecret, Error> {
        let (kem_share, ecdh_share) = split(server_share, CIPHERTEXT_LEN)?;
        let ciphertext = Ciphertext::try_from(kem_share).map_err(|_| INVALID_SHARE)?;
        let kem_secret = Zeroizing::new(self.kem.decapsulate(&ciphertext));
        Ok(join(&kem_secret[..], &self.ecdh.agree(ecdh_share)?))
    }

    fn hybrid_component(&self) -> Option<(NamedGroup, &[u8])> {
        Some((NamedGroup::X25519, self.ecdh.public.as_bytes()))
    }

    fn complete_hybrid_component(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        Box::new(self.ecdh).complete(peer)
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn pub_key(&self) -> &[u8] {
        &self.share
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

/// The halves of a share: ML-KEM first, of `kem_len` bytes.
fn split(share: &[u8], kem_len: usize) -> Result<(&[u8], &[u8; 32]), Error> {
    let (kem, ecdh) = share.split_last_chunk::<32>().ok_or(INVALID_SHARE)?;
    (kem.len() == kem_len).then_some((kem, ecdh)).ok_or(INVALID_SHARE)
}

/// ML-KEM's secret first, as with the shares.
fn join(kem: &[u8], ecdh: &x25519_dalek::SharedSecret) -> SharedSecret {
    SharedSecret::from([kem, &ecdh.as_bytes()[..]].concat())
}
