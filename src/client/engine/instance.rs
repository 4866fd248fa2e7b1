//! What the people who run the server do with their account: invitations to make one. To everybody else the server answers as if
//! there were no such thing.

use crate::client::command::{Command, RequestId};
use crate::client::event::Answer;
use crate::client::model::{Problem, ProblemKind};
use crate::protocol::auth::{CreateRegistrationInvite, RegistrationInvite};
use crate::protocol::error::ErrorCode;
use crate::protocol::users::Page;

use super::errands::Errand;
use super::http::{self, Body, Failure};
use super::io::Method;
use super::{Cx, Engine};

/// More than anybody looks through.
const LISTED_MAX: usize = 1_000;

/// What was asked, and what came so far.
#[derive(Debug)]
pub(super) enum InstanceErrand {
    Create,
    List(Vec<RegistrationInvite>),
    Revoke,
}

impl Engine {
    pub(super) fn ask_instance(&mut self, cx: &mut Cx<'_>, request: RequestId, command: &Command) {
        let (asked, method, path, body) = match command {
            Command::CreateRegistrationInvite { max_uses, expires_in_s } => {
                let create = CreateRegistrationInvite { max_uses: *max_uses, expires_in_s: *expires_in_s };
                (InstanceErrand::Create, Method::Post, "/admin/invites".to_owned(), http::json(&create))
            }
            Command::RevokeRegistrationInvite { id } => {
                (InstanceErrand::Revoke, Method::Delete, format!("/admin/invites/{id}"), None)
            }
            _ => (InstanceErrand::List(Vec::new()), Method::Get, "/admin/invites?limit=100".to_owned(), None),
        };
        self.run(cx, Errand::Instance { request, asked }, method, path, body);
    }

    /// None: there is more to ask.
    pub(super) fn on_instance(
        &mut self,
        cx: &mut Cx<'_>,
        request: RequestId,
        asked: InstanceErrand,
        answer: Result<Body, Failure>,
    ) -> Option<Result<Answer, Problem>> {
        let body = match answer {
            Ok(body) => body,
            Err(failure) if failure.code() == Some(ErrorCode::NotFound) => {
                let nobody = "Only the people who run this server make and see invitations to it.";
                return Some(Err(match asked {
                    InstanceErrand::Revoke => Problem::new(ProblemKind::NotFound, "There is no such invitation.").hint(nobody),
                    InstanceErrand::Create | InstanceErrand::List(_) => {
                        Problem::new(ProblemKind::Permission, nobody).hint("Ask whoever made the first account there.")
                    }
                }));
            }
            Err(failure) => return Some(Err(failure.problem())),
        };
        let garbled = || Err(Failure::Garbled.problem());
        Some(match asked {
            InstanceErrand::Revoke => Ok(Answer::Ok),
            InstanceErrand::Create => match body.parse::<RegistrationInvite>() {
                Some(invite) => Ok(Answer::RegistrationInvites(vec![invite])),
                None => garbled(),
            },
            InstanceErrand::List(mut found) => match body.parse::<Page<RegistrationInvite>>() {
                Some(page) => {
                    found.extend(page.items);
                    if let Some(cursor) = page.next_cursor.filter(|_| found.len() < LISTED_MAX) {
                        let path = format!("/admin/invites?limit=100&cursor={}", http::escape(&cursor));
                        let asked = InstanceErrand::List(found);
                        self.run(cx, Errand::Instance { request, asked }, Method::Get, path, None);
                        return None;
                    }
                    Ok(Answer::RegistrationInvites(found))
                }
                None => garbled(),
            },
        })
    }
}
