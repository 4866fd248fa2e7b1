//! The whole state of the terminal client and the two functions on it: [`update`] (what happened → new state and effects) and
//! [`view`] (state → screen). Neither awaits, nor touches terminal, file, clipboard or clock; the time is a field.
//!
//! `screen/` holds the parts: `chat` (panes), `act` (commands), `answer` (what the client said), `pick`, `form` and `page` (what lies over
//! them), `setup` (before there is a client). Read `update` here first, then `screen/act.rs`.

use std::collections::HashMap;

use jiff::tz::TimeZone;
use ratatui::Frame;

use crate::client::command::{Command, Place, RequestId};
use crate::client::model::{Anchor, Domain, MessageRef, Problem, ProblemKind};
use crate::protocol::codec::Timestamp;
use crate::protocol::ids::{ChannelId, UserId};

use super::command::Action;
use super::effect::Effect;
use super::keymap::{Context, Key, Keymap, Lookup};
use super::msg::Msg;
use super::screen::chat::{Chat, Focus};
use super::screen::overlay::Overlay;
use super::screen::setup::SetupScreen;
use super::text::Clean;
use super::theme::Theme;
use super::widget::timeline::{Direction, Look};
use super::world::World;

/// How long a success is shown.
const TOAST_MS: i64 = 5000;
/// Requests whose answers are awaited; more would be a fault of ours.
const REQUESTS_MAX: usize = 4096;

#[derive(Debug)]
pub struct App {
    pub now: Timestamp,
    pub tz: TimeZone,
    /// Columns and rows.
    pub size: (u16, u16),
    /// Whether the terminal has the focus.
    pub focused: bool,
    pub theme: Theme,
    pub keymap: Keymap,
    pub world: World,
    /// First run and unlock; none once the client is open.
    pub setup: Option<SetupScreen>,
    pub chat: Chat,
    /// What lies over the panes, the last on top.
    pub overlays: Vec<Overlay>,
    pub notice: Option<Notice>,
    /// The beginning of a key sequence.
    pub pressed: Vec<Key>,
    /// The screen differs from what was drawn.
    pub dirty: bool,
    pub(super) effects: Vec<Effect>,
    requests: HashMap<RequestId, Pending>,
    next_request: u64,
    /// Ctrl-C on an empty composer: a second one within a moment ends the program.
    pub(super) quit_armed: Option<Timestamp>,
    title: String,
    /// The user asked to end, or was told to.
    pub ended: bool,
}

/// What the line above the composer says: an error stays until it is closed, a success goes by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    pub text: Clean,
    pub hint: Clean,
    pub error: bool,
    pub until: Option<Timestamp>,
    /// It goes when nothing keeps a message back any more.
    pub blocked: bool,
    /// It is about what was tried in the open channel, and goes with it.
    pub here: bool,
}

/// What is to be done with the answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Pending {
    /// Only a failure is told.
    Quiet,
    /// Nothing is told.
    Silent,
    /// Done: says so.
    Toast(String),
    Page {
        place: Place,
        anchor: Anchor,
    },
    More {
        place: Place,
        direction: Direction,
        from_server: bool,
    },
    Draft(Place),
    Members(ChannelId),
    MembersPicker(ChannelId),
    /// Members of a channel, one of whom is chosen by this beginning of a name.
    ChooseMember {
        channel_id: ChannelId,
        domain: Domain,
        action: Action,
        name: String,
    },
    /// Who is kept out of a place, one of whom is chosen by this beginning of a name.
    Banned {
        domain: Domain,
        name: String,
    },
    /// The text goes back into the composer if it cannot be queued.
    Sent {
        place: Place,
        text: String,
        reply_to: Option<MessageRef>,
    },
    /// An edit: the text goes back as well.
    Edited {
        place: Place,
        target: MessageRef,
        text: String,
    },
    /// The answer belongs to the form on top.
    Form,
    /// The answer belongs to the list on top, if its query is still this one.
    Query(String),
    Outbox,
    /// A direct conversation, with whom.
    OpenDm(Clean),
    /// A place was left: what is open in it closes.
    Left {
        domain: Domain,
        words: String,
    },
    Safety(UserId),
    /// After a decision about trust: show the page again.
    SafetyAgain(UserId),
    Devices,
    /// Why a channel is stopped; after a decision, whether it goes on.
    Forks {
        channel_id: ChannelId,
        decided: bool,
    },
    /// After a decision about a stopped channel: is there more to decide?
    ForksAgain(ChannelId),
    LogOut,
}

impl App {
    pub fn new(now: Timestamp, tz: TimeZone, size: (u16, u16), theme: Theme) -> Self {
        Self {
            now,
            tz,
            size,
            focused: true,
            theme,
            keymap: Keymap::default(),
            world: World::default(),
            setup: None,
            chat: Chat::default(),
            overlays: Vec::new(),
            notice: None,
            pressed: Vec::new(),
            dirty: true,
            effects: Vec::new(),
            requests: HashMap::new(),
            next_request: 0,
            quit_armed: None,
            title: String::new(),
            ended: false,
        }
    }

    #[must_use]
    pub fn with_setup(mut self, setup: SetupScreen) -> Self {
        self.setup = Some(setup);
        self
    }

    /// When [`Msg::Tick`] is wanted next; none when nothing on the screen depends on time.
    pub fn wake_at(&self) -> Option<Timestamp> {
        let notice = self.notice.as_ref().and_then(|notice| notice.until);
        [notice, self.world.typing_ends(), self.quit_armed, self.chat.wake_at(), self.overlays.last().and_then(Overlay::wake_at)]
            .into_iter()
            .flatten()
            .min()
    }

    pub fn look(&self) -> Look<'_> {
        Look { theme: &self.theme, tz: &self.tz, me: self.world.username() }
    }

    // What happens.

    fn on_msg(&mut self, msg: Msg) {
        match msg {
            Msg::Key(key) => self.on_key(key),
            Msg::Paste(text) => self.on_paste(&text),
            Msg::Resize(columns, rows) => self.size = (columns, rows),
            Msg::Focus(focused) => {
                // Nothing on the screen says it.
                self.dirty = false;
                self.focused = focused;
                self.after_change();
            }
            Msg::Tick => self.on_tick(),
            Msg::Client(event) => self.on_client(event),
            Msg::Setup(result) => self.on_setup(result),
            Msg::Resumed => self.emit(Effect::Redraw),
            Msg::Quit => self.quit(),
        }
    }

    fn on_key(&mut self, key: Key) {
        if self.too_small() && key.text().is_some() {
            // What cannot be seen should not be typed.
            return;
        }
        self.pressed.push(key);
        let contexts = self.contexts();
        match self.keymap.lookup(&contexts, &self.pressed) {
            Lookup::Action(action) => {
                self.pressed.clear();
                self.act(action, "");
            }
            Lookup::Prefix => {}
            Lookup::Nothing => {
                let alone = self.pressed.len() == 1;
                self.pressed.clear();
                match key.text() {
                    Some(c) if alone && contexts.contains(&Context::Text) => self.typed(c),
                    // The second key of a sequence that does not exist counts for itself.
                    _ if !alone => self.on_key(key),
                    _ => {}
                }
            }
        }
        self.after_change();
    }

    /// What has the focus, the nearest first.
    pub fn contexts(&self) -> Vec<Context> {
        if let Some(overlay) = self.overlays.last() {
            return overlay.contexts().to_vec();
        }
        if self.setup.is_some() {
            return vec![Context::Form, Context::Text, Context::Always];
        }
        match self.focus() {
            Focus::Composer(_) => vec![Context::Composer, Context::Text, Context::Main, Context::Always],
            Focus::History(_) => vec![Context::History, Context::Main, Context::Always],
            Focus::Tree => vec![Context::Tree, Context::Main, Context::Always],
        }
    }

    /// What has the focus; without a channel there is nothing to write to.
    pub fn focus(&self) -> Focus {
        match self.chat.focus {
            Focus::Composer(pane) if self.chat.conversation(pane).is_none() => Focus::History(pane),
            focus => focus,
        }
    }

    fn on_tick(&mut self) {
        self.dirty = self.world.expire_typing(self.now);
        if self.notice.as_ref().is_some_and(|notice| notice.until.is_some_and(|until| until <= self.now)) {
            self.notice = None;
            self.dirty = true;
        }
        if self.quit_armed.is_some_and(|until| until <= self.now) {
            self.quit_armed = None;
        }
        self.chat_tick();
        self.overlay_tick();
    }

    /// What follows from any change: pages to load, what was read, the title.
    pub(super) fn after_change(&mut self) {
        if self.setup.is_some() {
            return;
        }
        self.load_more();
        self.note_reading();
        let (unread, mentions) = self.world.total_unread();
        let title = match (unread, mentions) {
            (0, _) => "chat".to_owned(),
            (unread, 0) => format!("chat ({unread})"),
            (unread, mentions) => format!("chat ({unread}) @{mentions}"),
        };
        if title != self.title {
            self.title.clone_from(&title);
            self.emit(Effect::Title(title));
        }
    }

    // Asking and telling.

    pub(super) fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn ask(&mut self, pending: Pending, command: Command) -> RequestId {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        if self.requests.len() >= REQUESTS_MAX {
            self.requests.clear();
        }
        self.requests.insert(id, pending);
        self.emit(Effect::Client(id, command));
        id
    }

    pub(super) fn answered(&mut self, id: RequestId) -> Option<Pending> {
        self.requests.remove(&id)
    }

    pub(super) fn toast(&mut self, text: impl AsRef<str>) {
        let until = Timestamp(self.now.0.saturating_add(TOAST_MS));
        self.notice = Some(Notice {
            text: Clean::ours(text),
            hint: Clean::default(),
            error: false,
            until: Some(until),
            blocked: false,
            here: false,
        });
    }

    pub(super) fn fail(&mut self, text: impl Into<String>, hint: impl Into<String>) {
        self.refused(&Problem::new(ProblemKind::Usage, text).hint(hint));
    }

    /// What was tried here did not work.
    pub(super) fn refused(&mut self, problem: &Problem) {
        self.problem(problem);
        if let Some(notice) = &mut self.notice {
            notice.here = true;
        }
    }

    pub(super) fn problem(&mut self, problem: &Problem) {
        self.notice = Some(Notice {
            text: Clean::from_untrusted(&problem.text),
            hint: Clean::ours(advice(problem)),
            error: true,
            until: None,
            blocked: false,
            here: false,
        });
    }

    /// Saves what is typed and ends.
    pub(super) fn quit(&mut self) {
        if !self.ended {
            self.save_drafts();
            self.ended = true;
            self.emit(Effect::Quit);
        }
    }

    fn on_paste(&mut self, text: &str) {
        self.pressed.clear();
        let fits = self.paste(text);
        if !fits {
            self.fail("this is too much text for one message; nothing was inserted", "Send it in parts.");
        }
        self.after_change();
    }

    pub(super) fn perform(&mut self, action: Action) {
        self.act(action, "");
    }

    /// The terminal would not take a text into its clipboard.
    pub fn copy_failed(&mut self) {
        self.fail("this is too much for the terminal's clipboard; nothing was copied", "");
        self.dirty = true;
    }
}

/// What helps: what the client says, else what is known from the kind of problem.
pub(super) fn advice(problem: &Problem) -> &str {
    match problem.kind {
        ProblemKind::Permission if problem.hint.is_empty() => "Ask an admin or the owner of this place; F5 shows who they are.",
        _ => &problem.hint,
    }
}

/// What happened → the new state, and what is to be done. `app.now` is the moment it happened.
pub fn update(app: &mut App, msg: Msg) -> Vec<Effect> {
    // Most of what happens shows; what does not says so.
    let before = std::mem::replace(&mut app.dirty, true);
    app.on_msg(msg);
    app.dirty |= before;
    std::mem::take(&mut app.effects)
}

/// State → screen.
pub fn view(app: &App, frame: &mut Frame<'_>) {
    super::screen::view(app, frame);
}
