//! Writing: sending, answering, editing, drafts, completion, slash commands.

use emojis::Emoji;

use crate::client::command::{Command, Place};
use crate::client::model::{Body, MessageRef, SendBlock, Untrusted};
use crate::protocol::codec::Timestamp;
use crate::protocol::ids::UserId;
use crate::tui::app::{App, Pending};
use crate::tui::command::{self, Action};
use crate::tui::markdown::{self, is_name};
use crate::tui::text::Clean;
use crate::tui::widget::input::Input;

use super::chat::{Focus, Pane};
use super::overlay::Overlay;

const DRAFT_MS: i64 = 800;
const TYPING_EVERY_MS: i64 = 4000;
/// With more lines than this the composer says how many there are.
const LINES_IN_SIGHT: usize = 8;
const MATCHES_MAX: usize = 6;

#[derive(Debug)]
pub struct Composer {
    pub input: Input,
    pub reply_to: Option<ReplyTo>,
    /// The message that is being edited instead of a new one written.
    pub editing: Option<MessageRef>,
    /// When the draft is saved, if it has to be.
    pub draft_due: Option<Timestamp>,
    /// The draft in the store came, or something was written before it did.
    pub draft_loaded: bool,
    pub completion: Option<Completion>,
    typing_told: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    pub message: MessageRef,
    /// `ana: canary is red`
    pub label: Clean,
}

/// A word being completed and what it could become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Bytes of the word in the text.
    start: usize,
    end: usize,
    pub matches: Vec<Match>,
    pub selected: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// What the word becomes.
    text: String,
    pub label: Clean,
}

impl Composer {
    pub fn new() -> Self {
        Self {
            input: Input::multiline(),
            reply_to: None,
            editing: None,
            draft_due: None,
            draft_loaded: false,
            completion: None,
            typing_told: None,
        }
    }
}

impl Default for Composer {
    fn default() -> Self {
        Self::new()
    }
}

impl App {
    pub(super) fn composer(&mut self) -> Option<&mut Composer> {
        let pane = self.active_pane();
        self.chat.conversation_mut(pane).map(|conversation| &mut conversation.composer)
    }

    /// The label row above the text: what is answered or edited.
    pub(super) fn composer_label(&self, pane: Pane) -> Option<String> {
        let composer = &self.chat.conversation(pane)?.composer;
        if composer.editing.is_some() {
            return Some("editing your message; Ctrl-C leaves it as it was".to_owned());
        }
        if let Some(reply) = &composer.reply_to {
            return Some(format!("answering {}; Ctrl-C stops", reply.label));
        }
        // Most of a long paste is out of sight.
        let lines = composer.input.text().lines().count();
        (lines > LINES_IN_SIGHT).then(|| format!("{lines} lines in one message; Ctrl-C clears them, Ctrl-Y brings them back"))
    }

    pub(super) fn composer_rows(&self, pane: Pane, cells: usize) -> usize {
        let text = self
            .chat
            .conversation(pane)
            .map_or(1, |conversation| conversation.composer.input.layout(cells.saturating_sub(2)).rows.len());
        text + usize::from(self.composer_label(pane).is_some())
    }

    /// A character for whatever is being typed into.
    pub(in crate::tui) fn typed(&mut self, c: char) {
        match self.focused_input() {
            Some(input) => input.type_char(c),
            None => return,
        }
        if c == ':' && self.overlays.is_empty() && self.setup.is_none() {
            self.finish_emoji();
        }
        self.input_changed();
    }

    /// `:rocket:` becomes the emoji when its last colon is typed; undo brings the word back.
    fn finish_emoji(&mut self) {
        let Some(composer) = self.composer() else { return };
        let before = composer.input.before_cursor();
        let word = before.rfind(char::is_whitespace).map_or(before, |at| before[at..].trim_start());
        let name = word.strip_prefix(':').and_then(|word| word.strip_suffix(':')).filter(|name| name.len() >= 2);
        if let Some(emoji) = name.and_then(emojis::get_by_shortcode) {
            let (start, end) = (before.len() - word.len(), before.len());
            composer.input.replace(start..end, emoji.as_str());
        }
    }

    pub(in crate::tui) fn paste(&mut self, text: &str) -> bool {
        if self.overlays.is_empty() && self.setup.is_none() && !matches!(self.chat.focus, Focus::Composer(_)) {
            let pane = self.active_pane();
            self.chat.focus = Focus::Composer(pane);
        }
        let fits = self.focused_input().is_none_or(|input| input.paste(text));
        self.input_changed();
        fits
    }

    /// The text field that has the focus.
    pub(super) fn focused_input(&mut self) -> Option<&mut Input> {
        if let Some(overlay) = self.overlays.last_mut() {
            return match overlay {
                Overlay::Pick(_, picker) => Some(&mut picker.input),
                Overlay::Form(form) => form.focused_input(),
                Overlay::Question(_) | Overlay::Page(_) => None,
            };
        }
        if let Some(setup) = &mut self.setup {
            return setup.form.focused_input();
        }
        match self.chat.focus {
            Focus::Composer(pane) => self.chat.conversation_mut(pane).map(|conversation| &mut conversation.composer.input),
            _ => None,
        }
    }

    /// What follows from a change of the text.
    pub(super) fn input_changed(&mut self) {
        if !self.overlays.is_empty() {
            self.query_changed();
            return;
        }
        if self.setup.is_some() {
            return;
        }
        let now = self.now;
        let Some(composer) = self.composer() else { return };
        composer.completion = None;
        if composer.editing.is_some() {
            return;
        }
        composer.draft_due.get_or_insert(Timestamp(now.0.saturating_add(DRAFT_MS)));
        let text = composer.input.text();
        let tell = !text.is_empty()
            && !text.starts_with('/')
            && composer.typing_told.is_none_or(|told| now.0.saturating_sub(told.0) >= TYPING_EVERY_MS);
        if tell {
            composer.typing_told = Some(now);
            if let Some(channel_id) = self.chat.channel_id().filter(|_| self.send_block().is_none()) {
                self.ask(Pending::Silent, Command::Typing { channel_id });
            }
        }
        // The list of matches shows by itself once a name or an emoji has begun.
        self.find_matches(false);
    }

    /// Why nothing can be sent into the open channel.
    pub(super) fn send_block(&self) -> Option<&SendBlock> {
        match self.world.channel(self.chat.channel_id()?) {
            Some(channel) => channel.blocked.as_ref(),
            None => Some(&SendBlock::NotMember),
        }
    }

    // Sending.

    pub(super) fn send(&mut self) {
        let pane = self.active_pane();
        let Some(conversation) = self.chat.conversation(pane) else {
            self.fail("no channel is open", "Ctrl-G goes to one, F9 lists every command.");
            return;
        };
        let place = conversation.timeline.place;
        let text = conversation.composer.input.text().trim_end().to_owned();
        if text.trim().is_empty() {
            return;
        }
        if let Some(edited) = conversation.composer.editing {
            self.send_edit(pane, place, edited, text);
            return;
        }
        if let Some(name) = text.strip_prefix('/').filter(|rest| !rest.starts_with('/')) {
            let name = name.to_owned();
            self.slash(&name);
            return;
        }
        // As everywhere else; what is no command is text: `:)`, `:rocket:`.
        if let Some(line) = text.strip_prefix(':')
            && command::COMMANDS.iter().any(|spec| spec.named && Some(spec.name) == line.split_whitespace().next())
            && !line.starts_with(char::is_whitespace)
        {
            let line = line.to_owned();
            self.slash(&line);
            return;
        }
        if let Some(block) = self.send_block().filter(|block| !block.keeps()) {
            let (what, _) = block_words(block);
            self.fail(format!("not sent: {what}"), "Your text is still here.");
            if let Some(notice) = &mut self.notice {
                notice.blocked = true;
            }
            return;
        }
        // A message may begin with a slash: the first of two is dropped.
        let text = if text.starts_with("//") { text[1..].to_owned() } else { text };
        let mentions = self.mentions(place, &text);
        let Some(conversation) = self.chat.conversation_mut(pane) else { return };
        conversation.composer.input.take();
        conversation.composer.completion = None;
        conversation.composer.draft_due = None;
        conversation.composer.draft_loaded = true;
        conversation.composer.typing_told = None;
        let reply_to = conversation.composer.reply_to.take().map(|reply| reply.message);
        // What one sends is seen.
        if conversation.timeline.at_end {
            conversation.timeline.scroll = crate::tui::widget::timeline::Scroll::Bottom;
        }
        conversation.timeline.selected = None;
        let away = !conversation.timeline.at_end;
        self.notice = None;
        let pending = Pending::Sent { place, text: text.clone(), reply_to };
        self.ask(pending, Command::SendText { place, text: Untrusted::new(text), reply_to, mentions, id: None });
        if away {
            let anchor = crate::client::model::Anchor::Newest;
            self.ask(
                Pending::Page { place, anchor },
                Command::LoadTimeline { place, anchor, limit: crate::tui::widget::timeline::PAGE },
            );
        }
    }

    fn send_edit(&mut self, pane: Pane, place: Place, target: MessageRef, text: String) {
        let channel_id = place.channel_id;
        self.leave_edit(pane);
        self.ask(
            Pending::Edited { place, target, text: text.clone() },
            Command::EditText { channel_id, target, text: Untrusted::new(text) },
        );
    }

    /// `/name argument`, as typed into the composer.
    fn slash(&mut self, line: &str) {
        let (name, arg) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let now = self.now;
        match command::by_name(name) {
            Some(spec) => {
                if let Some(composer) = self.composer() {
                    composer.input.clear();
                    composer.completion = None;
                    // Typed slowly it was saved as a draft: it would stand here again later.
                    composer.draft_due = Some(now);
                    composer.draft_loaded = true;
                }
                self.act(spec.action, arg.trim());
            }
            None => {
                let name = Clean::ours(name).truncate(30);
                self.fail(
                    format!("there is no command /{name}; nothing was sent"),
                    "F9 lists the commands; two slashes at the start send it as text.",
                );
            }
        }
    }

    /// The members that a text names.
    fn mentions(&self, place: Place, text: &str) -> Vec<UserId> {
        let members = self.world.members(place.channel_id);
        let mut found: Vec<UserId> = Vec::new();
        for (at, _) in text.match_indices('@') {
            let begins = !text[..at].chars().next_back().is_some_and(char::is_alphanumeric);
            let name: String = text[at + 1..].chars().take_while(|c| is_name(*c)).collect();
            let name = name.trim_end_matches(['.', '-']);
            let member = members.iter().find(|member| member.username.raw().eq_ignore_ascii_case(name));
            if let Some(member) = member.filter(|member| begins && !found.contains(&member.user_id)) {
                found.push(member.user_id);
            }
        }
        found
    }

    // Answering and editing.

    pub(super) fn start_reply(&mut self) {
        let Some(item) = self.a_message() else { return };
        let Body::Text(text) = &item.body else {
            self.fail(format!("this cannot be answered: {}", no_text_words(&item.body)), "");
            return;
        };
        let label = Clean::ours(format!("{}: {}", Clean::from_untrusted(&item.author_name), markdown::preview(text, 60)));
        let pane = self.active_pane();
        self.chat.focus = Focus::Composer(pane);
        if let Some(composer) = self.composer() {
            composer.reply_to = Some(ReplyTo { message: item.key, label });
        }
    }

    pub(super) fn quote_text(&mut self) {
        let Some(item) = self.a_message() else { return };
        let Body::Text(text) = &item.body else {
            self.fail(format!("nothing was quoted: {}", no_text_words(&item.body)), "");
            return;
        };
        let quoted: String = text.raw().lines().map(|line| format!("> {line}\n")).collect();
        let pane = self.active_pane();
        self.chat.focus = Focus::Composer(pane);
        let fits = self.composer().is_none_or(|composer| composer.input.paste(&quoted));
        if !fits {
            self.fail("this is too much text for one message; nothing was inserted", "");
        }
        self.input_changed();
    }

    pub(super) fn start_edit(&mut self, item: &crate::client::model::TimelineItem) {
        let Body::Text(text) = &item.body else {
            self.fail(format!("this cannot be edited: {}", no_text_words(&item.body)), "");
            return;
        };
        if !item.mine || item.seq.is_none() {
            self.fail("only a sent message of yours can be edited", "");
            return;
        }
        let text = text.raw().to_owned();
        let pane = self.active_pane();
        self.chat.focus = Focus::Composer(pane);
        self.save_drafts();
        if let Some(composer) = self.composer() {
            composer.editing = Some(item.key);
            composer.input.set(&text);
        }
    }

    pub(super) fn edit_last(&mut self) {
        let pane = self.active_pane();
        let last = self.chat.conversation(pane).and_then(|conversation| {
            let mut items = conversation.timeline.items.iter().rev();
            items.find(|item| item.mine && item.seq.is_some() && matches!(item.body, Body::Text(_))).cloned()
        });
        match last {
            Some(item) => self.start_edit(&item),
            None => self.fail("there is no message of yours here to edit", ""),
        }
    }

    /// Back from editing to what was being written before.
    pub(super) fn leave_edit(&mut self, pane: Pane) {
        let Some(conversation) = self.chat.conversation_mut(pane) else { return };
        conversation.composer.editing = None;
        conversation.composer.input.take();
        conversation.composer.draft_loaded = false;
        let place = conversation.timeline.place;
        self.ask(Pending::Draft(place), Command::LoadDraft { place });
    }

    /// Ctrl-C: one thing less at a time.
    pub(super) fn cancel(&mut self) {
        if self.overlays.pop().is_some() {
            return;
        }
        let pane = self.active_pane();
        if let Some(composer) = self.composer() {
            if composer.completion.take().is_some() {
                return;
            }
            if composer.editing.is_some() {
                self.leave_edit(pane);
                return;
            }
            if !composer.input.is_empty() {
                composer.input.clear();
                self.input_changed();
                return;
            }
            if composer.reply_to.take().is_some() {
                return;
            }
        }
        if self.notice.take().is_some_and(|notice| notice.error) {
            return;
        }
        if self.quit_armed.is_some() {
            self.quit();
            return;
        }
        self.toast("Ctrl-C again leaves chat");
        self.quit_armed = Some(Timestamp(self.now.0.saturating_add(1500)));
    }

    // Drafts.

    pub(super) fn save_due_drafts(&mut self) {
        let now = self.now;
        self.save_drafts_where(|due| due <= now);
    }

    /// Saves what is typed and not saved yet.
    pub(in crate::tui) fn save_drafts(&mut self) {
        self.save_drafts_where(|_| true);
    }

    fn save_drafts_where(&mut self, ready: impl Fn(Timestamp) -> bool) {
        let mut commands = Vec::new();
        for conversation in [&mut self.chat.main, &mut self.chat.thread].into_iter().flatten() {
            let composer = &mut conversation.composer;
            if composer.draft_due.is_some_and(&ready) {
                composer.draft_due = None;
                commands.push(Command::SaveDraft {
                    place: conversation.timeline.place,
                    text: Untrusted::new(composer.input.text()),
                    reply_to: composer.reply_to.as_ref().map(|reply| reply.message),
                });
            }
        }
        for command in commands {
            self.ask(Pending::Quiet, command);
        }
    }

    pub(super) fn draft_came(&mut self, place: Place, text: &Untrusted, reply_to: Option<MessageRef>) {
        let label = |app: &Self, message| {
            let item = app.chat.main.as_ref().and_then(|main| main.timeline.get(message));
            item.map_or(Clean::ours("a message"), |item| Clean::from_untrusted(&item.author_name))
        };
        let reply = reply_to.map(|message| ReplyTo { message, label: label(self, message) });
        let Some(conversation) = self.chat.at_mut(place) else { return };
        let composer = &mut conversation.composer;
        if std::mem::replace(&mut composer.draft_loaded, true) || composer.editing.is_some() {
            return;
        }
        if composer.input.is_empty() {
            composer.input.set(text.raw());
        } else if !text.is_empty() {
            // Typed before the draft came: neither is lost.
            let typed = composer.input.take();
            composer.input.set(&format!("{}{typed}", text.raw()));
        }
        if composer.reply_to.is_none() {
            composer.reply_to = reply;
        }
    }

    // Completion.

    /// Tab: takes the selected match, then the next.
    pub(super) fn complete(&mut self) {
        if self.composer().is_some_and(|composer| composer.completion.is_none()) {
            self.find_matches(true);
        }
        let Some(composer) = self.composer() else { return };
        let Some(completion) = &mut composer.completion else { return };
        if completion.matches.is_empty() {
            composer.completion = None;
            return;
        }
        let next = completion.selected.map_or(0, |at| (at + 1) % completion.matches.len());
        let Some(text) = completion.matches.get(next).map(|found| found.text.clone()) else { return };
        let range = completion.start..completion.end;
        completion.selected = Some(next);
        completion.end = completion.start + text.len();
        composer.input.replace(range, &text);
    }

    fn find_matches(&mut self, asked: bool) {
        let pane = self.active_pane();
        let Some(conversation) = self.chat.conversation(pane) else { return };
        let before = conversation.composer.input.before_cursor();
        let end = before.len();
        let word_start =
            before.rfind(char::is_whitespace).map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        let word = &before[word_start..];
        let mut matches: Vec<Match> = Vec::new();
        if let Some(name) = word.strip_prefix('@') {
            let name = name.to_lowercase();
            for member in self.world.members(conversation.timeline.place.channel_id) {
                let username = Clean::from_untrusted(&member.username);
                let display = Clean::from_untrusted(&member.name);
                let hit =
                    username.as_str().to_lowercase().starts_with(&name) || display.as_str().to_lowercase().starts_with(&name);
                if hit && matches.len() < MATCHES_MAX {
                    let label = if username == display { format!("@{username}") } else { format!("@{username}  {display}") };
                    matches.push(Match { text: format!("@{username} "), label: Clean::ours(label) });
                }
            }
        } else if let Some(name) = word.strip_prefix(':').filter(|name| name.len() >= 2 || (asked && !name.is_empty())) {
            let hits = emoji_named(name).take(MATCHES_MAX);
            matches.extend(
                hits.map(|(code, emoji)| Match { text: format!("{emoji} "), label: Clean::ours(format!("{emoji}  :{code}:")) }),
            );
        } else if let Some(name) = word.strip_prefix('/').filter(|name| word_start == 0 && !name.starts_with('/')) {
            let hits = command::COMMANDS.iter().filter(|spec| spec.named && spec.name.starts_with(name)).take(MATCHES_MAX);
            matches.extend(hits.map(|spec| Match {
                text: format!("/{} ", spec.name),
                label: Clean::ours(format!("/{}  {}", spec.name, spec.doc)),
            }));
        }
        if let Some(composer) = self.composer() {
            composer.completion = (!matches.is_empty()).then_some(Completion { start: word_start, end, matches, selected: None });
        }
    }

    /// Editing keys, in whatever is being typed into.
    pub(super) fn edit_input(&mut self, action: Action) {
        let changed = self.focused_input().is_some_and(|input| input.act(action));
        if changed {
            self.input_changed();
        }
    }
}

/// Emoji by the beginning of a shortcode, the exact one first.
pub(super) fn emoji_named(name: &str) -> impl Iterator<Item = (&'static str, &'static Emoji)> {
    let exact = emojis::get_by_shortcode(name).and_then(|emoji| Some((emoji.shortcode()?, emoji)));
    let name = name.to_lowercase();
    let rest = emojis::iter().filter_map(move |emoji| {
        let code = emoji.shortcodes().find(|code| code.starts_with(&name))?;
        Some((code, emoji))
    });
    exact.into_iter().chain(rest.filter(move |(_, emoji)| exact.is_none_or(|(_, first)| first != *emoji)))
}

/// Why a message has no text that could be copied, quoted or edited.
pub(super) fn no_text_words(body: &Body) -> &'static str {
    match body {
        Body::Text(_) => "it has no text",
        Body::Deleted { .. } => "it was deleted",
        Body::Expired => "it has disappeared, as its timer said",
        Body::Undecryptable(_) => "it is not decrypted here",
        Body::BeforeJoin => "it was written before you joined",
        Body::BeforeDevice => "it was written before this device was added",
        Body::NewerClient => "it needs a newer version of chat",
        Body::Clear(_) => "the server wrote it",
        Body::System(_) => "it says what happened here, nobody wrote it",
    }
}

/// What stops sending, and what helps.
pub(super) fn block_words(block: &SendBlock) -> (String, String) {
    match block {
        SendBlock::IdentityChanged { name, was_verified, .. } => {
            let was = if *was_verified { " You had verified the old one." } else { "" };
            (
                format!("the identity key of {} changed: F8 compares and decides", Clean::from_untrusted(name)),
                format!("Nothing is sent until then.{was}"),
            )
        }
        SendBlock::Equivocation { name, .. } => (
            format!("two device lists of {} contradict each other: F8 shows them", Clean::from_untrusted(name)),
            "The server or a device lies, so nothing more goes there. Ask them another way.".to_owned(),
        ),
        SendBlock::Away { name, refused: true, .. } => (
            format!("what the server gives as the keys of {} does not hold", Clean::from_untrusted(name)),
            "What you write is kept, encrypted for nobody; each message to them looks again.".to_owned(),
        ),
        SendBlock::Away { name, dormant, .. } => (
            match dormant {
                true => format!("none of {}'s devices has been there for 30 days", Clean::from_untrusted(name)),
                false => format!("no device of {} can be written to now", Clean::from_untrusted(name)),
            },
            "What you write is kept, and goes out when one of them comes back.".to_owned(),
        ),
        SendBlock::LogStopped => (
            "the signed list of members here is damaged".to_owned(),
            "Nobody can tell who would read this, so nothing is sent. :resume shows why; an admin decides.".to_owned(),
        ),
        SendBlock::ReadOnly => ("only moderators write here".to_owned(), String::new()),
        SendBlock::Archived => ("this channel is archived".to_owned(), String::new()),
        SendBlock::NotMember => {
            ("you are not a member here any more".to_owned(), "Searching still finds what you received.".to_owned())
        }
    }
}
