//! Names of objects (`format-spec/80-layout.md`): the only names that a repository uses, and how they are read back.

use super::error::DecodeError;
use super::id::{BlobId, ObjectId, SessionId};
use std::fmt;

/// The name of one object, relative to the repository's place in its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectName {
    /// `holdall.json`
    Marker,
    /// `keys/<slot>`
    Key(u32),
    /// `config/<generation>`
    Config(u32),
    /// `packs/<2 hex>/<id>`
    Pack(ObjectId),
    /// `index/s/<sid>/<id>`
    SessionRun(SessionId, ObjectId),
    /// `index/g/<round>/<id>`
    CollectorRun(u64, ObjectId),
    /// `sessions/<sid>`
    Session(SessionId),
    /// `snapshots/<sid>`
    Snapshot(SessionId),
    /// `forgets/<sid>`
    Forget(SessionId),
    /// `gc/<round>/condemned`
    Condemned(u64),
    /// `gc/<round>/state/<id>`
    State(u64, ObjectId),
    /// `gc/<round>/seal`
    Seal(u64),
    /// `notes/<sid>/<n>`
    Note(SessionId, u32),
    /// `refs/<node id>`
    Refs(BlobId),
    /// `ledger/<n>`
    Ledger(u32),
    /// `reserve/<k>`: 0 to 3, and 128 to 255 for what a probe leaves.
    Reserve(u8),
}

/// A part of the name space that can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// `keys/`
    Keys,
    /// `config/`
    Config,
    /// `packs/`
    Packs,
    /// `index/s/`
    SessionRuns,
    /// `index/s/<sid>/`
    RunsOf(SessionId),
    /// `index/g/`
    CollectorRuns,
    /// `sessions/`
    Sessions,
    /// `snapshots/`
    Snapshots,
    /// `forgets/`
    Forgets,
    /// `gc/`
    Gc,
    /// `notes/`
    Notes,
    /// `notes/<sid>/`
    NotesOf(SessionId),
    /// `refs/`
    Refs,
    /// `ledger/`
    Ledger,
    /// `reserve/`
    Reserve,
    /// Everything.
    All,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Marker => f.write_str("holdall.json"),
            Self::Key(slot) => write!(f, "keys/{slot}"),
            Self::Config(generation) => write!(f, "config/{generation}"),
            Self::Pack(id) => {
                let hex = id.to_string();
                write!(f, "packs/{}/{hex}", hex.get(..2).unwrap_or_default())
            }
            Self::SessionRun(sid, id) => write!(f, "index/s/{sid}/{id}"),
            Self::CollectorRun(round, id) => write!(f, "index/g/{round:016x}/{id}"),
            Self::Session(sid) => write!(f, "sessions/{sid}"),
            Self::Snapshot(sid) => write!(f, "snapshots/{sid}"),
            Self::Forget(sid) => write!(f, "forgets/{sid}"),
            Self::Condemned(round) => write!(f, "gc/{round:016x}/condemned"),
            Self::State(round, id) => write!(f, "gc/{round:016x}/state/{id}"),
            Self::Seal(round) => write!(f, "gc/{round:016x}/seal"),
            Self::Note(sid, n) => write!(f, "notes/{sid}/{n:08x}"),
            Self::Refs(id) => write!(f, "refs/{id}"),
            Self::Ledger(n) => write!(f, "ledger/{n:08x}"),
            Self::Reserve(k) => write!(f, "reserve/{k}"),
        }
    }
}

impl ObjectName {
    /// Reads a name; anything that [`fmt::Display`] would not write is refused.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn parse(text: &str) -> Result<Self, DecodeError> {
        let invalid = DecodeError::Invalid("object name");
        let parts: Vec<&str> = text.split('/').collect();
        let name = match *parts.as_slice() {
            ["holdall.json"] => Self::Marker,
            ["keys", n] => Self::Key(n.parse().map_err(|_| invalid)?),
            ["config", n] => Self::Config(n.parse().map_err(|_| invalid)?),
            ["packs", _, id] => Self::Pack(ObjectId::parse(id)?),
            ["index", "s", sid, id] => Self::SessionRun(SessionId::parse(sid)?, ObjectId::parse(id)?),
            ["index", "g", n, id] => Self::CollectorRun(round(n)?, ObjectId::parse(id)?),
            ["sessions", sid] => Self::Session(SessionId::parse(sid)?),
            ["snapshots", sid] => Self::Snapshot(SessionId::parse(sid)?),
            ["forgets", sid] => Self::Forget(SessionId::parse(sid)?),
            ["gc", n, "condemned"] => Self::Condemned(round(n)?),
            ["gc", n, "state", id] => Self::State(round(n)?, ObjectId::parse(id)?),
            ["gc", n, "seal"] => Self::Seal(round(n)?),
            ["notes", sid, n] => Self::Note(SessionId::parse(sid)?, number(n)?),
            ["refs", id] => Self::Refs(BlobId::parse(id)?),
            ["ledger", n] => Self::Ledger(number(n)?),
            ["reserve", k] => Self::Reserve(reserve(k)?),
            _ => return Err(invalid),
        };
        if name.to_string() == text {
            Ok(name)
        } else {
            Err(invalid)
        }
    }
}

fn round(text: &str) -> Result<u64, DecodeError> {
    match super::id::unhex(text).map(u64::from_be_bytes)? {
        0 => Err(DecodeError::Invalid("round 0")),
        round => Ok(round),
    }
}

fn reserve(text: &str) -> Result<u8, DecodeError> {
    let number = text
        .parse()
        .ok()
        .filter(|k| *k < super::limits::RESERVES || *k >= super::limits::PROBES);
    number.ok_or(DecodeError::Invalid("object name"))
}

fn number(text: &str) -> Result<u32, DecodeError> {
    super::id::unhex(text).map(u32::from_be_bytes)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys => f.write_str("keys"),
            Self::Config => f.write_str("config"),
            Self::Packs => f.write_str("packs"),
            Self::SessionRuns => f.write_str("index/s"),
            Self::RunsOf(sid) => write!(f, "index/s/{sid}"),
            Self::CollectorRuns => f.write_str("index/g"),
            Self::Sessions => f.write_str("sessions"),
            Self::Snapshots => f.write_str("snapshots"),
            Self::Forgets => f.write_str("forgets"),
            Self::Gc => f.write_str("gc"),
            Self::Notes => f.write_str("notes"),
            Self::NotesOf(sid) => write!(f, "notes/{sid}"),
            Self::Refs => f.write_str("refs"),
            Self::Ledger => f.write_str("ledger"),
            Self::Reserve => f.write_str("reserve"),
            Self::All => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_nothing_else_does() {
        let sid = SessionId {
            epoch: 3,
            random: [0xab; 16],
        };
        let id = ObjectId([0x12; 32]);
        let names = [
            ObjectName::Marker,
            ObjectName::Key(7),
            ObjectName::Pack(id),
            ObjectName::SessionRun(sid, id),
            ObjectName::CollectorRun(9, id),
            ObjectName::Snapshot(sid),
            ObjectName::State(1, id),
            ObjectName::Seal(u64::MAX),
            ObjectName::Note(sid, 2),
            ObjectName::Reserve(3),
        ];
        for name in names {
            assert_eq!(ObjectName::parse(&name.to_string()).unwrap(), name);
        }
        let pack = ObjectName::Pack(id).to_string();
        for wrong in [
            "",
            "keys/07",
            "keys/+7",
            "reserve/4",
            "gc/0000000000000000/seal",
            "index/g/0000000000000000/x",
            "packs/13/x",
            "Snapshots/a",
            &pack.replacen("12", "13", 1),
        ] {
            assert!(ObjectName::parse(wrong).is_err(), "{wrong}");
        }
    }
}
