//! A host and a port, kept as text until somebody dials.

use alloc::string::{String, ToString};
use core::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Longest host name that parses (RFC 1035, section 2.3.4).
const MAX_HOST_LEN: usize = 253;

/// Address of a peer: a host name or an IP address, and a port.
///
/// Parsing never asks DNS: names are looked up when a connection is made and again on every retry,
/// because the addresses behind a headless service change. `host:port`, `1.2.3.4:port` and
/// `[v6]:port` are accepted.
///
/// ```
/// use rivven_types::PeerAddr;
/// let addr: PeerAddr = "node2:9093".parse()?;
/// assert_eq!((addr.host(), addr.port()), ("node2", 9093));
/// # Ok::<(), rivven_types::ParsePeerAddrError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerAddr {
    host: String,
    port: u16,
}

/// Why a text is not a [`PeerAddr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParsePeerAddrError {
    /// There is no `:port` at the end.
    MissingPort,
    /// What follows the last colon is not a number from 0 to 65535.
    InvalidPort,
    /// The host is empty, longer than 253 bytes, or has a character that no host name has.
    InvalidHost,
    /// An IPv6 address must stand in brackets: `[::1]:9093`.
    UnbracketedIpv6,
}

impl fmt::Display for ParsePeerAddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MissingPort => "the port is missing; write host:port",
            Self::InvalidPort => "the port is not a number from 0 to 65535",
            Self::InvalidHost => "the host is not a host name or IP address",
            Self::UnbracketedIpv6 => "put the IPv6 address in brackets, as in [::1]:9093",
        })
    }
}

impl core::error::Error for ParsePeerAddrError {}

impl PeerAddr {
    /// The host name or IP address, an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0 only in an address to bind.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The socket address, if the host is an IP address and needs no look-up.
    #[must_use]
    pub fn as_socket_addr(&self) -> Option<SocketAddr> {
        self.host
            .parse::<IpAddr>()
            .ok()
            .map(|ip| SocketAddr::new(ip, self.port))
    }

    /// Whether this is `0.0.0.0` or `::`, which can be bound but not dialled.
    #[must_use]
    pub fn is_unspecified(&self) -> bool {
        self.as_socket_addr()
            .is_some_and(|addr| addr.ip().is_unspecified())
    }
}

impl From<SocketAddr> for PeerAddr {
    fn from(addr: SocketAddr) -> Self {
        Self {
            host: addr.ip().to_string(),
            port: addr.port(),
        }
    }
}

impl From<PeerAddr> for String {
    fn from(addr: PeerAddr) -> Self {
        addr.to_string()
    }
}

impl TryFrom<String> for PeerAddr {
    type Error = ParsePeerAddrError;

    fn try_from(text: String) -> Result<Self, ParsePeerAddrError> {
        text.parse()
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for PeerAddr {
    type Err = ParsePeerAddrError;

    fn from_str(text: &str) -> Result<Self, ParsePeerAddrError> {
        let (host, port) = text.rsplit_once(':').ok_or(ParsePeerAddrError::MissingPort)?;
        let bracketed = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
        let host = match bracketed {
            Some(inner) => inner
                .parse::<Ipv6Addr>()
                .map_err(|_| ParsePeerAddrError::InvalidHost)?
                .to_string(),
            None if host.contains(':') => return Err(ParsePeerAddrError::UnbracketedIpv6),
            None if is_host_name(host) => host.to_string(),
            None => return Err(ParsePeerAddrError::InvalidHost),
        };
        let port = port.parse().map_err(|_| ParsePeerAddrError::InvalidPort)?;
        Ok(Self { host, port })
    }
}

/// Letters, digits, hyphens, underscores and dots: what resolvers accept, a little wider than RFC 1123,
/// section 2.1, because container platforms use underscores.
fn is_host_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= MAX_HOST_LEN
        && host
            .split('.')
            .all(|label| !label.is_empty() && label.len() <= 63)
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_parse_and_print_alike() {
        for text in [
            "node2:9093",
            "0.0.0.0:7946",
            "[::1]:80",
            "a-b.c_d.svc.cluster.local:0",
        ] {
            let addr: PeerAddr = text.parse().unwrap();
            assert_eq!(addr.to_string(), text);
        }
        assert!("0.0.0.0:1".parse::<PeerAddr>().unwrap().is_unspecified());
        assert!("[::]:1".parse::<PeerAddr>().unwrap().is_unspecified());
        assert!(!"node2:1".parse::<PeerAddr>().unwrap().is_unspecified());
    }

    #[test]
    fn each_mistake_is_named() {
        let check = |text: &str, expected| assert_eq!(text.parse::<PeerAddr>(), Err(expected), "{text:?}");
        check("node2", ParsePeerAddrError::MissingPort);
        check("node2:x", ParsePeerAddrError::InvalidPort);
        check("node2:70000", ParsePeerAddrError::InvalidPort);
        check(":9093", ParsePeerAddrError::InvalidHost);
        check("no de:9093", ParsePeerAddrError::InvalidHost);
        check("[node2]:9093", ParsePeerAddrError::InvalidHost);
        check("::1:9093", ParsePeerAddrError::UnbracketedIpv6);
    }
}
