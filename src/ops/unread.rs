//! Snapshots whose records cannot be read, by their full names: something can be said of them nevertheless.

use crate::error::{Error, ErrorKind, Result};
use crate::format::id::SessionId;
use crate::format::layout::ObjectName;
use crate::format::snapshot::SnapshotRecord;
use crate::repository::{Repository, View};
use crate::snapshot::SnapshotSpec;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Takes out of `specs` those that name, in full, a snapshot whose record is damaged, and gives these snapshots. What a newer program has
/// written is no damage.
pub(super) fn take_unread(specs: &mut Vec<SnapshotSpec>, view: &View) -> Vec<SessionId> {
    let mut taken = Vec::new();
    specs.retain(|spec| {
        let found = spec.full_name().and_then(|name| unread(name, view));
        if let Some(sid) = found
            && !taken.contains(&sid)
        {
            taken.push(sid);
        }
        found.is_none()
    });
    taken
}

/// Refuses a name that a snapshot may be meant by whose record cannot be read: of what it is and how old nobody can tell.
///
/// # Errors
/// What the record was read with.
pub(super) fn refuse_unread(spec: &SnapshotSpec, unread: &[(SessionId, Error)]) -> Result<()> {
    let Some((sid, why)) = unread.iter().find(|(sid, _)| spec.may_mean(sid)) else {
        return Ok(());
    };
    let what = "the record of a snapshot that may be meant cannot be read";
    let hint = if spec.full_name().is_some() {
        "try again, or from another machine; `holdall repair --from REPLICA` brings the snapshot back as a copy"
    } else {
        "name the snapshot by its id: `holdall list` shows those that can be read, and `holdall check` what is wrong"
    };
    Err(Error::new(why.kind(), what)
        .with("object", ObjectName::Snapshot(*sid))
        .because(why.clone())
        .hint(hint))
}

/// Snapshots whose records cannot be read, and why; without those that somebody let go, and those that are here again as copies.
pub(super) fn all_unread(repository: &Repository, view: &View) -> Vec<(SessionId, Error)> {
    let back = originals(repository, view.snapshots());
    let of_snapshot = |(name, error): &(ObjectName, Error)| match name {
        ObjectName::Snapshot(sid) if !view.has_forget(sid) && !back.contains(sid) => {
            Some((*sid, error.clone()))
        }
        _ => None,
    };
    view.damaged.iter().filter_map(of_snapshot).collect()
}

/// What these snapshots were first, of those that were made in this repository.
pub(super) fn originals<'a>(
    repository: &Repository,
    records: impl Iterator<Item = &'a Arc<SnapshotRecord>>,
) -> BTreeSet<SessionId> {
    let originals = records.filter_map(|record| record.original);
    let ours = originals.filter(|(of, _)| *of == repository.id());
    ours.map(|(_, sid)| sid).collect()
}

fn unread(full_name: &str, view: &View) -> Option<SessionId> {
    view.damaged.iter().find_map(|(name, error)| match name {
        ObjectName::Snapshot(sid) if error.kind() == ErrorKind::Damaged && sid.name() == full_name => {
            Some(*sid)
        }
        _ => None,
    })
}
