//! The data directory: its lock, its permissions, `initdb`, and what a crash may have left in it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::binaries::Binaries;
use super::owner::Owner;
use super::supervisor::run_as;
use super::{PostgresError, ROLE};

/// `sun_path` holds 108 bytes with the final zero; PostgreSQL adds `/.s.PGSQL.5432`.
const SOCKET_DIR_MAX: usize = 107 - "/".len() - SOCKET.len();
const SOCKET: &str = ".s.PGSQL.5432";
/// The log starts anew beyond this size, and the one before it is kept.
const LOG_MAX: u64 = 16 * 1024 * 1024;
/// How long a server that a killed `chat serve` left behind may take to stop.
const STALE_DEADLINE: Duration = Duration::from_secs(60);

/// A data directory that this process has for itself.
pub struct Directory {
    /// The cluster: PostgreSQL's own data directory.
    pub data: PathBuf,
    /// Where the socket is, short enough for the operating system.
    pub socket_dir: PathBuf,
    pub log: PathBuf,
    // Held until the value is dropped.
    _lock: File,
}

impl Directory {
    /// Create what is missing, take the lock, and check that the owner can get in.
    pub fn prepare(root: &Path, owner: &Owner) -> Result<Self, PostgresError> {
        // Entering is not reading: what is inside keeps its own permissions.
        let mode = if *owner == Owner::Ourselves { 0o700 } else { 0o711 };
        // Before anything is made where it is of no use.
        check_way(root, owner)?;
        make_dir(root, mode)?;
        let root = root.canonicalize().map_err(PostgresError::io("cannot open", root))?;
        let lock = lock(&root)?;
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(mode))
            .map_err(PostgresError::io("cannot set the permissions of", &root))?;
        refuse_closed(&root, owner)?;
        let data = root.join("postgres");
        let socket_dir = socket_dir(&root)?;
        owner.adopt(&socket_dir).map_err(PostgresError::io("cannot give away", &socket_dir))?;
        Ok(Self { data, socket_dir, log: root.join("postgres.log"), _lock: lock })
    }

    /// The major version that made the cluster; none when there is no cluster yet.
    pub fn cluster_version(&self) -> Result<Option<String>, PostgresError> {
        version_of(&self.data)
    }

    /// Make the cluster beside its place and move it there when it is whole, so that an interrupted start leaves nothing.
    pub fn initdb(&self, binaries: &Binaries, owner: &Owner) -> Result<(), PostgresError> {
        let new = self.data.with_extension("new");
        if new.exists() {
            std::fs::remove_dir_all(&new).map_err(PostgresError::io("cannot remove", &new))?;
        }
        std::fs::DirBuilder::new().mode(0o700).create(&new).map_err(PostgresError::io("cannot create", &new))?;
        owner.adopt(&new).map_err(PostgresError::io("cannot give away", &new))?;
        let mut command = Command::new(binaries.program("initdb"));
        command
            .args(["--encoding=UTF8", "--locale=C", "--auth=trust", "--username", ROLE, "--pgdata"])
            .arg(&new)
            .current_dir(&new)
            .stdin(Stdio::null());
        // It ends with us: a later start must find nobody at work in the folder that it makes anew.
        let output = run_as(&mut command, owner, Some(Signal::KILL))
            .output()
            .map_err(|e| PostgresError::Initdb(format!("{}: {e}", binaries.program("initdb").display())))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(PostgresError::Initdb(last_lines(&text, 3)));
        }
        std::fs::rename(&new, &self.data).map_err(PostgresError::io("cannot move into place", &new))?;
        if let Some(parent) = self.data.parent() {
            File::open(parent).and_then(|dir| dir.sync_all()).map_err(PostgresError::io("cannot sync", parent))?;
        }
        Ok(())
    }

    /// After a kill, the old server may still be stopping, and its files may name processes that are something else by now:
    /// PostgreSQL takes any living process of its user for a server, and would never start again after a power cut. We hold
    /// the lock, so nobody else runs this cluster.
    pub fn clear_stale_postmaster(&self) -> Result<(), PostgresError> {
        let pid_file = self.data.join("postmaster.pid");
        let begun = Instant::now();
        let mut told = false;
        loop {
            let named = named_in(&pid_file);
            let alive = self.servers(named);
            let Some(first) = alive.first() else { break };
            if !told {
                tracing::info!(pid = first.as_raw_nonzero().get(), "waiting for the PostgreSQL of a killed server to stop");
                told = true;
            }
            if begun.elapsed() > STALE_DEADLINE {
                let pid = first.as_raw_nonzero();
                return Err(PostgresError::Start(format!("an older PostgreSQL (process {pid}) does not stop")));
            }
            // They may end between the check and the signal.
            if begun.elapsed() > STALE_DEADLINE / 2 {
                for pid in alive {
                    let _ = kill_process(pid, Signal::QUIT);
                }
            } else if let Some(postmaster) = named.filter(|named| alive.contains(named)) {
                // What lost its postmaster ends by itself.
                let _ = kill_process(postmaster, Signal::INT);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for path in [pid_file, self.socket_dir.join(SOCKET), self.socket_dir.join(format!("{SOCKET}.lock"))] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(PostgresError::io("cannot remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The living processes of a PostgreSQL in our directory: all of them work in it, the postmaster and what it started.
    fn servers(&self, named: Option<Pid>) -> Vec<Pid> {
        let Ok(processes) = std::fs::read_dir("/proc") else {
            // Without /proc (macOS) a living process has to be taken at its word.
            return named.filter(|pid| test_kill_process(*pid).is_ok()).into_iter().collect();
        };
        let ours = |process: &PathBuf| {
            std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == self.data)
                && std::fs::read(process.join("comm")).is_ok_and(|name| name.starts_with(b"postgres"))
        };
        let processes = processes.filter_map(|entry| Some(entry.ok()?.path())).filter(ours);
        processes.filter_map(|process| Pid::from_raw(process.file_name()?.to_str()?.parse().ok()?)).collect()
    }

    /// The last lines of PostgreSQL's log, for an error message.
    pub fn log_tail(&self) -> Option<String> {
        let mut file = File::open(&self.log).ok()?;
        let length = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(2000))).ok()?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).ok()?;
        let text = last_lines(&String::from_utf8_lossy(&text), 4);
        (!text.is_empty()).then_some(text)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // One of our own in a shared place; the one in the data directory stays with it.
        if self.socket_dir.parent() != self.data.parent() {
            let _ = std::fs::remove_dir_all(&self.socket_dir);
        }
    }
}

/// Keeps a log that somebody appends to within its bound: when it is longer, it becomes `postgres.log.1`, and what follows stands
/// at its beginning.
///
/// # Errors
/// When it cannot be shortened.
pub fn rotate(log: &Path) -> std::io::Result<()> {
    if std::fs::metadata(log)?.len() <= LOG_MAX {
        return Ok(());
    }
    let copied = std::fs::copy(log, log.with_extension("log.1"));
    // Also when there was no room for the copy: above all the disk must not fill.
    OpenOptions::new().write(true).open(log)?.set_len(0)?;
    copied.map(drop)
}

/// The process in the first line of a lock file.
fn named_in(path: &Path) -> Option<Pid> {
    Pid::from_raw(std::fs::read_to_string(path).ok()?.lines().next()?.trim().parse().ok()?)
}

/// The major version that made a cluster; none when there is none.
pub fn version_of(data: &Path) -> Result<Option<String>, PostgresError> {
    let path = data.join("PG_VERSION");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(PostgresError::io("cannot read", &path)(e)),
    }
}

/// Whether the owner can get to the directory, or to where it will be.
pub fn check_way(root: &Path, owner: &Owner) -> Result<(), PostgresError> {
    let absolute = std::path::absolute(root).map_err(PostgresError::io("cannot open", root))?;
    match absolute.ancestors().find_map(|path| path.canonicalize().ok()) {
        Some(existing) if !existing.is_dir() => {
            Err(PostgresError::io("cannot use", &existing)(std::io::ErrorKind::NotADirectory.into()))
        }
        Some(existing) => refuse_closed(&existing, owner),
        None => Ok(()),
    }
}

/// The process that has the lock of a directory.
pub fn holder(root: &Path) -> Option<String> {
    let mut file = File::open(root.join("chat.lock")).ok()?;
    // Given back at once; a server that starts in this moment would be refused, so only ask when somebody seems to live.
    let mut pid = String::new();
    file.read_to_string(&mut pid).ok()?;
    let process = pid.trim().parse().ok().and_then(Pid::from_raw)?;
    test_kill_process(process).ok()?;
    flock(&file, FlockOperation::NonBlockingLockShared).is_err().then(|| pid.trim().to_owned())
}

/// The owner has to pass every folder on the way.
fn refuse_closed(path: &Path, owner: &Owner) -> Result<(), PostgresError> {
    match (owner, path.ancestors().find(|path| !owner.can_enter(path))) {
        (Owner::Other { name, .. }, Some(closed)) => {
            Err(PostgresError::NotTraversable { path: closed.to_owned(), user: name.clone() })
        }
        _ => Ok(()),
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), PostgresError> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(PostgresError::io("cannot create", path))
}

fn lock(root: &Path) -> Result<File, PostgresError> {
    let path = root.join("chat.lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(PostgresError::io("cannot open", &path))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
        return Err(PostgresError::InUse { path: root.to_owned(), pid });
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.write_all(std::process::id().to_string().as_bytes())
    };
    write(&mut file).map_err(PostgresError::io("cannot write", &path))?;
    Ok(file)
}

/// `run` in the data directory, or a short folder of our own when that path is too long for a socket.
fn socket_dir(root: &Path) -> Result<PathBuf, PostgresError> {
    let inside = root.join("run");
    let dir = if inside.as_os_str().len() <= SOCKET_DIR_MAX {
        inside
    } else {
        let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
        let base = if rustix::process::geteuid().is_root() { PathBuf::from("/tmp") } else { base };
        base.join(format!("chat-pg-{}", std::process::id()))
    };
    match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && dir.starts_with(root) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            // A folder that somebody else made in a shared place is not ours to use.
            std::fs::remove_dir_all(&dir).map_err(PostgresError::io("cannot replace", &dir))?;
            make_dir(&dir, 0o700)?;
        }
        Err(e) => return Err(PostgresError::io("cannot create", &dir)(e)),
    }
    Ok(dir)
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join(" | ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::Child;

    use super::*;

    fn directory() -> (tempfile::TempDir, Directory) {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::prepare(&folder.path().join("data"), &Owner::Ourselves).unwrap();
        make_dir(&directory.data, 0o700).unwrap();
        (folder, directory)
    }

    /// A program of this name that only waits, in the directory.
    fn idle(folder: &Path, name: &str, directory: &Directory) -> Child {
        let program = folder.join(name);
        std::os::unix::fs::symlink("/bin/sh", &program).unwrap();
        let mut command = Command::new(&program);
        command.arg0("sh").args(["-c", "read line"]).stdin(Stdio::piped()).current_dir(&directory.data);
        // SAFETY: signal(2) is async-signal-safe. A shell keeps ignoring what was ignored when it began, as in a background job.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGINT, libc::SIG_DFL);
                Ok(())
            });
        }
        command.spawn().unwrap()
    }

    fn lock_files(directory: &Directory, pid: u32) -> [PathBuf; 2] {
        let files = [directory.data.join("postmaster.pid"), directory.socket_dir.join(format!("{SOCKET}.lock"))];
        for file in &files {
            std::fs::write(file, format!("{pid}\n{}\n", directory.data.display())).unwrap();
        }
        files
    }

    #[test]
    fn files_of_a_dead_server_that_name_a_living_process_do_not_keep_it_from_starting() {
        let (folder, directory) = directory();
        let mut other = idle(folder.path(), "editor", &directory);
        for pid in [std::process::id(), other.id()] {
            let files = lock_files(&directory, pid);
            std::fs::write(directory.socket_dir.join(SOCKET), "").unwrap();
            directory.clear_stale_postmaster().unwrap();
            assert!(files.iter().all(|file| !file.exists()) && !directory.socket_dir.join(SOCKET).exists());
        }
        assert!(other.try_wait().unwrap().is_none(), "it belongs to somebody else");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_log_that_is_too_long_starts_anew_under_whoever_appends_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("postgres.log");
        let mut log = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let older = folder.path().join("postgres.log.1");
        for round in 0..3 {
            writeln!(log, "{round}").unwrap();
            rotate(&path).unwrap();
            let length = std::fs::metadata(&path).unwrap().len();
            assert_eq!(length, 2, "round {round}: it is short enough");
            log.write_all(&vec![b'x'; LOG_MAX as usize]).unwrap();
            rotate(&path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
            assert_eq!(std::fs::metadata(&older).unwrap().len(), LOG_MAX + 2);
            assert!(std::fs::read(&older).unwrap().starts_with(format!("{round}\n").as_bytes()));
        }
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let owner = Owner::Other { name: "x".into(), uid: 54_321, gid: 54_321 };
        for path in [file.path(), &file.path().join("data")] {
            let error = Directory::prepare(path, &owner).err().unwrap().to_string();
            assert!(error.contains(&file.path().display().to_string()) && error.contains("not a directory"), "{error}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_older_server_is_stopped_before_its_files_go() {
        use std::os::unix::process::ExitStatusExt as _;
        let (folder, directory) = directory();
        let mut server = idle(folder.path(), "postgres", &directory);
        let files = lock_files(&directory, server.id());
        directory.clear_stale_postmaster().unwrap();
        assert_eq!(server.wait().unwrap().signal(), Some(Signal::INT.as_raw()));
        assert!(files.iter().all(|file| !file.exists()));
    }
}
