//! Where metrics go: a recorder for the `metrics` facade with bounded memory, read as Prometheus text.
//!
//! Series are made once and never forgotten; counting touches atomics alone. A histogram has fixed buckets,
//! so a scraper that stays away costs nothing.

mod series;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, set_global_recorder,
};

use series::{Buckets, Series};

/// Series that are kept; more are not made, and counted.
pub const MAX_SERIES: usize = 20_000;

/// Counts and keeps what libraries tell the `metrics` facade. Clones are one recorder.
///
/// [`MetricsRecorder::install`] it before anything is started that tells something: libraries take their
/// handles when they start. `GET /metrics` of [`AdminService`](crate::AdminService) and
/// [`HealthService`](crate::HealthService) shows what the installed one has counted.
#[derive(Clone, Debug, Default)]
pub struct MetricsRecorder(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Meaning and unit, by name.
    described: BTreeMap<String, (SharedString, Option<Unit>)>,
    /// Series by name, then by their labels as Prometheus writes them.
    series: BTreeMap<String, BTreeMap<String, Series>>,
    count: usize,
}

/// Another recorder was installed in this process before. It stays; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another metrics recorder is installed in this process")]
pub struct RecorderInUse;

impl MetricsRecorder {
    /// Makes a recorder the one of this process.
    ///
    /// # Errors
    /// [`RecorderInUse`].
    pub fn install() -> Result<Self, RecorderInUse> {
        let recorder = Self::default();
        set_global_recorder(recorder.clone()).map_err(|_| RecorderInUse)?;
        Ok(recorder)
    }

    /// Everything counted so far, in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        let state = self.state();
        for (name, series) in &state.series {
            let Some(kind) = series.values().next().map(Series::kind) else {
                continue;
            };
            // Writing to a String cannot fail.
            if let Some((help, _)) = state.described.get(name) {
                let _ = writeln!(text, "# HELP {name} {}", escape_help(help));
            }
            let _ = writeln!(text, "# TYPE {name} {kind}");
            for (labels, series) in series {
                series.render(name, labels, &mut text);
            }
        }
        let name = "rivven_metrics_refused_total";
        let refused = self.0.refused.load(Ordering::Relaxed);
        let _ = write!(
            text,
            "# HELP {name} Series that were not made because there are {MAX_SERIES} already.\n\
             # TYPE {name} counter\n{name} {refused}\n"
        );
        text
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned state is consistent: every change of it is one insertion.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self, name: &KeyName, unit: Option<Unit>, text: SharedString) {
        self.state().described.insert(plain(name.as_str()), (text, unit));
    }

    /// The series of `key`; `None` when it is of another kind already, or there are too many.
    fn series(&self, key: &Key, make: impl FnOnce(Option<Unit>) -> Series) -> Option<Series> {
        let (name, labels) = (plain(key.name()), labels(key));
        let mut state = self.state();
        let known = state.series.get(&name).and_then(|series| series.get(&labels));
        if let Some(known) = known {
            return Some(known.clone());
        }
        if state.count >= MAX_SERIES {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let unit = state.described.get(&name).and_then(|(_, unit)| *unit);
        let made = make(unit);
        state.count += 1;
        let same_name = state.series.entry(name).or_default();
        same_name.insert(labels, made.clone());
        Some(made)
    }
}

impl Recorder for MetricsRecorder {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe(&name, unit, text);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe(&name, unit, text);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe(&name, unit, text);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.series(key, |_| Series::Counter(Arc::default())) {
            Some(Series::Counter(value)) => Counter::from_arc(value),
            Some(Series::Gauge(_) | Series::Histogram(_)) | None => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match self.series(key, |_| Series::Gauge(Arc::default())) {
            Some(Series::Gauge(value)) => Gauge::from_arc(value),
            Some(Series::Counter(_) | Series::Histogram(_)) | None => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let in_seconds = key.name().ends_with("_seconds");
        let make = |unit: Option<Unit>| {
            let times = in_seconds || unit.is_some_and(|unit| unit.is_time_based());
            Series::Histogram(Arc::new(Buckets::new(times)))
        };
        match self.series(key, make) {
            Some(Series::Histogram(buckets)) => Histogram::from_arc(buckets),
            Some(Series::Counter(_) | Series::Gauge(_)) | None => Histogram::noop(),
        }
    }
}

/// A name of the characters that Prometheus takes.
fn plain(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    name.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

/// Labels as Prometheus writes them, without braces: `a="b",c="d"`.
fn labels(key: &Key) -> String {
    let pairs = key.labels().map(|label| {
        let value = label.value();
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        format!("{}=\"{value}\"", plain(label.key()))
    });
    pairs.collect::<Vec<_>>().join(",")
}

fn escape_help(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}
