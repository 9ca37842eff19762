//! The commands of the operating guide, run in order as an operator would.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::Command,
    sync::{Mutex, PoisonError},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// The folder of the programs that this test was built with.
fn programs() -> PathBuf {
    let test = env::current_exe().unwrap();
    test.parent().and_then(|deps| deps.parent()).unwrap().to_owned()
}

#[test]
fn the_commands_of_the_operating_guide_work_in_order() {
    let shown = run("README.md", &["cert init", "kill -TERM"]);
    assert!(shown.contains("hello"), "{shown}");
}

#[test]
fn the_commands_of_the_page_on_backups_work_in_order() {
    let shown = run(
        "backup.md",
        &["snapshot save", "rivven-node check", "snapshot restore"],
    );
    assert!(
        shown.contains("the node can be started") && shown.contains("NEW cluster"),
        "{shown}"
    );
    assert!(
        shown.contains("hello") && shown.contains(r#""cause":"restored""#),
        "{shown}"
    );
}

#[test]
fn the_commands_of_the_page_on_keys_work_in_order() {
    let shown = run("keys.md", &["kv put", "kv watch"]);
    let lines = [
        "waiting\n",
        "somebody has it\n",
        "1 put jobs/1 waiting\n",
        "put jobs/4 seen\n",
    ];
    for line in lines {
        assert!(shown.contains(line), "{line}: {shown}");
    }
}

/// All pages use the default ports.
static PORTS: Mutex<()> = Mutex::new(());

/// Runs the commands of a page, which are to contain `expected`; what they show.
fn run(page: &str, expected: &[&str]) -> String {
    let _alone = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    let guide = fs::read_to_string(root().join("docs/operating").join(page)).unwrap();
    let blocks = guide.split("```sh\n").skip(1);
    let commands: String = blocks
        .map(|rest| rest.split_once("```").expect("an open fence").0)
        .collect();
    assert!(expected.iter().all(|command| commands.contains(command)));

    // A test of this package does not build the program by itself.
    let build = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "rivven-node"])
        .current_dir(root())
        .status();
    assert!(build.unwrap().success());
    let folder = tempfile::tempdir().unwrap();
    let path = format!("{}:{}", programs().display(), env::var("PATH").unwrap());
    let script = format!("set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{commands}");
    // To files: whatever a page leaves running would hold pipes open.
    let output = |name: &str| fs::File::create(folder.path().join(name)).unwrap();
    let mut run = Command::new("timeout")
        .args(["--signal=TERM", "60", "bash", "-c", &script])
        .env("PATH", path)
        .current_dir(folder.path())
        .stdout(output("shown"))
        .stderr(output("errors"))
        .process_group(0)
        .spawn()
        .unwrap();
    let status = run.wait().unwrap();
    let left = Command::new("kill")
        .args(["-KILL", "--", &format!("-{}", run.id())])
        .stderr(std::process::Stdio::null())
        .status();
    let shown = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let (stdout, stderr) = (shown("shown"), shown("errors"));
    assert!(status.success(), "{stdout}\n{stderr}");
    assert!(
        !left.unwrap().success(),
        "{page} leaves processes behind: {stdout}"
    );
    stdout
}
