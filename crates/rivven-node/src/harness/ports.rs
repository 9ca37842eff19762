//! Free ports on loopback that stay ours.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::Context as _;

/// Ports from here to [`LAST`] are used. They lie below the range from which Linux picks ports for
/// outgoing connections, so that none is taken while a killed node is away.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;
/// Ports per block; the first one of a block is its lock.
const BLOCK: u16 = 64;

/// A block of loopback ports, held until dropped.
///
/// The first port of the block is kept bound, so that two harnesses on one machine never share a block.
#[derive(Debug)]
pub(crate) struct Ports {
    _lock: TcpListener,
    next: u16,
    end: u16,
}

impl Ports {
    /// Takes a free block, looking from a place that differs between processes.
    pub(crate) fn reserve() -> anyhow::Result<Self> {
        let blocks = (LAST - FIRST) / BLOCK;
        let start = std::process::id() % u32::from(blocks);
        let start = u16::try_from(start).unwrap_or(0);
        for offset in 0..blocks {
            let first = FIRST + (start + offset) % blocks * BLOCK;
            if let Ok(lock) = TcpListener::bind((Ipv4Addr::LOCALHOST, first)) {
                return Ok(Self {
                    _lock: lock,
                    next: first + 1,
                    end: first + BLOCK,
                });
            }
        }
        anyhow::bail!("no free block of ports between {FIRST} and {LAST} on 127.0.0.1")
    }

    /// The next port of the block that is free for TCP and UDP.
    pub(crate) fn take(&mut self) -> anyhow::Result<SocketAddr> {
        while self.next < self.end {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.next));
            self.next += 1;
            if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
                return Ok(address);
            }
        }
        None.context("the block of ports is used up; start fewer nodes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_held_at_the_same_time_share_no_port() {
        let (mut one, mut two) = (Ports::reserve().unwrap(), Ports::reserve().unwrap());
        let ports: Vec<_> = (0..8)
            .flat_map(|_| [one.take().unwrap(), two.take().unwrap()])
            .collect();
        let mut distinct = ports.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), ports.len());
    }
}
