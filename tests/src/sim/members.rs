//! Members that go, and come back with an empty disk.

use std::time::Duration;

use rivven_raft::{MemberChange, MemberOptions, MembershipView};
use tokio::time::{Instant, sleep};

use super::{cluster::Cluster, faults::Faults, host::Host};

/// How long a change is waited for.
pub const CHANGE_TIME: Duration = Duration::from_secs(10);

/// How long the group may take, with nothing wrong any more, until everybody is a member again.
const RESTORE_TIME: Duration = Duration::from_secs(60);

/// How often it is looked at meanwhile.
pub const LOOK: Duration = Duration::from_millis(200);

/// The members of a cluster, and what changes them.
#[derive(Clone, Debug)]
pub struct Members {
    cluster: Cluster,
    faults: Faults,
}

impl Members {
    /// Those of `cluster`; `faults` counts those that were removed.
    #[must_use]
    pub fn new(cluster: &Cluster, faults: &Faults) -> Self {
        Self {
            cluster: cluster.clone(),
            faults: faults.clone(),
        }
    }

    /// Asks `asked` to remove `gone`, whose process goes on.
    pub async fn remove(&self, asked: &Host, gone: &Host, force: Option<&str>) {
        let node = gone.id();
        gone.retire();
        self.cluster
            .world()
            .trace
            .event(format_args!("node {} is asked to remove {node}", asked.id()));
        change(asked, MemberChange::Remove { node }, force).await;
    }

    /// Lets everybody in again who was removed, with an empty disk, and waits until all are members.
    pub async fn restore(&self) {
        if let Some(last) = self.restore_within(RESTORE_TIME).await {
            let text =
                format!("liveness: not everybody is a member {RESTORE_TIME:?} after all is well: {last:?}");
            self.cluster.world().trace.violation(text);
        }
    }

    /// The same for a while, after which trouble may have kept it from coming true: the members at last.
    pub async fn restore_within(&self, within: Duration) -> Option<Option<MembershipView>> {
        let deadline = Instant::now() + within;
        let mut last = None;
        while Instant::now() < deadline {
            if let Some(view) = view(&self.cluster).await {
                for host in self.cluster.hosts() {
                    if host.is_retired() {
                        self.take_back(host, &view).await;
                    }
                }
                if self.is_whole(&view) {
                    return None;
                }
                last = Some(view);
            }
            sleep(LOOK).await;
        }
        Some(last)
    }

    fn is_whole(&self, view: &MembershipView) -> bool {
        let takes_part = |host: &Host| {
            let member = view.member(host.id());
            !host.is_retired() && member.is_some_and(|member| member.lives && !member.leaving)
        };
        view.next.is_none() && view.holds.is_empty() && self.cluster.hosts().iter().all(takes_part)
    }

    /// What is to be done about a node that may have been removed, as the leader sees it.
    ///
    /// A view may be out of date, and what a node has promised since it was let in again must not be lost: its disk is
    /// emptied once.
    async fn take_back(&self, host: &Host, view: &MembershipView) {
        let node = host.id();
        if !view.removed.contains(&node) {
            // The removal was never written down or is under way, or it has been let in again.
            if view.member(node).is_some_and(|member| !member.leaving) && view.next.is_none() {
                host.takes_part();
            }
            return;
        }
        if !host.is_emptied() {
            host.kill().await;
            if host.is_on() {
                // Somebody else has started it at this moment.
                return;
            }
            self.faults.count(|counts| counts.removals += 1);
            host.empty();
        }
        let Some(leader) = self.cluster.leader() else {
            return;
        };
        change(&leader, MemberChange::Add { node, role: None }, None).await;
        self.cluster.boot(host).await;
    }
}

/// Asks a node for a change. Says whether it was carried out.
pub async fn change(asked: &Host, change: MemberChange, force: Option<&str>) -> bool {
    let Some((node, tasks)) = asked.node() else {
        return false;
    };
    let options = MemberOptions {
        force: force.map(str::to_owned),
        wait: CHANGE_TIME,
    };
    // It may fail for any of the trouble made here, and ends with the process that was asked.
    let changing = tasks.spawn(async move { node.change_membership(change, options).await });
    matches!(changing.await, Ok(Some(Ok(changed))) if changed.finished)
}

async fn view(cluster: &Cluster) -> Option<MembershipView> {
    let (node, tasks) = cluster.leader()?.node()?;
    let asking = tasks.spawn(async move { node.membership().await });
    asking.await.ok()??.ok()
}
