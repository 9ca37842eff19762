//! Where a call belongs in a distributed trace.

use std::{fmt, future::Future};

use futures_util::future::BoxFuture;
use rivven_types::NodeId;
use tracing::{Instrument as _, debug, info_span};

tokio::task_local! {
    /// See [`TraceContext::scope`].
    static CURRENT: TraceContext;
}

/// Trace flag: somebody records this trace.
const SAMPLED: u8 = 1;

/// Bytes of a trace context on the wire: trace id, span id, flags.
pub(crate) const TRACE_LEN: usize = 16 + 8 + 1;

/// Trace and span of a caller, as in the W3C recommendation "Trace Context", section 3.2.
///
/// Whatever is done inside [`Self::scope`] belongs to a trace: each call made there carries it to the peer if it is
/// sampled, and so do rivven's own calls that are made for one caller. A handler has it in its
/// [`Caller`](crate::Caller), runs inside its scope, and so passes it on with the calls that it makes in turn; its
/// log lines stand in a span `call` that names trace and parent. [`CallCtx::with_trace`](crate::CallCtx::with_trace)
/// sets the context of one call. A call outside any trace carries not a byte of this.
///
/// The transport neither makes nor samples traces, and depends on no library that does. A program that has one
/// makes a context of its span's ids for calls, and its span's parent of the context of a handler.
///
/// A message to a Raft leader may hold the proposals of many callers; it carries the context of the first that has
/// one. What the log then causes, from followers to snapshots, belongs to no caller, and carries none.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

impl TraceContext {
    /// The context of span `span_id` in trace `trace_id`. Bit 0 of `flags` says that the trace is sampled.
    ///
    /// `None` if one of the ids is all zeros, which the recommendation forbids.
    #[must_use]
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8], flags: u8) -> Option<Self> {
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self {
            trace_id,
            span_id,
            flags,
        })
    }

    /// The trace, the same for every call that follows from one request.
    #[must_use]
    pub const fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The caller's span: the parent of whatever span the handler opens.
    #[must_use]
    pub const fn span_id(&self) -> [u8; 8] {
        self.span_id
    }

    /// Trace flags; bit 0 is "sampled".
    #[must_use]
    pub const fn flags(&self) -> u8 {
        self.flags
    }

    /// Whether somebody records this trace.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The context that the header `traceparent` names ("Trace Context", section 3.2.2), of version 0 or later.
    ///
    /// `None` if it is malformed: the recommendation wants such a header to be ignored.
    #[must_use]
    pub fn from_traceparent(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let version = hex(parts.next()?)?;
        let trace = hex(parts.next()?)?;
        let span = hex(parts.next()?)?;
        let [flags] = hex(parts.next()?)?;
        match (version, parts.next()) {
            // Later versions may append to what is here, version 0 may not, and there is no version 255.
            ([0xff], _) | ([0], Some(_)) => None,
            _ => Self::new(trace, span, flags),
        }
    }

    /// Does `work` as a part of this trace, on whichever task it is polled. Tasks that it spawns are no part of it
    /// unless they have a scope of their own.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// The trace that the calling code is a part of: see [`Self::scope`].
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|trace| *trace).ok()
    }

    /// The same, if somebody records it.
    #[must_use]
    pub fn sampled() -> Option<Self> {
        Self::current().filter(Self::is_sampled)
    }

    /// Has `handler` do its work for a caller with this context.
    pub(crate) fn follow<T: 'static>(
        self,
        (method, peer): (&'static str, NodeId),
        handler: BoxFuture<'static, T>,
    ) -> BoxFuture<'static, T> {
        let trace_id = format_args!("{:032x}", u128::from_be_bytes(self.trace_id)).to_string();
        let parent_id = format_args!("{:016x}", u64::from_be_bytes(self.span_id)).to_string();
        let span = info_span!("call", method, peer, trace_id, parent_id);
        let work = async move {
            let answer = self.scope(handler).await;
            debug!("call handled");
            answer
        };
        Box::pin(work.instrument(span))
    }

    pub(crate) fn encode(&self) -> [u8; TRACE_LEN] {
        let mut bytes = [0; TRACE_LEN];
        let (ids, flags) = bytes.split_at_mut(TRACE_LEN - 1);
        let (trace, span) = ids.split_at_mut(16);
        trace.copy_from_slice(&self.trace_id);
        span.copy_from_slice(&self.span_id);
        flags.copy_from_slice(&[self.flags]);
        bytes
    }

    /// `None` for ids that the recommendation forbids: such a context is ignored, as it asks.
    pub(crate) fn decode(bytes: &[u8; TRACE_LEN]) -> Option<Self> {
        let (trace_id, rest) = bytes.split_first_chunk()?;
        let (span_id, flags) = rest.split_first_chunk()?;
        Self::new(*trace_id, *span_id, *flags.first()?)
    }
}

/// `text` as `N` bytes, of which each is two hexadecimal digits in lower case.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut digits = text.bytes().map(|digit| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    });
    for byte in &mut bytes {
        *byte = (digits.next()?? << 4) | digits.next()??;
    }
    digits.next().is_none().then_some(bytes)
}

/// As in the header `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trace = u128::from_be_bytes(self.trace_id);
        let span = u64::from_be_bytes(self.span_id);
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", self.flags)
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceContext({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_survives_the_wire_and_reads_as_a_traceparent() {
        let trace = TraceContext::new([0xab; 16], [1, 2, 3, 4, 5, 6, 7, 8], 1).unwrap();
        assert_eq!(TraceContext::decode(&trace.encode()), Some(trace));
        let text = "00-abababababababababababababababab-0102030405060708-01";
        assert_eq!(trace.to_string(), text);
        assert_eq!(TraceContext::from_traceparent(text), Some(trace));
    }

    #[test]
    fn a_traceparent_is_read_as_the_recommendation_says() {
        let good = "00-abababababababababababababababab-0102030405060708-01";
        let later = ["cc", &good[2..], "-what-comes-later"].concat();
        assert_eq!(
            TraceContext::from_traceparent(&later),
            TraceContext::from_traceparent(good)
        );
        for wrong in [
            "",
            "00",
            &good[..54],
            &[good, "-more"].concat(),
            &["ff", &good[2..]].concat(),
            &good.to_uppercase(),
            &good.replace("ab", "00"),
            &good.replace("0102030405060708", "0000000000000000"),
            &good.replace("-01", "-+1"),
        ] {
            assert_eq!(TraceContext::from_traceparent(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_scope_reaches_what_is_done_in_it_and_nothing_else() {
        let of = |flags| TraceContext::new([1; 16], [2; 8], flags).unwrap();
        assert_eq!(TraceContext::current(), None);
        let inner = async {
            assert_eq!(
                (TraceContext::current(), TraceContext::sampled()),
                (Some(of(0)), None)
            );
        };
        of(1)
            .scope(async {
                assert_eq!(TraceContext::sampled(), Some(of(1)));
                of(0).scope(inner).await;
                assert_eq!(TraceContext::current(), Some(of(1)));
            })
            .await;
        assert_eq!(TraceContext::current(), None);
    }

    #[test]
    fn ids_of_zeros_make_no_context() {
        assert_eq!(TraceContext::new([0; 16], [1; 8], 0), None);
        assert_eq!(TraceContext::new([1; 16], [0; 8], 0), None);
        assert_eq!(TraceContext::decode(&[0; TRACE_LEN]), None);
    }
}
