//! [`SimulatedDisk`]: a disk in memory that takes its time, and forgets at a power cut what was not synced.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redb::StorageBackend;
use tokio::sync::watch;

/// What a power cut keeps or loses as a whole.
const SECTOR: usize = 512;

/// Of so many syncs a disk that lies carries out one.
const TRUE_SYNC_IN: u64 = 8;

/// The file of one log on a simulated disk. Clones are the same disk.
///
/// It outlives the node: [`Self::cut_power`] takes it away from the node that uses it, with a random part of
/// what was not synced lost; after [`Self::power_up`] the next node finds the rest. Everything random comes
/// from the seed.
///
/// ```
/// use rivven_raft_store::{DiskPace, SimulatedDisk};
/// use std::time::Duration;
///
/// let disk = SimulatedDisk::new(42);
/// disk.set_pace(DiskPace { sync: Duration::from_millis(2), jitter: Duration::from_millis(3) });
/// disk.cut_power();
/// assert!(disk.is_off());
/// disk.power_up();
/// ```
#[derive(Clone, Debug)]
pub struct SimulatedDisk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    platters: Mutex<Platters>,
    off: watch::Sender<bool>,
}

/// How long a commit takes on a [`SimulatedDisk`]. Without further settings no time at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskPace {
    /// What each takes.
    pub sync: Duration,
    /// Additional time, drawn evenly between zero and this for each.
    pub jitter: Duration,
}

/// What a [`SimulatedDisk`] has done so far. A test that relies on faults should check that they happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskStats {
    /// Syncs that were completed.
    pub syncs: u64,
    /// Power cuts.
    pub cuts: u64,
    /// Power cuts in the middle of writing, with some sectors written and not synced.
    pub torn: u64,
    /// Commits that were waiting for their time when the power was cut.
    pub forgotten: u64,
    /// Writes that were refused because the disk was full.
    pub refused: u64,
    /// Times that a log was opened on it.
    pub opened: u64,
}

#[derive(Debug)]
struct Platters {
    /// What the machine sees.
    current: Vec<u8>,
    /// What a power cut cannot take.
    durable: Vec<u8>,
    /// Sectors written since the last sync.
    unsynced: BTreeSet<usize>,
    /// Which attachment may use the disk.
    life: u64,
    off: bool,
    /// Writes and syncs after which the power fails.
    cut_after: Option<u64>,
    /// Writes for which there is room; none for as many as there will be.
    room: Option<u64>,
    /// Whether syncs fail.
    broken: bool,
    pace: DiskPace,
    lies: bool,
    chance: u64,
    /// Commits that wait for their time.
    waiting: u64,
    stats: DiskStats,
}

impl SimulatedDisk {
    /// An empty disk whose chances are drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let platters = Platters {
            current: Vec::new(),
            durable: Vec::new(),
            unsynced: BTreeSet::new(),
            life: 0,
            off: false,
            cut_after: None,
            room: None,
            broken: false,
            pace: DiskPace::default(),
            lies: false,
            chance: seed,
            waiting: 0,
            stats: DiskStats::default(),
        };
        Self(Arc::new(Inner {
            platters: Mutex::new(platters),
            off: watch::Sender::new(false),
        }))
    }

    /// How long commits take from this moment on.
    pub fn set_pace(&self, pace: DiskPace) {
        self.platters().pace = pace;
    }

    /// From this moment on most syncs are answered and not carried out, so that a power cut goes back to an
    /// older state of the whole disk. No log can bear that: for tests that see whether its damage is found.
    pub fn lie(&self) {
        self.platters().lies = true;
    }

    /// Cuts the power: whoever uses the disk meets errors from this moment on, and what is there at
    /// [`Self::power_up`] is what was synced, with a random part of what was written since.
    pub fn cut_power(&self) {
        self.platters().cut();
        self.0.off.send_replace(true);
    }

    /// Cuts the power in the middle of a commit: at the write or sync with this number from here, counted
    /// from one.
    pub fn cut_power_after(&self, steps: u64) {
        self.platters().cut_after = Some(steps.max(1));
    }

    /// Lets the disk be full once this many more writes were done, until [`Self::make_room`].
    pub fn fill_after(&self, writes: u64) {
        self.platters().room = Some(writes);
    }

    /// Ends [`Self::fill_after`].
    pub fn make_room(&self) {
        self.platters().room = None;
    }

    /// Whether there is room for another write.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.platters().room != Some(0)
    }

    /// Has every sync fail from this moment on, as on a disk with bad sectors.
    pub fn fail_syncs(&self) {
        self.platters().broken = true;
    }

    /// Whether the power is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.platters().off
    }

    /// Waits until the power is off.
    pub async fn power_lost(&self) {
        let mut off = self.0.off.subscribe();
        // The sender lives as long as this borrow.
        let _ = off.wait_for(|off| *off).await;
    }

    /// Gives what is left to the node that opens the disk next.
    pub fn power_up(&self) {
        self.platters().off = false;
        self.0.off.send_replace(false);
    }

    /// Makes the disk an empty one, as a replaced one is. The node that used it meets errors.
    pub fn wipe(&self) {
        let mut platters = self.platters();
        platters.life += 1;
        platters.current.clear();
        platters.durable.clear();
        platters.unsynced.clear();
    }

    /// Whether nothing was ever written, as far as a power cut has left anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.platters().current.is_empty()
    }

    /// What the machine would see, as the bytes of a file: for a look at a disk whose power is off.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        self.platters().current.clone()
    }

    /// What the disk has done so far.
    #[must_use]
    pub fn stats(&self) -> DiskStats {
        self.platters().stats
    }

    /// The disk for the next user; the one before meets errors.
    pub(crate) fn attach(&self) -> impl StorageBackend + use<> {
        let mut platters = self.platters();
        platters.life += 1;
        platters.stats.opened += 1;
        Attached {
            life: platters.life,
            disk: self.clone(),
        }
    }

    /// How long the next commit waits before it is written, and how long after it is synced.
    pub(crate) fn draw_waits(&self) -> (Duration, Duration) {
        let mut platters = self.platters();
        let DiskPace { sync, jitter } = platters.pace;
        let whole = sync + platters.up_to(jitter);
        let before = platters.up_to(whole);
        (before, whole.saturating_sub(before))
    }

    /// Counts a commit that waits, until the guard is dropped.
    pub(crate) fn commit_waits(&self) -> impl Drop + use<> {
        self.platters().waiting += 1;
        Commit(self.clone())
    }

    fn platters(&self) -> MutexGuard<'_, Platters> {
        // Nothing panics half-way through a change.
        self.0.platters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Commit(SimulatedDisk);

impl Drop for Commit {
    fn drop(&mut self) {
        self.0.platters().waiting -= 1;
    }
}

impl Platters {
    /// The next 64 random bits (SplitMix64).
    const fn next(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.next() % nanos.saturating_add(1).max(1))
    }

    fn cut(&mut self) {
        if self.off {
            return;
        }
        self.off = true;
        self.life += 1;
        self.cut_after = None;
        self.stats.cuts += 1;
        self.stats.forgotten += self.waiting;
        self.stats.torn += u64::from(!self.unsynced.is_empty());
        let mut left = std::mem::take(&mut self.durable);
        if self.lies {
            self.unsynced.clear();
        } else if self.next().is_multiple_of(2) {
            left.resize(self.current.len(), 0);
        }
        for sector in std::mem::take(&mut self.unsynced) {
            if self.next().is_multiple_of(2) {
                copy_sector(&self.current, &mut left, sector);
            }
        }
        self.durable.clone_from(&left);
        self.current = left;
    }

    fn sync(&mut self) {
        self.stats.syncs += 1;
        if self.lies && !self.stats.syncs.is_multiple_of(TRUE_SYNC_IN) {
            return;
        }
        self.durable.resize(self.current.len(), 0);
        for sector in std::mem::take(&mut self.unsynced) {
            copy_sector(&self.current, &mut self.durable, sector);
        }
    }
}

/// Copies as much of a sector as both have.
fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let start = sector.saturating_mul(SECTOR);
    let end = start.saturating_add(SECTOR).min(from.len()).min(to.len());
    if let (Some(from), Some(to)) = (from.get(start..end), to.get_mut(start..end)) {
        to.copy_from_slice(from);
    }
}

/// The disk in the hands of one node.
#[derive(Debug)]
struct Attached {
    disk: SimulatedDisk,
    life: u64,
}

impl Attached {
    fn platters(&self) -> io::Result<MutexGuard<'_, Platters>> {
        let platters = self.disk.platters();
        if platters.off || platters.life != self.life {
            return Err(io::Error::other("the power is off"));
        }
        Ok(platters)
    }

    /// The disk for one step of writing, unless the power fails at it.
    fn step(&self) -> io::Result<MutexGuard<'_, Platters>> {
        let mut platters = self.platters()?;
        match platters.cut_after.map(|left| left.saturating_sub(1)) {
            Some(0) => {
                platters.cut();
                drop(platters);
                self.disk.0.off.send_replace(true);
                Err(io::Error::other("the power fails"))
            }
            left => {
                platters.cut_after = left;
                Ok(platters)
            }
        }
    }
}

fn offset(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| ErrorKind::FileTooLarge.into())
}

impl StorageBackend for Attached {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.platters()?.current.len() as u64)
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let start = offset(at)?;
        let platters = self.platters()?;
        let bytes = platters.current.get(start..start.saturating_add(out.len()));
        out.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let len = offset(len)?;
        let mut platters = self.step()?;
        // What was cut off and comes back is zeroes, also where a sync had reached it.
        let kept = platters.current.len().min(len);
        platters.current.resize(len, 0);
        platters.unsynced.extend(kept / SECTOR..len.div_ceil(SECTOR));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut platters = self.step()?;
        if platters.broken {
            return Err(io::Error::other("bad sectors"));
        }
        platters.sync();
        Ok(())
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), io::Error> {
        let start = offset(at)?;
        let end = start.saturating_add(data.len());
        let mut platters = self.step()?;
        match &mut platters.room {
            Some(0) => {
                platters.stats.refused += 1;
                return Err(ErrorKind::StorageFull.into());
            }
            Some(left) => *left -= 1,
            None => {}
        }
        let place = platters.current.get_mut(start..end);
        place.ok_or(ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        platters.unsynced.extend(start / SECTOR..end.div_ceil(SECTOR));
        Ok(())
    }
}
