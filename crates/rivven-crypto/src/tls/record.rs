//! TLS records under an AEAD (RFC 8446, section 5.2). QUIC protects packets instead, in `quic::packet`.

use std::marker::PhantomData;

use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion,
    crypto::cipher::{
        AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter, Nonce,
        OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls13AeadAlgorithm,
        UnsupportedOperationError, make_tls13_aad,
    },
};

use crate::cipher::{Cipher, TAG_LEN};

/// The records of a suite whose AEAD is `C`.
pub(super) struct Records<C> {
    extract: fn(AeadKey, Iv) -> ConnectionTrafficSecrets,
    cipher: PhantomData<fn() -> C>,
}

impl<C> Records<C> {
    pub(super) const fn new(extract: fn(AeadKey, Iv) -> ConnectionTrafficSecrets) -> Self {
        Self {
            extract,
            cipher: PhantomData,
        }
    }
}

impl<C: Cipher> Tls13AeadAlgorithm for Records<C> {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        let cipher = C::with_key(key.as_ref());
        Box::new(Direction { cipher, iv })
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        let cipher = C::with_key(key.as_ref());
        Box::new(Direction { cipher, iv })
    }

    fn key_len(&self) -> usize {
        C::key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Ok((self.extract)(key, iv))
    }
}

/// One direction of a connection.
struct Direction<C> {
    cipher: C,
    iv: Iv,
}

impl<C: Cipher> MessageEncrypter for Direction<C> {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let sealed_len = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(sealed_len);
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&message.typ.to_array());
        let nonce = Nonce::new(&self.iv, sequence).0;
        let tag = self
            .cipher
            .seal(&nonce, &make_tls13_aad(sealed_len), payload.as_mut())
            .ok_or(Error::EncryptError)?;
        payload.extend_from_slice(&tag);
        // Records of TLS 1.3 name version 1.2 (RFC 8446, section 5.1).
        Ok(OutboundOpaqueMessage::new(
            ContentType::ApplicationData,
            ProtocolVersion::TLSv1_2,
            payload,
        ))
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        payload_len + 1 + TAG_LEN
    }
}

impl<C: Cipher> MessageDecrypter for Direction<C> {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let payload = &mut message.payload;
        let nonce = Nonce::new(&self.iv, sequence).0;
        let associated = make_tls13_aad(payload.len());
        let len = self
            .cipher
            .open(&nonce, &associated, payload)
            .ok_or(Error::DecryptError)?
            .len();
        payload.truncate(len);
        message.into_tls13_unpadded_message()
    }
}
