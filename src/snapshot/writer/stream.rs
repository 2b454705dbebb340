//! Long contents: cut window by window while the next one is read.

use super::{Before, SnapshotWriter, describe, needs_whole, record};
use crate::context::Reservation;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::entry::BlobRef;
use crate::format::id::BlobId;
use crate::snapshot::content::{Named, cut_windows};
use crate::snapshot::deltas as delta;
use crate::snapshot::entry::{Content, EntryHead, Incident, Piece};
use crate::snapshot::tree::ContentWriter;
use futures::{FutureExt, StreamExt};

/// What is gathered of a long content.
struct Gathered {
    refs: ContentWriter,
    held: Reservation,
    /// The parent's content, if deltas are wanted.
    before: Option<delta::Before>,
}

impl SnapshotWriter {
    /// Reads a long content. If it fails, the entry is an incident, and the chunks that were stored are there for the next run.
    pub(super) async fn add_stream(
        &mut self,
        head: EntryHead,
        content: Content,
        before: Before,
    ) -> Result<()> {
        let mut pieces = match content.open().await {
            Ok(pieces) => pieces,
            Err(error) => {
                return self.add_unread(head, &error).await;
            }
        };
        let deltas = self.deltas.as_ref();
        let mut gathered = Gathered {
            refs: ContentWriter::new(),
            held: Reservation::none(),
            before: deltas.and_then(|deltas| Some(deltas.before(before.as_deref()?))),
        };
        let mut cutter = cut_windows(self.chunker.clone(), self.namer.clone(), self.context.clone());
        let mut len = 0u64;
        loop {
            let piece = match self.wait(pieces.next().boxed()).await? {
                None => break,
                Some(Ok(piece)) => piece,
                Some(Err(error)) => {
                    return self.add_unread(head, &error).await;
                }
            };
            self.context.check_cancelled()?;
            let bytes = match &piece {
                Piece::Data(bytes) => bytes.len() as u64,
                Piece::Hole(bytes) => *bytes,
            };
            len = len
                .checked_add(bytes)
                .ok_or_else(|| Error::new(ErrorKind::Unsupported, "content over 2^64 bytes"))?;
            self.context.emit(&Event::Progress { bytes });
            match piece {
                Piece::Data(bytes) => {
                    let held = self.context.budget.reserve(bytes.len() as u64).await;
                    gathered.held.merge(held);
                    self.gather(cutter.data(bytes).await?, &mut gathered).await?;
                }
                Piece::Hole(bytes) => {
                    self.gather(cutter.hole(bytes).await?, &mut gathered).await?;
                    if let Some(before) = &mut gathered.before {
                        before.skip(bytes);
                    }
                    if bytes > 0 {
                        let id = BlobId::HOLE;
                        let hole = BlobRef { id, len: bytes };
                        gathered.refs.push(hole, self.tree.sink_mut()).await?;
                    }
                }
            }
            self.tree.sink_mut().blobs.heartbeat().await?;
        }
        self.statistics.bytes_read += len;
        let (last, whole) = cutter.finish().await?;
        self.gather(last, &mut gathered).await?;
        let content = gathered.refs.finish(self.tree.sink_mut()).await?;
        let whole = if needs_whole(&content) { Some(whole) } else { None };
        self.settle(&record(head, content, Some(len), whole), before)
            .await
    }

    async fn add_unread(&mut self, head: EntryHead, error: &Error) -> Result<()> {
        let why = describe(error);
        self.add_incident(&Incident { key: head.key, why }).await
    }

    /// Puts the next chunks.
    async fn gather(&mut self, mut chunks: Vec<Named>, gathered: &mut Gathered) -> Result<()> {
        if let (Some(deltas), Some(before)) = (self.deltas.clone(), &mut gathered.before) {
            let make = async {
                let wanted = deltas.plan(&chunks, before).await;
                deltas.make(wanted).await
            };
            for (number, delta) in self.wait(make.boxed()).await? {
                before.learn(delta.is_some());
                if let Some(chunk) = chunks.get_mut(number) {
                    chunk.delta = delta;
                }
            }
        }
        for chunk in chunks {
            self.put_chunk(chunk, &mut gathered.refs, &mut gathered.held)
                .await?;
        }
        Ok(())
    }
}
