//! Pages to read: safety numbers with their QR code, an invite link, devices, what is known of a message, why a channel is stopped.

use std::sync::Arc;

use qrcode::{Color, EcLevel, QrCode};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::client::model::{Delivery, DeviceInfo, Fork, InviteLink, SafetyNumber, TimelineItem, Trust};
use crate::protocol::communities::Role;
use crate::protocol::ids::ChannelId;
use crate::tui::app::App;
use crate::tui::command::Action;
use crate::tui::effect::Effect;
use crate::tui::text::{Clean, wrap};
use crate::tui::time;
use crate::tui::widget::popup;
use crate::tui::widget::timeline::lines::mark_words;

use super::overlay::{Overlay, Yes};

/// Above and below what is in a frame.
const FRAME_ROWS: usize = 2;

#[derive(Debug)]
pub struct Page {
    kind: Kind,
    scroll: usize,
    /// The QR code alone, where it has no room below the text.
    code_alone: bool,
}

/// How the QR code of a page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CodePlace {
    /// There is none, or no screen of this width holds it.
    None,
    Below,
    /// It fits without the text: a key shows it.
    Alone,
    /// So many rows are needed.
    TooTall(usize),
}

#[derive(Debug)]
enum Kind {
    Safety(SafetyNumber),
    Invite(InviteLink),
    Devices(Vec<DeviceInfo>),
    Details(Arc<TimelineItem>),
    Fork(ChannelId, Fork),
}

impl Page {
    const fn new(kind: Kind) -> Self {
        Self { kind, scroll: 0, code_alone: false }
    }

    pub const fn safety(safety: SafetyNumber) -> Self {
        Self::new(Kind::Safety(safety))
    }

    pub const fn invite(link: InviteLink) -> Self {
        Self::new(Kind::Invite(link))
    }

    pub const fn devices(devices: Vec<DeviceInfo>) -> Self {
        Self::new(Kind::Devices(devices))
    }

    pub const fn details(item: Arc<TimelineItem>) -> Self {
        Self::new(Kind::Details(item))
    }

    pub const fn fork(channel_id: ChannelId, fork: Fork) -> Self {
        Self::new(Kind::Fork(channel_id, fork))
    }

    pub const fn is_forks(&self) -> bool {
        matches!(self.kind, Kind::Fork(..))
    }

    pub const fn is_safety(&self) -> bool {
        matches!(self.kind, Kind::Safety(_))
    }

    pub fn view(&self, frame: &mut Frame<'_>, screen: Rect, app: &App) {
        let (cells, rows) = room((screen.width, screen.height));
        let (lines, code) = self.lines(cells, rows, app);
        let height = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        let (title, keys) = match &self.kind {
            Kind::Safety(safety) => {
                let keys = match safety.trust {
                    Trust::Changed { .. } => "a accept the new key  A accept and send what waits  Esc not now",
                    Trust::Verified => "u take the verification back  y copy the code  Esc close",
                    Trust::Stopped => "Esc close",
                    Trust::Unknown | Trust::Unverified => "v they are the same  y copy the code  Esc close",
                };
                (format!("safety numbers with {}", Clean::from_untrusted(&safety.name)), keys)
            }
            Kind::Invite(_) => ("invite link".to_owned(), "y copy the link  Esc close"),
            Kind::Devices(_) => ("your devices".to_owned(), "Esc close"),
            Kind::Details(_) => ("message".to_owned(), "Esc close"),
            Kind::Fork(channel_id, _) => {
                let keys = if may_decide(app, *channel_id) { "a declare the second void  Esc not now" } else { "Esc close" };
                ("why this channel is stopped".to_owned(), keys)
            }
        };
        let size = (u16::try_from(cells).unwrap_or(u16::MAX), height);
        let most = lines.len().saturating_sub(rows);
        let alone = code == CodePlace::Alone && self.code_alone;
        let more = if self.scroll < most && !alone { "PgDn more  " } else { "" };
        let show = match code {
            CodePlace::Alone if self.code_alone => "c text  ",
            CodePlace::Alone => "c QR code  ",
            _ => "",
        };
        // What was just done is said here: the line for it lies below.
        let done = app.notice.as_ref().filter(|notice| notice.until.is_some());
        let keys = done.map_or(format!("{more}{show}{keys}"), |notice| notice.text.to_string());
        if alone {
            popup::clear(frame, screen);
            let left = screen.width.saturating_sub(lines.first().map_or(0, |line| u16::try_from(line.width()).unwrap_or(0))) / 2;
            popup::lines(frame, Rect { x: screen.x + left, width: screen.width - left, ..screen }, lines);
            let keys = Clean::ours(format!(" {keys}")).truncate(usize::from(screen.width));
            let row = Rect { y: screen.bottom().saturating_sub(1), height: 1, ..screen };
            frame.render_widget(Span::styled(keys.into_string(), app.theme.dim()), row);
            return;
        }
        let area = popup::open(frame, screen, size, &title, &keys, &app.theme);
        let first = self.scroll.min(lines.len().saturating_sub(usize::from(area.height)));
        popup::lines(frame, area, lines.into_iter().skip(first));
    }

    /// What is drawn in so many cells and rows; what does not fit is scrolled.
    fn lines(&self, cells: usize, rows: usize, app: &App) -> (Vec<Line<'static>>, CodePlace) {
        let mut lines = self.text(cells, app);
        let code = match &self.kind {
            Kind::Safety(safety) => qr(&safety.code, cells, app),
            Kind::Invite(link) => qr(&link.link, cells, app),
            Kind::Devices(_) | Kind::Details(_) | Kind::Fork(..) => Vec::new(),
        };
        let place = match code.len() {
            0 => CodePlace::None,
            height if lines.len() + 1 + height <= rows => CodePlace::Below,
            // Alone it has the whole screen but for the line with the keys.
            height if height < rows + FRAME_ROWS => CodePlace::Alone,
            height => CodePlace::TooTall(height + 1),
        };
        match place {
            CodePlace::Below => {
                lines.push(Line::default());
                lines.extend(code);
            }
            CodePlace::Alone if self.code_alone => return (code, place),
            CodePlace::TooTall(rows) => {
                let words = format!("A terminal of {rows} rows shows a QR code here too.");
                lines.push(Line::default());
                lines.push(Line::from(Span::styled(Clean::ours(words).truncate(cells).into_string(), app.theme.dim())));
            }
            CodePlace::None | CodePlace::Alone => {}
        }
        (lines, place)
    }

    fn text(&self, cells: usize, app: &App) -> Vec<Line<'static>> {
        let theme = &app.theme;
        let mut lines: Vec<Line<'static>> = Vec::new();
        let mut say = |text: &str, style: Style| {
            let text = Clean::ours(text);
            for range in wrap(text.as_str(), cells) {
                lines.push(Line::from(Span::styled(text.slice(range).into_string(), style)));
            }
        };
        match &self.kind {
            Kind::Safety(safety) => {
                let name = Clean::from_untrusted(&safety.name);
                match safety.trust {
                    Trust::Changed { was_verified } => {
                        let verified = if was_verified { " You had verified the old one." } else { "" };
                        say(&format!("! The identity key of {name} changed.{verified}"), theme.warning());
                        say(
                            &format!(
                                "{name} has a new installation, or somebody is in between. Ask {name} another way, by voice or in person. These are the numbers of the new key: accept it only if they are the same on both screens."
                            ),
                            theme.text(),
                        );
                    }
                    Trust::Stopped => say(
                        &format!(
                            "! Two different device lists of {name} exist under one number. Nothing is sent to any of them."
                        ),
                        theme.error(),
                    ),
                    Trust::Verified => say(&format!("You verified {name}."), theme.good()),
                    Trust::Unknown | Trust::Unverified => say(
                        &format!(
                            "Compare with {name}, by voice or in person. The same numbers on both screens: nobody is in between."
                        ),
                        theme.text(),
                    ),
                }
                say("", theme.text());
                let groups = chunks(&safety.digits, 5);
                let per_line = if cells >= 34 { 6 } else { 3 };
                for row in groups.chunks(per_line) {
                    say(&row.join(" "), theme.bold());
                }
                say("", theme.text());
                match &safety.new_fingerprint {
                    Some(new) => {
                        say(&format!("old key  {}", spaced(&safety.fingerprint)), theme.dim());
                        say(&format!("new key  {}", spaced(new)), theme.warning());
                    }
                    None => say(&format!("key  {}", spaced(&safety.fingerprint)), theme.dim()),
                }
                for device in &safety.devices {
                    say(&device_words(device, app), theme.dim());
                }
            }
            Kind::Invite(link) => {
                say(
                    "Give this to whom you want to let in. Whoever has all of it can join and read what comes after.",
                    theme.text(),
                );
                say("", theme.text());
                for row in chunks(&link.link, cells) {
                    say(&row, theme.accent());
                }
                say("", theme.text());
                let uses = link
                    .max_uses
                    .map_or("any number of people".to_owned(), |uses| time::count(u64::from(uses), "person", "people"));
                let until = link.expires_at.map_or("for ever".to_owned(), |at| format!("until {}", time::full(at, &app.tz)));
                say(&format!("for {uses}, {until}"), theme.dim());
            }
            Kind::Devices(devices) => {
                if let Some(account) = &app.world.account {
                    say(&format!("your key  {}", spaced(&account.fingerprint)), theme.dim());
                    say("", theme.text());
                }
                for device in devices {
                    say(&device_words(device, app), if device.current { theme.bold() } else { theme.text() });
                }
            }
            Kind::Details(item) => {
                say(&Clean::from_untrusted(&item.author_name).into_string(), theme.bold());
                say(&time::full(item.at, &app.tz), theme.text());
                let position = item.seq.map_or("not at the server yet".to_owned(), |seq| format!("number {seq} of this channel"));
                say(&position, theme.text());
                let delivery = match &item.delivery {
                    Delivery::Received => "received".to_owned(),
                    Delivery::Waiting => "waits for the server; it goes out once, by itself".to_owned(),
                    Delivery::Sent => "the server has it".to_owned(),
                    Delivery::Delivered => "a device of the other side has it".to_owned(),
                    Delivery::Read => "read".to_owned(),
                    Delivery::Failed(why) => format!("refused: {}", Clean::from_untrusted(why)),
                };
                say(&delivery, theme.text());
                let trust = super::pick::trust_words(item.author_trust).unwrap_or("sender not verified");
                say(trust, theme.text());
                if item.edited {
                    say("edited", theme.text());
                }
                for mark in &item.marks {
                    say(&format!("! {}", mark_words(*mark)), theme.warning());
                }
                say(&format!("id {}", item.key.id), theme.dim());
            }
            Kind::Fork(channel_id, fork) => {
                say(
                    &format!("! Change number {} of the members here was signed twice, and both cannot be true.", fork.seq),
                    theme.warning(),
                );
                say(
                    "A stolen key, a broken client, or a server that shows different things to different people. Ask them, by another way than this channel.",
                    theme.text(),
                );
                for (title, change) in [("in force here", &fork.kept), ("contradicts it", &fork.other)] {
                    let (by, what) = (Clean::from_untrusted(&change.by), Clean::from_untrusted(&change.what));
                    say("", theme.text());
                    say(title, theme.dim());
                    say(&format!("{by} {what}"), theme.bold());
                    say(&format!("by device {}, {}", change.device_id, time::full(change.signed_at, &app.tz)), theme.dim());
                }
                say("", theme.text());
                let end = if may_decide(app, *channel_id) {
                    "Declare the second one void, and the channel goes on. If the one in force is the wrong one, make a new channel."
                } else {
                    "An admin of this place decides. Nothing is sent here until then."
                };
                say(end, theme.text());
            }
        }
        lines
    }
}

/// Cells and rows inside of the frame.
fn room((columns, rows): (u16, u16)) -> (usize, usize) {
    (usize::from(columns.saturating_sub(4)).min(76), usize::from(rows).saturating_sub(FRAME_ROWS))
}

/// Whether this user decides about the members of a channel.
fn may_decide(app: &App, channel_id: ChannelId) -> bool {
    app.world.channel(channel_id).is_some_and(|channel| channel.my_role >= Some(Role::Admin))
}

fn device_words(device: &DeviceInfo, app: &App) -> String {
    let mut words = format!("device {}, since {}", device.device_id, time::day(device.added_at, &app.tz));
    if device.current {
        words.push_str(", this one");
    }
    if device.dormant {
        words.push_str(", asleep: gets nothing until it comes back");
    }
    if device.no_one_time_prekey {
        words.push_str(", began without a one-time key");
    }
    words
}

/// In groups of eight, for the eye.
fn spaced(hex: &str) -> String {
    chunks(hex, 8).join(" ")
}

/// ASCII cut to a width wherever it falls.
fn chunks(text: &str, cells: usize) -> Vec<String> {
    text.as_bytes().chunks(cells.max(1)).map(|chunk| String::from_utf8_lossy(chunk).into_owned()).collect()
}

/// A QR code of half blocks with its quiet zone, dark on light whatever the theme is; nothing where it is too wide.
fn qr(text: &str, cells: usize, app: &App) -> Vec<Line<'static>> {
    const QUIET: usize = 2;
    if text.is_empty() {
        return Vec::new();
    }
    let Ok(code) = QrCode::with_error_correction_level(text.as_bytes(), EcLevel::L) else { return Vec::new() };
    let side = code.width() + 2 * QUIET;
    if side > cells || app.theme.glyphs.ascii {
        return Vec::new();
    }
    let colours = code.to_colors();
    let dark = |x: usize, y: usize| {
        let inside = (QUIET..QUIET + code.width()).contains(&x) && (QUIET..QUIET + code.width()).contains(&y);
        inside && colours.get((y - QUIET) * code.width() + (x - QUIET)) == Some(&Color::Dark)
    };
    (0..side.div_ceil(2))
        .map(|row| {
            let blocks: String = (0..side)
                .map(|x| match (dark(x, row * 2), dark(x, row * 2 + 1)) {
                    (true, true) => '█',
                    (true, false) => '▀',
                    (false, true) => '▄',
                    (false, false) => ' ',
                })
                .collect();
            Line::from(Span::styled(blocks, app.theme.qr()))
        })
        .collect()
}

impl App {
    pub(super) fn act_in_page(&mut self, action: Action) {
        let (cells, rows) = room(self.size);
        let (total, code) = match self.overlays.last() {
            Some(Overlay::Page(page)) => {
                let (lines, code) = page.lines(cells, rows, self);
                (lines.len(), code)
            }
            _ => return,
        };
        let decides = self.chat.channel_id().is_some_and(|channel_id| may_decide(self, channel_id));
        let last = total.saturating_sub(rows.max(1));
        let half = (rows / 2).max(1);
        let Some(Overlay::Page(page)) = self.overlays.last_mut() else { return };
        page.scroll = match action {
            Action::Up => page.scroll.saturating_sub(1),
            Action::Down => page.scroll + 1,
            Action::PageUp => page.scroll.saturating_sub(half),
            Action::PageDown => page.scroll + half,
            _ => page.scroll,
        }
        .min(last);
        match (&page.kind, action) {
            (_, Action::Close) => {
                self.overlays.pop();
            }
            (_, Action::ShowCode) if code == CodePlace::Alone => {
                page.code_alone = !page.code_alone;
                page.scroll = 0;
            }
            (Kind::Invite(link), Action::Copy) => {
                let link = link.link.clone();
                self.emit(Effect::Copy(link));
                self.toast("the link is in the clipboard, if your terminal allows it");
            }
            (Kind::Safety(safety), Action::Copy) => {
                let code = safety.code.clone();
                self.emit(Effect::Copy(code));
                self.toast("the code is in the clipboard, if your terminal allows it");
            }
            (Kind::Safety(safety), Action::Verify) if matches!(safety.trust, Trust::Unverified | Trust::Unknown) => {
                let (user_id, name) = (safety.user_id, Clean::from_untrusted(&safety.name));
                let text = format!(
                    "Did you and {name} read the same numbers to each other? From then on a new key stops sending until you decide."
                );
                self.question("verify", &text, Yes::Verify(user_id));
            }
            (Kind::Safety(safety), Action::Unverify) if safety.trust == Trust::Verified => {
                let user_id = safety.user_id;
                self.ask(crate::tui::app::Pending::SafetyAgain(user_id), crate::client::command::Command::Unverify { user_id });
            }
            (Kind::Fork(channel_id, fork), Action::Yes) if decides => {
                let yes = Yes::Resume { channel_id: *channel_id, discard: fork.discard.clone() };
                let (by, what) = (Clean::from_untrusted(&fork.other.by), Clean::from_untrusted(&fork.other.what));
                let text = format!("Declare void for good, for everybody: {by} {what}? This cannot be taken back.");
                self.question("let the channel go on", &text, yes);
            }
            (Kind::Safety(safety), Action::Yes | Action::AcceptAndSend) if matches!(safety.trust, Trust::Changed { .. }) => {
                let user_id = safety.user_id;
                let name = Clean::from_untrusted(&safety.name);
                let send_waiting = action == Action::AcceptAndSend;
                let waiting = if send_waiting { " What you wrote meanwhile is sent to the new key." } else { "" };
                let text = format!("Accept the new key of {name}? Do so only after {name} confirmed it another way.{waiting}");
                self.question("accept a new key", &text, Yes::Trust { user_id, send_waiting });
            }
            _ => {}
        }
    }
}
