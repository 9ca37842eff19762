//! A socket address in twenty bytes.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// As [`SocketAddr`] without flow label and scope, in two thirds of the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CompactAddr {
    ip: [u8; 16],
    port: u16,
    v6: bool,
}

impl From<SocketAddr> for CompactAddr {
    fn from(addr: SocketAddr) -> Self {
        let port = addr.port();
        match addr.ip() {
            IpAddr::V4(v4) => Self {
                ip: v4.to_ipv6_mapped().octets(),
                port,
                v6: false,
            },
            IpAddr::V6(v6) => Self {
                ip: v6.octets(),
                port,
                v6: true,
            },
        }
    }
}

impl From<CompactAddr> for SocketAddr {
    fn from(addr: CompactAddr) -> Self {
        let [.., a, b, c, d] = addr.ip;
        let ip = if addr.v6 {
            IpAddr::V6(Ipv6Addr::from(addr.ip))
        } else {
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        };
        Self::new(ip, addr.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_were() {
        for text in ["10.1.2.3:80", "[::1]:7946", "[::ffff:10.1.2.3]:80", "0.0.0.0:0"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(CompactAddr::from(addr)), addr);
        }
        assert!(size_of::<CompactAddr>() <= 20);
    }
}
