//! What the client said: events that change the world, and answers to what was asked.

use crate::client::command::Command;
use crate::client::event::{Answer, ClientEvent};
use crate::client::model::{Anchor, ChannelNode, Connection, Domain, Fork, Problem, ProblemKind, SendBlock, Tree};
use crate::protocol::communities::Role;
use crate::protocol::ids::ChannelId;
use crate::tui::app::{App, Pending};
use crate::tui::effect::Effect;
use crate::tui::text::Clean;
use crate::tui::widget::timeline::{Direction, PAGE, Scroll};

use super::chat::{Focus, Pane};
use super::form::FormKind;
use super::overlay::Overlay;
use super::page::Page;

impl App {
    pub(in crate::tui) fn on_client(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Opened { account, tree } => {
                let first = self.world.account.is_none();
                self.world.account = Some(account);
                self.on_tree(tree);
                self.dirty = true;
                if first
                    && self.chat.main.is_none()
                    && let Some(id) = self.first_channel()
                {
                    self.open_channel(id, None);
                }
            }
            ClientEvent::Connection(connection) => self.on_connection(connection),
            ClientEvent::Tree(tree) => self.on_tree(tree),
            ClientEvent::Timeline { channel_id, items } => {
                let mut changed = false;
                for conversation in [&mut self.chat.main, &mut self.chat.thread].into_iter().flatten() {
                    if conversation.timeline.place.channel_id == channel_id {
                        changed |= conversation.timeline.merge(&items);
                    }
                }
                for item in &items {
                    self.world.wrote(channel_id, item.key.author);
                }
                self.dirty = changed;
            }
            ClientEvent::TimelineRemoved { channel_id, keys } => {
                for conversation in [&mut self.chat.main, &mut self.chat.thread].into_iter().flatten() {
                    if conversation.timeline.place.channel_id == channel_id {
                        conversation.timeline.remove(&keys);
                    }
                }
            }
            ClientEvent::Typing { channel_id, user_id, name } => {
                self.world.typed(channel_id, user_id, name, self.now);
                self.dirty = self.chat.channel_id() == Some(channel_id);
            }
            ClientEvent::Presence { user_id, status } => {
                self.world.set_status(user_id, status);
                // The tree that follows draws it.
                self.dirty = false;
            }
            ClientEvent::Attention { .. } => {
                // The counts come with the tree; this only rings.
                self.dirty = false;
                self.emit(Effect::Bell);
            }
            ClientEvent::Notice(problem) => self.problem(&problem),
            ClientEvent::Syncing { remaining } => {
                self.dirty = self.world.syncing != remaining;
                self.world.syncing = remaining;
            }
            ClientEvent::Done { request, result } => match self.answered(request) {
                Some(pending) => self.on_answer(pending, result),
                None => self.dirty = false,
            },
            ClientEvent::Closed => {
                if !self.ended {
                    self.world.connection = Connection::Offline { since: self.now, retry_at: None, why: "stopped".into() };
                    // What stopped it may have been said already, as that the disk is full.
                    if self.notice.as_ref().is_none_or(|notice| !notice.error) {
                        let problem = Problem::new(ProblemKind::Failed, "chat stopped: what had this profile open has ended")
                            .hint("Everything is saved. Ctrl-Q leaves; start chat again.");
                        self.problem(&problem);
                    }
                }
            }
        }
        self.after_change();
    }

    fn on_tree(&mut self, tree: std::sync::Arc<Tree>) {
        self.dirty = self.world.tree != tree;
        let count = |app: &Self| app.chat.channel_id().and_then(|id| app.world.channel(id)).map(|channel| channel.member_count);
        let before = count(self);
        let old = std::mem::replace(&mut self.world.tree, tree);
        self.tell_of_private_places(&old);
        self.tell_of_changed_keys(&old);
        // Whoever came can be named at once.
        if let Some(channel_id) = self.chat.channel_id().filter(|_| count(self).is_some_and(|now| Some(now) != before)) {
            self.ask(Pending::Members(channel_id), Command::ListMembers { channel_id });
        }
        // What was refused because of a block is refused no more when that is gone.
        if self.send_block().is_none() {
            self.notice.take_if(|notice| notice.blocked);
        }
        // What was just said, as that a community was joined, stays when its channel opens by itself.
        let notice = self.notice.clone();
        let known = self.chat.community.is_some_and(|id| self.world.community(id).is_some());
        if !known {
            self.chat.community = self.world.tree.communities.first().map(|node| node.id);
        }
        if let Some(id) = self.chat.wanted.filter(|id| self.world.channel(*id).is_some()) {
            self.chat.wanted = None;
            self.open_channel(id, None);
        }
        if let Some(id) = self.chat.joined.filter(|id| self.world.community(*id).is_some() && !self.empty_community(*id)) {
            self.choose_community(id);
        }
        // The channel that is open may be gone: what was received stays on the screen, its composer says why.
        self.open_something();
        self.notice = self.notice.take().or(notice);
    }

    /// Somebody whose key was verified has another one: said wherever one is, since nothing is sent there until the user decides.
    fn tell_of_changed_keys(&mut self, old: &Tree) {
        let changed = |channel: &ChannelNode| {
            matches!(
                channel.blocked,
                Some(SendBlock::IdentityChanged { was_verified: true, .. } | SendBlock::Equivocation { .. })
            )
        };
        let open = self.chat.channel_id();
        let new =
            self.world.tree.dms.iter().find(|dm| {
                changed(dm) && Some(dm.id) != open && !old.dms.iter().any(|before| before.id == dm.id && changed(before))
            });
        if let Some(dm) = new {
            let title = self.world.title(dm);
            let problem =
                Problem::new(ProblemKind::Crypto, format!("the identity key of {title} changed, which you had verified"))
                    .hint("Nothing is sent there until you decide: Ctrl-G goes there, F8 compares.");
            self.problem(&problem);
        }
    }

    /// Loads the end of the open channel again, if that is what is in sight.
    fn read_again(&mut self) {
        let Some(timeline) = self.chat.main.as_ref().map(|main| &main.timeline) else { return };
        if timeline.loaded && timeline.at_end && timeline.scroll == Scroll::Bottom {
            let (place, anchor) = (timeline.place, Anchor::Newest);
            self.ask(Pending::Page { place, anchor }, Command::LoadTimeline { place, anchor, limit: PAGE });
        }
    }

    /// Where to begin, when nothing is open.
    fn open_something(&mut self) {
        if self.chat.main.is_none()
            && self.world.account.is_some()
            && !self.chat.community.is_some_and(|id| self.empty_community(id))
            && let Some(id) = self.first_channel()
        {
            self.open_channel(id, None);
        }
    }

    /// What this user left by themselves does not stay on the screen. The tree may still have it, or have lost it already.
    fn leave_screen_of(&mut self, domain: Domain) {
        let Some(id) = self.chat.channel_id() else { return };
        let inside =
            |channel: &ChannelNode| channel.domain == Some(domain) || channel.community_id.map(Domain::from) == Some(domain);
        let node = self.world.channel(id);
        if node.is_none_or(|channel| inside(channel)) {
            let gone = node.is_none();
            self.save_drafts();
            self.close_thread();
            self.chat.main = None;
            if gone {
                self.open_something();
            }
        }
    }

    /// Others decide who reads a private place, and the list of channels is not always in sight.
    fn tell_of_private_places(&mut self, old: &Tree) {
        let channels = |tree: &Tree| -> Vec<std::sync::Arc<ChannelNode>> {
            let in_communities = tree.communities.iter().flat_map(|node| &node.groups).flat_map(|group| &group.channels);
            in_communities.filter(|channel| channel.private && channel.my_role.is_some()).cloned().collect()
        };
        let (before, now) = (channels(old), channels(&self.world.tree));
        let in_both = |channel: &ChannelNode| {
            let known = |tree: &Tree| tree.communities.iter().any(|node| Some(node.id) == channel.community_id);
            known(old) && known(&self.world.tree)
        };
        let absent = |list: &[std::sync::Arc<ChannelNode>], id| list.iter().all(|channel| channel.id != id);
        let open = self.chat.channel_id();
        // What one made oneself is no news.
        let came = now.iter().find(|channel| {
            in_both(channel) && absent(&before, channel.id) && channel.my_role != Some(Role::Owner) && Some(channel.id) != open
        });
        // What is open says it below.
        let gone = before.iter().find(|channel| in_both(channel) && absent(&now, channel.id) && Some(channel.id) != open);
        let error = self.notice.as_ref().is_some_and(|notice| notice.error);
        let words = match (came, gone) {
            (Some(channel), _) if !error => format!("you were added to {}; Ctrl-G goes there", self.world.title(channel)),
            // Whoever left was told so.
            (None, Some(channel)) if self.notice.is_none() => {
                format!("{} is not open to you any more", self.world.title(channel))
            }
            _ => return,
        };
        self.toast(words);
    }

    /// Where to begin: what is unread, else what was used last.
    fn first_channel(&self) -> Option<ChannelId> {
        let unread = self.world.next_unread(None);
        unread.or_else(|| self.world.channels().max_by_key(|channel| channel.last_at).map(|channel| channel.id))
    }

    fn on_connection(&mut self, connection: Connection) {
        let old = std::mem::replace(&mut self.world.connection, connection);
        // A round trip that took another millisecond is no reason to draw; the next draw shows it.
        let both_online =
            matches!((&old, &self.world.connection), (Connection::Online { latency_ms: Some(_) }, Connection::Online { .. }));
        self.dirty = !both_online && old != self.world.connection;
        if old == self.world.connection {
            return;
        }
        match &self.world.connection {
            // At the start there is nothing else to do; later somebody may be typing, and nothing typed may end up in that form.
            Connection::LoggedOut { .. }
                if matches!(old, Connection::Starting | Connection::Connecting { attempt: 0 | 1 }) && self.has_not_begun() =>
            {
                self.open_form(FormKind::LogIn, "");
            }
            Connection::LoggedOut { why } => {
                let text = format!("this session ended: {}", Clean::from_untrusted(why));
                let hint = "What is stored here stays readable. F12 logs in again.";
                self.problem(&Problem::new(ProblemKind::Auth, text).hint(hint));
            }
            Connection::Offline { why, .. }
                if matches!(
                    old,
                    Connection::Online { .. } | Connection::Starting | Connection::Connecting { attempt: 0 | 1 }
                ) =>
            {
                let text = format!("offline: {}", Clean::from_untrusted(why));
                let hint = "You can read and write; what you send waits here and goes out once. It tries again by itself, F12 tries now.";
                self.problem(&Problem::new(ProblemKind::Network, text).hint(hint));
            }
            // Whatever was said about being offline is over.
            Connection::Online { .. }
                if !matches!(old, Connection::Online { .. })
                    && self.notice.as_ref().is_some_and(|notice| {
                        let text = notice.text.as_str();
                        text.starts_with("offline:") || text.starts_with("this session ended:")
                    }) =>
            {
                self.notice = None;
            }
            _ => {}
        }
    }

    /// Nothing lies over the panes and nothing was typed.
    fn has_not_begun(&self) -> bool {
        let typed = self.chat.conversation(self.active_pane()).is_some_and(|open| !open.composer.input.is_empty());
        self.overlays.is_empty() && self.pressed.is_empty() && !typed
    }

    pub(super) fn is_logged_out(&self) -> bool {
        matches!(self.world.connection, Connection::LoggedOut { .. })
    }

    fn on_answer(&mut self, pending: Pending, result: Result<Answer, Problem>) {
        let answer = match result {
            Ok(answer) => answer,
            Err(problem) => return self.on_failure(pending, &problem),
        };
        match (pending, answer) {
            (Pending::Page { place, anchor }, Answer::Page(page)) => {
                let pane = self.pane_of(place);
                if let Some(pane) = pane {
                    self.with_timeline(pane, |timeline, size, look| timeline.replace(page, anchor, size, look));
                    if matches!(anchor, Anchor::Around(_)) {
                        self.chat.focus = Focus::History(pane);
                    }
                } else {
                    self.dirty = false;
                }
            }
            (Pending::More { place, direction, .. }, Answer::Page(page)) => {
                if let Some(pane) = self.pane_of(place) {
                    let nothing = page.items.is_empty() && !page.at_start && direction == Direction::Older;
                    self.with_timeline(pane, |timeline, size, look| {
                        timeline.extend(page, direction, size, look);
                        // Nothing came although there should be more: not asked again until the user scrolls.
                        timeline.fetch_failed |= nothing;
                    });
                }
            }
            (Pending::Draft(place), Answer::Draft { text, reply_to }) => self.draft_came(place, &text, reply_to),
            (Pending::Members(channel_id), Answer::Members(members)) => {
                self.world.set_members(channel_id, members);
                self.dirty = false;
            }
            (Pending::MembersPicker(channel_id), Answer::Members(members)) => {
                self.world.set_members(channel_id, members);
                self.members_came(channel_id);
            }
            (Pending::ChooseMember { channel_id, domain, action, name }, Answer::Members(members)) => {
                self.world.set_members(channel_id, members);
                self.choose_among_members(domain, action, &name);
            }
            (Pending::Banned { domain, name }, Answer::People(people)) => self.banned_came(domain, &name, people),
            (Pending::Toast(words), _) => self.toast(words),
            (Pending::Form, answer) => self.form_done(answer),
            (Pending::Query(query), Answer::Hits(hits)) => self.hits_came(&query, hits),
            (Pending::Query(query), Answer::People(people)) => self.people_came(&query, people),
            (Pending::Outbox, Answer::Unsent(unsent)) => self.outbox_came(unsent),
            (Pending::Left { domain, words }, _) => {
                self.leave_screen_of(domain);
                self.toast(words);
            }
            (Pending::OpenDm(_), Answer::Channel(id)) => self.open_new_channel(id),
            (Pending::Safety(_), Answer::Safety(safety)) => {
                self.overlays.retain(|overlay| !matches!(overlay, Overlay::Page(page) if page.is_safety()));
                self.overlays.push(Overlay::Page(Page::safety(safety)));
            }
            (Pending::SafetyAgain(user_id), _) => {
                self.show_safety(user_id);
                // What is said of the sender of each message is another thing now.
                self.read_again();
            }
            (Pending::Devices, Answer::Devices(devices)) => self.overlays.push(Overlay::Page(Page::devices(devices))),
            (Pending::Forks { channel_id, decided }, Answer::Forks(forks)) => self.forks_came(channel_id, decided, forks),
            (Pending::ForksAgain(channel_id), _) => self.show_forks(channel_id, true),
            (Pending::LogOut, _) => self.quit(),
            (Pending::Quiet | Pending::Silent | Pending::Sent { .. } | Pending::Edited { .. }, _) => self.dirty = false,
            // An answer of another kind than was asked for: a fault of ours, and nothing depends on it.
            _ => self.dirty = false,
        }
    }

    fn forks_came(&mut self, channel_id: ChannelId, decided: bool, forks: Vec<Fork>) {
        self.overlays.retain(|overlay| !matches!(overlay, Overlay::Page(page) if page.is_forks()));
        // The first of them is decided first.
        match forks.into_iter().next() {
            Some(fork) => self.overlays.push(Overlay::Page(Page::fork(channel_id, fork))),
            None if decided => self.toast("the channel goes on; new keys are made before the next message"),
            None => self.toast("this channel is not stopped: there is nothing to decide"),
        }
    }

    fn on_failure(&mut self, pending: Pending, problem: &Problem) {
        match pending {
            Pending::Silent | Pending::Members(_) => self.dirty = false,
            Pending::Form => self.form_failed(problem),
            Pending::OpenDm(name) if problem.kind == ProblemKind::NotFound => self.fail(
                format!("no direct conversation with {name} can be begun"),
                "It needs a community that both of you are in, or that they have you as a contact.",
            ),
            Pending::Query(_) => self.query_failed(problem),
            Pending::Sent { place, text, reply_to } => {
                self.give_back(place, &text, reply_to);
                self.refused(problem);
            }
            Pending::Edited { place, target, text } => {
                if let Some(conversation) = self.chat.at_mut(place).filter(|conversation| conversation.composer.input.is_empty())
                {
                    conversation.composer.editing = Some(target);
                    conversation.composer.input.set(&text);
                }
                self.refused(problem);
            }
            Pending::Page { place, .. } => {
                if let Some(conversation) = self.chat.at_mut(place) {
                    conversation.timeline.loading = None;
                    conversation.timeline.loaded = true;
                    conversation.timeline.at_start = true;
                    conversation.timeline.at_end = true;
                }
                self.refused(problem);
            }
            Pending::More { place, from_server, .. } => {
                if let Some(conversation) = self.chat.at_mut(place) {
                    conversation.timeline.loading = None;
                    conversation.timeline.fetch_failed = true;
                }
                if !from_server || problem.kind != ProblemKind::Network {
                    self.refused(problem);
                }
            }
            _ => self.refused(problem),
        }
    }

    /// A text that could not be queued goes back to where it was written.
    fn give_back(
        &mut self,
        place: crate::client::command::Place,
        text: &str,
        reply_to: Option<crate::client::model::MessageRef>,
    ) {
        let Some(conversation) = self.chat.at_mut(place) else { return };
        let composer = &mut conversation.composer;
        if composer.editing.is_some() {
            return;
        }
        let typed = composer.input.take();
        let both = if typed.is_empty() { text.to_owned() } else { format!("{text}\n{typed}") };
        composer.input.set(&both);
        if let Some(message) = reply_to {
            composer.reply_to = Some(super::compose::ReplyTo { message, label: Clean::ours("a message") });
        }
        composer.draft_due = Some(self.now);
    }

    fn pane_of(&self, place: crate::client::command::Place) -> Option<Pane> {
        [Pane::Main, Pane::Thread]
            .into_iter()
            .find(|pane| self.chat.conversation(*pane).is_some_and(|conversation| conversation.timeline.place == place))
    }

    /// A channel that was just made: the tree with it may come a moment later.
    pub(super) fn open_new_channel(&mut self, id: ChannelId) {
        self.overlays.clear();
        if self.world.channel(id).is_some() {
            self.open_channel(id, None);
        } else {
            self.chat.wanted = Some(id);
        }
    }
}
