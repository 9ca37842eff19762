//! Where a call belongs in a distributed trace.

use std::fmt;

/// Bytes of a trace context on the wire: trace id, span id, flags.
pub(crate) const TRACE_LEN: usize = 16 + 8 + 1;

/// Trace and span of a caller, as in the W3C recommendation "Trace Context", section 3.2.
///
/// Travels with a call whose [`CallCtx`](crate::CallCtx) has one, and reaches the handler in its
/// [`Caller`](crate::Caller). The transport neither makes nor samples traces: a caller that does not trace, or
/// has decided not to sample, sets none, and then not a byte is sent.
///
/// It is for services that a program registers beside those of rivven: whoever calls passes the context on with
/// [`CallCtx::with_trace`](crate::CallCtx::with_trace). The calls that rivven itself makes carry none, not those of
/// Raft, whose requests each hold the proposals of many, nor those of discovery, keys and joining.
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
    }

    #[test]
    fn ids_of_zeros_make_no_context() {
        assert_eq!(TraceContext::new([0; 16], [1; 8], 0), None);
        assert_eq!(TraceContext::new([1; 16], [0; 8], 0), None);
        assert_eq!(TraceContext::decode(&[0; TRACE_LEN]), None);
    }
}
