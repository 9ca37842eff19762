//! Decisions about foundings, as tables.

use rivven_types::{BootEpoch, ClusterId};

use super::*;

fn instance(byte: u8) -> InstanceId {
    InstanceId::from_bytes([byte; 16])
}

/// Node 2 on instance 2.
fn local() -> LocalIdentity {
    LocalIdentity {
        cluster: ClusterId::from_bytes([9; 16]),
        node: 2,
        instance: instance(2),
        boot_epoch: BootEpoch(1),
    }
}

/// Nodes on instances of the same number, unless said otherwise.
fn set(nodes: &[(NodeId, u8)]) -> Instances {
    nodes
        .iter()
        .map(|(node, byte)| (*node, instance(*byte)))
        .collect()
}

fn founding(id: u8, nodes: &[(NodeId, u8)]) -> Founding {
    let founder = |(node, byte): &(NodeId, u8)| {
        let addr = format!("node{node}:9093").parse().unwrap();
        let instance = instance(*byte);
        (*node, Founder { instance, addr })
    };
    Founding {
        id: FoundingId::from_random([id; 16]),
        founders: nodes.iter().map(founder).collect(),
        predecessors: Vec::new(),
    }
}

/// What founding `id` becomes when it is recovered as `next` on node 2.
fn recovered(next: u8, before: &Founding) -> Founding {
    let founder = before.founders[&2].clone();
    Founding::recovered(FoundingId::from_random([next; 16]), (2, founder), Some(before))
}

const THREE: &[(NodeId, u8)] = &[(1, 1), (2, 2), (3, 3)];

#[test]
fn a_founding_is_accepted_once_and_only_by_those_who_see_the_same() {
    let resolved = || View::Resolved(set(THREE));
    let check = |mine: View, proposer, proposal: Founding, expected: Result<Decision, &str>| {
        let decision = decide(&local(), &mine, proposer, &proposal);
        let decision = decision
            .as_ref()
            .map(|decision| *decision)
            .map_err(|refused| refused.code.as_str());
        assert_eq!(decision, expected, "{mine:?} {proposal:?}");
    };
    check(resolved(), 1, founding(7, THREE), Ok(Decision::Accept));
    check(View::Looking, 1, founding(7, THREE), Err("founders-unknown"));
    check(resolved(), 3, founding(7, THREE), Err("not-lowest"));
    check(
        resolved(),
        1,
        founding(7, &[(1, 1), (2, 2)]),
        Err("founders-differ"),
    );
    check(
        resolved(),
        1,
        founding(7, &[(1, 1), (2, 2), (3, 8)]),
        Err("duplicate-node-id"),
    );

    let accepted = || View::Accepted(founding(7, THREE));
    check(accepted(), 1, founding(7, THREE), Ok(Decision::AlreadyAccepted));
    check(accepted(), 1, founding(8, THREE), Err("other-founding"));
    check(
        accepted(),
        1,
        founding(7, &[(1, 8), (2, 2), (3, 3)]),
        Err("other-founding"),
    );
    let mut moved = founding(7, THREE);
    moved.founders.get_mut(&3).unwrap().addr = "elsewhere:1".parse().unwrap();
    check(accepted(), 1, moved, Ok(Decision::AlreadyAccepted));
}

#[test]
fn what_an_operator_must_mend_is_named() {
    let check = |mine: View, theirs: View, expected: Option<(&str, &[&str])>| {
        let problem = judge(&local(), &mine, 3, &theirs);
        assert_eq!(
            problem.as_ref().map(|problem| problem.code),
            expected.map(|(code, _)| code)
        );
        for part in expected.map_or(&[][..], |(_, parts)| parts) {
            let message = &problem.as_ref().unwrap().message;
            assert!(message.contains(part), "{part:?} is not in {message}");
        }
    };
    let resolved = |nodes| View::Resolved(set(nodes));
    let accepted = |id, nodes| View::Accepted(founding(id, nodes));
    check(View::Looking, View::Looking, None);
    check(View::Looking, resolved(THREE), None);
    check(resolved(THREE), View::Looking, None);
    check(resolved(THREE), resolved(THREE), None);
    check(resolved(THREE), accepted(7, THREE), None);
    check(accepted(7, THREE), accepted(7, THREE), None);
    check(accepted(7, THREE), resolved(&[(2, 2), (3, 3)]), None);
    check(
        resolved(THREE),
        resolved(&[(2, 2), (3, 3)]),
        Some(("founders-differ", &["founders 1, 2, 3", "node 3 of 2, 3;"])),
    );
    check(
        resolved(THREE),
        resolved(&[(1, 8), (2, 2), (3, 3)]),
        Some(("duplicate-node-id", &["[1]"])),
    );
    // Whoever is none of the founders asks to join, and hears then what is wrong.
    check(resolved(THREE), accepted(7, &[(1, 1), (2, 8), (3, 3)]), None);
    check(View::Looking, accepted(7, &[(1, 1), (3, 3)]), None);
    check(
        accepted(7, THREE),
        accepted(8, THREE),
        Some(("other-founding", &["two clusters"])),
    );
    // Whoever comes back from before a recovery is told so, and so is whom it meets.
    let old = founding(7, THREE);
    let (once, twice) = (recovered(8, &old), recovered(9, &recovered(8, &old)));
    for (newer, older) in [(&once, &old), (&twice, &old), (&twice, &once)] {
        let said: &[&str] = &["node 3 is shut out", "with an empty one"];
        let (newer, older) = (View::Accepted(newer.clone()), View::Accepted(older.clone()));
        check(newer.clone(), older.clone(), Some(("cluster-recovered", said)));
        check(older, newer, Some(("cluster-recovered", &["node 2 is shut out"])));
    }
    // Two survivors that were recovered apart are two clusters.
    check(
        View::Accepted(once),
        View::Accepted(recovered(10, &old)),
        Some(("other-founding", &["two clusters"])),
    );
}

#[test]
fn a_founding_remembers_a_bounded_number_of_those_given_up_and_so_does_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("founding.json");
    let mut last = founding(7, THREE);
    for id in 10..40 {
        last = recovered(id, &last);
    }
    assert_eq!(last.predecessors.len(), MAX_PREDECESSORS);
    assert_eq!(last.predecessors[0], FoundingId::from_random([38; 16]));
    assert!(last.names(&local()) && last.is_led_by(&local()));
    file::write(&path, &local(), &last).unwrap();
    assert_eq!(file::read(&path, &local()).unwrap(), Some(last));
}

#[test]
fn a_founder_is_a_data_directory_and_not_a_number() {
    let check = |founders: &[(NodeId, u8)], names, led| {
        let founding = founding(7, founders);
        assert_eq!(
            (founding.names(&local()), founding.is_led_by(&local())),
            (names, led),
            "{founders:?}"
        );
    };
    check(THREE, true, false);
    check(&[(2, 2), (3, 3)], true, true);
    // The disk of a founder was lost, and the new one joins: it must not found the cluster again.
    check(&[(2, 8), (3, 3)], false, false);
    check(&[(1, 1), (3, 3)], false, false);
}

#[tokio::test]
async fn an_acceptance_survives_a_restart_and_belongs_to_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("founding.json");
    let open = |local| Founders::open(local, path.clone(), TaskGroup::current());
    let founders = Arc::new(open(local()).unwrap());
    founders.set_resolved(Some(set(THREE)));
    let refused = Arc::clone(&founders).proposed(3, founding(7, THREE)).await;
    assert_eq!(refused.unwrap_err().code, "not-lowest");
    assert!(!path.exists());
    Arc::clone(&founders)
        .proposed(1, founding(7, THREE))
        .await
        .unwrap();
    assert_eq!(*founders.wait_accepted().await, founding(7, THREE));

    Arc::clone(&founders).joined(founding(7, THREE)).await.unwrap();
    let refused = Arc::clone(&founders).joined(founding(8, THREE)).await;
    assert_eq!(refused.unwrap_err().code, "other-founding");

    let again = open(local()).unwrap();
    assert_eq!(again.accepted().as_deref(), Some(&founding(7, THREE)));
    let stranger = LocalIdentity { node: 3, ..local() };
    assert_eq!(open(stranger).unwrap_err().code(), "foreign-founding");

    let text = std::fs::read_to_string(&path).unwrap();
    for damaged in [
        &text[..text.len() / 2],
        "{}",
        "",
        &text.replace("\"version\": 0", "\"version\": 1"),
    ] {
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(
            open(local()).unwrap_err().code(),
            "data-file-unusable",
            "{damaged}"
        );
    }
}
