//! Whether a read that failed says something of one copy only, so that others may be tried.

use super::BlobReader;
use crate::error::{Error, ErrorKind, Result};
use crate::repository::ledger;
use crate::repository::view::of_one_object;
use std::sync::atomic::Ordering;

impl BlobReader {
    /// Gives an error back if it is of one copy, so that another may be tried; else it is the error of this. A store that does not answer is
    /// no reason to call a pack bad; one that gives all but this is.
    pub(super) async fn of_copy(&self, error: Error) -> Result<Error> {
        if error.kind() == ErrorKind::NotFound {
            return Ok(error);
        }
        of_one_object(self.inner.repository.store(), error).await
    }

    /// Where one copy is bad others may be, which a check has found: these are read last from then on. Asked once.
    pub(super) async fn ask_ledger(&self) -> Result<()> {
        if self.inner.knows_ledger.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        match ledger::quarantined(&self.inner.repository).await {
            Ok(packs) => self.set_aside(&packs),
            // It only says what to try first.
            Err(_) => Ok(()),
        }
    }
}
