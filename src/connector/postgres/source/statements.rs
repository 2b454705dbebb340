//! Entries of statements: what `pg_dump` writes, and what the catalogs tell.

use super::{Found, Out, Reading};
use crate::connector::postgres::dump::{PgDump, Run, Section};
use crate::connector::postgres::key::{self, Place};
use crate::error::{Error, Result};
use crate::snapshot::entry::{
    Content, ContentStream, Entry, EntryHead, EntryKind, Item, Metadata, OpenContent,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::StreamExt;
use std::sync::Arc;

/// `pg_dump`, and what its runs share.
pub(super) struct Statements {
    pub(super) program: PgDump,
    pub(super) run: Run,
}

impl Statements {
    /// Yields the statements of a section, if there are any. It runs while its content is read.
    pub(super) async fn send(
        &self,
        reading: &Reading,
        found: &Arc<Found>,
        section: Section,
        out: &mut Out,
    ) -> Result<()> {
        reading.session.ping().await?;
        let stream = self
            .program
            .statements(&reading.context, &self.run, section)
            .await?;
        let Some(stream) = stream else { return Ok(()) };
        let place = match section {
            Section::Schema => Place::Schema,
            Section::Constraints => Place::Constraints,
            Section::Refresh => Place::Refresh,
        };
        let head = head(reading, &place, None);
        let content = Content::Open(Box::new(Watched {
            stream,
            found: found.clone(),
        }));
        out.send(Item::Entry(Entry { head, content })).await
    }
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
                if let Ok(mut failure) = found.failure.lock() {
                    failure.get_or_insert(error);
                }
                copy
            })
        });
        Box::pin(async move { Ok::<_, Error>(watched.boxed()) })
    }
}
