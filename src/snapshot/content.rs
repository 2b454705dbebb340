//! Content into named chunks, on the CPU pool.

use crate::chunk::Chunker;
use crate::context::Context;
use crate::error::Result;
use crate::format::id::BlobId;
use crate::format::index::BlobKind;
use crate::format::limits;
use crate::repository::BlobNamer;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;

/// Bytes of a long content that are cut at once.
const WINDOW: usize = 4 << 20;

/// A chunk with its name.
pub(super) struct Named {
    pub(super) id: BlobId,
    pub(super) bytes: Bytes,
}

/// A small content, cut.
pub(super) struct ChunkedContent {
    pub(super) named: Vec<Named>,
    /// The content itself, if it is short enough for its entry.
    pub(super) inline: Option<Bytes>,
    pub(super) whole: Option<[u8; 32]>,
    pub(super) len: u64,
}

/// Cuts a content that is in hand.
pub(super) fn cut_and_name(chunker: &Chunker, namer: &BlobNamer, content: &Bytes) -> ChunkedContent {
    let len = content.len() as u64;
    if content.is_empty() {
        return ChunkedContent {
            named: Vec::new(),
            inline: None,
            whole: None,
            len,
        };
    }
    if content.len() <= limits::INLINE_MAX {
        // A copy, so that a few bytes do not keep a large buffer.
        let inline = Some(Bytes::copy_from_slice(content));
        return ChunkedContent {
            named: Vec::new(),
            inline,
            whole: None,
            len,
        };
    }
    let mut named = Vec::new();
    let mut rest = content.clone();
    while let Some(cut) = chunker.next_cut(&rest, true) {
        let bytes = rest.split_to(cut);
        named.push(Named {
            id: namer.name(BlobKind::Data, &bytes),
            bytes,
        });
    }
    let whole = if named.len() > 1 {
        Some(*blake3::hash(content).as_bytes())
    } else {
        None
    };
    ChunkedContent {
        named,
        inline: None,
        whole,
        len,
    }
}

/// Cuts a long content as it comes.
pub(super) struct Cutter {
    chunker: Arc<Chunker>,
    namer: BlobNamer,
    context: Context,
    window: BytesMut,
    whole: Box<blake3::Hasher>,
}

/// A cutter at the start of a content.
pub(super) fn cut_windows(chunker: Arc<Chunker>, namer: BlobNamer, context: Context) -> Cutter {
    Cutter {
        chunker,
        namer,
        context,
        window: BytesMut::new(),
        whole: Box::default(),
    }
}

impl Cutter {
    /// Takes more bytes; gives the chunks that are certain.
    pub(super) async fn data(&mut self, bytes: Bytes) -> Result<Vec<Named>> {
        if self.window.capacity() == 0 {
            self.window.reserve(WINDOW + limits::BLOB_MAX / 8);
        }
        self.window.extend_from_slice(&bytes);
        if self.window.len() < WINDOW {
            Ok(Vec::new())
        } else {
            self.cut(false).await
        }
    }

    /// A hole ends the current chunk; its zero bytes count in the whole hash.
    pub(super) async fn hole(&mut self, len: u64) -> Result<Vec<Named>> {
        let chunks = self.cut(true).await?;
        let mut whole = std::mem::take(&mut self.whole);
        self.whole = self
            .context
            .cpu
            .run(move || {
                let zeros = vec![0; 1 << 20];
                let mut left = len;
                while left > 0 {
                    let part = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
                    whole.update(zeros.get(..part).unwrap_or_default());
                    left -= part as u64;
                }
                whole
            })
            .await?;
        Ok(chunks)
    }

    /// Ends the content: its last chunks, and the hash of all of it.
    pub(super) async fn finish(mut self) -> Result<(Vec<Named>, [u8; 32])> {
        let chunks = self.cut(true).await?;
        Ok((chunks, *self.whole.finalize().as_bytes()))
    }

    async fn cut(&mut self, end: bool) -> Result<Vec<Named>> {
        let mut window = std::mem::take(&mut self.window).freeze();
        let (chunker, namer) = (self.chunker.clone(), self.namer.clone());
        let mut whole = std::mem::take(&mut self.whole);
        let work = move || {
            let mut chunks = Vec::new();
            while let Some(cut) = chunker.next_cut(&window, end) {
                let bytes = window.split_to(cut);
                whole.update(&bytes);
                chunks.push(Named {
                    id: namer.name(BlobKind::Data, &bytes),
                    bytes,
                });
            }
            let mut rest = BytesMut::with_capacity(if end { 0 } else { WINDOW + window.len() });
            rest.extend_from_slice(&window);
            (chunks, rest, whole)
        };
        let (chunks, rest, whole) = self.context.cpu.run(work).await?;
        (self.window, self.whole) = (rest, whole);
        Ok(chunks)
    }
}
