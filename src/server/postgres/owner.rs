//! Which user runs PostgreSQL: ourselves, or, because it refuses root, somebody with less power.

use std::ffi::CString;
use std::path::Path;

/// The user that `postgres` and `initdb` run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// We are not root: it runs as we do.
    Ourselves,
    /// We are root: it runs as this one.
    Other { name: String, uid: u32, gid: u32 },
}

impl Owner {
    /// As root: a dedicated user `chat`, else `postgres`, else `nobody`.
    pub fn choose() -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self::Ourselves;
        }
        let known = ["chat", "postgres", "nobody"].into_iter().find_map(|name| {
            let (uid, gid) = ids_of(name)?;
            (uid != 0).then(|| Self::Other { name: name.to_owned(), uid, gid })
        });
        known.unwrap_or(Self::Other { name: "65534".into(), uid: 65_534, gid: 65_534 })
    }

    /// Give a file or folder to this user.
    ///
    /// # Errors
    /// As `chown(2)`.
    pub fn adopt(&self, path: &Path) -> std::io::Result<()> {
        match self {
            Self::Ourselves => Ok(()),
            Self::Other { uid, gid, .. } => std::os::unix::fs::chown(path, Some(*uid), Some(*gid)),
        }
    }

    /// Whether this user may enter the folder.
    pub fn can_enter(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Self::Other { uid, gid, .. } = self else { return true };
        std::fs::metadata(path).is_ok_and(|meta| {
            let bit = match () {
                () if meta.uid() == *uid => 0o100,
                () if meta.gid() == *gid => 0o010,
                () => 0o001,
            };
            meta.mode() & bit != 0
        })
    }
}

fn ids_of(name: &str) -> Option<(u32, u32)> {
    let name = CString::new(name).ok()?;
    // SAFETY: getpwnam returns null or a pointer to static storage that stays valid until the next call; it is read at
    // once, and this runs at the start, before other threads look users up.
    #[allow(unsafe_code)]
    unsafe {
        let entry = libc::getpwnam(name.as_ptr());
        (!entry.is_null()).then(|| ((*entry).pw_uid, (*entry).pw_gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_closed_to_others_cannot_be_entered_by_another_user() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let stranger = Owner::Other { name: "x".into(), uid: 54_321, gid: 54_321 };
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!stranger.can_enter(dir.path()));
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        assert!(stranger.can_enter(dir.path()));
        assert!(Owner::Ourselves.can_enter(dir.path()));
    }
}
