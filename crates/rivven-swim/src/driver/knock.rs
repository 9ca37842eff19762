//! Finding out whether a port is closed: a connected socket is told so, an unconnected one is not.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
    vec::Vec,
};

use rivven_transport::TaskGroup;
use rivven_types::NodeId;
use tokio::{net::UdpSocket, sync::Semaphore};
use tracing::debug;

use super::Shared;
use crate::Command;

/// How long a refusal may take. On one machine it comes within a tenth of a millisecond.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(250);

/// Most knocks at once. Further ones are left out.
const MAX_KNOCKS: usize = 16;

/// Sends single datagrams from connected sockets of their own.
#[derive(Clone, Debug)]
pub(super) struct Knocks(Arc<Semaphore>);

impl Knocks {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_KNOCKS)))
    }

    /// Sends `datagram` to `to`, and tells the machine if the system says that nobody listens there.
    pub(super) fn knock(
        &self,
        tasks: &TaskGroup,
        shared: &Arc<Shared>,
        (node, to): (NodeId, SocketAddr),
        datagram: Vec<u8>,
    ) {
        let Ok(place) = Arc::clone(&self.0).try_acquire_owned() else {
            return;
        };
        let shared = Arc::clone(shared);
        tasks.spawn(async move {
            let refused = tokio::time::timeout(REFUSAL_TIMEOUT, refuses(to, &datagram)).await;
            if matches!(refused, Ok(Ok(()))) {
                debug!(node, %to, "gossip port refuses datagrams");
                shared.command(Command::Refused(node));
            }
            drop(place);
        });
    }
}

/// Resolves once the system says that the port at `to` is closed; otherwise waits.
async fn refuses(to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
    let any: SocketAddr = if to.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    socket.send(datagram).await?;
    loop {
        // Whatever is sent here says nothing: only a refusal does.
        match socket.recv(&mut [0; 1]).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_refuses_and_an_open_one_does_not() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = socket.local_addr().unwrap();
        let open = tokio::time::timeout(Duration::from_millis(100), refuses(addr, b"knock")).await;
        assert!(open.is_err(), "{open:?}");
        drop(socket);
        let closed = tokio::time::timeout(Duration::from_secs(30), refuses(addr, b"knock")).await;
        assert!(closed.unwrap().is_ok());
    }
}
