//! What is said of a snapshot goes with it: first sight, protection, tags, description (`format-spec/75-notes.md`).

use super::{CopyReport, Job, Known, NotCopied, origin_of};
use crate::context::Time;
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::SessionId;
use crate::format::layout::Prefix;
use crate::format::note::NoteRecord;
use crate::format::snapshot::SnapshotRecord;
use crate::ops::list::ListedSnapshot;
use crate::repository::{Notes, Repository, Session};

/// What of the source's notes a copy is given: reports are about the other store.
fn carried(notes: &Notes) -> NoteRecord {
    NoteRecord {
        report: None,
        tags: notes.said.tags.clone().filter(|_| !notes.tags_are_unknown),
        // A note that cannot be read may be the one that protects it, or say a tag that a policy keeps.
        protected: if notes.protection_is_unknown || notes.tags_are_unknown {
            Some(true)
        } else {
            notes.said.protected
        },
        ..notes.said.clone()
    }
}

impl Job<'_> {
    /// Puts a note of the source's about a copy. It has the time of the newest that it repeats: what is said in the source after that is
    /// newer, even if it was said before this note was put.
    async fn put_carried(&self, copy: SessionId, notes: &Notes, note: NoteRecord) -> Result<()> {
        let at = &notes.said_at;
        let times = [
            at.tags.filter(|_| note.tags.is_some()),
            at.protected.filter(|_| note.protected.is_some()),
            at.description.filter(|_| note.description.is_some()),
        ];
        let newest = times.into_iter().flatten().max();
        let time = newest.unwrap_or_else(|| self.context.clock.now());
        let put = self.target.put_note_of(self.context, copy, (time, note)).await;
        put.map(drop)
    }
}

/// Puts what the source says of a snapshot as a note about its copy, which is not committed yet; and over it what the target says, where the
/// snapshot was its own and its record is lost: one that comes back is as protected as it was.
pub(super) async fn carry(job: &Job<'_>, original: &SnapshotRecord, session: &Session) -> Result<()> {
    carry_of(job, job.source, original.sid, session.sid()).await?;
    let (repository, first) = origin_of(job.source, original);
    let is_lost = session.view().unread_snapshots().any(|(sid, _)| sid == first);
    if is_lost && repository == job.target.id() {
        carry_of(job, job.target, first, session.sid()).await?;
    }
    Ok(())
}

async fn carry_of(job: &Job<'_>, from: &Repository, original: SessionId, copy: SessionId) -> Result<()> {
    let names = from.list(Prefix::NotesOf(original)).await?;
    let notes = from.load_notes(names).await?;
    let Some(notes) = notes.get(&original) else {
        return Ok(());
    };
    let note = carried(notes);
    if note == NoteRecord::default() {
        return Ok(());
    }
    job.put_carried(copy, notes, note).await
}

/// Whether the source says something that the target does not, or said it after that.
fn is_news(ours: Option<Time>, theirs: Option<Time>) -> bool {
    theirs.is_none() || ours > theirs
}

/// What a copy that is there lacks of its original's notes, or has older. Protection is only added: what may be let go of, each
/// repository decides for itself.
fn news(ours: &Notes, theirs: &Notes, copy: &SnapshotRecord) -> NoteRecord {
    let (mut note, said, at, there) = (carried(ours), &theirs.said, &ours.said_at, &theirs.said_at);
    let has = said.tags.as_ref().unwrap_or(&copy.tags);
    note.tags = note
        .tags
        .filter(|tags| tags != has && is_news(at.tags, there.tags));
    let is_open = said.protected != Some(true) && !theirs.protection_is_unknown;
    note.protected = note
        .protected
        .filter(|protected| *protected && is_open && is_news(at.protected, there.protected));
    note.first_seen = note.first_seen.filter(|_| said.first_seen.is_none());
    note.description = note
        .description
        .filter(|text| said.description.as_ref() != Some(text) && is_news(at.description, there.description));
    note
}

/// Gives copies that were there what their originals' notes say and their own do not, or said before.
pub(super) async fn complete(
    job: &Job<'_>,
    chosen: &[&ListedSnapshot],
    (known, report): (&Known, &mut CopyReport),
) -> Result<()> {
    let (ours, theirs) = (job.source.notes().await?, job.target.notes().await?);
    let mut view = None;
    let mut protected = Vec::new();
    for snapshot in chosen {
        let origin = origin_of(job.source, &snapshot.record);
        let Some((copy, notes)) = known.there.get(&origin).zip(ours.get(&snapshot.record.sid)) else {
            continue;
        };
        let unsaid = Notes::default();
        let mut note = news(notes, theirs.get(&copy.sid).unwrap_or(&unsaid), copy);
        if note.protected.is_some() {
            let view = match &view {
                Some(view) => view,
                None => view.insert(job.target.view(job.context).await?),
            };
            // It cannot be protected any more.
            note.protected = note.protected.filter(|_| !view.has_forget(&copy.sid));
        }
        if note == NoteRecord::default() {
            continue;
        }
        if note.protected.is_some() {
            protected.push((*snapshot, copy.sid));
        }
        job.put_carried(copy.sid, notes, note).await?;
        report.noted += 1;
    }
    if protected.is_empty() {
        return Ok(());
    }
    // Of a forget that came between the look and the note a collector may know that does not know the note.
    let still = job.target.view(job.context).await?;
    for (snapshot, copy) in protected {
        if !still.holds(&copy) || still.has_forget(&copy) {
            let what = "its copy was let go there while it was being protected";
            let why = Error::new(ErrorKind::Conflict, what).with("copy", copy);
            report.failed.push(NotCopied {
                record: snapshot.record.clone(),
                why,
            });
        }
    }
    Ok(())
}
