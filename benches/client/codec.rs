//! The two encodings of the frames that come and go with every message, and of a page of 200 rows: MessagePack beside JSON.

use std::hint::black_box;

use chat::protocol::codec::{Blob, Encoding, Timestamp};
use chat::protocol::frame::{ClientFrame, ServerFrame};
use chat::protocol::ids::{ChannelId, EpochId, MessageId, StreamId, UserId};
use chat::protocol::messages::{Row, RowKind, Send, SyncAnswer};
use chat::protocol::streams::{StreamEvent, StreamItem};
use criterion::{Criterion, Throughput};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Lab;
use super::report::Target;

/// A frame of a short message in a channel: header, commitment, 128 bytes padded, tag and signature.
const CIPHERTEXT: usize = 56 + 32 + 128 + 16 + 64;
const PAGE: u64 = 200;
const FRAMES: [&str; 3] = ["send", "event", "page of 200 rows"];

pub fn benches(criterion: &mut Criterion, lab: &mut Lab) {
    let mut group = criterion.benchmark_group("codec");
    for encoding in Encoding::ALL {
        let name = name(encoding);
        both(&mut group, encoding, &format!("{name} send"), &ClientFrame::Send(send()));
        both(&mut group, encoding, &format!("{name} event"), &ServerFrame::Event(event(1)));
        let page = SyncAnswer {
            epoch: EpochId::from_bytes([4; 16]),
            streams: [(stream(), PAGE)].into(),
            events: (1..=PAGE).map(event).collect(),
            gone: Vec::new(),
            reset: Vec::new(),
            more: true,
            inbox: Vec::new(),
        };
        both(&mut group, encoding, &format!("{name} page of 200 rows"), &page);
    }
    group.finish();
    for what in FRAMES {
        for way in ["encode", "decode"] {
            let [json, msgpack] = Encoding::ALL.map(|encoding| format!("codec/{} {what} {way}", name(encoding)));
            let (json, msgpack) = (lab.report.median(&json), lab.report.median(&msgpack));
            lab.report.compare(&format!("{what}, {way}, MessagePack"), msgpack, Some(("JSON", json)), Target::None);
        }
    }
}

type Group<'a> = criterion::BenchmarkGroup<'a, criterion::measurement::WallTime>;

fn both<T: Serialize + DeserializeOwned>(group: &mut Group<'_>, encoding: Encoding, name: &str, value: &T) {
    let bytes = encoding.encode(value).unwrap();
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function(format!("{name} encode"), |bencher| bencher.iter(|| encoding.encode(black_box(value)).unwrap()));
    group.bench_function(format!("{name} decode"), |bencher| bencher.iter(|| encoding.decode::<T>(black_box(&bytes)).unwrap()));
}

fn name(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Json => "json",
        Encoding::MessagePack => "msgpack",
    }
}

fn stream() -> StreamId {
    StreamId::from_bytes([2; 16])
}

fn send() -> Send {
    Send {
        id: MessageId::from_bytes([1; 16]),
        channel_id: ChannelId::from_bytes([2; 16]),
        kind: RowKind::Message,
        thread_id: None,
        reply_to_id: None,
        target_id: None,
        ciphertext: Some(Blob(vec![0x5A; CIPHERTEXT])),
        nonce: Some(Blob(vec![7; 12])),
        file_ids: Vec::new(),
        expires_in_s: None,
        copies: None,
        device_lists: None,
        skipped: Vec::new(),
    }
}

fn event(seq: u64) -> StreamEvent {
    let row = Row {
        id: MessageId::from_bytes([1; 16]),
        channel_id: ChannelId::from_bytes([2; 16]),
        seq,
        log_seq: Some(5),
        kind: RowKind::Message,
        sender_id: Some(UserId::from_bytes([3; 16])),
        sender_device: Some(1),
        thread_id: None,
        reply_to_id: None,
        target_id: None,
        ciphertext: Some(Blob(vec![0x5A; CIPHERTEXT])),
        nonce: Some(Blob(vec![7; 12])),
        body: None,
        file_ids: Vec::new(),
        created_at: Timestamp(1_795_000_000_000),
        expires_at: None,
        deleted_at: None,
        quarantined: false,
    };
    StreamEvent { stream: stream(), seq, event: StreamItem::Row(Box::new(row)) }
}
