//! What a user configures, and the checked form that the machine takes.

use alloc::vec::Vec;
use core::{fmt, net::SocketAddr, time::Duration};

use rivven_types::PeerAddr;

use crate::{
    meta::MAX_META_LEN,
    wire::{MAX_DATAGRAM_LEN, MIN_DATAGRAM_LEN},
};

/// Where a member listens, whom it asks to join, and how fast it notices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwimConfig {
    /// UDP address to listen on; port 0 takes a free one.
    ///
    /// `0.0.0.0` is never told to others: without an advertised address they use the one they observe.
    pub bind_addr: PeerAddr,
    /// Members to ask when joining, and now and then ever after, so that a split heals.
    ///
    /// Names are looked up lazily and again and again; none needs to resolve or answer for this node to
    /// start. This node's own address among them does no harm. At most 64.
    pub known_peers: Vec<PeerAddr>,
    /// How often this node probes some member, in milliseconds: 20 to 60,000, usually 1,000.
    ///
    /// Shorter notices sooner and sends more. Gossip goes out five times as often.
    pub protocol_period_ms: u64,
    /// How long an unconfirmed suspicion lasts before the member is declared dead, in milliseconds.
    ///
    /// At least two protocol periods, usually five; multiplied by `log10` of the cluster's size above ten
    /// members. Suspicions that several members confirm end sooner, after about two periods. Too short
    /// declares slow members dead.
    pub suspect_timeout_ms: u64,
}

/// A setting that cannot work. Nothing was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// `protocol_period_ms` is outside 20 to 60,000.
    ProtocolPeriod(u64),
    /// `suspect_timeout_ms` is shorter than two protocol periods or longer than an hour.
    SuspectTimeout(u64),
    /// More known peers than are ever asked.
    TooManyPeers(usize),
    /// The metadata is longer than [`MAX_META_LEN`].
    MetaTooLong(usize),
    /// The datagram limit is outside what the wire format allows.
    DatagramLimit(usize),
}

impl ConfigError {
    /// Stable name of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::ProtocolPeriod(_) => "gossip-protocol-period",
            Self::SuspectTimeout(_) => "gossip-suspect-timeout",
            Self::TooManyPeers(_) => "gossip-too-many-peers",
            Self::MetaTooLong(_) => "gossip-meta-too-long",
            Self::DatagramLimit(_) => "gossip-datagram-limit",
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProtocolPeriod(ms) => {
                write!(f, "protocol_period_ms is {ms}; choose 20 to 60000, usually 1000")
            }
            Self::SuspectTimeout(ms) => write!(
                f,
                "suspect_timeout_ms is {ms}; choose at least twice protocol_period_ms, usually five times, \
                 and at most 3600000"
            ),
            Self::TooManyPeers(n) => {
                write!(
                    f,
                    "known_peers has {n} entries; list at most {MAX_SEEDS}, a few are enough"
                )
            }
            Self::MetaTooLong(n) => write!(f, "the metadata has {n} bytes; at most {MAX_META_LEN} fit"),
            Self::DatagramLimit(n) => write!(
                f,
                "the datagram limit is {n}; choose {MIN_DATAGRAM_LEN} to {MAX_DATAGRAM_LEN}"
            ),
        }
    }
}

impl core::error::Error for ConfigError {}

/// Most known peers, and most addresses they may resolve to.
pub(crate) const MAX_SEEDS: usize = 64;

/// What the machine is told besides who it is: [`SwimConfig`] checked, in the core's own terms.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(crate) period: Duration,
    pub(crate) suspect_timeout: Duration,
    pub(crate) max_datagram: usize,
    pub(crate) bound: SocketAddr,
    pub(crate) advertised: Option<SocketAddr>,
    pub(crate) streams: bool,
}

impl Settings {
    /// Checks the timing of `config`; `bound` is the address the socket really has.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn new(config: &SwimConfig, bound: SocketAddr) -> Result<Self, ConfigError> {
        const HOUR_MS: u64 = 3_600_000;
        let (period, suspect) = (config.protocol_period_ms, config.suspect_timeout_ms);
        if !(20..=60_000).contains(&period) {
            return Err(ConfigError::ProtocolPeriod(period));
        }
        if !(2 * period..=HOUR_MS).contains(&suspect) {
            return Err(ConfigError::SuspectTimeout(suspect));
        }
        if config.known_peers.len() > MAX_SEEDS {
            return Err(ConfigError::TooManyPeers(config.known_peers.len()));
        }
        Ok(Self {
            period: Duration::from_millis(period),
            suspect_timeout: Duration::from_millis(suspect),
            max_datagram: MAX_DATAGRAM_LEN,
            bound,
            advertised: (!bound.ip().is_unspecified()).then_some(bound),
            streams: false,
        })
    }

    /// The address told to others, in place of the bound one.
    #[must_use]
    pub const fn advertised(mut self, addr: SocketAddr) -> Self {
        self.advertised = Some(addr);
        self
    }

    /// Longest payload to send, what a seal adds already taken off; [`MAX_DATAGRAM_LEN`] if not called.
    ///
    /// # Errors
    /// [`ConfigError::DatagramLimit`] below [`MIN_DATAGRAM_LEN`] or above [`MAX_DATAGRAM_LEN`].
    pub const fn max_datagram(mut self, len: usize) -> Result<Self, ConfigError> {
        if len < MIN_DATAGRAM_LEN || len > MAX_DATAGRAM_LEN {
            return Err(ConfigError::DatagramLimit(len));
        }
        self.max_datagram = len;
        Ok(self)
    }

    /// There are reliable streams to members, so that [`Transmit::Request`](crate::Transmit::Request) is of use.
    #[must_use]
    pub const fn with_streams(mut self) -> Self {
        self.streams = true;
        self
    }

    /// Gossip goes out five times per period.
    pub(crate) fn gossip_interval(&self) -> Duration {
        self.period / 5
    }

    /// Members that are gone, and known peers, are tried every 15 periods.
    pub(crate) fn heal_interval(&self) -> Duration {
        self.period * 15
    }

    /// How long a member counts as a flapper after the last of several doubts.
    pub(crate) fn calm_after(&self) -> Duration {
        self.period * 60
    }

    /// How long this node takes total silence for its own fault.
    pub(crate) fn silence_grace(&self) -> Duration {
        self.period * 30
    }

    /// Up to this age a death that is heard of is news.
    pub(crate) fn news_age(&self) -> Duration {
        self.period * 5
    }

    /// Bounds of the first wait of a probe: 50 to 500 ms at a period of a second.
    ///
    /// Not below 20 ms even at short periods: schedulers of busy machines take that long.
    pub(crate) fn probe_timeout_bounds(&self) -> (Duration, Duration) {
        let max = self.period / 2;
        ((self.period / 20).max(Duration::from_millis(20)).min(max), max)
    }

    /// How late this node may be before it mistrusts its own sense of time.
    pub(crate) fn lag_tolerance(&self) -> Duration {
        (self.period / 10).max(Duration::from_millis(100))
    }
}
