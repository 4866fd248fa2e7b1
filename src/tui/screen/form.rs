//! Dialogs with fields: create, invite, join, topic; the steps of the first run use the same form.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::client::command::{Command, InviteText};
use crate::client::event::Answer;
use crate::client::model::{Problem, ProblemKind};
use crate::protocol::auth::SecretText;
use crate::protocol::communities::Visibility;
use crate::protocol::ids::{ChannelId, CommunityId, GroupId};
use crate::protocol::limits;
use crate::tui::app::{App, Pending, advice};
use crate::tui::command::Action;
use crate::tui::effect::{Effect, Setup};
use crate::tui::text::{Clean, wrap};
use crate::tui::time;
use crate::tui::widget::input::Input;
use crate::tui::widget::popup;

use super::overlay::Overlay;
use super::page::Page;

/// Lines of one field.
const ROWS_MAX: usize = 4;

#[derive(Debug)]
pub struct Form {
    pub kind: FormKind,
    pub title: String,
    /// Says what this is, above the fields.
    pub intro: Vec<String>,
    pub fields: Vec<Field>,
    pub focus: usize,
    pub error: Option<Problem>,
    /// The answer is awaited.
    pub busy: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FormKind {
    CreateCommunity,
    CreateGroup(CommunityId),
    CreateChannel(CommunityId),
    /// In a community without a group: makes one first.
    FirstChannel(CommunityId),
    Invite(CommunityId),
    Join,
    Topic(ChannelId),
    /// How long new messages stay.
    Timer(ChannelId),
    /// A new session of this account.
    LogIn,
    /// A step of the first run; its screen knows which.
    Setup,
}

#[derive(Debug)]
pub struct Field {
    pub label: &'static str,
    pub value: Value,
    /// Shown while the field has the focus.
    pub help: String,
    /// The field is there only while one of these is chosen in the first one; empty: always.
    only_for: &'static [usize],
}

#[derive(Debug)]
pub enum Value {
    Text(Input),
    Choice { options: Vec<Clean>, selected: usize },
}

impl Field {
    pub fn text(label: &'static str, help: impl Into<String>) -> Self {
        Self { label, value: Value::Text(Input::line()), help: help.into(), only_for: &[] }
    }

    pub fn secret(label: &'static str, help: impl Into<String>) -> Self {
        Self { label, value: Value::Text(Input::secret()), help: help.into(), only_for: &[] }
    }

    pub fn choice(label: &'static str, options: impl IntoIterator<Item = Clean>, help: impl Into<String>) -> Self {
        let value = Value::Choice { options: options.into_iter().collect(), selected: 0 };
        Self { label, value, help: help.into(), only_for: &[] }
    }

    #[must_use]
    pub fn with(mut self, text: &str) -> Self {
        if let Value::Text(input) = &mut self.value {
            input.set(text);
        }
        self
    }

    #[must_use]
    pub const fn only_for(mut self, choices: &'static [usize]) -> Self {
        self.only_for = choices;
        self
    }

    #[must_use]
    pub fn chosen(mut self, at: usize) -> Self {
        if let Value::Choice { selected, .. } = &mut self.value {
            *selected = at;
        }
        self
    }
}

/// What a key does to a form.
pub enum Outcome {
    Nothing,
    Submit,
    Close,
}

impl Form {
    pub fn plain(title: &str, intro: &[&str], fields: Vec<Field>) -> Self {
        Self {
            kind: FormKind::Setup,
            title: title.to_owned(),
            intro: intro.iter().map(|line| (*line).to_owned()).collect(),
            fields,
            focus: 0,
            error: None,
            busy: false,
        }
    }

    /// The form of a command; none when it cannot be filled in.
    pub fn new(kind: FormKind, app: &App, arg: &str) -> Option<Self> {
        let visibility =
            |all: &str| Field::choice("who reads", [all, "only who is added"].map(Clean::ours), "left and right change it");
        let name_help = format!("up to {} characters", limits::COMMUNITY_NAME_MAX);
        let community = |id| app.world.community(id).map(|node| Clean::from_untrusted(&node.name)).unwrap_or_default();
        let (title, intro, fields) = match &kind {
            FormKind::CreateCommunity => (
                "create a community".to_owned(),
                "You become its owner. Others come in by an invite link.",
                vec![Field::text("name", name_help).with(arg), Field::text("description", "one line; may be empty")],
            ),
            FormKind::CreateGroup(id) => (
                format!("create a group in {}", community(*id)),
                "A group holds channels.",
                vec![Field::text("name", name_help).with(arg), visibility("everybody in the community")],
            ),
            FormKind::CreateChannel(id) => {
                let groups = &app.world.community(*id)?.groups;
                if groups.is_empty() {
                    return Self::new(FormKind::FirstChannel(*id), app, arg);
                }
                let names = groups.iter().map(|group| Clean::from_untrusted(&group.name));
                // The group that was just made is the likely one, then that of the open channel.
                let current = app.chat.channel_id().and_then(|id| app.world.channel(id)?.group_id);
                let find = |wanted: Option<GroupId>| groups.iter().position(|group| Some(group.id) == wanted);
                let at = find(app.chat.made_group).or_else(|| find(current)).unwrap_or(0);
                (
                    format!("create a channel in {}", community(*id)),
                    "",
                    vec![
                        Field::text("name", name_help).with(arg),
                        Field::text("topic", "what it is about; may be empty"),
                        Field::choice("group", names, "left and right change it").chosen(at),
                        visibility("everybody who reads the group"),
                    ],
                )
            }
            FormKind::FirstChannel(id) => (
                format!("create a channel in {}", community(*id)),
                "Channels stand in groups. This community has none yet, so one is made too.",
                vec![
                    Field::text("name", name_help).with(arg),
                    Field::text("topic", "what it is about; may be empty"),
                    Field::text("group", "the group that it stands in; empty: general"),
                ],
            ),
            FormKind::Invite(id) => (
                format!("invite to {}", community(*id)),
                "Makes a link. Whoever has it can join; its second half never reaches the server.",
                vec![
                    Field::text("uses", "how many may join with it; empty: any number"),
                    Field::choice(
                        "valid",
                        ["1 day", "7 days", "30 days", "for ever"].map(Clean::ours),
                        "left and right change it",
                    )
                    .chosen(1),
                ],
            ),
            FormKind::Join => (
                "join a community".to_owned(),
                "Paste the whole link that you were given, chat://…",
                vec![Field::text("link", "with everything behind the # sign").with(arg)],
            ),
            FormKind::Topic(id) => {
                let topic = app.world.channel(*id).and_then(|channel| channel.topic.as_ref()).map(|topic| topic.raw().to_owned());
                (
                    "topic".to_owned(),
                    "",
                    vec![Field::text("topic", "what this channel is about; empty removes it").with(&topic.unwrap_or_default())],
                )
            }
            FormKind::Timer(id) => {
                let now = app.world.channel(*id).map_or(0, |channel| channel.expires_s);
                (
                    "disappearing messages".to_owned(),
                    "New messages of everybody here disappear so long after they were read, from the author's own devices so long \
                     after they were sent. What is here already stays.",
                    vec![Field::text("after", "for example 30m, 8h, 1d or 4w; off: they stay").with(&time::timer(now))],
                )
            }
            FormKind::LogIn => {
                let account = app.world.account.as_ref();
                let name = account.map(|account| Clean::from_untrusted(&account.username)).unwrap_or_default();
                let server = account.map(|account| Clean::ours(&account.server)).unwrap_or_default();
                (
                    "log in again".to_owned(),
                    "The session of this device ended. What is stored here stays readable; what you write waits.",
                    vec![Field::secret("password", format!("of {name} at {server}"))],
                )
            }
            FormKind::Setup => return None,
        };
        let intro = if intro.is_empty() { Vec::new() } else { vec![intro.to_owned()] };
        Some(Self { kind, title, intro, fields, focus: 0, error: None, busy: false })
    }

    pub fn focused_input(&mut self) -> Option<&mut Input> {
        if self.busy {
            return None;
        }
        match &mut self.fields.get_mut(self.focus)?.value {
            Value::Text(input) => Some(input),
            Value::Choice { .. } => None,
        }
    }

    pub fn text(&self, at: usize) -> &str {
        match self.fields.get(at).map(|field| &field.value) {
            Some(Value::Text(input)) => input.text(),
            _ => "",
        }
    }

    pub fn selected(&self, at: usize) -> usize {
        match self.fields.get(at).map(|field| &field.value) {
            Some(Value::Choice { selected, .. }) => *selected,
            _ => 0,
        }
    }

    /// Whether a field is there with what is chosen in the first one.
    fn is_shown(&self, field: &Field) -> bool {
        field.only_for.is_empty() || field.only_for.contains(&self.selected(0))
    }

    /// The next field that is there, if there is one.
    fn next(&self) -> Option<usize> {
        (self.focus + 1..self.fields.len()).find(|at| self.fields.get(*at).is_some_and(|field| self.is_shown(field)))
    }

    pub fn act(&mut self, action: Action) -> Outcome {
        match action {
            Action::Close => return Outcome::Close,
            // What was asked for stays as it is until the answer comes.
            _ if self.busy => {}
            Action::NextField => self.focus = self.next().unwrap_or(0),
            Action::PreviousField => {
                let shown = |at: &usize| self.fields.get(*at).is_some_and(|field| self.is_shown(field));
                let before = (0..self.focus).rev().chain((0..self.fields.len()).rev()).find(shown);
                self.focus = before.unwrap_or(0);
            }
            Action::Accept => match self.next() {
                Some(next) => self.focus = next,
                None => return Outcome::Submit,
            },
            _ => match self.fields.get_mut(self.focus).map(|field| &mut field.value) {
                Some(Value::Text(input)) => {
                    input.act(action);
                }
                Some(Value::Choice { options, selected }) => match action {
                    Action::CharRight => *selected = (*selected + 1) % options.len().max(1),
                    Action::CharLeft => *selected = selected.checked_sub(1).unwrap_or(options.len().saturating_sub(1)),
                    _ => {}
                },
                None => {}
            },
        }
        Outcome::Nothing
    }

    /// Says what is wrong with a field and goes there.
    pub fn refuse(&mut self, at: usize, problem: Problem) {
        self.focus = at;
        self.busy = false;
        self.error = Some(problem);
    }

    pub fn view(&self, frame: &mut Frame<'_>, screen: Rect, app: &App) -> Option<(u16, u16)> {
        let cells = usize::from(screen.width.saturating_sub(4).min(76));
        let (lines, _) = self.lines(cells, app);
        let height = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        let keys = if self.fields.len() > 1 { "Tab next field  Enter go on  Esc close" } else { "Enter go on  Esc close" };
        let area = popup::open(frame, screen, (u16::try_from(cells).unwrap_or(u16::MAX), height), &self.title, keys, &app.theme);
        self.view_in(frame, area, app)
    }

    /// The fields alone, in an area.
    pub fn view_in(&self, frame: &mut Frame<'_>, area: Rect, app: &App) -> Option<(u16, u16)> {
        let (lines, cursor) = self.lines(usize::from(area.width), app);
        // What has the focus stays in sight on a small screen.
        let height = usize::from(area.height);
        let focus = cursor.map_or(0, |(row, _)| row);
        let first = (focus + 3).saturating_sub(height).min(focus).min(lines.len().saturating_sub(height));
        popup::lines(frame, area, lines.into_iter().skip(first));
        let (row, column) = cursor?;
        Some((area.x + u16::try_from(column).ok()?, area.y + u16::try_from(row.checked_sub(first)?).ok()?))
    }

    /// The lines and where among them the cursor stands.
    fn lines(&self, cells: usize, app: &App) -> (Vec<Line<'static>>, Option<(usize, usize)>) {
        let theme = &app.theme;
        let mut lines = Vec::new();
        let mut cursor = None;
        let wrapped = |text: &str, style, lines: &mut Vec<Line<'static>>| {
            let text = Clean::ours(text);
            for range in wrap(text.as_str(), cells) {
                lines.push(Line::from(Span::styled(text.slice(range).into_string(), style)));
            }
        };
        for line in &self.intro {
            wrapped(line, theme.text(), &mut lines);
        }
        if !self.intro.is_empty() {
            lines.push(Line::default());
        }
        let label_width = self.fields.iter().map(|field| field.label.len() + 2).max().unwrap_or(0);
        let beside = cells > label_width + 16;
        for (at, field) in self.fields.iter().enumerate().filter(|(_, field)| self.is_shown(field)) {
            let focused = at == self.focus && !self.busy;
            let bar = if focused { theme.glyphs.bar } else { " " };
            let label_style = if focused { theme.accent() } else { theme.dim() };
            let label = Clean::ours(field.label).truncate(cells.saturating_sub(1));
            let mut spans = vec![Span::styled(bar, theme.accent())];
            let indent = if beside {
                spans.push(Span::styled(format!("{:<width$}", label.as_str(), width = label_width), label_style));
                1 + label_width
            } else {
                spans.push(Span::styled(label.into_string(), label_style));
                lines.push(Line::from(std::mem::take(&mut spans)));
                spans.push(Span::raw(" "));
                1
            };
            let room = cells.saturating_sub(indent).max(1);
            match &field.value {
                Value::Text(input) => {
                    let laid = input.layout(room);
                    // All of a long one, as of a link, as far as there is room for it.
                    let first = (laid.cursor.0 + 1).saturating_sub(ROWS_MAX);
                    if focused {
                        cursor = Some((lines.len() + laid.cursor.0 - first, indent + laid.cursor.1));
                    }
                    let empty = laid.rows.iter().all(Clean::is_empty);
                    let dots = if empty && !focused && !theme.glyphs.ascii { "·" } else { "" };
                    let mut rows = laid.rows.into_iter().skip(first).take(ROWS_MAX);
                    spans.push(Span::raw(rows.next().unwrap_or_default().into_string()));
                    spans.push(Span::styled(dots, theme.dim()));
                    for row in rows {
                        lines.push(Line::from(std::mem::take(&mut spans)));
                        spans.push(Span::raw(format!("{}{row}", " ".repeat(indent))));
                    }
                }
                Value::Choice { options, selected } => {
                    let shown = options.get(*selected).cloned().unwrap_or_default();
                    let shown = Clean::ours(format!("< {shown} >")).truncate(room);
                    if focused {
                        cursor = Some((lines.len(), indent));
                    }
                    spans.push(Span::styled(shown.into_string(), if focused { theme.selected() } else { theme.text() }));
                }
            }
            lines.push(Line::from(spans));
        }
        let help = self.fields.get(self.focus).map_or("", |field| field.help.as_str());
        lines.push(Line::default());
        match &self.error {
            Some(problem) => {
                wrapped(&format!("! {}", Clean::from_untrusted(&problem.text)), theme.error(), &mut lines);
                let advice = advice(problem);
                if !advice.is_empty() {
                    wrapped(advice, theme.text(), &mut lines);
                }
            }
            None if self.busy => wrapped("working …", theme.accent(), &mut lines),
            None => wrapped(help, theme.dim(), &mut lines),
        }
        (lines, cursor)
    }
}

impl App {
    /// The top form is complete: asks the client, or says what is missing.
    pub(super) fn submit_form(&mut self) {
        let Some(Overlay::Form(form)) = self.overlays.last_mut() else { return };
        let name = form.text(0).trim().to_owned();
        let visibility = |at: usize| if form.selected(at) == 1 { Visibility::Private } else { Visibility::Public };
        let empty = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let command = match form.kind.clone() {
            FormKind::CreateCommunity => Command::CreateCommunity { name, description: empty(form.text(1)) },
            FormKind::CreateGroup(community_id) => Command::CreateGroup { community_id, name, visibility: visibility(1) },
            FormKind::CreateChannel(id) => {
                let (topic, at, visibility) = (empty(form.text(1)), form.selected(2), visibility(3));
                let group = self.world.community(id).and_then(|node| node.groups.get(at)).map(|group| group.id);
                let Some(group_id) = group else { return self.form_lost() };
                Command::CreateChannel { group_id, name, topic, visibility }
            }
            FormKind::FirstChannel(community_id) => {
                let name = empty(form.text(2)).unwrap_or_else(|| "general".to_owned());
                Command::CreateGroup { community_id, name, visibility: Visibility::Public }
            }
            FormKind::Invite(community_id) => {
                let max_uses = match name.parse() {
                    Ok(0) | Err(_) if !name.is_empty() => {
                        let problem = Problem::new(ProblemKind::Usage, "uses must be a number from 1 up, or empty");
                        return form.refuse(0, problem);
                    }
                    parsed => parsed.ok(),
                };
                let expires_in_s = [Some(86_400), Some(604_800), Some(2_592_000), None].get(form.selected(1)).copied().flatten();
                Command::CreateInvite { community_id, max_uses, expires_in_s }
            }
            FormKind::Join => Command::Join { link: InviteText(name) },
            FormKind::Topic(channel_id) => Command::SetTopic { channel_id, topic: name },
            FormKind::Timer(channel_id) => match time::parse_timer(&name) {
                Ok(seconds) => {
                    self.overlays.pop();
                    return self.ask_timer(channel_id, seconds);
                }
                Err(problem) => return form.refuse(0, problem),
            },
            FormKind::LogIn => {
                let password = SecretText(form.text(0).to_owned());
                if password.0.is_empty() {
                    return form.refuse(0, Problem::new(ProblemKind::Usage, "the password is empty"));
                }
                form.busy = true;
                form.error = None;
                return self.emit(Effect::Setup(Setup::LogIn { password }));
            }
            FormKind::Setup => return,
        };
        let Some(Overlay::Form(form)) = self.overlays.last_mut() else { return };
        if form.text(0).trim().is_empty() && !matches!(form.kind, FormKind::Topic(_) | FormKind::Invite(_)) {
            let label = form.fields.first().map_or("this", |field| field.label);
            let problem = Problem::new(ProblemKind::Usage, format!("the {label} is empty"));
            return form.refuse(0, problem);
        }
        form.busy = true;
        form.error = None;
        self.ask(Pending::Form, command);
    }

    fn form_lost(&mut self) {
        self.overlays.pop();
        self.fail("this place is not here any more; nothing was made", "");
    }

    /// What the form asked for was done.
    pub(super) fn form_done(&mut self, answer: Answer) {
        if let (Some(Overlay::Form(form)), Answer::Group(group_id)) = (self.overlays.last(), &answer)
            && let FormKind::FirstChannel(_) = form.kind
        {
            // The group is there; now what the user wanted.
            let name = form.text(0).trim().to_owned();
            let topic = Some(form.text(1).trim().to_owned()).filter(|topic| !topic.is_empty());
            let command = Command::CreateChannel { group_id: *group_id, name, topic, visibility: Visibility::Public };
            self.ask(Pending::Form, command);
            return;
        }
        let kind = match self.overlays.last() {
            Some(Overlay::Form(form)) if form.busy => Some(form.kind.clone()),
            _ => None,
        };
        if kind.is_some() {
            self.overlays.pop();
        }
        match answer {
            Answer::Community(id) => self.community_came(id, kind == Some(FormKind::Join)),
            Answer::Group(id) => self.group_came(id),
            Answer::Channel(id) => {
                self.chat.made_group = None;
                self.open_new_channel(id);
            }
            Answer::Invite(link) => self.overlays.push(Overlay::Page(Page::invite(link))),
            _ => self.toast("done"),
        }
    }

    fn community_came(&mut self, id: CommunityId, joined: bool) {
        // Its channels may come a moment later.
        self.chat.community = Some(id);
        self.choose_community(id);
        self.chat.joined = Some(id).filter(|_| self.chat.main.is_none());
        self.toast(if joined {
            "you joined; messages from now on can be read here"
        } else {
            "created; :create-channel makes its first channel, :invite lets others in"
        });
    }

    fn group_came(&mut self, id: GroupId) {
        self.chat.made_group = Some(id);
        self.toast("created; :create-channel puts a channel into it");
    }

    /// The form that logs in again, wherever it lies.
    fn log_in_form(&mut self) -> Option<&mut Form> {
        self.overlays.iter_mut().find_map(|overlay| match overlay {
            Overlay::Form(form) if form.kind == FormKind::LogIn => Some(form),
            _ => None,
        })
    }

    pub(super) fn log_in_done(&mut self, result: Result<(), Problem>) {
        match (result, self.log_in_form()) {
            (Ok(()), _) => {
                self.overlays.retain(|overlay| !matches!(overlay, Overlay::Form(form) if form.kind == FormKind::LogIn));
                self.toast("logged in again");
            }
            (Err(problem), Some(form)) => {
                form.busy = false;
                if let Some(input) = form.focused_input() {
                    input.set("");
                }
                form.refuse(0, problem);
            }
            (Err(problem), None) => self.problem(&problem),
        }
    }

    pub(super) fn form_failed(&mut self, problem: &Problem) {
        match self.overlays.last_mut() {
            Some(Overlay::Form(form)) if form.busy => {
                form.busy = false;
                form.error = Some(problem.clone());
            }
            // The form was closed meanwhile.
            _ => self.problem(problem),
        }
    }
}
