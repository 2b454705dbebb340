//! Content into named chunks, on the CPU pool.

use crate::chunk::Chunker;
use crate::context::Context;
use crate::error::Result;
use crate::format::id::BlobId;
use crate::format::index::BlobKind;
use crate::format::limits;
use crate::repository::{BlobNamer, Delta};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;

/// Bytes of a long content that are cut at once.
const WINDOW: usize = 4 << 20;
/// Zero bytes of a hole that are hashed before anybody is asked whether to go on.
const ZEROS_AT_ONCE: u64 = 64 << 20;

/// A chunk with its name.
pub(super) struct Named {
    pub(super) id: BlobId,
    pub(super) bytes: Bytes,
    /// How it is stored, if not whole.
    pub(super) delta: Option<Delta>,
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
            delta: None,
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

/// Cuts a long content as it comes. Three windows are in work at once: one is cut, the chunks of the one before are named, and
/// those of the one before that are stored by the caller.
pub(super) struct Cutter {
    chunker: Arc<Chunker>,
    namer: BlobNamer,
    context: Context,
    /// Not yet given to a cut.
    pieces: Vec<Bytes>,
    pieces_len: usize,
    cutting: Option<BoxFuture<'static, Result<Cut>>>,
    naming: Option<BoxFuture<'static, Result<Naming>>>,
    /// The hash of all chunks that are named; away while a window is.
    whole: Option<Box<blake3::Hasher>>,
}

/// The named chunks of a window, and the hash of the content so far.
type Naming = (Vec<Named>, Box<blake3::Hasher>);

/// A window that is cut: its chunks, and what is left for the next one.
struct Cut {
    chunks: Vec<Bytes>,
    rest: Bytes,
}

/// A cutter at the start of a content.
pub(super) fn cut_windows(chunker: Arc<Chunker>, namer: BlobNamer, context: Context) -> Cutter {
    Cutter {
        chunker,
        namer,
        context,
        pieces: Vec::new(),
        pieces_len: 0,
        cutting: None,
        naming: None,
        whole: Some(Box::default()),
    }
}

impl Cutter {
    /// Takes more bytes; gives chunks that are ready, in order.
    pub(super) async fn data(&mut self, bytes: Bytes) -> Result<Vec<Named>> {
        self.pieces_len += bytes.len();
        self.pieces.push(bytes);
        if self.pieces_len < WINDOW {
            Ok(Vec::new())
        } else {
            self.turn(false).await
        }
    }

    /// A hole ends the current chunk; its zero bytes count in the whole hash.
    pub(super) async fn hole(&mut self, len: u64) -> Result<Vec<Named>> {
        let chunks = self.flush().await?;
        let whole = self.whole.take().unwrap_or_default();
        self.whole = Some(hash_zeros(&self.context, whole, len).await?);
        Ok(chunks)
    }

    /// Ends the content: its last chunks, and the hash of all of it.
    pub(super) async fn finish(mut self) -> Result<(Vec<Named>, [u8; 32])> {
        let chunks = self.flush().await?;
        Ok((chunks, *self.whole.unwrap_or_default().finalize().as_bytes()))
    }

    /// Cuts everything to the end and waits for it.
    async fn flush(&mut self) -> Result<Vec<Named>> {
        let mut chunks = self.turn(true).await?;
        // One turn names what was cut, the next one gives it.
        for _ in 0..2 {
            chunks.extend(self.turn(true).await?);
        }
        Ok(chunks)
    }

    /// Moves every window on by one stage.
    async fn turn(&mut self, end: bool) -> Result<Vec<Named>> {
        let Cut { chunks, rest } = match self.cutting.take() {
            Some(cutting) => cutting.await?,
            None => Cut {
                chunks: Vec::new(),
                rest: Bytes::new(),
            },
        };
        let pieces = std::mem::take(&mut self.pieces);
        self.pieces_len = 0;
        if !(pieces.is_empty() && rest.is_empty()) {
            let chunker = self.chunker.clone();
            self.cutting = Some(
                self.context
                    .cpu
                    .run(move || cut(&chunker, rest, &pieces, end))
                    .boxed(),
            );
        }
        let named = match self.naming.take() {
            Some(naming) => {
                let (named, whole) = naming.await?;
                self.whole = Some(whole);
                named
            }
            None => Vec::new(),
        };
        if !chunks.is_empty() {
            let (namer, mut whole) = (self.namer.clone(), self.whole.take().unwrap_or_default());
            let name = move || {
                let name = |bytes: Bytes| {
                    whole.update(&bytes);
                    Named {
                        id: namer.name(BlobKind::Data, &bytes),
                        bytes,
                        delta: None,
                    }
                };
                (chunks.into_iter().map(name).collect(), whole)
            };
            self.naming = Some(self.context.cpu.run(name).boxed());
        }
        Ok(named)
    }
}

/// Hashes `len` zero bytes on the CPU pool, a part at a time: a hole may be larger than anybody wants to wait for.
///
/// # Errors
/// `Cancelled`.
pub(super) async fn hash_zeros(
    context: &Context,
    mut hasher: Box<blake3::Hasher>,
    mut len: u64,
) -> Result<Box<blake3::Hasher>> {
    while len > 0 {
        context.check_cancelled()?;
        let part = len.min(ZEROS_AT_ONCE);
        let hash = move || {
            let zeros = [0; 16 << 10];
            let mut left = part;
            while left > 0 {
                let piece = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
                hasher.update(zeros.get(..piece).unwrap_or_default());
                left -= piece as u64;
            }
            hasher
        };
        hasher = context.cpu.run(hash).await?;
        len -= part;
    }
    Ok(hasher)
}

fn cut(chunker: &Chunker, rest: Bytes, pieces: &[Bytes], end: bool) -> Cut {
    let mut window = if pieces.is_empty() {
        rest
    } else {
        let mut joined = Vec::with_capacity(rest.len() + pieces.iter().map(Bytes::len).sum::<usize>());
        joined.extend_from_slice(&rest);
        for piece in pieces {
            joined.extend_from_slice(piece);
        }
        joined.into()
    };
    let mut chunks = Vec::new();
    while let Some(cut) = chunker.next_cut(&window, end) {
        chunks.push(window.split_to(cut));
    }
    Cut { chunks, rest: window }
}
