//! Memberships as bytes, for codecs whose node ids are `u64`; what a node is stays the codec's business.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{Membership, Node};

use crate::codec::{CodecError, FieldReader, put_bytes, put_u64};

/// Appends the joint configurations, then every node with what `write` makes of it.
///
/// Numbers are those of [`put_u64`]: how many configurations, of each how many voters and their ids; how
/// many nodes, of each its id and its bytes behind a length.
pub fn put_membership<N: Node>(
    out: &mut Vec<u8>,
    membership: &Membership<u64, N>,
    write: impl Fn(&N, &mut Vec<u8>),
) {
    let configs = membership.get_joint_config();
    put_u64(out, configs.len() as u64);
    for config in configs {
        put_u64(out, config.len() as u64);
        config.iter().for_each(|node| put_u64(out, *node));
    }
    put_u64(out, membership.nodes().count() as u64);
    let mut bytes = Vec::new();
    for (node, data) in membership.nodes() {
        put_u64(out, *node);
        bytes.clear();
        write(data, &mut bytes);
        put_bytes(out, &bytes);
    }
}

/// What [`put_membership`] wrote; `read` makes a node of its bytes. Whatever follows is left in `fields`.
///
/// # Errors
/// The bytes are not a membership, or break its rules: every voter is a node. A count that lies runs out of
/// bytes, nothing is allocated ahead of what is there.
pub fn get_membership<N: Node>(
    fields: &mut FieldReader<'_>,
    read: impl Fn(&[u8]) -> Result<N, CodecError>,
) -> Result<Membership<u64, N>, CodecError> {
    let mut configs = Vec::new();
    for _ in 0..fields.u64()? {
        let mut config = BTreeSet::new();
        for _ in 0..fields.u64()? {
            config.insert(fields.u64()?);
        }
        configs.push(config);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..fields.u64()? {
        let node = fields.u64()?;
        nodes.insert(node, read(fields.bytes()?)?);
    }
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(CodecError::invalid)
}
