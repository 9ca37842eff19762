//! A seeded, event-driven network of members: for tests, and for measuring beside other implementations.
//!
//! No clock, no socket, no thread: a heap of events around pure machines. Anything that implements
//! [`Machine`] can be a member, so two protocols can live through the same trouble and be compared.
//! Datagrams are counted as they would be on the wire, IP and UDP headers and the seal included.
//! The same seed and the same commands give the same story, event by event.

mod audit;
mod machine;
mod member;
mod network;
#[cfg(test)]
mod tests;

pub use audit::Truth;
pub use machine::{Host, Machine, News, Outgoing, Verdict, host_of, socket_addr};
pub use member::{SimMember, identity};
pub use network::{Load, SECOND, Sim};
