//! Learning another member's whole view, page by page: when joining, and where views differ for long.

use alloc::vec::Vec;
use core::{net::SocketAddr, time::Duration};

use rivven_types::NodeId;

use super::{Letter, Swim, claims::same_addr};
use crate::{
    Settings, Time,
    timer::Timer,
    wire::{AMPLIFICATION_LIMIT, Item, MAX_PAGE_LEN, PADDED_REQUEST_LEN, Page, Payload, Sync, WireAddr},
};

/// Most views learned at once.
const MAX_PULLS: usize = 16;

/// How often a page is asked for before the peer is given up.
const MAX_TRIES: u32 = 4;

/// Most pages of one view; each holds at least one member.
const MAX_PAGES: u32 = 10_000;

/// A page that is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pull {
    to: SocketAddr,
    after: Option<NodeId>,
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
    /// Wait between pulls; grows while views go on to differ.
    spacing: Duration,
}

impl Pulling {
    pub(super) const fn new(settings: &Settings) -> Self {
        Self {
            seed_backoff: settings.period,
            not_before: Time::ZERO,
            spacing: settings.period,
        }
    }
}

impl Swim {
    /// Asks the known peers that are not live members: to join, and later to heal a split.
    pub(super) fn ask_seeds(&mut self, now: Time) {
        let alone = self.order.is_empty();
        let live: Vec<_> = self
            .order
            .iter()
            .filter_map(|node| self.members.get(node))
            .collect();
        let is_known = |seed: SocketAddr| {
            self.own_seeds.iter().any(|own| same_addr(*own, seed))
                || live.iter().any(|member| same_addr(member.addr, seed))
        };
        let unknown: Vec<_> = self
            .seeds
            .iter()
            .copied()
            .filter(|seed| !is_known(*seed))
            .collect();
        for seed in unknown {
            self.pull(now, seed);
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

    /// Begins to learn the view of whoever is at `to`.
    pub(super) fn pull(&mut self, now: Time, to: SocketAddr) {
        let busy = self.pulls.len() >= MAX_PULLS || self.pulls.values().any(|pull| pull.to == to);
        if !busy && !self.me.leaving {
            self.ask_page(
                now,
                Pull {
                    to,
                    after: None,
                    tries: 1,
                    pages: 0,
                },
            );
        }
    }

    fn ask_page(&mut self, now: Time, pull: Pull) {
        let seq = self.seq();
        let mut payload = Payload::new(self.settings.max_datagram);
        payload.push(&Item::Sync(Sync {
            seq,
            after: pull.after,
        }));
        // The first request introduces this node.
        if pull.after.is_none() {
            self.push_claim(now, &mut payload, self.me.identity.node);
        }
        payload.pad_to(PADDED_REQUEST_LEN);
        self.transmit(pull.to, payload);
        self.pulls.insert(seq, pull);
        self.timers.set(Timer::Sync(seq), now + self.settings.period / 2);
    }

    pub(super) fn retry_pull(&mut self, now: Time, seq: u32) {
        let Some(pull) = self.pulls.remove(&seq) else {
            return;
        };
        if pull.tries < MAX_TRIES && !self.me.leaving {
            self.ask_page(
                now,
                Pull {
                    tries: pull.tries + 1,
                    ..pull
                },
            );
        }
    }

    pub(super) fn handle_page(&mut self, now: Time, page: Page) {
        let Some(pull) = self.pulls.remove(&page.seq) else {
            return;
        };
        self.timers.clear(Timer::Sync(page.seq));
        self.observe(now, page.observed);
        // Pages go on only forwards, so that no peer keeps this node asking for ever.
        let onwards = page
            .next
            .filter(|next| pull.after.is_none_or(|after| *next > after));
        if onwards.is_some() && pull.pages < MAX_PAGES {
            self.ask_page(
                now,
                Pull {
                    to: pull.to,
                    after: onwards,
                    tries: 1,
                    pages: pull.pages + 1,
                },
            );
        }
    }

    /// Answers with as many members after the given one as fit, in at most three times the request's
    /// length: the request may come from anywhere.
    pub(super) fn handle_sync(&mut self, now: Time, letter: &Letter, sync: Sync) {
        let me = self.me.identity.node;
        let mut payload = Payload::new(self.settings.max_datagram.min(letter.len * AMPLIFICATION_LIMIT));
        payload.reserve(MAX_PAGE_LEN);
        self.push_claim_if_doubted(now, &mut payload, letter.sender.node);
        let is_after = |node: NodeId| sync.after.is_none_or(|after| node > after);
        let mut last = None;
        let mut next = None;
        let mut own = Some(me).filter(|me| is_after(*me));
        let first = sync.after.map_or(0, |after| after.saturating_add(1));
        let mut others = self
            .members
            .range(first..)
            .map(|(node, _)| *node)
            .filter(|node| is_after(*node));
        let mut other = others.next();
        while let Some(node) = [own, other].into_iter().flatten().min() {
            if !self.push_claim(now, &mut payload, node) {
                next = last;
                if last.is_none() {
                    return;
                }
                break;
            }
            last = Some(node);
            if Some(node) == own {
                own = None;
            } else {
                other = others.next();
            }
        }
        payload.reserve(-MAX_PAGE_LEN);
        let observed = WireAddr::new(letter.from);
        payload.push(&Item::Page(Page {
            seq: sync.seq,
            next,
            observed,
        }));
        self.transmit(letter.from, payload);
    }

    /// Where views go on to differ after all news has been told, one view is pulled.
    pub(super) fn compare_digest(&mut self, now: Time, letter: &Letter, digest: u64) {
        if digest == self.digest {
            self.pulling.spacing = self.settings.period;
            return;
        }
        if now < self.pulling.not_before || !self.gossip.is_empty() {
            return;
        }
        let longest = self.settings.period * 60;
        self.pulling.not_before = now + self.pulling.spacing;
        self.pulling.spacing = (self.pulling.spacing * 2).min(longest);
        self.pull(now, letter.from);
    }
}
