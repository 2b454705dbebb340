//! Names of SQL: as the server wants them, as people write them, and back.

use super::key::{Place, TableName};
use crate::error::{Error, ErrorKind, Result};

/// The longest name that is accepted, in bytes (`format-spec/64-databases.md`).
pub const NAME_MAX: usize = 1023;

/// A name in quotes, safe in any statement.
///
/// # Errors
/// `Unsupported` for a name that is not UTF-8: a statement could not hold it.
pub fn quote(name: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(name).map_err(|_| {
        Error::new(ErrorKind::Unsupported, "a name in the database is not UTF-8")
            .with("name", String::from_utf8_lossy(name))
            .hint("rename it, or leave it out with --exclude-table or --exclude-schema")
    })?;
    Ok(format!("\"{}\"", text.replace('"', "\"\"")))
}

/// A table's name with its schema, in quotes, safe in any statement.
///
/// # Errors
/// As [`quote`].
pub fn qualified(table: &TableName) -> Result<String> {
    Ok(format!("{}.{}", quote(&table.schema)?, quote(&table.table)?))
}

/// A text as a literal, whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        return format!("E'{}'", doubled.replace('\\', "\\\\"));
    }
    format!("'{doubled}'")
}

/// A name as people write it: in quotes only where SQL needs them. What is not UTF-8 is shown as well as it can be.
pub fn display(name: &[u8]) -> String {
    let plain_start = |b: &u8| b.is_ascii_lowercase() || *b == b'_';
    let plain = |b: &u8| plain_start(b) || b.is_ascii_digit() || *b == b'$';
    let text = String::from_utf8_lossy(name);
    if name.first().is_some_and(plain_start) && name.iter().all(plain) {
        return text.into_owned();
    }
    format!("\"{}\"", text.replace('"', "\"\""))
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", display(&self.schema), display(&self.table))
    }
}

/// What lists and messages call an entry of a database, and what `cat` takes for it.
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Database => f.write_str("database"),
            Self::Globals => f.write_str("0-globals"),
            Self::Schema => f.write_str("1-schema"),
            Self::Table(table) => table.fmt(f),
            Self::Segment(table, segment) => {
                write!(f, "{table} from block {}", segment.block)?;
                if segment.part > 0 {
                    write!(f, ", part {}", segment.part)?;
                }
                Ok(())
            }
            Self::LargeObject(oid) => write!(f, "3-large-objects/{oid}"),
            Self::Sequences => f.write_str("4-sequences"),
            Self::Constraints => f.write_str("5-constraints"),
            Self::Refresh => f.write_str("6-refresh"),
            Self::Report => f.write_str("7-tables"),
        }
    }
}

/// The parts of a name as people write it: `public.orders`, `"a.b".c`. As in SQL, what stands without quotes is meant in lower case.
///
/// # Errors
/// `Invalid` for an empty part, a quote that is not closed, a zero byte, or a part over [`NAME_MAX`].
pub fn parse(text: &str) -> Result<Vec<Vec<u8>>> {
    let wrong = |why: &str| {
        Error::new(ErrorKind::Invalid, format!("not a name of SQL: {why}"))
            .with("name", text)
            .hint("write it as SQL does: public.orders, or \"a.b\".c")
    };
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, after) = if let Some(quoted) = rest.strip_prefix('"') {
            unquote(quoted).ok_or_else(|| wrong("a quote is not closed"))?
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            let (part, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
            if part.contains('"') {
                return Err(wrong("a quote in the middle of a part"));
            }
            (part.to_ascii_lowercase(), after)
        };
        if part.is_empty() || part.len() > NAME_MAX || part.contains('\0') {
            return Err(wrong("a part that is empty, too long, or holds a zero byte"));
        }
        parts.push(part.into_bytes());
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(parts),
            None => return Err(wrong("a quote in the middle of a part")),
        }
    }
}

/// The table that a name means; without a schema it lies in `public`.
///
/// # Errors
/// As [`parse`], and for more than two parts.
pub fn parse_table(text: &str) -> Result<TableName> {
    let mut parts = parse(text)?;
    let table = parts.pop().unwrap_or_default();
    let schema = parts.pop().unwrap_or_else(|| b"public".to_vec());
    if parts.is_empty() {
        return Ok(TableName { schema, table });
    }
    Err(Error::new(ErrorKind::Invalid, "a table's name has two parts").with("name", text))
}

/// What stands in double quotes, of which the first is gone already, and what follows them; nothing if they are not closed.
pub(super) fn unquote(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"')?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_as_sql_reads_them() {
        let parts = |text: &str| -> Vec<String> {
            let parts = parse(text).unwrap();
            parts.into_iter().map(|p| String::from_utf8(p).unwrap()).collect()
        };
        assert_eq!(parts("public.orders"), ["public", "orders"]);
        assert_eq!(parts("Public.\"Orders\""), ["public", "Orders"]);
        assert_eq!(parts("\"a.b\".c"), ["a.b", "c"]);
        assert_eq!(parts("\"say \"\"hi\"\"\""), ["say \"hi\""]);
        assert_eq!(parse_table("orders").unwrap(), TableName::new("public", "orders"));
        for wrong in ["", ".", "a.", ".a", "\"a", "\"\"", "a\"b\"", "\"a\"b", "a\0b"] {
            assert_eq!(parse(wrong).unwrap_err().kind(), ErrorKind::Invalid, "{wrong:?}");
        }
        assert!(parse_table("a.b.c").is_err());
    }

    #[test]
    fn what_is_written_for_the_server_cannot_end_its_quotes() {
        assert_eq!(
            quote(b"a\"; DROP TABLE b; --").unwrap(),
            "\"a\"\"; DROP TABLE b; --\""
        );
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
        assert_eq!(quote(b"\xff").unwrap_err().kind(), ErrorKind::Unsupported);
    }

    proptest! {
        #[test]
        fn a_shown_name_means_the_name(schema in "[^\0]{1,20}", table in "[^\0]{1,20}") {
            let name = TableName::new(&schema, &table);
            prop_assert_eq!(parse_table(&name.to_string()).unwrap(), name.clone());
            prop_assert_eq!(parse_table(&qualified(&name).unwrap()).unwrap(), name);
        }
    }
}
