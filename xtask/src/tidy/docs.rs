//! Markdown: links that lead somewhere, fences that are compiled.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{Files, Finding, sources::skipped_fences};

/// Checks every Markdown file.
pub(super) fn check(root: &Path, files: &Files) -> Vec<Finding> {
    files
        .markdown
        .iter()
        .flat_map(|(path, text)| check_file(root, path, text))
        .collect()
}

fn check_file(root: &Path, path: &Path, text: &str) -> Vec<Finding> {
    let at = path.display();
    let mut findings: Vec<_> = skipped_fences(text.lines())
        .map(|line| Finding::fatal(format!("{at}:{line}: an `ignore` fence is never compiled")))
        .collect();
    for link in links(text) {
        let (file, anchor) = link
            .split_once('#')
            .map_or((link, None), |(file, anchor)| (file, Some(anchor)));
        let target = if file.is_empty() {
            path.to_owned()
        } else {
            sibling(path, file)
        };
        let Ok(linked) = std::fs::read_to_string(root.join(&target)) else {
            if !root.join(&target).is_dir() {
                findings.push(Finding::fatal(format!("{at}: link to {link}: no such file")));
            }
            continue;
        };
        if anchor.is_some_and(|anchor| !headings(&linked).contains(anchor)) {
            findings.push(Finding::fatal(format!("{at}: link to {link}: no such heading")));
        }
    }
    findings
}

fn sibling(path: &Path, file: &str) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).join(file)
}

/// Targets of `[text](target)` outside code, without those of other sites.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        found.extend(
            targets
                .map(|(target, _)| target)
                .filter(|target| !target.contains("://")),
        );
    }
    found
}

/// Anchors of the headings, made as GitHub makes them.
fn headings(text: &str) -> BTreeSet<String> {
    let titles = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim());
    titles
        .map(|title| {
            let kept = title.to_lowercase();
            let kept = kept
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_inside_fences_and_to_other_sites_are_left_alone() {
        let text = "[a](b.md) [c](https://d)\n```\n[e](f.md)\n```\n[g](#h)";
        assert_eq!(links(text), ["b.md", "#h"]);
    }

    #[test]
    fn a_heading_becomes_the_anchor_that_a_reader_would_click() {
        assert!(headings("# A `b`: c-d\n").contains("a-b-c-d"));
    }

    #[test]
    fn a_dead_link_and_a_dead_anchor_are_found() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let findings = check_file(
            root,
            Path::new("x.md"),
            "[a](no.md) [b](Cargo.toml) [c](Cargo.toml#none)",
        );
        assert_eq!(findings.len(), 2, "{findings:?}");
    }
}
