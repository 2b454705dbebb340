//! Notes about snapshots: put under the next number, read as the overlay of all.

use super::Repository;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::SessionId;
use crate::format::layout::{ObjectName, Prefix};
use crate::format::note::{NoteRecord, StampedNote};
use std::collections::{BTreeMap, HashMap};

impl Repository {
    /// Puts a note about a snapshot and gives its number.
    ///
    /// # Errors
    /// What the store says; `Conflict` if others take every number first.
    pub async fn put_note(&self, context: &Context, sid: SessionId, note: NoteRecord) -> Result<u32> {
        let taken = self.list(Prefix::NotesOf(sid)).await?;
        let taken = taken
            .iter()
            .filter_map(|name| {
                if let ObjectName::Note(_, n) = name {
                    Some(*n)
                } else {
                    None
                }
            })
            .max();
        let first = taken.map_or(0, |n| n.saturating_add(1));
        for number in first..first.saturating_add(64) {
            let (time, nonce) = (context.clock.now(), context.random.bytes()?);
            let record = StampedNote {
                sid,
                number,
                time,
                nonce,
                note: note.clone(),
            };
            if self.save(context, &record).await?.is_mine() {
                return Ok(number);
            }
        }
        Err(
            Error::new(ErrorKind::Conflict, "others write notes faster than this process")
                .with("snapshot", sid),
        )
    }

    /// What the notes say of each snapshot: of every field, the highest number wins. Damaged notes are for `check` to name.
    ///
    /// # Errors
    /// What the store says.
    pub async fn notes(&self) -> Result<HashMap<SessionId, NoteRecord>> {
        let mut all: BTreeMap<(SessionId, u32), NoteRecord> = BTreeMap::new();
        for name in self.list(Prefix::Notes).await? {
            let ObjectName::Note(sid, number) = name else {
                continue;
            };
            match self.load::<StampedNote>(name).await {
                Ok(stamped) => drop(all.insert((sid, number), stamped.note)),
                Err(error) if error.kind() == ErrorKind::NotFound || super::view::is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let mut notes: HashMap<SessionId, NoteRecord> = HashMap::new();
        for ((sid, _), note) in all {
            notes.entry(sid).or_default().overlay(note);
        }
        Ok(notes)
    }
}
