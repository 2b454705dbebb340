//! One exported snapshot of a database: a coordinator holds it and the locks, workers read in it.
//!
//! Everything is locked before anything is read, so that what was dropped, truncated or altered between the snapshot and the lock is
//! found while a new snapshot costs nothing. While the coordinator lives, a worker that is lost is replaced; without it nothing that
//! was read is worth anything.

mod connections;
mod durable;
mod lock;
mod running;
pub(crate) mod settings;
mod silence;

use super::catalog::{self, ServerFacts, Table};
use super::connect::{Connection, Server};
use super::key::TableName;
use crate::context::{Context, Time};
use crate::error::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

pub(crate) use connections::Connected;
pub(crate) use connections::is_full;
use connections::{Idle, patiently};
pub(crate) use lock::{Locked, explain, locked};
use running::Registered;
pub(crate) use running::{Attached, Busy, RunningStatements};
pub(crate) use silence::in_time;

/// How often a snapshot that is held is looked after, and how often the server is asked for a sign of life.
const LOOK: Duration = Duration::from_millis(500);
const PING: Duration = Duration::from_secs(30);

/// Asks when a session's configuration was loaded.
const CONFIGURED: &str = "SELECT pg_catalog.pg_conf_load_time()::pg_catalog.text";

/// The greatest `lock_timeout` that a server takes.
const LOCK_MOST_MILLIS: u64 = i32::MAX as u64;

/// How a session behaves.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// How long a lock is waited for.
    pub lock_timeout: Duration,
    /// The greatest age of the snapshot that is read: it keeps the server from cleaning up what was deleted since.
    pub max_age: Duration,
    /// How long a server may show nothing where it has little to do before it is held for stuck.
    pub silence: Duration,
    /// Ask the server for a checkpoint when the snapshot was taken: there its WAL summaries end.
    pub checkpoint: bool,
    /// Tables of so many blocks at least are looked up in WAL summaries; others are fingerprinted as fast.
    pub summarized_blocks: u64,
}

/// 32 MiB.
const SUMMARIZED_BLOCKS: u64 = 4096;

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            lock_timeout: Duration::from_secs(60),
            max_age: Duration::from_secs(24 * 3600),
            silence: Duration::from_secs(600),
            checkpoint: false,
            summarized_blocks: SUMMARIZED_BLOCKS,
        }
    }
}

impl SessionOptions {
    /// How long a lock is waited for, as a server's setting can hold it: 24 days at most.
    pub(crate) fn lock_limit(&self) -> Duration {
        self.lock_timeout.min(Duration::from_millis(LOCK_MOST_MILLIS))
    }

    fn lock_millis(&self) -> u64 {
        u64::try_from(self.lock_limit().as_millis()).unwrap_or(LOCK_MOST_MILLIS)
    }
}

/// What is known of the server and the snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The server, as it was when the snapshot was taken.
    pub(crate) server: ServerFacts,
    /// The first transaction that had not begun; nothing before 13.
    pub(crate) xmax: Option<u64>,
    /// Bytes of a heap block.
    pub(crate) block_size: u64,
    /// The server's time at the snapshot.
    pub(crate) moment: Option<Time>,
    /// When the coordinator's configuration was loaded, as the server writes it; nothing if it does not tell this role.
    pub(crate) configured: Option<String>,
}

/// A snapshot that is held open.
pub(crate) struct Session {
    context: Context,
    server: Server,
    options: SessionOptions,
    coordinator: Connection,
    /// Connections that nobody uses.
    idle: Idle,
    /// By which workers find it.
    id: String,
    begun: Instant,
    /// Statements that must not go on at the server when nobody waits for them any more.
    running: Arc<RunningStatements>,
    _registered: Registered,
    /// How many statements keep the coordinator from answering.
    busy: Arc<AtomicUsize>,
    /// What is locked and read.
    held: Mutex<Vec<(u32, TableName)>>,
    pub(crate) facts: Facts,
}

impl Session {
    /// Opens the coordinator, or takes what was opened ahead, and takes and exports a snapshot.
    ///
    /// # Errors
    /// `Source` if the server cannot be reached or asked.
    pub(crate) async fn begin(
        context: &Context,
        server: &Server,
        options: &SessionOptions,
        running: &Arc<RunningStatements>,
        ahead: Option<Connected>,
    ) -> Result<Self> {
        let connected = if let Some(connected) = ahead.filter(Connected::serves) {
            connected
        } else {
            let connect = || Connected::connect(context, server, options, false);
            patiently(connect, context, server, options).await?
        };
        let (coordinator, idle) = connected.into_parts(running);
        let registered = running.add(coordinator.cancel_token());
        coordinator.tell_learned(server, context);
        let begun = begin(&coordinator);
        let (id, facts) = in_time(options.silence, begun).await?;
        Ok(Self {
            context: context.clone(),
            // A name may have several servers, and the exported snapshot is of the one that was reached.
            server: coordinator.server().clone(),
            options: options.clone(),
            coordinator,
            idle,
            id,
            begun: Instant::now(),
            running: running.clone(),
            _registered: registered,
            busy: Arc::default(),
            held: Mutex::default(),
            facts,
        })
    }

    /// The connection that holds the snapshot.
    pub(crate) fn coordinator(&self) -> &Connection {
        &self.coordinator
    }

    /// Its client.
    pub(crate) fn client(&self) -> &Client {
        self.coordinator.client()
    }

    /// The coordinator's process at the server.
    pub(crate) fn backend(&self) -> u32 {
        self.coordinator.backend()
    }

    /// By which `pg_dump` finds the snapshot.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// SQL by which a worker begins a transaction that sees the snapshot.
    pub(crate) fn join(&self) -> String {
        format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            super::name::literal(&self.id)
        )
    }

    /// The very server that was reached.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// What its work is done in.
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// How it behaves.
    pub(crate) fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// What runs at the server for it.
    pub(crate) fn running(&self) -> &RunningStatements {
        &self.running
    }

    /// Says that the coordinator may not answer, until this is dropped.
    pub(crate) fn busy(&self) -> Busy {
        Busy::new(&self.busy)
    }

    /// Looks after the snapshot, whatever waits for what. Ends when it is lost or too old, or its server does not answer any more.
    pub(crate) async fn watch(&self) -> Error {
        let mut asked = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = self.check() {
                return error;
            }
            if asked.elapsed() > PING {
                if let Err(error) = self.ping().await {
                    return error;
                }
                asked = Instant::now();
            }
        }
    }

    /// Whether the snapshot still stands, as far as this side knows.
    ///
    /// # Errors
    /// `Source` if the coordinator is gone or the snapshot too old, `Cancelled`.
    pub(crate) fn check(&self) -> Result<()> {
        self.context.check_cancelled()?;
        if self.client().is_closed() {
            return Err(self.lost());
        }
        if self.begun.elapsed() > self.options.max_age {
            let hours = self.options.max_age.as_secs() / 3600;
            return Err(Error::new(
                ErrorKind::Source,
                "the snapshot of the database has become too old",
            )
            .with("hours", hours)
            .hint(
                "run again: what was uploaded is not stored twice; or allow more with --max-snapshot-age",
            ));
        }
        Ok(())
    }

    /// Asks the coordinator for a sign of life; what lies between sees that the connection is used. One that is busy is not waited
    /// for.
    ///
    /// # Errors
    /// As [`Self::check`]; `Source` if there is no answer.
    pub(crate) async fn ping(&self) -> Result<()> {
        self.check()?;
        if self.is_busy() {
            return Ok(());
        }
        let begun = Instant::now();
        let mut answer = std::pin::pin!(self.client().simple_query("SELECT 1"));
        loop {
            match tokio::time::timeout(LOOK.min(self.options.silence), answer.as_mut()).await {
                Ok(answer) => return answer.map(drop).map_err(|e| self.lost().because(e)),
                Err(_) if self.is_busy() => return Ok(()),
                Err(_) if begun.elapsed() < self.options.silence => {}
                Err(_) => break,
            }
        }
        Err(
            Error::new(ErrorKind::Source, "the database server does not answer any more")
                .with("server", self.server_name())
                .with("seconds", self.options.silence.as_secs())
                .hint("nothing was committed; run again, what was uploaded is not stored twice"),
        )
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    fn lost(&self) -> Error {
        Error::new(
            ErrorKind::Source,
            "the connection that holds the snapshot of the database is lost",
        )
        .with("server", self.server_name())
        .hint("nothing was committed; run again, what was uploaded is not stored twice")
    }

    /// Where the database is, for people.
    pub(crate) fn server_name(&self) -> String {
        self.server.description()
    }

    /// Ends the snapshot well: the coordinator lived to the end, and the server is the one it was.
    ///
    /// # Errors
    /// `Source` if it is not.
    pub(crate) async fn end(&self) -> Result<()> {
        self.check()?;
        let (now, bystander) = tokio::join!(catalog::server(&self.coordinator), self.bystander());
        let now = now.map_err(|e| self.lost().because(e))?;
        let life = |facts: &ServerFacts| {
            (
                facts.system_identifier,
                facts.timeline,
                facts.started,
                facts.in_recovery,
            )
        };
        if life(&now) != life(&self.facts.server) {
            return Err(Error::new(
                ErrorKind::Source,
                "the server was restarted or promoted while it was read",
            )
            .with("server", self.server_name())
            .hint("nothing was committed; run again"));
        }
        let held = self.held.lock().map(|mut held| std::mem::take(&mut *held));
        if let Some(table) = lock::moved(self, bystander?, &held.unwrap_or_default()).await? {
            return Err(Error::new(
                ErrorKind::Source,
                "a table or its schema was renamed while it was read",
            )
            .with("table", table)
            .hint("nothing was committed; run again"));
        }
        // No lock outlives the snapshot.
        self.close_idle().await;
        self.client()
            .batch_execute("COMMIT")
            .await
            .map_err(|e| self.lost().because(e))?;
        self.running.clear();
        Ok(())
    }

    /// Takes note of tables that are locked, for the look at the end.
    fn hold(&self, tables: &[&Table]) {
        if let Ok(mut held) = self.held.lock() {
            held.extend(tables.iter().map(|table| (table.oid, table.name.clone())));
        }
    }
}

/// Begins a transaction and exports what it sees.
async fn begin(coordinator: &Connection) -> Result<(String, Facts)> {
    let client = coordinator.client();
    let xmax = if coordinator.version() >= 130_000 {
        "pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text"
    } else {
        "NULL"
    };
    let looks = format!(
        "SELECT {xmax}, pg_catalog.current_setting('block_size'),
            pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())::pg_catalog.numeric::pg_catalog.text"
    );
    let what = "cannot look at the snapshot";
    // Sent in this order, without waiting for answers.
    let (configured, begun, exported, looked) = tokio::join!(
        biased;
        // Before the transaction, which an error would end.
        one(client, CONFIGURED, what),
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
        one(
            client,
            "SELECT pg_catalog.pg_export_snapshot()",
            "the server does not export its snapshot"
        ),
        one(client, &looks, what),
    );
    begun.map_err(|e| failed("cannot begin to read", e))?;
    let (id, row) = (text(&exported?, 0), looked?);
    let number = |index| row.get(index).and_then(|text: &str| text.parse::<u64>().ok());
    let facts = Facts {
        server: catalog::server(coordinator).await?,
        xmax: number(0),
        block_size: number(1).ok_or_else(|| Error::new(ErrorKind::Source, what))?,
        moment: row.get(2).and_then(seconds),
        configured: configured.ok().map(|row| text(&row, 0)),
    };
    Ok((id, facts))
}

/// An error of the server, or of the way to it. What it says is shown with the code by which manuals find it.
pub(crate) fn failed(what: &str, error: tokio_postgres::Error) -> Error {
    let failure = Error::new(ErrorKind::Source, what);
    match error.code() {
        Some(code) => failure.with("sqlstate", code.code()).because(error),
        None => failure.because(error),
    }
}

/// The one row of a query, as text.
async fn one(client: &Client, sql: &str, what: &str) -> Result<SimpleQueryRow> {
    let answer = client.simple_query(sql).await.map_err(|e| failed(what, e))?;
    let row = answer.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.ok_or_else(|| Error::new(ErrorKind::Source, format!("{what}: the server gave no answer")))
}

fn text(row: &SimpleQueryRow, index: usize) -> String {
    row.get(index).unwrap_or_default().to_owned()
}

/// A time in seconds with a fraction.
fn seconds(text: &str) -> Option<Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(Time {
        seconds: whole.parse().ok()?,
        nanos: digits.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_server_writes_them() {
        let time = |seconds, nanos| Some(Time { seconds, nanos });
        assert_eq!(seconds("1767225600.25"), time(1_767_225_600, 250_000_000));
        assert_eq!(seconds("1767225600"), time(1_767_225_600, 0));
        assert_eq!(seconds(""), None);
    }
}
