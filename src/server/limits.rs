//! Rates, in memory and per process. A flood of new keys cannot grow the maps without bound: they are swept when they
//! are big, and what is still too much is refused.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::config::LimitsConfig;
use crate::protocol::ids::UserId;

use super::error::{ApiError, ApiResult};

/// Keys that one limit remembers.
const KEYS_MAX: usize = 100_000;

/// `docs/PROTOCOL.md` 9.29
const DEVICE_LISTS_PER_MINUTE: u32 = 600;
/// Of one requester and target (`crypto.md` 18).
const BUNDLES_PER_HOUR: u32 = 10;

/// A rate for each key.
pub struct Rate<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    clock: DefaultClock,
    started: Instant,
    /// Seconds after `started`.
    swept: AtomicU64,
}

impl<K: Hash + Eq + Clone> Rate<K> {
    /// `count` in `period`, of which `burst` may come at once.
    ///
    /// # Errors
    /// When a number is 0 or the period too short for the count.
    pub fn new(count: u32, period: Duration, burst: u32) -> anyhow::Result<Self> {
        let quota = quota(count, period, burst)?;
        let (started, swept) = (Instant::now(), AtomicU64::new(u64::MAX));
        Ok(Self { limiter: RateLimiter::keyed(quota), clock: DefaultClock::default(), started, swept })
    }

    /// Counts one.
    ///
    /// # Errors
    /// How long to wait.
    pub fn check(&self, key: &K) -> Result<(), Duration> {
        self.sweep()?;
        self.limiter.check_key(key).map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    /// Counts several at once: all or none.
    ///
    /// # Errors
    /// How long to wait.
    pub fn check_n(&self, key: &K, n: u32) -> Result<(), Duration> {
        self.sweep()?;
        let Some(n) = NonZeroU32::new(n) else { return Ok(()) };
        match self.limiter.check_key_n(key, n) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => Err(not_until.wait_time_from(self.clock.now())),
            Err(_more_than_the_burst) => Err(Duration::from_secs(60)),
        }
    }

    /// At most once a second, so that a flood of keys cannot make every request pay for it.
    fn sweep(&self) -> Result<(), Duration> {
        if self.limiter.len() < KEYS_MAX {
            return Ok(());
        }
        let now = self.started.elapsed().as_secs();
        if self.swept.swap(now, Ordering::Relaxed) != now {
            self.limiter.retain_recent();
        }
        if self.limiter.len() < KEYS_MAX { Ok(()) } else { Err(Duration::from_secs(1)) }
    }
}

fn quota(count: u32, period: Duration, burst: u32) -> anyhow::Result<Quota> {
    let (Some(count), Some(burst)) = (NonZeroU32::new(count), NonZeroU32::new(burst)) else {
        anyhow::bail!("a rate limit must not be 0");
    };
    let quota = Quota::with_period(period / count.get()).map(|quota| quota.allow_burst(burst));
    quota.ok_or_else(|| anyhow::anyhow!("a rate limit is too high"))
}

/// A rate for each pair of a caller and somebody else. Whoever meets many people fills their own memory and nobody else's.
pub struct PairRate<K: Hash + Eq + Clone> {
    quota: Quota,
    clock: DefaultClock,
    callers: Mutex<Swept<HashMap<K, Swept<RateLimiter<K, HashMapStateStore<K>, DefaultClock>>>>>,
}

/// Something that is swept when it has grown to twice what was left the last time: what that costs is spread over what came.
struct Swept<T> {
    of: T,
    next: usize,
}

/// Others that one caller may meet in the time that is remembered; the next one waits.
const OTHERS_MAX: usize = 10_000;
const SWEEP_MIN: usize = 64;

impl<T> Swept<T> {
    const fn new(of: T) -> Self {
        Self { of, next: SWEEP_MIN }
    }

    fn swept(&mut self, left: usize) {
        self.next = (2 * left).max(SWEEP_MIN);
    }
}

impl<K: Hash + Eq + Clone> PairRate<K> {
    /// As [`Rate::new`], for each pair.
    ///
    /// # Errors
    /// As [`Rate::new`].
    pub fn new(count: u32, period: Duration, burst: u32) -> anyhow::Result<Self> {
        let callers = Mutex::new(Swept::new(HashMap::new()));
        Ok(Self { quota: quota(count, period, burst)?, clock: DefaultClock::default(), callers })
    }

    /// Counts one.
    ///
    /// # Errors
    /// How long to wait.
    pub fn check(&self, caller: &K, other: &K) -> Result<(), Duration> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.of.len() >= callers.next {
            callers.of.retain(|_, others| {
                others.of.retain_recent();
                !others.of.is_empty()
            });
            let left = callers.of.len();
            callers.swept(left);
        }
        let begin = || Swept::new(RateLimiter::hashmap_with_clock(self.quota, self.clock.clone()));
        let others = callers.of.entry(caller.clone()).or_insert_with(begin);
        if others.of.len() >= others.next {
            others.of.retain_recent();
            let left = others.of.len();
            others.swept(left);
        }
        if others.of.len() >= OTHERS_MAX {
            return Err(Duration::from_secs(60));
        }
        others.of.check_key(other).map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }
}

/// All rates of the REST interface.
pub struct RateLimits {
    by_address: Rate<Network>,
    by_account: Rate<UserId>,
    auth_by_address: Rate<Network>,
    device_lists: Rate<UserId>,
    bundles: PairRate<UserId>,
    sends: Rate<UserId>,
    device_batches: Rate<UserId>,
    log_ops: Rate<UserId>,
    announcements: Rate<UserId>,
    statuses: Rate<UserId>,
}

/// Signed ops of one user in a minute, and how many may come at once: every member can make a log longer, and every later op
/// pays for its length.
const LOG_OPS_PER_MINUTE: u32 = 120;
const LOG_OPS_BURST: u32 = 300;

/// What one user announces to everybody they share a place with, device lists and profiles, in an hour, and how many may come at
/// once: each is an event in all of those streams.
const ANNOUNCEMENTS_PER_HOUR: u32 = 120;
const ANNOUNCEMENTS_BURST: u32 = 60;

/// Changes of what one user shows of their presence in a minute, and how many may come at once: each is a frame for everybody
/// near.
const STATUSES_PER_MINUTE: u32 = 60;
const STATUSES_BURST: u32 = 30;

/// `send_devices` of one user in a second (protocol 9.13), and how many may come at once.
const DEVICE_BATCHES_PER_S: u32 = 20;
const DEVICE_BATCHES_BURST: u32 = 40;

impl RateLimits {
    /// # Errors
    /// When a configured rate is 0 or cannot be kept.
    pub fn new(config: &LimitsConfig) -> anyhow::Result<Self> {
        let second = Duration::from_secs(1);
        Ok(Self {
            by_address: Rate::new(config.requests_per_s, second, config.requests_burst)?,
            by_account: Rate::new(config.requests_per_s, second, config.requests_burst)?,
            auth_by_address: Rate::new(config.auth_per_minute, Duration::from_secs(60), config.auth_per_minute)?,
            device_lists: Rate::new(DEVICE_LISTS_PER_MINUTE, Duration::from_secs(60), DEVICE_LISTS_PER_MINUTE)?,
            bundles: PairRate::new(BUNDLES_PER_HOUR, Duration::from_secs(3600), BUNDLES_PER_HOUR)?,
            sends: Rate::new(config.sends_per_s, second, config.sends_burst)?,
            device_batches: Rate::new(DEVICE_BATCHES_PER_S, second, DEVICE_BATCHES_BURST)?,
            log_ops: Rate::new(LOG_OPS_PER_MINUTE, Duration::from_secs(60), LOG_OPS_BURST)?,
            announcements: Rate::new(ANNOUNCEMENTS_PER_HOUR, Duration::from_secs(3600), ANNOUNCEMENTS_BURST)?,
            statuses: Rate::new(STATUSES_PER_MINUTE, Duration::from_secs(60), STATUSES_BURST)?,
        })
    }

    /// Every request.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub fn check_address(&self, address: IpAddr) -> ApiResult<()> {
        self.by_address.check(&Network::of(address)).map_err(ApiError::rate_limited)
    }

    /// Every request with a login.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub fn check_account(&self, user: UserId) -> ApiResult<()> {
        self.by_account.check(&user).map_err(ApiError::rate_limited)
    }

    /// Signed ops of membership logs.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub fn check_log_op(&self, user: UserId) -> ApiResult<()> {
        self.log_ops.check(&user).map_err(ApiError::rate_limited)
    }

    /// Device lists and profiles.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub fn check_announcement(&self, user: UserId) -> ApiResult<()> {
        self.announcements.check(&user).map_err(ApiError::rate_limited)
    }

    /// Presence, over both transports.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub fn check_status(&self, user: UserId) -> ApiResult<()> {
        self.statuses.check(&user).map_err(ApiError::rate_limited)
    }

    /// Sends, over both transports.
    ///
    /// # Errors
    /// How long to wait.
    pub fn check_send(&self, user: UserId) -> Result<(), Duration> {
        self.sends.check(&user)
    }

    /// Batches of device-to-device frames, over both transports.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub fn check_device_batch(&self, user: UserId) -> ApiResult<()> {
        self.device_batches.check(&user).map_err(ApiError::rate_limited)
    }

    /// Requests that try a password or a code.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub fn check_auth(&self, address: IpAddr) -> ApiResult<()> {
        self.auth_by_address.check(&Network::of(address)).map_err(ApiError::rate_limited)
    }
}

impl RateLimits {
    /// Users whose device lists somebody fetches.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub fn check_device_lists(&self, user: UserId, users: usize) -> ApiResult<()> {
        self.device_lists.check_n(&user, u32::try_from(users).unwrap_or(u32::MAX)).map_err(ApiError::rate_limited)
    }

    /// Bundles that one user takes from another.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub fn check_bundles(&self, requester: UserId, target: UserId) -> ApiResult<()> {
        self.bundles.check(&requester, &target).map_err(ApiError::rate_limited)
    }
}

/// What one person has of addresses: an IPv4 address, or a /64 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(IpAddr);

impl Network {
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Self(IpAddr::from([a, b, c, d, 0, 0, 0, 0]))
            }
            v4 => Self(v4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_refuses_what_is_over_its_burst_and_says_how_long_to_wait() {
        let rate = Rate::new(1, Duration::from_secs(60), 2).unwrap();
        assert!(rate.check(&1).is_ok() && rate.check(&1).is_ok());
        let wait = rate.check(&1).unwrap_err();
        assert!(wait > Duration::from_secs(50) && wait <= Duration::from_secs(60), "{wait:?}");
        assert!(rate.check(&2).is_ok(), "another key has its own rate");
    }

    #[test]
    fn whoever_meets_many_people_slows_nobody_else_down() {
        let rate = PairRate::new(10, Duration::from_secs(3600), 10).unwrap();
        for other in 0..10_000 {
            assert!(rate.check(&0, &other).is_ok(), "{other}");
        }
        assert_eq!(rate.check(&0, &10_000), Err(Duration::from_secs(60)), "their own memory is full");
        assert!(rate.check(&1, &10_000).is_ok());
        for _ in 1..10 {
            assert!(rate.check(&1, &10_000).is_ok());
        }
        assert!(rate.check(&1, &10_000).unwrap_err() > Duration::from_secs(300));
        assert!(rate.check(&1, &2).is_ok() && rate.check(&2, &10_000).is_ok(), "each pair has its own");
    }

    #[test]
    fn pairs_are_forgotten_when_their_time_is_over() {
        let rate = PairRate::new(1_000_000, Duration::from_secs(1), 1).unwrap();
        for caller in 0..10_000 {
            assert!(rate.check(&caller, &0).is_ok());
            // A microsecond is what one takes to be as new.
            while rate.check(&caller, &0).is_err() {}
        }
        assert!(rate.callers.lock().unwrap().of.len() < 10_000);
    }

    #[test]
    fn one_ipv6_subscriber_is_one_network() {
        let of = |text: &str| Network::of(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:1.2.3.4"), of("1.2.3.4"));
        assert_ne!(of("1.2.3.4"), of("1.2.3.5"));
    }
}
