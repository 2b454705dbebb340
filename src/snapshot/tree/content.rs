//! Content with many references: lists of references, and lists of those.

use super::load::load_list;
use super::{NodeSink, NodeSource};
use crate::error::{Error, ErrorKind, Result};
use crate::format::entry::{BlobRef, ContentRecord, EntryRecord, encode_list, sum};
use crate::format::limits;
use futures::stream::{self, BoxStream, StreamExt};
use std::collections::VecDeque;
use std::sync::Arc;

/// Collects the references of one entry's content. Memory: one open list for each level.
#[derive(Default)]
pub struct ContentWriter {
    levels: Vec<Level>,
}

#[derive(Default)]
struct Level {
    /// All references of the level while they fit the entry; once they do not, those of the open list.
    refs: Vec<BlobRef>,
    in_lists: bool,
}

impl ContentWriter {
    /// No content.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next reference; lists that are full go to `sink`.
    ///
    /// # Errors
    /// `Unsupported` for more levels than the format has; what the sink says.
    pub async fn push(&mut self, reference: BlobRef, sink: &mut dyn NodeSink) -> Result<()> {
        self.push_at(0, reference, sink).await
    }

    async fn push_at(&mut self, level: usize, reference: BlobRef, sink: &mut dyn NodeSink) -> Result<()> {
        // First in, first out: the references of each level stay in order.
        let mut queue = VecDeque::from([(level, reference)]);
        while let Some((level, reference)) = queue.pop_front() {
            if self.levels.len() <= level {
                self.levels.resize_with(level + 1, Level::default);
            }
            let Some(open) = self.levels.get_mut(level) else {
                continue;
            };
            if !open.in_lists && open.refs.len() == limits::REFS_INLINE_MAX {
                open.in_lists = true;
                let again = std::mem::take(&mut open.refs);
                queue.push_front((level, reference));
                again.into_iter().rev().for_each(|r| queue.push_front((level, r)));
                continue;
            }
            open.refs.push(reference);
            if open.in_lists && (reference.ends_list() || open.refs.len() == limits::LIST_MAX) {
                let full = std::mem::take(&mut open.refs);
                queue.push_back((level + 1, put(level, &full, sink).await?));
            }
        }
        Ok(())
    }

    /// Ends the content.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub async fn finish(mut self, sink: &mut dyn NodeSink) -> Result<ContentRecord> {
        let mut level = 0;
        while let Some(open) = self.levels.get_mut(level) {
            let refs = std::mem::take(&mut open.refs);
            if !open.in_lists {
                let level = u8::try_from(level).unwrap_or(u8::MAX);
                return Ok(ContentRecord::Refs { level, refs });
            }
            if !refs.is_empty() {
                let list = put(level, &refs, sink).await?;
                self.push_at(level + 1, list, sink).await?;
            }
            level += 1;
        }
        Ok(ContentRecord::None)
    }
}

async fn put(level: usize, refs: &[BlobRef], sink: &mut dyn NodeSink) -> Result<BlobRef> {
    let over = || Error::new(ErrorKind::Unsupported, "content is over the limits of the format");
    let level = u8::try_from(level)
        .ok()
        .filter(|l| *l < limits::LIST_DEPTH_MAX)
        .ok_or_else(over)?;
    let len = sum(refs).map_err(|why| over().because(why))?;
    let id = sink.put_list(encode_list(level, refs)).await?;
    Ok(BlobRef { id, len })
}

/// The references to an entry's chunks and holes, in order, all lists read. Memory: one list for each level. The first error
/// ends the stream: `Damaged` for a list that is not what is said of it, and what the source says.
pub fn content_refs(source: Arc<dyn NodeSource>, entry: &EntryRecord) -> BoxStream<'static, Result<BlobRef>> {
    let ContentRecord::Refs { level, refs } = &entry.content else {
        return stream::empty().boxed();
    };
    let path = vec![(*level, VecDeque::from(refs.clone()))];
    stream::try_unfold((source, path), |(source, mut path)| async move {
        while let Some((level, refs)) = path.last_mut() {
            let level = *level;
            match (refs.pop_front(), level.checked_sub(1)) {
                (None, _) => drop(path.pop()),
                (Some(reference), None) => return Ok(Some((reference, (source, path)))),
                (Some(list), Some(below)) => {
                    path.push((below, load_list(&*source, &list, below).await?.into()));
                }
            }
        }
        Ok(None)
    })
    .boxed()
}
