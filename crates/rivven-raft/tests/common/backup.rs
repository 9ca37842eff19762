//! Backups that are stored and restored.

use std::{collections::BTreeMap, fs::File, io::Write as _, path::Path};

use rivven_raft::{Backup, KvStore, NodeId, OfflineError, PartialDir, RestoreAs, restore_backup};
use rivven_types::ClusterId;

/// The cluster that a backup is restored as.
pub(crate) const NEW: ClusterId = ClusterId::from_bytes([8; 16]);

pub(crate) async fn save(mut backup: Backup, path: &Path) {
    let mut file = File::create(path).unwrap();
    while let Some(piece) = backup.next().await.unwrap() {
        assert!(piece.len() <= 1 << 20);
        file.write_all(&piece).unwrap();
    }
    file.sync_all().unwrap();
}

pub(crate) fn founder() -> RestoreAs {
    RestoreAs {
        addr: "node9:9093".parse().unwrap(),
        features: BTreeMap::new(),
        at_ms: 1_700_000_000_000,
    }
}

/// Restores a backup as node `node_id` of the new cluster, which is to be at `target`.
pub(crate) async fn restore(file: &Path, target: &Path, node_id: NodeId) -> Result<(), OfflineError> {
    let partial = PartialDir::create(target, NEW, node_id, [9; 16])?;
    restore_backup::<KvStore>(file, partial.dir(), founder()).await?;
    Ok(partial.finish()?)
}
