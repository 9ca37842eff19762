//! Two processes and one log.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use rivven_raft_store::verify;

use crate::support::{Codec, Store, Types, append, entries, threaded};

/// Tells the test below that it is the other process, and where the log is.
const HELD: &str = "RIVVEN_TEST_HELD_LOG";

const NAME: &str = "processes::a_log_that_another_process_has_open_is_refused_until_that_is_killed";

#[tokio::test]
async fn a_log_that_another_process_has_open_is_refused_until_that_is_killed() {
    if let Some(path) = std::env::var_os(HELD) {
        let mut store = Store::open(path, threaded()).unwrap();
        append(&mut store, entries(1, 0..20)).await.unwrap();
        println!("\nthe log is open");
        // Until the other process kills this one.
        std::io::stdin().lines().for_each(drop);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(HELD, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(other.stdout.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(
        lines.any(|line| line.contains("the log is open")),
        "it did not open the log"
    );

    let refused = Store::open(&path, threaded()).err().unwrap();
    let checked = verify::<Types, Codec>(&path).err().unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(refused.code(), "log-locked", "{refused}");
    assert_eq!(checked.code(), "log-locked", "{checked}");
    // The lock died with its process, and what that had acknowledged is there.
    assert_eq!(verify::<Types, Codec>(&path).unwrap().entries, 20);
    drop(Store::open(&path, threaded()).unwrap());
}
