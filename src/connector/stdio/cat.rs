//! Writes content to where a user wants it, standard output most of all.

use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::entry::{Content, Piece};
use futures::StreamExt;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Writes all of `content` to `out`, holes as zeros, and flushes it; gives the number of bytes.
///
/// # Errors
/// Those of the content; `Source` if `out` takes no more, with the `io::Error` as its cause.
pub async fn write_content(content: Content, out: &mut (impl AsyncWrite + Unpin)) -> Result<u64> {
    const ZEROS: [u8; 16 << 10] = [0; 16 << 10];
    let failed = |error: std::io::Error| Error::new(ErrorKind::Source, "cannot write content").because(error);
    let mut stream = content.open().await?;
    let mut written = 0;
    while let Some(piece) = stream.next().await {
        match piece? {
            Piece::Data(bytes) => {
                out.write_all(&bytes).await.map_err(failed)?;
                written += bytes.len() as u64;
            }
            Piece::Hole(len) => {
                let mut left = len;
                while left > 0 {
                    let zeros = ZEROS
                        .get(..usize::try_from(left).unwrap_or(ZEROS.len()))
                        .unwrap_or(&ZEROS);
                    out.write_all(zeros).await.map_err(failed)?;
                    left -= zeros.len() as u64;
                }
                written += len;
            }
        }
    }
    out.flush().await.map_err(failed)?;
    Ok(written)
}
