//! What is said of a snapshot goes with it: first sight, protection, tags, description.

use super::{Job, Known, origin_of};
use crate::error::Result;
use crate::format::id::SessionId;
use crate::format::layout::Prefix;
use crate::format::note::NoteRecord;
use crate::ops::list::ListedSnapshot;
use crate::repository::Notes;

/// What of the source's notes a copy is given: reports are about the other store.
fn carried(notes: &Notes) -> NoteRecord {
    NoteRecord {
        report: None,
        // A note that cannot be read may be the one that protects it.
        protected: if notes.protection_is_unknown {
            Some(true)
        } else {
            notes.said.protected
        },
        ..notes.said.clone()
    }
}

/// Puts what the source says of `original` as a note about `copy`, which is not committed yet.
pub(super) async fn carry(job: &Job<'_>, original: SessionId, copy: SessionId) -> Result<()> {
    let names = job.source.list(Prefix::NotesOf(original)).await?;
    let notes = job.source.load_notes(names).await?;
    let note = notes.get(&original).map(carried).unwrap_or_default();
    if note != NoteRecord::default() {
        job.target.put_note(job.context, copy, note).await?;
    }
    Ok(())
}

/// Adds to copies that were there what their own notes do not say. Gives how many there were.
pub(super) async fn complete(job: &Job<'_>, chosen: &[&ListedSnapshot], known: &Known) -> Result<u64> {
    let (ours, theirs) = (job.source.notes().await?, job.target.notes().await?);
    let mut noted = 0;
    for snapshot in chosen {
        let origin = origin_of(job.source, &snapshot.record);
        let Some((copy, notes)) = known.there.get(&origin).zip(ours.get(&snapshot.record.sid)) else {
            continue;
        };
        let unsaid = Notes::default();
        let there = theirs.get(&copy.sid).unwrap_or(&unsaid);
        let (mut note, said) = (carried(notes), &there.said);
        note.tags = note.tags.filter(|tags| said.tags.is_none() && *tags != copy.tags);
        let protected = said.protected.is_none() && !there.protection_is_unknown;
        note.protected = note.protected.filter(|_| protected);
        note.first_seen = note.first_seen.filter(|_| said.first_seen.is_none());
        note.description = note.description.filter(|_| said.description.is_none());
        if note != NoteRecord::default() {
            job.target.put_note(job.context, copy.sid, note).await?;
            noted += 1;
        }
    }
    Ok(noted)
}
