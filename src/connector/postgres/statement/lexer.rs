//! Tokens of SQL, as far as they decide where a statement ends. The rules are those of the server's `scan.l` and of psql's
//! `psqlscan.l`; bytes from 0x80 on are letters, so any text that extends ASCII is read right.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// White space.
    Blank,
    /// A comment of one line, or of many.
    Comment,
    /// A word without quotes: a keyword or a name.
    Word,
    /// A name in double quotes.
    Name,
    /// A string, in single quotes (with the letter before them) or between dollar signs.
    Text,
    /// `;`
    Semicolon,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `\` outside of quotes.
    Backslash,
    /// Any other byte, and numbers.
    Other,
    /// A quote or comment that the end of the text left open.
    Unclosed,
}

/// A token and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lexed {
    pub(super) token: Token,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What the bytes before the present one opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    Nothing,
    Blank,
    Line,
    Comment { depth: usize },
    Word,
    Number,
    Name,
    Text { escapes: bool },
    Tag,
    Body { tag: usize },
}

/// What a look at the bytes has brought.
enum Step {
    /// The token goes on, in another way.
    On,
    /// The token is whole.
    End(Token),
}

/// Reads tokens from a buffer that grows at its end and is cut at its beginning. It never looks at a byte twice, but for a few at the
/// border of what has come.
#[derive(Clone, Debug)]
pub(super) struct Lexer {
    inside: Inside,
    start: usize,
    at: usize,
    /// Whether a backslash escapes in a plain string: `standard_conforming_strings` is off.
    pub(super) escapes: bool,
    /// After a string: how its continuation on a later line is read, and whether a line ended since.
    continues: Option<(bool, bool)>,
}

impl Default for Lexer {
    fn default() -> Self {
        Self {
            inside: Inside::Nothing,
            start: 0,
            at: 0,
            escapes: false,
            continues: None,
        }
    }
}

impl Lexer {
    /// Begins anew at the first byte of the buffer, where no quote is open.
    pub(super) fn restart(&mut self) {
        *self = Self {
            escapes: self.escapes,
            ..Self::default()
        };
    }

    /// The next token of `buffer`; nothing if more is needed, or when `ended` if nothing is left.
    pub(super) fn next(&mut self, buffer: &[u8], ended: bool) -> Option<Lexed> {
        loop {
            let step = match self.inside {
                Inside::Nothing => self.begin(buffer, ended)?,
                Inside::Blank => self
                    .run(buffer, ended, is_blank)
                    .map(|()| Step::End(Token::Blank))?,
                Inside::Line => {
                    self.run(buffer, ended, |b| !matches!(b, b'\n' | b'\r'))?;
                    Step::End(Token::Comment)
                }
                Inside::Number => self
                    .run(buffer, ended, is_tag)
                    .map(|()| Step::End(Token::Other))?,
                Inside::Word => self.word(buffer, ended)?,
                Inside::Comment { depth } => self.comment(buffer, ended, depth)?,
                Inside::Name => self.quoted(buffer, ended, b'"', false)?,
                Inside::Text { escapes } => self.quoted(buffer, ended, b'\'', escapes)?,
                Inside::Tag => self.tag(buffer, ended)?,
                Inside::Body { tag } => self.body(buffer, ended, tag)?,
            };
            if let Step::End(token) = step {
                return Some(self.emit(buffer, token));
            }
        }
    }

    fn emit(&mut self, buffer: &[u8], token: Token) -> Lexed {
        let lexed = Lexed {
            token,
            start: self.start,
            end: self.at,
        };
        self.continues = match (token, self.inside, self.continues) {
            (Token::Text, Inside::Text { escapes }, _) => Some((escapes, false)),
            (Token::Blank, _, Some((escapes, newline))) => {
                let text = buffer.get(self.start..self.at).unwrap_or_default();
                let newline = newline || text.iter().any(|b| matches!(b, b'\n' | b'\r'));
                Some((escapes, newline))
            }
            (Token::Comment, Inside::Line, continues) => continues,
            _ => None,
        };
        self.inside = Inside::Nothing;
        self.start = self.at;
        lexed
    }

    /// Looks at the first byte of a token. Nothing: more is needed.
    fn begin(&mut self, buffer: &[u8], ended: bool) -> Option<Step> {
        self.start = self.at;
        let first = *buffer.get(self.at)?;
        let second = buffer.get(self.at + 1).copied();
        if second.is_none() && !ended && matches!(first, b'-' | b'/' | b'$') {
            return None;
        }
        let mut length = 1;
        let mut one = None;
        self.inside = match (first, second) {
            (b'-', Some(b'-')) => Inside::Line,
            (b'/', Some(b'*')) => {
                length = 2;
                Inside::Comment { depth: 1 }
            }
            (b'$', Some(next)) if next == b'$' || (is_tag(next) && !next.is_ascii_digit()) => Inside::Tag,
            (b'\'', _) => Inside::Text {
                escapes: match self.continues {
                    Some((escapes, true)) => escapes,
                    _ => self.escapes,
                },
            },
            (b'"', _) => Inside::Name,
            (b'0'..=b'9', _) => Inside::Number,
            (b, _) if is_blank(b) => Inside::Blank,
            (b, _) if is_tag(b) => Inside::Word,
            (b, _) => {
                one = Some(match b {
                    b';' => Token::Semicolon,
                    b'(' => Token::Open,
                    b')' => Token::Close,
                    b'\\' => Token::Backslash,
                    _ => Token::Other,
                });
                Inside::Nothing
            }
        };
        self.at += length;
        Some(one.map_or(Step::On, Step::End))
    }

    /// Goes behind the bytes that `of` takes, to the first other byte or the end.
    fn run(&mut self, buffer: &[u8], ended: bool, of: impl Fn(u8) -> bool) -> Option<()> {
        let rest = buffer.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|b| !of(*b));
        self.at += len.unwrap_or(rest.len());
        (len.is_some() || ended).then_some(())
    }

    fn word(&mut self, buffer: &[u8], ended: bool) -> Option<Step> {
        self.run(buffer, ended, |b| is_tag(b) || b == b'$')?;
        let word = buffer.get(self.start..self.at).unwrap_or_default();
        let prefix = match word {
            [b'e' | b'E'] => Some(true),
            [b'b' | b'B' | b'x' | b'X'] => Some(false),
            _ => None,
        };
        if let (Some(escapes), Some(b'\'')) = (prefix, buffer.get(self.at)) {
            self.at += 1;
            self.inside = Inside::Text { escapes };
            return Some(Step::On);
        }
        Some(Step::End(Token::Word))
    }

    fn comment(&mut self, buffer: &[u8], ended: bool, depth: usize) -> Option<Step> {
        let mut depth = depth;
        loop {
            let rest = buffer.get(self.at..).unwrap_or_default();
            let Some(len) = rest.iter().position(|b| matches!(b, b'/' | b'*')) else {
                self.at = buffer.len();
                return ended.then_some(Step::End(Token::Unclosed));
            };
            self.at += len;
            match (rest.get(len), rest.get(len + 1)) {
                (_, None) => {
                    if ended {
                        self.at = buffer.len();
                    }
                    return ended.then_some(Step::End(Token::Unclosed));
                }
                (Some(b'/'), Some(b'*')) => {
                    self.at += 2;
                    depth += 1;
                }
                (Some(b'*'), Some(b'/')) => {
                    self.at += 2;
                    depth -= 1;
                    if depth == 0 {
                        return Some(Step::End(Token::Comment));
                    }
                }
                _ => self.at += 1,
            }
            self.inside = Inside::Comment { depth };
        }
    }

    fn quoted(&mut self, buffer: &[u8], ended: bool, quote: u8, escapes: bool) -> Option<Step> {
        loop {
            let rest = buffer.get(self.at..).unwrap_or_default();
            let Some(len) = rest.iter().position(|b| *b == quote || (escapes && *b == b'\\')) else {
                self.at = buffer.len();
                return ended.then_some(Step::End(Token::Unclosed));
            };
            self.at += len;
            let backslash = rest.get(len) == Some(&b'\\');
            match rest.get(len + 1) {
                None if !ended => return None,
                None if backslash => {
                    self.at = buffer.len();
                    return Some(Step::End(Token::Unclosed));
                }
                Some(_) if backslash => self.at += 2,
                Some(next) if *next == quote => self.at += 2,
                _ => {
                    self.at += 1;
                    let token = if quote == b'"' { Token::Name } else { Token::Text };
                    return Some(Step::End(token));
                }
            }
        }
    }

    /// A dollar sign and letters: the beginning of a string if another dollar sign follows them.
    fn tag(&mut self, buffer: &[u8], ended: bool) -> Option<Step> {
        self.run(buffer, ended, is_tag)?;
        if buffer.get(self.at) == Some(&b'$') {
            self.at += 1;
            self.inside = Inside::Body {
                tag: self.at - self.start,
            };
            return Some(Step::On);
        }
        self.at = self.start + 1;
        Some(Step::End(Token::Other))
    }

    fn body(&mut self, buffer: &[u8], ended: bool, tag: usize) -> Option<Step> {
        let tag = buffer.get(self.start..self.start + tag).unwrap_or_default();
        loop {
            let rest = buffer.get(self.at..).unwrap_or_default();
            let Some(len) = rest.iter().position(|b| *b == b'$') else {
                self.at = buffer.len();
                return ended.then_some(Step::End(Token::Unclosed));
            };
            self.at += len;
            let rest = rest.get(len..).unwrap_or_default();
            if rest.starts_with(tag) {
                self.at += tag.len();
                return Some(Step::End(Token::Text));
            }
            if rest.len() < tag.len() && tag.starts_with(rest) && !ended {
                return None;
            }
            self.at += 1;
        }
    }
}

/// White space, as `scan.l` has it.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// What a tag between dollar signs is made of; a word may also hold dollar signs.
fn is_tag(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}
