//! Snapshots whose records cannot be read, by their full names: something can be said of them nevertheless.

use crate::error::ErrorKind;
use crate::format::id::SessionId;
use crate::format::layout::ObjectName;
use crate::repository::View;
use crate::snapshot::SnapshotSpec;

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

fn unread(full_name: &str, view: &View) -> Option<SessionId> {
    view.damaged.iter().find_map(|(name, error)| match name {
        ObjectName::Snapshot(sid) if error.kind() == ErrorKind::Damaged && sid.name() == full_name => {
            Some(*sid)
        }
        _ => None,
    })
}
