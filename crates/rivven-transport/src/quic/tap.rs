//! Noticing that a peer begins to listen: a packet of a version that nobody speaks, answered by who listens.
//!
//! QUIC repeats a packet that nobody answered after pauses that double (RFC 9002, section 6.2.1), so a handshake
//! begun with a peer that is not there yet may meet it only a pause after it is. Every QUIC server answers a
//! packet of an unknown version at once with those it speaks, and keeps nothing of it (RFC 9000, sections 5.2.2
//! and 6.1), so that can be asked often. The answer is believed only as far as one more handshake goes.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use bytes::{Buf, BufMut};
use rivven_crypto::random_bytes;
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

/// Smallest datagram that is answered (RFC 9000, section 14.1).
const LEN: usize = 1_200;

/// One of the versions reserved for being unknown (RFC 9000, section 15).
const VERSION: u32 = 0x1a3a_5a7a;

/// Bytes of each connection id.
const ID_LEN: u8 = 8;

/// Longest answer that is read; a server of 50 versions.
const MAX_ANSWER: usize = 256;

/// Random ids of one sequence of taps, which an answer must repeat.
#[derive(Clone, Copy)]
struct Ids([u8; 14]);

impl Ids {
    /// A packet with a long header whose source id ends with `number`.
    fn tap(self, number: u16) -> [u8; LEN] {
        let Self(random) = self;
        let (destination, source) = random.split_at(ID_LEN.into());
        let mut packet = [0; LEN];
        let mut out = &mut packet[..];
        // Long header and fixed bit; the rest belongs to the version.
        out.put_u8(0xc0);
        out.put_u32(VERSION);
        out.put_u8(ID_LEN);
        out.put_slice(destination);
        out.put_u8(ID_LEN);
        out.put_slice(source);
        out.put_u16(number);
        packet
    }

    /// Which tap `packet` answers, if it is a Version Negotiation packet (RFC 9000, section 17.2.1) to one.
    fn answered(self, mut packet: &[u8]) -> Option<u16> {
        let Self(random) = self;
        let (destination, source) = random.split_at(ID_LEN.into());
        let long = packet.try_get_u8().ok()? & 0x80 != 0;
        let negotiation = packet.try_get_u32().ok()? == 0;
        let mut same = |expected: &[u8]| Some(packet.split_off(..expected.len())? == expected);
        let to_source = same(&[ID_LEN])? && same(source)?;
        let number = packet.try_get_u16().ok()?;
        let mut same = |expected: &[u8]| Some(packet.split_off(..expected.len())? == expected);
        let from_destination = same(&[ID_LEN])? && same(destination)?;
        (long && negotiation && to_source && from_destination).then_some(number)
    }
}

/// Resolves when `remote` answers a tap, one each `interval`, although it did not answer the first one: it has begun
/// to listen. Never resolves otherwise.
///
/// Cancel safe; the caller bounds the time.
pub(super) async fn begins_to_listen(remote: SocketAddr, interval: Duration) {
    if taps(remote, interval).await.is_none() {
        std::future::pending().await
    }
}

/// `None` when there is no telling: without a socket, or when the first tap was answered.
async fn taps(remote: SocketAddr, interval: Duration) -> Option<()> {
    let any: SocketAddr = match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.ok()?;
    socket.connect(remote).await.ok()?;
    let ids = Ids(random_bytes().ok()?);
    let mut answer = [0; MAX_ANSWER];
    let mut next = Instant::now();
    for number in 0..=u16::MAX {
        // A port where nobody listens may make this fail as well as silently lost.
        let _ = socket.send(&ids.tap(number)).await;
        next += interval;
        loop {
            match timeout_at(next, socket.recv(&mut answer)).await {
                Ok(Ok(len)) => match ids.answered(answer.get(..len)?) {
                    // Also when the answer took longer than a tap: it was there all along.
                    Some(0) => return None,
                    Some(_) => return Some(()),
                    None => {}
                },
                // Nobody listens, says the network; it says so once for each tap.
                Ok(Err(_)) => {}
                Err(_) => break,
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDS: Ids = Ids([1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16]);

    fn answer(number: u8) -> Vec<u8> {
        let mut packet = vec![0xff, 0, 0, 0, 0, 8, 11, 12, 13, 14, 15, 16, 0, number, 8];
        packet.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        // Version 1.
        packet.extend([0, 0, 0, 1]);
        packet
    }

    #[test]
    fn golden_vector() {
        let packet = IDS.tap(0x0203);
        let head = [0xc0, 0x1a, 0x3a, 0x5a, 0x7a, 8, 1, 2, 3, 4, 5, 6, 7, 8, 8];
        assert_eq!(packet[..15], head);
        assert_eq!(packet[15..23], [11, 12, 13, 14, 15, 16, 2, 3]);
        assert_eq!(packet[23..], [0; LEN - 23]);
    }

    #[test]
    fn only_the_negotiation_of_versions_with_this_tap_is_an_answer() {
        assert_eq!(IDS.answered(&answer(7)), Some(7));
        for at in (0..23).filter(|at| ![12, 13].contains(at)) {
            let mut other = answer(7);
            other[at] ^= 0x80;
            assert_eq!(IDS.answered(&other), None, "byte {at}");
        }
        for len in 0..23 {
            assert_eq!(IDS.answered(&answer(7)[..len]), None, "{len} bytes");
        }
        assert_eq!(IDS.answered(&IDS.tap(7)), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            IDS.answered(&bytes);
        }
    }
}
