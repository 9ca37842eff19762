//! The HTTP API of a cluster node, as a service to mount.

mod api;
mod error;
mod guard;
mod query;
mod route;
mod server;

pub use api::{
    APPLIED_INDEX_HEADER, AssignmentsBody, ChangedBody, CreateTopicBody, MemberBody, MembersBody,
    PartitionBody, REVISION_HEADER, StatusBody, TopicBody, TopicsBody, TransferBody,
};
pub use error::ErrorBody;
pub use guard::{AdminToken, TOKEN_BYTES};
pub use server::{BindError, bind_admin, bind_health};
