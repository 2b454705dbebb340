//! Bringing entries back: snapshot → sink.

use crate::connector::{Sink, SinkReport};
use crate::context::Context;
use crate::error::Result;
use crate::event::Event;
use crate::snapshot::SnapshotReader;
use crate::snapshot::entry::{Entry, EntryHead, EntryRecord, Key};
use futures::StreamExt;

/// What to restore.
pub struct RestoreRequest {
    /// Keys begin with this.
    pub prefix: Key,
    /// Which of them.
    pub wanted: Box<dyn Fn(&EntryRecord) -> bool + Send>,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct RestoreReport {
    /// What the sink did.
    pub sink: SinkReport,
    /// Seconds.
    pub seconds: f64,
}

/// Restores entries of a snapshot into a sink, in key order.
///
/// # Errors
/// `Damaged` if the tree cannot be read, `Cancelled`, or what the sink says of its target as a whole. A single entry that fails is
/// counted in the report.
pub async fn restore(
    context: &Context,
    snapshot: &SnapshotReader,
    request: RestoreRequest,
    sink: &mut dyn Sink,
) -> Result<RestoreReport> {
    let started = context.clock.now();
    sink.prepare(context).await?;
    let root = snapshot.record().root;
    context.emit(&Event::PhaseStarted {
        phase: "restore",
        entries: Some(root.entries),
        bytes: Some(root.bytes),
    });
    let mut entries = snapshot.entries(request.prefix, request.wanted);
    while let Some(entry) = entries.next().await {
        context.check_cancelled()?;
        // A sink is not finished after a part: it may delete what it was not given.
        let entry = entry.map_err(|error| {
            error.hint("`holdall check` tells what is hit; restore the rest with --include")
        })?;
        let entry = with_content(snapshot, sink, entry).await?;
        sink.write(context, entry).await?;
    }
    let report = sink.finish(context).await?;
    context.emit(&Event::PhaseEnded { phase: "restore" });
    Ok(RestoreReport {
        sink: report,
        seconds: context.clock.now().seconds_since(started),
    })
}

/// Gives an entry the content that its sink wants for it. A first name that is not there either leaves the entry as it is: the sink
/// then says that it cannot be restored.
async fn with_content(snapshot: &SnapshotReader, sink: &dyn Sink, entry: Entry) -> Result<Entry> {
    let Some(key) = sink.borrows_from(&entry.head) else {
        return Ok(entry);
    };
    let Some(first) = snapshot.find(&key).await? else {
        return Ok(entry);
    };
    let Entry { head: first, content } = snapshot.entry(&first);
    let head = EntryHead {
        size: first.size,
        ..entry.head
    };
    Ok(Entry { head, content })
}
