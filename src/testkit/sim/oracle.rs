//! What must be true after every request, told from the store's objects themselves.
//!
//! Nothing here asks the code under test anything but to decode bytes: which sessions count, which blobs can be read and what may be
//! deleted is worked out anew from `format-spec/85-sessions.md` and `90-collection.md`.

use super::source::Files;
use crate::crypto::{Keyring, open_pack, open_record, open_run};
use crate::error::{Error, ErrorKind};
use crate::format::collect::{SealRecord, StateRecord};
use crate::format::entry::{BlobRef, ContentRecord, decode_list};
use crate::format::frame::decode_frame;
use crate::format::id::{BlobId, ObjectId, SessionId};
use crate::format::index::{BlobKind, Codec};
use crate::format::layout::ObjectName;
use crate::format::limits::CHAIN_MAX;
use crate::format::node::Node;
use crate::format::snapshot::Decision;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// Where the salt of a sealed object lies in its header.
const SALT: Range<usize> = 40..72;

/// One copy of a blob, as a run lists it.
#[derive(Clone, Copy)]
struct Listed {
    blob: BlobId,
    pack: ObjectId,
    base: Option<BlobId>,
}

/// What the newest seal says.
#[derive(Default)]
struct Sealed {
    newest: u64,
    state: Option<ObjectName>,
    floor: u64,
    live: BTreeSet<SessionId>,
    runs: BTreeSet<(u64, ObjectId)>,
    dead: BTreeSet<ObjectId>,
}

impl Sealed {
    fn is_void(&self, sid: &SessionId) -> bool {
        sid.epoch < self.floor && !self.live.contains(sid)
    }

    fn is_valid(&self, run: &ObjectName) -> bool {
        match run {
            ObjectName::SessionRun(sid, _) => sid.epoch >= self.floor,
            ObjectName::CollectorRun(round, id) => self.runs.contains(&(*round, *id)),
            _ => false,
        }
    }
}

/// What happened in a world, for those who ask whether anything did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Requests that were answered.
    pub steps: u64,
    /// Snapshots that were acknowledged.
    pub snapshots: u64,
    /// Rounds that were sealed as swept.
    pub rounds: u64,
    /// Sessions that a collector ended.
    pub fences: u64,
    /// Packs that were deleted.
    pub packs_deleted: u64,
    /// Copies that were stored as deltas.
    pub deltas: u64,
    /// Processes that were killed.
    pub kills: u64,
    /// Puts that were applied when nobody waited for them any more.
    pub late: u64,
    /// Restores that were compared.
    pub restores: u64,
    /// Sessions that were begun.
    pub sessions: u64,
    /// Packs that were put.
    pub packs: u64,
    /// Operations that ended with an error that may be.
    pub errors: u64,
}

impl Seen {
    /// Adds what happened in another world.
    pub fn add(&mut self, other: &Self) {
        let Self {
            steps,
            snapshots,
            rounds,
            fences,
            packs_deleted,
            deltas,
            kills,
            late,
            restores,
            sessions,
            packs,
            errors,
        } = self;
        for (mine, theirs) in [
            (steps, other.steps),
            (snapshots, other.snapshots),
            (rounds, other.rounds),
            (fences, other.fences),
            (packs_deleted, other.packs_deleted),
            (deltas, other.deltas),
            (kills, other.kills),
            (late, other.late),
            (restores, other.restores),
            (sessions, other.sessions),
            (packs, other.packs),
            (errors, other.errors),
        ] {
            *mine += theirs;
        }
    }
}

/// Watches a store.
pub(super) struct Oracle {
    keyring: Arc<Keyring>,
    sealed: Sealed,
    ever_dead: HashSet<ObjectId>,
    states: HashMap<ObjectName, StateRecord>,
    runs: BTreeMap<ObjectName, Vec<Listed>>,
    packs: BTreeSet<ObjectId>,
    /// Commits that are in the store, and their roots.
    commits: BTreeMap<SessionId, BlobId>,
    /// Nodes and lists that were ever stored.
    texts: HashMap<BlobId, Bytes>,
    trees: HashMap<BlobId, Arc<BTreeSet<BlobId>>>,
    /// Snapshots that somebody let go, by a key that was in the store at some time.
    forgotten: BTreeSet<SessionId>,
    acknowledged: BTreeMap<SessionId, Arc<Files>>,
    salts: HashMap<(u8, Vec<u8>), [u8; 32]>,
    wrong: Option<String>,
    pub(super) seen: Seen,
}

impl Oracle {
    pub(super) fn new(keyring: Arc<Keyring>) -> Self {
        Self {
            keyring,
            sealed: Sealed::default(),
            ever_dead: HashSet::new(),
            states: HashMap::new(),
            runs: BTreeMap::new(),
            packs: BTreeSet::new(),
            commits: BTreeMap::new(),
            texts: HashMap::new(),
            trees: HashMap::new(),
            forgotten: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            salts: HashMap::new(),
            wrong: None,
            seen: Seen::default(),
        }
    }

    /// What was found to be wrong first.
    pub(super) fn wrong(&self) -> Option<&str> {
        self.wrong.as_deref()
    }

    /// The newest round.
    pub(super) fn newest(&self) -> u64 {
        self.sealed.newest
    }

    pub(super) fn accuse(&mut self, what: impl Into<String>) {
        self.wrong.get_or_insert_with(|| what.into());
    }

    /// Somebody sends an object, whether it arrives or not.
    pub(super) fn sent(&mut self, name: &str, bytes: &Bytes) {
        let is_sealed = bytes.starts_with(b"holdall");
        let (Some(kind), Some(salt), true) = (bytes.get(7), bytes.get(SALT), is_sealed) else {
            return;
        };
        let hash = *blake3::hash(bytes).as_bytes();
        let before = self.salts.insert((*kind, salt.to_vec()), hash);
        if before.is_some_and(|before| before != hash) {
            self.accuse(format!(
                "{name}: the key and nonces of another object are used again"
            ));
        }
    }

    /// An object came to be.
    pub(super) fn landed(&mut self, name: &str, bytes: &Bytes) {
        let Ok(name) = ObjectName::parse(name) else {
            self.accuse(format!("{name} is no name of a repository"));
            return;
        };
        let result = self.take(name, bytes);
        if let Err(why) = result {
            self.accuse(format!("{name} cannot be read: {why}"));
        }
    }

    fn take(&mut self, name: ObjectName, bytes: &Bytes) -> Result<(), crate::format::error::DecodeError> {
        let keyring = self.keyring.clone();
        match name {
            ObjectName::Pack(id) => {
                self.seen.packs += 1;
                self.packs.insert(id);
                self.read_pack(&id, bytes)?;
            }
            ObjectName::SessionRun(..) | ObjectName::CollectorRun(..) => {
                let tables = open_run(&keyring, &name, bytes)?;
                let mut bases = tables.bases.iter();
                let mut listed = Vec::with_capacity(tables.entries.len());
                for entry in &tables.entries {
                    let base = if entry.delta {
                        bases.next().map(|(_, base)| *base)
                    } else {
                        None
                    };
                    let block = tables.blocks.get(entry.block as usize);
                    let pack = block.and_then(|block| tables.packs.get(block.pack as usize));
                    if let Some(pack) = pack {
                        let (blob, pack) = (entry.id, pack.id);
                        listed.push(Listed { blob, pack, base });
                    }
                }
                self.runs.insert(name, listed);
            }
            ObjectName::Session(_) => self.seen.sessions += 1,
            ObjectName::Snapshot(sid) => {
                match open_record::<Decision>(&keyring, &name, bytes)? {
                    Decision::Commit(record) => drop(self.commits.insert(sid, record.root.id)),
                    Decision::Fence { .. } => self.seen.fences += 1,
                    Decision::Abort { .. } => {}
                }
                self.check();
            }
            ObjectName::Forget(sid) => drop(self.forgotten.insert(sid)),
            ObjectName::State(..) => drop(self.states.insert(name, open_record(&keyring, &name, bytes)?)),
            ObjectName::Seal(_) => {
                let seal = open_record::<SealRecord>(&keyring, &name, bytes)?;
                self.seal(&seal);
                self.check();
            }
            _ => {}
        }
        Ok(())
    }

    fn read_pack(&mut self, id: &ObjectId, bytes: &Bytes) -> Result<(), crate::format::error::DecodeError> {
        let keyring = self.keyring.clone();
        let (opener, tables) = open_pack(&keyring, id, bytes)?;
        let mut blocks: Vec<Bytes> = Vec::new();
        for row in &tables.blocks {
            let start = row.offset as usize;
            let sealed = bytes.get(start..start + row.sealed as usize).unwrap_or_default();
            let stored = opener.record(row.record, false, sealed)?;
            let plain = match row.codec {
                Codec::Raw => stored,
                Codec::Zstd => decode_frame(&stored, row.plain, None)?,
            };
            blocks.push(plain.into());
        }
        let mut bases = tables.bases.iter();
        for entry in &tables.entries {
            let block = blocks.get(entry.block as usize).cloned().unwrap_or_default();
            let (start, end) = (entry.offset as usize, (entry.offset + entry.encoded) as usize);
            if end > block.len() {
                self.accuse(format!("pack {id} is shorter than its directory says"));
                return Ok(());
            }
            let encoded = block.slice(start..end);
            if entry.delta {
                self.seen.deltas += 1;
                let base = bases.next().and_then(|(_, base)| self.texts.get(base).cloned());
                // Of data only bases and places matter here: restores compare the bytes.
                if let (Some(base), true) = (base, entry.kind != BlobKind::Data) {
                    let plain = decode_frame(&encoded, entry.plain, Some(&base))?;
                    self.texts.insert(entry.id, plain.into());
                }
            } else {
                keyring.verify_blob(entry.kind, &entry.id, &encoded)?;
                if entry.kind != BlobKind::Data {
                    self.texts.insert(entry.id, encoded);
                }
            }
        }
        Ok(())
    }

    fn seal(&mut self, seal: &SealRecord) {
        if seal.round != self.sealed.newest + 1 {
            self.accuse(format!("seal {} follows seal {}", seal.round, self.sealed.newest));
        }
        let mut now = Sealed {
            newest: seal.round.max(self.sealed.newest),
            ..Sealed::default()
        };
        if let Some((round, id)) = seal.state {
            let name = ObjectName::State(round, id);
            let Some(state) = self.states.get(&name) else {
                self.accuse(format!("seal {} names a state that is not there", seal.round));
                return;
            };
            now.state = Some(name);
            now.floor = state.floor;
            now.live = state.live.iter().copied().collect();
            now.runs = state.runs.iter().map(|run| (run.round, run.id)).collect();
            now.dead = state.dead.iter().copied().collect();
        }
        if now.floor < self.sealed.floor {
            self.accuse(format!("seal {} lowers the floor", seal.round));
        }
        self.seen.rounds += u64::from(seal.swept);
        self.ever_dead.extend(&now.dead);
        self.sealed = now;
    }

    /// Somebody deletes an object that is there.
    pub(super) fn gone(&mut self, name: &str) {
        let Ok(name) = ObjectName::parse(name) else {
            return;
        };
        if !self.may_go(&name) {
            self.accuse(format!("{name} was deleted, which no seal allows"));
        }
        match name {
            ObjectName::Pack(id) => {
                self.seen.packs_deleted += 1;
                self.packs.remove(&id);
            }
            ObjectName::SessionRun(..) | ObjectName::CollectorRun(..) => drop(self.runs.remove(&name)),
            ObjectName::Snapshot(sid) => drop(self.commits.remove(&sid)),
            ObjectName::State(..) if self.sealed.state == Some(name) => {
                self.accuse(format!("{name} was deleted, and the newest seal names it"));
            }
            _ => return,
        }
        self.check();
    }

    /// The last column of the table of `format-spec/80-layout.md`.
    fn may_go(&self, name: &ObjectName) -> bool {
        let sealed = &self.sealed;
        match name {
            ObjectName::Pack(id) => self.ever_dead.contains(id),
            ObjectName::SessionRun(sid, _) | ObjectName::Session(sid) => sid.epoch < sealed.floor,
            ObjectName::Snapshot(sid) | ObjectName::Forget(sid) | ObjectName::Note(sid, _) => {
                sealed.is_void(sid)
            }
            ObjectName::CollectorRun(round, id) => {
                *round <= sealed.newest && !sealed.runs.contains(&(*round, *id))
            }
            ObjectName::State(round, _) => *round <= sealed.newest && sealed.state != Some(*name),
            ObjectName::Condemned(round) => *round < sealed.newest,
            ObjectName::Refs(_) | ObjectName::Reserve(_) => true,
            _ => false,
        }
    }

    /// Blobs with a chain that ends in a whole copy, in packs that are there.
    fn usable(&self) -> HashSet<BlobId> {
        let valid = self.runs.iter().filter(|(name, _)| self.sealed.is_valid(name));
        let copies = valid.flat_map(|(_, copies)| copies);
        let alive =
            |copy: &&Listed| self.packs.contains(&copy.pack) && !self.sealed.dead.contains(&copy.pack);
        let (whole, mut deltas): (Vec<&Listed>, Vec<&Listed>) =
            copies.filter(alive).partition(|copy| copy.base.is_none());
        let mut usable: HashSet<BlobId> = whole.into_iter().map(|copy| copy.blob).collect();
        for _ in 0..CHAIN_MAX {
            let rests = |copy: &&Listed| copy.base.is_some_and(|base| usable.contains(&base));
            let (found, left): (Vec<&Listed>, Vec<&Listed>) = deltas.into_iter().partition(rests);
            if found.is_empty() {
                break;
            }
            usable.extend(found.into_iter().map(|copy| copy.blob));
            deltas = left;
        }
        usable
    }

    /// Every blob of every snapshot that counts can be read, and every acknowledged snapshot counts.
    fn check(&mut self) {
        if self.wrong.is_some() {
            return;
        }
        let usable = self.usable();
        for (sid, root) in self.commits.clone() {
            if self.sealed.is_void(&sid) || self.forgotten.contains(&sid) {
                continue;
            }
            let acknowledged = self.acknowledged.contains_key(&sid);
            match self.tree(root) {
                Err(why) => self.accuse(format!("snapshot {}: {why}", sid.short())),
                Ok(tree) => {
                    if let Some(lost) = tree.iter().find(|blob| !usable.contains(*blob)) {
                        self.accuse(format!(
                            "snapshot {} (acknowledged: {acknowledged}) has lost blob {lost}",
                            sid.short()
                        ));
                    }
                }
            }
        }
        let kept = self
            .acknowledged
            .keys()
            .filter(|sid| !self.forgotten.contains(sid));
        let lost = kept
            .filter(|sid| !self.commits.contains_key(sid) || self.sealed.is_void(sid))
            .copied()
            .next();
        if let Some(sid) = lost {
            self.accuse(format!(
                "snapshot {} was acknowledged and does not count",
                sid.short()
            ));
        }
    }

    /// All blobs of a tree.
    fn tree(&mut self, root: BlobId) -> Result<Arc<BTreeSet<BlobId>>, String> {
        if let Some(tree) = self.trees.get(&root) {
            return Ok(tree.clone());
        }
        let mut tree = BTreeSet::new();
        let mut open = vec![root];
        while let Some(id) = open.pop() {
            if !tree.insert(id) {
                continue;
            }
            let text = self
                .texts
                .get(&id)
                .ok_or_else(|| format!("node {id} was never stored"))?;
            match Node::decode(text).map_err(|why| format!("node {id}: {why}"))? {
                Node::Inner { children, .. } => open.extend(children.iter().map(|child| child.id)),
                Node::Leaf(entries) => {
                    for entry in &entries {
                        if let ContentRecord::Refs { level, refs } = &entry.content {
                            self.contents(*level, refs, &mut tree)?;
                        }
                    }
                }
            }
        }
        let tree = Arc::new(tree);
        self.trees.insert(root, tree.clone());
        Ok(tree)
    }

    fn contents(&self, level: u8, refs: &[BlobRef], tree: &mut BTreeSet<BlobId>) -> Result<(), String> {
        for reference in refs.iter().filter(|reference| !reference.is_hole()) {
            tree.insert(reference.id);
            if let Some(below) = level.checked_sub(1) {
                let list = self.texts.get(&reference.id);
                let list = list.ok_or_else(|| format!("list {} was never stored", reference.id))?;
                let refs = decode_list(list, below).map_err(|why| format!("list: {why}"))?;
                self.contents(below, &refs, tree)?;
            }
        }
        Ok(())
    }

    /// A writer was told that its snapshot is safe.
    pub(super) fn acknowledge(&mut self, sid: SessionId, files: Arc<Files>) {
        self.seen.snapshots += 1;
        self.acknowledged.insert(sid, files);
        self.check();
    }

    /// What acknowledged snapshots hold that nobody has let go.
    pub(super) fn kept(&self) -> Vec<(SessionId, Arc<Files>)> {
        let kept = self.acknowledged.iter();
        let kept = kept.filter(|(sid, _)| !self.forgotten.contains(sid));
        kept.map(|(sid, files)| (*sid, files.clone())).collect()
    }

    /// Acknowledged snapshots that somebody has let go, and their roots as long as they are there.
    pub(super) fn let_go(&self) -> Vec<(SessionId, Arc<Files>)> {
        let gone = self.acknowledged.iter();
        let gone = gone.filter(|(sid, _)| self.forgotten.contains(sid));
        gone.map(|(sid, files)| (*sid, files.clone())).collect()
    }

    pub(super) fn is_forgotten(&self, sid: &SessionId) -> bool {
        self.forgotten.contains(sid)
    }

    /// A forgets key was taken back.
    pub(super) fn remember(&mut self, sid: &SessionId) {
        self.forgotten.remove(sid);
        self.check();
    }

    /// Judges how an operation failed: nothing here is damaged, so nobody may say so. A collector whose clock is ahead may refuse.
    pub(super) fn judge(&mut self, who: &str, error: &Error) {
        self.seen.errors += 1;
        let may_be = match error.kind() {
            ErrorKind::Unreachable | ErrorKind::Conflict | ErrorKind::Busy | ErrorKind::Cancelled => true,
            ErrorKind::Refused => who.starts_with("Collector"),
            _ => false,
        };
        if !may_be {
            self.accuse(format!("{who} says: {error} {:?}", error.causes()));
        }
    }

    /// What is left when everything was collected and must not be.
    pub(super) fn garbage(&mut self, objects: &[String]) -> Option<String> {
        for text in objects {
            let name = ObjectName::parse(text).ok()?;
            // A state of a round that was never sealed goes when that round is.
            if self.may_go(&name) && !matches!(name, ObjectName::Refs(_) | ObjectName::Reserve(_)) {
                return Some(format!("{text} may go and stays"));
            }
        }
        let mut needed: BTreeSet<BlobId> = BTreeSet::new();
        for (sid, root) in self.commits.clone() {
            if !self.sealed.is_void(&sid) && !self.forgotten.contains(&sid) {
                needed.extend(self.tree(root).ok()?.iter());
            }
        }
        let valid = self.runs.iter().filter(|(name, _)| self.sealed.is_valid(name));
        let copies: Vec<Listed> = valid.flat_map(|(_, copies)| copies).copied().collect();
        loop {
            let of_needed = copies.iter().filter(|copy| needed.contains(&copy.blob));
            let bases: Vec<_> = of_needed.filter_map(|copy| copy.base).collect();
            let before = needed.len();
            needed.extend(bases);
            if needed.len() == before {
                break;
            }
        }
        let used: HashSet<ObjectId> = copies
            .iter()
            .filter(|copy| needed.contains(&copy.blob))
            .map(|copy| copy.pack)
            .collect();
        let idle = self.packs.iter().find(|pack| !used.contains(pack));
        idle.map(|pack| format!("pack {pack} holds nothing that is needed and stays"))
    }
}
