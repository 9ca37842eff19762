//! Names of metrics: every one that the code tells is explained in `docs/operating/metrics.md`, and no other.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, Result};

use super::{Files, Finding};

const DOCUMENT: &str = "docs/operating/metrics.md";

/// What the names begin with. A string of such a form in a crate's source is a metric.
const FAMILIES: [&str; 7] = [
    "raft_follower_",
    "raft_log_",
    "raft_members_",
    "raft_replicate_",
    "raft_write_",
    "rivven_",
    "transport_",
];

/// Compares the names in the sources of the crates with the rows of the document, both ways.
pub(super) fn check(root: &Path, files: &Files) -> Result<Vec<Finding>> {
    let text = std::fs::read_to_string(root.join(DOCUMENT)).context(DOCUMENT)?;
    let documented = documented(&text);
    let sources = files.rust.iter().filter(|(path, _)| {
        let mut parts = path.components().map(|part| part.as_os_str());
        let is_test = path.ends_with("tests.rs") || path.iter().any(|part| part == "tests");
        parts.next().is_some_and(|first| first == "crates") && !is_test
    });
    let told: BTreeSet<_> = sources.flat_map(|(_, text)| told(text)).collect();
    let missing = told.difference(&documented);
    let missing = missing.map(|name| format!("metric `{name}` has no row in {DOCUMENT}"));
    let dead = documented.difference(&told);
    let dead = dead.map(|name| format!("{DOCUMENT} explains `{name}`, which nothing tells"));
    Ok(missing.chain(dead).map(Finding::fatal).collect())
}

/// Names in the first column of the document's tables.
fn documented(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next())
        .map(str::to_owned)
        .collect()
}

/// String literals of the form of a name.
fn told(text: &str) -> BTreeSet<String> {
    let literals = text.split('"').skip(1);
    literals
        .filter(|literal| is_name(literal))
        .map(str::to_owned)
        .collect()
}

fn is_name(text: &str) -> bool {
    let form = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    // The name of a crate has the form too, and no further word.
    let in_family = FAMILIES.iter().any(|family| {
        let rest = text.strip_prefix(family);
        rest.is_some_and(|rest| !rest.is_empty() && (*family != "rivven_" || rest.contains('_')))
    });
    in_family && text.bytes().all(form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_literals_and_from_table_rows() {
        let source =
            r#"counter!("raft_log_a_total", "code" => code); log("rivven_raft"); f("rivven_raft_term")"#;
        let expected = ["raft_log_a_total", "rivven_raft_term"].map(str::to_owned);
        assert_eq!(told(source), BTreeSet::from(expected));
        assert_eq!(
            documented("| Name |\n| `a_b` | gauge |"),
            BTreeSet::from(["a_b".to_owned()])
        );
    }
}
