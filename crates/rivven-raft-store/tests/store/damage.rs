//! Bit rot: every damaged file is refused or harmless, none gives wrong entries, none panics.

use openraft::{RaftLogReader, storage::RaftLogStorage};
use redb::{ReadableTable, TableDefinition};

use crate::{
    disk::Disk,
    model::Model,
    support::{Codec, Random, Store, append, entries, inline, log_id, store_error, threaded, vote},
};

/// Files with one flipped bit or one lost page that a test run looks at.
const DAMAGES: u64 = 400;

const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

/// A closed store with 400 entries, a vote and a committed id.
async fn closed_image() -> (Vec<u8>, Model) {
    let disk = Disk::default();
    let mut store = Store::open_with_backend(disk.clone(), "disk", inline()).unwrap();
    for start in (0..400).step_by(20) {
        append(&mut store, entries(1, start..start + 20)).await.unwrap();
    }
    store.save_vote(&vote(3)).await.unwrap();
    store.save_committed(Some(log_id(1, 390))).await.unwrap();
    store.purge(log_id(1, 30)).await.unwrap();
    let model = Model::of(&mut store).await;
    drop(store);
    (disk.image(), model)
}

/// Opens a damaged image. True if it was refused, false if the damage changed nothing.
async fn refused_or_harmless(image: Vec<u8>, expected: &Model, what: &str) -> bool {
    match Store::open_with_backend(Disk::with(image), "disk", inline()) {
        Err(error) => {
            assert!(
                ["log-damaged", "log-other-format"].contains(&error.code()),
                "{what}: {error}"
            );
            assert!(error.to_string().contains("member replace"), "{what}: {error}");
            true
        }
        Ok(mut store) => {
            assert_eq!(Model::of(&mut store).await, *expected, "{what}");
            false
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_is_refused_or_harmless() {
    let (image, expected) = closed_image().await;
    let mut random = Random(11);
    let mut refused = 0;
    for round in 0..DAMAGES {
        let bit = random.below(image.len() as u64 * 8);
        let mut damaged = image.clone();
        damaged[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
        let what = format!("round {round}, bit {bit}");
        refused += u64::from(refused_or_harmless(damaged, &expected, &what).await);
    }
    assert!(
        refused > DAMAGES / 10,
        "only {refused} of {DAMAGES} flipped bits were noticed"
    );
}

#[tokio::test]
async fn a_zeroed_page_is_refused_or_harmless() {
    let (image, expected) = closed_image().await;
    let mut refused = 0;
    for page in 0..image.len() / 4096 {
        let mut damaged = image.clone();
        damaged[page * 4096..(page + 1) * 4096].fill(0);
        refused += u64::from(refused_or_harmless(damaged, &expected, &format!("page {page}")).await);
    }
    assert!(refused > 0, "no zeroed page was noticed");
}

#[tokio::test]
async fn a_truncated_file_is_refused() {
    let (image, expected) = closed_image().await;
    let mut random = Random(5);
    for _ in 0..50 {
        let len = usize::try_from(random.below(image.len() as u64)).unwrap();
        if len > 0 {
            let what = format!("{len} bytes");
            assert!(
                refused_or_harmless(image[..len].to_vec(), &expected, &what).await,
                "{what}"
            );
        }
    }
}

/// Changes records behind redb's back, so that its own checksums hold.
fn rewrite(path: &std::path::Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let db = redb::Database::open(path).unwrap();
    let txn = db.begin_write().unwrap();
    change(&txn);
    txn.commit().unwrap();
}

#[tokio::test]
async fn a_damaged_entry_is_named_and_stops_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let mut store = Store::open(&path, threaded()).unwrap();
    append(&mut store, entries(1, 0..100)).await.unwrap();
    drop(store);
    let record = |txn: &redb::WriteTransaction, index: u64| {
        txn.open_table(LOG)
            .unwrap()
            .get(index)
            .unwrap()
            .unwrap()
            .value()
            .to_vec()
    };
    rewrite(&path, |txn| {
        let mut damaged = record(txn, 41);
        *damaged.last_mut().unwrap() ^= 1;
        // The right bytes under the wrong index are damage too.
        let misplaced = record(txn, 50);
        let mut log = txn.open_table(LOG).unwrap();
        log.insert(41, damaged.as_slice()).unwrap();
        log.insert(60, misplaced.as_slice()).unwrap();
    });
    for index in [41, 60] {
        let store = Store::open(&path, threaded()).unwrap();
        let mut reader = store.reader();
        assert_eq!(
            reader.try_get_log_entries(0..41).await.unwrap(),
            entries(1, 0..41)
        );
        let error = reader.try_get_log_entries(index..index + 1).await.unwrap_err();
        assert_eq!(store_error(&error).code(), "log-damaged");
        let message = error.to_string();
        assert!(
            message.contains(&format!("entry {index} of the log {}", path.display())),
            "{message}"
        );
        assert!(message.contains("member replace"), "{message}");
        // A log that lies in one place is not trusted in another.
        assert!(reader.try_get_log_entries(0..1).await.is_err());
    }
}

#[tokio::test]
async fn a_missing_entry_is_noticed_when_the_log_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let mut store = Store::open(&path, threaded()).unwrap();
    append(&mut store, entries(1, 0..100)).await.unwrap();
    drop(store);
    rewrite(&path, |txn| drop(txn.open_table(LOG).unwrap().remove(7).unwrap()));
    let error = Store::open(&path, threaded()).err().unwrap();
    assert_eq!(error.code(), "log-damaged");
    assert!(error.to_string().contains("99 entries where 0 to 99"), "{error}");
}

#[tokio::test]
async fn an_unreadable_vote_is_fatal_and_never_no_vote() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let check = |change: fn(&mut Vec<u8>), code: &str, says: &str| {
        rewrite(&path, |txn| {
            let mut meta = txn.open_table(META).unwrap();
            let mut vote = meta.get("vote").unwrap().unwrap().value().to_vec();
            change(&mut vote);
            meta.insert("vote", vote.as_slice()).unwrap();
        });
        let error = Store::open(&path, threaded()).err().unwrap();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    };
    let mut store = Store::open(&path, threaded()).unwrap();
    store.save_vote(&vote(3)).await.unwrap();
    drop(store);
    check(|vote| vote[6] ^= 1, "log-damaged", "the record \"vote\"");
    check(|vote| vote.truncate(3), "log-damaged", "the bytes end");
    check(Vec::clear, "log-damaged", "the bytes end");
}

#[tokio::test]
async fn a_record_of_a_newer_release_is_refused_by_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    drop(Store::open(&path, threaded()).unwrap());
    // Version 9, the checksum over key, version and content, then the content.
    let mut record = vec![9];
    let sum = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(b"vote"), &[9]), b"new");
    record.extend_from_slice(&sum.to_le_bytes());
    record.extend_from_slice(b"new");
    rewrite(&path, |txn| {
        drop(
            txn.open_table(META)
                .unwrap()
                .insert("vote", record.as_slice())
                .unwrap(),
        )
    });
    let error = Store::open(&path, threaded()).err().unwrap();
    assert_eq!(error.code(), "log-newer-format");
    assert!(error.to_string().contains("format version 9"), "{error}");
}

#[tokio::test]
async fn a_record_of_a_newer_codec_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let mut store = Store::open(&path, threaded()).unwrap();
    append(&mut store, entries(1, 0..3)).await.unwrap();
    drop(store);
    // An entry whose payload is of a kind that this build does not know, with a checksum that holds.
    rewrite(&path, |txn| {
        let mut log = txn.open_table(LOG).unwrap();
        let mut record = log.get(2).unwrap().unwrap().value().to_vec();
        let log_id_len = usize::from(u16::from_le_bytes([record[5], record[6]]));
        record[7 + log_id_len] = 200;
        let sum = crc32c::crc32c_append(crc32c::crc32c(b"entry"), &2_u64.to_le_bytes());
        let sum = crc32c::crc32c_append(crc32c::crc32c_append(sum, &[record[0]]), &record[5..]);
        record[1..5].copy_from_slice(&sum.to_le_bytes());
        log.insert(2, record.as_slice()).unwrap();
    });
    let store = Store::open(&path, threaded());
    let error = match store {
        Err(error) => error,
        Ok(store) => {
            let error = store.reader().try_get_log_entries(..).await.unwrap_err();
            assert_eq!(store_error(&error).code(), "log-newer-format", "{error}");
            return;
        }
    };
    assert_eq!(error.code(), "log-newer-format", "{error}");
}

#[tokio::test]
async fn a_file_of_another_redb_is_told_from_rot() {
    let (image, _) = closed_image().await;
    // redb's header has its version in the first byte of either commit slot.
    let slots = [64, 192].map(|slot| (slot, image[slot]));
    assert_eq!(
        slots.map(|(_, version)| version),
        [3, 3],
        "redb moved its version"
    );
    for version in [2, 9] {
        let mut other = image.clone();
        slots.iter().for_each(|(slot, _)| other[*slot] = version);
        let error = Store::open_with_backend(Disk::with(other), "disk", inline())
            .err()
            .unwrap();
        assert_eq!(error.code(), "log-other-format", "{error}");
    }
}

#[test]
fn no_bytes_make_the_codec_of_these_tests_panic() {
    use rivven_raft_store::EntryCodec;
    let mut random = Random(17);
    for _ in 0..20_000 {
        let len = random.below(64);
        let bytes: Vec<u8> = (0..len).map(|_| u8::try_from(random.below(4)).unwrap()).collect();
        drop(Codec::decode_entry(log_id(1, 1), &bytes));
        drop(Codec::decode_membership(&bytes));
        drop(Codec::decode_vote(&bytes));
        drop(Codec::decode_log_id(&bytes));
    }
}
