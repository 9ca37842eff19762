//! How a leader knows, by itself and at once, that nobody else can lead.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use rivven_partition::{LeaderEpoch, PartitionMap, Start};
use rivven_raft::Consistency;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};

use super::machine::Spot;
use crate::inner::Inner;

/// How long a leader may go on after a quorum has last confirmed that it leads.
///
/// The same on every node and in every release, since a successor waits so long, and a tenth more, unless the
/// leader has let go or its process is known to be over. A shorter one would end whenever a quorum is slow, a longer
/// one leaves partitions without a leader for longer after a crash.
pub const LEADER_LEASE: Duration = Duration::from_secs(2);

/// How often the lease is renewed: three renewals may fail.
const RENEWAL: Duration = Duration::from_millis(500);

/// Why a leader must not act, at least not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lapsed {
    /// [`Lead::ready`](crate::Lead::ready) was not called. Open the partition, then call it.
    #[error("the partition is not open yet; say `ready` when it is")]
    NotOpen,
    /// No quorum has confirmed the leadership lately: this node is cut off, was suspended, or has only just been
    /// elected. Acknowledge nothing. It may be confirmed again; then go on.
    #[error("no quorum has confirmed the leadership lately; acknowledge nothing until one does")]
    Unconfirmed,
    /// Somebody else leads by now, or the topic is gone. Stop for good; the next duty says what is to be done.
    #[error("the leadership is over: there is a later one; stop, and do the next duty")]
    Superseded,
    /// This process has let go of the partition. Stop for good.
    #[error("the partition was let go of")]
    Released,
    /// This node has stopped.
    #[error("this node has stopped")]
    Stopped,
}

impl Lapsed {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotOpen => "not-open",
            Self::Unconfirmed => "leadership-unconfirmed",
            Self::Superseded => "leadership-superseded",
            Self::Released => "leadership-released",
            Self::Stopped => "node-stopped",
        }
    }
}

/// What a quorum has confirmed, and until when this node may rely on it.
#[derive(Debug)]
struct Granted {
    until: Instant,
    /// The assignments that were read, with everything committed before the read began.
    map: PartitionMap,
}

/// The lease of this process: one for all that it leads.
///
/// Whoever is elected in its place is elected by a command that is committed at some moment. A renewal that began
/// after that moment has read the command and grants nothing. One that began before ends a lease length later, and
/// so long the successor waits from when it has heard of the command. Clocks are compared with themselves only.
#[derive(Debug)]
pub(crate) struct Lease {
    granted: ArcSwapOption<Granted>,
    wanted: Notify,
    renewals: watch::Sender<u64>,
}

impl Lease {
    pub(super) fn new() -> Self {
        Self {
            granted: ArcSwapOption::empty(),
            wanted: Notify::new(),
            renewals: watch::Sender::new(0),
        }
    }

    /// Until when `me` may act as the leader of that epoch, which it is known to be since a generation.
    pub(super) fn check(
        &self,
        (topic, partition): Spot,
        me: Start,
        (epoch, since): (LeaderEpoch, u64),
    ) -> Result<Instant, Lapsed> {
        let granted = self.granted.load();
        let granted = granted.as_ref().ok_or(Lapsed::Unconfirmed)?;
        let found = granted.map.partition_of(topic, partition);
        let leads =
            found.is_some_and(|found| found.leader_epoch() == epoch && found.leader_start() == Some(me));
        match leads {
            true if Instant::now() < granted.until => Ok(granted.until),
            // What was read is newer than the leadership, and has another one or none.
            false if granted.map.generation() >= since => Err(Lapsed::Superseded),
            true | false => Err(Lapsed::Unconfirmed),
        }
    }

    /// Has the lease renewed soon, and gives what tells of it.
    pub(super) fn renew_soon(&self) -> watch::Receiver<u64> {
        let renewals = self.renewals.subscribe();
        self.wanted.notify_one();
        renewals
    }
}

/// Renews the lease for as long as the node lives.
pub(super) async fn renew(inner: Arc<Inner>, lease: Arc<Lease>) {
    loop {
        // Before the read begins: what is committed from here on is not in it.
        let asked = Instant::now();
        let read = inner.read(Consistency::Linearizable, LEADER_LEASE, |state| {
            state.partitions.map().clone()
        });
        match read.await {
            Ok(read) => {
                let until = asked + LEADER_LEASE;
                let map = read.value;
                lease.granted.store(Some(Arc::new(Granted { until, map })));
                lease.renewals.send_modify(|count| *count += 1);
            }
            Err(error) => {
                tracing::debug!(node_id = inner.local.node, %error, "the lease was not renewed");
                // What fails at once must not be tried without a pause.
                sleep(RENEWAL / 5).await;
                continue;
            }
        }
        tokio::select! {
            biased;
            () = lease.wanted.notified() => {}
            () = sleep(RENEWAL) => {}
        }
    }
}
