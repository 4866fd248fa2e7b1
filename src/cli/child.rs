//! A server of our own for `chat demo` and `chat load`: this very binary as `chat serve` in a process of its own, so that it
//! can be killed. Start with [`Server::start`].

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::client::model::{Problem, ProblemKind};
use crate::server::postgres::end_with_us;

/// The first start makes a cluster.
const START_DEADLINE: Duration = Duration::from_secs(90);

pub struct Server {
    pub url: String,
    pub data_dir: PathBuf,
    pub log: PathBuf,
    address: String,
    settings: Vec<(&'static str, String)>,
    child: Child,
}

impl Server {
    /// Serves the data under `data_dir` on a free port and waits until it is ready. `settings` are configuration keys below
    /// `server`, as the environment spells them (`LIMITS__SENDS_PER_S`).
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(data_dir: &Path, log: &Path, settings: Vec<(&'static str, String)>) -> Result<Self, Problem> {
        // A free port that stays the same over the restart; the loopback keeps a closed one free long enough.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(|e| Problem::new(ProblemKind::Failed, format!("no free port: {e}")))?
            .port();
        let address = format!("127.0.0.1:{port}");
        let child = spawn(&address, data_dir, log, &settings)?;
        let (data_dir, log) = (data_dir.to_owned(), log.to_owned());
        let mut server = Self { url: format!("http://{address}"), data_dir, log, address, settings, child };
        server.wait_until_ready().await?;
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// SIGKILL: no drain, no goodbye.
    pub async fn kill(&mut self) -> Result<(), Problem> {
        self.child.kill().await.map_err(|e| Problem::new(ProblemKind::Failed, format!("cannot kill the server: {e}")))
    }

    /// The same data, the same port.
    pub async fn restart(&mut self) -> Result<(), Problem> {
        self.child = spawn(&self.address, &self.data_dir, &self.log, &self.settings)?;
        self.wait_until_ready().await
    }

    /// SIGTERM: drain, stop the database, end.
    pub async fn stop(&mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    async fn wait_until_ready(&mut self) -> Result<(), Problem> {
        let deadline = Instant::now() + START_DEADLINE;
        while Instant::now() < deadline {
            if self.is_ready().await {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let tail = log.lines().last().unwrap_or("its log is empty");
                return Err(Problem::new(ProblemKind::Failed, format!("chat serve ended with {status}: {tail}")));
            }
            sleep(Duration::from_millis(2)).await;
        }
        Err(Problem::new(ProblemKind::Failed, "chat serve was not ready in time"))
    }

    async fn is_ready(&self) -> bool {
        let ask = async {
            let mut stream = TcpStream::connect(&self.address).await?;
            stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await?;
            std::io::Result::Ok(answer.ends_with(b" 200"))
        };
        tokio::time::timeout(Duration::from_secs(5), ask).await.is_ok_and(|ready| ready.unwrap_or(false))
    }
}

fn spawn(address: &str, data_dir: &Path, log: &Path, settings: &[(&str, String)]) -> Result<Child, Problem> {
    let cannot = |e: std::io::Error| Problem::new(ProblemKind::Failed, format!("cannot start chat serve: {e}"));
    let binary = std::env::current_exe().map_err(cannot)?;
    let log = OpenOptions::new().create(true).append(true).open(log).map_err(cannot)?;
    let mut command = std::process::Command::new(binary);
    command
        .args(["serve", "--listen", address, "--registration", "open", "--data-dir"])
        .arg(data_dir)
        .envs(settings.iter().map(|(key, value)| (format!("CHAT__SERVER__{key}"), value)))
        // Its own group: ^C in the terminal is for us, we stop it in order.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    // Also when we are killed, nothing of it stays.
    end_with_us(&mut command, Signal::TERM);
    Command::from(command).kill_on_drop(true).spawn().map_err(cannot)
}
