//! Identities of nodes and clusters, and addresses that are not resolved until they are used.
//!
//! The vocabulary every other crate shares. It knows nothing of networks, disks or time, and builds
//! without `std`.
#![no_std]

extern crate alloc;

mod addr;
mod id;

pub use addr::{ParsePeerAddrError, PeerAddr};
pub use id::{BootEpoch, ClusterId, InstanceId, NodeId, ParseIdError};
