//! What the writers of a world read: a few small files that change a little.

use super::dice::Dice;
use crate::connector::{Origin, Source};
use crate::context::Context;
use crate::error::Result;
use crate::snapshot::SnapshotReader;
use crate::snapshot::entry::{
    Content, Entry, EntryHead, EntryKind, Item, Key, Metadata, Piece, Prior, PriorEntry,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Contents by name.
pub(super) type Files = BTreeMap<String, Bytes>;

/// The state of what a project holds: which version of which file.
#[derive(Clone, Debug)]
pub(super) struct Project {
    number: u64,
    versions: BTreeMap<u64, u64>,
    len: u64,
}

impl Project {
    pub(super) fn new(number: u64, files: u64, len: u64) -> Self {
        Self {
            number,
            versions: (0..files).map(|file| (file, 0)).collect(),
            len,
        }
    }

    /// Changes a little: some files go on to another version, or back to one that there was.
    pub(super) fn change(&mut self, dice: &mut Dice) {
        for version in self.versions.values_mut() {
            match dice.below(10) {
                0..=3 => *version += 1,
                4..=5 => *version = dice.below(*version + 1),
                _ => {}
            }
        }
    }

    /// Makes a file this version of itself.
    pub(super) fn set(&mut self, file: u64, version: u64) {
        self.versions.insert(file, version);
    }

    /// Removes a file.
    pub(super) fn unset(&mut self, file: u64) {
        self.versions.remove(&file);
    }

    pub(super) fn files(&self) -> Files {
        let files = self.versions.iter();
        let files = files.map(|(file, version)| (format!("{file:02}"), self.content(*file, *version)));
        files.collect()
    }

    /// File 0 is the same in all projects. A version differs from the one before in a few bytes.
    fn content(&self, file: u64, version: u64) -> Bytes {
        let project = if file == 0 { 0 } else { self.number };
        let mut dice = Dice::new(project << 32 | file);
        let len = usize::try_from(self.len + dice.below(self.len)).unwrap_or(1000);
        let mut bytes = vec![0u8; len];
        for byte in &mut bytes {
            *byte = u8::try_from(dice.below(256)).unwrap_or_default();
        }
        for step in 1..=version {
            let mut dice = Dice::new(project << 40 | (file + 1) << 20 | step);
            let at = dice.index(len - 16);
            for byte in bytes.iter_mut().skip(at).take(12) {
                *byte = u8::try_from(dice.below(256)).unwrap_or_default();
            }
        }
        bytes.into()
    }
}

/// Yields the files of a project.
pub(super) struct Reading {
    pub(super) files: Arc<Files>,
    /// What the snapshots are of.
    pub(super) what: String,
    /// How long each file takes, in milliseconds.
    pub(super) pause: u64,
}

impl Reading {
    fn item(name: &str, bytes: &Bytes, prior: &BTreeMap<Key, PriorEntry>) -> Item {
        let key = Key::from(name);
        let state = Bytes::copy_from_slice(blake3::hash(bytes).as_bytes());
        if let Some(prior) = prior.get(&key)
            && *prior.state() == state
        {
            return Item::Unchanged(prior.clone());
        }
        let head = EntryHead {
            key,
            kind: EntryKind::File,
            metadata: Metadata::default(),
            state,
            size: Some(bytes.len() as u64),
        };
        let content = Content::Bytes(bytes.clone());
        Item::Entry(Entry { head, content })
    }
}

impl Source for Reading {
    fn origin(&self) -> Origin {
        Origin {
            connector: "files".into(),
            description: self.what.clone(),
            version: None,
        }
    }

    fn entries<'a>(&'a mut self, _: &'a Context, prior: Arc<dyn Prior>) -> BoxStream<'a, Result<Item>> {
        let this = &*self;
        let items = async move {
            let mut known = BTreeMap::new();
            let mut entries = prior.entries(Key::from(""));
            // As real sources do: where the parent cannot be read, the rest is read in full.
            while let Some(Ok(entry)) = entries.next().await {
                known.insert(entry.key().clone(), entry);
            }
            stream::iter(this.files.iter()).then(move |(name, bytes)| {
                let item = Self::item(name, bytes, &known);
                async move {
                    if this.pause > 0 {
                        tokio::time::sleep(Duration::from_millis(this.pause)).await;
                    }
                    Ok(item)
                }
            })
        };
        stream::once(items).flatten().boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// All contents of a snapshot; `pause` comes before each.
pub(super) async fn read_all(snapshot: &SnapshotReader, pause: u64) -> Result<Files> {
    let mut found = Files::new();
    let mut entries = snapshot.entries(Key::from(""), |_| true);
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        if pause > 0 {
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        let mut bytes = Vec::new();
        let mut pieces = entry.content.open().await?;
        while let Some(piece) = pieces.next().await {
            match piece? {
                Piece::Data(data) => bytes.extend_from_slice(&data),
                Piece::Hole(len) => {
                    let len = usize::try_from(len).unwrap_or_default();
                    bytes.resize(bytes.len() + len, 0);
                }
            }
        }
        found.insert(entry.head.key.to_string(), bytes.into());
    }
    Ok(found)
}
