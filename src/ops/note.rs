//! What people say of a snapshot after it was made: tags, protection.

use super::list::{ListedSnapshot, list};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::format::note::NoteRecord;
use crate::repository::Repository;
use crate::snapshot::{SnapshotFilter, SnapshotSpec};

/// How tags change. They are set first, if they are, then added, then removed.
#[derive(Clone, Debug, Default)]
pub struct TagChange {
    /// These instead of all others.
    pub set: Option<Vec<String>>,
    /// These too.
    pub add: Vec<String>,
    /// Not these.
    pub remove: Vec<String>,
}

/// What a snapshot is said to be now.
#[derive(Clone, Debug)]
pub struct Noted {
    /// Its name.
    pub name: String,
    /// All its tags.
    pub tags: Vec<String>,
    /// Whether forgetting it has no effect.
    pub protected: bool,
    /// Whether that is new.
    pub changed: bool,
}

/// Changes tags. What is so already is left alone.
///
/// # Errors
/// `NotFound`, `Invalid` for a name that several share or that has a path behind it, or what the store says.
pub async fn tag(
    context: &Context,
    repository: &Repository,
    specs: &[SnapshotSpec],
    change: &TagChange,
) -> Result<Vec<Noted>> {
    let new = |snapshot: &ListedSnapshot| {
        let mut tags = change.set.clone().unwrap_or_else(|| snapshot.tags.clone());
        tags.extend(change.add.iter().cloned());
        tags.retain(|tag| !change.remove.contains(tag));
        tags.sort_unstable();
        tags.dedup();
        NoteRecord {
            tags: Some(tags).filter(|tags| *tags != snapshot.tags),
            ..NoteRecord::default()
        }
    };
    note(context, repository, specs, &new).await
}

/// Protects snapshots from being forgotten, or no longer.
///
/// # Errors
/// As [`tag`]; a snapshot that was let go is not found, and cannot be protected any more.
pub async fn protect(
    context: &Context,
    repository: &Repository,
    specs: &[SnapshotSpec],
    protected: bool,
) -> Result<Vec<Noted>> {
    let new = |snapshot: &ListedSnapshot| {
        // Said anew where a note that cannot be read may say the opposite.
        let news = snapshot.protected != protected || snapshot.protection_is_unknown.is_some();
        NoteRecord {
            protected: news.then_some(protected),
            ..NoteRecord::default()
        }
    };
    let noted = note(context, repository, specs, &new).await?;
    // A forget that came between the look and the note is older than the protection, and counts.
    let still = repository.view(context).await?;
    for one in &noted {
        if protected && still.snapshots().all(|s| s.sid.name() != one.name) {
            return Err(Error::new(
                ErrorKind::Conflict,
                "this snapshot was let go while it was being protected",
            )
            .with("snapshot", &one.name));
        }
    }
    Ok(noted)
}

async fn note(
    context: &Context,
    repository: &Repository,
    specs: &[SnapshotSpec],
    new: &(dyn Fn(&ListedSnapshot) -> NoteRecord + Sync),
) -> Result<Vec<Noted>> {
    let listed = list(context, repository, &SnapshotFilter::default())
        .await?
        .snapshots;
    let records: Vec<_> = listed.iter().map(|s| s.record.clone()).collect();
    // All are found before any is changed.
    let mut sids = Vec::new();
    for spec in specs {
        sids.push(spec.whole()?.find(&records, &|_| true)?.sid);
    }
    let mut out = Vec::new();
    for snapshot in listed.into_iter().filter(|s| sids.contains(&s.record.sid)) {
        let record = new(&snapshot);
        let mut noted = Noted {
            name: snapshot.record.sid.name(),
            tags: snapshot.tags,
            protected: snapshot.protected,
            changed: false,
        };
        if record != NoteRecord::default() {
            repository
                .put_note(context, snapshot.record.sid, record.clone())
                .await?;
            noted.changed = true;
            noted.tags = record.tags.unwrap_or(noted.tags);
            noted.protected = record.protected.unwrap_or(noted.protected);
        }
        out.push(noted);
    }
    Ok(out)
}
