//! One long-lived thread that starts the server, waits for it, and starts it again when it dies.
//!
//! The thread matters: the kernel's "signal me when my parent dies" follows the spawning *thread*, so the server must not
//! be spawned from a pool.

use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::binaries::Binaries;
use super::directory::{Directory, rotate};
use super::owner::Owner;
use super::{Options, PostgresError};

/// A server that ends this soon after its start did not come up.
const EARLY: Duration = Duration::from_secs(2);
/// Early ends in a row after which the first start is given up.
const TRIES: u32 = 3;
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at the length of the log.
const LOG_LOOK: Duration = Duration::from_secs(5);

/// Keeps one PostgreSQL server alive.
pub struct Supervisor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    log: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pid: Option<Pid>,
    stopping: bool,
    gave_up: bool,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is plain flags: a panicking holder cannot leave them half written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Supervisor {
    pub fn spawn(binaries: &Binaries, owner: &Owner, directory: &Directory, options: &Options) -> Result<Self, PostgresError> {
        let shared = Arc::new(Shared::default());
        let log = {
            let (shared, log) = (Arc::clone(&shared), directory.log.clone());
            let thread = std::thread::Builder::new().name("postgres-log".into());
            thread.spawn(move || keep_short(&shared, &log)).map_err(|e| PostgresError::Start(e.to_string()))?
        };
        let thread = {
            let (shared, binaries, owner) = (Arc::clone(&shared), binaries.clone(), owner.clone());
            let (data, log) = (directory.data.clone(), directory.log.clone());
            let arguments = arguments(directory, options);
            std::thread::Builder::new()
                .name("postgres".into())
                .spawn(move || {
                    supervise(&shared, || {
                        let log = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&log)?;
                        let mut command = Command::new(binaries.program("postgres"));
                        command.args(&arguments).current_dir(&data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
                        run_as(&mut command, &owner, Some(Signal::INT)).spawn()
                    });
                    shared.lock().ended = true;
                    shared.changed.notify_all();
                })
                .map_err(|e| PostgresError::Start(e.to_string()))?
        };
        Ok(Self { shared, thread: Some(thread), log: Some(log) })
    }

    /// Whether the first start failed for good.
    pub fn gave_up(&self) -> bool {
        self.shared.lock().gave_up
    }

    pub fn pid(&self) -> Option<u32> {
        self.shared.lock().pid.map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Stop in order, hard after a while, and wait.
    pub fn stop(mut self) {
        self.end(Signal::INT);
    }

    fn end(&mut self, first: Signal) {
        let Some(thread) = self.thread.take() else { return };
        let mut state = self.shared.lock();
        state.stopping = true;
        self.shared.changed.notify_all();
        let mut signal = first;
        let mut begun = Instant::now();
        while !state.ended {
            if let Some(pid) = state.pid {
                // It may have ended by itself just now.
                let _ = kill_process(pid, signal);
            }
            let (next, timeout) =
                self.shared.changed.wait_timeout(state, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner);
            state = next;
            if timeout.timed_out() && begun.elapsed() > STOP_DEADLINE {
                signal = Signal::QUIT;
                begun = Instant::now();
            }
        }
        drop(state);
        let _ = thread.join();
        let _ = self.log.take().map(JoinHandle::join);
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.end(Signal::QUIT);
    }
}

/// Spawn, wait, spawn again, until told to stop.
fn supervise(shared: &Shared, mut spawn: impl FnMut() -> std::io::Result<Child>) {
    let mut early_ends = 0;
    let mut ever_ran = false;
    loop {
        let begun = Instant::now();
        match spawn() {
            Ok(mut child) => {
                {
                    let mut state = shared.lock();
                    state.pid = Pid::from_raw(child.id().cast_signed());
                    if state.stopping {
                        let _ = child.kill();
                    }
                }
                let status = child.wait();
                let mut state = shared.lock();
                state.pid = None;
                if state.stopping {
                    return;
                }
                drop(state);
                tracing::error!(status = ?status.ok(), "PostgreSQL ended; starting it again");
            }
            Err(error) => tracing::error!(%error, "PostgreSQL cannot be started"),
        }
        if begun.elapsed() < EARLY {
            early_ends += 1;
        } else {
            early_ends = 0;
            ever_ran = true;
        }
        let mut state = shared.lock();
        if early_ends >= TRIES && !ever_ran {
            state.gave_up = true;
            return;
        }
        let pause = Duration::from_millis(20).saturating_mul(1 << early_ends.min(8)).min(BACKOFF_MAX);
        if !state.stopping {
            (state, _) = shared.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopping {
            return;
        }
    }
}

/// Looks after the log until the server has ended.
fn keep_short(shared: &Shared, log: &Path) {
    let mut told = false;
    loop {
        match rotate(log) {
            Ok(()) => told = false,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) if !told => {
                tracing::warn!(%error, "the log of PostgreSQL cannot be kept short");
                told = true;
            }
            Err(_) => {}
        }
        let state = shared.lock();
        if state.ended {
            return;
        }
        // Woken early by every change: then it looks once more.
        drop(shared.changed.wait_timeout(state, LOG_LOOK));
    }
}

fn arguments(directory: &Directory, options: &Options) -> Vec<std::ffi::OsString> {
    let mut arguments: Vec<std::ffi::OsString> =
        vec!["-D".into(), directory.data.clone().into(), "-k".into(), directory.socket_dir.clone().into()];
    let on = if options.durable { "on" } else { "off" };
    let max_connections = options.max_connections.to_string();
    for (name, value) in [
        // Reachable through the socket only.
        ("listen_addresses", ""),
        ("unix_socket_permissions", "0700"),
        ("max_connections", &max_connections),
        ("fsync", on),
        ("full_page_writes", on),
        ("synchronous_commit", on),
        ("shared_buffers", "128MB"),
        ("max_wal_size", "1GB"),
        // Short statements only: compiling them costs more than it saves.
        ("jit", "off"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        ("cluster_name", "chat"),
        // What people write must not get into the log, not even as ciphertext in a failed statement.
        ("log_min_error_statement", "panic"),
        ("log_parameter_max_length_on_error", "0"),
        ("log_statement", "none"),
        ("log_min_duration_statement", "-1"),
        ("log_min_duration_sample", "-1"),
        ("log_transaction_sample_rate", "0"),
        // Details of an error repeat the values of the row.
        ("log_error_verbosity", "terse"),
        // It would take the log away from us, who keep it short.
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
    ] {
        arguments.extend(["-c".into(), format!("{name}={value}").into()]);
    }
    arguments
}

/// Run as the owner, in a process group of its own (so that ^C in the terminal does not reach PostgreSQL before the drain),
/// and, on Linux, with a signal to it when we die.
pub fn run_as<'a>(command: &'a mut Command, owner: &Owner, on_our_death: Option<Signal>) -> &'a mut Command {
    command.process_group(0).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C");
    let ids = match owner {
        Owner::Ourselves => None,
        Owner::Other { uid, gid, .. } => Some((*uid, *gid)),
    };
    // SAFETY: between fork and exec only async-signal-safe system calls are made: setgroups, setgid, setuid.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            let check = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
            if let Some((uid, gid)) = ids {
                check(libc::setgroups(1, &gid))?;
                check(libc::setgid(gid))?;
                check(libc::setuid(uid))?;
            }
            Ok(())
        });
    }
    match on_our_death {
        // After the change of user, which clears it.
        Some(signal) => end_with_us(command, signal),
        None => command,
    }
}

/// On Linux, a signal to the command's process when the thread that started it ends, however that comes.
pub fn end_with_us(command: &mut Command, signal: Signal) -> &mut Command {
    #[cfg(target_os = "linux")]
    // SAFETY: between fork and exec only async-signal-safe system calls are made: prctl, getppid.
    #[allow(unsafe_code)]
    unsafe {
        let parent = libc::getpid();
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, signal.as_raw()) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            if libc::getppid() != parent {
                return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
    #[cfg(not(target_os = "linux"))]
    let _ = signal;
    command
}
