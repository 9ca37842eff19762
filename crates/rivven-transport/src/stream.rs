//! Bulk streams beside calls: one transfer of any size, held back by its receiver, resumed where it stopped.
//!
//! A transfer has three steps. The sender announces it with a small header; the receiver's handler answers
//! from which offset it wants to go on, or refuses; then bytes flow, and the receiver ends the transfer with
//! a receipt. At most [`MAX_WINDOW_BYTES`] are on their way, whatever the size of the whole, and no byte is
//! sent that the receiver's handler has not made room for. Bytes on the wire: `docs/formats/wire.md`.

mod error;
mod frame;
mod pipe;
mod send;
mod serve;
#[cfg(test)]
mod tests;
mod window;

use std::{future::Future, io, time::Duration};

use bytes::Bytes;
use rivven_types::NodeId;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::watch, time::Instant};

use crate::{CallError, Transport, identity::Roles};

pub use error::{Interruption, TransferError};
pub(crate) use frame::{Frame, LEN_BYTES, MAX_BODY_BYTES};
pub use pipe::TransferPipe;
pub(crate) use pipe::{Broken, FrameReader, FrameWriter};
pub(crate) use send::Slots;
pub(crate) use serve::{Gate, Handlers, receive};
pub use serve::{Incoming, Offered};

/// Most bytes of one chunk, and so the granularity in which a transfer resumes. A source may return more;
/// what it returns is cut into pieces of this size.
pub const MAX_CHUNK_BYTES: usize = 64 << 10;

/// Most bytes of a transfer that are on their way and not yet held by the receiver.
///
/// The window in use is usually far smaller: it follows what the path can carry without a queue.
pub const MAX_WINDOW_BYTES: u64 = 8 << 20;

/// Transfers from one node to another at a time. Further ones wait, and are refused as overloaded when they
/// have waited for as long as a transfer may stand still.
pub const MAX_TRANSFERS: usize = 4;

/// A kind of bulk stream that peers can send.
///
/// Header and receipt are [postcard](https://docs.rs/postcard); what flows between them is bytes. Numbers
/// are those of [`Method::ID`](crate::Method::ID), in a space of their own. Every transfer is of class
/// [`Bulk`](crate::Class::Bulk).
///
/// ```
/// # use std::{error::Error, io};
/// # use bytes::Bytes;
/// # use rivven_transport::{
/// #     BootEpoch, ClusterId, InstanceId, LocalIdentity, MemoryNetwork, Router, Transfer, TransferCtx,
/// # };
/// /// A file by its name; the receipt is its length.
/// struct File;
///
/// impl Transfer for File {
///     const ID: u16 = 0x8000;
///     const NAME: &'static str = "file";
///     const MAX_HEADER: usize = 256;
///     const MAX_RECEIPT: usize = 16;
///     type Header = String;
///     type Receipt = u64;
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn Error>> {
/// # let network = MemoryNetwork::new();
/// # let identity = |node| LocalIdentity {
/// #     cluster: ClusterId::from_bytes([1; 16]),
/// #     node,
/// #     instance: InstanceId::from_bytes([2; 16]),
/// #     boot_epoch: BootEpoch(1),
/// # };
/// let router = Router::new();
/// router.register_transfer::<File, _, _>(|_caller, name, offered| async move {
///     assert_eq!(name, "greeting");
///     // An earlier attempt has brought the first six bytes.
///     let mut held = b"hello ".to_vec();
///     let mut incoming = offered.accept_from(held.len() as u64).await;
///     while let Some(chunk) = incoming.chunk().await? {
///         held.extend_from_slice(&chunk);
///     }
///     assert_eq!(held, b"hello world");
///     Ok(incoming.offset())
/// });
/// # let one = network.join(identity(1), Router::new())?;
/// # let _two = network.join(identity(2), router)?;
/// let content = Bytes::from_static(b"hello world");
/// let rest_from = |offset: u64| {
///     // The offset is the receiver's word.
///     let rest = content.get(offset as usize..).map(Bytes::copy_from_slice);
///     async move { rest.ok_or_else(|| io::Error::other("the receiver holds more than there is")) }
/// };
/// let ctx = TransferCtx::new();
/// let taken = one.send_stream::<File, _, _>(2, &"greeting".into(), rest_from, ctx).await?;
/// assert_eq!(taken, 11);
/// # Ok(())
/// # }
/// ```
///
/// Chunks carry no checksum of their own. On QUIC every packet is authenticated, so damage on the way is
/// noticed there; what is damaged before or behind it, on a disk, only a checksum inside the payload finds.
pub trait Transfer: Send + Sync + 'static {
    /// Number on the wire; never reused for another meaning.
    const ID: u16;
    /// Name in logs and metrics.
    const NAME: &'static str;
    /// Most bytes of an encoded header, at most 64 KiB.
    const MAX_HEADER: usize;
    /// Most bytes of an encoded receipt, at most 64 KiB.
    const MAX_RECEIPT: usize;
    /// Who may send it, by the role in the sender's certificate; nodes alone unless said otherwise.
    const ROLES: Roles = Roles::NODE;
    /// What is announced: enough for the receiver to know a transfer that it holds a part of.
    type Header: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What the receiver says once it has acted on the whole.
    type Receipt: Serialize + DeserializeOwned + Send + Sync + 'static;
}

/// The constants of a [`Transfer`] as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferSpec {
    /// [`Transfer::ID`].
    pub id: u16,
    /// [`Transfer::NAME`].
    pub name: &'static str,
    /// [`Transfer::MAX_HEADER`].
    pub max_header: usize,
    /// [`Transfer::MAX_RECEIPT`].
    pub max_receipt: usize,
    /// [`Transfer::ROLES`].
    pub roles: Roles,
}

impl TransferSpec {
    /// The constants of `T`.
    ///
    /// A transfer whose limits do not fit the frames does not compile.
    #[must_use]
    pub const fn of<T: Transfer>() -> Self {
        const {
            assert!(T::MAX_HEADER <= MAX_BODY_BYTES, "MAX_HEADER is above 64 KiB");
            assert!(T::MAX_RECEIPT <= MAX_BODY_BYTES, "MAX_RECEIPT is above 64 KiB");
        }
        Self {
            id: T::ID,
            name: T::NAME,
            max_header: T::MAX_HEADER,
            max_receipt: T::MAX_RECEIPT,
            roles: T::ROLES,
        }
    }
}

/// What accompanies a transfer on the sending side.
#[derive(Clone, Debug)]
pub struct TransferCtx {
    idle: Duration,
    finish: Duration,
    deadline: Option<Instant>,
    progress: Option<watch::Sender<u64>>,
}

impl Default for TransferCtx {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(10),
            finish: Duration::from_secs(10),
            deadline: None,
            progress: None,
        }
    }
}

impl TransferCtx {
    /// A transfer that may take as long as it makes progress.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives up when nothing more has been taken by the receiver, or come from the source, for this long.
    /// Default 10 s. Also how long the connection and the first answer may take.
    #[must_use]
    pub const fn idle_timeout(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// How long the receiver may take for its receipt once it holds every byte. Default 10 s; a receiver
    /// that acts on the whole, as by restoring a snapshot, needs more.
    #[must_use]
    pub const fn finish_timeout(mut self, finish: Duration) -> Self {
        self.finish = finish;
        self
    }

    /// Gives up at `deadline` whatever the progress. Default: never.
    #[must_use]
    pub const fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Tells `progress` the offset up to which the receiver has taken the bytes, whenever it changes.
    #[must_use]
    pub fn progress(mut self, progress: watch::Sender<u64>) -> Self {
        self.progress = Some(progress);
        self
    }
}

impl Transport {
    /// Sends a bulk stream of kind `T` to another node `to` and waits for the receipt.
    ///
    /// The receiver says at which offset it wants to begin: zero, or where an earlier transfer of the same
    /// content was cut. `source` is asked for the bytes from there on, piece by piece; it may return as many
    /// as it likes (up to [`MAX_CHUNK_BYTES`] are best), and none at the end of the content.
    ///
    /// Cancel safety: dropping the future ends the transfer on both sides; a handler that waits for bytes is
    /// dropped.
    ///
    /// # Errors
    /// [`TransferError`]; its [`outcome`](TransferError::outcome) says whether the peer may have acted on
    /// the whole.
    pub async fn send_stream<T, S, F>(
        &self,
        to: NodeId,
        header: &T::Header,
        source: S,
        ctx: TransferCtx,
    ) -> Result<T::Receipt, TransferError>
    where
        T: Transfer,
        S: FnMut(u64) -> F + Send,
        F: Future<Output = io::Result<Bytes>> + Send,
    {
        let spec = TransferSpec::of::<T>();
        let not_sent = |cause| TransferError::NotBegun(CallError::NotSent { cause });
        if to == self.local().node {
            return Err(not_sent(format!("{}: a node sends nothing to itself", spec.name)));
        }
        let encoded = postcard::to_allocvec(header)
            .map_err(|error| not_sent(format!("{}: cannot encode: {error}", spec.name)))?;
        if encoded.len() > spec.max_header.min(MAX_BODY_BYTES) {
            let (len, limit) = (encoded.len(), spec.max_header);
            let cause = format!("{}: a header of {len} bytes, the limit is {limit}", spec.name);
            return Err(not_sent(cause));
        }
        let receipt = send::send(self, to, spec, encoded.into(), source, &ctx).await?;
        postcard::from_bytes(&receipt).map_err(|error| TransferError::MaybeExecuted {
            node: to,
            cause: format!("{}: the receipt is not understood: {error}", spec.name),
        })
    }
}
