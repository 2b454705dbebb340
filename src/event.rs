//! Facts about work in progress. `ops` and below emit them; a terminal, a log or a test listens.
//!
//! An event holds no text for people and no rates: whoever shows it decides how.

use std::sync::Mutex;

/// What became of one entry of a source or one entry of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not in the parent.
    New,
    /// In the parent with other content or metadata.
    Changed,
    /// Proven unchanged, or read and found equal.
    Unchanged,
    /// Written to a target.
    Restored,
    /// Left as it was on a target.
    Skipped,
    /// Could not be read or written; an [`Event::Incident`] says why.
    Failed,
}

/// One fact.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A phase begins: `snapshot`, `restore`, `check`, …; totals are known only if the source can tell.
    PhaseStarted {
        /// The phase's name: a short lower-case noun.
        phase: &'static str,
        /// Entries to expect.
        entries: Option<u64>,
        /// Bytes to expect.
        bytes: Option<u64>,
    },
    /// An entry is finished.
    EntryDone {
        /// Its name as people write it.
        name: String,
        /// What became of it.
        outcome: Outcome,
        /// Bytes of content it has.
        bytes: u64,
    },
    /// Bytes of content were read from a source or a pack.
    Progress {
        /// Bytes since the last event of this kind.
        bytes: u64,
    },
    /// A new blob was added.
    BlobAdded {
        /// Plaintext bytes.
        bytes: u64,
    },
    /// An object was stored.
    ObjectStored {
        /// Its name in the store.
        name: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// A request failed and is tried again.
    Retry {
        /// What was asked for.
        what: String,
        /// Why it failed.
        why: String,
    },
    /// Something could not be read or written; it is also in the snapshot's incidents.
    Incident {
        /// The entry.
        name: String,
        /// Why.
        why: String,
    },
    /// Worth telling, but nothing is missing.
    Note {
        /// The text.
        text: String,
    },
    /// The phase ended.
    PhaseEnded {
        /// The phase's name.
        phase: &'static str,
    },
}

/// Whoever listens. Never async, never failing, and quick: it is called on the data path.
pub trait Observer: Send + Sync {
    /// Takes one fact.
    fn on(&self, event: &Event);
}

/// Listens to nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn on(&self, _: &Event) {}
}

/// Keeps every event, for tests.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Vec<Event>>);

impl Recorder {
    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().map(|events| events.clone()).unwrap_or_default()
    }
}

impl Observer for Recorder {
    fn on(&self, event: &Event) {
        if let Ok(mut events) = self.0.lock() {
            events.push(event.clone());
        }
    }
}
