//! What the runs showed: figures by workload and target, their medians, and the ratios that are promised.

use serde_json::{Value, json};

use super::measure::median;

/// Where a figure was measured.
pub const SERVER: &str = "chat";
pub const BARE: &str = "bare fan-out";
pub const COMMIT: &str = "bare + group commit";
pub const PGBENCH: &str = "pgbench";

/// One figure over all repetitions.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    pub workload: String,
    pub target: &'static str,
    pub name: &'static str,
    pub unit: &'static str,
    pub values: Vec<f64>,
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

/// A ratio with the bound that it must keep.
struct Claim {
    what: &'static str,
    /// Workload, target and name of both sides; the control may be missing where the bound is absolute.
    ours: (&'static str, &'static str, &'static str),
    control: Option<(&'static str, &'static str, &'static str)>,
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    fn words(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {bound}"),
            Self::AtMost(bound) => format!("≤ {bound}"),
        }
    }
}

const fn claim(
    what: &'static str,
    ours: (&'static str, &'static str, &'static str),
    control: Option<(&'static str, &'static str, &'static str)>,
    bound: Bound,
) -> Claim {
    Claim { what, ours, control, bound }
}

/// `docs/BENCHMARKS.md` gives the reasons.
const CLAIMS: &[Claim] = {
    use Bound::{AtLeast, AtMost};
    &[
        claim("W2, window 1: rows/s", ("w2 window 1", SERVER, "rows"), Some(("w2 window 1", COMMIT, "rows")), AtLeast(0.6)),
        claim("W2, window 10: rows/s", ("w2 window 10", SERVER, "rows"), Some(("w2 window 10", COMMIT, "rows")), AtLeast(0.6)),
        claim("W2, window 1: rows/s", ("w2 window 1", SERVER, "rows"), Some(("32 clients", PGBENCH, "rows")), AtLeast(0.8)),
        claim("W2, window 10: rows/s", ("w2 window 10", SERVER, "rows"), Some(("32 clients", PGBENCH, "rows")), AtLeast(1.3)),
        claim("one channel, 50 senders: rows/s", ("senders", SERVER, "rows"), Some(("1 client", PGBENCH, "rows")), AtLeast(3.0)),
        claim("W1: delivery p50", ("w1", SERVER, "delivery p50"), Some(("w1", COMMIT, "delivery p50")), AtMost(1.5)),
        claim("W1: delivery p99", ("w1", SERVER, "delivery p99"), Some(("w1", COMMIT, "delivery p99")), AtMost(2.0)),
        claim(
            "W2, window 10: server CPU per delivery",
            ("w2 window 10", SERVER, "CPU per delivery"),
            Some(("w2 window 10", BARE, "CPU per delivery")),
            AtMost(1.5),
        ),
        claim("W3: KiB per idle connection", ("w3", SERVER, "per connection"), None, AtMost(16.0)),
        claim(
            "W4: newest page, p50",
            ("w4 100,000 rows", SERVER, "page p50"),
            Some(("w4 100 rows", SERVER, "page p50")),
            AtMost(1.2),
        ),
        claim("W4: newest page of 100,000 rows, ms", ("w4 100,000 rows", SERVER, "page p50"), None, AtMost(1.5)),
        claim("W5: warm start, ms", ("w5", SERVER, "start"), None, AtMost(250.0)),
        claim("W5: idle memory, MiB", ("w5", SERVER, "memory"), None, AtMost(25.0)),
        claim(
            "1,000 members: last delivery",
            ("fan", SERVER, "last delivery p50"),
            Some(("fan", BARE, "last delivery p50")),
            AtMost(1.5),
        ),
    ]
};

impl Report {
    pub fn add(&mut self, workload: &str, target: &'static str, name: &'static str, unit: &'static str, value: f64) {
        let known = self.figures.iter_mut().find(|f| f.workload == workload && f.target == target && f.name == name);
        match known {
            Some(figure) => figure.values.push(value),
            None => self.figures.push(Figure { workload: workload.to_owned(), target, name, unit, values: vec![value] }),
        }
    }

    fn median(&self, (workload, target, name): (&str, &str, &str)) -> Option<f64> {
        let found = self.figures.iter().find(|f| f.workload == workload && f.target == target && f.name == name);
        found.map(|figure| median(&figure.values))
    }

    /// One line for each workload and target.
    pub fn table(&self) -> Vec<String> {
        let mut lines: Vec<(String, String)> = Vec::new();
        for figure in &self.figures {
            let head = format!("{:<16} {:<20}", figure.workload, figure.target);
            let value = format!("{} {} {}", figure.name, number(median(&figure.values)), figure.unit);
            match lines.iter_mut().find(|(known, _)| *known == head) {
                Some((_, values)) => *values = format!("{values} · {}", value.trim_end()),
                None => lines.push((head, value.trim_end().to_owned())),
            }
        }
        lines.into_iter().map(|(head, values)| head + &values).collect()
    }

    /// What, ours, the control's, ratio, bound, whether it holds: of everything that was measured.
    fn judged(&self) -> impl Iterator<Item = (&'static Claim, f64, Option<f64>, f64, bool)> {
        CLAIMS.iter().filter_map(|claim| {
            let ours = self.median(claim.ours)?;
            let control = match claim.control {
                Some(control) => Some(self.median(control)?),
                None => None,
            };
            let value = control.map_or(ours, |control| ours / control);
            Some((claim, ours, control, value, claim.bound.holds(value)))
        })
    }

    /// The promised ratios, one a line.
    pub fn ratios(&self) -> Vec<String> {
        self.judged()
            .map(|(claim, ours, control, value, holds)| {
                let against = match (claim.control, control) {
                    (Some((_, target, _)), Some(control)) => format!("{} against {} of {target}", number(ours), number(control)),
                    _ => String::new(),
                };
                let mark = if holds { "ok  " } else { "MISS" };
                format!("{mark} {:<42} {value:>8.2}  {:<8} {against}", claim.what, claim.bound.words()).trim_end().to_owned()
            })
            .collect()
    }

    /// All of it for a program.
    pub fn objects(&self) -> Vec<Value> {
        let figures = self.figures.iter().map(|figure| {
            json!({
                "workload": figure.workload, "target": figure.target, "figure": figure.name, "unit": figure.unit,
                "median": median(&figure.values), "values": figure.values,
            })
        });
        let ratios = self.judged().map(|(claim, ours, control, value, holds)| {
            json!({ "claim": claim.what, "ours": ours, "control": control, "value": value, "bound": claim.bound.words(), "holds": holds })
        });
        figures.chain(ratios).collect()
    }
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_judged_by_medians_and_only_when_both_sides_were_measured() {
        let mut report = Report::default();
        for rows in [5000.0, 7000.0, 6000.0] {
            report.add("w2 window 1", SERVER, "rows", "/s", rows);
        }
        assert_eq!(report.judged().count(), 0);
        report.add("w2 window 1", COMMIT, "rows", "/s", 8000.0);
        let judged: Vec<_> = report.judged().map(|(_, ours, control, value, holds)| (ours, control, value, holds)).collect();
        assert_eq!(judged, [(6000.0, Some(8000.0), 0.75, true)]);
        report.add("w3", SERVER, "per connection", "KiB", 17.0);
        assert!(report.ratios()[1].starts_with("MISS W3"), "{:?}", report.ratios());
        assert_eq!(report.table()[0], format!("{:<16} {:<20}rows 6000 /s", "w2 window 1", SERVER));
    }
}
