//! Blobs out: ranges of one pack are fetched together, every blob is verified, every copy is tried before a blob counts as lost.

mod bad;
mod elsewhere;
pub(super) mod fetch;
mod kept;

use super::delta::apply_delta;
use super::index::{Copy, Index, PackNumber};
use super::presence::Presence;
use super::view::{Purpose, View, is_not_given};
use super::{Repository, lost};
use crate::context::mutant::mutated;
use crate::context::{Context, Reservation};
use crate::crypto::Keyring;
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::{BlobId, ObjectId, SessionId};
use crate::format::index::BlobKind;
use crate::format::limits::CHAIN_MAX;
use bad::{Bad, Blame, Told};
use bytes::Bytes;
use fetch::Blocks;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};

/// Blobs up to this size are verified where they are read, in bytes.
const HASHED_INLINE_MAX: usize = 64 << 10;

/// Reads blobs of a view; cheap to clone, shared by everything that one operation reads.
#[derive(Clone)]
pub struct BlobReader {
    inner: Arc<Inner>,
}

struct Inner {
    repository: Repository,
    context: Context,
    /// What local caches may give.
    cached: Cached,
    /// The only snapshot that is read, if it is only one.
    snapshot: Option<SessionId>,
    /// Whether nobody of this process writes to a repository meanwhile.
    is_alone: bool,
    told: RwLock<Told>,
    /// Whether what the ledger says is known already, or is for others to say.
    knows_ledger: AtomicBool,
    state: RwLock<State>,
}

/// What local caches may give blocks of.
#[derive(Clone)]
pub(super) enum Cached {
    /// Nothing.
    Nothing,
    /// The tree.
    Tree,
    /// The tree, and content that deltas rest on; of that, only what lies in packs that are in the store as well.
    TreeAndBases(Arc<Presence>),
}

/// What reading rests on; replaced as a whole when a collector round ended meanwhile.
#[derive(Clone)]
struct State {
    index: Arc<Index>,
    blocks: Arc<Blocks>,
    newest: u64,
    /// Whether the snapshot that is read was let go before the view was read.
    gone: bool,
    bad: Arc<RwLock<Bad>>,
}

impl BlobReader {
    pub(super) fn new(
        repository: Repository,
        context: Context,
        view: &View,
        snapshot: Option<SessionId>,
    ) -> Self {
        Self::with((repository, context), view, Cached::Tree, (snapshot, false))
    }

    /// A reader of one snapshot beside which nothing is written to a repository.
    pub(super) fn alone(repository: Repository, context: Context, view: &View, snapshot: SessionId) -> Self {
        let only = (Some(snapshot), true);
        Self::with((repository, context), view, Cached::Tree, only)
    }

    pub(super) fn without_cache(repository: Repository, context: Context, view: &View) -> Self {
        Self::with((repository, context), view, Cached::Nothing, (None, false))
    }

    pub(super) fn of_bases(repository: Repository, context: Context, view: &View) -> Self {
        let cached = Cached::TreeAndBases(view.presence.clone());
        Self::with((repository, context), view, cached, (None, false))
    }

    fn with(
        (repository, context): (Repository, Context),
        view: &View,
        cached: Cached,
        (snapshot, is_alone): (Option<SessionId>, bool),
    ) -> Self {
        let both = (repository.clone(), context.clone());
        let blocks = Blocks::new(both, view.index.clone(), &cached, is_alone);
        let state = RwLock::new(State::new(view, blocks, snapshot));
        Self {
            inner: Arc::new(Inner {
                repository,
                context,
                cached,
                snapshot,
                is_alone,
                told: RwLock::default(),
                knows_ledger: AtomicBool::new(false),
                state,
            }),
        }
    }

    /// A reader of entries that were read after the seal `newest`, for a collector.
    pub(super) fn over(repository: Repository, context: Context, rests_on: (Arc<Index>, u64)) -> Self {
        Self::over_index((repository, context), rests_on, Cached::Tree)
    }

    /// As [`Self::over`], without the local cache.
    pub(super) fn over_store(repository: Repository, context: Context, rests_on: (Arc<Index>, u64)) -> Self {
        Self::over_index((repository, context), rests_on, Cached::Nothing)
    }

    fn over_index(
        (repository, context): (Repository, Context),
        (index, newest): (Arc<Index>, u64),
        cached: Cached,
    ) -> Self {
        let both = (repository.clone(), context.clone());
        let blocks = Blocks::new(both, index.clone(), &cached, false);
        let state = State {
            index,
            blocks: Arc::new(blocks),
            newest,
            gone: false,
            bad: Arc::default(),
        };
        Self {
            inner: Arc::new(Inner {
                repository,
                context,
                cached,
                snapshot: None,
                is_alone: false,
                told: RwLock::default(),
                knows_ledger: AtomicBool::new(true),
                state: RwLock::new(state),
            }),
        }
    }

    /// The plaintext of one blob.
    ///
    /// # Errors
    /// `Damaged` if no copy gives it, `Conflict` if that is so because the only snapshot that is read was let go meanwhile, or what the
    /// store says.
    pub async fn get(&self, kind: BlobKind, id: &BlobId) -> Result<Bytes> {
        let mut why = None;
        let mut alone = HashSet::new();
        for _ in 0..8 {
            let state = self.state()?;
            while let Some(chain) = state.chain(id) {
                match self.read_chain(&state, kind, id, &chain).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(Failed {
                        blame: Some(blame),
                        error,
                    }) => {
                        let error = self.of_copy(error).await?;
                        if is_not_given(&error)
                            && let Blame::Block(number) = blame
                            && alone.insert(number)
                        {
                            // A disk that does not give one sector fails all that was asked for with it.
                            state.blocks.fetch(&[number])?;
                            continue;
                        }
                        self.ask_ledger().await?;
                        state.condemn_for(blame, &error)?;
                        why = Some(error);
                        if mutated!(ReaderFirstCopy) {
                            break;
                        }
                    }
                    Err(Failed { error, .. }) => return Err(error),
                }
            }
            if !self.refresh(state.newest).await? {
                break;
            }
        }
        if let Some(snapshot) = self.inner.snapshot.filter(|_| self.state().is_ok_and(|s| s.gone)) {
            return Err(let_go(&snapshot));
        }
        let error = lost(id).with("kind", format!("{kind:?}").to_lowercase());
        Err(match why {
            // Names the pack.
            Some(why) => error.because(why),
            None => error,
        })
    }

    /// The plaintexts of several blobs, in the order asked. What lies in one pack is fetched together.
    ///
    /// # Errors
    /// As [`Self::get`], the first one.
    pub async fn get_many(&self, kind: BlobKind, ids: &[BlobId]) -> Result<Vec<Bytes>> {
        let state = self.state()?;
        state.blocks.fetch(&state.blocks_of(ids)).map(drop)?;
        stream::iter(ids.to_vec())
            .map(|id| async move { self.get(kind, &id).await })
            .buffered(64)
            .try_collect()
            .await
    }

    /// Begins to fetch what these blobs need, in as few requests as it takes; [`Self::get`] then waits for it, of each once. What is
    /// never asked for is dropped with the reader.
    ///
    /// # Errors
    /// `Internal` only.
    pub fn prefetch(&self, ids: &[BlobId]) -> Result<()> {
        let state = self.state()?;
        state.blocks.announce(&state.blocks_of(ids))
    }

    /// Does not read from these packs: a check has found them missing or damaged.
    ///
    /// # Errors
    /// `Internal` only.
    pub fn avoid(&self, packs: &[ObjectId]) -> Result<()> {
        self.inner.told.write().map_err(poisoned)?.avoided.extend(packs);
        self.tell(&self.state()?)
    }

    /// Reads from these packs only what no other has: the ledger calls them damaged, and some of them may be whole in part.
    ///
    /// # Errors
    /// `Internal` only.
    pub(super) fn set_aside(&self, packs: &HashSet<ObjectId>) -> Result<()> {
        self.inner.told.write().map_err(poisoned)?.aside.extend(packs);
        self.tell(&self.state()?)
    }

    /// Says again, of the packs of a view, what the reader was told.
    fn tell(&self, state: &State) -> Result<()> {
        let told = self.inner.told.read().map_err(poisoned)?;
        let packs = (0u32..).zip(state.index.packs());
        let aside = packs.clone().filter(|(_, pack)| told.aside.contains(&pack.id));
        let aside = aside.map(|(number, _)| PackNumber(number)).collect();
        state.bad.write().map_err(poisoned)?.set_aside(aside);
        for (number, _) in packs.filter(|(_, pack)| told.avoided.contains(&pack.id)) {
            state.condemn(Blame::Pack(PackNumber(number)))?;
        }
        Ok(())
    }

    /// Whether some copy was found to be gone or damaged (`Damaged`) or is not given (`Unreadable`), though another one may have served; not
    /// those of packs that are set aside.
    ///
    /// # Errors
    /// `Internal` only.
    pub(super) fn has_found(&self) -> Result<Option<ErrorKind>> {
        let state = self.state()?;
        let bad = state.bad.read().map_err(poisoned)?;
        Ok(bad.news())
    }

    /// Bytes of packs that were fetched so far.
    pub fn bytes_fetched(&self) -> u64 {
        self.state().map_or(0, |state| state.blocks.bytes_fetched())
    }

    /// Bytes of packs among them that hold content.
    pub fn content_fetched(&self) -> u64 {
        self.state().map_or(0, |state| state.blocks.content_fetched())
    }

    /// Bytes of packs that would have to be fetched to read a blob; `counted` keeps what was told before and is not told again.
    ///
    /// # Errors
    /// `Internal` only.
    pub(crate) fn cost(&self, id: &BlobId, counted: &mut HashSet<(PackNumber, u64)>) -> Result<u64> {
        let state = self.state()?;
        let chain = state.chain(id).into_iter().flatten();
        let wanted: Vec<u32> = chain.map(|copy| Index::block_number(&copy)).collect();
        state.blocks.cost(&wanted, counted)
    }

    /// What reading draws on.
    pub fn context(&self) -> &Context {
        &self.inner.context
    }

    /// Whether the view has a chain of copies for a blob.
    pub fn has(&self, id: &BlobId) -> bool {
        *id == BlobId::HOLE || self.state().is_ok_and(|state| state.chain(id).is_some())
    }

    /// Whether the view has a chain of copies for a blob, whatever was found to be wrong with them since.
    pub(super) fn is_listed(&self, id: &BlobId) -> bool {
        let listed = |state: State| state.index.chain(id, &|_| true).is_some();
        self.state().is_ok_and(listed)
    }

    /// Packs because of which a blob cannot be read: of its copies, and of the bases of its deltas. None if no entry is left for it.
    pub fn blame(&self, id: &BlobId) -> BTreeSet<ObjectId> {
        self.packs_below(id, |state, copy| !state.allows(copy))
    }

    /// All packs that hold a copy of a blob, or of a base of one.
    pub(super) fn rests_on(&self, id: &BlobId) -> BTreeSet<ObjectId> {
        self.packs_below(id, |_, _| true)
    }

    /// The packs of those copies of a blob, and of the bases of the others, that `takes` says.
    fn packs_below(&self, id: &BlobId, takes: impl Fn(&State, &Copy) -> bool) -> BTreeSet<ObjectId> {
        let mut packs = BTreeSet::new();
        let Ok(state) = self.state() else { return packs };
        let (mut open, mut seen) = (vec![*id], HashSet::from([*id]));
        while let Some(id) = open.pop() {
            for copy in state.index.copies(&id) {
                let is_taken = takes(&state, copy);
                if is_taken {
                    packs.extend(state.index.pack_of(copy));
                }
                if (!is_taken || state.allows(copy))
                    && let Some(base) = state.index.base(copy)
                    && seen.len() <= CHAIN_MAX
                    && seen.insert(base)
                {
                    open.push(base);
                }
            }
        }
        packs
    }

    async fn read_chain(
        &self,
        state: &State,
        kind: BlobKind,
        id: &BlobId,
        chain: &[Copy],
    ) -> Result<Bytes, Failed> {
        let mut held = self.room_for(state, chain);
        let links = gather(state, chain).await?;
        held.shrink_to(rebuilt_in(state, chain));
        let keyring = self.inner.repository.shared_keyring();
        // A small blob is hashed sooner than another thread would take it.
        let is_small = matches!(chain, [whole] if whole.plain as usize <= HASHED_INLINE_MAX);
        let bytes = if is_small {
            rebuild(&keyring, &links)?
        } else {
            let rebuilt = self
                .inner
                .context
                .cpu
                .run(move || rebuild(&keyring, &links))
                .await;
            rebuilt.map_err(|error| Failed { blame: None, error })??
        };
        let found = chain.first().map(Copy::kind);
        match bytes {
            Some(bytes) if found == Some(kind) => Ok(bytes),
            _ => Err(Failed {
                blame: None,
                error: Error::new(ErrorKind::Damaged, "blob of another kind").with("blob", id),
            }),
        }
    }

    /// Room for a chain of deltas, taken from the budget so that others take less. Never waited for: whoever holds the budget may be
    /// waiting for this very chain. Callers bound how many are in work, and the CPU pool how many are rebuilt at once.
    fn room_for(&self, state: &State, chain: &[Copy]) -> Reservation {
        let deltas = chain.iter().filter(|copy| copy.is_delta());
        let blocks = deltas.filter_map(|copy| state.index.block(copy));
        let blocks: u64 = blocks.map(|block| u64::from(block.plain)).sum();
        let held = match blocks {
            0 => None,
            blocks => {
                let bytes = blocks + rebuilt_in(state, chain);
                self.inner.context.budget.try_reserve(bytes)
            }
        };
        held.unwrap_or_else(Reservation::none)
    }

    fn state(&self) -> Result<State> {
        self.inner
            .state
            .read()
            .map(|state| state.clone())
            .map_err(poisoned)
    }

    /// R4: if a collector round has ended since the view was read, reads the view again. Gives whether it did.
    async fn refresh(&self, newest: u64) -> Result<bool> {
        if self.state()?.newest != newest {
            return Ok(true);
        }
        if super::log::Log::read(&self.inner.repository).await?.newest == newest {
            return Ok(false);
        }
        let view = View::load(&self.inner.repository, &self.inner.context, Purpose::Read).await?;
        let inner = &self.inner;
        let both = (inner.repository.clone(), inner.context.clone());
        let blocks = Blocks::new(both, view.index.clone(), &inner.cached, inner.is_alone);
        blocks.count_on(&self.state()?.blocks);
        let state = State::new(&view, blocks, inner.snapshot);
        self.tell(&state)?;
        if let Ok(mut current) = self.inner.state.write() {
            *current = state;
        }
        Ok(true)
    }
}

impl State {
    fn new(view: &View, blocks: Blocks, snapshot: Option<SessionId>) -> Self {
        Self {
            index: view.index.clone(),
            blocks: Arc::new(blocks),
            newest: view.log.newest,
            gone: snapshot.is_some_and(|sid| view.is_gone(&sid)),
            bad: Arc::default(),
        }
    }

    fn chain(&self, id: &BlobId) -> Option<Vec<Copy>> {
        let bad = self.bad.read().ok()?;
        #[cfg(feature = "testkit")]
        if mutated!(ReaderFirstCopy) {
            return self.index.first_chain(id);
        }
        bad.chain(&self.index, id)
    }

    /// The blocks that these blobs are read from, each as often as it is needed.
    fn blocks_of(&self, ids: &[BlobId]) -> Vec<u32> {
        let chains = ids.iter().filter_map(|id| self.chain(id)).flatten();
        chains.map(|copy| Index::block_number(&copy)).collect()
    }

    fn allows(&self, copy: &Copy) -> bool {
        self.bad.read().is_ok_and(|bad| bad.allows(&self.index, copy))
    }

    fn condemn_for(&self, blame: Blame, error: &Error) -> Result<()> {
        if !is_not_given(error) {
            return self.condemn(blame);
        }
        let mut bad = self.bad.write().map_err(poisoned)?;
        bad.add_ungiven(&self.index, blame);
        Ok(())
    }

    fn condemn(&self, blame: Blame) -> Result<()> {
        self.bad.write().map_err(poisoned)?.add(&self.index, blame);
        Ok(())
    }
}

fn poisoned<T>(_: PoisonError<T>) -> Error {
    Error::new(ErrorKind::Internal, "reader is poisoned")
}

/// R4: what is gone belonged to a snapshot that somebody let go, and a collector has swept it.
fn let_go(snapshot: &SessionId) -> Error {
    Error::new(
        ErrorKind::Conflict,
        "this snapshot was let go while it was read, and what it held is removed",
    )
    .with("snapshot", snapshot.short())
    .hint("`holdall list` tells which snapshots there are")
}

/// The encoded copies of a chain, the whole one first.
async fn gather(state: &State, chain: &[Copy]) -> Result<Vec<(Copy, Bytes)>, Failed> {
    let mut numbers: Vec<u32> = chain.iter().map(Index::block_number).collect();
    // All of a chain is on its way before the first of it is waited for.
    let asked = state.blocks.fetch(&numbers);
    let mut asked = asked.map_err(|error| Failed { blame: None, error })?;
    let mut links = Vec::with_capacity(chain.len());
    // The last of a chain is whole; each one before it is a delta against the one after.
    for copy in chain.iter().rev() {
        let number = Index::block_number(copy);
        numbers.pop();
        let block = state
            .blocks
            .settle(number, asked.get(&number))
            .await
            .map_err(|error| Failed {
                blame: state.index.block(copy).map(|block| match error.kind() {
                    ErrorKind::NotFound => Blame::Pack(block.pack),
                    _ => Blame::Block(number),
                }),
                error,
            })?;
        let end = copy.offset as usize + copy.encoded as usize;
        if end > block.len() {
            let error = Error::new(ErrorKind::Damaged, "blob outside its block").with("blob", copy.id);
            return Err(Failed::copy(copy, error));
        }
        let encoded = block.slice(copy.offset as usize..end);
        // A delta is small, and the block around it is not: it goes as soon as nothing else here needs it.
        let encoded = if copy.is_delta() {
            Bytes::copy_from_slice(&encoded)
        } else {
            encoded
        };
        links.push((*copy, encoded));
        if !numbers.contains(&number) {
            asked.remove(&number);
        }
    }
    Ok(links)
}

/// Bytes in which a chain is rebuilt: the block of its whole copy, its deltas, and two buffers that take turns.
fn rebuilt_in(state: &State, chain: &[Copy]) -> u64 {
    let Some((whole, deltas)) = chain.split_last().filter(|(_, deltas)| !deltas.is_empty()) else {
        return 0;
    };
    let encoded: u64 = deltas.iter().map(|copy| u64::from(copy.encoded)).sum();
    let longest = deltas.iter().map(|copy| u64::from(copy.plain)).max();
    let block = state.index.block(whole).map_or(0, |block| u64::from(block.plain));
    block + encoded + 2 * longest.unwrap_or(0)
}

/// Why a chain could not be read, and what to blame.
struct Failed {
    blame: Option<Blame>,
    error: Error,
}

impl Failed {
    fn copy(copy: &Copy, error: Error) -> Self {
        let blame = Some(Blame::Copy(Index::block_number(copy), copy.offset));
        Self { blame, error }
    }
}

/// Rebuilds a blob from a chain's copies, the whole one first. Its own id proves it; only where that fails, each base is verified too, to
/// tell which copy is to blame.
fn rebuild(keyring: &Keyring, links: &[(Copy, Bytes)]) -> Result<Option<Bytes>, Failed> {
    rebuild_with(keyring, links, false).or_else(|_| rebuild_with(keyring, links, true))
}

fn rebuild_with(
    keyring: &Keyring,
    links: &[(Copy, Bytes)],
    verify_bases: bool,
) -> Result<Option<Bytes>, Failed> {
    let verify = |copy: &Copy, plain: &[u8]| {
        let verified = keyring.verify_blob(copy.kind(), &copy.id, plain);
        verified.map_err(|e| Failed::copy(copy, Error::from(e).with("blob", copy.id)))
    };
    let Some(((whole, plain), deltas)) = links.split_first() else {
        return Ok(None);
    };
    if deltas.is_empty() || verify_bases {
        verify(whole, plain)?;
    }
    // Two buffers that take turns.
    let (mut base, mut next) = (Vec::new(), Vec::new());
    let mut left = deltas.len();
    for (copy, delta) in deltas {
        let under: &[u8] = if left == deltas.len() {
            plain
        } else {
            base.as_slice()
        };
        apply_delta(&mut next, delta, under, copy.plain).map_err(|e| Failed::copy(copy, e.into()))?;
        left -= 1;
        if left == 0 || verify_bases {
            verify(copy, &next)?;
        }
        std::mem::swap(&mut base, &mut next);
    }
    Ok(Some(if deltas.is_empty() {
        plain.clone()
    } else {
        base.into()
    }))
}
