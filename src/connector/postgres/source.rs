//! The source: one or all databases of a server, each in a snapshot of its own, entries in the order of their keys.

mod ahead;
mod database;
mod long_row;
mod marks;
mod objects;
mod prior;
mod read;
mod rows;
mod seats;
mod statements;
mod summaries;
mod table;
mod worker;
mod written;

use super::catalog::Filter;
use super::connect::Server;
use super::segment::Room;
use super::session::{Connected, RunningStatements, Session, SessionOptions};
use crate::connector::{Origin, Source};
use crate::context::{Context, Time};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::entry::{Item, Key, Prior};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, mpsc};
use tokio_util::task::TaskTracker;

/// Connections that read at once, unless another number is asked for: poolers in session mode have few.
pub const JOBS: usize = 4;

/// The longest text of a selection within the description of what is read, in bytes.
const SELECTION_MAX: usize = 1 << 10;

/// What of a database is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Contents {
    /// Statements without rows.
    Schema,
    /// Rows, large objects and sequences without statements.
    Data,
    /// Everything.
    #[default]
    Database,
}

/// What to read, and how.
#[derive(Clone)]
pub struct PostgresRequest {
    /// Where the database is.
    pub server: Server,
    /// Connections that read at once, one at least; the one that holds the snapshot comes on top.
    pub jobs: usize,
    /// Which schemas and tables.
    pub filter: Filter,
    /// What of them.
    pub contents: Contents,
    /// Every database of the server that takes connections and is no template.
    pub all_databases: bool,
    /// The `pg_dump` to run.
    pub pg_dump: Option<PathBuf>,
    /// Directories to look for one in, before those where packages put it.
    pub search: Vec<PathBuf>,
    /// Locks and ages.
    pub session: SessionOptions,
    /// Look at what would be read, and read no rows.
    pub dry_run: bool,
}

impl PostgresRequest {
    /// Connects to a database of the server.
    async fn connect(&self, context: &Context, server: &Server) -> Result<Connected> {
        // One reads the first table while another looks at the catalogs.
        let another = self.contents == Contents::Database && self.jobs > 1;
        Connected::connect(context, server, &self.session, another).await
    }

    /// What is chosen of a database, as options, if not everything. A series of snapshots holds one choice: to a snapshot of other
    /// tables a whole one has nothing to compare with, and must not be thinned out beside it.
    fn selection(&self) -> String {
        let mut options = self.filter.options();
        match self.contents {
            Contents::Schema => options.push("--type=schema".to_owned()),
            Contents::Data => options.push("--type=data".to_owned()),
            Contents::Database => {}
        }
        if options.is_empty() {
            return String::new();
        }
        let text = format!(" {}", options.join(" "));
        if text.len() <= SELECTION_MAX {
            return text;
        }
        // The record of a snapshot has only so much room.
        let digest = blake3::hash(text.as_bytes()).to_hex();
        let digest = digest.get(..16).unwrap_or_default();
        format!(" ({} options, {digest})", options.len())
    }
}

/// Reads databases.
pub struct PostgresSource {
    request: PostgresRequest,
    /// What was found while entries were yielded.
    found: Arc<Found>,
}

/// What the end of a snapshot needs to know.
#[derive(Default)]
struct Found {
    /// The server's version.
    version: Mutex<Option<String>>,
    /// The moment of each database's snapshot.
    moments: Mutex<Vec<Time>>,
    /// The first failure of a content that was handed out: half of the statements are not a backup.
    failure: Mutex<Option<Error>>,
    /// That there is one.
    has_failed: Notify,
    /// Whether the last database was read to its end.
    ended: Mutex<bool>,
    /// What runs at the server.
    running: Arc<RunningStatements>,
    /// A connection that nobody used yet.
    ahead: Mutex<Option<Connected>>,
    /// Tables that were compared by WAL summaries.
    summarized: Mutex<Vec<Key>>,
    /// WAL summaries have left out what was written.
    misled: AtomicBool,
}

impl Found {
    /// Keeps a connection for the next database.
    fn keep_ahead(&self, connected: Option<Connected>) {
        if let Ok(mut ahead) = self.ahead.lock() {
            *ahead = connected;
        }
    }

    /// Takes note of a failure.
    fn fail(&self, error: Error) {
        if let Ok(mut failure) = self.failure.lock() {
            failure.get_or_insert(error);
        }
        self.has_failed.notify_one();
    }

    /// Comes to its end with the first failure.
    async fn failed(&self) -> Error {
        loop {
            let failure = self.failure.lock().ok().and_then(|failure| failure.clone());
            match failure {
                Some(error) => return error,
                None => self.has_failed.notified().await,
            }
        }
    }
}

/// What reading one database needs everywhere.
struct Reading {
    context: Context,
    session: Arc<Session>,
    workers: Arc<worker::Workers>,
    prior: Arc<dyn Prior>,
    /// Its name.
    database: Vec<u8>,
    /// Why nothing of the server can be compared, if so.
    obstacle: Option<&'static str>,
    /// How far the server's log is durable; nothing if that is not as far as what the snapshot saw.
    flushed: Option<u64>,
    /// Which blocks were written since the parent's snapshot, where the server tells.
    summaries: summaries::Summaries,
    /// What samples are drawn from.
    seed: [u8; 32],
    dry_run: bool,
    /// Memory for long rows.
    room: Room,
    /// Contents that were handed out and read in the snapshot, which stays until they are dropped.
    contents: TaskTracker,
    found: Arc<Found>,
}

/// One of so many ranges that are taken for unchanged is read again as a check.
const CHECKED: u32 = 50;

impl Reading {
    /// Whether an unchanged range of a table is read again as a check.
    fn checks(&self, table: u32, block: u64) -> bool {
        self.chooses(table, block, CHECKED)
    }

    /// Whether one of so many draws falls on this range.
    fn chooses(&self, table: u32, block: u64, of: u32) -> bool {
        let mut draw = blake3::Hasher::new_keyed(&self.seed);
        draw.update(&table.to_be_bytes()).update(&block.to_be_bytes());
        let number = draw.finalize().as_bytes().first_chunk::<4>().copied();
        number.is_some_and(|number| u32::from_be_bytes(number) < u32::MAX / of)
    }
}

/// Where items go.
struct Out(mpsc::Sender<Item>);

impl Out {
    async fn send(&mut self, item: Item) -> Result<()> {
        // Whoever takes items is gone: the snapshot failed elsewhere, and nobody sees this.
        let gone = |_| Error::new(ErrorKind::Cancelled, "nobody takes the entries");
        self.0.send(item).await.map_err(gone)
    }
}

impl PostgresSource {
    /// A source of what `request` says. Nothing is connected to before entries are asked for.
    pub fn new(request: PostgresRequest) -> Self {
        Self {
            request,
            found: Arc::default(),
        }
    }
}

impl Source for PostgresSource {
    fn origin(&self) -> Origin {
        let description = self.request.server.description();
        let description = match (self.request.all_databases, description.rsplit_once('/')) {
            (true, Some((server, _))) => format!("{server}/*"),
            _ => description,
        };
        let description = description + &self.request.selection();
        Origin {
            connector: "postgres".into(),
            description,
            version: self.found.version.lock().ok().and_then(|version| version.clone()),
        }
    }

    fn begin<'a>(&'a mut self, context: &'a Context) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if self.request.all_databases {
                return;
            }
            // Whoever needs it tries again, and tells why not.
            let ahead = self.request.connect(context, &self.request.server).await;
            self.found.keep_ahead(ahead.ok());
        })
    }

    fn entries<'a>(&'a mut self, context: &'a Context, prior: Arc<dyn Prior>) -> BoxStream<'a, Result<Item>> {
        let (sender, mut receiver) = mpsc::channel(4);
        let (request, found) = (&self.request, self.found.clone());
        let reading = async move {
            let mut out = Out(sender);
            let read = database::read_all(context, request, &prior, &found, &mut out);
            let failure = read.await.err();
            if failure.is_none()
                && let Ok(mut ended) = found.ended.lock()
            {
                *ended = true;
            }
            failure.map(Err)
        };
        let failure = stream::once(reading).filter_map(std::future::ready);
        let items = stream::poll_fn(move |task| receiver.poll_recv(task)).map(Ok);
        stream::select(items, failure).boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if let Some(failure) = self
                .found
                .failure
                .lock()
                .ok()
                .and_then(|mut failure| failure.take())
            {
                return Err(failure);
            }
            if self.found.ended.lock().is_ok_and(|ended| *ended) {
                return Ok(());
            }
            Err(Error::new(
                ErrorKind::Internal,
                "a database was not read to its end",
            ))
        })
    }

    fn give_up(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(self.found.running.cancel())
    }

    fn consistent_at(&self) -> Option<Time> {
        let moments = self.found.moments.lock().ok()?;
        // Databases of one server are read one after the other, each as it was at a moment of its own.
        match moments.as_slice() {
            [moment] => Some(*moment),
            _ => None,
        }
    }
}
