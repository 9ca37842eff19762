//! Every deadline of the machine in one table, with one next deadline.

use alloc::collections::{BTreeMap, BTreeSet};

use rivven_types::NodeId;

use crate::Time;

/// What happens at a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The next probe of the round robin.
    Period,
    /// The next round of gossip.
    Gossip,
    /// The next attempt to reach a member that is gone.
    Heal,
    /// The next look at the known peers.
    Seeds,
    /// The end of a probe's present stage.
    Probe(u32),
    /// The end of the wait for a page.
    Sync(u32),
    /// The next attempt to fetch metadata.
    Fetch(NodeId),
    /// The end of a suspicion.
    Suspicion(NodeId),
    /// The end of a health that was observed.
    Calm(NodeId),
    /// The end of the memory of a member that is gone.
    Forget(NodeId),
}

/// At most one deadline per [`Timer`]; all operations are logarithmic.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    at: BTreeMap<Timer, Time>,
    order: BTreeSet<(Time, Timer)>,
}

impl Timers {
    /// Arms `timer`, replacing its earlier deadline.
    pub(crate) fn set(&mut self, timer: Timer, at: Time) {
        self.clear(timer);
        self.at.insert(timer, at);
        self.order.insert((at, timer));
    }

    pub(crate) fn clear(&mut self, timer: Timer) {
        if let Some(at) = self.at.remove(&timer) {
            self.order.remove(&(at, timer));
        }
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.at.contains_key(&timer)
    }

    pub(crate) fn deadline(&self, timer: Timer) -> Option<Time> {
        self.at.get(&timer).copied()
    }

    pub(crate) fn next(&self) -> Option<Time> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Makes every timer that is overdue due at `now`, so that one lateness is noticed once.
    pub(crate) fn postpone(&mut self, now: Time) {
        let later = self.order.split_off(&(now, Timer::Period));
        let overdue = core::mem::replace(&mut self.order, later);
        for (_, timer) in overdue {
            self.at.insert(timer, now);
            self.order.insert((now, timer));
        }
    }

    /// Takes out the earliest timer that is due.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<Timer> {
        let (at, timer) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.clear(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_once() {
        let at = Time::from_micros;
        let mut timers = Timers::default();
        timers.set(Timer::Gossip, at(5));
        timers.set(Timer::Period, at(9));
        timers.set(Timer::Gossip, at(7));
        timers.set(Timer::Heal, at(6));
        timers.clear(Timer::Heal);
        assert_eq!(timers.next(), Some(at(7)));
        assert_eq!(timers.pop_due(at(6)), None);
        assert_eq!(timers.pop_due(at(9)), Some(Timer::Gossip));
        assert_eq!(timers.pop_due(at(9)), Some(Timer::Period));
        assert_eq!(timers.pop_due(at(9)), None);
        assert_eq!(timers.next(), None);
        timers.set(Timer::Heal, at(3));
        timers.set(Timer::Seeds, at(20));
        timers.postpone(at(12));
        assert_eq!(timers.next(), Some(at(12)));
        assert_eq!(timers.pop_due(at(12)), Some(Timer::Heal));
        assert_eq!(timers.next(), Some(at(20)));
    }
}
