//! `chat doctor --server`: what keeps a `chat serve` with this configuration on this machine from working well. It changes
//! nothing and may run beside the server.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access, access, statvfs};
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, lookup_host};

use super::{CLOCK_MAX_MS, Finding};
use crate::client::Settings;
use crate::client::core::now;
use crate::client::setup::Server;
use crate::config::ServerConfig;
use crate::protocol::auth::Registration;
use crate::server::db;
use crate::server::postgres;
use crate::tui::text::Clean;

/// Below this PostgreSQL may soon stop, below that somebody should look.
const SPACE_BAD: u64 = 256 << 20;
const SPACE_LOW: u64 = 2 << 30;

pub async fn examine(config: &ServerConfig) -> Vec<Finding> {
    let root = config.data_dir();
    let mut findings = vec![directory(&root)];
    findings.push(space(&root));
    if config.database.url.is_empty() {
        let place = root.clone();
        findings.push(match tokio::task::spawn_blocking(move || postgres::survey(&place)).await {
            Ok(Ok(found)) => Finding::ok("PostgreSQL", format!("version {} in {}", found.major, found.dir.display())),
            Ok(Err(error)) => Finding::bad("PostgreSQL", error.to_string(), "Or set server.database.url."),
            Err(error) => Finding::bad("PostgreSQL", error.to_string(), ""),
        });
        findings.push(kernel_clock());
    } else {
        findings.extend(database(&config.database.url).await);
    }
    findings.push(secret(&config.secret_file()));
    findings.push(port(&config.listen, postgres::holder(&root)).await);
    findings.extend(encryption(config));
    findings.push(open_files(config));
    findings.push(match config.registration {
        Registration::Open => Finding::ok("registration", "open: everybody who reaches the server may make an account"),
        Registration::Invite => Finding::ok("registration", "by invitation; the first account needs none and owns the server"),
        Registration::Closed => Finding::ok("registration", "closed; only the first account can be made, and owns the server"),
    });
    findings
}

/// The nearest directory that exists: what is missing below it is made at the first start.
fn existing(path: &Path) -> Option<(&Path, Metadata)> {
    path.ancestors().find_map(|path| std::fs::metadata(path).ok().map(|metadata| (path, metadata)))
}

fn directory(root: &Path) -> Finding {
    let check = "data directory";
    let Ok(absolute) = std::path::absolute(root) else {
        return Finding::bad(check, format!("{} is no path", root.display()), "Set server.data_dir.");
    };
    let Some((found, metadata)) = existing(&absolute) else {
        return Finding::bad(check, format!("{} cannot be read", root.display()), "Choose another one with server.data_dir.");
    };
    let owner = "Run doctor as the user who runs the server, or give the directory to that user.";
    if !metadata.is_dir() {
        return Finding::bad(check, format!("{} is no directory", found.display()), "Choose another one with server.data_dir.");
    }
    if let Err(error) = access(found, Access::WRITE_OK | Access::EXEC_OK) {
        return Finding::bad(check, format!("cannot write to {}: {error}", found.display()), owner);
    }
    if found != absolute {
        return Finding::ok(check, format!("{} will be made at the first start", root.display()));
    }
    if metadata.mode() & 0o077 & !0o011 != 0 {
        let hint = format!("chmod go-rw {}", found.display());
        return Finding::warning(check, format!("{} can be read by others", found.display()), hint);
    }
    Finding::ok(check, found.display().to_string())
}

fn space(root: &Path) -> Finding {
    let check = "disk space";
    let absolute = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    let place = existing(&absolute).map_or(Path::new("/"), |(path, _)| path);
    let Ok(found) = statvfs(place) else {
        return Finding::warning(check, format!("cannot ask for it at {}", place.display()), "Look with `df`.");
    };
    enough(found.f_bavail.saturating_mul(found.f_frsize), place)
}

/// What `free` bytes mean for a server with its data at `place`.
fn enough(free: u64, place: &Path) -> Finding {
    let check = "disk space";
    let text = format!("{} MiB free at {}", free >> 20, place.display());
    match free {
        0..SPACE_BAD => Finding::bad(check, text, "PostgreSQL stops when the disk is full. Free some space."),
        SPACE_BAD..SPACE_LOW => Finding::warning(check, text, "Free some space, or move the data directory to a bigger disk."),
        _ => Finding::ok(check, text),
    }
}

async fn database(url: &str) -> Vec<Finding> {
    let asked = now();
    match db::survey(url).await {
        Ok(found) => {
            let schema = match found.pending {
                0 => "its schema is up to date".to_owned(),
                count => format!("{count} migrations will be applied at the next start"),
            };
            let text = format!("PostgreSQL {} answers; {schema}", Clean::ours(&found.version));
            let off = found.now_ms - i64::midpoint(asked.0, now().0);
            vec![Finding::ok("database", text), Finding::clock(off, "the database's")]
        }
        Err(error) => {
            let hint = "Check server.database.url, and that PostgreSQL runs and lets this machine in (pg_hba.conf).";
            vec![Finding::bad("database", format!("{error:#}"), hint), kernel_clock()]
        }
    }
}

/// Whether anything keeps this machine's clock right; tokens and expiring messages depend on it.
fn kernel_clock() -> Finding {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: `modes` 0 changes nothing; the kernel fills the structure, which is plain numbers.
        #[allow(unsafe_code)]
        let state = unsafe {
            let mut timex: libc::timex = std::mem::zeroed();
            libc::adjtimex(&raw mut timex)
        };
        if state == libc::TIME_ERROR {
            let hint =
                "Run a time service such as systemd-timesyncd or chrony; virtual machines may get the time from their host.";
            return Finding::warning("clock", "nothing synchronises this machine's clock", hint);
        }
    }
    let off = build_time().map_or(0, |built| (built - now().0).max(0));
    if off > CLOCK_MAX_MS { Finding::clock(off, "this program's making") } else { Finding::ok("clock", "plausible") }
}

/// When this binary was written.
fn build_time() -> Option<i64> {
    let written = std::fs::metadata(std::env::current_exe().ok()?).ok()?.modified().ok()?;
    i64::try_from(written.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis()).ok()
}

fn secret(path: &Path) -> Finding {
    let check = "secret";
    match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Finding::ok(check, format!("{} will be made at the first start", path.display()))
        }
        Err(error) => Finding::bad(check, format!("{}: {error}", path.display()), "Run doctor as the user who runs the server."),
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            let hint = format!("chmod go= {}; who has it can make logins for everybody", path.display());
            Finding::bad(check, format!("{} can be read by others", path.display()), hint)
        }
        Ok(_) => Finding::ok(check, format!("{} is private", path.display())),
    }
}

/// Free, or a server of ours answers.
async fn port(listen: &str, holder: Option<String>) -> Finding {
    let check = "port";
    let error = match TcpListener::bind(listen).await {
        Ok(_) => {
            return match holder {
                None => Finding::ok(check, format!("{listen} is free")),
                Some(pid) => Finding::warning(
                    check,
                    format!("{listen} is free, but process {pid} serves from the data directory"),
                    "It listens elsewhere, or is starting.",
                ),
            };
        }
        Err(error) => error,
    };
    if error.kind() != ErrorKind::AddrInUse {
        let hint = "server.listen is an address and a port of this machine; ports below 1024 need a privilege.";
        return Finding::bad(check, format!("cannot listen on {listen}: {error}"), hint);
    }
    let settings = Settings { allow_http: true, ..Settings::default() };
    let answers = match lookup_host(listen).await.ok().and_then(|mut addresses| addresses.next()) {
        Some(address) => Server::probe(&format!("http://{}", reachable(address)), settings).await.ok(),
        None => None,
    };
    match answers {
        Some(server) => {
            let by = holder.map_or_else(String::new, |pid| format!(" (process {pid})"));
            Finding::ok(check, format!("chat {} answers on {listen}{by}", Clean::ours(&server.config.version)))
        }
        None => Finding::bad(
            check,
            format!("another program uses {listen}, or a chat server that does not answer"),
            "Stop it, or choose another port with server.listen.",
        ),
    }
}

/// "Everywhere" is an address to listen on, not one to connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        return SocketAddr::new(IpAddr::from(Ipv4Addr::LOCALHOST), address.port());
    }
    address
}

/// The server speaks plain HTTP: only this machine should hear it.
fn encryption(config: &ServerConfig) -> Option<Finding> {
    let local = config.listen.starts_with("localhost:")
        || config.listen.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback());
    (!local).then(|| {
        Finding::warning(
            "encryption",
            format!("{} is reached from elsewhere in plain HTTP, which clients refuse", config.listen),
            "Listen on 127.0.0.1 behind a proxy with TLS (nginx, Caddy), and name it in server.trusted_proxies.",
        )
    })
}

fn open_files(config: &ServerConfig) -> Finding {
    let check = "open files";
    let wanted = crate::cli::open_files_wanted(config);
    // The server raises its own limit as far as it may.
    match getrlimit(Resource::Nofile).maximum {
        Some(most) if most < wanted => Finding::warning(
            check,
            format!("at most {most}, but server.limits.connections = {} needs {wanted}", config.limits.connections),
            format!("LimitNOFILE={wanted} in the systemd unit, or a lower server.limits.connections."),
        ),
        Some(most) => Finding::ok(check, format!("at most {most}; {wanted} are needed")),
        None => Finding::ok(check, "unlimited"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_disk_with_little_space_is_warned_of_and_a_full_one_is_bad() {
        for (free, verdict) in [
            (0, Verdict::Bad),
            (SPACE_BAD - 1, Verdict::Bad),
            (SPACE_BAD, Verdict::Warning),
            (SPACE_LOW - 1, Verdict::Warning),
            (SPACE_LOW, Verdict::Ok),
        ] {
            let finding = enough(free, Path::new("/data"));
            assert_eq!((finding.verdict, finding.hint.is_empty()), (verdict, verdict == Verdict::Ok), "{free}");
            assert_eq!(finding.text, format!("{} MiB free at /data", free >> 20));
        }
    }
}
