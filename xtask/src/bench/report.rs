//! Figures, as a table for people and as JSON lines.

use std::{collections::BTreeMap, fs::File, io::Write as _, path::Path};

use anyhow::{Context as _, Result};

/// One figure.
#[derive(Debug, serde::Serialize)]
pub(super) struct Figure {
    bench: &'static str,
    case: String,
    metric: &'static str,
    value: f64,
    unit: &'static str,
    reference: BTreeMap<&'static str, f64>,
    ratio: BTreeMap<&'static str, f64>,
}

impl Figure {
    /// How it compares, and with what.
    fn beside(&self) -> String {
        let each = self.ratio.iter().map(|(name, ratio)| {
            let base = self.reference.get(name).copied().unwrap_or(f64::NAN);
            format!("{ratio:.2} x {name} ({})", number(base))
        });
        each.collect::<Vec<_>>().join(", ")
    }
}

/// Figures as they come, printed at once and kept for the file.
#[derive(Debug)]
pub(super) struct Report {
    bench: &'static str,
    figures: Vec<Figure>,
}

impl Report {
    /// No figures yet of the benchmark called `bench`.
    pub(super) const fn new(bench: &'static str) -> Self {
        Self {
            bench,
            figures: Vec::new(),
        }
    }

    /// Adds a figure beside what the references showed in the same run.
    pub(super) fn add(
        &mut self,
        case: impl Into<String>,
        metric: &'static str,
        (value, unit): (f64, &'static str),
        references: &[(&'static str, f64)],
    ) {
        // A reference that completed nothing in its time has shown nothing to divide by.
        let shown = |(_, base): &&(&str, f64)| base.is_finite() && *base > 0.0;
        let references: Vec<_> = references.iter().filter(shown).copied().collect();
        let figure = Figure {
            bench: self.bench,
            case: case.into(),
            metric,
            value,
            unit,
            reference: references.iter().copied().collect(),
            ratio: references
                .iter()
                .map(|(name, base)| (*name, value / base))
                .collect(),
        };
        println!(
            "{:<48}{:<12}{:>10} {:<8} {}",
            figure.case,
            figure.metric,
            number(figure.value),
            figure.unit,
            figure.beside()
        );
        self.figures.push(figure);
    }

    /// Every figure, as a table for a page.
    pub(super) fn markdown(&self) -> String {
        let mut table =
            String::from("| Case | Metric | Value | Beside its references |\n|---|---|---|---|\n");
        for figure in &self.figures {
            let value = format!("{} {}", number(figure.value), figure.unit);
            let row = [&figure.case, figure.metric, value.trim_end(), &figure.beside()].join(" | ");
            table.extend(["| ", &row, " |\n"]);
        }
        table
    }

    /// Writes one JSON line per figure.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        for figure in &self.figures {
            writeln!(file, "{}", serde_json::to_string(figure)?)?;
        }
        Ok(())
    }
}

/// Three digits that matter, and no more.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_promised_fields() {
        let mut report = Report::new("rpc");
        report.add("128 B, 1 in flight", "rate", (50.0, "1/s"), &[("raw tcp", 100.0)]);
        let expected = concat!(
            r#"{"bench":"rpc","case":"128 B, 1 in flight","metric":"rate","value":50.0,"unit":"1/s","#,
            r#""reference":{"raw tcp":100.0},"ratio":{"raw tcp":0.5}}"#
        );
        assert_eq!(serde_json::to_string(&report.figures[0]).unwrap(), expected);
    }

    #[test]
    fn a_table_for_a_page_has_a_row_per_figure() {
        let mut report = Report::new("rpc");
        report.add("128 B, 1 in flight", "rate", (50.0, "1/s"), &[("raw tcp", 100.0)]);
        report.add("128 B, 1 in flight", "sleeps", (1.25, ""), &[]);
        let expected = concat!(
            "| Case | Metric | Value | Beside its references |\n|---|---|---|---|\n",
            "| 128 B, 1 in flight | rate | 50.0 1/s | 0.50 x raw tcp (100) |\n",
            "| 128 B, 1 in flight | sleeps | 1.25 |  |\n",
        );
        assert_eq!(report.markdown(), expected);
    }
}
