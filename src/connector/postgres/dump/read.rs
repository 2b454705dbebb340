//! What `pg_dump` writes, cut into statements and sorted out.

use super::{BehindRows, Section};
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
        section: Some(section),
    };
    let mut held = VecDeque::new();
    loop {
        let Some((class, text)) = reader.next().await? else {
            return Ok(None);
        };
        held.push_back(text);
        if !is_setting(&class) {
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

/// All that stands behind the rows, of one run; nothing if it is more than `most` bytes.
pub(super) async fn behind_rows(
    context: &Context,
    mut child: Running,
    most: usize,
) -> Result<Option<BehindRows>> {
    let mut reader = Reader {
        context: context.clone(),
        stdout: child.stdout(),
        child: Some(child),
        scanner: Scanner::default(),
        section: None,
    };
    let (mut constraints, mut refresh) = (Vec::new(), Vec::new());
    let mut only_settings = true;
    while let Some((class, text)) = reader.next().await? {
        if matches!(class, Class::Refresh(_)) {
            refresh.extend_from_slice(&text);
        } else {
            only_settings &= is_setting(&class);
            constraints.extend_from_slice(&text);
        }
        if constraints.len() + refresh.len() > most {
            return Ok(None);
        }
    }
    if only_settings {
        constraints.clear();
    }
    Ok(Some(BehindRows {
        constraints: constraints.into(),
        refresh: refresh.into(),
    }))
}

/// Whether a statement does nothing that outlives its session.
fn is_setting(class: &Class) -> bool {
    matches!(class, Class::Set(_) | Class::Empty)
}

struct Reader {
    context: Context,
    child: Option<Running>,
    stdout: Option<ChildStdout>,
    scanner: Scanner,
    /// Nothing if all sections are wanted that the child writes.
    section: Option<Section>,
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
            None | Some(Section::Schema) => true,
            Some(Section::Constraints) => !refresh,
            Some(Section::Refresh) => refresh,
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
        if let Some(child) = &self.child {
            child.wrote(read);
        }
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
