//! The cluster forms and does what it is for.

use bytes::Bytes;
use rivven_node::{client::ReadLevel, harness::until};

use super::context::{Context, PARTITIONS, STEP_LIMIT};

/// Keys written through each node.
const KEYS_PER_NODE: u32 = 20;

pub(super) async fn run(context: &mut Context<'_>) -> anyhow::Result<()> {
    context.formed().await?;
    let (written, read) = write_and_read_everywhere(context).await?;
    let ids = context.harness.ids();
    let keys = ids.len() * usize::try_from(KEYS_PER_NODE)?;
    context.floor("writes", written, keys)?;
    context.floor("reads", read, keys * ids.len())?;
    context.create_topic().await?;
    agree_on_assignments(context).await?;
    see_each_other(context).await?;
    context.harness.stop_all().await
}

/// Every node takes writes, and every write is seen by a linearizable read at any node at once.
async fn write_and_read_everywhere(context: &Context<'_>) -> anyhow::Result<(usize, usize)> {
    let (mut written, mut read) = (0, 0);
    let harness = &context.harness;
    for writer in harness.ids() {
        let mut through = harness.client(writer)?;
        for number in 0..KEYS_PER_NODE {
            let key = format!("smoke/{writer}/{number}");
            let value = Bytes::from(format!("written through {writer}"));
            let revision = through.put(&key, value.clone()).await?.revision;
            written += 1;
            for reader in harness.ids() {
                let found = harness.client(reader)?.get(&key, ReadLevel::Linearizable).await?;
                let found = found.map(|found| (found.value, found.revision));
                anyhow::ensure!(
                    found.as_ref() == Some(&(value.clone(), revision)),
                    "{key} written through node {writer} at revision {revision} reads as {found:?} on node {reader}"
                );
                read += 1;
            }
        }
    }
    Ok((written, read))
}

async fn agree_on_assignments(context: &mut Context<'_>) -> anyhow::Result<()> {
    let harness = &context.harness;
    let agreed = until("every node shows the same assignments", STEP_LIMIT, || async {
        let mut seen = Vec::new();
        for id in harness.ids() {
            let mut client = harness.client(id).map_err(|e| e.to_string())?;
            seen.push(client.assignments().await.map_err(|e| e.to_string())?);
        }
        let generations: Vec<u64> = seen.iter().map(|assignments| assignments.generation).collect();
        let alike = seen.windows(2).all(|pair| pair.first() == pair.last());
        seen.pop()
            .filter(|_| alike)
            .ok_or_else(|| format!("they are at generations {generations:?}"))
    });
    let agreed = agreed.await?;
    let led = agreed
        .partitions
        .iter()
        .filter(|partition| partition.leader.is_some())
        .count();
    for partition in &agreed.partitions {
        let mut replicas = partition.replicas.clone();
        replicas.sort_unstable();
        replicas.dedup();
        anyhow::ensure!(
            replicas.len() == 3,
            "partition {} has replicas {replicas:?}",
            partition.partition
        );
    }
    context.floor("partitions agreed", led, usize::try_from(PARTITIONS)?)
}

async fn see_each_other(context: &mut Context<'_>) -> anyhow::Result<()> {
    let harness = &context.harness;
    let expected = harness.ids().len();
    until("every node sees every other alive", STEP_LIMIT, || async {
        for id in harness.ids() {
            let mut client = harness.client(id).map_err(|e| e.to_string())?;
            let members = client.members().await.map_err(|e| e.to_string())?.members;
            let alive = members.iter().filter(|member| member.state == "alive").count();
            if alive != expected {
                return Err(format!("node {id} sees {alive} of {expected}"));
            }
        }
        Ok(())
    })
    .await?;
    context.floor("members seen alive", expected, expected)
}
