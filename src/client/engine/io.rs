//! What goes into the engine and what comes out of it: plain data. The driver is the only one who performs it.

use std::fmt;

use crate::client::command::{Command, RequestId};
use crate::client::event::ClientEvent;
use crate::client::store::Changes;
use crate::protocol::codec::Timestamp;
use crate::protocol::devices::DeviceSession;
use crate::protocol::frame::{ClientFrame, ServerFrame};
use crate::protocol::ids::{DeviceId, SessionId};
use crate::protocol::users::User;

/// Something happened.
#[derive(Debug)]
pub enum Input {
    /// The driver has tokens: of a new login, or at every start those that it kept. Comes before the first frame.
    LoggedIn(Login),
    Command(RequestId, Command),
    /// The line to the server, as the driver sees it. That it is up, [`ServerFrame::Ready`] says.
    Line(Line),
    Frame(ServerFrame),
    /// The answer to an [`Output::Http`].
    Http {
        tag: HttpTag,
        answer: Result<Answer, Unreachable>,
    },
    /// The moment of the last [`Output::Wake`] has come. More ticks than asked for do no harm.
    Tick,
}

/// A login at a server.
#[derive(Clone, Debug)]
pub struct Login {
    pub user: User,
    /// `https://chat.example.org`, as in invite links and on screens.
    pub server: String,
    pub server_name: String,
    /// Claim `sid` of the access token.
    pub session_id: SessionId,
    /// Claim `did`: the device that the session is bound to.
    pub device_id: Option<DeviceId>,
    /// For the server's list of devices, in clear: "laptop".
    pub device_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// From 1.
    Connecting {
        attempt: u32,
    },
    Offline {
        retry_at: Option<Timestamp>,
        why: String,
    },
    /// Round trip of the last ping.
    Latency {
        ms: u32,
    },
    /// The server does not take these tokens any more.
    LoggedOut {
        why: String,
    },
}

/// Finds the question that an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpTag(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

/// A request with the session's access token. The driver renews the token by itself when the server wants it, and gives up
/// after its own timeout; it never repeats anything else.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    pub tag: HttpTag,
    pub method: Method,
    /// Below `/api/v1`, with its query: `/users/…/devices?after=3`.
    pub path: String,
    /// JSON.
    pub body: Option<Vec<u8>>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tag, method, path, body } = self;
        f.debug_struct("Request")
            .field("tag", tag)
            .field("method", method)
            .field("path", path)
            .field("body", &body.as_ref().map(Vec::len))
            .finish()
    }
}

/// An answer of the server, whatever its status.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// At most 32 MiB: the driver cuts longer answers off and reports them as [`Unreachable`].
    pub body: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).field("body", &self.body.len()).finish()
    }
}

/// No answer came, so whether the request was performed is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// For people: "connection refused".
    pub why: String,
}

/// What one input leads to: first `changes` is saved in one transaction, then `after` is performed in order.
#[derive(Debug, Default)]
pub struct Step {
    pub changes: Changes,
    pub after: Vec<Output>,
}

/// Something to do.
#[derive(Debug)]
pub enum Output {
    /// Over the WebSocket. Without one it is dropped: the engine sends again after the next `ready`.
    Send(ClientFrame),
    Http(Request),
    Tell(ClientEvent),
    /// Come back with [`Input::Tick`] at this time. It replaces the earlier one.
    Wake(Timestamp),
    /// The session is bound to this device now: use these tokens from here on, and connect.
    Session(DeviceSession),
    /// Try to connect now instead of at the end of the backoff; drop a connection that is up.
    Reconnect,
    /// Erase the tokens and close the line.
    ForgetSession,
}
