//! What lies over the panes: lists, forms, questions, pages. The top one gets the keys.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::client::model::{Domain, MessageRef, SearchHit, Unsent};
use crate::protocol::codec::Timestamp;
use crate::protocol::communities::Role;
use crate::protocol::ids::{ChannelId, CommunityId, MessageId, UserId};
use crate::tui::app::App;
use crate::tui::command::Action;
use crate::tui::keymap::Context;
use crate::tui::text::{Clean, wrap};
use crate::tui::widget::picker::Picker;
use crate::tui::widget::popup;

use super::form::Form;
use super::page::Page;

#[derive(Debug)]
pub enum Overlay {
    Pick(PickKind, Picker<Choice>),
    Form(Form),
    Question(Question),
    Page(Page),
}

/// What a list is for.
#[derive(Clone, Debug, PartialEq)]
pub enum PickKind {
    Switch,
    Palette,
    Help,
    /// People to write to, or to add to a private place; asked for again when the query changes.
    People {
        due: Option<Timestamp>,
        add_to: Option<Domain>,
    },
    Search {
        due: Option<Timestamp>,
    },
    Members,
    Emoji {
        channel_id: ChannelId,
        target: MessageRef,
    },
    Outbox,
    /// Members to kick, ban or promote.
    Choose {
        domain: Domain,
        action: Action,
    },
    /// Somebody who was kept out and may come back.
    Banned {
        domain: Domain,
    },
    Role {
        domain: Domain,
        user_id: UserId,
        name: Clean,
    },
    /// What to do with somebody.
    Person {
        user_id: UserId,
        name: Clean,
    },
    /// Which private place somebody of this name is added to.
    AddTo {
        name: String,
    },
    /// Which place to leave.
    Leave,
    Receipts,
    /// What to do with something that was not sent.
    Unsent(Box<Unsent>),
}

/// What choosing a row does.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    Channel(ChannelId),
    Community(CommunityId),
    Action(Action),
    Person {
        user_id: UserId,
        name: Clean,
    },
    Emoji(String),
    Hit(Box<SearchHit>),
    Unsent(Box<Unsent>),
    Role(Role),
    Domain(Domain),
    /// Something to do with a member of a place.
    In(Domain, Action),
    Receipts(bool),
    Nothing,
}

/// A question, and what yes does.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub title: String,
    pub text: Clean,
    pub yes: Yes,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Yes {
    Delete {
        channel_id: ChannelId,
        target: MessageRef,
    },
    Discard {
        channel_id: ChannelId,
        id: MessageId,
    },
    Leave(Domain),
    Remove {
        domain: Domain,
        user_id: UserId,
        name: Clean,
        ban: bool,
    },
    HandOver {
        domain: Domain,
        user_id: UserId,
        name: Clean,
    },
    Verify(UserId),
    Trust {
        user_id: UserId,
        send_waiting: bool,
    },
    /// One of two signed changes of members is void for good.
    Resume {
        channel_id: ChannelId,
        discard: String,
    },
    MarkAllRead,
    LogOut,
}

impl Overlay {
    pub const fn contexts(&self) -> &'static [Context] {
        match self {
            Self::Pick(..) => &[Context::Picker, Context::Text, Context::Always],
            Self::Form(_) => &[Context::Form, Context::Text, Context::Always],
            Self::Question(_) => &[Context::Question, Context::Always],
            Self::Page(_) => &[Context::Page, Context::Always],
        }
    }

    pub fn wake_at(&self) -> Option<Timestamp> {
        match self {
            Self::Pick(PickKind::People { due, .. } | PickKind::Search { due }, _) => *due,
            _ => None,
        }
    }

    pub fn view(&self, frame: &mut Frame<'_>, screen: Rect, app: &App) -> Option<(u16, u16)> {
        let theme = &app.theme;
        match self {
            Self::Pick(kind, picker) => {
                let wide = if matches!(kind, PickKind::Search { .. } | PickKind::Help | PickKind::Palette) { 100 } else { 72 };
                let keys = match kind {
                    PickKind::Search { .. } => "Enter go there  Esc close",
                    PickKind::Help => "type to filter  Enter do it  Esc close",
                    PickKind::Emoji { .. } => "Enter add or take back  Esc close",
                    _ => "type to filter  Enter choose  Esc close",
                };
                // A tall screen shows more of a long list.
                let tall = if matches!(kind, PickKind::Help | PickKind::Palette) { screen.height / 5 * 3 } else { 0 };
                let area = popup::open(frame, screen, (wide, tall.max(18)), &picker.title, keys, theme);
                picker.view(frame, area, theme)
            }
            Self::Form(form) => form.view(frame, screen, app),
            Self::Question(question) => {
                let cells = usize::from(screen.width.saturating_sub(4).min(64));
                let ranges = wrap(question.text.as_str(), cells);
                let height = u16::try_from(ranges.len()).unwrap_or(u16::MAX);
                let width = u16::try_from(cells).unwrap_or(u16::MAX);
                let keys = "y yes  n no";
                let area = popup::open(frame, screen, (width, height), &question.title, keys, theme);
                let lines = ranges.into_iter().map(|range| Line::from(Span::raw(question.text.slice(range).into_string())));
                popup::lines(frame, area, lines);
                None
            }
            Self::Page(page) => {
                page.view(frame, screen, app);
                None
            }
        }
    }
}
