//! What can be read of a repository that has lost something: all copies that a run lists, and those in packs that no run lists any more
//! (`format-spec/85-sessions.md` section 8).

use super::index::{IndexBuilder, PackNumber};
use super::transfer::{Needs, There};
use super::view::{View, of_one_object};
use super::{BlobReader, BlobWriter, Repository, ledger};
use crate::context::Context;
use crate::crypto::Opener;
use crate::error::{Error, ErrorKind, Result};
use crate::format::error::DecodeError;
use crate::format::header::{HEADER_LEN, Header, ObjectType, Origin};
use crate::format::id::{BlobId, ObjectId};
use crate::format::index::{BlobKind, PackRow, Tables};
use crate::format::layout::{ObjectName, Prefix};
use crate::format::pack::PACK_TAIL_LEN;
use futures::stream::{self, StreamExt};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Everything that may be read of a repository, and what of it is needed.
pub struct Salvage {
    repository: Repository,
    context: Context,
    /// What runs list.
    pub view: View,
    /// What is needed, of all that there is.
    pub needs: Needs,
    /// Packs that no run lists, and whether a run may list them again.
    loose: HashMap<ObjectId, Loose>,
    /// Packs that are known to be missing or damaged.
    bad: HashSet<ObjectId>,
    /// Packs that no run lists and that cannot be understood.
    pub damaged: Vec<(ObjectName, Error)>,
}

struct Loose {
    tables: Tables,
    in_place: bool,
}

/// What is to be done so that snapshots can be read again.
#[derive(Debug, Default)]
pub struct Mending {
    listed: Vec<Tables>,
    /// Blobs that must be stored anew, from wherever they can be read.
    pub again: Vec<(BlobKind, BlobId)>,
}

impl Mending {
    /// How many packs are listed again.
    pub fn packs_listed(&self) -> u64 {
        self.listed.len() as u64
    }

    /// Whether all is well.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty() && self.again.is_empty()
    }
}

impl Salvage {
    /// Reads what there is; packs in `bad` and quarantined ones are not rested on.
    ///
    /// # Errors
    /// What the store says; `Damaged` if the collector's log cannot be read.
    pub async fn read(repository: &Repository, context: &Context, bad: &[ObjectId]) -> Result<Self> {
        let view = repository.view(context).await?;
        let (loose, damaged) = read_loose(repository, context, &view).await?;
        let index = if loose.is_empty() {
            view.index.clone()
        } else {
            let mut builder =
                IndexBuilder::onto(super::index::Index::clone(&view.index), view.log.dead.clone());
            let mut ids: Vec<_> = loose.keys().copied().collect();
            ids.sort_unstable();
            for loose in ids.iter().filter_map(|id| loose.get(id)) {
                builder.add(&loose.tables, false);
            }
            Arc::new(context.cpu.run(move || builder.finish()).await?)
        };
        let mut needs = Needs::over(index, view.log.newest);
        let mut avoided = ledger::quarantined(repository).await?;
        avoided.extend(bad);
        for pack in &avoided {
            needs.avoid(pack);
        }
        Ok(Self {
            repository: repository.clone(),
            context: context.clone(),
            view,
            needs,
            loose,
            bad: avoided,
            damaged,
        })
    }

    /// A reader of all copies, damaged packs among them, which are read last: of those, blocks that open are as good as any.
    ///
    /// # Errors
    /// `Internal` only.
    pub fn reader(&self) -> Result<BlobReader> {
        let (repository, context) = (self.repository.clone(), self.context.clone());
        let index = self.needs.index.clone();
        let reader = BlobReader::over_store(repository, context, (index, self.needs.newest));
        reader.set_aside(&self.bad)?;
        Ok(reader)
    }

    /// Whether a view that was read later rests on the same rounds: else this one is outdated.
    pub fn is_of(&self, view: &View) -> bool {
        self.view.log.newest == view.log.newest && self.view.log.condemned == view.log.condemned
    }

    /// What must be done about what is needed and not `there`. Packs that a run may list again are listed; all else is stored anew.
    pub fn plan(&mut self, there: &There) -> Mending {
        let mut mending = Mending::default();
        loop {
            let transfer = self.needs.plan(there);
            let packs: Vec<ObjectId> = transfer.packs.iter().filter_map(|n| self.id_of(*n)).collect();
            self.needs.took(&transfer);
            for id in &packs {
                match self.loose.get(id).filter(|loose| loose.in_place) {
                    Some(loose) => mending.listed.push(loose.tables.clone()),
                    None => self.needs.avoid(id),
                }
            }
            if packs.is_empty() {
                mending.again = transfer.singles;
                return mending;
            }
        }
    }

    fn id_of(&self, number: PackNumber) -> Option<ObjectId> {
        self.needs.index.pack(number).map(|pack| pack.id)
    }
}

impl BlobWriter {
    /// Lists packs in the session's own runs that no run lists any more.
    ///
    /// # Errors
    /// What the store says. After an error the writer takes nothing more.
    pub async fn list_again(&mut self, mending: &Mending) -> Result<()> {
        for tables in &mending.listed {
            self.list_pack(tables.clone()).await?;
        }
        Ok(())
    }
}

type Read = (HashMap<ObjectId, Loose>, Vec<(ObjectName, Error)>);

/// Packs that are there and that no valid run lists, dead ones left out.
async fn read_loose(repository: &Repository, context: &Context, view: &View) -> Result<Read> {
    let listed: HashSet<ObjectId> = view.index.packs().iter().map(|pack| pack.id).collect();
    let objects = repository.list_objects(Prefix::Packs).await?;
    let unlisted: Vec<(ObjectId, u64)> = objects
        .into_iter()
        .filter_map(|info| match info.name {
            ObjectName::Pack(id) => Some((id, info.size)),
            _ => None,
        })
        .filter(|(id, _)| !listed.contains(id) && !view.log.dead.contains(id))
        .collect();
    let reads = unlisted
        .into_iter()
        .map(|(id, size)| async move { (id, read_directory(repository, id, size).await) });
    let mut reads = stream::iter(reads).buffered(repository.concurrency());
    let (mut loose, mut damaged) = (HashMap::new(), Vec::new());
    while let Some((id, read)) = reads.next().await {
        context.check_cancelled()?;
        match read {
            Ok((tables, origin)) => {
                let in_place = may_list(view, &id, origin);
                loose.insert(id, Loose { tables, in_place });
            }
            // A collector, or somebody else's upload that was withdrawn.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                let error = of_one_object(repository.store(), error).await?;
                damaged.push((ObjectName::Pack(id), error));
            }
        }
    }
    Ok((loose, damaged))
}

/// Whether no collector may have a pack on a list of what it still deletes: none ever sealed a round, or the pack is of a session that was
/// committed here after all but the newest round, and that one has not killed it.
fn may_list(view: &View, id: &ObjectId, origin: Origin) -> bool {
    let log = &view.log;
    let is_young = match origin {
        Origin::Session(sid) => sid.epoch >= log.floor && view.has_commit(&sid),
        Origin::Round(_) | Origin::None => false,
    };
    !log.condemned.contains(id) && (log.newest == 0 || is_young)
}

/// The directory of a pack, with the pack's own row, and who made it; three small requests.
async fn read_directory(repository: &Repository, id: ObjectId, size: u64) -> Result<(Tables, Origin)> {
    let name = ObjectName::Pack(id);
    let (store, keyring) = (repository.store(), repository.keyring());
    let at = |error: DecodeError| Error::from(error).with("object", name);
    let header = store.get_range(&name, 0..HEADER_LEN as u64).await?;
    let opener = Opener::new(keyring, &header, ObjectType::Pack, "").map_err(at)?;
    let origin = Header::decode(&header, ObjectType::Pack).map_err(at)?.origin;
    let tail = store
        .get_range(&name, size.saturating_sub(PACK_TAIL_LEN as u64)..size)
        .await?;
    let trailer = opener.trailer(&tail).map_err(at)?;
    let range = usize::try_from(size).unwrap_or(usize::MAX);
    let range = trailer.directory(range).map_err(at)?;
    let sealed = store
        .get_range(&name, range.start as u64..range.end as u64)
        .await?;
    let mut tables = opener.directory_of(&trailer, &sealed).map_err(at)?;
    tables.packs.push(PackRow {
        id,
        header: *header
            .first_chunk::<HEADER_LEN>()
            .ok_or_else(|| at(DecodeError::Truncated))?,
        size: u32::try_from(size).map_err(|_| at(DecodeError::OverLimit("pack")))?,
    });
    Ok((tables, origin))
}
