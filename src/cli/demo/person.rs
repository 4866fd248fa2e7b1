//! Somebody of the demonstration: a real client with a profile of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Stage, broken};
use crate::client::command::{Command, Place};
use crate::client::event::{Answer, ClientEvent};
use crate::client::model::{Body, Delivery, MessageRef, Problem, TimelineItem, Tree, Untrusted};
use crate::client::profile::{Directories, Profile};
use crate::client::setup::{Begun, Server as SetupServer};
use crate::client::unlock::Protection;
use crate::client::{Client, Events, Settings};
use crate::protocol::auth::SecretText;
use crate::protocol::ids::{ChannelId, UserId};

/// How long anything may take, reconnecting after the crash included.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Person {
    pub name: &'static str,
    pub user_id: UserId,
    client: Client,
    events: Events,
    /// Everything that was shown so far, in its newest form.
    seen: HashMap<(ChannelId, MessageRef), Arc<TimelineItem>>,
    pub tree: Arc<Tree>,
}

/// A name, and the secrets that must not be found anywhere afterwards.
pub struct Secrets {
    pub password: SecretText,
    pub passphrase: SecretText,
}

impl Secrets {
    pub fn of(name: &str) -> Self {
        Self {
            password: format!("seven green kettles whistle, {}", name.len()).into(),
            passphrase: format!("a slow tram crosses the frozen river, {}", name.len()).into(),
        }
    }
}

/// The folders of the demonstration instead of the user's own.
pub fn directories(stage: &Stage) -> Directories {
    Directories {
        config: stage.path("config"),
        data: stage.path("profiles"),
        state: stage.path("state"),
        runtime: Some(stage.path("run")),
    }
}

impl Person {
    /// Registers an account and makes its first device.
    pub async fn register(stage: &Stage, server: &str, name: &'static str, secrets: &Secrets) -> Result<Self, Problem> {
        let profile = Profile::new(&directories(stage), &name.to_lowercase())?;
        profile.create()?;
        let server = SetupServer::probe(server, Settings::default()).await?;
        let login = server.register(&name.to_lowercase(), &secrets.password, Some(name), None).await?;
        let protection = Protection::Passphrase { passphrase: secrets.passphrase.clone(), remember: false };
        let Begun { client, mut events, .. } = server.begin(&profile, login, protection).await?;
        let (account, heard) = crate::client::setup::settle(&mut events).await?;
        let mut person = Self { name, user_id: account.user_id, client, events, seen: HashMap::new(), tree: Arc::default() };
        for event in heard {
            person.note(event);
        }
        Ok(person)
    }

    /// Asks the client and waits for its answer.
    pub async fn ask(&mut self, command: Command) -> Result<Answer, Problem> {
        let mut meanwhile = Vec::new();
        let answer =
            tokio::time::timeout(PATIENCE, self.client.call(&mut self.events, command, |event| meanwhile.push(event))).await;
        for event in meanwhile {
            self.note(event);
        }
        answer.map_err(|_| broken(format!("{} got no answer from the client", self.name)))?
    }

    /// Writes into a place; the message is in the outbox when this returns.
    pub async fn write(&mut self, place: Place, text: &str, reply_to: Option<MessageRef>) -> Result<MessageRef, Problem> {
        let command = Command::SendText { place, text: Untrusted::new(text), reply_to, mentions: Vec::new(), id: None };
        match self.ask(command).await? {
            Answer::Queued { id } => Ok(MessageRef { author: self.user_id, id }),
            other => Err(broken(format!("writing was answered with {other:?}"))),
        }
    }

    /// Waits until a message with this text is there; it says who wrote it.
    pub async fn read(&mut self, channel_id: ChannelId, text: &str) -> Result<Arc<TimelineItem>, Problem> {
        self.until(&format!("read `{text}`"), |person| person.items(channel_id).find(|item| says(item, text)).map(Arc::clone))
            .await
    }

    /// Waits until the server has committed an own message.
    pub async fn sent(&mut self, channel_id: ChannelId, message: MessageRef) -> Result<Arc<TimelineItem>, Problem> {
        self.until("see the message committed", |person| {
            let item = person.seen.get(&(channel_id, message))?;
            matches!(item.delivery, Delivery::Sent | Delivery::Delivered | Delivery::Read).then(|| Arc::clone(item))
        })
        .await
    }

    /// Waits until something holds, hearing what the client tells.
    pub async fn until<T>(&mut self, what: &str, mut holds: impl FnMut(&Self) -> Option<T>) -> Result<T, Problem> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = holds(self) {
                return Ok(found);
            }
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(Some(event)) => self.note(event),
                Ok(None) => return Err(broken(format!("the client of {} ended", self.name))),
                Err(_) => return Err(broken(format!("{} did not {what} within {} s", self.name, PATIENCE.as_secs()))),
            }
        }
    }

    /// Everything that this person has of a conversation.
    pub fn items(&self, channel_id: ChannelId) -> impl Iterator<Item = &Arc<TimelineItem>> {
        self.seen.values().filter(move |item| item.channel_id == channel_id)
    }

    /// How many messages with this text there are.
    pub fn count(&self, channel_id: ChannelId, text: &str) -> usize {
        self.items(channel_id).filter(|item| says(item, text)).count()
    }

    /// The next event; for those who answer by themselves.
    pub async fn next(&mut self) -> Option<ClientEvent> {
        let event = self.events.recv().await?;
        self.note(event.clone());
        Some(event)
    }

    fn note(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Opened { tree, .. } | ClientEvent::Tree(tree) => self.tree = tree,
            ClientEvent::Timeline { channel_id, items } => {
                self.seen.extend(items.into_iter().map(|item| ((channel_id, item.key), item)));
            }
            ClientEvent::TimelineRemoved { channel_id, keys } => {
                for key in keys {
                    self.seen.remove(&(channel_id, key));
                }
            }
            _ => {}
        }
    }

    pub async fn close(self) {
        self.client.close().await;
    }
}

pub fn says(item: &TimelineItem, text: &str) -> bool {
    matches!(&item.body, Body::Text(body) if body.raw() == text)
}
