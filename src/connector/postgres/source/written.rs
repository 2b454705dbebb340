//! What `pg_dump` writes of one database.
//!
//! It begins as soon as the tables are locked, its two runs beside each other and beside what else is read. What they write is
//! held in memory up to a limit, so that they have ended long before it is wanted, and their failure is known.

use super::statements::{Hash, application, send_stream, send_text};
use super::{Out, Reading};
use crate::connector::postgres::dump::{BehindRows, PgDump, Run, Section};
use crate::connector::postgres::key::Place;
use crate::connector::postgres::session::is_full;
use crate::connector::process::Effort;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::snapshot::entry::{ContentStream, Piece};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, Shared};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Statements that are held in memory, in bytes: of those before the rows as of those behind them.
const HELD_MAX: usize = 4 << 20;
/// How long to wait before a server that had no connection left is asked for one again.
const PAUSE: Duration = Duration::from_millis(500);
/// What servers and poolers say to `pg_dump` when they have no connection left; it does not show the code of an error.
const FULL: [&str; 4] = [
    "too many clients",
    "too many connections",
    "remaining connection slots",
    "max clients",
];

/// What `pg_dump` writes of one database.
pub(super) struct Written {
    pub(super) program: PgDump,
    run: Run,
    schema: AbortOnDropHandle<Result<Early>>,
    behind: Shared<BoxFuture<'static, Result<Option<BehindRows>>>>,
    /// Of the entries that were sent.
    pub(super) hashes: [Hash; 3],
}

/// Statements of which the beginning is held.
struct Early {
    held: Vec<u8>,
    rest: Option<ContentStream>,
}

impl Written {
    /// Begins to run `pg_dump`: each run counts as one of the connections that read at once, for as long as it is read ahead.
    pub(super) fn begin(reading: &Arc<Reading>, program: PgDump, run: Run) -> Self {
        let shared = || (reading.clone(), program.clone(), run.clone());
        let (own, dump, arguments) = shared();
        let schema = AbortOnDropHandle::new(tokio::spawn(async move {
            let _seat = own.workers.seat().await?;
            let begun = || dump.statements(&own.context, &arguments, Section::Schema);
            let begun = patiently(&own, &arguments.effort, begun).await?;
            read_ahead(begun.map(|stream| watched(&own, &arguments.effort, stream))).await
        }));
        let (own, dump, arguments) = shared();
        let behind = AbortOnDropHandle::new(tokio::spawn(async move {
            let _seat = own.workers.seat().await?;
            let ended = || dump.behind_rows(&own.context, &arguments, HELD_MAX);
            patiently(&own, &arguments.effort, ended).await
        }));
        let behind = behind.map(|ended| ended.unwrap_or_else(|error| Err(stopped(error))));
        Self {
            program,
            run,
            schema,
            behind: behind.boxed().shared(),
            hashes: [Hash::Nothing, Hash::Nothing, Hash::Nothing],
        }
    }

    /// Comes to its end only when `pg_dump` has failed with what it is to write behind the rows: there is no use in reading them.
    pub(super) fn failure(&self) -> impl Future<Output = Error> + Send + use<> {
        let behind = self.behind.clone();
        async move {
            match behind.await {
                Err(error) => error,
                Ok(_) => std::future::pending().await,
            }
        }
    }

    /// Yields the statements before the rows, if there are any.
    pub(super) async fn send_schema(&mut self, reading: &Reading, out: &mut Out) -> Result<()> {
        let Early { held, rest } = (&mut self.schema).await.map_err(stopped)??;
        self.hashes[0] = match rest {
            None => send_hashed(reading, &Place::Schema, held.into(), out).await?,
            Some(rest) => {
                let held = stream::once(std::future::ready(Ok(Piece::Data(held.into()))));
                send_stream(reading, &Place::Schema, held.chain(rest).boxed(), out).await?
            }
        };
        Ok(())
    }

    /// Yields those behind the rows.
    pub(super) async fn send_behind(&mut self, reading: &Reading, out: &mut Out) -> Result<()> {
        if let Some(behind) = self.behind.clone().await? {
            self.hashes[1] = send_hashed(reading, &Place::Constraints, behind.constraints, out).await?;
            self.hashes[2] = send_hashed(reading, &Place::Refresh, behind.refresh, out).await?;
            return Ok(());
        }
        // They are too many to be held: each section is written once more while it is taken.
        for (number, section, place) in [
            (1, Section::Constraints, Place::Constraints),
            (2, Section::Refresh, Place::Refresh),
        ] {
            reading.session.ping().await?;
            let begun = || self.program.statements(&reading.context, &self.run, section);
            if let Some(stream) = patiently(reading, &self.run.effort, begun).await?
                && let Some(hash) = self.hashes.get_mut(number)
            {
                let stream = watched(reading, &self.run.effort, stream);
                *hash = send_stream(reading, &place, stream, out).await?;
            }
        }
        Ok(())
    }
}

async fn send_hashed(reading: &Reading, place: &Place, text: Bytes, out: &mut Out) -> Result<Hash> {
    if text.is_empty() {
        return Ok(Hash::Nothing);
    }
    let hash = Hash::Known(*blake3::hash(&text).as_bytes());
    send_text(reading, place, text, out).await?;
    Ok(hash)
}

/// The same, for as long as `pg_dump` or the server works on it.
fn watched(reading: &Reading, effort: &Effort, stream: ContentStream) -> ContentStream {
    let program = (application(reading), effort.clone());
    let state = (reading.session.clone(), program, stream);
    let watched = stream::try_unfold(state, |(session, program, mut stream)| async move {
        let (name, effort) = &program;
        let next = session
            .while_program_works((name, effort), stream.try_next())
            .await?;
        Ok(next.map(|piece| (piece, (session, program, stream))))
    });
    watched.boxed()
}

/// Takes of a stream what may be held.
async fn read_ahead(stream: Option<ContentStream>) -> Result<Early> {
    let mut early = Early {
        held: Vec::new(),
        rest: stream,
    };
    while let Some(stream) = &mut early.rest
        && early.held.len() < HELD_MAX
    {
        match stream.try_next().await? {
            Some(Piece::Data(bytes)) => early.held.extend_from_slice(&bytes),
            Some(Piece::Hole(_)) => {}
            None => early.rest = None,
        }
    }
    Ok(early)
}

fn stopped(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, "a task that runs pg_dump ended by itself").because(error)
}

/// Runs `pg_dump`, and again if the server has no connection left for it: for as long as for a lock.
async fn patiently<T, F>(reading: &Reading, effort: &Effort, run: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let (begun, name) = (Instant::now(), application(reading));
    let mut told = false;
    loop {
        let ran = reading.session.while_program_works((&name, effort), run());
        let error = match ran.await {
            Err(error) if found_no_connection(reading, &error).await => error,
            ended => return ended,
        };
        if begun.elapsed() >= reading.session.options().lock_timeout {
            return Err(error.hint(
                "the server has no connection left for pg_dump: take less at once with --jobs, or allow the role more",
            ));
        }
        if !std::mem::replace(&mut told, true) {
            reading.context.emit(&Event::Retry {
                what: format!("a connection of pg_dump to {}", reading.session.server_name()),
                why: "the server has no connection left".to_owned(),
            });
        }
        // Perhaps it is ours that are in its way.
        reading.session.close_idle().await;
        tokio::time::sleep(PAUSE).await;
        reading.session.check()?;
    }
}

/// Whether `pg_dump` failed because the server has no connection left. It says so in the server's language: where that is not known,
/// another connection tells whether one is to be had.
async fn found_no_connection(reading: &Reading, error: &Error) -> bool {
    if error.kind() != ErrorKind::Source {
        return false;
    }
    let said = error.causes().join(" ").to_lowercase();
    if FULL.iter().any(|words| said.contains(words)) {
        return true;
    }
    let tried = reading.session.server().connect(&reading.context).await;
    tried.err().is_some_and(|error| is_full(&error))
}
