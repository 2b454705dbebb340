//! Where the bytes are: of one snapshot, or of all of them; what deduplication, deltas and compression save; how it grows.

use super::list::{ListedSnapshot, find_snapshot, listed};
use super::place::{locate, name_of, shared_directory};
use crate::connector::files;
use crate::connector::postgres::key::{self, Place};
use crate::connector::stdio;
use crate::context::{Context, Time};
use crate::error::Result;
use crate::event::Event;
use crate::format::entry::{BlobRef, ContentRecord, EntryRecord};
use crate::format::id::{BlobId, SessionId};
use crate::format::layout::{ObjectName, Prefix};
use crate::format::node::Totals;
use crate::format::snapshot::SnapshotRecord;
use crate::repository::{Repository, Taken, Usage, View};
use crate::snapshot::entry::Key;
use crate::snapshot::tree::{Marker, walk};
use crate::snapshot::{SnapshotFilter, SnapshotReader, SnapshotSpec};
use crate::store::Listed;
use futures::stream::StreamExt;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

/// Parts that are told apart; what comes after so many is counted together.
const PARTS_MAX: usize = 100_000;

/// What is counted together behind [`PARTS_MAX`].
const OTHERS: &str = "(others)";

/// What to look at.
#[derive(Clone, Debug, Default)]
pub struct StatsRequest {
    /// One snapshot, and a place in it; else all that pass the filter.
    pub snapshot: Option<SnapshotSpec>,
    /// Which snapshots.
    pub filter: SnapshotFilter,
    /// How many of the largest entries of one snapshot are named.
    pub largest: usize,
}

/// A part of what is kept: a table, what else a database has, a stream, a directory or file.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// As people write it.
    pub name: String,
    /// The connector, or `repository` for trees.
    pub connector: &'static str,
    /// Entries, of one snapshot.
    pub entries: u64,
    /// Bytes of their content, of one snapshot.
    pub bytes: u64,
    /// What they take, without what a part before them has already.
    pub taken: Taken,
}

/// What one snapshot added.
#[derive(Clone, Debug)]
pub struct Growth {
    /// The snapshot.
    pub sid: SessionId,
    /// When it was made.
    pub time: Time,
    /// Its project.
    pub project: Option<String>,
    /// Its host.
    pub host: String,
    /// Bytes of all its content.
    pub bytes: u64,
    /// Bytes that were read for it.
    pub read: u64,
    /// Bytes that the repository did not have.
    pub new: u64,
    /// Bytes that were uploaded for it.
    pub stored: u64,
}

/// Objects of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct StatsReport {
    /// The snapshot, if it is one.
    pub snapshot: Option<Arc<SnapshotRecord>>,
    /// Each snapshot that was counted, oldest first.
    pub growth: Vec<Growth>,
    /// Entries of all of them, or of the place in the one.
    pub entries: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// What they take.
    pub taken: Taken,
    /// The same by parts, the largest in the store first.
    pub parts: Vec<Part>,
    /// The largest entries of one snapshot.
    pub largest: Vec<(u64, String)>,
    /// Of all snapshots without a filter: objects in the store by kind.
    pub store: BTreeMap<&'static str, Kind>,
    /// Of all snapshots without a filter: bytes of packs that no snapshot needs, padding and directories of packs left out of account.
    pub unneeded: Option<u64>,
    /// Snapshots that cannot be read are missing from all this.
    pub damaged: Vec<(String, String)>,
}

/// Counts what is in one snapshot or in all. Reads every node of their trees once, one path at a time.
///
/// # Errors
/// As [`super::open_snapshot`] and [`super::ls`]; `Damaged` if a tree cannot be read.
pub async fn stats(
    context: &Context,
    repository: &Repository,
    request: &StatsRequest,
) -> Result<StatsReport> {
    let view = repository.view(context).await?;
    let all = listed(repository, &view, &request.filter).await?;
    let mut count = Count::new(context, &view, request.largest);
    let mut report = StatsReport {
        damaged: all.damaged,
        ..StatsReport::default()
    };
    let mut chosen: Vec<ListedSnapshot> = all.snapshots;
    if let Some(spec) = &request.snapshot {
        let record = find_snapshot(repository, &view, spec, &request.filter)?;
        chosen.retain(|snapshot| snapshot.record.sid == record.sid);
        report.snapshot = Some(record);
    }
    let total = chosen.iter().map(|snapshot| snapshot.record.root.bytes);
    context.emit(&Event::PhaseStarted {
        phase: "stats",
        entries: None,
        bytes: report.snapshot.is_some().then(|| total.clone().sum()),
    });
    // The newest first: what it shares with older ones is told as its own.
    for snapshot in chosen.iter().rev() {
        context.check_cancelled()?;
        let record = snapshot.record.clone();
        let blobs = repository.reader_of(context, &view, record.sid);
        let reader = SnapshotReader::new(record.clone(), blobs, context.budget.total());
        let place = request.snapshot.as_ref().and_then(|spec| spec.path.as_ref());
        count.place = match place {
            Some(path) => Some(locate(&reader, path, None).await?.key.clone()),
            None => None,
        };
        count.top = match &count.place {
            Some(place) if files::path_of(place).is_some() => place.clone(),
            _ => shared_directory(&reader).await?,
        };
        walk(reader.tree().source().as_ref(), &record.root, &mut count).await?;
        if let Some((_, lists)) = &record.incident_list {
            count.begin("repository", "(incidents)".to_owned());
            for list in lists {
                count.take(&list.id);
            }
        }
        if place.is_none() {
            report.entries += record.root.entries;
            report.bytes += record.root.bytes;
        }
        report.growth.push(growth(snapshot));
    }
    context.emit(&Event::PhaseEnded { phase: "stats" });
    report.growth.reverse();
    if request.snapshot.as_ref().is_some_and(|spec| spec.path.is_some()) {
        report.entries = count.parts.iter().map(|part| part.entries).sum();
        report.bytes = count.parts.iter().map(|part| part.bytes).sum();
    }
    let is_all = request.snapshot.is_none() && request.filter == SnapshotFilter::default();
    if is_all {
        report.store = by_kind(repository).await?;
    }
    count.end(&mut report, is_all);
    Ok(report)
}

fn growth(snapshot: &ListedSnapshot) -> Growth {
    let (record, time) = (&snapshot.record, snapshot.made());
    let counts = &record.statistics;
    Growth {
        sid: record.sid,
        time,
        project: record.project.clone(),
        host: record.host.clone(),
        bytes: record.root.bytes,
        read: counts.bytes_read,
        new: counts.bytes_new,
        stored: counts.bytes_stored,
    }
}

async fn by_kind(repository: &Repository) -> Result<BTreeMap<&'static str, Kind>> {
    let mut kinds: BTreeMap<&'static str, Kind> = BTreeMap::new();
    let mut listed = repository.store().list(Prefix::All);
    while let Some(item) = listed.next().await {
        let (kind, size) = match item? {
            Listed::Object(info) => (kind_of(&info.name), info.size),
            Listed::Foreign { size, .. } => ("foreign", size),
        };
        let kind = kinds.entry(kind).or_default();
        kind.objects += 1;
        kind.bytes += size;
    }
    Ok(kinds)
}

fn kind_of(name: &ObjectName) -> &'static str {
    match name {
        ObjectName::Pack(_) => "packs",
        ObjectName::SessionRun(..) | ObjectName::CollectorRun(..) => "index",
        ObjectName::Snapshot(_) | ObjectName::Session(_) | ObjectName::Forget(_) | ObjectName::Note(..) => {
            "snapshots"
        }
        ObjectName::Condemned(_) | ObjectName::State(..) | ObjectName::Seal(_) | ObjectName::Refs(_) => {
            "collections"
        }
        ObjectName::Ledger(_) => "ledger",
        ObjectName::Reserve(_) => "reserve",
        ObjectName::Marker | ObjectName::Key(_) | ObjectName::Config(_) => "keys and configuration",
    }
}

/// What was counted so far.
struct Count<'a> {
    context: &'a Context,
    usage: Usage,
    parts: Vec<Part>,
    by_name: BTreeMap<(&'static str, String), usize>,
    /// The part that counts.
    part: usize,
    /// Whether the entry that was told last lies below the place.
    counts: bool,
    place: Option<Key>,
    /// The directory whose members are parts.
    top: Key,
    largest: BinaryHeap<Reverse<(u64, String)>>,
    largest_max: usize,
}

impl<'a> Count<'a> {
    fn new(context: &'a Context, view: &View, largest_max: usize) -> Self {
        Self {
            context,
            usage: Usage::new(view),
            parts: Vec::new(),
            by_name: BTreeMap::new(),
            part: 0,
            counts: true,
            place: None,
            top: Key::empty(),
            largest: BinaryHeap::new(),
            largest_max,
        }
    }

    /// What comes next belongs to a part.
    fn begin(&mut self, connector: &'static str, name: String) {
        self.counts = true;
        let current = self.parts.get(self.part);
        if current.is_some_and(|part| part.connector == connector && part.name == name) {
            return;
        }
        let is_full = self.parts.len() >= PARTS_MAX;
        let mut wanted = (connector, name);
        if is_full && !self.by_name.contains_key(&wanted) {
            wanted = ("repository", OTHERS.to_owned());
        }
        if let Some(part) = self.by_name.get(&wanted) {
            self.part = *part;
            return;
        }
        self.part = self.parts.len();
        self.parts.push(Part {
            name: wanted.1.clone(),
            connector: wanted.0,
            ..Part::default()
        });
        self.by_name.insert(wanted, self.part);
    }

    fn take(&mut self, id: &BlobId) -> bool {
        let Some(taken) = self.usage.take(id) else {
            return false;
        };
        if let Some(part) = self.parts.get_mut(self.part).filter(|_| self.counts) {
            part.taken.add(&taken);
        }
        true
    }

    /// The part that an entry belongs to.
    fn part_of(&self, key: &Key) -> (&'static str, String) {
        if let Some((database, place)) = key::parse(key) {
            let of_database = String::from_utf8_lossy(&database).into_owned();
            let name = match place {
                Place::Table(table) | Place::Segment(table, _) => {
                    name_of(&key::key(&database, &Place::Table(table)))
                }
                Place::LargeObject(_) => "(large objects)".to_owned(),
                _ => "(statements and settings)".to_owned(),
            };
            return (
                "postgres",
                crate::error::escape(&format!("{of_database}: {name}")),
            );
        }
        if files::path_of(key).is_some() {
            let (bytes, top) = (key.as_bytes(), self.top.as_bytes());
            // Directories above the shared one have nothing of their own.
            let Some(below) = bytes.strip_prefix(top) else {
                return ("files", name_of(&self.top));
            };
            // The member of the shared directory that it is or lies in.
            let end = below.iter().position(|b| *b == b'/');
            let member = bytes.get(..end.map_or(bytes.len(), |at| top.len() + at + 1));
            return ("files", name_of(&Key::new(member.unwrap_or_default().to_vec())));
        }
        if key.as_bytes().starts_with(stdio::PREFIX.as_bytes()) {
            return ("stdio", name_of(key));
        }
        // Of what this program does not know yet: the first components, which name a bucket.
        let bytes = key.as_bytes();
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        (
            "other",
            name_of(&Key::new(bytes.get(..end).unwrap_or_default().to_vec())),
        )
    }

    fn end(self, report: &mut StatsReport, is_all: bool) {
        let packs = self.usage.packs().1;
        report.parts = self.parts;
        report
            .parts
            .retain(|part| part.entries > 0 || part.taken != Taken::default());
        for part in &report.parts {
            report.taken.add(&part.taken);
        }
        report
            .parts
            .sort_by(|a, b| (b.taken.stored, b.bytes, &a.name).cmp(&(a.taken.stored, a.bytes, &b.name)));
        report.unneeded = is_all.then(|| packs.saturating_sub(report.taken.stored));
        let largest = self.largest.into_sorted_vec();
        report.largest = largest.into_iter().map(|Reverse(entry)| entry).collect();
    }
}

/// Whether a key is that of a place or lies in it: the keys of groups end with `/` or a zero byte.
fn is_at(key: &Key, place: &Key) -> bool {
    match place.as_bytes().last() {
        Some(b'/' | 0) => key.starts_with(place),
        _ => key == place,
    }
}

impl Marker for Count<'_> {
    fn node(&mut self, id: BlobId, _: u8, _: Totals) -> bool {
        if self.place.is_some() {
            self.counts = false;
        } else {
            self.begin("repository", "(names and attributes)".to_owned());
        }
        self.take(&id)
    }

    fn entry(&mut self, entry: &EntryRecord) {
        self.counts = self.place.as_ref().is_none_or(|place| is_at(&entry.key, place));
        if !self.counts {
            return;
        }
        let (connector, name) = self.part_of(&entry.key);
        self.begin(connector, name);
        // A group's size is that of its members.
        let size = if entry.content == ContentRecord::None {
            0
        } else {
            entry.size
        };
        if let Some(part) = self.parts.get_mut(self.part) {
            part.entries += 1;
            part.bytes += size;
        }
        self.context.emit(&Event::Progress { bytes: size });
        let is_large = self.largest.len() < self.largest_max
            || self
                .largest
                .peek()
                .is_some_and(|Reverse((least, _))| *least < size);
        if is_large
            && self.largest_max > 0
            && size > 0
            && !matches!(key::parse(&entry.key), Some((_, Place::Segment(..))))
        {
            self.largest.push(Reverse((size, name_of(&entry.key))));
            if self.largest.len() > self.largest_max {
                self.largest.pop();
            }
        }
    }

    fn list(&mut self, list: &BlobRef) -> bool {
        self.counts && self.take(&list.id)
    }

    fn data(&mut self, chunk: &BlobRef) {
        if self.counts {
            self.take(&chunk.id);
        }
    }
}
