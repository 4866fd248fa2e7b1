//! When the client has nothing of its own to do any more: what the server has was loaded, the lists and logs that messages wait
//! for were fetched, keys are in stock, receipts and what could be sent are with the server. For programs that end after one
//! task. What rests for a time of its own, such as a message to somebody whose device is away, is not waited for. Start with
//! [`Engine::tell_settled`].

use crate::client::command::RequestId;
use crate::client::event::Answer;
use crate::client::model::{Problem, ProblemKind};
use crate::protocol::codec::Timestamp;

use super::commands::offline;
use super::{Cx, Engine};

/// Questions that wait at once; those of programs that have ended are among them.
const SETTLING_MAX: usize = 256;

impl Engine {
    /// None: it is answered by [`Engine::tell_settled`].
    pub(super) fn begin_settling(&mut self, request: RequestId) -> Option<Result<Answer, Problem>> {
        if !self.is_online() {
            return Some(Err(offline()));
        }
        if self.settling.len() >= SETTLING_MAX {
            return Some(Err(Problem::new(ProblemKind::Failed, "The client does not come to rest.").hint("Look at the line.")));
        }
        self.settling.push(request);
        None
    }

    /// At the end of each step: everything that was possible in it has been asked for.
    pub(super) fn tell_settled(&mut self, cx: &mut Cx<'_>) {
        if self.settling.is_empty() {
            return;
        }
        let reply = if !self.is_online() {
            Err(offline())
        } else if self.is_settled(cx.now) {
            Ok(Answer::Ok)
        } else {
            return;
        };
        for request in std::mem::take(&mut self.settling) {
            self.done(cx, request, reply.clone());
        }
    }

    fn is_settled(&self, now: Timestamp) -> bool {
        self.is_live()
            && !self.timers.paused(now)
            && self.sync.loads.is_empty()
            && self.http.is_quiet()
            && self.outbox.under_way() == 0
            && self.timers.receipts.is_none()
    }
}
