//! Letting snapshots go. Nothing is removed here: what no snapshot needs any more, a later collection takes.

use super::list::{ListedSnapshot, list};
use super::retention::{Candidate, Policy};
use crate::context::{Context, Time};
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::SessionId;
use crate::format::session::ForgetRecord;
use crate::repository::Repository;
use crate::snapshot::{SnapshotFilter, SnapshotSpec};
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, HashMap};

/// A writer's clock that is off from the store's by more than this is not believed, in seconds.
const CLOCKS_APART: f64 = 86_400.0;

/// What to let go.
#[derive(Clone, Debug)]
pub struct ForgetRequest {
    /// These, whatever a policy says; with them no policy applies.
    pub named: Vec<SnapshotSpec>,
    /// What else to keep of those that pass the filter.
    pub policy: Policy,
    /// Which are considered.
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
    /// Whether nothing was written.
    pub dry_run: bool,
}

/// Lets snapshots go, by name or by a policy.
///
/// # Errors
/// `Invalid` for an empty policy without names, or one that would keep nothing of a group; `Refused` for a protected snapshot that is
/// named; `Damaged` if snapshots cannot be read, so that a policy cannot count them; or what the store says. What was let go before
/// an error stays so.
pub async fn forget(
    context: &Context,
    repository: &Repository,
    request: &ForgetRequest,
) -> Result<ForgetReport> {
    let listed = list(context, repository, &SnapshotFilter::default()).await?;
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
        by_policy(repository, listed.snapshots, request).await?
    } else {
        vec![by_name(listed.snapshots, &request.named)?]
    };
    let going = groups
        .iter()
        .flat_map(|group| &group.verdicts)
        .filter(|v| v.reasons.is_empty());
    let mut forgotten = 0;
    for verdict in going {
        context.check_cancelled()?;
        forgotten += 1;
        if !request.dry_run {
            let record = ForgetRecord {
                sid: verdict.snapshot.record.sid,
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
    Ok(ForgetReport {
        groups,
        forgotten,
        dry_run: request.dry_run,
    })
}

fn by_name(all: Vec<ListedSnapshot>, named: &[SnapshotSpec]) -> Result<Group> {
    let records: Vec<_> = all.iter().map(|s| s.record.clone()).collect();
    let mut sids = Vec::new();
    for spec in named {
        let found = spec.find(&records, &|_| true)?;
        sids.push(found.sid);
    }
    let chosen = all.into_iter().filter(|s| sids.contains(&s.record.sid));
    let mut verdicts = Vec::new();
    for snapshot in chosen {
        if snapshot.protected {
            return Err(Error::new(ErrorKind::Refused, "this snapshot is protected")
                .with("snapshot", snapshot.record.sid.short())
                .hint("holdall unprotect it first"));
        }
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

async fn by_policy(
    repository: &Repository,
    all: Vec<ListedSnapshot>,
    request: &ForgetRequest,
) -> Result<Vec<Group>> {
    if request.policy.is_empty() {
        return Err(
            Error::new(ErrorKind::Invalid, "a policy without a rule would keep nothing")
                .hint("say what to keep, as --keep-daily 7 --keep-weekly 5, or name the snapshots to forget"),
        );
    }
    let seen: HashMap<SessionId, Time> = repository
        .notes()
        .await?
        .into_iter()
        .filter_map(|(sid, note)| Some((sid, note.first_seen?)))
        .collect();
    let mut groups: BTreeMap<String, Vec<ListedSnapshot>> = BTreeMap::new();
    for snapshot in all {
        if request.filter.passes(&snapshot.record, &snapshot.tags) {
            groups
                .entry(request.group_by.name(&snapshot))
                .or_default()
                .push(snapshot);
        }
    }
    let mut out = Vec::new();
    for (name, mut snapshots) in groups {
        snapshots.sort_by_key(|s| std::cmp::Reverse((made(s, &seen), s.record.sid)));
        let candidates: Vec<Candidate> = snapshots
            .iter()
            .map(|s| Candidate {
                time: made(s, &seen),
                tags: s.tags.clone(),
                partial: s.record.partial,
            })
            .collect();
        let mut reasons = request.policy.reasons(&candidates, &request.zone)?;
        keep_minimum(repository, &snapshots, &mut reasons);
        if reasons.iter().all(Vec::is_empty) {
            return Err(
                Error::new(ErrorKind::Refused, "this policy keeps no snapshot of a group")
                    .with("group", name)
                    .hint("loosen it, or name the snapshots to forget"),
            );
        }
        let verdicts = snapshots.into_iter().zip(reasons);
        out.push(Group {
            name,
            verdicts: verdicts
                .map(|(snapshot, reasons)| Verdict { snapshot, reasons })
                .collect(),
        });
    }
    Ok(out)
}

/// Protection, and the least that the repository keeps of every source whatever a client wants.
fn keep_minimum(repository: &Repository, snapshots: &[ListedSnapshot], reasons: &mut [Vec<String>]) {
    let mut complete = 0;
    for (snapshot, reasons) in snapshots.iter().zip(reasons) {
        if snapshot.protected {
            reasons.push("protected".into());
        }
        if !snapshot.record.partial {
            complete += 1;
            if complete <= repository.config().retain_last {
                reasons.push("the repository retains it".into());
            }
        }
    }
}

/// When a snapshot was made: by its writer's clock, unless the store saw it at quite another time.
fn made(snapshot: &ListedSnapshot, seen: &HashMap<SessionId, Time>) -> Time {
    let record = &snapshot.record;
    match seen.get(&record.sid) {
        Some(seen)
            if seen
                .seconds_since(record.ended)
                .max(record.ended.seconds_since(*seen))
                > CLOCKS_APART =>
        {
            *seen
        }
        _ => record.started,
    }
}

impl GroupBy {
    fn name(self, snapshot: &ListedSnapshot) -> String {
        let record = &snapshot.record;
        let mut parts = Vec::new();
        if self.host {
            parts.push(format!("host {}", record.host));
        }
        if let Some(project) = record.project.as_ref().filter(|_| self.project) {
            parts.push(format!("project {project}"));
        }
        if self.sources {
            let mut sources: Vec<&str> = record.sources.iter().map(|s| s.description.as_str()).collect();
            sources.sort_unstable();
            parts.push(sources.join(" "));
        }
        if self.tags {
            parts.push(format!("tags {}", snapshot.tags.join(",")));
        }
        parts.join(", ")
    }
}
