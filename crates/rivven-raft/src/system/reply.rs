//! What a proposer of an application's command gets back through the log.

use bytes::{BufMut, Bytes, BytesMut};

use crate::Refusal;

const RESPONSE: u8 = 0;
const REFUSED: u8 = 1;
const NO_SESSION: u8 = 2;
const NOT_KEPT: u8 = 3;
const PASSED: u8 = 4;

/// The outcome of an entry that carries an application's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// It was applied, by this entry or by an earlier one of the same session and number.
    Response(Bytes),
    /// It was not applied, by this or any other entry of its session and number.
    Refused(Refusal),
    /// Its session is gone, so this entry did not apply it; an earlier one may have.
    NoSession,
    /// An earlier entry applied it, and the response is no longer kept.
    NotKept,
    /// Its session is past its number, so this entry did not apply it; an earlier one may have.
    Passed,
}

impl Reply {
    /// One byte that says which, then the response or the refusal.
    pub(crate) fn encode(&self) -> Result<Bytes, postcard::Error> {
        Ok(match self {
            Self::Response(response) => tagged(RESPONSE, response),
            Self::Refused(refusal) => tagged(REFUSED, &postcard::to_allocvec(refusal)?),
            Self::NoSession => Bytes::from_static(&[NO_SESSION]),
            Self::NotKept => Bytes::from_static(&[NOT_KEPT]),
            Self::Passed => Bytes::from_static(&[PASSED]),
        })
    }

    /// `None` for bytes that no release of this format writes.
    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        let (tag, rest) = (*bytes.first()?, bytes.slice(1..));
        match tag {
            RESPONSE => Some(Self::Response(rest)),
            REFUSED => Some(Self::Refused(postcard::from_bytes(&rest).ok()?)),
            NO_SESSION if rest.is_empty() => Some(Self::NoSession),
            NOT_KEPT if rest.is_empty() => Some(Self::NotKept),
            PASSED if rest.is_empty() => Some(Self::Passed),
            _ => None,
        }
    }
}

fn tagged(tag: u8, rest: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(rest.len() + 1);
    bytes.put_u8(tag);
    bytes.put_slice(rest);
    bytes.freeze()
}

/// A response that is encoded behind its tag, without being copied.
pub(crate) fn encode_response<T: serde::Serialize>(response: &T) -> Result<Bytes, postcard::Error> {
    postcard::to_extend(response, vec![RESPONSE]).map(Bytes::from)
}
