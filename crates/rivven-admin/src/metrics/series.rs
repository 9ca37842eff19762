//! One series: a counter, a gauge or a histogram, all of atomics.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{CounterFn, GaugeFn, HistogramFn};

/// Upper bounds of the buckets for times, in seconds: from what a call in memory takes to a lost cause.
const SECONDS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];

/// Upper bounds of the buckets for everything else: powers of four, up to a gibibyte.
const COUNTS: [f64; 16] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
];

/// A series, shared with whoever counts.
#[derive(Clone, Debug)]
pub(super) enum Series {
    Counter(Arc<Value>),
    Gauge(Arc<Value>),
    Histogram(Arc<Buckets>),
}

/// A number: whole in a counter, floating in a gauge.
#[derive(Debug, Default)]
pub(super) struct Value(AtomicU64);

/// How many values fell below each bound, and their sum.
#[derive(Debug)]
pub(super) struct Buckets {
    bounds: &'static [f64; 16],
    /// Values up to each bound and above the one before; the last is for those above all.
    counts: [AtomicU64; 17],
    sum: Value,
}

impl Value {
    fn float(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn update(&self, change: impl Fn(f64) -> f64) {
        let change = |bits| Some(change(f64::from_bits(bits)).to_bits());
        // The closure always gives a value, so this cannot fail.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }
}

impl CounterFn for Value {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }
}

impl GaugeFn for Value {
    fn increment(&self, value: f64) {
        self.update(|old| old + value);
    }

    fn decrement(&self, value: f64) {
        self.update(|old| old - value);
    }

    fn set(&self, value: f64) {
        self.update(|_| value);
    }
}

impl Buckets {
    /// Buckets for times, or for everything else.
    pub(super) fn new(times: bool) -> Self {
        Self {
            bounds: if times { &SECONDS } else { &COUNTS },
            counts: Default::default(),
            sum: Value::default(),
        }
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.update(|old| old + value);
    }
}

impl Series {
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Counter(_) => "counter",
            Self::Gauge(_) => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }

    /// Writes the lines of this series; `labels` stand without braces.
    pub(super) fn render(&self, name: &str, labels: &str, text: &mut String) {
        let braced = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{labels}}}")
        };
        // Writing to a String cannot fail.
        let _ = match self {
            Self::Counter(value) => writeln!(text, "{name}{braced} {}", value.0.load(Ordering::Relaxed)),
            Self::Gauge(value) => writeln!(text, "{name}{braced} {}", value.float()),
            Self::Histogram(buckets) => {
                let comma = if labels.is_empty() { "" } else { "," };
                let bounds = buckets.bounds.iter().map(f64::to_string);
                let bounds = bounds.chain(std::iter::once("+Inf".to_owned()));
                let mut total = 0;
                for (bound, count) in bounds.zip(&buckets.counts) {
                    total += count.load(Ordering::Relaxed);
                    let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}");
                }
                let sum = buckets.sum.float();
                writeln!(text, "{name}_sum{braced} {sum}\n{name}_count{braced} {total}")
            }
        };
    }
}
