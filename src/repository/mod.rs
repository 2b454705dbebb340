//! A repository: keys, sessions, blobs in and blobs out, and the collector. What a blob means is not known here; only the collector's mark
//! looks for the references in nodes and lists.
//!
//! The order *packs, then index runs, then the commit* is held by types: only [`BlobWriter::finish`] makes a [`Durable`], and only a
//! `Durable` can be committed.

mod bits;
mod cache;
pub mod collect;
mod delta;
mod forgets;
mod health;
mod index;
mod keys;
pub(crate) mod ledger;
mod log;
mod minimum;
mod notes;
mod open;
mod pack;
mod presence;
mod read;
mod replica;
mod salvage;
mod session;
mod survey;
mod transfer;
mod usage;
mod view;
mod write;

pub use cache::Cache;
pub use delta::Delta;
pub(crate) use delta::make_delta;
pub use health::{PackHealth, PacksKnown};
pub use keys::KeySlotInfo;
pub(crate) use minimum::{CLOCKS_APART, Minimum, is_ahead};
pub use notes::{Notes, SaidAt};
pub use open::{InitOptions, Initialized};
pub use read::BlobReader;
pub use replica::{Found, LeftOut};
pub use salvage::{Mending, Salvage};
pub use session::{Commit, Session};
pub(crate) use survey::Aside;
pub use survey::{DataRequest, Finding, Hit, ReadData, Reads, Survey, SurveyReport, survey_without_key};
pub use transfer::{Naming, Needs, There, Transfer};
pub use usage::{Taken, Usage};
pub use view::View;
pub use write::{Bases, BlobWriter, Durable, PackSource, Rest, WriteCounts};

use crate::chunk::{ChunkParams, Chunker};
use crate::context::Context;
use crate::crypto::{Keyring, Sealed, open_record, open_run, seal_record};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Record;
use crate::format::error::DecodeError;
use crate::format::id::{BlobId, RepositoryId, SessionId};
use crate::format::index::{BlobKind, Tables};
use crate::format::layout::{ObjectName, Prefix};
use crate::format::repo_config::ConfigRecord;
use crate::store::{Listed, ObjectInfo, Put, Store};
use bytes::Bytes;
use futures::TryStreamExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use view::Purpose;

/// An open repository; cheap to clone.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    /// `holdall.json`.
    marker: Bytes,
    keyring: Arc<Keyring>,
    config: ConfigRecord,
    cache: Arc<Cache>,
    /// What is named by numbers only, and was read from this very store.
    numbered: Numbered,
    /// Blocks of content that deltas may rest on, if the store is not on this machine.
    bases: OnceLock<Arc<Cache>>,
    slot: u32,
}

/// Records whose names say nothing of the store that they are in: `gc/1/seal` of a replica is another than the repository's own, and two
/// disks that take turns at one path share a cache. They are remembered as long as the store is open, never longer.
#[derive(Default)]
struct Numbered(Mutex<HashMap<ObjectName, Bytes>>);

impl Numbered {
    fn takes(name: &ObjectName) -> bool {
        matches!(
            name,
            ObjectName::Seal(_) | ObjectName::Condemned(_) | ObjectName::Ledger(_)
        )
    }

    fn get(&self, name: &ObjectName) -> Option<Bytes> {
        self.0.lock().ok()?.get(name).cloned()
    }

    fn put(&self, name: ObjectName, bytes: Bytes) {
        if let Ok(mut held) = self.0.lock() {
            held.insert(name, bytes);
        }
    }
}

impl Repository {
    /// The same repository as another machine has it open: over a handle of its own, with a cache of its own.
    #[must_use]
    pub fn elsewhere(&self, store: Store, cache: Arc<Cache>) -> Self {
        let inner = Inner {
            store,
            marker: self.inner.marker.clone(),
            keyring: self.inner.keyring.clone(),
            config: self.inner.config.clone(),
            cache,
            numbered: Numbered::default(),
            bases: OnceLock::new(),
            slot: self.inner.slot,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Its id.
    pub fn id(&self) -> RepositoryId {
        self.inner.config.repository
    }

    /// Its sealed configuration.
    pub fn config(&self) -> &ConfigRecord {
        &self.inner.config
    }

    /// The store that it lives in.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The number of the key slot that opened it.
    pub fn slot(&self) -> u32 {
        self.inner.slot
    }

    /// The chunker for one connector.
    pub fn chunker(&self, connector: &str) -> Chunker {
        let profiles = &self.inner.config.profiles;
        let find = |name: &str| profiles.iter().find(|p| p.name == name).map(|p| p.params);
        let params: ChunkParams = find(connector).or_else(|| find("default")).unwrap_or_default();
        Chunker::new(params, &self.inner.keyring.gear_key())
    }

    /// The key of the tree's borders.
    pub fn border_key(&self) -> [u8; 32] {
        *self.inner.keyring.border_key().expose()
    }

    /// Names blobs; for work on the CPU pool.
    pub fn namer(&self) -> BlobNamer {
        BlobNamer(self.inner.keyring.clone())
    }

    /// What there is to read, now.
    ///
    /// # Errors
    /// What the store says; damaged objects are in [`View::damaged`].
    pub async fn view(&self, context: &Context) -> Result<View> {
        View::load(self, context, Purpose::Read).await
    }

    /// What a session that begins now would find: for plans that nothing comes of.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub async fn view_of_writer(&self, context: &Context) -> Result<View> {
        View::load(self, context, Purpose::Write).await
    }

    /// A reader of the blobs of a view.
    pub fn reader(&self, context: &Context, view: &View) -> BlobReader {
        BlobReader::new(self.clone(), context.clone(), view, None)
    }

    /// A reader of what one snapshot of a view holds: it can tell that the snapshot was let go meanwhile from damage.
    pub fn reader_of(&self, context: &Context, view: &View, snapshot: SessionId) -> BlobReader {
        BlobReader::new(self.clone(), context.clone(), view, Some(snapshot))
    }

    /// As [`Self::reader_of`], where nothing is written to a repository meanwhile: it takes more of the memory budget.
    pub fn reader_alone(&self, context: &Context, view: &View, snapshot: SessionId) -> BlobReader {
        BlobReader::alone(self.clone(), context.clone(), view, snapshot)
    }

    /// A reader for a snapshot: content, which it reads only to rest deltas on it, comes from the cache of bases where that has it.
    pub fn reader_of_bases(&self, context: &Context, view: &View) -> BlobReader {
        BlobReader::of_bases(self.clone(), context.clone(), view)
    }

    /// Keeps content that deltas may rest on in `cache`; the first one that is given counts.
    pub fn use_base_cache(&self, cache: Cache) {
        let _first = self.inner.bases.set(Arc::new(cache));
    }

    /// What a session that began with `view` may rest on without a claim.
    pub fn bases(&self, view: &View) -> Bases {
        Bases::new(self, view, Arc::default())
    }

    /// A reader that believes the store only, never the local cache: for what looks for damage there.
    pub fn reader_of_store(&self, context: &Context, view: &View) -> BlobReader {
        BlobReader::without_cache(self.clone(), context.clone(), view)
    }

    pub(crate) fn marker(&self) -> Bytes {
        self.inner.marker.clone()
    }

    pub(crate) fn keyring(&self) -> &Keyring {
        &self.inner.keyring
    }

    pub(crate) fn shared_keyring(&self) -> Arc<Keyring> {
        self.inner.keyring.clone()
    }

    pub(crate) fn cache(&self) -> &Arc<Cache> {
        &self.inner.cache
    }

    pub(crate) fn base_cache(&self) -> Option<&Arc<Cache>> {
        self.inner.bases.get()
    }

    pub(crate) fn concurrency(&self) -> usize {
        self.inner.store.concurrency().max(1)
    }

    /// Objects under a prefix, with what the store tells of them.
    pub(crate) async fn list_objects(&self, prefix: Prefix) -> Result<Vec<ObjectInfo>> {
        let object = |listed| async move {
            Ok(if let Listed::Object(info) = listed {
                Some(info)
            } else {
                None
            })
        };
        self.inner
            .store
            .list(prefix)
            .try_filter_map(object)
            .try_collect()
            .await
    }

    /// Names under a prefix; names that the format does not have are left to `check`.
    pub(crate) async fn list(&self, prefix: Prefix) -> Result<Vec<ObjectName>> {
        let named = |listed| async move {
            Ok(if let Listed::Object(info) = listed {
                Some(info.name)
            } else {
                None
            })
        };
        self.inner
            .store
            .list(prefix)
            .try_filter_map(named)
            .try_collect()
            .await
    }

    /// The record at a name, from the cache if it is there and right.
    pub(crate) async fn load<R: Record>(&self, name: ObjectName) -> Result<R> {
        self.load_with(name, |bytes| open_record(self.keyring(), &name, bytes))
            .await
    }

    /// The index run at a name, from the cache if it is there and right.
    pub(crate) async fn load_run(&self, name: ObjectName) -> Result<Tables> {
        self.load_with(name, |bytes| open_run(self.keyring(), &name, bytes))
            .await
    }

    /// As [`Self::load`], from the store only.
    pub(crate) async fn load_stored<R: Record>(&self, name: ObjectName) -> Result<R> {
        let bytes = self.inner.store.get(&name).await?;
        open_record(self.keyring(), &name, &bytes).map_err(|e| Error::from(e).with("object", name))
    }

    async fn load_with<T>(
        &self,
        name: ObjectName,
        open: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<T> {
        let numbered = Numbered::takes(&name);
        let known = if numbered {
            self.inner.numbered.get(&name)
        } else {
            self.cache().get(&name)
        };
        // What the cache holds is opened like the store's own bytes; what does not open is only a lost hint.
        if let Some(value) = known.and_then(|bytes| open(&bytes).ok()) {
            return Ok(value);
        }
        let bytes = self.inner.store.get(&name).await?;
        let value = open(&bytes).map_err(|e| Error::from(e).with("object", name))?;
        if numbered {
            self.inner.numbered.put(name, bytes);
        } else {
            self.cache().put(&name, &bytes);
        }
        Ok(value)
    }

    /// Seals a record and puts it under its name if nothing is there.
    pub(crate) async fn save<R: Record>(&self, context: &Context, record: &R) -> Result<Put> {
        let (name, sealed) = seal_record(self.keyring(), context.random.as_ref(), record)?;
        self.put_sealed(&name, &sealed).await
    }

    /// Puts a sealed object and remembers it.
    pub(crate) async fn put_sealed(&self, name: &ObjectName, sealed: &Sealed) -> Result<Put> {
        let put = self.inner.store.put_new(name, sealed.bytes.clone()).await?;
        if put.is_mine() {
            if Numbered::takes(name) {
                self.inner.numbered.put(*name, sealed.bytes.clone());
            } else {
                self.cache().put(name, &sealed.bytes);
            }
            self.cache().note_seen(&[*name]);
        }
        Ok(put)
    }
}

/// Names blobs by their content, on any thread.
#[derive(Clone)]
pub struct BlobNamer(Arc<Keyring>);

impl BlobNamer {
    /// The id of a blob.
    pub fn name(&self, kind: BlobKind, plaintext: &[u8]) -> BlobId {
        self.0.blob_id(kind, plaintext)
    }
}

/// The error for a blob that nothing can give.
pub(crate) fn lost(id: &BlobId) -> Error {
    Error::new(
        ErrorKind::Damaged,
        "a blob is missing from the repository, or every copy of it is damaged",
    )
    .with("blob", id)
    .hint("run `holdall check` to see which snapshots it belongs to; what else they hold can be restored")
}
