//! Configuration of server and client: defaults < file < conf.d < environment < flags, validated once.
//!
//! The structs are the whole vocabulary; `config.example.toml` shows every key. [`load`] reads the layers and names the
//! file, line and column of what it refuses. Nothing here opens a socket or a database.

mod load;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::LevelFilter;

use crate::protocol::auth::Registration;
use crate::protocol::limits::{self, SERVER_NAME_MAX};
use crate::protocol::text::{is_acting, is_blank};

use load::Layers;

pub use load::{ConfigError, Sources, default_file};

/// Everything that can be configured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: ServerConfig,
    pub client: ClientConfig,
}

/// `chat serve`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Shown to clients.
    pub name: String,
    /// Address and port; port 0 takes a free one.
    pub listen: String,
    /// Files, the embedded database and the server's secret.
    pub data_dir: PathBuf,
    /// Who may make an account.
    #[serde(deserialize_with = "registration")]
    pub registration: Registration,
    /// 32 random bytes in base64; made at the first start when the file is missing. Empty: `secret` in `data_dir`.
    pub secret_file: PathBuf,
    /// Addresses of reverse proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// Seconds between SIGTERM and the end.
    pub drain_timeout_s: u64,
    pub database: DatabaseConfig,
    pub auth: AuthConfig,
    pub limits: LimitsConfig,
    pub log: LogConfig,
}

/// The PostgreSQL database.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `postgres://…`; empty: a cluster of its own under `data_dir`.
    pub url: String,
    /// A file that holds the URL.
    pub url_file: PathBuf,
    /// Connections of one server process.
    pub pool_size: u32,
}

/// Logins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    pub access_token_s: u64,
    pub refresh_token_s: u64,
    /// Password hashes computed at a time; 0: one for each core.
    pub hash_workers: usize,
    /// Requests that may wait for a password hash; the next gets 503.
    pub hash_queue: usize,
}

/// Rates and quotas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Requests of one address, or one account, in a second, and how many may come at once.
    pub requests_per_s: u32,
    pub requests_burst: u32,
    /// Registrations, logins, recoveries of one address in a minute.
    pub auth_per_minute: u32,
    /// Sends of one user in a second, and how many may come at once.
    pub sends_per_s: u32,
    pub sends_burst: u32,
    /// Frames of one WebSocket in a second, and how many may come at once.
    pub frames_per_s: u32,
    pub frames_burst: u32,
    /// Connections of all clients, WebSockets among them.
    pub connections: u32,
    /// WebSockets of one user.
    pub connections_per_user: u32,
    /// WebSockets of one address; of connections of every kind it may have four times as many.
    pub connections_per_address: u32,
    /// Bytes of one file, and of all files of a user.
    pub file: u64,
    pub quota: u64,
}

/// The server's log on standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// A filter as of `tracing-subscriber`: `info`, `debug`, `info,chat::server=debug`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    Text,
    Json,
}

/// `chat tui`, `chat send` and the other clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// `https://HOST[:PORT]` that a new profile offers; empty: ask.
    pub server: String,
    /// Plain http to other machines too: passwords and tokens are readable on the way.
    pub allow_http: bool,
    /// How frames are written on the WebSocket.
    pub encoding: WireEncoding,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireEncoding {
    #[default]
    Json,
    Msgpack,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            name: "chat".to_owned(),
            listen: "127.0.0.1:8008".to_owned(),
            data_dir: PathBuf::new(),
            registration: Registration::Closed,
            secret_file: PathBuf::new(),
            trusted_proxies: Vec::new(),
            drain_timeout_s: 15,
            database: DatabaseConfig::default(),
            auth: AuthConfig::default(),
            limits: LimitsConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl ServerConfig {
    /// Where the server keeps its files: as configured, else `/var/lib/chat` for root and `$XDG_DATA_HOME/chat/server` for others.
    pub fn data_dir(&self) -> PathBuf {
        if !self.data_dir.as_os_str().is_empty() {
            return self.data_dir.clone();
        }
        if rustix::process::geteuid().is_root() {
            return PathBuf::from("/var/lib/chat");
        }
        use etcetera::BaseStrategy as _;
        match etcetera::base_strategy::Xdg::new() {
            Ok(xdg) => xdg.data_dir().join("chat/server"),
            Err(_) => PathBuf::from("chat-data"),
        }
    }

    /// The file with the server's secret.
    pub fn secret_file(&self) -> PathBuf {
        if self.secret_file.as_os_str().is_empty() { self.data_dir().join("secret") } else { self.secret_file.clone() }
    }
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self { url: String::new(), url_file: PathBuf::new(), pool_size: 16 }
    }
}

/// The URL may hold a password.
impl fmt::Debug for DatabaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, url_file, pool_size } = self;
        f.debug_struct("DatabaseConfig")
            .field("url", &if url.is_empty() { "" } else { "…" })
            .field("url_file", url_file)
            .field("pool_size", pool_size)
            .finish()
    }
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self { access_token_s: 15 * 60, refresh_token_s: 30 * 24 * 3600, hash_workers: 0, hash_queue: 64 }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            requests_per_s: 50,
            requests_burst: 200,
            auth_per_minute: 60,
            sends_per_s: 10,
            sends_burst: 20,
            frames_per_s: 20,
            frames_burst: 40,
            connections: 10_000,
            connections_per_user: limits::CONNECTIONS_PER_USER as u32,
            connections_per_address: 64,
            file: limits::FILE_MAX,
            quota: limits::QUOTA,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto }
    }
}

impl Config {
    /// Reads all layers, checks them and resolves the `*_file` keys.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and what to do about it.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let layers = Layers::read(sources)?;
        let mut config = layers.merge()?;
        config.resolve_files().and_then(|()| config.validate()).map_err(|error| layers.locate(error))?;
        Ok(config)
    }

    fn resolve_files(&mut self) -> Result<(), ConfigError> {
        let database = &mut self.server.database;
        if !database.url_file.as_os_str().is_empty() {
            if !database.url.is_empty() {
                return Err(ConfigError::value("server.database.url_file", "set either url or url_file, not both"));
            }
            database.url = read_secret("server.database.url_file", &database.url_file)?;
        }
        Ok(())
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let server = &self.server;
        if !is_address(&server.listen) {
            let message = format!("`{}` is not an address and a port, such as 127.0.0.1:8008", server.listen);
            return Err(ConfigError::value("server.listen", message));
        }
        if server.name.chars().all(is_blank)
            || server.name.chars().count() > SERVER_NAME_MAX
            || server.name.chars().any(is_acting)
        {
            let message = format!("is 1 to {SERVER_NAME_MAX} characters to be seen, none of them a control character");
            return Err(ConfigError::value("server.name", message));
        }
        if !is_filter(&server.log.level) {
            let message = format!("`{}` is not a log level, such as info, debug, or info,chat::server=debug", server.log.level);
            return Err(ConfigError::value("server.log.level", message));
        }
        let url = &server.database.url;
        if !url.is_empty() && !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(ConfigError::value("server.database.url", "must start with postgres:// or postgresql://"));
        }
        for (key, value, low, high) in [
            ("server.database.pool_size", u64::from(server.database.pool_size), 2, 1000),
            ("server.drain_timeout_s", server.drain_timeout_s, 1, 300),
            ("server.auth.access_token_s", server.auth.access_token_s, 10, 24 * 3600),
            ("server.auth.refresh_token_s", server.auth.refresh_token_s, 60, 400 * 24 * 3600),
            ("server.auth.hash_workers", server.auth.hash_workers as u64, 0, 256),
            ("server.auth.hash_queue", server.auth.hash_queue as u64, 1, 100_000),
            ("server.limits.requests_per_s", u64::from(server.limits.requests_per_s), 1, 1_000_000),
            ("server.limits.requests_burst", u64::from(server.limits.requests_burst), 1, 1_000_000),
            ("server.limits.auth_per_minute", u64::from(server.limits.auth_per_minute), 1, 1_000_000),
            ("server.limits.sends_per_s", u64::from(server.limits.sends_per_s), 1, 1_000_000),
            ("server.limits.sends_burst", u64::from(server.limits.sends_burst), 1, 1_000_000),
            ("server.limits.frames_per_s", u64::from(server.limits.frames_per_s), 1, 1_000_000),
            ("server.limits.frames_burst", u64::from(server.limits.frames_burst), 1, 1_000_000),
            ("server.limits.connections", u64::from(server.limits.connections), 1, 1_000_000),
            ("server.limits.connections_per_user", u64::from(server.limits.connections_per_user), 1, 100_000),
            ("server.limits.connections_per_address", u64::from(server.limits.connections_per_address), 1, 1_000_000),
        ] {
            if !(low..=high).contains(&value) {
                return Err(ConfigError::value(key, format!("is {value}, must be between {low} and {high}")));
            }
        }
        Ok(())
    }
}

/// `127.0.0.1:8008`, `[::1]:8008` or `name:8008`; whether the name exists shows when it is used.
fn is_address(text: &str) -> bool {
    let is_named = || {
        let (host, port) = text.rsplit_once(':')?;
        Some(!host.is_empty() && !host.contains(['/', ':', '[', ' ']) && port.parse::<u16>().is_ok())
    };
    text.parse::<SocketAddr>().is_ok() || is_named().unwrap_or(false)
}

/// A mistyped level would be taken for the name of a module, and everything else would be silent.
fn is_filter(text: &str) -> bool {
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok() && word.parse::<u8>().is_err();
    text.split(',').all(|part| match part.split_once('=') {
        Some((target, level)) => !target.trim().is_empty() && is_level(level.trim()),
        None => is_level(part.trim()),
    })
}

/// The wire reads an unknown word as `closed`; here it is a mistake to name.
fn registration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Registration, D::Error> {
    let word = String::deserialize(deserializer)?;
    match word.as_str() {
        "open" => Ok(Registration::Open),
        "invite" => Ok(Registration::Invite),
        "closed" => Ok(Registration::Closed),
        _ => Err(serde::de::Error::unknown_variant(&word, &["open", "invite", "closed"])),
    }
}

/// The content of a secret's file, without the line end.
fn read_secret(key: &str, path: &Path) -> Result<String, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|e| ConfigError::value(key, format!("cannot read {}: {e}", path.display())))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_shows_every_key_with_its_default() {
        let text = include_str!("../../config.example.toml");
        let example: toml::Table = toml::from_str(text).unwrap();
        let defaults = toml::Table::try_from(Config::default()).unwrap();
        assert_eq!(example, defaults);
    }

    #[test]
    fn every_key_of_the_example_says_why_it_exists() {
        let mut explained = false;
        for line in include_str!("../../config.example.toml").lines() {
            if line.starts_with('#') {
                explained = true;
            } else if line.contains('=') {
                assert!(explained, "no comment above: {line}");
            } else {
                explained = false;
            }
        }
    }

    #[test]
    fn a_database_url_is_not_printed() {
        let config = DatabaseConfig { url: "postgres://chat:hunter2@db/chat".to_owned(), ..DatabaseConfig::default() };
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
