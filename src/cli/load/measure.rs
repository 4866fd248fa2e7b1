//! Figures: latencies, and what processes use. It knows `/proc` and arithmetic.

use std::collections::HashMap;
use std::time::Duration;

use crate::client::model::Problem;

use super::failed;

/// Clock ticks in a second, as `/proc` counts them on every Linux.
const TICKS: f64 = 100.0;
const PAGE: u64 = 4096;

/// Latencies as they were seen; percentiles are exact.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        self.0.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Milliseconds of the slowest of the fastest `share` (0.5: the median); 0 without any.
    pub fn percentile(&self, share: f64) -> f64 {
        let mut all = self.0.clone();
        all.sort_unstable();
        let at = ((all.len() as f64 * share).ceil() as usize).max(1) - 1;
        all.get(at.min(all.len().saturating_sub(1))).map_or(0.0, |us| f64::from(*us) / 1000.0)
    }

    pub fn max(&self) -> f64 {
        self.0.iter().max().map_or(0.0, |us| f64::from(*us) / 1000.0)
    }
}

/// The middle one; of an even number the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.get(middle) {
        None => 0.0,
        Some(value) if sorted.len() % 2 == 1 => *value,
        Some(value) => (value + sorted[middle - 1]) / 2.0,
    }
}

/// A process, or a process with all its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    One(u32),
    Tree(u32),
}

/// What processes have used since they began, and hold now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_s: f64,
    /// Bytes. Of a tree: with what its processes share counted in each.
    pub resident: u64,
}

impl Usage {
    /// # Errors
    /// Where there is no `/proc`.
    pub fn of(who: Who) -> Result<Self, Problem> {
        let processes = processes()?;
        let (root, with_children) = match who {
            Who::One(pid) => (pid, false),
            Who::Tree(pid) => (pid, true),
        };
        let belongs = |mut pid: u32| {
            // No process is its own ancestor; the bound is for a table that changed while it was read.
            for _ in 0..32 {
                if pid == root {
                    return true;
                }
                match processes.get(&pid) {
                    Some((parent, _)) if with_children && *parent > 1 => pid = *parent,
                    _ => return false,
                }
            }
            false
        };
        let mut sum = Self::default();
        for (_, (_, usage)) in processes.iter().filter(|(pid, _)| belongs(**pid)) {
            sum.cpu_s += usage.cpu_s;
            sum.resident += usage.resident;
        }
        Ok(sum)
    }
}

/// Parent and usage by process id.
fn processes() -> Result<HashMap<u32, (u32, Usage)>, Problem> {
    let folder = std::fs::read_dir("/proc").map_err(|error| failed(format!("chat load reads /proc: {error}")))?;
    Ok(folder
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, parse(&std::fs::read_to_string(entry.path().join("stat")).ok()?)?))
        })
        .collect())
}

/// A line of `/proc/PID/stat`; the name in it may hold anything, so it is read from its end.
fn parse(stat: &str) -> Option<(u32, Usage)> {
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ticks = number(11)? + number(12)?;
    Some((u32::try_from(number(1)?).ok()?, Usage { cpu_s: ticks as f64 / TICKS, resident: number(21)? * PAGE }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(0.99), 0.0);
        for ms in 1..=100 {
            latencies.add(Duration::from_millis(ms));
        }
        assert_eq!((latencies.percentile(0.5), latencies.percentile(0.99), latencies.max()), (50.0, 99.0, 100.0));
    }

    #[test]
    fn a_median_stands_in_the_middle() {
        assert_eq!((median(&[]), median(&[3.0]), median(&[9.0, 1.0, 2.0]), median(&[4.0, 1.0, 3.0, 2.0])), (0.0, 3.0, 2.0, 2.5));
    }

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let line = "42 (a) b (c) S 7 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0 100 1000000 256 18446744073709551615 1";
        assert_eq!(parse(line), Some((7, Usage { cpu_s: 2.0, resident: 256 * 4096 })));
        assert_eq!(parse("42 (x"), None);
    }
}
