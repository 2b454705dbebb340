//! Arbitrary values of everything that is stored, from a seed: any field at its limits, empty, absent.

use crate::chunk::ChunkParams;
use crate::context::Time;
use crate::format::collect::{CondemnedRecord, LedgerRecord, RefsRecord, RunRow, SealRecord, StateRecord};
use crate::format::entry::{BlobRef, ContentRecord, EntryKind, EntryRecord, Key};
use crate::format::header::{HEADER_LEN, Header, ObjectType, Origin};
use crate::format::id::{BlobId, ObjectId, RepositoryId, SessionId};
use crate::format::index::{BlobKind, BlockRow, Codec, EntryRow, PackRow, Tables};
use crate::format::metadata::{Metadata, Value};
use crate::format::note::{NoteRecord, StampedNote};
use crate::format::repo_config::{ChunkProfile, ConfigRecord, Features};
use crate::format::session::{ForgetRecord, SessionRecord};
use crate::format::snapshot::{Decision, RootRecord, SnapshotRecord, SourceRecord, Statistics};

/// A source of values that follow from a seed.
pub struct Gen(blake3::OutputReader);

impl Gen {
    /// The values of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(b"holdall arbitrary values")
            .update(&seed.to_le_bytes());
        Self(hasher.finalize_xof())
    }

    /// `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.0.fill(&mut out);
        out
    }

    /// Any integer; small ones and the largest often.
    pub fn int(&mut self) -> u64 {
        let value = u64::from_le_bytes(self.array());
        match self.below(8) {
            0 => u64::MAX,
            1 => 0,
            n => value >> (n * 8 % 64),
        }
    }

    /// An integer below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        u64::from_le_bytes(self.array()) % n.max(1)
    }

    /// An index below `n`.
    pub fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap_or(0)
    }

    fn int32(&mut self) -> u32 {
        u32::try_from(self.int() & 0xffff_ffff).unwrap_or(0)
    }

    /// True or false.
    pub fn coin(&mut self) -> bool {
        self.below(2) == 1
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.coin() { Some(make(self)) } else { None }
    }

    fn many<T>(&mut self, max: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.index(max + 1)).map(|_| make(self)).collect()
    }

    fn ascending<T: Ord>(&mut self, max: usize, make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let mut rows = self.many(max, make);
        rows.sort();
        rows.dedup();
        rows
    }

    /// At most `max` bytes.
    pub fn bytes(&mut self, max: usize) -> Vec<u8> {
        let mut out = vec![0; self.index(max + 1)];
        self.0.fill(&mut out);
        out
    }

    fn text(&mut self) -> String {
        const PARTS: [&str; 8] = ["a", "Z9", "/", " ", "\u{0}", "\u{1b}[31m", "größer", "日本"];
        let parts = self.many(12, |g| {
            PARTS.get(g.index(PARTS.len())).copied().unwrap_or_default()
        });
        parts.concat()
    }

    fn time(&mut self) -> Time {
        Time {
            seconds: self.int().cast_signed(),
            nanos: u32::try_from(self.below(1_000_000_000)).unwrap_or(0),
        }
    }

    /// A session id.
    pub fn sid(&mut self) -> SessionId {
        let mut random = self.array();
        random[0] |= 1;
        SessionId {
            epoch: self.int(),
            random,
        }
    }

    fn object_id(&mut self) -> ObjectId {
        ObjectId(self.array())
    }

    /// The id of some blob.
    pub fn blob_id(&mut self) -> BlobId {
        let mut id = self.array();
        id[31] |= 1;
        BlobId(id)
    }

    fn round(&mut self) -> u64 {
        self.int().max(1)
    }

    /// `sessions/…`
    pub fn session(&mut self) -> SessionRecord {
        SessionRecord {
            sid: self.sid(),
            host: self.text(),
            started: self.time(),
            nonce: self.array(),
            parent_hint: self.maybe(Self::sid),
            adopted: self.maybe(Self::sid),
        }
    }

    /// `forgets/…`
    pub fn forget(&mut self) -> ForgetRecord {
        ForgetRecord {
            sid: self.sid(),
            who: self.text(),
            why: self.text(),
            time: self.time(),
            nonce: self.array(),
        }
    }

    /// `notes/…`
    pub fn note(&mut self) -> StampedNote {
        StampedNote {
            sid: self.sid(),
            number: self.int32(),
            time: self.time(),
            nonce: self.array(),
            note: NoteRecord {
                tags: self.maybe(|g| g.ascending(4, Self::text)),
                protected: self.maybe(Self::coin),
                first_seen: self.maybe(Self::time),
                report: self.maybe(Self::text),
                description: self.maybe(Self::text),
            },
        }
    }

    /// `config/…`
    pub fn config(&mut self) -> ConfigRecord {
        let mut profiles: Vec<_> = ["default", "files", "postgres"]
            .into_iter()
            .filter(|name| *name == "default" || self.coin())
            .map(str::to_owned)
            .collect();
        profiles.sort();
        let params = ChunkParams::new(64, 256 << self.index(15), 16 << 20).unwrap_or_default();
        ConfigRecord {
            repository: RepositoryId(self.array()),
            generation: self.int32(),
            marker_hash: self.array(),
            created: self.time(),
            padme: self.coin(),
            profiles: profiles
                .into_iter()
                .map(|name| ChunkProfile { name, params })
                .collect(),
            retain_last: self.int32(),
            retain_age: self.int(),
            features: Features {
                read: 0,
                write: self.int32(),
                delete: self.int32(),
            },
        }
    }

    /// `gc/…/condemned`
    pub fn condemned(&mut self) -> CondemnedRecord {
        CondemnedRecord {
            round: self.round(),
            collector: self.array(),
            nonce: self.array(),
            packs: self.ascending(5, Self::object_id),
        }
    }

    /// `gc/…/state/…`
    pub fn state(&mut self) -> StateRecord {
        let round = self.round();
        let floor = self.below(round);
        let mut live = Vec::new();
        if floor > 0 {
            live = self.ascending(4, |g| SessionId {
                epoch: g.below(floor),
                ..g.sid()
            });
        }
        StateRecord {
            round,
            floor,
            live,
            runs: self.ascending(4, |g| RunRow {
                round: 1 + g.below(round),
                id: g.object_id(),
                entries: g.int(),
                hash: g.array(),
            }),
            dead: self.ascending(4, Self::object_id),
            nonce: self.array(),
        }
    }

    /// `gc/…/seal`
    pub fn seal(&mut self) -> SealRecord {
        let round = self.round();
        let swept = self.coin();
        let of = if swept { round } else { self.below(round) };
        SealRecord {
            round,
            swept,
            collector: self.array(),
            state: (of > 0).then(|| (of, self.object_id())),
            nonce: self.array(),
        }
    }

    fn blob_kind(&mut self) -> BlobKind {
        [BlobKind::Data, BlobKind::Node, BlobKind::List]
            .get(self.index(3))
            .copied()
            .unwrap_or(BlobKind::Data)
    }

    /// `refs/…`
    pub fn refs(&mut self) -> RefsRecord {
        let node = self.blob_id();
        let all = self.ascending(6, |g| (g.blob_kind(), g.blob_id()));
        // By what is drawn already: an id is random.
        let is_end = |(kind, id): &(BlobKind, BlobId)| {
            *kind != BlobKind::Data && id.0.first().is_some_and(|byte| byte % 2 == 0)
        };
        let (open, blobs) = all.into_iter().partition(is_end);
        RefsRecord { node, blobs, open }
    }

    /// `ledger/…`
    pub fn ledger(&mut self) -> LedgerRecord {
        LedgerRecord {
            number: self.int32(),
            time: self.time(),
            nonce: self.array(),
            verified: self.ascending(4, |g| (g.object_id(), g.int().cast_signed())),
            quarantined: self.ascending(4, Self::object_id),
        }
    }

    /// A commit, a fence or an abort.
    pub fn decision(&mut self) -> Decision {
        match self.below(4) {
            0 => Decision::Fence {
                sid: self.sid(),
                collector: self.array(),
                round: self.round(),
                nonce: self.array(),
            },
            1 => Decision::Abort {
                sid: self.sid(),
                why: self.text(),
                nonce: self.array(),
            },
            _ => Decision::Commit(Box::new(self.snapshot())),
        }
    }

    /// A snapshot.
    pub fn snapshot(&mut self) -> SnapshotRecord {
        let incidents = self.many(3, |g| (Key::new(g.bytes(20)), g.text()));
        let more = self.below(3) == 0;
        let incident_count = incidents.len() as u64 + if more { 1 + self.below(1000) } else { 0 };
        let partial = incident_count > 0 || self.coin();
        let mut counts = || self.int();
        let statistics = Statistics {
            entries_new: counts(),
            entries_changed: counts(),
            entries_unchanged: counts(),
            bytes_read: counts(),
            blobs_new: counts(),
            bytes_new: counts(),
            bytes_stored: counts(),
        };
        SnapshotRecord {
            sid: self.sid(),
            started: self.time(),
            consistent_at: self.maybe(Self::time),
            ended: self.time(),
            host: self.text(),
            project: self.maybe(Self::text),
            tags: self.ascending(3, Self::text),
            sources: self.many(2, |g| SourceRecord {
                connector: g.text(),
                description: g.text(),
                version: g.maybe(Self::text),
            }),
            parent: self.maybe(Self::sid),
            original: self.maybe(|g| (RepositoryId(g.array()), g.sid())),
            root: RootRecord {
                id: self.blob_id(),
                height: u8::try_from(self.below(16)).unwrap_or(0),
                entries: self.round(),
                bytes: self.int(),
            },
            partial,
            statistics,
            incident_count,
            incidents,
            incident_list: more.then(|| {
                let refs = self.refs_at(1);
                (1, refs)
            }),
            tool: self.text(),
            nonce: self.array(),
        }
    }

    fn refs_at(&mut self, level: u8) -> Vec<BlobRef> {
        (0..=self.index(4))
            .map(|_| match self.below(3) {
                0 if level == 0 => BlobRef {
                    id: BlobId::HOLE,
                    len: 1 + self.below(1 << 40),
                },
                _ => BlobRef {
                    id: self.blob_id(),
                    len: 1 + self.below(16 << 20),
                },
            })
            .collect()
    }

    /// An entry of the tree, under any key.
    pub fn entry(&mut self) -> EntryRecord {
        const KINDS: [EntryKind; 4] = [
            EntryKind::File,
            EntryKind::Table,
            EntryKind::Object,
            EntryKind::Directory,
        ];
        let content = match self.below(3) {
            0 => ContentRecord::None,
            1 => ContentRecord::Inline([vec![7], self.bytes(511)].concat().into()),
            _ => {
                let level = u8::try_from(self.below(5)).unwrap_or(0);
                ContentRecord::Refs {
                    level,
                    refs: self.refs_at(level),
                }
            }
        };
        let (size, whole) = match &content {
            ContentRecord::None => (self.int(), None),
            ContentRecord::Inline(bytes) => (bytes.len() as u64, None),
            ContentRecord::Refs { level, refs } => {
                let many = *level > 0 || refs.len() > 1;
                (refs.iter().map(|r| r.len).sum(), many.then(|| self.array()))
            }
        };
        let fields: Vec<_> = (0..self.below(4)).map(|n| (n * 100, self.value(3))).collect();
        EntryRecord {
            key: Key::new([vec![b'k'], self.bytes(40)].concat()),
            kind: KINDS
                .get(self.index(KINDS.len()))
                .copied()
                .unwrap_or(EntryKind::File),
            metadata: Metadata::new(&fields).unwrap_or_default(),
            state: self.bytes(20).into(),
            size,
            content,
            whole,
        }
    }

    fn value(&mut self, depth: u32) -> Value {
        match self.below(5) {
            0 => Value::Bytes(self.bytes(20)),
            1 => Value::Text(self.text()),
            2 => Value::Bool(self.coin()),
            3 if depth > 0 => Value::List(self.many(3, |g| g.value(depth - 1))),
            _ => Value::Int(self.int().cast_signed()),
        }
    }

    /// An index run, or a pack's directory.
    pub fn tables(&mut self, directory: bool) -> Tables {
        let mut tables = Tables::default();
        let packs = if directory { 1 } else { self.index(4) };
        let mut ids: Vec<_> = (0..packs).map(|_| self.object_id()).collect();
        ids.sort();
        for (ordinal, id) in ids.into_iter().enumerate() {
            let end = self.blocks(&mut tables, u32::try_from(ordinal).unwrap_or(0));
            if !directory {
                let header = self.pack_header().encode();
                tables.packs.push(PackRow {
                    id,
                    header,
                    size: end + 92 + self.int32() % 1000,
                });
            }
        }
        if !tables.blocks.is_empty() {
            self.blobs(&mut tables);
        }
        tables
    }

    fn blocks(&mut self, tables: &mut Tables, pack: u32) -> u32 {
        let mut offset = u32::try_from(HEADER_LEN).unwrap_or(0);
        for record in 0..=self.int32() % 3 {
            let plain = 1 + self.int32() % 100_000;
            let raw = self.coin();
            let sealed = 16 + if raw { plain } else { 1 + plain / 2 };
            let codec = if raw { Codec::Raw } else { Codec::Zstd };
            tables.blocks.push(BlockRow {
                pack,
                record,
                offset,
                sealed,
                plain,
                codec,
            });
            offset += sealed;
        }
        offset
    }

    fn blobs(&mut self, tables: &mut Tables) {
        let mut rows = self.many(6, |g| {
            let ordinal = g.index(tables.blocks.len());
            let block = tables.blocks.get(ordinal).copied();
            let (raw, plain) = block.map_or((true, 1), |b| (b.codec == Codec::Raw, b.plain));
            let offset = g.int32() % plain;
            let encoded = 1 + g.int32() % (plain - offset);
            let delta = raw && g.coin();
            EntryRow {
                id: g.blob_id(),
                kind: g.blob_kind(),
                delta,
                block: u32::try_from(ordinal).unwrap_or(0),
                offset,
                encoded,
                plain: if delta {
                    1 + g.int32() % (16 << 20)
                } else {
                    encoded
                },
            }
        });
        rows.sort_by_key(|row| (row.id, row.block, row.offset));
        for (ordinal, row) in rows.iter().enumerate().filter(|(_, row)| row.delta) {
            let _ = row;
            tables
                .bases
                .push((u32::try_from(ordinal).unwrap_or(0), self.blob_id()));
        }
        tables.entries = rows;
    }

    /// The header of a pack.
    pub fn pack_header(&mut self) -> Header {
        Header {
            object_type: ObjectType::Pack,
            variant: 0,
            epoch: self.int32().max(1),
            origin: if self.coin() {
                Origin::Round(self.round())
            } else {
                Origin::Session(self.sid())
            },
            salt: self.array(),
            commitment: self.array(),
        }
    }
}
