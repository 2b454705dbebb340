//! SQL text cut into statements, byte for byte: the pieces together are the text.
//!
//! A restore acts on statements, never on lines: a function's body may hold lines that look like anything. The cuts are those of psql,
//! with three differences, each where psql itself goes wrong or asks the server: a routine's body counts only behind `BEGIN ATOMIC`
//! (psql takes a function named `begin` for one), the data of `COPY` are found by the statement's own words, and a backslash is
//! the beginning of a meta-command only where a statement may begin.

mod class;
mod lexer;

pub use class::{Class, ObjectName, classify, first_line};
pub(crate) use class::{Word, setting, words};

use crate::error::{Error, ErrorKind, Result};
use bytes::{Bytes, BytesMut};
use lexer::{Lexed, Lexer, Token, is_blank};

/// The longest statement that is taken, in bytes; the server takes none that is longer.
pub const STATEMENT_MAX: usize = 1 << 30;
/// White space, comments and data of `COPY` are handed on when so many bytes of them are there.
const HAND_ON: usize = 1 << 20;

/// What a piece of SQL text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// White space and comments between statements.
    Blank,
    /// A statement with its semicolon; the last of a text may lack it.
    Statement,
    /// What the end of the text broke off: a quote, a comment, a parenthesis or a routine's body is open.
    Unfinished,
    /// A meta-command of psql, with the end of its line.
    Meta,
    /// Lines behind a `COPY … FROM stdin`, or a part of a very long one.
    CopyData,
    /// The line `\.` that ends them. A text that ends without it was cut off.
    CopyEnd,
}

/// A piece of SQL text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What it is.
    pub kind: Kind,
    /// Its bytes.
    pub text: Bytes,
}

/// Cuts a text that comes in chunks. Holds no more than the longest statement, and what was pushed and not asked for yet.
#[derive(Debug)]
pub struct Scanner {
    buffer: BytesMut,
    lexer: Lexer,
    ended: bool,
    limit: usize,
    mode: Mode,
    statement: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Blank,
    Statement,
    Meta {
        seen: usize,
    },
    /// The rest of the line behind the semicolon of a COPY.
    CopyLine,
    Copy {
        line_begins: bool,
    },
}

impl Default for Scanner {
    fn default() -> Self {
        Self::with_limit(STATEMENT_MAX)
    }
}

impl Scanner {
    /// A scanner that refuses a statement of more than `limit` bytes.
    pub fn with_limit(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            lexer: Lexer::default(),
            ended: false,
            limit,
            mode: Mode::Blank,
            statement: Progress::default(),
        }
    }

    /// Appends a chunk of the text.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// Says that nothing follows.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// The next piece; nothing if more of the text is needed, or after [`Scanner::end`] if all was given.
    ///
    /// # Errors
    /// `Unsupported` for a statement beyond the limit, and for one that follows `COPY … FROM stdin` on its line.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would end where more is needed"
    )]
    pub fn next(&mut self) -> Result<Option<Piece>> {
        let piece = match self.mode {
            Mode::Blank => self.blank(),
            Mode::Statement => self.statement(),
            Mode::Meta { seen } => self.meta(seen),
            Mode::CopyLine => self.copy_line()?,
            Mode::Copy { line_begins } => self.copy(line_begins),
        };
        if piece.is_none() && self.buffer.len() > self.limit {
            let begins = first_line(&self.buffer);
            return Err(Error::new(ErrorKind::Unsupported, "a statement is too long")
                .with("limit", self.limit)
                .with("it begins", begins));
        }
        Ok(piece)
    }

    fn cut(&mut self, kind: Kind, length: usize) -> Piece {
        let text = self.buffer.split_to(length.min(self.buffer.len())).freeze();
        self.lexer.restart();
        Piece { kind, text }
    }

    /// The piece of all that is left, if the text has ended.
    fn rest(&mut self, kind: Kind) -> Option<Piece> {
        (self.ended && !self.buffer.is_empty()).then(|| self.cut(kind, self.buffer.len()))
    }

    fn blank(&mut self) -> Option<Piece> {
        while let Some(lexed) = self.lexer.next(&self.buffer, self.ended) {
            match lexed.token {
                Token::Blank | Token::Comment if lexed.end >= HAND_ON => {
                    return Some(self.cut(Kind::Blank, lexed.end));
                }
                Token::Blank | Token::Comment => continue,
                Token::Backslash => self.mode = Mode::Meta { seen: 0 },
                _ => {
                    self.mode = Mode::Statement;
                    self.statement = Progress::default();
                }
            }
            if lexed.start > 0 {
                return Some(self.cut(Kind::Blank, lexed.start));
            }
            self.lexer.restart();
            return match self.mode {
                Mode::Meta { seen } => self.meta(seen),
                _ => self.statement(),
            };
        }
        self.rest(Kind::Blank)
    }

    fn statement(&mut self) -> Option<Piece> {
        while let Some(lexed) = self.lexer.next(&self.buffer, self.ended) {
            if lexed.token == Token::Unclosed {
                self.mode = Mode::Blank;
                return Some(self.cut(Kind::Unfinished, lexed.end));
            }
            let text = self.buffer.get(lexed.start..lexed.end).unwrap_or_default();
            if self.statement.take(lexed, text) {
                self.mode = if self.statement.copies() {
                    Mode::CopyLine
                } else {
                    Mode::Blank
                };
                let piece = self.cut(Kind::Statement, lexed.end);
                if let Some(standard) = class::standard_strings(&piece.text) {
                    self.lexer.escapes = !standard;
                }
                return Some(piece);
            }
        }
        let kind = if self.statement.is_open() {
            Kind::Unfinished
        } else {
            Kind::Statement
        };
        self.rest(kind)
    }

    fn meta(&mut self, seen: usize) -> Option<Piece> {
        let rest = self.buffer.get(seen..).unwrap_or_default();
        if let Some(at) = rest.iter().position(|b| *b == b'\n') {
            self.mode = Mode::Blank;
            return Some(self.cut(Kind::Meta, seen + at + 1));
        }
        self.mode = Mode::Meta {
            seen: self.buffer.len(),
        };
        self.rest(Kind::Meta)
    }

    fn copy_line(&mut self) -> Result<Option<Piece>> {
        let end = self.buffer.iter().position(|b| *b == b'\n').map(|at| at + 1);
        let line = self
            .buffer
            .get(..end.unwrap_or(self.buffer.len()))
            .unwrap_or_default();
        if !line.iter().all(|b| is_blank(*b)) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "something follows COPY … FROM stdin on its line",
            )
            .with("it begins", first_line(line)));
        }
        let Some(end) = end else {
            return Ok(self.rest(Kind::Blank));
        };
        self.mode = Mode::Copy { line_begins: true };
        Ok(Some(self.cut(Kind::Blank, end)))
    }

    fn copy(&mut self, line_begins: bool) -> Option<Piece> {
        let mut whole = 0;
        let mut begins = line_begins;
        while let Some(line) = self.buffer.get(whole..) {
            let end = line.iter().position(|b| *b == b'\n').map(|at| at + 1);
            if end.is_none() && !self.ended {
                break;
            }
            let line = line.get(..end.unwrap_or(line.len())).unwrap_or_default();
            if begins && matches!(line, b"\\.\n" | b"\\.\r\n" | b"\\." | b"\\.\r") {
                if whole > 0 {
                    break;
                }
                self.mode = Mode::Blank;
                let length = line.len();
                return Some(self.cut(Kind::CopyEnd, length));
            }
            whole += line.len();
            begins = true;
            if whole >= HAND_ON || end.is_none() {
                break;
            }
        }
        // A line without an end in sight is handed on in parts.
        let part = whole == 0 && self.buffer.len() >= HAND_ON;
        let length = if part { self.buffer.len() } else { whole };
        if length == 0 {
            return None;
        }
        self.mode = Mode::Copy { line_begins: !part };
        Some(self.cut(Kind::CopyData, length))
    }
}

/// What of a statement was seen.
#[derive(Debug, Default)]
struct Progress {
    parentheses: usize,
    /// Open `BEGIN ATOMIC` and `CASE` of a routine's body.
    bodies: usize,
    /// Its first words, in lower case.
    heading: Vec<Vec<u8>>,
    heading_ended: bool,
    /// Whether it makes a routine.
    routine: bool,
    last: Last,
    stdin: bool,
}

/// What the last token means for the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Last {
    /// A name follows, not a keyword.
    Name,
    Begin,
    From,
    #[default]
    Other,
}

impl Progress {
    /// Takes a token; says whether it ends the statement.
    fn take(&mut self, lexed: Lexed, text: &[u8]) -> bool {
        match lexed.token {
            Token::Blank | Token::Comment => return false,
            Token::Semicolon => return !self.is_open(),
            Token::Open => self.parentheses += 1,
            Token::Close => self.parentheses = self.parentheses.saturating_sub(1),
            Token::Word => {
                self.word(text);
                return false;
            }
            _ => {}
        }
        self.heading_ended = true;
        self.last = if text == b"." { Last::Name } else { Last::Other };
        false
    }

    fn word(&mut self, text: &[u8]) {
        let is = |word: &str| text.eq_ignore_ascii_case(word.as_bytes());
        if !self.heading_ended {
            self.heading.push(text.to_ascii_lowercase());
            self.heading_ended = self.heading.len() == 4;
            let words: Vec<&[u8]> = self.heading.iter().map(Vec::as_slice).collect();
            self.routine |= matches!(
                words.as_slice(),
                [b"create", b"function" | b"procedure"]
                    | [b"create", b"or", b"replace", b"function" | b"procedure"]
            );
        }
        let last = std::mem::take(&mut self.last);
        if self.parentheses > 0 || last == Last::Name {
            return;
        }
        if self.routine && last == Last::Begin && self.bodies == 0 && is("atomic") {
            self.bodies = 1;
        } else if self.bodies > 0 && is("case") {
            self.bodies += 1;
        } else if self.bodies > 0 && is("end") {
            self.bodies -= 1;
        } else if last == Last::From && (is("stdin") || is("stdout")) {
            self.stdin = true;
        }
        self.last = match () {
            () if is("as") => Last::Name,
            () if is("begin") => Last::Begin,
            () if is("from") => Last::From,
            () => Last::Other,
        };
    }

    /// Whether a semicolon would not end it.
    fn is_open(&self) -> bool {
        self.parentheses > 0 || self.bodies > 0
    }

    /// Whether lines of data follow it.
    fn copies(&self) -> bool {
        self.stdin && self.heading.first().is_some_and(|word| word == b"copy")
    }
}
