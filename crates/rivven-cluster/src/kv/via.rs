//! By what way the map is reached: as a member, or from outside.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use rivven_raft::{
    Client, Consistency, KeyRange, KvClientWatch, KvCommand, KvEntry, KvLease, KvResponse, KvUpdate,
    KvWatchError, LeaseId, ProposeOptions, Read, SessionId, WatchFrom,
};

use super::{KvListing, dropped_write, unexpected};
use crate::{
    ReadError, WriteError,
    inner::Inner,
    state::{ClusterState, Op, OpResponse},
};

/// Who carries calls out.
#[derive(Clone, Debug)]
pub(super) enum Via {
    /// The node of this process.
    Node(Weak<Inner>),
    /// Whichever node leads, or answers.
    Client(Client<ClusterState>),
}

impl Via {
    pub(super) async fn propose(
        &self,
        command: KvCommand,
        options: ProposeOptions,
    ) -> Result<KvResponse, WriteError> {
        let op = Op::Kv(command);
        let response = match self {
            Self::Node(node) => for_write(node)?.propose_with(op, options).await?,
            Self::Client(client) => client.propose_with(op.into(), options).await?.only()?,
        };
        match response {
            OpResponse::Kv(response) => Ok(response),
            other @ (OpResponse::Partitions(_) | OpResponse::Tokens(_)) => Err(unexpected(&other)),
        }
    }

    pub(super) async fn get(
        &self,
        key: &str,
        consistency: Consistency,
        timeout: Duration,
    ) -> Result<Read<Option<KvEntry>>, ReadError> {
        match self {
            Self::Node(node) => {
                let read = |state: &ClusterState| state.kv.get(key).cloned();
                for_read(node)?.read(consistency, timeout, read).await
            }
            Self::Client(client) => Ok(within(client, timeout).get(key, consistency).await?),
        }
    }

    pub(super) async fn range(
        &self,
        range: &KeyRange,
        revision: Option<u64>,
        limit: usize,
        (consistency, timeout): (Consistency, Duration),
    ) -> Result<KvListing, ReadError> {
        let client = match self {
            Self::Node(node) => {
                // The state is locked for as long as it takes to clone the map, which shares its parts.
                let clone = |state: &ClusterState| state.kv.clone();
                let kv = for_read(node)?.read(consistency, timeout, clone).await?.value;
                let revision = revision.unwrap_or(kv.revision());
                let mut left = kv.range_at(range, revision)?;
                let owned = |(key, entry): (&str, &KvEntry)| (key.to_owned(), entry.clone());
                let entries = left.by_ref().take(limit).map(owned).collect();
                let more = left.next().is_some();
                return Ok(KvListing {
                    revision,
                    entries,
                    more,
                });
            }
            Self::Client(client) => within(client, timeout),
        };
        let mut listing = listing(&client, range.clone(), limit, revision, consistency).await?;
        // An answer holds so many bytes; the rest is read as it was at the same revision.
        while listing.more && listing.entries.len() < limit {
            let Some((last, _)) = listing.entries.last() else {
                break;
            };
            let (rest, left) = (range.after(last), limit - listing.entries.len());
            let page = self::listing(&client, rest, left, Some(listing.revision), consistency).await?;
            listing.entries.extend(page.entries);
            listing.more = page.more;
        }
        Ok(listing)
    }

    pub(super) async fn lease(
        &self,
        lease: LeaseId,
        consistency: Consistency,
        timeout: Duration,
    ) -> Result<Option<KvLease>, ReadError> {
        let read = match self {
            Self::Node(node) => {
                let read = |state: &ClusterState| state.kv.lease(lease);
                for_read(node)?.read(consistency, timeout, read).await?
            }
            Self::Client(client) => within(client, timeout).lease(lease, consistency).await?,
        };
        Ok(read.value)
    }

    pub(super) async fn open_session(&self, ttl: Duration) -> Result<SessionId, WriteError> {
        let session = match self {
            Self::Node(node) => for_write(node)?.raft_or_wait()?.open_session(ttl).await?,
            Self::Client(client) => client.open_session(ttl).await?,
        };
        Ok(session.id())
    }

    pub(super) async fn renew_session(&self, session: SessionId) -> Result<(), WriteError> {
        match self {
            Self::Node(node) => for_write(node)?.raft_or_wait()?.renew_session(session).await?,
            Self::Client(client) => client.renew_session(session).await?,
        }
        Ok(())
    }

    pub(super) async fn close_session(&self, session: SessionId) -> Result<(), WriteError> {
        match self {
            Self::Node(node) => for_write(node)?.raft_or_wait()?.close_session(session).await?,
            Self::Client(client) => client.close_session(session).await?,
        }
        Ok(())
    }

    pub(super) fn watch(
        &self,
        range: KeyRange,
        from: WatchFrom,
        timeout: Duration,
    ) -> Result<Watch, ReadError> {
        match self {
            Self::Node(node) => {
                let node = for_read(node)?;
                let raft = node.raft().ok_or_else(|| ReadError::NotReady {
                    cause: node.waiting_for(),
                })?;
                Ok(Watch::Node(Box::new(raft.watch_kv(range, from))))
            }
            Self::Client(client) => {
                let watch = within(client, timeout).watch_kv(range, from);
                Ok(Watch::Client(Box::new(watch)))
            }
        }
    }
}

/// A watch by either way.
#[derive(Debug)]
pub(super) enum Watch {
    Node(Box<rivven_raft::KvWatch<ClusterState>>),
    Client(Box<KvClientWatch<ClusterState>>),
}

impl Watch {
    pub(super) async fn next(&mut self) -> Result<KvUpdate, KvWatchError> {
        match self {
            Self::Node(watch) => watch.next().await,
            Self::Client(watch) => watch.next().await,
        }
    }
}

fn within(client: &Client<ClusterState>, timeout: Duration) -> Client<ClusterState> {
    client.clone().with_timeout(timeout)
}

async fn listing(
    client: &Client<ClusterState>,
    range: KeyRange,
    limit: usize,
    revision: Option<u64>,
    consistency: Consistency,
) -> Result<KvListing, ReadError> {
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    let page = client.range(range, limit, revision, consistency).await?.value;
    Ok(KvListing {
        revision: page.revision,
        entries: page.entries,
        more: page.more,
    })
}

fn for_write(node: &Weak<Inner>) -> Result<Arc<Inner>, WriteError> {
    node.upgrade().ok_or_else(dropped_write)
}

fn for_read(node: &Weak<Inner>) -> Result<Arc<Inner>, ReadError> {
    node.upgrade().ok_or_else(|| ReadError::NotReady {
        cause: "the cluster handle was dropped".into(),
    })
}
