//! G0 to G2: the log, the lists, the mark, the plan.

use super::chains::{keep, pack_of};
use super::entries::Entries;
use super::listing::{Listing, commits, unreadable};
use super::lost::{emptied, superseded};
use super::mark::Mark;
use super::plan::{self, PackUse};
use super::refs::References;
use super::reserve::Pen;
use super::round::{CollectOptions, CollectPlan, Round, UntoldPack, Work, aborted};
use super::sweep::{Swept, delete, may_go};
use crate::context::mutant::mutated;
use crate::context::{Context, Time};
use crate::crypto::peek_origin;
use crate::error::{Error, ErrorKind, Result};
use crate::format::header::{HEADER_LEN, Origin};
use crate::format::id::{ObjectId, SessionId};
use crate::format::layout::ObjectName;
use crate::repository::Repository;
use crate::repository::bits::Bits;
use crate::repository::forgets::{Committed, without_effect};
use crate::repository::index::Index;
use crate::repository::ledger::Ledger;
use crate::repository::log::Log;
use crate::repository::minimum::Minimum;
use crate::repository::view::of_the_disk;
use futures::stream::{self, StreamExt};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// How often a round is looked for again because others end rounds meanwhile.
const TRIES: u32 = 16;
/// A round is worth its requests if so many session runs could become few.
const RUNS_MANY: usize = 16;

impl Round {
    /// G0 to G2. Deletes first what the newest seal allows and an earlier collector did not get to.
    ///
    /// # Errors
    /// `Busy` if another collector works here and its round is younger than [`CollectOptions::take_over`]; `Damaged` if something that
    /// snapshots need cannot be read, or `Unreadable` if the disk does not give it, so that nobody can tell what else they need; or what the
    /// store says.
    pub async fn begin(repository: &Repository, context: &Context, options: CollectOptions) -> Result<Self> {
        let mut tries = 1;
        loop {
            let mut newest = None;
            match Self::try_begin(repository, context, options.clone(), &mut newest).await {
                Err(error) if tries < TRIES && is_outdated(repository, newest, &error).await? => tries += 1,
                begun => return begun,
            }
        }
    }

    /// One try; `newest` is the seal that it rests on.
    async fn try_begin(
        repository: &Repository,
        context: &Context,
        options: CollectOptions,
        newest: &mut Option<u64>,
    ) -> Result<Self> {
        let mut pen = Pen::new(repository, context);
        let collector = context.random.bytes()?;
        let log = g0(repository, context, &options, &mut pen, collector).await?;
        *newest = Some(log.newest);
        let mut listing = Listing::read(repository).await?;
        if options.dry_run {
            listing.forgets.extend(&options.also_forgotten);
        }
        let (plan, swept, leftover) =
            unfinished(repository, context, &log, &listing, options.dry_run).await?;

        none_is_gone(&log, &listing)?;
        let (committed, unread) = commits(repository, &log, listing.decided.keys().copied()).await?;
        let last = last_round(&log, &listing);
        let mut forgets = Forgets::read(repository, context, (&listing, last), &committed).await?;
        let superseded = superseded(repository, &listing, (&committed, &forgets, &options), unread).await?;
        let is_decided = |sid: &SessionId| listing.decided.contains_key(sid);
        let entries = Entries::read((repository, context), &log, &listing.runs, &is_decided).await?;
        let mut quarantined = Ledger::read(repository).await?.whole()?;
        if mutated!(QuarantineKept) {
            quarantined.clear();
        }
        let by = (repository, context, &options);
        let (at, read) = ((&listing, &log), (&entries, &quarantined));
        for sid in emptied(by, at, (&committed, &forgets), read).await? {
            forgets.take_effect(sid);
        }
        let mark = mark_kept(by, at, (&committed, &forgets), read).await?;
        let nodes_read = mark.read;
        let (needed, references) = mark.into_parts();
        let plan = CollectPlan {
            round: log.newest + 1,
            kept_in_spite: forgets.without_effect,
            nodes_read,
            references_used: references.used,
            ..plan
        };
        let absent = absent_packs(repository, &entries, &listing).await?;
        quarantined.extend(cut_off(&entries, &listing));
        let mut work = Box::new(Work {
            repository: repository.clone(),
            context: context.clone(),
            pen,
            collector,
            log,
            listing,
            committed,
            superseded,
            forgotten: forgets.effective,
            released: forgets.released,
            unseen: forgets.unseen,
            entries,
            needed,
            references: Some(references),
            quarantined,
            absent,
            leftover,
            chosen: plan::Chosen::default(),
            plan,
            swept,
            options,
        });
        work.g2().await?;
        Ok(Self(work))
    }
}

/// Marks all that the snapshots need that were not let go with an effect.
async fn mark_kept(
    (repository, context, options): (&Repository, &Context, &CollectOptions),
    (listing, log): (&Listing, &Log),
    (committed, forgets): (&Committed, &Forgets),
    (entries, quarantined): (&Entries, &HashSet<ObjectId>),
) -> Result<Mark> {
    let references = References::new((repository, context), listing.refs.clone(), options);
    let seen = (entries.index.clone(), log.newest);
    let mut mark = Mark::new((repository, context), seen, quarantined, references)?;
    let kept = committed
        .iter()
        .filter(|(sid, _)| !forgets.effective.contains(sid));
    let kept: Vec<_> = kept.map(|(_, record)| record.as_ref()).collect();
    let marked = mark.snapshots(kept).await;
    marked.map_err(|error| entries.explain(error))?;
    mark.check_sound()?;
    Ok(mark)
}

/// Whether what looks like damage may be another collector's work: a round has ended since the lists were begun, so that they may name what
/// it swept, and lack what it put in its place.
pub(super) async fn is_outdated(repository: &Repository, newest: Option<u64>, error: &Error) -> Result<bool> {
    let may_be = matches!(
        error.kind(),
        ErrorKind::Damaged | ErrorKind::Unreadable | ErrorKind::Conflict
    );
    match newest {
        Some(newest) if may_be => Ok(Log::newest_seal(repository).await? != newest),
        _ => Ok(false),
    }
}

/// G0: the log of which the next round has not begun. A round that somebody else has begun is left alone, or taken over.
async fn g0(
    repository: &Repository,
    context: &Context,
    options: &CollectOptions,
    pen: &mut Pen,
    collector: [u8; 16],
) -> Result<Log> {
    for _ in 0..TRIES {
        context.check_cancelled()?;
        let log = Log::read(repository).await?;
        if !log.begun || options.dry_run {
            return Ok(log);
        }
        let name = ObjectName::Condemned(log.newest + 1);
        let since = match repository.store().head(&name).await {
            Ok(info) => info.last_modified,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let age = context.clock.now().seconds_since(since);
        if !options.take_over.is_zero() && age < options.take_over.as_secs_f64() {
            return Err(Error::new(ErrorKind::Busy, "another collector works here")
                .with("round", log.newest + 1)
                .with("since", since.to_rfc3339())
                .hint("wait until it has ended; if it died, `holdall prune --take-over` goes on at once"));
        }
        // Conflict: its own seal was faster.
        let _put = pen
            .save(&aborted(&log, collector, context.random.bytes()?))
            .await?;
    }
    Err(Error::new(
        ErrorKind::Busy,
        "other collectors begin rounds faster than this one can",
    ))
}

/// Deletes what the newest seal allows; gives what there was, what became of it, and packs that the store did not let go.
async fn unfinished(
    repository: &Repository,
    context: &Context,
    log: &Log,
    listing: &Listing,
    dry_run: bool,
) -> Result<(CollectPlan, Swept, Vec<ObjectId>)> {
    let mut going = listing.names();
    going.retain(|name, _| may_go(log, name));
    let plan = CollectPlan {
        unfinished: going.len() as u64,
        unfinished_bytes: going.values().sum(),
        ..CollectPlan::default()
    };
    let (swept, retained) = if dry_run {
        (Swept::default(), going)
    } else {
        delete(repository, context, going).await?
    };
    let packs = retained.into_keys().filter_map(|name| match name {
        ObjectName::Pack(id) => Some(id),
        _ => None,
    });
    Ok((plan, swept, packs.collect()))
}

/// Whether every snapshot is there that counts below the floor.
fn none_is_gone(log: &Log, listing: &Listing) -> Result<()> {
    let is_here = |sid: &&SessionId| listing.decided.contains_key(sid) || listing.forgets.contains(sid);
    let Some(gone) = log.live.iter().find(|sid| !is_here(sid)) else {
        return Ok(());
    };
    // Nobody has let it go: it is no garbage, and what it needs is not known.
    let error = Error::new(ErrorKind::NotFound, "it is gone");
    Err(unreadable(ObjectName::Snapshot(*gone), error))
}

/// When the last round that was not aborted had planned, by the store's clock, if that can still be told.
fn last_round(log: &Log, listing: &Listing) -> Option<Time> {
    let Some(ObjectName::State(round, _)) = log.state else {
        return None;
    };
    let condemned = ObjectName::Condemned(round);
    let last = listing.rounds.iter().find(|info| info.name == condemned);
    last.map(|info| info.last_modified)
}

/// What forgets keys and notes say, as of G1.
pub(super) struct Forgets {
    pub(super) effective: BTreeSet<SessionId>,
    without_effect: BTreeMap<SessionId, String>,
    /// Those with an effect that an earlier round may have kept in spite of it: a minimum or a protection may have ended since.
    released: BTreeSet<SessionId>,
    /// Commits without a note of their first sight.
    unseen: Vec<(SessionId, Time)>,
}

impl Forgets {
    async fn read(
        repository: &Repository,
        context: &Context,
        (listing, last): (&Listing, Option<Time>),
        committed: &Committed,
    ) -> Result<Self> {
        let of_commits =
            |name: &ObjectName| matches!(name, ObjectName::Note(sid, _) if committed.contains_key(sid));
        let names = listing.notes.iter().filter(|name| of_commits(name));
        let mut notes = repository.load_notes(names.copied().collect()).await?;
        let mut unseen = Vec::new();
        for sid in committed.keys() {
            let Some(time) = listing.decided.get(sid) else {
                continue;
            };
            let said = &mut notes.entry(*sid).or_default().said;
            if said.first_seen.is_none() {
                said.first_seen = Some(*time);
                unseen.push((*sid, *time));
            }
        }
        let minimum = Minimum::of(repository.config());
        // Not before the newest snapshot of the store, by the store's own clock: for a clock that is behind, what is new comes from the
        // future and counts last.
        let now = listing
            .decided
            .values()
            .copied()
            .fold(context.clock.now(), Time::max);
        let without_effect = without_effect(minimum, committed, &listing.forgets, &notes, now);
        let forgotten = committed.keys().filter(|sid| listing.forgets.contains(sid));
        let effective = forgotten.filter(|sid| !without_effect.contains_key(sid)).copied();
        let effective: BTreeSet<SessionId> = effective.collect();
        let said = |sid: &SessionId| notes.get(sid).map(|notes| &notes.said);
        let was_protected = |sid: &SessionId| said(sid).is_some_and(|said| said.protected.is_some());
        let was_retained = last.map_or_else(HashMap::new, |then| {
            let was_there = |sid: &SessionId| listing.decided.get(sid).is_some_and(|at| *at <= then);
            let there = committed.iter().filter(|(sid, _)| was_there(sid));
            let there =
                there.map(|(sid, record)| (record.as_ref(), said(sid).and_then(|said| said.first_seen)));
            minimum.kept(there, then)
        });
        let released = effective.iter();
        let released = released.filter(|sid| was_retained.contains_key(sid) || was_protected(sid));
        Ok(Self {
            released: released.copied().collect(),
            effective,
            without_effect,
            unseen,
        })
    }

    /// The forget of this snapshot has an effect, whatever stands against it.
    fn take_effect(&mut self, sid: SessionId) {
        self.without_effect.remove(&sid);
        self.effective.insert(sid);
        self.released.insert(sid);
    }
}

/// Packs that a run lists and that the store does not have. One that was put after the list is there.
pub(super) async fn absent_packs(
    repository: &Repository,
    entries: &Entries,
    listing: &Listing,
) -> Result<HashSet<ObjectId>> {
    let packs = entries.index.packs().iter().map(|pack| pack.id);
    let unseen: Vec<_> = packs.filter(|id| !listing.packs.contains_key(id)).collect();
    let heads = unseen.into_iter().map(|id| async move {
        let head = repository.store().head(&ObjectName::Pack(id)).await;
        (id, head)
    });
    let heads: Vec<_> = heads.collect();
    let mut heads = stream::iter(heads).buffered(repository.concurrency());
    let mut absent = HashSet::new();
    while let Some((id, head)) = heads.next().await {
        match head {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => drop(absent.insert(id)),
            Err(error) => return Err(error),
        }
    }
    Ok(absent)
}

/// Packs that have another size than the runs say: a power cut or a full disk has cut them off.
fn cut_off<'a>(entries: &'a Entries, listing: &'a Listing) -> impl Iterator<Item = ObjectId> + 'a {
    let size = |id: &ObjectId| listing.packs.get(id).copied();
    let packs = entries.index.packs().iter();
    packs
        .filter(move |pack| size(&pack.id).is_some_and(|size| size != u64::from(pack.size)))
        .map(|pack| pack.id)
}

/// A blob that is needed is in no pack that is there.
pub(super) fn no_copy_left(index: &Index, number: u32) -> Error {
    let what = "snapshots need a blob of which no copy is left; nothing was deleted";
    let error = Error::new(ErrorKind::Damaged, what);
    let error = match index.all_copies().get(number as usize) {
        Some(copy) => error.because(crate::repository::lost(&copy.id)),
        None => error,
    };
    error.hint(
        "`holdall check` names the snapshots, and `holdall repair --from REPLICA` may mend them; once they are forgotten, they block no collection, where the \
         repository retains them with `holdall prune --lost ID`",
    )
}

impl Work {
    /// G2: which packs go, and which hold too little.
    async fn g2(&mut self) -> Result<()> {
        let index = self.entries.index.clone();
        let (present, good) = self.present(&index);
        let kept = keep(&index, &self.needed, &[good, present]);
        if let Some(number) = kept.lost {
            return Err(self.entries.explain(no_copy_left(&index, number)));
        }
        let uses = self.uses(&kept.copies);
        let (loose, untold) = self.loose_packs().await?;
        self.plan.untold_packs = untold;
        self.chosen = plan::choose(&uses, &loose, self.options.max_unused, self.options.max_repack);
        self.check_left_out()?;
        self.tell();
        Ok(())
    }

    /// How full each pack of the index is.
    fn uses(&self, kept: &Bits) -> Vec<PackUse> {
        let index = &self.entries.index;
        let size = |id: &ObjectId| self.listing.packs.get(id).copied();
        let uses = index.packs().iter().map(|pack| PackUse {
            id: pack.id,
            size: size(&pack.id).unwrap_or(0),
            all: 0,
            live: 0,
            is_finished: !self.entries.open.contains(&pack.id)
                && (size(&pack.id).is_some() || self.absent.contains(&pack.id)),
        });
        let mut uses: Vec<_> = uses.collect();
        for (at, copy) in (0u32..).zip(index.all_copies()) {
            let pack = pack_of(index, copy).and_then(|pack| uses.get_mut(pack.0 as usize));
            if let Some(pack) = pack {
                pack.all += u64::from(copy.encoded);
                pack.live += if kept.has(at) { u64::from(copy.encoded) } else { 0 };
            }
        }
        uses
    }

    /// Packs that no valid run lists and whose makers have finished, with their sizes; and those whose headers do not tell who made them,
    /// and why: they stay.
    async fn loose_packs(&self) -> Result<(Vec<(ObjectId, u64)>, BTreeMap<ObjectId, UntoldPack>)> {
        let listed: HashSet<ObjectId> = self.entries.index.packs().iter().map(|pack| pack.id).collect();
        let packs = self.listing.packs.iter();
        let unlisted = packs.filter(|(id, _)| !listed.contains(id) && !self.log.dead.contains(id));
        let gets = unlisted.map(|(id, size)| async move {
            let header = 0..HEADER_LEN as u64;
            let got = self
                .repository
                .store()
                .get_range(&ObjectName::Pack(*id), header)
                .await;
            (*id, *size, got)
        });
        let gets: Vec<_> = gets.collect();
        let mut gets = stream::iter(gets).buffered(self.repository.concurrency());
        let (mut loose, mut untold) = (Vec::new(), BTreeMap::new());
        while let Some((id, size, header)) = gets.next().await {
            let origin = match header {
                Ok(header) => peek_origin(&header).map_err(Error::from),
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => Err(of_the_disk(self.repository.store(), error).await?),
            };
            let is_finished = match origin {
                Ok(Origin::Session(sid)) => {
                    self.log.is_void(&sid)
                        || self.listing.decided.contains_key(&sid)
                        || self.is_foreign(&sid).await?
                }
                Ok(Origin::Round(round)) => round <= self.log.newest,
                Ok(Origin::None) => false,
                // Its maker may be at work.
                Err(why) => {
                    let is_aside = self.quarantined.contains(&id);
                    untold.insert(id, UntoldPack { why, is_aside });
                    false
                }
            };
            if is_finished {
                loose.push((id, size));
            }
        }
        Ok((loose, untold))
    }

    /// Whether a session never was of this store: its packs were copied as they are. Its object comes before its packs, and only goes
    /// once it is void.
    async fn is_foreign(&self, sid: &SessionId) -> Result<bool> {
        if self.listing.sessions.contains_key(sid) {
            return Ok(false);
        }
        match self.repository.store().head(&ObjectName::Session(*sid)).await {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Puts the plan into figures.
    fn tell(&mut self) {
        let taking: Vec<_> = self.forgotten.iter().filter(|sid| self.takes(sid)).collect();
        let is_needed = self.is_needed(!taking.is_empty());
        let chosen = &self.chosen;
        let freed = chosen.dead_bytes + chosen.repack_bytes - chosen.copied_bytes;
        // One that the last round has let go was looked at then, unless that round kept it in spite of its key.
        let is_back = |sid: &SessionId| freed > 0 && self.released.contains(sid) && taking.contains(&sid);
        let going = self.forgotten.iter();
        let going = going.filter(|sid| self.is_new(sid) || is_back(sid));
        let going: Vec<_> = going.copied().collect();
        let kept = (self.committed.len() - self.forgotten.len()) as u64;
        let packs = self.listing.packs.iter();
        let packs = packs.filter(|(id, _)| !self.log.dead.contains(id));
        let (packs, bytes) = packs.fold((0, 0), |(packs, bytes), (_, size)| (packs + 1, bytes + size));
        let gone = going.len() as u64;
        let is_large = plan::is_large((gone, gone + kept), (freed, bytes));
        self.plan = CollectPlan {
            is_needed,
            is_large,
            snapshots_kept: kept,
            snapshots_going: going,
            packs,
            pack_bytes: bytes,
            dead_packs: chosen.dead.len() as u64,
            dead_bytes: chosen.dead_bytes,
            repack_packs: chosen.repack.len() as u64,
            repack_bytes: chosen.repack_bytes,
            copied_bytes: chosen.copied_bytes,
            unused_bytes: chosen.unused_bytes,
            runs: self.entries.runs.len() as u64,
            ..std::mem::take(&mut self.plan)
        };
    }

    /// Whether a snapshot takes something with it: one whose tree another one has too does not, and one whose tree is gone has done it
    /// before.
    fn takes(&self, sid: &SessionId) -> bool {
        let root = self.committed.get(sid).map(|record| &record.root.id);
        let number = root.and_then(|root| self.entries.index.number(root));
        number.is_some_and(|number| !self.needed.has(number))
    }

    /// Whether no round before this one has let a snapshot go: the last one kept it, or nobody had let it go then. In doubt none has;
    /// this only decides who must look at the plan.
    fn is_new(&self, sid: &SessionId) -> bool {
        let at = self.listing.forgotten_at.get(sid);
        let last = last_round(&self.log, &self.listing);
        let before = at.zip(last).is_some_and(|(at, last)| *at < last);
        sid.epoch < self.log.floor || !before
    }

    /// Whether a round would change anything that is worth its requests.
    fn is_needed(&self, takes: bool) -> bool {
        let (chosen, listing) = (&self.chosen, &self.listing);
        let packs = !chosen.dead.is_empty() || !chosen.repack.is_empty();
        // What the new floor passes: runs to absorb, objects of sessions that are over.
        let passed = |sid: &SessionId| (self.log.floor..self.log.newest).contains(&sid.epoch);
        let passed = listing.sessions.keys().any(passed)
            || listing.decided.keys().any(passed)
            || self.forgotten.iter().any(|sid| sid.epoch < self.log.newest);
        let session_runs = self.entries.runs.keys();
        let session_runs = session_runs
            .filter(|name| matches!(name, ObjectName::SessionRun(..)))
            .count();
        let now = self.context.clock.now();
        let idle =
            |sid: &SessionId| now.seconds_since(listing.last_sign(sid)) >= self.options.lease.as_secs_f64();
        let open = listing.sessions.keys();
        let mut open = open.filter(|sid| !self.log.is_void(sid) && !listing.decided.contains_key(sid));
        // Until what nobody can read is gone.
        let unread = !self.superseded.is_empty() || !self.entries.left_out.is_empty();
        packs || takes || passed || unread || session_runs >= RUNS_MANY || open.any(idle)
    }
}
