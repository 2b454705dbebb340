//! Notes about a snapshot (`format-spec/75-notes.md`): what is said of it after it was committed.

use super::cbor::Encoder;
use super::error::DecodeError;
use super::id::SessionId;
use super::limits;
use super::records::{UNKNOWN_FIELD, ascending, must, put_time, read_map, sid, time};
use crate::context::Time;

/// `notes/<sid>/<n>`: each field that is present replaces the one of lower notes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoteRecord {
    /// Tags, all of them; ascending.
    pub tags: Option<Vec<String>>,
    /// Whether forgetting it has no effect.
    pub protected: Option<bool>,
    /// The store's time of the commit, as the first collector saw it.
    pub first_seen: Option<Time>,
    /// A report about it: of a drill, of a verification.
    pub report: Option<String>,
    /// A description by a person.
    pub description: Option<String>,
}

/// A note with where and when it was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StampedNote {
    /// The snapshot.
    pub sid: SessionId,
    /// Its number, from 0.
    pub number: u32,
    /// When it was put, by the putter's clock.
    pub time: Time,
    /// Random: equal bytes mean "mine".
    pub nonce: [u8; 16],
    /// What it says.
    pub note: NoteRecord,
}

impl NoteRecord {
    /// This note with the fields of a later one on top.
    pub fn overlay(&mut self, later: Self) {
        self.tags = later.tags.or(self.tags.take());
        self.protected = later.protected.or(self.protected);
        self.first_seen = later.first_seen.or(self.first_seen);
        self.report = later.report.or(self.report.take());
        self.description = later.description.or(self.description.take());
    }
}

impl StampedNote {
    /// Fields: 0 sid, 1 number, 2 time, 3 nonce, 4 tags, 5 protected, 6 first seen, 7 report, 8 description.
    pub fn encode(&self) -> Vec<u8> {
        let note = &self.note;
        let optional = [
            note.tags.is_some(),
            note.protected.is_some(),
            note.first_seen.is_some(),
            note.report.is_some(),
            note.description.is_some(),
        ];
        let mut out = Encoder::new();
        out.map(4 + optional.iter().filter(|present| **present).count());
        out.uint(0)
            .bytes(&self.sid.to_bytes())
            .uint(1)
            .uint(u64::from(self.number))
            .uint(2);
        put_time(&mut out, self.time);
        out.uint(3).bytes(&self.nonce);
        if let Some(tags) = &note.tags {
            out.uint(4).array(tags.len());
            for tag in tags {
                out.text(tag);
            }
        }
        if let Some(protected) = note.protected {
            out.uint(5).bool(protected);
        }
        if let Some(first_seen) = note.first_seen {
            put_time(out.uint(6), first_seen);
        }
        for (field, text) in [(7, &note.report), (8, &note.description)] {
            if let Some(text) = text {
                out.uint(field).text(text);
            }
        }
        out.finish()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut id, mut number, mut when, mut nonce) = (None, None, None, None);
        let mut note = NoteRecord::default();
        read_map(bytes, |field, d| {
            match field {
                0 => id = Some(sid(d)?),
                1 => number = Some(d.uint32()?),
                2 => when = Some(time(d)?),
                3 => nonce = Some(d.fixed()?),
                4 => {
                    let len = d.array(limits::TAGS_MAX)?;
                    let tags: Vec<String> = (0..len)
                        .map(|_| d.text(limits::NAME_MAX).map(str::to_owned))
                        .collect::<Result<_, _>>()?;
                    ascending(&tags)?;
                    note.tags = Some(tags);
                }
                5 => note.protected = Some(d.bool()?),
                6 => note.first_seen = Some(time(d)?),
                7 => note.report = Some(d.text(limits::TEXT_MAX)?.to_owned()),
                8 => note.description = Some(d.text(limits::TEXT_MAX)?.to_owned()),
                _ => return Err(UNKNOWN_FIELD),
            }
            Ok(())
        })?;
        Ok(Self {
            sid: must(id)?,
            number: must(number)?,
            time: must(when)?,
            nonce: must(nonce)?,
            note,
        })
    }
}
