//! What is sent and fetched: rows, messages from device to device, and catching up (`protocol.md` 4, 9).

use super::*;

impl Server {
    pub(super) fn send(&mut self, from: DeviceAddr, send: Send, out: &mut Pushes) -> Result<Sent, Refusal> {
        if let Some((code, times)) = &mut self.refuse_sends
            && *times > 0
        {
            *times -= 1;
            return Err(Refusal { code: *code, details: self.refuse_details.clone() });
        }
        let Some(channel) = self.channels.get(&send.channel_id) else { return refuse(ErrorCode::NotFound) };
        let readers = self.readers(channel);
        if !readers.contains(&from.user_id) {
            return refuse(ErrorCode::NotFound);
        }
        let mut canonical = send.clone();
        canonical.device_lists = None;
        canonical.skipped.clear();
        if let Some(copies) = &mut canonical.copies {
            copies.sort_by_key(|copy| (copy.user_id, copy.device_id));
        }
        let hash = kdf::hash(&[&serde_json::to_vec(&canonical).unwrap()]).to_vec();
        if let Some(old) = channel.rows.iter().find(|stored| stored.row.id == send.id) {
            let same =
                old.row.sender_id == Some(from.user_id) && old.row.sender_device == Some(from.device_id) && old.hash == hash;
            if !same {
                return refuse(ErrorCode::IdReused);
            }
            return Ok(Sent {
                id: send.id,
                channel_id: send.channel_id,
                seq: old.row.seq,
                created_at: old.row.created_at,
                duplicate: true,
            });
        }
        assert_eq!(send.id.0.get_version_num(), 7, "ids of clients are UUIDv7");
        let mut copies = BTreeMap::new();
        let mut log_seq = None;
        match channel.pair {
            Some(pair) => {
                assert!(send.ciphertext.is_none());
                let mut expected: BTreeSet<DeviceAddr> = pair.iter().flat_map(|user| self.current_devices(*user)).collect();
                expected.remove(&from);
                for copy in send.copies.iter().flatten() {
                    assert!(matches!(Frame::parse(&copy.ciphertext.0), Ok(Frame::Dm(_))), "copies are of type 1 or 2");
                    copies.insert(
                        DeviceAddr { user_id: copy.user_id, device_id: copy.device_id },
                        (copy.ciphertext.clone(), copy.nonce.clone()),
                    );
                }
                let named: BTreeSet<DeviceAddr> = copies.keys().chain(&send.skipped).copied().collect();
                let lists: BTreeMap<UserId, u64> =
                    pair.iter().map(|user| (*user, self.accounts[user].lists.len() as u64)).collect();
                let stale = pair.iter().any(|user| {
                    let newest = self.newest_seq(*user);
                    send.device_lists.as_ref().and_then(|lists| lists.get(user)).is_none_or(|seq| *seq != newest)
                });
                if named != expected || stale {
                    self.refused_copies += copies.keys().filter(|addr| !expected.contains(addr)).count();
                    let details = StaleDevices {
                        missing: expected.difference(&named).copied().collect(),
                        extra: named.difference(&expected).copied().collect(),
                        device_lists: lists.keys().map(|user| (*user, self.newest_seq(*user))).collect(),
                    };
                    return Err(Refusal { code: ErrorCode::StaleDevices, details: Some(serde_json::to_value(details).unwrap()) });
                }
            }
            None => {
                assert!(send.copies.is_none());
                let logged = &self.logs[&channel.channel.log_id.unwrap()];
                let ciphertext = send.ciphertext.as_ref().expect("a channel row has a ciphertext");
                let Ok(Frame::Channel(frame)) = Frame::parse(&ciphertext.0) else { panic!("channel rows are of type 3") };
                assert_eq!(frame.channel_id, *send.channel_id.as_bytes());
                assert_eq!(frame.sender.user_id, *from.user_id.as_bytes());
                assert!(frame.epoch <= logged.log.epoch());
                if !self.forgets_removals && logged.log.shrunk_at().is_some_and(|shrunk| frame.epoch < shrunk) {
                    return Err(Refusal { code: ErrorCode::StaleLog, details: Some(json!({ "head_seq": logged.log.epoch() })) });
                }
                log_seq = Some(logged.log.epoch());
            }
        }
        let seq = channel.rows.len() as u64 + 1;
        let row = Row {
            id: send.id,
            channel_id: send.channel_id,
            seq,
            log_seq,
            kind: send.kind,
            sender_id: Some(from.user_id),
            sender_device: Some(from.device_id),
            thread_id: send.thread_id,
            reply_to_id: send.reply_to_id,
            target_id: send.target_id,
            ciphertext: send.ciphertext.clone(),
            nonce: send.nonce.clone(),
            body: None,
            file_ids: Vec::new(),
            created_at: self.at(),
            expires_at: None,
            deleted_at: None,
            quarantined: false,
        };
        if send.kind == RowKind::Delete {
            let at = self.at();
            for stored in &mut self.channels.get_mut(&send.channel_id).unwrap().rows {
                if Some(stored.row.id) == send.target_id
                    || (stored.row.target_id.is_some() && stored.row.target_id == send.target_id)
                {
                    stored.row.ciphertext = None;
                    stored.row.nonce = None;
                    stored.row.deleted_at = Some(at);
                    stored.copies.clear();
                }
            }
        }
        self.push_row(send.channel_id, StoredRow { row, hash, copies }, out);
        Ok(Sent { id: send.id, channel_id: send.channel_id, seq, created_at: self.at(), duplicate: false })
    }

    pub fn newest_seq(&self, user: UserId) -> u64 {
        self.accounts[&user].lists.last().and_then(|list| DeviceList::parse(list).ok()).map_or(0, |list| list.claims().seq())
    }

    pub(super) fn send_devices(
        &mut self,
        from: DeviceAddr,
        batch: SendDevices,
        out: &mut Pushes,
    ) -> Result<SentDevices, Refusal> {
        assert!(batch.copies.len() <= 100);
        let full: Vec<DeviceAddr> = batch
            .copies
            .iter()
            .map(|copy| DeviceAddr { user_id: copy.user_id, device_id: copy.device_id })
            .filter(|addr| self.full.contains(addr))
            .collect();
        if !full.is_empty() {
            let details = json!({ "full": full, "retry_after_ms": 60_000 });
            return Err(Refusal { code: ErrorCode::RateLimited, details: Some(details) });
        }
        let sender = self.accounts.get_mut(&from.user_id).unwrap().devices.get_mut(&from.device_id).unwrap();
        if !sender.batches.insert(batch.id) {
            return Ok(SentDevices { id: batch.id, missing: Vec::new() });
        }
        let mut missing = Vec::new();
        let at = self.at();
        for copy in batch.copies {
            assert!(matches!(Frame::parse(&copy.ciphertext.0), Ok(Frame::Dm(_))));
            let addr = DeviceAddr { user_id: copy.user_id, device_id: copy.device_id };
            let Some(device) = self.accounts.get_mut(&addr.user_id).and_then(|account| account.devices.get_mut(&addr.device_id))
            else {
                missing.push(addr);
                continue;
            };
            device.inbox_seq += 1;
            let message = DeviceMessage {
                inbox_seq: device.inbox_seq,
                from_user: from.user_id,
                from_device: from.device_id,
                ciphertext: copy.ciphertext,
                nonce: copy.nonce,
                created_at: at,
            };
            device.inbox.push(message.clone());
            if self.online.contains(&addr) {
                out.push((addr, ServerFrame::DeviceMessage(message)));
            }
        }
        Ok(SentDevices { id: batch.id, missing })
    }

    pub(super) fn sync(&mut self, from: DeviceAddr, request: SyncRequest) -> Result<serde_json::Value, Refusal> {
        if let Some(up_to) = request.ack_inbox {
            let device = self.accounts.get_mut(&from.user_id).unwrap().devices.get_mut(&from.device_id).unwrap();
            device.inbox.retain(|message| message.inbox_seq > up_to);
        }
        let streams = self.streams_of(from.user_id);
        let limit = request.limit.unwrap_or(200) as usize;
        let (mut events, mut gone, mut reset) = (Vec::new(), Vec::new(), Vec::new());
        for (stream, after) in &request.cursors {
            if self.outlived.remove(stream) {
                reset.push(*stream);
            } else if !streams.contains_key(stream) {
                gone.push(*stream);
            } else if let Some(log) = self.channels.get(&ChannelId(stream.0)) {
                for stored in log.rows.iter().filter(|stored| stored.row.seq > *after) {
                    let row = self.row_for(stored, from);
                    events.push(StreamEvent { stream: *stream, seq: row.seq, event: StreamItem::Row(Box::new(row)) });
                }
            } else {
                for (at, event) in self.streams.get(stream).into_iter().flatten().enumerate().skip(*after as usize) {
                    events.push(StreamEvent {
                        stream: *stream,
                        seq: at as u64 + 1,
                        event: StreamItem::Event(Box::new(event.clone())),
                    });
                }
            }
        }
        let more = events.len() > limit;
        events.truncate(limit);
        let inbox = self.accounts[&from.user_id].devices[&from.device_id].inbox.iter().take(100).cloned().collect();
        ok(SyncAnswer { epoch: self.epoch, streams, events, gone, reset, more, inbox })
    }
}
