//! What `pg_dump` writes, cut into statements and sorted out.

use super::Section;
use crate::connector::postgres::statement::{Class, Kind, Scanner, classify, first_line};
use crate::connector::process::Running;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::entry::{ContentStream, Piece};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use std::collections::VecDeque;
use tokio::io::AsyncReadExt;
use tokio::process::ChildStdout;

/// Bytes that are read at once.
const READ: usize = 64 << 10;

/// The statements of a child that is running; nothing if they are none but settings.
pub(super) async fn statements(
    context: &Context,
    mut child: Running,
    section: Section,
) -> Result<Option<ContentStream>> {
    let mut reader = Reader {
        context: context.clone(),
        stdout: child.stdout(),
        child: Some(child),
        scanner: Scanner::default(),
        section,
    };
    let mut held = VecDeque::new();
    loop {
        let Some((class, text)) = reader.next().await? else {
            return Ok(None);
        };
        held.push_back(text);
        if !matches!(class, Class::Set(_) | Class::Empty) {
            break;
        }
    }
    let rest = stream::try_unfold((held, reader), |(mut held, mut reader)| async move {
        let next = match held.pop_front() {
            Some(text) => Some(text),
            None => reader.next().await?.map(|(_, text)| text),
        };
        Ok(next.map(|text| (Piece::Data(text), (held, reader))))
    });
    Ok(Some(rest.boxed()))
}

struct Reader {
    context: Context,
    child: Option<Running>,
    stdout: Option<ChildStdout>,
    scanner: Scanner,
    section: Section,
}

impl Reader {
    /// The next statement that is wanted, with a line feed; nothing when the child has ended well.
    async fn next(&mut self) -> Result<Option<(Class, Bytes)>> {
        loop {
            while let Some(piece) = self.scanner.next()? {
                match piece.kind {
                    Kind::Blank | Kind::Meta => {}
                    Kind::Statement if piece.text.ends_with(b";") => {
                        let class = classify(&piece.text);
                        if self.wants(&class) {
                            let text = [piece.text.as_ref(), b"\n"].concat();
                            return Ok(Some((class, text.into())));
                        }
                    }
                    // The child's own end says why, if it failed.
                    _ => {
                        self.end().await?;
                        let what = "pg_dump wrote what is no whole statement";
                        return Err(Error::new(ErrorKind::Source, what)
                            .with("it begins", first_line(&piece.text))
                            .hint("this is a bug; please report it with the statement"));
                    }
                }
            }
            if !self.read().await? {
                self.end().await?;
                return Ok(None);
            }
        }
    }

    fn wants(&self, class: &Class) -> bool {
        let refresh = matches!(class, Class::Refresh(_));
        match self.section {
            Section::Schema => true,
            Section::Constraints => !refresh,
            Section::Refresh => refresh,
        }
    }

    /// Reads some; says whether something may follow.
    async fn read(&mut self) -> Result<bool> {
        let Some(stdout) = &mut self.stdout else {
            return Ok(false);
        };
        let mut chunk = vec![0; READ];
        let read = tokio::select! {
            biased;
            () = self.context.cancel.cancelled() => return self.context.check_cancelled().map(|()| false),
            read = stdout.read(&mut chunk) => read,
        };
        let read = read.map_err(|error| {
            Error::new(ErrorKind::Source, "cannot read what pg_dump writes").because(error)
        })?;
        self.scanner.push(chunk.get(..read).unwrap_or_default());
        if read == 0 {
            self.stdout = None;
            self.scanner.end();
        }
        Ok(true)
    }

    /// Waits for the child's end.
    async fn end(&mut self) -> Result<()> {
        self.stdout = None;
        match self.child.take() {
            Some(child) => child.wait().await,
            None => Ok(()),
        }
    }
}
