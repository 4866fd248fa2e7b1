//! Who takes part in a load: real accounts with a device each, in communities of real members, made through the API once and
//! kept in the data directory. Beside the list for [`load`](super) itself stand the two files that the generator of
//! `docs/BENCHMARKS.md` reads: `tokens` and `rooms`.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use crate::client::bare::{Hall, Person};
use crate::client::model::Problem;
use crate::client::transport::Transport;
use crate::protocol::auth::SecretText;
use crate::protocol::ids::{ChannelId, DeviceId, UserId};

use super::failed;

/// Of every account here: they live as long as their directory.
pub const PASSWORD: &str = "seven green kettles whistle";
const FILE: &str = "people.json";
/// Accounts that are made at a time; the server hashes as many passwords as it has cores.
const AT_ONCE: usize = 4;

/// Somebody who can log in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Account {
    pub name: String,
    pub user_id: UserId,
    pub device_id: DeviceId,
    pub token: SecretText,
}

/// A channel and who is in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Room {
    pub name: String,
    pub channel_id: ChannelId,
    /// Of the frames for it.
    pub epoch: u64,
    /// The first member's place in [`People::accounts`], and how many follow.
    pub first: usize,
    pub members: usize,
}

/// Everybody.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct People {
    pub accounts: Vec<Account>,
    pub rooms: Vec<Room>,
}

/// What the account at this place of [`People::accounts`] is called.
pub fn username(place: usize) -> String {
    format!("load{}", place + 1)
}

/// Rooms that a load wants: name, first member, members.
pub type Plan = Vec<(String, usize, usize)>;

impl People {
    /// Who was made before under this directory, if anybody.
    pub fn load(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(dir.join(FILE)).ok()?).ok()
    }

    /// Makes the people and rooms of the plan that are not there yet.
    pub async fn complete(mut self, server: &Arc<dyn Transport>, plan: &Plan, dir: &Path) -> Result<Self, Problem> {
        let missing: Vec<_> = plan.iter().filter(|(name, ..)| self.rooms.iter().all(|room| room.name != *name)).collect();
        let wanted = missing.iter().map(|(_, first, members)| first + members).max().unwrap_or(0);
        // Keys to sign with live as long as this process: whoever joins something new is made new.
        let base = self.accounts.len();
        if missing.is_empty() {
            return Ok(self);
        }
        let password = SecretText::from(PASSWORD);
        let persons: Vec<Person> = stream::iter(base..base + wanted)
            .map(|n| {
                let (server, password) = (Arc::clone(server), password.clone());
                async move { Person::register(&server, &username(n), &password).await }
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        for (n, person) in persons.iter().enumerate() {
            self.accounts.push(Account {
                name: format!("u{}", base + n + 1),
                user_id: person.user_id,
                device_id: person.device_id,
                token: person.token.clone(),
            });
        }
        for (name, first, members) in missing {
            let (owner, others) =
                persons[*first..first + members].split_first().ok_or_else(|| failed("a room without members"))?;
            let mut hall = Hall::found(server, owner, name).await?;
            for person in others {
                hall.join(server, person).await?;
            }
            self.rooms.push(Room {
                name: name.clone(),
                channel_id: hall.channel_id,
                epoch: hall.epoch(),
                first: base + first,
                members: *members,
            });
        }
        self.save(dir)?;
        Ok(self)
    }

    fn save(&self, dir: &Path) -> Result<(), Problem> {
        let mut tokens = String::new();
        for account in &self.accounts {
            let Account { name, user_id, device_id, token } = account;
            // Writing into a text cannot fail.
            let _ = writeln!(tokens, "{name} {} {user_id} {device_id}", token.0);
        }
        let rooms: String = self.rooms.iter().map(|room| format!("{} {}\n", room.name, room.channel_id)).collect();
        let list = serde_json::to_vec(self).map_err(|error| failed(error.to_string()))?;
        for (name, bytes) in [(FILE, list), ("tokens", tokens.into_bytes()), ("rooms", rooms.into_bytes())] {
            std::fs::write(dir.join(name), bytes).map_err(|error| failed(format!("cannot write {name}: {error}")))?;
        }
        Ok(())
    }

    pub fn room(&self, name: &str) -> Result<&Room, Problem> {
        self.rooms.iter().find(|room| room.name == name).ok_or_else(|| failed(format!("there is no room {name}")))
    }

    pub fn members(&self, room: &Room) -> &[Account] {
        &self.accounts[room.first..room.first + room.members]
    }
}
