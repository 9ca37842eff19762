//! Scripts of leaders that answer reads by their lease.

use tokio::time::sleep;

use super::Stage;
use crate::sim::chance::Chance;

/// The leader stands still or is cut off for a while that may be shorter or longer than its lease; whoever leads
/// first was asked to by name, so that each node has its turn, whatever its clock.
pub(super) async fn leader_in_its_lease(stage: &Stage, chance: &mut Chance) -> Option<()> {
    let before = stage.leader().await?;
    let next = stage.follower(&before, chance)?;
    stage.hand_over(&before, &next).await;
    sleep(chance.millis(300, 800)).await;
    let leader = stage.leader().await?;
    if chance.percent(50) {
        stage.faults.count(|counts| counts.pauses += 1);
        leader.pause();
        sleep(chance.millis(50, 500)).await;
        leader.resume();
    } else {
        stage.isolate(&leader);
        sleep(chance.millis(100, 800)).await;
        stage.cluster.heal();
    }
    Some(())
}
