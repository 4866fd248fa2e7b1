//! `chat admin`: what the people who run a server do with their account. Today: the codes with which accounts are made there when
//! `registration = "invite"`. A code is printed by the command that makes it, and by no other.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::print::{Printer, Style};
use super::session::Session;
use super::{Globals, Stop, tail};
use crate::client::command::Command;
use crate::client::event::Answer;
use crate::client::model::{Problem, ProblemKind};
use crate::protocol::auth::RegistrationInvite;
use crate::protocol::ids::InviteId;
use crate::tui::text::Clean;

const LINE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub struct AdminArgs {
    #[command(subcommand)]
    what: Admin,
}

#[derive(Debug, Subcommand)]
enum Admin {
    /// Codes with which accounts are made on this server (registration = "invite")
    #[command(subcommand, visible_alias = "invite")]
    Invites(Invites),
}

#[derive(Debug, Subcommand)]
enum Invites {
    /// Make a code and print it: whoever has it gives it to `chat register --invite-file`
    Create {
        /// How many accounts can be made with it; 0: as many as wanted
        #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
        uses: u32,
        /// How long it holds: 90s, 15m, 2h, 3d, 1w, or never
        #[arg(long, value_name = "TIME", default_value = "1w", value_parser = expiry)]
        expires: Expiry,
    },
    /// List the codes that were made, without the codes
    List,
    /// Let a code hold no longer
    Revoke {
        /// As `list` shows it
        #[arg(value_name = "ID")]
        id: InviteId,
    },
}

/// In so many seconds; none: never.
#[derive(Clone, Copy, Debug)]
struct Expiry(Option<u64>);

/// # Errors
/// `Permission` for whoever does not run the server, `NotFound` for an unknown id, `Network` when the server cannot be reached.
pub fn run(args: AdminArgs, globals: &Globals) -> Result<(), Stop> {
    let Admin::Invites(what) = args.what;
    super::block_on(async {
        let mut session = Session::open(globals).await?;
        let result = invites(&mut session, what, globals).await;
        session.close().await;
        result
    })
}

async fn invites(session: &mut Session, what: Invites, globals: &Globals) -> Result<(), Stop> {
    if !session.online(LINE).await {
        return Err(session.offline("Nothing happened; try again later.").into());
    }
    let (command, made, revoked) = match what {
        Invites::Create { uses, expires } => {
            (Command::CreateRegistrationInvite { max_uses: (uses > 0).then_some(uses), expires_in_s: expires.0 }, true, None)
        }
        Invites::List => (Command::ListRegistrationInvites, false, None),
        Invites::Revoke { id } => (Command::RevokeRegistrationInvite { id }, false, Some(id)),
    };
    let answer = session.call(command).await?;
    let mut out = Printer::new(globals);
    match (answer, revoked) {
        (Answer::RegistrationInvites(invites), _) => {
            for invite in &invites {
                if out.is_json() {
                    out.object("registration_invite", object(invite))?;
                } else if made {
                    let code = invite.code.as_ref().map(|code| Clean::ours(&code.0)).unwrap_or_default();
                    out.line(&[(Style::Plain, &code)])?;
                } else {
                    out.say(words(invite))?;
                }
            }
        }
        (_, Some(id)) if out.is_json() => out.object("revoked", json!({ "id": id }))?,
        (_, Some(_)) => {
            if !globals.quiet {
                out.say("the code holds no longer; accounts that were made with it stay.")?;
            }
        }
        (other, None) => return Err(Problem::new(ProblemKind::Failed, format!("unexpected answer: {other:?}")).into()),
    }
    Ok(out.flush()?)
}

fn object(invite: &RegistrationInvite) -> Value {
    json!({
        "id": invite.id,
        "code": invite.code.as_ref().map(|code| code.0.as_str()),
        "max_uses": invite.max_uses,
        "used_count": invite.used_count,
        "expires_at": invite.expires_at,
        "created_by": invite.created_by,
        "created_at": invite.created_at,
    })
}

fn words(invite: &RegistrationInvite) -> String {
    let of = invite.max_uses.map_or_else(String::new, |uses| format!(" of {uses}"));
    let until = invite.expires_at.map_or_else(
        || "without end".to_owned(),
        |at| {
            let at = jiff::Timestamp::from_millisecond(at.as_millis()).unwrap_or_default();
            format!("until {}", at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M"))
        },
    );
    format!("{}  used {}{of}  {until}", invite.id, invite.used_count)
}

fn expiry(text: &str) -> Result<Expiry, String> {
    if text == "never" {
        return Ok(Expiry(None));
    }
    tail::span(text)
        .filter(|seconds| *seconds > 0)
        .map(|seconds| Expiry(Some(seconds)))
        .ok_or_else(|| "write 90s, 15m, 2h, 3d, 1w, or never".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_holds_as_long_as_is_said() {
        for (text, seconds) in [("90s", Some(90)), ("1w", Some(604_800)), ("never", None)] {
            assert_eq!(expiry(text).unwrap().0, seconds);
        }
        for bad in ["", "0d", "7", "-1d", "soon"] {
            assert!(expiry(bad).is_err(), "{bad}");
        }
    }
}
