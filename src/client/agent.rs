//! The socket of a running client: other processes of the same user give it commands and hear its events, so that `chat send`
//! works beside `chat tui` without a second owner of the keys. Frames are a length (u32, big-endian) and JSON of
//! [`FromGuest`] or [`ToGuest`]. The socket is 0600 in a 0700 directory, and the kernel says who connects.
//!
//! Neither side waits for the other without a bound: the owner gives up a guest that does not read, and a guest gives up an
//! owner that says nothing, not even that it lives: one that was suspended (^Z), or whose disk hangs.
//!
//! Start with [`listen`] (the owner's side) and [`join`] (the guest's).

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::command::{Command, RequestId};
use super::driver::{Driver, EVENTS, Guest};
use super::event::ClientEvent;
use super::lock::Owner;
use super::model::{Problem, ProblemKind};
use super::profile::{Profile, io_problem};

/// Grows when the frames change; both ends are the same binary, unless it was updated while one ran.
const VERSION: u32 = 3;
/// Guests at once.
const GUESTS: usize = 16;
/// A command is a message and a little more.
const COMMAND_MAX: usize = 1024 * 1024;
/// A page of a timeline.
const EVENT_MAX: usize = 32 * 1024 * 1024;
const GREETING: Duration = Duration::from_secs(5);
/// Who does not read for so long is gone.
const WRITE: Duration = Duration::from_secs(10);
/// An owner that has nothing to tell says so as often.
const ALIVE: Duration = Duration::from_secs(5);
/// An owner that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(20);

/// What a guest says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FromGuest {
    Hello { v: u32 },
    Command { number: u64, command: Box<Command> },
}

/// What it hears.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ToGuest {
    Hello {
        v: u32,
    },
    Event(Box<ClientEvent>),
    /// Nothing happened for a while.
    Alive,
    /// Nothing follows.
    Refused(Problem),
}

/// Listens for guests until the client stops; the caller holds the lock of the profile, which removes the socket.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen(profile: &Profile, driver: Arc<Driver>) -> Result<(), Problem> {
    let path = profile.socket();
    // Whoever made it is dead: we hold the lock.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_problem("remove", &path, &error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(|error| io_problem("listen on", &path, &error))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| io_problem("protect", &path, &error))?;
    let stop = driver.shared.stop.clone();
    tokio::spawn(async move { stop.run_until_cancelled(accept(listener, driver)).await });
    Ok(())
}

async fn accept(listener: UnixListener, driver: Arc<Driver>) {
    let places = Arc::new(Semaphore::new(GUESTS));
    let last = AtomicU32::new(0);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: others have to end first.
                tracing::warn!(%error, "cannot accept a guest");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw()) {
            continue;
        }
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (driver, number) = (driver.clone(), last.fetch_add(1, Ordering::Relaxed) % 0x00ff_ffff + 1);
        let tracker = driver.shared.tracker.clone();
        tracker.spawn(async move {
            if let Err(error) = serve(stream, &driver, number).await {
                tracing::debug!(%error, "a guest left");
            }
            drop(place);
        });
    }
}

/// Until the guest leaves, or the client has ended and the guest has heard all of it. Nothing more is read from a guest once
/// the client stops: a command without an answer was not performed.
async fn serve(stream: UnixStream, driver: &Driver, number: u32) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let hello = timeout(GREETING, read::<FromGuest>(&mut reader, COMMAND_MAX)).await.map_err(io::Error::other)??;
    if !matches!(hello, FromGuest::Hello { v: VERSION }) {
        let problem = Problem::new(ProblemKind::Failed, "the running client is of another version of chat").hint("Restart it.");
        return write(&mut writer, &ToGuest::Refused(problem)).await;
    }
    write(&mut writer, &ToGuest::Hello { v: VERSION }).await?;
    let (events, mut heard) = mpsc::channel(EVENTS);
    timeout(GREETING, driver.guests.send(Guest { number, events })).await.map_err(io::Error::other)?.map_err(io::Error::other)?;
    let listening = async {
        loop {
            let frame = match timeout(ALIVE, heard.recv()).await {
                Ok(Some(event)) => ToGuest::Event(Box::new(event)),
                Ok(None) => return Ok(()),
                Err(_) => ToGuest::Alive,
            };
            write(&mut writer, &frame).await?;
        }
    };
    let asking = async {
        loop {
            let stop = &driver.shared.stop;
            let Some(frame) = stop.run_until_cancelled(read(&mut reader, COMMAND_MAX)).await else {
                return std::future::pending().await;
            };
            match frame? {
                FromGuest::Command { number: request, command } => {
                    if !driver.command(number, request, *command).await {
                        return std::future::pending().await;
                    }
                }
                FromGuest::Hello { .. } => {}
            }
        }
    };
    tokio::select! {
        ended = listening => ended,
        ended = asking => ended,
    }
}

/// Connects to the owner of a profile; commands go there and events come from there until either side ends.
///
/// # Errors
/// When it does not answer, or is of another version.
pub(super) async fn join(
    profile: &Profile,
    owner: &Owner,
    mut commands: mpsc::Receiver<(RequestId, Command)>,
    events: mpsc::Sender<ClientEvent>,
    stop: CancellationToken,
) -> Result<(), Problem> {
    let silent = |error: &dyn std::fmt::Display| {
        Problem::new(
            ProblemKind::Locked,
            format!("another client uses profile `{}` (process {}) and does not answer: {error}", profile.name, owner.pid),
        )
        .hint("Try again in a moment, or quit it.")
    };
    let greet = async {
        let stream = UnixStream::connect(&owner.socket).await?;
        let (mut reader, mut writer) = stream.into_split();
        write(&mut writer, &FromGuest::Hello { v: VERSION }).await?;
        let hello: ToGuest = read(&mut reader, EVENT_MAX).await?;
        Ok::<_, io::Error>((reader, writer, hello))
    };
    let (mut reader, mut writer, hello) =
        timeout(GREETING, greet).await.map_err(|_| silent(&"no answer"))?.map_err(|error| silent(&error))?;
    match hello {
        ToGuest::Hello { .. } => {}
        ToGuest::Refused(problem) => return Err(problem),
        ToGuest::Event(_) | ToGuest::Alive => return Err(silent(&"it does not greet")),
    }
    tokio::spawn({
        let stop = stop.clone();
        async move {
            let asking = async {
                while let Some((RequestId(number), command)) = commands.recv().await {
                    if write(&mut writer, &FromGuest::Command { number, command: Box::new(command) }).await.is_err() {
                        // Nobody would answer this command, or the next one.
                        stop.cancel();
                        return;
                    }
                }
            };
            stop.run_until_cancelled(asking).await;
        }
    });
    tokio::spawn(async move {
        let listening = async {
            // A read that was given up in the middle of a frame is not taken up again: the connection ends with it.
            while let Ok(Ok(frame)) = timeout(SILENCE, read(&mut reader, EVENT_MAX)).await {
                match frame {
                    ToGuest::Event(event) => {
                        if events.send(*event).await.is_err() {
                            return;
                        }
                    }
                    ToGuest::Alive => {}
                    ToGuest::Hello { .. } | ToGuest::Refused(_) => return,
                }
            }
        };
        stop.run_until_cancelled(listening).await;
        stop.cancel();
        let _ = events.send(ClientEvent::Closed).await;
    });
    Ok(())
}

async fn read<T: DeserializeOwned>(reader: &mut (impl tokio::io::AsyncRead + Unpin), max: usize) -> io::Result<T> {
    let length = usize::try_from(reader.read_u32().await?).map_err(io::Error::other)?;
    if length > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).await?;
    serde_json::from_slice(&bytes).map_err(io::Error::from)
}

/// One frame, to somebody who reads.
async fn write<T: Serialize>(writer: &mut (impl tokio::io::AsyncWrite + Unpin), value: &T) -> io::Result<()> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value)?;
    let length = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    timeout(WRITE, writer.write_all(&frame)).await.map_err(io::Error::other)?
}
