//! Which crate may use which: `cargo metadata` against the tables of `docs/architecture.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, MetadataCommand};

use super::{Finding, crypto};

const DOCUMENT: &str = "docs/architecture.md";
/// Packages that may use every crate.
const UNRESTRICTED: [&str; 2] = ["xtask", "rivven-tests"];

/// The package that has the entropy hook.
const WITH_HOOK: &str = "rivven-tests";

type Table = BTreeMap<String, BTreeSet<String>>;

/// Compares the dependency edges with the two tables, both ways.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let text = std::fs::read_to_string(root.join(DOCUMENT)).context(DOCUMENT)?;
    let allowed = table(&text, "<!-- tidy: edges -->");
    let kept = table(&text, "<!-- tidy: kept -->");
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .exec()?;
    let packages = metadata.workspace_packages();
    let members: BTreeSet<_> = packages.iter().map(|package| package.name.to_string()).collect();
    let workspace = std::fs::read_to_string(root.join("Cargo.toml"))?;
    let mut findings = Vec::new();
    for package in packages {
        let name = package.name.to_string();
        let manifest = std::fs::read_to_string(&package.manifest_path)?;
        findings.extend(check_lints(&name, &manifest, &workspace));
        findings.extend(crypto::check(package));
        let normal = package
            .dependencies
            .iter()
            .filter(|dep| dep.kind != DependencyKind::Development);
        let used: BTreeSet<_> = normal.map(|dep| dep.name.clone()).collect();
        if !UNRESTRICTED.contains(&name.as_str()) {
            let internal = used.intersection(&members).cloned().collect();
            findings.extend(compare(&name, &internal, allowed.get(&name)));
        }
        for (external, owners) in &kept {
            if used.contains(external) && !owners.contains(&name) {
                findings.push(Finding::fatal(format!(
                    "{name} uses {external}, which {DOCUMENT} keeps to {owners:?}"
                )));
            }
        }
    }
    Ok(findings)
}

/// Every crate has the lints of the workspace; one writes them out, since it must be able to allow the unsafe
/// code of its entropy hook.
fn check_lints(name: &str, manifest: &str, workspace: &str) -> Option<Finding> {
    if name != WITH_HOOK {
        let inherits = manifest.contains("[lints]\nworkspace = true");
        return (!inherits)
            .then(|| Finding::fatal(format!("{name}: Cargo.toml lacks `[lints] workspace = true`")));
    }
    let missing = workspace
        .split("\n[")
        .filter(|section| section.starts_with("workspace.lints."))
        .flat_map(str::lines)
        .map(|line| match line {
            "unsafe_code = \"forbid\"" => "unsafe_code = \"deny\"",
            line => line,
        })
        .filter(|line| line.contains(" = "))
        .find(|line| !manifest.lines().any(|there| there == *line))?;
    Some(Finding::fatal(format!(
        "{name}: Cargo.toml lacks the lint `{missing}` of the workspace"
    )))
}

fn compare(name: &str, used: &BTreeSet<String>, allowed: Option<&BTreeSet<String>>) -> Vec<Finding> {
    let Some(allowed) = allowed else {
        return vec![Finding::fatal(format!(
            "{name} has no row in the edge table of {DOCUMENT}"
        ))];
    };
    let extra = used
        .difference(allowed)
        .map(|dep| format!("{name} uses {dep}: no such edge in {DOCUMENT}"));
    let unused = allowed
        .difference(used)
        .map(|dep| format!("{DOCUMENT} lists {name} -> {dep}, unused"));
    extra.chain(unused).map(Finding::fatal).collect()
}

/// Reads `| crate | dep dep … |` rows below `marker`; names stand in backticks.
fn table(text: &str, marker: &str) -> Table {
    let after = text.split_once(marker).map_or("", |(_, after)| after);
    let rows = after
        .lines()
        .map(str::trim)
        .skip_while(|line| !line.starts_with('|'));
    let mut table = Table::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let mut names = row.split('`').skip(1).step_by(2).map(str::to_owned);
        if let Some(name) = names.next() {
            table.insert(name, names.collect());
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_table_is_read_below_its_marker_only() {
        let text = "| `x` | `y` |\n<!-- m -->\n\n| Crate | May use |\n|---|---|\n| `a` | `b`, `c` |\n| `b` | - |\n\n| `z` | |";
        let expected = Table::from([("a".into(), set(&["b", "c"])), ("b".into(), set(&[]))]);
        assert_eq!(table(text, "<!-- m -->"), expected);
    }

    #[test]
    fn lints_are_inherited_or_written_out_whole() {
        let workspace = "[x]\n\n[workspace.lints.rust]\nunsafe_code = \"forbid\"\na = \"warn\"\n\n[y]\n";
        let lacks = |name, manifest| check_lints(name, manifest, workspace).is_some();
        assert!(!lacks("a", "[lints]\nworkspace = true\n") && lacks("a", "[lints.rust]\na = \"warn\"\n"));
        let whole = "[lints.rust]\nunsafe_code = \"deny\"\na = \"warn\"\n";
        assert!(!lacks(WITH_HOOK, whole));
        assert!(lacks(WITH_HOOK, "[lints.rust]\nunsafe_code = \"deny\"\n"));
        assert!(lacks(WITH_HOOK, "[lints.rust]\na = \"warn\"\n"));
    }

    #[test]
    fn a_missing_row_an_extra_edge_and_an_unused_edge_are_found() {
        assert_eq!(compare("a", &set(&[]), None).len(), 1);
        assert_eq!(compare("a", &set(&["b"]), Some(&set(&[]))).len(), 1);
        assert_eq!(compare("a", &set(&[]), Some(&set(&["b"]))).len(), 1);
        assert_eq!(compare("a", &set(&["b"]), Some(&set(&["b"]))).len(), 0);
    }
}
