//! Into a repository with the same keys: whole packs, and only those that it lacks.

use super::{Brought, CopyReport, Job, Source, is_about_snapshot};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::entry::BlobRef;
use crate::format::id::BlobId;
use crate::format::layout::ObjectName;
use crate::format::node::Totals;
use crate::format::snapshot::SnapshotRecord;
use crate::ops::list::ListedSnapshot;
use crate::ops::needs::ask_for;
use crate::repository::{
    BlobReader, BlobWriter, Naming, Needs, PackSource, Repository, Session, There, Transfer,
};
use crate::snapshot::tree::{Marker, walk};
use crate::snapshot::{SnapshotReader, choose_parent};
use std::sync::Arc;

/// Rounds of packs that turn out to be bad, before what is left is copied blob by blob.
const ROUNDS: u32 = 8;
/// Blobs that are fetched together where no pack can be copied.
const GROUP: usize = 32;

/// Brings all that a snapshot needs and the target lacks. The inner error is about this snapshot only.
pub(super) async fn bring(
    job: &Job<'_>,
    source: &mut Source,
    session: &Session,
    (snapshot, report): (&ListedSnapshot, &mut CopyReport),
) -> Result<Result<Brought>> {
    let mut writer = session.writer(job.context);
    let naming = Arc::new(Naming::of(job.target, session.view()).await?);
    let found = find(job, source, (session, &naming), (&snapshot.record, &mut writer)).await;
    let brought = match found {
        Ok(Ok(())) => transfer(job, source, naming, (snapshot, &mut writer, report)).await,
        failed => failed,
    };
    if !matches!(brought, Ok(Ok(())))
        && let Err(second) = writer.flush().await
    {
        let text = format!("what was copied could not all be kept for the next run: {second}");
        job.context.emit(&Event::Note { text });
    }
    if let Err(error) = brought? {
        return Ok(Err(error));
    }
    let (durable, record) = (writer.finish().await?, SnapshotRecord::clone(&snapshot.record));
    Ok(Ok(Brought { durable, record }))
}

/// Packs and bytes that a copy of snapshots into `target` would bring.
pub(super) async fn plan(
    context: &Context,
    source: &Repository,
    target: Option<&Repository>,
    snapshots: &[&ListedSnapshot],
) -> Result<(u64, u64)> {
    let view = source.view(context).await?;
    let mut needs = Needs::new(&view);
    for snapshot in snapshots {
        context.check_cancelled()?;
        let blobs = source.reader_of(context, &view, snapshot.record.sid);
        match ask_for(&blobs, &snapshot.record, &mut needs, |_| false).await {
            // A run will say so of this snapshot, and copy the others.
            Err(error) if is_about_snapshot(&error) => {}
            needed => drop(needed?),
        }
    }
    let there = match target {
        Some(target) => There::planned(&target.view_of_writer(context).await?),
        None => There::nothing(),
    };
    let transfer = needs.plan(&there);
    Ok((transfer.packs(), transfer.bytes))
}

/// Finds what the snapshot needs that is not below a node of a snapshot there.
async fn find(
    job: &Job<'_>,
    source: &mut Source,
    (session, naming): (&Session, &Naming),
    (record, writer): (&Arc<SnapshotRecord>, &mut BlobWriter),
) -> Result<Result<()>> {
    source.needs.begin();
    if !naming.has_quarantine() {
        know(job, session, record, &mut source.needs).await?;
    }
    let blobs = job.source.reader_of(job.context, &source.view, record.sid);
    let walk = ask_for(&blobs, record, &mut source.needs, |_| false);
    match writer.alive_during(walk).await? {
        Err(error) if is_about_snapshot(&error) => Ok(Err(error)),
        needed => needed.map(|_| Ok(())),
    }
}

/// W5 (A): what is below a node of a snapshot there need not be looked at. Only inner nodes are read: they name the leaves.
async fn know(job: &Job<'_>, session: &Session, record: &SnapshotRecord, needs: &mut Needs) -> Result<()> {
    let (host, project) = (&record.host, record.project.as_deref());
    let view = session.view();
    let earlier = view.snapshots().filter(|there| there.started <= record.started);
    let base = choose_parent(earlier, host, project, &record.sources);
    let Some(base) = base.or_else(|| choose_parent(view.snapshots(), host, project, &record.sources)) else {
        return Ok(());
    };
    let blobs = job.target.reader(job.context, view);
    let reader = SnapshotReader::new(base.clone(), blobs, job.context.budget.total());
    match walk(reader.tree().source().as_ref(), &base.root, &mut Inner(needs)).await {
        // Less is known then, and more is looked at.
        Err(error) if is_about_snapshot(&error) => Ok(()),
        walked => walked,
    }
}

/// Copies packs until nothing is missing; those that are bad are left out, and what only they hold is read blob by blob.
async fn transfer(
    job: &Job<'_>,
    source: &mut Source,
    naming: Arc<Naming>,
    (snapshot, writer, report): (&ListedSnapshot, &mut BlobWriter, &mut CopyReport),
) -> Result<Result<()>> {
    let there = writer.there().await?;
    for _ in 0..ROUNDS {
        let transfer = source.needs.plan(&there);
        let from = PackSource {
            repository: job.source,
            needs: &source.needs,
            naming: naming.clone(),
        };
        let bad = writer.put_packs(&from, &transfer).await?;
        if bad.is_empty() {
            let blobs = job
                .source
                .reader_of(job.context, &source.view, snapshot.record.sid);
            return put_singles(job, &blobs, writer, &transfer).await;
        }
        source.needs.took(&transfer);
        for (pack, why) in bad {
            source.needs.avoid(&pack);
            let name = ObjectName::Pack(pack).to_string();
            if !report.bad_packs.iter().any(|(known, _)| *known == name) {
                report.bad_packs.push((name, why.to_string()));
            }
        }
    }
    Ok(Err(Error::new(
        ErrorKind::Damaged,
        "packs of the source are gone or damaged again and again",
    )))
}

async fn put_singles(
    job: &Job<'_>,
    blobs: &BlobReader,
    writer: &mut BlobWriter,
    transfer: &Transfer,
) -> Result<Result<()>> {
    let mut lost = Vec::new();
    for group in transfer.singles.chunks(GROUP) {
        let ids: Vec<BlobId> = group.iter().map(|(_, id)| *id).collect();
        blobs.prefetch(&ids)?;
        for (kind, id) in group {
            job.context.check_cancelled()?;
            if writer.reusable(id).await? {
                continue;
            }
            match blobs.get(*kind, id).await {
                Ok(bytes) => {
                    let held = job.context.budget.reserve(bytes.len() as u64).await;
                    writer.put(*kind, *id, &bytes, held).await?;
                }
                Err(error) if is_about_snapshot(&error) => lost.push(error),
                Err(error) => return Err(error),
            }
        }
    }
    let count = lost.len();
    Ok(match lost.into_iter().next() {
        None => Ok(()),
        Some(first) => Err(Error::new(
            ErrorKind::Damaged,
            format!("the source has lost {count} of the blobs that this snapshot needs"),
        )
        .because(first)
        .hint("run `holdall check --read-data` on the source to see what is hit")),
    })
}

/// Notes which nodes there are, and reads none of the leaves.
struct Inner<'a>(&'a mut Needs);

impl Marker for Inner<'_> {
    fn node(&mut self, id: BlobId, level: u8, _: Totals) -> bool {
        self.0.know(&id);
        level > 0
    }

    fn list(&mut self, _: &BlobRef) -> bool {
        false
    }

    fn data(&mut self, _: &BlobRef) {}
}
