//! How the screens look: text, cursor and styles, after keys.

use super::*;
use crate::protocol::auth::{Registration, SecretText};
use crate::tui::effect::SetupAnswer;
use crate::tui::screen::setup::SetupScreen;

fn snapshot(name: &str, driven: &mut Driven) {
    let screen = driven.screen();
    insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, screen);
    });
}

/// `screen!(name, world, keys, columns, rows)`: a snapshot after these keys.
macro_rules! screen {
    ($name:literal, $world:expr, $keys:expr, $columns:expr, $rows:expr) => {{
        let mut driven = Driven::open($world, $columns, $rows);
        driven.keys($keys);
        snapshot($name, &mut driven);
    }};
}

const DEPLOYS_OPEN: &str = "ctrl-g 'deploys' enter";
const THREAD_OPEN: &str = "ctrl-g 'deploys' enter esc { { enter";

#[test]
fn the_team_at_every_size() {
    screen!("team-200x50", Store::team(), THREAD_OPEN, 200, 50);
    screen!("team-132x24", Store::team(), THREAD_OPEN, 132, 24);
    screen!("team-80x24", Store::team(), DEPLOYS_OPEN, 80, 24);
    screen!("team-80x24-tree", Store::team(), "ctrl-g 'deploys' enter f2 down", 80, 24);
    screen!("team-80x24-thread", Store::team(), THREAD_OPEN, 80, 24);
    screen!("team-60x15", Store::team(), DEPLOYS_OPEN, 60, 15);
    screen!("team-40x10", Store::team(), DEPLOYS_OPEN, 40, 10);
    screen!("team-20x5", Store::team(), DEPLOYS_OPEN, 20, 5);
    screen!("team-1x1", Store::team(), DEPLOYS_OPEN, 1, 1);
}

#[test]
fn without_colours_and_beyond_ascii() {
    let mut driven = Driven::open(Store::team(), 100, 24);
    driven.app.theme = Theme::new(false, true);
    driven.keys(THREAD_OPEN);
    let text = driven.text();
    assert!(text.is_ascii() || text.chars().all(|c| c.is_ascii() || c == '█'), "{text}");
    snapshot("team-ascii-no-colour", &mut driven);
}

#[test]
fn lists_over_the_panes() {
    screen!("switcher", Store::team(), "ctrl-g", 80, 24);
    screen!("switcher-filtered", Store::team(), "ctrl-g 'wa'", 80, 24);
    screen!("palette", Store::team(), "f9 'cre'", 80, 24);
    screen!("help", Store::team(), "f1 'thread'", 100, 24);
    screen!("help-80x24", Store::team(), "f1", 80, 24);
    screen!("members", Store::team(), "ctrl-g 'deploys' enter f5", 80, 24);
    screen!("person", Store::team(), "ctrl-g 'deploys' enter f5 down enter", 80, 24);
    screen!("reactions", Store::team(), "ctrl-g 'deploys' enter esc { a 'rock'", 80, 24);
}

#[test]
fn search_results() {
    let mut driven = Driven::open(Store::team(), 80, 24);
    driven.keys("f4 'canary'");
    driven.wait(200);
    let hit = |n, text: &str| SearchHit {
        channel_id: channel_id(DEPLOYS),
        channel_name: "deploys".into(),
        message: message(DEPLOYS, n, ANA, "ana", "").key,
        thread_root: None,
        author_name: "ana".into(),
        at: Timestamp(NOW.0 - 86_400_000),
        text: text.into(),
    };
    driven.answer(Ok(Answer::Hits(vec![hit(52, "canary is red on two hosts, log:"), hit(3, "is the canary\nstill alive?")])));
    snapshot("search", &mut driven);
}

#[test]
fn dialogs() {
    screen!("create-channel", Store::team(), "f9 'create-channel' enter 'rollouts' tab tab", 80, 24);
    screen!("invite", Store::team(), "ctrl-g 'deploys' enter f9 'invite' enter '0' enter enter", 80, 24);
    // One line is framed too, with the keys that answer it.
    screen!("mark-all-read", Store::team(), "f9 'mark-all' enter", 80, 24);
    screen!("delete", Store::team(), "ctrl-g 'deploys' enter esc { d", 80, 24);
    screen!("leave-40x10", Store::private(Role::Member), "ctrl-g 'deploys' enter esc : 'leave' enter", 40, 10);
}

#[test]
fn private_places() {
    let war_room = "ctrl-g 'war room' enter ";
    let mut timed = Store::private(Role::Owner);
    timed.edit(WAR_ROOM, |channel| channel.expires_s = 86_400);
    screen!("timer", timed, &format!("{war_room} '/timer' enter"), 80, 24);
    screen!("timer-refused-40x10", Store::private(Role::Owner), &format!("{war_room} '/timer 5 parsecs' enter"), 40, 10);
    screen!("receipts", Store::private(Role::Owner), &format!("{war_room} '/receipts' enter"), 80, 24);
    screen!("add-to", Store::private(Role::Owner), "ctrl-g 'deploys' enter '/add-member' enter", 80, 24);
    screen!("kick", Store::private(Role::Owner), &format!("{war_room} '/kick' enter enter"), 80, 24);
    screen!("role", Store::private(Role::Owner), &format!("{war_room} '/role bo' enter enter"), 80, 24);
    screen!("person-in-private", Store::private(Role::Owner), &format!("{war_room} f5 down down enter"), 80, 24);
    screen!("leave-which", Store::private(Role::Member), &format!("{war_room} '/leave' enter"), 80, 24);
}

#[test]
fn why_a_channel_is_stopped() {
    let mut store = Store::private(Role::Owner);
    store.edit(WAR_ROOM, |channel| channel.blocked = Some(SendBlock::LogStopped));
    let mut driven = Driven::open(store, 80, 24);
    driven.keys("ctrl-g 'war room' enter");
    snapshot("stopped", &mut driven);
    driven.keys("'/resume' enter");
    let change = |what: &str| SignedChange { by: "ana".into(), device_id: 1, what: what.into(), signed_at: NOW };
    let fork = Fork { seq: 7, discard: "ab".to_owned(), kept: change("removed bo"), other: change("added \x1b[2Jeve") };
    driven.answer(Ok(Answer::Forks(vec![fork])));
    snapshot("fork", &mut driven);
}

#[test]
fn somebody_to_add() {
    let mut driven = Driven::open(Store::private(Role::Owner), 80, 24);
    driven.keys("ctrl-g 'war room' enter '/add-member' enter");
    let person = |n, name: &str| Person { user_id: user(n), username: name.into(), display_name: None, trust: Trust::Verified };
    driven.answer(Ok(Answer::People(vec![person(ANA, "ana"), person(DORA, "dora")])));
    snapshot("add-member", &mut driven);
}

fn link() -> InviteLink {
    InviteLink {
        community_id: community_id(1),
        link: format!("chat://chat.example.org/i/bcmlradf3z6kcubh#TCI1-{}", "AEA2D7RTNWBX".repeat(12)),
        expires_at: Some(NOW),
        max_uses: Some(5),
    }
}

#[test]
fn an_invite_link_to_give_away() {
    let mut driven = Driven::open(Store::team(), 100, 50);
    driven.keys("ctrl-g 'deploys' enter f9 'invite' enter '5' enter enter");
    driven.answer(Ok(Answer::Invite(link())));
    snapshot("invite-link", &mut driven);
}

#[test]
fn writing() {
    screen!("completion", Store::team(), "ctrl-g 'deploys' enter 'ask @a' tab", 80, 24);
    screen!("reply", Store::team(), "ctrl-g 'deploys' enter esc { { r 'on it'", 80, 24);
    screen!("edit", Store::team(), "ctrl-g 'deploys' enter up", 80, 24);
    screen!("many-lines", Store::team(), "ctrl-g 'deploys' enter 'one' alt-enter 'two' ctrl-j 'three'", 80, 24);
}

fn safety(trust: Trust) -> SafetyNumber {
    SafetyNumber {
        user_id: user(BO),
        name: "bo".into(),
        digits: "123456789012345678901234567890123456789012345678901234567890".to_owned(),
        code: format!("TCS1-{}", "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".repeat(4)),
        fingerprint: "0123456789abcdef".repeat(4),
        new_fingerprint: matches!(trust, Trust::Changed { .. }).then(|| "fedcba9876543210".repeat(4)),
        trust,
        devices: vec![DeviceInfo { device_id: 1, added_at: NOW, dormant: false, current: false, no_one_time_prekey: true }],
    }
}

#[test]
fn safety_numbers() {
    for (name, trust) in [("safety", Trust::Unverified), ("safety-changed", Trust::Changed { was_verified: true })] {
        let mut driven = Driven::open(Store::team(), 100, 44);
        driven.keys("ctrl-g '@bo' enter f8");
        driven.answer(Ok(Answer::Safety(safety(trust))));
        snapshot(name, &mut driven);
    }
}

#[test]
fn where_text_and_code_have_no_room_together_a_key_shows_the_code() {
    let mut driven = Driven::open(Store::team(), 80, 24);
    driven.keys("ctrl-g '@bo' enter f8");
    driven.answer(Ok(Answer::Safety(safety(Trust::Unverified))));
    snapshot("safety-80x24", &mut driven);
    driven.keys("c");
    snapshot("safety-80x24-code", &mut driven);
    driven.keys("c");
    assert!(driven.text().contains("Compare with bo"), "{}", driven.text());

    // One that fits no screen of this height says which does.
    let mut driven = Driven::open(Store::team(), 80, 24);
    driven.keys("ctrl-g 'deploys' enter f9 'invite' enter '5' enter enter");
    driven.answer(Ok(Answer::Invite(link())));
    snapshot("invite-link-80x24", &mut driven);
    driven.keys("c pagedown");
    assert!(driven.text().contains("Give this to whom"), "{}", driven.text());
}

#[test]
fn a_changed_identity_is_a_banner() {
    let mut store = Store::team();
    store.edit(DM_BO, |channel| {
        channel.blocked = Some(SendBlock::IdentityChanged { user_id: user(BO), name: "bo".into(), was_verified: true });
        if let Some(peer) = &mut channel.peer {
            peer.trust = Trust::Changed { was_verified: true };
        }
    });
    screen!("blocked", store.clone(), "ctrl-g '@bo' enter 'are you there?' enter", 80, 24);
    screen!("blocked-40x10", store, "ctrl-g '@bo' enter", 40, 10);
}

#[test]
fn offline_says_since_when_and_what_waits() {
    let mut store = Store::team();
    Arc::make_mut(&mut store.tree).waiting = 2;
    let mut driven = Driven::open(store, 80, 24);
    driven.keys(DEPLOYS_OPEN);
    driven.client(ClientEvent::Connection(Connection::Offline {
        since: Timestamp(NOW.0 - 480_000),
        retry_at: Some(Timestamp(NOW.0 + 60_000)),
        why: "connection refused".into(),
    }));
    snapshot("offline", &mut driven);
}

#[test]
fn a_session_that_ended_is_told_and_taken_up_again() {
    let mut driven = Driven::open(Store::team(), 80, 24);
    driven.keys(DEPLOYS_OPEN);
    driven.client(ClientEvent::Connection(Connection::LoggedOut { why: "the server ended this session".into() }));
    snapshot("logged-out", &mut driven);
    driven.keys("f12 'secret'");
    snapshot("log-in-again", &mut driven);
}

#[test]
fn empty_places_say_what_to_do() {
    screen!("no-community", Store::empty(), "", 80, 24);
    screen!("empty-channel", Store::team(), "ctrl-g 'pixels' enter", 80, 24);
    screen!("empty-notes", Store::with_notes(), "ctrl-g 'notes' enter", 80, 24);
    screen!("empty-dm", Store::team(), "ctrl-g 'carol' enter", 80, 24);
}

#[test]
fn what_is_hostile_is_visible() {
    let mut store = Store::team();
    let texts = [
        "\x1b]0;evil\x07 \x1b[2J\x1b[31mred\u{9b}1m",
        "pay \u{202e}gpj.exe\u{2066} now\rana 14:02 verified",
        "日本語と한국어 and مرحبا بالعالم and שלום",
        "👩‍👩‍👧‍👦 ❤️ 👍🏽 🇩🇪 é e\u{301}",
        "z\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}algo",
        "[bank](https://evil.example) &#27;[2J",
    ];
    store.items = texts
        .iter()
        .enumerate()
        .map(|(n, text)| Arc::new(message(DEPLOYS, n as u64 + 1, ANA, "an\x1b[5m\u{202e}a", text)))
        .collect();
    store.edit(DEPLOYS, |channel| {
        channel.name = "dep\x1b[1mloys".into();
        channel.topic = Some("a\x1b]52;c;?\x07\u{202e}topic".into());
        channel.unread = 0;
    });
    screen!("hostile", store, "ctrl-g 'dep' enter", 80, 24);
}

#[test]
fn messages_that_are_not_plain() {
    let mut store = Store::team();
    let base = |n| message(DEPLOYS, n, ANA, "ana", "text");
    let bodies = [
        Body::Deleted { by_moderator: true },
        Body::Undecryptable(Reason::WaitingForKey),
        Body::BeforeJoin,
        Body::NewerClient,
        Body::Clear("deploy finished".into()),
        Body::System(SystemLine::Removed { who: "bo".into(), by: "ana".into(), banned: false }),
        Body::System(SystemLine::Seam),
    ];
    store.items = bodies
        .into_iter()
        .enumerate()
        .map(|(n, body)| Arc::new(TimelineItem { body, ..base(n as u64 + 1) }))
        .chain([
            Arc::new(TimelineItem { marks: vec![Mark::Forged, Mark::Gap], edited: true, ..base(20) }),
            Arc::new(TimelineItem {
                seq: None,
                delivery: Delivery::Failed("you are not a member".into()),
                ..message(DEPLOYS, 21, ME, "me", "too late")
            }),
        ])
        .collect();
    screen!("bodies", store, DEPLOYS_OPEN, 80, 36);
}

fn setting_up(setup: SetupScreen, columns: u16, rows: u16) -> Driven {
    Driven {
        app: App::new(NOW, TimeZone::UTC, (columns, rows), Theme::default()).with_setup(setup),
        effects: Vec::new(),
        draws: 0,
        world: Store::empty(),
    }
}

fn server(registration: Registration) -> Msg {
    Msg::Setup(Ok(SetupAnswer::Server { name: "Example \x1b[1m".into(), registration }))
}

#[test]
fn the_first_run() {
    let mut driven = setting_up(SetupScreen::first_run("default", "", true), 80, 24);
    driven.keys("'chat.example.org' enter");
    snapshot("setup-server", &mut driven);
    driven.msg(Msg::Setup(Err(Problem::new(ProblemKind::Network, "connection refused").hint("Check the address and the port."))));
    snapshot("setup-server-error", &mut driven);
    driven.keys("enter");
    driven.msg(server(Registration::Invite));
    driven.keys("'ana' enter 'correct horse' enter 'correct hose' enter enter");
    snapshot("setup-account", &mut driven);
    driven.keys("ctrl-u 'correct horse' enter 'code' enter");
    snapshot("setup-protection", &mut driven);
    driven.keys("right right enter enter enter");
    driven.msg(Msg::Setup(Ok(SetupAnswer::Ready {
        codes: vec![("With this code you set a new password when you lose yours (chat recover):", SecretText::from("ABCD-EFGH"))],
    })));
    driven.keys("'nope' enter");
    snapshot("setup-code", &mut driven);
    driven.keys("ctrl-u 'efgh' enter");
    assert!(driven.app.setup.is_none());
    assert!(driven.effects.contains(&Effect::Setup(crate::tui::effect::Setup::Finish)));
}

#[test]
fn a_closed_server_lets_people_log_in_only() {
    let mut driven = setting_up(SetupScreen::first_run("default", "chat.example.org", false), 60, 15);
    driven.keys("enter");
    driven.msg(server(Registration::Closed));
    snapshot("setup-closed-60x15", &mut driven);
}

#[test]
fn unlocking() {
    let mut driven = setting_up(SetupScreen::unlock("work"), 40, 10);
    driven.keys("'wrong' enter");
    driven.msg(Msg::Setup(Err(Problem::new(ProblemKind::Locked, "wrong passphrase for profile `work`"))));
    snapshot("unlock-40x10", &mut driven);
    assert!(driven.text().contains("wrong passphrase"));
}
