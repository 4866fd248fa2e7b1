//! Content: the public vectors, bounds, acceptance and meaning; then any content and any bytes. Start at `vectors_pass`.

use proptest::prelude::*;
use prost::Message as _;
use serde_json::Value;

use super::validate::validate;
use super::*;
use crate::crypto::membership::Role;

const ALICE: [u8; 16] = [0xA1; 16];
const BOB: [u8; 16] = [0xB0; 16];
const CHANNEL: [u8; 16] = [0xC0; 16];

fn text(body: &str) -> Body {
    Body::Text(Text { body: body.into(), ..Default::default() })
}

fn content(body: Body) -> Content {
    Content { own_list: vec![5; 24], ..Content::new([1; 16], 1_790_000_000_000, BOB, body) }
}

fn file() -> FileRef {
    FileRef { blob_id: vec![1; 16], key: vec![2; 32], size: 3, blob_hash: vec![4; 32], role: 1, ..Default::default() }
}

/// Decodes what another implementation would have sent: encoded without our checks.
fn received(content: &Content) -> Result<Content, Error> {
    Content::from_bytes(&content.encode_to_vec())
}

fn assert_malformed(body: Body) {
    assert_eq!(received(&content(body.clone())), Err(Error::Malformed), "{body:?}");
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap_or_default()).unwrap()
}

fn list(value: &Value) -> Vec<Vec<u8>> {
    value.as_array().map(|items| items.iter().map(bytes).collect()).unwrap_or_default()
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().into()
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap_or_default()).unwrap()
}

fn text_of(value: &Value) -> Text {
    Text { body: string(&value["body"]), mentions: list(&value["mentions"]), ..Default::default() }
}

fn content_of(fields: &Value) -> Content {
    let body = if let Some(body) = fields.get("text") {
        Body::Text(text_of(body))
    } else if let Some(body) = fields.get("edit") {
        Body::Edit(Edit { target: bytes(&body["target"]), text: Some(text_of(&body["text"])), rev: number(&body["rev"]) })
    } else if let Some(body) = fields.get("reaction") {
        Body::Reaction(Reaction { target: bytes(&body["target"]), emoji: string(&body["emoji"]), remove: false })
    } else if let Some(body) = fields.get("delete") {
        Body::Delete(Delete { target: bytes(&body["target"]) })
    } else if let Some(body) = fields.get("receipt") {
        Body::Receipt(Receipt { kind: number(&body["kind"]), ids: list(&body["ids"]), conv: bytes(&body["conv"]) })
    } else if let Some(body) = fields.get("session_ctl") {
        Body::SessionCtl(SessionCtl {
            kind: number(&body["kind"]),
            session_id: bytes(&body["session_id"]),
            ratchet_pub: bytes(&body["ratchet_pub"]),
            n: number(&body["n"]),
            ..Default::default()
        })
    } else {
        Body::Skdm(bytes(&fields["skdm"]))
    };
    Content {
        msg_id: bytes(&fields["msg_id"]),
        sent_ms: fields["sent_ms"].as_u64().unwrap(),
        conv: bytes(&fields["conv"]),
        own_list: bytes(&fields["own_list"]),
        seen_list: bytes(&fields["seen_list"]),
        expires_s: number(&fields["expires_s"]),
        body: Some(body),
    }
}

#[test]
fn vectors_pass() {
    for text in [include_str!("../testdata/content-01.json"), include_str!("../testdata/content-02.json")] {
        let file: Value = serde_json::from_str(text).unwrap();
        for case in file["cases"].as_array().unwrap() {
            let content = content_of(&case["fields"]);
            assert_eq!(hex::encode(content.to_bytes().unwrap().as_slice()), case["encoded"].as_str().unwrap());
            assert_eq!(Content::from_bytes(&bytes(&case["encoded"])), Ok(content.clone()));
            assert_eq!(Content::from_bytes(&bytes(&case["unknown_field_appended"])), Ok(content));
        }
    }
}

#[test]
fn lengths_and_bounds_are_enforced() {
    let reference = vec![3; 32];
    assert_malformed(Body::Text(Text { body: "x".repeat(MAX_TEXT + 1), ..Default::default() }));
    assert_malformed(Body::Text(Text { reply_to: vec![3; 31], ..Default::default() }));
    assert_malformed(Body::Text(Text { thread_root: vec![3; 16], ..Default::default() }));
    assert_malformed(Body::Text(Text { mentions: vec![vec![1; 16]; 101], ..Default::default() }));
    assert_malformed(Body::Text(Text { mentions: vec![vec![1; 15]], ..Default::default() }));
    assert_malformed(Body::Text(Text { files: vec![file(); 11], ..Default::default() }));
    assert_malformed(Body::Text(Text { files: vec![FileRef { key: vec![], ..file() }], ..Default::default() }));
    let nested = FileRef { thumbnail: Some(Box::new(file())), ..file() };
    assert!(received(&content(Body::Text(Text { files: vec![nested.clone()], ..Default::default() }))).is_ok());
    assert_malformed(Body::Text(Text {
        files: vec![FileRef { thumbnail: Some(Box::new(nested)), ..file() }],
        ..Default::default()
    }));
    assert_malformed(Body::Edit(Edit { target: reference.clone(), text: Some(Text::default()), rev: 0 }));
    assert_malformed(Body::Edit(Edit { target: reference.clone(), text: None, rev: 1 }));
    assert_malformed(Body::Reaction(Reaction { target: reference.clone(), emoji: String::new(), remove: false }));
    assert_malformed(Body::Reaction(Reaction { target: reference, emoji: "x".repeat(65), remove: false }));
    assert_malformed(Body::Delete(Delete { target: vec![] }));
    assert_malformed(Body::Receipt(Receipt { kind: 2, ids: vec![], conv: vec![1; 16] }));
    assert_malformed(Body::Receipt(Receipt { kind: 2, ids: vec![vec![1; 16]; 101], conv: vec![1; 16] }));
    assert_malformed(Body::Timer(Timer { seconds: 4 }));
    assert_malformed(Body::Timer(Timer { seconds: MAX_EXPIRES_S + 1 }));
    assert_malformed(Body::Poll(Poll { options: vec!["one".into()], ..Default::default() }));
    assert_malformed(Body::Poll(Poll { options: vec!["x".into(); 11], ..Default::default() }));
    assert_malformed(Body::Skdm(vec![0; 127]));
    assert_malformed(Body::SessionCtl(SessionCtl { kind: CTL_RETRY, ..Default::default() }));
    assert_malformed(Body::SessionCtl(SessionCtl { kind: CTL_CHAIN_WANTED, ..Default::default() }));
    assert_malformed(Body::OwnState(OwnState { pins: vec![vec![0; 47]], ..Default::default() }));
    for (msg_id, conv, own_list) in [(15, 16, 24), (16, 17, 24), (16, 16, 23)] {
        let bad = Content { msg_id: vec![0; msg_id], conv: vec![0; conv], own_list: vec![0; own_list], ..content(text("x")) };
        assert_eq!(received(&bad), Err(Error::Malformed));
    }
}

#[test]
fn content_that_is_too_large_cannot_be_sent() {
    let long = |len: usize| {
        content(Body::Text(Text { body: "x".repeat(MAX_TEXT), mentions: vec![vec![1; 16]; len], ..Default::default() }))
    };
    assert!(long(100).to_bytes().is_ok());
    assert_eq!(long(101).to_bytes(), Err(Error::Limit));
    assert_eq!(Content { expires_s: 3, ..content(text("x")) }.to_bytes(), Err(Error::Limit));
    let ops = |len: usize| {
        content(Body::MembershipOps(MembershipOps {
            channel_id: vec![1; 16],
            log_id: vec![1; 16],
            head: vec![1; 32],
            ops: vec![vec![0; 1000]; len],
            ..Default::default()
        }))
    };
    assert!(ops(60).to_bytes().is_ok());
    assert_eq!(ops(60).to_mirrored_bytes(), Err(Error::Limit));
    assert_eq!(ops(62).to_bytes(), Err(Error::Limit));
}

#[test]
fn two_bodies_are_malformed_and_an_unknown_body_is_kept_apart() {
    let mut two = content(text("one")).encode_to_vec();
    two.extend(Content { body: Some(text("two")), ..Content::default() }.encode_to_vec());
    assert_eq!(Content::from_bytes(&two), Err(Error::Malformed));

    // Field 30, length-delimited: a body of a later version.
    let mut newer = Content { body: None, ..content(text("")) }.encode_to_vec();
    newer.extend([0xF2, 0x01, 0x01, 0x00]);
    assert_eq!(Content::from_bytes(&newer).unwrap().body, None);
}

#[test]
fn key_carrying_content_is_refused_from_a_channel() {
    let via = Via::Channel { from: ALICE, channel_id: CHANNEL };
    let said = |body| accept(Content::new([1; 16], 0, CHANNEL, body), via);
    assert_eq!(said(text("hi")).unwrap().conversation, Conversation::Channel(CHANNEL));
    for body in [
        Body::Skdm(vec![0; 128]),
        Body::SyncSent(SyncSent::default()),
        Body::SessionCtl(SessionCtl::default()),
        Body::Devlist(DevListUpdate::default()),
        Body::MembershipOps(MembershipOps::default()),
        Body::Resent(Resent::default()),
        Body::OwnState(OwnState::default()),
        Body::Receipt(Receipt::default()),
    ] {
        assert_eq!(said(body), Err(Error::Malformed));
    }
    assert_eq!(accept(Content::new([1; 16], 0, BOB, text("hi")), via), Err(Error::Malformed), "another conversation");
}

#[test]
fn content_of_a_session_must_be_addressed_to_me_and_name_a_list() {
    let via = Via::Session { from: ALICE, me: BOB, own_identity: false };
    assert_eq!(accept(content(text("hi")), via).unwrap().conversation, Conversation::Dm(ALICE));
    assert_eq!(accept(Content { conv: ALICE.to_vec(), ..content(text("hi")) }, via), Err(Error::Malformed));
    assert_eq!(accept(Content { own_list: vec![], ..content(text("hi")) }, via), Err(Error::Malformed));
    assert_eq!(accept(content(Body::OwnState(OwnState::default())), via), Err(Error::Malformed));
}

fn sync_sent(inner: &Content) -> Content {
    content(Body::SyncSent(SyncSent { conv: ALICE.to_vec(), content: inner.encode_to_vec() }))
}

#[test]
fn sync_sent_counts_only_from_an_own_device_and_only_if_it_fits_its_content() {
    let own = Via::Session { from: BOB, me: BOB, own_identity: true };
    let inner = Content { conv: ALICE.to_vec(), ..content(text("to alice")) };
    let accepted = accept(sync_sent(&inner), own).unwrap();
    assert_eq!((accepted.author, accepted.conversation), (BOB, Conversation::Dm(ALICE)));
    assert_eq!((accepted.content, accepted.wrapper), (inner.clone(), Some(Wrapper::SyncSent)));

    for via in [
        Via::Session { from: ALICE, me: BOB, own_identity: false },
        Via::Session { from: BOB, me: BOB, own_identity: false },
        Via::Session { from: ALICE, me: BOB, own_identity: true },
    ] {
        assert_eq!(accept(sync_sent(&inner), via), Err(Error::Malformed), "{via:?}");
    }
    for bad in [
        Content { conv: CHANNEL.to_vec(), ..inner.clone() },
        Content { msg_id: vec![9; 16], ..inner.clone() },
        Content { body: Some(Body::Skdm(vec![0; 128])), ..inner.clone() },
        Content { body: None, ..inner },
    ] {
        assert_eq!(accept(sync_sent(&bad), own), Err(Error::Malformed), "{bad:?}");
    }
}

#[test]
fn resent_speaks_for_the_user_of_the_session_only() {
    let via = Via::Session { from: ALICE, me: BOB, own_identity: false };
    let inner = Content::new([7; 16], 0, CHANNEL, text("again"));
    let wrap = |channel_id: [u8; 16], inner: &Content| {
        let resent = Resent { channel_id: channel_id.to_vec(), chain_id: 3, iteration: 4, content: inner.encode_to_vec() };
        accept(content(Body::Resent(resent)), via)
    };
    let accepted = wrap(CHANNEL, &inner).unwrap();
    assert_eq!((accepted.author, accepted.conversation, &accepted.content), (ALICE, Conversation::Channel(CHANNEL), &inner));
    assert_eq!(accepted.wrapper, Some(Wrapper::Resent { msg_id: [1; 16], chain_id: 3, iteration: 4 }));
    assert_eq!(wrap([8; 16], &inner), Err(Error::Malformed));
    let receipt = Body::Receipt(Receipt { kind: 2, ids: vec![vec![1; 16]], conv: vec![1; 16] });
    assert_eq!(wrap(CHANNEL, &Content { body: Some(receipt), ..inner }), Err(Error::Malformed));
}

#[test]
fn the_highest_revision_and_the_latest_reaction_win_in_any_order() {
    let edit = |rev, id| EditRank { rev, msg_id: [id; 16] };
    assert!(edit(2, 1) > edit(1, 9) && edit(2, 2) > edit(2, 1));
    let reaction = |sent_ms, id| ReactionRank { sent_ms, msg_id: [id; 16] };
    assert!(reaction(5, 1) > reaction(4, 9) && reaction(5, 2) > reaction(5, 1));
}

#[test]
fn authors_edit_and_delete_and_moderators_delete_in_channels() {
    let target = MessageRef { author: ALICE, msg_id: [1; 16] };
    assert_eq!(MessageRef::parse(&target.to_vec()), Some(target));
    assert_eq!(MessageRef::parse(&[0; 31]), None);
    assert!(may_edit(ALICE, &target) && !may_edit(BOB, &target));
    assert!(may_delete(ALICE, &target, None) && may_delete(BOB, &target, Some(Role::Moderator)));
    assert!(!may_delete(BOB, &target, None) && !may_delete(BOB, &target, Some(Role::Member)));
}

#[test]
fn a_timer_starts_at_sending_for_the_author_and_at_display_for_others() {
    const DAY: u64 = 86_400_000;
    assert_eq!(erase_at(0, 1, true, 2, None), None);
    assert_eq!(erase_at(60, 1_000, true, 5_000, Some(9_000)), Some(61_000));
    assert_eq!(erase_at(60, 1_000, false, 5_000, Some(9_000)), Some(69_000));
    assert_eq!(erase_at(60, 1_000, false, 5_000, None), Some(65_000 + 30 * DAY));
    assert_eq!(erase_at(60, 1_000, false, 5_000, Some(u64::MAX)), Some(65_000 + 30 * DAY));
    assert!(!is_time_doubtful(300_000, 0) && is_time_doubtful(0, 300_001));
}

#[test]
fn debug_shows_neither_text_nor_keys() {
    let secret = FileRef { key: vec![0xEE; 32], name: "salary.pdf".into(), ..file() };
    let shown = content(Body::Text(Text { body: "the plan".into(), files: vec![secret], ..Default::default() }));
    let debug = format!("{shown:?} {:?} {:?}", shown.body, content(Body::Skdm(vec![0xEE; 128])));
    assert!(!debug.contains("plan") && !debug.contains("238") && !debug.contains("salary"), "{debug}");
    assert!(debug.contains("text") && debug.contains("skdm"), "{debug}");
}

fn any_bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), len)
}

fn any_ids(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec(any_bytes(16), count)
}

fn any_file() -> impl Strategy<Value = FileRef> {
    let blob = || (any_bytes(16), any_bytes(32), any::<u64>(), any_bytes(32), any::<String>(), 0..4_u32);
    (blob(), proptest::option::of(blob())).prop_map(|(own, thumbnail)| {
        let file = |(blob_id, key, size, blob_hash, name, role): (_, _, _, _, String, _)| FileRef {
            blob_id,
            key,
            size,
            blob_hash,
            mime: name.clone(),
            name,
            role,
            thumbnail: None,
        };
        FileRef { thumbnail: thumbnail.map(|thumbnail| Box::new(file(thumbnail))), ..file(own) }
    })
}

fn any_text() -> impl Strategy<Value = Text> {
    let reference = || prop_oneof![Just(vec![]), any_bytes(32)];
    (any::<String>(), reference(), reference(), any_ids(0..5), proptest::collection::vec(any_file(), 0..3))
        .prop_map(|(body, reply_to, thread_root, mentions, files)| Text { body, reply_to, thread_root, mentions, files })
}

fn any_body() -> impl Strategy<Value = Body> {
    let anything = || proptest::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        any_text().prop_map(Body::Text),
        (any_bytes(32), any_text(), 1..u32::MAX).prop_map(|(target, text, rev)| Body::Edit(Edit {
            target,
            text: Some(text),
            rev
        })),
        (any_bytes(32), "[a-z👍]{1,16}", any::<bool>()).prop_map(|(target, emoji, remove)| Body::Reaction(Reaction {
            target,
            emoji,
            remove
        })),
        any_bytes(32).prop_map(|target| Body::Delete(Delete { target })),
        (any::<u32>(), any_ids(1..5), any_bytes(16)).prop_map(|(kind, ids, conv)| Body::Receipt(Receipt { kind, ids, conv })),
        (any::<String>(), any::<String>(), proptest::option::of(any_file()))
            .prop_map(|(display_name, about, avatar)| Body::Profile(Profile { display_name, about, avatar })),
        (5..MAX_EXPIRES_S).prop_map(|seconds| Body::Timer(Timer { seconds })),
        (any::<String>(), proptest::collection::vec(any::<String>(), 2..10), any::<(bool, bool, u64)>()).prop_map(
            |(question, options, (multiple, anonymous, closes_ms))| Body::Poll(Poll {
                question,
                options,
                multiple,
                anonymous,
                closes_ms
            })
        ),
        any_bytes(128).prop_map(Body::Skdm),
        (any_bytes(16), anything()).prop_map(|(conv, content)| Body::SyncSent(SyncSent { conv, content })),
        (any_bytes(16), any_bytes(32), any::<u32>()).prop_map(|(session_id, ratchet_pub, n)| {
            Body::SessionCtl(SessionCtl { kind: CTL_RETRY, session_id, ratchet_pub, n, ..Default::default() })
        }),
        (proptest::collection::vec(anything(), 0..3), proptest::collection::vec(any_bytes(225), 0..3))
            .prop_map(|(lists, certs)| Body::Devlist(DevListUpdate { lists, certs })),
        (any_bytes(16), any_bytes(32), any::<u64>(), proptest::collection::vec(anything(), 0..3)).prop_map(
            |(id, head, head_seq, ops)| {
                Body::MembershipOps(MembershipOps { channel_id: id.clone(), log_id: id, genesis: vec![], head_seq, head, ops })
            }
        ),
        (any_bytes(16), any::<(u32, u32)>(), anything()).prop_map(|(channel_id, (chain_id, iteration), content)| Body::Resent(
            Resent { channel_id, chain_id, iteration, content }
        )),
        (any_bytes(16), any_bytes(32), any::<(u64, u32)>(), any_bytes(48)).prop_map(|(user_id, uik, (when_ms, how), pin)| {
            let verified = vec![Verified { user_id, uik, when_ms, how, state: 1 }];
            Body::OwnState(OwnState { verified, backup_epoch: when_ms, backup_counter: 1, pins: vec![pin] })
        }),
    ]
}

proptest! {
    #[test]
    fn decoding_reverses_encoding(id: [u8; 16], sent_ms: u64, conv: [u8; 16], seen in prop_oneof![Just(vec![]), any_bytes(24)], body in any_body()) {
        let content = Content { seen_list: seen, ..Content::new(id, sent_ms, conv, body) };
        prop_assert_eq!(Content::from_bytes(&content.to_bytes().unwrap()), Ok(content));
    }

    #[test]
    fn arbitrary_bytes_decode_or_are_malformed(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        match Content::from_bytes(&bytes) {
            Ok(content) => prop_assert_eq!(validate(&content, Error::Malformed), Ok(())),
            Err(error) => prop_assert_eq!(error, Error::Malformed),
        }
    }

    #[test]
    fn damaged_content_decodes_or_is_malformed(body in any_body(), cut: u16, at: u16, flip: u8) {
        let mut bytes = Content::new([1; 16], 7, [2; 16], body).to_bytes().unwrap().to_vec();
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= flip;
        bytes.truncate(usize::from(cut) % bytes.len() + 1);
        prop_assert!(matches!(Content::from_bytes(&bytes), Ok(_) | Err(Error::Malformed)));
    }
}
