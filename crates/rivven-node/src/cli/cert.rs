//! `rivven-node cert`: making certificates.

use std::path::Path;

use rivven_cluster::NodeId;
use rivven_transport::{
    KeyKind,
    identity::{
        CA_KEY_FILE, CERT_FILE, Issued, SanTemplate, Subject, issue_to, node_dir_name, subject_dir_name,
        write_cluster_with,
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

/// Issues a certificate for `holder` in the cluster whose authority lies in `ca`.
pub(crate) fn issue(
    ca: &Path,
    holder: Option<Subject>,
    template: &SanTemplate,
    out: &mut Output,
) -> Result<(), Failure> {
    let holder = holder.ok_or_else(|| {
        Failure::usage(
            "no-holder",
            "nobody is named; give --node, --client or --operator",
        )
    })?;
    let dir = ca.join(subject_dir_name(&holder));
    match issue_to(ca, &holder, template)? {
        Issued::Renewed => out.line(format_args!(
            "{holder}: replace its {CERT_FILE} with {}; whoever runs with it takes it over by itself",
            dir.join(CERT_FILE).display()
        )),
        Issued::Added if holder.is_member() => out.line(format_args!(
            "{holder}: give it {} as --tls-dir, or copy it to <data_dir>/tls",
            dir.display()
        )),
        Issued::Added => out.line(format_args!(
            "{holder}: give it {} as --tls-dir, as of `rivven-node kv`",
            dir.display()
        )),
    }
    Ok(())
}
