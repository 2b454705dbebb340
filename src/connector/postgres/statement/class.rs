//! What a statement does, as far as the order of a restore depends on it. Only the forms that `pg_dump` writes need to be known:
//! whatever is not is [`Class::Other`], and runs alone and in its place.

use super::lexer::{Lexer, Token};

/// The longest part of a statement that messages quote, in characters.
const QUOTED: usize = 120;

/// The name of an object as the server knows it: schema and name, or the name alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName(pub Vec<Vec<u8>>);

/// What a statement does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing: a semicolon alone.
    Empty,
    /// `SET name = …`, or `SELECT pg_catalog.set_config('name', …)`: the parameter, in lower case.
    Set(String),
    /// `CREATE [UNIQUE] INDEX … ON [ONLY] table`.
    CreateIndex(ObjectName),
    /// `ALTER TABLE table ADD CONSTRAINT …` that makes a key, an exclusion or a check.
    AddConstraint(ObjectName),
    /// `ALTER TABLE table ADD CONSTRAINT … FOREIGN KEY … REFERENCES other`.
    AddForeignKey(ObjectName, ObjectName),
    /// `ALTER INDEX … ATTACH PARTITION …`.
    AttachIndex,
    /// What belongs to the index or constraint of the statement before: its comment, `ALTER INDEX …`, `ALTER TABLE … CLUSTER ON` and
    /// `… REPLICA IDENTITY USING INDEX`.
    FollowUp,
    /// `REFRESH MATERIALIZED VIEW view`.
    Refresh(ObjectName),
    /// `CREATE TABLE table`, also of a foreign one.
    CreateTable(ObjectName),
    /// `CREATE SCHEMA schema`.
    CreateSchema(Vec<u8>),
    /// Anything else.
    Other,
}

/// What `statement` does.
pub fn classify(statement: &[u8]) -> Class {
    let mut words = Words::new(statement);
    let class = match words.keyword().as_deref() {
        None if words.peek().is_none_or(|(token, _)| token == Token::Semicolon) => Some(Class::Empty),
        Some("set") => {
            let mut name = words.keyword();
            if matches!(name.as_deref(), Some("session" | "local")) {
                name = words.keyword();
            }
            // The statements behind it speak for another role: it is one of them, not a setting.
            name.filter(|name| name != "authorization").map(Class::Set)
        }
        Some("select") => set_config(&mut words),
        Some("create") => create(&mut words),
        Some("alter") => alter(&mut words),
        Some("refresh") => (words.follow(&["materialized", "view"]))
            .then(|| {
                words.follow(&["concurrently"]);
                words.name().map(Class::Refresh)
            })
            .flatten(),
        Some("comment") => comment(&mut words),
        _ => None,
    };
    class.unwrap_or(Class::Other)
}

fn comment(words: &mut Words<'_>) -> Option<Class> {
    words.follow(&["on"]);
    match words.keyword()?.as_str() {
        "index" => Some(Class::FollowUp),
        "constraint" => {
            words.identifier()?;
            words.follow(&["on"]);
            (!words.follow(&["domain"])).then_some(Class::FollowUp)
        }
        _ => None,
    }
}

fn set_config(words: &mut Words<'_>) -> Option<Class> {
    if !words.follow(&["pg_catalog"]) || !words.symbol(".") || !words.follow(&["set_config"]) {
        return None;
    }
    words.symbol("(");
    let (_, text) = words.advance()?;
    let name = text.strip_prefix(b"'")?.strip_suffix(b"'")?;
    Some(Class::Set(String::from_utf8_lossy(name).to_ascii_lowercase()))
}

fn create(words: &mut Words<'_>) -> Option<Class> {
    match words.keyword()?.as_str() {
        "unique" => {
            words.follow(&["index"]);
            index(words)
        }
        "index" => index(words),
        "table" => words.name().map(Class::CreateTable),
        "unlogged" | "foreign" => {
            let table = words.follow(&["table"]);
            table.then(|| words.name().map(Class::CreateTable)).flatten()
        }
        "schema" => words.identifier().map(Class::CreateSchema),
        _ => None,
    }
}

fn index(words: &mut Words<'_>) -> Option<Class> {
    words.identifier()?;
    if !words.follow(&["on"]) {
        return None;
    }
    words.follow(&["only"]);
    words.name().map(Class::CreateIndex)
}

fn alter(words: &mut Words<'_>) -> Option<Class> {
    let kind = words.keyword()?;
    if kind == "table" {
        words.follow(&["only"]);
        let table = words.name()?;
        if words.follow(&["add", "constraint"]) {
            words.identifier()?;
            if !words.follow(&["foreign", "key"]) {
                return Some(Class::AddConstraint(table));
            }
            while !words.follow(&["references"]) {
                words.advance()?;
            }
            return Some(Class::AddForeignKey(table, words.name()?));
        }
        let follows =
            words.follow(&["cluster", "on"]) || words.follow(&["replica", "identity", "using", "index"]);
        return follows.then_some(Class::FollowUp);
    }
    if kind == "index" {
        words.name()?;
        if words.follow(&["attach", "partition"]) {
            return Some(Class::AttachIndex);
        }
        return Some(Class::FollowUp);
    }
    None
}

/// The parameter that `SET name = value` or `SELECT pg_catalog.set_config('name', 'value', …)` sets, in lower case, and its value.
pub(crate) fn setting(statement: &str) -> Option<(String, String)> {
    let words = words(statement);
    let first = words.first()?;
    let mut rest = words.iter();
    if first.is("select") {
        let strings: Vec<&Word<'_>> = rest.filter(|word| word.token == Token::Text).take(2).collect();
        let [name, value] = strings.as_slice() else {
            return None;
        };
        return Some((name.value().to_ascii_lowercase(), value.value()));
    }
    if !first.is("set") {
        return None;
    }
    let name = rest
        .by_ref()
        .skip(1)
        .find(|word| !word.is("session") && !word.is("local"))?;
    let value = rest.find(|word| !word.is("to") && word.text != "=")?;
    let value = value.identifier().unwrap_or_else(|| value.value());
    Some((name.identifier()?.to_ascii_lowercase(), value))
}

/// Whether strings are standard after `statement`, if it sets that.
pub(super) fn standard_strings(statement: &[u8]) -> Option<bool> {
    if classify(statement) != Class::Set("standard_conforming_strings".into()) {
        return None;
    }
    let (_, value) = setting(&String::from_utf8_lossy(statement))?;
    match value.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// The beginning of a text for messages: its first words on one line. What stands in quotes may be a password, and is left out.
pub fn first_line(statement: &[u8]) -> String {
    // A character has at most four bytes; white space shrinks.
    let head = statement
        .get(..statement.len().min(16 * QUOTED))
        .unwrap_or_default();
    let text = String::from_utf8_lossy(head);
    let mut shown = String::new();
    for (number, part) in text.split('\'').enumerate() {
        shown.push_str(match number % 2 {
            0 => part,
            _ => "'…'",
        });
    }
    let words: Vec<&str> = shown.split_whitespace().collect();
    let line = words.join(" ");
    let mut short: String = line.chars().take(QUOTED).collect();
    if short.len() < line.len() || head.len() < statement.len() {
        short.push('…');
    }
    short
}

/// A token of a statement, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word<'a> {
    text: &'a str,
    token: Token,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Word<'_> {
    /// Whether it is this keyword.
    pub(crate) fn is(&self, word: &str) -> bool {
        self.token == Token::Word && self.text.eq_ignore_ascii_case(word)
    }

    /// Whether it is this sign.
    pub(crate) fn is_symbol(&self, symbol: &str) -> bool {
        self.text == symbol
    }

    /// What a string or a word says. Strings between dollar signs come as they are.
    pub(crate) fn value(&self) -> String {
        let (escapes, text) = match self.text.strip_prefix(['E', 'e']) {
            Some(text) if self.token == Token::Text => (true, text),
            _ => (false, self.text),
        };
        let inner = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
        let Some(inner) = inner else {
            return self.text.to_owned();
        };
        let mut value = String::with_capacity(inner.len());
        let mut letters = inner.chars();
        while let Some(letter) = letters.next() {
            let escaped = letter == '\'' || escapes && letter == '\\';
            let letter = if escaped { letters.next() } else { Some(letter) };
            value.extend(letter.map(|letter| match (escaped && escapes, letter) {
                (true, 'n') => '\n',
                (true, 't') => '\t',
                (true, 'r') => '\r',
                _ => letter,
            }));
        }
        value
    }

    /// The name that it is, if it is one.
    pub(crate) fn identifier(&self) -> Option<String> {
        match self.token {
            Token::Word => Some(self.text.to_ascii_lowercase()),
            Token::Name => String::from_utf8(unquoted(self.text.as_bytes())?).ok(),
            _ => None,
        }
    }
}

/// The tokens of a statement, without white space and comments.
pub(crate) fn words(statement: &str) -> Vec<Word<'_>> {
    let mut lexer = Lexer::default();
    let mut found = Vec::new();
    while let Some(lexed) = lexer.next(statement.as_bytes(), true) {
        if let (false, Some(text)) = (
            matches!(lexed.token, Token::Blank | Token::Comment),
            statement.get(lexed.start..lexed.end),
        ) {
            found.push(Word {
                text,
                token: lexed.token,
                start: lexed.start,
                end: lexed.end,
            });
        }
    }
    found
}

/// The tokens of a whole statement, without white space and comments.
struct Words<'a> {
    lexer: Lexer,
    text: &'a [u8],
    ahead: Option<(Token, &'a [u8])>,
}

impl<'a> Words<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self {
            lexer: Lexer::default(),
            text,
            ahead: None,
        }
    }

    fn peek(&mut self) -> Option<(Token, &'a [u8])> {
        while self.ahead.is_none() {
            let lexed = self.lexer.next(self.text, true)?;
            if !matches!(lexed.token, Token::Blank | Token::Comment) {
                self.ahead = Some((lexed.token, self.text.get(lexed.start..lexed.end)?));
            }
        }
        self.ahead
    }

    fn advance(&mut self) -> Option<(Token, &'a [u8])> {
        let next = self.peek();
        self.ahead = None;
        next
    }

    /// The next word in lower case; it stays if it is none.
    fn keyword(&mut self) -> Option<String> {
        let (token, text) = self.peek()?;
        (token == Token::Word).then(|| {
            self.ahead = None;
            String::from_utf8_lossy(text).to_ascii_lowercase()
        })
    }

    /// Whether these words follow; steps behind those that do.
    fn follow(&mut self, words: &[&str]) -> bool {
        words.iter().all(|word| {
            let here = self.peek().is_some_and(|(token, text)| {
                token == Token::Word && text.eq_ignore_ascii_case(word.as_bytes())
            });
            if here {
                self.ahead = None;
            }
            here
        })
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let here = self.peek().is_some_and(|(_, text)| text == symbol.as_bytes());
        if here {
            self.ahead = None;
        }
        here
    }

    /// One identifier, without its quotes; folded to lower case if it has none.
    fn identifier(&mut self) -> Option<Vec<u8>> {
        let (token, text) = self.peek()?;
        let name = match token {
            Token::Word => text.to_ascii_lowercase(),
            Token::Name => unquoted(text)?,
            _ => return None,
        };
        self.ahead = None;
        Some(name)
    }

    /// A name with its schema, if it has one.
    fn name(&mut self) -> Option<ObjectName> {
        let mut parts = vec![self.identifier()?];
        while self.symbol(".") {
            parts.push(self.identifier()?);
        }
        Some(ObjectName(parts))
    }
}

fn unquoted(text: &[u8]) -> Option<Vec<u8>> {
    let inner = text.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut name = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        if *byte == b'"' {
            bytes.next();
        }
        name.push(*byte);
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(parts: &[&str]) -> ObjectName {
        ObjectName(parts.iter().map(|part| part.as_bytes().to_vec()).collect())
    }

    #[test]
    fn what_pg_dump_writes_is_known_by_what_it_does() {
        let t = || name(&["public", "t"]);
        let cases = [
            (";", Class::Empty),
            (
                "SET statement_timeout = 0;",
                Class::Set("statement_timeout".into()),
            ),
            ("SET LOCAL x TO 1;", Class::Set("x".into())),
            (
                "SELECT pg_catalog.set_config('search_path', '', false);",
                Class::Set("search_path".into()),
            ),
            ("SELECT pg_catalog.setval('a', 1);", Class::Other),
            (
                "CREATE INDEX i ON public.t USING btree (a);",
                Class::CreateIndex(t()),
            ),
            (
                "CREATE UNIQUE INDEX \"i on\" ON ONLY \"a\"\"b\".\"c.d\" USING btree (a);",
                Class::CreateIndex(name(&["a\"b", "c.d"])),
            ),
            (
                "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT t_pkey PRIMARY KEY (id);",
                Class::AddConstraint(t()),
            ),
            (
                "ALTER TABLE public.t\n    ADD CONSTRAINT f FOREIGN KEY (\"references\") REFERENCES public.u(id) NOT VALID;",
                Class::AddForeignKey(t(), name(&["public", "u"])),
            ),
            (
                "ALTER INDEX public.i ATTACH PARTITION public.j;",
                Class::AttachIndex,
            ),
            ("REFRESH MATERIALIZED VIEW public.t;", Class::Refresh(t())),
            ("CREATE UNLOGGED TABLE public.t (\n);", Class::CreateTable(t())),
            ("CREATE SCHEMA \"a b\";", Class::CreateSchema(b"a b".to_vec())),
            ("ALTER TABLE public.t OWNER TO \"x y\";", Class::Other),
            ("ALTER TABLE public.t CLUSTER ON i;", Class::FollowUp),
            (
                "ALTER TABLE ONLY public.t REPLICA IDENTITY USING INDEX i;",
                Class::FollowUp,
            ),
            ("ALTER TABLE ONLY public.t REPLICA IDENTITY FULL;", Class::Other),
            (
                "ALTER INDEX public.i ALTER COLUMN 1 SET STATISTICS 5;",
                Class::FollowUp,
            ),
            ("COMMENT ON CONSTRAINT c ON public.t IS 'x';", Class::FollowUp),
            ("COMMENT ON CONSTRAINT c ON DOMAIN public.d IS 'x';", Class::Other),
            ("COMMENT ON INDEX public.i IS 'x';", Class::FollowUp),
            (
                "ALTER DOMAIN public.d ADD CONSTRAINT c CHECK (VALUE > 0);",
                Class::Other,
            ),
            ("COMMENT ON EXTENSION plpgsql IS 'x';", Class::Other),
            ("SELECT 'CREATE INDEX i ON t';", Class::Other),
        ];
        for (statement, class) in cases {
            assert_eq!(classify(statement.as_bytes()), class, "{statement}");
        }
    }

    #[test]
    fn a_setting_is_read_however_it_is_written() {
        let cases = [
            ("SET default_tablespace = '';", "default_tablespace", ""),
            (
                "SET default_tablespace = \"My \"\"Space\";",
                "default_tablespace",
                "My \"Space",
            ),
            (
                "SET SESSION Default_Table_Access_Method TO Heap;",
                "default_table_access_method",
                "heap",
            ),
            (
                "SELECT pg_catalog.set_config('search_path', 'a, \"B\"', false);",
                "search_path",
                "a, \"B\"",
            ),
            (
                "SELECT pg_catalog.set_config('x.y', E'it''s \\\\ \\'n', false);",
                "x.y",
                "it's \\ 'n",
            ),
        ];
        for (statement, name, value) in cases {
            assert_eq!(
                setting(statement),
                Some((name.into(), value.into())),
                "{statement}"
            );
        }
        assert_eq!(setting("CREATE TABLE t ();"), None);
        let standard = |sql: &str| standard_strings(sql.as_bytes());
        let config = |value| {
            standard(&format!(
                "SELECT pg_catalog.set_config('standard_conforming_strings', '{value}', false);"
            ))
        };
        assert_eq!((config("on"), config("off")), (Some(true), Some(false)));
        assert_eq!(standard("SET standard_conforming_strings = on;"), Some(true));
        assert_eq!(standard("SET standard_conforming_strings TO 'off';"), Some(false));
    }

    #[test]
    fn a_message_quotes_one_short_line() {
        assert_eq!(first_line(b"SELECT\n  1,\t2;"), "SELECT 1, 2;");
        let long = first_line("ä".repeat(5000).as_bytes());
        assert_eq!(long.chars().count(), QUOTED + 1);
    }
}
