//! Long contents: cut window by window while the next one is read.

use super::{Before, SnapshotWriter, describe, needs_whole, record};
use crate::context::Reservation;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::entry::BlobRef;
use crate::format::id::BlobId;
use crate::snapshot::content::{Named, cut_windows};
use crate::snapshot::deltas as delta;
use crate::snapshot::entry::{Content, EntryHead, Incident, Key, Piece};
use crate::snapshot::tree::ContentWriter;
use futures::StreamExt;

/// What is gathered of a long content.
struct Gathered {
    refs: ContentWriter,
    held: Reservation,
    /// The parent's content, if deltas are wanted: by place, and by what it holds.
    before: Option<(delta::Before, delta::Similar)>,
    key: Key,
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
            before: deltas
                .zip(before.as_deref())
                .map(|(deltas, before)| (deltas.before(before), deltas.similar(before))),
            key: head.key.clone(),
        };
        let mut cutter = cut_windows(self.chunker.clone(), self.namer.clone(), self.context.clone());
        let mut len = 0u64;
        loop {
            let piece = match self.alive_during(pieces.next()).await? {
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
                    let (budget, len) = (self.context.budget.clone(), bytes.len() as u64);
                    let held = self
                        .alive_during(async move { budget.reserve(len).await })
                        .await?;
                    gathered.held.merge(held);
                    self.gather(cutter.data(bytes).await?, &mut gathered).await?;
                }
                Piece::Hole(bytes) => {
                    self.gather(cutter.hole(bytes).await?, &mut gathered).await?;
                    if let Some((before, _)) = &mut gathered.before {
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
        let (key, before) = (&gathered.key, &mut gathered.before);
        if let (Some(deltas), Some((before, similar))) = (self.deltas.clone(), before) {
            let make = async {
                let wanted = deltas.plan((0, &chunks), Some(before), true).await;
                let compared = deltas.compare(wanted, true).await;
                deltas.search(compared, similar, key).await
            };
            for made in self.alive_during(make).await? {
                before.take_note(&made);
                if let Some(chunk) = chunks.get_mut(made.chunk.1) {
                    chunk.delta = made.delta;
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
