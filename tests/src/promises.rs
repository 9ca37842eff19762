//! The snippets that users were shown, compiled to the letter.
//!
//! The build script wraps each file of `tests/promises` in a function; the documentation below wraps it
//! in the `main` that the promise names. Both use the files' own bytes.

/// `HashRing`: compiled and run as a user's program.
#[doc = concat!(
    "```\n# #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {\n",
    include_str!("../promises/hashring.rs"),
    "\n# Ok(()) }\n```"
)]
pub mod hashring {}

/// `RaftNode`: compiled and run as a user's program.
#[doc = concat!(
    "```\n# #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {\n",
    include_str!("../promises/raft.rs"),
    "\n# Ok(()) }\n```"
)]
pub mod raft {}

/// `SwimNode`: compiled as a user's program. It binds a fixed port on every address, so it is run by
/// `tests/promises.rs` in a network namespace of its own.
#[doc = concat!(
    "```no_run\n# #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {\n",
    include_str!("../promises/swim.rs"),
    "\n# Ok(()) }\n```"
)]
pub mod swim {}

/// What a promised snippet may end with.
pub type SnippetResult = Result<(), Box<dyn std::error::Error>>;

include!(concat!(env!("OUT_DIR"), "/promised_swim.rs"));
