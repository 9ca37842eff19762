//! The invariants of the protocol, checked on every member after every event.

use alloc::collections::BTreeMap;

use crate::{Incarnation, MemberState, NodeId, Swim};

/// What really happened, as far as members said it themselves.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    audits: u64,
    /// The greatest incarnation that each member gave itself.
    own: BTreeMap<NodeId, Incarnation>,
}

impl Truth {
    fn record(&mut self, node: NodeId, own: Incarnation) {
        let best = self.own.entry(node).or_insert(own);
        *best = own.max(*best);
    }
}

/// Of so many audits one looks at everything.
const DEEP_AUDIT_EVERY: u64 = 16;

/// What one observer has concluded, to see that it never goes back.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(BTreeMap<NodeId, (Incarnation, MemberState)>);

/// Compares the view of `swim` with what happened and with its own earlier view.
///
/// # Panics
/// If an invariant is broken.
pub(super) fn audit(swim: &Swim, seen: &mut Seen, truth: &mut Truth) {
    let me = swim.identity().node;
    truth.record(me, swim.incarnation());
    truth.audits += 1;
    // Every index is walked for it.
    if truth.audits.is_multiple_of(DEEP_AUDIT_EVERY) {
        assert!(
            swim.is_bounded(),
            "{me}: a queue has outgrown its limit, or an index is wrong"
        );
    }
    for (node, incarnation, state) in swim.standings() {
        // Only the member itself makes incarnations.
        let own = truth.own.get(&node).copied();
        assert!(
            own.is_some_and(|own| incarnation <= own),
            "{me} believes {incarnation:?} of {node}, which said {own:?}"
        );
        // Nothing that is over comes back: within an incarnation states only advance.
        let now = (incarnation, state);
        let before = seen.0.entry(node).or_insert(now);
        assert!(
            *before <= now,
            "{me} went back from {before:?} to {now:?} about {node}"
        );
        *before = now;
    }
}
