//! Peers and servers that use the protocol against somebody: what they claim binds nobody, what they send changes nothing that is
//! not theirs, and what must be gone is gone.

use std::cell::RefCell;
use std::rc::Rc;

use super::conversations::reset_identity;
use super::liars::warnings;
use super::*;
use crate::client::engine::db::Db;
use crate::client::engine::held::HeldFrame;
use crate::client::engine::receive::Incoming;
use crate::client::engine::sessions::dm_key;
use crate::client::engine::{Cx, Method};
use crate::client::store::{StoreError, Table};
use crate::crypto::content as tc;
use crate::crypto::device_list::DeviceList;
use crate::crypto::frame::Frame;
use crate::crypto::membership::{Log, LogKind};
use crate::crypto::signature::SigningKey;
use crate::protocol::codec::Blob;
use crate::protocol::devices::UserDevices;
use crate::protocol::messages::RowKind;
use crate::protocol::streams::Event;

const DAY: i64 = 86_400_000;

/// Lets the device of a client do something that its user interface has no command for.
fn act(world: &mut World, who: Who, what: impl FnOnce(&mut Engine, &mut Cx<'_>) -> Result<(), StoreError>) {
    world.server.now += 1;
    let now = Timestamp(world.server.now);
    let client = &mut world.clients[who];
    let mut cx = Cx {
        db: Db::new(&client.store),
        now,
        rng: &mut world.rng,
        out: Vec::new(),
        touched: Default::default(),
        removed: Vec::new(),
        ack_inbox: None,
    };
    what(&mut client.engine, &mut cx).unwrap();
    client.engine.pump(&mut cx).unwrap();
    client.engine.finish(&mut cx).unwrap();
    let (changes, after) = (cx.db.changes, cx.out);
    client.store.save(changes).unwrap();
    for output in after {
        world.perform(who, output);
    }
}

/// A conversation of two in which both have spoken.
fn talk() -> (World, ChannelId) {
    let mut world = World::of(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    for who in [0, 1] {
        world.say(who, dm, "hello");
        world.settle();
    }
    (world, dm)
}

/// The list after the newest one that its owner knows, naming these of its devices.
fn sign_list(world: &World, who: Who, devices: &[DeviceId], issued: u64) -> Vec<u8> {
    let engine = &world.clients[who].engine;
    let own = &engine.contacts[&engine.me_id()];
    let identity = engine.keys.as_ref().unwrap().device.identity_secret().unwrap();
    let certs: Vec<_> = own.certificates().filter(|cert| devices.contains(&cert.addr().device_id)).collect();
    DeviceList::sign(identity, own.user_id(), Some(own.list()), &certs, issued).unwrap().as_bytes().to_vec()
}

fn served(lists: &[Vec<u8>]) -> UserDevices {
    UserDevices {
        identity_key: Some(Blob(vec![1; 32])),
        head_seq: 0,
        lists: lists.iter().map(|list| list.as_slice().into()).collect(),
        certificates: Vec::new(),
    }
}

fn count(world: &World, who: Who, table: Table, prefix: &[u8]) -> usize {
    world.clients[who].store.scan(table, prefix, None, 10_000).unwrap().len()
}

/// How many frames the first device of somebody was ever sent.
fn inbox(world: &World, who: Who) -> u64 {
    world.server.accounts[&world.id(who)].devices[&1].inbox_seq
}

// --- Device lists and identities ---

#[test]
fn trust_takes_no_older_list_than_the_pinned_one() {
    let (mut world, _) = talk();
    world.second_device(1);
    world.settle();
    assert_eq!(world.ask(1, Command::RemoveDevice { device_id: 2 }), Ok(Answer::Ok));
    world.settle();
    let bo = world.id(1);
    let pinned = |world: &World| world.clients[0].engine.contacts[&bo].list().seq();
    assert_eq!(pinned(&world), 3);
    // The server shows the time when the removed device was still there.
    world.tamper = Some(Box::new(|_, request, answer| {
        if request.method == Method::Get && request.path.contains("/devices?after=0") {
            answer["lists"].as_array_mut().unwrap().pop();
        }
    }));
    let _ = world.ask(0, Command::Trust { user_id: bo, send_waiting: true });
    world.settle();
    assert_eq!(pinned(&world), 3);
    assert!(world.clients[0].engine.contacts[&bo].certificate(2).is_none(), "the removed device is not back");
}

#[test]
fn what_changed_while_a_contact_was_stopped_is_shown_and_cut_off() {
    let (mut world, dm) = talk();
    world.second_device(1);
    world.settle();
    world.say(0, dm, "to both devices");
    world.settle();
    let bo = world.id(1);
    let phone = super::super::db::addr_key(DeviceAddr { user_id: bo, device_id: 2 });
    assert!(count(&world, 0, Table::Sessions, &phone) > 0);
    let (fork, honest) = (sign_list(&world, 1, &[1, 2], 5), sign_list(&world, 1, &[1], 6));
    act(&mut world, 0, |engine, cx| engine.apply_lists(cx, bo, &served(&[fork])));
    assert!(world.server.publish(bo, honest.clone(), Vec::new(), &mut Vec::new()).is_ok());
    act(&mut world, 0, |engine, cx| engine.apply_lists(cx, bo, &served(std::slice::from_ref(&honest))));
    assert!(matches!(world.node(0, dm).blocked, Some(SendBlock::Equivocation { .. })));
    assert_eq!(world.ask(0, Command::Trust { user_id: bo, send_waiting: true }), Ok(Answer::Ok));
    world.settle();
    assert_eq!(world.clients[0].engine.contacts[&bo].list().as_bytes(), honest);
    assert_eq!(count(&world, 0, Table::Sessions, &phone), 0, "no session with the removed device is left");
    let shown = world.page(0, dm).items;
    assert!(shown.iter().any(|item| matches!(item.body, Body::System(SystemLine::DeviceRemoved { device_id: 2, .. }))));
}

#[test]
fn the_own_identity_is_not_given_up_on_the_servers_word() {
    let (mut world, _) = talk();
    let (ana, bo) = (world.id(0), world.id(1));
    let foreign = world.server.accounts[&bo].identity.clone().unwrap();
    let ours = *world.clients[0].engine.contacts[&ana].identity().as_bytes();
    act(&mut world, 0, |engine, cx| {
        let identity = crate::crypto::signature::VerifyKey::import(foreign[..].try_into().unwrap()).unwrap();
        let changed = engine.contacts[&ana].with_new_identity(identity);
        engine.identity_changed(cx, ana, changed)
    });
    let mallory = LocalAccount::of(ana);
    let (list, cert) = (mallory.list.clone(), mallory.cert.clone());
    world.tamper = Some(Box::new(move |_, request, answer| {
        if request.path.contains("/devices?after=0") {
            answer["lists"] = serde_json::to_value([Blob(list.clone())]).unwrap();
            answer["certificates"] = serde_json::to_value([Blob(cert.clone())]).unwrap();
        }
    }));
    for _ in 0..2 {
        assert!(world.ask(0, Command::Trust { user_id: ana, send_waiting: true }).is_err());
    }
    assert_eq!(*world.clients[0].engine.contacts[&ana].identity().as_bytes(), ours);
}

/// Keys that a server makes for a user id.
struct LocalAccount {
    list: Vec<u8>,
    cert: Vec<u8>,
}

impl LocalAccount {
    fn of(user: UserId) -> Self {
        use crate::crypto::identity::LocalDevice;
        let (device, list) = LocalDevice::first(*user.as_bytes(), 1, &mut TestRng::new(99)).unwrap();
        Self { list: list.as_bytes().to_vec(), cert: device.certificate().as_bytes().to_vec() }
    }
}

#[test]
fn a_list_from_a_session_does_not_settle_what_the_server_announced() {
    let (mut world, _) = talk();
    let bo = world.id(1);
    act(&mut world, 0, |engine, cx| {
        engine.mark_list_stale(cx, bo, u64::MAX)?;
        engine.take_devlist(cx, bo, &[], &[])?;
        assert!(engine.lists.stale.contains(&bo), "the server's list is still to be fetched");
        Ok(())
    });
}

#[test]
fn a_device_list_that_the_server_hides_is_reported() {
    let (mut world, dm) = talk();
    let bo = world.id(1);
    // Whatever ana asks about bo, the server knows of nothing new.
    world.tamper = Some(Box::new(move |who, request, answer| {
        if who == 0
            && request.path == "/users/devices"
            && let Some(devices) = answer["items"].get_mut(bo.to_string())
        {
            devices["lists"] = serde_json::json!([]);
        }
    }));
    let list = sign_list(&world, 1, &[1], 7);
    assert!(world.server.publish(bo, list.clone(), Vec::new(), &mut Vec::new()).is_ok());
    act(&mut world, 1, |engine, cx| engine.apply_lists(cx, bo, &served(&[list])));
    world.say(1, dm, "under my new list");
    world.settle();
    let hiding = |world: &World| world.notices(0).iter().filter(|text| text.contains("hiding")).count();
    assert_eq!(hiding(&world), 1, "{:?}", world.notices(0));
    world.say(1, dm, "and again");
    world.settle();
    assert_eq!(hiding(&world), 1, "once is enough");
    assert_eq!(world.texts(0, dm).last().unwrap(), "and again");
}

#[test]
fn an_old_list_that_was_never_published_is_reported() {
    let (mut world, dm) = talk();
    world.second_device(0);
    world.settle();
    let bo = world.id(1);
    let own = world.clients[0].engine.list_ref(bo).unwrap();
    let mut seen = [0x5A; 24];
    seen[..8].copy_from_slice(&1_u64.to_be_bytes());
    act(&mut world, 0, |engine, cx| engine.hear_gossip(cx, bo, &own, &seen, 1));
    assert!(world.notices(0).iter().any(|text| text.contains("never published")), "{:?}", world.notices(0));
    // It is kept where the user will look, and the next message that says the same adds nothing, to another start neither.
    world.restart(0);
    act(&mut world, 0, |engine, cx| engine.hear_gossip(cx, bo, &own, &seen, 1));
    let page = world.page(0, dm);
    let kept = |item: &&std::sync::Arc<TimelineItem>| matches!(&item.body, Body::System(SystemLine::Warning(text)) if text.contains("never published"));
    assert_eq!(page.items.iter().filter(kept).count(), 1);
}

#[test]
fn an_accepted_new_identity_means_a_new_chain_and_silences_the_old_devices() {
    let (mut world, _, channel) = World::shared(&["ana", "bo"]);
    for who in [0, 1] {
        world.say(who, channel, "hello");
        world.settle();
    }
    let chain = |world: &World| world.clients[0].engine.own_chains[&channel].chain.chain_id();
    let before = chain(&world);
    let bo = world.id(1);
    let old = DeviceAddr { user_id: bo, device_id: 1 };
    reset_identity(&mut world, 1);
    assert_eq!(world.ask(0, Command::Trust { user_id: bo, send_waiting: true }), Ok(Answer::Ok));
    world.settle();
    world.say(0, channel, "not for the old device");
    world.settle();
    assert_ne!(chain(&world), before);
    // The old device goes on speaking with the key that ana has of it.
    let engine = &mut world.clients[1].engine;
    let log_id = engine.places.state(channel).log.unwrap();
    let log = engine.logs[&log_id].log.clone();
    let id = MessageId(uuid::Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001));
    let text = tc::Text { body: "from the old device".into(), ..Default::default() };
    let content = tc::Content::new(*id.as_bytes(), START as u64, *channel.as_bytes(), tc::Body::Text(text));
    let own = engine.own_chains.get_mut(&channel).unwrap();
    let sealed = own.chain.seal(&log, &content.to_bytes().unwrap(), &mut TestRng::new(3), START as u64).unwrap();
    let rows = &mut world.server.channels.get_mut(&channel).unwrap().rows;
    let mut stored = rows.last().unwrap().clone();
    stored.row.seq = rows.len() as u64 + 1;
    (stored.row.id, stored.row.kind) = (id, RowKind::Message);
    (stored.row.sender_id, stored.row.sender_device) = (Some(old.user_id), Some(old.device_id));
    (stored.row.ciphertext, stored.row.nonce) = (Some(sealed.frame.into()), Some(sealed.wire_nonce.into()));
    rows.push(stored);
    world.disconnect(0);
    world.connect(0);
    world.settle();
    assert_eq!(world.texts(0, channel).last().unwrap(), "<Refused>");
}

#[test]
fn a_key_that_waited_is_not_taken_for_a_new_identity() {
    let (mut world, _) = talk();
    let bo = world.id(1);
    let from = DeviceAddr { user_id: bo, device_id: 1 };
    let mut skdm = vec![7; 128];
    skdm[20..24].fill(0);
    skdm[56..88].copy_from_slice(SigningKey::from_seed(&[1; 32]).public().as_bytes());
    skdm[88..96].fill(0);
    let incoming = Incoming { from, frame: Vec::new(), nonce: [0; 12], at: Timestamp(START), row: None, log_seq: None };
    act(&mut world, 0, |engine, cx| engine.take_skdm(cx, &incoming, &skdm).map(|_| ()));
    assert_eq!(count(&world, 0, Table::HeldKeys, &[]), 1);
    reset_identity(&mut world, 1);
    assert_eq!(world.ask(0, Command::Trust { user_id: bo, send_waiting: true }), Ok(Answer::Ok));
    assert_eq!(count(&world, 0, Table::HeldKeys, &[]), 0);
}

#[test]
fn a_contact_that_is_stopped_gets_no_content_again() {
    let (mut world, dm) = talk();
    let (ana, bo) = (world.id(0), world.id(1));
    world.say(0, dm, "a secret");
    world.settle();
    let copies = world.server.channels[&dm].rows.last().unwrap().copies.clone();
    let (ciphertext, _) = &copies[&DeviceAddr { user_id: bo, device_id: 1 }];
    let frame = Frame::parse_dm(&ciphertext.0).unwrap();
    let ctl = tc::SessionCtl {
        kind: tc::CTL_RETRY,
        session_id: frame.session_id.to_vec(),
        ratchet_pub: frame.ratchet_key.as_bytes().to_vec(),
        n: frame.n,
        ..Default::default()
    };
    let kept = dm_key(&frame.session_id, frame.ratchet_key.as_bytes(), frame.n);
    assert!(world.clients[0].store.get(Table::SentKeys, &kept).unwrap().is_some(), "it could be answered");
    let (one, two) = (sign_list(&world, 1, &[1], 5), sign_list(&world, 1, &[1], 6));
    act(&mut world, 0, |engine, cx| engine.apply_lists(cx, bo, &served(&[one, two])));
    world.settle();
    assert!(matches!(world.node(0, dm).blocked, Some(SendBlock::Equivocation { .. })));
    let before = inbox(&world, 1);
    let to = DeviceAddr { user_id: ana, device_id: 1 };
    act(&mut world, 1, |engine, cx| engine.send_control_to(cx, to, tc::Body::SessionCtl(ctl)));
    world.settle();
    assert_eq!(inbox(&world, 1), before);
}

#[test]
fn a_list_that_may_have_been_accepted_is_sent_again_as_it_is() {
    let mut world = World::of(&["ana"]);
    world.second_device(0);
    world.second_device(0);
    let sent = Rc::new(RefCell::new(Vec::new()));
    let seen = sent.clone();
    world.cut = Some(Box::new(move |_, request| {
        if request.method != Method::Delete {
            return false;
        }
        seen.borrow_mut().push(request.body.clone().unwrap());
        seen.borrow().len() == 1
    }));
    assert!(world.ask(0, Command::RemoveDevice { device_id: 2 }).is_err());
    world.restart(0);
    assert!(world.ask(0, Command::RemoveDevice { device_id: 3 }).is_err(), "that would be another list with its number");
    assert_eq!(world.ask(0, Command::RemoveDevice { device_id: 2 }), Ok(Answer::Ok));
    assert_eq!(sent.borrow()[0], sent.borrow()[1]);
    assert_eq!(world.ask(0, Command::RemoveDevice { device_id: 3 }), Ok(Answer::Ok));
}

// --- Membership ---

#[test]
fn the_anchor_after_a_removed_device_outlives_a_cut_line_and_a_restart() {
    let (mut world, community_id, _) = World::shared(&["ana", "bo"]);
    world.second_device(0);
    world.settle();
    world.cut = Some(Box::new(|_, request| request.method == Method::Post && request.path.ends_with("/log-ops")));
    assert_eq!(world.ask(0, Command::RemoveDevice { device_id: 2 }), Ok(Answer::Ok));
    world.settle();
    let ana = world.id(0);
    let identity = *world.clients[0].engine.contacts[&ana].identity().as_bytes();
    let floor = |world: &World| world.server.logs[&community_id.into()].log.list_floor(ana.as_bytes(), &identity);
    assert_eq!(floor(&world), Some(1));
    world.cut = None;
    world.restart(0);
    world.settle();
    assert_eq!(floor(&world), Some(3));
    let ops = world.server.logs[&community_id.into()].ops.len();
    world.restart(0);
    world.settle();
    assert_eq!(world.server.logs[&community_id.into()].ops.len(), ops, "once is enough");
}

#[test]
fn no_lie_about_the_head_of_a_log_gets_two_operations_for_one_place() {
    let (mut world, community_id, _) = World::shared(&["ana", "bo"]);
    world.server.refuse_ops = 3;
    let bo = world.id(1);
    assert_eq!(
        world.ask(0, Command::Kick { domain: community_id.into(), user_id: bo, ban: false, reason: None }),
        Ok(Answer::Ok)
    );
    let refused = &world.server.refused_ops;
    assert!(refused.len() == 3 && refused.iter().all(|op| *op == refused[0]));
    assert_eq!(world.server.logs[&community_id.into()].ops.last(), refused.first());
}

#[test]
fn a_contact_cannot_displace_the_beginning_that_an_invite_pinned() {
    let mut world = World::of(&["ana", "bo", "eve"]);
    let (community_id, _, _) = world.community(0);
    let log_id: LogId = community_id.into();
    let genesis = world.clients[0].engine.logs[&log_id].log.genesis();
    let dm = world.dm(2, 1);
    world.settle();
    world.say(2, dm, "hello bo");
    world.settle();
    act(&mut world, 1, |engine, cx| {
        assert!(engine.pin_invited(cx, log_id, &genesis));
        Ok(())
    });
    let bo = world.id(1);
    act(&mut world, 2, |engine, cx| {
        let signer = engine.signer().unwrap();
        let identity = *engine.contacts[&engine.me_id()].identity();
        let forged = Log::create(*log_id.as_bytes(), LogKind::Group, &signer, &identity, &mut TestRng::new(1), 1);
        let ops = tc::MembershipOps {
            channel_id: log_id.as_bytes().to_vec(),
            log_id: log_id.as_bytes().to_vec(),
            head: crate::crypto::kdf::hash(&[&forged]).to_vec(),
            genesis: forged,
            head_seq: 0,
            ops: Vec::new(),
        };
        engine.send_control(cx, bo, tc::Body::MembershipOps(ops))
    });
    world.settle();
    let pin = world.clients[1].store.get(Table::Account, &[b"genesis/", log_id.as_bytes().as_slice()].concat()).unwrap();
    assert_eq!(pin.unwrap().as_slice(), genesis);
}

#[test]
fn nobody_stops_a_channel_by_naming_operations_that_do_not_exist() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo", "eve"]);
    let (ana, eve) = (world.id(0), world.id(2));
    let dm = world.dm(2, 0);
    world.settle();
    world.say(2, dm, "a session with ana");
    world.settle();
    let log_id: LogId = community_id.into();
    // A member names a head far away.
    act(&mut world, 1, |engine, cx| {
        let log = &engine.logs[&log_id].log;
        let ops = tc::MembershipOps {
            channel_id: channel.as_bytes().to_vec(),
            log_id: log_id.as_bytes().to_vec(),
            genesis: cx.db.scan(Table::LogOps, log_id.as_bytes(), 1)?[0].1[8..].to_vec(),
            head_seq: 1 << 40,
            head: log.newest_head().to_vec(),
            ops: Vec::new(),
        };
        engine.send_control(cx, ana, tc::Body::MembershipOps(ops))
    });
    world.settle();
    // Somebody who was removed sends a key of an epoch far away.
    world.ask(0, Command::Kick { domain: community_id.into(), user_id: eve, ban: false, reason: None }).unwrap();
    world.settle();
    act(&mut world, 2, |engine, cx| {
        let mut skdm = vec![7; 128];
        skdm[..16].copy_from_slice(channel.as_bytes());
        skdm[20..24].fill(0);
        skdm[56..88].copy_from_slice(SigningKey::from_seed(&[1; 32]).public().as_bytes());
        skdm[88..96].copy_from_slice(&(1_u64 << 40).to_be_bytes());
        engine.send_control(cx, ana, tc::Body::Skdm(skdm))
    });
    world.settle();
    world.say(0, channel, "still goes");
    world.settle();
    assert_eq!(world.texts(1, channel).last().unwrap(), "still goes");
}

#[test]
fn who_is_a_member_is_not_told_to_outsiders() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo", "eve"]);
    let (ana, eve) = (world.id(0), world.id(2));
    let dm = world.dm(2, 0);
    world.settle();
    for who in [2, 0] {
        world.say(who, dm, "hello");
        world.settle();
    }
    world.ask(0, Command::Kick { domain: community_id.into(), user_id: eve, ban: false, reason: None }).unwrap();
    world.settle();
    let before = inbox(&world, 2);
    act(&mut world, 2, |engine, cx| {
        let mut skdm = vec![7; 128];
        skdm[..16].copy_from_slice(channel.as_bytes());
        skdm[20..24].fill(0);
        skdm[56..88].copy_from_slice(SigningKey::from_seed(&[1; 32]).public().as_bytes());
        skdm[88..96].copy_from_slice(&1_u64.to_be_bytes());
        engine.send_control(cx, ana, tc::Body::Skdm(skdm))
    });
    world.settle();
    assert_eq!(inbox(&world, 2), before, "no membership operations went to somebody who was removed");
}

/// A sender key of somebody's for a channel, as no honest client would send it.
fn odd_key(channel: ChannelId, seed: u8, epoch: u64, head: [u8; 32]) -> tc::Body {
    let mut skdm = vec![7; 128];
    skdm[..16].copy_from_slice(channel.as_bytes());
    skdm[20..24].fill(0);
    skdm[56..88].copy_from_slice(SigningKey::from_seed(&[seed; 32]).public().as_bytes());
    skdm[88..96].copy_from_slice(&epoch.to_be_bytes());
    skdm[96..].copy_from_slice(&head);
    tc::Body::Skdm(skdm)
}

#[test]
fn what_contradicts_the_members_of_a_channel_stays_in_it() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo"]);
    world.say(1, channel, "hello");
    world.settle();
    let (ana, log_id): (_, LogId) = (world.id(0), community_id.into());
    assert!(world.clients[0].engine.places.dm_with(world.id(1)).is_none());
    let about =
        |world: &mut World, words: &str| warnings(world, 0, channel).into_iter().filter(|text| text.contains(words)).count();
    for _ in 0..2 {
        act(&mut world, 1, |engine, cx| engine.send_control(cx, ana, odd_key(channel, 1, 1, [7; 32])));
        world.settle();
        assert_eq!(about(&mut world, "bo sees other members of a channel"), 1, "once, however often it is said");
    }
    let log = &world.clients[0].engine.logs[&log_id].log;
    let (epoch, head) = (log.epoch(), log.newest_head());
    for seed in [1, 2] {
        act(&mut world, 1, |engine, cx| engine.send_control(cx, ana, odd_key(channel, seed, epoch, head)));
        world.settle();
    }
    assert_eq!(about(&mut world, "two different keys of one number"), 1);
    // The next client, which heard nothing of it, shows it too.
    world.restart(0);
    assert_eq!(about(&mut world, "bo sees other members of a channel"), 1);
}

#[test]
fn a_warning_about_somebody_without_a_conversation_stays_where_both_are() {
    let (mut world, _, channel) = World::shared(&["ana", "bo", "eve"]);
    let eve = world.server.accounts[&world.id(2)].devices[&1].signed.clone().unwrap();
    let bo = world.id(1).to_string();
    world.tamper = Some(Box::new(move |_, request, answer| {
        if request.path == "/users/bundles"
            && let Some(bundles) = answer["items"][&bo]["bundles"].as_array_mut()
        {
            for bundle in bundles {
                bundle["signed_prekey"] = serde_json::to_value(&eve).unwrap();
            }
        }
    }));
    world.say(0, channel, "hello");
    world.settle();
    assert!(world.clients[0].engine.places.dm_with(world.id(1)).is_none());
    let warned = warnings(&mut world, 0, channel);
    assert_eq!(warned.iter().filter(|text| text.contains("device 1 of bo do not hold")).count(), 1, "{warned:?}");
}

#[test]
fn keys_for_channels_that_nobody_knows_are_kept_within_bounds() {
    let (mut world, _) = talk();
    let from = DeviceAddr { user_id: world.id(1), device_id: 1 };
    act(&mut world, 0, |engine, cx| {
        for n in 0..3_000_u32 {
            let mut skdm = vec![7; 128];
            skdm[..4].copy_from_slice(&n.to_be_bytes());
            skdm[20..24].fill(0);
            skdm[56..88].copy_from_slice(SigningKey::from_seed(&[1; 32]).public().as_bytes());
            skdm[88..96].fill(0);
            let incoming = Incoming { from, frame: Vec::new(), nonce: [0; 12], at: Timestamp(START), row: None, log_seq: None };
            engine.take_skdm(cx, &incoming, &skdm)?;
        }
        Ok(())
    });
    assert!(count(&world, 0, Table::HeldKeys, &[]) <= 1_000);
}

#[test]
fn operations_that_are_held_back_for_a_day_are_reported() {
    let (mut world, _, channel) = World::shared(&["ana", "bo"]);
    world.say(1, channel, "hello");
    world.settle();
    let from = DeviceAddr { user_id: world.id(1), device_id: 1 };
    let mut frame = world.server.channels[&channel].rows[0].row.ciphertext.clone().unwrap().0;
    frame[48..56].copy_from_slice(&999_u64.to_be_bytes());
    let incoming = Incoming { from, frame, nonce: [0; 12], at: Timestamp(START), row: None, log_seq: None };
    act(&mut world, 0, |engine, cx| engine.hold(cx, *channel.as_bytes(), incoming, HeldFrame::FutureEpoch));
    world.advance(DAY - 60_000);
    let hiding = |world: &World| {
        world.notices(0).iter().filter(|text| text.contains("membership changes that the server does not show")).count()
    };
    assert_eq!(hiding(&world), 0);
    world.advance(2 * DAY);
    assert_eq!(hiding(&world), 1, "{:?}", world.notices(0));
}

#[test]
fn a_channel_never_becomes_a_conversation_with_somebody() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo"]);
    let eve = world.server.add_user("eve");
    let who = world.add_client(eve.clone(), MemoryStore::new());
    world.log_in(who);
    world.say(0, channel, "to the members");
    world.settle();
    let (ana, mut forged) = (world.id(0), world.server.channel_for(channel, world.id(0)));
    forged.kind = crate::protocol::channels::ChannelKind::Dm;
    forged.peer = Some(eve);
    let mut pushes = Vec::new();
    world.server.emit(community_id.into(), Event::Channel { channel: forged.clone() }, &mut pushes);
    world.server.emit(ana.into(), Event::ChannelAdded { channel: forged }, &mut pushes);
    world.deliver(pushes);
    world.settle();
    world.say(0, channel, "still to the members");
    world.settle();
    assert_eq!(world.texts(1, channel).last().unwrap(), "still to the members");
    assert!(world.tree(0).dms.is_empty() && world.node(0, channel).peer.is_none());
}

#[test]
fn a_conversation_with_one_person_is_not_one_with_another() {
    let mut world = World::of(&["ana", "bo", "eve"]);
    let (bo, eve) = (world.id(1), serde_json::to_value(&world.clients[2].user).unwrap());
    world.tamper = Some(Box::new(move |_, request, answer| {
        if request.path == "/dms" {
            answer["peer"] = eve.clone();
        }
    }));
    assert!(world.ask(0, Command::OpenDm { user_id: bo }).is_err());
}

#[test]
fn a_channel_is_ruled_by_the_logs_of_the_place_where_it_is_shown() {
    let (mut world, community_id, channel) = World::shared(&["ana", "bo"]);
    let (other, _, foreign) = world.community(1);
    let link = world.invite(1, other);
    assert_eq!(world.join(0, &link), Ok(Answer::Community(other)));
    let engine = &world.clients[0].engine;
    assert_eq!(engine.places.state(foreign).log, Some(other.into()));
    let group_id = engine.places.channels[&channel].group_id;
    act(&mut world, 0, |engine, cx| {
        let mut shown = engine.places.channels.remove(&foreign).unwrap();
        engine.places.states.remove(&foreign);
        (shown.group_id, shown.community_id, shown.log_id) = (group_id, Some(community_id), Some(other.into()));
        engine.add_channel(cx, shown)?;
        assert_eq!(engine.places.state(foreign).log, None);
        Ok(())
    });
}

// --- What was said ---

#[test]
fn a_read_marker_of_the_server_sends_no_receipt_and_starts_no_clock() {
    let (mut world, dm) = talk();
    let client = &mut world.clients[0];
    let mut db = Db::new(&client.store);
    client.engine.places.update_state(&mut db, dm, |state| state.expires_s = 3_600).unwrap();
    let changes = db.changes;
    client.store.save(changes).unwrap();
    let key = world.say(0, dm, "nobody has seen this");
    world.settle();
    let seq = world.item(1, dm, key).seq.unwrap();
    let mut pushes = Vec::new();
    world.server.emit(world.id(1).into(), Event::ReadMarker { channel_id: dm, seq }, &mut pushes);
    world.deliver(pushes);
    world.settle();
    assert_eq!(world.item(0, dm, key).delivery, Delivery::Delivered);
    assert_eq!(world.node(1, dm).unread, 0, "the marker itself is the server's to move");
    world.advance(2 * 3_600_000);
    assert_eq!(world.texts(1, dm).last().unwrap(), "nobody has seen this");
}

#[test]
fn a_receipt_counts_in_its_own_conversation_only() {
    let mut world = World::of(&["ana", "bo", "eve"]);
    let (dm, other) = (world.dm(0, 1), world.dm(2, 0));
    world.settle();
    world.say(2, other, "hello ana");
    world.settle();
    let key = world.say(0, dm, "for bo");
    world.settle();
    let ana = world.id(0);
    for conv in [*dm.as_bytes(), *world.id(1).as_bytes(), *ana.as_bytes()] {
        let receipt = tc::Receipt { kind: tc::RECEIPT_READ, ids: vec![key.id.as_bytes().to_vec()], conv: conv.to_vec() };
        act(&mut world, 2, |engine, cx| engine.send_control(cx, ana, tc::Body::Receipt(receipt)));
        world.settle();
        assert_eq!(world.item(0, dm, key).delivery, Delivery::Delivered);
    }
}

#[test]
fn what_is_deleted_or_expired_is_not_kept_for_retries() {
    let (mut world, dm) = talk();
    let kept =
        |world: &World, key: MessageRef| world.clients[0].store.get(Table::SentContents, key.id.as_bytes()).unwrap().is_some();
    let deleted = world.say(0, dm, "words to be taken back");
    world.settle();
    assert!(kept(&world, deleted));
    let edit = world.ask(0, Command::EditText { channel_id: dm, target: deleted, text: "other words".into() });
    let Ok(Answer::Queued { id: edit }) = edit else { panic!("{edit:?}") };
    world.settle();
    world.ask(0, Command::Delete { channel_id: dm, target: deleted }).unwrap();
    world.settle();
    assert_eq!(world.texts(1, dm).last().unwrap(), "<deleted>");
    assert!(!kept(&world, deleted) && !kept(&world, MessageRef { id: edit, ..deleted }));

    let client = &mut world.clients[0];
    let mut db = Db::new(&client.store);
    client.engine.places.update_state(&mut db, dm, |state| state.expires_s = 60).unwrap();
    let changes = db.changes;
    client.store.save(changes).unwrap();
    let expired = world.say(0, dm, "burn after reading");
    world.settle();
    world.advance(120_000);
    assert_eq!(world.texts(0, dm).last().unwrap(), "<expired>");
    assert!(!kept(&world, expired));
}

#[test]
fn keys_of_messages_that_never_came_are_gone_after_two_weeks() {
    use crate::crypto::sender_key::PeerChain;
    use crate::crypto::session::Session;

    let (mut world, _, channel) = World::shared(&["ana", "bo"]);
    let dm = world.dm(0, 1);
    world.settle();
    for place in [dm, channel] {
        world.say(0, place, "first");
        world.settle();
    }
    world.say(1, dm, "answer");
    world.settle();
    world.disconnect(1);
    for text in ["lost on the way", "read"] {
        for place in [dm, channel] {
            world.say(0, place, text);
            world.settle();
        }
    }
    for place in [dm, channel] {
        let rows = &mut world.server.channels.get_mut(&place).unwrap().rows;
        let at = rows.len() - 2;
        (rows[at].row.ciphertext, rows[at].row.nonce) = (None, None);
        rows[at].copies.clear();
    }
    world.connect(1);
    world.settle();
    assert_eq!(world.texts(1, dm).last().unwrap(), "read");
    assert_eq!(world.texts(1, channel).last().unwrap(), "read");
    let skipped = |world: &World| {
        let store = &world.clients[1].store;
        let ana = super::super::db::addr_key(world.clients[0].addr.unwrap());
        let sessions = store.scan(Table::Sessions, &ana, None, 100).unwrap();
        let chains = store.scan(Table::PeerChains, &[], None, 100).unwrap();
        let of_sessions: usize = sessions.iter().map(|(_, record)| Session::from_record(record).unwrap().skipped_len()).sum();
        let of_chains: usize = chains.iter().map(|(_, record)| PeerChain::from_record(record).unwrap().missing().count()).sum();
        (of_sessions, of_chains)
    };
    assert_eq!(skipped(&world), (1, 1));
    world.advance(16 * DAY);
    assert_eq!(skipped(&world), (0, 0));
}
