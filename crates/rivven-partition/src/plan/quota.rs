//! How many replicas each node shall hold: shares of zones first, then of nodes.

use super::layout::{Layout, Role};
use crate::fill::{Part, fill};

/// The share of each node, by slot: exact within one, rounded in favour of those that hold more already, so
/// that less moves. A zone takes no more than all partitions together allow it, a node at most one of each.
pub(super) fn replicas(layout: &Layout, held: &[u64]) -> Vec<u64> {
    let of = |counts: &[u64], slot: u16| counts.get(usize::from(slot)).copied().unwrap_or(0);
    let fixed = |zone: &[u16]| zone.iter().map(|slot| of(&layout.fixed, *slot)).sum::<u64>();
    let zones = layout.zones.iter().zip(&layout.zone_caps);
    let parts: Vec<Part> = zones
        .map(|(zone, cap)| Part {
            weight: zone.iter().map(|slot| layout.host(*slot).weight).sum(),
            cap: cap + fixed(zone),
        })
        .collect();
    let here: Vec<u64> = layout
        .zones
        .iter()
        .map(|zone| zone.iter().map(|slot| of(held, *slot)).sum())
        .collect();
    let keeps = |counts: &[u64], at: usize, whole: u64| counts.get(at).is_none_or(|count| *count <= whole);
    let shares = fill(&parts, layout.places(), |at, whole| keeps(&here, at, whole));

    let mut quotas = vec![0; layout.hosts.len()];
    for (zone, share) in layout.zones.iter().zip(shares) {
        let parts: Vec<Part> = zone
            .iter()
            .map(|slot| Part {
                weight: layout.host(*slot).weight,
                cap: layout.len() as u64 + of(&layout.fixed, *slot),
            })
            .collect();
        let counts: Vec<u64> = zone.iter().map(|slot| of(held, *slot)).collect();
        let each = fill(&parts, share, |at, whole| keeps(&counts, at, whole));
        for (slot, quota) in zone.iter().zip(each) {
            if let Some(place) = quotas.get_mut(usize::from(*slot)) {
                *place = quota;
            }
        }
    }
    quotas
}

/// The share of each node in leadership, by slot, given how many partitions it could lead.
pub(super) fn leaders(layout: &Layout, leads: &[u64], could: &[u64], total: u64) -> Vec<u64> {
    let hosts = layout.hosts.iter().zip(could);
    let parts: Vec<Part> = hosts
        .map(|(host, could)| Part {
            weight: if host.role == Role::Taker { host.weight } else { 0 },
            cap: *could,
        })
        .collect();
    fill(&parts, total, |at, whole| {
        leads.get(at).is_none_or(|count| *count <= whole)
    })
}
