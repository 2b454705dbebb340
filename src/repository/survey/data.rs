//! Reading packs to prove them: their hash, their directory, every whole blob against its id, every delta with its base.

use super::Survey;
use crate::context::{Context, Time};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::error::DecodeError;
use crate::format::header::Origin;
use crate::format::id::ObjectId;
use crate::format::index::Tables;
use crate::format::layout::ObjectName;
use crate::repository::delta::apply_delta;
use crate::repository::ledger::Ledger;
use crate::repository::log::Log;
use crate::repository::pack::{StoredDelta, open_pack};
use crate::repository::view::{is_damage, of_one_object};
use crate::repository::{BlobReader, ReadData, Repository};
use futures::stream::{self, StreamExt};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Which packs are read whole, and until when.
#[derive(Clone, Copy, Debug, Default)]
pub struct DataRequest {
    /// Of which packs.
    pub read_data: ReadData,
    /// Only those that were not verified in so many seconds.
    pub max_age: Option<u64>,
    /// No pack is begun that would not be read by then, judged by the slowest one so far.
    pub until: Option<Time>,
}

impl DataRequest {
    /// Whether it makes sense only if what is verified is written down.
    fn needs_memory(&self) -> bool {
        self.max_age.is_some() || self.until.is_some()
    }
}

impl Survey<'_> {
    /// Reads data packs, those first that were never verified, then those whose verification is the oldest. What is verified is written
    /// into the ledger on the way, so that a run that ends early, however it ends, is continued by the next.
    ///
    /// # Errors
    /// What the store says when it cannot be read at all; damage is a finding.
    pub async fn read_data(&mut self, request: DataRequest) -> Result<()> {
        let mut ledger = Ledger::read(self.repository).await?;
        let now = self.context.clock.now();
        let present = self.present();
        let bad: HashSet<ObjectId> = self.report.bad_packs.iter().copied().collect();
        let mut due = Vec::new();
        for (id, size) in &present {
            let verified = ledger.verified_at(id, now);
            let is_young = request.max_age.zip(verified).is_some_and(|(age, at)| {
                now.seconds.saturating_sub(at) < i64::try_from(age).unwrap_or(i64::MAX)
            });
            let is_settled = self.log.dead.contains(id) || self.looked.contains(id) || bad.contains(id);
            if !is_settled && !is_young && is_chosen(self.context, id, request.read_data)? {
                due.push((verified, *id, *size));
            }
        }
        due.sort_unstable();
        let total: u64 = due.iter().map(|(.., size)| *size).sum();
        self.context.emit(&Event::PhaseStarted {
            phase: "read data",
            entries: None,
            bytes: Some(total),
        });
        self.memory.is_wanted |= request.needs_memory();
        let packs: Vec<ObjectId> = due.iter().map(|(_, id, _)| *id).collect();
        let begun = self.read_packs(packs, true, request.until).await?;
        self.context.emit(&Event::PhaseEnded { phase: "read data" });
        let left = due.get(begun..).unwrap_or_default();
        self.memory.is_all = self.is_all_told(&present);
        self.report.packs_left = left.len() as u64;
        self.report.bytes_left = left.iter().map(|(.., size)| *size).sum();
        let done = self.memory.verified().map(|id| (id, now.seconds));
        ledger.verified.extend(done);
        let listed = present.into_keys().filter(|id| self.listed.contains_key(id));
        let reads = ledger.reads(listed, now);
        self.report.reads = Some(reads);
        Ok(())
    }

    /// Whether of every pack that may count it is known how it is.
    fn is_all_told(&self, present: &HashMap<ObjectId, u64>) -> bool {
        let bad: HashSet<&ObjectId> = self.report.bad_packs.iter().collect();
        let is_told =
            |id: &ObjectId| self.log.dead.contains(id) || self.looked.contains(id) || bad.contains(id);
        present.keys().all(is_told)
    }

    /// Reads packs and proves what is in them, and then the packs that did not give the bases of their deltas. Gives how many of `packs`
    /// were begun before the time was up.
    pub(super) async fn read_packs(
        &mut self,
        packs: Vec<ObjectId>,
        deltas: bool,
        until: Option<Time>,
    ) -> Result<usize> {
        let (begun, mut suspects) = self.read_some(packs, deltas, until).await?;
        loop {
            let bad: HashSet<ObjectId> = self.report.bad_packs.iter().copied().collect();
            suspects.retain(|id| {
                !self.looked.contains(id)
                    && !bad.contains(id)
                    && self.sizes.contains_key(&ObjectName::Pack(*id))
            });
            if suspects.is_empty() {
                return Ok(begun);
            }
            let packs: Vec<ObjectId> = std::mem::take(&mut suspects).into_iter().collect();
            let all = packs.len();
            let (begun, more) = self.read_some(packs, true, until).await?;
            if begun == all {
                suspects = more;
            }
        }
    }

    /// As [`Self::read_packs`]; gives the packs too that did not give the bases of deltas.
    async fn read_some(
        &mut self,
        packs: Vec<ObjectId>,
        deltas: bool,
        until: Option<Time>,
    ) -> Result<(usize, BTreeSet<ObjectId>)> {
        if packs.is_empty() {
            return Ok((0, BTreeSet::new()));
        }
        // Each pack in flight is held whole, sealed and one block open: the budget says how many.
        let at_once = usize::try_from(self.context.budget.total() / (48 << 20))
            .unwrap_or(1)
            .clamp(1, 8);
        let (repository, context) = (self.repository.clone(), self.context.clone());
        // Without a view nothing can be said of bases; that it is damaged is told where it is read.
        let bases = match self.repository.view(self.context).await {
            Ok(view) => deltas.then(|| repository.reader_of_store(&context, &view)),
            Err(error) if is_damage(&error) => None,
            Err(error) => return Err(error),
        };
        // Only a look at the deltas too is one at the whole pack.
        let is_whole = bases.is_some();
        let pace = Pace::new(self.context, until);
        let expected = packs.iter().map(|id| (*id, self.listed.get(id).cloned()));
        let expected: Vec<_> = expected.collect();
        let time = pace.clone();
        let expected = expected.into_iter().take_while(move |_| time.allows_another());
        let mut reads = stream::iter(expected)
            .map(|(id, expected)| {
                let (repository, context) = (repository.clone(), context.clone());
                let (bases, pace) = (bases.clone(), pace.clone());
                async move {
                    let began = context.clock.now();
                    let read = read_pack(&repository, &context, (id, expected), bases).await;
                    pace.took(context.clock.now().seconds_since(began));
                    (id, read)
                }
            })
            .buffered(at_once);
        let (mut begun, mut gone, mut suspects) = (0, Vec::new(), BTreeSet::new());
        while let Some((id, read)) = reads.next().await {
            self.context.check_cancelled()?;
            begun += 1;
            match read {
                Ok(read) => {
                    suspects.extend(&read.suspects);
                    self.was_read(id, &read, is_whole).await?;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => gone.push(id),
                Err(error) => self.is_bad(id, error).await?,
            }
        }
        drop(reads);
        self.looked.extend(&gone);
        self.settle_gone(gone).await?;
        Ok((begun, suspects))
    }

    /// A pack was read, and is right as far as it could be looked at.
    async fn was_read(&mut self, id: ObjectId, read: &PackRead, is_whole: bool) -> Result<()> {
        self.report.packs_read += 1;
        self.report.bytes_read += read.bytes;
        self.report.blobs_verified += read.blobs;
        self.context.emit(&Event::Progress { bytes: read.bytes });
        let is_set_aside = self.ledger.quarantined.contains(&id);
        // What a record that cannot be read says may be that this pack is damaged.
        let may_be = is_set_aside || !self.ledger.damaged.is_empty();
        let is_proven = read.unread == 0 && (read.orphans == 0 || !may_be);
        if is_whole {
            self.looked.insert(id);
            if is_proven {
                self.verified(id).await?;
            } else {
                self.memory.unproven.push(id);
            }
        }
        if is_set_aside {
            let what = match (is_whole && is_proven, self.memory.is_possible()) {
                (true, true) => {
                    "was set aside as damaged, and is found right: it was damaged on its way only, and is used again"
                }
                (true, false) => {
                    "is set aside as damaged, and was found right: a check that may write takes it back"
                }
                _ => {
                    "is set aside as damaged, and stays so: what it holds was found right, but for deltas whose bases cannot be read"
                }
            };
            self.report.note(ObjectName::Pack(id), what);
        }
        Ok(())
    }

    /// A pack could not be read, or is not what it must be.
    async fn is_bad(&mut self, id: ObjectId, error: Error) -> Result<()> {
        let error = of_one_object(self.repository.store(), error).await?;
        self.report.bad_packs.push(id);
        self.report.error(ObjectName::Pack(id), error);
        Ok(())
    }

    /// Packs that were listed and are gone: a collector may have taken them since. They are missing only if they are needed now.
    async fn settle_gone(&mut self, gone: Vec<ObjectId>) -> Result<()> {
        let mut listed: HashSet<ObjectId> = gone.iter().copied().collect();
        listed.retain(|id| self.listed.contains_key(id));
        if listed.is_empty() {
            return Ok(());
        }
        if Log::read(self.repository).await?.newest != self.log.newest {
            let view = self.repository.view(self.context).await?;
            let now: HashSet<ObjectId> = view.index.packs().iter().map(|pack| pack.id).collect();
            listed.retain(|id| now.contains(id));
        }
        for id in gone.into_iter().filter(|id| listed.contains(id)) {
            self.report.bad_packs.push(id);
            self.report.error(ObjectName::Pack(id), "is missing");
        }
        Ok(())
    }
}

/// Whether a pack is among those to be read.
pub(super) fn is_chosen(context: &Context, id: &ObjectId, read_data: ReadData) -> Result<bool> {
    let [a, b, c, d, ..] = id.0;
    let number = u32::from_be_bytes([a, b, c, d]);
    Ok(match read_data {
        ReadData::None => false,
        ReadData::All => true,
        ReadData::Part { part, of } => number % of.max(1) + 1 == part,
        ReadData::Percent(percent) => u32::from_le_bytes(context.random.bytes()?) % 100 < u32::from(percent),
    })
}

/// Whether there is time for another pack.
#[derive(Clone)]
struct Pace {
    context: Context,
    until: Option<Time>,
    /// The slowest pack so far, in milliseconds.
    slowest: Arc<AtomicU64>,
}

impl Pace {
    fn new(context: &Context, until: Option<Time>) -> Self {
        Self {
            context: context.clone(),
            until,
            slowest: Arc::default(),
        }
    }

    fn took(&self, seconds: f64) {
        let took = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.slowest.fetch_max(took, Ordering::Relaxed);
    }

    fn allows_another(&self) -> bool {
        let Some(until) = self.until else { return true };
        let left = until.seconds_since(self.context.clock.now());
        left > Duration::from_millis(self.slowest.load(Ordering::Relaxed)).as_secs_f64()
    }
}

/// What was seen of a pack that is right as far as it could be looked at.
#[derive(Default)]
struct PackRead {
    bytes: u64,
    /// Blobs that were compared with their ids.
    blobs: u64,
    /// Deltas that nothing can use: a collection took their bases.
    orphans: u64,
    /// Deltas that could not be compared, because their bases cannot be read.
    unread: u64,
    /// Packs that did not give these bases.
    suspects: BTreeSet<ObjectId>,
}

async fn read_pack(
    repository: &Repository,
    context: &Context,
    (id, expected): (ObjectId, Option<Arc<Tables>>),
    bases: Option<BlobReader>,
) -> Result<PackRead> {
    let bytes = repository.store().get(&ObjectName::Pack(id)).await?;
    let keyring = repository.shared_keyring();
    let len = bytes.len() as u64;
    let with_deltas = bases.is_some();
    let work = move || -> Result<(u64, Vec<StoredDelta>), DecodeError> {
        let pack = open_pack(&keyring, &id, &bytes)?;
        if expected.is_some_and(|expected| *expected != pack.tables) {
            return Err(DecodeError::Invalid("directory differs from the index"));
        }
        if pack.origin == Origin::None {
            return Err(DecodeError::Invalid("pack without an origin"));
        }
        let deltas = if with_deltas { pack.deltas()? } else { Vec::new() };
        Ok((pack.verify(&keyring)?, deltas))
    };
    let (blobs, deltas) = context.cpu.run(work).await??;
    let mut read = PackRead {
        bytes: len,
        blobs,
        ..PackRead::default()
    };
    for delta in deltas {
        let Some(bases) = &bases else { break };
        context.check_cancelled()?;
        match verify_delta(repository, context, bases, delta).await? {
            Compared::Right => read.blobs += 1,
            Compared::Orphan => read.orphans += 1,
            Compared::Unread(suspects) => {
                read.unread += 1;
                read.suspects.extend(suspects);
            }
        }
    }
    Ok(read)
}

/// What became of the look at a delta.
enum Compared {
    /// It gives its blob.
    Right,
    /// No run lists its base any more: a collection took it, and nothing can rest on the delta.
    Orphan,
    /// Its base is listed and cannot be read, which is told of the packs that may be why.
    Unread(BTreeSet<ObjectId>),
}

async fn verify_delta(
    repository: &Repository,
    context: &Context,
    bases: &BlobReader,
    delta: StoredDelta,
) -> Result<Compared> {
    if !bases.is_listed(&delta.base) {
        return Ok(Compared::Orphan);
    }
    let base = match bases.get(delta.row.kind, &delta.base).await {
        Ok(base) => base,
        Err(error) if is_damage(&error) => return Ok(Compared::Unread(bases.rests_on(&delta.base))),
        Err(error) => {
            // A store that gives nothing at all ends the check; a sector that cannot be read is not the delta's.
            let error = of_one_object(repository.store(), error).await?;
            let object = error.context("object").map(ObjectName::parse);
            let suspects = match object {
                Some(Ok(ObjectName::Pack(pack))) => BTreeSet::from([pack]),
                _ => bases.rests_on(&delta.base),
            };
            // Each further try would be as slow to fail.
            let packs: Vec<ObjectId> = suspects.iter().copied().collect();
            bases.avoid(&packs)?;
            return Ok(Compared::Unread(suspects));
        }
    };
    let keyring = repository.shared_keyring();
    let id = delta.row.id;
    let work = move || -> Result<(), DecodeError> {
        let mut plain = Vec::new();
        apply_delta(&mut plain, &delta.bytes, &base, delta.row.plain)?;
        keyring.verify_blob(delta.row.kind, &delta.row.id, &plain)
    };
    let verified = context.cpu.run(work).await?;
    verified.map_err(|error| {
        Error::new(ErrorKind::Damaged, "holds a delta that does not give its blob")
            .with("blob", id)
            .because(error)
    })?;
    Ok(Compared::Right)
}
