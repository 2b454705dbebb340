//! Entries of statements: those of the parent if the catalogs are proven to hold what they held, else what `pg_dump` writes; and what
//! the catalogs tell.

use super::prior::entry;
use super::worker::Hands;
use super::written::Written;
use super::{Found, Out, PostgresRequest, Reading};
use crate::connector::postgres::catalog::{CatalogFingerprint, catalog_fingerprint};
use crate::connector::postgres::dump::{PgDump, Run};
use crate::connector::postgres::incarnation;
use crate::connector::postgres::key::{self, Place};
use crate::connector::postgres::plan::Present;
use crate::connector::postgres::plan::statements as plan;
use crate::connector::postgres::state::{ReportState, StatementsState};
use crate::connector::process::Effort;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::snapshot::entry::{
    Content, ContentStream, Entry, EntryHead, EntryKind, Item, Metadata, OpenContent, Piece, PriorEntry,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

/// The entries that `pg_dump` writes.
const PLACES: [Place; 3] = [Place::Schema, Place::Constraints, Place::Refresh];

/// The statements of one database.
pub(super) struct Statements {
    origin: Origin,
    /// What must be equal the next time.
    incarnation: [u8; 32],
    /// The server's time, in seconds since 1970.
    now: i64,
}

enum Origin {
    /// The parent's: nothing changed.
    Parent(Box<Parent>),
    /// Those of now.
    PgDump(Box<Dumped>),
}

/// What the parent has.
struct Parent {
    state: StatementsState,
    entries: [Option<PriorEntry>; 3],
}

struct Dumped {
    written: Written,
    catalogs: Catalogs,
    /// What the parent has, if it can be compared.
    parent: Option<Box<Parent>>,
}

/// The fingerprint of the catalogs; nothing if there is none.
enum Catalogs {
    Known(Option<CatalogFingerprint>),
    Coming(AbortOnDropHandle<Result<Option<CatalogFingerprint>>>),
}

/// The hash of an entry's content.
pub(super) enum Hash {
    /// There is no such entry.
    Nothing,
    Known([u8; 32]),
    /// It is there when the content was read to its end.
    Coming(oneshot::Receiver<[u8; 32]>),
}

impl Statements {
    /// Looks whether the parent's serve. Otherwise `pg_dump` is found and begins.
    ///
    /// # Errors
    /// As [`PgDump::find`]; `Cancelled`.
    pub(super) async fn begin(reading: Arc<Reading>, request: PostgresRequest) -> Result<Self> {
        let mut run = Run {
            environment: reading.session.server().child_environment(),
            snapshot: reading.session.id().to_owned(),
            lock_timeout: request.session.lock_limit(),
            filter: request.filter.clone(),
            effort: Effort::default(),
        };
        let programs = PgDump::choice(request.pg_dump.as_deref(), &request.search);
        let facts = &reading.session.facts;
        let incarnation = incarnation::of_statements(facts, &programs, &run);
        // Another one each time, so that it is no part of what must be equal.
        run.environment
            .push(("PGAPPNAME".into(), application(&reading).into()));
        let now = facts.moment.map_or(i64::MIN, |moment| moment.seconds);
        let parent = Parent::read(&reading).await;
        let parent = parent.filter(|parent| plan::comparable(&parent.state, &present(&reading, incarnation)));
        let since = parent.as_ref().map(|parent| parent.state.snapshot_xmin);
        let statements = |origin| Self {
            origin,
            incarnation,
            now,
        };
        let checks = || reading.chooses(0, 0, plan::CHECKED);
        let catalogs = match parent {
            Some(parent) if !plan::too_old(&parent.state, now) && !checks() => {
                let same = |found: &CatalogFingerprint| plan::unchanged(&parent.state, found);
                let found = look(&reading, since, same).await?;
                if found.as_ref().is_some_and(same) {
                    return Ok(statements(Origin::Parent(Box::new(parent))));
                }
                (Catalogs::Known(found), None)
            }
            parent => {
                let own = reading.clone();
                let looking = tokio::spawn(async move { look(&own, since, |_| true).await });
                let looking = Catalogs::Coming(AbortOnDropHandle::new(looking));
                (looking, parent.map(Box::new))
            }
        };
        let (context, version) = (&reading.context, reading.session.facts.server.version_num);
        let program = PgDump::find(context, request.pg_dump.as_deref(), &request.search, version).await?;
        let (catalogs, parent) = catalogs;
        let dumped = Dumped {
            written: Written::begin(&reading, program, run),
            catalogs,
            parent,
        };
        Ok(statements(Origin::PgDump(Box::new(dumped))))
    }

    /// The version of the `pg_dump` that wrote them.
    pub(super) fn version(&self) -> &str {
        match &self.origin {
            Origin::Parent(parent) => &parent.state.pg_dump,
            Origin::PgDump(dumped) => &dumped.written.program.version().text,
        }
    }

    /// Comes to its end only when they cannot be had: there is no use in reading rows then.
    pub(super) fn failure(&self) -> BoxFuture<'static, Error> {
        match &self.origin {
            Origin::Parent(_) => Box::pin(std::future::pending()),
            Origin::PgDump(dumped) => Box::pin(dumped.written.failure()),
        }
    }

    /// Yields the statements before the rows, if there are any.
    pub(super) async fn send_schema(&mut self, reading: &Reading, out: &mut Out) -> Result<()> {
        match &mut self.origin {
            Origin::Parent(parent) => parent.send(0..1, out).await,
            Origin::PgDump(dumped) => dumped.written.send_schema(reading, out).await,
        }
    }

    /// Yields those behind the rows.
    pub(super) async fn send_behind(&mut self, reading: &Reading, out: &mut Out) -> Result<()> {
        match &mut self.origin {
            Origin::Parent(parent) => parent.send(1..3, out).await,
            Origin::PgDump(dumped) => dumped.written.send_behind(reading, out).await,
        }
    }

    /// What the next snapshot needs to take them over; nothing if it cannot. To be asked when all of them were sent.
    pub(super) async fn state(self, reading: &Reading, out: &mut Out) -> Result<Option<StatementsState>> {
        let present = present(reading, self.incarnation);
        match self.origin {
            Origin::Parent(parent) if plan::still_serves(&parent.state, &present) => Ok(Some(parent.state)),
            Origin::Parent(parent) => {
                let Some(flushed) = reading.flushed else {
                    return Ok(Some(parent.state));
                };
                let snapshot_xmin = present.snapshot_xmin;
                Ok(Some(StatementsState {
                    snapshot_xmin,
                    flushed,
                    ..parent.state
                }))
            }
            Origin::PgDump(dumped) => {
                let pg_dump = dumped.written.program.version().text.clone();
                let catalogs = dumped.catalogs.known().await?;
                let contents = known(dumped.written.hashes).await;
                if let (Some(parent), Some(catalogs), Some(contents)) = (&dumped.parent, &catalogs, &contents)
                    && plan::unchanged(&parent.state, catalogs)
                    && parent.state.contents != *contents
                {
                    let text = "what pg_dump writes was judged unchanged and is not; it was written anew. Please report this, with \
                                the server's version and what was done to the database";
                    out.send(Item::Note(text.to_owned())).await?;
                }
                let (Some(catalogs), Some(contents)) = (catalogs, contents) else {
                    return Ok(None);
                };
                // As for tables: what a crash may take back is compared with nothing.
                let Some(flushed) = lasting(reading).await? else {
                    return Ok(None);
                };
                Ok(Some(StatementsState {
                    snapshot_xmin: present.snapshot_xmin,
                    flushed,
                    incarnation: present.incarnation,
                    catalogs: catalogs.digest,
                    written: self.now,
                    pg_dump,
                    contents,
                }))
            }
        }
    }
}

impl Parent {
    /// What the parent has, if it shows all of it.
    async fn read(reading: &Reading) -> Option<Self> {
        let entry = |place| entry(reading.prior.as_ref(), &reading.database, place);
        let report = entry(&Place::Report).await?;
        let state = ReportState::decode(report.state()).ok()?.statements?;
        let mut entries = [None, None, None];
        for ((entry_of, place), content) in entries.iter_mut().zip(&PLACES).zip(&state.contents) {
            if content.is_some() {
                *entry_of = Some(entry(place).await?);
            }
        }
        Some(Self { state, entries })
    }

    async fn send(&mut self, which: std::ops::Range<usize>, out: &mut Out) -> Result<()> {
        for entry in self.entries.get_mut(which).into_iter().flatten() {
            if let Some(entry) = entry.take() {
                out.send(Item::Unchanged(entry)).await?;
            }
        }
        Ok(())
    }
}

impl Catalogs {
    async fn known(self) -> Result<Option<CatalogFingerprint>> {
        match self {
            Self::Known(found) => Ok(found),
            Self::Coming(looking) => looking.await.map_err(|error| {
                Error::new(
                    ErrorKind::Internal,
                    "a task that looks at catalogs ended by itself",
                )
                .because(error)
            })?,
        }
    }
}

/// The hashes of contents that were sent; nothing if one was not read to its end.
async fn known(hashes: [Hash; 3]) -> Option<[Option<[u8; 32]>; 3]> {
    let mut all = [None; 3];
    for (known, hash) in all.iter_mut().zip(hashes) {
        *known = match hash {
            Hash::Nothing => None,
            Hash::Known(hash) => Some(hash),
            Hash::Coming(hash) => Some(hash.await.ok()?),
        };
    }
    Some(all)
}

/// By which name the server knows sessions of `pg_dump`: no other snapshot's have it.
pub(super) fn application(reading: &Reading) -> String {
    format!("pg_dump {}", reading.session.id())
}

/// How far the server's log is durable, if that is as far as what `pg_dump` may have seen, and if roles were not renamed and the server
/// not configured anew meanwhile: it does not see all through the snapshot. To be asked when it has ended.
async fn lasting(reading: &Reading) -> Result<Option<u64>> {
    if reading.flushed.is_none() {
        return Ok(None);
    }
    let session = &reading.session;
    let asked = async {
        if !session.roles_stand().await? {
            return Ok::<_, Error>(Err("a role was renamed".to_owned()));
        }
        let why = match session.configuration_stands().await? {
            Some(true) => None,
            Some(false) => Some("the server's configuration was loaded anew while pg_dump ran"),
            None => Some("the server does not tell this role when it was configured"),
        };
        if let Some(why) = why {
            return Ok(Err(why.to_owned()));
        }
        let flushed = session.flushed_now().await?;
        Ok(flushed.ok_or_else(|| "the server did not say that what it showed is durable".to_owned()))
    };
    let why = match asked.await {
        Ok(Ok(flushed)) => return Ok(Some(flushed)),
        Ok(Err(why)) => why,
        Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
        Err(error) => format!("{error:?}"),
    };
    session.check()?;
    let text = format!("the next snapshot will run pg_dump, whether the catalogs change or not: {why}");
    reading.context.emit(&Event::Note { text });
    Ok(None)
}

fn present(reading: &Reading, incarnation: [u8; 32]) -> Present<'static> {
    let facts = &reading.session.facts;
    Present {
        obstacle: reading.obstacle,
        incarnation,
        snapshot_xmin: facts.server.snapshot_xmin,
        snapshot_xmax: facts.xmax.unwrap_or(0),
        position: facts.server.position.unwrap_or(0),
    }
}

/// The fingerprint of the catalogs; nothing if there is none, which is told. The connection is left to others if it `serves`: else
/// `pg_dump` may need it.
async fn look(
    reading: &Reading,
    since: Option<u64>,
    serves: impl Fn(&CatalogFingerprint) -> bool,
) -> Result<Option<CatalogFingerprint>> {
    if reading.obstacle.is_some() {
        return Ok(None);
    }
    let _seat = reading.workers.seat().await?;
    let asked = async {
        let hands = reading.workers.hands(None).await?;
        if let Hands::Coordinator(_) = hands {
            return Ok::<_, Error>(Err("the server has no connection left".to_owned()));
        }
        let found = catalog_fingerprint(hands.connection(), since).await?;
        if found.as_ref().is_ok_and(serves) {
            reading.workers.give_back(hands);
        }
        Ok(found)
    };
    let why = match tokio::time::timeout(reading.session.options().silence, asked).await {
        Ok(Ok(Ok(found))) => return Ok(Some(found)),
        Ok(Ok(Err(why))) => why,
        Ok(Err(error)) if error.kind() == ErrorKind::Cancelled => return Err(error),
        Ok(Err(error)) => format!("{error:?}"),
        Err(_) => "the server does not answer".to_owned(),
    };
    reading.session.check()?;
    let text = format!("whether the catalogs changed cannot be told, so that pg_dump runs each time: {why}");
    reading.context.emit(&Event::Note { text });
    Ok(None)
}

/// Yields an entry of statements that are in hand, if there are any.
pub(super) async fn send_text(reading: &Reading, place: &Place, text: Bytes, out: &mut Out) -> Result<()> {
    send_with_state(reading, place, (text, Bytes::new()), out).await
}

/// Yields an entry in hand with a state.
pub(super) async fn send_with_state(
    reading: &Reading,
    place: &Place,
    (text, state): (Bytes, Bytes),
    out: &mut Out,
) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut head = head(reading, place, Some(text.len() as u64));
    head.state = state;
    let content = Content::Bytes(text);
    out.send(Item::Entry(Entry { head, content })).await
}

/// Yields an entry of statements that are still to come.
pub(super) async fn send_stream(
    reading: &Reading,
    place: &Place,
    stream: ContentStream,
    out: &mut Out,
) -> Result<Hash> {
    let head = head(reading, place, None);
    let (sender, hash) = oneshot::channel();
    let stream = hashed(stream, sender);
    let found = reading.found.clone();
    let content = Content::Open(Box::new(Watched { stream, found }));
    out.send(Item::Entry(Entry { head, content })).await?;
    Ok(Hash::Coming(hash))
}

/// The same pieces; their hash is sent when the last was taken.
fn hashed(stream: ContentStream, sender: oneshot::Sender<[u8; 32]>) -> ContentStream {
    let state = (stream, blake3::Hasher::new(), Some(sender));
    stream::unfold(state, |(mut stream, mut hasher, mut sender)| async move {
        if let Some(piece) = stream.next().await {
            match &piece {
                Ok(Piece::Data(bytes)) => {
                    hasher.update(bytes);
                }
                Ok(Piece::Hole(_)) => {}
                Err(_) => sender = None,
            }
            Some((piece, (stream, hasher, sender)))
        } else {
            // Whoever waited for it may be gone.
            let _sent = sender.map(|sender| sender.send(*hasher.finalize().as_bytes()));
            None
        }
    })
    .boxed()
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
