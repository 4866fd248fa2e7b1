//! Everything that the terminal client may do to the world, as one closed enum. `update` returns them, the runtime performs them.

use std::fmt;

use zeroize::Zeroizing;

use crate::client::command::{Command, RequestId};
use crate::client::model::Untrusted;

#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Client(RequestId, Command),
    Setup(Setup),
    /// Into the clipboard, through the terminal.
    Copy(String),
    /// The terminal's bell: somebody wants attention.
    Bell,
    /// The window's title; already clean.
    Title(String),
    /// Forget what is on the screen and draw all of it.
    Redraw,
    /// Into the background.
    Suspend,
    /// End; everything to save was asked for before.
    Quit,
}

/// What the first run asks of the client before there is one. At most one at a time.
#[derive(Clone, PartialEq, Eq)]
pub enum Setup {
    /// Is there a server, and whom does it let in? → [`SetupAnswer::Server`]
    Probe { server: String },
    /// Make the account or the session, the keys and the store. → [`SetupAnswer::Ready`]
    Enter {
        server: String,
        register: bool,
        username: String,
        password: Zeroizing<String>,
        invite: Option<String>,
        protection: Protection,
    },
    /// Open the store of this profile. → [`SetupAnswer::Ready`]
    Unlock { passphrase: Zeroizing<String> },
    /// The user has the recovery code, or does not want it: go on with the client that [`SetupAnswer::Ready`] brought.
    Finish,
}

/// What keeps the local store closed.
#[derive(Clone, PartialEq, Eq)]
pub enum Protection {
    /// Asked for at every start.
    Passphrase(Zeroizing<String>),
    /// Kept by the kernel until the machine restarts, and in a file that only this user can read.
    Keyring,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Probe { .. } => "Probe",
            Self::Enter { .. } => "Enter",
            Self::Unlock { .. } => "Unlock",
            Self::Finish => "Finish",
        })
    }
}

#[derive(Clone, PartialEq, Eq)]
pub enum SetupAnswer {
    Server {
        /// The address as it will be used, `https://chat.example.org`.
        server: String,
        name: Untrusted,
        registration: Registration,
    },
    /// The store is open; the client's events follow.
    Ready {
        /// To be written down, when there is one.
        recovery_code: Option<Zeroizing<String>>,
    },
}

impl fmt::Debug for SetupAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server { .. } => "Server",
            Self::Ready { .. } => "Ready",
        })
    }
}

/// Whom a server lets register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    Open,
    Invite,
    Closed,
}
