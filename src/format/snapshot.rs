//! What stands at `snapshots/<sid>` (`format-spec/70-snapshots.md`): the commit of a session, a collector's fence, or the abort of
//! its own writer. Who creates the key decides the session.

use super::cbor::{Decoder, Encoder};
use super::entry::{BlobRef, Key, decode_refs, encode_refs};
use super::error::DecodeError;
use super::id::{BlobId, RepositoryId, SessionId};
use super::limits;
use super::records::{UNKNOWN_FIELD, must, put_time, read_map, sid, time};
use crate::context::Time;
use bytes::Bytes;

/// The object at `snapshots/<sid>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A snapshot.
    Commit(Box<SnapshotRecord>),
    /// A collector ended the session.
    Fence {
        /// The session.
        sid: SessionId,
        /// The collector.
        collector: [u8; 16],
        /// Its round.
        round: u64,
        /// Random.
        nonce: [u8; 16],
    },
    /// The writer, or a reader with a session, ended it itself.
    Abort {
        /// The session.
        sid: SessionId,
        /// Why.
        why: String,
        /// Random.
        nonce: [u8; 16],
    },
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// Its id.
    pub sid: SessionId,
    /// When reading began.
    pub started: Time,
    /// The moment that its contents belong to, where a source has one.
    pub consistent_at: Option<Time>,
    /// When it was committed.
    pub ended: Time,
    /// The host that wrote it.
    pub host: String,
    /// The project that it belongs to, if it was named.
    pub project: Option<String>,
    /// Labels given at the start; ascending.
    pub tags: Vec<String>,
    /// What was read.
    pub sources: Vec<SourceRecord>,
    /// The snapshot it was compared with.
    pub parent: Option<SessionId>,
    /// Of a copy: the repository and snapshot that it was copied from.
    pub original: Option<(RepositoryId, SessionId)>,
    /// The tree.
    pub root: RootRecord,
    /// Whether something could not be read.
    pub partial: bool,
    /// Counts of the run.
    pub statistics: Statistics,
    /// How many incidents there were.
    pub incident_count: u64,
    /// The first of them: 1,000 or fewer, that take 1 MiB or less.
    pub incidents: Vec<(Key, String)>,
    /// All of them as content, when not all are above: level and references.
    pub incident_list: Option<(u8, Vec<BlobRef>)>,
    /// The program that wrote it.
    pub tool: String,
    /// Random: equal bytes mean "mine".
    pub nonce: [u8; 16],
}

/// What a snapshot was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRecord {
    /// The connector.
    pub connector: String,
    /// What it read, for people.
    pub description: String,
    /// Version of the system behind it.
    pub version: Option<String>,
}

/// The root of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootRecord {
    /// The root node.
    pub id: BlobId,
    /// Levels above the leaves: 0 if the root is a leaf.
    pub height: u8,
    /// Entries.
    pub entries: u64,
    /// Sum of the sizes of the entries that have content.
    pub bytes: u64,
}

/// Counts of a run, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Entries that the parent did not have.
    pub entries_new: u64,
    /// Entries that differ from the parent's.
    pub entries_changed: u64,
    /// Entries taken over or found equal.
    pub entries_unchanged: u64,
    /// Bytes of content read from the source.
    pub bytes_read: u64,
    /// Blobs that the repository did not have.
    pub blobs_new: u64,
    /// Their plaintext bytes.
    pub bytes_new: u64,
    /// Bytes of the packs and index runs uploaded.
    pub bytes_stored: u64,
}

impl Statistics {
    fn fields(&self) -> [u64; 7] {
        [
            self.entries_new,
            self.entries_changed,
            self.entries_unchanged,
            self.bytes_read,
            self.blobs_new,
            self.bytes_new,
            self.bytes_stored,
        ]
    }
}

impl Decision {
    /// The session that it decides.
    pub fn sid(&self) -> SessionId {
        match self {
            Self::Commit(snapshot) => snapshot.sid,
            Self::Fence { sid, .. } | Self::Abort { sid, .. } => *sid,
        }
    }

    /// Field 0 tells the form: 0 commit, 1 fence (1 sid, 2 collector, 3 round, 4 nonce), 2 abort (1 sid, 2 why, 3 nonce).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        match self {
            Self::Commit(snapshot) => snapshot.encode(&mut out),
            Self::Fence {
                sid,
                collector,
                round,
                nonce,
            } => {
                out.map(5).uint(0).uint(1).uint(1).bytes(&sid.to_bytes());
                out.uint(2)
                    .bytes(collector)
                    .uint(3)
                    .uint(*round)
                    .uint(4)
                    .bytes(nonce);
            }
            Self::Abort { sid, why, nonce } => {
                out.map(4)
                    .uint(0)
                    .uint(2)
                    .uint(1)
                    .bytes(&sid.to_bytes())
                    .uint(2)
                    .text(why)
                    .uint(3)
                    .bytes(nonce);
            }
        }
        out.finish()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let mut fields = decoder.map(64)?;
        if fields.next(&mut decoder)? != Some(0) {
            return Err(DecodeError::Invalid("record lacks a field"));
        }
        match decoder.uint()? {
            0 => SnapshotRecord::decode(bytes).map(|s| Self::Commit(Box::new(s))),
            1 => decode_fence(bytes),
            2 => decode_abort(bytes),
            _ => Err(DecodeError::UnknownVersion("form of a decision")),
        }
    }
}

fn decode_fence(bytes: &[u8]) -> Result<Decision, DecodeError> {
    let (mut id, mut collector, mut round, mut nonce) = (None, None, None, None);
    read_map(bytes, |field, d| {
        match field {
            0 => drop(d.uint()?),
            1 => id = Some(sid(d)?),
            2 => collector = Some(d.fixed()?),
            3 => round = Some(d.uint()?).filter(|round| *round > 0),
            4 => nonce = Some(d.fixed()?),
            _ => return Err(UNKNOWN_FIELD),
        }
        Ok(())
    })?;
    Ok(Decision::Fence {
        sid: must(id)?,
        collector: must(collector)?,
        round: must(round)?,
        nonce: must(nonce)?,
    })
}

fn decode_abort(bytes: &[u8]) -> Result<Decision, DecodeError> {
    let (mut id, mut why, mut nonce) = (None, None, None);
    read_map(bytes, |field, d| {
        match field {
            0 => drop(d.uint()?),
            1 => id = Some(sid(d)?),
            2 => why = Some(d.text(limits::TEXT_MAX)?.to_owned()),
            3 => nonce = Some(d.fixed()?),
            _ => return Err(UNKNOWN_FIELD),
        }
        Ok(())
    })?;
    Ok(Decision::Abort {
        sid: must(id)?,
        why: must(why)?,
        nonce: must(nonce)?,
    })
}

impl SnapshotRecord {
    /// A snapshot that nothing was written for: what a dry run reports.
    pub fn planned(host: String, project: Option<String>, sources: Vec<SourceRecord>, started: Time) -> Self {
        Self {
            sid: SessionId {
                epoch: 0,
                random: [0; 16],
            },
            started,
            consistent_at: None,
            ended: started,
            host,
            project,
            tags: Vec::new(),
            sources,
            parent: None,
            original: None,
            root: RootRecord {
                id: BlobId::HOLE,
                height: 0,
                entries: 0,
                bytes: 0,
            },
            partial: false,
            statistics: Statistics::default(),
            incident_count: 0,
            incidents: Vec::new(),
            incident_list: None,
            tool: String::new(),
            nonce: [0; 16],
        }
    }

    fn encode(&self, out: &mut Encoder) {
        let optional = [
            self.consistent_at.is_some(),
            self.project.is_some(),
            self.parent.is_some(),
            self.original.is_some(),
            self.incident_list.is_some(),
        ];
        out.map(14 + optional.iter().filter(|present| **present).count());
        out.uint(0).uint(0).uint(1).bytes(&self.sid.to_bytes()).uint(2);
        put_time(out, self.started);
        if let Some(at) = self.consistent_at {
            put_time(out.uint(3), at);
        }
        put_time(out.uint(4), self.ended);
        out.uint(5).text(&self.host);
        if let Some(project) = &self.project {
            out.uint(6).text(project);
        }
        out.uint(7).array(self.tags.len());
        for tag in &self.tags {
            out.text(tag);
        }
        out.uint(8).array(self.sources.len());
        for source in &self.sources {
            out.array(3).text(&source.connector).text(&source.description);
            match &source.version {
                Some(version) => out.text(version),
                None => out.null(),
            };
        }
        if let Some(parent) = self.parent {
            out.uint(9).bytes(&parent.to_bytes());
        }
        if let Some((repository, sid)) = self.original {
            out.uint(10).array(2).bytes(&repository.0).bytes(&sid.to_bytes());
        }
        let root = &self.root;
        out.uint(11)
            .array(4)
            .bytes(&root.id.0)
            .uint(u64::from(root.height))
            .uint(root.entries)
            .uint(root.bytes);
        out.uint(12).bool(self.partial).uint(13).array(7);
        for count in self.statistics.fields() {
            out.uint(count);
        }
        out.uint(14)
            .uint(self.incident_count)
            .uint(15)
            .array(self.incidents.len());
        for (key, why) in &self.incidents {
            out.array(2).bytes(key.as_bytes()).text(why);
        }
        if let Some((level, refs)) = &self.incident_list {
            out.uint(16)
                .array(2)
                .uint(u64::from(*level))
                .bytes(&encode_refs(refs));
        }
        out.uint(17).text(&self.tool).uint(18).bytes(&self.nonce);
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut parts = Parts::default();
        read_map(bytes, |field, d| match field {
            0..=10 => parts.head(field, d),
            _ => parts.body(field, d),
        })?;
        parts.finish()
    }
}

/// A snapshot record while its fields are read.
#[derive(Default)]
struct Parts {
    sid: Option<SessionId>,
    started: Option<Time>,
    consistent_at: Option<Time>,
    ended: Option<Time>,
    host: Option<String>,
    project: Option<String>,
    tags: Option<Vec<String>>,
    sources: Option<Vec<SourceRecord>>,
    parent: Option<SessionId>,
    original: Option<(RepositoryId, SessionId)>,
    root: Option<RootRecord>,
    partial: Option<bool>,
    statistics: Option<Statistics>,
    incident_count: Option<u64>,
    incidents: Option<Vec<(Key, String)>>,
    incident_list: Option<(u8, Vec<BlobRef>)>,
    tool: Option<String>,
    nonce: Option<[u8; 16]>,
}

impl Parts {
    fn head(&mut self, field: u64, d: &mut Decoder<'_>) -> Result<(), DecodeError> {
        match field {
            0 => drop(d.uint()?),
            1 => self.sid = Some(sid(d)?),
            2 => self.started = Some(time(d)?),
            3 => self.consistent_at = Some(time(d)?),
            4 => self.ended = Some(time(d)?),
            5 => self.host = Some(d.text(limits::NAME_MAX)?.to_owned()),
            6 => self.project = Some(d.text(limits::NAME_MAX)?.to_owned()),
            7 => {
                let len = d.array(limits::TAGS_MAX)?;
                let tags: Vec<String> = (0..len)
                    .map(|_| d.text(limits::NAME_MAX).map(str::to_owned))
                    .collect::<Result<_, _>>()?;
                super::records::ascending(&tags)?;
                self.tags = Some(tags);
            }
            8 => {
                let len = d.array(limits::SOURCES_MAX)?;
                self.sources = Some((0..len).map(|_| source(d)).collect::<Result<_, _>>()?);
            }
            9 => self.parent = Some(sid(d)?),
            10 => {
                d.array_of(2)?;
                self.original = Some((RepositoryId(d.fixed()?), sid(d)?));
            }
            _ => return Err(UNKNOWN_FIELD),
        }
        Ok(())
    }

    fn body(&mut self, field: u64, d: &mut Decoder<'_>) -> Result<(), DecodeError> {
        match field {
            11 => {
                d.array_of(4)?;
                let id = BlobId(d.fixed()?);
                let height = u8::try_from(d.uint()?)
                    .ok()
                    .filter(|h| *h < limits::TREE_HEIGHT_MAX);
                let height = height.ok_or(DecodeError::OverLimit("height of the tree"))?;
                self.root = Some(RootRecord {
                    id,
                    height,
                    entries: d.uint()?,
                    bytes: d.uint()?,
                });
            }
            12 => self.partial = Some(d.bool()?),
            13 => {
                d.array_of(7)?;
                self.statistics = Some(Statistics {
                    entries_new: d.uint()?,
                    entries_changed: d.uint()?,
                    entries_unchanged: d.uint()?,
                    bytes_read: d.uint()?,
                    blobs_new: d.uint()?,
                    bytes_new: d.uint()?,
                    bytes_stored: d.uint()?,
                });
            }
            14 => self.incident_count = Some(d.uint()?),
            15 => {
                let mut inner = Decoder::new(d.raw(limits::INCIDENTS_INLINE_BYTES_MAX)?);
                let len = inner.array(limits::INCIDENTS_INLINE_MAX)?;
                self.incidents = Some((0..len).map(|_| incident(&mut inner)).collect::<Result<_, _>>()?);
            }
            16 => {
                d.array_of(2)?;
                let level = u8::try_from(d.uint()?)
                    .ok()
                    .filter(|l| *l <= limits::LIST_DEPTH_MAX);
                let level = level.ok_or(DecodeError::OverLimit("levels of lists"))?;
                let refs = decode_refs(d.bytes(limits::REFS_INLINE_MAX * BlobRef::ENCODED)?, level)?;
                self.incident_list = Some((level, refs));
            }
            17 => self.tool = Some(d.text(limits::NAME_MAX)?.to_owned()),
            18 => self.nonce = Some(d.fixed()?),
            _ => return Err(UNKNOWN_FIELD),
        }
        Ok(())
    }

    fn finish(self) -> Result<SnapshotRecord, DecodeError> {
        let snapshot = SnapshotRecord {
            sid: must(self.sid)?,
            started: must(self.started)?,
            consistent_at: self.consistent_at,
            ended: must(self.ended)?,
            host: must(self.host)?,
            project: self.project,
            tags: must(self.tags)?,
            sources: must(self.sources)?,
            parent: self.parent,
            original: self.original,
            root: must(self.root)?,
            partial: must(self.partial)?,
            statistics: must(self.statistics)?,
            incident_count: must(self.incident_count)?,
            incidents: must(self.incidents)?,
            incident_list: self.incident_list,
            tool: must(self.tool)?,
            nonce: must(self.nonce)?,
        };
        snapshot.check()?;
        Ok(snapshot)
    }
}

impl SnapshotRecord {
    fn check(&self) -> Result<(), DecodeError> {
        let inline = self.incidents.len() as u64;
        let complete = inline == self.incident_count;
        if inline > self.incident_count || complete == self.incident_list.is_some() {
            return Err(DecodeError::Invalid("count of incidents"));
        }
        if self.incident_count > 0 && !self.partial {
            return Err(DecodeError::Invalid("complete snapshot with incidents"));
        }
        let root = &self.root;
        if root.id == BlobId::HOLE {
            return Err(DecodeError::Invalid("the hole is not a blob"));
        }
        if root.entries == 0 && (root.height > 0 || root.bytes > 0) {
            return Err(DecodeError::Invalid("totals of an empty tree"));
        }
        Ok(())
    }
}

fn source(d: &mut Decoder<'_>) -> Result<SourceRecord, DecodeError> {
    d.array_of(3)?;
    let connector = d.text(limits::NAME_MAX)?.to_owned();
    let description = d.text(limits::DESCRIPTION_MAX)?.to_owned();
    let version = if d.null() {
        None
    } else {
        Some(d.text(limits::NAME_MAX)?.to_owned())
    };
    Ok(SourceRecord {
        connector,
        description,
        version,
    })
}

/// Reads one incident: [key, why]. Also the encoding inside an incident list.
///
/// # Errors
/// Any class of [`DecodeError`].
pub fn incident(d: &mut Decoder<'_>) -> Result<(Key, String), DecodeError> {
    d.array_of(2)?;
    let key = Key::new(Bytes::copy_from_slice(d.bytes(limits::KEY_MAX)?));
    Ok((key, d.text(limits::TEXT_MAX)?.to_owned()))
}
