//! The real binary: [`Serve`] is a `chat serve` in a process of its own, with a data directory and an embedded cluster of its
//! own, that can be killed. Whoever runs `chat` commands has a `Home` in `cli/people.rs`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

pub const BINARY: &str = env!("CARGO_BIN_EXE_chat");
/// Whatever is waited for has happened by then, however busy the machine is.
pub const DEADLINE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// Asks until the answer is something; says what was waited for when it never is.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        sleep(PAUSE).await;
    }
}

/// A port that nobody has and that no outgoing connection gets: it stays free while a server is down.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two test processes at a time begin at different places.
    let start = (std::process::id() % 100) as u16 * 110;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 11_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A folder that the user who runs PostgreSQL can enter, whoever runs the tests.
pub fn open_folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::Builder::new().prefix("chat-test-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    folder
}

/// A `chat serve`. Dropping it ends it and its PostgreSQL.
pub struct Serve {
    port: u16,
    folder: TempDir,
    configure: Box<dyn Fn(&mut Command) + Send>,
    child: Option<Child>,
}

impl Serve {
    /// Open registration, a new cluster; answers `/ready` when this returns.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With more flags or variables, at every start.
    pub async fn start_with(configure: impl Fn(&mut Command) + Send + 'static) -> Self {
        let mut server = Self::prepared(configure);
        server.restart().await;
        server
    }

    /// Not started yet.
    pub fn prepared(configure: impl Fn(&mut Command) + Send + 'static) -> Self {
        let folder = open_folder();
        std::fs::write(folder.path().join("chat.toml"), "").unwrap();
        Self { port: free_port(), folder, configure: Box::new(configure), child: None }
    }

    /// The command that starts it: the same port and data every time.
    pub fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap();
        command
            .args(["serve", "--registration", "open", "--listen", &self.address(), "--data-dir"])
            .arg(self.data_dir())
            .env("CHAT_CONFIG", self.folder.path().join("chat.toml"))
            .env_remove("DATABASE_URL")
            .envs(["REQUESTS_PER_S", "REQUESTS_BURST", "AUTH_PER_MINUTE", "SENDS_PER_S", "SENDS_BURST"].map(generous))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        (self.configure)(&mut command);
        command
    }

    /// Starts, and waits for `/ready`.
    pub async fn restart(&mut self) {
        self.spawn();
        self.wait_until_ready().await;
    }

    /// Starts without waiting for anything.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs");
        self.child = Some(self.command().spawn().unwrap());
    }

    pub async fn wait_until_ready(&mut self) {
        eventually("/ready of chat serve", async || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "chat serve ended: {ended:?}\n{}", self.log());
            (self.status("/ready").await == Some(200)).then_some(())
        })
        .await;
    }

    /// SIGKILL: nothing is put away, PostgreSQL is not waited for.
    pub async fn kill(&mut self) {
        self.child.take().unwrap().kill().await.unwrap();
    }

    /// SIGTERM, and how it ended.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(pid_of(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        timeout(DEADLINE, child.wait()).await.unwrap_or_else(|_| panic!("it does not end\n{}", self.log())).unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id().unwrap()
    }

    /// The process of the cluster's server, while it runs.
    pub fn postgres(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.data_dir().join("postgres/postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        Path::new(&format!("/proc/{pid}")).exists().then(|| Pid::from_raw(pid))?
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Everything that it wrote, over all starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The status of a GET; none when nobody answers.
    pub async fn status(&self, path: &str) -> Option<u16> {
        let ask = async {
            let mut stream = TcpStream::connect(self.address()).await.ok()?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.ok()?;
            std::str::from_utf8(&answer[9..]).ok()?.parse().ok()
        };
        timeout(Duration::from_secs(10), ask).await.ok().flatten()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Both may have ended by themselves; PostgreSQL must be gone before its folder goes.
        let _ = child.start_kill();
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline && (matches!(child.try_wait(), Ok(None)) || self.postgres().is_some()) {
            std::thread::sleep(PAUSE);
        }
    }
}

/// Rates that no test meets by accident.
fn generous(limit: &str) -> (String, &'static str) {
    (format!("CHAT__SERVER__LIMITS__{limit}"), "100000")
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().unwrap().cast_signed()).unwrap()
}
