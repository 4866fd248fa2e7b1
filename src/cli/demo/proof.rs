//! What the server kept: a dump of its database and every file of its data directory, searched for what must not be there.

use std::path::Path;
use std::process::Command;

use super::broken;
use crate::client::model::{Problem, ProblemKind};
use crate::server::postgres::binaries::Binaries;

/// What was searched.
pub struct Searched {
    pub dump_bytes: usize,
    pub files: usize,
    pub file_bytes: usize,
}

/// Dumps the running database and reads all files of the server; none of the secrets may be in there, neither as it is nor
/// as the hexadecimal digits in which a dump shows bytes.
pub fn search(data_dir: &Path, log: &Path, secrets: &[String]) -> Result<Searched, Problem> {
    let dump = dump(data_dir)?;
    refuse(&dump, secrets, "the dump of the database")?;
    let mut searched = Searched { dump_bytes: dump.len(), files: 0, file_bytes: 0 };
    let mut folders = vec![data_dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|e| unreadable(&folder, &e))?;
        for entry in entries.filter_map(Result::ok) {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                search_file(&entry.path(), secrets, &mut searched)?;
            }
        }
    }
    search_file(log, secrets, &mut searched)?;
    Ok(searched)
}

fn search_file(path: &Path, secrets: &[String], searched: &mut Searched) -> Result<(), Problem> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        // A file of the running database may go while we look.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(unreadable(path, &e)),
    };
    searched.files += 1;
    searched.file_bytes += bytes.len();
    refuse(&bytes, secrets, &path.display().to_string())
}

fn refuse(bytes: &[u8], secrets: &[String], place: &str) -> Result<(), Problem> {
    for secret in secrets {
        for needle in [secret.clone(), hex::encode(secret)] {
            if contains(bytes, needle.as_bytes()) {
                return Err(broken(format!("`{secret}` is readable in {place}")));
            }
        }
    }
    Ok(())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some((&first, _)) = needle.split_first() else { return false };
    let mut from = 0;
    while let Some(at) = haystack.get(from..).and_then(|rest| rest.iter().position(|&byte| byte == first)) {
        from += at;
        if haystack.get(from..).is_some_and(|rest| rest.starts_with(needle)) {
            return true;
        }
        from += 1;
    }
    false
}

fn dump(data_dir: &Path) -> Result<Vec<u8>, Problem> {
    let cannot = |what: String| Problem::new(ProblemKind::Failed, format!("cannot dump the database: {what}"));
    let binaries = Binaries::find(None).ok_or_else(|| cannot("PostgreSQL is gone".into()))?;
    let output = Command::new(binaries.program("pg_dump"))
        .args(["--username=chat", "--dbname=chat", "--host"])
        .arg(data_dir.join("run"))
        .output()
        .map_err(|e| cannot(e.to_string()))?;
    if !output.status.success() {
        return Err(cannot(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(output.stdout)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(ProblemKind::Failed, format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_as_it_is_and_as_hexadecimal_digits() {
        let secrets = ["the eagle".to_owned()];
        assert!(refuse(b"xx the the eagle", &secrets, "x").is_err());
        assert!(refuse(format!("\\x00{}ff", hex::encode("the eagle")).as_bytes(), &secrets, "x").is_err());
        assert!(refuse(b"the eagl", &secrets, "x").is_ok());
    }
}
