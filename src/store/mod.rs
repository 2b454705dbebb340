//! Where objects live: a directory, S3, or memory, behind one handle that cannot overwrite.
//!
//! Three promises hold for every kind of store:
//! * Names are [`ObjectName`]s, never strings, and an object is written by [`Store::put_new`] only: once, whole, and only
//!   if the name is free. An answer that leaves the outcome open is settled by reading back.
//! * A request takes as long as it likes while bytes move; without any it is sent again, with growing pauses, and then fails
//!   with a kind that says what can be done. After cancellation nothing is sent again.
//! * Messages hold no secret.
//!
//! The store does not know what is inside an object.

mod delete;
mod fault;
mod limit;
mod local;
mod location;
mod open;
mod options;
mod probe;
mod put;
mod read;
mod retry;
mod secret;
mod wire;

pub use delete::Bulk;
pub use location::Location;
pub use options::{Access, Retry, S3Options, StoreOptions, Timeouts};
pub use probe::{Capability, Race, Trial};
pub use put::Put;
pub use read::{Listed, ObjectInfo};
pub use secret::Secret;

#[cfg(feature = "testkit")]
pub(crate) use fault::Fault;

use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Observer;
use crate::format::layout::ObjectName;
use fault::{Attempt, Place};
use limit::{Gate, Limiter};
use object_store::path::Path;
use object_store::{AttributeValue, ObjectStore};
use secret::Redactor;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use tokio_util::sync::CancellationToken;

/// A place for objects. Cheap to clone; all clones share limits and concurrency.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    writable: bool,
}

struct Shared {
    raw: Arc<dyn ObjectStore>,
    /// The same store, for deletes of many objects by one request, where there is such a request.
    bulk: Option<Arc<dyn ObjectStore>>,
    /// Whether it turned out that there is none.
    refuses_bulk: AtomicBool,
    /// Whether it is a directory of this machine.
    directory: bool,
    /// What comes before every name.
    root: Path,
    /// What messages call the store.
    label: String,
    redactor: Redactor,
    /// Of packs.
    storage_class: Option<AttributeValue>,
    retry: Retry,
    download: Option<Arc<Limiter>>,
    uploads: Arc<Gate>,
    observer: Arc<dyn Observer>,
    cancel: CancellationToken,
    /// Whether the store has ever answered.
    answered: AtomicBool,
    /// Where the jitter of waits comes from: seeded once, so that a deterministic context stays deterministic.
    jitter: AtomicU64,
}

impl Store {
    /// Opens the store at `location`. Sends nothing: whether the store answers, the first request tells.
    ///
    /// # Errors
    /// `NoRepository` if a directory is missing (and is not to be made), `Invalid` for options that cannot be, such as
    /// missing credentials, `Denied` and others if a directory cannot be made.
    pub fn open(location: &Location, options: &StoreOptions, context: &Context) -> Result<Self> {
        open::open(location, options, context)
    }

    /// A store over any `object_store`, such as one that injects faults. Bandwidth limits hold for downloads only.
    ///
    /// # Errors
    /// `Internal` if there is no randomness for the waits between tries.
    pub fn over(
        raw: Arc<dyn ObjectStore>,
        label: &str,
        options: &StoreOptions,
        context: &Context,
    ) -> Result<Self> {
        open::over(raw, (label, Path::default()), options, context)
    }

    /// The same store, unable to write or delete.
    #[must_use]
    pub fn read_only(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            writable: false,
        }
    }

    /// Whether this handle may write.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether the store is a directory, whose disk may be full of other things.
    pub fn is_directory(&self) -> bool {
        self.shared.directory
    }

    /// What messages call the store: its location, without secrets.
    pub fn label(&self) -> &str {
        &self.shared.label
    }

    /// How many uploads run at once: less on a line that stalls, more again when it recovers. Further calls of
    /// [`Store::put_new`] wait.
    pub fn concurrency(&self) -> usize {
        self.shared.uploads.limit()
    }

    fn path(&self, name: &str) -> Path {
        let root = self.shared.root.as_ref();
        // Names of objects and the checked root hold nothing that the conversion would change.
        match (root.is_empty(), name.is_empty()) {
            (true, _) => Path::from(name),
            (false, true) => self.shared.root.clone(),
            (false, false) => Path::from(format!("{root}/{name}")),
        }
    }

    fn place<'a>(&'a self, attempt: Attempt, object: &'a str) -> Place<'a> {
        Place {
            attempt,
            object,
            store: &self.shared.label,
            redactor: &self.shared.redactor,
        }
    }

    /// Refuses what a read-only handle must not do.
    fn writing(&self, attempt: Attempt, name: &ObjectName) -> Result<()> {
        if self.writable {
            return Ok(());
        }
        let what = format!("cannot {}: the repository was opened for reading", attempt.verb());
        Err(self
            .place(attempt, &name.to_string())
            .place(Error::new(ErrorKind::Denied, what)))
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("label", &self.shared.label)
            .field("writable", &self.writable)
            .finish_non_exhaustive()
    }
}
