//! Nodes that do not belong here knock at the door.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rivven_cluster::{ClusterId, NodeId};
use rivven_node::harness::{NodeProcess, until};
use rivven_transport::identity::{
    CA_FILE, CA_KEY_FILE, CERT_FILE, CertificateAuthority, GOSSIP_KEY_FILE, KEY_FILE, NodeName, Validity,
    node_dir_name, write_cluster,
};

use super::context::{Context, STEP_LIMIT};

/// What both sides write when a connection is turned away.
const REFUSED: &str = "refused";
/// Id of a cluster that nobody founded.
const OTHER_CLUSTER: [u8; 16] = [0x5a; 16];
/// How long a forged certificate would be good for.
const FORGED_LIFE: Duration = Duration::from_secs(3600);

pub(super) async fn run(context: &mut Context<'_>) -> anyhow::Result<()> {
    context.formed().await?;
    let load = context.load("stranger")?;
    let node_id = context.harness.ids().last().copied().unwrap_or(0) + 1;
    let foreign = foreign_authority(context, node_id)?;
    turned_away(context, node_id, "foreign-authority", &foreign).await?;
    let other = other_cluster(context, node_id)?;
    turned_away(context, node_id, "other-cluster", &other).await?;
    context.floor("strangers refused", 2, 2)?;
    context.traffic(&load).await?;
    let history = load.stop().await?;
    context.verify(&history).await?;
    context.harness.stop_all().await
}

/// Starts a stranger with the identity in `tls_dir`, and waits until both sides have said that it is refused.
async fn turned_away(
    context: &mut Context<'_>,
    node_id: NodeId,
    name: &str,
    tls_dir: &Path,
) -> anyhow::Result<()> {
    let before = said_refused(context)?;
    let mut stranger = context.harness.outsider(node_id, name, tls_dir)?;
    stranger.start()?;
    let what = format!("{name} is refused and both sides say so");
    let refused = until(&what, STEP_LIMIT, || async {
        let ours = said_refused(context)
            .map_err(|e| e.to_string())?
            .saturating_sub(before);
        let theirs = count(&stranger);
        if ours > 0 && theirs > 0 {
            return Ok(());
        }
        Err(format!(
            "our nodes said it {ours} times, the stranger {theirs} times; its log: {}",
            stranger.log_text().unwrap_or_default()
        ))
    });
    refused.await?;
    anyhow::ensure!(stranger.is_running(), "{name} gave up instead of trying again");
    let ready = stranger.client().is_ready().await?;
    anyhow::ensure!(!ready, "{name} says it is ready");
    for id in context.harness.ids() {
        let members = context.harness.client(id)?.members().await?.members;
        let known = members
            .iter()
            .any(|member| member.node_id == node_id && member.state == "alive");
        anyhow::ensure!(!known, "node {id} counts {name} as a member");
        let status = context.harness.status(id).await?;
        let admitted = status.voters.contains(&node_id) || status.learners.contains(&node_id);
        anyhow::ensure!(!admitted, "node {id} lets {name} take part in Raft");
    }
    stranger.kill()?;
    Ok(())
}

/// How often the nodes of the cluster have refused somebody so far.
fn said_refused(context: &Context<'_>) -> anyhow::Result<usize> {
    let mut said = 0;
    for id in context.harness.ids() {
        said += count(context.harness.node(id)?);
    }
    Ok(said)
}

fn count(node: &NodeProcess) -> usize {
    node.log_text().unwrap_or_default().matches(REFUSED).count()
}

/// A node whose certificate another authority has signed, for a cluster of its own.
fn foreign_authority(context: &Context<'_>, node_id: NodeId) -> anyhow::Result<PathBuf> {
    let dir = context.harness.dir().join("foreign-tls");
    write_cluster(&dir, &[node_id])?;
    Ok(dir.join(node_dir_name(node_id)))
}

/// A node with a certificate of our authority, in the name of another cluster.
fn other_cluster(context: &Context<'_>, node_id: NodeId) -> anyhow::Result<PathBuf> {
    let ours = context.harness.dir().join("tls");
    let authority = CertificateAuthority::from_pem(
        &fs::read_to_string(ours.join(CA_FILE))?,
        &fs::read_to_string(ours.join(CA_KEY_FILE))?,
    )?;
    let cluster = ClusterId::from_random(OTHER_CLUSTER);
    let name = NodeName {
        cluster,
        node: node_id,
    };
    let issued = authority.issue_as(name, Validity::from_now(FORGED_LIFE))?;
    // The directory of a real member gives the file modes and the gossip key.
    let dir = context.harness.dir().join("other-cluster-tls");
    fs::create_dir(&dir)?;
    let member = ours.join(node_dir_name(1));
    for file in [CA_FILE, CERT_FILE, KEY_FILE, GOSSIP_KEY_FILE] {
        fs::copy(member.join(file), dir.join(file))?;
    }
    fs::write(dir.join(CERT_FILE), issued.cert_pem())?;
    fs::write(dir.join(KEY_FILE), issued.key_pem())?;
    Ok(dir)
}
