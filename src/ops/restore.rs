//! Bringing entries back: snapshot → sink, past what is damaged.

use crate::connector::{Sink, SinkReport};
use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::event::Event;
use crate::ops::name_of;
use crate::snapshot::SnapshotReader;
use crate::snapshot::entry::{Entry, EntryHead, EntryRecord, Key};
use crate::snapshot::tree::{Found, LostRange};
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
    /// Ranges of keys that are lost because the snapshot's tree is damaged there; each was told to the observer as an incident.
    pub lost: u64,
    /// Seconds.
    pub seconds: f64,
}

impl RestoreReport {
    /// Entries that the sink had anything to do with.
    pub fn touched(&self) -> u64 {
        self.sink.written + self.sink.skipped + self.sink.failed + self.sink.different
    }
}

/// Restores entries of a snapshot into a sink, in key order. What lies under a damaged or missing node of the tree is counted as lost,
/// and everything before and behind it is restored.
///
/// # Errors
/// `Damaged` if the tree's root cannot be read, `Cancelled`, or what the sink says of its target as a whole. A single entry that fails
/// is counted in the report.
pub async fn restore(
    context: &Context,
    snapshot: &SnapshotReader,
    request: RestoreRequest,
    sink: &mut dyn Sink,
) -> Result<RestoreReport> {
    let done = restore_into(context, snapshot, request, sink).await;
    if done.is_err() {
        sink.abandon().await;
    }
    done
}

async fn restore_into(
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
    let mut lost = Lost::default();
    let mut entries = snapshot.salvage(request.prefix, request.wanted);
    while let Some(found) = entries.next().await {
        context.check_cancelled()?;
        // A sink is not finished after an error: it may delete what it was not given.
        match found? {
            Found::Entry(entry) => {
                lost.tell(context);
                let entry = with_content(snapshot, sink, entry).await?;
                sink.write(context, entry).await?;
            }
            // The root: there is nothing to restore.
            Found::Lost(LostRange {
                through: None, error, ..
            }) => return Err(error),
            Found::Lost(range) => {
                sink.lost();
                lost.add(context, range);
            }
        }
    }
    lost.tell(context);
    let report = sink.finish(context).await?;
    context.emit(&Event::PhaseEnded { phase: "restore" });
    Ok(RestoreReport {
        sink: report,
        lost: lost.ranges,
        seconds: context.clock.now().seconds_since(started),
    })
}

/// What is lost; nodes that follow each other make one range.
#[derive(Default)]
struct Lost {
    ranges: u64,
    /// The range that may go on, and its nodes.
    open: Option<(LostRange, u64)>,
}

impl Lost {
    fn add(&mut self, context: &Context, next: LostRange) {
        match &mut self.open {
            Some((range, nodes)) if range.through == next.after => {
                range.through = next.through;
                *nodes += 1;
            }
            _ => {
                self.tell(context);
                self.ranges += 1;
                self.open = Some((next, 1));
            }
        }
    }

    /// Names the range by its ends, and says why: the first node, and its pack if that is known.
    fn tell(&mut self, context: &Context) {
        let Some((range, nodes)) = self.open.take() else {
            return;
        };
        let after = match &range.after {
            Some(after) => format!("after {}", name_of(after)),
            None => "from the first entry on".to_owned(),
        };
        let through = range.through.as_ref().map(name_of).unwrap_or_default();
        let mut why = format!(
            "all entries there are lost with {nodes} damaged or missing nodes of the snapshot's tree: {}",
            range.error
        );
        for cause in range.error.causes() {
            why.push_str(": ");
            why.push_str(&cause);
        }
        let name = format!("{after}, up to {through}");
        context.emit(&Event::Incident { name, why });
    }
}

/// Gives an entry the content that its sink wants for it. A first name that is not there either leaves the entry as it is: the sink
/// then says that it cannot be restored.
async fn with_content(snapshot: &SnapshotReader, sink: &dyn Sink, entry: Entry) -> Result<Entry> {
    let Some(key) = sink.borrows_from(&entry.head) else {
        return Ok(entry);
    };
    let first = match snapshot.find(&key).await {
        Ok(Some(first)) => first,
        Ok(None) => return Ok(entry),
        // Told of when the walk comes by there; this entry then fails alone.
        Err(error) if error.kind() == ErrorKind::Damaged => return Ok(entry),
        Err(error) => return Err(error),
    };
    let Entry { head: first, content } = snapshot.entry(&first);
    let head = EntryHead {
        size: first.size,
        ..entry.head
    };
    Ok(Entry { head, content })
}
