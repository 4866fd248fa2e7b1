//! The lists: switcher, palette, help, people, search, emoji, outbox; what they hold and what choosing does. The lists of members
//! are in `members.rs`.

use crate::client::command::{Command, Place};
use crate::client::model::{Delivery, Domain, MessageRef, Person, Problem, SearchHit, Trust, Unsent, UnsentKind};
use crate::protocol::codec::Timestamp;
use crate::protocol::ids::ChannelId;
use crate::protocol::users::Status;
use crate::tui::app::{App, Pending};
use crate::tui::command::{Action, COMMANDS, Spec, by_name, spec};
use crate::tui::keymap::{Context, show};
use crate::tui::markdown;
use crate::tui::text::{Clean, width};
use crate::tui::time;
use crate::tui::widget::picker::{Picker, Row};
use crate::tui::world::channel_sign;

use super::compose::emoji_named;
use super::form::Outcome;
use super::overlay::{Choice, Overlay, PickKind, Yes};

/// After the last key, before a query is asked.
const QUERY_MS: i64 = 150;
const HITS: usize = 50;
/// From here on the help has room for three keys of a command.
const HELP_WIDE: u16 = 100;
/// What a conversation with oneself is.
const NOTES: &str = "notes to yourself";

impl App {
    pub(super) fn pick(&mut self, kind: PickKind, picker: Picker<Choice>) {
        self.overlays.push(Overlay::Pick(kind, picker));
    }

    // Opening.

    pub(super) fn open_switcher(&mut self, query: &str) {
        let mut channels: Vec<_> = self.world.channels().cloned().collect();
        // Unread first, then what was used last; where one is already stands behind them all, to be found by its name.
        let current = self.chat.channel_id();
        channels.sort_by_key(|channel| {
            let here = Some(channel.id) == current;
            (here, channel.mentions == 0, channel.unread == 0 || channel.muted, std::cmp::Reverse(channel.last_at))
        });
        let mut rows: Vec<Row<Choice>> = channels
            .iter()
            .map(|channel| {
                let community = channel.community_id.and_then(|id| self.world.community(id));
                let place = community.map(|node| Clean::from_untrusted(&node.name));
                let place = place.or_else(|| self.world.is_notes(channel).then(|| Clean::ours(NOTES))).unwrap_or_default();
                let place = match Some(channel.id) == current {
                    true if place.is_empty() => Clean::ours("open now"),
                    true => Clean::ours(format!("{place}, open now")),
                    false => place,
                };
                // A doubt about a key is seen before what is unread.
                let doubt = channel.peer.as_ref().and_then(|peer| match peer.trust {
                    Trust::Changed { .. } | Trust::Stopped => trust_words(peer.trust),
                    Trust::Unknown | Trust::Unverified | Trust::Verified => None,
                });
                let place = doubt.map_or(place, |words| Clean::ours(format!("! {words}")));
                let tag = match (channel.unread, channel.mentions) {
                    (0, 0) => String::new(),
                    (unread, 0) => time::grouped(unread),
                    (_, mentions) => format!("@{}", time::grouped(mentions)),
                };
                let strong = channel.unread > 0 && !channel.muted;
                Row::new(self.world.title(channel), place, Choice::Channel(channel.id)).tag(tag).strong(strong)
            })
            .collect();
        let begun = self.world.tree.dms.iter().any(|dm| self.world.is_notes(dm));
        rows.extend(self.notes_row().filter(|_| !begun));
        rows.extend(self.world.tree.communities.iter().map(|node| {
            let label = Clean::ours(format!("> {}", Clean::from_untrusted(&node.name)));
            Row::new(label, Clean::ours("community"), Choice::Community(node.id))
        }));
        let picker =
            Picker::new("go to", rows).empty("nothing of that name; :dm finds people, :join joins a community").query(query);
        // A name that means one thing needs no list.
        if !query.is_empty() && picker.len() == 1 {
            if let Some(choice) = picker.choice().cloned() {
                self.choose(&PickKind::Switch, choice);
            }
            return;
        }
        self.pick(PickKind::Switch, picker);
    }

    /// The conversation with oneself.
    fn notes_row(&self) -> Option<Row<Choice>> {
        let account = self.world.account.as_ref()?;
        let name = Clean::from_untrusted(&account.username);
        let label = Clean::ours(format!("@ {name} (you)"));
        Some(Row::new(label, Clean::ours(NOTES), Choice::Person { user_id: account.user_id, name }))
    }

    pub(super) fn open_palette(&mut self) {
        let contexts = self.contexts();
        let rows = COMMANDS
            .iter()
            .filter(|spec| spec.named && spec.action != Action::Palette)
            .map(|spec| {
                let name = spec.arg.map_or(spec.name.to_owned(), |arg| format!("{} <{arg}>", spec.name));
                let key = self.keymap.hint(&contexts, spec.action).or_else(|| self.keymap.hint(&Context::ALL, spec.action));
                let label = Clean::ours(format!("{name:<23}"));
                Row::new(label, Clean::ours(spec.doc), Choice::Action(spec.action)).tag(key.unwrap_or_default())
            })
            .collect();
        self.pick(PickKind::Palette, Picker::new("commands", rows).empty("no such command; F1 explains the keys"));
    }

    pub(super) fn open_help(&mut self, query: &str) {
        let mut rows = Vec::new();
        // On a narrow screen what a key does matters more than its third twin.
        let column = if self.size.0 >= HELP_WIDE { 30 } else { 18 };
        let here = self.contexts();
        let mut contexts: Vec<Context> = here.clone();
        contexts.extend(Context::ALL.into_iter().filter(|context| !here.contains(context)));
        // What every editor knows stands last: whoever asks for help seldom means that.
        contexts.sort_by_key(|context| *context == Context::Text);
        for context in contexts {
            let mut seen: Vec<Action> = Vec::new();
            for binding in self.keymap.bindings.iter().filter(|binding| binding.context == context) {
                if seen.contains(&binding.action) {
                    continue;
                }
                seen.push(binding.action);
                let same = self.keymap.bindings.iter().filter(|other| other.context == context && other.action == binding.action);
                let keys: Vec<String> = same.map(|other| show(&other.keys)).collect();
                let Some(spec) = spec(binding.action) else { continue };
                let choice = if spec.named { Choice::Action(spec.action) } else { Choice::Nothing };
                let label = format!("{:<column$} {}", join_fitting(&keys, column), spec.doc);
                rows.push(Row::new(Clean::ours(label), Clean::default(), choice).tag(context.title()));
            }
        }
        let unbound = COMMANDS
            .iter()
            .filter(|spec| spec.named && !self.keymap.bindings.iter().any(|binding| binding.action == spec.action));
        rows.extend(unbound.map(|spec| {
            let name = spec.arg.map_or(format!(":{}", spec.name), |arg| format!(":{} <{arg}>", spec.name));
            Row::new(Clean::ours(format!("{name:<column$} {}", spec.doc)), Clean::default(), Choice::Action(spec.action))
                .tag("command")
        }));
        self.pick(PickKind::Help, Picker::new("help: keys and commands, those for here first", rows).query(query));
    }

    pub(super) fn open_people(&mut self, title: impl Into<String>, add_to: Option<Domain>, query: &str) {
        let query = query.trim_start_matches('@');
        let picker = Picker::new(title, Vec::new()).answers("type the username of somebody on this server").query(query);
        self.pick(PickKind::People { due: Some(self.now), add_to }, picker);
        self.overlay_tick();
    }

    pub(super) fn open_search(&mut self, query: &str) {
        let picker = Picker::new("search", Vec::new()).answers("type words, \"a phrase\", from:name, in:channel").query(query);
        self.pick(PickKind::Search { due: (!query.is_empty()).then_some(self.now) }, picker);
        self.overlay_tick();
    }

    pub(super) fn open_emoji(&mut self, channel_id: ChannelId, target: MessageRef) {
        let common =
            ["+1", "-1", "heart", "tada", "laughing", "thinking", "eyes", "rocket", "pray", "white_check_mark", "x", "fire"];
        let first = common.iter().filter_map(|name| Some((*name, emojis::get_by_shortcode(name)?)));
        let rest = emoji_named("").filter(|(_, emoji)| !common.iter().any(|name| emoji.shortcodes().any(|code| code == *name)));
        let rows = first
            .chain(rest)
            .map(|(code, emoji)| {
                let label = if self.theme.glyphs.ascii { format!(":{code}:") } else { format!("{emoji} :{code}:") };
                Row::new(Clean::ours(label), Clean::ours(emoji.name()), Choice::Emoji(emoji.as_str().to_owned()))
            })
            .collect();
        self.pick(PickKind::Emoji { channel_id, target }, Picker::new("react", rows));
    }

    pub(super) fn open_outbox(&mut self) {
        self.ask(Pending::Outbox, Command::ListUnsent);
    }

    /// Everything that waits or failed, wherever it goes.
    pub(super) fn outbox_came(&mut self, unsent: Vec<Unsent>) {
        let rows = unsent
            .into_iter()
            .map(|one| {
                let text = markdown::preview(&one.text, 60);
                let label = match one.what {
                    UnsentKind::Message => text,
                    UnsentKind::Edit => Clean::ours(format!("edit: {text}")),
                    UnsentKind::Reaction { remove: false } => Clean::ours(format!("reaction {text}")),
                    UnsentKind::Reaction { remove: true } => Clean::ours(format!("take back {text}")),
                    UnsentKind::Delete => Clean::ours(format!("delete: {text}")),
                    UnsentKind::Other => Clean::ours("a setting"),
                };
                let state = match &one.delivery {
                    Delivery::Failed(why) => format!("failed: {}", Clean::from_untrusted(why)),
                    _ => "waits".to_owned(),
                };
                let place = self.world.channel(one.channel_id).map(|channel| self.world.title(channel)).unwrap_or_default();
                let tag = format!("{place} {}", time::short(one.at, self.now, &self.tz));
                Row::new(label, Clean::ours(state), Choice::Unsent(Box::new(one))).tag(tag)
            })
            .collect();
        self.pick(PickKind::Outbox, Picker::new("not sent yet", rows).empty("nothing waits and nothing failed"));
    }

    /// `:receipts on`, `:receipts off`, or a list of the two.
    pub(super) fn set_receipts(&mut self, arg: &str) {
        match arg {
            "on" => self.turn_receipts(true),
            "off" => self.turn_receipts(false),
            "" => {
                let now = self.world.account.as_ref().map(|account| account.receipts);
                let row = |on: bool, label: &str| {
                    let detail = if now == Some(on) { "as it is now" } else { "" };
                    Row::new(Clean::ours(label), Clean::ours(detail), Choice::Receipts(on))
                };
                let rows =
                    vec![row(true, "on: they see what reached you and what you read"), row(false, "off: nobody sees either")];
                self.pick(PickKind::Receipts, Picker::new("receipts, in direct conversations", rows));
            }
            _ => self.fail(format!("receipts are on or off, not {arg:?}"), ":receipts off tells nobody what you have read."),
        }
    }

    fn turn_receipts(&mut self, on: bool) {
        let words = if on {
            "receipts are on: in direct conversations others see what you have read"
        } else {
            "receipts are off: nobody sees what reached you or what you have read"
        };
        self.ask(Pending::Toast(words.to_owned()), Command::SetReceipts { on });
    }

    // Keys.

    pub(super) fn act_in_overlay(&mut self, action: Action) {
        let page = usize::from(self.size.1 / 2);
        match self.overlays.last_mut() {
            Some(Overlay::Pick(kind, picker)) => match action {
                Action::Close => {
                    self.overlays.pop();
                }
                Action::Accept if *kind == PickKind::Palette && with_argument(picker.input.text()).is_some() => {
                    let typed = picker.input.text().to_owned();
                    self.overlays.pop();
                    if let Some((spec, arg)) = with_argument(&typed) {
                        self.act(spec.action, arg);
                    }
                }
                Action::Accept => {
                    let (kind, choice) = (kind.clone(), picker.choice().cloned());
                    if let Some(choice) = choice {
                        self.overlays.pop();
                        self.choose(&kind, choice);
                    }
                }
                _ if picker.act(action, page) => {}
                _ => self.edit_input(action),
            },
            Some(Overlay::Form(form)) => match form.act(action) {
                Outcome::Nothing => {}
                Outcome::Submit => self.submit_form(),
                Outcome::Close => {
                    self.overlays.pop();
                }
            },
            Some(Overlay::Question(question)) => match action {
                Action::Yes => {
                    let yes = question.yes.clone();
                    self.overlays.pop();
                    self.answer_yes(yes);
                }
                Action::No => {
                    self.overlays.pop();
                }
                _ => {}
            },
            Some(Overlay::Page(_)) => self.act_in_page(action),
            None => {}
        }
    }

    fn choose(&mut self, kind: &PickKind, choice: Choice) {
        match (kind, choice) {
            (PickKind::Emoji { channel_id, target }, Choice::Emoji(emoji)) => self.toggle_reaction(*channel_id, *target, &emoji),
            (PickKind::Choose { domain, action }, Choice::Person { user_id, name }) => {
                self.act_on_member(*domain, *action, user_id, &name);
            }
            (PickKind::Banned { domain }, Choice::Person { user_id, name }) => self.unban(*domain, user_id, &name),
            (PickKind::Role { domain, user_id, name }, Choice::Role(role)) => self.choose_role(*domain, *user_id, name, role),
            (PickKind::Members, Choice::Person { user_id, name }) => self.open_person(user_id, name),
            (PickKind::Person { user_id, name }, Choice::Action(Action::NewDm)) => {
                self.ask(Pending::OpenDm(name.clone()), Command::OpenDm { user_id: *user_id });
            }
            (PickKind::Person { user_id, .. }, Choice::Action(_)) => self.show_safety(*user_id),
            (PickKind::Person { user_id, name }, Choice::In(domain, action)) => {
                self.act_on_member(domain, action, *user_id, name);
            }
            (PickKind::People { add_to: Some(domain), .. }, Choice::Person { user_id, name }) => {
                self.add_chosen(*domain, user_id, &name);
            }
            (PickKind::AddTo { name }, Choice::Domain(domain)) => self.choose_new_member(domain, name),
            (PickKind::Leave, Choice::Domain(domain)) => self.confirm_leaving(domain),
            (_, Choice::Receipts(on)) => self.turn_receipts(on),
            (PickKind::Unsent(one), Choice::Action(action)) => match action {
                Action::Retry => {
                    self.ask(Pending::Quiet, Command::Retry { channel_id: one.channel_id, id: one.id });
                }
                Action::Discard => self.question(
                    "forget",
                    "Forget this? It was not sent, and what you wrote is gone then.",
                    Yes::Discard { channel_id: one.channel_id, id: one.id },
                ),
                _ => self.jump(one.channel_id, one.message, one.thread_root),
            },
            (_, Choice::Unsent(one)) => {
                let row = |label: &str, action| Row::new(Clean::ours(label), Clean::default(), Choice::Action(action));
                let rows = vec![
                    row("go there", Action::FocusHistory),
                    row("try again now", Action::Retry),
                    row("forget it", Action::Discard),
                ];
                self.pick(PickKind::Unsent(one), Picker::new("not sent yet", rows));
            }
            (_, Choice::Channel(id)) => self.open_channel(id, None),
            (_, Choice::Community(id)) => self.choose_community(id),
            (_, Choice::Action(action)) => self.perform(action),
            (_, Choice::Person { user_id, name }) => {
                self.ask(Pending::OpenDm(name), Command::OpenDm { user_id });
            }
            (_, Choice::Hit(hit)) => self.jump(hit.channel_id, hit.message, hit.thread_root),
            (_, Choice::Emoji(_) | Choice::Role(_) | Choice::Domain(_) | Choice::In(..) | Choice::Nothing) => {}
        }
    }

    // Queries that the client answers.

    /// The text of the top list changed.
    pub(super) fn query_changed(&mut self) {
        let due = Timestamp(self.now.0.saturating_add(QUERY_MS));
        if let Some(Overlay::Pick(kind, picker)) = self.overlays.last_mut() {
            match kind {
                PickKind::People { due: at, .. } | PickKind::Search { due: at } => *at = Some(due),
                PickKind::Palette => match with_argument(picker.input.text()) {
                    Some((spec, _)) => picker.filter_by(spec.name),
                    None => picker.filter(),
                },
                _ => picker.filter(),
            }
        }
    }

    pub(in crate::tui) fn overlay_tick(&mut self) {
        let now = self.now;
        let Some(Overlay::Pick(kind, picker)) = self.overlays.last_mut() else { return };
        let query = picker.input.text().trim().to_owned();
        let command = match kind {
            PickKind::People { due, .. } if due.is_some_and(|due| due <= now) => {
                *due = None;
                if !query.is_empty() {
                    "looking …".clone_into(&mut picker.empty);
                    self.dirty = true;
                }
                Command::FindPeople { query: query.trim_start_matches('@').to_owned() }
            }
            PickKind::Search { due } if due.is_some_and(|due| due <= now) => {
                *due = None;
                if query.is_empty() {
                    picker.set_rows(Vec::new());
                    self.dirty = true;
                    return;
                }
                Command::Search { query: query.clone(), place: None::<Place>, limit: HITS }
            }
            _ => return,
        };
        self.ask(Pending::Query(query), command);
    }

    fn query_picker(&mut self, query: &str) -> Option<&mut Picker<Choice>> {
        match self.overlays.last_mut() {
            Some(Overlay::Pick(PickKind::People { .. } | PickKind::Search { .. }, picker)) => {
                (picker.input.text().trim() == query).then_some(picker)
            }
            _ => None,
        }
    }

    pub(super) fn hits_came(&mut self, query: &str, hits: Vec<SearchHit>) {
        let rows: Vec<Row<Choice>> = hits
            .into_iter()
            .map(|hit| {
                let label =
                    Clean::ours(format!("{}: {}", Clean::from_untrusted(&hit.author_name), markdown::preview(&hit.text, 160)));
                let place = self.world.channel(hit.channel_id).map_or_else(
                    || Clean::from_untrusted(&hit.channel_name),
                    |channel| Clean::ours(format!("{} {}", channel_sign(channel), Clean::from_untrusted(&hit.channel_name))),
                );
                let tag = format!("{place} {}", time::short(hit.at, self.now, &self.tz));
                Row::new(label, Clean::default(), Choice::Hit(Box::new(hit))).tag(tag)
            })
            .collect();
        if let Some(picker) = self.query_picker(query) {
            "nothing found; only what this device has decrypted is searched".clone_into(&mut picker.empty);
            picker.set_rows(rows);
        }
    }

    pub(super) fn people_came(&mut self, query: &str, people: Vec<Person>) {
        let add_to = match self.overlays.last() {
            Some(Overlay::Pick(PickKind::People { add_to, .. }, _)) => *add_to,
            _ => None,
        };
        let mut rows: Vec<Row<Choice>> = people
            .into_iter()
            .filter(|person| Some(person.user_id) != self.world.me())
            .filter(|person| add_to.is_none_or(|domain| self.can_be_added(domain, person)))
            .map(|person| {
                let trust = trust_words(person.trust).unwrap_or("");
                person_row(&person, trust)
            })
            .collect();
        if let Some(row) = self.notes_row().filter(|_| add_to.is_none() && means_oneself(query, self.world.username())) {
            let named = query.trim_start_matches('@').eq_ignore_ascii_case(self.world.username());
            rows.insert(if named { 0 } else { rows.len() }, row);
        }
        if let Some(picker) = self.query_picker(query) {
            let nobody = match add_to {
                _ if query.is_empty() => "type the username of somebody on this server",
                Some(_) => "nobody of that name can be added: only who is in the community, and not here yet",
                None => "nobody of that name is known here; usernames are found when complete",
            };
            nobody.clone_into(&mut picker.empty);
            picker.set_rows(rows);
        }
    }

    pub(super) fn query_failed(&mut self, problem: &Problem) {
        let text = Clean::from_untrusted(&problem.text);
        match self.overlays.last_mut() {
            Some(Overlay::Pick(PickKind::People { .. } | PickKind::Search { .. }, picker)) => {
                picker.empty = format!("! {text}");
                picker.set_rows(Vec::new());
            }
            _ => self.problem(problem),
        }
    }
}

pub(super) fn person_row(person: &Person, detail: &str) -> Row<Choice> {
    let username = Clean::from_untrusted(&person.username);
    let label = match &person.display_name {
        Some(name) if !name.is_empty() => Clean::ours(format!("@ {username}  {}", Clean::from_untrusted(name))),
        _ => Clean::ours(format!("@ {username}")),
    };
    Row::new(label, Clean::ours(detail), Choice::Person { user_id: person.user_id, name: username })
}

/// Whether somebody who looks for people by this may mean themselves: by name, or by what it is for.
fn means_oneself(query: &str, username: &str) -> bool {
    let query = query.trim_start_matches('@').to_lowercase();
    [username, "me", "myself", "notes", "self", "you"].iter().any(|word| word.to_lowercase().starts_with(&query))
}

/// Keys with commas between them, as many as fit; the first always.
fn join_fitting(keys: &[String], cells: usize) -> String {
    let mut joined = keys.first().cloned().unwrap_or_default();
    for key in keys.iter().skip(1) {
        if width(&joined) + 2 + width(key) <= cells {
            joined = format!("{joined}, {key}");
        }
    }
    joined
}

/// A command that takes an argument, with the one that was typed behind its name.
fn with_argument(typed: &str) -> Option<(&'static Spec, &str)> {
    let (name, arg) = typed.trim_start().split_once(char::is_whitespace)?;
    let spec = by_name(name.trim_start_matches([':', '/'])).filter(|spec| spec.arg.is_some())?;
    Some((spec, arg.trim()))
}

pub(super) const fn trust_words(trust: Trust) -> Option<&'static str> {
    match trust {
        Trust::Unknown | Trust::Unverified => None,
        Trust::Verified => Some("verified"),
        Trust::Changed { .. } => Some("key changed"),
        Trust::Stopped => Some("stopped"),
    }
}

pub(super) const fn status_words(status: Status) -> &'static str {
    match status {
        Status::Online => "online",
        Status::Idle => "away",
        Status::Dnd => "busy",
        Status::Invisible => "invisible",
        Status::Offline => "",
    }
}
