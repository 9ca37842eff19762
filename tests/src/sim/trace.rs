//! Everything that happens in a run: counted, hashed, and written down if somebody wants to read it.

use std::{
    fmt::{self, Write as _},
    io::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

/// The record of one run. Clones are the same record.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Record>>);

struct Record {
    began: Instant,
    hash: u64,
    events: u64,
    line: String,
    out: Option<Box<dyn Write + Send>>,
    violations: Vec<String>,
}

/// Violations that are kept word for word; of more it is enough to know the number.
const MAX_VIOLATIONS: usize = 100;

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.record();
        f.debug_struct("Trace")
            .field("hash", &record.hash)
            .field("events", &record.events)
            .finish_non_exhaustive()
    }
}

impl Trace {
    /// An empty record that begins now; lines go to `out`.
    ///
    /// Must be called on the runtime whose time the record tells.
    #[must_use]
    pub fn new(out: Option<Box<dyn Write + Send>>) -> Self {
        Self(Arc::new(Mutex::new(Record {
            began: Instant::now(),
            hash: 0xCBF2_9CE4_8422_2325,
            events: 0,
            line: String::new(),
            out,
            violations: Vec::new(),
        })))
    }

    /// Notes what happened. Equal runs note the same at the same times.
    pub fn event(&self, what: fmt::Arguments<'_>) {
        self.record().event(what);
    }

    /// Notes that something happened which never must.
    pub fn violation(&self, what: String) {
        let mut record = self.record();
        record.event(format_args!("VIOLATION {what}"));
        if record.violations.len() < MAX_VIOLATIONS {
            record.violations.push(what);
        }
    }

    /// The number of the next event, by which moments of the run are told apart.
    #[must_use]
    pub fn moment(&self) -> u64 {
        self.record().events
    }

    /// Hash over all events.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.record().hash
    }

    /// What happened that never must.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.record().violations.clone()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        // A record of a run that panicked is still one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn event(&mut self, what: fmt::Arguments<'_>) {
        self.line.clear();
        let time = self.began.elapsed();
        // Writing into a string cannot fail.
        let _ = write!(self.line, "{:>10.3} {what}", time.as_secs_f64());
        for byte in self.line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        self.events += 1;
        if let Some(out) = &mut self.out {
            // The run goes on without a reader.
            let _ = writeln!(out, "{}", self.line);
        }
    }
}
