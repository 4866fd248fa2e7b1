//! The store key of a profile: made once, kept under a passphrase in a 0600 file, and, if the user wants it, remembered by
//! the Linux kernel's keyring until the machine restarts. Needs no desktop and no D-Bus.
//!
//! The file is the only lasting copy. Who chooses the keyring alone gets a generated passphrase to write down, because the
//! kernel forgets at the next start of the machine. Start with [`create`] and [`unlock`].

use std::fs::{self, File};
use std::io::{self, Read as _};

use getrandom::SysRng;
use rand_core::{Rng as _, UnwrapErr};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::model::{Problem, ProblemKind};
use super::profile::{Profile, io_problem, write_private};
use crate::crypto::Error;
use crate::crypto::vault::WrappedKey;
use crate::protocol::auth::SecretText;
use crate::protocol::codec::Blob;

pub use crate::crypto::vault::StoreKey;

/// Characters of a new passphrase.
pub const PASSPHRASE_MIN: usize = 8;
const PASSPHRASE_MAX: usize = 1024;

/// How a new profile keeps its key.
#[derive(Clone, Debug)]
pub enum Protection {
    /// Asked for at every start, unless `remember`ed by the kernel until the machine restarts.
    Passphrase { passphrase: SecretText, remember: bool },
    /// Kept by the kernel; a generated passphrase is for the time after a restart.
    Keyring,
}

/// A new key.
#[derive(Debug)]
pub struct NewKey {
    pub key: StoreKey,
    /// To be shown once: what opens the profile after a restart of the machine.
    pub recovery: Option<SecretText>,
}

/// The file beside the store.
#[derive(Serialize, Deserialize)]
struct KeyFile {
    v: u32,
    /// Names the key in the keyring, so that a copied or new profile never finds another's key.
    id: Uuid,
    salt: Blob,
    sealed: Blob,
}

/// Makes and keeps the key of a new profile. Slow on purpose; not for an async thread.
///
/// # Errors
/// When the profile has a key already, the passphrase is too short, or the keyring does not work here.
pub fn create(profile: &Profile, protection: &Protection) -> Result<NewKey, Problem> {
    if profile.key().exists() {
        return Err(Problem::new(ProblemKind::Failed, format!("profile `{}` has a key already", profile.name))
            .hint("Choose another name with --profile."));
    }
    let (passphrase, recovery, remember) = match protection {
        Protection::Passphrase { passphrase, remember } => {
            check_new_passphrase(passphrase)?;
            (passphrase.clone(), None, *remember)
        }
        Protection::Keyring => {
            let generated = generate_passphrase();
            (generated.clone(), Some(generated), true)
        }
    };
    let mut rng = UnwrapErr(SysRng);
    let key = StoreKey::random(&mut rng);
    let wrapped = key.wrap(passphrase.0.as_bytes(), &mut rng).map_err(|_| no_memory())?;
    let file = KeyFile { v: 1, id: Uuid::now_v7(), salt: wrapped.salt.into(), sealed: wrapped.sealed.into() };
    if remember {
        keyring::keep(&file.id, &key)?;
    }
    write_key_file(profile, &file)?;
    Ok(NewKey { key, recovery })
}

/// Opens with a passphrase. Slow on purpose; not for an async thread.
///
/// # Errors
/// `Locked` for a wrong passphrase; when the key file is missing or damaged.
pub fn unlock(profile: &Profile, passphrase: &SecretText, remember: bool) -> Result<StoreKey, Problem> {
    let file = read_key_file(profile)?;
    let wrapped = WrappedKey {
        salt: file.salt.to_array().ok_or_else(|| damaged(profile, "its salt is wrong"))?,
        sealed: file.sealed.0.clone(),
    };
    let key = StoreKey::unwrap(&wrapped, passphrase.0.as_bytes()).map_err(|error| match error {
        Error::Undecryptable => wrong_passphrase(profile),
        Error::Limit => no_memory(),
        _ => damaged(profile, "the key in it is of another form"),
    })?;
    if remember {
        keyring::keep(&file.id, &key)?;
    }
    Ok(key)
}

/// The key, if the kernel remembers it.
///
/// # Errors
/// When the key file is missing or damaged.
pub fn remembered(profile: &Profile) -> Result<Option<StoreKey>, Problem> {
    Ok(keyring::find(&read_key_file(profile)?.id))
}

/// Makes the kernel forget.
///
/// # Errors
/// When the key file is missing or damaged.
pub fn forget(profile: &Profile) -> Result<(), Problem> {
    keyring::remove(&read_key_file(profile)?.id);
    Ok(())
}

/// Another passphrase for the same key.
///
/// # Errors
/// When it is too short or the file cannot be written; the old one stays then.
pub fn change_passphrase(profile: &Profile, key: &StoreKey, new: &SecretText) -> Result<(), Problem> {
    check_new_passphrase(new)?;
    let mut file = read_key_file(profile)?;
    let wrapped = key.wrap(new.0.as_bytes(), &mut UnwrapErr(SysRng)).map_err(|_| no_memory())?;
    (file.salt, file.sealed) = (wrapped.salt.into(), wrapped.sealed.into());
    write_key_file(profile, &file)
}

/// Whether the kernel's keyring works for this process: tried, not assumed, since containers and old kernels refuse late.
pub fn keyring_works() -> bool {
    let probe = Uuid::now_v7();
    let key = StoreKey::random(&mut UnwrapErr(SysRng));
    let works = keyring::keep(&probe, &key).is_ok() && keyring::find(&probe).is_some_and(|found| found == key);
    keyring::remove(&probe);
    works
}

/// The passphrase that a script provides: `CHAT_PASSPHRASE_FILE`, or an inherited descriptor named by `CHAT_PASSPHRASE_FD`.
/// Never the environment itself, which other processes of the user can read.
///
/// # Errors
/// When one of them is set and cannot be read.
pub fn provided_passphrase() -> Result<Option<SecretText>, Problem> {
    if let Some(path) = std::env::var_os("CHAT_PASSPHRASE_FILE") {
        let path = std::path::PathBuf::from(path);
        return File::open(&path).and_then(read_secret).map(Some).map_err(|error| {
            Problem::new(ProblemKind::Locked, format!("CHAT_PASSPHRASE_FILE: cannot read {}: {error}", path.display()))
                .hint("The first line of that file is the passphrase.")
        });
    }
    let Some(text) = std::env::var_os("CHAT_PASSPHRASE_FD") else { return Ok(None) };
    let wrong = |what: String| Problem::new(ProblemKind::Locked, format!("CHAT_PASSPHRASE_FD: {what}"));
    let number: i32 = text
        .to_str()
        .and_then(|text| text.parse().ok())
        .filter(|number| *number > 2)
        .ok_or_else(|| wrong("not the number of an inherited descriptor above 2".to_owned()))?;
    let file = File::open(format!("/dev/fd/{number}")).map_err(|error| wrong(error.to_string()))?;
    read_secret(file).map(Some).map_err(|error| wrong(error.to_string()))
}

/// The first line, without its end.
pub fn read_secret(source: impl io::Read) -> io::Result<SecretText> {
    let mut text = Zeroizing::new(String::new());
    source.take(64 * 1024).read_to_string(&mut text)?;
    Ok(SecretText(text.lines().next().unwrap_or_default().to_owned()))
}

/// # Errors
/// When it is too short to protect anything, or absurdly long.
pub fn check_new_passphrase(passphrase: &SecretText) -> Result<(), Problem> {
    let characters = passphrase.0.chars().count();
    if (PASSPHRASE_MIN..=PASSPHRASE_MAX).contains(&characters) {
        return Ok(());
    }
    Err(Problem::new(ProblemKind::Usage, format!("a passphrase has {PASSPHRASE_MIN} to {PASSPHRASE_MAX} characters"))
        .hint("Four or five unrelated words are easy to remember and hard to guess."))
}

/// 130 random bits in five groups of letters and digits that are hard to confuse.
fn generate_passphrase() -> SecretText {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = Zeroizing::new([0; 26]);
    UnwrapErr(SysRng).fill_bytes(bytes.as_mut_slice());
    let mut text = String::with_capacity(31);
    for (n, byte) in bytes.iter().enumerate() {
        if n > 0 && n % 5 == 0 && n < 25 {
            text.push('-');
        }
        text.push(char::from(ALPHABET[usize::from(byte % 32)]));
    }
    SecretText(text)
}

fn read_key_file(profile: &Profile) -> Result<KeyFile, Problem> {
    let path = profile.key();
    let bytes = fs::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Problem::new(ProblemKind::Locked, format!("{} is missing", path.display()))
            .hint("Without it the profile cannot be opened: restore it from a copy, or set up a new profile with --profile."),
        _ => io_problem("read", &path, &error),
    })?;
    let file: KeyFile = serde_json::from_slice(&bytes).map_err(|error| damaged(profile, &error.to_string()))?;
    if file.v != 1 {
        return Err(Problem::new(ProblemKind::Locked, format!("{} was written by a newer version of chat", path.display()))
            .hint("Update chat."));
    }
    Ok(file)
}

fn write_key_file(profile: &Profile, file: &KeyFile) -> Result<(), Problem> {
    let mut bytes = serde_json::to_vec_pretty(file).map_err(|error| Problem::new(ProblemKind::Failed, error.to_string()))?;
    bytes.push(b'\n');
    write_private(&profile.key(), &bytes)
}

fn wrong_passphrase(profile: &Profile) -> Problem {
    Problem::new(ProblemKind::Locked, format!("wrong passphrase for profile `{}`", profile.name))
        .hint("Nothing was changed. There is no way in without it.")
}

fn damaged(profile: &Profile, what: &str) -> Problem {
    Problem::new(ProblemKind::Locked, format!("{} is damaged: {what}", profile.key().display()))
        .hint("Nothing was changed. Restore it from a copy.")
}

fn no_memory() -> Problem {
    Problem::new(ProblemKind::Failed, "not enough memory to work with the passphrase").hint("It takes 64 MiB for a moment.")
}

#[cfg(target_os = "linux")]
mod keyring {
    //! Keys of type `user` in the user's keyring: visible to this user's processes only, gone with the machine's memory.

    use linux_keyutils::{KeyError, KeyPermissionsBuilder, KeyRing, KeyRingIdentifier, Permission};
    use uuid::Uuid;
    use zeroize::Zeroizing;

    use crate::client::model::{Problem, ProblemKind};
    use crate::crypto::vault::StoreKey;

    fn name(id: &Uuid) -> String {
        format!("chat:store:{id}")
    }

    /// The persistent keyring outlives the last login; where there is none, the user's keyring.
    fn ring() -> Result<KeyRing, KeyError> {
        KeyRing::get_persistent(KeyRingIdentifier::Process).or_else(|_| KeyRing::from_special_id(KeyRingIdentifier::User, true))
    }

    pub(super) fn keep(id: &Uuid, key: &StoreKey) -> Result<(), Problem> {
        let keep = || -> Result<(), KeyError> {
            let kept = ring()?.add_key(&name(id), key.expose())?;
            // Owner's rights: a process of another login does not possess the keyring.
            kept.set_perms(KeyPermissionsBuilder::builder().posessor(Permission::ALL).user(Permission::ALL).build())
        };
        keep().map_err(|error| {
            Problem::new(ProblemKind::Failed, format!("the kernel's keyring is not available here: {error}"))
                .hint("Use a passphrase; scripts read it from CHAT_PASSPHRASE_FILE.")
        })
    }

    pub(super) fn find(id: &Uuid) -> Option<StoreKey> {
        let key = ring().ok()?.search(&name(id)).ok()?;
        let mut bytes = Zeroizing::new([0; 64]);
        let length = key.read(&mut *bytes).ok()?;
        StoreKey::from_slice(bytes.get(..length)?)
    }

    pub(super) fn remove(id: &Uuid) {
        if let Ok(key) = ring().and_then(|ring| ring.search(&name(id))) {
            // A key that cannot be invalidated any more is gone already.
            let _ = key.invalidate();
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod keyring {
    //! Other systems have no such keyring.

    use uuid::Uuid;

    use crate::client::model::{Problem, ProblemKind};
    use crate::crypto::vault::StoreKey;

    pub(super) fn keep(_: &Uuid, _: &StoreKey) -> Result<(), Problem> {
        Err(Problem::new(ProblemKind::Failed, "this system has no kernel keyring").hint("Use a passphrase."))
    }

    pub(super) fn find(_: &Uuid) -> Option<StoreKey> {
        None
    }

    pub(super) fn remove(_: &Uuid) {}
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::super::profile::Directories;
    use super::*;

    fn profile(root: &tempfile::TempDir) -> Profile {
        let dir = root.path().to_owned();
        let directories = Directories { config: dir.clone(), data: dir.clone(), state: dir, runtime: None };
        let profile = Profile::new(&directories, "p").unwrap();
        profile.create().unwrap();
        profile
    }

    fn passphrase(text: &str) -> Protection {
        Protection::Passphrase { passphrase: text.into(), remember: false }
    }

    #[test]
    fn the_passphrase_opens_and_another_one_is_a_clear_error() {
        let root = tempfile::tempdir().unwrap();
        let profile = profile(&root);
        let new = create(&profile, &passphrase("correct horse battery")).unwrap();
        assert!(new.recovery.is_none());
        assert_eq!(unlock(&profile, &"correct horse battery".into(), false).unwrap(), new.key);
        let before = fs::read(profile.key()).unwrap();
        let error = unlock(&profile, &"wrong horse battery".into(), false).unwrap_err();
        assert_eq!(error.kind, ProblemKind::Locked);
        assert!(error.text.raw().contains("wrong passphrase"));
        assert_eq!(fs::read(profile.key()).unwrap(), before);
        assert_eq!(fs::metadata(profile.key()).unwrap().mode() & 0o777, 0o600);
        assert!(!String::from_utf8(before).unwrap().contains("horse"));
    }

    #[test]
    fn a_key_is_made_once() {
        let root = tempfile::tempdir().unwrap();
        let profile = profile(&root);
        create(&profile, &passphrase("one two three")).unwrap();
        let before = fs::read(profile.key()).unwrap();
        assert!(create(&profile, &passphrase("one two three")).is_err());
        assert_eq!(fs::read(profile.key()).unwrap(), before);
    }

    #[test]
    fn a_short_passphrase_and_a_damaged_file_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let profile = profile(&root);
        assert_eq!(create(&profile, &passphrase("short")).unwrap_err().kind, ProblemKind::Usage);
        assert_eq!(unlock(&profile, &"whatever it is".into(), false).unwrap_err().kind, ProblemKind::Locked);
        fs::write(profile.key(), b"{\"v\":1}").unwrap();
        assert!(unlock(&profile, &"whatever it is".into(), false).unwrap_err().text.raw().contains("damaged"));
    }

    #[test]
    fn a_changed_passphrase_opens_the_same_key() {
        let root = tempfile::tempdir().unwrap();
        let profile = profile(&root);
        let new = create(&profile, &passphrase("one two three")).unwrap();
        change_passphrase(&profile, &new.key, &"four five six".into()).unwrap();
        assert_eq!(unlock(&profile, &"four five six".into(), false).unwrap(), new.key);
        assert!(unlock(&profile, &"one two three".into(), false).is_err());
    }

    #[test]
    fn the_keyring_gives_back_what_it_kept_or_says_that_it_cannot() {
        let root = tempfile::tempdir().unwrap();
        let profile = profile(&root);
        if !keyring_works() {
            // Containers often forbid the system call: then choosing it must fail before anything is written.
            assert!(create(&profile, &Protection::Keyring).is_err());
            assert!(!profile.key().exists());
            return;
        }
        let new = create(&profile, &Protection::Keyring).unwrap();
        assert_eq!(remembered(&profile).unwrap().unwrap(), new.key);
        forget(&profile).unwrap();
        assert!(remembered(&profile).unwrap().is_none());
        assert_eq!(unlock(&profile, &new.recovery.unwrap(), false).unwrap(), new.key, "after a restart");
    }

    #[test]
    fn a_secret_is_the_first_line() {
        assert_eq!(read_secret(b"pass phrase\r\n".as_slice()).unwrap().0, "pass phrase");
        assert_eq!(read_secret(b"one\ntwo\n".as_slice()).unwrap().0, "one");
        assert_eq!(read_secret(b"".as_slice()).unwrap().0, "");
    }

    #[test]
    fn a_generated_passphrase_is_long_and_readable() {
        let text = generate_passphrase().0;
        assert_eq!(text.len(), 30);
        assert!(text.split('-').count() == 5 && text.chars().all(|c| c == '-' || c.is_ascii_alphanumeric()));
        assert_ne!(text, generate_passphrase().0);
    }
}
