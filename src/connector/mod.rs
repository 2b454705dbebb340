//! Connectors: a source and a sink for one kind of system. A connector sees [`crate::snapshot::entry`] only, never a
//! repository, so each is tested source → sink with nothing between.

pub mod files;
pub mod postgres;
pub mod process;
pub mod stdio;

use crate::context::{Context, Time};
use crate::error::Result;
use crate::snapshot::entry::{Entry, EntryHead, Item, Key, Prior};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::sync::Arc;

/// Where entries come from.
pub trait Source: Send {
    /// The connector's name and what it reads, for the snapshot record and for parents: snapshots of one origin form a series.
    fn origin(&self) -> Origin;

    /// Called before [`Self::entries`], while the repository is made ready, for the source that is read first: begins to reach what takes
    /// time to be reached. Nothing is read yet, and what fails is told by [`Self::entries`], which may come much later or never.
    fn begin<'a>(&'a mut self, _: &'a Context) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Entries in strictly ascending key order. Each item's failure is an [`Item::Incident`]; an `Err` ends the stream and the
    /// snapshot: nothing is committed. Called once. The stream may hold back its end until every content that it handed out was read
    /// or dropped, to report what was found while reading: whoever takes entries must not wait for the end before it reads them.
    fn entries<'a>(&'a mut self, context: &'a Context, prior: Arc<dyn Prior>) -> BoxStream<'a, Result<Item>>;

    /// Called when the stream has ended well, before the commit: the last chance to find that what was read is not whole (a child
    /// process that failed, a server that was restarted). An error means that nothing is committed.
    fn finish(&mut self) -> BoxFuture<'_, Result<()>>;

    /// Called in place of [`Self::finish`] when the snapshot failed or was cancelled, after the stream was dropped: ends what still runs
    /// for it on the system that was read.
    fn give_up(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// The one moment that everything it yielded belongs to, if there is one; known when the stream has ended.
    fn consistent_at(&self) -> Option<Time> {
        None
    }
}

/// What a source reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The connector: `files`, `stdio`, …
    pub connector: String,
    /// What it reads, for people: a path, a server. No secret.
    pub description: String,
    /// Version of the system behind it, if it has one.
    pub version: Option<String>,
}

/// Where entries go to.
pub trait Sink: Send {
    /// Checks the target before the first write: refuses what would not end well.
    fn prepare<'a>(&'a mut self, context: &'a Context) -> BoxFuture<'a, Result<()>>;

    /// Takes the next entry, in ascending key order; may go on writing it in the background. An entry that cannot be written is
    /// counted in the report and told to the observer; an `Err` ends the restore.
    fn write<'a>(&'a mut self, context: &'a Context, entry: Entry) -> BoxFuture<'a, Result<()>>;

    /// The key of the entry whose content an entry needs, if it is written with another's content than its own: a further name of a
    /// file whose first name is not restored. The caller then gives the entry that content and size.
    fn borrows_from(&self, _: &EntryHead) -> Option<Key> {
        None
    }

    /// Told that entries between the last one and the next are lost: the snapshot's tree is damaged there. From now on nothing may be
    /// removed for not being in the snapshot.
    fn lost(&mut self) {}

    /// Finishes everything that was begun, in the order that the target needs.
    fn finish<'a>(&'a mut self, context: &'a Context) -> BoxFuture<'a, Result<SinkReport>>;

    /// Called in place of [`Sink::finish`] when the restore ends with an error or an interrupt: what still goes on elsewhere for it is
    /// ended, in seconds. Nothing is removed.
    fn abandon(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// What a sink did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkReport {
    /// Entries written.
    pub written: u64,
    /// Entries that the target had already.
    pub skipped: u64,
    /// Entries that were removed because the snapshot does not have them.
    pub deleted: u64,
    /// Entries that could not be written, or not wholly; each was told to the observer as an incident.
    pub failed: u64,
    /// Bytes of content written.
    pub bytes: u64,
    /// Entries compared with their source after writing, and found different.
    pub different: u64,
}
