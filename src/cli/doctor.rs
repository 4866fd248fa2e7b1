//! `chat doctor`: looks at everything that can be wrong on this machine, one line each, and says what to do. It changes nothing
//! and asks nothing. Here is the client's side; [`server`] is that of `chat serve`.

mod server;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use clap::Args;
use rustix::fs::{Access, access};
use serde_json::json;

use super::print::{Printer, Style};
use super::session;
use super::{Globals, Stop};
use crate::client::core::now;
use crate::client::lock;
use crate::client::model::{Problem, ProblemKind};
use crate::client::profile::{Directories, Profile};
use crate::client::setup::Server;
use crate::client::unlock;
use crate::tui::text::Clean;

/// Beyond this the server's and this machine's clocks make logins and disappearing messages unreliable.
const CLOCK_MAX_MS: i64 = 120_000;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Look at what `chat serve` needs, with the same configuration, instead of at the client
    #[arg(long)]
    server: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warning,
    Bad,
}

struct Finding {
    check: &'static str,
    verdict: Verdict,
    text: String,
    hint: String,
}

impl Finding {
    fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, text: text.into(), hint: String::new() }
    }

    fn of(check: &'static str, verdict: Verdict, problem: &Problem) -> Self {
        Self { check, verdict, text: Clean::from_untrusted(&problem.text).into_string(), hint: problem.hint.clone() }
    }

    fn warning(check: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, text: text.into(), hint: hint.into() }
    }

    fn bad(check: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, ..Self::warning(check, text, hint) }
    }

    /// How far away another clock is, in milliseconds.
    fn clock(off: i64, whose: &str) -> Self {
        if off.abs() <= CLOCK_MAX_MS {
            return Self::ok("clock", format!("within {} ms of {whose}", off.abs().max(1)));
        }
        Self::warning("clock", format!("{} s away from {whose}", off / 1000), "Let this machine synchronise its time.")
    }
}

/// # Errors
/// When something is wrong that keeps chat from working.
pub fn run(args: &DoctorArgs, globals: &Globals) -> Result<(), Stop> {
    super::block_on(async {
        let findings = if args.server { examine_server(globals).await } else { examine(globals).await };
        let mut out = Printer::new(globals);
        for finding in &findings {
            let word = match finding.verdict {
                Verdict::Ok => "ok",
                Verdict::Warning => "warning",
                Verdict::Bad => "bad",
            };
            if out.is_json() {
                let hint = (!finding.hint.is_empty()).then_some(&finding.hint);
                out.object("check", json!({ "check": finding.check, "result": word, "message": finding.text, "hint": hint }))?;
                continue;
            }
            if globals.quiet && finding.verdict == Verdict::Ok {
                continue;
            }
            let style = if finding.verdict == Verdict::Ok { Style::Dim } else { Style::Bold };
            out.line(&[
                (style, &Clean::ours(format!("{word:8}"))),
                (Style::Plain, &Clean::ours(format!("{}: {}", finding.check, finding.text))),
            ])?;
            if !finding.hint.is_empty() {
                out.line(&[(Style::Plain, &Clean::ours(format!("         {}", finding.hint)))])?;
            }
        }
        out.flush()?;
        let bad = findings.iter().filter(|finding| finding.verdict == Verdict::Bad).count();
        if bad == 0 {
            return Ok(());
        }
        Err(Problem::new(ProblemKind::Failed, format!("{bad} of {} checks failed", findings.len())).into())
    })
}

async fn examine_server(globals: &Globals) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("version", format!("chat {}", env!("CARGO_PKG_VERSION")))];
    match session::config(globals) {
        Ok(config) => {
            findings.push(Finding::ok("configuration", "readable"));
            findings.extend(server::examine(&config.server).await);
        }
        Err(problem) => findings.push(Finding::of("configuration", Verdict::Bad, &problem)),
    }
    findings
}

async fn examine(globals: &Globals) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("version", format!("chat {}", env!("CARGO_PKG_VERSION"))), terminal(), locale()];
    let settings = match session::settings(globals) {
        Ok(settings) => {
            findings.push(Finding::ok("configuration", "readable"));
            settings
        }
        Err(problem) => {
            findings.push(Finding::of("configuration", Verdict::Bad, &problem));
            return findings;
        }
    };
    findings.push(if unlock::keyring_works() {
        Finding::ok("keyring", "the kernel's keyring works here")
    } else {
        Finding::warning(
            "keyring",
            "the kernel's keyring is not available here",
            "Use a passphrase; scripts set CHAT_PASSPHRASE_FILE.",
        )
    });
    let profile = match Directories::from_env().and_then(|directories| Profile::new(&directories, &globals.profile)) {
        Ok(profile) => profile,
        Err(problem) => {
            findings.push(Finding::of("profile", Verdict::Bad, &problem));
            return findings;
        }
    };
    findings.extend([Some(profile.data.as_path()), profile.log.parent()].into_iter().flatten().map(writable));
    let account = match profile.require_account() {
        Ok(account) => account,
        Err(problem) => {
            // None is how every machine begins; a damaged one is a fault.
            let verdict = if problem.kind == ProblemKind::Auth { Verdict::Warning } else { Verdict::Bad };
            findings.push(Finding::of("profile", verdict, &problem));
            return findings;
        }
    };
    if account.logged_out {
        findings.push(Finding::warning("login", "nobody is logged in", "Run `chat login`; the history is kept."));
    }
    findings.push(Finding::ok("profile", format!("{} at {} ({})", account.username, account.server, profile.data.display())));
    for path in [profile.data.clone(), profile.key(), profile.store()] {
        findings.push(private(&path));
    }
    findings.push(match unlock::remembered(&profile) {
        Ok(Some(_)) => Finding::ok("key", "the kernel remembers it"),
        Ok(None) => Finding::ok("key", "wants the passphrase"),
        Err(problem) => Finding::of("key", Verdict::Bad, &problem),
    });
    findings.push(match lock::owner(&profile) {
        Ok(Some(owner)) => Finding::ok("client", format!("process {} owns the profile", owner.pid)),
        Ok(None) => Finding::ok("client", "none is running"),
        Err(problem) => Finding::of("client", Verdict::Bad, &problem),
    });
    let asked = now();
    match Server::probe(&account.server, settings).await {
        Ok(server) => {
            let text = format!("{} answers, version {}", server.url, Clean::ours(&server.config.version));
            findings.push(Finding::ok("server", text));
            let off = server.config.server_time.0 - (asked.0 + now().0) / 2;
            findings.push(Finding::clock(off, "the server's"));
        }
        Err(problem) => findings.push(Finding::of("server", Verdict::Bad, &problem)),
    }
    findings
}

/// Whether a directory can be written to, or made.
fn writable(path: &Path) -> Finding {
    let check = "directory";
    let place = path.ancestors().find(|place| place.symlink_metadata().is_ok()).unwrap_or(path);
    let hint = "Set HOME, or CHAT_DATA_DIR and CHAT_STATE_DIR, to directories of your own.";
    if !place.is_dir() {
        return Finding::bad(check, format!("{}: {} is no directory", path.display(), place.display()), hint);
    }
    match access(place, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Finding::ok(check, format!("{} can be written to", path.display())),
        Err(error) => Finding::bad(check, format!("{} cannot be written to: {error}", place.display()), hint),
    }
}

fn private(path: &Path) -> Finding {
    let check = "files";
    match std::fs::metadata(path) {
        Err(error) => Finding {
            check,
            verdict: Verdict::Bad,
            text: format!("{}: {error}", path.display()),
            hint: "Restore the profile's directory from a copy, or set up a new profile with --profile.".to_owned(),
        },
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            let hint = format!("chmod go= {}", path.display());
            Finding::warning(check, format!("{} can be read by others", path.display()), hint)
        }
        Ok(_) => Finding::ok(check, format!("{} is private", path.display())),
    }
}

fn terminal() -> Finding {
    match std::env::var("TERM") {
        Ok(term) if term == "dumb" => {
            Finding::warning("terminal", "TERM=dumb: `chat tui` needs more", "Use `chat tail --follow`.")
        }
        Ok(term) => Finding::ok("terminal", Clean::ours(term).into_string()),
        Err(_) => Finding::warning("terminal", "TERM is not set", "Fine for scripts; `chat tui` needs it."),
    }
}

fn locale() -> Finding {
    let value = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    match value {
        Some(value) if value.to_lowercase().replace('-', "").contains("utf8") => {
            Finding::ok("locale", Clean::ours(value).into_string())
        }
        Some(value) => Finding::warning(
            "locale",
            format!("{} is not UTF-8", Clean::ours(value)),
            "Characters beyond ASCII may look wrong: export LANG=C.UTF-8",
        ),
        None => Finding::warning("locale", "none is set", "export LANG=C.UTF-8"),
    }
}
