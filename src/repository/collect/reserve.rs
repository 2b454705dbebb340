//! Putting a collector's own records, on a full disk too: what `init` reserved is given back one piece at a time, and taken again when
//! there is room.

use crate::context::Context;
use crate::crypto::{Sealed, seal_record};
use crate::error::{ErrorKind, Result};
use crate::event::Event;
use crate::format::Record;
use crate::format::layout::{ObjectName, Prefix};
use crate::format::limits::RESERVES;
use crate::repository::Repository;
use crate::store::Put;

/// Puts records, and remembers what it gave back for them.
pub(super) struct Pen {
    repository: Repository,
    context: Context,
    /// Reserve objects that are not given back yet.
    left: u8,
}

impl Pen {
    pub(super) fn new(repository: &Repository, context: &Context) -> Self {
        Self {
            repository: repository.clone(),
            context: context.clone(),
            left: RESERVES,
        }
    }

    /// Puts a record, as [`Repository::save`].
    pub(super) async fn save<R: Record>(&mut self, record: &R) -> Result<Put> {
        let random = self.context.random.as_ref();
        let (name, sealed) = seal_record(self.repository.keyring(), random, record)?;
        self.put(&name, &sealed).await
    }

    /// Puts a sealed object. What is full gets room.
    pub(super) async fn put(&mut self, name: &ObjectName, sealed: &Sealed) -> Result<Put> {
        loop {
            match self.repository.put_sealed(name, sealed).await {
                Err(error) if error.kind() == ErrorKind::StoreFull && self.left > 0 => {
                    self.left -= 1;
                    self.repository
                        .store()
                        .delete(&ObjectName::Reserve(self.left))
                        .await?;
                }
                put => return put,
            }
        }
    }

    /// Reserves again what some collection gave back, this one or one that failed after it: in a directory, and wherever space was
    /// reserved. Gives whether all of it is there: a disk that is still full is no error.
    async fn refill(&self) -> Result<bool> {
        let names = self.repository.list(Prefix::Reserve).await?;
        let held = |name: &&ObjectName| matches!(name, ObjectName::Reserve(k) if *k < RESERVES);
        let held = names.iter().filter(held).count();
        let is_due = held > 0 || self.left < RESERVES || self.repository.store().is_directory();
        if held == usize::from(RESERVES) || !is_due {
            return Ok(true);
        }
        match crate::repository::open::reserve(self.repository.store(), &self.context).await {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::StoreFull | ErrorKind::Denied) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// As [`Self::refill`]; says so if there is no room.
    pub(super) async fn refill_and_tell(&self) -> Result<()> {
        if !self.refill().await? {
            let text = "the store is too full to reserve space for the next collection again".to_owned();
            self.context.emit(&Event::Note { text });
        }
        Ok(())
    }
}
