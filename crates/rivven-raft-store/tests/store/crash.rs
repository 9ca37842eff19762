//! Power cuts at random moments, keeping a random part of what was not synced.

use crate::{
    disk::Disk,
    model::{Model, Step},
    support::{Random, Store, entries, inline, read_all, submit, threaded},
};

/// Cuts of a test run, in four parts that run side by side; each takes some 8 ms unoptimized.
/// `RIVVEN_TEST_CUTS` says otherwise; `cargo xtask ci` asks for 10,000.
const CUTS: u64 = 1000;
const PARTS: u64 = 4;

/// Cuts in the middle of group commits are as many as the others divided by this.
const CROWD_SHARE: u64 = 20;

/// The seeds of a test: one that is to be replayed, or as many as asked for.
fn seeds(share: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let cuts = number("RIVVEN_TEST_CUTS").unwrap_or(CUTS).div_ceil(share);
    number("RIVVEN_TEST_SEED").map_or(0..cuts, |seed| seed..seed + 1)
}

/// Runs random steps until the power fails, then opens what is left. The log must be that of the
/// acknowledged steps, or that and the step that was under way.
async fn cut_once(seed: u64, disk: Disk) -> Result<(), String> {
    let mut random = Random(seed);
    let mut store = Store::open_with_backend(disk.clone(), "disk", inline()).map_err(|e| e.to_string())?;
    let mut acknowledged = Model::default();
    disk.cut_power_at(disk.steps() + 1 + random.below(120), Random(random.next()));
    let mut under_way = acknowledged.clone();
    // The committed ids that may be found: the one that rode in the last transaction, and those after it.
    let mut saved = vec![None];
    while disk.remains().is_none() {
        let step = Step::random(&mut random, &acknowledged);
        under_way = acknowledged.clone();
        under_way.apply(&step);
        saved.push(under_way.committed);
        if step.run(&mut store).await.is_ok() && disk.remains().is_none() {
            acknowledged = under_way.clone();
            if matches!(step, Step::Append(_) | Step::Vote(_)) {
                saved = vec![acknowledged.committed];
            }
        }
    }
    drop(store);

    let left = disk.remains().ok_or("the power never failed")?;
    let left = cut_while_opening(left, &mut random)?;
    let mut store =
        Store::open_with_backend(Disk::with(left), "disk", inline()).map_err(|e| e.to_string())?;
    let found = Model::of(&mut store).await;
    let same = |expected: &Model| found.without_committed() == expected.without_committed();
    if !same(&acknowledged) && !same(&under_way) {
        return Err(format!(
            "found {found:?}\nacknowledged {acknowledged:?}\nunder way {under_way:?}"
        ));
    }
    if !saved.contains(&found.committed) {
        return Err(format!(
            "committed {:?} where one of {saved:?} was saved",
            found.committed
        ));
    }
    let entries = read_all(&mut store).await.map_err(|e| e.to_string())?;
    (entries.len() == found.entries.len())
        .then_some(())
        .ok_or("entries are missing".into())
}

/// Lets the power fail again while the store is opened, which repairs what the first cut left, or closed.
fn cut_while_opening(image: Vec<u8>, random: &mut Random) -> Result<Vec<u8>, String> {
    let disk = Disk::with(image);
    disk.cut_power_at(1 + random.below(24), Random(random.next()));
    match Store::open_with_backend(disk.clone(), "disk", inline()) {
        Ok(store) => drop(store),
        Err(error) if disk.remains().is_none() => return Err(error.to_string()),
        Err(_the_power_failed) => {}
    }
    Ok(disk.remains().unwrap_or_else(|| disk.durable()))
}

async fn cut_part(part: u64) {
    for seed in seeds(1).filter(|seed| seed % PARTS == part) {
        if let Err(report) = cut_once(seed, Disk::default()).await {
            panic!("replay with RIVVEN_TEST_SEED={seed}: {report}");
        }
    }
}

#[tokio::test]
async fn a_power_cut_never_loses_what_was_acknowledged_0() {
    cut_part(0).await;
}

#[tokio::test]
async fn a_power_cut_never_loses_what_was_acknowledged_1() {
    cut_part(1).await;
}

#[tokio::test]
async fn a_power_cut_never_loses_what_was_acknowledged_2() {
    cut_part(2).await;
}

#[tokio::test]
async fn a_power_cut_never_loses_what_was_acknowledged_3() {
    cut_part(3).await;
}

/// Appends many entries without waiting for any, until the power fails in the middle of their batches. What
/// is left must be a run of them without a hole, and contain every one that was acknowledged.
async fn cut_a_crowd(seed: u64) -> Result<(), String> {
    let mut random = Random(seed);
    let disk = Disk::default();
    let mut store = Store::open_with_backend(disk.clone(), "disk", threaded()).map_err(|e| e.to_string())?;
    disk.cut_power_at(disk.steps() + 1 + random.below(150), Random(random.next()));
    let mut outcomes = Vec::new();
    for index in 0.. {
        match submit(&mut store, entries(1, index..index + 1)).await {
            Ok(outcome) => outcomes.push(outcome),
            Err(_) => break,
        }
        if random.below(8) == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut acknowledged = 0;
    for outcome in outcomes {
        acknowledged += u64::from(outcome.await.is_ok());
    }
    drop(store);
    let left = Disk::with(disk.remains().ok_or("the power never failed")?);
    let mut store = Store::open_with_backend(left, "disk", inline()).map_err(|e| e.to_string())?;
    let found = read_all(&mut store).await.map_err(|e| e.to_string())?;
    let count = found.len() as u64;
    if count < acknowledged || found != entries(1, 0..count) {
        return Err(format!("{count} entries are left of {acknowledged} acknowledged"));
    }
    Ok(())
}

#[tokio::test]
async fn a_power_cut_in_a_crowd_of_appends_never_loses_what_was_acknowledged() {
    for seed in seeds(CROWD_SHARE) {
        if let Err(report) = cut_a_crowd(seed).await {
            panic!("RIVVEN_TEST_SEED={seed}, though threads differ from run to run: {report}");
        }
    }
}

/// The tests above must be able to fail: a disk whose syncs do nothing loses acknowledged entries.
#[tokio::test]
async fn a_disk_that_lies_about_syncs_is_noticed_by_this_test() {
    let mut noticed = 0;
    for seed in 0..20 {
        let disk = Disk::default();
        // The log itself is there; what is written to it never is.
        drop(Store::open_with_backend(disk.clone(), "disk", inline()).unwrap());
        disk.lie_about_syncs();
        noticed += u32::from(cut_once(seed, disk).await.is_err());
    }
    assert!(noticed > 15, "only {noticed} of 20 losses were noticed");
}
