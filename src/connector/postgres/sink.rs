//! The sink: a snapshot of one database into an empty one, over the protocol.
//!
//! Entries come in the order of a restore: roles, schema, rows, large objects, sequences, constraints, materialized views. Statements
//! run one after the other and a refused one is told and counted, never the end; rows are copied by several connections at once,
//! neighbouring segments by the first that is free; indexes and keys are built side by side. At the end the rows of every table and the values of
//! sequences are read back and compared with what the snapshot says of them; large objects are as soon as they are written. Settings
//! of the database and the limit of its connections come last: they are not made for a restore.
//!
//! There is no restart in the middle: after an error the target is half of a database, and says so by not being empty.

mod batch;
mod constraints;
mod defaults;
mod large_object;
mod pool;
mod refusal;
mod roles;
mod rows;
mod sequences;
mod session;
mod statements;
mod target;
mod verify;
mod views;

use super::connect::Server;
use super::key::{self, Place, TableName};
use super::record::DatabaseRecord;
use crate::connector::{Sink, SinkReport};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Outcome};
use crate::format::error::DecodeError;
use crate::snapshot::entry::{Content, Entry, EntryHead};
use batch::Batch;
use futures::future::BoxFuture;
use pool::Pool;
use refusal::Refusal;
use rows::Table;
use session::{Opening, Settings, Trouble, Worker};
use statements::Prepared;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use target::Target;

/// How long a restore waits for a lock unless it is told otherwise.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
/// [`RestoreRequest::stripe`] unless it is told otherwise.
pub const STRIPE: u64 = 16 << 20;

/// A restore of a database.
#[derive(Clone)]
pub struct RestoreRequest {
    /// The empty database that is written to.
    pub server: Server,
    /// Connections that work side by side, besides one that runs statements. With one, rows come to lie in their order again; with
    /// more, segments of a table that are written at the same time lie among each other. No row depends on its place, and what is near
    /// each other stays near: changes to the newest rows are as cheap to find as before.
    pub jobs: usize,
    /// How long a lock is waited for.
    pub lock_timeout: Duration,
    /// Read every table, sequence and large object again and compare it.
    pub verify: bool,
    /// Text of a table that one statement reads back, in bytes: more is read by several connections at once.
    pub stripe: u64,
    /// Only look at the target and count; nothing is changed.
    pub dry_run: bool,
    /// Whether all entries of the database will come: then a table of the report that has none is an error.
    pub whole: bool,
}

/// What a restore did, beyond the counts of [`SinkReport`]; in a dry run what it would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The database of the snapshot.
    pub source: String,
    /// The database that was written to.
    pub target: String,
    /// Roles that the target lacked, made without passwords.
    pub roles: Vec<String>,
    /// Statements, settings of the session apart.
    pub statements: u64,
    /// Statements that the server refused.
    pub refused: u64,
    /// Tables whose rows were asked for.
    pub tables: Vec<TableSummary>,
    /// Tables whose rows were read back and found to be the snapshot's.
    pub compared: u64,
    /// Tables whose rows are not the snapshot's.
    pub tables_different: u64,
    /// Values of sequences.
    pub sequences: Counted,
    /// Large objects.
    pub large_objects: Counted,
}

/// Things of one kind, and how many of them were read back and found to be the snapshot's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// All.
    pub all: u64,
    /// Those that were found equal.
    pub equal: u64,
}

/// What became of a table's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSummary {
    /// Its name.
    pub name: TableName,
    /// Rows written; in a dry run those of the snapshot.
    pub rows: u64,
    /// Bytes of their text.
    pub bytes: u64,
}

/// Which statements run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Globals,
    Schema,
    Sequences,
}

/// What work on a connection leaves behind.
enum Left {
    Rows(rows::Loaded),
    Object(large_object::Written),
    Built(constraints::Built),
    Checked(verify::Checked),
}

/// Restores one database.
pub struct PostgresSink {
    request: RestoreRequest,
    control: Option<Worker>,
    pool: Option<Pool<Left>>,
    target: Target,
    /// The database of the snapshot; without a name before its entry came.
    source: DatabaseRecord,
    /// Settings that the statements of the present entry have made.
    settings: Settings,
    tables: BTreeMap<TableName, Table>,
    /// Segments that will be sent together.
    batch: Option<Batch>,
    /// Tables that could not be made.
    missing: BTreeSet<TableName>,
    /// Values that sequences were given.
    sequences: BTreeMap<TableName, (i64, bool)>,
    /// Statements that run when everything else is done.
    later: Vec<Prepared>,
    /// Tables that are being read back.
    read_back: BTreeMap<TableName, verify::ReadBack>,
    verified: bool,
    summary: Summary,
    report: SinkReport,
}

impl PostgresSink {
    /// A sink for `request`; touches nothing yet.
    pub fn new(request: RestoreRequest) -> Self {
        Self {
            request,
            control: None,
            pool: None,
            target: Target::default(),
            source: DatabaseRecord::default(),
            settings: Settings::new(),
            tables: BTreeMap::new(),
            batch: None,
            missing: BTreeSet::new(),
            sequences: BTreeMap::new(),
            later: Vec::new(),
            read_back: BTreeMap::new(),
            verified: false,
            summary: Summary::default(),
            report: SinkReport::default(),
        }
    }

    /// What was done so far; whole after [`Sink::finish`].
    pub fn summary(&self) -> Summary {
        let mut summary = self.summary.clone();
        let tables = self.tables.iter().map(|(name, table)| TableSummary {
            name: name.clone(),
            rows: table.rows,
            bytes: table.bytes,
        });
        summary.tables = tables.collect();
        summary
    }

    fn pool_mut(&mut self) -> Result<&mut Pool<Left>> {
        self.pool.as_mut().ok_or_else(unprepared)
    }

    fn control(&self) -> Result<&Worker> {
        self.control.as_ref().ok_or_else(unprepared)
    }

    async fn take(&mut self, context: &Context, entry: Entry) -> Result<()> {
        let Entry { head, content } = entry;
        let Some((database, place)) = key::parse(&head.key) else {
            let why = "a newer version wrote it, and this one cannot restore it";
            self.failed(context, head.key.to_string(), why.into());
            return Ok(());
        };
        if place == Place::Database {
            return self.begin(context, &database, &head).await;
        }
        if self.summary.source.as_bytes() != String::from_utf8_lossy(&database).as_bytes() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "a restore takes one database, from its beginning on",
            )
            .with("database", String::from_utf8_lossy(&database)));
        }
        let bytes = head.size.unwrap_or(0);
        let name = place.to_string();
        if !matches!(&place, Place::Segment(table, _) if self.gathers(table)) {
            self.send_batch(context).await?;
        }
        if !matches!(
            place,
            Place::Table(_) | Place::Segment(..) | Place::LargeObject(_)
        ) {
            self.drain(context).await?;
        }
        match place {
            Place::Database => {}
            Place::Globals => {
                self.run_in_order(context, Stage::Globals, content).await?;
                self.begin_again(context).await?;
            }
            Place::Schema => self.run_in_order(context, Stage::Schema, content).await?,
            Place::Table(table) => return self.table(context, table, &head).await,
            Place::Segment(table, segment) => {
                return self.segment(context, (table, segment), &head, content).await;
            }
            Place::LargeObject(oid) => return self.large_object(context, oid, &head, content).await,
            Place::Sequences => self.run_in_order(context, Stage::Sequences, content).await?,
            Place::Constraints => self.build(context, content).await?,
            Place::Refresh => self.refresh(context, content).await?,
            Place::Report => self.check(context, content).await?,
        }
        self.done(context, name, bytes);
        Ok(())
    }

    /// Enters an entry that was written into the report.
    fn done(&mut self, context: &Context, name: String, bytes: u64) {
        self.report.written += 1;
        self.report.bytes += bytes;
        let outcome = Outcome::Restored;
        context.emit(&Event::EntryDone { name, outcome, bytes });
    }

    async fn begin(&mut self, context: &Context, name: &[u8], head: &EntryHead) -> Result<()> {
        if !self.source.name.is_empty() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "a restore takes one database, and two were given",
            ));
        }
        self.source = DatabaseRecord::from_metadata(&head.metadata).map_err(|e| damaged(head, e))?;
        self.summary.source = String::from_utf8_lossy(name).into_owned();
        let note = |text: String| context.emit(&Event::Note { text });
        let major = |version: u32| version / 10_000;
        let (ours, theirs) = (self.target.version_num, self.source.server_version_num);
        if major(ours) < major(theirs) {
            note(format!(
                "the target is PostgreSQL {}, older than the {} that the snapshot was taken from: statements that it does not know \
                 are refused, and listed",
                self.target.version, self.source.server_version
            ));
        }
        if self.target.encoding != self.source.encoding {
            note(format!(
                "the target's encoding is {}, that of the snapshot's database {}: rows with characters that it does not have are \
                 refused",
                self.target.encoding, self.source.encoding
            ));
        }
        if !self.request.dry_run {
            self.neutralise_defaults(context).await?;
        }
        self.done(context, self.summary.source.clone(), 0);
        Ok(())
    }

    /// Opens the sessions anew: those of before do not have the users' own settings of the database, which functions may ask for.
    async fn begin_again(&mut self, context: &Context) -> Result<()> {
        if !self.request.dry_run {
            self.control = Some(Worker::open(context, &self.opening()).await?);
            self.pool_mut()?.close_idle();
        }
        Ok(())
    }

    fn opening(&self) -> Opening {
        Opening {
            server: self.request.server.clone(),
            lock_timeout: self.request.lock_timeout,
        }
    }

    /// Waits for all that runs.
    async fn drain(&mut self, context: &Context) -> Result<()> {
        self.send_batch(context).await?;
        while self.settle_one(context).await? {}
        Ok(())
    }

    /// Waits for one piece of work and enters what it left; says whether there was one.
    async fn settle_one(&mut self, context: &Context) -> Result<bool> {
        let Some(left) = self.pool_mut()?.next().await? else {
            return Ok(false);
        };
        match left {
            Left::Rows(loaded) => self.loaded(context, loaded),
            Left::Object(written) => self.object_written(context, written),
            Left::Checked(checked) => self.checked(context, checked),
            Left::Built(_) => {}
        }
        Ok(true)
    }

    /// What the next job of [`Self::build`] left.
    async fn next_built(&mut self, context: &Context) -> Result<Option<constraints::Built>> {
        context.check_cancelled()?;
        Ok(match self.pool_mut()?.next().await? {
            Some(Left::Built(built)) => Some(built),
            _ => None,
        })
    }

    /// Waits until more work can begin.
    async fn room(&mut self, context: &Context) -> Result<()> {
        while !self.pool_mut()?.has_room() {
            self.settle_one(context).await?;
        }
        Ok(())
    }

    async fn end(&mut self, context: &Context) -> Result<()> {
        self.drain(context).await?;
        if self.request.dry_run {
            return Ok(());
        }
        if self.request.verify && !self.verified && !self.tables.is_empty() {
            let why = "the snapshot has no report of its tables: what was written was not compared";
            self.failed(context, Place::Report.to_string(), why.into());
        }
        self.run_later(context).await?;
        // The sessions did not wait for the disk; the log is written in order, so the last commit waits for all. It must have written
        // something itself: the server does not wait for a transaction that has nothing but a number. `local`: one waits for a
        // synchronous standby for ever if it is not there.
        let sql =
            "SET synchronous_commit = local; SELECT pg_catalog.pg_logical_emit_message(true, 'holdall', '')";
        match self.control()?.rows(context, sql).await {
            Ok(_) => {}
            Err(Trouble::Lost(error)) => return Err(error),
            Err(Trouble::Refused(refusal)) => {
                let error = Error::new(ErrorKind::Source, "cannot make the target durable");
                return Err(error.with("the server said", refusal));
            }
        }
        if !self.summary.roles.is_empty() {
            let text = format!(
                "{} roles were made, without passwords: {}; give those that log in one with ALTER ROLE … PASSWORD",
                self.summary.roles.len(),
                self.summary.roles.join(", ")
            );
            context.emit(&Event::Note { text });
        }
        Ok(())
    }
}

impl Sink for PostgresSink {
    fn prepare<'a>(&'a mut self, context: &'a Context) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            context.check_cancelled()?;
            let worker = Worker::open(context, &self.opening()).await?;
            self.target = target::look(context, &worker).await?;
            self.summary.target.clone_from(&self.target.database);
            let jobs = target::jobs(context, &self.target, self.request.jobs.max(1));
            self.pool = Some(Pool::new(self.opening(), jobs));
            self.control = Some(worker);
            Ok(())
        })
    }

    fn write<'a>(&'a mut self, context: &'a Context, entry: Entry) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            context.check_cancelled()?;
            self.take(context, entry).await
        })
    }

    fn finish<'a>(&'a mut self, context: &'a Context) -> BoxFuture<'a, Result<SinkReport>> {
        Box::pin(async move {
            self.end(context).await?;
            Ok(self.report.clone())
        })
    }

    fn abandon(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(worker) = self.control.take() {
                session::end_all(vec![worker.cancel_token()]).await;
            }
            if let Some(pool) = &mut self.pool {
                pool.abandon().await;
            }
        })
    }
}

fn unprepared() -> Error {
    Error::new(ErrorKind::Internal, "a sink was not prepared")
}

/// An entry whose metadata cannot be read.
fn damaged(head: &EntryHead, error: DecodeError) -> Error {
    Error::new(ErrorKind::Damaged, "cannot read an entry of a database")
        .with("entry", &head.key)
        .because(error)
}

/// What an error of reading content means: if it is about that content alone, the rest can be restored.
fn trouble_of_content(error: Error) -> Trouble {
    match error.kind() {
        ErrorKind::Damaged | ErrorKind::NotFound => Trouble::Refused(Refusal::own(&format!("{error:?}"))),
        _ => Trouble::Lost(error),
    }
}

/// Takes all of a content that must be small.
async fn whole(content: Content, limit: usize) -> Result<Vec<u8>> {
    use crate::snapshot::entry::Piece;
    use futures::StreamExt;
    let mut stream = content.open().await?;
    let mut out = Vec::new();
    while let Some(piece) = stream.next().await {
        if let Piece::Data(bytes) = piece? {
            out.extend_from_slice(&bytes);
        }
        if out.len() > limit {
            return Err(
                Error::new(ErrorKind::Damaged, "an entry is larger than it can be").with("limit", limit),
            );
        }
    }
    Ok(out)
}
