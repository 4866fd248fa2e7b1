//! `chat load`: how fast the server is, measured through the client's own transport, with a checker that looks at every row
//! while the load runs. Real accounts, rights checked, every row in the log, `fsync` on; only the rate limits are raised.
//!
//! It starts a server of its own on an embedded cluster. With `--control` (the program of `examples/control.rs`) the same work is
//! put on two controls in the same run, and the ratios of `docs/BENCHMARKS.md` are judged. Start with [`Bench`].

mod check;
mod control;
mod idle;
mod measure;
mod people;
mod report;
mod requests;
mod rooms;
mod storm;
mod wire;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::child::Server;
use super::print::Printer;
use super::{Globals, Stop};
use crate::client::model::{Problem, ProblemKind};
use crate::client::transport::{Net, ServerUrl, Transport};
use crate::protocol::codec::Encoding;

use control::{Controls, Keeps};
use measure::{Usage, Who};
use people::{People, Plan, Room};
use report::{BARE, COMMIT, PGBENCH, Report, SERVER};
use rooms::{Pace, Processes, Talk, Talked};
use wire::Target;

#[derive(Debug, Args)]
pub struct LoadArgs {
    /// What to measure; all of it without a name
    #[arg(value_enum)]
    workloads: Vec<Workload>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 6, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Repetitions; the median counts
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: u32,
    /// Keep the accounts, the database and the lists of tokens and rooms here, and use them again within a day
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The program of examples/control.rs: measure it and pgbench too, and judge the ratios
    #[arg(long, value_name = "PROGRAM")]
    control: Option<PathBuf>,
    /// Only make the accounts, then serve until a signal: for another load generator
    #[arg(long, requires = "data_dir")]
    serve: bool,
}

/// The workloads of `docs/BENCHMARKS.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// Latency: a channel of 50, one writes 20 rows a second
    W1,
    /// Throughput: 20 channels of 10, one sender each, 1 and 10 rows unanswered
    W2,
    /// One channel of 50, all of them write
    Senders,
    /// One row to 1,000 who are online: a community holds no more
    Fan,
    /// Memory of 2,000 idle connections
    W3,
    /// The newest page of a channel with 100,000 rows, and of one with 100
    W4,
    /// Start with a warm cluster, and memory after it
    W5,
    /// Logins with a password, 8 at a time
    W6,
    /// 2,000 come back at once, each has missed 50 rows
    Storm,
}

/// As many as a community holds (TC/1 11); a device has one connection.
const FAN: usize = 1000;
/// The rooms of the 2,000, each as big.
const CROWDS: [&str; 2] = ["crowd1", "crowd2"];
const MISSED: u64 = 50;
const BIG: u64 = 100_000;
const SMALL: u64 = 100;
const PAGES: usize = 500;

/// # Errors
/// When something cannot be measured, or the checker found a fault.
pub fn run(args: LoadArgs, globals: &Globals) -> Result<(), Stop> {
    super::raise_open_files();
    let stage = Stage::new(args.data_dir.clone())?;
    // One thread: the generator must leave the machine to what it measures.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        tokio::select! {
            done = measure_all(&args, globals, &stage.dir) => done,
            stop = super::ended_by_signal() => Err(stop),
        }
    })
}

/// The folder of the run; removed at the end unless it was given.
struct Stage {
    dir: PathBuf,
    temporary: bool,
}

impl Stage {
    fn new(given: Option<PathBuf>) -> Result<Self, Problem> {
        let temporary = given.is_none();
        let dir = given.unwrap_or_else(|| std::env::temp_dir().join(format!("chat-load-{}", std::process::id())));
        // Only entering is open to others: the user who runs PostgreSQL for root has to get to the cluster.
        let made = std::fs::DirBuilder::new().mode(0o711).recursive(true).create(&dir);
        made.map_err(|error| failed(format!("cannot create {}: {error}", dir.display())))?;
        Ok(Self { dir, temporary })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Everything that the measurements need.
struct Bench {
    server: Server,
    net: Arc<Net>,
    people: People,
    controls: Option<Controls>,
    seconds: Duration,
    report: Report,
    faults: u64,
}

async fn measure_all(args: &LoadArgs, globals: &Globals, dir: &Path) -> Result<(), Stop> {
    let mut out = Printer::new(globals);
    let chosen = if args.workloads.is_empty() { Workload::value_variants() } else { &args.workloads };
    let server = Server::start(&dir.join("server"), &dir.join("server.log"), settings()).await?;
    let net = Arc::new(Net::new(ServerUrl::parse(&server.url, false)?, Encoding::Json)?);
    let transport: Arc<dyn Transport> = net.clone();
    let people = People::load(dir).unwrap_or_default().complete(&transport, &plan(chosen), dir).await?;
    if args.serve {
        out.object("load_server", json!({ "url": server.url, "pid": server.pid(), "postgres_pid": postgres(&server)?.0 }))?;
        out.flush()?;
        std::future::pending::<()>().await;
    }
    let controls = match &args.control {
        Some(program) => Some(Controls::prepare(program, &postgres(&server)?.1, dir).await?),
        None => None,
    };
    let mut bench =
        Bench { server, net, people, controls, seconds: Duration::from_secs(args.seconds), report: Report::default(), faults: 0 };
    for _ in 0..args.repetitions {
        for workload in chosen {
            bench.measure(*workload).await?;
        }
    }
    bench.server.stop().await;
    if out.is_json() {
        for object in bench.report.objects() {
            out.object("load", object)?;
        }
    } else {
        for line in bench.report.table().into_iter().chain(bench.report.ratios()) {
            out.say(line)?;
        }
    }
    out.flush()?;
    match bench.faults {
        0 => Ok(()),
        faults => Err(failed(format!("the checker found {faults} faults, see above")).into()),
    }
}

/// The rooms of these workloads, with their members' places.
fn plan(chosen: &[Workload]) -> Plan {
    let mut plan = Plan::new();
    let mut room = |name: &str, members: usize| plan.push((name.to_owned(), 0, members));
    let mut crowds = false;
    for workload in chosen {
        match workload {
            Workload::W1 => room("w10", 50),
            Workload::Senders => room("senders", 50),
            Workload::Fan => room("fan", FAN),
            Workload::W3 | Workload::Storm => crowds = true,
            Workload::W4 => ["big", "small"].iter().for_each(|name| room(name, 2)),
            // Accounts to log in with.
            Workload::W6 => room("logins", 8),
            Workload::W2 | Workload::W5 => {}
        }
    }
    if crowds {
        plan.extend(CROWDS.iter().enumerate().map(|(n, name)| ((*name).to_owned(), n * FAN, FAN)));
    }
    if chosen.contains(&Workload::W2) {
        plan.extend((0..20).map(|n| (format!("w2{n}"), n * 10, 10)));
    }
    plan.sort();
    plan.dedup();
    plan
}

impl Bench {
    async fn measure(&mut self, workload: Workload) -> Result<(), Problem> {
        match workload {
            Workload::W1 => {
                let talk = self.talk(&["w10".to_owned()], 1, Pace::Rate(20.0))?;
                self.compare("w1", &talk, &[COMMIT, BARE]).await
            }
            Workload::W2 => {
                let rooms: Vec<String> = (0..20).map(|n| format!("w2{n}")).collect();
                let talk = self.talk(&rooms, 1, Pace::Window(1))?;
                self.compare("w2 window 1", &talk, &[COMMIT, BARE]).await?;
                let talk = self.talk(&rooms, 1, Pace::Window(10))?;
                self.compare("w2 window 10", &talk, &[COMMIT, BARE]).await?;
                self.pgbench("32 clients", 32).await
            }
            Workload::Senders => {
                let talk = self.talk(&["senders".to_owned()], 50, Pace::Window(1))?;
                self.compare("senders", &talk, &[COMMIT, BARE]).await?;
                self.pgbench("1 client", 1).await
            }
            Workload::Fan => {
                let mut talk = self.talk(&["fan".to_owned()], 1, Pace::Rate(1.0))?;
                talk.measured = self.seconds.max(Duration::from_secs(8));
                self.compare("fan", &talk, &[BARE]).await
            }
            Workload::W3 => self.idle().await,
            Workload::W4 => self.pages().await,
            Workload::W5 => self.start().await,
            Workload::W6 => self.logins().await,
            Workload::Storm => self.storm().await,
        }
    }

    fn talk(&self, rooms: &[String], senders: usize, pace: Pace) -> Result<Talk, Problem> {
        let rooms = rooms.iter().map(|name| self.people.room(name).cloned()).collect::<Result<_, _>>()?;
        Ok(Talk { rooms, senders, pace, warmup: Duration::from_secs(1), measured: self.seconds })
    }

    /// The same work on the server and on the controls.
    async fn compare(&mut self, workload: &str, talk: &Talk, controls: &[&'static str]) -> Result<(), Problem> {
        let postgres = postgres(&self.server)?.0;
        let processes = Processes { server: self.server.pid(), postgres: Some(postgres) };
        let talked = rooms::talk(Target::Server(&self.net), processes, &self.people, talk).await?;
        self.note(workload, SERVER, talk, talked);
        for name in controls {
            let Some(all) = &self.controls else { return Ok(()) };
            let control = all.start(if *name == COMMIT { Keeps::GroupCommit } else { Keeps::Nothing }).await?;
            let processes = Processes { server: control.pid(), postgres: (*name == COMMIT).then_some(postgres) };
            let talked = rooms::talk(Target::Control(&control.address), processes, &self.people, talk).await?;
            self.note(workload, name, talk, talked);
        }
        Ok(())
    }

    fn note(&mut self, workload: &str, target: &'static str, talk: &Talk, talked: Talked) {
        let mut add = |name, unit, value| self.report.add(workload, target, name, unit, value);
        if let Pace::Window(_) = talk.pace {
            add("rows", "/s", talked.rows_per_s());
        }
        add("ack p50", "ms", talked.ack.percentile(0.5));
        add("ack p99", "ms", talked.ack.percentile(0.99));
        add("delivery p50", "ms", talked.delivery.percentile(0.5));
        add("delivery p99", "ms", talked.delivery.percentile(0.99));
        if let Pace::Rate(_) = talk.pace {
            add("last delivery p50", "ms", talked.last_delivery.percentile(0.5));
            add("last delivery max", "ms", talked.last_delivery.max());
        }
        add("CPU per delivery", "µs", talked.server_us());
        if target != BARE {
            add("PostgreSQL per delivery", "µs", talked.postgres_us());
        }
        add("generator", "cores", talked.own_cores());
        add("faults", "", talked.faults as f64);
        self.faults += talked.faults;
        for wrong in talked.wrong {
            tracing::error!(workload, "{wrong}");
        }
    }

    fn crowds(&self) -> Result<Vec<Room>, Problem> {
        CROWDS.iter().map(|name| self.people.room(name).cloned()).collect()
    }

    async fn pgbench(&mut self, name: &str, clients: u32) -> Result<(), Problem> {
        let Some(controls) = &self.controls else { return Ok(()) };
        // The cluster admits ten more connections than the pool may hold: enough for the 32 of pgbench beside a fresh one.
        self.server.stop().await;
        self.server.restart().await?;
        let rows = controls.pgbench(clients, self.seconds).await?;
        self.report.add(name, PGBENCH, "rows", "/s", rows);
        Ok(())
    }

    async fn idle(&mut self) -> Result<(), Problem> {
        // Memory that an earlier load left behind would hide what connections take.
        self.server.stop().await;
        self.server.restart().await?;
        let rooms = self.crowds()?;
        let idle = idle::idle(Target::Server(&self.net), self.server.pid(), &self.people, &rooms).await?;
        self.report.add("w3", SERVER, "per connection", "KiB", idle.kib);
        self.report.add("w3", SERVER, "opened", "/s", idle.opened_per_s);
        Ok(())
    }

    async fn pages(&mut self) -> Result<(), Problem> {
        let transport: Arc<dyn Transport> = self.net.clone();
        let rooms = [("w4 100,000 rows", "big", BIG), ("w4 100 rows", "small", SMALL)];
        for (_, name, head) in rooms {
            rooms::fill(&self.net, &self.people, self.people.room(name)?, head).await?;
        }
        for (workload, name, _) in rooms {
            let room = self.people.room(name)?;
            let account = &self.people.members(room)[0];
            // The first ones open connections and plan queries.
            requests::pages(&transport, account, room, 20).await?;
            let latencies = requests::pages(&transport, account, room, PAGES).await?;
            self.report.add(workload, SERVER, "page p50", "ms", latencies.percentile(0.5));
            self.report.add(workload, SERVER, "page p99", "ms", latencies.percentile(0.99));
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<(), Problem> {
        self.server.stop().await;
        let begun = Instant::now();
        self.server.restart().await?;
        self.report.add("w5", SERVER, "start", "ms", begun.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let usage = Usage::of(Who::One(self.server.pid()))?;
        self.report.add("w5", SERVER, "memory", "MiB", usage.resident as f64 / 1024.0 / 1024.0);
        Ok(())
    }

    async fn logins(&mut self) -> Result<(), Problem> {
        let transport: Arc<dyn Transport> = self.net.clone();
        let latencies = requests::logins(&transport, 8, self.seconds).await?;
        self.report.add("w6", SERVER, "logins", "/s", latencies.len() as f64 / self.seconds.as_secs_f64());
        self.report.add("w6", SERVER, "login p50", "ms", latencies.percentile(0.5));
        self.report.add("w6", SERVER, "login p99", "ms", latencies.percentile(0.99));
        Ok(())
    }

    async fn storm(&mut self) -> Result<(), Problem> {
        let mut away = Vec::new();
        for room in self.crowds()? {
            let before = rooms::fill(&self.net, &self.people, &room, 0).await?;
            rooms::fill(&self.net, &self.people, &room, before + MISSED).await?;
            away.push((room, before));
        }
        let storm::Storm { back, refusals } = storm::storm(&self.net, &self.people, &away, MISSED).await?;
        self.report.add("storm", SERVER, "back p50", "ms", back.percentile(0.5));
        self.report.add("storm", SERVER, "back p99", "ms", back.percentile(0.99));
        self.report.add("storm", SERVER, "all back", "ms", back.max());
        self.report.add("storm", SERVER, "refusals", "", refusals.into());
        Ok(())
    }
}

/// What the server under load is told: the defaults without limits on rates.
fn settings() -> Vec<(&'static str, String)> {
    let mut settings: Vec<_> = [
        "LIMITS__REQUESTS_PER_S",
        "LIMITS__REQUESTS_BURST",
        "LIMITS__AUTH_PER_MINUTE",
        "LIMITS__SENDS_PER_S",
        "LIMITS__SENDS_BURST",
        "LIMITS__FRAMES_PER_S",
        "LIMITS__FRAMES_BURST",
        "LIMITS__CONNECTIONS_PER_ADDRESS",
    ]
    .into_iter()
    .map(|key| (key, "1000000".to_owned()))
    .collect();
    settings.push(("LIMITS__CONNECTIONS_PER_USER", "1000".to_owned()));
    settings.push(("DATABASE__POOL_SIZE", "60".to_owned()));
    settings.push(("AUTH__ACCESS_TOKEN_S", "86400".to_owned()));
    settings.push(("LOG__LEVEL", "warn".to_owned()));
    settings
}

/// Process id and socket folder of the server's PostgreSQL, as its own file says.
fn postgres(server: &Server) -> Result<(u32, PathBuf), Problem> {
    let path = server.data_dir.join("postgres/postmaster.pid");
    let text = std::fs::read_to_string(&path).map_err(|error| failed(format!("cannot read {}: {error}", path.display())))?;
    let mut lines = text.lines();
    let pid = lines.next().and_then(|line| line.trim().parse().ok());
    pid.zip(lines.nth(3))
        .map(|(pid, dir)| (pid, dir.into()))
        .ok_or_else(|| failed(format!("{} is not understood", path.display())))
}

fn failed(text: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::Failed, text)
}
