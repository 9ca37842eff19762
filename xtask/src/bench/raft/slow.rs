//! One of three disks that takes a hundred times as long as the others to sync, as far as elections allow: as a
//! follower's, as the leader's.

use std::{fs::File, io::Write as _, path::Path, time::Duration};

use anyhow::Result;
use tokio::time::Instant;

use super::{
    Bench, VALUE_BYTES,
    group::{Group, NODES, Shape},
    put_load,
};

/// How many times as long.
const TIMES: u32 = 100;

/// The longest that a sync is made to take. Whoever leads has to have synced its vote before others stand, so a disk
/// slower than an election timeout (150 ms here) leads nothing.
const LONGEST: Duration = Duration::from_millis(50);

/// Clients at a time.
const CLIENTS: [usize; 2] = [1, 64];

/// Syncs of which the middle one counts.
const SAMPLES: usize = 51;

impl Bench {
    pub(super) async fn slow_disk(&mut self) -> Result<()> {
        let dir = self.dir.path().join("slow");
        std::fs::create_dir(&dir)?;
        let sync = time_of_sync(&dir)?;
        let slow = (sync * TIMES).min(LONGEST);
        println!("slow disk: each sync waits for {slow:?}; one of a file of 4 KiB takes {sync:?} here");
        let shape = Shape {
            slow: Some((NODES, slow)),
            ..self.shape
        };
        let group = Group::start(&dir, shape).await?;
        for (leader, whose) in [(1, "a follower's"), (NODES, "the leader's")] {
            group.lead(leader).await?;
            for clients in CLIENTS {
                let case = format!("put {VALUE_BYTES} B, {clients} clients, {whose} disk slow");
                let load = put_load(&group, clients, self.effort.load).await?;
                self.loaded(&case, &load, None);
            }
        }
        group.stop().await;
        Ok(())
    }
}

/// How long a sync of a small write takes on this disk.
fn time_of_sync(dir: &Path) -> Result<Duration> {
    let path = dir.join("sync");
    let mut file = File::create(&path)?;
    let mut times = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let begin = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    std::fs::remove_file(&path)?;
    times.sort();
    Ok(times.get(SAMPLES / 2).copied().unwrap_or_default())
}
