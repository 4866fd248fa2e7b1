//! Everything that the terminal client may do to the world, as one closed enum. `update` returns them, the runtime performs them.

use std::fmt;

use crate::client::command::{Command, RequestId};
use crate::client::model::Untrusted;
use crate::protocol::auth::{Registration, SecretText};

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

/// What the first run asks of the client before there is one, and how one comes back in. At most one at a time.
#[derive(Clone, PartialEq, Eq)]
pub enum Setup {
    /// Is there a server, and whom does it let in? → [`SetupAnswer::Server`]
    Probe { server: String },
    /// Make the account or the session, the keys and the store. → [`SetupAnswer::Ready`]
    Enter { register: bool, username: String, password: SecretText, invite: Option<SecretText>, protection: Protect },
    /// Open the store of this profile. → [`SetupAnswer::Ready`]
    Unlock { passphrase: SecretText },
    /// A new session for the client that runs, after its session ended. → [`SetupAnswer::LoggedIn`]
    LogIn { password: SecretText },
    /// The user has seen the codes: go on with the client that [`SetupAnswer::Ready`] brought.
    Finish,
}

/// What keeps the local store closed.
#[derive(Clone, PartialEq, Eq)]
pub enum Protect {
    /// `remember`: asked for once after each restart of the machine, else at every start.
    Passphrase { passphrase: SecretText, remember: bool },
    /// Kept by the kernel until the machine restarts; a code opens it afterwards.
    Keyring,
}

impl fmt::Debug for Protect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passphrase { .. } => "Passphrase",
            Self::Keyring => "Keyring",
        })
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Probe { .. } => "Probe",
            Self::Enter { .. } => "Enter",
            Self::Unlock { .. } => "Unlock",
            Self::LogIn { .. } => "LogIn",
            Self::Finish => "Finish",
        })
    }
}

#[derive(Clone, PartialEq, Eq)]
pub enum SetupAnswer {
    Server {
        name: Untrusted,
        registration: Registration,
    },
    /// The store is open; the client's events follow after [`Setup::Finish`].
    Ready {
        /// To be written down: what each is for, and the code.
        codes: Vec<(&'static str, SecretText)>,
    },
    LoggedIn,
}

impl fmt::Debug for SetupAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server { .. } => "Server",
            Self::Ready { .. } => "Ready",
            Self::LoggedIn => "LoggedIn",
        })
    }
}
