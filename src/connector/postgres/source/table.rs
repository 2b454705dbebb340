//! One table: compared with the parent, checked by samples, and planned, before the first of its entries is yielded.

use super::Reading;
use super::marks::{Lanes, Marks};
use super::prior::PriorRanges;
use super::read::{Job, Running};
use super::seats::Seat;
use super::worker::Hands;
use crate::connector::postgres::catalog::Table;
use crate::connector::postgres::incarnation::incarnation;
use crate::connector::postgres::key::{self, Place};
use crate::connector::postgres::plan::{self, Approach, Present, Range, Ranges};
use crate::connector::postgres::record::{How, SegmentRecord};
use crate::connector::postgres::segment::{self, Cut};
use crate::connector::postgres::session::failed;
use crate::connector::postgres::state::{Comparison, TableState};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::entry::{Content, Entry, EntryHead, EntryKind, Item, PriorEntry};
use std::sync::Arc;
use tokio_postgres::types::Type;

/// A table that is ready to be yielded.
pub(super) struct Planned {
    pub(super) table: Arc<Table>,
    /// The group entry.
    pub(super) group: Item,
    pub(super) rows: Rows,
    /// Whether ranges that are not read stand in the parent.
    pub(super) takes_over: bool,
    /// WAL summaries left something out.
    pub(super) summarized: bool,
    pub(super) how: How,
    pub(super) why: String,
    /// Unchanged ranges that were read again.
    pub(super) checked: u64,
    /// What people should know.
    pub(super) note: Option<String>,
    /// About how many bytes a range has, and all.
    pub(super) about: (u64, u64),
    /// Its only run, begun already, and the number of the range behind it.
    pub(super) begun: Option<(Running, usize)>,
}

/// How the rows come.
pub(super) enum Rows {
    /// By ranges of blocks.
    Ranges(Ranges),
    /// In one stream.
    Stream(Cut),
}

/// A plan in the making.
struct Draft {
    rows: Rows,
    /// What the next comparison rests on.
    comparison: Option<Comparison>,
    /// The parent's group entry, if nothing changed.
    kept: Option<PriorEntry>,
    takes_over: bool,
    summarized: bool,
    how: How,
    why: String,
    checked: u64,
    note: Option<String>,
    about: (u64, u64),
}

/// Plans a table, once more if the connection is lost. A table of one run is begun to be read, if others wait meanwhile.
pub(super) async fn plan(reading: Arc<Reading>, table: Arc<Table>) -> Result<Planned> {
    let seat = reading.workers.seat().await?;
    let mut tries = 0;
    let draft = loop {
        reading.session.check()?;
        let (hands, failure) = match reading.workers.hands(Some(&table)).await {
            Ok(hands) => match draft(&reading, &table, &hands).await {
                Ok(draft) => {
                    reading.workers.give_back(hands);
                    break draft;
                }
                Err(failure) => (Some(hands), failure),
            },
            Err(failure) => (None, failure),
        };
        tries += 1;
        let recovered = reading.workers.recover(&reading.context, hands, tries, failure);
        recovered.await?;
    };
    // Samples are read on connections as any other rows.
    let seat = Some(seat).filter(|_| !draft.takes_over);
    let draft = check(&reading, &table, draft).await?;
    let mut planned = finish(&reading, table, draft)?;
    if let Rows::Ranges(ranges) = &planned.rows
        && !reading.dry_run
        && let Some((run, next)) = ranges.run(0)
        && ranges.run(next).is_none()
        && let Some(seat) = seat.or_else(|| reading.workers.try_seat()).and_then(Seat::ahead)
    {
        let running = Job::run(&planned.table, ranges, &run)?.start(&reading, seat);
        planned.begun = Some((running, next));
    }
    Ok(planned)
}

/// Everything is read, and nothing recorded for the next time.
fn in_full(rows: Rows, why: &str) -> Draft {
    Draft {
        rows,
        comparison: None,
        kept: None,
        takes_over: false,
        summarized: false,
        how: How::Full,
        why: why.to_owned(),
        checked: 0,
        note: None,
        about: (0, 0),
    }
}

async fn draft(reading: &Reading, table: &Table, hands: &Hands) -> Result<Draft> {
    let facts = &reading.session.facts;
    let obstacle = reading
        .obstacle
        .or(table.comparable.as_ref().err().map(String::as_str));
    if table.access_method != "heap" {
        let why = obstacle.unwrap_or("its rows have no blocks");
        let about = (0, u64::from(table.pages) * facts.block_size);
        return Ok(Draft {
            about,
            ..in_full(Rows::Stream(Cut::Hashes), why)
        });
    }
    let size = reading.workers.answer(hands, size(table, hands)).await?;
    let block = size.bytes / size.blocks.max(1);
    let fitting = segment::range_blocks(block);
    let in_full = |rows: Rows, why: &str, range_blocks: u32| Draft {
        about: (size.bytes.min(block * u64::from(range_blocks)), size.bytes),
        ..in_full(rows, why)
    };
    if facts.server.version_num < 140_000 || table.record.condition.is_some() {
        let why = obstacle.unwrap_or("it is read by a condition");
        return Ok(in_full(Rows::Stream(Cut::Blocks(fitting)), why, fitting));
    }
    let present = Present {
        obstacle,
        incarnation: incarnation(facts, table),
        snapshot_xmin: facts.server.snapshot_xmin,
        snapshot_xmax: facts.xmax.unwrap_or(0),
        position: facts.server.position.unwrap_or(0),
    };
    let (group, prior) = PriorRanges::open(reading.prior.as_ref(), &reading.database, &table.name).await;
    let state = group
        .as_ref()
        .and_then(|group| TableState::decode(group.state()).ok());
    match plan::approach(state.as_ref(), &present) {
        Approach::Unmarked(why) => {
            let ranges = Ranges::unmarked(fitting, size.blocks);
            Ok(in_full(Rows::Ranges(ranges), &why, fitting))
        }
        Approach::Full(why) => {
            let ranges = Ranges::unmarked(fitting, size.blocks).marked_by_rows();
            Ok(Draft {
                comparison: comparison(reading, &present, 0),
                ..in_full(Rows::Ranges(ranges), &why, fitting)
            })
        }
        Approach::Compare { range_blocks, since } => {
            let blocks = (size.blocks, range_blocks);
            let (compared, note) = compare(reading, (table, hands), blocks, since, prior).await?;
            let (all, read) = compared.ranges.counts();
            let changed = read + compared.vanished;
            let old = state.and_then(|state| state.comparison);
            let serves = old.is_some_and(|old| plan::still_serves(&old, &present));
            let (how, why) = compared.verdict(changed);
            Ok(Draft {
                comparison: comparison(reading, &present, plan::percent(changed, all + compared.vanished)),
                kept: group.filter(|_| changed == 0 && serves),
                takes_over: true,
                summarized: compared.summarized,
                how,
                note,
                ..in_full(Rows::Ranges(compared.ranges), why, range_blocks)
            })
        }
    }
}

/// What the next snapshot compares with: nothing, if what was seen may be taken back by a crash and its transactions' numbers be
/// given to others. What the parent saw is durable all the same, so this snapshot may be compared with it.
fn comparison(reading: &Reading, present: &Present<'_>, changed_percent: u32) -> Option<Comparison> {
    Some(Comparison {
        snapshot_xmin: present.snapshot_xmin,
        flushed: reading.flushed?,
        incarnation: present.incarnation,
        changed_percent,
    })
}

/// What a comparison found.
struct Compared {
    ranges: Ranges,
    /// How many ranges have no rows any more.
    vanished: u64,
    /// WAL summaries left something out.
    summarized: bool,
    /// They left out this range, which changed.
    missed: Option<u64>,
}

impl Compared {
    /// How a table of so many changed ranges is read, and why.
    fn verdict(&self, changed: u64) -> (How, &'static str) {
        match (changed, self.summarized) {
            (0, false) => (How::TakenOver, "proven unchanged"),
            (0, true) => (How::TakenOver, "proven unchanged by WAL summaries"),
            (_, false) => (How::Changes, "compared"),
            (_, true) => (How::Changes, "compared where WAL summaries name it"),
        }
    }
}

/// Compares a table with the parent, with what WAL summaries tell unless that turns out to be wrong.
async fn compare(
    reading: &Reading,
    (table, hands): (&Table, &Hands),
    (blocks, range_blocks): (u64, u32),
    since: u64,
    prior: PriorRanges,
) -> Result<(Compared, Option<String>)> {
    reading.summaries.look(reading, blocks).await?;
    let compared = {
        let lanes = Lanes::new(reading, table, hands, (blocks, range_blocks), since);
        lay_beside(table, Marks::new(&lanes, prior), range_blocks).await?
    };
    let note = compared.missed.map(|block| {
        reading.summaries.distrust();
        format!(
            "{}: the server's WAL summaries do not name the blocks from {block} on, which changed; they were used no more, nor \
             will they be for the next snapshot. Please report this, with the server's version and what was done to the table",
            table.name
        )
    });
    if !compared.summarized || reading.summaries.are_trusted() {
        return Ok((compared, note));
    }
    let lanes = Lanes::new(reading, table, hands, (blocks, range_blocks), since).without_summaries();
    let (_, prior) = PriorRanges::open(reading.prior.as_ref(), &reading.database, &table.name).await;
    let compared = lay_beside(table, Marks::new(&lanes, prior), range_blocks).await?;
    Ok((compared, note))
}

/// Lays fingerprints beside the parent's ranges.
async fn lay_beside(table: &Table, mut marks: Marks<'_>, range_blocks: u32) -> Result<Compared> {
    let (mut ranges, mut vanished, mut missed, mut last) = (Ranges::new(range_blocks), 0, None, None);
    while let Some(stripe) = marks.next().await? {
        let mut found = stripe.found.iter().peekable();
        loop {
            let end = found.peek().map_or(stripe.blocks.end, |mark| mark.block + 1);
            let before = marks.before(end).await;
            let mark = match &before {
                Some(before) => found.next_if(|mark| mark.block == before.block),
                None => found.next(),
            };
            match (before, mark) {
                (None, None) => break,
                (before, Some(mark)) => {
                    ascending(table, &mut last, mark.block)?;
                    let unchanged = before.is_some_and(|before| plan::unchanged(mark, &before));
                    ranges.push(mark, !unchanged);
                    if stripe.is_sample(mark.block) && before.is_none_or(|before| plan::differ(mark, &before))
                    {
                        missed = Some(mark.block);
                    }
                }
                (Some(before), None) if stripe.has_looked_at(before.block) => {
                    vanished += 1;
                    if stripe.is_sample(before.block) {
                        missed = Some(before.block);
                    }
                }
                (Some(before), None) => {
                    // Only what the parent shows whole is left out.
                    if let Some(kept) = plan::shown_whole(&before, range_blocks) {
                        ascending(table, &mut last, kept.block)?;
                        ranges.push(&kept, false);
                    }
                }
            }
        }
    }
    while marks.before(u64::MAX).await.is_some() {
        vanished += 1;
    }
    Ok(Compared {
        ranges,
        vanished,
        summarized: marks.are_summarized(),
        missed,
    })
}

fn ascending(table: &Table, last: &mut Option<u64>, block: u64) -> Result<()> {
    if last.replace(block).is_some_and(|last| last >= block) {
        return Err(
            Error::new(ErrorKind::Source, "fingerprints come out of order").with("table", &table.name)
        );
    }
    Ok(())
}

/// Reads a sample of the unchanged ranges again. If one is not what the parent has, the whole table is read.
async fn check(reading: &Arc<Reading>, table: &Arc<Table>, mut draft: Draft) -> Result<Draft> {
    let Rows::Ranges(ranges) = &mut draft.rows else {
        return Ok(draft);
    };
    if !draft.takes_over || reading.dry_run {
        return Ok(draft);
    }
    let chosen: Vec<Range> = ranges
        .iter()
        .filter(|range| range.state.is_some() && !range.read && reading.checks(table.oid, range.block))
        .collect();
    if chosen.is_empty() {
        return Ok(draft);
    }
    let (_, mut prior) = PriorRanges::open(reading.prior.as_ref(), &reading.database, &table.name).await;
    let mut ahead = None;
    // Two at once: as many connections as there are anyway when a table was compared.
    let half = chosen.len().div_ceil(2).min(plan::RUN_RANGES);
    for runs in chosen.chunks(2 * half) {
        let (one, other) = runs.split_at(half.min(runs.len()));
        let read = |run| read_again(reading, table, ranges, run);
        let (one, other) = tokio::try_join!(read(one), read(other))?;
        for (block, record) in one.into_iter().chain(other) {
            if ahead.is_none() {
                ahead = prior.next().await;
            }
            while ahead.as_ref().is_some_and(|ahead| ahead.range.block < block) {
                ahead = prior.next().await;
            }
            let before = ahead.take_if(|ahead| ahead.range.block == block);
            // What the parent does not show whole any more tells nothing of the judgement: it is read anew when its turn comes.
            let Some(before) = before.filter(|before| before.range.record.rows == record.rows) else {
                continue;
            };
            if before.range.record != record {
                ranges.read_all();
                let text = format!(
                    "{}: the rows in the blocks from {block} on were judged unchanged and are not; the table was read in full. \
                     Please report this, with the server's version and what was done to the table",
                    table.name
                );
                draft.why = format!("a range judged unchanged was not: block {block}");
                (draft.how, draft.takes_over, draft.kept) = (How::Full, false, None);
                draft.summarized = false;
                draft.note = Some(text);
                return Ok(draft);
            }
            draft.checked += 1;
        }
    }
    Ok(draft)
}

/// What the ranges of a run hold.
async fn read_again(
    reading: &Arc<Reading>,
    table: &Arc<Table>,
    ranges: &Ranges,
    run: &[Range],
) -> Result<Vec<(u64, SegmentRecord)>> {
    if run.is_empty() {
        return Ok(Vec::new());
    }
    let seat = reading.workers.seat().await?;
    let mut job = Job::run(table, ranges, run)?.start(reading, seat);
    let mut found: Vec<(u64, SegmentRecord)> = Vec::new();
    while let Some(part) = job.next(reading).await? {
        match found.last_mut() {
            Some((block, record)) if *block == part.block => {
                record.rows += part.record.rows;
                record.sum.add(part.record.sum);
            }
            _ => found.push((part.block, part.record)),
        }
    }
    Ok(found)
}

fn finish(reading: &Reading, table: Arc<Table>, draft: Draft) -> Result<Planned> {
    let metadata = table.record.to_metadata().map_err(|error| {
        Error::new(
            ErrorKind::Unsupported,
            "a table's columns are more than an entry can say",
        )
        .with("table", &table.name)
        .because(error)
    })?;
    let kept = draft.kept.filter(|kept| kept.record().metadata == metadata);
    let range_blocks = match &draft.rows {
        Rows::Ranges(ranges) => ranges.range_blocks(),
        Rows::Stream(Cut::Blocks(blocks) | Cut::Marked(blocks)) => *blocks,
        Rows::Stream(Cut::Hashes) => 0,
    };
    let state = TableState {
        range_blocks,
        comparison: draft.comparison,
    };
    let group = match kept {
        Some(kept) => Item::Unchanged(kept),
        None => Item::Entry(Entry {
            head: EntryHead {
                key: key::key(&reading.database, &Place::Table(table.name.clone())),
                kind: EntryKind::Table,
                metadata,
                state: state.encode(),
                size: None,
            },
            content: Content::None,
        }),
    };
    Ok(Planned {
        table,
        group,
        rows: draft.rows,
        takes_over: draft.takes_over,
        summarized: draft.summarized,
        how: draft.how,
        why: draft.why,
        checked: draft.checked,
        note: draft.note,
        about: draft.about,
        begun: None,
    })
}

/// How large a table is now.
struct Size {
    blocks: u64,
    /// With the long values beside it.
    bytes: u64,
}

async fn size(table: &Table, hands: &Hands) -> Result<Size> {
    let sql = "SELECT pg_catalog.pg_relation_size($1), pg_catalog.pg_table_size($1),
        pg_catalog.current_setting('block_size')::pg_catalog.int8";
    let what = "cannot tell the size of a table";
    let row = hands
        .client()
        .query_typed(sql, &[(&table.oid, Type::OID)])
        .await
        .map_err(|e| failed(what, e).with("table", &table.name))?;
    let number = |index: usize| {
        let value = row.first().and_then(|row| row.try_get::<_, i64>(index).ok());
        value.and_then(|value| u64::try_from(value).ok())
    };
    let read = || {
        let heap = number(0)?;
        Some(Size {
            blocks: heap.div_ceil(number(2)?.max(1)),
            bytes: number(1)?.max(heap),
        })
    };
    read().ok_or_else(|| Error::new(ErrorKind::Source, what).with("table", &table.name))
}
