//! The process that answers: the transport, and both references beside it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::Result;
use rivven_transport::{QuicKeys, QuicTransport, TaskGroup, identity::NodeIdentity};
use tokio::{io::AsyncReadExt as _, net::TcpListener};

use super::{stream_per_request, tcp, wire};

/// Where the answering process finds its identity, and who it is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PeerArgs {
    /// Directory with certificate and keys.
    #[arg(long)]
    pub(super) tls: PathBuf,
    /// File of the QUIC keys that outlive a restart.
    #[arg(long)]
    pub(super) keys: PathBuf,
    /// Boot epoch.
    #[arg(long)]
    pub(super) epoch: u64,
    /// UDP port; 0 picks one.
    #[arg(long)]
    pub(super) port: u16,
}

/// Answers until its standard input ends; says first where.
pub(super) async fn main(args: &PeerArgs) -> Result<()> {
    let tasks = TaskGroup::current();
    let identity = NodeIdentity::load(&args.tls)?;
    let local = wire::local(&identity, args.epoch);
    let transport = QuicTransport::builder(identity, local)
        .bind(SocketAddr::from((Ipv4Addr::LOCALHOST, args.port)))
        .keys(QuicKeys::load_or_create(&args.keys)?)
        .router(wire::router())
        .start()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let raw = listener.local_addr()?;
    tasks.spawn(tcp::serve(listener, tasks.clone()));
    let quinn = stream_per_request::serve(&args.tls, &tasks)?;
    let port = transport.local_addr().map_or(0, |addr| addr.port());
    println!("{port} {} {}", raw.port(), quinn.port());
    let mut end = Vec::new();
    tokio::io::stdin().read_to_end(&mut end).await?;
    Ok(())
}
