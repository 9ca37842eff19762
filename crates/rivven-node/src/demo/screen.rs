//! What the demo looks like: progress on a terminal, plain lines elsewhere.

use std::{collections::BTreeMap, fmt, time::Duration};

use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};
use indicatif::{ProgressBar, ProgressStyle};
use rivven_admin::AssignmentsBody;
use rivven_cluster::NodeId;
use tokio::time::Instant;

use crate::{cli::Output, harness::Harness};

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(80);

/// Where the demo is told.
#[derive(Debug)]
pub(super) struct Screen<'a> {
    out: &'a mut Output,
    spinner: Option<ProgressBar>,
    began: Instant,
}

impl<'a> Screen<'a> {
    pub(super) fn new(out: &'a mut Output) -> Self {
        Self {
            out,
            spinner: None,
            began: Instant::now(),
        }
    }

    pub(super) const fn is_terminal(&self) -> bool {
        self.out.is_terminal()
    }

    /// Says what is being waited for; on a terminal only, since it is followed by what came of it.
    pub(super) fn begin(&mut self, what: impl fmt::Display) {
        self.clear();
        if !self.is_terminal() {
            return;
        }
        let spinner = ProgressBar::new_spinner().with_message(what.to_string());
        if let Ok(style) = ProgressStyle::with_template("          {spinner} {msg}") {
            spinner.set_style(style);
        }
        spinner.enable_steady_tick(TICK);
        self.spinner = Some(spinner);
    }

    /// Replaces what is being waited for.
    pub(super) fn update(&self, what: impl fmt::Display) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(what.to_string());
        }
    }

    /// One line of the story, with the time since its beginning.
    pub(super) fn say(&mut self, text: impl fmt::Display) {
        self.clear();
        let elapsed = self.began.elapsed().as_secs_f64();
        self.out.line(format_args!("{elapsed:>7.2} s  {text}"));
    }

    /// A table of who leads what, on a terminal; a line elsewhere.
    pub(super) fn leaders(&mut self, assignments: &AssignmentsBody) {
        self.clear();
        let mut led: BTreeMap<Option<NodeId>, Vec<String>> = BTreeMap::new();
        for partition in &assignments.partitions {
            let partitions = led.entry(partition.leader).or_default();
            partitions.push(partition.partition.to_string());
        }
        let name = |node: Option<NodeId>| node.map_or_else(|| "nobody".into(), |node| format!("node {node}"));
        if self.is_terminal() {
            let mut table = Table::new();
            table.load_style(UTF8_BORDERS_ONLY);
            table.set_header(["leader", "partitions"]);
            for (node, partitions) in led {
                table.add_row([name(node), partitions.join(" ")]);
            }
            self.out.line(table);
        } else {
            let counts = led.iter();
            let counts: Vec<_> = counts
                .map(|(node, list)| format!("{}: {}", name(*node), list.len()))
                .collect();
            self.say(format_args!("leaders by node: {}", counts.join(", ")));
        }
    }

    /// Shows what the nodes logged last, after a failure.
    pub(super) fn abandon(&mut self, logs: &str) {
        self.clear();
        eprint!("{logs}");
    }

    /// Tells how to explore the cluster that stays up.
    pub(super) fn invite(&mut self, harness: &Harness) {
        self.clear();
        self.out
            .line("\nThe cluster stays up. Explore it from another terminal:\n");
        for id in harness.ids() {
            if let Ok(node) = harness.node(id) {
                let admin = node.spec().admin;
                self.out
                    .line(format_args!("  node {id}:  rivven-node status --admin {admin}"));
                self.out
                    .line(format_args!("           curl http://{admin}/v1/assignments"));
                self.out
                    .line(format_args!("           tail -f {}", node.spec().log.display()));
            }
        }
        self.out.line("\nPress Ctrl-C to stop it and remove everything.");
    }

    fn clear(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }
}

/// A duration as people compare them.
pub(super) fn ms(duration: Duration) -> String {
    format!("{:.0} ms", duration.as_secs_f64() * 1000.0)
}
