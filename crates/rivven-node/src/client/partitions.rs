//! Topics, nodes and rebalances through the admin API.

use bytes::Bytes;
use hyper::Method;
use rivven_admin::{
    AssignmentsBody, ChangeTopicBody, ChangedBody, CreateTopicBody, CreatedTopicBody, NodesBody, PlanBody,
    RebalanceBody, RingBody, TopicsBody,
};
use rivven_cluster::NodeId;

use super::{AdminClient, ClientError, encode};

impl AdminClient {
    /// The topics the node knows.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn topics(&mut self) -> Result<TopicsBody, ClientError> {
        self.get_json("/v1/topics").await
    }

    /// The assignment of every partition, as the node has applied it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn assignments(&mut self) -> Result<AssignmentsBody, ClientError> {
        self.get_json("/v1/assignments").await
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create_topic(&mut self, topic: &CreateTopicBody) -> Result<CreatedTopicBody, ClientError> {
        let body = encode(topic);
        self.json(Method::POST, "/v1/topics", body).await
    }

    /// The partitions of one topic.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn topic(&mut self, name: &str) -> Result<AssignmentsBody, ClientError> {
        self.get_json(&format!("/v1/topics/{name}")).await
    }

    /// Changes a topic.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn change_topic(
        &mut self,
        name: &str,
        change: &ChangeTopicBody,
    ) -> Result<ChangedBody, ClientError> {
        let body = encode(change);
        self.json(Method::PATCH, &format!("/v1/topics/{name}"), body)
            .await
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete_topic(&mut self, name: &str) -> Result<ChangedBody, ClientError> {
        self.json(Method::DELETE, &format!("/v1/topics/{name}"), Bytes::new())
            .await
    }

    /// The registered nodes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn nodes(&mut self) -> Result<NodesBody, ClientError> {
        self.get_json("/v1/nodes").await
    }

    /// The hash ring of the active nodes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ring(&mut self) -> Result<RingBody, ClientError> {
        self.get_json("/v1/ring").await
    }

    /// A picture of that ring, as SVG.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ring_svg(&mut self) -> Result<String, ClientError> {
        let answer = self.request(Method::GET, "/v1/ring.svg", Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Gives a node another weight, or with `None` that of its configuration.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_weight(
        &mut self,
        node: NodeId,
        percent: Option<u16>,
    ) -> Result<ChangedBody, ClientError> {
        let path = format!("/v1/nodes/{node}/weight");
        match percent {
            Some(percent) => {
                let path = format!("{path}?percent={percent}");
                self.json(Method::PUT, &path, Bytes::new()).await
            }
            None => self.json(Method::DELETE, &path, Bytes::new()).await,
        }
    }

    /// What a rebalance would do; `query` is that of the admin API, such as `exclude=3`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn plan(&mut self, query: &str) -> Result<PlanBody, ClientError> {
        self.get_json(&format!("/v1/rebalance/plan?{query}")).await
    }

    /// Plans likewise and begins.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn start_rebalance(&mut self, query: &str) -> Result<PlanBody, ClientError> {
        let path = format!("/v1/rebalance?{query}");
        self.json(Method::POST, &path, Bytes::new()).await
    }

    /// How far the rebalance under way is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn rebalance(&mut self) -> Result<RebalanceBody, ClientError> {
        self.get_json("/v1/rebalance").await
    }

    /// Has a rebalance do `pause`, `resume` or `cancel`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn control_rebalance(&mut self, id: u64, action: &str) -> Result<ChangedBody, ClientError> {
        let path = format!("/v1/rebalance/{id}/{action}");
        self.json(Method::POST, &path, Bytes::new()).await
    }
}
