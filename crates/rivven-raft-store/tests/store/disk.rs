//! A disk in memory that counts its syncs, fails when told to, and forgets what was not synced.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

use redb::StorageBackend;

use crate::support::Random;

/// What a power cut keeps or loses as a whole.
const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<Platters>>, Arc<Condvar>);

#[derive(Debug, Default)]
struct Platters {
    /// What the machine sees.
    current: Vec<u8>,
    /// What a power cut cannot take.
    durable: Vec<u8>,
    /// Sectors written since the last sync.
    unsynced: BTreeSet<usize>,
    syncs: u64,
    writes: u64,
    /// Writes and syncs so far, and the one at which the power fails.
    steps: u64,
    cut_at: Option<(u64, Random)>,
    /// What was left after the power failed.
    remains: Option<Vec<u8>>,
    /// Syncs return without having synced.
    lies: bool,
    /// Syncs that may still happen; more of them wait.
    syncs_allowed: Option<u64>,
    fail_sync: Option<u64>,
    full_at_write: Option<u64>,
}

impl Disk {
    pub(crate) fn with(image: Vec<u8>) -> Self {
        let platters = Platters {
            durable: image.clone(),
            current: image,
            ..Platters::default()
        };
        Self(Arc::new(Mutex::new(platters)), Arc::default())
    }

    fn platters(&self) -> MutexGuard<'_, Platters> {
        self.0.lock().unwrap()
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.platters().syncs
    }

    pub(crate) fn writes(&self) -> u64 {
        self.platters().writes
    }

    pub(crate) fn steps(&self) -> u64 {
        self.platters().steps
    }

    /// What a process that starts now finds: the page cache survives a killed process.
    pub(crate) fn image(&self) -> Vec<u8> {
        self.platters().current.clone()
    }

    /// What a power cut at this moment leaves, at the least.
    pub(crate) fn durable(&self) -> Vec<u8> {
        self.platters().durable.clone()
    }

    /// Fails the power at this step from now on; which unsynced sectors survive is up to `random`.
    pub(crate) fn cut_power_at(&self, step: u64, random: Random) {
        self.platters().cut_at = Some((step, random));
    }

    /// What is on the disk after the power failed, if it has.
    pub(crate) fn remains(&self) -> Option<Vec<u8>> {
        self.platters().remains.clone()
    }

    /// What a power cut at this moment leaves, with a random part of what was not synced.
    pub(crate) fn after_power_cut(&self, random: &mut Random) -> Vec<u8> {
        self.platters().after_power_cut(random)
    }

    /// Syncs nothing from now on, and says that it did.
    pub(crate) fn lie_about_syncs(&self) {
        self.platters().lies = true;
    }

    /// Lets this many syncs happen; those after them wait for the next call.
    pub(crate) fn allow_syncs(&self, count: u64) {
        self.platters().syncs_allowed = Some(count);
        self.1.notify_all();
    }

    /// Holds every sync until [`Self::allow_syncs`], or until the guard goes: a test that fails while its
    /// store waits for a sync must not wait for the store.
    pub(crate) fn hold_syncs(&self) -> Release {
        self.allow_syncs(0);
        Release(self.clone())
    }

    /// The sync with this number fails with an I/O error, without having synced.
    pub(crate) fn fail_sync(&self, number: u64) {
        self.platters().fail_sync = Some(number);
    }

    /// There is no room from the write with this number on, nor for a longer file.
    pub(crate) fn fill_at_write(&self, number: u64) {
        self.platters().full_at_write = Some(number);
    }
}

/// Lets all syncs happen when it is dropped.
pub(crate) struct Release(Disk);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.allow_syncs(u64::MAX);
    }
}

impl Platters {
    /// Whether the next write finds no room.
    fn is_full(&self) -> bool {
        self.full_at_write.is_some_and(|at| self.writes + 1 >= at)
    }

    /// Counts a step; an error once the power is off.
    fn step(&mut self) -> io::Result<()> {
        if self.remains.is_some() {
            return Err(io::Error::other("the power is off"));
        }
        self.steps += 1;
        match &mut self.cut_at {
            Some((at, random)) if *at == self.steps => {
                let mut random = random.clone();
                self.remains = Some(self.after_power_cut(&mut random));
                Err(io::Error::other("the power fails"))
            }
            _ => Ok(()),
        }
    }

    fn after_power_cut(&self, random: &mut Random) -> Vec<u8> {
        let mut image = self.durable.clone();
        if random.below(2) == 0 {
            image.resize(self.current.len(), 0);
        }
        for sector in &self.unsynced {
            if random.below(2) == 0 {
                copy_sector(&self.current, &mut image, *sector);
            }
        }
        image
    }

    fn sync(&mut self) {
        self.durable.resize(self.current.len(), 0);
        for sector in std::mem::take(&mut self.unsynced) {
            copy_sector(&self.current, &mut self.durable, sector);
        }
    }
}

/// As much of a sector as both have.
fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let start = sector * SECTOR;
    let end = (start + SECTOR).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.platters().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let start = usize::try_from(offset).unwrap();
        let platters = self.platters();
        let bytes = platters
            .current
            .get(start..start + out.len())
            .ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut platters = self.platters();
        platters.step()?;
        let len = usize::try_from(len).unwrap();
        if len > platters.current.len() && platters.is_full() {
            return Err(ErrorKind::StorageFull.into());
        }
        // What was cut off and comes back is zeroes, also where a sync had reached it.
        let kept = platters.current.len().min(len);
        platters.current.resize(len, 0);
        let sectors = kept / SECTOR..len.div_ceil(SECTOR);
        platters.unsynced.extend(sectors);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let held = |platters: &mut Platters| platters.syncs_allowed == Some(0);
        let mut platters = self.1.wait_while(self.platters(), held).unwrap();
        platters.syncs_allowed = platters.syncs_allowed.map(|allowed| allowed - 1);
        platters.step()?;
        platters.syncs += 1;
        if platters.fail_sync == Some(platters.syncs) {
            return Err(io::Error::from_raw_os_error(5));
        }
        if !platters.lies {
            platters.sync();
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut platters = self.platters();
        let full = platters.is_full();
        if !full {
            // Before the step is counted: a power cut in the middle of a write may leave a part of it.
            let start = usize::try_from(offset).unwrap();
            platters.current[start..start + data.len()].copy_from_slice(data);
            let last = (start + data.len().max(1) - 1) / SECTOR;
            platters.unsynced.extend(start / SECTOR..=last);
        }
        platters.step()?;
        platters.writes += 1;
        if full {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}
