//! What a session may rest on of what another session of this process has uploaded and could not commit.

use super::BlobWriter;
use crate::error::Result;
use crate::format::id::BlobId;
use crate::repository::index::{Copy, Index, PackNumber};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Asked of every blob of a snapshot; remembers what must be claimed for them.
pub struct Rest {
    pub(super) view: Arc<Index>,
    /// Packs that only uncommitted sessions list.
    pub(super) packs: BTreeSet<PackNumber>,
}

impl Rest {
    /// Whether the session may rest on a blob, as far as its view tells: W5 (B), or (D) once [`BlobWriter::claim_all`] agrees.
    pub fn on(&mut self, id: &BlobId) -> bool {
        if *id == BlobId::HOLE {
            return true;
        }
        let unclaimed = |copy: &Copy| {
            let block = self.view.block(copy)?;
            self.view
                .pack(block.pack)
                .filter(|pack| pack.unclaimed)
                .map(|_| block.pack)
        };
        if self.view.chain(id, &|copy| unclaimed(copy).is_none()).is_some() {
            return true;
        }
        match self.view.chain(id, &|_| true) {
            Some(chain) => {
                let packs: Vec<_> = chain.into_iter().filter_map(unclaimed).collect();
                self.packs.extend(packs);
                true
            }
            None => false,
        }
    }
}

impl BlobWriter {
    /// To ask of blobs, before [`Self::claim_all`].
    pub fn rest(&self) -> Rest {
        Rest {
            view: self.view.clone(),
            packs: BTreeSet::new(),
        }
    }

    /// Claims what blobs rest on. False if some of it is gone: then nothing of it may be rested on.
    ///
    /// # Errors
    /// What the store says.
    pub async fn claim_all(&mut self, rest: Rest) -> Result<bool> {
        let view = self.view.clone();
        self.claim(&view, &rest.packs).await
    }
}
