//! A token as text: `rivven-join-` and base32, with a check against slips of the hand.

use rivven_crypto::sha256;
use rivven_types::ClusterId;
use zeroize::Zeroizing;

use super::{JoinSecret, JoinToken, MAX_ADDRESSES, TokenSpec};

/// First letters of a token, so that people and scanners of leaked secrets know one.
const PREFIX: &str = "rivven-join-";

/// Version of what the text holds. 0 is unstable.
const VERSION: u8 = 0;

/// Bytes before the addresses: version, cluster, authority, secret, node, end, number of addresses.
const FIXED: usize = 1 + 16 + 32 + 32 + 8 + 8 + 1;

/// Bytes of the check at the end, which tells a slip of the hand from another token.
const CHECK: usize = 4;

/// Longest text that is read as a token.
pub const MAX_TOKEN_TEXT: usize = 2048;

/// The alphabet of base32 (RFC 4648, section 6), in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A text is not a token. Nothing was sent anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseTokenError {
    /// It does not begin like a token.
    #[error(
        "this is no join token; one begins with rivven-join-, as `rivven-node cert join-token` prints it"
    )]
    NotAToken,
    /// A character that no token has.
    #[error(
        "the join token has a character at position {0} that no token has; copy it again, without spaces \
         or line breaks within"
    )]
    Character(usize),
    /// It was cut, or a character differs.
    #[error("the join token is damaged or cut short; copy all of it again")]
    Damaged,
    /// It was made by another release.
    #[error(
        "the join token is of version {0}, which this release does not know; use the release that made it, \
         or have a new one made"
    )]
    Version(u8),
    /// The check fits and the content makes no sense: nobody's slip of the hand.
    #[error("the join token is malformed: {0}; have a new one made")]
    Malformed(&'static str),
}

impl ParseTokenError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotAToken | Self::Character(_) | Self::Damaged => "join-token-unreadable",
            Self::Version(_) => "join-token-version",
            Self::Malformed(_) => "join-token-malformed",
        }
    }
}

impl JoinToken {
    /// The token as text. A secret.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_TOKEN_TEXT));
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.cluster.to_bytes());
        bytes.extend_from_slice(&self.authority);
        bytes.extend_from_slice(&self.secret.0[..]);
        bytes.extend_from_slice(&self.node.to_be_bytes());
        bytes.extend_from_slice(&self.expires_s.to_be_bytes());
        bytes.push(u8::try_from(self.addresses.len()).unwrap_or(u8::MAX));
        for addr in &self.addresses {
            let text = addr.to_string();
            bytes.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        let digest = sha256(&bytes);
        bytes.extend_from_slice(digest.get(..CHECK).unwrap_or_default());
        encode(&bytes)
    }

    /// The token that [`Self::to_text`] wrote; white space around it is ignored, and so is case.
    ///
    /// # Errors
    /// [`ParseTokenError`] names what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ParseTokenError> {
        let text = text.trim();
        if text.len() > MAX_TOKEN_TEXT {
            return Err(ParseTokenError::NotAToken);
        }
        let begins = text
            .get(..PREFIX.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(PREFIX));
        let digits = text.get(PREFIX.len()..).filter(|_| begins);
        let bytes = decode(digits.ok_or(ParseTokenError::NotAToken)?)?;
        let body = bytes.len().checked_sub(CHECK).ok_or(ParseTokenError::Damaged)?;
        let (body, check) = bytes.split_at(body);
        if sha256(body).get(..CHECK) != Some(check) {
            return Err(ParseTokenError::Damaged);
        }
        Self::read(body)
    }

    fn read(body: &[u8]) -> Result<Self, ParseTokenError> {
        let malformed = ParseTokenError::Malformed;
        match body.first() {
            Some(&VERSION) => {}
            Some(version) => return Err(ParseTokenError::Version(*version)),
            None => return Err(malformed("it is empty")),
        }
        let mut rest = Rest(body.get(1..).unwrap_or_default());
        if body.len() < FIXED {
            return Err(malformed("it is too short"));
        }
        let short = || malformed("it is too short");
        let cluster = ClusterId::from_bytes(rest.array().ok_or_else(short)?);
        let authority = rest.array().ok_or_else(short)?;
        let secret = JoinSecret(Zeroizing::new(rest.array().ok_or_else(short)?));
        let node = u64::from_be_bytes(rest.array().ok_or_else(short)?);
        let expires_s = u64::from_be_bytes(rest.array().ok_or_else(short)?);
        let [count] = rest.array().ok_or_else(short)?;
        let mut addresses = Vec::with_capacity(MAX_ADDRESSES);
        for _ in 0..usize::from(count).min(MAX_ADDRESSES + 1) {
            let len = usize::from(u16::from_be_bytes(rest.array().ok_or_else(short)?));
            let text = rest.take(len).and_then(|text| std::str::from_utf8(text).ok());
            let addr = text.and_then(|text| text.parse().ok());
            addresses.push(addr.ok_or_else(|| malformed("an address is none"))?);
        }
        if !rest.0.is_empty() {
            return Err(malformed("something follows it"));
        }
        let spec = TokenSpec {
            cluster,
            authority,
            node,
            expires_s,
            addresses,
        };
        Self::with_secret(spec, secret).map_err(|_| malformed("it names no node, or no address to dial"))
    }
}

/// What is left to read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}

/// Base32 without padding (RFC 4648, section 6), behind [`PREFIX`].
fn encode(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + bytes.len() * 8 / 5 + 1));
    text.push_str(PREFIX);
    let (mut held, mut bits) = (0_u32, 0_u32);
    let mut push = |index: u32| {
        let digit = BASE32.get((index & 31) as usize).copied().unwrap_or_default();
        text.push(char::from(digit));
    };
    for byte in bytes {
        held = (held << 8 | u32::from(*byte)) & 0xffff;
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            push(held >> bits);
        }
    }
    if bits > 0 {
        push(held << (5 - bits));
    }
    text
}

/// What [`encode`] wrote, in its one form: the bits left over are zero.
fn decode(digits: &str) -> Result<Zeroizing<Vec<u8>>, ParseTokenError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len() * 5 / 8));
    let (mut held, mut bits) = (0_u32, 0_u32);
    for (at, digit) in digits.bytes().enumerate() {
        let digit = digit.to_ascii_lowercase();
        let value = BASE32.iter().position(|known| *known == digit);
        let value = value.and_then(|value| u32::try_from(value).ok());
        let value = value.ok_or(ParseTokenError::Character(PREFIX.len() + at + 1))?;
        held = (held << 5 | value) & 0xffff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.extend(u8::try_from(held >> bits & 0xff));
        }
    }
    if bits >= 5 || held & ((1 << bits) - 1) != 0 {
        return Err(ParseTokenError::Damaged);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
