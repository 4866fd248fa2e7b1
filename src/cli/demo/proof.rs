//! What was kept: a dump of the server's database and whole directories, searched for what must not be there.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::broken;
use crate::client::model::{Problem, ProblemKind};
use crate::server::postgres::binaries::Binaries;

/// What was searched.
#[derive(Debug, Default)]
pub struct Searched {
    pub dump_bytes: usize,
    pub files: usize,
    pub file_bytes: usize,
}

/// Dumps the running database of this data directory; none of the secrets may be in the dump, in no [form](refuse).
///
/// # Errors
/// When one is, or there is no dump.
pub fn search_database(data_dir: &Path, secrets: &[String], searched: &mut Searched) -> Result<(), Problem> {
    let dump = dump(data_dir)?;
    searched.dump_bytes += dump.len();
    refuse(&dump, secrets, "the dump of the database")
}

/// Reads a file, or all files of a directory; none of the secrets may be in there.
///
/// # Errors
/// When one is, or a directory cannot be read.
pub fn search_files(place: &Path, secrets: &[String], searched: &mut Searched) -> Result<(), Problem> {
    if place.is_file() {
        return search_file(place, secrets, searched);
    }
    let mut folders = vec![place.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|e| unreadable(&folder, &e))?;
        for entry in entries.filter_map(Result::ok) {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                search_file(&entry.path(), secrets, searched)?;
            }
        }
    }
    Ok(())
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

/// None of the secrets may be in these bytes, neither as it is, nor as the hexadecimal digits in which a dump shows bytes, nor
/// within something in base64.
///
/// # Errors
/// The first that is.
pub fn refuse(bytes: &[u8], secrets: &[String], place: &str) -> Result<(), Problem> {
    for secret in secrets {
        let as_it_is = [secret.clone(), hex::encode(secret)];
        for needle in as_it_is.into_iter().chain(base64_forms(secret)) {
            if contains(bytes, needle.as_bytes()) {
                return Err(broken(format!("`{secret}` is readable in {place}")));
            }
        }
    }
    Ok(())
}

/// What every base64 of bytes around the secret has in common, for each place at which it may begin; in both alphabets.
fn base64_forms(secret: &str) -> Vec<String> {
    let mut forms = Vec::new();
    for before in 0..3_usize {
        let text = STANDARD_NO_PAD.encode([&[0; 2][..before.min(2)], secret.as_bytes()].concat());
        // Digits that hold bits of a neighbour say nothing.
        let (from, to) = ((before * 8).div_ceil(6), (before + secret.len()) * 8 / 6);
        let Some(form) = text.get(from..to).filter(|form| form.len() >= 8) else { continue };
        forms.push(form.to_owned());
        forms.push(form.replace('+', "-").replace('/', "_"));
    }
    forms
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
    fn a_secret_is_found_as_it_is_and_in_hexadecimal_digits_and_base64() {
        let secrets = ["the eagle".to_owned()];
        assert!(refuse(b"xx the the eagle", &secrets, "x").is_err());
        assert!(refuse(format!("\\x00{}ff", hex::encode("the eagle")).as_bytes(), &secrets, "x").is_err());
        for before in ["", "a", "ab", "abc"] {
            let around = format!("{before}the eagle has landed");
            let text = STANDARD_NO_PAD.encode(around);
            assert!(refuse(text.as_bytes(), &secrets, "x").is_err(), "{text}");
        }
        assert!(refuse(b"the eagl", &secrets, "x").is_ok());
    }
}
