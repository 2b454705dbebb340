//! Long messages of COPY, handed on in pieces: one message is one row of up to 1 GiB, and the client holds every message whole.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

/// Bytes of data that one message has at most.
const PIECE: u32 = 64 << 10;
/// Bytes that are read at once.
const READ: usize = 64 << 10;
/// Bytes before the body of a message: its kind, and the length of the body and itself.
const HEADER: usize = 5;

/// A stream from a server whose messages of COPY are cut.
pub(super) struct Pieces<S> {
    stream: S,
    at: At,
    read: Vec<u8>,
    from: usize,
    to: usize,
    /// A header that is handed on, and how much of it was.
    header: [u8; HEADER],
    shown: usize,
}

/// Where in the conversation the stream stands.
#[derive(Clone, Copy)]
pub(super) enum At {
    /// Nothing is looked at: it is encrypted.
    Sealed,
    /// Before the one byte that says whether the server takes up TLS.
    Answer,
    /// In the header of a message, of which so many bytes have come.
    Header(usize),
    /// In the body of a message, with so many bytes to come.
    Body(u32),
    /// In the body of a long message of COPY: bytes to come of the piece, and behind it.
    Long(u32, u32),
}

impl<S> Pieces<S> {
    pub(super) fn new(stream: S, at: At) -> Self {
        Self {
            stream,
            at,
            read: if matches!(at, At::Sealed) {
                Vec::new()
            } else {
                vec![0; READ]
            },
            from: 0,
            to: 0,
            header: [0; HEADER],
            shown: HEADER,
        }
    }

    /// Hands on what it can of what was read. Gives whether it needs more.
    fn hand_on(&mut self, out: &mut ReadBuf<'_>) -> bool {
        loop {
            let left = self.header.get(self.shown..).unwrap_or_default();
            let count = left.len().min(out.remaining());
            out.put_slice(left.get(..count).unwrap_or_default());
            self.shown += count;
            if out.remaining() == 0 {
                return false;
            }
            if self.from == self.to {
                return true;
            }
            match self.at {
                At::Sealed => {
                    self.pass(u32::MAX, out);
                }
                At::Answer => {
                    let yes = self.read.get(self.from) == Some(&b'S');
                    self.pass(1, out);
                    self.at = if yes { At::Sealed } else { At::Header(0) };
                }
                At::Header(come) => self.gather(come),
                At::Body(0) | At::Long(0, 0) => self.at = At::Header(0),
                At::Body(left) => self.at = At::Body(left - self.pass(left, out)),
                At::Long(0, behind) => self.begin_piece(behind),
                At::Long(left, behind) => self.at = At::Long(left - self.pass(left, out), behind),
            }
        }
    }

    /// Hands on at most so many bytes as they are.
    fn pass(&mut self, most: u32, out: &mut ReadBuf<'_>) -> u32 {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let count = most.min(self.to - self.from).min(out.remaining());
        out.put_slice(self.read.get(self.from..self.from + count).unwrap_or_default());
        self.from += count;
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Takes the next byte of a header.
    fn gather(&mut self, come: usize) {
        if let (Some(slot), Some(byte)) = (self.header.get_mut(come), self.read.get(self.from)) {
            *slot = *byte;
        }
        self.from += 1;
        self.at = At::Header(come + 1);
        if come + 1 < HEADER {
            return;
        }
        let [kind, length @ ..] = self.header;
        match u32::from_be_bytes(length).checked_sub(4) {
            Some(body) if kind == b'd' && body > PIECE => self.begin_piece(body),
            Some(body) => (self.at, self.shown) = (At::Body(body), 0),
            // No message is that short: the client will say so.
            None => (self.at, self.shown) = (At::Sealed, 0),
        }
    }

    /// Begins the next message for what is left of a long one.
    fn begin_piece(&mut self, left: u32) {
        let piece = left.min(PIECE);
        let [a, b, c, d] = (piece + 4).to_be_bytes();
        self.header = [b'd', a, b, c, d];
        self.shown = 0;
        self.at = At::Long(piece, left - piece);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Pieces<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        if matches!(this.at, At::Sealed) && this.from == this.to && this.shown == HEADER {
            return Pin::new(&mut this.stream).poll_read(context, out);
        }
        let before = out.filled().len();
        while this.hand_on(out) {
            if out.filled().len() > before {
                break;
            }
            let mut buffer = ReadBuf::new(&mut this.read);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut buffer))?;
            (this.from, this.to) = (0, buffer.filled().len());
            if this.to == 0 {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Pieces<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S: TlsStream + Unpin> TlsStream for Pieces<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], &length[..], body].concat()
    }

    async fn through(at: At, stream: Vec<u8>, step: usize) -> Vec<u8> {
        let mut pieces = Pieces::new(std::io::Cursor::new(stream), at);
        let (mut out, mut buffer) = (Vec::new(), vec![0; step]);
        loop {
            let count = pieces.read(&mut buffer).await.unwrap();
            if count == 0 {
                return out;
            }
            out.extend_from_slice(&buffer[..count]);
        }
    }

    /// Messages as they stand in a stream.
    fn messages(mut stream: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut found = Vec::new();
        while let [kind, a, b, c, d, rest @ ..] = stream {
            let (body, behind) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize - 4);
            found.push((*kind, body.to_vec()));
            stream = behind;
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn messages_keep_their_bytes_and_none_of_copy_is_long(
            sizes in proptest::collection::vec((any::<bool>(), 0usize..300_000), 1..6), step in 1usize..100_000
        ) {
            let whole: Vec<(u8, Vec<u8>)> = sizes
                .iter()
                .enumerate()
                .map(|(i, (copy, size))| (if *copy { b'd' } else { b'D' }, (0..*size).map(|b| (b + i).to_le_bytes()[0]).collect()))
                .collect();
            let stream: Vec<u8> = whole.iter().flat_map(|(kind, body)| message(*kind, body)).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let out = runtime.block_on(through(At::Header(0), stream.clone(), step));
            let mut found = messages(&out).into_iter();
            for (kind, body) in whole {
                let mut joined = Vec::new();
                loop {
                    let (piece_kind, piece) = found.next().unwrap();
                    prop_assert_eq!(piece_kind, kind);
                    prop_assert!(kind != b'd' || piece.len() <= PIECE as usize);
                    joined.extend(piece);
                    if joined.len() >= body.len() {
                        break;
                    }
                }
                prop_assert_eq!(joined, body);
            }
            prop_assert!(found.next().is_none());
            prop_assert_eq!(runtime.block_on(through(At::Sealed, stream.clone(), step)), stream);
        }
    }

    #[tokio::test]
    async fn the_answer_about_tls_stands_outside_of_messages() {
        let long = message(b'd', &vec![7; 100_000]);
        let plain = through(At::Answer, [&b"N"[..], &long].concat(), 1000).await;
        assert_eq!(messages(&plain[1..]).len(), 2);
        let sealed = [&b"S"[..], &long].concat();
        assert_eq!(through(At::Answer, sealed.clone(), 1000).await, sealed);
        let strange = [b'd', 0, 0, 0, 1, 9, 9];
        assert_eq!(through(At::Header(0), strange.to_vec(), 3).await, strange);
    }
}
