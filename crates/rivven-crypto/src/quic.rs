//! What QUIC needs beside TLS, and quinn leaves to its user: RFC 9001, and the keys of an endpoint.

mod endpoint;
pub(crate) mod packet;
mod retry;
mod session;
#[cfg(test)]
mod tests;

pub(crate) use endpoint::{ResetKey, TokenKey};
pub use session::Negotiated;
pub(crate) use session::{Client, Server};

/// The only version of QUIC that is spoken (RFC 9000).
pub(crate) const VERSION: u32 = 1;
