//! Snapshots whose records cannot be read, by their full names: something can be said of them nevertheless.

use crate::error::{Error, ErrorKind, Result};
use crate::format::id::SessionId;
use crate::format::layout::ObjectName;
use crate::format::snapshot::SnapshotRecord;
use crate::repository::{Repository, View};
use crate::snapshot::SnapshotSpec;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A snapshot whose record cannot be read.
#[derive(Clone, Debug)]
pub struct UnreadSnapshot {
    /// Its id.
    pub sid: SessionId,
    /// Why not.
    pub why: Error,
    /// The snapshot that is here as a copy of it, if there is one.
    pub copy: Option<SessionId>,
}

/// Takes out of `specs` those that name, in full, a snapshot whose record is damaged or not given, and gives these snapshots, and whether
/// the disk may give them again. What a newer program has written is no damage.
pub(super) fn take_unread(specs: &mut Vec<SnapshotSpec>, view: &View) -> BTreeMap<SessionId, bool> {
    let mut taken = BTreeMap::new();
    specs.retain(|spec| {
        let found = spec.full_name().and_then(|name| unread(name, view));
        taken.extend(found);
        found.is_none()
    });
    taken
}

/// Refuses a name that a snapshot may be meant by whose record cannot be read: of what it is and how old nobody can tell. One that is here
/// again as a copy may be meant by its id only.
///
/// # Errors
/// What the record was read with.
pub(super) fn refuse_unread(spec: &SnapshotSpec, unread: &[UnreadSnapshot]) -> Result<()> {
    let may_be_meant = |unread: &&UnreadSnapshot| match unread.copy {
        None => spec.may_mean(&unread.sid),
        Some(_) => spec.names(&unread.sid),
    };
    let Some(UnreadSnapshot { sid, why, copy }) = unread.iter().find(may_be_meant) else {
        return Ok(());
    };
    let error = |what: &str| {
        let error = Error::new(why.kind(), what).with("object", ObjectName::Snapshot(*sid));
        error.because(why.clone())
    };
    if let Some(copy) = copy.map(|copy| copy.name()) {
        let error = error("the record of this snapshot cannot be read, and it is here again as a copy");
        return Err(error
            .with("copy", &copy)
            .hint(format!("name its copy instead: it is snapshot {copy}")));
    }
    let hint = if spec.full_name().is_some() {
        "try again, or from another machine; `holdall repair --from REPLICA` brings the snapshot back as a copy"
    } else {
        "name the snapshot by its id: `holdall list` shows those that can be read, and `holdall check` what is wrong"
    };
    Err(error("the record of a snapshot that may be meant cannot be read").hint(hint))
}

/// Snapshots whose records cannot be read, without those that somebody let go.
pub(super) fn all_unread(repository: &Repository, view: &View) -> Vec<UnreadSnapshot> {
    let copies = copies(repository, view.snapshots());
    let kept = view.unread_snapshots().filter(|(sid, _)| !view.has_forget(sid));
    kept.map(|(sid, error)| UnreadSnapshot {
        sid,
        why: error.clone(),
        copy: copies.get(&sid).copied(),
    })
    .collect()
}

/// Those of these snapshots that are copies of what was made in this repository, by what they were first.
pub(super) fn copies<'a>(
    repository: &Repository,
    records: impl Iterator<Item = &'a Arc<SnapshotRecord>>,
) -> BTreeMap<SessionId, SessionId> {
    let originals = records.filter_map(|record| record.original.zip(Some(record.sid)));
    let ours = originals.filter(|((of, _), _)| *of == repository.id());
    ours.map(|((_, sid), copy)| (sid, copy)).collect()
}

fn unread(full_name: &str, view: &View) -> Option<(SessionId, bool)> {
    let (sid, error) = view.unread_snapshots().find(|(sid, _)| sid.name() == full_name)?;
    match error.kind() {
        ErrorKind::Damaged => Some((sid, false)),
        ErrorKind::Unreadable => Some((sid, true)),
        _ => None,
    }
}
