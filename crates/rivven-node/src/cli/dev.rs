//! `rivven-node run --dev`: a cluster of one on loopback that needs no files.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use rivven_cluster::{ClusterConfig, Profile};
use rivven_transport::identity::{node_dir_name, write_cluster};
use tempfile::TempDir;

use super::Failure;

/// Directory of the ephemeral certificate authority, in the data directory.
const DEV_TLS: &str = "dev-tls";

/// Node 1, reachable from this machine only, on the default ports.
pub(crate) fn config() -> ClusterConfig {
    let mut config = ClusterConfig::new(1);
    config.bind_address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), config.bind_address.port());
    config.profile = Profile::Local;
    config.partitioning.replication_factor = 1;
    config
}

/// Refuses what `--dev` is not for, and gives the node a directory and certificates if it has none.
///
/// The directory that is returned has to live as long as the node.
pub(crate) fn prepare(config: &mut ClusterConfig) -> Result<Option<TempDir>, Failure> {
    if !config.bind_address.ip().is_loopback() {
        let message = format!(
            "--dev serves loopback only, and cluster.bind_address is {}; use 127.0.0.1, or make \
             certificates with `rivven-node cert init` and leave --dev out",
            config.bind_address
        );
        return Err(Failure::usage("dev-not-loopback", message));
    }
    if !config.raft.peers.is_empty() {
        let message =
            "--dev runs a cluster of one, and cluster.raft.peers names others; leave one of them out";
        return Err(Failure::usage("dev-has-peers", message));
    }
    let temporary = match &config.data_dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("rivven-dev-").tempdir()?),
    };
    if let Some(dir) = &temporary {
        config.data_dir = Some(dir.path().join("data"));
    }
    if let (Some(data_dir), None) = (config.data_dir.clone(), &config.tls_dir) {
        let node_dir = tls_dir(&data_dir, config.node_id);
        if !node_dir.exists() {
            write_cluster(&data_dir.join(DEV_TLS), &[config.node_id])?;
        }
        config.tls_dir = Some(node_dir);
    }
    Ok(temporary)
}

fn tls_dir(data_dir: &Path, node_id: rivven_cluster::NodeId) -> std::path::PathBuf {
    data_dir.join(DEV_TLS).join(node_dir_name(node_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_keeps_its_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config();
        config.data_dir = Some(dir.path().join("data"));
        let first = {
            assert!(prepare(&mut config).unwrap().is_none());
            std::fs::read(config.tls_dir.take().unwrap().join("node.pem")).unwrap()
        };
        prepare(&mut config).unwrap();
        let again = std::fs::read(config.tls_dir.unwrap().join("node.pem")).unwrap();
        assert_eq!(first, again);
    }

    #[test]
    fn dev_is_refused_where_others_could_reach_it() {
        let mut public = config();
        public.bind_address = "0.0.0.0:9093".parse().unwrap();
        let text = prepare(&mut public).unwrap_err().to_string();
        assert!(text.starts_with("error[dev-not-loopback]"), "{text}");
        let mut with_peers = config();
        with_peers.raft.peers = vec!["node2:9093".parse().unwrap()];
        assert!(prepare(&mut with_peers).is_err());
    }
}
