//! Passwords: Argon2id off the async threads, a few at a time, with a bounded queue. Nothing here knows an account.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use tokio::sync::Semaphore;

use crate::config::AuthConfig;
use crate::protocol::auth::SecretText;
use crate::protocol::limits::{PASSWORD_MAX, PASSWORD_MIN};

use super::error::{ApiError, ApiResult};

/// Hashes and verifies, 19 MiB and about 50 ms each (m = 19 MiB, t = 2, p = 1).
pub struct Passwords {
    workers: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
    /// Verified in place of an account that does not exist, so that both take the same time.
    nobody: String,
}

impl Passwords {
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn new(config: &AuthConfig) -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if config.hash_workers == 0 { cores } else { config.hash_workers };
        Ok(Self {
            workers: Arc::new(Semaphore::new(workers)),
            waiting: AtomicUsize::new(0),
            queue: config.hash_queue,
            nobody: hash("nobody has this password").map_err(|e| anyhow::anyhow!("cannot hash a password: {e}"))?,
        })
    }

    /// A PHC string.
    ///
    /// # Errors
    /// 503 `unavailable` when too many wait already.
    pub async fn hash(&self, password: &SecretText) -> ApiResult<String> {
        let password = password.clone();
        self.run(move || hash(&password.0)).await?.map_err(ApiError::internal)
    }

    /// Whether the password is the one of the PHC string; the same work without one.
    ///
    /// # Errors
    /// 503 `unavailable` when too many wait already.
    pub async fn verify(&self, password: &SecretText, phc: Option<&str>) -> ApiResult<bool> {
        // Too long for any account: refused before 1 MB is hashed.
        let password = if password.0.len() > PASSWORD_MAX { SecretText::default() } else { password.clone() };
        let exists = phc.is_some();
        let phc = phc.unwrap_or(&self.nobody).to_owned();
        let right = self
            .run(move || {
                let parsed = PasswordHash::new(&phc)?;
                Ok::<_, argon2::password_hash::phc::Error>(
                    Argon2::default().verify_password(password.0.as_bytes(), &parsed).is_ok(),
                )
            })
            .await?
            .map_err(ApiError::internal)?;
        Ok(right && exists)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> ApiResult<T> {
        let _place = Place::take(&self.waiting, self.queue)?;
        let queued = Instant::now();
        let permit = Arc::clone(&self.workers).acquire_owned().await.map_err(ApiError::internal)?;
        let begun = Instant::now();
        // The permit goes along: a request that is given up does not free a worker that still works.
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        let result = done.await.map_err(ApiError::internal);
        let (waited, worked) = ((begun - queued).as_millis() as u64, begun.elapsed().as_millis() as u64);
        tracing::debug!(waited_ms = waited, worked_ms = worked, "password work");
        result
    }
}

/// A place in the queue, given back when the request ends.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, queue: usize) -> ApiResult<Self> {
        let place = Self(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) >= queue { Err(ApiError::unavailable()) } else { Ok(place) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn hash(password: &str) -> Result<String, argon2::password_hash::Error> {
    Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string())
}

/// Rules for a new password.
///
/// # Errors
/// 400 `validation`.
pub fn check(field: &str, password: &SecretText, username: &str) -> ApiResult<()> {
    let text = password.0.as_str();
    if text.len() > PASSWORD_MAX {
        return Err(ApiError::validation(field, format!("at most {PASSWORD_MAX} bytes")));
    }
    if text.chars().count() < PASSWORD_MIN {
        return Err(ApiError::validation(field, format!("at least {PASSWORD_MIN} characters")));
    }
    let lower = text.to_lowercase();
    let mut distinct: Vec<char> = lower.chars().collect();
    distinct.sort_unstable();
    distinct.dedup();
    if lower.contains(username) || distinct.len() < 4 || COMMON.contains(&lower.as_str()) {
        return Err(ApiError::validation(field, "too easy to guess: take a few words that do not belong together"));
    }
    Ok(())
}

/// What every list of leaked passwords starts with, from eight characters on.
const COMMON: &[&str] = &[
    "12345678",
    "123456789",
    "1234567890",
    "password",
    "password1",
    "password123",
    "passw0rd",
    "p@ssword",
    "p@ssw0rd",
    "qwertyui",
    "qwertyuiop",
    "qwerty123",
    "qwerty12",
    "1q2w3e4r",
    "1q2w3e4r5t",
    "1qaz2wsx",
    "zaq12wsx",
    "iloveyou",
    "sunshine",
    "princess",
    "football",
    "baseball",
    "superman",
    "starwars",
    "trustno1",
    "letmein1",
    "welcome1",
    "welcome123",
    "admin123",
    "administrator",
    "changeme",
    "computer",
    "michelle",
    "whatever",
    "abcd1234",
    "abc12345",
    "asdfghjk",
    "asdfghjkl",
    "87654321",
    "987654321",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::error::ErrorCode;

    fn passwords(hash_queue: usize) -> Passwords {
        Passwords::new(&AuthConfig { hash_workers: 1, hash_queue, ..AuthConfig::default() }).unwrap()
    }

    #[tokio::test]
    async fn only_the_right_password_of_an_account_is_right() {
        let passwords = passwords(8);
        let phc = passwords.hash(&"correct horse".into()).await.unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert!(passwords.verify(&"correct horse".into(), Some(&phc)).await.unwrap());
        assert!(!passwords.verify(&"correct house".into(), Some(&phc)).await.unwrap());
        assert!(!passwords.verify(&"nobody has this password".into(), None).await.unwrap());
        let long = SecretText("x".repeat(1024 * 1024));
        assert!(!passwords.verify(&long, Some(&phc)).await.unwrap());
    }

    #[tokio::test]
    async fn nobody_costs_what_an_account_costs() {
        let passwords = passwords(8);
        let account = passwords.hash(&"correct horse".into()).await.unwrap();
        // Algorithm, version and cost; then a salt and a hash of the same lengths.
        let parts = |phc: &str| phc.split('$').map(str::to_owned).collect::<Vec<_>>();
        let (nobody, account) = (parts(&passwords.nobody), parts(&account));
        assert_eq!((nobody.len(), &nobody[..4]), (account.len(), &account[..4]));
        assert_eq!((nobody[4].len(), nobody[5].len()), (account[4].len(), account[5].len()));
        assert_ne!(nobody[4], account[4], "each has a salt of its own");
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once() {
        let passwords = Arc::new(passwords(2));
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let passwords = Arc::clone(&passwords);
                tokio::spawn(async move { passwords.hash(&"correct horse".into()).await })
            })
            .collect();
        let mut refused = 0;
        for task in tasks {
            refused += usize::from(task.await.unwrap().is_err_and(|e| e.code == ErrorCode::Unavailable));
        }
        assert_eq!(refused, 18);
        assert!(passwords.hash(&"correct horse".into()).await.is_ok(), "the places are given back");
    }

    #[test]
    fn weak_short_and_huge_passwords_are_refused() {
        let long = "x".repeat(1025);
        for bad in ["", "short", "password", "PASSWORD", "aaaaaaaaaa", "abababababab", "alice-2026", &long] {
            assert!(check("password", &bad.into(), "alice").is_err(), "{bad}");
        }
        for good in ["correct horse battery", "пароль-покрепче", "tr0ub4dor&3"] {
            assert!(check("password", &good.into(), "alice").is_ok(), "{good}");
        }
    }
}
