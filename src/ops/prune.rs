//! Giving back the space that no snapshot needs any more: one round of the collector, or the plan of one.

use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::id::SessionId;
use crate::format::layout::ObjectName;
use crate::repository::Repository;
use crate::repository::collect::{
    CollectOptions, CollectPlan, OpenSession, Round, SealedRound, Swept, Waiting,
};
use crate::store::Capability;

/// How to collect.
#[derive(Clone, Debug, Default)]
pub struct PruneRequest {
    /// How the collector goes about it.
    pub options: CollectOptions,
    /// Go on though over 30 % of the snapshots or half of the bytes go.
    pub confirmed: bool,
    /// The caller vouches that nobody else writes or collects: for stores that do not keep an object that is put twice.
    pub exclusive: bool,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct PruneReport {
    /// What the round would do, or was meant to.
    pub plan: CollectPlan,
    /// What it did; nothing in a dry run, and where there was nothing to do.
    pub round: Option<SealedRound>,
    /// What was deleted, an earlier round's leavings included.
    pub swept: Swept,
    /// Sessions that were ended because nobody heard of them.
    pub fenced: Vec<SessionId>,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Seconds.
    pub seconds: f64,
}

/// Collects once.
///
/// # Errors
/// `Refused` for a plan that takes over 30 % of the snapshots or half of the bytes and is not confirmed, and on a store that
/// overwrites without [`PruneRequest::exclusive`]; `Busy` if another collector works here; `Conflict` if one was faster; `Damaged` or
/// `Unreadable` if nobody can tell what is needed; `Cancelled`; or what the store says. Whatever happens, nothing that a snapshot needs is gone, and
/// the next collection goes on where this one ended.
pub async fn prune(
    context: &Context,
    repository: &Repository,
    request: &PruneRequest,
) -> Result<PruneReport> {
    let started = context.clock.now();
    if !request.options.dry_run {
        check_store(repository, request.exclusive).await?;
    }
    phase(context, "mark");
    let round = Round::begin(repository, context, request.options.clone()).await?;
    context.emit(&Event::PhaseEnded { phase: "mark" });
    let mut report = PruneReport {
        plan: round.plan().clone(),
        swept: round.swept(),
        dry_run: request.options.dry_run,
        ..PruneReport::default()
    };
    if !report.dry_run && !report.plan.is_needed {
        round.leave().await?;
    } else if !report.dry_run {
        if report.plan.is_large && !request.confirmed {
            return Err(too_large(&report.plan));
        }
        let name = round.name();
        if let Err(error) = collect(context, round, &mut report).await {
            give_way(context, repository, name).await;
            return Err(with_fenced(error, &report.fenced));
        }
    }
    report.seconds = context.clock.now().seconds_since(started);
    Ok(report)
}

async fn check_store(repository: &Repository, exclusive: bool) -> Result<()> {
    if !repository.config().features.may_delete() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "a newer program must collect here; this one can read the repository",
        ));
    }
    let capability = repository
        .store()
        .probe(&ObjectName::Marker, repository.marker())
        .await?;
    if capability == Capability::PutIfAbsent || exclusive {
        return Ok(());
    }
    let what = "this store does not keep an object that is put twice, so that a collector and a writer could both believe that they \
         decided a session";
    Err(Error::new(ErrorKind::Refused, what)
        .hint("make sure that nothing else writes to the repository, and give --exclusive"))
}

fn too_large(plan: &CollectPlan) -> Error {
    let going = plan.snapshots_going.len() as u64;
    let all = going + plan.snapshots_kept;
    let bytes = plan.dead_bytes + plan.repack_bytes - plan.copied_bytes;
    let what = format!(
        "this would take {going} of {all} snapshots and {bytes} of {} bytes: more than 30 % of the snapshots or half of the bytes",
        plan.pack_bytes
    );
    Error::new(ErrorKind::Refused, what)
        .hint("look at it with --dry-run; if it is meant, run the same command with --confirm")
}

/// G3 to G10.
async fn collect(context: &Context, round: Round, report: &mut PruneReport) -> Result<()> {
    phase(context, "wait");
    let mut waiting = round.condemn().await?;
    let waited = wait(context, &mut waiting).await;
    report.fenced = waiting.fenced().to_vec();
    waited?;
    context.emit(&Event::PhaseEnded { phase: "wait" });
    phase(context, "collect");
    let sealed = waiting.rescue().await?.seal().await?;
    for text in &sealed.round().notes {
        context.emit(&Event::Note { text: text.clone() });
    }
    report.round = Some(sealed.round().clone());
    context.emit(&Event::PhaseEnded { phase: "collect" });
    phase(context, "delete");
    report.swept = sealed.sweep().await?;
    context.emit(&Event::PhaseEnded { phase: "delete" });
    Ok(())
}

/// Waits for sessions that may rest on what is condemned; says whom for, each once.
async fn wait(context: &Context, waiting: &mut Waiting) -> Result<()> {
    let mut told = std::collections::BTreeSet::new();
    let mut ended = 0;
    loop {
        let settled = waiting.settle().await;
        // Told at once: whatever becomes of the round, these runs have been ended.
        for sid in waiting.fenced().iter().skip(ended) {
            let text = format!(
                "session {} was ended: it was not heard of for longer than the lease",
                sid.short()
            );
            context.emit(&Event::Note { text });
        }
        ended = waiting.fenced().len();
        if settled? {
            return Ok(());
        }
        for session in waiting.open_sessions().await? {
            if told.insert(session.sid) {
                context.emit(&Event::Note {
                    text: waits_for(&session),
                });
            }
        }
        context.sleep(waiting.pause()).await?;
    }
}

/// Sessions that were ended stay so, whatever becomes of the round.
fn with_fenced(error: Error, fenced: &[SessionId]) -> Error {
    if fenced.is_empty() {
        return error;
    }
    let names: Vec<_> = fenced.iter().map(SessionId::short).collect();
    error.with("ended_sessions", names.join(", "))
}

fn waits_for(session: &OpenSession) -> String {
    let host = session.host.as_deref().unwrap_or("a host that it does not tell");
    format!(
        "waiting for session {} of {host}, which is open and was heard of {:.0} seconds ago",
        session.sid.short(),
        session.idle
    )
}

/// Lets the next collector begin at once. It could take this round over anyhow.
async fn give_way(context: &Context, repository: &Repository, round: (u64, [u8; 16])) {
    if let Err(error) = Round::abandon(repository, context, round).await {
        let text = format!("the round could not be ended; the next collection takes it over: {error}");
        context.emit(&Event::Note { text });
    }
}

fn phase(context: &Context, phase: &'static str) {
    context.emit(&Event::PhaseStarted {
        phase,
        entries: None,
        bytes: None,
    });
}
