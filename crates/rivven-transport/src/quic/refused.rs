//! Asking a peer's host whether anybody listens where the peer did.
//!
//! A process that is killed says nothing, and QUIC hears of it only by timeouts: its socket is not connected, so the
//! system does not tell it what the network says of its packets. A connected socket is told at once when the peer's
//! host refuses a packet (ICMP port unreachable; RFC 1122, section 4.1.3.3).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::UdpSocket, time::timeout};

/// What is sent. No QUIC endpoint answers a datagram as short as this, or keeps anything of it.
const KNOCK: &[u8] = &[0];

/// Whether the host of `remote` says within `patience` that nobody listens there. Silence is not a refusal.
pub(super) async fn refused(remote: SocketAddr, patience: Duration) -> bool {
    timeout(patience, knock(remote))
        .await
        .is_ok_and(|refused| refused)
}

async fn knock(remote: SocketAddr) -> bool {
    let any: SocketAddr = match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let told = async {
        let socket = UdpSocket::bind(any).await?;
        socket.connect(remote).await?;
        socket.send(KNOCK).await?;
        // Whatever is received, somebody sent it.
        socket.recv(&mut [0; 1]).await
    };
    told.await
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_without_a_listener_refuses_and_one_with_a_silent_one_does_not() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = socket.local_addr().unwrap();
        assert!(!refused(addr, Duration::from_millis(50)).await);
        drop(socket);
        assert!(refused(addr, Duration::from_secs(5)).await);
    }
}
