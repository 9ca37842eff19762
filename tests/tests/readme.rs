//! What the README shows is what the tree holds: programs, promised snippets, configuration.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::{fs, path::PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The README's code blocks in `language`, in order.
fn blocks(language: &str) -> Vec<String> {
    let readme = read("README.md");
    let fence = format!("```{language}\n");
    let starts = readme.split(&fence).skip(1);
    starts
        .map(|rest| rest.split_once("```").expect("an open fence").0.to_owned())
        .collect()
}

#[test]
fn the_programs_of_the_readme_are_the_compiled_ones() {
    let sources = [
        "crates/rivven-cluster/examples/embed.rs",
        "tests/promises/raft.rs",
        "tests/promises/swim.rs",
        "tests/promises/hashring.rs",
    ];
    let shown = blocks("rust");
    assert_eq!(
        shown.len(),
        sources.len(),
        "each program of the README has a source that is compiled"
    );
    for (shown, source) in shown.iter().zip(sources) {
        let text = read(source);
        let program = text
            .lines()
            .filter(|line| !line.starts_with("//!"))
            .collect::<Vec<_>>()
            .join("\n");
        assert_eq!(shown.trim(), program.trim(), "{source}");
    }
}

#[test]
fn the_configuration_of_the_readme_is_the_promised_one_and_is_accepted() {
    let promised = read("tests/promises/config.yaml");
    assert_eq!(blocks("yaml"), std::slice::from_ref(&promised));
    rivven_cluster::ClusterConfig::from_yaml_str(&promised, "config.yaml").unwrap();
}
