//! What a log tells the `metrics` facade.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use openraft::{RaftLogReader, storage::RaftLogStorage};

use crate::{
    disk::Disk,
    support::{Store, append, entries, inline, vote},
};

/// Sum of what was recorded under each name, and how often.
#[derive(Clone, Default)]
struct Sums(Arc<Mutex<BTreeMap<String, (f64, u64)>>>);

struct Sum(Sums, String);

impl Sum {
    fn add(&self, value: f64) {
        let mut sums = self.0.0.lock().unwrap();
        let sum = sums.entry(self.1.clone()).or_default();
        sum.0 += value;
        sum.1 += 1;
    }
}

impl CounterFn for Sum {
    fn increment(&self, value: u64) {
        self.add(value as f64);
    }
    fn absolute(&self, _value: u64) {}
}

impl GaugeFn for Sum {
    fn increment(&self, value: f64) {
        self.add(value);
    }
    fn decrement(&self, value: f64) {
        self.add(-value);
    }
    fn set(&self, _value: f64) {}
}

impl HistogramFn for Sum {
    fn record(&self, value: f64) {
        self.add(value);
    }
}

impl Sums {
    fn sum(&self, key: &Key) -> Arc<Sum> {
        let labels: String = key.labels().map(|label| format!(" {}", label.value())).collect();
        Arc::new(Sum(self.clone(), format!("{}{labels}", key.name())))
    }

    fn of(&self, name: &str) -> (f64, u64) {
        self.0.lock().unwrap().get(name).copied().unwrap_or_default()
    }
}

impl Recorder for Sums {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.sum(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.sum(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.sum(key))
    }
}

#[tokio::test(flavor = "current_thread")]
async fn batches_bytes_reads_and_failures_are_counted() {
    let sums = Sums::default();
    let _installed = metrics::set_default_local_recorder(&sums);
    let disk = Disk::default();
    let mut store = Store::open_with_backend(disk.clone(), "disk", inline()).unwrap();
    append(&mut store, entries(1, 0..40)).await.unwrap();
    append(&mut store, entries(1, 40..50)).await.unwrap();
    assert_eq!(sums.of("raft_log_batch_entries"), (50.0, 2));
    assert_eq!(sums.of("raft_log_commit_seconds").1, 2);
    let (bytes, _) = sums.of("raft_log_written_bytes_total");
    assert!(bytes > 50.0 * 20.0);
    assert_eq!(sums.of("raft_log_batch_bytes"), (bytes, 2));

    // The tail of this store is small: the older entries come from the file.
    store.reader().try_get_log_entries(..).await.unwrap();
    let (tail, file) = (
        sums.of("raft_log_tail_entries_total").0,
        sums.of("raft_log_file_entries_total").0,
    );
    assert!(tail >= 1.0 && file >= 1.0, "{tail} and {file}");
    assert!((tail + file - 50.0).abs() < f64::EPSILON, "{tail} and {file}");

    disk.fill_at_write(disk.writes() + 1);
    store.save_vote(&vote(1)).await.unwrap_err();
    store.save_vote(&vote(1)).await.unwrap_err();
    assert_eq!(sums.of("raft_log_failures_total disk-full"), (1.0, 1));
}

#[tokio::test(flavor = "current_thread")]
async fn the_queue_is_measured_where_there_is_one() {
    let sums = Sums::default();
    let store = {
        let _installed = metrics::set_default_local_recorder(&sums);
        Store::open_with_backend(Disk::default(), "disk", crate::support::threaded()).unwrap()
    };
    let mut store = store;
    append(&mut store, entries(1, 0..3)).await.unwrap();
    drop(store);
    // One operation went in and came out.
    assert_eq!(sums.of("raft_log_queue_depth"), (0.0, 2));
}
