//! Rust files: an opening `//!` line, a length that can be read, no doc fence that is skipped.

use std::path::Path;

use super::{Files, Finding};

/// A file past this length is about to become two ideas.
const WARN_LINES: usize = 500;
/// A file past this length is refused.
const MAX_LINES: usize = 800;

/// Checks every Rust file.
pub(super) fn check(files: &Files) -> Vec<Finding> {
    files
        .rust
        .iter()
        .flat_map(|(path, text)| check_file(path, text))
        .collect()
}

fn check_file(path: &Path, text: &str) -> Vec<Finding> {
    let at = path.display();
    let mut findings = Vec::new();
    // The promised snippets are bodies of functions, kept to the letter.
    if !path.starts_with("tests/promises") && !text.starts_with("//!") {
        findings.push(Finding::fatal(format!(
            "{at}: open with a `//!` line that says what lives here"
        )));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        findings.push(Finding::fatal(format!(
            "{at}: {lines} lines, at most {MAX_LINES}: split it by noun"
        )));
    } else if lines > WARN_LINES {
        findings.push(Finding::warning(format!(
            "{at}: {lines} lines; split it before {MAX_LINES}"
        )));
    }
    let comments = text
        .lines()
        .map(|line| line.trim_start().trim_start_matches(['/', '!']));
    findings.extend(skipped_fences(comments).map(|line| {
        Finding::fatal(format!(
            "{at}:{line}: an `ignore` fence is never compiled; use `no_run` at most"
        ))
    }));
    findings
}

/// Numbers of the lines that open a code fence with the word `ignore`.
pub(super) fn skipped_fences<'a>(lines: impl Iterator<Item = &'a str>) -> impl Iterator<Item = usize> {
    lines.enumerate().filter_map(|(index, line)| {
        let words = line.trim().strip_prefix("```")?;
        words
            .split(',')
            .any(|word| word.trim() == "ignore")
            .then_some(index + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, fatal: usize, warnings: usize) {
        let findings = check_file(Path::new("x.rs"), text);
        let found = findings.iter().filter(|finding| finding.fatal).count();
        assert_eq!((found, findings.len() - found), (fatal, warnings), "{findings:?}");
    }

    #[test]
    fn each_rule_can_fail() {
        check("//! Fine.\n", 0, 0);
        check("fn no_doc() {}\n", 1, 0);
        check(&"//! Long.\n".repeat(WARN_LINES + 1), 0, 1);
        check(&"//! Too long.\n".repeat(MAX_LINES + 1), 1, 0);
        check("//! Skips.\n//! ```rust,ignore\n//! ```\n", 1, 0);
    }
}
