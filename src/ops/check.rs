//! Proving a repository: every object, every reference of every snapshot, and as much of the data as is asked for.

mod trees;

use super::unread::copies;
use crate::context::{Context, Time};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::id::SessionId;
use crate::format::layout::ObjectName;
use crate::repository::{
    Aside, DataRequest, Finding, ReadData, Repository, Survey, SurveyReport, View, survey_without_key,
};
use crate::store::Store;
use std::collections::{HashMap, HashSet};
use trees::{Trees, walk_snapshots};

/// How often everything is looked at again because a collector ended a round meanwhile.
const AGAIN_MAX: u32 = 3;

/// What to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckRequest {
    /// How much of the data packs is read.
    pub read_data: ReadData,
    /// Of these, only packs that were not verified in so many seconds.
    pub max_age: Option<u64>,
    /// After so many seconds no further pack is begun; the next such run goes on. What must be read to know the structure is
    /// read in any case.
    pub max_duration: Option<u64>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// What is wrong with objects and snapshots; empty is good.
    pub findings: Vec<Finding>,
    /// Counts of the objects looked at.
    pub survey: SurveyReport,
    /// Snapshots whose trees were walked.
    pub snapshots: u64,
    /// Snapshots that do not restore wholly.
    pub snapshots_hit: Vec<String>,
    /// Seconds.
    pub seconds: f64,
}

impl CheckReport {
    /// Whether data is lost or at risk.
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(|finding| finding.is_error)
    }

    /// Whether it is known which snapshots there are: no record of a snapshot, and none of the collector, which says what counts, is
    /// damaged or missing.
    pub fn knows_snapshots(&self) -> bool {
        let says_what_counts = |finding: &Finding| {
            let folder = finding.object.split('/').next();
            finding.is_error && matches!(folder, Some("snapshots" | "gc"))
        };
        !self.findings.iter().any(says_what_counts)
    }
}

/// What was seen of snapshots at one look.
struct Look {
    /// Nothing if nobody can tell which snapshots count.
    view: Option<View>,
    /// Why not.
    damage: Vec<(String, Error)>,
    trees: Trees,
}

/// Checks a repository. What is verified, and which packs are damaged, is written into the ledger where the store lets.
///
/// # Errors
/// What the store says when it cannot be read at all, `Cancelled`; damage is in the report.
pub async fn check(context: &Context, repository: &Repository, request: CheckRequest) -> Result<CheckReport> {
    let started = context.clock.now();
    context.emit(&Event::PhaseStarted {
        phase: "check",
        entries: None,
        bytes: None,
    });
    let reads = request.read_data != ReadData::None;
    let mut survey = Survey::structure(repository, context, reads).await?;
    let mut look = look(context, repository, survey.report()).await?;
    context.emit(&Event::PhaseEnded { phase: "check" });
    if reads {
        let known = survey.report().bad_packs.len();
        let until = request.max_duration.map(|seconds| Time {
            seconds: started.seconds.saturating_add_unsigned(seconds),
            ..started
        });
        let request = DataRequest {
            read_data: request.read_data,
            max_age: request.max_age,
            until,
        };
        survey.read_data(request).await?;
        if survey.report().bad_packs.len() > known {
            look = self::look(context, repository, survey.report()).await?;
        }
    }
    let mut report = gather(repository, survey.finish().await?, look);
    // Beside a collector an object may be gone with reason: looked at again, what is still wrong is damage.
    for _ in 0..AGAIN_MAX {
        // That all of a pack is stored elsewhere may hold no more, and that nothing is at risk rests on it.
        let is_in_doubt = report.is_damaged() || !report.survey.set_aside.is_empty();
        if !is_in_doubt || !Survey::is_outdated(repository, &report.survey).await? {
            break;
        }
        let survey = Survey::again(repository, context, &report.survey).await?;
        let look = self::look(context, repository, &survey).await?;
        report = gather(repository, survey, look);
    }
    report.seconds = context.clock.now().seconds_since(started);
    Ok(report)
}

/// Walks the trees of all snapshots, with nothing read from packs that the survey found bad.
async fn look(context: &Context, repository: &Repository, survey: &SurveyReport) -> Result<Look> {
    match repository.view(context).await {
        Ok(view) => Ok(Look {
            trees: walk_snapshots(context, repository, &view, &survey.bad_packs).await?,
            view: Some(view),
            damage: Vec::new(),
        }),
        // Without the collector's log nobody can tell which snapshots count.
        Err(error) if is_damage(error.kind()) => {
            let object = error.context("object").unwrap_or("gc/").to_owned();
            let unknown = Error::new(ErrorKind::Damaged, "it cannot be told which snapshots count");
            Ok(Look {
                view: None,
                damage: vec![(object, error), ("snapshots/".to_owned(), unknown)],
                trees: Trees::default(),
            })
        }
        Err(error) => Err(error),
    }
}

/// Checks what can be checked without a key, as the keeper of a copy can: every object's name, header and hash, and that what nobody may
/// delete is there. Nothing is written.
///
/// # Errors
/// `NoRepository`, what the store says when it cannot be read at all, `Cancelled`; damage is in the report.
pub async fn check_without_key(context: &Context, store: &Store, read_data: ReadData) -> Result<CheckReport> {
    let started = context.clock.now();
    let mut survey = survey_without_key(store, context, read_data).await?;
    Ok(CheckReport {
        findings: std::mem::take(&mut survey.findings),
        survey,
        snapshots: 0,
        snapshots_hit: Vec::new(),
        seconds: context.clock.now().seconds_since(started),
    })
}

/// All findings: of objects, with what of which snapshots they hit, then of snapshots.
fn gather(repository: &Repository, mut survey: SurveyReport, look: Look) -> CheckReport {
    let Look {
        view,
        damage,
        mut trees,
    } = look;
    let view = view.as_ref();
    let mut findings = std::mem::take(&mut survey.findings);
    let damaged = view.into_iter().flat_map(|view| &view.damaged);
    let damaged = damaged.map(|(name, error)| (name.to_string(), error.clone()));
    for (object, error) in damage.into_iter().chain(damaged) {
        if !findings.iter().any(|finding| finding.object == object) {
            findings.push(Finding::error(object, error));
        }
    }
    let elsewhere = survey.elsewhere.iter();
    let elsewhere: HashSet<String> = elsewhere.map(|id| ObjectName::Pack(*id).to_string()).collect();
    for finding in findings.iter_mut().filter(|finding| finding.is_error) {
        finding.hit = trees.packs.remove(&finding.object);
        finding.is_elsewhere = elsewhere.contains(&finding.object);
    }
    if let Some(view) = view {
        here_again(repository, view, &mut findings);
    }
    weigh(
        &mut findings,
        &survey,
        view.is_some_and(|view| view.damaged.is_empty()),
    );
    if let Some(view) = view {
        let all = view.snapshots();
        findings.extend(all.filter_map(|record| forget_without_effect(view, record.sid)));
    }
    let of_snapshots = trees.hit.iter();
    findings.extend(
        of_snapshots.map(|(sid, what)| Finding::error(format_args!("snapshot {}", sid.short()), what)),
    );
    CheckReport {
        findings,
        survey,
        snapshots: trees.walked,
        snapshots_hit: trees.hit.into_iter().map(|(sid, _)| sid.name()).collect(),
        seconds: 0.0,
    }
}

/// Of packs that were set aside before, tells whether anything still rests on them. One that nothing rests on is no damage any more: it goes
/// with the next collection. `is_all_known`: every snapshot was walked.
fn weigh(findings: &mut [Finding], survey: &SurveyReport, is_all_known: bool) {
    let known = survey.set_aside.iter();
    let known: HashMap<String, Aside> = known
        .map(|(id, aside)| (ObjectName::Pack(*id).to_string(), *aside))
        .collect();
    for finding in findings.iter_mut().filter(|finding| finding.is_error) {
        let Some(aside) = known.get(&finding.object).filter(|_| finding.hit.is_none()) else {
            continue;
        };
        let more = match aside {
            Aside::Replaced => {
                "it was set aside before, and all that it held is stored elsewhere: `holdall prune` removes it"
            }
            Aside::Settled if is_all_known => {
                "it was set aside before, and no snapshot needs what it held: `holdall prune` removes it, if it tells who made it"
            }
            _ => {
                "it was set aside before, and no snapshot that can be read needs what it held; a run or a collection that is under way may: \
                 check again when none is"
            }
        };
        finding.is_error = *aside == Aside::Open || (*aside == Aside::Settled && !is_all_known);
        finding.what = format!("{}; {more}", finding.what);
    }
}

/// Says of a snapshot whose record cannot be read that it came back. The record is an error until it is gone, since readers are told of it.
fn here_again(repository: &Repository, view: &View, findings: &mut [Finding]) {
    let not_given = |sid| {
        let mut unread = view.unread_snapshots();
        unread.any(|(of, error)| of == sid && !is_damage(error.kind()))
    };
    for (sid, copy) in copies(repository, view.snapshots()) {
        let name = ObjectName::Snapshot(sid).to_string();
        let of_it = |finding: &&mut Finding| finding.is_error && finding.object == name;
        for finding in findings.iter_mut().filter(of_it) {
            finding.what = format!("{}; the snapshot is here again as {}", finding.what, copy.short());
            // What the disk may give again no collection takes for gone.
            finding.is_elsewhere = !not_given(sid);
        }
    }
}

/// Worth knowing: whoever put it wanted something else, and it takes effect when nothing stands against it any more.
fn forget_without_effect(view: &View, sid: SessionId) -> Option<Finding> {
    let why = view.kept_in_spite_of_forget(&sid)?;
    Some(Finding::note(
        format_args!("snapshot {}", sid.short()),
        format_args!("somebody let it go, without an effect as long as this holds: {why}"),
    ))
}

fn is_damage(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Damaged | ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::WrongKey
    )
}
