//! Everything about a repository and its store that may need somebody, each with what to do. Quick: no data is read, and of trees
//! nothing; `check` is for that.

use super::status::{Overdue, StatusReport, StatusRequest, status_of};
use crate::context::Context;
use crate::crypto::SlotKind;
use crate::error::{Error, ErrorKind, Result};
use crate::format::layout::{ObjectName, Prefix};
use crate::format::limits::RESERVES;
use crate::repository::{PackHealth, Repository, View};
use crate::snapshot::SnapshotFilter;
use crate::store::{Capability, Race, Trial};

/// Clocks that are further apart are told, in seconds.
const SKEW_MAX: u64 = 60;
/// Data that was not verified for longer is told, in seconds.
const UNREAD_MAX: i64 = 35 * 86_400;
/// A run that is open for longer was interrupted, in seconds.
const OPEN_MAX: u64 = 86_400;
/// How often packs are compared again because a collection ended meanwhile.
const AGAIN_MAX: u32 = 2;
/// Rounds of a race.
const RACES: u32 = 3;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// Will cost something some day.
    Warning,
    /// Does not work, or data is at risk.
    Failure,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// What it is about: `store`, `keys`, `clock`.
    pub area: &'static str,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What to do, unless all is well.
    pub fix: Option<String>,
}

/// What to look at.
#[derive(Clone, Copy, Debug, Default)]
pub struct DoctorRequest {
    /// Seconds after which a project without a new complete snapshot is overdue.
    pub max_age: Option<u64>,
    /// Whether the store is a directory, where space is reserved.
    pub local: bool,
}

impl Diagnosis {
    /// As it should be.
    pub fn good(area: &'static str, what: impl Into<String>) -> Self {
        Self {
            area,
            level: Level::Good,
            what: what.into(),
            fix: None,
        }
    }

    /// Not as it should be, or worth knowing.
    pub fn new(area: &'static str, level: Level, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            area,
            level,
            what: what.into(),
            fix: Some(fix.into()),
        }
    }

    /// What an error says.
    pub fn of(area: &'static str, error: &Error, fix: &str) -> Self {
        let mut what = error.to_string();
        for cause in error.causes() {
            what.push_str(": ");
            what.push_str(&cause);
        }
        Self::new(area, Level::Failure, what, error.advice().unwrap_or(fix))
    }
}

/// Looks at a repository and its store.
///
/// # Errors
/// `Cancelled`; everything else is among the diagnoses.
pub async fn doctor(
    context: &Context,
    repository: &Repository,
    request: &DoctorRequest,
) -> Result<Vec<Diagnosis>> {
    let mut found = Vec::new();
    let steps = [
        ("store", store(context, repository).await),
        ("keys", keys(repository).await),
        ("repository", health(context, repository, request).await),
        ("reserve", reserve(repository, request.local).await),
    ];
    for (area, step) in steps {
        match step {
            Ok(diagnoses) => found.extend(diagnoses),
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(error) => found.push(Diagnosis::of(area, &error, "run `holdall check` to see more")),
        }
    }
    Ok(found)
}

/// Whether the store does what the format asks of it (`format-spec/80-layout.md` sections 2 and 6).
async fn store(context: &Context, repository: &Repository) -> Result<Vec<Diagnosis>> {
    let store = repository.store();
    let capability = match store.probe(&ObjectName::Marker, repository.marker()).await {
        Ok(capability) => capability,
        Err(error) if error.kind() == ErrorKind::Denied => {
            return Ok(vec![Diagnosis::new(
                "store",
                Level::Note,
                "these credentials can only read: snapshots need others, and what a store must do could not be tried",
                "nothing, if this machine only restores or checks; else allow writing",
            )]);
        }
        Err(error) => return Err(error),
    };
    let mut found = vec![creation(context, repository, capability).await?];
    if let Some(trial) = store.trial(context).await? {
        found.extend(of_trial(trial));
    }
    Ok(found)
}

/// Whether an object is put only if it is not there.
async fn creation(context: &Context, repository: &Repository, capability: Capability) -> Result<Diagnosis> {
    let store = repository.store();
    Ok(match capability {
        Capability::PutIfAbsent => match store.probe_race(RACES, context).await? {
            Race::OneWinner => Diagnosis::good(
                "store",
                "an object that is there is never put again, in races too",
            ),
            Race::Broken => Diagnosis::new(
                "store",
                Level::Failure,
                "of two writers that put one object at the same time, both are told that they did",
                "snapshots are safe; prune only with --exclusive while nobody else writes, or move to another store",
            ),
            Race::Inconclusive => Diagnosis::new(
                "store",
                Level::Note,
                "races could not be tried: the names of probes are taken and may not be deleted, or others try them now",
                "run `holdall doctor` again later",
            ),
        },
        Capability::Overwrites => Diagnosis::new(
            "store",
            Level::Warning,
            "this store puts an object that is there once more, though it is asked not to",
            "snapshots are safe; prune only with --exclusive while nobody else writes, or move to a store that knows If-None-Match",
        ),
        Capability::Refuses => Diagnosis::new(
            "store",
            Level::Failure,
            "this store refuses to put an object only if it is not there: nothing can be written safely",
            "move the repository to a store that knows If-None-Match",
        ),
    })
}

/// Listings, deleting, clocks.
fn of_trial(trial: Trial) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    if !trial.listed || trial.vanished == Some(false) {
        found.push(Diagnosis::new(
            "store",
            Level::Failure,
            "a listing does not show what was put or deleted before it began",
            "a repository cannot live there: a cache or a replica may stand between; reach the store itself",
        ));
    } else {
        found.push(Diagnosis::good(
            "store",
            "listings show what was put and deleted before",
        ));
    }
    if trial.vanished.is_none() {
        found.push(Diagnosis::new(
            "store",
            Level::Note,
            "these credentials may not delete: snapshots do not need to, prune does",
            "nothing, if another machine prunes",
        ));
    }
    let skew = trial.clock_ahead.unsigned_abs();
    let side = if trial.clock_ahead > 0 {
        "ahead of"
    } else {
        "behind"
    };
    found.push(if skew <= SKEW_MAX {
        Diagnosis::good("clock", "this machine and the store agree on the time")
    } else {
        Diagnosis::new(
            "clock",
            Level::Warning,
            format!("this machine's clock is {skew} seconds {side} the store's"),
            "let both follow a time server: ages and retention are judged by clocks, and S3 refuses requests from a clock that is far off",
        )
    });
    found
}

/// Whether the loss of one secret would be the loss of everything.
async fn keys(repository: &Repository) -> Result<Vec<Diagnosis>> {
    let mut found = Vec::new();
    let mut kinds = Vec::new();
    for (slot, read) in repository.key_slots().await? {
        match read {
            Ok(info) => kinds.push(info.kind),
            Err(error) => found.push(Diagnosis::of(
                "keys",
                &error,
                &format!("add the key anew with `holdall key add`, then `holdall key remove {slot}`"),
            )),
        }
    }
    let count = |kind| kinds.iter().filter(|k| **k == kind).count();
    let told = [SlotKind::Password, SlotKind::KeyFile, SlotKind::Phrase]
        .into_iter()
        .filter(|kind| count(*kind) > 0)
        .map(|kind| format!("{} {}", count(kind), kind.word()));
    let told = told.collect::<Vec<_>>().join(", ");
    let add_phrase =
        "write down what `holdall key add --new-recovery-phrase` prints, and keep it apart from this machine";
    found.push(match kinds.as_slice() {
        [_] => Diagnosis::new(
            "keys",
            Level::Warning,
            format!("one key alone is known to open this repository ({told}): who loses it loses everything"),
            add_phrase,
        ),
        _ if count(SlotKind::Phrase) == 0 => Diagnosis::new(
            "keys",
            Level::Note,
            format!("no recovery phrase opens this repository ({told})"),
            add_phrase,
        ),
        _ => Diagnosis::good("keys", told),
    });
    Ok(found)
}

/// An error with the object that it is of, named once.
fn naming(error: &Error, name: &ObjectName) -> Error {
    match error.context("object") {
        Some(_) => error.clone(),
        None => error.clone().with("object", name),
    }
}

/// Snapshots, packs, and when they were looked at.
async fn health(
    context: &Context,
    repository: &Repository,
    request: &DoctorRequest,
) -> Result<Vec<Diagnosis>> {
    let mut found = Vec::new();
    if !repository.config().features.may_write() {
        found.push(Diagnosis::new(
            "repository",
            Level::Warning,
            "a newer program has changed this repository: this one can only read it",
            "update holdall",
        ));
    }
    let view = repository.view(context).await?;
    for (name, error) in &view.damaged {
        found.push(Diagnosis::of(
            "repository",
            &naming(error, name),
            "run `holdall check` to see what is hit",
        ));
    }
    found.extend(packs(context, repository, &view).await?);
    let status = StatusRequest {
        filter: SnapshotFilter::default(),
        max_age: request.max_age,
    };
    let status = status_of(context, repository, &view, &status).await?;
    found.extend(snapshots(&status, view.snapshots().count(), request.max_age));
    found.extend(data(&status, context.clock.now().seconds));
    if view.log.begun {
        found.push(Diagnosis::new(
            "collection",
            Level::Note,
            "a collection is under way, or was interrupted",
            "wait if one is running; if it was killed, `holdall prune --take-over` goes on at once (without it, a prune leaves the round alone \
             until it is 25 hours old, or older than its own --lease and an hour)",
        ));
    }
    Ok(found)
}

/// How old snapshots are, and which runs have not ended.
fn snapshots(status: &StatusReport, snapshots: usize, max_age: Option<u64>) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    for project in &status.projects {
        let Some(overdue) = project.overdue else { continue };
        let hours = project.age / 3600;
        let what = match overdue {
            Overdue::Old => format!("{}: the newest snapshot is {hours} hours old", project.name),
            Overdue::Partial => format!("{}: newer snapshots lack what could not be read", project.name),
            Overdue::Ahead => format!(
                "{}: the newest snapshot comes from a clock far ahead",
                project.name
            ),
        };
        found.push(Diagnosis::new(
            "snapshots",
            Level::Warning,
            what,
            "see that `holdall snapshot` runs, and what it says; `holdall status` tells more",
        ));
    }
    found.push(match snapshots {
        0 => Diagnosis::new(
            "snapshots",
            // Whoever says how old the newest may be expects one.
            max_age.map_or(Level::Note, |_| Level::Warning),
            "there is no snapshot",
            "run `holdall snapshot`",
        ),
        1 => Diagnosis::good("snapshots", "1 snapshot"),
        n => Diagnosis::good("snapshots", format!("{n} snapshots")),
    });
    let interrupted = status
        .open
        .iter()
        .filter(|run| run.age.is_some_and(|age| age > OPEN_MAX))
        .count();
    if interrupted > 0 {
        found.push(Diagnosis::new(
            "snapshots",
            Level::Note,
            format!("runs that began more than a day ago and have not ended: {interrupted}"),
            "nothing is lost: the next run finds what they uploaded, and `holdall prune` ends them",
        ));
    }
    found
}

/// When content was read and found right.
fn data(status: &StatusReport, now: i64) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    let known = &status.packs;
    for (name, error) in &known.damaged_ledger {
        found.push(Diagnosis::of(
            "data",
            &naming(error, name),
            "packs may have been found damaged that nobody knows of now, and `holdall prune` waits: run `holdall check --read-data`, which \
             replaces the record",
        ));
    }
    let oldest = known.reads.oldest;
    let is_stale = oldest.is_some_and(|at| now - at.seconds > UNREAD_MAX);
    if known.packs > 0 && (known.reads.never > 0 || is_stale) {
        let what = match known.reads.never {
            0 => "the content of some packs was not verified for more than a month".to_owned(),
            never => format!(
                "the content of {never} of {} packs was never verified",
                known.packs
            ),
        };
        found.push(Diagnosis::new(
            "data",
            Level::Note,
            what,
            "`holdall check --max-age 30d --max-duration 1h`, every night",
        ));
    } else if known.packs > 0 {
        found.push(Diagnosis::good("data", "all content was verified within a month"));
    }
    if known.at_risk > 0 {
        found.push(Diagnosis::new(
            "data",
            Level::Failure,
            format!(
                "packs that were found damaged, and hold what is stored nowhere else: {}",
                known.at_risk
            ),
            "`holdall check` names what is hit and what mends it",
        ));
    }
    if known.quarantined > known.at_risk {
        found.push(Diagnosis::new(
            "data",
            Level::Note,
            format!(
                "packs that were found damaged, all of whose content is stored elsewhere: {}",
                known.quarantined - known.at_risk
            ),
            "`holdall prune` removes them",
        ));
    }
    found
}

async fn packs(context: &Context, repository: &Repository, view: &View) -> Result<Vec<Diagnosis>> {
    context.check_cancelled()?;
    let mut found = Vec::new();
    let Some(health) = pack_health(context, repository, view).await? else {
        found.push(Diagnosis::new(
            "repository",
            Level::Note,
            "whether every pack is there could not be told: collections ended meanwhile",
            "run `holdall doctor` again later, or `holdall check`",
        ));
        return Ok(found);
    };
    found.push(if health.wrong == 0 {
        Diagnosis::good(
            "repository",
            "every pack that is listed is there, as long as it must be",
        )
    } else {
        Diagnosis::new(
            "repository",
            Level::Failure,
            format!("packs that are missing or cut off: {}", health.wrong),
            "`holdall check` names what is hit and what mends it",
        )
    });
    if health.unlisted.0 > 0 {
        found.push(Diagnosis::new(
            "repository",
            Level::Note,
            format!(
                "packs that an interrupted run has left: {} ({} bytes)",
                health.unlisted.0, health.unlisted.1
            ),
            "nothing: the next run or `holdall prune` takes them",
        ));
    }
    Ok(found)
}

/// Compares packs with the view, and with newer ones as long as collections end meanwhile.
async fn pack_health(context: &Context, repository: &Repository, view: &View) -> Result<Option<PackHealth>> {
    let mut health = repository.pack_health(view).await?;
    for _ in 0..AGAIN_MAX {
        if health.is_none() {
            let view = repository.view(context).await?;
            health = repository.pack_health(&view).await?;
        }
    }
    Ok(health)
}

/// Whether there is space to give back when a disk is full.
async fn reserve(repository: &Repository, local: bool) -> Result<Vec<Diagnosis>> {
    if !local {
        return Ok(Vec::new());
    }
    let names = repository.list(Prefix::Reserve).await?;
    let reserves = names
        .iter()
        .filter(|name| matches!(name, ObjectName::Reserve(k) if *k < RESERVES))
        .count();
    Ok(vec![match reserves {
        n if n == usize::from(RESERVES) => Diagnosis::good(
            "reserve",
            "space is reserved, to be given back when the disk is full",
        ),
        0 => Diagnosis::new(
            "reserve",
            Level::Note,
            "no space is reserved: on a full disk, room must be made by hand before a prune",
            "keep some space free on this disk",
        ),
        n => Diagnosis::new(
            "reserve",
            Level::Warning,
            format!("{n} of {RESERVES} reserve objects are there: a full disk might not be pruned"),
            "make room on the disk, and run `holdall prune`, which puts them again",
        ),
    }])
}
