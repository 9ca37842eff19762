//! Looking up names, again and again: the addresses behind a headless service change.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
    vec::Vec,
};

use rivven_transport::TaskGroup;
use rivven_types::PeerAddr;
use tracing::{debug, info, warn};

use super::Shared;
use crate::{Command, config::MAX_SEEDS};

/// Wait after the first failed look-up; doubles up to [`REFRESH`].
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// Wait after a look-up that succeeded.
const REFRESH: Duration = Duration::from_secs(15);

/// A resolver that answers later than this has not answered.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// What the known peers resolve to at the moment. A name that stops resolving keeps its last addresses.
type Table = Arc<Mutex<BTreeMap<usize, Vec<SocketAddr>>>>;

/// Where members may be, and where this one is.
pub(super) struct Known {
    /// As configured.
    pub(super) peers: Vec<PeerAddr>,
    /// From the file of peers.
    pub(super) remembered: Vec<SocketAddr>,
    /// What others are told.
    pub(super) advertise: Option<PeerAddr>,
}

/// Hands the machine the addresses of known peers, and the advertised one if that is a name.
pub(super) fn start(tasks: &TaskGroup, shared: &Arc<Shared>, known: Known, port: u16) {
    let Known {
        peers,
        remembered,
        advertise,
    } = known;
    let table = Table::default();
    let mut names = Vec::new();
    if !remembered.is_empty() {
        // Behind the configured ones, of which there are fewer than this.
        publish(shared, &table, usize::MAX, remembered);
    }
    for (index, peer) in peers.into_iter().enumerate() {
        match peer.as_socket_addr() {
            Some(addr) => publish(shared, &table, index, [addr].to_vec()),
            None => names.push((index, peer)),
        }
    }
    for (index, peer) in names {
        let (shared, table) = (Arc::clone(shared), Arc::clone(&table));
        tasks.spawn(keep_looking_up(peer, move |found| {
            publish(&shared, &table, index, found)
        }));
    }
    if let Some(name) = advertise.filter(|addr| addr.as_socket_addr().is_none()) {
        let shared = Arc::clone(shared);
        tasks.spawn(keep_looking_up(name, move |found| {
            if let Some(addr) = found.first() {
                shared.command(Command::Advertise(with_port(*addr, port)));
            }
        }));
    }
}

/// `addr`, with `port` if it has none.
pub(super) const fn with_port(mut addr: SocketAddr, port: u16) -> SocketAddr {
    if addr.port() == 0 {
        addr.set_port(port);
    }
    addr
}

fn publish(shared: &Shared, table: &Table, index: usize, found: Vec<SocketAddr>) {
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    table.insert(index, found);
    let mut seeds: Vec<_> = Vec::new();
    // The machine takes only so many: those of the first peers come first.
    for addr in table.values().flatten() {
        if !seeds.contains(addr) && seeds.len() < MAX_SEEDS {
            seeds.push(*addr);
        }
    }
    drop(table);
    shared.command(Command::Seeds(seeds));
}

/// Never gives up: a peer that does not resolve is one that has not started yet.
async fn keep_looking_up(peer: PeerAddr, mut found: impl FnMut(Vec<SocketAddr>)) {
    let mut retry = FIRST_RETRY;
    let mut failing = false;
    loop {
        match look_up(&peer).await {
            Ok(addrs) => {
                if failing {
                    info!(%peer, "peer name resolves");
                }
                failing = false;
                retry = FIRST_RETRY;
                found(addrs);
                tokio::time::sleep(REFRESH).await;
            }
            Err(error) => {
                if failing {
                    debug!(%peer, %error, "peer name still does not resolve");
                } else {
                    warn!(%peer, %error, "peer name does not resolve; retrying until it does");
                }
                failing = true;
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(REFRESH);
            }
        }
    }
}

async fn look_up(peer: &PeerAddr) -> io::Result<Vec<SocketAddr>> {
    let lookup = tokio::net::lookup_host((peer.host(), peer.port()));
    let mut addrs: Vec<_> = tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await??.collect();
    addrs.sort_unstable();
    addrs.dedup();
    if addrs.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addrs)
}
