//! Failed logins: after ten, each further try waits longer, per account and per network. Never a lock-out: a network from
//! which the account was used before waits only for its own failures. In memory, per process, bounded.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::error::{ApiError, ApiResult};
use super::limits::Network;

/// Failures without a wait.
const FREE: u32 = 10;
const ACCOUNT_WAIT_MAX: Duration = Duration::from_secs(60);
const NETWORK_WAIT_MAX: Duration = Duration::from_secs(900);
/// A key without failures for so long is forgotten.
const FORGET: Duration = Duration::from_secs(3600);
const KEYS_MAX: usize = 50_000;

/// The counters.
#[derive(Default)]
pub struct Attempts {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    accounts: HashMap<String, Failures>,
    networks: HashMap<Network, Failures>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

/// A try that counts as failed until it is called a success.
#[must_use]
pub struct Attempt<'a> {
    attempts: &'a Attempts,
    account: String,
    network: Network,
}

impl Attempts {
    /// Counts a try. `account` is the name as it was typed, whether or not it exists; `known` says that the account was
    /// used from this network before.
    ///
    /// # Errors
    /// 429 `rate_limited` with the wait.
    pub fn begin(&self, account: &str, address: IpAddr, known: bool) -> ApiResult<Attempt<'_>> {
        self.begin_at(Instant::now(), account, Network::of(address), known)
    }

    fn begin_at(&self, now: Instant, account: &str, network: Network, known: bool) -> ApiResult<Attempt<'_>> {
        let account: String = account.chars().take(64).collect();
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut wait = wait_of(&state.networks, &network, NETWORK_WAIT_MAX, now);
        if !known {
            wait = wait.max(wait_of(&state.accounts, &account, ACCOUNT_WAIT_MAX, now));
        }
        if !wait.is_zero() {
            return Err(ApiError::rate_limited(wait));
        }
        // Counted at once: tries that run at the same time do not see one another succeed or fail.
        count(&mut state.networks, network, now)?;
        count(&mut state.accounts, account.clone(), now)?;
        Ok(Attempt { attempts: self, account, network })
    }
}

impl Attempt<'_> {
    /// There was no verdict: the server was busy, or could not ask the database.
    pub fn undone(self) {
        let mut state = self.attempts.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(failures) = state.accounts.get_mut(&self.account) {
            failures.count = failures.count.saturating_sub(1);
        }
        if let Some(failures) = state.networks.get_mut(&self.network) {
            failures.count = failures.count.saturating_sub(1);
        }
    }

    /// Takes the try back when what it waited for gives no verdict.
    ///
    /// # Errors
    /// The error.
    pub async fn verdict<T>(self, verifying: impl Future<Output = ApiResult<T>>) -> ApiResult<(Self, T)> {
        match verifying.await {
            Ok(verdict) => Ok((self, verdict)),
            Err(error) => {
                self.undone();
                Err(error)
            }
        }
    }

    /// The password was right: the account starts anew; of the network only this try is taken back, since it may have
    /// an account of its own to clear the count with.
    pub fn succeeded(self) {
        let mut state = self.attempts.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.accounts.remove(&self.account);
        if let Some(failures) = state.networks.get_mut(&self.network) {
            failures.count = failures.count.saturating_sub(1);
        }
    }
}

fn wait_of<K: Hash + Eq>(map: &HashMap<K, Failures>, key: &K, max: Duration, now: Instant) -> Duration {
    let Some(failures) = map.get(key).filter(|failures| failures.count >= FREE) else { return Duration::ZERO };
    let pause = Duration::from_secs(1 << (failures.count - FREE).min(20)).min(max);
    (failures.last + pause).saturating_duration_since(now)
}

fn count<K: Hash + Eq>(map: &mut HashMap<K, Failures>, key: K, now: Instant) -> ApiResult<()> {
    if map.len() >= KEYS_MAX && !map.contains_key(&key) {
        map.retain(|_, failures| now.saturating_duration_since(failures.last) < FORGET);
        if map.len() >= KEYS_MAX {
            // Keys below their limit lose nothing but their count.
            map.retain(|_, failures| failures.count >= FREE);
        }
        if map.len() >= KEYS_MAX {
            return Err(ApiError::unavailable());
        }
    }
    let failures = map.entry(key).or_insert(Failures { count: 0, last: now });
    if now.saturating_duration_since(failures.last) >= FORGET {
        failures.count = 0;
    }
    *failures = Failures { count: failures.count.saturating_add(1), last: now };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(n: u8) -> Network {
        Network::of(IpAddr::from([10, 0, 0, n]))
    }

    #[tokio::test]
    async fn a_try_without_a_verdict_does_not_count() {
        let (attempts, address) = (Attempts::default(), IpAddr::from([10, 0, 0, 1]));
        for _ in 0..50 {
            let attempt = attempts.begin("alice", address, false).unwrap();
            let busy = std::future::ready(Err::<bool, _>(ApiError::unavailable()));
            assert!(attempt.verdict(busy).await.is_err());
        }
        for _ in 0..FREE {
            let attempt = attempts.begin("alice", address, false).unwrap();
            let (_failed, right) = attempt.verdict(std::future::ready(Ok(false))).await.unwrap();
            assert!(!right);
        }
        assert!(attempts.begin("alice", address, false).is_err());
    }

    #[test]
    fn the_wait_grows_after_ten_failures_per_account_and_per_network() {
        let (attempts, mut now) = (Attempts::default(), Instant::now());
        for i in 0..10 {
            attempts.begin_at(now, "alice", network(i), false).map(drop).unwrap();
        }
        // From an eleventh address: one try a second, then one in two, four …
        let mut waits = Vec::new();
        for i in 100..103 {
            let refused = attempts.begin_at(now, "alice", network(i), false).err().unwrap();
            waits.push(refused.retry_after_ms().unwrap());
            now += Duration::from_millis(refused.retry_after_ms().unwrap());
            attempts.begin_at(now, "alice", network(i), false).map(drop).unwrap();
        }
        assert_eq!(waits, [1000, 2000, 4000]);
        assert!(attempts.begin_at(now, "bob", network(50), false).is_ok(), "another account is free");

        for i in 0..10 {
            attempts.begin_at(now, &format!("user{i}"), network(200), false).map(drop).unwrap();
        }
        assert!(attempts.begin_at(now, "carol", network(200), true).is_err(), "the network has its own count");
    }

    #[test]
    fn a_known_network_is_not_locked_out_by_the_failures_of_others() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for i in 0..100 {
            let _ = attempts.begin_at(now, "alice", network(i), false);
        }
        assert!(attempts.begin_at(now, "alice", network(200), false).is_err());
        attempts.begin_at(now, "alice", network(200), true).unwrap().succeeded();
        assert!(attempts.begin_at(now, "alice", network(201), false).is_ok(), "a success starts the account anew");
    }

    #[test]
    fn an_own_account_does_not_clear_the_count_of_a_network() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for i in 0..9 {
            attempts.begin_at(now, &format!("victim{i}"), network(1), false).map(drop).unwrap();
            attempts.begin_at(now, "mallory", network(1), true).unwrap().succeeded();
        }
        attempts.begin_at(now, "victim9", network(1), false).map(drop).unwrap();
        assert!(attempts.begin_at(now, "victim10", network(1), false).is_err());
    }

    #[test]
    fn a_flood_of_names_stays_within_its_bound_and_old_failures_are_forgotten() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for i in 0..KEYS_MAX + 10 {
            let [.., a, b, c] = (i as u32).to_be_bytes();
            let _ = attempts.begin_at(now, &i.to_string(), Network::of(IpAddr::from([1, a, b, c])), false);
        }
        assert!(attempts.state.lock().unwrap().accounts.len() <= KEYS_MAX);
        for _ in 0..10 {
            attempts.begin_at(now, "x", network(9), false).map(drop).unwrap();
        }
        assert!(attempts.begin_at(now, "x", network(9), false).is_err());
        assert!(attempts.begin_at(now + FORGET, "x", network(9), false).is_ok());
    }
}
