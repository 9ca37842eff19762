//! The scenarios by name.

use clap::ValueEnum;

use super::{context::Context, kill_leader, members, restart, smoke, stranger};

/// A scenario: a fault, and what must hold in spite of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Scenario {
    Smoke,
    KillLeader,
    RestartAll,
    RollingRestart,
    Stranger,
    Members,
}

impl Scenario {
    pub(super) const ALL: [Self; 6] = [
        Self::Smoke,
        Self::KillLeader,
        Self::RestartAll,
        Self::RollingRestart,
        Self::Stranger,
        Self::Members,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::KillLeader => "kill-leader",
            Self::RestartAll => "restart-all",
            Self::RollingRestart => "rolling-restart",
            Self::Stranger => "stranger",
            Self::Members => "members",
        }
    }

    pub(super) const fn about(self) -> &'static str {
        match self {
            Self::Smoke => {
                "form, write through every node, read back through every other, agree on assignments"
            }
            Self::KillLeader => "SIGKILL the Raft leader under load: writes go on, none acknowledged is lost",
            Self::RestartAll => "SIGKILL every node at once under load, restart: none acknowledged is lost",
            Self::RollingRestart => {
                "SIGTERM one node after the other under load: no write fails after retries"
            }
            Self::Stranger => {
                "nodes of another authority and of another cluster are refused, and the logs say so"
            }
            Self::Members => {
                "under load two nodes join, the leader is removed, a disk is lost and replaced: none \
                 acknowledged is lost"
            }
        }
    }

    pub(super) async fn run(self, context: &mut Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Smoke => smoke::run(context).await,
            Self::KillLeader => kill_leader::run(context).await,
            Self::RestartAll => restart::all(context).await,
            Self::RollingRestart => restart::rolling(context).await,
            Self::Stranger => stranger::run(context).await,
            Self::Members => members::run(context).await,
        }
    }
}
