//! One owner of the key state of a profile: two processes that advance one ratchet lose messages. The lock is an advisory
//! lock of the kernel (`flock`), so it ends with its process, however that ends; the file names the owner for people and
//! holds the path of its socket for [`super::agent`]. The owner holds it alone; who only looks holds it shared for a moment.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::model::{Problem, ProblemKind};
use super::profile::{Profile, io_problem};

/// A lock that somebody only looks at, or that its owner has not signed yet, is tried again so often, with so much time
/// between.
const LOOKS: u32 = 50;
const LOOK: Duration = Duration::from_millis(10);

/// Who owns the profile, as written into the lock file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub pid: u32,
    /// Where it listens.
    pub socket: PathBuf,
}

/// Held while this process owns the key state; dropping it removes its socket and releases the profile, in this order: a
/// socket that is removed later may be the next owner's.
#[derive(Debug)]
pub struct Lock {
    file: File,
    socket: PathBuf,
}

/// The outcome of trying.
#[derive(Debug)]
pub enum Locking {
    Acquired(Lock),
    /// Somebody else has it; none when it is just starting or its file is unreadable.
    Taken(Option<Owner>),
}

impl Lock {
    /// Takes the profile, or tells who has it.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn try_acquire(profile: &Profile) -> Result<Locking, Problem> {
        let path = profile.lock();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| io_problem("open", &path, &error))?;
        for _ in 0..LOOKS {
            match file.try_lock() {
                Ok(()) => {
                    let lock = Self { file, socket: profile.socket() };
                    write_owner(&lock.file, &Owner { pid: std::process::id(), socket: lock.socket.clone() })
                        .map_err(|error| io_problem("write", &path, &error))?;
                    return Ok(Locking::Acquired(lock));
                }
                Err(TryLockError::Error(error)) => return Err(io_problem("lock", &path, &error)),
                Err(TryLockError::WouldBlock) => {}
            }
            // The name in the file counts only while somebody owns it: it may be that of an owner who was killed, while
            // somebody else is only looking ([`owner`]).
            match file.try_lock_shared() {
                Ok(()) => file.unlock().map_err(|error| io_problem("unlock", &path, &error))?,
                Err(TryLockError::Error(error)) => return Err(io_problem("lock", &path, &error)),
                Err(TryLockError::WouldBlock) => {
                    if let Some(owner) = read_owner(&mut file) {
                        return Ok(Locking::Taken(Some(owner)));
                    }
                }
            }
            std::thread::sleep(LOOK);
        }
        Ok(Locking::Taken(None))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A dead socket and the name of a process that is gone would only mislead; the kernel releases the lock itself.
        let _ = std::fs::remove_file(&self.socket);
        let _ = self.file.set_len(0);
    }
}

/// What to say when a second client cannot share the profile.
pub fn taken(profile: &Profile, owner: Option<&Owner>) -> Problem {
    let who = owner.map_or_else(String::new, |owner| format!(" (process {})", owner.pid));
    Problem::new(ProblemKind::Locked, format!("another client uses profile `{}`{who}", profile.name))
        .hint("Quit it, or choose another profile with --profile. `chat send` and `chat tail` work beside it.")
}

/// Who has the profile now, without taking it.
///
/// # Errors
/// When the lock file exists and cannot be read.
pub fn owner(profile: &Profile) -> Result<Option<Owner>, Problem> {
    let path = profile.lock();
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_problem("open", &path, &error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(read_owner(&mut file)),
        Err(TryLockError::Error(error)) => Err(io_problem("lock", &path, &error)),
    }
}

fn write_owner(mut file: &File, owner: &Owner) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    serde_json::to_writer(file, owner)?;
    file.write_all(b"\n")
}

fn read_owner(file: &mut File) -> Option<Owner> {
    file.rewind().ok()?;
    let mut text = String::new();
    file.take(64 * 1024).read_to_string(&mut text).ok()?;
    let owner: Owner = serde_json::from_str(&text).ok()?;
    Path::new(&owner.socket).is_absolute().then_some(owner)
}

#[cfg(test)]
mod tests {
    use super::super::profile::Directories;
    use super::*;

    fn profile(root: &tempfile::TempDir) -> Profile {
        let dir = root.path().to_owned();
        let directories = Directories { config: dir.clone(), data: dir.clone(), state: dir.clone(), runtime: Some(dir) };
        let profile = Profile::new(&directories, "p").unwrap();
        profile.create().unwrap();
        profile
    }

    #[test]
    fn a_profile_has_one_owner_and_is_free_when_it_ends() {
        let root = tempfile::tempdir().unwrap();
        let profile = profile(&root);
        assert_eq!(owner(&profile).unwrap(), None);
        let Locking::Acquired(first) = Lock::try_acquire(&profile).unwrap() else { panic!("free") };
        let Locking::Taken(Some(found)) = Lock::try_acquire(&profile).unwrap() else { panic!("taken") };
        assert_eq!(found, Owner { pid: std::process::id(), socket: profile.socket() });
        assert_eq!(owner(&profile).unwrap(), Some(found.clone()));
        assert!(taken(&profile, Some(&found)).text.raw().contains(&found.pid.to_string()));
        std::fs::write(profile.socket(), "").unwrap();
        drop(first);
        assert!(!profile.socket().exists(), "removed while the lock was held: later it could be the next owner's");
        assert!(matches!(Lock::try_acquire(&profile).unwrap(), Locking::Acquired(_)));
    }

    #[test]
    fn the_name_of_a_killed_owner_is_not_believed_while_somebody_looks() {
        let root = tempfile::tempdir().unwrap();
        let profile = profile(&root);
        std::fs::write(profile.lock(), r#"{"pid":1,"socket":"/nowhere"}"#).unwrap();
        let looking = File::open(profile.lock()).unwrap();
        looking.lock_shared().unwrap();
        let taking = std::thread::spawn({
            let profile = profile.clone();
            move || Lock::try_acquire(&profile).unwrap()
        });
        // Released at some moment of the other's tries; whichever it is, the dead owner is not named.
        drop(looking);
        assert!(matches!(taking.join().unwrap(), Locking::Acquired(_)));
        std::fs::write(profile.lock(), r#"{"pid":1,"socket":"/nowhere"}"#).unwrap();
        let looking = File::open(profile.lock()).unwrap();
        looking.lock_shared().unwrap();
        assert!(matches!(Lock::try_acquire(&profile).unwrap(), Locking::Taken(None)));
    }
}
