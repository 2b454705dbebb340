//! The source of streams.

use super::key_of;
use crate::connector::process;
use crate::connector::{Origin, Source};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::entry::{
    Content, ContentStream, Entry, EntryHead, EntryKind, Item, Metadata, OpenContent, Piece, Prior, Value,
};
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of one piece.
const PIECE: usize = 1 << 20;

/// Where a stream comes from.
pub enum Input {
    /// A reader: standard input.
    Reader(Box<dyn AsyncRead + Send + Unpin>),
    /// A program and its arguments, started without a shell.
    Command(Vec<OsString>),
}

/// One stream to keep.
pub struct StreamRequest {
    /// Its name: `dump.sql`, `nightly/shop.sql`.
    pub name: String,
    /// Where it comes from.
    pub input: Input,
}

/// Which streams were read to a good end, in the order of names.
type Ends = Arc<Mutex<Vec<bool>>>;

/// Yields streams, one after the other; a command is started when its content is asked for.
pub struct StdioSource {
    names: Vec<String>,
    streams: Vec<StreamRequest>,
    ends: Ends,
    failure: Arc<Mutex<Option<Error>>>,
}

impl StdioSource {
    /// A source of `streams`.
    ///
    /// # Errors
    /// `Invalid` without a stream, for a name that is not allowed or comes twice, and for an empty command.
    pub fn new(mut streams: Vec<StreamRequest>) -> Result<Self> {
        if streams.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "no stream to keep"));
        }
        streams.sort_by(|a, b| a.name.cmp(&b.name));
        for stream in &streams {
            check_name(&stream.name)?;
            if matches!(&stream.input, Input::Command(argv) if argv.is_empty()) {
                return Err(Error::new(ErrorKind::Invalid, "no command to run").with("stream", &stream.name));
            }
        }
        let names: Vec<_> = streams.iter().map(|s| s.name.clone()).collect();
        if let Some([name, _]) = names.windows(2).find(|pair| pair.first() == pair.last()) {
            return Err(Error::new(ErrorKind::Invalid, "two streams of one name").with("stream", name));
        }
        Ok(Self {
            ends: Arc::new(Mutex::new(vec![false; names.len()])),
            failure: Arc::default(),
            names,
            streams,
        })
    }
}

fn check_name(name: &str) -> Result<()> {
    let bad_part = |part: &str| part.is_empty() || part == "." || part == "..";
    if name.len() > 255 || name.chars().any(char::is_control) || name.split('/').any(bad_part) {
        return Err(Error::new(ErrorKind::Invalid, "not a name for a stream").with("stream", name));
    }
    Ok(())
}

/// What a message may say of a command: its program, without the directory.
fn program(argv: &[OsString]) -> String {
    let first = argv.first().cloned().unwrap_or_default();
    let base = Path::new(&first)
        .file_name()
        .map_or(first.as_os_str(), |base| base);
    base.to_string_lossy().into_owned()
}

impl Source for StdioSource {
    fn origin(&self) -> Origin {
        Origin {
            connector: "stdio".into(),
            description: self.names.join(" "),
            version: None,
        }
    }

    fn entries<'a>(&'a mut self, context: &'a Context, _: Arc<dyn Prior>) -> BoxStream<'a, Result<Item>> {
        let streams = std::mem::take(&mut self.streams);
        let (ends, failure) = (self.ends.clone(), self.failure.clone());
        let item = move |(at, stream): (usize, StreamRequest)| {
            let fields: Vec<_> = match &stream.input {
                Input::Reader(_) => Vec::new(),
                Input::Command(argv) => vec![(1, Value::Text(program(argv)))],
            };
            let metadata = Metadata::new(&fields).map_err(|error| {
                Error::new(ErrorKind::Invalid, "the name of a program is too long").because(error)
            })?;
            let head = EntryHead {
                key: key_of(&stream.name),
                kind: EntryKind::Stream,
                metadata,
                state: Bytes::new(),
                size: None,
            };
            let content = Content::Open(Box::new(Reading {
                context: context.clone(),
                input: stream.input,
                end: End {
                    at,
                    ends: ends.clone(),
                    failure: failure.clone(),
                },
            }));
            Ok(Item::Entry(Entry { head, content }))
        };
        stream::iter(streams.into_iter().enumerate().map(item)).boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let failure = self.failure.lock().ok().and_then(|mut failure| failure.take());
            if let Some(error) = failure {
                return Err(error);
            }
            let ends = self.ends.lock().map(|ends| ends.clone()).unwrap_or_default();
            for (name, end) in self.names.iter().zip(ends) {
                if !end {
                    let error = Error::new(ErrorKind::Source, "a stream was not read to its end");
                    return Err(error.with("stream", name));
                }
            }
            Ok(())
        })
    }
}

/// Where the end of one stream is written down.
struct End {
    at: usize,
    ends: Ends,
    failure: Arc<Mutex<Option<Error>>>,
}

impl End {
    /// Writes down how the stream ended; gives the error for the consumer, and keeps one for [`Source::finish`].
    fn set(&self, result: Result<()>) -> Option<Error> {
        if let Ok(mut ends) = self.ends.lock()
            && let Some(end) = ends.get_mut(self.at)
        {
            *end = result.is_ok();
        }
        let error = result.err()?;
        if let Ok(mut failure) = self.failure.lock() {
            failure.get_or_insert(error.clone());
        }
        Some(error)
    }
}

/// A stream that is read when someone wants it.
struct Reading {
    context: Context,
    input: Input,
    end: End,
}

struct Open {
    context: Context,
    reader: Box<dyn AsyncRead + Send + Unpin>,
    child: Option<process::Running>,
    end: End,
}

impl OpenContent for Reading {
    fn open(self: Box<Self>) -> BoxFuture<'static, Result<ContentStream>> {
        Box::pin(async move {
            let (reader, child) = match self.input {
                Input::Reader(reader) => (reader, None),
                Input::Command(argv) => match start(&self.context, &argv) {
                    Ok((reader, child)) => (reader, Some(child)),
                    Err(error) => {
                        let copy = self.end.set(Err(error));
                        return Err(copy.unwrap_or_else(|| Error::new(ErrorKind::Internal, "no error")));
                    }
                },
            };
            let open = Open {
                context: self.context,
                reader,
                child,
                end: self.end,
            };
            Ok(stream::unfold(Some(open), |open| async move { open?.next().await }).boxed())
        })
    }
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;

fn start(context: &Context, argv: &[OsString]) -> Result<(Reader, process::Running)> {
    let mut child = process::start(context, argv, &process::Environment::default())?;
    match child.stdout() {
        Some(stdout) => Ok((Box::new(stdout), child)),
        None => Err(Error::new(ErrorKind::Internal, "a child without standard output")),
    }
}

impl Open {
    async fn next(mut self) -> Option<(Result<Piece>, Option<Self>)> {
        let context = self.context.clone();
        // A stream may be silent for hours; dropping it here kills its command.
        let filled = tokio::select! {
            biased;
            () = context.cancel.cancelled() => return context.check_cancelled().err().map(|error| (Err(error), None)),
            filled = fill(&mut self.reader) => filled,
        };
        match filled {
            Ok(bytes) if !bytes.is_empty() => Some((Ok(Piece::Data(bytes)), Some(self))),
            Ok(_) => {
                let result = match self.child.take() {
                    Some(child) => tokio::select! {
                        biased;
                        () = context.cancel.cancelled() => context.check_cancelled(),
                        result = child.wait() => result,
                    },
                    None => Ok(()),
                };
                self.end.set(result).map(|error| (Err(error), None))
            }
            Err(error) => {
                let error = Error::new(ErrorKind::Source, "cannot read a stream").because(error);
                self.end.set(Err(error)).map(|error| (Err(error), None))
            }
        }
    }
}

/// Reads a whole piece, or what there is before the end: where a pipe was split must not show in the pieces.
async fn fill(reader: &mut Reader) -> std::io::Result<Bytes> {
    let mut buffer = BytesMut::with_capacity(PIECE);
    while buffer.len() < PIECE {
        let room = (PIECE - buffer.len()) as u64;
        if reader.take(room).read_buf(&mut buffer).await? == 0 {
            break;
        }
    }
    Ok(buffer.freeze())
}
