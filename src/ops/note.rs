//! What people say of a snapshot after it was made: tags, protection.

use super::list::{ListedSnapshot, list};
use super::unread::{refuse_unread, take_unread};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::SessionId;
use crate::format::note::NoteRecord;
use crate::repository::{Notes, Repository};
use crate::snapshot::{SnapshotFilter, SnapshotSpec};
use std::collections::BTreeMap;

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
    /// Its id.
    pub sid: SessionId,
    /// Its name.
    pub name: String,
    /// All its tags.
    pub tags: Vec<String>,
    /// Whether forgetting it has no effect.
    pub protected: bool,
    /// Whether that is new.
    pub changed: bool,
    /// Whether somebody had let it go, which has an effect now that it is not protected any more.
    pub let_go: bool,
}

/// Changes tags. What is so already is left alone.
///
/// # Errors
/// `NotFound`, `Invalid` for a name that several share or that has a path behind it, or what the store says; `Damaged` if tags are to be
/// added or removed where a note that cannot be read may say which there are.
pub async fn tag(
    context: &Context,
    repository: &Repository,
    specs: &[SnapshotSpec],
    change: &TagChange,
) -> Result<Vec<Noted>> {
    let new = |snapshot: &ListedSnapshot| {
        if let (None, Some((note, why))) = (&change.set, &snapshot.tags_are_unknown) {
            return Err(tags_cannot_be_read(snapshot, note, why));
        }
        let mut tags = change.set.clone().unwrap_or_else(|| snapshot.tags.clone());
        tags.extend(change.add.iter().cloned());
        tags.retain(|tag| !change.remove.contains(tag));
        tags.sort_unstable();
        tags.dedup();
        Ok(NoteRecord {
            // Said anew where a note that cannot be read may say others.
            tags: Some(tags).filter(|tags| *tags != snapshot.tags || snapshot.tags_are_unknown.is_some()),
            ..NoteRecord::default()
        })
    };
    note(context, repository, specs, &new).await
}

fn tags_cannot_be_read(snapshot: &ListedSnapshot, note: &str, why: &str) -> Error {
    let sid = snapshot.record.sid;
    let what = "a note about this snapshot cannot be read, and it may say which tags there are";
    Error::new(ErrorKind::Damaged, what)
        .with("snapshot", sid.short())
        .with("object", note)
        .because(why.to_owned())
        .hint(format!(
            "`holdall tag {} --set TAGS` says all of them anew",
            sid.short()
        ))
}

/// Protects snapshots from being forgotten, or no longer; the latter also one whose record cannot be read, by its full name.
///
/// # Errors
/// As [`tag`]; a snapshot that was let go is not found. `Refused` for one that was let go without an effect: what stands against the
/// forget may end, and a collector that has seen the forget would not see the protection. `Conflict` if it was let go meanwhile.
pub async fn protect(
    context: &Context,
    repository: &Repository,
    specs: &[SnapshotSpec],
    protected: bool,
) -> Result<Vec<Noted>> {
    let new = |snapshot: &ListedSnapshot| {
        // Said anew where a note that cannot be read may say the opposite.
        let news = snapshot.protected != protected || snapshot.protection_is_unknown.is_some();
        if let Some(why) = snapshot
            .forget_without_effect
            .as_ref()
            .filter(|_| news && protected)
        {
            return Err(Error::new(
                ErrorKind::Refused,
                "somebody let this snapshot go, and it cannot be protected any more",
            )
            .with("snapshot", snapshot.record.sid.short())
            .because(format!("it is still here because {why}"))
            .hint("restore it, or take a new snapshot and protect that one"));
        }
        Ok(NoteRecord {
            protected: news.then_some(protected),
            ..NoteRecord::default()
        })
    };
    let mut specs = specs.to_vec();
    let unread = if protected {
        BTreeMap::new()
    } else {
        take_unread(&mut specs, &repository.view(context).await?)
    };
    let mut noted = note(context, repository, &specs, &new).await?;
    // Of a forget that came between the look and the note a collector may know that does not know the note; it may even have swept both.
    let still = repository.view(context).await?;
    for one in noted.iter_mut().filter(|one| one.changed) {
        let is_there = still.holds(&one.sid);
        one.let_go = !protected && !is_there;
        if protected && (!is_there || still.has_forget(&one.sid)) {
            return Err(Error::new(
                ErrorKind::Conflict,
                "this snapshot was let go while it was being protected",
            )
            .with("snapshot", &one.name)
            .hint("a collection that is under way may still take it, or has: restore it, or take a new snapshot"));
        }
    }
    for sid in unread.into_keys() {
        noted.push(unprotect_unread(context, repository, sid).await?);
    }
    Ok(noted)
}

/// Nobody can tell what else is said of it: its tags may be in the record.
async fn unprotect_unread(context: &Context, repository: &Repository, sid: SessionId) -> Result<Noted> {
    let notes = repository.notes().await?;
    let changed = notes.get(&sid).is_some_and(Notes::may_protect);
    if changed {
        let note = NoteRecord {
            protected: Some(false),
            ..NoteRecord::default()
        };
        repository.put_note(context, sid, note).await?;
    }
    let let_go = changed && repository.view(context).await?.has_forget(&sid);
    Ok(Noted {
        sid,
        name: sid.name(),
        tags: notes
            .get(&sid)
            .and_then(|notes| notes.said.tags.clone())
            .unwrap_or_default(),
        protected: false,
        changed,
        let_go,
    })
}

async fn note(
    context: &Context,
    repository: &Repository,
    specs: &[SnapshotSpec],
    new: &(dyn Fn(&ListedSnapshot) -> Result<NoteRecord> + Sync),
) -> Result<Vec<Noted>> {
    let report = list(context, repository, &SnapshotFilter::default()).await?;
    let listed = report.snapshots;
    let records: Vec<_> = listed.iter().map(|s| s.record.clone()).collect();
    // All are found, and none is refused, before any is changed.
    let mut sids = Vec::new();
    for spec in specs {
        refuse_unread(spec, &report.unread)?;
        sids.push(spec.whole()?.find(&records, &|_| true)?.sid);
    }
    let chosen = listed.into_iter().filter(|s| sids.contains(&s.record.sid));
    let chosen: Vec<_> = chosen
        .map(|snapshot| Ok((new(&snapshot)?, snapshot)))
        .collect::<Result<_>>()?;
    let mut out = Vec::new();
    for (record, snapshot) in chosen {
        let sid = snapshot.record.sid;
        let mut noted = Noted {
            sid,
            name: sid.name(),
            tags: snapshot.tags,
            protected: snapshot.protected,
            changed: false,
            let_go: false,
        };
        if record != NoteRecord::default() {
            repository.put_note(context, sid, record.clone()).await?;
            noted.changed = true;
            noted.tags = record.tags.unwrap_or(noted.tags);
            noted.protected = record.protected.unwrap_or(noted.protected);
        }
        out.push(noted);
    }
    Ok(out)
}
