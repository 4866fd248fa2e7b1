//! What every command does: one `match` from [`Action`] to the function that does it.

use std::sync::Arc;

use crate::client::command::Command;
use crate::client::model::{Body, Connection, Delivery, MessageRef, SendBlock, TimelineItem};
use crate::protocol::channels::ChannelSettings;
use crate::protocol::communities::Role;
use crate::protocol::ids::{ChannelId, CommunityId, UserId};
use crate::protocol::users::Status;
use crate::tui::app::{App, Pending};
use crate::tui::command::Action;
use crate::tui::effect::Effect;
use crate::tui::markdown;
use crate::tui::text::{Clean, printable};
use crate::tui::time;
use crate::tui::widget::tree::Target;

use super::chat::{Focus, Pane};
use super::compose::no_text_words;
use super::form::{Form, FormKind};
use super::overlay::{Overlay, Question, Yes};
use super::page::Page;

impl App {
    /// Does what a key, a palette entry or a slash command asks. `arg` is what was typed behind the name.
    pub(in crate::tui) fn act(&mut self, action: Action, arg: &str) {
        if matches!(action, Action::Quit | Action::Suspend | Action::Redraw | Action::Cancel) {
            return self.act_always(action);
        }
        if !self.overlays.is_empty() {
            return self.act_in_overlay(action);
        }
        if self.setup.is_some() {
            return self.act_in_setup(action);
        }
        match action {
            Action::Quit | Action::Suspend | Action::Redraw | Action::Cancel => self.act_always(action),

            Action::Switch => self.open_switcher(arg),
            Action::Palette => self.open_palette(),
            Action::Help => self.open_help(arg),
            Action::NextUnread => self.go_to_unread(),
            Action::PreviousChannel => self.step_channel(-1),
            Action::NextChannel => self.step_channel(1),
            Action::Community1 => self.choose_nth_community(0),
            Action::Community2 => self.choose_nth_community(1),
            Action::Community3 => self.choose_nth_community(2),
            Action::Community4 => self.choose_nth_community(3),
            Action::Community5 => self.choose_nth_community(4),
            Action::Community6 => self.choose_nth_community(5),
            Action::Community7 => self.choose_nth_community(6),
            Action::Community8 => self.choose_nth_community(7),
            Action::Community9 => self.choose_nth_community(8),
            Action::Search => self.open_search(arg),
            Action::ToggleTree => self.toggle_tree(),
            Action::ToggleThread => self.toggle_thread(),
            Action::MarkRead => self.mark_channel_read(),
            Action::MarkAllRead => self.question("mark all read", "Mark every channel as read?", Yes::MarkAllRead),

            Action::Send => self.send(),
            Action::Newline => {
                if let Some(input) = self.focused_input() {
                    input.newline();
                }
                self.input_changed();
            }
            Action::FocusHistory => self.focus_history(),
            Action::FocusComposer => self.focus_composer(),
            Action::EditLast => self.edit_last(),
            Action::Complete => self.complete(),

            Action::Reply => self.start_reply(),
            Action::OpenThread => self.open_target_thread(),
            Action::Edit => self.edit_target(),
            Action::Delete => self.delete_target(),
            Action::React => self.react(arg),
            Action::Copy => self.copy_target(),
            Action::QuoteText => self.quote_text(),
            Action::GoToQuoted => self.go_to_quoted(),
            Action::FirstUnread => self.go_to_first_unread(),
            Action::Retry => self.retry_target(),
            Action::Discard => self.discard_target(),
            Action::Outbox => self.open_outbox(),
            Action::Details => self.show_details(),

            Action::Up | Action::Down | Action::PageUp | Action::PageDown | Action::Top | Action::Bottom => self.move_by(action),
            Action::PreviousSender | Action::NextSender => {
                self.move_where(action == Action::NextSender, |before, item, _| {
                    before.is_none_or(|before| before.key.author != item.key.author)
                });
            }
            Action::PreviousDay | Action::NextDay => {
                self.move_where(action == Action::NextDay, |before, item, tz| {
                    before.is_none_or(|before| !time::same_day(before.at, item.at, tz))
                });
            }

            Action::NewDm => self.open_people("write to", None, arg),
            Action::CreateCommunity => self.open_form(FormKind::CreateCommunity, arg),
            Action::CreateGroup => self.in_community(|app, id| app.open_form(FormKind::CreateGroup(id), arg)),
            Action::CreateChannel => self.in_community(|app, id| app.open_form(FormKind::CreateChannel(id), arg)),
            Action::Invite => self.in_community(|app, id| app.open_form(FormKind::Invite(id), "")),
            Action::Join => {
                self.open_form(FormKind::Join, arg);
                // With the whole link there is nothing left to fill in.
                if !arg.is_empty() {
                    self.submit_form();
                }
            }
            Action::Members => self.open_members(),
            Action::AddMember => self.add_member(arg),
            Action::Kick | Action::Ban | Action::SetRole => self.choose_member(action, arg),
            Action::Unban => self.ask_who_is_banned(arg),
            Action::Topic => self.set_topic(arg),
            Action::Timer => self.set_timer(arg),
            Action::Mute => self.toggle_mute(),
            Action::Leave => self.leave(),

            Action::Safety => self.show_safety_of(arg),
            Action::Trust => self.decide_trust(),
            Action::Verify | Action::Unverify => match self.person_here() {
                Some((user_id, _)) if action == Action::Verify && !arg.is_empty() => {
                    self.ask(Pending::SafetyAgain(user_id), Command::Verify { user_id, code: Some(arg.to_owned()) });
                }
                _ => self.show_safety_of(arg),
            },
            Action::Devices => {
                self.ask(Pending::Devices, Command::ListDevices);
            }
            Action::Resume => match self.chat.channel_id() {
                Some(channel_id) => self.show_forks(channel_id, false),
                None => self.fail("no channel is open", "Ctrl-G goes to one."),
            },

            Action::Online | Action::Away | Action::Busy => {
                let (status, words) = match action {
                    Action::Away => (Status::Idle, "you are shown as away"),
                    Action::Busy => (Status::Dnd, "you are shown as busy"),
                    _ => (Status::Online, "you are shown as online"),
                };
                self.ask(Pending::Toast(words.to_owned()), Command::SetStatus(status));
            }
            Action::Receipts => self.set_receipts(arg),
            Action::Reconnect if self.is_logged_out() => self.open_form(FormKind::LogIn, ""),
            Action::Reconnect if matches!(self.world.connection, Connection::Online { .. }) => self.toast("you are online"),
            Action::Reconnect => {
                self.ask(Pending::Quiet, Command::Reconnect);
            }
            Action::LogIn if self.is_logged_out() => self.open_form(FormKind::LogIn, ""),
            Action::LogIn => self.toast("you are logged in"),
            Action::LogOut => {
                let text = "End the session on this device? What is stored here stays, encrypted; you log in again to go on.";
                self.question("log out", text, Yes::LogOut);
            }

            Action::Accept => self.accept_in_tree(),
            Action::LineUp => self.line_up(),
            Action::KillOrSwitch => {
                if self.focused_input().is_some_and(|input| input.has_text_right()) {
                    self.edit_input(Action::KillToEnd);
                } else {
                    self.open_switcher("");
                }
            }
            Action::Close => {
                self.notice = None;
            }
            Action::NextField | Action::PreviousField | Action::Yes | Action::No | Action::ShowCode | Action::AcceptAndSend => {}
            Action::CharLeft
            | Action::CharRight
            | Action::WordLeft
            | Action::WordRight
            | Action::LineStart
            | Action::LineEnd
            | Action::LineDown
            | Action::DeleteBack
            | Action::DeleteForward
            | Action::DeleteWordBack
            | Action::DeleteWordForward
            | Action::KillToStart
            | Action::KillToEnd
            | Action::Yank
            | Action::Transpose
            | Action::Undo => self.edit_input(action),
        }
    }

    fn act_always(&mut self, action: Action) {
        match action {
            Action::Quit => self.quit(),
            Action::Suspend => {
                self.save_drafts();
                self.emit(Effect::Suspend);
            }
            Action::Redraw => self.emit(Effect::Redraw),
            _ => self.cancel(),
        }
    }

    pub(super) fn question(&mut self, title: &str, text: &str, yes: Yes) {
        self.overlays.push(Overlay::Question(Question { title: title.to_owned(), text: Clean::ours(text), yes }));
    }

    pub(super) fn answer_yes(&mut self, yes: Yes) {
        match yes {
            Yes::Delete { channel_id, target } => {
                self.ask(Pending::Quiet, Command::Delete { channel_id, target });
            }
            Yes::Discard { channel_id, id } => {
                self.ask(Pending::Quiet, Command::Discard { channel_id, id });
            }
            Yes::Leave(domain) => {
                let words = format!("you left {}", self.domain_name(domain));
                self.ask(Pending::Left { domain, words }, Command::Leave { domain });
            }
            Yes::Remove { domain, user_id, name, ban } => {
                let done = if ban { "was removed and is kept out" } else { "was removed" };
                let words = format!("{name} {done}; the others have new keys");
                self.ask(Pending::Toast(words), Command::Kick { domain, user_id, ban, reason: None });
            }
            Yes::HandOver { domain, user_id, name } => {
                let words = format!("{name} owns {} now; you are an admin", self.domain_name(domain));
                self.ask(Pending::Toast(words), Command::SetRole { domain, user_id, role: Role::Owner });
            }
            Yes::Verify(user_id) => {
                self.ask(Pending::SafetyAgain(user_id), Command::Verify { user_id, code: None });
            }
            Yes::Trust { user_id, send_waiting } => {
                self.ask(Pending::SafetyAgain(user_id), Command::Trust { user_id, send_waiting });
            }
            Yes::Resume { channel_id, discard } => {
                self.ask(Pending::ForksAgain(channel_id), Command::Resume { channel_id, discard });
            }
            Yes::LogOut => {
                self.ask(Pending::LogOut, Command::LogOut);
            }
            Yes::MarkAllRead => {
                let unread: Vec<_> = self.world.channels().filter(|channel| channel.unread > 0).cloned().collect();
                for channel in unread {
                    self.mark_read(channel.id, channel.newest_seq);
                }
            }
        }
    }

    // Getting around.

    fn go_to_unread(&mut self) {
        match self.world.next_unread(self.chat.channel_id()) {
            Some(id) => self.open_channel(id, None),
            None => self.toast("nothing else is unread"),
        }
    }

    fn choose_nth_community(&mut self, at: usize) {
        match self.world.tree.communities.get(at).map(|node| node.id) {
            Some(id) => self.choose_community(id),
            None => self.fail(format!("there is no community number {}", at + 1), "Ctrl-G lists where you can go."),
        }
    }

    fn toggle_tree(&mut self) {
        let focused = self.chat.focus == Focus::Tree;
        if self.size.0 >= super::layout::TREE_FROM {
            match (self.chat.show_tree, focused) {
                (true, true) => self.chat.show_tree = false,
                _ => self.chat.show_tree = true,
            }
        } else {
            self.chat.tree_over = !focused;
        }
        if focused {
            self.focus_composer();
        } else {
            self.chat.focus = Focus::Tree;
            self.chat.cursor = self.chat.channel_id().map(Target::Channel);
            if self.chat.cursor.is_none() {
                self.move_in_tree(0);
            }
        }
    }

    fn toggle_thread(&mut self) {
        if self.chat.thread.is_none() {
            // While writing nothing is selected: the newest thread is meant, if there is one.
            let items = self.chat.main.iter().flat_map(|main| main.timeline.items.iter().rev());
            let newest = items.filter(|item| item.thread.is_some_and(|thread| thread.replies > 0)).map(|item| item.key).next();
            match newest.filter(|_| !matches!(self.focus(), Focus::History(_))) {
                Some(root) => self.open_thread(root),
                None => self.open_target_thread(),
            }
            return;
        }
        if matches!(self.chat.focus, Focus::Composer(Pane::Thread) | Focus::History(Pane::Thread)) {
            self.close_thread();
        } else {
            self.chat.show_thread = true;
            self.chat.focus = Focus::Composer(Pane::Thread);
        }
    }

    fn accept_in_tree(&mut self) {
        match self.chat.cursor {
            Some(Target::Channel(id)) => self.open_channel(id, None),
            Some(Target::Community(id)) => {
                let cursor = self.chat.cursor;
                self.choose_community(id);
                if self.empty_community(id) {
                    self.chat.focus = Focus::Tree;
                    self.chat.cursor = cursor;
                }
            }
            None => {}
        }
    }

    fn focus_history(&mut self) {
        let pane = self.active_pane();
        if self.composer().is_some_and(|composer| composer.completion.take().is_some()) {
            return;
        }
        // An error goes with the same key: whoever is led to the messages means them with the next one.
        self.notice.take_if(|notice| notice.error);
        self.chat.focus = Focus::History(pane);
        self.with_timeline(pane, |timeline, size, look| {
            if timeline.selected_item().is_none() {
                timeline.selected = None;
                timeline.select_by(0, size, look);
            }
        });
    }

    fn focus_composer(&mut self) {
        let pane = self.active_pane();
        self.chat.tree_over = false;
        self.chat.cursor = None;
        self.chat.focus = Focus::Composer(pane);
    }

    fn line_up(&mut self) {
        let empty = self.composer().is_some_and(|composer| composer.input.is_empty());
        if empty {
            self.edit_last();
        } else {
            self.edit_input(Action::LineUp);
        }
    }

    // Moving.

    fn move_by(&mut self, action: Action) {
        if self.chat.focus == Focus::Tree {
            let page = isize::try_from(self.size.1 / 2).unwrap_or(10);
            let step = match action {
                Action::Up => -1,
                Action::Down => 1,
                Action::PageUp => -page,
                Action::PageDown => page,
                Action::Top => isize::MIN / 2,
                _ => isize::MAX / 2,
            };
            self.move_in_tree(step);
            return;
        }
        let pane = self.active_pane();
        let mut to_end = false;
        self.with_timeline(pane, |timeline, size, look| {
            let page = isize::try_from((size.1 / 2).max(1)).unwrap_or(1);
            match action {
                Action::Up => timeline.select_by(-1, size, look),
                Action::Down => timeline.select_by(1, size, look),
                Action::PageUp => timeline.scroll_by(-page, size, look),
                Action::PageDown => timeline.scroll_by(page, size, look),
                Action::Top => timeline.select_first(size, look),
                _ => {
                    timeline.select_last(size, look);
                    to_end = !timeline.at_end;
                }
            }
        });
        if to_end {
            // Too far to walk there page by page.
            if let Some(place) = self.chat.conversation(pane).map(|conversation| conversation.timeline.place) {
                let anchor = crate::client::model::Anchor::Newest;
                let limit = crate::tui::widget::timeline::PAGE;
                self.ask(Pending::Page { place, anchor }, Command::LoadTimeline { place, anchor, limit });
            }
        }
    }

    fn move_where(&mut self, forward: bool, wanted: impl Fn(Option<&TimelineItem>, &TimelineItem, &jiff::tz::TimeZone) -> bool) {
        let pane = self.active_pane();
        self.with_timeline(pane, |timeline, size, look| {
            timeline.select_where(forward, size, look, |before, item| wanted(before, item, look.tz));
        });
    }

    fn go_to_first_unread(&mut self) {
        let pane = self.active_pane();
        let mut found = false;
        self.with_timeline(pane, |timeline, size, look| {
            if let Some(key) = timeline.first_unread().and_then(|index| timeline.items.get(index)).map(|item| item.key) {
                timeline.select(key, size, look);
                found = true;
            }
        });
        if !found {
            self.toast("nothing here is unread");
        }
    }

    fn go_to_quoted(&mut self) {
        let Some(item) = self.a_message() else { return };
        match &item.reply_to {
            Some(quote) => self.jump(item.channel_id, quote.target, item.thread_root),
            None => self.toast("this message answers none"),
        }
    }

    fn mark_channel_read(&mut self) {
        let Some(channel) = self.chat.channel_id().and_then(|id| self.world.channel(id)).cloned() else { return };
        if let Some(main) = &mut self.chat.main {
            main.timeline.read_seq = Some(channel.newest_seq);
        }
        self.mark_read(channel.id, channel.newest_seq);
        self.toast("marked as read");
    }

    // A message.

    /// What a command about a message means; says so when there is none.
    pub(super) fn a_message(&mut self) -> Option<Arc<TimelineItem>> {
        let item = self.target();
        if item.is_none() {
            self.fail("there is no message here", "Ctrl-G goes to another channel.");
        }
        item
    }

    fn open_target_thread(&mut self) {
        let Some(item) = self.a_message() else { return };
        if matches!(item.body, Body::System(_)) || item.seq.is_none() {
            self.fail("a thread begins at a message that was sent", "");
            return;
        }
        self.open_thread(item.thread_root.unwrap_or(item.key));
    }

    fn edit_target(&mut self) {
        if let Some(item) = self.a_message() {
            self.start_edit(&item);
        }
    }

    fn delete_target(&mut self) {
        let Some(item) = self.a_message() else { return };
        if item.seq.is_none() {
            self.discard(&item);
            return;
        }
        let moderator = self.world.channel(item.channel_id).is_some_and(|channel| channel.my_role >= Some(Role::Moderator));
        if !item.mine && !moderator {
            self.fail("you can delete your own messages", "A moderator can delete those of others.");
            return;
        }
        let text = match &item.body {
            Body::Text(text) => markdown::preview(text, 200),
            _ => Clean::ours("this message"),
        };
        let yes = Yes::Delete { channel_id: item.channel_id, target: item.key };
        self.question("delete", &format!("Delete for everybody? {text}"), yes);
    }

    fn react(&mut self, arg: &str) {
        let Some(item) = self.a_message() else { return };
        if item.seq.is_none() || matches!(item.body, Body::System(_)) {
            self.fail("only a sent message can be reacted to", "");
            return;
        }
        let name = arg.trim().trim_matches(':');
        if name.is_empty() {
            self.open_emoji(item.channel_id, item.key);
            return;
        }
        match emojis::get(name).or_else(|| emojis::get_by_shortcode(name)) {
            Some(emoji) => self.toggle_reaction(item.channel_id, item.key, emoji.as_str()),
            None => self.fail("this is not an emoji", "React with one, or with its name: /react rocket."),
        }
    }

    pub(super) fn toggle_reaction(&mut self, channel_id: ChannelId, target: MessageRef, emoji: &str) {
        let timelines = [&self.chat.main, &self.chat.thread].into_iter().flatten();
        let remove = timelines
            .filter_map(|conversation| conversation.timeline.get(target))
            .any(|item| item.reactions.iter().any(|reaction| reaction.mine && reaction.emoji.raw() == emoji));
        self.ask(Pending::Quiet, Command::React { channel_id, target, emoji: emoji.to_owned(), remove });
    }

    fn copy_target(&mut self) {
        let Some(item) = self.a_message() else { return };
        match &item.body {
            Body::Text(text) | Body::Clear(text) => {
                // A clipboard ends up in shells: what was hidden in the text becomes visible there too.
                self.emit(Effect::Copy(printable(text)));
                self.toast("copied");
            }
            body => self.fail(format!("nothing was copied: {}", no_text_words(body)), ""),
        }
    }

    fn retry_target(&mut self) {
        let Some(item) = self.a_message() else { return };
        if matches!(item.delivery, Delivery::Failed(_)) {
            self.ask(Pending::Quiet, Command::Retry { channel_id: item.channel_id, id: item.key.id });
        } else {
            self.toast("this message did not fail");
        }
    }

    fn discard_target(&mut self) {
        if let Some(item) = self.a_message() {
            self.discard(&item);
        }
    }

    pub(super) fn discard(&mut self, item: &TimelineItem) {
        if matches!(item.delivery, Delivery::Failed(_) | Delivery::Waiting) {
            let yes = Yes::Discard { channel_id: item.channel_id, id: item.key.id };
            self.question("forget", "Forget this message? It was not sent, and its text is gone then.", yes);
        } else {
            self.toast("this message was sent; d deletes it");
        }
    }

    fn show_details(&mut self) {
        if let Some(item) = self.a_message() {
            self.overlays.push(Overlay::Page(Page::details(item)));
        }
    }

    // People and places.

    pub(super) fn in_community(&mut self, then: impl FnOnce(&mut Self, CommunityId)) {
        match self.chat.community {
            Some(id) if self.world.community(id).is_some() => then(self, id),
            _ => self.fail("no community is chosen", "Ctrl-G goes to one, :create-community starts one."),
        }
    }

    pub(super) fn open_form(&mut self, kind: FormKind, arg: &str) {
        if let Some(form) = Form::new(kind, self, arg) {
            self.overlays.push(Overlay::Form(form));
        }
    }

    fn set_topic(&mut self, arg: &str) {
        let Some(channel_id) = self.chat.channel_id() else { return };
        if self.world.channel(channel_id).is_some_and(|channel| channel.peer.is_some()) {
            self.fail("a direct conversation has no topic", "");
        } else if arg.is_empty() {
            self.open_form(FormKind::Topic(channel_id), "");
        } else {
            self.ask(Pending::Toast("the topic is set".to_owned()), Command::SetTopic { channel_id, topic: arg.to_owned() });
        }
    }

    /// `:timer 1d`, `:timer off`; without a time a form that shows what is set.
    fn set_timer(&mut self, arg: &str) {
        let Some(channel) = self.chat.channel_id().and_then(|id| self.world.channel(id)).cloned() else {
            self.fail("no channel is open", "Ctrl-G goes to one.");
            return;
        };
        // In a conversation of two both decide.
        if channel.peer.is_none() && channel.my_role < Some(Role::Admin) {
            self.fail("in a channel only admins and the owner decide how long messages stay", "F5 shows who they are.");
        } else if arg.is_empty() {
            self.open_form(FormKind::Timer(channel.id), "");
        } else {
            match time::parse_timer(arg) {
                Ok(seconds) => self.ask_timer(channel.id, seconds),
                Err(problem) => self.problem(&problem),
            }
        }
    }

    pub(super) fn ask_timer(&mut self, channel_id: ChannelId, seconds: u32) {
        let words = match seconds {
            0 => "new messages here stay".to_owned(),
            _ => format!("new messages here disappear {} after they were read", time::span(seconds)),
        };
        self.ask(Pending::Toast(words), Command::SetTimer { channel_id, seconds });
    }

    fn toggle_mute(&mut self) {
        let Some(channel) = self.chat.channel_id().and_then(|id| self.world.channel(id)).cloned() else { return };
        let settings = ChannelSettings {
            muted: !channel.muted,
            archived: channel.archived,
            notify: channel.notify,
            ..ChannelSettings::default()
        };
        let words = format!("{} is {}", self.world.title(&channel), if settings.muted { "muted" } else { "not muted" });
        self.ask(Pending::Toast(words), Command::SetChannelSettings { channel_id: channel.id, settings });
    }

    // Trust.

    /// Whom a command about trust means: who changed, else the other one of a DM, else the author of the selected message.
    fn person_here(&self) -> Option<(UserId, Clean)> {
        if let Some(SendBlock::IdentityChanged { user_id, name, .. } | SendBlock::Equivocation { user_id, name }) =
            self.send_block()
        {
            return Some((*user_id, Clean::from_untrusted(name)));
        }
        let channel = self.chat.channel_id().and_then(|id| self.world.channel(id));
        if let Some(peer) = channel.and_then(|channel| channel.peer.as_ref()) {
            return Some((peer.user_id, Clean::from_untrusted(&peer.username)));
        }
        let item = self.target().filter(|item| !item.mine && matches!(self.chat.focus, Focus::History(_)))?;
        Some((item.key.author, Clean::from_untrusted(&item.author_name)))
    }

    fn show_safety_of(&mut self, arg: &str) {
        let name = arg.trim_start_matches('@');
        if !name.is_empty() {
            let dms = self.world.tree.dms.iter().filter_map(|dm| dm.peer.as_ref());
            let in_dm = dms.filter(|peer| peer.username.raw().eq_ignore_ascii_case(name)).map(|peer| peer.user_id).next();
            let members = self.chat.channel_id().map_or(&[][..], |id| self.world.members(id));
            let member =
                members.iter().find(|member| member.username.raw().eq_ignore_ascii_case(name)).map(|member| member.user_id);
            match in_dm.or(member) {
                Some(user_id) if Some(user_id) == self.world.me() => self.own_keys(),
                Some(user_id) => self.show_safety(user_id),
                None => self.fail("nobody of that name is here", "F5 lists the members of this channel."),
            }
            return;
        }
        match self.person_here() {
            Some((user_id, _)) if Some(user_id) == self.world.me() => self.own_keys(),
            Some((user_id, _)) => self.show_safety(user_id),
            None => self.fail(
                "whose safety numbers?",
                "Open a direct conversation, select a message (Esc), or name somebody: :safety NAME.",
            ),
        }
    }

    fn own_keys(&mut self) {
        self.fail("with yourself there is nothing to compare", ":devices shows your own key and your devices.");
    }

    pub(super) fn show_safety(&mut self, user_id: UserId) {
        self.ask(Pending::Safety(user_id), Command::ShowSafety { user_id });
    }

    pub(super) fn show_forks(&mut self, channel_id: ChannelId, decided: bool) {
        self.ask(Pending::Forks { channel_id, decided }, Command::ShowForks { channel_id });
    }

    fn decide_trust(&mut self) {
        match self.person_here() {
            Some((user_id, _)) => self.show_safety(user_id),
            None => self.fail("nobody's identity key changed here", ""),
        }
    }
}
