//! Making a snapshot: sources → writer → commit.

use crate::connector::Source;
use crate::context::mutant::mutated;
use crate::context::{Context, Time};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::id::SessionId;
use crate::format::snapshot::{SnapshotRecord, SourceRecord};
use crate::repository::{BlobReader, Commit, Durable, Repository, Session};
use crate::snapshot::entry::{Item, NoPrior, Prior};
use crate::snapshot::{
    DeltaPolicy, ParentPrior, SnapshotReader, SnapshotSpec, SnapshotWriter, Written, adopt, choose_parent,
};
use futures::StreamExt;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How often a run that a collector fenced begins anew.
const TRIES: u32 = 3;

/// What to make a snapshot of.
#[derive(Clone, Debug, Default)]
pub struct SnapshotRequest {
    /// The host's name.
    pub host: String,
    /// The project that it belongs to.
    pub project: Option<String>,
    /// Labels.
    pub tags: Vec<String>,
    /// The snapshot to compare with; the newest of the same host, project and sources if not given.
    pub parent: Option<SnapshotSpec>,
    /// Read everything, whatever the parent proves.
    pub force_read: bool,
    /// Whether, and at what cost, changed content is stored as deltas.
    pub deltas: DeltaPolicy,
    /// Read the sources' lists and compare them with the parent, and write nothing.
    pub dry_run: bool,
    /// Do nothing if there is a complete snapshot of the same host, project and sources that was begun less than so many seconds ago.
    pub skip_if_newer_than: Option<u64>,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct SnapshotReport {
    /// The snapshot; of a dry run what it would be, as far as that is known without reading.
    pub snapshot: Arc<SnapshotRecord>,
    /// The snapshot it was compared with.
    pub parent: Option<SessionId>,
    /// Bytes of packs that were fetched to rest deltas on what they hold.
    pub bytes_fetched: u64,
    /// Seconds from begin to acknowledgement.
    pub seconds: f64,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Whether nothing was done because this one, of another run, is new enough.
    pub skipped: bool,
}

/// Makes a snapshot of what `open_sources` gives. A run that a collector has fenced is committed in a session of its own if that may
/// rest on all of it; only if not, the sources are opened and read once more. Nothing means that they cannot be.
///
/// # Errors
/// `Source` if a source failed as a whole, `Conflict` if the run was fenced and cannot begin anew, `Cancelled`, or what the store
/// says. After each of them nothing is committed, and what was uploaded is found by the next run.
pub async fn snapshot(
    context: &Context,
    repository: &Repository,
    request: &SnapshotRequest,
    open_sources: &mut (dyn FnMut() -> Result<Option<Vec<Box<dyn Source>>>> + Send),
) -> Result<SnapshotReport> {
    let mut adopted = None;
    let mut bytes_fetched = 0;
    let told = |mut report: Box<SnapshotReport>, bytes_fetched| {
        report.bytes_fetched = bytes_fetched;
        Ok(*report)
    };
    for _ in 0..TRIES {
        let Some(mut sources) = open_sources()? else { break };
        sources.sort_by_key(|source| key_space(&source.origin().connector));
        check_limits(request, &source_records(&sources))?;
        if request.dry_run {
            return dry_run(context, repository, request, &mut sources).await;
        }
        if let Some(report) = skip(context, repository, request, &sources).await? {
            return Ok(report);
        }
        let session = Session::begin(repository, context, &request.host, adopted);
        let session = match sources.first_mut() {
            // Neither has to wait for the other.
            Some(first) => tokio::join!(session, first.begin(context)).0?,
            None => session.await?,
        };
        let blobs = repository.reader_of_bases(context, session.view());
        let ended = run(context, repository, request, (&session, &blobs), &mut sources).await?;
        bytes_fetched += blobs.content_fetched();
        match ended {
            Ended::Done(report) => return told(report, bytes_fetched),
            Ended::Fenced(snapshot) => {
                match commit_again(context, repository, request, &session, *snapshot).await? {
                    Ended::Done(report) => return told(report, bytes_fetched),
                    Ended::Fenced(snapshot) => adopted = Some(snapshot.sid),
                }
            }
        }
    }
    Err(Error::new(
        ErrorKind::Conflict,
        "a collector ended this run while it was idle; nothing was committed",
    )
    .hint("run the same command again: what was uploaded is found and not stored twice"))
}

/// Holds what the snapshot will say of itself against the limits of the format, before anything is read or stored.
fn check_limits(request: &SnapshotRequest, sources: &[SourceRecord]) -> Result<()> {
    use crate::format::limits::{DESCRIPTION_MAX, NAME_MAX, SOURCES_MAX, TAGS_MAX};
    let check = |what: &str, found: usize, most: usize, unit: &str| {
        if found <= most {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Invalid,
            format!("{what}: {found} {unit}, and {most} is the most"),
        ))
    };
    check(
        "the host's name is too long",
        request.host.len(),
        NAME_MAX,
        "bytes",
    )?;
    let project = request.project.as_ref().map_or(0, String::len);
    check("the project's name is too long", project, NAME_MAX, "bytes")?;
    let tags: BTreeSet<&String> = request.tags.iter().collect();
    check("too many tags", tags.len(), TAGS_MAX, "tags")?;
    for tag in tags {
        check("a tag is too long", tag.len(), NAME_MAX, "bytes")?;
    }
    check("too many sources", sources.len(), SOURCES_MAX, "sources")?;
    for source in sources {
        check(
            "the description of what is read is too long",
            source.description.len(),
            DESCRIPTION_MAX,
            "bytes",
        )?;
        let version = source.version.as_ref().map_or(0, String::len);
        check(
            "the version of what is read is too long",
            version,
            NAME_MAX,
            "bytes",
        )?;
    }
    Ok(())
}

/// The first bytes of a connector's keys: sources of one snapshot are read in this order.
fn key_space(connector: &str) -> String {
    match connector {
        "postgres" => "database".to_owned(),
        "stdio" => "streams".to_owned(),
        other => other.to_owned(),
    }
}

fn source_records(sources: &[Box<dyn Source>]) -> Vec<SourceRecord> {
    let records = sources.iter().map(|source| {
        let origin = source.origin();
        SourceRecord {
            connector: origin.connector,
            description: origin.description,
            version: origin.version,
        }
    });
    records.collect()
}

fn find_parent(
    request: &SnapshotRequest,
    snapshots: &[Arc<SnapshotRecord>],
    sources: &[SourceRecord],
) -> Result<Option<Arc<SnapshotRecord>>> {
    match &request.parent {
        Some(spec) => spec.find(snapshots, &|_| true).map(Some),
        None => Ok(choose_parent(
            snapshots.iter(),
            &request.host,
            request.project.as_deref(),
            sources,
        )),
    }
}

/// How a try ended.
enum Ended {
    Done(Box<SnapshotReport>),
    /// The session was fenced; what it would have committed.
    Fenced(Box<SnapshotRecord>),
}

/// The report of a run that has nothing to do.
async fn skip(
    context: &Context,
    repository: &Repository,
    request: &SnapshotRequest,
    sources: &[Box<dyn Source>],
) -> Result<Option<SnapshotReport>> {
    let Some(seconds) = request.skip_if_newer_than else {
        return Ok(None);
    };
    let view = repository.view(context).await?;
    let now = context.clock.now();
    // What a wrong clock dated a day ahead or more would make every run idle until then.
    let is_new = |snapshot: &&Arc<SnapshotRecord>| {
        let age = now.seconds_since(snapshot.started);
        !snapshot.partial
            && snapshot.started.seconds < now.seconds.saturating_add(86_400)
            && age < Duration::from_secs(seconds).as_secs_f64()
    };
    let (host, project) = (&request.host, request.project.as_deref());
    let new = choose_parent(
        view.snapshots().filter(is_new),
        host,
        project,
        &source_records(sources),
    );
    Ok(new.map(|snapshot| SnapshotReport {
        parent: snapshot.parent,
        snapshot,
        bytes_fetched: 0,
        seconds: 0.0,
        dry_run: false,
        skipped: true,
    }))
}

/// Commits what a fenced session has read and uploaded, in a session of its own, without reading the sources again. Fenced if that
/// cannot be: a later run reads them.
async fn commit_again(
    context: &Context,
    repository: &Repository,
    request: &SnapshotRequest,
    fenced: &Session,
    mut snapshot: SnapshotRecord,
) -> Result<Ended> {
    let session = Session::begin(repository, context, &request.host, Some(fenced.sid())).await?;
    let adopted = adopt(repository, context, &session, &snapshot).await;
    snapshot.sid = session.sid();
    snapshot.nonce = context.random.bytes()?;
    let durable = match adopted {
        Ok(Some(durable)) => durable,
        Ok(None) => {
            let why = "what a fenced session had read must be read again";
            session.abort(context, why).await?;
            return Ok(Ended::Fenced(Box::new(snapshot)));
        }
        Err(error) => return Err(end(context, &session, error).await),
    };
    let parent = snapshot.parent;
    commit(context, &session, durable, (snapshot, parent), fenced.started()).await
}

/// W7 and W8.
async fn commit(
    context: &Context,
    session: &Session,
    durable: Durable,
    (snapshot, parent): (SnapshotRecord, Option<SessionId>),
    started: Time,
) -> Result<Ended> {
    match session.commit(context, durable, snapshot.clone()).await {
        Ok(Commit::Fenced) => Ok(Ended::Fenced(Box::new(snapshot))),
        Ok(Commit::Acknowledged(snapshot)) => Ok(Ended::Done(Box::new(SnapshotReport {
            snapshot,
            parent,
            bytes_fetched: 0,
            seconds: context.clock.now().seconds_since(started),
            dry_run: false,
            skipped: false,
        }))),
        // Whether the commit is there or not: who creates the key decides, and this abort only does if nothing else did.
        Err(error) => Err(end(context, session, error).await),
    }
}

/// One try.
async fn run(
    context: &Context,
    repository: &Repository,
    request: &SnapshotRequest,
    (session, blobs): (&Session, &BlobReader),
    sources: &mut [Box<dyn Source>],
) -> Result<Ended> {
    let records = source_records(sources);
    for (name, error) in &session.view().damaged {
        let text = format!("{name} is damaged: {error}; `holdall check` tells what it means");
        context.emit(&Event::Note { text });
    }
    let bases = repository.bases(session.view());
    // One that was committed while this session began may stand in no run that was listed: its tree cannot be read here.
    let is_here = |snapshot: &&Arc<SnapshotRecord>| {
        request.parent.is_some() || bases.has(&snapshot.root.id) || mutated!(ParentUnchecked)
    };
    let snapshots: Vec<_> = session.view().snapshots().filter(is_here).cloned().collect();
    let parent = find_parent(request, &snapshots, &records)?;
    let budget = context.budget.total();
    let reader = parent
        .clone()
        .map(|parent| SnapshotReader::new(parent, blobs.clone(), budget));
    let prior: Arc<dyn Prior> = match &reader {
        Some(reader) if !request.force_read => Arc::new(ParentPrior::new(
            reader.clone(),
            blobs.clone(),
            repository.bases(session.view()),
        )),
        _ => Arc::new(NoPrior),
    };
    let mut writer = SnapshotWriter::new(
        repository,
        session,
        context,
        reader.as_ref().map(SnapshotReader::tree),
    );
    if parent.is_some() {
        writer.use_deltas(blobs.clone(), request.deltas);
    }
    if let Err(error) = read_sources(context, repository, sources, &prior, &mut writer).await {
        leave_sources(sources).await;
        give_up(context, session, &mut writer, &error).await;
        return Err(error);
    }
    let written = match writer.finish().await {
        Ok(written) => written,
        Err(error) => return Err(end(context, session, error).await),
    };
    let snapshot = assemble(request, session, sources, parent.as_deref(), &written, context)?;
    let parent = parent.map(|parent| parent.sid);
    commit(
        context,
        session,
        written.durable,
        (snapshot, parent),
        session.started(),
    )
    .await
}

async fn read_sources(
    context: &Context,
    repository: &Repository,
    sources: &mut [Box<dyn Source>],
    prior: &Arc<dyn Prior>,
    writer: &mut SnapshotWriter,
) -> Result<()> {
    context.emit(&Event::PhaseStarted {
        phase: "snapshot",
        entries: None,
        bytes: None,
    });
    for source in sources.iter_mut() {
        writer.use_chunker(repository.chunker(&source.origin().connector));
        let mut items = source.entries(context, prior.clone());
        while let Some(item) = writer.alive_during(items.next()).await.map_err(interrupted)? {
            writer.add(item?).await?;
        }
        drop(items);
        source.finish().await?;
    }
    context.emit(&Event::PhaseEnded { phase: "snapshot" });
    Ok(())
}

/// Has nothing go on where it was read.
async fn leave_sources(sources: &mut [Box<dyn Source>]) {
    for source in sources.iter_mut() {
        source.give_up().await;
    }
}

fn interrupted(error: Error) -> Error {
    if error.kind() != ErrorKind::Cancelled {
        return error;
    }
    error.hint("nothing was committed; the next run finds what was uploaded")
}

/// Keeps what was uploaded findable and ends the session. The first error is what counts: one more here changes nothing, a session
/// that stays open is fenced by a collector.
async fn give_up(context: &Context, session: &Session, writer: &mut SnapshotWriter, error: &Error) {
    if let Err(second) = writer.keep_for_next_run().await {
        let text = format!("what was read could not all be kept for the next run: {second}");
        context.emit(&Event::Note { text });
    }
    abort(context, session, error).await;
}

/// Ends a session whose last steps failed, and gives the error back.
async fn end(context: &Context, session: &Session, error: Error) -> Error {
    abort(context, session, &error).await;
    error
}

async fn abort(context: &Context, session: &Session, error: &Error) {
    if let Err(second) = session.abort(context, error.what()).await {
        let text = format!("the session could not be ended, a collector will: {second}");
        context.emit(&Event::Note { text });
    }
}

/// The moment that all of the sources agree on.
fn moment(sources: &[Box<dyn Source>]) -> Option<Time> {
    let mut moments = sources.iter().map(|source| source.consistent_at());
    let first = moments.next().flatten()?;
    moments.all(|other| other == Some(first)).then_some(first)
}

fn assemble(
    request: &SnapshotRequest,
    session: &Session,
    sources: &[Box<dyn Source>],
    parent: Option<&SnapshotRecord>,
    written: &Written,
    context: &Context,
) -> Result<SnapshotRecord> {
    let mut tags = request.tags.clone();
    tags.sort_unstable();
    tags.dedup();
    Ok(SnapshotRecord {
        sid: session.sid(),
        started: session.started(),
        consistent_at: moment(sources),
        ended: context.clock.now(),
        host: request.host.clone(),
        project: request.project.clone(),
        tags,
        // Once more: a source may know the version of its system only now.
        sources: source_records(sources),
        parent: parent.map(|parent| parent.sid),
        original: None,
        root: written.root,
        partial: written.incident_count > 0,
        statistics: written.statistics,
        incident_count: written.incident_count,
        incidents: written.incidents.clone(),
        incident_list: written.incident_list.clone(),
        tool: format!("holdall {}", env!("CARGO_PKG_VERSION")),
        nonce: context.random.bytes()?,
    })
}

async fn dry_run(
    context: &Context,
    repository: &Repository,
    request: &SnapshotRequest,
    sources: &mut [Box<dyn Source>],
) -> Result<SnapshotReport> {
    let started = context.clock.now();
    let view = repository.view(context).await?;
    let records = source_records(sources);
    // As a session chooses, which goes by any forget.
    let kept = view.snapshots().filter(|s| !view.has_forget(&s.sid));
    let parent = find_parent(request, &kept.cloned().collect::<Vec<_>>(), &records)?;
    let blobs = repository.reader(context, &view);
    let reader = parent
        .clone()
        .map(|parent| SnapshotReader::new(parent, blobs.clone(), context.budget.total()));
    let prior: Arc<dyn Prior> = match reader {
        Some(reader) if !request.force_read => {
            Arc::new(ParentPrior::new(reader, blobs, repository.bases(&view)))
        }
        _ => Arc::new(NoPrior),
    };
    let mut snapshot =
        SnapshotRecord::planned(request.host.clone(), request.project.clone(), records, started);
    if let Err(error) = look_at_sources(context, sources, &prior, &mut snapshot).await {
        leave_sources(sources).await;
        return Err(error);
    }
    snapshot.ended = context.clock.now();
    let seconds = snapshot.ended.seconds_since(started);
    Ok(SnapshotReport {
        snapshot: Arc::new(snapshot),
        parent: parent.map(|p| p.sid),
        bytes_fetched: 0,
        seconds,
        dry_run: true,
        skipped: false,
    })
}

async fn look_at_sources(
    context: &Context,
    sources: &mut [Box<dyn Source>],
    prior: &Arc<dyn Prior>,
    snapshot: &mut SnapshotRecord,
) -> Result<()> {
    for source in sources.iter_mut() {
        let mut items = source.entries(context, prior.clone());
        loop {
            let item = tokio::select! {
                biased;
                () = context.cancel.cancelled() => return context.check_cancelled(),
                item = items.next() => item,
            };
            let Some(item) = item else { break };
            match item? {
                Item::Entry(entry) => {
                    snapshot.statistics.entries_new += 1;
                    snapshot.statistics.bytes_read += entry.head.size.unwrap_or(0);
                }
                Item::Unchanged(_) => snapshot.statistics.entries_unchanged += 1,
                Item::Incident(incident) => {
                    context.emit(&Event::Incident {
                        name: incident.key.to_string(),
                        why: incident.why.clone(),
                    });
                    snapshot.incident_count += 1;
                    snapshot.partial = true;
                }
                Item::Note(text) => context.emit(&Event::Note { text }),
            }
        }
    }
    Ok(())
}
