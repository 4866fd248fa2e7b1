//! `chat demo`: a real server, three real clients, encrypted messages, a crash in the middle, and a look at what the server
//! kept. On a terminal it opens the terminal client as Alice; without one it plays [`script`] and exits 0 only if all of
//! it held.

mod person;
pub mod proof;
mod script;

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Globals, Stop, ended_by_signal};
use crate::client::model::{Problem, ProblemKind};

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Play the scripted conversation even on a terminal
    #[arg(long)]
    script: bool,
}

/// # Errors
/// When anything that the demonstration claims did not hold, or a signal ended it.
pub fn run(args: DemoArgs, globals: &Globals) -> Result<(), Stop> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Problem::new(ProblemKind::Failed, format!("cannot start: {e}")))?;
    let stage = Stage::new()?;
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let result = runtime.block_on(async {
        if terminal && !args.script {
            let scene = unless_signalled(script::set_the_scene(&stage)).await?;
            // The terminal client hears the signals itself.
            Ok(script::open_as_alice(&stage, scene, globals).await?)
        } else {
            unless_signalled(script::play(&stage)).await
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(10));
    result
}

/// A signal drops the work, and with it the server.
async fn unless_signalled<T>(work: impl Future<Output = Result<T, Problem>>) -> Result<T, Stop> {
    tokio::select! {
        result = work => Ok(result?),
        stop = ended_by_signal() => Err(stop),
    }
}

/// The folder in which everything of the demonstration lives; removed at the end.
struct Stage {
    dir: PathBuf,
}

impl Stage {
    fn new() -> Result<Self, Problem> {
        let dir = std::env::temp_dir().join(format!("chat-demo-{}", std::process::id()));
        // Only entering is open to others: the user who runs PostgreSQL for root has to get to the cluster.
        std::fs::DirBuilder::new()
            .mode(0o711)
            .create(&dir)
            .map_err(|e| Problem::new(ProblemKind::Failed, format!("cannot create {}: {e}", dir.display())))?;
        Ok(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The PostgreSQL of a server that was killed takes a moment to end, and writes until then.
        for _ in 0..100 {
            if std::fs::remove_dir_all(&self.dir).is_ok() || !self.dir.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// One line of the transcript; a closed pipe is no reason to stop.
fn say(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.as_ref());
    let _ = out.flush();
}

/// A claim of the demonstration that did not hold.
fn broken(text: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::Failed, text).hint("This is a fault of chat: please report it with the lines above.")
}
