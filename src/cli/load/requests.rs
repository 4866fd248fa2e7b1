//! Loads of single requests: the newest page of a channel, and logins.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::client::engine::Method;
use crate::client::model::Problem;
use crate::client::transport::{Call, Transport};
use crate::protocol::auth::Login;

use super::failed;
use super::measure::Latencies;
use super::people::{Account, PASSWORD, Room, username};

/// Fetches the newest 50 rows of a channel again and again, one request after the other.
///
/// # Errors
/// When a page is refused or has not the rows that it must have.
pub async fn pages(server: &Arc<dyn Transport>, account: &Account, room: &Room, count: usize) -> Result<Latencies, Problem> {
    #[derive(Deserialize)]
    struct Page {
        items: Vec<IgnoredAny>,
    }
    let mut latencies = Latencies::default();
    for _ in 0..count {
        let call = Call {
            method: Method::Get,
            path: format!("/channels/{}/messages?limit=50", room.channel_id),
            body: None,
            bearer: Some(account.token.clone()),
        };
        let begun = Instant::now();
        let answer = server.http(call).await.map_err(|error| failed(error.to_string()))?;
        latencies.add(begun.elapsed());
        let page: Option<Page> = serde_json::from_slice(&answer.body).ok();
        if answer.status != 200 || page.is_none_or(|page| page.items.len() != 50) {
            return Err(failed(format!("a page of {} was answered with HTTP {}", room.name, answer.status)));
        }
    }
    Ok(latencies)
}

/// Logs in with the passwords of so many accounts at a time, in a closed loop.
///
/// # Errors
/// When a login is refused.
pub async fn logins(server: &Arc<dyn Transport>, at_once: usize, time: Duration) -> Result<Latencies, Problem> {
    let until = Instant::now() + time;
    let loops = (0..at_once).map(|place| {
        let server = Arc::clone(server);
        async move {
            let mut latencies = Vec::new();
            let login = Login { username: username(place), password: PASSWORD.into(), totp_code: None };
            let body = serde_json::to_vec(&login).map_err(|error| failed(error.to_string()))?;
            while Instant::now() < until {
                let call = Call { method: Method::Post, path: "/auth/login".to_owned(), body: Some(body.clone()), bearer: None };
                let begun = Instant::now();
                let answer = server.http(call).await.map_err(|error| failed(error.to_string()))?;
                if answer.status != 200 {
                    return Err(failed(format!("a login was answered with HTTP {}", answer.status)));
                }
                latencies.push(begun.elapsed());
            }
            Ok(latencies)
        }
    });
    let mut all = Latencies::default();
    for latencies in futures_util::future::try_join_all(loops).await? {
        latencies.into_iter().for_each(|latency| all.add(latency));
    }
    Ok(all)
}
