//! How old what is kept is: of each project the newest snapshot, and whether one is overdue.

use super::copy::{Lag, lag};
use super::list::{ListedSnapshot, listed};
use crate::context::{Context, Time};
use crate::error::{ErrorKind, Result};
use crate::format::id::SessionId;
use crate::format::layout::ObjectName;
use crate::format::session::SessionRecord;
use crate::repository::{PacksKnown, Repository, View, is_ahead};
use crate::snapshot::SnapshotFilter;
use std::collections::BTreeMap;

/// What to look at.
#[derive(Clone, Debug, Default)]
pub struct StatusRequest {
    /// Which snapshots.
    pub filter: SnapshotFilter,
    /// Seconds after which a project without a new complete snapshot is overdue.
    pub max_age: Option<u64>,
}

/// One project, or what a host keeps without naming one.
#[derive(Clone, Debug)]
pub struct ProjectStatus {
    /// Its name, or host and sources.
    pub name: String,
    /// The newest snapshot.
    pub newest: ListedSnapshot,
    /// When it was made.
    pub made: Time,
    /// Seconds since then.
    pub age: u64,
    /// The newest complete one, and the seconds since then. None if there is no complete one.
    pub complete: Option<(SessionId, u64)>,
    /// How many there are.
    pub snapshots: u64,
    /// Whether the newest complete snapshot is older than was asked for, or its time is not to be believed.
    pub overdue: Option<Overdue>,
}

/// Why a project is overdue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// The newest snapshot is too old.
    Old,
    /// There are newer ones, but they lack what could not be read.
    Partial,
    /// It was made by a clock far ahead of this one: nobody can tell.
    Ahead,
}

/// How a copy of a repository stands.
#[derive(Clone, Debug)]
pub struct CopyStatus {
    /// What it lacks.
    pub lag: Lag,
    /// The repository's projects whose newest complete snapshot in the copy is older than was asked for, by name, and why; nothing for those
    /// of which it has none.
    pub overdue: Vec<(String, Option<Overdue>)>,
    /// Objects of the copy that cannot be read.
    pub damaged: Vec<(String, String)>,
}

/// A run that has not ended: it is under way, or was interrupted.
#[derive(Clone, Debug)]
pub struct OpenRun {
    /// The host, if its record can be read.
    pub host: Option<String>,
    /// Seconds since it began, by its clock.
    pub age: Option<u64>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct StatusReport {
    /// Projects by name.
    pub projects: Vec<ProjectStatus>,
    /// Runs that have not ended.
    pub open: Vec<OpenRun>,
    /// What is known of packs.
    pub packs: PacksKnown,
    /// Objects that cannot be read: a snapshot may be missing above.
    pub damaged: Vec<(String, String)>,
}

impl StatusReport {
    /// Whether somebody must look after it: a project is overdue, or there is none although one should be there.
    pub fn is_overdue(&self, request: &StatusRequest) -> bool {
        let expected = request.max_age.is_some() || request.filter.project.is_some();
        self.projects.iter().any(|project| project.overdue.is_some())
            || (expected && self.projects.is_empty())
    }

    /// Whether something is known to be damaged that a snapshot may need: an object that cannot be read, or a pack that was set aside
    /// and that holds what is stored nowhere else.
    pub fn is_damaged(&self) -> bool {
        !self.damaged.is_empty() || !self.packs.damaged_ledger.is_empty() || self.packs.at_risk > 0
    }
}

/// Looks at the snapshots, the open runs, and the ledger; reads no data.
///
/// # Errors
/// What the store says.
pub async fn status(
    context: &Context,
    repository: &Repository,
    request: &StatusRequest,
) -> Result<StatusReport> {
    let view = repository.view(context).await?;
    status_of(context, repository, &view, request).await
}

/// How far `copy` is behind `repository`, of which `report` was told. A project is overdue there by the rule that holds here.
///
/// # Errors
/// What the stores say.
pub async fn copy_status(
    context: &Context,
    (repository, report): (&Repository, &StatusReport),
    copy: &Repository,
    request: &StatusRequest,
) -> Result<CopyStatus> {
    let there = status(context, copy, request).await?;
    let by_name = |name: &str| there.projects.iter().find(|project| project.name == name);
    let overdue = report.projects.iter().filter_map(|project| {
        let overdue = match by_name(&project.name) {
            Some(there) => Some(there.overdue?),
            None => request.max_age.map(|_| None)?,
        };
        Some((project.name.clone(), overdue))
    });
    Ok(CopyStatus {
        overdue: overdue.collect(),
        lag: lag(context, (repository, copy), &request.filter).await?,
        damaged: there.damaged,
    })
}

/// As [`status`], of a view.
pub(super) async fn status_of(
    context: &Context,
    repository: &Repository,
    view: &View,
    request: &StatusRequest,
) -> Result<StatusReport> {
    let all = listed(repository, view, &request.filter).await?;
    let now = context.clock.now();
    let mut groups: BTreeMap<String, Vec<ListedSnapshot>> = BTreeMap::new();
    for snapshot in all.snapshots {
        groups.entry(name_of_group(&snapshot)).or_default().push(snapshot);
    }
    let projects = groups.into_iter();
    let projects = projects.filter_map(|(name, snapshots)| project(name, &snapshots, now, request.max_age));
    let packs = repository.packs_known(view, now).await?;
    Ok(StatusReport {
        projects: projects.collect(),
        open: open_runs(repository, now).await?,
        packs,
        damaged: all.damaged,
    })
}

/// The project, or the host and what it keeps.
fn name_of_group(snapshot: &ListedSnapshot) -> String {
    let record = &snapshot.record;
    record.project.clone().unwrap_or_else(|| {
        let sources: Vec<&str> = record.sources.iter().map(|s| s.description.as_str()).collect();
        format!("{}: {}", record.host, sources.join(" "))
    })
}

fn project(
    name: String,
    snapshots: &[ListedSnapshot],
    now: Time,
    max_age: Option<u64>,
) -> Option<ProjectStatus> {
    let count = snapshots.len() as u64;
    let age = |snapshot: &ListedSnapshot| since(snapshot.made(), now);
    let newest = snapshots.iter().max_by_key(|s| (s.made(), s.record.sid))?.clone();
    let complete = snapshots
        .iter()
        .filter(|snapshot| !snapshot.record.partial)
        .max_by_key(|s| (s.made(), s.record.sid));
    let is_young = |snapshot: &ListedSnapshot| max_age.is_none_or(|max| age(snapshot) <= max);
    let overdue = if is_ahead(newest.made(), now) {
        Some(Overdue::Ahead)
    } else if !is_young(&newest) {
        Some(Overdue::Old)
    } else if max_age.is_some() && !complete.is_some_and(is_young) {
        Some(Overdue::Partial)
    } else {
        None
    };
    Some(ProjectStatus {
        name,
        made: newest.made(),
        age: age(&newest),
        complete: complete.map(|snapshot| (snapshot.record.sid, age(snapshot))),
        newest,
        snapshots: count,
        overdue,
    })
}

/// Whole seconds; 0 if it lies ahead.
fn since(then: Time, now: Time) -> u64 {
    u64::try_from(now.seconds.saturating_sub(then.seconds)).unwrap_or(0)
}

/// Sessions that have no decision, and count.
async fn open_runs(repository: &Repository, now: Time) -> Result<Vec<OpenRun>> {
    let mut open = Vec::new();
    let sessions = repository.undecided().await?;
    for sid in sessions {
        let record: Result<SessionRecord> = repository.load(ObjectName::Session(sid)).await;
        open.push(match record {
            Ok(record) => OpenRun {
                host: Some(record.host),
                age: Some(since(record.started, now)),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) if is_damage(error.kind()) => OpenRun {
                host: None,
                age: None,
            },
            Err(error) => return Err(error),
        });
    }
    Ok(open)
}

fn is_damage(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Damaged | ErrorKind::Unsupported | ErrorKind::WrongKey
    )
}
