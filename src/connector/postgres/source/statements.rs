//! Entries of statements: what `pg_dump` writes, and what the catalogs tell.
//!
//! `pg_dump` begins as soon as the tables are locked, its two runs beside each other and beside what else is read. What they write is
//! held in memory up to a limit, so that they have ended long before it is wanted, and their failure is known.

use super::worker::Workers;
use super::{Found, Out, Reading};
use crate::connector::postgres::dump::{BehindRows, PgDump, Run, Section};
use crate::connector::postgres::key::{self, Place};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::entry::{
    Content, ContentStream, Entry, EntryHead, EntryKind, Item, Metadata, OpenContent, Piece,
};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, Shared};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

/// Statements that are held in memory, in bytes: of those before the rows as of those behind them.
const HELD_MAX: usize = 4 << 20;

/// What `pg_dump` writes of one database.
pub(super) struct Statements {
    pub(super) program: PgDump,
    run: Run,
    schema: AbortOnDropHandle<Result<Early>>,
    behind: Shared<BoxFuture<'static, Result<Option<BehindRows>>>>,
}

/// Statements of which the beginning is held.
struct Early {
    held: Vec<u8>,
    rest: Option<ContentStream>,
}

impl Statements {
    /// Begins to run `pg_dump`: each run counts as one of the connections that read at once, for as long as it is read ahead.
    pub(super) fn begin(context: &Context, program: PgDump, run: Run, workers: &Arc<Workers>) -> Self {
        let shared = || (context.clone(), program.clone(), run.clone(), workers.clone());
        let (context, dump, arguments, workers) = shared();
        let schema = AbortOnDropHandle::new(tokio::spawn(async move {
            let _seat = workers.seat().await?;
            let stream = dump.statements(&context, &arguments, Section::Schema).await?;
            read_ahead(stream).await
        }));
        let (context, dump, arguments, workers) = shared();
        let behind = AbortOnDropHandle::new(tokio::spawn(async move {
            let _seat = workers.seat().await?;
            dump.behind_rows(&context, &arguments, HELD_MAX).await
        }));
        let behind = behind.map(|ended| ended.unwrap_or_else(|error| Err(stopped(error))));
        Self {
            program,
            run,
            schema,
            behind: behind.boxed().shared(),
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
    pub(super) async fn send_schema(
        &mut self,
        reading: &Reading,
        found: &Arc<Found>,
        out: &mut Out,
    ) -> Result<()> {
        let Early { held, rest } = (&mut self.schema).await.map_err(stopped)??;
        let Some(rest) = rest else {
            return send_text(reading, &Place::Schema, held.into(), out).await;
        };
        let held = stream::once(std::future::ready(Ok(Piece::Data(held.into()))));
        send_stream(reading, &Place::Schema, held.chain(rest).boxed(), found, out).await
    }

    /// Yields those behind the rows.
    pub(super) async fn send_behind(
        &self,
        reading: &Reading,
        found: &Arc<Found>,
        out: &mut Out,
    ) -> Result<()> {
        if let Some(behind) = self.behind.clone().await? {
            send_text(reading, &Place::Constraints, behind.constraints, out).await?;
            return send_text(reading, &Place::Refresh, behind.refresh, out).await;
        }
        // They are too many to be held: each section is written once more while it is taken.
        for (section, place) in [
            (Section::Constraints, Place::Constraints),
            (Section::Refresh, Place::Refresh),
        ] {
            reading.session.ping().await?;
            let stream = self
                .program
                .statements(&reading.context, &self.run, section)
                .await?;
            if let Some(stream) = stream {
                send_stream(reading, &place, stream, found, out).await?;
            }
        }
        Ok(())
    }
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

/// Yields an entry of statements that are in hand, if there are any.
pub(super) async fn send_text(reading: &Reading, place: &Place, text: Bytes, out: &mut Out) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let head = head(reading, place, Some(text.len() as u64));
    let content = Content::Bytes(text);
    out.send(Item::Entry(Entry { head, content })).await
}

/// Yields an entry of statements that are still to come.
async fn send_stream(
    reading: &Reading,
    place: &Place,
    stream: ContentStream,
    found: &Arc<Found>,
    out: &mut Out,
) -> Result<()> {
    let head = head(reading, place, None);
    let found = found.clone();
    let content = Content::Open(Box::new(Watched { stream, found }));
    out.send(Item::Entry(Entry { head, content })).await
}

fn head(reading: &Reading, place: &Place, size: Option<u64>) -> EntryHead {
    EntryHead {
        key: key::key(&reading.database, place),
        kind: EntryKind::Statements,
        metadata: Metadata::default(),
        state: Bytes::new(),
        size,
    }
}

/// A content whose failure ends the snapshot: an entry that fails alone would only be missing.
pub(super) struct Watched {
    pub(super) stream: ContentStream,
    pub(super) found: Arc<Found>,
}

impl OpenContent for Watched {
    fn open(self: Box<Self>) -> BoxFuture<'static, Result<ContentStream>> {
        let Self { stream, found } = *self;
        let watched = stream.map(move |piece| {
            piece.map_err(|error| {
                let copy = error.clone();
                found.fail(error);
                copy
            })
        });
        Box::pin(async move { Ok::<_, Error>(watched.boxed()) })
    }
}
