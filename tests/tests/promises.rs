//! The promised SWIM snippet binds 0.0.0.0:7946 and comes up although `node2` does not resolve.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::{net::UdpSocket, thread, time::Duration};

use nix::sched::{CloneFlags, unshare};
use rivven_tests::promises::swim_snippet;

/// Generous: the snippet only binds a socket and starts tasks.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn the_promised_swim_snippet_comes_up_although_its_peer_does_not_resolve() {
    // A namespace belongs to a thread; what this thread starts inherits it.
    let snippet = thread::Builder::new().name("promised-swim".into()).spawn(|| {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            // Without the privilege the port of the host is borrowed for a moment, if it is free.
            drop(UdpSocket::bind("0.0.0.0:7946").expect("port 7946 is in use; run as root or free it"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, swim_snippet())
                .await
                .expect("the snippet hangs")
                .unwrap();
        });
    });
    snippet.unwrap().join().unwrap();
}
