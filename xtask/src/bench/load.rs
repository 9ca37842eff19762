//! Load on a function that makes one request, and what it shows.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use rivven_transport::TaskGroup;
use tokio::time::Instant;

/// Which part of a load's duration precedes it as a warm-up.
pub(super) const WARM_UP: u32 = 4;

/// What a load has shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    /// Sorted.
    times: Vec<Duration>,
    took: Duration,
    /// What the load, warm-up included, has cost both processes: nanoseconds of CPU, sleeps of threads.
    cost: Option<(u64, u64)>,
}

impl Shown {
    pub(super) fn new(mut times: Vec<Duration>, took: Duration) -> Self {
        times.sort_unstable();
        Self {
            times,
            took,
            cost: None,
        }
    }

    /// The same with what it has cost.
    pub(super) fn costing(mut self, cpu_ns: u64, sleeps: u64) -> Self {
        self.cost = (cpu_ns > 0).then_some((cpu_ns, sleeps));
        self
    }

    /// Microseconds of CPU and sleeps of threads for one request, both processes together.
    pub(super) fn cost_each(&self) -> Option<(f64, f64)> {
        let (cpu_ns, sleeps) = self.cost?;
        let whole = (self.took + self.took / WARM_UP).as_secs_f64();
        let requests = (self.per_second() * whole).max(1.0);
        let as_float = |number: u64| Duration::from_nanos(number).as_secs_f64() * 1e9;
        Some((as_float(cpu_ns) / 1e3 / requests, as_float(sleeps) / requests))
    }

    pub(super) fn per_second(&self) -> f64 {
        f64::from(u32::try_from(self.times.len()).unwrap_or(u32::MAX)) / self.took.as_secs_f64().max(1e-9)
    }

    /// Microseconds below which `percent` of the requests stayed.
    pub(super) fn percentile_us(&self, percent: usize) -> f64 {
        let at = (self.times.len() * percent / 100).min(self.times.len().saturating_sub(1));
        self.times
            .get(at)
            .map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }

    pub(super) fn max_us(&self) -> f64 {
        self.times
            .last()
            .map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }
}

/// Makes `at_a_time` requests at a time for a while, after a warm-up of a quarter of it.
pub(super) async fn run<F, Fut>(at_a_time: usize, duration: Duration, request: F) -> Result<Shown>
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let tasks = TaskGroup::current();
    let from = Instant::now() + duration / WARM_UP;
    let until = from + duration;
    let all = Arc::new(Mutex::new(Vec::new()));
    let workers: Vec<_> = (0..at_a_time)
        .map(|_| {
            let (request, all) = (request.clone(), Arc::clone(&all));
            tasks.spawn(async move {
                let mut times = Vec::new();
                loop {
                    let start = Instant::now();
                    if start >= until {
                        break;
                    }
                    request().await?;
                    if start >= from {
                        times.push(start.elapsed());
                    }
                }
                all.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .append(&mut times);
                anyhow::Ok(())
            })
        })
        .collect();
    for worker in workers {
        worker.await?.unwrap_or(Ok(()))?;
    }
    let times = std::mem::take(&mut *all.lock().unwrap_or_else(PoisonError::into_inner));
    ensure!(!times.is_empty(), "not one request was made in {duration:?}");
    Ok(Shown::new(times, duration))
}
