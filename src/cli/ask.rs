//! Questions to the person at the terminal, on `/dev/tty` so that pipes stay free, and where scripts put the answers instead.
//! With `--no-input`, or without a terminal, a question is an error that names the way for scripts.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::{Globals, Stop};
use crate::client::model::{Problem, ProblemKind};
use crate::client::unlock::read_secret;
use crate::protocol::auth::SecretText;
use crate::tui::text::Clean;

const SECRET_MAX: usize = 4096;

/// A line that everybody may see.
///
/// # Errors
/// When nobody can be asked.
pub fn line(globals: &Globals, question: &str, otherwise: &str) -> Result<String, Stop> {
    let mut tty = terminal(globals, question, otherwise)?;
    write!(tty, "{}: ", Clean::ours(question)).map_err(|_| nobody(question, otherwise))?;
    let mut text = String::new();
    io::BufRead::read_line(&mut io::BufReader::new(tty), &mut text).map_err(|_| nobody(question, otherwise))?;
    Ok(text.trim().to_owned())
}

/// Yes or no; an empty answer is no.
///
/// # Errors
/// When nobody can be asked.
pub fn yes(globals: &Globals, question: &str, otherwise: &str) -> Result<bool, Stop> {
    let answer = line(globals, &format!("{question} [y/N]"), otherwise)?;
    Ok(matches!(answer.to_lowercase().as_str(), "y" | "yes"))
}

/// A line that is not shown.
///
/// # Errors
/// When nobody can be asked, or the question was answered with ^C.
pub fn secret(globals: &Globals, question: &str, otherwise: &str) -> Result<SecretText, Stop> {
    let mut tty = terminal(globals, question, otherwise)?;
    let hidden = Hidden::new(&tty).map_err(|_| nobody(question, otherwise))?;
    let _ = write!(tty, "{}: ", Clean::ours(question));
    let answer = typed(&mut tty);
    drop(hidden);
    let _ = writeln!(tty);
    answer
}

/// A secret that may not be needed; none when nobody can be asked, or the answer is empty.
///
/// # Errors
/// When the question was answered with ^C, or with bytes that are no text.
pub fn secret_if_possible(globals: &Globals, question: &str) -> Result<Option<SecretText>, Stop> {
    if terminal(globals, question, "").is_err() {
        return Ok(None);
    }
    let answer = secret(globals, question, "")?;
    Ok((!answer.0.is_empty()).then_some(answer))
}

/// A new secret, twice.
///
/// # Errors
/// When nobody can be asked, or the two differ.
pub fn new_secret(globals: &Globals, question: &str, otherwise: &str) -> Result<SecretText, Stop> {
    let first = secret(globals, question, otherwise)?;
    if secret(globals, &format!("{question}, again"), otherwise)? != first {
        return Err(Problem::new(ProblemKind::Usage, "the two are not the same").hint("Nothing was changed.").into());
    }
    Ok(first)
}

/// The first line of a file, or of standard input for `-`.
///
/// # Errors
/// When it cannot be read.
pub fn secret_file(path: &Path) -> Result<SecretText, Problem> {
    let read = if path == Path::new("-") { read_secret(io::stdin().lock()) } else { File::open(path).and_then(read_secret) };
    let name = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    read.map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::InvalidData => format!("{name} is not UTF-8 text"),
            _ => format!("cannot read {name}: {error}"),
        };
        Problem::new(ProblemKind::Usage, what).hint("The first line of the file is the secret.")
    })
}

/// The account's password: `--password-file`, `CHAT_PASSWORD_FILE`, or a question.
///
/// # Errors
/// When there is none.
pub fn password(globals: &Globals, file: Option<&PathBuf>, new: bool) -> Result<SecretText, Stop> {
    if let Some(path) = file {
        return Ok(secret_file(path)?);
    }
    let otherwise = "Give the password with --password-file FILE, or - for standard input; or set CHAT_PASSWORD_FILE.";
    if new { new_secret(globals, "Password", otherwise) } else { secret(globals, "Password", otherwise) }
}

fn terminal(globals: &Globals, question: &str, otherwise: &str) -> Result<File, Stop> {
    if globals.no_input {
        return Err(nobody(question, otherwise));
    }
    OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(|_| nobody(question, otherwise))
}

fn nobody(question: &str, otherwise: &str) -> Stop {
    let mut question = question.to_lowercase();
    question.truncate(question.find('[').unwrap_or(question.len()));
    Problem::new(ProblemKind::Usage, format!("cannot ask for: {}", question.trim())).hint(otherwise).into()
}

/// The terminal shows nothing and sends every key at once; dropping it restores what was.
struct Hidden {
    tty: File,
    before: Termios,
}

impl Hidden {
    fn new(tty: &File) -> io::Result<Self> {
        let tty = tty.try_clone()?;
        let before = tcgetattr(&tty)?;
        let mut hidden = before.clone();
        // Without signals: ^C must restore the terminal first.
        hidden.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        hidden.special_codes[SpecialCodeIndex::VMIN] = 1;
        hidden.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&tty, OptionalActions::Flush, &hidden)?;
        Ok(Self { tty, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(&self.tty, OptionalActions::Flush, &self.before);
    }
}

/// Keys until Enter: Backspace and ^U erase, ^C ends the program.
fn typed(keys: &mut impl io::Read) -> Result<SecretText, Stop> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_MAX));
    loop {
        let mut key = [0];
        if keys.read(&mut key)? == 0 {
            break;
        }
        match key {
            [b'\r' | b'\n' | 0x04] => break,
            [0x03] => return Err(Stop::Signal(2)),
            [0x08 | 0x7f] => {
                // A whole character, however many bytes it has.
                while bytes.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            [0x15] => bytes.clear(),
            [byte] if bytes.len() < SECRET_MAX => bytes.push(byte),
            _ => {}
        }
    }
    String::from_utf8(bytes.to_vec())
        .map(SecretText)
        .map_err(|_| Problem::new(ProblemKind::Usage, "what was typed is not UTF-8").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_edit_a_secret() {
        let read = |keys: &str| typed(&mut keys.as_bytes()).map(|secret| secret.0);
        assert_eq!(read("abc\rrest").unwrap(), "abc");
        assert_eq!(read("aä\u{7f}b\n").unwrap(), "ab");
        assert_eq!(read("abc\u{15}x\n").unwrap(), "x");
        assert_eq!(read("\u{7f}\u{7f}x\n").unwrap(), "x");
        assert!(matches!(read("ab\u{3}"), Err(Stop::Signal(2))));
    }
}
