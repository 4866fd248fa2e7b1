//! What waits to be written to one WebSocket: bounded in frames and bytes, filled by anybody, emptied by its connection.
//!
//! It knows no socket and never waits: a push that does not fit ends the connection (close code 4008), because a client that
//! resumes from its cursors loses nothing. Start with [`Queue::push`] and [`Queue::poll_take`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use axum::extract::ws::Message;

use crate::protocol::frame::close;

/// Frames that may wait.
pub const FRAMES_MAX: usize = 256;
/// Bytes of all waiting frames together.
pub const BYTES_MAX: usize = 1024 * 1024;
/// What a connection takes out at once, so that a slow socket leaves the rest countable here.
const TAKE_MAX: usize = 32;

/// Whether a frame may be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Events, answers, heads: dropped only together with the connection.
    Durable,
    /// Typing, presence: dropped once the queue is half full.
    Ephemeral,
}

/// Why the server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client reads too slowly.
    TooSlow,
    /// The session ended or the account was suspended.
    Revoked,
    /// A newer connection of the same device took its place.
    Replaced,
    /// The server stops; the client comes back after this time.
    GoingAway { retry_after_ms: u64 },
}

impl End {
    /// The close code and its reason.
    pub fn close(self) -> (u16, String) {
        match self {
            Self::TooSlow => (close::TOO_SLOW, "too slow: resume from your cursors".into()),
            Self::Revoked => (close::REVOKED, "the session has ended".into()),
            Self::Replaced => (close::REPLACED, "replaced by a newer connection of this device".into()),
            Self::GoingAway { retry_after_ms } => (close::GOING_AWAY, format!("{{\"retry_after_ms\":{retry_after_ms}}}")),
        }
    }
}

/// What a connection finds in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Some frames, in order.
    Frames,
    /// The device's inbox has something new; told once, however often it moved.
    Inbox,
    /// Nothing will come any more.
    End(End),
}

#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    inbox_seen: AtomicU64,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Message>,
    bytes: usize,
    inbox_moved: bool,
    end: Option<End>,
    waker: Option<Waker>,
}

/// Connections that have something new. They are woken together, when this is dropped: whatever one batch brought for a
/// connection then leaves in one write.
#[derive(Default)]
pub struct Wakes(Vec<Waker>);

impl Drop for Wakes {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}

impl Queue {
    /// Adds a frame; never waits. After the end nothing is kept.
    pub fn push(&self, message: Message, class: Class) {
        self.push_in(message, class, &mut Wakes::default());
    }

    /// As [`push`](Self::push), together with others.
    pub fn push_in(&self, message: Message, class: Class, wakes: &mut Wakes) {
        let size = size(&message);
        let mut state = self.lock();
        if state.end.is_some() {
            return;
        }
        let (frames, bytes) = (state.frames.len() + 1, state.bytes + size);
        if class == Class::Ephemeral && (frames * 2 > FRAMES_MAX || bytes * 2 > BYTES_MAX) {
            return;
        }
        if frames > FRAMES_MAX || bytes > BYTES_MAX {
            state.finish(End::TooSlow);
        } else {
            state.bytes = bytes;
            state.frames.push_back(message);
        }
        wakes.0.extend(state.waker.take());
    }

    /// The inbox of the connection's device has something new.
    pub fn inbox_moved(&self) {
        let mut state = self.lock();
        state.inbox_moved = true;
        wake(state);
    }

    /// Last number of the device's inbox that the connection wrote.
    pub fn inbox_seen(&self) -> u64 {
        self.inbox_seen.load(Ordering::Relaxed)
    }

    pub fn set_inbox_seen(&self, inbox_seq: u64) {
        self.inbox_seen.store(inbox_seq, Ordering::Relaxed);
    }

    /// Ends the connection; what still waits is dropped. The first reason stays.
    pub fn end(&self, end: End) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.finish(end);
        }
        wake(state);
    }

    /// Frames that wait.
    pub fn len(&self) -> usize {
        self.lock().frames.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves waiting frames into `into` (empty before), or tells what else happened. One task may poll.
    pub fn poll_take(&self, context: &mut Context<'_>, into: &mut Vec<Message>) -> Poll<Taken> {
        let mut state = self.lock();
        if let Some(end) = state.end {
            return Poll::Ready(Taken::End(end));
        }
        // Before the frames: keys travel through the inbox, and what needs them was pushed after it moved.
        if std::mem::take(&mut state.inbox_moved) {
            return Poll::Ready(Taken::Inbox);
        }
        if !state.frames.is_empty() {
            let count = state.frames.len().min(TAKE_MAX);
            into.extend(state.frames.drain(..count));
            state.bytes -= into.iter().map(size).sum::<usize>();
            if state.frames.is_empty() && state.frames.capacity() > TAKE_MAX {
                // A burst is over: an idle connection keeps no memory of it.
                state.frames = VecDeque::new();
            }
            return Poll::Ready(Taken::Frames);
        }
        state.register(context);
        Poll::Pending
    }

    /// Ready when the connection must end, whatever still waits: for the time in which it writes.
    pub fn poll_end(&self, context: &mut Context<'_>) -> Poll<End> {
        let mut state = self.lock();
        match state.end {
            Some(end) => Poll::Ready(end),
            None => {
                state.register(context);
                Poll::Pending
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under this lock can panic half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn finish(&mut self, end: End) {
        self.end = Some(end);
        self.frames = VecDeque::new();
        self.bytes = 0;
    }

    fn register(&mut self, context: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => self.waker = Some(context.waker().clone()),
        }
    }
}

fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn size(message: &Message) -> usize {
    match message {
        Message::Text(text) => text.len(),
        Message::Binary(bytes) | Message::Ping(bytes) | Message::Pong(bytes) => bytes.len(),
        Message::Close(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(queue: &Queue) -> (Poll<Taken>, Vec<Message>) {
        let mut into = Vec::new();
        let taken = queue.poll_take(&mut Context::from_waker(Waker::noop()), &mut into);
        (taken, into)
    }

    fn text(n: usize) -> Message {
        Message::Text(n.to_string().into())
    }

    #[test]
    fn frames_come_out_in_order() {
        let queue = Queue::default();
        for n in 0..100 {
            queue.push(text(n), Class::Durable);
        }
        let mut all = Vec::new();
        while let (Poll::Ready(Taken::Frames), frames) = take(&queue) {
            all.extend(frames);
        }
        assert_eq!(all, (0..100).map(text).collect::<Vec<_>>());
        assert_eq!(queue.lock().bytes, 0);
    }

    #[test]
    fn the_257th_waiting_frame_ends_the_connection() {
        let queue = Queue::default();
        for n in 0..FRAMES_MAX {
            queue.push(text(n), Class::Durable);
        }
        assert_eq!(queue.len(), FRAMES_MAX);
        queue.push(text(0), Class::Durable);
        assert_eq!(take(&queue), (Poll::Ready(Taken::End(End::TooSlow)), vec![]));
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn more_than_a_mebibyte_ends_the_connection() {
        let queue = Queue::default();
        let big = Message::Binary(vec![0; 65_536].into());
        for _ in 0..16 {
            queue.push(big.clone(), Class::Durable);
        }
        assert_eq!(queue.len(), 16);
        queue.push(text(1), Class::Durable);
        assert_eq!(take(&queue).0, Poll::Ready(Taken::End(End::TooSlow)));
    }

    #[test]
    fn ephemeral_frames_are_dropped_over_half() {
        let queue = Queue::default();
        for n in 0..FRAMES_MAX {
            queue.push(text(n), Class::Ephemeral);
        }
        assert_eq!(queue.len(), FRAMES_MAX / 2);
        queue.push(text(0), Class::Durable);
        assert_eq!(queue.len(), FRAMES_MAX / 2 + 1);
    }

    #[test]
    fn a_connection_is_woken_when_all_of_a_batch_is_there() {
        struct Count(AtomicU64);
        impl std::task::Wake for Count {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let queue = Queue::default();
        let count = std::sync::Arc::new(Count(AtomicU64::new(0)));
        let mut frames = Vec::new();
        let waker = Waker::from(std::sync::Arc::clone(&count));
        assert!(queue.poll_take(&mut Context::from_waker(&waker), &mut frames).is_pending());
        let mut wakes = Wakes::default();
        (0..3).for_each(|n| queue.push_in(text(n), Class::Durable, &mut wakes));
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        drop(wakes);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(take(&queue).1.len(), 3);
    }

    #[test]
    fn the_first_reason_to_end_stays() {
        let queue = Queue::default();
        queue.end(End::Revoked);
        queue.end(End::GoingAway { retry_after_ms: 1 });
        queue.push(text(1), Class::Durable);
        assert_eq!(take(&queue), (Poll::Ready(Taken::End(End::Revoked)), vec![]));
    }

    #[test]
    fn an_inbox_that_moved_often_is_told_once_and_before_the_frames() {
        let queue = Queue::default();
        queue.push(text(1), Class::Durable);
        queue.inbox_moved();
        queue.inbox_moved();
        assert_eq!(take(&queue).0, Poll::Ready(Taken::Inbox));
        assert_eq!(take(&queue).0, Poll::Ready(Taken::Frames));
        assert_eq!(take(&queue).0, Poll::Pending);
    }
}
