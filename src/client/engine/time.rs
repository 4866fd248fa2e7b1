//! Deadlines of the engine, and lengths of time in words. It knows no clock: the present is an argument.

use crate::protocol::codec::Timestamp;

/// When something has to be done again, milliseconds since the Unix epoch.
#[derive(Debug, Default)]
pub(super) struct Timers {
    pub expiry: Option<u64>,
    pub prekeys: Option<u64>,
    pub outbox: Option<u64>,
    pub receipts: Option<u64>,
    pub held: Option<u64>,
    pub upkeep: Option<u64>,
    pub sweep: Option<u64>,
    pub errands: Option<u64>,
    pub logs: Option<u64>,
    /// The device is made known to the server, or taken up, once more.
    pub login: Option<u64>,
    /// The server refused or did not answer: no questions of our own until then.
    pause: Option<u64>,
    bundles: Option<u64>,
    failures: u32,
}

const PAUSE_MIN_MS: u64 = 500;
const PAUSE_MAX_MS: u64 = 60_000;

impl Timers {
    /// What was due while the client was closed is due now.
    pub(super) fn at_start() -> Self {
        Self { expiry: Some(0), receipts: Some(0), held: Some(0), upkeep: Some(0), ..Self::default() }
    }

    pub(super) fn paused(&self, now: Timestamp) -> bool {
        self.pause.is_some_and(|at| at > now.as_unix_ms())
    }

    pub(super) fn bundles_paused(&self, now: Timestamp) -> bool {
        self.paused(now) || self.bundles.is_some_and(|at| at > now.as_unix_ms())
    }

    /// Waits before the next question: as long as the server says, else longer each time. Until when, milliseconds.
    pub(super) fn back_off(&mut self, now: Timestamp, retry_after_ms: Option<u64>) -> u64 {
        self.failures = self.failures.saturating_add(1);
        let wait = PAUSE_MIN_MS.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX_MS);
        let until = now.as_unix_ms() + retry_after_ms.unwrap_or(wait).min(3_600_000);
        self.pause = Some(until);
        until
    }

    pub(super) fn pause_bundles(&mut self, now: Timestamp, retry_after_ms: Option<u64>) {
        self.bundles = Some(now.as_unix_ms() + retry_after_ms.unwrap_or(PAUSE_MAX_MS / 2).min(3_600_000));
    }

    pub(super) fn line_works(&mut self) {
        self.failures = 0;
        self.pause = None;
    }

    /// The clock was set back: what waits for a time that it had is due now.
    pub(super) fn clock_set_back(&mut self) {
        let Self { expiry, prekeys, outbox, receipts, held, upkeep, sweep, errands: _, logs, login, pause, bundles, failures: _ } =
            self;
        for timer in [expiry, prekeys, receipts, held, upkeep, sweep, logs, login, outbox] {
            *timer = timer.map(|_| 0);
        }
        (*pause, *bundles) = (None, None);
    }

    pub(super) fn held_soon(&mut self, at: u64) {
        self.held = Some(self.held.map_or(at, |old| old.min(at)));
    }

    /// The next moment after `now` at which something is due.
    pub(super) fn next(&self, now: u64, more: Option<u64>) -> Option<u64> {
        let Self { expiry, prekeys, outbox, receipts, held, upkeep, sweep, errands, logs, login, pause, bundles, failures: _ } =
            self;
        [*expiry, *prekeys, *outbox, *receipts, *held, *upkeep, *sweep, *errands, *logs, *login, *pause, *bundles, more]
            .into_iter()
            .flatten()
            .filter(|at| *at > now)
            .min()
    }
}

/// "3 hours", "1 day 12 hours".
pub(super) fn words(seconds: u32) -> String {
    let parts =
        [(seconds / 86_400, "day"), (seconds / 3_600 % 24, "hour"), (seconds / 60 % 60, "minute"), (seconds % 60, "second")];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts.map(|(count, unit)| format!("{count} {unit}{}", if count == 1 { "" } else { "s" })).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_length_of_time_is_said_whole() {
        for (seconds, words) in [(5, "5 seconds"), (5_400, "1 hour 30 minutes"), (86_400, "1 day"), (1_209_600, "14 days")] {
            assert_eq!(super::words(seconds), words);
        }
    }
}
