//! Index compaction: the entries of many small runs in few large ones, without those of packs that go. It is proven to lose and to add
//! nothing before anything rests on it.

use super::entries::Entries;
use super::listing::unreadable;
use super::reserve::Pen;
use crate::context::Context;
use crate::context::mutant::mutated;
use crate::crypto::{open_run, seal_run};
use crate::error::{Error, ErrorKind, Result};
use crate::format::collect::RunRow;
use crate::format::header::Origin;
use crate::format::id::ObjectId;
use crate::format::index::{EntrySum, Tables};
use crate::format::layout::ObjectName;
use crate::repository::Repository;
use crate::repository::index::{IndexBuilder, PackNumber};
use crate::repository::log::Log;
use crate::repository::write::runs::{RUN_MAX, join};
use crate::store::Put;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Collector runs of this size or more are absorbed only if they list a pack that goes, in bytes.
const LARGE: u64 = RUN_MAX as u64 / 2;

/// Which runs a round absorbs, and which it names again.
#[derive(Debug, Default)]
pub(super) struct Absorption {
    pub(super) absorbed: BTreeSet<ObjectName>,
    pub(super) named: Vec<RunRow>,
}

/// Chooses: all session runs below the floor; all collector runs that list a pack of `gone`, whose entries would else come back when
/// no state calls it dead any more; and small collector runs, so that their number stays that of the digits of their entries.
pub(super) fn absorption(entries: &Entries, log: &Log, floor: u64, gone: &HashSet<ObjectId>) -> Absorption {
    let mut absorbed: BTreeSet<ObjectName> = entries
        .runs
        .keys()
        .filter(|name| matches!(name, ObjectName::SessionRun(sid, _) if sid.epoch < floor))
        .copied()
        .collect();
    absorbed.extend(gone.iter().filter_map(|pack| entries.run_of.get(pack)).copied());
    let size = |name: &ObjectName| entries.runs.get(name).copied().unwrap_or(0);
    let mut total: u64 = absorbed.iter().map(size).sum();
    let mut rest: Vec<_> = log
        .rows
        .iter()
        .map(name_of)
        .filter(|n| !absorbed.contains(n) && !entries.left_out.contains_key(n))
        .collect();
    rest.sort_by_key(|name| (size(name), *name));
    for name in rest {
        if total == 0 || size(&name) > total.saturating_mul(2) || size(&name) >= LARGE {
            break;
        }
        total += size(&name);
        absorbed.insert(name);
    }
    let is_done = |name: &ObjectName| absorbed.contains(name) || entries.left_out.contains_key(name);
    let named = log.rows.iter().filter(|row| !is_done(&name_of(row)));
    Absorption {
        named: named.copied().collect(),
        absorbed,
    }
}

/// The run that a row of the state names.
pub(super) fn name_of(row: &RunRow) -> ObjectName {
    ObjectName::CollectorRun(row.round, row.id)
}

/// A compaction under way.
pub(super) struct Compaction<'a> {
    repository: &'a Repository,
    context: &'a Context,
    pen: &'a mut Pen,
    round: u64,
    /// Packs whose rows are in hand, with the sum of their entries.
    done: HashMap<ObjectId, EntrySum>,
    waiting: Vec<Tables>,
    waiting_len: usize,
    inputs: EntrySum,
    outputs: EntrySum,
    rows: Vec<RunRow>,
}

impl<'a> Compaction<'a> {
    pub(super) fn new(
        (repository, context): (&'a Repository, &'a Context),
        pen: &'a mut Pen,
        round: u64,
    ) -> Self {
        Self {
            repository,
            context,
            pen,
            round,
            done: HashMap::new(),
            waiting: Vec::new(),
            waiting_len: 0,
            inputs: EntrySum::default(),
            outputs: EntrySum::default(),
            rows: Vec::new(),
        }
    }

    /// Takes what a run says of packs, but of those of `left_out`: those that go, and those that a run lists which is named again.
    ///
    /// # Errors
    /// `Damaged` if the run is not what the state says of it, or another run says something else of a pack.
    pub(super) async fn absorb(
        &mut self,
        name: ObjectName,
        row: Option<&RunRow>,
        left_out: &(dyn Fn(&ObjectId) -> bool + Sync),
    ) -> Result<()> {
        self.context.check_cancelled()?;
        let run = self.repository.load_run(name).await;
        let run = run.map_err(|error| unreadable(name, error))?;
        let mut sum = EntrySum::default();
        sum.add(&run, |_| true);
        if row.is_some_and(|row| (row.entries, row.hash) != (sum.count, sum.hash())) {
            let what = "it is not what the collector's state says of it";
            return Err(unreadable(name, Error::new(ErrorKind::Damaged, what)));
        }
        // The sum of what comes in is taken from the run itself, that of what goes out from the bytes that are stored.
        self.inputs
            .add(&run, |pack| !left_out(pack) && !self.done.contains_key(pack));
        for rows in split(&run) {
            let Some(pack) = rows
                .packs
                .first()
                .map(|pack| pack.id)
                .filter(|pack| !left_out(pack))
            else {
                continue;
            };
            #[cfg(feature = "testkit")]
            let rows = without_idle(rows);
            let mut sum = EntrySum::default();
            sum.add(&rows, |_| true);
            match self.done.insert(pack, sum) {
                None => self.push(rows).await?,
                Some(before) if before == sum => {}
                Some(_) => {
                    let what = format!("it lists pack {pack} otherwise than another run does");
                    return Err(unreadable(name, Error::new(ErrorKind::Damaged, what)));
                }
            }
        }
        Ok(())
    }

    /// Takes the rows of a pack of this round.
    pub(super) async fn add(&mut self, rows: Tables) -> Result<()> {
        self.inputs.add(&rows, |_| true);
        self.push(rows).await
    }

    async fn push(&mut self, rows: Tables) -> Result<()> {
        let len = rows.encoded_len();
        if self.waiting_len + len > RUN_MAX {
            self.flush().await?;
        }
        self.waiting_len += len;
        self.waiting.push(rows);
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let mut waiting = std::mem::take(&mut self.waiting);
        self.waiting_len = 0;
        if waiting.is_empty() {
            return Ok(());
        }
        waiting.sort_unstable_by_key(|rows| rows.packs.first().map(|pack| pack.id));
        let tables = self.context.cpu.run(move || join(waiting)).await?;
        let (keyring, random) = (self.repository.keyring(), self.context.random.as_ref());
        let (name, sealed) = seal_run(keyring, random, Origin::Round(self.round), &tables)?;
        drop(tables);
        let stored = open_run(keyring, &name, &sealed.bytes)
            .map_err(|error| Error::from(error).with("object", name))?;
        let mut sum = EntrySum::default();
        sum.add(&stored, |_| true);
        self.outputs.add(&stored, |_| true);
        if self.pen.put(&name, &sealed).await? == Put::Conflict {
            return Err(Error::new(ErrorKind::Damaged, "an index run's name is taken").with("object", name));
        }
        self.rows.push(RunRow {
            round: self.round,
            id: sealed.id,
            entries: sum.count,
            hash: sum.hash(),
        });
        Ok(())
    }

    /// Puts the last run and gives the rows of all, once they are proven to hold the very entries that came in.
    ///
    /// # Errors
    /// `Internal` if they do not: then nothing may be sealed.
    pub(super) async fn finish(mut self) -> Result<Vec<RunRow>> {
        self.flush().await?;
        if self.inputs == self.outputs || mutated!(CompactionDrops) {
            return Ok(self.rows);
        }
        let text = format!(
            "compacting the index would change it from {} entries to {}; nothing was deleted",
            self.inputs.count, self.outputs.count
        );
        Err(Error::new(ErrorKind::Internal, text))
    }
}

/// What the mutant `CompactionDrops` leaves of the rows of a pack: entries of blobs that were noted as needed.
#[cfg(feature = "testkit")]
fn without_idle(rows: Tables) -> Tables {
    use crate::context::mutant::is_noted;
    if !mutated!(CompactionDrops) || !rows.entries.iter().any(|entry| is_noted(&entry.id.0)) {
        return rows;
    }
    let mut out = Tables {
        entries: Vec::new(),
        bases: Vec::new(),
        ..rows
    };
    let mut bases = rows.bases.iter();
    for entry in &rows.entries {
        let base = if entry.delta { bases.next() } else { None };
        if is_noted(&entry.id.0) {
            let at = u32::try_from(out.entries.len()).unwrap_or(u32::MAX);
            out.bases.extend(base.map(|(_, base)| (at, *base)));
            out.entries.push(*entry);
        }
    }
    out
}

/// The rows of each pack of a run.
fn split(run: &Tables) -> Vec<Tables> {
    let mut builder = IndexBuilder::new(HashSet::new());
    builder.add(run, false);
    let index = builder.finish();
    let all = (0u32..).zip(index.packs()).map(|(at, _)| PackNumber(at));
    index.rows_of(&all.collect())
}
