//! The embedding example of the README: one node of a cluster, inside another program.
use std::time::Duration;

use rivven_cluster::{Cluster, ClusterConfig, TopicSpec};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cluster = Cluster::start(ClusterConfig::from_yaml_file("node1.yaml")?).await?;
    cluster.wait_ready(Duration::from_secs(60)).await?;
    cluster
        .partitions()
        .create_topic("orders", TopicSpec::new(12).replication_factor(3))
        .await?;
    let leader = cluster.partitions().leader("orders", 0)?; // local; carries its leader epoch
    cluster.kv().put("orders/0", leader.node.to_string()).await?; // acknowledged once durable on a quorum
    cluster.shutdown().await;
    Ok(())
}
