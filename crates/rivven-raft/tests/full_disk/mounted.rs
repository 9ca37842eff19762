//! A file system that is really full: a small one in memory, mounted in a namespace of its own.

use std::{
    fs,
    process::{Command, Stdio},
};

use super::*;

/// Tells the test below that it runs inside, and where the small file system is.
const INSIDE: &str = "RIVVEN_TEST_FULL_DISK";

/// Set where a skipped test is no passed one.
const REQUIRED: &str = "RIVVEN_TEST_MOUNTS";

const NAME: &str = "mounted::a_node_on_a_full_file_system_comes_back_once_there_is_room";

/// Runs this test again in namespaces where it may mount. None where the system forbids that.
fn run_inside(dir: &Path) -> Option<bool> {
    let script = format!(
        "mount -t tmpfs -o size=40m tmpfs '{0}' && exec '{1}' --exact {NAME} --nocapture",
        dir.display(),
        std::env::current_exe().unwrap().display()
    );
    for namespaces in [["--mount"].as_slice(), &["--user", "--map-root-user", "--mount"]] {
        let allowed = Command::new("unshare")
            .args(namespaces)
            .args(["sh", "-c", &format!("mount -t tmpfs tmpfs '{}'", dir.display())])
            .stderr(Stdio::null())
            .status();
        if allowed.is_ok_and(|status| status.success()) {
            let inside = Command::new("unshare")
                .args(namespaces)
                .args(["sh", "-c", &script])
                .env(INSIDE, dir)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&inside.stdout);
            print!("{said}{}", String::from_utf8_lossy(&inside.stderr));
            return Some(inside.status.success() && said.contains("took part again after"));
        }
    }
    None
}

/// With the thread of the log and real time, as in production.
#[tokio::test]
async fn a_node_on_a_full_file_system_comes_back_once_there_is_room() {
    if let Some(dir) = std::env::var_os(INSIDE) {
        fill_and_empty(Path::new(&dir)).await;
        return;
    }
    let dir = TempDir::new().unwrap();
    match run_inside(dir.path()) {
        Some(passed) => assert!(passed, "it failed inside"),
        // Said where it is seen, and not passed over where it must run.
        None => {
            let required = std::env::var_os(REQUIRED).is_some();
            assert!(
                !required,
                "this system allows no mount of a small file system, and {REQUIRED} is set"
            );
            eprintln!(
                "SKIPPED {NAME}: this system allows no mount of a small file system; {REQUIRED}=1 fails then"
            );
        }
    }
}

async fn fill_and_empty(root: &Path) {
    let ballast = root.join("ballast");
    fs::write(&ballast, vec![1; 24 << 20]).unwrap();
    let dir = open(root, 1);
    let builder = RaftNode::builder(config(1, 1))
        .fabric(&Fabric::new())
        .data_dir(dir);
    let node = builder
        .state_machine(KvStore::new())
        .snapshot_every(200)
        .start()
        .await
        .unwrap();
    node.wait_for_leader(WAIT).await.unwrap();
    let value = "x".repeat(100_000);
    let mut acknowledged = 0_u64;
    let refused = loop {
        let begin = Instant::now();
        match node
            .propose(KvCommand::put(acknowledged.to_string(), value.clone()))
            .await
        {
            Ok(_) => acknowledged += 1,
            Err(error) => {
                assert!(
                    begin.elapsed() < Duration::from_secs(1),
                    "refused after {:?}",
                    begin.elapsed()
                );
                break error;
            }
        }
        assert!(acknowledged < 10_000, "the file system is not small");
    };
    assert_eq!(refused.outcome(), Outcome::Unknown, "{refused}");
    let refused = node.propose(KvCommand::put("late", "v")).await.unwrap_err();
    assert_eq!(refused.code(), "disk-full", "{refused}");
    // A little room is not enough.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.status().role, Role::Suspended);

    fs::remove_file(&ballast).unwrap();
    let begin = Instant::now();
    until(&node, "back", |status| status.role == Role::Leader).await;
    let took = begin.elapsed();
    let missing = |kv: &KvStore| {
        (0..acknowledged)
            .filter(|i| kv.get(&i.to_string()).is_none())
            .count()
    };
    assert_eq!(
        node.read(Consistency::Linearizable, missing).await.unwrap().value,
        0
    );
    put(&node, "after", "v").await;
    let files: Vec<String> = fs::read_dir(root.join("1"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!files.iter().any(|file| file.contains("probe")), "{files:?}");
    node.shutdown().await;
    println!("took part again after {took:?}, with {acknowledged} acknowledged writes");
}
