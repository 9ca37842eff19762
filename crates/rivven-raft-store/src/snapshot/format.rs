//! The bytes of a snapshot file: header, chunks, end. `docs/formats/disk.md` has the layout.

use std::{
    io::{self, ErrorKind, Read, Write},
    path::Path,
};

use openraft::{RaftTypeConfig, type_config::alias::SnapshotMetaOf};
use rivven_types::ClusterId;

use super::error::SnapshotError;
use crate::codec::{CodecError, EntryCodec, FieldReader, put_bytes};

const MAGIC: [u8; 8] = *b"RVNSNAP\0";

/// Version of the files that this build writes. 0 is unstable: the next release may refuse it.
pub(super) const SNAPSHOT_VERSION: u32 = 0;

/// Magic, version, length and checksum of the header.
const PREFIX_BYTES: usize = 8 + 4 + 4 + 4;

/// Largest header; a membership of 10,000 nodes has about half of this.
const MAX_HEADER_BYTES: u32 = 1 << 20;

/// Content bytes per chunk: what is read, checked and held in memory at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Length and checksum of a chunk.
const CHUNK_PREFIX_BYTES: usize = 4 + 4;

/// Number of chunks and bytes of content, behind the empty chunk that ends the file.
const END_BYTES: usize = 8 + 8;

/// Why a file is not a usable snapshot.
#[derive(Debug)]
pub(super) enum FormatError {
    Io(io::Error),
    Damaged(String),
    Newer { what: &'static str, found: u64 },
}

impl FormatError {
    /// The same, about the file at `path`.
    pub(super) fn of(self, path: &Path) -> SnapshotError {
        let path = path.to_path_buf();
        match self {
            Self::Io(source) => SnapshotError::Io { path, source },
            Self::Damaged(detail) => SnapshotError::Damaged { path, detail },
            Self::Newer { what, found } => SnapshotError::NewerFormat { path, what, found },
        }
    }
}

impl From<io::Error> for FormatError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::Damaged("the file ends too early".into()),
            ErrorKind::InvalidData => Self::Damaged(error.to_string()),
            _ => Self::Io(error),
        }
    }
}

impl From<CodecError> for FormatError {
    /// The header is decoded once its checksum holds, so an unknown value in it is not rot: a newer release
    /// wrote it.
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::Unknown { what, value } => Self::Newer { what, found: value },
            other => Self::Damaged(format!("its header: {other}")),
        }
    }
}

/// What a snapshot says about itself.
pub(super) struct Header<C: RaftTypeConfig> {
    pub(super) cluster: ClusterId,
    pub(super) meta: SnapshotMetaOf<C>,
    /// Bytes before the first chunk.
    pub(super) len: u64,
}

impl<C: RaftTypeConfig> Header<C> {
    /// The first bytes of a file.
    pub(super) fn encode<K: EntryCodec<C>>(
        cluster: ClusterId,
        meta: &SnapshotMetaOf<C>,
    ) -> Result<Vec<u8>, CodecError> {
        let mut header = cluster.to_bytes().to_vec();
        let mut field = Vec::new();
        if let Some(id) = &meta.last_log_id {
            K::encode_log_id(id, &mut field);
        }
        put_bytes(&mut header, &field);
        field.clear();
        K::encode_membership(&meta.last_membership, &mut field)?;
        put_bytes(&mut header, &field);
        let len = u32::try_from(header.len())
            .ok()
            .filter(|len| *len <= MAX_HEADER_BYTES)
            .ok_or_else(|| CodecError::invalid("the membership exceeds 1 MiB"))?;

        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&header_checksum(SNAPSHOT_VERSION, &header).to_le_bytes());
        out.extend_from_slice(&header);
        Ok(out)
    }

    /// Reads the header; the chunks follow.
    pub(super) fn read<K: EntryCodec<C>>(input: &mut impl Read) -> Result<Self, FormatError> {
        let mut prefix = [0; PREFIX_BYTES];
        input.read_exact(&mut prefix)?;
        let mut fields = FieldReader::new(&prefix);
        if fields.array()? != MAGIC {
            return Err(FormatError::Damaged(
                "it does not begin as a snapshot does".into(),
            ));
        }
        let (version, len, sum) = (fields.u32()?, fields.u32()?, fields.u32()?);
        if len > MAX_HEADER_BYTES {
            return Err(FormatError::Damaged(format!("its header claims {len} bytes")));
        }
        let mut header = Vec::new();
        input.take(len.into()).read_to_end(&mut header)?;
        if header_checksum(version, &header) != sum {
            return Err(FormatError::Damaged(
                "the checksum of its header does not match".into(),
            ));
        }
        if version > SNAPSHOT_VERSION {
            return Err(FormatError::Newer {
                what: "format version",
                found: version.into(),
            });
        }
        let mut fields = FieldReader::new(&header);
        let cluster = ClusterId::from_bytes(fields.array()?);
        let last_log_id = match fields.bytes()? {
            [] => None,
            id => Some(K::decode_log_id(id)?),
        };
        let last_membership = K::decode_membership(fields.bytes()?)?;
        fields.finish()?;
        let meta = SnapshotMetaOf::<C> {
            last_log_id,
            last_membership,
        };
        let len = PREFIX_BYTES as u64 + u64::from(len);
        Ok(Self { cluster, meta, len })
    }
}

/// Writes a snapshot of `cluster` to `out` as it stands in a file, with what `write` writes as its content.
///
/// For snapshots that are kept elsewhere than in a [`SnapshotStore`](super::SnapshotStore). Holds one chunk
/// in memory at a time.
///
/// # Errors
/// Those of `out` and of `write`, and a membership that is too large for a header.
pub fn write_snapshot<C: RaftTypeConfig, K: EntryCodec<C>>(
    cluster: ClusterId,
    meta: &SnapshotMetaOf<C>,
    mut out: impl Write,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let header = Header::<C>::encode::<K>(cluster, meta).map_err(io::Error::other)?;
    out.write_all(&header)?;
    let mut content = ChunkWriter::new(out);
    write(&mut content)?;
    content.finish()?.flush()
}

fn header_checksum(version: u32, header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&version.to_le_bytes()), header)
}

/// Covers the number of the chunk too, so that chunks that changed places are damage.
fn chunk_checksum(number: u64, data: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), data)
}

/// The part at the front of `input` that is whole: its bytes, and the header if that is there.
///
/// Ends behind the header, behind a chunk, or behind the end of the snapshot. Whatever follows is cut off,
/// damaged or unreadable, and is received again.
pub(super) fn whole_prefix<C: RaftTypeConfig, K: EntryCodec<C>>(
    input: &mut impl Read,
) -> Option<(Header<C>, u64)> {
    let header = Header::<C>::read::<K>(input).ok()?;
    let mut whole = header.len;
    let mut chunks = ChunkReader::new(input);
    while !chunks.ended && chunks.next_chunk().is_ok() {
        let len = if chunks.ended {
            END_BYTES
        } else {
            chunks.chunk.len()
        };
        whole = whole.saturating_add((CHUNK_PREFIX_BYTES + len) as u64);
    }
    Some((header, whole))
}

/// Writes content as chunks. Nothing is complete before [`ChunkWriter::finish`].
pub(super) struct ChunkWriter<W> {
    out: W,
    chunk: Vec<u8>,
    chunks: u64,
    content: u64,
}

impl<W: Write> ChunkWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            chunk: Vec::with_capacity(CHUNK_BYTES),
            chunks: 0,
            content: 0,
        }
    }

    /// Writes the last chunk and the end.
    pub(super) fn finish(mut self) -> io::Result<W> {
        if !self.chunk.is_empty() {
            self.write_chunk()?;
        }
        let mut end = self.chunks.to_le_bytes().to_vec();
        end.extend_from_slice(&self.content.to_le_bytes());
        self.out.write_all(&0_u32.to_le_bytes())?;
        self.out
            .write_all(&chunk_checksum(self.chunks, &end).to_le_bytes())?;
        self.out.write_all(&end)?;
        Ok(self.out)
    }

    fn write_chunk(&mut self) -> io::Result<()> {
        let len = u32::try_from(self.chunk.len()).map_err(io::Error::other)?;
        self.out.write_all(&len.to_le_bytes())?;
        self.out
            .write_all(&chunk_checksum(self.chunks, &self.chunk).to_le_bytes())?;
        self.out.write_all(&self.chunk)?;
        self.chunks += 1;
        self.content += u64::from(len);
        self.chunk.clear();
        Ok(())
    }
}

impl<W: Write> Write for ChunkWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES.saturating_sub(self.chunk.len());
        let (taken, _) = data.split_at_checked(room).unwrap_or((data, &[]));
        self.chunk.extend_from_slice(taken);
        if self.chunk.len() == CHUNK_BYTES {
            self.write_chunk()?;
        }
        Ok(taken.len())
    }

    /// Does nothing: a short chunk is written at the end alone.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts and sums up what is read through it.
pub(super) struct Summed<R> {
    input: R,
    pub(super) len: u64,
    pub(super) checksum: u32,
}

impl<R: Read> Summed<R> {
    pub(super) const fn new(input: R) -> Self {
        Self {
            input,
            len: 0,
            checksum: 0,
        }
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(out)?;
        self.len = self.len.saturating_add(read as u64);
        self.checksum = crc32c::crc32c_append(self.checksum, out.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// Reads content from chunks; every byte it hands out has been checked.
///
/// The end is reached only through the end record, with the right counts and nothing behind it; so a
/// reader that has read to the end has verified the whole file.
pub(super) struct ChunkReader<R> {
    input: R,
    chunk: Vec<u8>,
    /// What has been handed out of the chunk.
    taken: usize,
    chunks: u64,
    content: u64,
    ended: bool,
}

impl<R: Read> ChunkReader<R> {
    /// A reader behind the header.
    pub(super) const fn new(input: R) -> Self {
        Self {
            input,
            chunk: Vec::new(),
            taken: 0,
            chunks: 0,
            content: 0,
            ended: false,
        }
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        let mut prefix = [0; CHUNK_PREFIX_BYTES];
        self.input.read_exact(&mut prefix)?;
        let mut fields = FieldReader::new(&prefix);
        let (len, sum) = (fields.u32().map_err(damaged)?, fields.u32().map_err(damaged)?);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > CHUNK_BYTES {
            return Err(damaged(format!("chunk {} claims {len} bytes", self.chunks)));
        }
        self.chunk.resize(if len == 0 { END_BYTES } else { len }, 0);
        self.taken = 0;
        self.input.read_exact(&mut self.chunk)?;
        if chunk_checksum(self.chunks, &self.chunk) != sum {
            return Err(damaged(format!(
                "the checksum of chunk {} does not match",
                self.chunks
            )));
        }
        if len == 0 {
            return self.check_end();
        }
        self.chunks += 1;
        self.content = self.content.saturating_add(len as u64);
        Ok(())
    }

    fn check_end(&mut self) -> io::Result<()> {
        let mut end = FieldReader::new(&self.chunk);
        let counts = (end.u64().map_err(damaged)?, end.u64().map_err(damaged)?);
        if counts != (self.chunks, self.content) {
            return Err(damaged("its chunks are not as many as its end says"));
        }
        if self.input.read(&mut [0])? != 0 {
            return Err(damaged("there are bytes behind its end"));
        }
        self.chunk.clear();
        self.ended = true;
        Ok(())
    }
}

impl<R: Read> Read for ChunkReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        while self.taken == self.chunk.len() && !self.ended {
            self.next_chunk()?;
        }
        let mut rest = self.chunk.get(self.taken..).unwrap_or_default();
        let read = rest.read(out)?;
        self.taken += read;
        Ok(read)
    }
}

fn damaged(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, cause)
}
