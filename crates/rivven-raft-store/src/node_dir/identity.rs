//! `identity.json`: whose directory it is.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use rivven_types::{BootEpoch, ClusterId, InstanceId, NodeId};
use serde::{Deserialize, Serialize};

use super::NodeDirError;
use crate::durable;

/// Version of `identity.json` that this build writes. 0 is unstable: the next release may refuse it.
pub(super) const IDENTITY_VERSION: u32 = 0;

/// Largest `identity.json` that is read; a real one has about 250 bytes.
const MAX_IDENTITY_BYTES: u64 = 64 * 1024;

/// What `identity.json` says.
pub(super) struct Identity {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    pub(super) instance: InstanceId,
    pub(super) boot_epoch: BootEpoch,
    pub(super) has_log: bool,
}

/// `identity.json`. Ids are text, so that an operator can compare them with what logs and errors print.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    version: u32,
    cluster: String,
    node: NodeId,
    instance: String,
    boot_epoch: u64,
    has_log: bool,
    /// CRC32C over the other fields. A boot epoch that lost a digit would let old connections supersede
    /// new ones, and JSON alone would not notice.
    crc32c: String,
}

impl IdentityFile {
    fn checksum(&self) -> String {
        let Self {
            version,
            cluster,
            node,
            instance,
            boot_epoch,
            has_log,
            crc32c: _,
        } = self;
        let text = format!("{version} {cluster} {node} {instance} {boot_epoch} {has_log}");
        format!("{:08x}", crc32c::crc32c(text.as_bytes()))
    }
}

/// The one field that every version has.
#[derive(Deserialize)]
struct VersionOnly {
    version: u64,
}

impl Identity {
    pub(super) fn read(path: &Path) -> Result<Option<Self>, NodeDirError> {
        let mut text = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_IDENTITY_BYTES).read_to_end(&mut text));
        match read {
            Ok(_) => Self::parse(&text, path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => {
                let path = path.to_path_buf();
                Err(NodeDirError::NotReadable { path, source })
            }
        }
    }

    pub(super) fn parse(text: &[u8], path: &Path) -> Result<Self, NodeDirError> {
        let damaged = |reason: String| {
            let path = path.to_path_buf();
            NodeDirError::IdentityDamaged { path, reason }
        };
        let found = serde_json::from_slice::<VersionOnly>(text)
            .map_err(|error| damaged(error.to_string()))?
            .version;
        if found > u64::from(IDENTITY_VERSION) {
            let path = path.to_path_buf();
            return Err(NodeDirError::NewerFormat { path, found });
        }
        let file: IdentityFile = serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
        if file.crc32c != file.checksum() {
            return Err(damaged("its checksum does not match".into()));
        }
        let id = |error: rivven_types::ParseIdError| damaged(error.to_string());
        Ok(Self {
            cluster: file.cluster.parse().map_err(id)?,
            node: file.node,
            instance: file.instance.parse().map_err(id)?,
            boot_epoch: BootEpoch(file.boot_epoch),
            has_log: file.has_log,
        })
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), NodeDirError> {
        let mut file = IdentityFile {
            version: IDENTITY_VERSION,
            cluster: self.cluster.to_string(),
            node: self.node,
            instance: self.instance.to_string(),
            boot_epoch: self.boot_epoch.0,
            has_log: self.has_log,
            crc32c: String::new(),
        };
        file.crc32c = file.checksum();
        let written = serde_json::to_vec_pretty(&file)
            .map_err(io::Error::from)
            .and_then(|text| durable::replace(path, &text));
        written.map_err(|source| {
            let path = path.to_path_buf();
            NodeDirError::NotWritable { path, source }
        })
    }
}
