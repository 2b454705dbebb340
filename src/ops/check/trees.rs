//! The trees of all snapshots: which entries of which lack something, and because of which packs.

use super::is_damage;
use crate::connector::postgres::key::{self, Place};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::format::entry::{BlobRef, EntryRecord};
use crate::format::id::{BlobId, ObjectId, SessionId};
use crate::format::layout::ObjectName;
use crate::format::node::Totals;
use crate::ops::place::name_of;
use crate::repository::{BlobReader, Hit, Repository, View};
use crate::snapshot::SnapshotReader;
use crate::snapshot::entry::Key;
use crate::snapshot::tree::{Marker, walk, walk_refs};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write;

/// What the walk found.
#[derive(Default)]
pub(super) struct Trees {
    /// Snapshots that were walked.
    pub(super) walked: u64,
    /// Those that do not restore wholly, and what of them does not.
    pub(super) hit: Vec<(SessionId, String)>,
    /// What is lost with each pack, by its name.
    pub(super) packs: HashMap<String, Hit>,
}

/// Walks the trees of all snapshots, with nothing read from packs that are known to be bad.
///
/// # Errors
/// What the store says; damage is in the result.
pub(super) async fn walk_snapshots(
    context: &Context,
    repository: &Repository,
    view: &View,
    bad_packs: &[ObjectId],
) -> Result<Trees> {
    let blobs = repository.reader_of_store(context, view);
    blobs.avoid(bad_packs)?;
    let mut marks = Marks::new(context, &blobs);
    let mut trees = walk_all(context, view, &blobs, &mut marks).await?;
    if !trees.hit.is_empty() {
        // What snapshots share was visited once, for the first of them: what is hit there is visited again for each.
        marks.only_hit = true;
        marks.packs.clear();
        trees = walk_all(context, view, &blobs, &mut marks).await?;
    }
    let by_name = marks.packs.into_iter();
    trees.packs = by_name
        .map(|(pack, hit)| (ObjectName::Pack(pack).to_string(), hit))
        .collect();
    Ok(trees)
}

async fn walk_all(context: &Context, view: &View, blobs: &BlobReader, marks: &mut Marks) -> Result<Trees> {
    let mut trees = Trees::default();
    for record in view.snapshots() {
        context.check_cancelled()?;
        marks.begin(record.sid);
        let reader = SnapshotReader::new(record.clone(), blobs.clone(), context.budget.total());
        walk(reader.tree().source().as_ref(), &record.root, marks).await?;
        if let Some((level, refs)) = &record.incident_list {
            marks.begin_incidents();
            walk_refs(reader.tree().source().as_ref(), (*level, refs), marks).await?;
        }
        trees.walked += 1;
        trees.hit.extend(marks.describe().map(|what| (record.sid, what)));
    }
    Ok(trees)
}

/// What was seen of the trees, and what of one snapshot cannot be read.
struct Marks {
    context: Context,
    blobs: BlobReader,
    /// Nodes that were visited.
    seen: HashSet<BlobId>,
    /// Those of them below which something is lost.
    lossy: HashSet<BlobId>,
    /// Visit nodes again, but only those below which something is lost.
    only_hit: bool,
    /// The nodes that are being visited, and whether something below them is lost.
    path: Vec<(BlobId, bool)>,
    packs: HashMap<ObjectId, Hit>,
    // Of the snapshot that is walked.
    sid: Option<SessionId>,
    blamed: BTreeSet<ObjectId>,
    entry: Option<Key>,
    is_counted: bool,
    /// The list of references that is being read.
    list: Option<BlobId>,
    named: Hit,
    is_hit: bool,
    entries_hit: u64,
    nodes_hit: u64,
}

impl Marks {
    fn new(context: &Context, blobs: &BlobReader) -> Self {
        Self {
            context: context.clone(),
            blobs: blobs.clone(),
            seen: HashSet::new(),
            lossy: HashSet::new(),
            only_hit: false,
            path: Vec::new(),
            packs: HashMap::new(),
            sid: None,
            blamed: BTreeSet::new(),
            entry: None,
            is_counted: false,
            list: None,
            named: Hit::default(),
            is_hit: false,
            entries_hit: 0,
            nodes_hit: 0,
        }
    }

    fn begin(&mut self, sid: SessionId) {
        self.path.clear();
        self.sid = Some(sid);
        self.blamed.clear();
        self.entry = None;
        self.named = Hit::default();
        self.is_hit = false;
        self.entries_hit = 0;
        self.nodes_hit = 0;
    }

    /// Something of this snapshot, below the node that is visited, is lost.
    fn hit(&mut self) {
        self.is_hit = true;
        if let Some((_, lossy)) = self.path.last_mut() {
            *lossy = true;
        }
    }

    /// What is lost is lost because of these packs.
    fn blame(&mut self, blob: &BlobId, path: Option<&str>) {
        let Some(sid) = self.sid else { return };
        for pack in self.blobs.blame(blob) {
            let hit = self.packs.entry(pack).or_default();
            if self.blamed.insert(pack) {
                hit.add_snapshot(&sid.name());
            }
            if let Some(path) = path {
                hit.add_path(path);
            }
        }
    }

    /// The entry that was told last lacks a blob; counted once.
    fn hit_entry(&mut self, blob: &BlobId) {
        self.hit();
        let Some(key) = &self.entry else { return };
        // Rows are told by their table.
        let name = match key::parse(key) {
            Some((database, Place::Segment(table, _))) => name_of(&key::key(&database, &Place::Table(table))),
            _ => name_of(key),
        };
        self.blame(blob, Some(&name));
        if !self.is_counted {
            self.is_counted = true;
            self.entries_hit += 1;
            self.named.add_path(&name);
        }
    }

    /// What follows is the list of what could not be read when the snapshot was made.
    fn begin_incidents(&mut self) {
        self.is_counted = false;
        self.list = None;
        self.entry = Some("(the list of incidents)".into());
    }

    fn describe(&self) -> Option<String> {
        if !self.is_hit {
            return None;
        }
        let mut text = String::from("does not restore wholly:");
        if self.nodes_hit > 0 {
            let hit = self.nodes_hit;
            let _ = write!(
                text,
                " {hit} parts of its tree cannot be read, with all entries below them;"
            );
        }
        if self.entries_hit > 0 {
            let (hit, named) = (self.entries_hit, self.named.paths.join(", "));
            let _ = write!(text, " the content of {hit} entries is lost: {named}");
        }
        if self.named.more_paths {
            text.push_str(" and others");
        }
        Some(text)
    }
}

impl Marker for Marks {
    fn node(&mut self, id: BlobId, _: u8, _: Totals) -> bool {
        if self.only_hit {
            return self.lossy.contains(&id);
        }
        let is_new = self.seen.insert(id);
        if !is_new && self.lossy.contains(&id) {
            self.hit();
        }
        is_new
    }

    fn enter(&mut self, id: BlobId) {
        self.list = None;
        self.path.push((id, false));
    }

    fn leave(&mut self) {
        if let Some((id, true)) = self.path.pop() {
            self.lossy.insert(id);
            self.hit();
        }
    }

    fn list(&mut self, list: &BlobRef) -> bool {
        // Not remembered: a list that is lost hits every entry that names it.
        if !self.blobs.has(&list.id) {
            self.hit_entry(&list.id);
            return false;
        }
        self.list = Some(list.id);
        true
    }

    fn data(&mut self, chunk: &BlobRef) {
        if !self.blobs.has(&chunk.id) {
            self.hit_entry(&chunk.id);
        }
    }

    fn entry(&mut self, entry: &EntryRecord) {
        self.entry = Some(entry.key.clone());
        self.is_counted = false;
        self.list = None;
        self.context.emit(&crate::event::Event::Progress { bytes: 0 });
    }

    fn failed(&mut self, error: Error) -> Result<()> {
        if !is_damage(error.kind()) {
            return Err(error);
        }
        if let Some(list) = self.list {
            self.hit_entry(&list);
        } else {
            self.hit();
            self.nodes_hit += 1;
            if let Some((node, _)) = self.path.last().copied() {
                self.blame(&node, None);
            }
        }
        Ok(())
    }
}
