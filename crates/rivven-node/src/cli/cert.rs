//! `rivven-node cert`: making certificates.

use std::path::Path;

use rivven_cluster::NodeId;
use rivven_transport::{
    KeyKind,
    identity::{
        CA_KEY_FILE, CERT_FILE, Issued, SanTemplate, issue_node_with, node_dir_name, write_cluster_with,
    },
};

use super::{Failure, Output};

/// Makes a new cluster's certificates and keys below `dir`.
pub(crate) fn init(
    nodes: &[NodeId],
    dir: &Path,
    (template, kind): (&SanTemplate, KeyKind),
    out: &mut Output,
) -> Result<(), Failure> {
    let cluster = write_cluster_with(dir, nodes, template, kind)?;
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

/// Issues a certificate for `node` of the cluster whose authority lies in `ca`.
pub(crate) fn issue(
    ca: &Path,
    node: NodeId,
    template: &SanTemplate,
    out: &mut Output,
) -> Result<(), Failure> {
    let dir = ca.join(node_dir_name(node));
    match issue_node_with(ca, node, template)? {
        Issued::Renewed => out.line(format_args!(
            "node {node}: replace its {CERT_FILE} with {}; a running node takes it over by itself",
            dir.join(CERT_FILE).display()
        )),
        Issued::Added => out.line(format_args!(
            "node {node}: give it {} as --tls-dir, or copy it to <data_dir>/tls",
            dir.display()
        )),
    }
    Ok(())
}
