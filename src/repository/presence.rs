//! Which packs of a view are in the store, as far as a session has found: by reading from them, or by asking, once for each.
//!
//! What a session only reuses rests on the index (W5 of `format-spec/85-sessions.md`). What it stores itself must not hang on a pack that
//! was lost and that nobody has missed yet.

use super::Repository;
use super::index::Pack;
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::ObjectId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{OnceCell, Semaphore};

/// Packs that are asked for at once, at most.
const AT_ONCE: usize = 16;

/// What is known of packs. Grows with the packs that were asked for, never with what they hold.
pub(crate) struct Presence {
    packs: Mutex<HashMap<ObjectId, Arc<OnceCell<bool>>>>,
    requests: Semaphore,
}

impl Default for Presence {
    fn default() -> Self {
        Self {
            packs: Mutex::default(),
            requests: Semaphore::new(AT_ONCE),
        }
    }
}

impl Presence {
    fn of(&self, pack: ObjectId) -> Result<Arc<OnceCell<bool>>> {
        let poisoned = |_| Error::new(ErrorKind::Internal, "what is known of packs is poisoned");
        let mut packs = self.packs.lock().map_err(poisoned)?;
        Ok(packs.entry(pack).or_default().clone())
    }

    /// Takes note of what a read has shown; what is known already, or is being asked for, stands.
    pub(crate) fn note(&self, pack: ObjectId, is_there: bool) {
        if let Ok(known) = self.of(pack) {
            let _first = known.set(is_there);
        }
    }

    /// Whether a pack is known to be missing, or shorter than it must be.
    pub(crate) fn is_lost(&self, pack: &ObjectId) -> bool {
        let packs = self.packs.lock();
        packs.is_ok_and(|packs| packs.get(pack).is_some_and(|known| known.get() == Some(&false)))
    }

    /// Whether the store has a pack. Asks for it if nobody did before; of several at once, one does.
    ///
    /// # Errors
    /// What the store says; then it is asked again the next time.
    pub(crate) async fn ask(&self, repository: &Repository, pack: &Pack) -> Result<bool> {
        let ask = || async {
            let _permit = self.requests.acquire().await.ok();
            pack.is_present(repository).await
        };
        self.of(pack.id)?.get_or_try_init(ask).await.copied()
    }
}
