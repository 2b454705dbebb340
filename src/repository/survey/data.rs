//! Reading packs to prove them: their hash, their directory, every whole blob against its id, every delta with its base.

use super::Survey;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::error::DecodeError;
use crate::format::header::Origin;
use crate::format::id::ObjectId;
use crate::format::index::Tables;
use crate::format::layout::ObjectName;
use crate::repository::delta::apply_delta;
use crate::repository::pack::{StoredDelta, open_pack};
use crate::repository::view::is_damage;
use crate::repository::{BlobReader, ReadData, Repository};
use futures::stream::{self, StreamExt};
use std::sync::Arc;

impl Survey<'_> {
    /// Reads packs and proves what is in them, deltas too unless only nodes are looked for.
    pub(super) async fn read_packs(&mut self, wanted: &[ObjectId], read_data: ReadData) -> Result<()> {
        // Each pack in flight is held whole, sealed and one block open: the budget says how many.
        let at_once = usize::try_from(self.context.budget.total() / (48 << 20))
            .unwrap_or(1)
            .clamp(1, 8);
        let (repository, context) = (self.repository.clone(), self.context.clone());
        // Without a view nothing can be said of bases; that it is damaged is told where it is read.
        let bases = match self.repository.view(self.context).await {
            Ok(view) if read_data != ReadData::None || !self.doubtful.is_empty() => {
                Some(repository.reader_of_store(&context, &view))
            }
            _ => None,
        };
        let reads = wanted.iter().map(|id| {
            let (repository, context, id) = (repository.clone(), context.clone(), *id);
            let bases = bases.clone();
            let expected = self.listed.get(&id).cloned();
            async move { (id, read_pack(&repository, &context, (id, expected), bases).await) }
        });
        let reads: Vec<_> = reads.collect();
        let mut reads = stream::iter(reads).buffered(at_once);
        let mut verified = Vec::new();
        while let Some((id, read)) = reads.next().await {
            self.context.check_cancelled()?;
            match read {
                Ok((bytes, blobs)) => {
                    self.report.packs_read += 1;
                    self.report.bytes_read += bytes;
                    self.report.blobs_verified += blobs;
                    self.context.emit(&Event::Progress { bytes });
                    verified.push((id, self.context.clock.now().seconds));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    // A collector may have taken a pack that nothing lists.
                    if self.listed.contains_key(&id) {
                        self.report.error(ObjectName::Pack(id), "is missing");
                    }
                }
                Err(error) if is_damage(&error) => {
                    self.report.bad_packs.push(id);
                    self.report.error(ObjectName::Pack(id), error);
                }
                Err(error) => return Err(error),
            }
        }
        self.remember(verified, read_data).await
    }
}

async fn read_pack(
    repository: &Repository,
    context: &Context,
    (id, expected): (ObjectId, Option<Arc<Tables>>),
    bases: Option<BlobReader>,
) -> Result<(u64, u64)> {
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
    let (mut blobs, deltas) = context.cpu.run(work).await??;
    for delta in deltas {
        let Some(bases) = &bases else { break };
        context.check_cancelled()?;
        blobs += u64::from(verify_delta(repository, context, bases, delta).await?);
    }
    Ok((len, blobs))
}

/// Gives whether the delta could be looked at. It cannot where its base is gone with a collection, so that nothing rests on it, or
/// damaged, which is told of the base's pack.
async fn verify_delta(
    repository: &Repository,
    context: &Context,
    bases: &BlobReader,
    delta: StoredDelta,
) -> Result<bool> {
    if !bases.has(&delta.base) {
        return Ok(false);
    }
    let base = match bases.get(delta.row.kind, &delta.base).await {
        Ok(base) => base,
        Err(error) if is_damage(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    let keyring = repository.shared_keyring();
    let id = delta.row.id;
    let work = move || -> Result<(), DecodeError> {
        let plain = apply_delta(&delta.bytes, &base, delta.row.plain)?;
        keyring.verify_blob(delta.row.kind, &delta.row.id, &plain)
    };
    let verified = context.cpu.run(work).await?;
    verified.map_err(|error| {
        Error::new(ErrorKind::Damaged, "holds a delta that does not give its blob")
            .with("blob", id)
            .because(error)
    })?;
    Ok(true)
}
