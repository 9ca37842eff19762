//! What the membership tells the `metrics` facade.

use metrics::set_default_local_recorder;
use rivven_raft::{JoinAs, MemberChange, MemberOptions};

use crate::{common::recorder::Values, support::Group};

#[tokio::test(start_paused = true)]
async fn changes_are_counted_by_everybody_and_refusals_by_the_leader() {
    let values = Values::default();
    let _installed = set_default_local_recorder(&values);
    let group = Group::start(3).await;
    group.join(4, JoinAs::new()).await;
    group.settled().await;
    assert_eq!(
        (
            values.of("raft_members_voters"),
            values.of("raft_members_learners")
        ),
        (3.0, 1.0)
    );
    // Three founders and the newcomer itself, which applies what was before it came.
    assert_eq!(values.of("raft_members_changes_total joins"), 4.0);
    let leader = group.leader().await;
    let node = group.node(leader);
    node.remove_member(99).await.unwrap_err();
    node.remove_member(leader).await.unwrap();
    assert_eq!(values.of("raft_members_refused_total unknown-member"), 1.0);
    group.settled_without(leader).await;
    assert_eq!(values.of("raft_members_voters"), 3.0);
    assert!(
        values.of("raft_members_changes_total promoted") >= 3.0,
        "node 4 votes in its place"
    );
    assert!(values.of("raft_members_changes_total leaves") >= 3.0);
    let change = MemberChange::Replace { node: 4 };
    let asked = group.any_but(&[leader]);
    let refused = asked.change_membership(change, MemberOptions::default());
    assert_eq!(refused.await.unwrap_err().code(), "member-lives");
    assert_eq!(values.of("raft_members_refused_total member-lives"), 1.0);
}
