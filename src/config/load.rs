//! The layers of the configuration: reading, merging and naming the place of what is wrong. Knows no key by name.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::{Table, Value};

use super::Config;

/// Where the layers come from, in rising order.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A file that must exist; none: [`default_file`], when it exists.
    pub file: Option<PathBuf>,
    /// The environment; only `CHAT__…` and `DATABASE_URL` count.
    pub env: Vec<(String, String)>,
    /// Flags as dotted keys: `("server.listen", "127.0.0.1:0")`.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// The real environment, with the file and the flags of the command line.
    pub fn from_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        let env = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
        Self { file, env, flags }
    }
}

/// What is wrong and where.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {cause}")]
    Unreadable { path: String, cause: std::io::Error },
    /// In a file, with the place.
    #[error("{path}:{line}:{column}: {message}")]
    Syntax { path: String, line: usize, column: usize, message: String },
    /// In the environment or a flag.
    #[error("{origin}: {message}")]
    Setting { origin: String, message: String },
    /// A value that cannot be used, wherever it came from.
    #[error("{key}: {message}")]
    Value { key: String, message: String },
}

impl ConfigError {
    pub(super) fn value(key: &str, message: impl Into<String>) -> Self {
        Self::Value { key: key.to_owned(), message: message.into() }
    }
}

/// `/etc/chat/chat.toml` for root, `$XDG_CONFIG_HOME/chat/config.toml` for others.
pub fn default_file() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/etc/chat/chat.toml"));
    }
    use etcetera::BaseStrategy as _;
    etcetera::base_strategy::Xdg::new().ok().map(|xdg| xdg.config_dir().join("chat/config.toml"))
}

/// All layers, merged. Each is checked alone first, so that an error names its own place.
pub(super) fn layers(sources: &Sources) -> Result<Config, ConfigError> {
    let mut merged = Table::new();
    let (file, required) = match &sources.file {
        Some(file) => (Some(file.clone()), true),
        None => (default_file(), false),
    };
    if let Some(file) = file {
        if required || file.exists() {
            merge(&mut merged, read(&file)?);
        }
        for file in conf_d(&file)? {
            merge(&mut merged, read(&file)?);
        }
    }
    for (name, value) in &sources.env {
        // The name that every PostgreSQL tool knows; the more exact one wins.
        let own = name == "DATABASE_URL" && !sources.env.iter().any(|(name, _)| name == "CHAT__SERVER__DATABASE__URL");
        let path: Vec<String> = match name.strip_prefix("CHAT__") {
            Some(rest) => rest.split("__").map(str::to_lowercase).collect(),
            None if own => ["server", "database", "url"].map(str::to_owned).to_vec(),
            None => continue,
        };
        merge(&mut merged, setting(name, &path, value)?);
    }
    for (key, value) in &sources.flags {
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        merge(&mut merged, setting(key, &path, value)?);
    }
    Config::deserialize(merged)
        .map_err(|e| ConfigError::Value { key: "configuration".to_owned(), message: e.message().to_owned() })
}

/// One file, checked.
fn read(path: &Path) -> Result<Table, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::Unreadable { path: name.clone(), cause })?;
    let place = |error: toml::de::Error| {
        let (line, column) = position(&text, error.span().unwrap_or(0..0));
        ConfigError::Syntax { path: name.clone(), line, column, message: with_suggestion(error.message()) }
    };
    toml::from_str::<Config>(&text).map_err(place)?;
    toml::from_str::<Table>(&text).map_err(place)
}

/// `conf.d/*.toml` beside the file, in the order of their names.
fn conf_d(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let Some(dir) = file.parent().map(|parent| parent.join("conf.d")).filter(|dir| dir.is_dir()) else {
        return Ok(Vec::new());
    };
    let unreadable = |cause| ConfigError::Unreadable { path: dir.display().to_string(), cause };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A single key from the environment or a flag. The text is a TOML value when the key takes one, else a string.
fn setting(origin: &str, path: &[String], text: &str) -> Result<Table, ConfigError> {
    let typed = format!("v = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("v"));
    let string = Value::String(text.to_owned());
    let mut error = None;
    for value in typed.into_iter().chain([string]) {
        let nested = path.iter().rev().fold(value, |value, key| Value::Table(Table::from_iter([(key.clone(), value)])));
        match Config::deserialize(nested.clone()) {
            Ok(_) => return Ok(Table::from_iter(nested.as_table().cloned().unwrap_or_default())),
            Err(e) => error = error.or(Some(e)),
        }
    }
    let message = error.map_or_else(String::new, |e| with_suggestion(e.message()));
    Err(ConfigError::Setting { origin: origin.to_owned(), message })
}

fn merge(base: &mut Table, layer: Table) {
    for (key, value) in layer {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Line and column, from 1, of the start of a span.
fn position(text: &str, span: Range<usize>) -> (usize, usize) {
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// Adds the nearest right key to serde's "unknown field `x`, expected one of `a`, `b`".
fn with_suggestion(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let known = |name: &&str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let (true, Some(wrong)) = (message.starts_with("unknown field"), names.next()) else {
        return message.to_owned();
    };
    match names.filter(known).min_by_key(|name| strsim::damerau_levenshtein(wrong, name)) {
        Some(nearest) => format!("unknown key `{wrong}`, did you mean `{nearest}`?"),
        None => format!("unknown key `{wrong}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::auth::Registration;

    fn with_file(text: &str) -> (tempfile::TempDir, Sources) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("chat.toml");
        std::fs::write(&file, text).unwrap();
        (dir, Sources { file: Some(file), ..Sources::default() })
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn later_layers_win_key_by_key() {
        let (dir, mut sources) =
            with_file("[server]\nname = \"file\"\nlisten = \"file:1\"\ndrain_timeout_s = 3\n[server.auth]\nhash_queue = 5\n");
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        std::fs::write(dir.path().join("conf.d/10.toml"), "[server]\nname = \"ten\"\nlisten = \"ten:1\"\n").unwrap();
        std::fs::write(dir.path().join("conf.d/20.toml"), "[server]\nname = \"twenty\"\n").unwrap();
        sources.env = pairs(&[("CHAT__SERVER__NAME", "env"), ("CHAT__SERVER__REGISTRATION", "open"), ("PATH", "/bin")]);
        sources.flags = pairs(&[("server.name", "flag")]);
        let config = Config::load(&sources).unwrap().server;
        assert_eq!((config.name.as_str(), config.listen.as_str()), ("flag", "ten:1"));
        assert_eq!((config.drain_timeout_s, config.auth.hash_queue, config.registration), (3, 5, Registration::Open));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place_and_the_nearest_right_one() {
        let (_dir, sources) = with_file("[server]\nname = \"x\"\n  regstration = \"open\"\n");
        let error = Config::load(&sources).unwrap_err().to_string();
        assert!(error.ends_with("chat.toml:3:3: unknown key `regstration`, did you mean `registration`?"), "{error}");

        let sources = Sources { env: pairs(&[("CHAT__SERVER__DATABASE__POOLSIZE", "3")]), ..with_file("").1 };
        let sources = Sources { file: None, ..sources };
        let error = Config::load(&sources).unwrap_err().to_string();
        assert_eq!(error, "CHAT__SERVER__DATABASE__POOLSIZE: unknown key `poolsize`, did you mean `pool_size`?");
    }

    #[test]
    fn numbers_lists_and_digits_in_names_come_from_the_environment() {
        let env = pairs(&[
            ("CHAT__SERVER__NAME", "42"),
            ("CHAT__SERVER__DATABASE__POOL_SIZE", "7"),
            ("CHAT__SERVER__TRUSTED_PROXIES", "[\"10.0.0.1\"]"),
            ("DATABASE_URL", "postgres://localhost/chat"),
        ]);
        let (_dir, mut sources) = with_file("");
        sources.env = env;
        let config = Config::load(&sources).unwrap().server;
        assert_eq!((config.name.as_str(), config.database.pool_size), ("42", 7));
        assert_eq!(config.trusted_proxies, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(config.database.url, "postgres://localhost/chat");
    }

    #[test]
    fn a_secret_may_stand_in_a_file_of_its_own() {
        let (dir, mut sources) = with_file("");
        let path = dir.path().join("url");
        std::fs::write(&path, "postgres://a:b@c/d\n").unwrap();
        sources.flags = pairs(&[("server.database.url_file", path.to_str().unwrap())]);
        assert_eq!(Config::load(&sources).unwrap().server.database.url, "postgres://a:b@c/d");
        sources.flags.push(("server.database.url".to_owned(), "postgres://x".to_owned()));
        assert!(Config::load(&sources).unwrap_err().to_string().contains("not both"));
    }

    #[test]
    fn wrong_types_values_and_files_are_clear_errors() {
        let (_dir, sources) = with_file("[server]\ndrain_timeout_s = \"soon\"\n");
        assert!(Config::load(&sources).unwrap_err().to_string().contains(":2:19: invalid type"));
        let (_dir, sources) = with_file("[server\n");
        assert!(Config::load(&sources).unwrap_err().to_string().contains(":1:"));
        let (_dir, mut sources) = with_file("");
        sources.flags = pairs(&[("server.database.pool_size", "0")]);
        assert_eq!(
            Config::load(&sources).unwrap_err().to_string(),
            "server.database.pool_size: is 0, must be between 2 and 1000"
        );
        sources.flags = pairs(&[("server.database.url", "mysql://x")]);
        assert!(Config::load(&sources).unwrap_err().to_string().contains("postgres://"));
        sources.file = Some(PathBuf::from("/nonexistent/chat.toml"));
        assert!(Config::load(&sources).unwrap_err().to_string().starts_with("cannot read /nonexistent/chat.toml"));
    }
}
