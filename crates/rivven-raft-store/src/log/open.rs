//! Opening a log: create it whole or not at all, verify it, and read its edges.

use std::{
    fs,
    path::{Path, PathBuf},
};

use openraft::{RaftTypeConfig, type_config::alias::LogIdOf};
use redb::{Builder, Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend};
use rivven_types::{ClusterId, InstanceId};

use super::{
    options::{LogOptions, LogOwner},
    shared::{Rider, Shared, State, contain},
    writer::{self, LOG, META},
};
use crate::{
    codec::{EntryCodec, FieldReader, put_u64},
    durable,
    error::{Record, StoreError},
    record::{self, RecordError},
    window::Window,
};

/// Opens or creates the file at `path`.
///
/// A new log is made under another name and renamed once it is complete. So a file of that name is a log,
/// and an empty or half-written one is damage, not a log that has never voted.
pub(super) fn from_path<C, K>(path: &Path, options: &LogOptions) -> Result<Shared<C>, StoreError>
where
    C: RaftTypeConfig,
    K: EntryCodec<C>,
{
    let open = |error: std::io::Error| {
        let path = path.to_path_buf();
        StoreError::Open {
            path,
            source: error.into(),
        }
    };
    let exists = match fs::metadata(path) {
        Ok(file) if file.len() == 0 => {
            let detail = "the file is empty".into();
            return Err(StoreError::Damaged {
                path: path.to_path_buf(),
                detail,
            });
        }
        Ok(_) => true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(open(error)),
    };
    if !exists {
        let unfinished = path.with_extension("new");
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(open(error)),
            _ => {}
        }
        contain(path, || {
            let created = builder(options).create(&unfinished);
            let db = created.map_err(|error| StoreError::from_open(path, error))?;
            initialise(&db, path, options)?;
            db.close().map_err(|error| StoreError::from_open(path, error))
        })?;
        durable::rename(&unfinished, path).map_err(open)?;
    }
    contain(path, || {
        let opened = builder(options).open(path);
        let db = opened.map_err(|error| StoreError::from_open(path, error))?;
        load::<C, K>(db, path.to_path_buf(), options)
    })
}

/// Whether an empty storage is to become a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IfEmpty {
    Create,
    Refuse,
}

/// Opens or creates the log in `backend`.
pub(super) fn from_backend<C, K>(
    backend: impl StorageBackend,
    path: &Path,
    options: &LogOptions,
    if_empty: IfEmpty,
) -> Result<Shared<C>, StoreError>
where
    C: RaftTypeConfig,
    K: EntryCodec<C>,
{
    contain(path, || {
        let opened = builder(options).create_with_backend(backend);
        let db = opened.map_err(|error| StoreError::from_open(path, error))?;
        let txn = db
            .begin_read()
            .map_err(|error| StoreError::from_redb(path, error))?;
        let tables = txn
            .list_tables()
            .map_err(|error| StoreError::from_redb(path, error))?;
        if tables.count() == 0 && if_empty == IfEmpty::Create {
            initialise(&db, path, options)?;
        }
        drop(txn);
        load::<C, K>(db, path.to_path_buf(), options)
    })
}

/// redb reads pages without verifying them, and rolls a damaged newest transaction back; only the check at
/// open sees either (`docs/formats/disk.md`).
fn builder(options: &LogOptions) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(options.cache_bytes);
    builder.set_check_integrity_on_open(true);
    builder
}

/// Makes an empty database an empty log.
fn initialise(db: &Database, path: &Path, options: &LogOptions) -> Result<(), StoreError> {
    let owner = owner_record(options.owner.as_ref());
    writer::transact(db, path, |txn| {
        drop(txn.open_table(LOG)?);
        writer::put(txn, Record::Owner, Some(&owner))
    })
}

/// Reads the edges of the log, the vote and the committed id.
fn load<C, K>(db: Database, path: PathBuf, options: &LogOptions) -> Result<Shared<C>, StoreError>
where
    C: RaftTypeConfig,
    K: EntryCodec<C>,
{
    let from = |record| {
        let path = &path;
        move |error: RecordError| StoreError::from_record(path, record, error)
    };
    let owner = read_meta(&db, &path, Record::Owner)?.ok_or_else(|| StoreError::Damaged {
        path: path.clone(),
        detail: "it is a redb file, but not a Raft log".into(),
    })?;
    let owner = check_owner(&owner, &path, options.owner.as_ref())?;

    let log_id = |record: Record| -> Result<Option<LogIdOf<C>>, StoreError> {
        let bytes = read_meta(&db, &path, record)?;
        let decode = |bytes: Vec<u8>| Ok(K::decode_log_id(record::unseal(record, &bytes)?)?);
        bytes.map(decode).transpose().map_err(from(record))
    };
    let purged = log_id(Record::Purged)?;
    let committed = log_id(Record::Committed)?;
    let vote = read_meta(&db, &path, Record::Vote)?
        .map(|bytes| Ok(K::decode_vote(record::unseal(Record::Vote, &bytes)?)?))
        .transpose()
        .map_err(from(Record::Vote))?;

    let window = match read_edges(&db, &path)? {
        None => Window::new(
            purged.clone(),
            purged.map_or(0, |id| id.index.saturating_add(1)),
            None,
        ),
        Some(Edges {
            first,
            last,
            last_record,
            count,
        }) => {
            // An entry per index, beginning right after the purged ones.
            let expected = purged.as_ref().map_or(first, |id| id.index.saturating_add(1));
            if first > expected || last.saturating_sub(first).saturating_add(1) != count {
                let detail = format!("it has {count} entries where {expected} to {last} should be");
                return Err(StoreError::Damaged { path, detail });
            }
            let (last, _) =
                record::split_entry::<C, K>(last, &last_record).map_err(from(Record::Entry(last)))?;
            Window::new(purged, first, Some(last))
        }
    };
    let state = State {
        window,
        vote,
        committed,
        owner,
        appends: 0,
        spare: Vec::new(),
        rider: Rider::default(),
    };
    Ok(Shared::new(path, db, state))
}

fn read_meta(db: &Database, path: &Path, record: Record) -> Result<Option<Vec<u8>>, StoreError> {
    let read = || -> Result<Option<Vec<u8>>, redb::Error> {
        let meta = match db.begin_read()?.open_table(META) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            other => other?,
        };
        Ok(meta.get(record.key())?.map(|bytes| bytes.value().to_vec()))
    };
    read().map_err(|error| StoreError::from_redb(path, error))
}

struct Edges {
    first: u64,
    last: u64,
    last_record: Vec<u8>,
    count: u64,
}

fn read_edges(db: &Database, path: &Path) -> Result<Option<Edges>, StoreError> {
    let read = || -> Result<Option<Edges>, redb::Error> {
        let log = db.begin_read()?.open_table(LOG)?;
        let count = log.len()?;
        let (Some((first, _)), Some((last, record))) = (log.first()?, log.last()?) else {
            return Ok(None);
        };
        Ok(Some(Edges {
            first: first.value(),
            last: last.value(),
            last_record: record.value().to_vec(),
            count,
        }))
    };
    read().map_err(|error| StoreError::from_redb(path, error))
}

/// The record of a log's owner; its content is empty for a log that is anybody's.
fn owner_record(owner: Option<&LogOwner>) -> Vec<u8> {
    let mut out = Vec::new();
    let Ok(()) = record::seal(Record::Owner, &mut out, |out| {
        if let Some(LogOwner {
            cluster,
            node,
            instance,
        }) = owner
        {
            out.extend_from_slice(&cluster.to_bytes());
            put_u64(out, *node);
            out.extend_from_slice(&instance.to_bytes());
        }
        Ok::<(), std::convert::Infallible>(())
    });
    out
}

fn check_owner(
    bytes: &[u8],
    path: &Path,
    expected: Option<&LogOwner>,
) -> Result<Option<LogOwner>, StoreError> {
    let decode = || -> Result<Option<LogOwner>, RecordError> {
        let mut fields = FieldReader::new(record::unseal(Record::Owner, bytes)?);
        if fields.rest().is_empty() {
            return Ok(None);
        }
        let owner = LogOwner {
            cluster: ClusterId::from_bytes(fields.array()?),
            node: fields.u64()?,
            instance: InstanceId::from_bytes(fields.array()?),
        };
        fields.finish()?;
        Ok(Some(owner))
    };
    let found = decode().map_err(|error| StoreError::from_record(path, Record::Owner, error))?;
    match (expected, found) {
        (Some(expected), Some(found)) if *expected != found => Err(StoreError::Foreign {
            path: path.to_path_buf(),
            expected: expected.to_string(),
            found: found.to_string(),
        }),
        (_, found) => Ok(found),
    }
}
