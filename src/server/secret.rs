//! The server's own secret: 32 bytes in a 0600 file. Everything else that it signs or derives comes from it, by purpose.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

/// 32 random bytes.
pub struct ServerSecret(Zeroizing<[u8; 32]>);

impl fmt::Debug for ServerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerSecret(…)")
    }
}

impl ServerSecret {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads the file; makes it when it is missing, so that two servers that start together share one.
    ///
    /// # Errors
    /// When the file cannot be read or made, others may read it, or it does not hold 32 bytes.
    pub fn load_or_create(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::read(path, Zeroizing::new(text)),
            Err(e) if e.kind() == ErrorKind::NotFound => match Self::create(path) {
                Ok(secret) => Ok(secret),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
                    Self::read(path, Zeroizing::new(text))
                }
                Err(e) => Err(e).with_context(|| format!("cannot make the server's secret {shown}")),
            },
            Err(e) => Err(e).with_context(|| format!("cannot read the server's secret {shown}")),
        }
    }

    fn read(path: &Path, text: Zeroizing<String>) -> anyhow::Result<Self> {
        let mode = std::fs::metadata(path)?.permissions().mode();
        anyhow::ensure!(mode & 0o077 == 0, "{}: others may read the server's secret: chmod 600 it", path.display());
        let mut bytes = STANDARD.decode(text.trim()).unwrap_or_default();
        let secret = <[u8; 32]>::try_from(bytes.as_slice()).map(Self::from_bytes);
        bytes.zeroize();
        secret.map_err(|_| anyhow::anyhow!("{}: not 32 bytes in base64", path.display()))
    }

    /// Complete or absent under its name, also after a crash.
    fn create(path: &Path) -> std::io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        let temporary = path.with_extension(format!("new-{}", std::process::id()));
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let text = Zeroizing::new(STANDARD.encode(bytes) + "\n");
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        let linked = std::fs::hard_link(&temporary, path);
        std::fs::remove_file(&temporary)?;
        linked?;
        Ok(Self::from_bytes(bytes))
    }

    /// A key for one purpose: HMAC-SHA256(secret, purpose).
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(hmac_sha256(&self.0, &[purpose.as_bytes()]))
    }
}

/// HMAC-SHA256 of the parts, one after the other.
pub fn hmac_sha256(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes a key of any length, so this arm does not exist; an empty key would still be the caller's own.
    let Ok(mut mac) = <Hmac<Sha256>>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// `N` bytes of the operating system's randomness.
///
/// # Errors
/// When the operating system has none to give.
pub fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_made_once_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/secret");
        let first = ServerSecret::load_or_create(&path).unwrap();
        let second = ServerSecret::load_or_create(&path).unwrap();
        assert_eq!(first.derive("x"), second.derive("x"));
        assert_ne!(first.derive("x"), first.derive("y"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(format!("{first:?}"), "ServerSecret(…)");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(ServerSecret::load_or_create(&path).unwrap_err().to_string().contains("chmod 600"));
        std::fs::write(&path, "short").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(ServerSecret::load_or_create(&path).unwrap_err().to_string().contains("32 bytes"));
    }
}
