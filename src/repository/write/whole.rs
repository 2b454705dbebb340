//! Whole packs of a repository with the same keys (`format-spec/85-sessions.md` section 7).

use super::{BlobWriter, TICK, Uploaded, cache_blocks};
use crate::context::Context;
use crate::context::mutant::mutated;
use crate::crypto::{Sealed, Sealer};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::error::DecodeError;
use crate::format::header::{HEADER_LEN, ObjectType, Origin};
use crate::format::id::{ObjectId, SessionId};
use crate::format::index::{PackRow, Tables};
use crate::format::layout::ObjectName;
use crate::repository::index::PackNumber;
use crate::repository::pack::{OpenedPack, open_pack};
use crate::repository::transfer::{Naming, Needs, There, Transfer, is_outdated};
use crate::repository::view::of_one_object;
use crate::repository::{Repository, Rest};
use crate::store::Put;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Packs whose rows are held in memory at once.
const PART: usize = 64;
/// Packs are on their way twice, as they are and sealed anew: so many bytes of the budget for each of them.
const PACK_SHARE: u64 = 64 << 20;

/// Where packs come from.
pub struct PackSource<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// What is needed of it.
    pub needs: &'a Needs,
    /// How packs are called.
    pub naming: Arc<Naming>,
}

/// One pack on its way.
struct Carrier {
    from: Repository,
    to: Repository,
    context: Context,
    sid: SessionId,
    naming: Arc<Naming>,
}

/// Why a pack was not copied.
enum Failed {
    /// It is gone from the source, or damaged there.
    Bad(Error),
    /// Nothing can be copied.
    All(Error),
}

type Carried = (ObjectId, Result<Uploaded, Failed>);

impl BlobWriter {
    /// What the session may rest on: looks whether packs of uncommitted sessions are still there.
    ///
    /// # Errors
    /// What the store says.
    pub async fn there(&mut self) -> Result<There> {
        let view = self.view.clone();
        let (presence, repository) = (&self.presence, &self.repository);
        let unclaimed: Vec<_> = view.packs().iter().filter(|pack| pack.unclaimed).collect();
        let asked = unclaimed.into_iter().map(|pack| presence.ask(repository, pack));
        let asked: Vec<_> = asked.collect();
        let mut asked = stream::iter(asked).buffered(repository.concurrency());
        while let Some(is_there) = asked.next().await {
            is_there?;
        }
        let numbered = (0u32..).zip(view.packs());
        let absent = numbered.filter(|(_, pack)| presence.is_lost(&pack.id));
        let absent = absent.map(|(number, _)| PackNumber(number)).collect();
        Ok(There::new(view.clone(), absent))
    }

    /// Claims what a transfer rests on, and puts its packs. Gives those that the source has lost or that are damaged there.
    ///
    /// # Errors
    /// What the stores say. After an error the session can list what is there, and commit nothing.
    pub async fn put_packs(
        &mut self,
        source: &PackSource<'_>,
        transfer: &Transfer,
    ) -> Result<Vec<(ObjectId, Error)>> {
        self.check_sound()?;
        let put = self.try_put_packs(source, transfer).await;
        self.incomplete |= put.is_err();
        put
    }

    async fn try_put_packs(
        &mut self,
        source: &PackSource<'_>,
        transfer: &Transfer,
    ) -> Result<Vec<(ObjectId, Error)>> {
        let rest = Rest {
            view: self.view.clone(),
            packs: transfer.claims.clone(),
        };
        if !self.claim_all(rest).await? {
            let what = "what an interrupted run left here is gone";
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        let mut bad = Vec::new();
        for part in transfer.parts(PART) {
            let numbers: BTreeSet<PackNumber> = part.iter().copied().collect();
            self.put_part(source, source.needs.index.rows_of(&numbers), &mut bad)
                .await?;
        }
        Ok(bad)
    }

    async fn put_part(
        &mut self,
        source: &PackSource<'_>,
        rows: Vec<Tables>,
        bad: &mut Vec<(ObjectId, Error)>,
    ) -> Result<()> {
        let at_once = usize::try_from(self.context.budget.total() / PACK_SHARE).unwrap_or(1);
        let at_once = at_once.clamp(1, self.repository.concurrency().clamp(1, 8));
        let carrier = Arc::new(Carrier {
            from: source.repository.clone(),
            to: self.repository.clone(),
            context: self.context.clone(),
            sid: self.sid,
            naming: source.naming.clone(),
        });
        let mut carried: JoinSet<Carried> = JoinSet::new();
        let mut ended = Ok(());
        for tables in rows {
            while carried.len() >= at_once && ended.is_ok() {
                ended = self.take_carried(&mut carried, bad).await;
            }
            if ended.is_err() {
                break;
            }
            let (carrier, id) = (carrier.clone(), tables.packs.first().map(|pack| pack.id));
            let Some(id) = id else { continue };
            carried.spawn(async move { (id, carrier.carry(id, tables).await) });
        }
        // After an error too: what others have brought is to be listed. They end by the same interrupt, or with their uploads.
        while !carried.is_empty() {
            let taken = self.take_carried(&mut carried, bad).await;
            ended = ended.and(taken);
        }
        ended
    }

    /// Waits for a pack; the session shows signs of life meanwhile.
    async fn take_carried(
        &mut self,
        carried: &mut JoinSet<Carried>,
        bad: &mut Vec<(ObjectId, Error)>,
    ) -> Result<()> {
        let joined = loop {
            tokio::select! {
                biased;
                joined = carried.join_next() => break joined,
                () = tokio::time::sleep(TICK) => self.heartbeat().await?,
            }
        };
        let Some(joined) = joined else { return Ok(()) };
        let (id, outcome) =
            joined.map_err(|e| Error::new(ErrorKind::Internal, "a copying task failed").because(e))?;
        match outcome {
            Ok(uploaded) => {
                self.counts.blobs_new += uploaded.tables.entries.len() as u64;
                self.note_uploaded(uploaded).await?;
                self.heartbeat().await
            }
            Err(Failed::Bad(error)) => {
                bad.push((id, error));
                Ok(())
            }
            Err(Failed::All(error)) => Err(error),
        }
    }
}

impl Needs {
    /// Whether a round has ended in the source since its index was read: what is gone may be elsewhere now.
    ///
    /// # Errors
    /// What the store says.
    pub async fn is_outdated(&self, source: &Repository, context: &Context) -> Result<bool> {
        is_outdated(source, context, self.newest).await
    }
}

impl Carrier {
    async fn carry(&self, id: ObjectId, expected: Tables) -> Result<Uploaded, Failed> {
        self.context.check_cancelled().map_err(Failed::All)?;
        let size = expected.packs.first().map_or(0, |pack| u64::from(pack.size));
        let held = self.context.budget.reserve(size * 2).await;
        let name = ObjectName::Pack(id);
        let bytes = match self.from.store().get(&name).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Failed::Bad(error.with("object", name)));
            }
            // One that the disk does not give is lost as it is, and no reason to leave the others.
            Err(error) => {
                let error = of_one_object(self.from.store(), error).await;
                return Err(error.map_or_else(Failed::All, Failed::Bad));
            }
        };
        let len = bytes.len() as u64;
        let (from, pack) = (self.from.shared_keyring(), bytes.clone());
        let tables = expected.clone();
        let verify = move || -> Result<(), DecodeError> {
            let opened = open_pack(&from, &id, &pack)?;
            if opened.tables != tables {
                return Err(DecodeError::Invalid("directory differs from the index"));
            }
            opened.verify(&from).map(drop)
        };
        let verified = self.context.cpu.run(verify).await.map_err(Failed::All)?;
        verified.map_err(|error| Failed::Bad(Error::from(error).with("object", name)))?;
        let stored = self.store(id, bytes, expected).await.map_err(Failed::All)?;
        self.context.emit(&Event::Progress { bytes: len });
        drop(held);
        Ok(stored)
    }

    /// Under its own name if that is safe and free, else sealed anew.
    async fn store(&self, id: ObjectId, bytes: Bytes, tables: Tables) -> Result<Uploaded> {
        let own = Sealed { bytes, id };
        if self.naming.keeps(&id) {
            let name = ObjectName::Pack(id);
            // A conflict: what has its name there is cut off, or damaged.
            if self.put(name, own.bytes.clone()).await? != Put::Conflict {
                return self.uploaded(own, tables).await;
            }
        }
        let (sealed, tables) = self.seal_anew(own.bytes, id).await?;
        let name = ObjectName::Pack(sealed.id);
        if !self.put(name, sealed.bytes.clone()).await?.is_mine() {
            return Err(
                Error::new(ErrorKind::Damaged, "a pack's name is taken by other bytes").with("object", name),
            );
        }
        self.uploaded(sealed, tables).await
    }

    async fn put(&self, name: ObjectName, bytes: Bytes) -> Result<Put> {
        let store = self.to.store().clone();
        if mutated!(CopyUnput) {
            tokio::spawn(async move { store.put_new(&name, bytes).await });
            return Ok(Put::Created);
        }
        store.put_new(&name, bytes).await
    }

    async fn seal_anew(&self, bytes: Bytes, id: ObjectId) -> Result<(Sealed, Tables)> {
        let (to, random, sid) = (self.to.clone(), self.context.random.clone(), self.sid);
        let work = move || {
            let keyring = to.shared_keyring();
            let pack = open_pack(&keyring, &id, &bytes)?;
            let sealer = Sealer::new(
                &keyring,
                random.as_ref(),
                ObjectType::Pack,
                Origin::Session(sid),
                "",
                bytes.len(),
            )?;
            reseal(&pack, sealer, to.config().padme)
        };
        self.context.cpu.run(work).await?
    }

    async fn uploaded(&self, sealed: Sealed, tables: Tables) -> Result<Uploaded> {
        let (to, bytes) = (self.to.clone(), sealed.bytes.len() as u64);
        let cache = move || {
            cache_blocks(&to, &sealed, &tables);
            tables
        };
        let tables = self.context.cpu.run(cache).await?;
        Ok(Uploaded { tables, bytes })
    }
}

/// The same blocks under a new salt: all of the directory stays as it is.
fn reseal(pack: &OpenedPack<'_>, mut sealer: Sealer, padme: bool) -> Result<(Sealed, Tables)> {
    let header = *sealer
        .header()
        .first_chunk::<HEADER_LEN>()
        .ok_or(DecodeError::Truncated)?;
    let mut tables = pack.tables.clone();
    tables.packs.clear();
    for row in &tables.blocks {
        let placed = sealer.record(&pack.stored(row)?, false)?;
        if placed != (row.record, row.offset, row.sealed) {
            let what = "a block that is sealed anew takes another place";
            return Err(Error::new(ErrorKind::Internal, what));
        }
    }
    let sealed = sealer.finish_pack(&tables, padme)?;
    let size = u32::try_from(sealed.bytes.len())
        .map_err(|_| Error::new(ErrorKind::Internal, "pack over its limit"))?;
    tables.packs.push(PackRow {
        id: sealed.id,
        header,
        size,
    });
    Ok((sealed, tables))
}
