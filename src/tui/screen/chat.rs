//! The main screen's state: which channel, which thread, what has the focus; opening and leaving places, loading pages, marking as
//! read. How it is drawn is in `panes.rs`, writing in `compose.rs`.

use crate::client::command::{Command, Place};
use crate::client::model::{Anchor, MessageRef, TimelineItem};
use crate::protocol::codec::Timestamp;
use crate::protocol::ids::{ChannelId, CommunityId, GroupId};
use crate::tui::app::{App, Pending};
use crate::tui::text::Clean;
use crate::tui::widget::timeline::{Direction, PAGE, Scroll, Timeline};
use crate::tui::widget::tree::{self, Target};

use super::compose::Composer;

/// Read means: at the bottom, in a focused terminal, for this long.
const READ_AFTER_MS: i64 = 1000;

#[derive(Debug)]
pub struct Chat {
    pub main: Option<Conversation>,
    pub thread: Option<Conversation>,
    pub focus: Focus,
    /// Beside the messages, where there is room.
    pub show_tree: bool,
    /// Over the messages, where there is none.
    pub tree_over: bool,
    pub show_thread: bool,
    /// Whose channels the tree lists.
    pub community: Option<CommunityId>,
    pub cursor: Option<Target>,
    /// A channel that was just made and is opened when the tree has it.
    pub wanted: Option<ChannelId>,
    /// A group that was just made and has no channel yet.
    pub made_group: Option<GroupId>,
    /// A community that was just joined; its first channel is opened when the tree has one.
    pub joined: Option<CommunityId>,
    reading: Option<Reading>,
    /// What was marked last, so that it is not marked again.
    marked: Option<(ChannelId, u64)>,
}

impl Default for Chat {
    fn default() -> Self {
        Self {
            main: None,
            thread: None,
            focus: Focus::Composer(Pane::Main),
            show_tree: true,
            tree_over: false,
            show_thread: true,
            community: None,
            cursor: None,
            wanted: None,
            made_group: None,
            joined: None,
            reading: None,
            marked: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    Main,
    Thread,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Focus {
    Composer(Pane),
    History(Pane),
    Tree,
}

/// Messages and what is being written to them.
#[derive(Debug)]
pub struct Conversation {
    pub timeline: Timeline,
    pub composer: Composer,
    /// As it was called when it was opened: it may go while it is on the screen.
    pub title: Clean,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    channel_id: ChannelId,
    seq: u64,
    at: Timestamp,
}

impl Chat {
    pub fn conversation(&self, pane: Pane) -> Option<&Conversation> {
        match pane {
            Pane::Main => self.main.as_ref(),
            Pane::Thread => self.thread.as_ref(),
        }
    }

    pub fn conversation_mut(&mut self, pane: Pane) -> Option<&mut Conversation> {
        match pane {
            Pane::Main => self.main.as_mut(),
            Pane::Thread => self.thread.as_mut(),
        }
    }

    pub fn at_mut(&mut self, place: Place) -> Option<&mut Conversation> {
        [&mut self.main, &mut self.thread].into_iter().flatten().find(|conversation| conversation.timeline.place == place)
    }

    pub fn channel_id(&self) -> Option<ChannelId> {
        self.main.as_ref().map(|main| main.timeline.place.channel_id)
    }

    pub fn wake_at(&self) -> Option<Timestamp> {
        let drafts = [&self.main, &self.thread].into_iter().flatten().filter_map(|conversation| conversation.composer.draft_due);
        drafts.chain(self.reading.map(|reading| reading.at)).min()
    }
}

impl App {
    /// Goes to a channel; the community around it becomes the chosen one.
    pub fn open_channel(&mut self, id: ChannelId, anchor: Option<Anchor>) {
        let Some(channel) = self.world.channel(id).cloned() else {
            self.fail("this channel is not here any more", "Ctrl-G lists the channels you are in.");
            return;
        };
        self.chat.tree_over = false;
        self.chat.cursor = None;
        self.chat.joined = None;
        let moves = self.chat.channel_id() != Some(id);
        self.notice = self.notice.take().filter(|notice| notice.error && !(notice.here && moves));
        if let Some(community) = channel.community_id {
            self.chat.community = Some(community);
        }
        if matches!(self.chat.focus, Focus::Tree) || self.chat.channel_id() != Some(id) {
            self.chat.focus = Focus::Composer(Pane::Main);
        }
        if self.chat.channel_id() == Some(id) && anchor.is_none() {
            return;
        }
        if self.chat.channel_id() != Some(id) {
            self.save_drafts();
            self.close_thread();
            let place = Place { channel_id: id, thread: None };
            self.chat.main = Some(self.conversation(place, Some(channel.read_seq)));
            self.ask(Pending::Members(id), Command::ListMembers { channel_id: id });
        }
        let anchor = anchor.unwrap_or(if channel.unread > 0 { Anchor::FirstUnread } else { Anchor::Newest });
        self.load_page(Place { channel_id: id, thread: None }, anchor);
    }

    /// Opens a thread beside its channel.
    pub fn open_thread(&mut self, root: MessageRef) {
        let Some(channel_id) = self.chat.channel_id() else { return };
        let place = Place { channel_id, thread: Some(root) };
        self.chat.show_thread = true;
        self.chat.focus = Focus::Composer(Pane::Thread);
        if self.chat.thread.as_ref().is_some_and(|thread| thread.timeline.place == place) {
            return;
        }
        self.close_thread();
        self.chat.focus = Focus::Composer(Pane::Thread);
        self.chat.thread = Some(self.conversation(place, None));
        self.load_page(place, Anchor::Newest);
    }

    pub fn close_thread(&mut self) {
        if self.chat.thread.is_some() {
            self.save_drafts();
            self.chat.thread = None;
        }
        if matches!(self.chat.focus, Focus::Composer(Pane::Thread) | Focus::History(Pane::Thread)) {
            self.chat.focus = Focus::Composer(Pane::Main);
        }
    }

    /// Goes to a message, wherever it is.
    pub fn jump(&mut self, channel_id: ChannelId, message: MessageRef, thread_root: Option<MessageRef>) {
        let target = thread_root.unwrap_or(message);
        let pane = if thread_root.is_some() { Pane::Thread } else { Pane::Main };
        if self.chat.channel_id() == Some(channel_id)
            && thread_root.is_none()
            && self.chat.main.as_ref().is_some_and(|main| main.timeline.get(target).is_some())
        {
            self.with_timeline(Pane::Main, |timeline, size, look| timeline.select(target, size, look));
        } else {
            self.open_channel(channel_id, Some(Anchor::Around(target)));
        }
        if let Some(root) = thread_root {
            self.open_thread(root);
            self.load_page(Place { channel_id, thread: Some(root) }, Anchor::Around(message));
        }
        self.chat.focus = Focus::History(pane);
    }

    fn conversation(&mut self, place: Place, read_seq: Option<u64>) -> Conversation {
        self.ask(Pending::Draft(place), Command::LoadDraft { place });
        let title = self.world.channel(place.channel_id).map(|channel| self.world.title(channel)).unwrap_or_default();
        Conversation { timeline: Timeline::new(place, read_seq), composer: Composer::new(), title }
    }

    fn load_page(&mut self, place: Place, anchor: Anchor) {
        if let Some(conversation) = self.chat.at_mut(place) {
            conversation.timeline.loading = Some(Direction::Newer);
        }
        self.ask(Pending::Page { place, anchor }, Command::LoadTimeline { place, anchor, limit: PAGE });
    }

    /// Asks for the pages that the user is about to need.
    pub(super) fn fetch(&mut self, pane: Pane) {
        let size = self.text_size(pane);
        let look = self.look();
        let Some(timeline) = self.chat.conversation(pane).map(|conversation| &conversation.timeline) else { return };
        let Some(direction) = timeline.wants(size, &look) else { return };
        let place = timeline.place;
        let edge = match direction {
            Direction::Older => timeline.items.front(),
            Direction::Newer => timeline.items.back(),
        };
        let edge = edge.map(|item| item.key);
        let from_server = direction == Direction::Older && timeline.at_start;
        let command = match (direction, edge) {
            (Direction::Older, _) if from_server => Command::FetchOlder { place, limit: PAGE },
            (Direction::Older, Some(key)) => Command::LoadTimeline { place, anchor: Anchor::Before(key), limit: PAGE },
            (Direction::Newer, Some(key)) => Command::LoadTimeline { place, anchor: Anchor::After(key), limit: PAGE },
            (_, None) => return,
        };
        if let Some(conversation) = self.chat.conversation_mut(pane) {
            conversation.timeline.loading = Some(direction);
        }
        self.ask(Pending::More { place, direction, from_server }, command);
    }

    pub fn load_more(&mut self) {
        self.fetch(Pane::Main);
        if self.chat.show_thread {
            self.fetch(Pane::Thread);
        }
    }

    /// Runs something on a timeline with the size it is drawn at.
    pub(super) fn with_timeline(
        &mut self,
        pane: Pane,
        change: impl FnOnce(&mut Timeline, (usize, usize), &crate::tui::widget::timeline::Look<'_>),
    ) {
        let size = self.text_size(pane);
        let look = crate::tui::widget::timeline::Look {
            theme: &self.theme,
            tz: &self.tz,
            me: self.world.account.as_ref().map_or("", |account| account.username.raw()),
        };
        if let Some(conversation) = self.chat.conversation_mut(pane) {
            change(&mut conversation.timeline, size, &look);
        }
    }

    /// The message that an action means: the selected one, else the newest on the screen.
    pub fn target(&self) -> Option<std::sync::Arc<TimelineItem>> {
        let conversation = self.chat.conversation(self.active_pane())?;
        match self.chat.focus {
            Focus::History(_) => conversation.timeline.selected_item().or_else(|| conversation.timeline.newest_message()),
            _ => conversation.timeline.newest_message(),
        }
        .cloned()
    }

    // Reading.

    /// Starts or stops the clock after which what is on the screen counts as read.
    pub fn note_reading(&mut self) {
        let reading = self.main_bottom_seq().filter(|(channel_id, seq)| {
            let known = self.world.channel(*channel_id).map_or(0, |channel| channel.read_seq);
            *seq > known && self.chat.marked != Some((*channel_id, *seq))
        });
        self.chat.reading = match (reading, self.chat.reading) {
            (Some((channel_id, seq)), Some(old)) if (old.channel_id, old.seq) == (channel_id, seq) => Some(old),
            (Some((channel_id, seq)), _) => {
                Some(Reading { channel_id, seq, at: Timestamp(self.now.0.saturating_add(READ_AFTER_MS)) })
            }
            (None, _) => None,
        };
    }

    /// How far the open channel is in sight: its end, with what is folded away there (replies in threads, reactions).
    fn main_bottom_seq(&self) -> Option<(ChannelId, u64)> {
        let timeline = &self.chat.main.as_ref()?.timeline;
        let channel = self.world.channel(timeline.place.channel_id)?;
        let seen = self.focused
            && !self.too_small()
            && timeline.loaded
            && timeline.at_end
            && timeline.scroll == Scroll::Bottom
            && self.overlays.is_empty();
        timeline.last_seq().filter(|_| seen).map(|seq| (timeline.place.channel_id, seq.max(channel.newest_seq)))
    }

    pub fn chat_tick(&mut self) {
        if let Some(reading) = self.chat.reading.filter(|reading| reading.at <= self.now) {
            self.chat.reading = None;
            self.mark_read(reading.channel_id, reading.seq);
        }
        self.save_due_drafts();
    }

    pub(super) fn mark_read(&mut self, channel_id: ChannelId, seq: u64) {
        self.chat.marked = Some((channel_id, seq));
        self.ask(Pending::Silent, Command::MarkRead { channel_id, seq });
    }

    // The tree.

    /// A community without a channel that this user can see.
    pub fn empty_community(&self, id: CommunityId) -> bool {
        self.world.community(id).is_some_and(|node| node.groups.iter().all(|group| group.channels.is_empty()))
    }

    pub fn tree_rows(&self) -> Vec<tree::Row> {
        tree::rows(&self.world, self.chat.community, self.chat.channel_id())
    }

    pub(super) fn move_in_tree(&mut self, step: isize) {
        let targets: Vec<Target> = self.tree_rows().iter().filter_map(|row| row.target).collect();
        let current = self.chat.cursor.or(self.chat.channel_id().map(Target::Channel));
        let at = targets.iter().position(|target| Some(*target) == current);
        let to = match at {
            None => 0,
            Some(at) => at.saturating_add_signed(step).min(targets.len().saturating_sub(1)),
        };
        self.chat.cursor = targets.get(to).copied();
    }

    pub(super) fn choose_community(&mut self, id: CommunityId) {
        self.chat.community = Some(id);
        // Where one was last is not kept; the first channel with something new is the next best.
        let channels: Vec<_> =
            self.world.community(id).iter().flat_map(|node| &node.groups).flat_map(|group| &group.channels).cloned().collect();
        let in_it = self.chat.channel_id().is_some_and(|current| channels.iter().any(|channel| channel.id == current));
        if in_it {
            return;
        }
        let best =
            channels.iter().find(|channel| channel.mentions > 0).or_else(|| channels.iter().find(|channel| channel.unread > 0));
        match best.or_else(|| channels.first()) {
            Some(channel) => self.open_channel(channel.id, None),
            // Nothing of another community stays open under this one's name.
            None => {
                self.save_drafts();
                self.close_thread();
                self.chat.main = None;
            }
        }
    }

    /// The channel above or below in the tree.
    pub(super) fn step_channel(&mut self, step: isize) {
        let ids: Vec<ChannelId> = self
            .tree_rows()
            .iter()
            .filter_map(|row| match row.target {
                Some(Target::Channel(id)) => Some(id),
                _ => None,
            })
            .collect();
        let at = self.chat.channel_id().and_then(|current| ids.iter().position(|id| *id == current));
        let to = at.map_or(0, |at| at.saturating_add_signed(step).min(ids.len().saturating_sub(1)));
        if let Some(id) = ids.get(to).copied() {
            self.open_channel(id, None);
        }
    }
}
