//! One database after the other: its snapshot, its locks, and its entries in the order of their keys.

use super::ahead::{Ahead, Next};
use super::statements::{Statements, send_text, send_with_state};
use super::summaries::Summaries;
use super::worker::Workers;
use super::{Contents, Found, Out, PostgresRequest, Reading, objects, rows, table};
use crate::connector::postgres::catalog::{self, Table, Tables};
use crate::connector::postgres::connect::Server;
use crate::connector::postgres::incarnation;
use crate::connector::postgres::key::{self, Place, TableName};
use crate::connector::postgres::record::{Belongs, DatabaseRecord, Persistence, ReportLine, encode_report};
use crate::connector::postgres::segment::Room;
use crate::connector::postgres::session::{Locked, Session, failed, in_time, locked};
use crate::connector::postgres::state::ReportState;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::snapshot::entry::{Content, Entry, EntryHead, EntryKind, Incident, Item, Key, Prior};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// How often a snapshot is taken anew because tables changed before they were locked.
const TRIES: u32 = 5;
/// Which part of the memory budget long rows may take.
const LONG_ROWS: u64 = 8;
/// Names that an error lists.
const NAMED: usize = 20;

/// Reads every database that is asked for.
pub(super) async fn read_all(
    context: &Context,
    request: &PostgresRequest,
    prior: &Arc<dyn Prior>,
    found: &Arc<Found>,
    out: &mut Out,
) -> Result<()> {
    if !request.all_databases {
        return read(context, request, &request.server, prior, found, out).await;
    }
    let mut refused = None;
    let mut any = false;
    for name in databases(context, &request.server, request.session.silence).await? {
        let server = request.server.with_database(&name);
        match request.connect(context, &server).await {
            Ok(connected) => found.keep_ahead(Some(connected)),
            Err(error) if is_refusal(&error) => {
                let (key, why) = (key::database(name.as_bytes()), said(&error));
                out.send(Item::Incident(Incident { key, why })).await?;
                refused = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        }
        read(context, request, &server, prior, found, out).await?;
        any = true;
    }
    match refused {
        Some(error) if !any => Err(error),
        _ => Ok(()),
    }
}

/// Whether one database of a server does not let the role in, or is not there any more; others may.
fn is_refusal(error: &Error) -> bool {
    let codes = [
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        SqlState::INVALID_CATALOG_NAME,
    ];
    let code = error.context("sqlstate");
    codes.iter().any(|refusal| code == Some(refusal.code()))
}

fn said(error: &Error) -> String {
    match error.causes().first() {
        Some(cause) => format!("{}: {cause}", error.what()),
        None => error.what().to_owned(),
    }
}

/// The databases that take connections and are no templates, in the order of their keys.
async fn databases(context: &Context, server: &Server, silence: Duration) -> Result<Vec<String>> {
    let what = "cannot list the databases of the server";
    let connection = server.connect(context).await?;
    let sql = "SELECT d.datname::pg_catalog.text FROM pg_catalog.pg_database d
        WHERE d.datallowconn AND NOT d.datistemplate";
    let listed = async {
        connection
            .client()
            .query_typed(sql, &[])
            .await
            .map_err(|e| failed(what, e))
    };
    let rows = in_time(silence, listed).await?;
    let name = |row: &tokio_postgres::Row| row.try_get::<_, String>(0);
    let names: Result<Vec<String>, _> = rows.iter().map(name).collect();
    let mut names = names.map_err(|e| failed(what, e))?;
    names.sort_unstable();
    Ok(names)
}

async fn read(
    context: &Context,
    request: &PostgresRequest,
    server: &Server,
    prior: &Arc<dyn Prior>,
    found: &Arc<Found>,
    out: &mut Out,
) -> Result<()> {
    let (session, tables) = open(context, request, server, found).await?;
    let session = Arc::new(session);
    // Whatever waits for whatever: a snapshot that is lost or too old ends it.
    tokio::select! {
        biased;
        done = read_in(context, request, (session.clone(), tables), prior, found, out) => done,
        error = session.watch() => Err(error),
    }
}

async fn read_in(
    context: &Context,
    request: &PostgresRequest,
    (session, tables): (Arc<Session>, Tables),
    prior: &Arc<dyn Prior>,
    found: &Arc<Found>,
    out: &mut Out,
) -> Result<()> {
    let workers = Arc::new(Workers::new(session.clone(), request.jobs));
    let record = catalog::database(session.coordinator()).await?;
    if let (Ok(mut version), Ok(mut moments)) = (found.version.lock(), found.moments.lock()) {
        *version = Some(record.server_version.clone());
        moments.extend(session.facts.moment);
    }
    let flushed = session.flushed().await?;
    let reading = Arc::new(Reading {
        context: context.clone(),
        workers,
        prior: prior.clone(),
        database: record.name.clone(),
        obstacle: incarnation::obstacle(&session.facts),
        flushed,
        summaries: Summaries::new(&session, prior.as_ref(), &record.name, found).await,
        seed: context.random.bytes()?,
        dry_run: request.dry_run,
        room: Room::new(context.budget.total() / LONG_ROWS),
        contents: TaskTracker::new(),
        found: found.clone(),
        session,
    });
    if let Some(text) = doubt(&reading) {
        out.send(Item::Note(text)).await?;
    }
    for note in &tables.notes {
        out.send(Item::Note(note.clone())).await?;
    }
    let deciding = (request.contents != Contents::Data)
        .then(|| AbortOnDropHandle::new(tokio::spawn(Statements::begin(reading.clone(), request.clone()))));
    let mut ahead = Ahead::new(tables, request.jobs * 2);
    if request.contents != Contents::Schema {
        if request.session.checkpoint
            && !request.dry_run
            && let Some(text) = reading.summaries.checkpoint(&reading, ahead.tables()).await?
        {
            out.send(Item::Note(text)).await?;
        }
        // What is planned meanwhile need not be waited for behind the statements.
        ahead.fill(&reading).await?;
    }
    let statements = match deciding {
        Some(deciding) => Some(deciding.await.map_err(|error| {
            Error::new(
                ErrorKind::Internal,
                "a task that looks for statements ended by itself",
            )
            .because(error)
        })??),
        None => None,
    };
    let failure = statements.as_ref().map(Statements::failure);
    let failure = failure.unwrap_or_else(|| Box::pin(std::future::pending()));
    let work = async {
        send_database(&reading, record, statements.as_ref(), out).await?;
        read_contents(&reading, request, ahead, statements, out).await
    };
    // Hours of rows are of no use where the statements failed.
    tokio::select! {
        biased;
        done = work => done?,
        error = failure => return Err(error),
        error = found.failed() => return Err(error),
    }
    reading.contents.close();
    reading.contents.wait().await;
    reading.session.end().await
}

/// What the next snapshot will have to do without, if so.
fn doubt(reading: &Reading) -> Option<String> {
    match reading.obstacle {
        Some(obstacle) => Some(format!("the next snapshot will read every table in full: {obstacle}")),
        None if reading.flushed.is_none() => Some(
            "the next snapshot will read every table that changed in full: the server did not say that what it showed is durable"
                .to_owned(),
        ),
        None => None,
    }
}

/// Takes a snapshot and locks its tables: again, if one of them changed in between.
async fn open(
    context: &Context,
    request: &PostgresRequest,
    server: &Server,
    found: &Found,
) -> Result<(Session, Tables)> {
    let mut changed = None;
    for _ in 0..TRIES {
        let ahead = found.ahead.lock().ok().and_then(|mut ahead| ahead.take());
        let session = Session::begin(context, server, &request.session, &found.running, ahead).await?;
        let held = tokio::select! {
            biased;
            held = hold(request, &session) => held?,
            error = session.watch() => return Err(error),
        };
        match held {
            (tables, Locked::Held) => return Ok((session, tables)),
            (_, Locked::Changed(name)) => changed = Some(name),
        }
    }
    let error = Error::new(ErrorKind::Source, "a table changes its form all the time")
        .hint("run again when no migration runs, or leave it out with --exclude-table");
    Err(match changed {
        Some(name) => error.with("table", name),
        None => error,
    })
}

/// Locks the tables whose rows are wanted.
async fn hold(request: &PostgresRequest, session: &Session) -> Result<(Tables, Locked)> {
    let tables = catalog::tables(session.coordinator(), &request.filter).await?;
    if request.contents == Contents::Schema {
        return Ok((tables, Locked::Held));
    }
    readable(&tables)?;
    let kept: Vec<&Table> = tables
        .iter()
        .filter(|table| reads(session, table).is_ok())
        .collect();
    let locked = locked(session, &kept).await?;
    Ok((tables, locked))
}

/// Fails if a table cannot be read: half a database is no backup.
fn readable(tables: &Tables) -> Result<()> {
    let unreadable: Vec<(&TableName, &str)> = tables
        .iter()
        .filter(|table| table.record.belongs != Belongs::Extension)
        .filter_map(|table| Some((&table.name, table.readable.as_ref().err()?.as_str())))
        .collect();
    let Some((first, why)) = unreadable.first() else {
        return Ok(());
    };
    let names: Vec<String> = unreadable
        .iter()
        .take(NAMED)
        .map(|(name, _)| name.to_string())
        .collect();
    Err(Error::new(ErrorKind::Source, "there are tables that the role cannot read")
        .with("tables", names.join(" "))
        .with("number", unreadable.len())
        .with("why", format!("{first}: {why}"))
        .hint(format!(
            "GRANT USAGE ON SCHEMA {} and SELECT ON {first} to the role that reads, and BYPASSRLS if row security is on; \
             or leave tables out with --exclude-table",
            crate::connector::postgres::name::display(&first.schema)
        )))
}

/// Why a table is passed over, if it is.
pub(super) fn reads(session: &Session, table: &Table) -> Result<(), String> {
    if session.facts.server.in_recovery && table.record.persistence == Persistence::Unlogged {
        return Err("unlogged tables have no rows on a standby".to_owned());
    }
    table.readable.clone()
}

async fn send_database(
    reading: &Reading,
    mut record: DatabaseRecord,
    statements: Option<&Statements>,
    out: &mut Out,
) -> Result<()> {
    record.pg_dump = statements.map(|statements| statements.version().to_owned());
    let metadata = record.to_metadata().map_err(|error| {
        Error::new(
            ErrorKind::Unsupported,
            "a database's description is more than an entry can say",
        )
        .because(error)
    })?;
    let head = EntryHead {
        key: key::database(&reading.database),
        kind: EntryKind::Database,
        metadata,
        state: Bytes::new(),
        size: None,
    };
    let content = Content::None;
    out.send(Item::Entry(Entry { head, content })).await
}

/// Everything behind the entry of the database itself.
async fn read_contents(
    reading: &Arc<Reading>,
    request: &PostgresRequest,
    ahead: Ahead,
    mut statements: Option<Statements>,
    out: &mut Out,
) -> Result<()> {
    let rows = request.contents != Contents::Schema;
    if let Some(statements) = &mut statements {
        let globals = catalog::globals(reading.session.coordinator()).await?;
        send_text(reading, &Place::Globals, globals.into(), out).await?;
        statements.send_schema(reading, out).await?;
    }
    let mut report = Vec::new();
    if rows {
        report = read_tables(reading, ahead, out).await?;
        if !request.filter.chooses() {
            objects::send(reading, out).await?;
        }
        read_sequences(reading, request, out).await?;
    }
    if let Some(statements) = &mut statements {
        statements.send_behind(reading, out).await?;
    }
    if rows {
        let statements = match statements {
            Some(statements) => statements.state(reading, out).await?,
            None => None,
        };
        let log = reading.summaries.state(reading);
        let state = ReportState { statements, log }.encode();
        let report = encode_report(&report).into();
        send_with_state(reading, &Place::Report, (report, state), out).await?;
    }
    Ok(())
}

async fn read_sequences(reading: &Arc<Reading>, request: &PostgresRequest, out: &mut Out) -> Result<()> {
    reading.session.ping().await?;
    let sequences = catalog::sequences(reading.session.coordinator(), &request.filter).await?;
    for (name, why) in sequences.missing {
        let key = Key::new(format!("the sequence {name}").into_bytes());
        let why = why.to_owned();
        out.send(Item::Incident(Incident { key, why })).await?;
    }
    send_text(reading, &Place::Sequences, sequences.statements.into(), out).await
}

/// Yields one table after the other.
async fn read_tables(reading: &Arc<Reading>, mut ahead: Ahead, out: &mut Out) -> Result<Vec<ReportLine>> {
    let mut report = Vec::new();
    let mut checked = 0;
    while let Some(next) = ahead.next(reading).await? {
        let plan = match next {
            // What it rests on has turned out to be wrong meanwhile.
            Next::Planned(plan) if plan.summarized && !reading.summaries.are_trusted() => {
                let table = plan.table.clone();
                // What it has begun to read holds a connection.
                drop(plan);
                table::plan(reading.clone(), table).await?
            }
            Next::Planned(plan) => *plan,
            Next::PassedOver(table, why) => {
                pass_over(reading, &table, why, out).await?;
                continue;
            }
        };
        reading.session.check()?;
        checked += plan.checked;
        if plan.summarized
            && let Ok(mut summarized) = reading.found.summarized.lock()
        {
            summarized.push(key::key(
                &reading.database,
                &Place::Table(plan.table.name.clone()),
            ));
        }
        report.push(rows::send(reading, plan, out).await?);
    }
    if !reading.summaries.are_trusted() {
        doubt_tables(reading, out).await?;
    }
    if checked > 0 {
        let text = format!("{checked} unchanged ranges were read again as a check, and were as expected");
        reading.context.emit(&Event::Note { text });
    }
    types_stand(reading, ahead.tables()).await?;
    Ok(report)
}

/// Tells of tables that were compared by WAL summaries before these turned out to be wrong.
async fn doubt_tables(reading: &Reading, out: &mut Out) -> Result<()> {
    let summarized = reading.found.summarized.lock();
    let summarized = summarized.map(|mut summarized| std::mem::take(&mut *summarized));
    for key in summarized.unwrap_or_default() {
        let why = "rows of it may be those of an earlier snapshot: it was compared by WAL summaries that did not name what changed in \
                   another table; take the next snapshot with --force-read";
        let why = why.to_owned();
        out.send(Item::Incident(Incident { key, why })).await?;
    }
    Ok(())
}

/// Fails if a type was altered while rows of it were read: some of them may read as it was, some as it is.
async fn types_stand(reading: &Reading, tables: &Tables) -> Result<()> {
    if !tables.have_alterable_types() {
        return Ok(());
    }
    let now = reading.session.bystander().await?;
    let altered = tables.altered_type(now.connection());
    let altered = in_time(reading.session.options().silence, altered).await?;
    reading.session.keep(now);
    match altered {
        None => Ok(()),
        Some(found) => Err(
            Error::new(ErrorKind::Source, "a type was altered while rows of it were read")
                .with("table", &found.table)
                .with("type", &found.type_name)
                .hint("nothing was committed; run again when no migration runs"),
        ),
    }
}

/// Tells of a table that is not kept.
async fn pass_over(reading: &Reading, table: &Table, why: String, out: &mut Out) -> Result<()> {
    if table.record.belongs == Belongs::Extension {
        let text = format!(
            "the rows of {}, a table of an extension, are not kept: {why}",
            table.name
        );
        return out.send(Item::Note(text)).await;
    }
    let key = key::key(&reading.database, &Place::Table(table.name.clone()));
    out.send(Item::Incident(Incident { key, why })).await
}
