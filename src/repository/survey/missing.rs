//! Objects that must be there and are not: those that another object names, those that a number says were there, and those that
//! the local cache has seen.

use super::super::log::Log;
use super::Survey;
use crate::error::{ErrorKind, Result};
use crate::format::layout::ObjectName;
use std::collections::BTreeSet;

/// What the absence of an object that was once there means.
enum Absence {
    /// A collector's round, or its owner, may have removed it.
    Retired,
    /// Somebody may have removed it on purpose; nothing in the store can tell.
    Told(&'static str),
    /// Nobody may have removed it.
    Lost,
}

impl Survey<'_> {
    pub(super) async fn missing(&mut self, log: &Log) -> Result<()> {
        let config = self.repository.config().generation;
        let mut named: BTreeSet<ObjectName> = (0..=config).map(ObjectName::Config).collect();
        named.extend(log.state);
        named.extend((1..=log.newest).map(ObjectName::Seal));
        named.extend(
            log.runs
                .iter()
                .map(|(round, id)| ObjectName::CollectorRun(*round, *id)),
        );
        named.extend(log.live.iter().map(|sid| ObjectName::Snapshot(*sid)));
        for name in &named {
            if self.is_gone(name).await? {
                self.report.error(name, "is missing, and others need it");
            }
        }
        let mut forgotten = Vec::new();
        for name in self.repository.cache().seen() {
            if named.contains(&name) {
                continue;
            }
            let absence = absence(log, &name);
            if matches!(absence, Absence::Retired) && !self.sizes.contains_key(&name) {
                forgotten.push(name);
            } else if self.is_gone(&name).await? {
                match absence {
                    Absence::Told(why) => {
                        self.report
                            .note(name, format!("was in the store before and is gone: {why}"));
                        forgotten.push(name);
                    }
                    Absence::Retired | Absence::Lost => self.report.error(
                        name,
                        "was in the store before and is gone; no collector round retired it",
                    ),
                }
            }
        }
        self.repository.cache().forget_seen(&forgotten);
        let present: Vec<_> = self
            .sizes
            .keys()
            .filter(|name| is_remembered(name))
            .copied()
            .collect();
        self.repository.cache().note_seen(&present);
        Ok(())
    }

    /// Asks the store itself: what another process put after the listing is there.
    async fn is_gone(&self, name: &ObjectName) -> Result<bool> {
        if self.sizes.contains_key(name) {
            return Ok(false);
        }
        match self.repository.store().head(name).await {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// Packs are named by index runs; the others here may go at any time.
fn is_remembered(name: &ObjectName) -> bool {
    !matches!(
        name,
        ObjectName::Pack(_) | ObjectName::Refs(_) | ObjectName::Reserve(_) | ObjectName::Marker
    )
}

/// Who may have removed an object: the last column of the table in `format-spec/85-sessions.md`.
fn absence(log: &Log, name: &ObjectName) -> Absence {
    let retired = match name {
        ObjectName::Session(sid) => sid.epoch < log.floor,
        ObjectName::Snapshot(sid) | ObjectName::Forget(sid) | ObjectName::Note(sid, _) => log.is_void(sid),
        ObjectName::SessionRun(..) | ObjectName::CollectorRun(..) => !log.is_valid(name),
        ObjectName::Condemned(round) | ObjectName::State(round, _) => *round <= log.newest,
        ObjectName::Seal(_) | ObjectName::Config(_) => false,
        ObjectName::Key(_) => return Absence::Told("whoever removed this key knows of it"),
        ObjectName::Ledger(_) => {
            return Absence::Told("which packs it said were verified is not known any more");
        }
        ObjectName::Marker | ObjectName::Pack(_) | ObjectName::Refs(_) | ObjectName::Reserve(_) => true,
    };
    if retired { Absence::Retired } else { Absence::Lost }
}
