//! The speed of the client, as ratios against controls of the same run; `make bench` runs it and ends with the table that
//! stands in `docs/BENCHMARKS.md`. Start at `SECTIONS`; the argument `crypto` (after `--`) runs only that section.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing)]

mod codec;
mod crypto;
mod engine;
mod history;
mod report;
mod store;
mod terminal;

use std::rc::Rc;
use std::time::Duration;

use criterion::Criterion;
use tokio::runtime::Runtime;

use history::History;
use report::Report;

type Section = fn(&mut Criterion, &mut Lab);

/// In the order of the table.
const SECTIONS: [(&str, Section); 6] = [
    ("crypto", crypto::benches),
    ("codec", codec::benches),
    ("store", store::benches),
    ("engine", engine::benches),
    ("first_frame", terminal::first_frame),
    ("view", terminal::view_benches),
];

/// What the sections share.
struct Lab {
    report: Report,
    runtime: Runtime,
    history: Option<Rc<History>>,
}

impl Lab {
    /// Made when the first section asks for it.
    fn history(&mut self) -> Rc<History> {
        self.history.get_or_insert_with(|| Rc::new(self.runtime.block_on(History::make()))).clone()
    }
}

fn main() {
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("criterion");
    let mut criterion = Criterion::default()
        .output_directory(&directory)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    let mut lab = Lab { report: Report::new(directory), runtime: Runtime::new().unwrap(), history: None };
    // Cargo adds `--bench`.
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for (name, benches) in SECTIONS {
        if chosen.is_empty() || chosen.iter().any(|chosen| chosen == name) {
            benches(&mut criterion, &mut lab);
        }
    }
    lab.report.print();
}
