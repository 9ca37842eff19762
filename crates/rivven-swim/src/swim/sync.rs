//! Learning another member's view, page by page: whole when joining, and where views differ for long, only
//! what is in buckets that differ.

use alloc::vec::Vec;
use core::{net::SocketAddr, time::Duration};

use rivven_types::NodeId;

use super::{Letter, Reply, Swim, Transmit, claims::same_addr};
use crate::{
    Settings, Time,
    member::Member,
    table::{BUCKETS, travel_order},
    timer::Timer,
    wire::{Compare, Item, MAX_PAGE_LEN, PADDED_REQUEST_LEN, Page, Payload, Sync, WireAddr},
};

/// Most views learned at once.
pub(super) const MAX_PULLS: usize = 16;

/// Most members that are asked less and less often because their view goes on to differ.
pub(super) const MAX_BACKOFFS: usize = 128;

/// How often a page is asked for before the peer is given up.
const MAX_TRIES: u32 = 5;

/// Most pages of one view; each holds at least one member.
const MAX_PAGES: u32 = 10_000;

/// A smaller view is asked for whole: it takes no more than the sums of all buckets.
const SMALL_VIEW: usize = 24;

/// Wait for a page before it is asked for again; doubles.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// A page that is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pull {
    to: SocketAddr,
    /// Who is there, once it has answered.
    node: Option<NodeId>,
    after: Option<NodeId>,
    /// Only what differs.
    compares: bool,
    /// Over a stream.
    streams: bool,
    tries: u32,
    pages: u32,
}

/// How eagerly this node asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pulling {
    /// Wait before the seeds are asked again while nobody else is known.
    seed_backoff: Duration,
    /// Views that differ are not pulled before.
    not_before: Time,
    /// Since when every view that was seen differed.
    differs_since: Option<Time>,
    /// How many views were asked for.
    begun: u64,
}

impl Pulling {
    #[cfg(test)]
    pub(super) const fn begun(&self) -> u64 {
        self.begun
    }

    pub(super) const fn new(settings: &Settings) -> Self {
        Self {
            seed_backoff: settings.period,
            not_before: Time::ZERO,
            differs_since: None,
            begun: 0,
        }
    }
}

/// How eagerly this node asks one member whose view differed when it was last asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    not_before: Time,
    spacing: Duration,
}

impl Swim {
    /// Asks the known peers that are not live members: to join, and later to heal a split.
    pub(super) fn ask_seeds(&mut self, now: Time) {
        let alone = self.members.live_count() == 0;
        let is_own = |seed: SocketAddr| self.own_seeds.iter().any(|own| same_addr(*own, seed));
        let mut unknown = self.seeds.clone();
        unknown.retain(|seed| !is_own(*seed));
        for member in self.members.iter().filter(|member| member.is_live()) {
            if unknown.is_empty() {
                break;
            }
            unknown.retain(|seed| !same_addr(member.socket_addr(), *seed));
        }
        for seed in unknown {
            self.pull(now, seed, None);
        }
        let longest = self.settings.period * 5;
        let wait = if alone {
            self.pulling.seed_backoff
        } else {
            self.settings.heal_interval()
        };
        self.pulling.seed_backoff = (self.pulling.seed_backoff * 2).min(longest);
        if !alone {
            self.pulling.seed_backoff = self.settings.period;
        }
        if !self.seeds.is_empty() {
            self.timers.set(Timer::Seeds, now + wait);
        }
    }

    /// A request to a seed came back to this node: the seed is this node.
    pub(super) fn forget_own_seed(&mut self, seq: u32) {
        if let Some(pull) = self.pulls.remove(&seq) {
            self.timers.clear(Timer::Sync(seq));
            if self.own_seeds.len() < self.seeds.len() {
                self.own_seeds.push(pull.to);
            }
        }
    }

    /// Begins to learn the view of the sender of `letter`.
    pub(super) fn pull_from(&mut self, now: Time, letter: &Letter) {
        let node = letter.sender.node;
        let known = self.members.get(node).map(Member::socket_addr);
        let to = known.unwrap_or(letter.from);
        if !to.ip().is_unspecified() {
            self.pull(now, to, known.map(|_| node));
        }
    }

    /// Begins to learn the view of whoever is at `to`.
    fn pull(&mut self, now: Time, to: SocketAddr, node: Option<NodeId>) {
        let busy = self.pulls.len() >= MAX_PULLS || self.pulls.values().any(|pull| pull.to == to);
        if busy || self.me.leaving {
            return;
        }
        let pull = Pull {
            to,
            node,
            after: None,
            compares: node.is_some() && self.members.len() >= SMALL_VIEW,
            streams: self.settings.streams,
            tries: 1,
            pages: 0,
        };
        self.pulling.begun += 1;
        self.ask_page(now, pull);
    }

    fn ask_page(&mut self, now: Time, pull: Pull) {
        let seq = self.seq();
        let mut payload = Payload::new(self.settings.max_datagram);
        if pull.compares {
            let sums: Vec<u8> = self.members.sums().flatten().collect();
            let compare = Compare {
                seq,
                after: pull.after,
                sums: &sums,
            };
            payload.push(&Item::Compare(compare));
        } else {
            let sync = Sync {
                seq,
                after: pull.after,
            };
            payload.push(&Item::Sync(sync));
            // The first request introduces this node.
            if pull.after.is_none() {
                self.push_claim(now, &mut payload, self.me.identity.node);
            }
        }
        // The first page says who is there and whether there is more; a stream to it is for the rest.
        let stream = pull.node.filter(|_| pull.streams && pull.after.is_some());
        let (transmit, wait) = match stream {
            Some(to) => {
                let id = u64::from(seq);
                (Transmit::Request { to, id }, self.settings.period * 5)
            }
            None => {
                payload.pad_to(PADDED_REQUEST_LEN);
                let wait = FIRST_WAIT * 2_u32.pow(pull.tries.saturating_sub(1));
                (Transmit::Datagram { to: pull.to }, wait)
            }
        };
        self.transmit(transmit, payload);
        self.pulls.insert(seq, pull);
        self.timers.set(Timer::Sync(seq), now + wait);
    }

    pub(super) fn retry_pull(&mut self, now: Time, seq: u32) {
        let Some(pull) = self.pulls.remove(&seq) else {
            return;
        };
        self.timers.clear(Timer::Sync(seq));
        if pull.tries < MAX_TRIES && !self.me.leaving {
            let tries = pull.tries + 1;
            // A stream that failed once is no way.
            let streams = pull.streams && pull.after.is_none();
            self.ask_page(
                now,
                Pull {
                    tries,
                    streams,
                    ..pull
                },
            );
        }
    }

    /// A page came; its claims have been heard. What is known better here is told in return.
    pub(super) fn handle_page(&mut self, now: Time, letter: &Letter, page: Page, outdated: &[NodeId]) {
        let Some(pull) = self.pulls.remove(&page.seq) else {
            return;
        };
        self.timers.clear(Timer::Sync(page.seq));
        self.observe(now, page.observed);
        if !outdated.is_empty() {
            let mut payload = Payload::new(self.settings.max_datagram);
            for node in outdated {
                self.push_claim(now, &mut payload, *node);
            }
            self.transmit(Transmit::Datagram { to: pull.to }, payload);
        }
        // Pages go on only forwards, so that no peer keeps this node asking for ever.
        let onwards = page.next.filter(|next| {
            let after = pull.after.map(travel_order);
            after.is_none_or(|after| travel_order(*next) > after)
        });
        if onwards.is_some() && pull.pages < MAX_PAGES {
            let known = self.members.contains(letter.sender.node);
            let next = Pull {
                node: known.then_some(letter.sender.node),
                after: onwards,
                tries: 1,
                pages: pull.pages + 1,
                ..pull
            };
            self.ask_page(now, next);
        }
    }

    /// Answers with as many members after the given one as fit. By datagram in at most three times the
    /// request's length: the request may come from anywhere.
    pub(super) fn handle_sync(
        &mut self,
        now: Time,
        letter: &Letter,
        seq: u32,
        after: Option<NodeId>,
        sums: Option<&[u8]>,
    ) {
        if letter.reply == Reply::None {
            return;
        }
        let mut payload = Payload::new(self.answer_budget(letter, true));
        payload.reserve(MAX_PAGE_LEN);
        self.push_claim_if_doubted(now, &mut payload, letter.sender.node);
        let next = self.push_view(now, &mut payload, after, sums);
        payload.reserve(-MAX_PAGE_LEN);
        let observed = WireAddr::new(letter.from);
        // Where not even one claim fits, a page would go on for ever.
        if next != Next::Stuck
            && payload.push(&Item::Page(Page {
                seq,
                next: next.into(),
                observed,
            }))
        {
            self.answer(letter, payload);
        }
    }

    /// Fills `payload` with claims in the order of travel.
    fn push_view(
        &self,
        now: Time,
        payload: &mut Payload,
        after: Option<NodeId>,
        sums: Option<&[u8]>,
    ) -> Next {
        let me = self.me.identity.node;
        let (my_bucket, _) = travel_order(me);
        let after = after.map(travel_order);
        let first = after.map_or(0, |(bucket, _)| bucket);
        let mut last = None;
        for (bucket, sum) in self.members.sums().enumerate().take(BUCKETS).skip(first) {
            let theirs = sums.map(|sums| sums.get(4 * bucket..4 * bucket + 4));
            if theirs.is_some_and(|theirs| theirs == Some(&sum[..])) {
                continue;
            }
            let mut nodes: Vec<NodeId> = self.members.bucket(bucket).collect();
            if bucket == my_bucket {
                nodes.insert(nodes.partition_point(|node| *node < me), me);
            }
            for node in nodes {
                if after.is_some_and(|after| (bucket, node) <= after) {
                    continue;
                }
                if !self.push_claim(now, payload, node) {
                    return last.map_or(Next::Stuck, Next::After);
                }
                last = Some(node);
            }
        }
        Next::End
    }

    /// Where views go on to differ after news has had its time, what differs is pulled.
    pub(super) fn compare_digest(&mut self, now: Time, letter: &Letter, digest: [u8; 8]) {
        let node = letter.sender.node;
        if digest == self.members.digest().to_le_bytes() {
            self.pulling.differs_since = None;
            self.backoffs.remove(&node);
            return;
        }
        let since = *self.pulling.differs_since.get_or_insert(now);
        let settling = !self.gossip.is_empty() && now.since(since) < self.settings.period;
        let backoff = self.backoffs.get(&node).copied();
        let too_soon = backoff.is_some_and(|backoff| now < backoff.not_before);
        if settling || now < self.pulling.not_before || too_soon {
            return;
        }
        self.pulling.not_before = now + self.settings.period;
        let longest = self.settings.period * 60;
        let spacing = backoff.map_or(self.settings.period, |backoff| (backoff.spacing * 2).min(longest));
        if backoff.is_some() || self.backoffs.len() < MAX_BACKOFFS {
            let not_before = now + spacing;
            self.backoffs.insert(node, Backoff { not_before, spacing });
        }
        self.pull_from(now, letter);
    }
}

/// Where a view goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    End,
    After(NodeId),
    Stuck,
}

impl From<Next> for Option<NodeId> {
    fn from(next: Next) -> Self {
        match next {
            Next::After(node) => Some(node),
            Next::End | Next::Stuck => None,
        }
    }
}
