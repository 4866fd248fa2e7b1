//! Before there is a client: the first run (server, account, protection, recovery code) and unlocking. Every step is a form; what it
//! leads to is asked of the client's setup through [`Effect::Setup`].

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::client::model::{Problem, ProblemKind};
use crate::client::unlock::PASSPHRASE_MIN;
use crate::protocol::auth::{Registration, SecretText};
use crate::protocol::limits;
use crate::tui::app::App;
use crate::tui::command::Action;
use crate::tui::effect::{Effect, Protect, Setup, SetupAnswer};
use crate::tui::text::Clean;
use crate::tui::widget::popup;

use super::form::{Field, Form, Outcome};

#[derive(Debug)]
pub struct SetupScreen {
    pub step: Step,
    pub form: Form,
    /// The profile's name, to say which one is meant.
    profile: String,
    /// The kernel's keyring works here.
    keyring: bool,
    server: Option<Server>,
    account: Option<Account>,
    /// Chosen already: a refused name is not a reason to ask again.
    protection: Option<Protect>,
    /// Still to be shown.
    codes: VecDeque<(&'static str, SecretText)>,
    /// Being shown.
    code: Option<SecretText>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Server,
    Account,
    Protection,
    Recovery,
    Unlock,
}

#[derive(Clone, Debug)]
struct Server {
    address: String,
    name: Clean,
    registration: Registration,
}

struct Account {
    register: bool,
    username: String,
    password: SecretText,
    invite: Option<String>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("register", &self.register).finish_non_exhaustive()
    }
}

impl SetupScreen {
    /// A profile that does not exist yet.
    pub fn first_run(profile: &str, server: &str, keyring: bool) -> Self {
        let mut screen = Self {
            step: Step::Server,
            form: Form::plain("", &[], Vec::new()),
            profile: profile.to_owned(),
            keyring,
            server: None,
            account: None,
            protection: None,
            codes: VecDeque::new(),
            code: None,
        };
        screen.ask_server(server);
        screen
    }

    /// A profile whose store is closed by a passphrase.
    pub fn unlock(profile: &str) -> Self {
        let form = Form::plain(
            "unlock",
            &["What is stored on this machine is encrypted. Its passphrase opens it."],
            vec![unlock_field()],
        );
        Self {
            step: Step::Unlock,
            form,
            profile: profile.to_owned(),
            keyring: false,
            server: None,
            account: None,
            protection: None,
            codes: VecDeque::new(),
            code: None,
        }
    }

    fn ask_server(&mut self, server: &str) {
        self.step = Step::Server;
        self.form = Form::plain(
            "which server",
            &["Messages are encrypted here, on this machine. The server carries them and cannot read them."],
            vec![
                Field::text("server", "its address, as chat.example.org; http:// only for a server on this machine").with(server),
            ],
        );
    }

    fn ask_account(&mut self) {
        let Some(server) = &self.server else { return };
        let old = self.account.take();
        let may_register = server.registration != Registration::Closed;
        let intro: &[&str] = match server.registration {
            Registration::Open => &[],
            Registration::Invite => &["This server lets people register who have an invite code."],
            Registration::Closed => &["This server registers nobody; log in with the account that its owner made for you."],
        };
        let password = old.as_ref().map_or("", |account| &account.password.0);
        let mut fields = Vec::new();
        let options =
            if may_register { ["register a new account", "log in to an account"].as_slice() } else { &["log in to an account"] };
        let chosen = usize::from(may_register && old.as_ref().is_some_and(|account| !account.register));
        fields.push(Field::choice("I want to", options.iter().map(Clean::ours), "left and right change it").chosen(chosen));
        fields.push(
            Field::text("username", format!("{} to {} characters: a-z 0-9 . _ -", limits::USERNAME_MIN, limits::USERNAME_MAX))
                .with(old.as_ref().map_or("", |account| &account.username)),
        );
        fields.push(
            Field::secret("password", format!("at least {} characters; proves to the server who you are", limits::PASSWORD_MIN))
                .with(password),
        );
        if may_register {
            fields.push(Field::secret("again", "the same password").with(password).only_for(&[0]));
        }
        if server.registration == Registration::Invite {
            let code = old.as_ref().and_then(|account| account.invite.clone()).unwrap_or_default();
            fields.push(Field::text("invite", "the code you were given").with(&code).only_for(&[0]));
        }
        self.step = Step::Account;
        self.form = Form::plain(&format!("account on {}", server.name), intro, fields);
        self.form.focus = 1;
    }

    fn ask_protection(&mut self) {
        let mut options = vec![Clean::ours("a passphrase at every start")];
        if self.keyring {
            options.push(Clean::ours("a passphrase once after each restart"));
            options.push(Clean::ours("no passphrase: the kernel keeps the key"));
        }
        let intro = "Messages and keys are stored encrypted on this machine. Without the passphrase nobody opens them, not even you: \
                     there is no way to reset it.";
        self.step = Step::Protection;
        self.form = Form::plain(
            "protect this machine",
            &[intro],
            vec![
                Field::choice("how", options, "left and right change it"),
                Field::secret("passphrase", format!("at least {PASSPHRASE_MIN} characters, and another one than the password"))
                    .only_for(&[0, 1]),
                Field::secret("again", "the same passphrase").only_for(&[0, 1]),
            ],
        );
        self.form.focus = usize::from(!self.keyring);
    }

    /// Shows the next code that has to be written down. False when there is none.
    fn ask_recovery(&mut self) -> bool {
        let Some((what, code)) = self.codes.pop_front() else { return false };
        let shown = format!("    {}", code.0);
        self.step = Step::Recovery;
        self.form = Form::plain(
            "write this down",
            &[what, "", &shown, "", "It is shown this once. Keep it away from this machine."],
            vec![Field::text("type it back", "its last four characters are enough: they show that you have it")],
        );
        self.code = Some(code);
        true
    }

    pub fn view(&self, frame: &mut Frame<'_>, screen: Rect, app: &App) -> Option<(u16, u16)> {
        let theme = &app.theme;
        let steps = [(Step::Server, "server"), (Step::Account, "account"), (Step::Protection, "protection")];
        let width = screen.width.min(76);
        let mut area = Rect { x: screen.x + (screen.width - width) / 2, y: screen.y, width, height: screen.height };
        if screen.height >= 12 {
            area.y += screen.height / 6;
            area.height -= screen.height / 6 + 2;
            let mut spans = vec![Span::styled("chat", theme.bold()), Span::raw("   ")];
            if self.step != Step::Unlock {
                for (step, name) in steps {
                    let style = if step == self.step { theme.accent() } else { theme.dim() };
                    spans.push(Span::styled(name, style));
                    spans.push(Span::raw("  "));
                }
            } else {
                let profile = Clean::ours(format!("profile {}", self.profile));
                spans.push(Span::styled(profile.into_string(), theme.dim()));
            }
            frame.render_widget(Line::from(spans), Rect { height: 1, ..area });
            let rule = theme.glyphs.horizontal.repeat(usize::from(area.width));
            frame.render_widget(Span::styled(rule, theme.line()), Rect { y: area.y + 1, height: 1, ..area });
            frame.render_widget(Span::styled(self.form.title.as_str(), theme.bold()), Rect { y: area.y + 2, height: 1, ..area });
            area.y += 4;
            area.height = area.height.saturating_sub(4);
            let keys = match self.step {
                Step::Server | Step::Unlock => "Enter go on   Ctrl-Q leave",
                Step::Recovery => "Enter go on   Esc go on without it   Ctrl-Q leave",
                _ => "Tab next field   Enter go on   Esc back   Ctrl-Q leave",
            };
            let row = Rect { y: screen.bottom() - 1, height: 1, ..area };
            popup::lines(frame, row, [Line::from(Span::styled(keys, theme.dim()))]);
        }
        self.form.view_in(frame, area, app)
    }
}

fn unlock_field() -> Field {
    Field::secret("passphrase", "the one you chose for this machine, or were given to write down")
}

impl App {
    pub(super) fn act_in_setup(&mut self, action: Action) {
        let Some(setup) = &mut self.setup else { return };
        match setup.form.act(action) {
            Outcome::Nothing => {}
            Outcome::Submit => self.submit_setup(),
            Outcome::Close if setup.form.busy => {}
            Outcome::Close => match setup.step {
                Step::Server | Step::Unlock => {}
                Step::Account => {
                    let address = setup.server.as_ref().map(|server| server.address.clone()).unwrap_or_default();
                    setup.ask_server(&address);
                }
                Step::Protection => setup.ask_account(),
                Step::Recovery => self.next_code(),
            },
        }
    }

    fn submit_setup(&mut self) {
        let Some(setup) = &mut self.setup else { return };
        let usage = |text: String| Problem::new(ProblemKind::Usage, text);
        let form = &mut setup.form;
        form.error = None;
        match setup.step {
            Step::Server => {
                let server = form.text(0).trim().to_owned();
                if server.is_empty() {
                    return form.refuse(0, usage("the address is empty".to_owned()));
                }
                form.busy = true;
                self.emit(Effect::Setup(Setup::Probe { server }));
            }
            Step::Account => {
                let Some(server) = &setup.server else { return };
                let register = server.registration != Registration::Closed && form.selected(0) == 0;
                let username = form.text(1).trim().to_owned();
                let password = SecretText(form.text(2).to_owned());
                let length = username.chars().count();
                if !(limits::USERNAME_MIN..=limits::USERNAME_MAX).contains(&length) {
                    let text = format!("a username has {} to {} characters", limits::USERNAME_MIN, limits::USERNAME_MAX);
                    return form.refuse(1, usage(text));
                }
                if password.0.chars().count() < limits::PASSWORD_MIN {
                    return form.refuse(2, usage(format!("a password has at least {} characters", limits::PASSWORD_MIN)));
                }
                if register && form.text(3) != password.0 {
                    return form.refuse(3, usage("the two passwords differ".to_owned()));
                }
                let code = form.text(4).trim().to_owned();
                if register && server.registration == Registration::Invite && code.is_empty() {
                    return form.refuse(4, usage("this server asks for an invite code to register".to_owned()));
                }
                let invite = Some(code).filter(|code| register && !code.is_empty());
                setup.account = Some(Account { register, username, password, invite });
                match setup.protection.clone() {
                    Some(protection) => self.enter(protection),
                    None => setup.ask_protection(),
                }
            }
            Step::Protection => {
                let keyring = form.selected(0) == 2;
                let passphrase = SecretText(form.text(1).to_owned());
                if !keyring && passphrase.0.chars().count() < PASSPHRASE_MIN {
                    return form.refuse(1, usage(format!("a passphrase has at least {PASSPHRASE_MIN} characters")));
                }
                if !keyring && form.text(2) != passphrase.0 {
                    return form.refuse(2, usage("the two passphrases differ".to_owned()));
                }
                let remember = form.selected(0) == 1;
                self.enter(if keyring { Protect::Keyring } else { Protect::Passphrase { passphrase, remember } });
            }
            Step::Recovery => {
                let code = setup.code.as_ref().map(|code| code.0.to_lowercase()).unwrap_or_default();
                let typed = setup.form.text(0).trim().to_lowercase();
                if typed.len() < 4 || !code.ends_with(&typed) {
                    let problem = usage("these are not its last characters".to_owned()).hint("Esc goes on without it.");
                    return setup.form.refuse(0, problem);
                }
                self.next_code();
            }
            Step::Unlock => {
                let passphrase = SecretText(form.text(0).to_owned());
                form.busy = true;
                self.emit(Effect::Setup(Setup::Unlock { passphrase }));
            }
        }
    }

    /// Everything is known: makes the account or the session, and the profile.
    fn enter(&mut self, protection: Protect) {
        let Some(setup) = &mut self.setup else { return };
        let Some(account) = &setup.account else { return };
        setup.form.busy = true;
        setup.protection = Some(protection.clone());
        let enter = Setup::Enter {
            register: account.register,
            username: account.username.clone(),
            password: account.password.clone(),
            invite: account.invite.clone().map(SecretText),
            protection,
        };
        self.emit(Effect::Setup(enter));
    }

    fn next_code(&mut self) {
        let more = self.setup.as_mut().is_some_and(SetupScreen::ask_recovery);
        if !more {
            self.setup = None;
            self.emit(Effect::Setup(Setup::Finish));
        }
    }

    pub(in crate::tui) fn on_setup(&mut self, result: Result<SetupAnswer, Problem>) {
        let Some(setup) = &mut self.setup else { return self.log_in_done(result.map(|_| ())) };
        setup.form.busy = false;
        match result {
            Ok(SetupAnswer::LoggedIn) => {}
            Ok(SetupAnswer::Server { name, registration }) => {
                let address = setup.form.text(0).trim().to_owned();
                setup.server = Some(Server { address, name: Clean::from_untrusted(&name), registration });
                setup.ask_account();
            }
            Ok(SetupAnswer::Ready { codes }) => {
                setup.codes = codes.into();
                self.next_code();
            }
            Err(problem) => {
                let entering = matches!(setup.step, Step::Account | Step::Protection);
                match problem.kind {
                    // A refused name, password or code is changed where it was typed; what was not refused stays.
                    ProblemKind::Auth | ProblemKind::Permission | ProblemKind::Usage if entering => {
                        let about_password = problem.text.raw().contains("password");
                        if let Some(account) = setup.account.as_mut().filter(|_| about_password) {
                            account.password = SecretText(String::new());
                        }
                        setup.ask_account();
                        setup.form.focus = if about_password { 2 } else { 1 };
                    }
                    ProblemKind::Network | ProblemKind::RateLimited => {}
                    // The machine refused, not the server.
                    _ if setup.step == Step::Account => {
                        setup.protection = None;
                        setup.ask_protection();
                    }
                    _ => {}
                }
                if let Some(field) = setup.form.fields.iter_mut().find(|_| setup.step == Step::Unlock) {
                    *field = unlock_field();
                }
                setup.form.error = Some(problem);
            }
        }
    }
}
