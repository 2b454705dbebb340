//! Notes about snapshots: put under the next number, read as the overlay of all.

use super::Repository;
use super::log::Log;
use crate::context::{Context, Time};
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::SessionId;
use crate::format::layout::{ObjectName, Prefix};
use crate::format::note::{NoteRecord, StampedNote};
use futures::stream::{self, StreamExt};
use std::collections::{BTreeMap, HashMap};

/// What the notes say of one snapshot.
#[derive(Debug, Default)]
pub struct Notes {
    /// Of every field, what the highest number says that can be read.
    pub said: NoteRecord,
    /// When that was said.
    pub said_at: SaidAt,
    /// The lowest note that cannot be read, and why.
    pub damaged: Option<(ObjectName, Error)>,
    /// Whether a note that cannot be read may be the one that protects the snapshot: none above it says whether it is protected.
    pub protection_is_unknown: bool,
    /// The same of its tags.
    pub tags_are_unknown: bool,
}

/// When the note was put that says a field, by the clock of whoever did.
#[derive(Clone, Copy, Debug, Default)]
pub struct SaidAt {
    /// Tags.
    pub tags: Option<Time>,
    /// Protection.
    pub protected: Option<Time>,
    /// The description.
    pub description: Option<Time>,
}

impl Repository {
    /// Puts a note about a snapshot and gives its number.
    ///
    /// # Errors
    /// What the store says; `Conflict` if others take every number first.
    pub async fn put_note(&self, context: &Context, sid: SessionId, note: NoteRecord) -> Result<u32> {
        self.put_note_of(context, sid, (context.clock.now(), note)).await
    }

    /// As [`Self::put_note`], of a note that was first put at another time, about the snapshot that this one is a copy of.
    ///
    /// # Errors
    /// As [`Self::put_note`].
    pub async fn put_note_of(
        &self,
        context: &Context,
        sid: SessionId,
        (time, note): (Time, NoteRecord),
    ) -> Result<u32> {
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
            let nonce = context.random.bytes()?;
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

    /// What the notes say of each snapshot that has any. Damaged ones, and those of a newer version, are told with the rest.
    ///
    /// # Errors
    /// What the store says.
    pub async fn notes(&self) -> Result<HashMap<SessionId, Notes>> {
        self.load_notes(self.list(Prefix::Notes).await?).await
    }

    /// As [`Self::notes`], of the notes with these names.
    pub(crate) async fn load_notes(&self, names: Vec<ObjectName>) -> Result<HashMap<SessionId, Notes>> {
        let loads = names
            .into_iter()
            .map(|name| async move { (name, self.load::<StampedNote>(name).await) });
        let mut loads = stream::iter(loads).buffered(self.concurrency());
        let mut all: BTreeMap<(SessionId, u32), Result<StampedNote>> = BTreeMap::new();
        let mut gone = Vec::new();
        while let Some((name, loaded)) = loads.next().await {
            let ObjectName::Note(sid, number) = name else {
                continue;
            };
            match loaded {
                Ok(stamped) => drop(all.insert((sid, number), Ok(stamped))),
                Err(error) if error.kind() == ErrorKind::NotFound => gone.push((name, (sid, number), error)),
                Err(error) if super::view::is_damage(&error) => {
                    drop(all.insert((sid, number), Err(error)));
                }
                Err(error) => return Err(error),
            }
        }
        drop(loads);
        if !gone.is_empty() {
            // A note is deleted after the seal that makes its snapshot void: this log knows that seal. Of another snapshot it may be the
            // note that protects it.
            let log = Log::read(self).await?;
            for (name, (sid, number), error) in gone {
                if !log.is_void(&sid) {
                    let what = "a note is gone that was listed, and nobody may have deleted it";
                    let lost = Error::new(ErrorKind::Damaged, what)
                        .with("object", name)
                        .because(error);
                    all.insert((sid, number), Err(lost));
                }
            }
        }
        let mut notes: HashMap<SessionId, Notes> = HashMap::new();
        for ((sid, number), note) in all {
            notes
                .entry(sid)
                .or_default()
                .overlay(ObjectName::Note(sid, number), note);
        }
        Ok(notes)
    }
}

impl Notes {
    /// Whether the snapshot is protected, or may be.
    pub fn may_protect(&self) -> bool {
        self.protection_is_unknown || self.said.protected == Some(true)
    }

    /// Adds the note of the next higher number.
    fn overlay(&mut self, name: ObjectName, note: Result<StampedNote>) {
        match note {
            Ok(StampedNote { time, note, .. }) => {
                if note.protected.is_some() {
                    self.protection_is_unknown = false;
                    self.said_at.protected = Some(time);
                }
                if note.tags.is_some() {
                    self.tags_are_unknown = false;
                    self.said_at.tags = Some(time);
                }
                if note.description.is_some() {
                    self.said_at.description = Some(time);
                }
                self.said.overlay(note);
            }
            Err(error) => {
                self.protection_is_unknown = true;
                self.tags_are_unknown = true;
                self.damaged.get_or_insert((name, error));
            }
        }
    }
}
