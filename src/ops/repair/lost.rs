//! Snapshots whose own records cannot be read: some came back before, some were let go, and of the rest a replica may have copies.

use super::{Job, RepairReport};
use crate::error::{ErrorKind, Result};
use crate::format::id::SessionId;
use crate::format::snapshot::SnapshotRecord;
use crate::ops::copy::{self, CopyRequest};
use crate::ops::list::list;
use crate::ops::unread::copies;
use crate::repository::{Repository, View};
use crate::snapshot::SnapshotFilter;
use std::collections::BTreeSet;

/// Tells which snapshots are lost, and which of the unreadable ones nobody misses.
pub(super) async fn sort_out(repository: &Repository, view: &View, report: &mut RepairReport) -> Result<()> {
    report.unreadable.clear();
    report.snapshots_there.clear();
    report.snapshots_let_go.clear();
    report.snapshots_not_given.clear();
    if view.unread_snapshots().next().is_none() {
        return Ok(());
    }
    let there = copies(repository, view.snapshots());
    // That a copy was let go says nothing: it may have been one too many then.
    let let_go = copy::let_go_unread(repository, view).await?;
    for (sid, error) in view.unread_snapshots() {
        if error.kind() == ErrorKind::Unreadable {
            report.snapshots_not_given.push(sid);
        }
        if there.contains_key(&sid) {
            report.snapshots_there.push(sid);
        } else if let_go.contains(&sid) {
            report.snapshots_let_go.push(sid);
        } else {
            report.unreadable.push(sid);
        }
    }
    Ok(())
}

/// Snapshots whose records are lost here come back as copies of what the replica has of them, or this machine's cache in `from`.
pub(super) async fn bring_back(job: &Job<'_>, from: &Repository, report: &mut RepairReport) -> Result<()> {
    if report.unreadable.is_empty() {
        return Ok(());
    }
    let theirs = list(job.context, from, &SnapshotFilter::default()).await?;
    let id = job.repository.id();
    let first = |record: &SnapshotRecord| record.original.unwrap_or((from.id(), record.sid));
    let mut snapshots = Vec::new();
    for snapshot in &theirs.snapshots {
        let (repository, sid) = first(&snapshot.record);
        if repository == id && report.unreadable.contains(&sid) {
            snapshots.push(snapshot.record.sid.name().parse()?);
        }
    }
    if snapshots.is_empty() {
        return Ok(());
    }
    let request = CopyRequest {
        snapshots,
        host: job.request.host.clone(),
        dry_run: job.request.dry_run,
        ..CopyRequest::default()
    };
    let copied = copy::bring_back(job.context, from, job.repository, &request).await?;
    if let Some(error) = copied.stopped {
        return Err(error);
    }
    let back: BTreeSet<SessionId> = copied
        .copied
        .iter()
        .map(|copied| first(&copied.record).1)
        .collect();
    report.snapshots_back.extend(&back);
    report.unreadable.retain(|sid| !back.contains(sid));
    if !report.dry_run && !report.unreadable.is_empty() {
        // Another repair, or somebody's forget, may have been faster.
        sort_out(job.repository, &job.repository.view(job.context).await?, report).await?;
        let back = &report.snapshots_back;
        report.snapshots_there.retain(|sid| !back.contains(sid));
    }
    Ok(())
}
