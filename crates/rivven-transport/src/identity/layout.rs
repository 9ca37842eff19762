//! Where certificates and keys lie, and making them all at once.

use std::{collections::BTreeSet, path::Path};

use rivven_crypto::random_bytes;
use rivven_types::{ClusterId, NodeId};

use super::{BadNodes, CertificateAuthority, IdentityError};
use crate::{datagram::GossipKey, secret_file};

/// The authority's certificate, in every node's directory.
pub const CA_FILE: &str = "ca.pem";

/// The authority's private key, beside the node directories; nodes do not need it.
pub const CA_KEY_FILE: &str = "ca.key";

/// The node's certificate.
pub const CERT_FILE: &str = "node.pem";

/// The node's private key.
pub const KEY_FILE: &str = "node.key";

/// The cluster's gossip key.
pub const GOSSIP_KEY_FILE: &str = "gossip.key";

/// Most nodes of a cluster.
const MAX_NODES: usize = 10_000;

/// Name of `node`'s directory in the output of [`write_cluster`].
#[must_use]
pub fn node_dir_name(node: NodeId) -> String {
    format!("node-{node}")
}

/// Makes a new cluster: its authority, and certificate, key and gossip key for each node.
///
/// Writes `out/ca.pem`, `out/ca.key`, and `out/node-<id>/{ca.pem,node.pem,node.key,gossip.key}`, where
/// `out/node-<id>` is what that node's `tls_dir` holds. Keys have mode 600. Nothing is overwritten.
///
/// # Errors
/// [`IdentityError`]; `Exists` and `BadNodes` before anything is written.
pub fn write_cluster(out: &Path, nodes: &[NodeId]) -> Result<ClusterId, IdentityError> {
    check_nodes(nodes)?;
    let names = nodes.iter().map(|node| node_dir_name(*node));
    let targets = [CA_FILE, CA_KEY_FILE].map(str::to_owned).into_iter().chain(names);
    if let Some(path) = targets.map(|name| out.join(name)).find(|path| path.exists()) {
        return Err(IdentityError::Exists { path });
    }
    let authority = CertificateAuthority::generate(ClusterId::from_random(random_bytes()?))?;
    let gossip = GossipKey::generate()?.to_text();
    create_dir(out)?;
    create(out, CA_KEY_FILE, &authority.key_pem(), Visibility::Secret)?;
    create(out, CA_FILE, authority.cert_pem(), Visibility::Public)?;
    for node in nodes {
        let dir = out.join(node_dir_name(*node));
        let issued = authority.issue(*node)?;
        create_dir(&dir)?;
        create(&dir, CA_FILE, authority.cert_pem(), Visibility::Public)?;
        create(&dir, CERT_FILE, issued.cert_pem(), Visibility::Public)?;
        create(&dir, KEY_FILE, issued.key_pem(), Visibility::Secret)?;
        create(&dir, GOSSIP_KEY_FILE, &gossip, Visibility::Secret)?;
    }
    Ok(authority.cluster())
}

fn check_nodes(nodes: &[NodeId]) -> Result<(), IdentityError> {
    let mut seen = BTreeSet::new();
    let cause = if nodes.is_empty() {
        BadNodes::None
    } else if nodes.len() > MAX_NODES {
        BadNodes::TooMany(nodes.len())
    } else if nodes.contains(&0) {
        BadNodes::Zero
    } else if let Some(twice) = nodes.iter().find(|node| !seen.insert(**node)) {
        BadNodes::Twice(*twice)
    } else {
        return Ok(());
    };
    Err(IdentityError::BadNodes { cause })
}

enum Visibility {
    Public,
    Secret,
}

fn create(dir: &Path, name: &str, text: &str, visibility: Visibility) -> Result<(), IdentityError> {
    let path = dir.join(name);
    let written = match visibility {
        Visibility::Public => secret_file::create_text(&path, text),
        Visibility::Secret => secret_file::create_secret(&path, text),
    };
    written.map_err(|source| IdentityError::Unwritable { path, source })
}

fn create_dir(path: &Path) -> Result<(), IdentityError> {
    secret_file::create_secret_dir(path).map_err(|source| IdentityError::Unwritable {
        path: path.to_path_buf(),
        source,
    })
}
