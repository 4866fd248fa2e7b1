//! Where the installed PostgreSQL server is.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest major version that the migrations are written for.
pub const OLDEST_MAJOR: u32 = 15;

/// A folder with `postgres` and `initdb` of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    pub dir: PathBuf,
    pub major: u32,
}

/// Names the one folder that counts.
pub const BINDIR: &str = "CHAT_PG_BINDIR";

impl Binaries {
    /// `CHAT_PG_BINDIR`, then the PATH, `pg_config`, and the usual folders of the distributions, newest first. A cluster
    /// that exists wants the version that made it; when that is not there, the answer is the first that is.
    pub fn find(wanted: Option<&str>) -> Option<Self> {
        let mut first = None;
        for found in candidates().into_iter().filter_map(|dir| Self::at(&dir)) {
            if wanted.is_none_or(|wanted| found.major.to_string() == wanted) {
                return Some(found);
            }
            first = first.or(Some(found));
        }
        first
    }

    /// The server in this folder, when there is one that is new enough.
    pub fn at(dir: &Path) -> Option<Self> {
        // Distributions link single programs into the PATH; initdb looks for postgres beside itself.
        let postgres = dir.join("postgres").canonicalize().ok()?;
        let dir = postgres.parent()?.to_owned();
        dir.join("initdb").is_file().then_some(())?;
        let output = Command::new(&postgres).arg("--version").output().ok()?;
        let major = major_of(std::str::from_utf8(&output.stdout).ok()?)?;
        (major >= OLDEST_MAJOR).then_some(Self { dir, major })
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn candidates() -> Vec<PathBuf> {
    if let Some(dir) = std::env::var_os(BINDIR) {
        return vec![dir.into()];
    }
    let mut dirs: Vec<PathBuf> = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output()
        && let Ok(text) = std::str::from_utf8(&output.stdout)
    {
        dirs.push(text.trim().into());
    }
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/usr/local", "pgsql"),
        ("/usr/libexec", "postgresql"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
        ("/home/linuxbrew/.linuxbrew/opt", "postgresql@"),
    ] {
        dirs.extend(versions_in(Path::new(parent), prefix));
    }
    dirs
}

/// `parent/prefixN` and its `bin`, largest N first.
fn versions_in(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix(prefix)?;
            Some((version.parse().unwrap_or(0), entry.path()))
        })
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.into_iter().flat_map(|(_, path)| [path.join("bin"), path]).collect()
}

/// `postgres (PostgreSQL) 15.18 (Debian …)` → 15
fn major_of(version: &str) -> Option<u32> {
    let number = version.split(") ").nth(1)?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_server_prints_them() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_of("something else"), None);
    }

    #[test]
    fn the_newest_version_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["pg-9", "pg-16", "pg-15", "other"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let found = versions_in(dir.path(), "pg-");
        assert_eq!(found[0], dir.path().join("pg-16/bin"));
        assert_eq!(found.len(), 6);
    }
}
