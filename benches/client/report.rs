//! The table at the end: what was measured, its control in the same run, the ratio, and whether the target is met.

use std::path::PathBuf;

/// Where criterion keeps its medians, and the rows so far.
pub struct Report {
    directory: PathBuf,
    rows: Vec<[String; 6]>,
}

/// What a figure must not exceed.
#[derive(Clone, Copy)]
pub enum Target {
    /// This multiple of the control.
    Ratio(f64),
    /// This multiple of the control, and so many milliseconds.
    RatioAndMs(f64, f64),
    Ms(f64),
    /// Only to know.
    None,
}

impl Report {
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, rows: Vec::new() }
    }

    /// The median of a benchmark that ran, in nanoseconds: `crypto/dm encrypt/100`.
    pub fn median(&self, id: &str) -> f64 {
        let path = self.directory.join(id).join("new/estimates.json");
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json["median"]["point_estimate"].as_f64().unwrap()
    }

    /// A row from two medians in nanoseconds.
    pub fn compare(&mut self, figure: &str, ours: f64, control: Option<(&str, f64)>, target: Target) {
        let ratio = control.map(|(_, control)| ours / control);
        let at_most = |limit: f64| ratio.is_some_and(|ratio| ratio <= limit);
        let below = |ms: f64| ours <= ms * 1e6;
        let (target, met) = match target {
            Target::Ratio(limit) => (format!("≤ {}", multiple(limit)), Some(at_most(limit))),
            Target::RatioAndMs(limit, ms) => (format!("≤ {}, ≤ {ms} ms", multiple(limit)), Some(at_most(limit) && below(ms))),
            Target::Ms(ms) => (format!("≤ {ms} ms"), Some(below(ms))),
            Target::None => (String::new(), None),
        };
        let control = control.map_or_else(String::new, |(name, ns)| format!("{name}: {}", duration(ns)));
        let met = met.map_or("", |met| if met { "met" } else { "**missed**" });
        self.push([figure, &duration(ours), &control, &ratio.map_or_else(String::new, multiple), &target, met]);
    }

    /// A figure that is no time: a rate, a size.
    pub fn tell(&mut self, figure: &str, value: &str) {
        self.push([figure, value, "", "", "", ""]);
    }

    fn push(&mut self, row: [&str; 6]) {
        self.rows.push(row.map(str::to_owned));
    }

    pub fn print(&self) {
        println!("\n| figure | median | control in the same run | ratio | target | |\n|---|---|---|---|---|---|");
        for row in &self.rows {
            println!("| {} |", row.join(" | "));
        }
    }
}

/// Faster than the control is told as such.
fn multiple(ratio: f64) -> String {
    if ratio < 1.0 { format!("{:.2} x faster", 1.0 / ratio) } else { format!("{ratio:.2} x") }
}

fn duration(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.2} µs", ns / 1e3),
        ns if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}
