//! How the consensus core reaches its peers: every call by way of the transport.

mod pipeline;

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use futures_util::{
    Stream,
    future::{BoxFuture, Either, select},
};
use openraft::{
    OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2,
    base::BoxStream,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use rivven_transport::{CallCtx, CallError, Method, PeerStatus, TransferCtx, Transport};
use rivven_types::NodeId;

use metrics::Histogram;
use openraft_rt::AsyncRuntime;
use tokio::time::Instant;

use crate::{
    elections::VOTE_TIMEOUT,
    membership::Gate,
    runtime::NodeRuntime,
    snapshot::SnapshotData,
    snapshot_rate::SnapshotRate,
    stages::replicate_seconds,
    types::{LogEntry, LogId, Seat, Snapshot, TypeConfig, Vote},
    wire::{
        AppendEntries, ENTRY_OVERHEAD_BYTES, Heartbeat, InstallSnapshot, MAX_APPEND_BYTES, RequestPreVote,
        RequestVote, SNAPSHOT_PIECE_BYTES, TransferLeader, WireAppendResponse, WireSnapshotOffer,
        WireSnapshotReceipt, WireTransfer, WireTransferResponse,
    },
};

/// How long entries may take to be durable at a peer. Longer than a stalled disk usually stalls: a repeated
/// request would only queue behind the first. Liveness does not depend on it, heartbeats have their own lane.
const APPEND_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the transfer of a snapshot may stand still, for instance because the peer's disk is slow.
const SNAPSHOT_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a peer may take to restore a snapshot that it has received.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(600);

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;
type StreamingResult<T> = Result<T, StreamingError<TypeConfig>>;

/// Makes a [`Peer`] for each node the core talks to.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) transport: Transport,
    pub(crate) gate: Arc<Gate>,
    pub(crate) snapshot_rate: Arc<SnapshotRate>,
}

/// One peer, on one of its lanes.
pub(crate) struct Peer {
    transport: Transport,
    gate: Arc<Gate>,
    snapshot_rate: Arc<SnapshotRate>,
    to: NodeId,
    lane: Lane,
    replicated: Histogram,
}

#[derive(Clone, Copy, Debug)]
enum Lane {
    Replication,
    Heartbeat,
    Snapshot,
}

impl Peers {
    fn peer(&self, to: NodeId, place: &Seat, lane: Lane) -> Peer {
        // The membership's address is where the peer was when it was added; one learned since is better.
        if self.transport.status(to) == PeerStatus::Unknown {
            self.transport.set_address(to, place.addr.clone());
        }
        self.gate.bind(to, place.instance);
        Peer {
            transport: self.transport.clone(),
            gate: Arc::clone(&self.gate),
            snapshot_rate: Arc::clone(&self.snapshot_rate),
            to,
            lane,
            replicated: replicate_seconds(to),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &Seat) -> Peer {
        self.peer(target, node, Lane::Replication)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Seat) -> Peer {
        self.peer(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &Seat) -> Peer {
        self.peer(target, node, Lane::Snapshot)
    }
}

impl Peer {
    async fn call<M: Method>(
        &self,
        request: &M::Request,
        timeout: Duration,
        action: RPCTypes,
    ) -> RpcResult<M::Response> {
        self.meet()
            .map_err(|stranger| RPCError::Unreachable(Unreachable::from_string(stranger)))?;
        let response = self
            .transport
            .call::<M>(self.to, request, CallCtx::timeout(timeout))
            .await
            .map_err(|error| self.rpc_error(&error, action, timeout))?;
        // It may have come back with another disk while the call was under way: then this is the answer of a
        // node that has forgotten its vote and its log, and must not count.
        self.meet()
            .map_err(|stranger| RPCError::Unreachable(Unreachable::from_string(stranger)))?;
        Ok(response)
    }

    /// Refuses whoever answers under the peer's id with another data directory than the membership says.
    fn meet(&self) -> Result<(), String> {
        let proven = self.transport.peer(self.to).map(|peer| peer.instance);
        self.gate.meet(self.to, proven)
    }

    /// `Unreachable` makes the core back off; a deadline has already waited.
    fn rpc_error(&self, error: &CallError, action: RPCTypes, timeout: Duration) -> RPCError<TypeConfig> {
        self.gate.note(self.to, error);
        match error {
            CallError::Deadline => RPCError::Timeout(Timeout {
                action,
                id: self.transport.local().node,
                target: self.to,
                timeout,
            }),
            CallError::MaybeExecuted { .. } => RPCError::Network(NetworkError::new(error)),
            _ => RPCError::Unreachable(Unreachable::new(error)),
        }
    }
}

/// How many of `entries` fit one frame; at least one, since no entry is larger than a frame.
fn fitting(entries: &[LogEntry]) -> usize {
    let mut bytes = ENTRY_OVERHEAD_BYTES;
    let fits = entries.iter().take_while(|entry| {
        bytes = bytes.saturating_add(entry_bytes(entry));
        bytes <= MAX_APPEND_BYTES
    });
    fits.count().max(1)
}

fn entry_bytes(entry: &LogEntry) -> usize {
    use openraft::EntryPayload;
    let body = match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(command) => command.body.len(),
        // Ids, addresses and data directories; a host name has at most 253 bytes.
        EntryPayload::Membership(membership) => membership.nodes().count() * 512,
    };
    body + ENTRY_OVERHEAD_BYTES
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    /// Sends as many entries as fit a frame, and says so if they are not all.
    async fn append_entries(
        &mut self,
        mut request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        let fitting = fitting(&request.entries);
        let cut: Option<LogId> = (fitting < request.entries.len())
            .then(|| {
                request.entries.truncate(fitting);
                request.entries.last().map(|entry| entry.log_id)
            })
            .flatten();
        let response = self.send_append(request, option).await?;
        Ok(match (response, cut) {
            (AppendEntriesResponse::Success, Some(last)) => AppendEntriesResponse::PartialSuccess(Some(last)),
            (response, _) => response,
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        requests: S,
        option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        pipeline::stream_append(self, requests, option)
    }

    /// Waits for longer than the core asks to: see `elections`.
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let response = self
            .call::<RequestVote>(&request.into(), VOTE_TIMEOUT, RPCTypes::Vote)
            .await?;
        Ok(response.into())
    }

    /// Asks the peer itself. Only its answer counts: whoever cannot be asked grants nothing.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let response = self
            .call::<RequestPreVote>(&request.into(), option.soft_ttl(), RPCTypes::Vote)
            .await?;
        Ok(response.into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> StreamingResult<SnapshotResponse<TypeConfig>> {
        let send = pin!(self.send_snapshot(vote, &snapshot));
        match select(pin!(cancel), send).await {
            Either::Left((closed, _)) => Err(closed.into()),
            Either::Right((sent, _)) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        let wire = WireTransfer {
            from: (*request.from_leader()).into(),
            to: *request.to_node_id(),
            last_log_id: request.last_log_id().map(|id| (*id).into()),
        };
        let timeout = option.soft_ttl();
        let response = self
            .call::<TransferLeader>(&wire, timeout, RPCTypes::TransferLeader)
            .await?;
        Ok(match response {
            WireTransferResponse::Accepted => Ok(()),
            WireTransferResponse::VoteChanged { expected, actual } => Err(TransferLeaderError::VoteChanged {
                expected: expected.into(),
                actual: actual.into(),
            }),
            WireTransferResponse::LogNotFlushed { expected, actual } => {
                Err(TransferLeaderError::LogNotFlushed {
                    expected: expected.map(Into::into),
                    actual: actual.map(Into::into),
                })
            }
        })
    }
}

impl Peer {
    /// Sends entries that fit a frame.
    async fn send_append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        let starts_the_log = request.prev_log_id.is_none();
        let action = RPCTypes::AppendEntries;
        let response = if matches!(self.lane, Lane::Heartbeat) && request.entries.is_empty() {
            self.call::<Heartbeat>(&request.into(), option.soft_ttl(), action)
                .await?
        } else {
            let timeout = APPEND_TIMEOUT.max(option.soft_ttl());
            let (sent, entries) = (Instant::now(), request.entries.len());
            let response = self
                .call::<AppendEntries>(&request.into(), timeout, action)
                .await?;
            if entries > 0 {
                self.replicated.record(sent.elapsed());
            }
            response
        };
        // Nothing precedes the first entry that could conflict; the core relies on it.
        if starts_the_log && matches!(response, WireAppendResponse::Conflict) {
            let cause = "the peer answered a conflict where there can be none";
            return Err(NetworkError::from_string(cause).into());
        }
        Ok(response.into())
    }

    /// Sends what the peer lacks of a snapshot, and waits until it is installed. However low the rate is, pieces come
    /// often enough for the transfer not to stand still, and nothing bounds how long it takes in all.
    ///
    /// After an interruption the core calls again and the peer names the offset to go on from.
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: &Snapshot<SnapshotData>,
    ) -> StreamingResult<SnapshotResponse<TypeConfig>> {
        self.meet().map_err(interrupted)?;
        let data = &snapshot.snapshot;
        let transfer = data.transfer();
        let offer = WireSnapshotOffer {
            vote: vote.into(),
            meta: (&snapshot.meta).into(),
            len: transfer.len,
            checksum: transfer.checksum,
        };
        let rate = &self.snapshot_rate;
        let most = rate.piece_bytes(SNAPSHOT_PIECE_BYTES);
        let piece_at = |offset| {
            let part = data.clone();
            async move {
                let read = NodeRuntime::spawn_blocking(move || part.read_transfer(offset, most));
                let piece = read.await.and_then(|piece| piece)?;
                rate.admit(piece.len()).await;
                Ok(piece)
            }
        };
        let ctx = TransferCtx::new()
            .idle_timeout(SNAPSHOT_IDLE_TIMEOUT)
            .finish_timeout(INSTALL_TIMEOUT);
        let sent = self
            .transport
            .send_stream::<InstallSnapshot, _, _>(self.to, &offer, piece_at, ctx)
            .await;
        self.meet().map_err(interrupted)?;
        match sent {
            Ok(WireSnapshotReceipt::Installed(vote) | WireSnapshotReceipt::HigherVote(vote)) => {
                Ok(SnapshotResponse::new(vote.into()))
            }
            Ok(WireSnapshotReceipt::Damaged) => Err(interrupted("the peer received other bytes")),
            Err(error) => {
                tracing::info!(peer = self.to, %error, "a snapshot was not delivered; it is sent again");
                Err(interrupted(error))
            }
        }
    }
}

/// Back off and offer again.
fn interrupted(cause: impl ToString) -> StreamingError<TypeConfig> {
    StreamingError::Unreachable(Unreachable::from_string(cause))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use openraft::EntryPayload;

    use super::*;
    use crate::types::{LogCommand, log_id};

    #[test]
    fn a_request_never_exceeds_its_frame() {
        let entry = |index, len| LogEntry {
            log_id: log_id(1, index),
            payload: EntryPayload::Normal(LogCommand {
                namespace: 1,
                body: Bytes::from(vec![0; len]),
            }),
        };
        let check = |len: usize, count: u64, expected| {
            let entries: Vec<_> = (0..count).map(|index| entry(index, len)).collect();
            let fits = fitting(&entries);
            assert_eq!(fits, expected, "{count} of {len} bytes");
            let request = AppendEntriesRequest {
                vote: crate::types::vote(u64::MAX, u64::MAX, true),
                prev_log_id: Some(log_id(u64::MAX, u64::MAX)),
                entries: entries.into_iter().take(fits).collect(),
                leader_commit: Some(log_id(u64::MAX, u64::MAX)),
            };
            let bytes = postcard::to_allocvec(&crate::wire::WireAppend::from(request)).unwrap();
            assert!(bytes.len() <= MAX_APPEND_BYTES, "{}", bytes.len());
        };
        check(1 << 20, 300, 7);
        check(crate::MAX_COMMAND_BYTES, 3, 1);
        check(100, 300, 300);
        check(0, 1, 1);
    }
}
