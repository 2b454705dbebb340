//! What must be true after every request, told from the store's objects themselves.
//!
//! Nothing here asks the code under test anything but to decode bytes: which sessions count, which blobs can be read and what may be
//! deleted is worked out anew from `format-spec/85-sessions.md` and `90-collection.md`.

use super::content::Content;
use super::damage::Damage;
use super::keeping::Keeping;
use super::seen::Seen;
use super::source::Files;
use super::store::lock;
use crate::crypto::{Keyring, open_pack, open_record, open_run};
use crate::error::{Error, ErrorKind};
use crate::format::collect::{LedgerRecord, SealRecord, StateRecord};
use crate::format::frame::decode_frame;
use crate::format::id::{BlobId, ObjectId, SessionId};
use crate::format::index::{BlobKind, Codec};
use crate::format::layout::ObjectName;
use crate::format::limits::CHAIN_MAX;
use crate::format::note::StampedNote;
use crate::format::snapshot::Decision;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

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

/// A snapshot that was copied.
pub(super) struct Original {
    root: Option<BlobId>,
    /// Not known if whoever made it was never told that it is safe.
    files: Option<Arc<Files>>,
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
    /// Commits that ever were, and their roots.
    roots: HashMap<SessionId, BlobId>,
    /// What was ever stored, here or in another store.
    content: Arc<Mutex<Content>>,
    keeping: Keeping,
    damage: Damage,
    acknowledged: BTreeMap<SessionId, Option<Arc<Files>>>,
    /// Whether the store has little room.
    pub(super) is_small: bool,
    wrong: Option<String>,
    pub(super) seen: Seen,
}

impl Oracle {
    pub(super) fn new(keyring: Arc<Keyring>, content: Arc<Mutex<Content>>, keeping: Keeping) -> Self {
        Self {
            keyring,
            sealed: Sealed::default(),
            ever_dead: HashSet::new(),
            states: HashMap::new(),
            runs: BTreeMap::new(),
            packs: BTreeSet::new(),
            commits: BTreeMap::new(),
            roots: HashMap::new(),
            content,
            keeping,
            damage: Damage::default(),
            acknowledged: BTreeMap::new(),
            is_small: false,
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

    /// Time goes by: seconds since 1970.
    pub(super) fn tick(&mut self, now: i64) {
        self.keeping.tick(now);
        let sealed = &self.sealed;
        self.keeping.settle(|sid| !sealed.is_void(sid));
    }

    pub(super) fn accuse(&mut self, what: impl Into<String>) {
        self.wrong.get_or_insert_with(|| what.into());
    }

    /// Somebody sends an object, whether it arrives or not.
    pub(super) fn sent(&mut self, name: &str, bytes: &Bytes) {
        let wrong = lock(&self.content).sent(name, bytes);
        if let Some(wrong) = wrong {
            self.accuse(wrong);
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
                self.damage.forget(&id);
                self.read_pack(&id, bytes)?;
            }
            ObjectName::SessionRun(..) | ObjectName::CollectorRun(..) => {
                let listed = self.read_run(&name, bytes)?;
                self.runs.insert(name, listed);
                self.spread();
            }
            ObjectName::Session(sid) => {
                self.seen.sessions += 1;
                self.damage.begun(sid);
            }
            ObjectName::Ledger(_) => {
                let record = open_record::<LedgerRecord>(&keyring, &name, bytes)?;
                let packs = &self.packs;
                if let Some(pack) = self.damage.told(&record, |pack| packs.contains(pack)) {
                    self.accuse(format!("{name} calls pack {pack} damaged, which it is not"));
                }
            }
            ObjectName::Note(sid, _) => {
                let note = open_record::<StampedNote>(&keyring, &name, bytes)?.note;
                if let Some(protected) = note.protected {
                    self.keeping.protect(sid, protected);
                    self.check();
                }
            }
            ObjectName::Snapshot(sid) => {
                match open_record::<Decision>(&keyring, &name, bytes)? {
                    Decision::Commit(record) => {
                        self.commits.insert(sid, record.root.id);
                        self.roots.insert(sid, record.root.id);
                        self.keeping.committed(sid, &record);
                    }
                    Decision::Fence { .. } => self.seen.fences += 1,
                    Decision::Abort { .. } => {}
                }
                self.check();
            }
            ObjectName::Forget(sid) => {
                self.keeping.forget(sid);
                self.settle();
                self.seen.withstood += u64::from(self.keeping.withstands(&sid));
            }
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

    fn read_run(
        &self,
        name: &ObjectName,
        bytes: &Bytes,
    ) -> Result<Vec<Listed>, crate::format::error::DecodeError> {
        let tables = open_run(&self.keyring, name, bytes)?;
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
        Ok(listed)
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
                let content = lock(&self.content);
                let base = bases
                    .next()
                    .and_then(|(_, base)| content.texts.get(base).cloned());
                drop(content);
                // Of data only bases and places matter here: restores compare the bytes.
                if let (Some(base), true) = (base, entry.kind != BlobKind::Data) {
                    let plain = decode_frame(&encoded, entry.plain, Some(&base))?;
                    lock(&self.content).texts.insert(entry.id, plain.into());
                }
            } else {
                keyring.verify_blob(entry.kind, &entry.id, &encoded)?;
                if entry.kind != BlobKind::Data {
                    lock(&self.content).texts.insert(entry.id, encoded);
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
                self.damage.forget(&id);
            }
            ObjectName::SessionRun(..) | ObjectName::CollectorRun(..) => drop(self.runs.remove(&name)),
            ObjectName::Snapshot(sid) => {
                self.commits.remove(&sid);
                self.keeping.swept(&sid);
            }
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
        let alive = |copy: &&Listed| {
            self.packs.contains(&copy.pack)
                && !self.sealed.dead.contains(&copy.pack)
                && !self.damage.is_bad(&copy.pack)
        };
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
        self.settle();
        let usable = self.usable();
        for (sid, root) in self.commits.clone() {
            if self.sealed.is_void(&sid) || self.keeping.is_gone(&sid) {
                continue;
            }
            let acknowledged = self.acknowledged.contains_key(&sid);
            let tree = lock(&self.content).tree(root);
            match tree {
                Err(why) => self.accuse(format!("snapshot {}: {why}", sid.short())),
                Ok(tree) => {
                    let mut lost = tree.iter().filter(|blob| !usable.contains(*blob)).peekable();
                    if lost.peek().is_none() {
                        self.damage.committed(&sid, &tree);
                        continue;
                    }
                    self.damage.hits(sid);
                    let lost = lost.find(|blob| !self.damage.excuses(&sid, blob));
                    if let Some(lost) = lost {
                        self.accuse(format!(
                            "snapshot {} (acknowledged: {acknowledged}) has lost blob {lost}",
                            sid.short()
                        ));
                    }
                }
            }
        }
        let kept = self.acknowledged.keys().filter(|sid| !self.keeping.is_gone(sid));
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

    fn settle(&mut self) {
        let sealed = &self.sealed;
        self.keeping.settle(|sid| !sealed.is_void(sid));
    }

    /// A pack was damaged, or is gone.
    pub(super) fn strike(&mut self, pack: ObjectId, is_lost: bool) {
        self.seen.damages += 1;
        if is_lost {
            self.packs.remove(&pack);
        }
        self.damage.strike(pack);
        self.spread();
        self.check();
    }

    /// Says which blobs may be lost.
    fn spread(&mut self) {
        if self.damage.has_happened() {
            let copies = self.runs.values().flatten();
            let copies: Vec<_> = copies.map(|copy| (copy.blob, copy.pack, copy.base)).collect();
            self.damage.spread(&copies);
        }
    }

    /// Whether anything was damaged or lost in this store.
    pub(super) fn is_damaged(&self) -> bool {
        self.damage.has_happened()
    }

    /// Whether a snapshot lacked something at some time.
    pub(super) fn was_hit(&self, sid: &SessionId) -> bool {
        self.damage.ever_hit(sid)
    }

    /// Snapshots that count and lack something now, and their roots.
    pub(super) fn hit(&self) -> Vec<(SessionId, BlobId)> {
        let usable = self.usable();
        let counts = |sid: &SessionId| !self.sealed.is_void(sid) && !self.keeping.is_gone(sid);
        let is_hit = |root: &BlobId| {
            let tree = lock(&self.content).tree(*root);
            tree.is_ok_and(|tree| tree.iter().any(|blob| !usable.contains(blob)))
        };
        let hit = self.commits.iter();
        let hit = hit.filter(|(sid, root)| counts(sid) && is_hit(root));
        hit.map(|(sid, root)| (*sid, *root)).collect()
    }

    /// Whether there is a whole snapshot with this root.
    pub(super) fn holds(&self, root: &BlobId) -> bool {
        let hit = self.hit();
        let counts = |sid: &SessionId| !self.sealed.is_void(sid) && !self.keeping.is_gone(sid);
        let mut same = self.commits.iter().filter(|(_, of)| *of == root);
        same.any(|(sid, _)| counts(sid) && !hit.iter().any(|(one, _)| one == sid))
    }

    /// A writer was told that its snapshot is safe.
    pub(super) fn acknowledge(&mut self, sid: SessionId, files: Arc<Files>) {
        self.seen.snapshots += 1;
        self.acknowledged.insert(sid, Some(files));
        self.check();
    }

    /// A copier was told that its copy is safe.
    pub(super) fn acknowledge_copy(&mut self, sid: SessionId, original: &Original) {
        self.seen.copies += 1;
        if self.roots.get(&sid) != original.root.as_ref() {
            self.accuse(format!("copy {} is one of something else", sid.short()));
        }
        self.acknowledged.insert(sid, original.files.clone());
        self.check();
    }

    /// What is known of a snapshot that was copied.
    pub(super) fn original(&self, sid: &SessionId) -> Original {
        Original {
            root: self.roots.get(sid).copied(),
            files: self.acknowledged.get(sid).cloned().flatten(),
        }
    }

    /// Acknowledged snapshots that nobody has let go, and what they hold, where that is known.
    pub(super) fn kept(&self) -> Vec<(SessionId, Option<Arc<Files>>)> {
        let kept = self.acknowledged.iter();
        let kept = kept.filter(|(sid, _)| !self.keeping.is_gone(sid));
        kept.map(|(sid, files)| (*sid, files.clone())).collect()
    }

    /// Acknowledged snapshots that somebody has let go, and their roots as long as they are there.
    pub(super) fn let_go(&self) -> Vec<(SessionId, Option<Arc<Files>>)> {
        let gone = self.acknowledged.iter();
        let gone = gone.filter(|(sid, _)| self.keeping.is_gone(sid));
        gone.map(|(sid, files)| (*sid, files.clone())).collect()
    }

    pub(super) fn is_forgotten(&self, sid: &SessionId) -> bool {
        self.keeping.is_gone(sid)
    }

    /// A forgets key was taken back.
    pub(super) fn remember(&mut self, sid: &SessionId) {
        self.keeping.remember(sid);
        self.check();
    }

    /// Judges how an operation failed. Where nothing is damaged nobody may say so; where something is, a collector may not be able to
    /// tell what a snapshot needs. A collector whose clock is ahead may refuse. On a full store a collector gives its reserve first.
    pub(super) fn judge(&mut self, who: &str, error: &Error, has_reserve: bool) {
        self.seen.errors += 1;
        let collects = who.starts_with("Collector") || who.starts_with("Sweeper");
        let may_be = match error.kind() {
            ErrorKind::Unreachable | ErrorKind::Conflict | ErrorKind::Busy | ErrorKind::Cancelled => true,
            ErrorKind::Refused => collects,
            ErrorKind::Damaged => self.is_damaged() && collects,
            ErrorKind::StoreFull => self.is_small && !(collects && has_reserve),
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
            if !self.sealed.is_void(&sid) && self.keeping.may_stay(&sid) {
                needed.extend(lock(&self.content).tree(root).ok()?.iter());
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
