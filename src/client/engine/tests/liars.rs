//! A server that lies: nothing is lost, nothing forged is believed, no key goes to anybody unverified.

use super::*;
use crate::protocol::codec::Blob;
use crate::protocol::messages::StaleDevices;

/// A conversation of two in which a few words were said.
fn talk() -> (World, ChannelId) {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    world.say(0, dm, "first");
    world.settle();
    world.say(1, dm, "second");
    world.settle();
    (world, dm)
}

/// Changes the next encrypted row that a client receives.
fn tamper_row(world: &mut World, who: Who, change: impl Fn(&mut crate::protocol::messages::Row) + 'static) {
    let mut done = false;
    world.filter = Some(Box::new(move |to, frame| {
        if to == who
            && !done
            && let Some(row) = row_of(frame)
            && row.ciphertext.is_some()
        {
            done = true;
            change(row);
        }
        true
    }));
}

#[test]
fn a_row_under_another_name_is_refused_and_marked() {
    let bo = |world: &World| (world.id(1), 1u32);
    let stranger = |_: &World| (UserId(uuid::Uuid::from_u128(5)), 1u32);
    let no_device = |world: &World| (world.id(0), 7u32);
    for claim in [&bo as &dyn Fn(&World) -> (UserId, DeviceId), &stranger, &no_device] {
        let (mut world, dm) = talk();
        let (user, device) = claim(&world);
        tamper_row(&mut world, 1, move |row| (row.sender_id, row.sender_device) = (Some(user), Some(device)));
        world.say(0, dm, "from ana");
        world.settle();
        let page = world.page(1, dm);
        let last = page.items.last().unwrap();
        assert_eq!(last.body, Body::Undecryptable(Reason::Refused), "{user} {device}");
        assert!(last.marks.contains(&Mark::Forged));
        world.say(0, dm, "still here");
        world.settle();
        assert_eq!(world.texts(1, dm).last().unwrap(), "still here");
    }
}

#[test]
fn forged_hints_are_marked_and_the_signed_words_stay() {
    let (mut world, dm) = talk();
    tamper_row(&mut world, 1, |row| row.thread_id = Some(row.id));
    let key = world.say(0, dm, "not in a thread");
    world.settle();
    let item = world.item(1, dm, key);
    assert_eq!((text_of(&item).as_deref(), item.thread_root), (Some("not in a thread"), None));
    assert!(item.marks.contains(&Mark::Forged));
}

#[test]
fn another_row_id_than_the_signed_one_is_marked() {
    let (mut world, dm) = talk();
    tamper_row(&mut world, 1, |row| row.id = MessageId(uuid::Uuid::from_u128(99)));
    let key = world.say(0, dm, "my own id");
    world.settle();
    let item = world.item(1, dm, key);
    assert!(item.marks.contains(&Mark::Forged));
    assert_eq!(text_of(&item).as_deref(), Some("my own id"));
}

#[test]
fn damaged_frames_are_shown_as_such_and_break_nothing() {
    for damage in 0..3 {
        let (mut world, dm) = talk();
        tamper_row(&mut world, 1, move |row| {
            let Some(Blob(bytes)) = &mut row.ciphertext else { return };
            match damage {
                0 => bytes.truncate(100),
                1 => *bytes.last_mut().unwrap() ^= 1,
                _ => bytes[0] = 9,
            }
        });
        world.say(0, dm, "damaged on the way");
        world.run();
        let shown = world.texts(1, dm);
        assert!(shown.last().unwrap().starts_with('<'), "{shown:?}");
        world.say(0, dm, "whole");
        world.advance(30_000);
        let texts = world.texts(1, dm);
        assert!(texts.contains(&"whole".to_owned()), "{damage}: {texts:?}");
        if damage == 1 {
            assert!(texts.contains(&"damaged on the way".to_owned()), "it was asked for again: {texts:?}");
        }
    }
}

#[test]
fn repeated_and_reordered_rows_are_shown_once_and_in_order() {
    let (mut world, dm) = talk();
    world.filter = Some(Box::new(|_, _| false));
    for n in 0..4 {
        let place = Place { channel_id: dm, thread: None };
        world.command(
            0,
            Command::SendText { place, text: format!("row {n}").into(), reply_to: None, mentions: Vec::new(), id: None },
        );
        world.disconnect(0);
        world.filter = None;
        world.connect(0);
        world.run();
        world.filter = Some(Box::new(|to, _| to == 0));
    }
    world.settle();
    world.filter = None;
    let rows: Vec<_> = world.server.channels[&dm].rows.clone();
    let addr = world.clients[1].addr.unwrap();
    for stored in rows.iter().rev().chain(&rows).chain(&rows) {
        let row = world.server.row_for(stored, addr);
        let seq = row.seq;
        let event = crate::protocol::streams::StreamItem::Row(Box::new(row));
        let frame = ServerFrame::Event(crate::protocol::streams::StreamEvent { stream: dm.into(), seq, event });
        world.deliver(vec![(addr, frame)]);
    }
    world.settle();
    assert_eq!(world.agreed(dm, &[0, 1]), ["first", "second", "row 0", "row 1", "row 2", "row 3"]);
}

#[test]
fn a_replayed_ciphertext_in_a_new_row_says_nothing() {
    let (mut world, dm) = talk();
    let mut stored = world.server.channels[&dm].rows[0].clone();
    let log = world.server.channels.get_mut(&dm).unwrap();
    stored.row.seq = log.rows.len() as u64 + 1;
    stored.row.id = MessageId(uuid::Uuid::from_u128(77));
    log.rows.push(stored);
    world.disconnect(1);
    world.connect(1);
    world.settle();
    assert_eq!(world.texts(1, dm), ["first", "second"]);
    world.say(0, dm, "third");
    world.settle();
    assert_eq!(world.texts(1, dm).last().unwrap(), "third");
}

#[test]
fn dropped_pushes_are_fetched() {
    let (mut world, dm) = talk();
    let mut n = 0;
    world.filter = Some(Box::new(move |_, frame| {
        n += 1;
        !(matches!(frame, ServerFrame::Event(_) | ServerFrame::DeviceMessage(_)) && n % 3 == 0)
    }));
    for n in 0..12 {
        world.say(n % 2, dm, &format!("m{n}"));
        world.settle();
    }
    world.filter = None;
    let streams = world.server.streams_of(world.id(0));
    let addrs: Vec<_> = (0..2).map(|who| world.clients[who].addr.unwrap()).collect();
    world.deliver(addrs.into_iter().map(|addr| (addr, ServerFrame::Heads { streams: streams.clone() })).collect());
    world.settle();
    assert_eq!(world.agreed(dm, &[0, 1]).len(), 14);
}

#[test]
fn a_deletion_by_the_server_alone_hides_nothing_that_is_known() {
    let (mut world, dm) = talk();
    let row = &mut world.server.channels.get_mut(&dm).unwrap().rows[0].row;
    row.deleted_at = Some(Timestamp(START));
    let (addr, row) = (world.clients[1].addr.unwrap(), row.clone());
    world.clients[1].engine.sync.phase = super::super::sync::Phase::Live;
    let mut again = row.clone();
    again.seq = 3;
    let event = crate::protocol::streams::StreamItem::Row(Box::new(again));
    world.deliver(vec![(addr, ServerFrame::Event(crate::protocol::streams::StreamEvent { stream: dm.into(), seq: 3, event }))]);
    world.run();
    let page = world.page(1, dm);
    let first = page.items.iter().find(|item| item.key.id == row.id).unwrap();
    assert_eq!(text_of(first).as_deref(), Some("first"));
    assert!(first.marks.contains(&Mark::HiddenByServer));
}

#[test]
fn a_device_that_nobody_signed_gets_no_copy() {
    let (mut world, dm) = talk();
    let bo = world.id(1);
    let ghost = DeviceAddr { user_id: bo, device_id: 9 };
    let real = world.clients[1].addr.unwrap();
    let lists = [(bo, 1), (world.id(0), 1)].into();
    let id = world.say(0, dm, "for real devices only").id;
    world.settle();
    assert_eq!(id.0.get_version_num(), 7);
    // A liar asks for one more device.
    let stale = StaleDevices { missing: vec![ghost], extra: Vec::new(), device_lists: lists };
    world.server.refuse_sends = Some((crate::protocol::error::ErrorCode::StaleDevices, 1));
    world.server.refuse_details = Some(serde_json::to_value(stale).unwrap());
    world.say(0, dm, "and again");
    world.settle();
    assert!(world.notices(0).iter().any(|text| text.contains("no signed list")), "{:?}", world.notices(0));
    for stored in &world.server.channels[&dm].rows {
        assert!(stored.copies.keys().all(|addr| *addr == real || addr.user_id == world.id(0)));
    }
    assert_eq!(world.texts(1, dm).last().unwrap(), "and again");
}

#[test]
fn a_swapped_key_in_a_bundle_is_refused() {
    let mut world = World::of(&["ana", "bo", "eve"]);
    let eve = world.server.accounts[&world.id(2)].devices[&1].certificate.clone();
    world.tamper = Some(Box::new(move |_, request, answer| {
        if request.path == "/users/bundles" {
            for user in answer["items"].as_object_mut().unwrap().values_mut() {
                for bundle in user["bundles"].as_array_mut().unwrap() {
                    bundle["certificate"] = serde_json::to_value(Blob(eve.clone())).unwrap();
                }
            }
        }
    }));
    let dm = world.dm(0, 1);
    world.settle();
    world.say(0, dm, "for bo");
    world.settle();
    assert!(!world.notices(0).is_empty());
    assert_eq!(world.texts(1, dm), Vec::<String>::new());
    for stored in &world.server.channels[&dm].rows {
        assert!(stored.copies.is_empty(), "nothing was encrypted for the wrong key");
    }
    // When the server tells the truth again, the message goes.
    world.tamper = None;
    world.advance(20 * 60_000);
    assert_eq!(world.agreed(dm, &[0, 1]), ["for bo"]);
}

#[test]
fn keys_and_lists_that_do_not_hold_stop_what_is_written_and_are_looked_at_again() {
    for path in ["/users/bundles", "/users/devices"] {
        let mut world = World::of(&["ana", "bo", "eve"]);
        let eve = world.server.accounts[&world.id(2)].devices[&1].signed.clone().unwrap();
        let bo = world.id(1).to_string();
        world.tamper = Some(Box::new(move |who, request, answer| {
            let Some(user) = answer["items"].get_mut(&bo).filter(|_| who == 0 && request.path == path) else { return };
            for bundle in user["bundles"].as_array_mut().into_iter().flatten() {
                bundle["signed_prekey"] = serde_json::to_value(&eve).unwrap();
            }
            for list in user["lists"].as_array_mut().into_iter().flatten() {
                let mut bytes = serde_json::from_value::<Blob>(list.clone()).unwrap().0;
                *bytes.last_mut().unwrap() ^= 1;
                *list = serde_json::to_value(Blob(bytes)).unwrap();
            }
        }));
        let dm = world.dm(0, 1);
        world.settle();
        for text in ["for bo", "and this"] {
            world.say(0, dm, text);
            world.settle();
            let blocked = world.node(0, dm).blocked;
            assert!(matches!(blocked, Some(SendBlock::Away { refused: true, .. })), "{path}: {blocked:?}");
            let notices = world.notices(0);
            assert!(notices.iter().any(|text| text.contains("hold")), "{path}: {notices:?}");
        }
        assert_eq!(world.texts(1, dm), Vec::<String>::new());
        world.tamper = None;
        world.say(0, dm, "at last");
        world.settle();
        assert_eq!(world.agreed(dm, &[0, 1]), ["for bo", "and this", "at last"]);
        assert_eq!(world.node(0, dm).blocked, None);
    }
}

#[test]
fn a_logout_that_the_server_did_not_hear_of_says_that_the_session_lives_on() {
    let (mut world, _) = talk();
    world.cut = Some(Box::new(|_, request| request.path == "/auth/logout"));
    let problem = world.ask(0, Command::LogOut).unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Network);
    assert!(problem.text.raw().contains("lives on"), "{:?}", problem.text.raw());
    // Nobody is logged in: there is nothing more to end.
    world.input(0, Input::Line(Line::LoggedOut { why: "nobody is logged in".into() }));
    assert_eq!(world.ask(0, Command::LogOut), Ok(Answer::Ok));
}

#[test]
fn a_swapped_identity_after_first_contact_changes_nothing_silently() {
    let (mut world, dm) = talk();
    // Mallory makes keys for bo's very user id.
    let mut evil = World::new();
    evil.rng = TestRng::new(666);
    let user = world.clients[1].user.clone();
    evil.server.accounts.entry(user.id).or_default().user = Some(user.clone());
    evil.server.streams.entry(user.id.into()).or_default();
    let mallory = evil.add_client(user.clone(), MemoryStore::new());
    evil.log_in(mallory);
    evil.settle();
    let account = evil.server.accounts[&user.id].clone();
    let identity = account.identity.clone().unwrap();
    let bo = world.id(1);
    world.tamper = Some(Box::new(move |_, request, answer| {
        if request.path == "/users/devices" {
            for (user, devices) in answer["items"].as_object_mut().unwrap() {
                if *user == bo.to_string() {
                    devices["identity_key"] = serde_json::to_value(Blob(identity.clone())).unwrap();
                    devices["lists"] = serde_json::to_value([Blob(account.lists[0].clone())]).unwrap();
                    let certs: Vec<Blob> = account.certs.values().map(|cert| Blob(cert.clone())).collect();
                    devices["certificates"] = serde_json::to_value(certs).unwrap();
                }
            }
        }
    }));
    let mut pushes = Vec::new();
    let event = crate::protocol::streams::Event::DeviceList { user_id: bo, list_seq: 5 };
    world.server.emit(world.id(0).into(), event, &mut pushes);
    world.deliver(pushes);
    world.settle();
    assert!(matches!(world.node(0, dm).blocked, Some(SendBlock::IdentityChanged { was_verified: false, .. })));
    world.say(0, dm, "for the real bo");
    world.settle();
    assert_eq!(world.server.channels[&dm].rows.len(), 2, "nothing was encrypted for the other key");
    assert!(world.page(0, dm).items.iter().any(|item| matches!(item.body, Body::System(SystemLine::IdentityChanged { .. }))));
    // What the real bo writes is still read under the old pin.
    world.say(1, dm, "it is still me");
    world.settle();
    assert!(world.texts(0, dm).contains(&"it is still me".to_owned()), "{:?}", world.texts(0, dm));
}

#[test]
fn an_injected_member_is_shown_as_unsigned_and_gets_no_key() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo", "eve"]);
    let eve = world.id(2);
    world.ask(0, Command::Kick { domain: community_id.into(), user_id: eve, ban: false, reason: None }).unwrap();
    world.settle();
    // The server puts eve back into its own list of members, and invents an op.
    let member = crate::protocol::communities::Member {
        user: world.clients[2].user.clone(),
        role: crate::protocol::communities::Role::Admin,
        role_ids: Vec::new(),
        nickname: None,
        joined_at: Timestamp(START),
    };
    let mut pushes = Vec::new();
    world.server.emit(community_id.into(), crate::protocol::streams::Event::Member { member }, &mut pushes);
    let mut op = world.server.logs[&community_id.into()].ops[2].clone();
    let head = world.server.logs[&community_id.into()].log.epoch() + 1;
    op[17..25].copy_from_slice(&head.to_be_bytes());
    op[25..57].copy_from_slice(&world.server.logs[&community_id.into()].log.newest_head());
    let event = crate::protocol::streams::Event::LogOp { log_id: community_id.into(), log_seq: head, op: op.into() };
    world.server.emit(community_id.into(), event, &mut pushes);
    world.deliver(pushes);
    world.settle();
    assert!(world.notices(0).iter().any(|text| text.contains("does not hold")), "{:?}", world.notices(0));
    let Ok(Answer::Members(members)) = world.ask(0, Command::ListMembers { channel_id: channel }) else { panic!() };
    assert!(members.iter().any(|member| member.user_id == eve && member.unsigned));
    world.say(0, channel, "not for eve");
    world.settle();
    assert_eq!(world.texts(1, channel).last().unwrap(), "not for eve");
    let given = world.clients[0].store.scan(crate::client::store::Table::ChainGiven, channel.as_bytes(), None, 100).unwrap();
    let chain = world.clients[0].engine.own_chains[&channel].chain.chain_id().to_be_bytes();
    assert!(given.iter().all(|(at, _)| at[16..20] != chain || at[20..36] != *eve.as_bytes()));
    assert!(world.tree(0).communities[0].warning.is_some());
}

#[test]
fn a_fork_of_the_log_stops_it() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo"]);
    let log_id: LogId = community_id.into();
    // Ana signs two ops for one place, as a thief of her key would.
    let engine = &world.clients[0].engine;
    let log = engine.logs[&log_id].log.clone();
    let signer = engine.signer().unwrap();
    let change = crate::crypto::membership::Change::Open(true);
    let one = log.sign(&signer, &change, 1).unwrap();
    let two = log.sign(&signer, &change, 2).unwrap();
    let mut pushes = Vec::new();
    for op in [one, two] {
        let log_seq = log.epoch() + 1;
        let event = crate::protocol::streams::Event::LogOp { log_id, log_seq, op: op.into() };
        world.server.emit(community_id.into(), event, &mut pushes);
    }
    world.deliver(pushes);
    world.settle();
    assert!(world.notices(1).iter().any(|text| text.contains("same place")), "{:?}", world.notices(1));
    assert_eq!(world.node(1, channel).blocked, Some(SendBlock::LogStopped));
    world.say(1, channel, "held back");
    world.settle();
    assert_eq!(world.tree(1).waiting, 1);
}

/// Somebody's first op for a log, other than the one that it has, as a member would tell it.
fn other_beginning(engine: &Engine, log_id: LogId, kind: crate::crypto::membership::LogKind) -> crate::crypto::content::Body {
    let signer = engine.signer().unwrap();
    let identity = *engine.contacts[&engine.me_id()].identity();
    let mut rng = crate::crypto::testing::TestRng::new(9);
    let genesis = crate::crypto::membership::Log::create(*log_id.as_bytes(), kind, &signer, &identity, &mut rng, 1);
    crate::crypto::content::Body::MembershipOps(crate::crypto::content::MembershipOps {
        channel_id: log_id.as_bytes().to_vec(),
        log_id: log_id.as_bytes().to_vec(),
        head: crate::crypto::kdf::hash(&[&genesis]).to_vec(),
        genesis,
        head_seq: 0,
        ops: Vec::new(),
    })
}

#[test]
fn a_channel_with_two_beginnings_says_so_and_takes_no_message() {
    let (mut world, _, public) = World::shared(&["ana", "bo"]);
    let group_id = world.node(0, public).group_id.unwrap();
    let private = world.channel(0, group_id, Visibility::Private);
    let bo = world.id(1);
    world.step(0, |engine, cx| {
        let body = other_beginning(engine, private.into(), crate::crypto::membership::LogKind::Channel);
        engine.send_control(cx, bo, body).unwrap();
        engine.pump(cx).unwrap();
    });
    world.settle();
    world.ask(0, Command::AddMember { domain: private.into(), user_id: bo }).unwrap();
    world.settle();
    let stopped = |world: &World| world.node(1, private).blocked == Some(SendBlock::LogStopped);
    assert!(stopped(&world), "{:?}", world.node(1, private).blocked);
    let about = |world: &mut World| {
        warnings(world, 1, private).into_iter().filter(|text| text.contains("another beginning")).collect::<Vec<_>>()
    };
    assert!(about(&mut world).iter().any(|text| text.contains("ana names")), "{:?}", about(&mut world));
    world.say(1, private, "to whom?");
    world.say(0, private, "from ana");
    world.settle();
    assert_eq!(world.tree(1).waiting, 1, "nothing is sent");
    let warned = about(&mut world).len();
    world.restart(1);
    assert!(stopped(&world), "it is known before the server was asked again");
    world.settle();
    assert_eq!(about(&mut world).len(), warned, "it is said once");
    let Err(problem) = world.ask(1, Command::ShowForks { channel_id: private }) else { panic!("there is nothing to choose") };
    assert_eq!(problem.kind, ProblemKind::Crypto);
    assert_eq!(world.texts(1, public), Vec::<String>::new());
    world.say(1, public, "elsewhere it goes on");
    world.settle();
    assert_eq!(world.texts(0, public), ["elsewhere it goes on"]);
}

#[test]
fn a_second_beginning_that_a_member_signed_stops_a_known_log() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo"]);
    let bo = world.id(1);
    world.step(0, |engine, cx| {
        let body = other_beginning(engine, community_id.into(), crate::crypto::membership::LogKind::Group);
        engine.send_control(cx, bo, body).unwrap();
        engine.pump(cx).unwrap();
    });
    world.settle();
    assert_eq!(world.node(1, channel).blocked, Some(SendBlock::LogStopped));
    let warned = warnings(&mut world, 1, channel);
    for words in ["ana knows another beginning", "claim the same place"] {
        assert_eq!(warned.iter().filter(|text| text.contains(words)).count(), 1, "{warned:?}");
    }
}

#[test]
fn an_admin_lets_a_stopped_log_go_on_for_everybody() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo"]);
    let log_id: LogId = community_id.into();
    world.say(1, channel, "before");
    world.settle();
    let chain = |world: &World| world.clients[1].engine.own_chains[&channel].chain.chain_id();
    let before = chain(&world);
    // Two ops for one place: what ana's device does, and what a thief of its key signed.
    let engine = &world.clients[0].engine;
    let stolen = engine.logs[&log_id]
        .log
        .sign(&engine.signer().unwrap(), &crate::crypto::membership::Change::Open(true), START as u64)
        .unwrap();
    let stolen_op = crate::crypto::membership::Op::parse(&stolen).unwrap();
    world.invite(0, community_id);
    world.settle();
    let show = |world: &mut World, seq| {
        let event = crate::protocol::streams::Event::LogOp { log_id, log_seq: seq, op: stolen.clone().into() };
        let mut pushes = Vec::new();
        world.server.emit(community_id.into(), event, &mut pushes);
        world.deliver(pushes);
        world.settle();
    };
    show(&mut world, stolen_op.seq);
    for who in 0..2 {
        assert_eq!(world.node(who, channel).blocked, Some(SendBlock::LogStopped));
    }
    world.say(1, channel, "held back");
    world.settle();

    world.restart(0);
    world.settle();
    let Ok(Answer::Forks(forks)) = world.ask(0, Command::ShowForks { channel_id: channel }) else { panic!("what stopped it") };
    let [fork] = forks.as_slice() else { panic!("{forks:?}") };
    assert_eq!((fork.seq, fork.discard.as_str()), (stolen_op.seq, hex::encode(stolen_op.head).as_str()));
    assert_eq!((fork.kept.by.raw(), fork.kept.what.raw()), ("ana", "made an invite"));
    assert_eq!((fork.other.by.raw(), fork.other.what.raw()), ("ana", "let everybody join without an invite"));
    assert_eq!(fork.other.signed_at, Timestamp(START));

    let resume = |discard: &str| Command::Resume { channel_id: channel, discard: discard.to_owned() };
    let kind = |answer: Result<Answer, Problem>| answer.unwrap_err().kind;
    assert_eq!(kind(world.ask(1, resume(&fork.discard))), ProblemKind::Permission, "bo is no admin");
    assert_eq!(kind(world.ask(0, resume("00"))), ProblemKind::NotFound);
    assert_eq!(world.ask(0, resume(&fork.discard)), Ok(Answer::Ok));
    world.settle();
    for who in 0..2 {
        assert_eq!(world.node(who, channel).blocked, None);
        assert_eq!(world.ask(who, Command::ShowForks { channel_id: channel }), Ok(Answer::Forks(Vec::new())));
    }
    assert_eq!(world.agreed(channel, &[0, 1]), ["before", "held back"]);
    assert_ne!(chain(&world), before, "new keys after a stop");
    assert_eq!(kind(world.ask(0, resume(&fork.discard))), ProblemKind::NotFound, "it is not stopped any more");
    // The same op again stops nothing.
    show(&mut world, stolen_op.seq);
    assert_eq!(world.node(1, channel).blocked, None);
}

/// What a conversation warns of.
pub(super) fn warnings(world: &mut World, who: Who, channel: ChannelId) -> Vec<String> {
    let items = world.page(who, channel).items;
    items
        .iter()
        .filter_map(|item| match &item.body {
            Body::System(SystemLine::Warning(text)) => Some(text.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_message_that_the_server_holds_back_from_a_conversation_is_missed_after_a_day() {
    const DAY: i64 = 24 * 3_600_000;
    let (mut world, dm) = talk();
    world.disconnect(1);
    world.say(0, dm, "held back by the server");
    world.settle();
    world.server.channels.get_mut(&dm).unwrap().rows.pop();
    world.say(0, dm, "this one comes");
    world.settle();
    world.connect(1);
    world.settle();
    assert_eq!(world.texts(1, dm).last().unwrap(), "this one comes");
    world.advance(DAY / 2);
    assert_eq!(warnings(&mut world, 1, dm), Vec::<String>::new(), "it may still be on its way");
    world.advance(2 * DAY);
    let told = warnings(&mut world, 1, dm);
    assert!(told.len() == 1 && told[0].contains("One thing") && told[0].contains("did not arrive"), "{told:?}");
    // Each is told once, also to whom the client was restarted.
    world.restart(1);
    world.advance(3 * DAY);
    assert_eq!(warnings(&mut world, 1, dm), told);
    assert_eq!(warnings(&mut world, 0, dm), Vec::<String>::new());
}

#[test]
fn garbage_in_every_place_is_survived() {
    let (mut world, dm) = talk();
    let addr = world.clients[0].addr.unwrap();
    for n in 0..300u64 {
        let message = crate::protocol::devices::DeviceMessage {
            inbox_seq: world.clients[0].engine.sync.inbox_seq + 1,
            from_user: UserId(uuid::Uuid::from_u128(u128::from(n % 7))),
            from_device: (n % 5) as u32,
            ciphertext: Blob(vec![(n % 4) as u8; (n * 37 % 3000) as usize]),
            nonce: Blob(vec![0; (n % 14) as usize]),
            created_at: Timestamp(START),
        };
        world.deliver(vec![(addr, ServerFrame::DeviceMessage(message))]);
        world.run();
    }
    world.settle();
    world.say(0, dm, "still alive");
    world.settle();
    assert_eq!(world.texts(1, dm).last().unwrap(), "still alive");
}

#[test]
fn a_head_that_the_server_never_shows_the_way_to_is_not_asked_for_without_end() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo"]);
    let before = world.server.requests.len();
    world.tamper = Some(Box::new(|_, request, answer| {
        if request.path.contains("/log-ops") {
            answer["head_seq"] = serde_json::json!(1_000);
        }
    }));
    let log_id = LogId::from(community_id);
    world.clients[1].engine.look_at_log(log_id);
    world.input(1, Input::Tick);
    world.advance(60_000);
    let asked = world.server.requests[before..].iter().filter(|request| request.contains("/log-ops")).count();
    assert!((2..12).contains(&asked), "asked {asked} times in a minute");
    world.tamper = None;
    world.say(0, channel, "still here");
    world.settle();
    assert_eq!(world.texts(1, channel), ["still here"]);
}

#[test]
fn an_op_that_a_member_made_up_does_not_take_the_place_of_the_real_one() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo", "carol"]);
    let log_id = LogId::from(community_id);
    let epoch = world.clients[1].engine.logs[&log_id].log.epoch();
    // A real op of another log with the right numbers in it, signed by nobody.
    let genuine = world.server.logs[&log_id].ops[epoch as usize].clone();
    let mut made_up = genuine;
    made_up[17..25].copy_from_slice(&(epoch + 1).to_be_bytes());
    let carol = world.id(2);
    let ops = crate::crypto::content::MembershipOps {
        channel_id: log_id.as_bytes().to_vec(),
        log_id: log_id.as_bytes().to_vec(),
        genesis: world.server.logs[&log_id].ops[0].clone(),
        head_seq: epoch + 1,
        head: Vec::new(),
        ops: vec![made_up],
    };
    let body = crate::crypto::content::Body::MembershipOps(ops);
    let to = world.id(1);
    world.step(2, |engine, cx| engine.send_control(cx, to, body).unwrap());
    world.settle();
    world
        .ask(
            0,
            Command::SetRole { domain: community_id.into(), user_id: carol, role: crate::protocol::communities::Role::Moderator },
        )
        .unwrap();
    world.settle();
    world.say(1, channel, "all is well");
    world.settle();
    assert_eq!(world.agreed(channel, &[0, 1]), ["all is well"]);
    assert!(world.notices(1).is_empty(), "{:?}", world.notices(1));
}

#[test]
fn rows_that_name_a_change_of_members_that_there_is_not_are_shown_after_a_while() {
    let (mut world, _, channel) = World::shared(&["ana", "bo"]);
    world.say(0, channel, "before");
    world.settle();
    world.filter = Some(Box::new(|to, frame| {
        if to == 1
            && let Some(row) = row_of(frame)
            && row.log_seq.is_some()
        {
            row.log_seq = Some(500);
        }
        true
    }));
    world.say(0, channel, "under members of the future");
    world.settle();
    assert_eq!(world.texts(1, channel), ["before"]);
    world.advance(120_000);
    assert_eq!(world.texts(1, channel), ["before", "under members of the future"]);
    world.filter = None;
    world.say(0, channel, "after");
    world.settle();
    assert_eq!(world.agreed(channel, &[0, 1]).len(), 3);
}

#[test]
fn changes_of_members_that_the_server_has_lost_are_told_and_nothing_is_sent_until_it_shows_them() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo"]);
    world.say(0, channel, "before");
    world.settle();
    let backup = world.server.clone();
    world.ask(0, Command::CreateInvite { community_id, max_uses: None, expires_in_s: None }).unwrap();
    world.settle();
    let newer = world.server.clone();
    let restore = |world: &mut World, mut server: Server, epoch: u128| {
        (server.now, server.epoch) = (world.server.now, EpochId(uuid::Uuid::from_u128(epoch)));
        world.server = server;
        world.server.online.clear();
        for who in [0, 1] {
            world.disconnect(who);
            world.connect(who);
        }
        world.settle();
    };
    restore(&mut world, backup, 2);
    let lost = |world: &mut World, who| {
        warnings(world, who, channel).into_iter().filter(|text| text.contains("does not have the last change")).count()
    };
    for who in [0, 1] {
        assert_eq!(world.node(who, channel).blocked, Some(SendBlock::LogStopped), "{who}");
        assert_eq!(lost(&mut world, who), 1, "{who}");
    }
    let Err(problem) = world.ask(0, Command::ShowForks { channel_id: channel }) else { panic!("there is nothing to choose") };
    assert_eq!(problem.kind, ProblemKind::Crypto);
    world.say(0, channel, "kept");
    world.settle();
    world.restart(0);
    world.connect(0);
    world.settle();
    assert_eq!((world.tree(0).waiting, lost(&mut world, 0)), (1, 1), "it waits, and it is said once");

    restore(&mut world, newer, 3);
    assert_eq!(world.node(0, channel).blocked, None);
    assert_eq!(world.agreed(channel, &[0, 1]), ["before", "kept"]);
}
