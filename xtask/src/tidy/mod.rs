//! `cargo xtask tidy`: the rules of the house that no compiler checks. Also run as a test.

mod codes;
mod crypto;
mod docs;
mod edges;
mod metrics;
mod sources;

use std::path::{Path, PathBuf};

use anyhow::Result;

/// What may be seen at the top of the repository; everything else is a dotfile.
const TOP_LEVEL: [&str; 8] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "crates",
    "docs",
    "tests",
    "xtask",
];

/// Build output, which git ignores.
const BUILD_OUTPUT: &str = "target";

/// One broken rule, or (for a warning) one about to break.
#[derive(Debug)]
pub(crate) struct Finding {
    /// Whether it fails the run.
    pub(crate) fatal: bool,
    /// Where and what, with the remedy.
    pub(crate) text: String,
}

impl Finding {
    fn fatal(text: impl Into<String>) -> Self {
        Self {
            fatal: true,
            text: text.into(),
        }
    }

    fn warning(text: impl Into<String>) -> Self {
        Self {
            fatal: false,
            text: text.into(),
        }
    }
}

/// Checks every rule in the workspace at `root`.
pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let files = Files::of(root)?;
    let mut findings = top_level(root)?;
    findings.extend(edges::check(root)?);
    findings.extend(sources::check(&files));
    findings.extend(docs::check(root, &files));
    findings.extend(codes::check(root, &files)?);
    findings.extend(metrics::check(root, &files)?);
    Ok(findings)
}

/// Prints every finding. `false` when one of them is fatal.
pub(crate) fn report(root: &Path) -> Result<bool> {
    let findings = check(root)?;
    for finding in &findings {
        println!(
            "{}: {}",
            if finding.fatal { "error" } else { "warning" },
            finding.text
        );
    }
    let fatal = findings.iter().filter(|finding| finding.fatal).count();
    println!("tidy: {fatal} errors, {} warnings", findings.len() - fatal);
    Ok(fatal == 0)
}

fn top_level(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let known = TOP_LEVEL.contains(&name.as_str()) || name.starts_with('.') || name == BUILD_OUTPUT;
        if !known {
            findings.push(Finding::fatal(format!(
                "{name}: does not belong at the top level"
            )));
        }
    }
    Ok(findings)
}

/// The text files tidy reads, path relative to the root.
struct Files {
    rust: Vec<(PathBuf, String)>,
    markdown: Vec<(PathBuf, String)>,
}

impl Files {
    fn of(root: &Path) -> Result<Self> {
        let mut files = Self {
            rust: Vec::new(),
            markdown: Vec::new(),
        };
        files.read(root, &root.join("README.md"))?;
        for folder in ["crates", "docs", "tests", "xtask"] {
            files.read(root, &root.join(folder))?;
        }
        files.rust.sort();
        files.markdown.sort();
        Ok(files)
    }

    fn read(&mut self, root: &Path, path: &Path) -> Result<()> {
        if path.is_dir() {
            for entry in std::fs::read_dir(path)? {
                self.read(root, &entry?.path())?;
            }
            return Ok(());
        }
        let list = match path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => &mut self.rust,
            Some("md") => &mut self.markdown,
            _ => return Ok(()),
        };
        let relative = path.strip_prefix(root).unwrap_or(path).to_owned();
        list.push((relative, std::fs::read_to_string(path)?));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let fatal: Vec<_> = check(root)
            .unwrap()
            .into_iter()
            .filter(|finding| finding.fatal)
            .collect();
        assert!(fatal.is_empty(), "{fatal:#?}");
    }
}
