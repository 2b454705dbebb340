//! What the server said when it refused something, without the values of rows: they may be secrets, and messages are kept in logs.

use crate::connector::postgres::name::display;
use std::fmt::Write;
use tokio_postgres::error::{DbError, ErrorPosition};

/// What the server said.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) message: String,
    /// Whether it is about the value of one column: other rows may be taken.
    of_a_value: bool,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl Refusal {
    /// A statement that cannot even be sent, and contents that cannot be read.
    pub(super) fn own(message: &str) -> Self {
        Self {
            code: "holdall".into(),
            message: message.into(),
            of_a_value: false,
        }
    }

    /// Whether what was refused are not some rows, but all of them: the table is not there, or not as it should be, or forbidden.
    pub(super) fn is_of_the_table(&self) -> bool {
        !self.of_a_value && is_about_names(&self.code)
    }

    /// Of rows that were sent and did not last: a deferred constraint, or its function, refused some of them.
    pub(super) fn of_commit(self) -> Self {
        Self {
            of_a_value: true,
            ..self
        }
    }

    /// Of a statement. The message of the server is about the schema but where a value has no place in its type, and it has details
    /// that are; those of a violated constraint are values. What has a context was raised while a function ran, or within a value: a
    /// function says what it likes under any code, and one that makes a name of a value names that. A statement that goes over rows may
    /// find the name of anything in a value by itself (`regclass`, `tsquery`, a file to read), and a query (`ts_stat`): of such errors,
    /// those are quoted that have a place in the statement, or that are of a class of the server's own and name nothing but what stands in
    /// it: an extension says what it likes under others, without quotes.
    pub(super) fn of_statement(said: &DbError, sql: &str) -> Self {
        let code = said.code().code();
        let has_place = matches!(said.position(), Some(ErrorPosition::Original(_)));
        let values = said.where_().is_some()
            || code.starts_with("P0")
            || code.starts_with("22")
            || !(has_place || is_of_the_server(code) && is_without_values(code, said.message(), sql));
        let mut message = if values {
            general(code).to_owned()
        } else {
            said.message().to_owned()
        };
        // Those of class 08 say how another server was to be reached.
        let hidden = ["08", "22", "23", "P0"];
        let detail = said
            .detail()
            .filter(|_| !values && !hidden.iter().any(|class| code.starts_with(class)));
        let place = said
            .where_()
            .filter(|text| text.starts_with("PL/pgSQL function ") || text.starts_with("SQL function "));
        for more in [detail, place].into_iter().flatten() {
            message.push_str("; ");
            message.push_str(more.lines().next().unwrap_or_default());
        }
        if message.is_empty() {
            message.push_str(general(code));
        }
        if values {
            message.push_str(IN_THE_LOG);
        }
        Self {
            code: code.to_owned(),
            message,
            of_a_value: false,
        }
    }

    /// Of rows that the `COPY` of `sql` sent into `table`, which has these columns. Only what names the schema is quoted, and the row's
    /// number.
    pub(super) fn of_rows(said: &DbError, sql: &str, (table, columns): (&[u8], &[Vec<u8>])) -> Self {
        let code = said.code().code();
        let place = said.where_().and_then(|text| place(text, table, columns));
        // With a context the server had begun to take rows. The names that a value of one column stands for (regclass, tsquery), or
        // that a function makes of it, are values, whatever the class says.
        let within = said.where_().is_some();
        let of_a_value = within && (is_about_names(code) || matches!(place, Some((_, Some(_)))));
        // A check may find a name in a value too.
        let safe = SAFE.iter().any(|class| code.starts_with(class)) && !of_a_value;
        let safe = code == FORM || safe && is_without_values(code, said.message(), sql);
        // What a function says is its own, whatever the code; and what cannot be read may be that.
        let is_own = said.where_().is_none_or(|text| is_of_the_copy(text, table));
        let safe = safe && is_own;
        let mut message = if safe { said.message() } else { general(code) }.to_owned();
        let names = [("constraint", said.constraint()), ("column", said.column())];
        for (what, name) in names {
            if let Some(name) = name.filter(|_| is_own) {
                let _ = write!(message, "; {what} {}", display(name.as_bytes()));
            }
        }
        if let Some((row, column)) = place {
            let _ = write!(message, "; row {row}");
            if let (Some(column), None) = (column, said.column()) {
                let _ = write!(message, ", column {}", display(column));
            }
        }
        if !safe {
            message.push_str(IN_THE_LOG);
        }
        Self {
            code: code.to_owned(),
            message,
            of_a_value,
        }
    }
}

/// Where the rest of a message is.
const IN_THE_LOG: &str = " (the log of the target's server shows it)";

/// Whether an error is about a name that nothing has, or that may not be used.
fn is_about_names(code: &str) -> bool {
    code.starts_with("42") || code.starts_with("3F")
}

/// Classes of errors of rows whose messages name objects, resources or places.
const SAFE: [&str; 10] = ["08", "0A", "25", "3F", "42", "53", "54", "55", "57", "58"];

/// Classes of errors whose messages name no value: what class 23 says of one is a detail.
const WITHOUT_VALUES: [&str; 6] = ["23", "25", "40", "53", "55", "57"];

/// What stands between two names of a message.
const BETWEEN_NAMES: [&str; 5] = [
    "\" of relation \"",
    "\" of table \"",
    "\" for relation \"",
    "\" for table \"",
    "\" does not exist for access method \"",
];

/// What systems say of a file, at the end of a message.
const OF_A_FILE: [&str; 2] = [": No such file or directory", ": Permission denied"];

/// The error of rows whose text has not the form that it must have.
const FORM: &str = "22P04";

/// Whether an error has a class that the server itself gives to statements; what extensions raise has others, unless they say so.
fn is_of_the_server(code: &str) -> bool {
    let classes = SAFE.iter().chain(&WITHOUT_VALUES).chain(&["28", "2B"]);
    classes.into_iter().any(|class| code.starts_with(class))
}

/// What an error means in general.
fn general(code: &str) -> &'static str {
    match code {
        "23502" => "a column that must have a value has none",
        "23503" => "what a foreign key points to is not there",
        "23505" | "23P01" => "two rows have what only one may have",
        "23514" => "a row does not meet a check",
        "22021" | "22P05" => "a character has no place in an encoding",
        _ if code.starts_with("08") => "another server cannot be reached",
        _ if code.starts_with("0A") => "the server does not do what is asked of it",
        _ if code.starts_with("22") => "a value does not fit its type",
        _ if code.starts_with("23") => "a row violates a constraint",
        _ if code.starts_with("P0") => "a function of the database raised an error",
        _ if is_about_names(code) => "something has a name that is not there, or may not be used",
        _ if code.starts_with("53") => "the server has too little of something",
        _ if code.starts_with("54") => "something is larger than the server takes",
        _ if code.starts_with("57") => "the server was told to end it",
        _ if code.starts_with("58") => "the server's system does not give it a file",
        _ => "the server does not take it",
    }
}

/// Whether nothing in a message of the server's own can be a value.
fn is_without_values(code: &str, message: &str, sql: &str) -> bool {
    WITHOUT_VALUES.iter().any(|class| code.starts_with(class)) || is_about(message, sql)
}

/// Whether a message holds nothing but a server's own words and, in quotes, names that stand in the statement. A value has quotes where it
/// likes, so that all between the first and the last is looked at. Other languages quote otherwise, and are not read.
fn is_about(message: &str, sql: &str) -> bool {
    let message = OF_A_FILE
        .iter()
        .find_map(|end| message.strip_suffix(end))
        .unwrap_or(message);
    let (before, rest) = message.split_once('"').unwrap_or((message, ""));
    let (quoted, behind) = rest.rsplit_once('"').unwrap_or((rest, ""));
    let plain = sql.replace('"', "");
    let stands = |name: &str| stands(name, sql) || stands(name, &plain);
    let mut names = vec![quoted];
    for between in BETWEEN_NAMES {
        names = names.iter().flat_map(|name| name.split(between)).collect();
    }
    let is_number = |word: &&str| word.contains(|c: char| c.is_ascii_digit());
    let known = |word: &str| stands(word.trim_matches(|c| !is_of_a_word(c)));
    // What stands behind a colon is not quoted, and no number is.
    let own = |words: &str| {
        words.is_ascii() && !words.contains(':') && words.split_whitespace().filter(is_number).all(known)
    };
    own(before) && own(behind) && names.into_iter().all(stands)
}

/// Whether a name stands in a statement, and not only as a part of a word there.
fn stands(name: &str, sql: &str) -> bool {
    let whole = |(at, _): (usize, &str)| {
        let (before, rest) = sql.split_at(at);
        let behind = rest.get(name.len()..).unwrap_or_default();
        !before.ends_with(is_of_a_word) && !behind.starts_with(is_of_a_word)
    };
    name.is_empty() || sql.match_indices(name).any(whole)
}

fn is_of_a_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// The number of the row and its column that the context of an error names: `COPY orders, line 3, column note: "…"`. Other languages
/// than English are not read.
fn place<'a>(context: &str, table: &[u8], columns: &'a [Vec<u8>]) -> Option<(u64, Option<&'a [u8]>)> {
    let table = std::str::from_utf8(table).ok()?;
    let rest = context.lines().find_map(|line| {
        let rest = line.strip_prefix("COPY ")?.strip_prefix(table)?;
        rest.strip_prefix(", line ")
    })?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = rest.split_at_checked(digits)?;
    let column = rest.strip_prefix(", column ").and_then(|rest| {
        let named = |column: &&Vec<u8>| {
            let rest = rest.as_bytes().strip_prefix(column.as_slice());
            rest.is_some_and(|rest| rest.starts_with(b":"))
        };
        columns.iter().find(named)
    });
    Some((number.parse().ok()?, column.map(Vec::as_slice)))
}

/// Whether the context of an error says that the `COPY` itself found it, in no column: no function ran.
fn is_of_the_copy(context: &str, table: &[u8]) -> bool {
    let rest = context.strip_prefix("COPY ").and_then(|rest| {
        let rest = rest.strip_prefix(std::str::from_utf8(table).ok()?)?;
        Some(
            rest.strip_prefix(", line ")?
                .trim_start_matches(|c: char| c.is_ascii_digit()),
        )
    });
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_an_error_is_read_and_its_values_are_not() {
        let columns = [b"a".to_vec(), b"a: b".to_vec()];
        let at = |context| place(context, b"my, line 7", &columns);
        assert_eq!(at("COPY my, line 7, line 31: \"1\tsecret\""), Some((31, None)));
        assert_eq!(
            at("COPY my, line 7, line 2, column a: b: \"x\""),
            Some((2, Some(b"a".as_slice())))
        );
        assert_eq!(at("COPY my, line 7, line 2, column c: \"a: \""), Some((2, None)));
        assert_eq!(
            at("PL/pgSQL function f() line 3 at RAISE\nCOPY my, line 7, line 5"),
            Some((5, None))
        );
        assert_eq!(at("COPY other, line 5"), None);
        assert_eq!(at("COPY my, line 7, Zeile 5"), None);
    }

    #[test]
    fn only_names_of_the_statement_are_quoted() {
        let sql =
            "ALTER TABLE ONLY public.t ADD CONSTRAINT \"K\" FOREIGN KEY (a) REFERENCES public.\"U\"(b);";
        for message in [
            "relation \"public.U\" does not exist",
            "column \"a\" of relation \"t\" does not exist",
            "constraint \"K\" for relation \"t\" already exists",
            "invalid name syntax",
            "permission denied for table t",
            "could not access file \"public.U\": No such file or directory",
        ] {
            assert!(is_about(message, sql), "{message}");
        }
        for message in [
            "relation \"s3cret\" does not exist",
            "relation \"t\" s3cret \"t\" does not exist",
            "column \"t\" of relation \"s3cret\" does not exist",
            "cross-database references are not implemented: a.b.s3cret",
            "Relation »s3cret« existiert nicht",
            "relation \"s3cret",
            "relation \"ublic\" does not exist",
            "large object 1234 does not exist",
            "could not open file \"s3cret\" for reading: No such file or directory",
            "could not open file \"public.U\" for reading: s3cret",
        ] {
            assert!(!is_about(message, sql), "{message}");
        }
    }

    #[test]
    fn what_a_function_or_a_column_says_is_not_what_the_copy_says() {
        let of_the_copy = |context| is_of_the_copy(context, b"my, line 7");
        assert!(of_the_copy("COPY my, line 7, line 31"));
        assert!(of_the_copy("COPY my, line 7, line 31: \"1\tsecret\""));
        for other in [
            "COPY my, line 7, line 31, column a: \"secret\"",
            "COPY my, line 7, Zeile 31",
            "PL/pgSQL function f() line 3 at RAISE\nCOPY my, line 7, line 5",
            "COPY other, line 5",
            "",
        ] {
            assert!(!of_the_copy(other), "{other}");
        }
    }
}
