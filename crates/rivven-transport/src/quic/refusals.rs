//! Which refusals are said in the log: a stranger that dials in a loop must not fill it.

use std::{collections::BTreeMap, net::IpAddr};

use tokio::time::Instant;

use super::limits::{MAX_REFUSAL_KEYS, REFUSAL_LOG_INTERVAL};

/// Refusals that are told apart: by address, without the port that changes with every attempt, and by cause.
pub(super) type Key = (IpAddr, Cause);

/// What ended a connection: who said so, and the number that travelled in its close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// This node, by an application close.
    Ours(u64),
    /// The peer, by an application close.
    Theirs(u64),
    /// Either, by an error of QUIC or TLS.
    Transport(u64),
}

/// A refusal that was said, and how often it was kept quiet since.
#[derive(Debug)]
struct Said {
    at: Instant,
    suppressed: u64,
}

/// The refusals of the last [`REFUSAL_LOG_INTERVAL`].
///
/// Beyond [`MAX_REFUSAL_KEYS`] the rest are one, under `None`.
#[derive(Debug, Default)]
pub(super) struct RefusalLog(BTreeMap<Option<Key>, Said>);

impl RefusalLog {
    /// Whether to say a refusal; if so, how many of its kind were kept quiet before.
    pub(super) fn note(&mut self, key: Key, now: Instant) -> Option<u64> {
        let known = self.0.contains_key(&Some(key)) || self.0.len() < MAX_REFUSAL_KEYS;
        let said = self.0.entry(known.then_some(key));
        let mut first = false;
        let said = said.or_insert_with(|| {
            first = true;
            Said {
                at: now,
                suppressed: 0,
            }
        });
        if first {
            return Some(0);
        }
        if now.saturating_duration_since(said.at) < REFUSAL_LOG_INTERVAL {
            said.suppressed = said.suppressed.saturating_add(1);
            return None;
        }
        said.at = now;
        Some(std::mem::take(&mut said.suppressed))
    }

    /// Forgets what is long past. Returns what was kept quiet and not reported, by address.
    pub(super) fn sweep(&mut self, now: Instant) -> Vec<(Option<IpAddr>, u64)> {
        let mut unreported = Vec::new();
        self.0.retain(|key, said| {
            let past = now.saturating_duration_since(said.at) >= REFUSAL_LOG_INTERVAL;
            if past && said.suppressed > 0 {
                unreported.push((key.map(|(ip, _)| ip), said.suppressed));
            }
            !past
        });
        unreported
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn key(ip: u32, code: u64) -> Key {
        (Ipv4Addr::from_bits(ip).into(), Cause::Ours(code))
    }

    #[test]
    fn a_refusal_is_said_once_per_interval_and_then_with_the_number_of_those_kept_quiet() {
        let (mut log, start) = (RefusalLog::default(), Instant::now());
        assert_eq!(log.note(key(1, 4), start), Some(0));
        for _ in 0..1_000 {
            assert_eq!(log.note(key(1, 4), start), None);
        }
        // Another cause or address is news.
        assert_eq!(log.note(key(1, 5), start), Some(0));
        assert_eq!(log.note(key(2, 4), start), Some(0));
        assert_eq!(log.note(key(1, 4), start + REFUSAL_LOG_INTERVAL), Some(1_000));
        assert_eq!(log.note(key(1, 4), start + REFUSAL_LOG_INTERVAL), None);
    }

    #[test]
    fn what_was_kept_quiet_is_reported_even_if_the_stranger_stays_away() {
        let (mut log, start) = (RefusalLog::default(), Instant::now());
        log.note(key(1, 4), start);
        log.note(key(1, 4), start);
        log.note(key(2, 4), start);
        assert_eq!(log.sweep(start), []);
        let later = start + REFUSAL_LOG_INTERVAL;
        assert_eq!(log.sweep(later), [(Some(Ipv4Addr::from_bits(1).into()), 1)]);
        assert_eq!(log.sweep(later), []);
        assert_eq!(log.note(key(1, 4), later), Some(0));
    }

    #[test]
    fn many_addresses_share_one_line_beyond_the_limit() {
        let (mut log, start) = (RefusalLog::default(), Instant::now());
        let said = (0..10_000).filter(|ip| log.note(key(*ip, 4), start).is_some());
        assert_eq!(said.count(), MAX_REFUSAL_KEYS + 1);
        assert!(log.0.len() <= MAX_REFUSAL_KEYS + 1);
        let kept_quiet: u64 = log
            .sweep(start + REFUSAL_LOG_INTERVAL)
            .iter()
            .map(|(_, n)| n)
            .sum();
        assert_eq!(kept_quiet, 10_000 - MAX_REFUSAL_KEYS as u64 - 1);
    }
}
