//! What the server is compared with, in the same run on the same machine: PostgreSQL alone (`pgbench` inserting the same row),
//! and a bare fan-out over WebSockets with and without a group commit (`examples/control.rs`, a program of its own).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_postgres::NoTls;

use crate::client::model::Problem;
use crate::server::postgres::binaries::Binaries;

use super::failed;

const DATABASE: &str = "control";
/// The table of the server's rows, indexes and all, without what points elsewhere.
const TABLE: &str = "CREATE TABLE messages (
    channel_id uuid NOT NULL, seq bigint NOT NULL, id uuid NOT NULL, log_seq bigint, kind text NOT NULL, sender_id uuid,
    sender_device integer, ciphertext bytea, nonce bytea, file_ids uuid[] NOT NULL DEFAULT '{}', content_hash bytea,
    created_at timestamptz NOT NULL, PRIMARY KEY (channel_id, seq));
ALTER TABLE messages ALTER COLUMN ciphertext SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX messages_id ON messages (id);
CREATE SEQUENCE seq CACHE 100;";
const SCRIPT: &str = r"\set c random(0, 19)
INSERT INTO messages (channel_id, seq, id, log_seq, kind, sender_id, sender_device, ciphertext, nonce, content_hash, created_at)
VALUES (('00000000-0000-4000-8000-0000000000' || lpad(:c::text, 2, '0'))::uuid, nextval('seq'), gen_random_uuid(), 11, 'message',
        '00000000-0000-4000-8000-000000000001', 1, decode(repeat('a5', 424), 'hex'), decode(repeat('00', 12), 'hex'),
        decode(repeat('5a', 32), 'hex'), clock_timestamp());
";

/// The controls of one cluster.
pub struct Controls {
    program: PathBuf,
    socket_dir: String,
    script: PathBuf,
}

/// A control that runs. Dropping it ends it.
pub struct Control {
    pub address: String,
    child: Child,
}

impl Control {
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }
}

/// Whether a control keeps what it passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    Nothing,
    /// One insert and one commit for all rows that wait.
    GroupCommit,
}

impl Controls {
    /// Makes the database of the controls in the server's own cluster, whose socket is in `socket_dir`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn prepare(program: &Path, socket_dir: &Path, scratch: &Path) -> Result<Self, Problem> {
        let socket_dir = socket_dir.display().to_string();
        let script = scratch.join("pgbench.sql");
        std::fs::write(&script, SCRIPT).map_err(|error| failed(format!("cannot write {}: {error}", script.display())))?;
        let made = async {
            execute(&socket_dir, "chat", &format!("DROP DATABASE IF EXISTS {DATABASE}")).await?;
            execute(&socket_dir, "chat", &format!("CREATE DATABASE {DATABASE}")).await?;
            execute(&socket_dir, DATABASE, TABLE).await
        };
        made.await.map_err(|error| failed(format!("cannot prepare the database of the controls: {error}")))?;
        Ok(Self { program: program.to_owned(), socket_dir, script })
    }

    /// Rows in a second that `pgbench` inserts, one in a transaction.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn pgbench(&self, clients: u32, time: Duration) -> Result<f64, Problem> {
        let binaries = Binaries::find(None).ok_or_else(|| failed("PostgreSQL is not installed"))?;
        let truncated = execute(&self.socket_dir, DATABASE, "TRUNCATE messages; CHECKPOINT").await;
        truncated.map_err(|error| failed(error.to_string()))?;
        let output = Command::new(binaries.program("pgbench"))
            .args(["-n", "-M", "prepared", "-j", "1", "-U", "chat", "-h", &self.socket_dir])
            .args(["-c", &clients.to_string(), "-T", &time.as_secs().to_string(), "-f"])
            .arg(&self.script)
            .arg(DATABASE)
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|error| failed(format!("cannot start pgbench: {error}")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let tps = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        tps.ok_or_else(|| failed(format!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr))))
    }

    /// Starts the bare fan-out.
    ///
    /// # Errors
    /// When it does not listen within five seconds.
    pub async fn start(&self, keeps: Keeps) -> Result<Control, Problem> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = format!("127.0.0.1:{}", port.map_err(|error| failed(error.to_string()))?.port());
        let mut command = Command::new(&self.program);
        command.arg(&address).stdin(Stdio::null()).kill_on_drop(true);
        if keeps == Keeps::GroupCommit {
            command.arg(format!("host={} user=chat dbname={DATABASE}", self.socket_dir));
        }
        let child = command.spawn().map_err(|error| failed(format!("cannot start {}: {error}", self.program.display())))?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(&address).await.is_err() {
            if Instant::now() > deadline {
                return Err(failed("the control does not listen"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Control { address, child })
    }
}

async fn execute(socket_dir: &str, database: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host_path(socket_dir).user("chat").dbname(database);
    let (client, connection) = config.connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    for statement in sql.split_inclusive(';') {
        client.batch_execute(statement).await?;
    }
    drop(client);
    // It ends by itself once its client is gone.
    let _ = connection.await;
    Ok(())
}
