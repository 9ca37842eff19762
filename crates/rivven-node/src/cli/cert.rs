//! `rivven-node cert`: making certificates.

use std::path::Path;

use rivven_cluster::NodeId;
use rivven_transport::identity::{CA_KEY_FILE, node_dir_name, write_cluster};

use super::{Failure, Output};

/// Makes a new cluster's certificates and keys below `dir`.
pub(crate) fn init(nodes: &[NodeId], dir: &Path, out: &mut Output) -> Result<(), Failure> {
    let cluster = write_cluster(dir, nodes)?;
    out.line(format_args!("cluster {cluster}"));
    for node in nodes {
        let path = dir.join(node_dir_name(*node));
        out.line(format_args!(
            "node {node}: give it {} as --tls-dir, or copy it to <data_dir>/tls",
            path.display()
        ));
    }
    out.line(format_args!(
        "keep {} away from the nodes: whoever holds it can become any node",
        dir.join(CA_KEY_FILE).display()
    ));
    Ok(())
}
