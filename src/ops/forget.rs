//! Letting snapshots go. Nothing is removed here: what no snapshot needs any more, a later collection takes.

use super::list::{ListedSnapshot, listed};
use super::retention::{Candidate, Policy};
use super::unread::{refuse_unread, take_unread};
use crate::context::{Context, Time};
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::SessionId;
use crate::format::session::ForgetRecord;
use crate::format::snapshot::SnapshotRecord;
use crate::repository::{Minimum, Notes, Repository};
use crate::snapshot::{SnapshotFilter, SnapshotSpec};
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What to let go.
#[derive(Clone, Debug)]
pub struct ForgetRequest {
    /// These, whatever a policy says; with them no policy applies.
    pub named: Vec<SnapshotSpec>,
    /// What else to keep of those that pass the filter.
    pub policy: Policy,
    /// Which are considered; of those that are named, which `latest` means.
    pub filter: SnapshotFilter,
    /// Which make a group, each with the policy for itself.
    pub group_by: GroupBy,
    /// The zone whose days and weeks count.
    pub zone: TimeZone,
    /// Only say what would be done.
    pub dry_run: bool,
    /// The host that asks, for the record.
    pub who: String,
}

/// What snapshots of one group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a part of its own")]
pub struct GroupBy {
    /// The host.
    pub host: bool,
    /// The project.
    pub project: bool,
    /// The sources.
    pub sources: bool,
    /// The tags.
    pub tags: bool,
}

impl Default for GroupBy {
    fn default() -> Self {
        Self {
            host: true,
            project: true,
            sources: true,
            tags: false,
        }
    }
}

/// One snapshot with the verdict on it.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The snapshot.
    pub snapshot: ListedSnapshot,
    /// Why it is kept; none means that it goes.
    pub reasons: Vec<String>,
}

/// A group with its verdicts, newest first.
#[derive(Clone, Debug)]
pub struct Group {
    /// What they have in common, for people.
    pub name: String,
    /// One for each.
    pub verdicts: Vec<Verdict>,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct ForgetReport {
    /// Every snapshot that was considered.
    pub groups: Vec<Group>,
    /// Those that went, or would.
    pub forgotten: u64,
    /// Those among them whose records cannot be read; they are in no group.
    pub unread: Vec<SessionId>,
    /// Those of these that a collector takes only if it is told that they are lost: the repository may retain them, or the disk may give
    /// their records again.
    pub unread_may_stay: Vec<SessionId>,
    /// Whether nothing was written.
    pub dry_run: bool,
}

/// Lets snapshots go, by name or by a policy; one whose record cannot be read by its full name only.
///
/// # Errors
/// `Invalid` for an empty policy without names, or a name with a path behind it or of a snapshot that does not pass the filter;
/// `Refused` for a policy that would keep nothing of a group, and for a snapshot that is named and that is protected or that the
/// repository retains; `Damaged` if snapshots cannot be read, so that a policy cannot count them, or the notes of a snapshot that is
/// named; or what the store says. What was let go before an error stays so.
pub async fn forget(
    context: &Context,
    repository: &Repository,
    request: &ForgetRequest,
) -> Result<ForgetReport> {
    let view = repository.view(context).await?;
    let listed = listed(repository, &view, &SnapshotFilter::default()).await?;
    let mut named = request.named.clone();
    let taken = take_unread(&mut named, &view);
    let unread: Vec<SessionId> = taken.keys().copied().collect();
    unread_may_go(repository, &unread).await?;
    let now = context.clock.now();
    let known = listed.snapshots.iter().map(|s| (s.record.as_ref(), s.first_seen));
    let retained = Minimum::of(repository.config()).kept(known, now);
    let groups = if request.named.is_empty() {
        if let Some((name, why)) = listed.damaged.first() {
            return Err(Error::new(
                ErrorKind::Damaged,
                "a snapshot cannot be read, and a policy cannot count it",
            )
            .with("object", name)
            .because(why.clone())
            .hint("run `holdall check`, or name the snapshots to forget"));
        }
        by_policy(listed.snapshots, request, &retained, now)?
    } else if named.is_empty() {
        Vec::new()
    } else {
        for spec in &named {
            refuse_unread(spec, &listed.unread)?;
        }
        vec![by_name(listed.snapshots, (request, &named), &retained)?]
    };
    let verdicts = groups.iter().flat_map(|group| &group.verdicts);
    let going = verdicts.filter(|v| v.reasons.is_empty());
    let going = going.map(|verdict| verdict.snapshot.record.sid);
    let mut forgotten = 0;
    for sid in going.chain(unread.iter().copied()) {
        context.check_cancelled()?;
        forgotten += 1;
        if !request.dry_run {
            let record = ForgetRecord {
                sid,
                who: request.who.clone(),
                why: if request.named.is_empty() {
                    "policy".into()
                } else {
                    "named".into()
                },
                time: context.clock.now(),
                nonce: context.random.bytes()?,
            };
            // One that is there already says the same.
            let _put = repository.save(context, &record).await?;
        }
    }
    let may_retain = Minimum::of(repository.config()).is_any();
    let may_stay = taken
        .into_iter()
        .filter(|(_, may_be_given)| may_retain || *may_be_given);
    Ok(ForgetReport {
        groups,
        forgotten,
        unread_may_stay: may_stay.map(|(sid, _)| sid).collect(),
        unread,
        dry_run: request.dry_run,
    })
}

/// What the repository retains, and why.
type Retained = HashMap<SessionId, String>;

/// Whether snapshots may go whose records cannot be read.
async fn unread_may_go(repository: &Repository, unread: &[SessionId]) -> Result<()> {
    if unread.is_empty() {
        return Ok(());
    }
    let notes = repository.notes().await?;
    let protected = unread
        .iter()
        .find(|sid| notes.get(sid).is_some_and(Notes::may_protect));
    let Some(sid) = protected else {
        return Ok(());
    };
    let what = "the record of this snapshot cannot be read, and it is protected, or may be";
    let hint = format!("if it shall go, `holdall unprotect {}` first", sid.name());
    Err(Error::new(ErrorKind::Refused, what)
        .with("snapshot", sid.name())
        .hint(hint))
}

fn by_name(
    all: Vec<ListedSnapshot>,
    (request, named): (&ForgetRequest, &[SnapshotSpec]),
    retained: &Retained,
) -> Result<Group> {
    let records: Vec<_> = all.iter().map(|s| s.record.clone()).collect();
    let tags: HashMap<SessionId, &Vec<String>> = all.iter().map(|s| (s.record.sid, &s.tags)).collect();
    let passes = |record: &SnapshotRecord| {
        let tags = tags.get(&record.sid);
        request.filter.passes(record, tags.unwrap_or(&&record.tags))
    };
    let mut sids = HashSet::new();
    for spec in named {
        let found = spec.whole()?.find(&records, &passes)?;
        if !passes(&found) {
            return Err(Error::new(
                ErrorKind::Invalid,
                "a snapshot is named that the filter leaves out",
            )
            .with("snapshot", found.sid.short())
            .hint("name it without --host, --project and --tag, or name another"));
        }
        sids.insert(found.sid);
    }
    let chosen = all.into_iter().filter(|s| sids.contains(&s.record.sid));
    let mut verdicts = Vec::new();
    for snapshot in chosen {
        may_go(&snapshot, retained)?;
        verdicts.push(Verdict {
            snapshot,
            reasons: Vec::new(),
        });
    }
    Ok(Group {
        name: "named".into(),
        verdicts,
    })
}

/// Whether a snapshot may go that is named.
fn may_go(snapshot: &ListedSnapshot, retained: &Retained) -> Result<()> {
    let sid = snapshot.record.sid;
    if snapshot.protected {
        return Err(Error::new(ErrorKind::Refused, "this snapshot is protected")
            .with("snapshot", sid.short())
            .hint("holdall unprotect it first"));
    }
    if let Some((note, why)) = &snapshot.protection_is_unknown {
        return Err(Error::new(
            ErrorKind::Damaged,
            "a note about this snapshot cannot be read, and it may be protected",
        )
        .with("snapshot", sid.short())
        .with("object", note)
        .because(why.clone())
        .hint("if it shall go, holdall unprotect it first: that is said anew"));
    }
    if let Some(why) = retained.get(&sid) {
        return Err(Error::new(
            ErrorKind::Refused,
            "the repository keeps this snapshot, whoever names it",
        )
        .with("snapshot", sid.short())
        .because(why.clone())
        .hint("it can go when newer complete ones have taken its place, or it is old enough"));
    }
    Ok(())
}

fn by_policy(
    all: Vec<ListedSnapshot>,
    request: &ForgetRequest,
    retained: &Retained,
    now: Time,
) -> Result<Vec<Group>> {
    if request.policy.is_empty() {
        return Err(
            Error::new(ErrorKind::Invalid, "a policy without a rule would keep nothing")
                .hint("say what to keep, as --keep-daily 7 --keep-weekly 5, or name the snapshots to forget"),
        );
    }
    let passing = all
        .into_iter()
        .filter(|s| request.filter.passes(&s.record, &s.tags));
    let mut out = Vec::new();
    for (key, mut snapshots) in request.group_by.split(passing) {
        snapshots.sort_by_key(|s| std::cmp::Reverse((s.made(), s.record.sid)));
        let candidates: Vec<Candidate> = snapshots
            .iter()
            .map(|s| Candidate {
                time: s.made(),
                tags: s.tags.clone(),
                partial: s.record.partial,
            })
            .collect();
        let mut reasons = request.policy.reasons(&candidates, &request.zone, now)?;
        keep_anyway(&snapshots, retained, &mut reasons);
        if reasons.iter().all(Vec::is_empty) {
            return Err(
                Error::new(ErrorKind::Refused, "this policy keeps no snapshot of a group")
                    .with("group", key.name())
                    .hint("loosen it, or name the snapshots to forget"),
            );
        }
        let verdicts = snapshots.into_iter().zip(reasons);
        out.push(Group {
            name: key.name(),
            verdicts: verdicts
                .map(|(snapshot, reasons)| Verdict { snapshot, reasons })
                .collect(),
        });
    }
    Ok(out)
}

/// Adds what keeps snapshots whatever a policy says: protection, also one that cannot be ruled out, tags that a policy may go by and that
/// cannot be read, and the repository's minimum.
fn keep_anyway(snapshots: &[ListedSnapshot], retained: &Retained, reasons: &mut [Vec<String>]) {
    for (snapshot, reasons) in snapshots.iter().zip(reasons) {
        if snapshot.protected {
            reasons.push("protected".into());
        } else if snapshot.protection_is_unknown.is_some() || snapshot.tags_are_unknown.is_some() {
            reasons.push("its notes cannot be read".into());
        }
        reasons.extend(retained.get(&snapshot.record.sid).cloned());
    }
}

/// What the snapshots of a group have in common; none for what they need not have.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupKey {
    host: Option<String>,
    project: Option<String>,
    /// Connectors and what they read, in order.
    sources: Option<Vec<(String, String)>>,
    tags: Option<Vec<String>>,
}

impl GroupBy {
    /// The snapshots of each group, in the order in which they come.
    pub(super) fn split(
        self,
        snapshots: impl IntoIterator<Item = ListedSnapshot>,
    ) -> BTreeMap<GroupKey, Vec<ListedSnapshot>> {
        let mut groups: BTreeMap<GroupKey, Vec<ListedSnapshot>> = BTreeMap::new();
        for snapshot in snapshots {
            groups.entry(self.key(&snapshot)).or_default().push(snapshot);
        }
        groups
    }

    fn key(self, snapshot: &ListedSnapshot) -> GroupKey {
        let record = &snapshot.record;
        let sources = || {
            let sources = record.sources.iter();
            let mut sources: Vec<_> = sources
                .map(|s| (s.connector.clone(), s.description.clone()))
                .collect();
            sources.sort_unstable();
            sources
        };
        GroupKey {
            host: self.host.then(|| record.host.clone()),
            project: record.project.clone().filter(|_| self.project),
            sources: self.sources.then(sources),
            tags: self.tags.then(|| snapshot.tags.clone()),
        }
    }
}

impl GroupKey {
    /// For people.
    fn name(&self) -> String {
        let mut parts = Vec::new();
        if let Some(host) = &self.host {
            parts.push(format!("host {host}"));
        }
        if let Some(project) = &self.project {
            parts.push(format!("project {project}"));
        }
        if let Some(sources) = &self.sources {
            let sources: Vec<&str> = sources.iter().map(|(_, what)| what.as_str()).collect();
            parts.push(sources.join(" "));
        }
        if let Some(tags) = &self.tags {
            parts.push(format!("tags {}", tags.join(",")));
        }
        parts.join(", ")
    }
}
