//! The HTTP API of a cluster node, as a service to mount.
//!
//! [`AdminService`] answers what operators and programs ask, [`HealthService`] what a kubelet and a scraper
//! ask. Both are [`hyper`] services: serve them with their `serve`, or mount them in a server of yours.
//! Bodies are JSON, described in [`StatusBody`] and its neighbours; errors are an [`ErrorBody`].

mod api;
mod base64;
mod error;
mod guard;
mod health;
mod metrics;
mod query;
mod route;
mod server;
mod service;

pub use api::{
    APPLIED_INDEX_HEADER, AssignmentsBody, ChangeTopicBody, ChangedBody, ChangesBody, ConfigureBody,
    CreateTopicBody, CreatedTopicBody, FeatureBody, FeaturesBody, FinalizedBody, GossipKeysBody,
    JoinTokenBody, KeyBody, KeyChangeBody, ListingBody, MakeJoinTokenBody, MemberBody, MemberChangedBody,
    MemberLevelBody, MemberPlanBody, MemberStepBody, MemberWaitBody, MembersBody, MembershipBody,
    MembershipMemberBody, NodeBody, NodesBody, PartitionBody, PlanBody, ProblemBody, QuorumBody,
    REVISION_HEADER, RebalanceBody, RebalanceStateBody, RefoundingBody, RefoundingsBody, RingBody,
    RingShareBody, SNAPSHOT_CHECKSUM_HEADER, SNAPSHOT_INDEX_HEADER, SessionBody, SettingBody, SettingsBody,
    StatusBody, TopicBody, TopicsBody, TransferBody, UncleanElectionBody, UncleanElectionsBody,
};
pub use error::ErrorBody;
pub use guard::{AdminToken, TOKEN_BYTES};
pub use health::HealthService;
pub use metrics::{MAX_SERIES, MetricsRecorder, RecorderInUse};
pub use server::{
    BODY_TIMEOUT, BindError, HEADER_TIMEOUT, HEALTH_HEADER_TIMEOUT, MAX_CONNECTIONS, MAX_HEADER_BYTES,
    MAX_HEADERS, STOP_GRACE, WRITE_TIMEOUT, bind_admin, bind_health,
};
pub use service::{AdminOptions, AdminService, MAX_BACKUPS, MAX_BODY_BYTES, MAX_WATCHES};
