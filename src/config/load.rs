//! The layers of the configuration: reading, merging and naming the place of what is wrong. Knows no key by name.

use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::Config;

/// Where the layers come from, in rising order.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A file that must exist; none: [`default_file`], when it exists.
    pub file: Option<PathBuf>,
    /// The environment; only `CHAT__…` and `DATABASE_URL` count.
    pub env: Vec<(String, String)>,
    /// Flags as dotted keys: `("server.listen", "127.0.0.1:0")`; in errors they are called `--listen`.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// The real environment, with the file and the flags of the command line.
    ///
    /// # Errors
    /// When a variable of ours is not UTF-8.
    pub fn from_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Result<Self, ConfigError> {
        let mut env = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            if is_ours(&name) {
                let value = value.into_string().map_err(|_| ConfigError::setting(&name, "is not UTF-8 text"))?;
                env.push((name, value));
            }
        }
        Ok(Self { file, env, flags })
    }
}

const PREFIX: &str = "CHAT__";
/// The name that every PostgreSQL tool knows; `CHAT__SERVER__DATABASE__URL` is more exact and wins.
const DATABASE_URL: &str = "DATABASE_URL";

fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) || name == DATABASE_URL
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
    /// A value that cannot be used, before it is known which layer it came from.
    #[error("{key}: {message}")]
    Value { key: String, message: String },
}

impl ConfigError {
    pub(super) fn value(key: &str, message: impl Into<String>) -> Self {
        Self::Value { key: key.to_owned(), message: message.into() }
    }

    fn setting(origin: &str, message: impl Into<String>) -> Self {
        Self::Setting { origin: origin.to_owned(), message: message.into() }
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

/// One layer, and enough of its origin to point into it.
struct Layer {
    table: Table,
    origin: Origin,
}

enum Origin {
    File { path: String, text: String },
    Setting(String),
}

/// All layers, lowest first, each correct in itself.
pub(super) struct Layers(Vec<Layer>);

impl Layers {
    /// Reads and checks each alone, so that an error names its own place.
    pub(super) fn read(sources: &Sources) -> Result<Self, ConfigError> {
        let mut layers = Vec::new();
        let (file, required) = match &sources.file {
            Some(file) => (Some(file.clone()), true),
            None => (default_file(), false),
        };
        if let Some(file) = file {
            // A file that is there and cannot be read is not the same as no file.
            if required || file.try_exists().map_err(unreadable(&file))? {
                layers.push(Layer::file(&file)?);
            }
            for file in conf_d(&file)? {
                layers.push(Layer::file(&file)?);
            }
        }
        for (name, value) in &sources.env {
            let own = name == DATABASE_URL && !sources.env.iter().any(|(name, _)| name == "CHAT__SERVER__DATABASE__URL");
            let path: Vec<String> = match name.strip_prefix(PREFIX) {
                Some(rest) => rest.split("__").map(str::to_lowercase).collect(),
                None if own => ["server", "database", "url"].map(str::to_owned).to_vec(),
                None => continue,
            };
            layers.push(Layer::setting(name.clone(), &path, value)?);
        }
        for (key, value) in &sources.flags {
            let path: Vec<String> = key.split('.').map(str::to_owned).collect();
            let flag = format!("--{}", path.last().map_or("", String::as_str).replace('_', "-"));
            layers.push(Layer::setting(flag, &path, value)?);
        }
        Ok(Self(layers))
    }

    /// One configuration, later layers over earlier ones.
    pub(super) fn merge(&self) -> Result<Config, ConfigError> {
        let mut merged = Table::new();
        for layer in &self.0 {
            merge(&mut merged, layer.table.clone());
        }
        Config::deserialize(merged).map_err(|e| ConfigError::value("configuration", e.message()))
    }

    /// The error with the place of the value that it is about: the last layer that sets the key.
    pub(super) fn locate(&self, error: ConfigError) -> ConfigError {
        let ConfigError::Value { key, message } = error else { return error };
        let path: Vec<&str> = key.split('.').collect();
        let Some(layer) = self.0.iter().rev().find(|layer| lookup(&layer.table, &path).is_some()) else {
            return ConfigError::Value { key, message };
        };
        match &layer.origin {
            Origin::Setting(origin) => ConfigError::setting(origin, message),
            Origin::File { path: file, text } => {
                let (line, column) = position(text, place_of(text, &path).unwrap_or(0));
                ConfigError::Syntax { path: file.clone(), line, column, message: format!("{key}: {message}") }
            }
        }
    }
}

impl Layer {
    /// One file, checked.
    fn file(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = String::from_utf8(std::fs::read(path).map_err(unreadable(path))?).map_err(|error| {
            let good = error.utf8_error().valid_up_to();
            let before = String::from_utf8_lossy(error.as_bytes().get(..good).unwrap_or_default());
            let (line, column) = position(&before, good);
            ConfigError::Syntax { path: name.clone(), line, column, message: "is not UTF-8 text from here on".to_owned() }
        })?;
        let place = |error: toml::de::Error| {
            let (line, column) = position(&text, error.span().unwrap_or(0..0).start);
            ConfigError::Syntax { path: name.clone(), line, column, message: in_words(error.message()) }
        };
        toml::from_str::<Config>(&text).map_err(place)?;
        let table = toml::from_str::<Table>(&text).map_err(place)?;
        Ok(Self { table, origin: Origin::File { path: name, text } })
    }

    /// A single key from the environment or a flag. The text is a TOML value when the key takes one, else a string.
    fn setting(origin: String, path: &[String], text: &str) -> Result<Self, ConfigError> {
        let typed = format!("v = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("v"));
        let string = Value::String(text.to_owned());
        let mut error = None;
        for value in typed.into_iter().chain([string]) {
            let nested = path.iter().rev().fold(value, |value, key| Value::Table(Table::from_iter([(key.clone(), value)])));
            match (Config::deserialize(nested.clone()), nested) {
                (Ok(_), Value::Table(table)) => return Ok(Self { table, origin: Origin::Setting(origin) }),
                (Err(e), _) => error = error.or(Some(e)),
                (Ok(_), _) => {}
            }
        }
        Err(ConfigError::setting(&origin, error.map_or_else(|| "names no key".to_owned(), |e| in_words(e.message()))))
    }
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> ConfigError {
    let path = path.display().to_string();
    move |cause| ConfigError::Unreadable { path: path.clone(), cause }
}

/// `conf.d/*.toml` beside the file, in the order of their names.
fn conf_d(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let Some(dir) = file.parent().map(|parent| parent.join("conf.d")).filter(|dir| dir.is_dir()) else {
        return Ok(Vec::new());
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(unreadable(&dir))? {
        let path = entry.map_err(unreadable(&dir))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
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

fn lookup<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = table.get(*first)?;
    if rest.is_empty() { Some(value) } else { lookup(value.as_table()?, rest) }
}

/// The byte where the value of this key begins.
fn place_of(text: &str, path: &[&str]) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let (last, tables) = path.split_last()?;
    let mut table = document.get_ref();
    for name in tables {
        table = table.get(*name).and_then(|value| value.get_ref().as_table())?;
    }
    let value: &toml::Spanned<DeValue<'_>> = table.get(*last)?;
    Some(value.span().start)
}

/// Line and column, from 1, of a byte.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// What serde says, for people: an unknown key with the nearest right one, and no value that may be a secret.
fn in_words(message: &str) -> String {
    if message.starts_with("unknown field") {
        let mut names = message.split('`').skip(1).step_by(2);
        let wrong = names.next().unwrap_or_default();
        return unknown_key(wrong, &names.collect::<Vec<_>>());
    }
    let table = message.split_once("expected struct ").map(|(before, _)| format!("{before}expected a table"));
    let message = table.as_deref().unwrap_or(message);
    // A database's URL in the place of its table, say.
    match message.split_once("string \"").and_then(|(before, rest)| Some((before, rest.rsplit_once('"')?))) {
        Some((before, (value, after))) if value.contains("://") || value.contains('@') => format!("{before}string \"…\"{after}"),
        _ => message.to_owned(),
    }
}

fn unknown_key(wrong: &str, siblings: &[&str]) -> String {
    let distance = |name: &str| strsim::damerau_levenshtein(wrong, name);
    let near = |name: &str| distance(name) <= wrong.chars().count().max(name.chars().count()).div_ceil(3);
    let here = siblings.iter().copied().filter(|name| near(name)).min_by_key(|name| distance(name));
    // A right name in the wrong table.
    let elsewhere = || {
        let keys = all_keys();
        keys.into_iter().filter(|key| near(last_part(key))).min_by_key(|key| distance(last_part(key)))
    };
    match here.map(str::to_owned).or_else(elsewhere) {
        Some(nearest) => format!("unknown key `{wrong}`, did you mean `{nearest}`?"),
        None if siblings.is_empty() => format!("unknown key `{wrong}`"),
        None => format!("unknown key `{wrong}`; the keys here are: {}", siblings.join(", ")),
    }
}

fn last_part(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// Every key, with its tables: `server.database.url`.
fn all_keys() -> Vec<String> {
    fn collect(table: &Table, prefix: &str, keys: &mut Vec<String>) {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            match value {
                Value::Table(inner) => collect(inner, &format!("{key}."), keys),
                _ => keys.push(key),
            }
        }
    }
    let mut keys = Vec::new();
    if let Ok(defaults) = Table::try_from(Config::default()) {
        collect(&defaults, "", &mut keys);
    }
    keys
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
        let (_dir, sources) = with_file("[server]\nname = \"x\"\n[server.database]\npool_size = 1\n");
        let error = Config::load(&sources).unwrap_err().to_string();
        assert!(error.ends_with("chat.toml:4:13: server.database.pool_size: is 1, must be between 2 and 1000"), "{error}");
        for name in ["", " ", "\\u200B", "a\\u001bb", "a\\u202Eb", &"x".repeat(65)] {
            let error = Config::load(&with_file(&format!("[server]\nname = \"{name}\"\n")).1).unwrap_err().to_string();
            assert!(error.contains(":2:8: server.name: is 1 to 64 characters"), "{name}: {error}");
        }
        let error = Config::load(&with_file("server = 1\n").1).unwrap_err().to_string();
        assert!(error.ends_with("chat.toml:1:10: invalid type: integer `1`, expected a table"), "{error}");
        let (dir, sources) = with_file("");
        std::fs::write(dir.path().join("chat.toml"), b"[server]\nname = \"\xC3\xA4\xFF\"\n").unwrap();
        let error = Config::load(&sources).unwrap_err().to_string();
        assert!(error.ends_with("chat.toml:2:10: is not UTF-8 text from here on"), "{error}");
        let (_dir, sources) = with_file("[server\n");
        assert!(Config::load(&sources).unwrap_err().to_string().contains(":1:"));
        let (_dir, mut sources) = with_file("");
        sources.flags = pairs(&[("server.database.pool_size", "0")]);
        assert_eq!(Config::load(&sources).unwrap_err().to_string(), "--pool-size: is 0, must be between 2 and 1000");
        sources.flags = pairs(&[("server.database.url", "mysql://x")]);
        assert!(Config::load(&sources).unwrap_err().to_string().contains("postgres://"));
        sources.file = Some(PathBuf::from("/nonexistent/chat.toml"));
        assert!(Config::load(&sources).unwrap_err().to_string().starts_with("cannot read /nonexistent/chat.toml"));
    }

    #[test]
    fn a_key_in_the_wrong_table_is_found_and_a_hopeless_one_gets_the_list() {
        let error = |text: &str| Config::load(&with_file(text).1).unwrap_err().to_string();
        assert!(error("pool_sizes = 3\n").ends_with("`pool_sizes`, did you mean `server.database.pool_size`?"));
        let hopeless = error("[server.database]\nxyzzy = 3\n");
        assert!(hopeless.ends_with("unknown key `xyzzy`; the keys here are: url, url_file, pool_size"), "{hopeless}");
    }

    #[test]
    fn listen_and_level_are_checked_before_anything_starts() {
        let load = |key: &str, value: &str| {
            let sources = Sources { flags: pairs(&[(key, value)]), ..with_file("").1 };
            Config::load(&Sources { file: None, ..sources }).map(drop).map_err(|e| e.to_string())
        };
        for good in ["127.0.0.1:0", "[::1]:8008", "localhost:80", "0.0.0.0:8008"] {
            load("server.listen", good).unwrap();
        }
        for bad in ["", "8008", "localhost", ":80", "host:99999", "a:b:1", "http://localhost:80"] {
            assert!(load("server.listen", bad).unwrap_err().starts_with("--listen: "), "{bad}");
        }
        for good in ["info", "DEBUG", "off", "info,chat::server=debug", "warn,tower_http=trace", "chat::server=debug"] {
            load("server.log.level", good).unwrap();
        }
        for bad in ["inof", "a=b=c", "info,chat::server=loud", ""] {
            assert!(load("server.log.level", bad).unwrap_err().starts_with("--level: "), "{bad}");
        }
    }

    #[test]
    fn a_password_in_the_wrong_place_is_not_repeated() {
        let sources = Sources { env: pairs(&[("CHAT__SERVER__DATABASE", "postgres://chat:hunter2@db/chat")]), ..with_file("").1 };
        let error = Config::load(&Sources { file: None, ..sources }).unwrap_err().to_string();
        assert!(error.starts_with("CHAT__SERVER__DATABASE: invalid type") && !error.contains("hunter2"), "{error}");
    }
}
