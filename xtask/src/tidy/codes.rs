//! Error codes: every one that a user can meet is explained in `docs/errors.md`, and no other.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, Result};

use super::{Files, Finding};

const DOCUMENT: &str = "docs/errors.md";

/// Compares the codes that `fn code` returns with the rows of the document, both ways.
pub(super) fn check(root: &Path, files: &Files) -> Result<Vec<Finding>> {
    let text = std::fs::read_to_string(root.join(DOCUMENT)).context(DOCUMENT)?;
    let documented = documented(&text);
    let crates = || files.rust.iter().filter(|(path, _)| path.starts_with("crates"));
    let returned: BTreeSet<_> = crates().flat_map(|(_, text)| returned(text)).collect();
    let missing = returned.difference(&documented);
    let missing = missing.map(|code| format!("error code `{code}` has no row in {DOCUMENT}"));
    // A code may also be made where the error is raised, so any literal of that name counts as alive.
    let alive = |code: &str| crates().any(|(_, text)| text.contains(&format!("\"{code}\"")));
    let dead = documented.iter().filter(|code| !alive(code));
    let dead = dead.map(|code| format!("{DOCUMENT} explains `{code}`, which nothing returns"));
    Ok(missing.chain(dead).map(Finding::fatal).collect())
}

/// Codes in the first column of the document's tables; one row may explain several.
fn documented(text: &str) -> BTreeSet<String> {
    let cells = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" |"));
    let codes = cells.flat_map(|(cell, _)| cell.split('`').skip(1).step_by(2));
    codes.map(str::to_owned).collect()
}

/// String literals inside every `fn code`.
fn returned(text: &str) -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for (_, body) in text.match_indices("fn code(").map(|(at, _)| text.split_at(at)) {
        let end = body.find("\n    }").unwrap_or(body.len());
        let body = body.get(..end).unwrap_or(body);
        let literals = body.split('"').skip(1).step_by(2).filter(|code| is_code(code));
        codes.extend(literals.map(str::to_owned));
    }
    codes
}

fn is_code(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_from_functions_and_from_table_rows() {
        let source = "    pub fn code(&self) -> &str {\n        \"a-b\"\n    }\n    fn other() { \"no\" }\n";
        assert_eq!(returned(source), BTreeSet::from(["a-b".to_owned()]));
        assert_eq!(
            documented("| Code |\n| `a-b` | cause |"),
            BTreeSet::from(["a-b".to_owned()])
        );
    }
}
