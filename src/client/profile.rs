//! Where one account on this machine lives: XDG directories, each overridable by a `CHAT_*` variable. Directories are 0700,
//! files 0600. This module knows paths and permissions, nothing of what the files hold.
//!
//! ```text
//! $XDG_CONFIG_HOME/chat/{config,keys,theme}.toml     shared by all profiles          CHAT_CONFIG_DIR
//! $XDG_DATA_HOME/chat/NAME/{account.json,key.json,store.db,lock}                      CHAT_DATA_DIR
//! $XDG_STATE_HOME/chat/NAME.log                                                       CHAT_STATE_DIR
//! $XDG_RUNTIME_DIR/chat/NAME.sock, or agent.sock beside the store                     CHAT_RUNTIME_DIR
//! ```

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;
use serde::{Deserialize, Serialize};

use super::model::{Problem, ProblemKind};
use crate::protocol::ids::UserId;

/// Characters of a profile name.
pub const NAME_MAX: usize = 64;

/// The directories of the program, before a profile is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    pub config: PathBuf,
    pub data: PathBuf,
    pub state: PathBuf,
    /// Does not survive a reboot; none on systems without one.
    pub runtime: Option<PathBuf>,
}

impl Directories {
    /// From the environment.
    ///
    /// # Errors
    /// When there is no home directory and no override.
    pub fn from_env() -> Result<Self, Problem> {
        Self::resolve(|name| std::env::var_os(name))
    }

    fn resolve(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Problem> {
        // Absolute, since others read where the socket is.
        let own = |name: &str| {
            let path = variable(name).filter(|value| !value.is_empty()).map(PathBuf::from)?;
            Some(std::path::absolute(&path).unwrap_or(path))
        };
        let xdg = etcetera::base_strategy::Xdg::new().ok();
        let pick = |ours: &str, theirs: Option<PathBuf>| {
            own(ours).or_else(|| theirs.map(|dir| dir.join("chat"))).ok_or_else(|| {
                Problem::new(ProblemKind::Usage, "no home directory: neither HOME nor an XDG directory is set")
                    .hint(format!("Set HOME, or {ours} to a directory of your own."))
            })
        };
        Ok(Self {
            config: pick("CHAT_CONFIG_DIR", xdg.as_ref().map(|x| x.config_dir()))?,
            data: pick("CHAT_DATA_DIR", xdg.as_ref().map(|x| x.data_dir()))?,
            state: pick("CHAT_STATE_DIR", xdg.as_ref().and_then(|x| x.state_dir()))?,
            runtime: own("CHAT_RUNTIME_DIR").or_else(|| xdg.as_ref().and_then(|x| x.runtime_dir()).map(|dir| dir.join("chat"))),
        })
    }

    /// Profiles that hold an account, sorted.
    pub fn profiles(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.data)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| check_name(name).is_ok() && self.data.join(name).join(ACCOUNT_FILE).exists())
            .collect();
        names.sort();
        names
    }
}

const ACCOUNT_FILE: &str = "account.json";

/// One account on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    pub name: String,
    /// Everything that must survive.
    pub data: PathBuf,
    pub config: PathBuf,
    pub log: PathBuf,
    runtime: Option<PathBuf>,
}

/// What may be known about a profile while its store is locked: nothing that the server does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountFile {
    pub v: u32,
    /// `https://chat.example.org`
    pub server: String,
    pub username: String,
    pub user_id: UserId,
    /// Since `chat logout`, until the next login.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub logged_out: bool,
}

impl Profile {
    /// The profile of that name; nothing is created yet.
    ///
    /// # Errors
    /// When the name could be anything but one plain directory name.
    pub fn new(directories: &Directories, name: &str) -> Result<Self, Problem> {
        check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            data: directories.data.join(name),
            config: directories.config.clone(),
            log: directories.state.join(format!("{name}.log")),
            runtime: directories.runtime.clone(),
        })
    }

    /// Makes the directories, or checks those that exist.
    ///
    /// # Errors
    /// When a directory cannot be made, belongs to somebody else, or others may write to it.
    pub fn create(&self) -> Result<(), Problem> {
        private_dir(&self.data)?;
        if let Some(state) = self.log.parent() {
            private_dir(state)?;
        }
        Ok(())
    }

    pub fn store(&self) -> PathBuf {
        self.data.join("store.db")
    }

    /// The wrapped store key ([`super::unlock`]).
    pub fn key(&self) -> PathBuf {
        self.data.join("key.json")
    }

    pub fn lock(&self) -> PathBuf {
        self.data.join("lock")
    }

    /// Where a running client listens. The owner of the lock writes the path into the lock file, because two logins of one
    /// user may have different runtime directories.
    pub fn socket(&self) -> PathBuf {
        if let Some(runtime) = &self.runtime {
            let path = runtime.join(format!("{}.sock", self.name));
            if fits_socket(&path) && private_dir(runtime).is_ok() {
                return path;
            }
        }
        self.data.join("agent.sock")
    }

    /// The account of this profile; none when it has not been set up.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub fn account(&self) -> Result<Option<AccountFile>, Problem> {
        let path = self.data.join(ACCOUNT_FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_problem("read", &path, &error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Problem::new(ProblemKind::Failed, format!("{} is damaged: {error}", path.display()))
                .hint("Restore it from a copy; it holds no secret.")
        })
    }

    /// The account, or what to do without one.
    ///
    /// # Errors
    /// When the profile has not been set up.
    pub fn require_account(&self) -> Result<AccountFile, Problem> {
        self.account()?.ok_or_else(|| {
            Problem::new(ProblemKind::Auth, format!("profile `{}` has no account yet", self.name))
                .hint("Run `chat register SERVER` or `chat login SERVER`, or open `chat tui`.")
        })
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn save_account(&self, account: &AccountFile) -> Result<(), Problem> {
        let path = self.data.join(ACCOUNT_FILE);
        let mut bytes =
            serde_json::to_vec_pretty(account).map_err(|error| Problem::new(ProblemKind::Failed, error.to_string()))?;
        bytes.push(b'\n');
        write_private(&path, &bytes)
    }
}

/// A name that is one plain directory name in every file system and prints as it is.
///
/// # Errors
/// When it is not.
pub fn check_name(name: &str) -> Result<(), Problem> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    // The server keeps its files under that name beside the profiles.
    if name == "server" {
        return Err(
            Problem::new(ProblemKind::Usage, "`server` is no name for a profile").hint("The server's files have that name.")
        );
    }
    if name.is_empty() || name.len() > NAME_MAX || name.starts_with(['.', '-']) || !name.chars().all(allowed) {
        return Err(Problem::new(ProblemKind::Usage, "that is no name for a profile")
            .hint(format!("Up to {NAME_MAX} letters, digits, dots, dashes and underscores, beginning with a letter or digit.")));
    }
    Ok(())
}

/// `sockaddr_un` holds 108 bytes with the final zero.
fn fits_socket(path: &Path) -> bool {
    path.as_os_str().len() <= 107
}

/// Makes a directory that only this user can enter. One that exists is narrowed to 0700 if it is ours.
///
/// # Errors
/// When it cannot be made or belongs to another user.
pub fn private_dir(path: &Path) -> Result<(), Problem> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| io_problem("create", path, &error))?;
    let metadata = fs::metadata(path).map_err(|error| io_problem("read", path, &error))?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(Problem::new(ProblemKind::Failed, format!("{} belongs to another user", path.display()))
            .hint("Run as the user who owns it, or choose another directory with CHAT_DATA_DIR."));
    }
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(|error| io_problem("protect", path, &error))?;
    }
    Ok(())
}

/// Replaces a file as a whole, 0600, durably: after a crash either the old or the new content is there.
///
/// # Errors
/// When the directory cannot be written.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    let new = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    write().map_err(|error| io_problem("write", path, &error))
}

/// An operation on a file failed.
pub(crate) fn io_problem(verb: &str, path: &Path, error: &io::Error) -> Problem {
    let problem = Problem::new(ProblemKind::Failed, format!("cannot {verb} {}: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::PermissionDenied => problem.hint("Check who owns the directory."),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            problem.hint("Free some space and try again; nothing was lost.")
        }
        _ => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directories(root: &Path) -> Directories {
        Directories { config: root.join("c"), data: root.join("d"), state: root.join("s"), runtime: Some(root.join("r")) }
    }

    #[test]
    fn a_profile_name_cannot_leave_its_directory() {
        for bad in ["", ".", "..", "a/b", "../x", "-x", ".hidden", "a b", "a\n", "ä", "server", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["default", "work-2", "a.b_c", "7"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn directories_are_private_and_files_too() {
        let root = tempfile::tempdir().unwrap();
        let profile = Profile::new(&directories(root.path()), "p").unwrap();
        fs::create_dir_all(&profile.data).unwrap();
        fs::set_permissions(&profile.data, fs::Permissions::from_mode(0o755)).unwrap();
        profile.create().unwrap();
        assert_eq!(fs::metadata(&profile.data).unwrap().mode() & 0o777, 0o700);
        assert_eq!(profile.account().unwrap(), None);
        let account = AccountFile {
            v: 1,
            server: "https://x".into(),
            username: "ana".into(),
            user_id: UserId::from_bytes([1; 16]),
            logged_out: false,
        };
        profile.save_account(&account).unwrap();
        assert_eq!(profile.account().unwrap(), Some(account));
        assert_eq!(fs::metadata(profile.data.join(ACCOUNT_FILE)).unwrap().mode() & 0o777, 0o600);
        assert_eq!(directories(root.path()).profiles(), ["p"]);
    }

    #[test]
    fn own_variables_override_the_xdg_directories() {
        let found = Directories::resolve(|name| (name == "CHAT_DATA_DIR").then(|| OsString::from("/somewhere"))).unwrap();
        assert_eq!(found.data, Path::new("/somewhere"));
        assert!(found.config.ends_with("chat"));
        let found = Directories::resolve(|name| (name == "CHAT_RUNTIME_DIR").then(|| OsString::from("here"))).unwrap();
        assert!(found.runtime.is_some_and(|path| path.is_absolute() && path.ends_with("here")));
    }

    #[test]
    fn a_socket_path_that_the_system_cannot_hold_moves_beside_the_store() {
        let root = tempfile::tempdir().unwrap();
        let mut long = directories(root.path());
        long.runtime = Some(root.path().join("x".repeat(120)));
        let profile = Profile::new(&long, "p").unwrap();
        assert_eq!(profile.socket(), profile.data.join("agent.sock"));
    }
}
