//! Where a message goes: `#channel`, `#community/channel`, `@user`, or an id.

use std::str::FromStr;
use std::time::Duration;

use super::print::{ChannelName, channels};
use super::session::Session;
use super::{Stop, clean};
use crate::client::command::{Command, Place};
use crate::client::event::Answer;
use crate::client::model::{Anchor, MessageRef, Problem, ProblemKind, Tree};
use crate::protocol::channels::ChannelKind;
use crate::protocol::ids::{ChannelId, MessageId, UserId};

/// How far back a message is looked for by its id alone.
const LOOK_BACK: usize = 1000;

/// As it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Channel { community: Option<String>, name: String },
    User(String),
    Id(ChannelId),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let how = || "write #channel, #community/channel, @user, or an id".to_owned();
        if let Some(name) = text.strip_prefix('@') {
            return if name.is_empty() { Err(how()) } else { Ok(Self::User(name.to_owned())) };
        }
        if let Some(name) = text.strip_prefix('#') {
            let (community, name) = match name.rsplit_once('/') {
                Some((community, name)) => (Some(community.to_owned()), name),
                None => (None, name),
            };
            if name.is_empty() || community.as_deref() == Some("") {
                return Err(how());
            }
            return Ok(Self::Channel { community, name: name.to_owned() });
        }
        ChannelId::from_str(text).map(Self::Id).map_err(|_| how())
    }
}

impl Target {
    /// The channel of that name in what this device knows; DMs that do not exist yet are not found.
    ///
    /// # Errors
    /// `NotFound`, or `Usage` when several fit.
    pub fn find(&self, tree: &Tree) -> Result<ChannelName, Problem> {
        let all = channels(tree);
        let fits: Vec<&ChannelName> = match self {
            Self::Id(id) => all.iter().filter(|(name, _)| name.id == *id).map(|(name, _)| name).collect(),
            Self::User(user) => all
                .iter()
                .filter(|(_, node)| node.peer.as_ref().is_some_and(|peer| peer.username.raw() == user))
                .map(|(name, _)| name)
                .collect(),
            Self::Channel { community, name } => {
                let in_community = |of: &ChannelName| {
                    community
                        .as_ref()
                        .is_none_or(|community| of.full().strip_suffix(&format!("/{name}")) == Some(&format!("#{community}")))
                };
                all.iter()
                    .filter(|(_, node)| node.kind != ChannelKind::Dm && node.name.raw() == name)
                    .map(|(name, _)| name)
                    .filter(|of| in_community(of))
                    .collect()
            }
        };
        match fits.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(Problem::new(ProblemKind::NotFound, format!("there is no {self} here"))
                .hint("`chat channels` lists what there is.")),
            several => {
                let names: Vec<String> = several.iter().map(|name| clean(&name.full().into()).into_string()).collect();
                Err(Problem::new(ProblemKind::Usage, format!("{self} is not one channel: {}", names.join(", ")))
                    .hint("Write #community/channel, or the id that `chat channels --json` shows."))
            }
        }
    }

    /// As [`Target::find`]; a DM with somebody new is begun.
    ///
    /// # Errors
    /// As [`Target::find`], and when the person is not found.
    pub async fn open(&self, session: &mut Session) -> Result<ChannelName, Stop> {
        let missing = match self.find(&session.tree) {
            Err(problem) if problem.kind == ProblemKind::NotFound => problem,
            found => return Ok(found?),
        };
        let Self::User(user) = self else { return Err(missing.into()) };
        // Notes to oneself are a conversation too, but nobody is looked for under one's own name.
        let user_id = if *user == session.account.username.raw() {
            session.account.user_id
        } else {
            let people = match session.call(Command::FindPeople { query: user.clone() }).await? {
                Answer::People(people) => people,
                _ => Vec::new(),
            };
            let found = people.into_iter().find(|person| person.username.raw() == user).map(|person| person.user_id);
            found.ok_or_else(|| {
                Problem::new(ProblemKind::NotFound, format!("there is nobody called @{user}"))
                    .hint("You see people who share a community with you; others only by their exact name.")
            })?
        };
        let opened = session.call(Command::OpenDm { user_id }).await.map_err(|problem| match problem.kind {
            ProblemKind::NotFound => Problem::new(ProblemKind::NotFound, format!("no direct message with @{user} can be begun"))
                .hint("It needs a community that both of you are in, or that they have you as a contact."),
            _ => problem,
        })?;
        match opened {
            Answer::Channel(id) => {
                // The answer comes before the tree that shows it.
                let shown = |tree: &Tree| tree.dms.iter().any(|dm| dm.id == id);
                session.tree_where(shown, Duration::from_secs(10)).await;
                Ok(Self::Id(id).find(&session.tree)?)
            }
            _ => Err(missing.into()),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Channel { community: Some(community), name } => write!(f, "#{community}/{name}"),
            Self::Channel { community: None, name } => write!(f, "#{name}"),
            Self::User(user) => write!(f, "@{user}"),
            Self::Id(id) => write!(f, "channel {id}"),
        }
    }
}

/// A message: its id, or `author/id` as `--json` output has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageName {
    author: Option<UserId>,
    id: MessageId,
}

impl FromStr for MessageName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let how = |_| "write the message's id, or AUTHOR_ID/ID".to_owned();
        match text.split_once('/') {
            Some((author, id)) => Ok(Self { author: Some(author.parse().map_err(how)?), id: id.parse().map_err(how)? }),
            None => Ok(Self { author: None, id: text.parse().map_err(how)? }),
        }
    }
}

impl MessageName {
    /// The full reference: an id alone could be anybody's.
    ///
    /// # Errors
    /// `NotFound` when this device does not have it among the newest.
    pub async fn resolve(self, session: &mut Session, channel_id: ChannelId) -> Result<MessageRef, Stop> {
        if let Some(author) = self.author {
            let key = MessageRef { author, id: self.id };
            // It, or what was said in its thread.
            let place = Place { channel_id, thread: Some(key) };
            let command = Command::LoadTimeline { place, anchor: Anchor::Newest, limit: 1 };
            return match session.call(command).await? {
                Answer::Page(page) if !page.items.is_empty() => Ok(key),
                _ => Err(Problem::new(ProblemKind::NotFound, "there is no such message in this channel")
                    .hint("Only messages that are on this machine can be named; `chat tail --json` shows them.")
                    .into()),
            };
        }
        let place = Place { channel_id, thread: None };
        let mut anchor = Anchor::Newest;
        let mut seen = 0;
        while seen < LOOK_BACK {
            let Answer::Page(page) = session.call(Command::LoadTimeline { place, anchor, limit: 200 }).await? else { break };
            if let Some(item) = page.items.iter().find(|item| item.key.id == self.id) {
                return Ok(item.key);
            }
            let Some(oldest) = page.items.first().filter(|_| !page.at_start) else { break };
            seen += page.items.len();
            anchor = Anchor::Before(oldest.key);
        }
        Err(Problem::new(ProblemKind::NotFound, "there is no such message in this channel")
            .hint("In a thread or further back: write AUTHOR_ID/ID, as `chat tail --json` shows them.")
            .into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::client::model::{ChannelNode, CommunityNode, GroupNode, Peer, Trust};
    use crate::protocol::channels::NotifyLevel;
    use crate::protocol::communities::{Role, Visibility};
    use crate::protocol::ids::{CommunityId, GroupId};
    use crate::protocol::users::Status;

    fn node(id: u8, name: &str, kind: ChannelKind) -> Arc<ChannelNode> {
        Arc::new(ChannelNode {
            id: ChannelId::from_bytes([id; 16]),
            kind,
            community_id: None,
            group_id: None,
            name: name.into(),
            topic: None,
            peer: (kind == ChannelKind::Dm).then(|| Peer {
                user_id: UserId::from_bytes([id; 16]),
                username: name.into(),
                display_name: None,
                trust: Trust::Unknown,
                status: Status::Offline,
            }),
            domain: None,
            my_role: None,
            private: false,
            read_only: false,
            archived: false,
            muted: false,
            notify: NotifyLevel::All,
            unread: 0,
            mentions: 0,
            read_seq: 0,
            newest_seq: 0,
            has_draft: false,
            last_at: None,
            member_count: 2,
            expires_s: 0,
            blocked: None,
        })
    }

    fn community(id: u8, name: &str, channels: Vec<Arc<ChannelNode>>) -> Arc<CommunityNode> {
        Arc::new(CommunityNode {
            id: CommunityId::from_bytes([id; 16]),
            name: name.into(),
            description: None,
            my_role: Role::Member,
            member_count: 2,
            open: true,
            unread: 0,
            mentions: 0,
            groups: vec![GroupNode {
                id: GroupId::from_bytes([id; 16]),
                name: "g".into(),
                visibility: Visibility::Public,
                my_role: Role::Member,
                channels,
            }],
            warning: None,
        })
    }

    fn tree() -> Tree {
        Tree {
            communities: vec![
                community(1, "acme", vec![node(1, "ops", ChannelKind::Text), node(2, "general", ChannelKind::Text)]),
                community(2, "home/lab", vec![node(3, "general", ChannelKind::Text)]),
            ],
            dms: vec![node(4, "bo", ChannelKind::Dm)],
            waiting: 0,
        }
    }

    fn find(text: &str) -> Result<u8, ProblemKind> {
        let target: Target = text.parse().unwrap();
        target.find(&tree()).map(|name| name.id.as_bytes()[0]).map_err(|problem| problem.kind)
    }

    #[test]
    fn targets_name_one_channel_or_say_why_not() {
        assert_eq!(find("#ops"), Ok(1));
        assert_eq!(find("#acme/general"), Ok(2));
        assert_eq!(find("#home/lab/general"), Ok(3), "a community's name may have a slash");
        assert_eq!(find("@bo"), Ok(4));
        assert_eq!(find(&ChannelId::from_bytes([3; 16]).to_string()), Ok(3));
        assert_eq!(find("#general"), Err(ProblemKind::Usage), "in two communities");
        assert_eq!(find("#nothing"), Err(ProblemKind::NotFound));
        assert_eq!(find("#bo"), Err(ProblemKind::NotFound), "a person is no channel");
        assert_eq!(find("@ops"), Err(ProblemKind::NotFound));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for bad in ["", "ops", "#", "@", "#/x", "#x/", "00000000-0000-0000-0000-00000000000X"] {
            assert!(Target::from_str(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_message_is_named_with_or_without_its_author() {
        let id = "01912d68-783e-7a03-8467-5661c1243ad4";
        assert_eq!(id.parse::<MessageName>().unwrap().author, None);
        assert!(format!("{id}/{id}").parse::<MessageName>().unwrap().author.is_some());
        for bad in ["", "x", "/", &format!("x/{id}")] {
            assert!(bad.parse::<MessageName>().is_err(), "{bad}");
        }
    }
}
