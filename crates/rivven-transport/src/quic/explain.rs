//! What the end of a connection means, in words an operator can act on.

use std::{borrow::Cow, fmt};

use quinn::ConnectionError;

use super::{hello::close, refusals::Cause};

/// Longest text of a peer that is repeated in a message.
const MAX_QUOTE: usize = 200;

/// First of the QUIC error codes that carry a TLS alert (RFC 9001, section 4.8).
const CRYPTO_ERROR: u64 = 0x100;

/// The end of a connection, explained.
#[derive(Debug)]
pub(super) struct Explained {
    text: Cow<'static, str>,
    refusal: bool,
    cause: Cause,
    reason: &'static str,
}

impl Explained {
    /// Whether one side refused the other, rather than the network failing them.
    pub(super) const fn is_refusal(&self) -> bool {
        self.refusal
    }

    /// What the end of a connection before its hellos is counted as.
    pub(super) const fn reason(&self) -> &'static str {
        self.reason
    }

    /// What tells one refusal from another, beside the words.
    pub(super) const fn cause(&self) -> Cause {
        self.cause
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

pub(super) fn explain(error: &ConnectionError) -> Explained {
    let cause = match error {
        ConnectionError::TransportError(error) => Cause::Transport(error.code.into()),
        ConnectionError::ConnectionClosed(frame) => Cause::Transport(frame.error_code.into()),
        ConnectionError::ApplicationClosed(frame) => Cause::Theirs(frame.error_code.into_inner()),
        ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::VersionMismatch
        | ConnectionError::CidsExhausted => Cause::Ours(close::DONE.into()),
    };
    let reason = reason(error);
    let plain = |text: &'static str| Explained {
        text: text.into(),
        refusal: false,
        cause,
        reason,
    };
    match error {
        ConnectionError::TransportError(error) => match alert(u64::from(error.code)) {
            Some(_) => Explained {
                text: format!(
                    "this node refused the peer: {}; a peer's certificate must be issued by this cluster's \
                     authority and valid at this moment",
                    quote(&error.reason)
                )
                .into(),
                refusal: true,
                cause,
                reason,
            },
            None => Explained {
                text: format!("this node gave up: {}", quote(&error.reason)).into(),
                refusal: false,
                cause,
                reason,
            },
        },
        ConnectionError::ConnectionClosed(frame) => match alert(u64::from(frame.error_code)) {
            Some(alert) => Explained {
                text: format!("the peer refused this node: {}", describe(alert)).into(),
                refusal: true,
                cause,
                reason,
            },
            None => Explained {
                text: format!("the peer gave up: {}", quote_bytes(&frame.reason)).into(),
                refusal: false,
                cause,
                reason,
            },
        },
        ConnectionError::ApplicationClosed(frame) => match u32::try_from(frame.error_code.into_inner()) {
            Ok(close::DONE) => plain("the peer closed the connection"),
            Ok(close::SHUTDOWN) => plain("the peer is shutting down"),
            Ok(close::SILENT) => plain("the peer missed this node's answers to its pings"),
            Ok(close::SUPERSEDED) => plain("superseded by a newer connection"),
            Ok(_) | Err(_) => Explained {
                text: format!("the peer refused this node: {}", quote_bytes(&frame.reason)).into(),
                refusal: true,
                cause,
                reason,
            },
        },
        ConnectionError::Reset => plain("the peer has restarted"),
        ConnectionError::TimedOut => plain("the peer fell silent"),
        ConnectionError::LocallyClosed => plain("closed by this node"),
        ConnectionError::VersionMismatch => plain("the peer speaks another version of QUIC"),
        ConnectionError::CidsExhausted => plain("no connection ids are left"),
    }
}

/// One of a few words; the code and the text of a peer may be anything.
fn reason(error: &ConnectionError) -> &'static str {
    match error {
        ConnectionError::TransportError(error) => match alert(u64::from(error.code)) {
            Some(_) => "tls",
            None => "protocol",
        },
        ConnectionError::ConnectionClosed(frame) => match alert(u64::from(frame.error_code)) {
            Some(_) => "tls-by-peer",
            None => "protocol-by-peer",
        },
        ConnectionError::ApplicationClosed(_) => "closed-by-peer",
        ConnectionError::Reset => "reset",
        ConnectionError::TimedOut => "timeout",
        ConnectionError::LocallyClosed => "closed",
        ConnectionError::VersionMismatch => "quic-version",
        ConnectionError::CidsExhausted => "protocol",
    }
}

/// The TLS alert in a QUIC error code.
fn alert(code: u64) -> Option<u8> {
    u8::try_from(code.checked_sub(CRYPTO_ERROR)?).ok()
}

/// TLS alerts about certificates (RFC 8446, section 6.2).
fn describe(alert: u8) -> Cow<'static, str> {
    match alert {
        42 | 43 | 46 | 51 => {
            "it finds this node's certificate unusable; the two may belong to different clusters".into()
        }
        44 => "this node's certificate is revoked".into(),
        45 => "this node's certificate has expired or is not yet valid; check the peer's clock too".into(),
        48 => {
            "it does not know the authority of this node's certificate; the two belong to different clusters"
                .into()
        }
        116 => "it wants a certificate".into(),
        120 => "no common protocol version; run the same release on all nodes".into(),
        other => format!("TLS alert {other}").into(),
    }
}

fn quote_bytes(text: &[u8]) -> String {
    quote(&String::from_utf8_lossy(text))
}

/// A peer's text, short and without control characters, so that it cannot forge log lines.
fn quote(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_QUOTE)
        .collect()
}
