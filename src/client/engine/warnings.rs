//! Warnings: told at once, and kept as lines where they concern somebody, since whoever listens now may be a script, and the user
//! looks tomorrow. What there is to warn of, the concerns decide; nothing here judges.

use crate::client::model::{Problem, ProblemKind, SystemLine};
use crate::client::store::StoreError;
use crate::client::store::Table;
use crate::protocol::ids::{ChannelId, LogId, UserId};

use super::db::key;
use super::{Cx, Engine};

/// What a warning is about: where its line stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Concern {
    /// In the conversation with them; without one, in the channels shared with them.
    Person(UserId),
    /// In the channels that the log rules.
    Log(LogId),
    Channel(ChannelId),
}

/// Channels that show a line about one thing.
const PLACES_MAX: usize = 20;

impl Engine {
    /// Warns in words of ours.
    pub(super) fn warn(
        &mut self,
        cx: &mut Cx<'_>,
        concern: Concern,
        kind: &[u8],
        about: &[u8],
        text: String,
        hint: &str,
    ) -> Result<(), StoreError> {
        self.remark(cx, concern, kind, about, format!("{text} {hint}"))?;
        cx.notice(Problem::new(ProblemKind::Crypto, text).hint(hint));
        Ok(())
    }

    /// Keeps it as a line and tells nobody: it is nothing to be alarmed about. It comes once for what it is about, in a row, since
    /// each message may say the same.
    pub(super) fn remark(
        &mut self,
        cx: &mut Cx<'_>,
        concern: Concern,
        kind: &[u8],
        about: &[u8],
        text: String,
    ) -> Result<(), StoreError> {
        let id = match concern {
            Concern::Person(id) => *id.as_bytes(),
            Concern::Log(id) => *id.as_bytes(),
            Concern::Channel(id) => *id.as_bytes(),
        };
        let at = key(&[b"warned/", &id, kind]);
        let told = cx.db.get(Table::Account, &at)?.is_some_and(|told| told.as_slice() == about);
        if !told && self.put_lines(cx, concern, &SystemLine::Warning(text))? {
            cx.db.put(Table::Account, at, about);
        }
        Ok(())
    }

    /// A line about somebody.
    pub(super) fn line_about(&mut self, cx: &mut Cx<'_>, user_id: UserId, line: SystemLine) -> Result<(), StoreError> {
        self.put_lines(cx, Concern::Person(user_id), &line)?;
        Ok(())
    }

    /// False when there is no place for it.
    fn put_lines(&mut self, cx: &mut Cx<'_>, concern: Concern, line: &SystemLine) -> Result<bool, StoreError> {
        let places = match concern {
            Concern::Person(user_id) => self.shared_with(user_id),
            Concern::Log(log_id) => self.ruled_by(log_id),
            Concern::Channel(channel_id) => vec![channel_id],
        };
        for channel_id in places.iter().take(PLACES_MAX) {
            self.local_line(cx, *channel_id, line.clone())?;
        }
        Ok(!places.is_empty())
    }

    /// Where something about somebody is shown. What concerns the own account need not be said in every place.
    fn shared_with(&self, user_id: UserId) -> Vec<ChannelId> {
        if let Some(dm) = self.places.dm_with(user_id) {
            return vec![dm];
        }
        let logs = self.logs.iter().filter(|(_, state)| state.log.member(user_id.as_bytes()).is_some());
        let mut shown = logs.map(|(log_id, _)| self.ruled_by(*log_id)).filter(|channels| !channels.is_empty());
        if user_id == self.me_id() { shown.next().unwrap_or_default() } else { shown.flatten().collect() }
    }

    /// The channels of a log in which something about it is shown: the first, and where this user has spoken lately. Also when
    /// the log never began, and only the server says which channels it rules.
    pub(super) fn ruled_by(&self, log_id: LogId) -> Vec<ChannelId> {
        self.places_of_lines(|channel| self.places.state(channel.id).log.or(channel.log_id) == Some(log_id))
    }
}
