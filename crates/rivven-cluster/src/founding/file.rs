//! `founding.json`: what was accepted, durable before anybody is told.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::Path,
};

use rivven_transport::LocalIdentity;
use rivven_types::{ClusterId, InstanceId, NodeId, PeerAddr};
use serde::{Deserialize, Serialize};

use super::{Founder, Founding, FoundingId};
use crate::StartError;

/// Version of the file. 0 is unstable: the next release may refuse it.
const VERSION: u32 = 0;

/// Largest file that is read; a real one has a few kilobytes.
const MAX_BYTES: u64 = 256 * 1024;

/// The file. Ids are text, so that an operator can compare them with what logs and errors print.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    cluster: String,
    node: NodeId,
    founding_id: String,
    founders: Vec<RecordFounder>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    predecessors: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordFounder {
    node: NodeId,
    instance: String,
    address: PeerAddr,
}

/// What was accepted in this directory; `None` if nothing was.
pub(crate) fn read(path: &Path, local: &LocalIdentity) -> Result<Option<Founding>, StartError> {
    let unusable = |cause: io::Error| StartError::File {
        path: path.to_path_buf(),
        cause,
    };
    let mut text = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(error)),
    }
    let record: Record = serde_json::from_slice(&text).map_err(|error| unusable(error.into()))?;
    if record.version != VERSION {
        let cause = format!("format version {} is not known to this release", record.version);
        return Err(unusable(io::Error::new(io::ErrorKind::InvalidData, cause)));
    }
    let invalid = |error| unusable(io::Error::new(io::ErrorKind::InvalidData, error));
    let cluster: ClusterId = record.cluster.parse().map_err(invalid)?;
    if (cluster, record.node) != (local.cluster, local.node) {
        return Err(StartError::ForeignFounding {
            path: path.to_path_buf(),
            cluster,
            node: record.node,
        });
    }
    let id: InstanceId = record.founding_id.parse().map_err(invalid)?;
    let founder = |founder: RecordFounder| {
        let instance = founder.instance.parse().map_err(invalid)?;
        let addr = founder.address;
        Ok((founder.node, Founder { instance, addr }))
    };
    let founders = record
        .founders
        .into_iter()
        .map(founder)
        .collect::<Result<_, StartError>>()?;
    let predecessor = |text: String| text.parse().map(FoundingId).map_err(invalid);
    let predecessors = record.predecessors.into_iter().map(predecessor);
    Ok(Some(Founding {
        id: FoundingId(id),
        founders,
        predecessors: predecessors.collect::<Result<_, StartError>>()?,
    }))
}

/// Replaces the file atomically and durably.
pub(crate) fn write(path: &Path, local: &LocalIdentity, founding: &Founding) -> io::Result<()> {
    let founder = |(node, founder): (&NodeId, &Founder)| RecordFounder {
        node: *node,
        instance: founder.instance.to_string(),
        address: founder.addr.clone(),
    };
    let record = Record {
        version: VERSION,
        cluster: local.cluster.to_string(),
        node: local.node,
        founding_id: founding.id.to_string(),
        founders: founding.founders.iter().map(founder).collect(),
        predecessors: founding.predecessors.iter().map(ToString::to_string).collect(),
    };
    let text = serde_json::to_vec_pretty(&record)?;
    let temporary = path.with_extension("json.new");
    let mut file = File::create(&temporary)?;
    file.write_all(&text)?;
    file.sync_all()?;
    replace(&temporary, path)
}

/// Gives a file that is synced its name, atomically and durably.
pub(crate) fn replace(from: &Path, path: &Path) -> io::Result<()> {
    fs::rename(from, path)?;
    // The new name itself must survive a power cut. Only Unix can sync a directory.
    match path.parent() {
        Some(parent) if cfg!(unix) => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}
