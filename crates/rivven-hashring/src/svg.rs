//! A picture of the ring: who owns which part of the circle.

use alloc::{string::String, vec::Vec};
use core::fmt::{self, Write};
use std::f64::consts::TAU;

use crate::{Position, Ring, RingNode};

/// Steps into which the circle is cut, a quarter of a degree each. Bounds the picture whatever the ring.
const STEPS: u32 = 1_440;

/// Nodes that the legend names; it counts the others.
const MAX_LEGEND: usize = 24;

/// Longest name that is drawn, in characters.
const MAX_DRAWN_NAME: usize = 28;

/// Radii of the band, its middle at the origin.
const OUTER: f64 = 180.0;
const INNER: f64 = 130.0;

/// Height of a line of the legend.
const LINE: f64 = 22.0;

const STYLE: &str = "text{font:14px system-ui,sans-serif;fill:#24292f}.dim{fill:#656d76}\
                     @media(prefers-color-scheme:dark){text{fill:#e6edf3}.dim{fill:#8d96a0}}";

impl Ring {
    /// A picture of the ring as SVG: position 0 at the top, clockwise, and a legend with the share of each
    /// node.
    ///
    /// At most about 150 kB, whatever the size of the ring: the circle is drawn in quarters of a degree, and
    /// the legend stops after 24 nodes. Names are escaped.
    #[must_use]
    pub fn svg(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = draw(self, &mut out);
        out
    }
}

fn draw(ring: &Ring, out: &mut String) -> fmt::Result {
    let shares = ring.shares();
    let lines = shares.len().min(MAX_LEGEND) + usize::from(shares.len() > MAX_LEGEND);
    let height = (lines as f64 * LINE + 20.0).max(2.0 * OUTER + 20.0);
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="-190 {:.0} 640 {height:.0}" role="img">"#,
        -height / 2.0
    )?;
    writeln!(out, "<title>Consistent-hash ring of {} nodes</title>", ring.len())?;
    writeln!(out, "<style>{STYLE}</style>")?;
    for arc in arcs(ring) {
        arc.draw(out)?;
    }
    writeln!(
        out,
        r#"<text y="-4" text-anchor="middle">{} nodes</text>"#,
        ring.len()
    )?;
    let tokens = ring.token_count();
    writeln!(
        out,
        r#"<text y="16" text-anchor="middle" class="dim">{tokens} tokens</text>"#
    )?;
    legend(&shares, lines, out)?;
    out.write_str("</svg>\n")
}

/// A part of the circle, from one step to another.
struct Arc {
    owner: usize,
    first: u32,
    end: u32,
}

/// The circle in steps, neighbours of one owner joined; nothing for an empty ring.
fn arcs(ring: &Ring) -> Vec<Arc> {
    let mut arcs: Vec<Arc> = Vec::new();
    for step in 0..STEPS {
        // The middle of the step stands for all of it.
        let at = ((u128::from(step) * 2 + 1) << 64) / u128::from(STEPS * 2);
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        let Some(owner) = ring.owner_index(Position(at)).map(usize::from) else {
            break;
        };
        match arcs.last_mut() {
            Some(arc) if arc.owner == owner => arc.end = step + 1,
            _ => arcs.push(Arc {
                owner,
                first: step,
                end: step + 1,
            }),
        }
    }
    arcs
}

impl Arc {
    fn draw(&self, out: &mut String) -> fmt::Result {
        // A path from a point to itself draws nothing, so a full circle is two halves.
        if self.end - self.first == STEPS {
            let middle = STEPS / 2;
            for (first, end) in [(0, middle), (middle, STEPS)] {
                Self { first, end, ..*self }.draw(out)?;
            }
            return Ok(());
        }
        let angle = |step: u32| f64::from(step) / f64::from(STEPS) * TAU;
        let (from, to) = (angle(self.first), angle(self.end));
        let large = u8::from(self.end - self.first > STEPS / 2);
        let point = |radius: f64, angle: f64| (radius * angle.sin(), -radius * angle.cos());
        let [a, b] = [from, to].map(|angle| point(OUTER, angle));
        let [c, d] = [to, from].map(|angle| point(INNER, angle));
        writeln!(
            out,
            r#"<path fill="{}" d="M{:.1} {:.1}A{OUTER} {OUTER} 0 {large} 1 {:.1} {:.1}L{:.1} {:.1}A{INNER} {INNER} 0 {large} 0 {:.1} {:.1}Z"/>"#,
            Colour(self.owner),
            a.0,
            a.1,
            b.0,
            b.1,
            c.0,
            c.1,
            d.0,
            d.1,
        )
    }
}

fn legend(shares: &[(&RingNode, f64)], lines: usize, out: &mut String) -> fmt::Result {
    let mut y = -(lines as f64) * LINE / 2.0 + LINE / 2.0;
    for (number, (node, share)) in shares.iter().take(MAX_LEGEND).enumerate() {
        let top = y - 7.0;
        writeln!(
            out,
            r#"<rect x="214" y="{top:.0}" width="14" height="14" fill="{}"/>"#,
            Colour(number)
        )?;
        write!(
            out,
            r#"<text x="236" y="{:.0}">{}"#,
            y + 5.0,
            Escaped(node.name())
        )?;
        write!(out, r#"<tspan class="dim"> {:.1} %"#, share * 100.0)?;
        if let Some(zone) = node.zone() {
            write!(out, ", zone {}", Escaped(zone))?;
        }
        writeln!(out, "</tspan></text>")?;
        y += LINE;
    }
    if let Some(others) = shares.len().checked_sub(MAX_LEGEND).filter(|others| *others > 0) {
        writeln!(
            out,
            r#"<text x="236" y="{:.0}" class="dim">and {others} more</text>"#,
            y + 5.0
        )?;
    }
    Ok(())
}

/// The colour of a node by its number: neighbours in the list are far apart on the colour wheel.
struct Colour(usize);

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The golden angle; lightness in three steps tells apart what has a similar hue.
        let hue = self.0 % 360 * 137 % 360;
        let light = 45 + self.0 % 3 * 10;
        write!(f, "hsl({hue},62%,{light}%)")
    }
}

/// Text as it may stand in XML, cut to [`MAX_DRAWN_NAME`] characters.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars().take(MAX_DRAWN_NAME) {
            match character {
                '&' => f.write_str("&amp;"),
                '<' => f.write_str("&lt;"),
                '>' => f.write_str("&gt;"),
                '"' => f.write_str("&quot;"),
                '\'' => f.write_str("&#39;"),
                other => f.write_char(other),
            }?;
        }
        if self.0.chars().count() > MAX_DRAWN_NAME {
            f.write_char('…')?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    /// The picture of the README. `cargo run -p rivven-hashring --features svg --example picture` draws it.
    #[test]
    fn the_readme_shows_what_is_drawn() {
        let mut ring = Ring::new(16);
        for (name, zone) in [("node1", "a"), ("node2", "b"), ("node3", "c"), ("node4", "a")] {
            ring.add(RingNode::new(name).in_zone(zone)).unwrap();
        }
        assert_eq!(ring.svg(), include_str!("../ring.svg"));
    }

    #[test]
    fn a_picture_is_bounded_and_names_cannot_break_out_of_it() {
        let mut ring = Ring::new(64);
        ring.add_all((0..1_000).map(|i| format!("<&\"'{i:0200}")))
            .unwrap();
        let picture = ring.svg();
        assert!(picture.len() < 200_000, "{}", picture.len());
        assert!(!picture.contains("<&") && picture.contains("&lt;&amp;&quot;&#39;000"));
        assert!(picture.contains("and 976 more"));
    }

    #[test]
    fn one_node_fills_the_circle_and_none_leaves_it_empty() {
        let mut ring = Ring::new(4);
        assert!(!ring.svg().contains("<path"));
        ring.add("only").unwrap();
        assert_eq!(ring.svg().matches("<path").count(), 2);
        assert!(ring.svg().contains("100.0 %"));
    }

    #[test]
    fn the_arcs_of_a_picture_are_as_long_as_the_shares() {
        let mut ring = Ring::new(128);
        ring.add_all(["a", "b", "c"]).unwrap();
        let mut steps = [0; 3];
        for arc in arcs(&ring) {
            steps[arc.owner] += arc.end - arc.first;
        }
        assert_eq!(steps.iter().sum::<u32>(), STEPS);
        for ((_, share), steps) in ring.shares().iter().zip(steps) {
            assert!((f64::from(steps) / f64::from(STEPS) - share).abs() < 0.03);
        }
    }
}
