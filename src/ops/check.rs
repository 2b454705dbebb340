//! Proving a repository: every object, every reference of every snapshot, and as much of the data as is asked for.

use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::entry::{BlobRef, EntryRecord};
use crate::format::id::{BlobId, SessionId};
use crate::format::node::Totals;
use crate::repository::{BlobReader, Finding, ReadData, Repository, Survey, SurveyReport, View};
use crate::snapshot::SnapshotReader;
use crate::snapshot::entry::Key;
use crate::snapshot::tree::{Marker, walk};
use std::collections::HashSet;
use std::fmt::Write;

/// Entries that are named for each snapshot that is hit; the count tells how many more there are.
const NAMED_MAX: usize = 20;

/// How often everything is looked at again because a collector ended a round meanwhile.
const AGAIN_MAX: u32 = 3;

/// What to check.
#[derive(Clone, Copy, Debug)]
pub struct CheckRequest {
    /// How much of the data packs is read.
    pub read_data: ReadData,
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
}

/// Checks a repository.
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
    let survey = Survey::run(repository, context, request.read_data).await?;
    let mut report = look(context, repository, survey).await?;
    // Beside a collector an object may be gone with reason: looked at again, what is still wrong is damage.
    for _ in 0..AGAIN_MAX {
        if !report.is_damaged() || !Survey::is_outdated(repository, &report.survey).await? {
            break;
        }
        let survey = Survey::again(repository, context, &report.survey).await?;
        report = look(context, repository, survey).await?;
    }
    context.emit(&Event::PhaseEnded { phase: "check" });
    report.seconds = context.clock.now().seconds_since(started);
    Ok(report)
}

/// Adds to a survey of the objects what is wrong with the snapshots.
async fn look(context: &Context, repository: &Repository, mut survey: SurveyReport) -> Result<CheckReport> {
    let mut findings = std::mem::take(&mut survey.findings);
    let hits = match repository.view(context).await {
        Ok(view) => {
            for (name, error) in &view.damaged {
                add(&mut findings, name.to_string(), error);
            }
            findings.extend(
                view.snapshots()
                    .filter_map(|record| forget_without_effect(&view, record.sid)),
            );
            walk_snapshots(context, repository, &view, &survey).await?
        }
        // Without the collector's log nobody can tell which snapshots count.
        Err(error) if is_damage(error.kind()) => {
            let object = error.context("object").unwrap_or("gc/").to_owned();
            add(&mut findings, object, &error);
            let unknown = Error::new(ErrorKind::Damaged, "it cannot be told which snapshots count");
            add(&mut findings, "snapshots/".to_owned(), &unknown);
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let snapshots = hits.len() as u64;
    let mut snapshots_hit = Vec::new();
    for (sid, hit) in hits {
        if let Some(what) = hit {
            snapshots_hit.push(sid.name());
            findings.push(Finding {
                object: format!("snapshot {}", sid.short()),
                what,
                is_error: true,
            });
        }
    }
    Ok(CheckReport {
        findings,
        survey,
        snapshots,
        snapshots_hit,
        seconds: 0.0,
    })
}

/// Adds an error about an object unless it has one already.
fn add(findings: &mut Vec<Finding>, object: String, error: &Error) {
    if !findings.iter().any(|finding| finding.object == object) {
        findings.push(Finding {
            object,
            what: error.to_string(),
            is_error: true,
        });
    }
}

/// Worth knowing: whoever put it wanted something else, and it takes effect when nothing stands against it any more.
fn forget_without_effect(view: &View, sid: SessionId) -> Option<Finding> {
    let why = view.kept_in_spite_of_forget(&sid)?;
    Some(Finding {
        object: format!("snapshot {}", sid.short()),
        what: format!("somebody let it go, without an effect as long as this holds: {why}"),
        is_error: false,
    })
}

fn is_damage(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Damaged | ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::WrongKey
    )
}

async fn walk_snapshots(
    context: &Context,
    repository: &Repository,
    view: &View,
    survey: &SurveyReport,
) -> Result<Vec<(SessionId, Option<String>)>> {
    let blobs = repository.reader_of_store(context, view);
    blobs.avoid(&survey.bad_packs)?;
    let mut marks = Marks::new(context, &blobs);
    let hits = walk_all(context, view, &blobs, &mut marks, true).await?;
    if hits.iter().any(|(_, hit)| hit.is_some()) {
        // What snapshots share was visited once, for the first of them: damage there hits the others too.
        return walk_all(context, view, &blobs, &mut marks, false).await;
    }
    Ok(hits)
}

/// Walks the trees of all snapshots; gives for each what is wrong with it. With `share`, what two have in common is visited once.
async fn walk_all(
    context: &Context,
    view: &View,
    blobs: &BlobReader,
    marks: &mut Marks,
    share: bool,
) -> Result<Vec<(SessionId, Option<String>)>> {
    let mut hits = Vec::new();
    for record in view.snapshots() {
        context.check_cancelled()?;
        marks.begin_snapshot(share);
        let reader = SnapshotReader::new(record.clone(), blobs.clone(), context.budget.total());
        walk(reader.tree().source().as_ref(), &record.root, marks).await?;
        if let Some((_, refs)) = &record.incident_list {
            marks.incident_list(refs);
        }
        hits.push((record.sid, marks.describe()));
    }
    Ok(hits)
}

/// What was seen of the trees, and what of one snapshot cannot be read.
struct Marks {
    context: Context,
    blobs: BlobReader,
    seen: HashSet<BlobId>,
    entry: Option<Key>,
    named: Vec<String>,
    entries_hit: u64,
    nodes_hit: u64,
}

impl Marks {
    fn new(context: &Context, blobs: &BlobReader) -> Self {
        Self {
            context: context.clone(),
            blobs: blobs.clone(),
            seen: HashSet::new(),
            entry: None,
            named: Vec::new(),
            entries_hit: 0,
            nodes_hit: 0,
        }
    }

    fn begin_snapshot(&mut self, share: bool) {
        if !share {
            self.seen.clear();
        }
        self.entry = None;
        self.named.clear();
        self.entries_hit = 0;
        self.nodes_hit = 0;
    }

    /// The entry that was told last lacks something; counted once.
    fn hit_entry(&mut self) {
        if let Some(key) = self.entry.take() {
            self.entries_hit += 1;
            if self.named.len() < NAMED_MAX {
                self.named.push(key.to_string());
            }
        }
    }

    fn incident_list(&mut self, refs: &[BlobRef]) {
        self.entry = Some("(the list of incidents)".into());
        if refs.iter().any(|r| !self.blobs.has(&r.id)) {
            self.hit_entry();
        }
        self.entry = None;
    }

    fn describe(&self) -> Option<String> {
        if self.entries_hit + self.nodes_hit == 0 {
            return None;
        }
        let mut text = String::from("does not restore wholly:");
        if self.nodes_hit > 0 {
            let hit = self.nodes_hit;
            let _ = write!(
                text,
                " {hit} parts of its tree cannot be read, with all entries below them;"
            );
        }
        if self.entries_hit > 0 {
            let (hit, named) = (self.entries_hit, self.named.join(", "));
            let _ = write!(text, " the content of {hit} entries is lost: {named}");
        }
        let more = self.entries_hit.saturating_sub(self.named.len() as u64);
        if more > 0 {
            let _ = write!(text, " and {more} more");
        }
        Some(text)
    }
}

impl Marker for Marks {
    fn node(&mut self, id: BlobId, _: u8, _: Totals) -> bool {
        self.seen.insert(id)
    }

    fn list(&mut self, list: &BlobRef) -> bool {
        // Not remembered: a list that is lost hits every entry that names it.
        if !self.blobs.has(&list.id) {
            self.hit_entry();
            return false;
        }
        true
    }

    fn data(&mut self, chunk: &BlobRef) {
        if !self.blobs.has(&chunk.id) {
            self.hit_entry();
        }
    }

    fn entry(&mut self, entry: &EntryRecord) {
        self.entry = Some(entry.key.clone());
        self.context.emit(&Event::Progress { bytes: 0 });
    }

    fn failed(&mut self, error: Error) -> Result<()> {
        match error.kind() {
            kind if is_damage(kind) => {
                if self.entry.is_some() && error.context("list").is_some() {
                    self.hit_entry();
                } else {
                    self.nodes_hit += 1;
                }
                Ok(())
            }
            _ => Err(error),
        }
    }
}
