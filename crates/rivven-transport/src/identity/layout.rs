//! Where certificates and keys lie, and making them all at once.

use std::{collections::BTreeSet, fs, path::Path};

use rivven_crypto::{KeyKind, Provider, random_bytes};
use rivven_types::{ClusterId, NodeId};
use zeroize::Zeroizing;

use super::{
    BadNodes, CertificateAuthority, IdentityError, NodeIdentity, SanTemplate, Subject, read as read_file,
};
use crate::{datagram::GossipKey, secret_file};

/// The authority's certificate, in every node's directory.
pub const CA_FILE: &str = "ca.pem";

/// The authority's private key, beside the node directories; nodes do not need it.
pub const CA_KEY_FILE: &str = "ca.key";

/// The certificate of a node, a client or an operator.
pub const CERT_FILE: &str = "node.pem";

/// The private key to it.
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

/// Name of `subject`'s directory in the output of [`issue_to`]: its role, a hyphen, and its number or name.
#[must_use]
pub fn subject_dir_name(subject: &Subject) -> String {
    format!("{}-{}", subject.role(), subject.id())
}

/// Makes a new cluster: its authority, and certificate, key and gossip key for each node.
///
/// Writes `out/ca.pem`, `out/ca.key`, and `out/node-<id>/{ca.pem,node.pem,node.key,gossip.key}`, where
/// `out/node-<id>` is what that node's `tls_dir` holds. Keys have mode 600. Nothing is overwritten.
///
/// # Errors
/// [`IdentityError`]; `Exists` and `BadNodes` before anything is written.
pub fn write_cluster(out: &Path, nodes: &[NodeId]) -> Result<ClusterId, IdentityError> {
    write_cluster_with(out, nodes, &SanTemplate::default(), KeyKind::default())
}

/// [`write_cluster`] for a cluster whose names follow `template`, and whose authority and nodes have keys of a
/// kind.
///
/// # Errors
/// As [`write_cluster`].
pub fn write_cluster_with(
    out: &Path,
    nodes: &[NodeId],
    template: &SanTemplate,
    kind: KeyKind,
) -> Result<ClusterId, IdentityError> {
    check_nodes(nodes)?;
    let names = nodes.iter().map(|node| node_dir_name(*node));
    let targets = [CA_FILE, CA_KEY_FILE].map(str::to_owned).into_iter().chain(names);
    if let Some(path) = targets.map(|name| out.join(name)).find(|path| path.exists()) {
        return Err(IdentityError::Exists { path });
    }
    let cluster = ClusterId::from_random(random_bytes()?);
    let authority = CertificateAuthority::generate_of(cluster, kind)?;
    let authority = authority.with_template(template.clone());
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

/// What [`issue_node`] or [`issue_to`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issued {
    /// The holder had a key, and has a new certificate for it. Only `node.pem` changed.
    Renewed,
    /// The holder is new: its directory holds everything it needs.
    Added,
}

/// A certificate, valid for one year, for `node` of the cluster that [`write_cluster`] made in `out`.
///
/// A node whose directory is there keeps its key, and `node.pem` alone is replaced; for any other node the
/// directory is made, with the cluster's gossip key taken from one of the others.
///
/// # Errors
/// [`IdentityError`]: files missing or not fitting together, `BadNodes` for node 0, or not writable. An
/// existing certificate stays unless the new one is written whole.
pub fn issue_node(out: &Path, node: NodeId) -> Result<Issued, IdentityError> {
    issue_node_with(out, node, &SanTemplate::default())
}

/// [`issue_node`] for a cluster whose names follow `template`.
///
/// # Errors
/// As [`issue_node`]; `Malformed` when the certificate that is there follows another template.
pub fn issue_node_with(out: &Path, node: NodeId, template: &SanTemplate) -> Result<Issued, IdentityError> {
    issue_to(out, &Subject::Node(node), template)
}

/// [`issue_node_with`] for anybody, such as an operator or a client, whose directory holds no gossip key.
///
/// # Errors
/// As [`issue_node_with`].
pub fn issue_to(out: &Path, subject: &Subject, template: &SanTemplate) -> Result<Issued, IdentityError> {
    if subject.is_member() {
        check_nodes(&[subject.node()])?;
    }
    let read = |name: &str| read_file(&out.join(name), secret_file::read_text);
    let ca_pem = read(CA_FILE)?;
    let ca_key = read_file(&out.join(CA_KEY_FILE), secret_file::read_secret)?;
    let authority = CertificateAuthority::from_pem(&ca_pem, &ca_key)?.with_template(template.clone());
    let dir = out.join(subject_dir_name(subject));
    if dir.join(KEY_FILE).exists() {
        let identity = NodeIdentity::load_for_renewal(&dir, template, &Provider::default())?;
        let renewed = authority.renew(&identity)?;
        identity.with_certificate(&renewed)?;
        let path = dir.join(CERT_FILE);
        return match secret_file::replace_text(&path, &renewed) {
            Ok(()) => Ok(Issued::Renewed),
            Err(source) => Err(IdentityError::Unwritable { path, source }),
        };
    }
    let gossip = subject.is_member().then(|| any_gossip_key(out)).transpose()?;
    let issued = authority.issue_to(subject)?;
    create_dir(&dir)?;
    create(&dir, CA_FILE, &ca_pem, Visibility::Public)?;
    create(&dir, CERT_FILE, issued.cert_pem(), Visibility::Public)?;
    create(&dir, KEY_FILE, issued.key_pem(), Visibility::Secret)?;
    if let Some(gossip) = gossip {
        create(&dir, GOSSIP_KEY_FILE, &gossip, Visibility::Secret)?;
    }
    Ok(Issued::Added)
}

/// The cluster's gossip key, which lies in each node's directory.
fn any_gossip_key(out: &Path) -> Result<Zeroizing<String>, IdentityError> {
    let missing = || IdentityError::Missing {
        path: out.join("node-*").join(GOSSIP_KEY_FILE),
    };
    let entries = fs::read_dir(out).map_err(|source| IdentityError::Unreadable {
        path: out.to_path_buf(),
        source,
    })?;
    let found = entries
        .take(MAX_NODES)
        .flatten()
        .map(|entry| entry.path().join(GOSSIP_KEY_FILE))
        .find(|path| path.exists());
    read_file(&found.ok_or_else(missing)?, secret_file::read_secret)
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
