//! One owner of the key state of a profile: two processes that advance one ratchet lose messages. The lock is an advisory
//! lock of the kernel (`flock`), so it ends with its process, however that ends; the file names the owner for people and
//! holds the path of its socket for [`super::agent`].

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::model::{Problem, ProblemKind};
use super::profile::{Profile, io_problem};

/// A lock that nobody signed is tried again so often, with so much time between.
const LOOKS: u32 = 50;
const LOOK: Duration = Duration::from_millis(10);

/// Who owns the profile, as written into the lock file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub pid: u32,
    /// Where it listens.
    pub socket: PathBuf,
}

/// Held while this process owns the key state; dropping it releases the profile.
#[derive(Debug)]
pub struct Lock {
    file: File,
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
                    write_owner(&mut file, &Owner { pid: std::process::id(), socket: profile.socket() })
                        .map_err(|error| io_problem("write", &path, &error))?;
                    return Ok(Locking::Acquired(Self { file }));
                }
                Err(TryLockError::Error(error)) => return Err(io_problem("lock", &path, &error)),
                Err(TryLockError::WouldBlock) => {}
            }
            if let Some(owner) = read_owner(&mut file) {
                return Ok(Locking::Taken(Some(owner)));
            }
            // Nobody has signed it: somebody is only looking ([`owner`]), or is just starting or ending.
            std::thread::sleep(LOOK);
        }
        Ok(Locking::Taken(None))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The name of a process that is gone would only mislead; the kernel releases the lock itself.
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

fn write_owner(file: &mut File, owner: &Owner) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    serde_json::to_writer(&mut *file, owner)?;
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

    #[test]
    fn a_profile_has_one_owner_and_is_free_when_it_ends() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().to_owned();
        let directories = Directories { config: dir.clone(), data: dir.clone(), state: dir.clone(), runtime: Some(dir) };
        let profile = Profile::new(&directories, "p").unwrap();
        profile.create().unwrap();
        assert_eq!(owner(&profile).unwrap(), None);
        let Locking::Acquired(first) = Lock::try_acquire(&profile).unwrap() else { panic!("free") };
        let Locking::Taken(Some(found)) = Lock::try_acquire(&profile).unwrap() else { panic!("taken") };
        assert_eq!(found, Owner { pid: std::process::id(), socket: profile.socket() });
        assert_eq!(owner(&profile).unwrap(), Some(found.clone()));
        assert!(taken(&profile, Some(&found)).text.raw().contains(&found.pid.to_string()));
        drop(first);
        assert!(matches!(Lock::try_acquire(&profile).unwrap(), Locking::Acquired(_)));
    }
}
