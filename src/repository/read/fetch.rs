//! Blocks of packs: fetched in whole packs or aligned spans, opened and decompressed on the CPU pool, kept for a while.

use super::super::index::{Block, Index, Pack, PackNumber};
use super::super::pack::decode_block;
use super::super::presence::Presence;
use super::super::{Cache, Repository};
use super::Cached;
use super::kept::Kept;
use crate::context::Context;
use crate::crypto::{Keyring, Opener};
use crate::error::{Error, ErrorKind, Result};
use crate::format::header::ObjectType;
use crate::format::id::ObjectId;
use crate::format::layout::ObjectName;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// Ranges of packs begin and end at multiples of this, so that a store learns no blob's place.
const SPAN: u64 = 1 << 20;

/// A range of a pack, and the numbered blocks that are wanted of it.
type Group = (Range<u64>, Vec<(u32, Block)>);

pub(super) type SharedBytes = Shared<BoxFuture<'static, Result<Bytes>>>;

/// Bytes of a pack and the permit of their request, which is given back when all blocks of them are open: what was fetched and waits
/// for the CPU pool counts as under way.
type Fetched = Shared<BoxFuture<'static, Result<(Bytes, Arc<Option<OwnedSemaphorePermit>>)>>>;

/// Blocks on their way or at hand.
pub(super) struct Blocks {
    repository: Repository,
    context: Context,
    index: Arc<Index>,
    /// How many bytes of plaintext are kept.
    kept_max: u64,
    /// How many bytes one request fetches at the most, a single block apart.
    request_max: u64,
    kept: Mutex<Kept>,
    /// Moves what was asked for ahead; ends with the reader.
    tasks: Mutex<JoinSet<()>>,
    requests: Arc<Semaphore>,
    /// The local cache of blocks of the tree, and that of content; nothing where there is none or it is not to be used.
    tree: Option<Arc<Held>>,
    bases: Option<Arc<Held>>,
    /// Which packs were found to be in the store, for those who rest something new on them.
    presence: Option<Arc<Presence>>,
    /// Bytes fetched, and those among them of content.
    fetched: Arc<AtomicU64>,
    content: Arc<AtomicU64>,
}

/// A local cache and what it is said to hold.
struct Held {
    cache: Arc<Cache>,
    blocks: Mutex<HashSet<(ObjectId, u32)>>,
}

impl Held {
    fn new(cache: &Arc<Cache>) -> Arc<Self> {
        Arc::new(Self {
            cache: cache.clone(),
            blocks: Mutex::new(cache.blocks()),
        })
    }

    fn holds(&self, pack: &ObjectId, block: &Block) -> bool {
        let blocks = self.blocks.lock();
        blocks.is_ok_and(|blocks| blocks.contains(&(*pack, block.offset)))
    }

    /// Keeps a block, if there is room for it: what was not taken must not count as at hand.
    fn put(&self, pack: &ObjectId, block: &Block, sealed: &[u8]) {
        if self.cache.put_block(pack, block.offset, sealed)
            && let Ok(mut blocks) = self.blocks.lock()
        {
            blocks.insert((*pack, block.offset));
        }
    }

    /// The sealed bytes of a block. One that is not there any more, another process may need the room, does not count as at hand from
    /// then on.
    fn get(&self, pack: &ObjectId, block: &Block) -> Option<Bytes> {
        let sealed = self.cache.get_block(pack, block.offset);
        if sealed.is_none() {
            self.forget(pack, block);
        }
        sealed
    }

    /// Drops a block that does not open.
    fn remove(&self, pack: &ObjectId, block: &Block) {
        self.cache.remove_block(pack, block.offset);
        self.forget(pack, block);
    }

    fn forget(&self, pack: &ObjectId, block: &Block) {
        if let Ok(mut blocks) = self.blocks.lock() {
            blocks.remove(&(*pack, block.offset));
        }
    }
}

impl Blocks {
    /// `cached` says what local caches may give and are given; `is_alone`, that nobody writes to a repository meanwhile.
    pub(super) fn new(
        (repository, context): (Repository, Context),
        index: Arc<Index>,
        cached: &Cached,
        is_alone: bool,
    ) -> Self {
        let budget = context.budget.total();
        let request_max = budget / 16;
        // Beside others it has a quarter; alone, as in a restore, what nobody else needs.
        let kept_max = budget / 8 * if is_alone { 3 } else { 2 };
        let requests = Arc::new(Semaphore::new(repository.concurrency()));
        let (kept, tasks) = (Mutex::default(), Mutex::default());
        let tree = (!matches!(cached, Cached::Nothing)).then(|| Held::new(repository.cache()));
        let presence = match cached {
            Cached::TreeAndBases(presence) => Some(presence.clone()),
            _ => None,
        };
        let bases = repository.base_cache().filter(|_| presence.is_some());
        let bases = bases.map(Held::new);
        Self {
            repository,
            context,
            index,
            kept_max,
            request_max,
            kept,
            tasks,
            requests,
            tree,
            bases,
            presence,
            fetched: Arc::default(),
            content: Arc::default(),
        }
    }

    pub(super) fn bytes_fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    pub(super) fn content_fetched(&self) -> u64 {
        self.content.load(Ordering::Relaxed)
    }

    /// Takes over the counts of what was read before.
    pub(super) fn count_on(&self, before: &Self) {
        self.fetched.fetch_add(before.bytes_fetched(), Ordering::Relaxed);
        self.content
            .fetch_add(before.content_fetched(), Ordering::Relaxed);
    }

    /// The cache that is for a block.
    fn cache_of(&self, block: &Block) -> Option<&Arc<Held>> {
        if block.tree {
            self.tree.as_ref()
        } else {
            self.bases.as_ref()
        }
    }

    /// Whether a local cache is said to hold a block.
    fn is_cached(&self, block: &Block) -> bool {
        let held = self.cache_of(block).zip(self.index.pack(block.pack));
        held.is_some_and(|(held, pack)| held.holds(&pack.id, block))
    }

    /// Bytes that would be fetched for these blocks, but for those that `counted` has.
    pub(super) fn cost(&self, wanted: &[u32], counted: &mut HashSet<(PackNumber, u64)>) -> Result<u64> {
        let kept = self.kept.lock().map_err(|_| poisoned())?;
        let mut spans = 0;
        for number in wanted.iter().filter(|number| !kept.blocks.contains_key(number)) {
            let block = self.index.blocks().get(*number as usize);
            let Some(block) = block.filter(|block| !self.is_cached(block)) else {
                continue;
            };
            let end = u64::from(block.offset) + u64::from(block.sealed);
            for span in u64::from(block.offset) / SPAN..end.div_ceil(SPAN) {
                spans += u64::from(counted.insert((block.pack, span)));
            }
        }
        Ok(spans * SPAN)
    }

    /// The plaintext of a block that [`Self::fetch`] gave a handle to; one that failed is not kept, so that it can be asked for again.
    pub(super) async fn settle(&self, number: u32, asked: Option<&SharedBytes>) -> Result<Bytes> {
        let Some(asked) = asked.cloned() else {
            return Err(Error::new(ErrorKind::Damaged, "block outside the index"));
        };
        let result = asked.await;
        let mut kept = self.kept.lock().map_err(|_| poisoned())?;
        if result.is_ok() {
            kept.used_once(number);
        } else {
            kept.remove(number);
        }
        result
    }

    /// Begins to fetch blocks that will be used as often as they stand here.
    pub(super) fn announce(&self, wanted: &[u32]) -> Result<()> {
        self.fetch(wanted)?;
        let mut kept = self.kept.lock().map_err(|_| poisoned())?;
        for number in wanted {
            kept.announce(*number);
        }
        Ok(())
    }

    /// Begins to fetch blocks that are neither at hand nor on their way. Gives a handle to each.
    pub(super) fn fetch(&self, wanted: &[u32]) -> Result<HashMap<u32, SharedBytes>> {
        let mut kept = self.kept.lock().map_err(|_| poisoned())?;
        let mut handles = HashMap::with_capacity(wanted.len());
        let mut by_pack: BTreeMap<PackNumber, Vec<(u32, Block)>> = BTreeMap::new();
        for number in wanted {
            if let Some(pending) = kept.get(*number) {
                handles.insert(*number, pending);
                continue;
            }
            if let Some(block) = self.index.blocks().get(*number as usize) {
                by_pack.entry(block.pack).or_default().push((*number, *block));
            }
        }
        for (pack, mut blocks) in by_pack {
            for (number, block) in blocks.extract_if(.., |(_, block)| self.is_cached(block)) {
                let plaintext = self.open_cached(block);
                self.drive(vec![plaintext.clone()]);
                handles.insert(number, plaintext.clone());
                kept.insert(number, u64::from(block.plain), plaintext);
            }
            blocks.sort_unstable_by_key(|(_, block)| block.offset);
            blocks.dedup_by_key(|(number, _)| *number);
            for (range, group) in self.ranges(pack, &blocks) {
                let is_content = group.iter().any(|(_, block)| !block.tree);
                let bytes = self.range(pack, range.clone(), is_content);
                let mut opened = Vec::with_capacity(group.len());
                for (number, block) in group {
                    let plaintext = self.open(block, range.start, bytes.clone());
                    opened.push(plaintext.clone());
                    handles.insert(number, plaintext.clone());
                    kept.insert(number, u64::from(block.plain), plaintext);
                }
                self.drive(opened);
            }
        }
        kept.shrink(self.kept_max);
        Ok(handles)
    }

    fn drive(&self, blocks: Vec<SharedBytes>) {
        if let Ok(mut tasks) = self.tasks.lock() {
            while tasks.try_join_next().is_some() {}
            // Errors are for whoever asks for the block.
            tasks.spawn(async move { drop(futures::future::join_all(blocks).await) });
        }
    }

    /// Groups the blocks of one pack into aligned ranges: neighbours, and what lies less than a span apart, go together.
    fn ranges(&self, pack: PackNumber, blocks: &[(u32, Block)]) -> Vec<Group> {
        let size = self.index.pack(pack).map_or(0, |pack| u64::from(pack.size));
        let mut ranges: Vec<Group> = Vec::new();
        for (number, block) in blocks {
            let (start, end) = (
                u64::from(block.offset),
                u64::from(block.offset) + u64::from(block.sealed),
            );
            let start = start / SPAN * SPAN;
            let end = (end.div_ceil(SPAN) * SPAN).min(size);
            match ranges.last_mut() {
                Some((range, group))
                    if start <= range.end + SPAN && end - range.start <= self.request_max =>
                {
                    range.end = end.max(range.end);
                    group.push((*number, *block));
                }
                _ => ranges.push((start..end, vec![(*number, *block)])),
            }
        }
        ranges
    }

    fn range(&self, pack: PackNumber, range: Range<u64>, is_content: bool) -> Fetched {
        let (repository, pack) = (self.repository.clone(), self.index.pack(pack));
        let is_to_end = pack.is_some_and(|pack| range.end == u64::from(pack.size));
        let id = pack.map(|pack| pack.id);
        let (requests, fetched) = (self.requests.clone(), self.fetched.clone());
        let content = is_content.then(|| self.content.clone());
        let presence = self.presence.clone();
        async move {
            let permit = Arc::new(requests.acquire_owned().await.ok());
            let id = id.ok_or_else(|| Error::new(ErrorKind::Damaged, "pack outside the index"))?;
            let expected = range.end - range.start;
            let bytes = repository.store().get_range(&ObjectName::Pack(id), range).await;
            if let Some(presence) = presence {
                match &bytes {
                    // That its head is there says nothing of its tail.
                    Ok(bytes) if bytes.len() as u64 == expected && is_to_end => presence.note(id, true),
                    Ok(bytes) if (bytes.len() as u64) < expected => presence.note(id, false),
                    Err(error) if error.kind() == ErrorKind::NotFound => presence.note(id, false),
                    _ => {}
                }
            }
            let bytes = bytes?;
            fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if let Some(content) = content {
                content.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            if bytes.len() as u64 == expected {
                Ok((bytes, permit))
            } else {
                Err(Error::new(ErrorKind::Damaged, "pack is shorter than it was")
                    .with("object", ObjectName::Pack(id)))
            }
        }
        .boxed()
        .shared()
    }

    /// A block that the cache is said to hold. What it gives is opened like the store's own bytes; if it does not open, or is gone, the
    /// store is asked.
    fn open_cached(&self, block: Block) -> SharedBytes {
        let pack = self.index.pack(block.pack).copied();
        // Not begun before it is asked for.
        let ranges = self.ranges(block.pack, &[(0, block)]);
        let from_store = ranges.into_iter().next().map(|(range, _)| {
            let bytes = self.range(block.pack, range.clone(), !block.tree);
            self.open(block, range.start, bytes)
        });
        let held = self.cache_of(&block).cloned();
        let (repository, cpu) = (self.repository.clone(), self.context.cpu.clone());
        let presence = self.presence.clone().filter(|_| !block.tree);
        async move {
            if let Some((presence, pack)) = presence.zip(pack)
                && !presence.ask(&repository, &pack).await?
            {
                let error = Error::new(ErrorKind::NotFound, "a pack is missing from the store");
                return Err(error.with("object", ObjectName::Pack(pack.id)));
            }
            let from_cache = move || -> Option<Bytes> {
                let (pack, held) = (pack?, held?);
                let sealed = held.get(&pack.id, &block)?;
                let opened = open_block(repository.keyring(), &pack, &block, &sealed);
                if opened.is_err() {
                    held.remove(&pack.id, &block);
                }
                opened.ok()
            };
            if let Some(opened) = cpu.run(from_cache).await? {
                return Ok(opened);
            }
            match from_store {
                Some(from_store) => from_store.await,
                None => Err(Error::new(ErrorKind::Damaged, "block outside the index")),
            }
        }
        .boxed()
        .shared()
    }

    fn open(&self, block: Block, start: u64, bytes: Fetched) -> SharedBytes {
        let held = self.cache_of(&block).cloned();
        let repository = self.repository.clone();
        let pack = self.index.pack(block.pack).copied();
        let cpu = self.context.cpu.clone();
        async move {
            let pack = pack.ok_or_else(|| Error::new(ErrorKind::Damaged, "pack outside the index"))?;
            let (bytes, permit) = bytes.await?;
            let name = ObjectName::Pack(pack.id);
            let work = move || -> Result<Bytes> {
                let at = usize::try_from(u64::from(block.offset).saturating_sub(start)).unwrap_or(usize::MAX);
                let end = at.saturating_add(block.sealed as usize);
                let sealed = bytes
                    .get(at..end)
                    .ok_or_else(|| Error::new(ErrorKind::Damaged, "pack is shorter than it was"))?;
                let opened = open_block(repository.keyring(), &pack, &block, sealed)?;
                if let Some(held) = held {
                    held.put(&pack.id, &block, sealed);
                }
                Ok(opened)
            };
            let opened = cpu.run(work).await?.map_err(|error| error.with("object", name));
            drop(permit);
            opened
        }
        .boxed()
        .shared()
    }
}

pub(in crate::repository) fn open_block(
    keyring: &Keyring,
    pack: &Pack,
    block: &Block,
    sealed: &[u8],
) -> Result<Bytes> {
    let opener = Opener::new(keyring, &pack.header, ObjectType::Pack, "")?;
    let stored = opener.record(block.record, false, sealed)?;
    Ok(decode_block(stored, block.codec, block.plain)?.into())
}

fn poisoned() -> Error {
    Error::new(ErrorKind::Internal, "block cache is poisoned")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::RepositoryId;
    use crate::format::index::Codec;

    #[test]
    fn only_what_the_cache_has_counts_as_at_hand() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Cache::open_bounded(directory.path(), RepositoryId([1; 16]), 1000).unwrap();
        let block = Block {
            pack: PackNumber(0),
            record: 0,
            offset: 0,
            sealed: 600,
            plain: 600,
            codec: Codec::Raw,
            tree: false,
        };
        let (first, second) = (ObjectId([1; 32]), ObjectId([2; 32]));
        let held = Held::new(&Arc::new(open()));
        held.put(&first, &block, &[1; 600]);
        held.put(&second, &block, &[2; 600]);
        assert!(held.holds(&first, &block));
        assert!(!held.holds(&second, &block), "there is no room for it");
        // Another process takes the room.
        let other = open();
        other.remove_block(&first, block.offset);
        assert!(held.get(&first, &block).is_none());
        assert!(!held.holds(&first, &block));
    }
}
