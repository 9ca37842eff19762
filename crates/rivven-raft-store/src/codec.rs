//! How entries, votes and memberships become bytes: [`EntryCodec`], and helpers to write one.

use std::error::Error;

use openraft::{
    RaftTypeConfig,
    type_config::alias::{EntryOf, LogIdOf, StoredMembershipOf, VoteOf},
};

/// Turns the Raft types of `C` into bytes and back, field by field.
///
/// An implementation is a unit type; nothing is ever constructed. It should write its fields itself (see
/// [`put_u64`], [`put_bytes`], [`FieldReader`]) and keep a version byte in whatever may grow, because these
/// bytes outlive every release. The store wraps them in an envelope of its own with a format version and a
/// CRC32C, so a codec need not detect damage. It must still treat its input as untrusted: no panic, no
/// allocation larger than the input justifies, and an error for bytes left over.
///
/// What `decode_x` returns for the output of `encode_x` must equal the original.
///
/// ```
/// use rivven_raft_store::{CodecError, FieldReader, put_bytes, put_u64};
///
/// // The heart of a codec for a vote of (term, node, committed):
/// fn encode(term: u64, node: u64, committed: bool, out: &mut Vec<u8>) {
///     put_u64(out, term);
///     put_u64(out, node);
///     out.push(u8::from(committed));
/// }
/// fn decode(bytes: &[u8]) -> Result<(u64, u64, bool), CodecError> {
///     let mut fields = FieldReader::new(bytes);
///     let vote = (fields.u64()?, fields.u64()?, fields.bool()?);
///     fields.finish()?;
///     Ok(vote)
/// }
/// let mut bytes = Vec::new();
/// encode(7, 1, true, &mut bytes);
/// assert_eq!(decode(&bytes)?, (7, 1, true));
/// # Ok::<(), CodecError>(())
/// ```
pub trait EntryCodec<C: RaftTypeConfig>: Send + Sync + 'static {
    /// Appends the entry **without its log id** to `out`: the payload, and which kind it is.
    ///
    /// The store writes the log id itself, so that it can tell ids without decoding payloads.
    ///
    /// # Errors
    /// The entry cannot be encoded. The append is refused and nothing is written.
    fn encode_entry(entry: &EntryOf<C>, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// The entry with this id, from what [`Self::encode_entry`] wrote.
    ///
    /// # Errors
    /// The bytes are not an entry.
    fn decode_entry(log_id: LogIdOf<C>, body: &[u8]) -> Result<EntryOf<C>, CodecError>;

    /// Appends a log id (leader id and index) to `out`. At most 64 KiB.
    fn encode_log_id(log_id: &LogIdOf<C>, out: &mut Vec<u8>);

    /// The log id, from what [`Self::encode_log_id`] wrote.
    ///
    /// # Errors
    /// The bytes are not a log id.
    fn decode_log_id(bytes: &[u8]) -> Result<LogIdOf<C>, CodecError>;

    /// Appends a vote to `out`.
    fn encode_vote(vote: &VoteOf<C>, out: &mut Vec<u8>);

    /// The vote, from what [`Self::encode_vote`] wrote.
    ///
    /// # Errors
    /// The bytes are not a vote.
    fn decode_vote(bytes: &[u8]) -> Result<VoteOf<C>, CodecError>;

    /// Appends a membership and the log id it was stored at to `out`; used in snapshot headers.
    ///
    /// # Errors
    /// The membership cannot be encoded. The snapshot is refused and nothing is kept of it.
    fn encode_membership(membership: &StoredMembershipOf<C>, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// The membership, from what [`Self::encode_membership`] wrote.
    ///
    /// # Errors
    /// The bytes are not a membership.
    fn decode_membership(bytes: &[u8]) -> Result<StoredMembershipOf<C>, CodecError>;
}

/// Why bytes could not be made of a value, or a value of bytes. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The bytes end before the value does. They are damaged or not of this kind.
    #[error("the bytes end before the value does")]
    Truncated,
    /// The value ends before the bytes do. They are damaged or of a newer version.
    #[error("{0} bytes are left over after the value")]
    TrailingBytes(usize),
    /// A version, kind or flag that this build does not know. Use the release that wrote it, or a newer one.
    #[error("unknown {what} {value}; a newer release may have written it")]
    Unknown {
        /// What kind of field it is.
        what: &'static str,
        /// The value found.
        value: u64,
    },
    /// A rule of the value itself is broken; the source says which.
    #[error("invalid value: {0}")]
    Invalid(#[source] Box<dyn Error + Send + Sync>),
}

impl CodecError {
    /// A broken rule, from the error that noticed it or from a text.
    pub fn invalid(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Invalid(cause.into())
    }

    /// Stable code in kebab case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::TrailingBytes(_) => "trailing-bytes",
            Self::Unknown { .. } => "unknown-kind",
            Self::Invalid(_) => "invalid-value",
        }
    }
}

/// Appends eight bytes, little endian.
pub fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a length as [`put_u64`] does, then the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads fields off the front of a slice. Never panics and never allocates.
#[derive(Clone, Debug)]
pub struct FieldReader<'a> {
    rest: &'a [u8],
}

impl<'a> FieldReader<'a> {
    /// A reader at the first byte.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// A reader behind the first byte, which is `version`.
    ///
    /// # Errors
    /// [`CodecError::Unknown`] for another first byte, [`CodecError::Truncated`] for no bytes at all.
    pub fn versioned(bytes: &'a [u8], version: u8) -> Result<Self, CodecError> {
        let mut fields = Self::new(bytes);
        match fields.u8()? {
            found if found == version => Ok(fields),
            other => Err(CodecError::Unknown {
                what: "codec version",
                value: other.into(),
            }),
        }
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] if fewer are left.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], CodecError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] if fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] if none is left.
    pub fn u8(&mut self) -> Result<u8, CodecError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes, little endian.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] if fewer are left.
    pub fn u16(&mut self) -> Result<u16, CodecError> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes, little endian.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] if fewer are left.
    pub fn u32(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_le_bytes)
    }

    /// What [`put_u64`] wrote.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] if fewer than eight bytes are left.
    pub fn u64(&mut self) -> Result<u64, CodecError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A byte that is 0 or 1.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] at the end, [`CodecError::Unknown`] for any other byte.
    pub fn bool(&mut self) -> Result<bool, CodecError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(CodecError::Unknown {
                what: "flag",
                value: other.into(),
            }),
        }
    }

    /// What [`put_bytes`] wrote.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] if the length exceeds what is left.
    pub fn bytes(&mut self) -> Result<&'a [u8], CodecError> {
        let len = usize::try_from(self.u64()?).map_err(|_| CodecError::Truncated)?;
        self.take(len)
    }

    /// What has not been read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`CodecError::TrailingBytes`] if anything is left.
    pub const fn finish(self) -> Result<(), CodecError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(CodecError::TrailingBytes(left)),
        }
    }
}
