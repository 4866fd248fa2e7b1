//! The terminal client through its real keymap and `update`, over a world of plain data: no server, no terminal.

use std::sync::Arc;

use crossterm::event::KeyCode;
use jiff::tz::TimeZone;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};

use super::app::{App, update, view};
use super::effect::Effect;
use super::keymap::{Key, parse};
use super::msg::Msg;
use super::theme::Theme;
use crate::client::command::{Command, Place, RequestId};
use crate::client::event::{Answer, ClientEvent};
use crate::client::model::*;
use crate::protocol::channels::{ChannelKind, NotifyLevel};
use crate::protocol::codec::Timestamp;
use crate::protocol::communities::{Role, Visibility};
use crate::protocol::ids::{ChannelId, CommunityId, GroupId, MessageId, UserId};
use crate::protocol::users::Status;

mod acting;
mod anything;
mod places;
mod reading;
mod screens;
mod world;
mod writing;

pub(super) use world::*;

/// An app and the effects that were not looked at yet.
pub(super) struct Driven {
    pub app: App,
    pub effects: Vec<Effect>,
    pub draws: usize,
    world: Store,
}

impl Driven {
    /// A client that is open, at a size, with answers out of `store`.
    pub(super) fn open(store: Store, columns: u16, rows: u16) -> Self {
        let mut driven = Self {
            app: App::new(NOW, TimeZone::UTC, (columns, rows), Theme::default()),
            effects: Vec::new(),
            draws: 0,
            world: store,
        };
        let account = Arc::new(account());
        let tree = driven.world.tree.clone();
        driven.client(ClientEvent::Opened { account, tree });
        driven.client(ClientEvent::Connection(Connection::Online { latency_ms: Some(23) }));
        driven
    }

    pub(super) fn msg(&mut self, msg: Msg) {
        let effects = update(&mut self.app, msg);
        self.perform(effects);
    }

    pub(super) fn client(&mut self, event: ClientEvent) {
        self.msg(Msg::Client(event));
    }

    /// Answers what reads the store at once; keeps everything else for the test to look at.
    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match &effect {
                Effect::Client(request, command) => match self.world.answer(command) {
                    Some(result) => self.client(ClientEvent::Done { request: *request, result }),
                    None => self.effects.push(effect),
                },
                _ => self.effects.push(effect),
            }
        }
    }

    /// Keys with spaces between them, text in quotes: `ctrl-k 'deploys' enter`.
    pub(super) fn keys(&mut self, keys: &str) -> &mut Self {
        let mut rest = keys.trim();
        while !rest.is_empty() {
            if let Some(text) = rest.strip_prefix('\'') {
                let (text, tail) = text.split_once('\'').expect("an open quote");
                for c in text.chars() {
                    self.msg(Msg::Key(Key { code: KeyCode::Char(c), mods: crossterm::event::KeyModifiers::NONE }));
                }
                rest = tail.trim_start();
            } else {
                let (key, tail) = rest.split_once(' ').unwrap_or((rest, ""));
                for key in parse(key).unwrap_or_else(|_| panic!("no such key: {key}")) {
                    self.msg(Msg::Key(key));
                }
                rest = tail.trim_start();
            }
        }
        self
    }

    /// Time passes; ticks come when the app asked for them.
    pub(super) fn wait(&mut self, ms: i64) {
        let until = Timestamp(self.app.now.0 + ms);
        while let Some(at) = self.app.wake_at().filter(|at| *at <= until) {
            self.app.now = at.max(self.app.now);
            self.msg(Msg::Tick);
        }
        self.app.now = until;
    }

    /// The last command that was asked of the client.
    pub(super) fn asked(&self) -> Option<(RequestId, Command)> {
        self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Client(request, command) => Some((*request, command.clone())),
            _ => None,
        })
    }

    pub(super) fn commands(&self) -> Vec<Command> {
        let commands = self.effects.iter().filter_map(|effect| match effect {
            Effect::Client(_, command) => Some(command.clone()),
            _ => None,
        });
        commands.collect()
    }

    /// Answers the last command.
    pub(super) fn answer(&mut self, result: Result<Answer, Problem>) {
        let (request, _) = self.asked().expect("nothing was asked");
        self.client(ClientEvent::Done { request, result });
    }

    /// The screen as text, then where it is not plain.
    pub(super) fn screen(&mut self) -> String {
        let (text, styles) = self.text_and_styles();
        format!("{text}\n{styles}")
    }

    pub(super) fn text(&mut self) -> String {
        self.text_and_styles().0
    }

    fn text_and_styles(&mut self) -> (String, String) {
        let (columns, rows) = self.app.size;
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        terminal.draw(|frame| view(&self.app, frame)).unwrap();
        self.draws += 1;
        self.app.dirty = false;
        let cursor = terminal.backend().cursor_visible().then(|| terminal.backend().cursor_position());
        let buffer = terminal.backend().buffer();
        let text = text_of(buffer, cursor.map(|cursor| (cursor.x, cursor.y)));
        (text, styles_of(buffer))
    }
}

fn text_of(buffer: &Buffer, cursor: Option<(u16, u16)>) -> String {
    let mut out = String::new();
    for y in 0..buffer.area.height {
        let mut line = String::new();
        let mut skip = 0;
        for x in 0..buffer.area.width {
            if skip > 0 {
                skip -= 1;
                continue;
            }
            let symbol = buffer[(x, y)].symbol();
            skip = super::text::width(symbol).saturating_sub(1);
            line.push_str(if cursor == Some((x, y)) && symbol == " " { "█" } else { symbol });
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// `3: 5-9 cyan bold`: the row, the columns, what they look like.
fn styles_of(buffer: &Buffer) -> String {
    let mut out = String::new();
    for y in 0..buffer.area.height {
        let mut runs: Vec<(u16, u16, String)> = Vec::new();
        for x in 0..buffer.area.width {
            let cell = &buffer[(x, y)];
            let name = style_name(cell.fg, cell.bg, cell.modifier);
            match runs.last_mut() {
                Some((_, end, last)) if *last == name => *end = x,
                _ => runs.push((x, x, name)),
            }
        }
        let runs: Vec<String> = runs
            .into_iter()
            .filter(|(_, _, name)| !name.is_empty())
            .map(|(from, to, name)| format!("{from}-{to} {name}"))
            .collect();
        if !runs.is_empty() {
            out.push_str(&format!("{y}: {}\n", runs.join(", ")));
        }
    }
    out
}

fn style_name(fg: Color, bg: Color, modifier: Modifier) -> String {
    let mut words: Vec<String> = Vec::new();
    if fg != Color::Reset {
        words.push(fg.to_string().to_lowercase());
    }
    if bg != Color::Reset {
        words.push(format!("on {}", bg.to_string().to_lowercase()));
    }
    words.extend(modifier.iter_names().map(|(name, _)| name.to_lowercase()));
    words.join(" ")
}

fn deploys(columns: u16, rows: u16) -> Driven {
    let mut driven = Driven::open(Store::team(), columns, rows);
    driven.keys("ctrl-g 'deploys' enter");
    driven.effects.clear();
    driven
}

fn place() -> Place {
    Place { channel_id: channel_id(DEPLOYS), thread: None }
}

fn composer(driven: &Driven) -> String {
    driven.app.chat.conversation(driven.app.active_pane()).map(|c| c.composer.input.text().to_owned()).unwrap_or_default()
}

fn sent(driven: &Driven) -> Vec<String> {
    let texts = driven.commands().into_iter().filter_map(|command| match command {
        Command::SendText { text, .. } => Some(text.raw().to_owned()),
        _ => None,
    });
    texts.collect()
}

fn unsent(channel: u8, what: UnsentKind, text: &str) -> Unsent {
    let item = message(channel, 70, ME, "me", text);
    Unsent {
        channel_id: item.channel_id,
        id: item.key.id,
        what,
        message: item.key,
        thread_root: None,
        text: text.into(),
        at: NOW,
        delivery: Delivery::Waiting,
    }
}
