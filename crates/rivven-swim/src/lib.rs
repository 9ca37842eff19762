//! SWIM membership with Lifeguard: a pure state machine and a UDP driver.
//!
//! [`Swim`] is the protocol: bytes and times go in, bytes, events and one deadline come out. It reads no
//! clock, opens no socket and draws no randomness of its own, and builds without `std`, so a simulation
//! can run thousands of members on one thread. `SwimNode` (feature `driver`, on by default) is that
//! machine on a UDP socket.
//!
//! Gossip is a hint. A member that is alive here may be dying, and one that is dead here may only be cut
//! off: nothing that must not happen twice may rest on this crate alone.
//!
//! Followed: Das, Gupta, Motivala, "SWIM" (DSN 2002); Dadgar, Phillips, Currey, "Lifeguard" (DSN-W 2018).
#![no_std]

extern crate alloc;
#[cfg(any(feature = "driver", test))]
extern crate std;

mod addr;
mod broadcast;
mod config;
#[cfg(feature = "driver")]
mod driver;
mod event;
mod gossip;
mod identity;
mod member;
mod meta;
mod rng;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod suspicion;
mod swim;
mod table;
mod time;
mod timer;
mod wire;

pub use broadcast::{BroadcastError, MAX_BROADCAST_LEN, MAX_BROADCASTS};
pub use config::{ConfigError, Settings, SwimConfig};
#[cfg(feature = "driver")]
pub use driver::{MemberBatches, MemberEvents, Messages, StartError, SwimBuilder, SwimNode};
pub use event::{Broadcast, Event, MemberEvent};
pub use identity::{Identity, Incarnation};
pub use member::{Health, MemberState, MemberView};
pub use meta::MAX_META_LEN;
pub use swim::{Command, MAX_MEMBERS, StreamEvent, Swim, Transmit};
pub use time::Time;
pub use wire::{MAX_DATAGRAM_LEN, MAX_STREAM_LEN, MIN_DATAGRAM_LEN};

pub use rivven_types::{BootEpoch, InstanceId, NodeId, PeerAddr};
