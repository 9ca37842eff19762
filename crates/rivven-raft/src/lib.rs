//! Replicate a state machine: a Raft node that hides its consensus library.
//!
//! Give [`RaftNode`] a [`StateMachine`] and it keeps copies of it on several nodes, in the same order of
//! commands everywhere. [`KvStore`] is the state machine to start with.

mod adapter;
mod applied;
mod arrivals;
mod backup;
mod builder;
mod client;
mod clock;
mod codec;
mod config;
mod core;
mod courier;
mod divergence;
mod elections;
mod error;
mod expiry;
mod fabric;
mod features;
mod forward;
mod growth;
mod hint;
mod kv;
mod kv_watch;
mod launch;
mod lead;
mod log_disk;
mod machine;
mod membership;
mod network;
mod node;
mod offline;
mod promise;
mod propose;
mod read;
mod reception;
mod records;
mod repair;
mod rounds;
mod runtime;
mod service;
mod session;
mod shared_map;
mod shelf;
mod snapshot;
mod snapshot_keeper;
mod snapshot_rate;
mod stages;
mod status;
mod submit;
mod supervise;
mod system;
mod tick;
mod transfer;
mod types;
mod wire;

pub use backup::{Backup, BackupError};
pub use builder::RaftBuilder;
pub use client::{Client, ConnectError, KvClientWatch};
pub use config::RaftConfig;
pub use error::{FinalizeError, InitializeError, ProposeError, ReadError, StartError, TransferError};
pub use fabric::Fabric;
pub use features::{FeatureLevels, FeatureView};
pub use kv::{
    CompareTarget, Comparison, KeyRange, KvChanges, KvCommand, KvCompare, KvEntry, KvEvent, KvLease, KvOp,
    KvOpResult, KvPage, KvReadError, KvResponse, KvStore, KvTxn, LeaseId, Lifetime, MAX_DELETED_KEYS,
    MAX_HISTORY_BYTES, MAX_HISTORY_EVENTS, MAX_KEY_BYTES, MAX_LEASE_KEYS, MAX_LEASE_TTL_MS, MAX_LEASES,
    MAX_TXN_OPS, MAX_TXN_READ_BYTES, MAX_VALUE_BYTES, MIN_LEASE_TTL_MS,
};
pub use kv_watch::{KvUpdate, KvWatch, KvWatchError, WatchFrom};
pub use machine::{ApplyCtx, Refusal, StateMachine};
pub use membership::{
    DEFAULT_PRIORITY, JoinAs, JoinRequest, MAX_MEMBERS, MAX_MEMBERSHIP_EVENTS, MAX_PRIORITY, MemberChange,
    MemberChanged, MemberError, MemberHold, MemberInfo, MemberOptions, MemberRefusal, MemberRole,
    MemberStanding, MemberStep, MembershipEvent, MembershipEventKind, MembershipPlan, MembershipView,
    QuorumState, Replace, ask_to_join,
};
pub use node::RaftNode;
pub use offline::{
    BackupReport, DirCheck, LogCheck, LogPlace, MemberPlace, OfflineError, RecoveryPlan, RestoreAs,
    check_dir, plan_recovery, recover, restore_backup, verify_backup, verify_log,
};
pub use propose::{ProposalId, ProposeOptions};
pub use read::{Consistency, Read};
pub use session::Session;
pub use snapshot_rate::MIN_SNAPSHOT_RATE;
pub use status::{NoLeader, RaftStatus, RaftWatch, Role, StatusChange, StatusUpdate};

pub use system::{
    Digest, MAX_FEATURES, MAX_KEPT_REPLY_BYTES, MAX_REFOUNDINGS, MAX_SESSION_REPLY_BYTES, MAX_SESSION_TTL_MS,
    MAX_SESSIONS, MIN_SESSION_TTL_MS, REFOUNDING_GAP, RIVVEN_FEATURE, RIVVEN_LEVEL, Refounding,
    RefoundingCause, SESSION_WINDOW, SessionId,
};
pub use tick::TICK_INTERVAL;

pub use rivven_raft_store::{
    DiskPace, DiskStats, NodeDir, NodeDirError, PartialDir, SimulatedDisk, SnapshotError, StoreError,
};
pub use rivven_transport::{MemoryNetwork, Outcome, TaskGroup, identity::Role as CallerRole};
pub use rivven_types::{InstanceId, NodeId, PeerAddr};

/// Most bytes of one encoded command; larger ones are refused before they are proposed.
pub const MAX_COMMAND_BYTES: usize = 4 << 20;
