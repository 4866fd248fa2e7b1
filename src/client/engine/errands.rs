//! Commands that take more than one step: questions to the server, and what their answers go on with. An errand lives in
//! memory only: after a restart the user asks again. Those that change a membership log are in `ops`.

use serde::{Deserialize, Serialize};

use crate::client::command::{Place, RequestId};
use crate::client::event::Answer;
use crate::client::model::{Connection, Person, Problem, ProblemKind};
use crate::client::store::{StoreError, Table};
use crate::crypto::device_list::DeviceList;
use crate::protocol::channels::{Channel, ChannelSettings};
use crate::protocol::codec::Blob;
use crate::protocol::communities::{InvitePreview, LogOps};
use crate::protocol::devices::{RemoveDevice, UserDevices};
use crate::protocol::error::ErrorCode;
use crate::protocol::ids::{ChannelId, DeviceId, UserId};
use crate::protocol::messages::History;
use crate::protocol::users::{Page, User};

use super::commands::offline;
use super::http::{self, Body, Failure, Question};
use super::instance::InstanceErrand;
use super::io::{Method, Output};
use super::ops::{ANCHOR_FROM, InviteSecret, Waiting};
use super::{Cx, Engine};

/// In [`Table::Account`]: the list that removes a device, until its number is taken.
const LIST_DRAFT: &[u8] = b"list-draft";

/// A signed device list of which it is not known whether the server has it (`crypto.md` 4.3).
#[derive(Serialize, Deserialize)]
struct ListDraft {
    removes: DeviceId,
    seq: u64,
    list: Blob,
}

/// What an answer of the server goes on with.
#[derive(Debug)]
pub(super) enum Errand {
    Older {
        request: RequestId,
        place: Place,
        limit: usize,
        before: u64,
    },
    People {
        request: RequestId,
        found: Vec<Person>,
    },
    Settings {
        request: RequestId,
        channel_id: ChannelId,
        settings: ChannelSettings,
    },
    /// The answer is a channel.
    Channel {
        request: RequestId,
        /// Of a DM: whom it was asked for with.
        with: Option<UserId>,
    },
    Safety {
        request: RequestId,
        user_id: UserId,
    },
    Trust {
        request: RequestId,
        user_id: UserId,
        send_waiting: bool,
    },
    Device {
        request: RequestId,
        list: Vec<u8>,
    },
    LogOut {
        request: RequestId,
    },
    Preview {
        request: RequestId,
        code: String,
        invite: Option<InviteSecret>,
    },
    /// Of the people who run the instance.
    Instance {
        request: RequestId,
        asked: InstanceErrand,
    },
    /// A page of a log that this user is about to join.
    JoinOps(Box<Waiting>),
    /// The answer to an op.
    Op(Box<Waiting>),
}

type Reply = Result<Answer, Problem>;

impl Errand {
    const fn request(&self) -> Option<RequestId> {
        match self {
            Self::Older { request, .. }
            | Self::People { request, .. }
            | Self::Settings { request, .. }
            | Self::Channel { request, .. }
            | Self::Safety { request, .. }
            | Self::Trust { request, .. }
            | Self::Device { request, .. }
            | Self::LogOut { request }
            | Self::Preview { request, .. }
            | Self::Instance { request, .. } => Some(*request),
            Self::JoinOps(waiting) | Self::Op(waiting) => waiting.request,
        }
    }
}

impl Engine {
    pub(super) fn run(&mut self, cx: &mut Cx<'_>, errand: Errand, method: Method, path: String, body: Option<Vec<u8>>) {
        self.ask(cx, Question::Errand(Box::new(errand)), method, path, body);
    }

    /// The server has ended the session already, or nobody was logged in.
    fn is_session_over(&self, failure: &Failure) -> bool {
        matches!(self.connection, Connection::LoggedOut { .. })
            || matches!(failure.code(), Some(ErrorCode::Unauthenticated | ErrorCode::TokenExpired))
    }

    pub(super) fn reply(&self, cx: &mut Cx<'_>, request: Option<RequestId>, reply: Reply) {
        if let Some(request) = request {
            self.done(cx, request, reply);
        }
    }

    pub(super) fn on_errand(&mut self, cx: &mut Cx<'_>, errand: Errand, answer: Result<Body, Failure>) -> Result<(), StoreError> {
        let request = errand.request();
        let failed = |failure: &Failure| Err(failure.problem());
        let reply = match (errand, answer) {
            (Errand::LogOut { .. }, answer) => {
                // Without an answer too: the user wants to be out, here and now.
                cx.out.push(Output::ForgetSession);
                match answer {
                    Err(failure) if !self.is_session_over(&failure) => Err(Problem::new(
                        ProblemKind::Network,
                        "logged out on this machine, but the server did not hear of it: the session there lives on",
                    )
                    .hint("It ends by itself when it was not used for 30 days; `chat recover` ends every session at once.")),
                    _ => Ok(Answer::Ok),
                }
            }
            (Errand::People { mut found, .. }, answer) => {
                if let Ok(page) = answer.and_then(|body| body.parse::<Page<User>>().ok_or(Failure::Garbled)) {
                    for user in page.items {
                        self.places.put_user(&mut cx.db, user.clone())?;
                        if user.id != self.me_id() && !found.iter().any(|person| person.user_id == user.id) {
                            found.push(self.person(&user));
                        }
                    }
                }
                Ok(Answer::People(found))
            }
            (Errand::Op(waiting), answer) => return self.on_op_answer(cx, *waiting, answer),
            (Errand::Instance { request, asked }, answer) => match self.on_instance(cx, request, asked, answer) {
                Some(reply) => reply,
                None => return Ok(()),
            },
            (Errand::JoinOps(waiting), Ok(body)) => match body.parse::<LogOps>() {
                Some(page) => return self.on_join_ops(cx, *waiting, page),
                None => failed(&Failure::Garbled),
            },
            (Errand::Device { .. }, Err(failure)) => {
                // Another list has that number, or this one does: which, the server has to show before anything else is signed.
                if failure.code() == Some(ErrorCode::Conflict) {
                    let me = self.me_id();
                    self.mark_list_stale(cx, me, u64::MAX)?;
                    self.want_list(me);
                }
                failed(&failure)
            }
            // Withdrawn, expired or used up: the server says which.
            (Errand::Preview { .. }, Err(failure))
                if matches!(failure.code(), Some(ErrorCode::Forbidden | ErrorCode::NotFound)) =>
            {
                let mut problem = failure.problem();
                if problem.kind == ProblemKind::NotFound {
                    problem.text = "There is no such invite.".into();
                }
                Err(problem.hint("Ask for a new invite."))
            }
            (_, Err(failure)) => failed(&failure),
            (Errand::Older { place, limit, before, .. }, Ok(body)) => match body.parse::<History>() {
                Some(history) => Ok(self.take_history(cx, place, limit, before, history)?),
                None => failed(&Failure::Garbled),
            },
            (Errand::Settings { channel_id, settings, .. }, Ok(_)) => {
                self.places.update_state(&mut cx.db, channel_id, |state| state.settings = settings)?;
                Ok(Answer::Ok)
            }
            (Errand::Channel { with, .. }, Ok(body)) => match body.parse::<Channel>() {
                Some(channel) if with.is_some() && channel.peer.as_ref().map(|peer| peer.id) != with => {
                    Err(Problem::new(ProblemKind::Crypto, "The server answered with a conversation with somebody else.")
                        .hint("Nothing was opened."))
                }
                Some(channel) => {
                    let id = channel.id;
                    let start = channel.start_seq.unwrap_or(0);
                    self.add_channel(cx, channel)?;
                    self.follow(cx, id.into(), start)?;
                    if let Some(peer) = self.places.peer(id) {
                        self.has_lists([peer]);
                    }
                    Ok(Answer::Channel(id))
                }
                None => failed(&Failure::Garbled),
            },
            (Errand::Safety { user_id, .. }, Ok(body)) => match body.parse::<UserDevices>() {
                Some(devices) => {
                    self.apply_lists(cx, user_id, &devices)?;
                    self.safety_of(cx, user_id)?.map(Answer::Safety).ok_or_else(|| {
                        Problem::new(ProblemKind::NotFound, "This person has no device yet, so there is no key to compare.")
                    })
                }
                None => failed(&Failure::Garbled),
            },
            (Errand::Trust { user_id, send_waiting, .. }, Ok(body)) => match body.parse::<UserDevices>() {
                Some(devices) => self.accept_lists(cx, user_id, &devices, send_waiting)?.map(|()| Answer::Ok),
                None => failed(&Failure::Garbled),
            },
            (Errand::Device { list, .. }, Ok(_)) => {
                let devices = UserDevices {
                    identity_key: Some(Blob::default()),
                    head_seq: 0,
                    lists: vec![list.into()],
                    certificates: Vec::new(),
                };
                let me = self.me_id();
                self.apply_lists(cx, me, &devices)?;
                if let Some(own) = self.contacts.get(&me) {
                    cx.db.save(Table::Account, ANCHOR_FROM, &own.list().seq())?;
                }
                self.anchor_everywhere(cx)?;
                Ok(Answer::Ok)
            }
            (Errand::Preview { code, invite, .. }, Ok(body)) => match body.parse::<InvitePreview>() {
                Some(preview) => match self.begin_join(cx, request, code, invite, &preview) {
                    Ok(Some(answer)) => Ok(answer),
                    Ok(None) => return Ok(()),
                    Err(problem) => Err(problem),
                },
                None => failed(&Failure::Garbled),
            },
        };
        self.reply(cx, request, reply);
        Ok(())
    }

    fn take_history(
        &mut self,
        cx: &mut Cx<'_>,
        place: Place,
        limit: usize,
        before: u64,
        history: History,
    ) -> Result<Answer, StoreError> {
        let channel_id = place.channel_id;
        let mut oldest = before;
        let rows = history.items.into_iter().inspect(|row| oldest = oldest.min(row.seq)).collect::<Vec<_>>();
        for row in rows.into_iter().chain(history.related) {
            if row.channel_id == channel_id {
                self.take_row(cx, row)?;
            }
        }
        let oldest = if history.has_more { oldest } else { 1 };
        self.places.update_state(&mut cx.db, channel_id, |state| {
            state.oldest = Some(state.oldest.map_or(oldest, |old| old.min(oldest)))
        })?;
        Ok(Answer::Page(self.page_before(cx, place, Some(before), limit)?))
    }

    pub(super) fn remove_device(
        &mut self,
        cx: &mut Cx<'_>,
        request: RequestId,
        device_id: DeviceId,
    ) -> Result<Option<Reply>, StoreError> {
        let (Some(keys), Some(own)) = (&self.keys, self.contacts.get(&self.me_id())) else { return Ok(Some(Err(offline()))) };
        if Some(device_id) == self.me.as_ref().map(|me| me.device_id) {
            return Ok(Some(Err(
                Problem::new(ProblemKind::Usage, "This is the device in use.").hint("Remove it from another device, or log out.")
            )));
        }
        let Some(secret) = keys.device.identity_secret() else {
            return Ok(Some(Err(Problem::new(ProblemKind::Permission, "This device may not change the device list.")
                .hint("Use your primary device."))));
        };
        let certs: Vec<_> = own.certificates().filter(|cert| cert.addr().device_id != device_id).collect();
        if certs.len() == own.certificates().count() {
            return Ok(Some(Err(Problem::new(ProblemKind::NotFound, "You have no such device."))));
        }
        // Signed once for each number: a second list with the number of one that may stand at the server would contradict it,
        // and every contact would stop (`crypto.md` 4.3).
        let seq = own.list().seq().saturating_add(1);
        let draft = cx.db.load::<ListDraft>(Table::Account, LIST_DRAFT)?.filter(|draft| draft.seq == seq);
        let list = match draft {
            Some(draft) if draft.removes != device_id => {
                return Ok(Some(Err(Problem::new(
                    ProblemKind::Failed,
                    format!("The server has not confirmed the removal of device {} yet.", draft.removes),
                )
                .hint("Remove that one again first."))));
            }
            Some(draft) => draft.list.0,
            None => match DeviceList::sign(secret, own.user_id(), Some(own.list()), &certs, cx.now.as_unix_ms()) {
                Ok(list) => {
                    let draft = ListDraft { removes: device_id, seq, list: list.as_bytes().into() };
                    cx.db.save(Table::Account, LIST_DRAFT, &draft)?;
                    draft.list.0
                }
                Err(error) => {
                    return Ok(Some(Err(Problem::new(
                        ProblemKind::Crypto,
                        format!("The new device list cannot be signed: {error}."),
                    ))));
                }
            },
        };
        let body = http::json(&RemoveDevice { device_list: list.as_slice().into() });
        self.run(cx, Errand::Device { request, list }, Method::Delete, format!("/devices/{device_id}"), body);
        Ok(None)
    }
}
