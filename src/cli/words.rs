//! Splits a command line into words, without a shell: quotes and backslashes group, nothing is expanded.

use crate::error::{Error, ErrorKind, Result};

/// The words of `text`: `'…'` takes everything as it is, `"…"` and bare words know `\` before a character.
///
/// # Errors
/// `Invalid` for a quote that is not closed, and for no word at all. The message never holds the text: it may hold a secret.
pub(super) fn split(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => match chars.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => return Err(invalid("a command ends with a backslash")),
            },
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(invalid("a quote in a command is not closed"));
    }
    words.extend(word);
    if words.is_empty() {
        return Err(invalid("no command to run"));
    }
    Ok(words)
}

fn invalid(what: &str) -> Error {
    Error::new(ErrorKind::Invalid, what)
        .hint("a command is split into words at spaces; '…' and \"…\" group, and no shell sees it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_group_and_nothing_is_expanded() {
        let cases: [(&str, &[&str]); 6] = [
            ("pg_dump -d shop", &["pg_dump", "-d", "shop"]),
            ("  a\t'b c'  \"d e\" ", &["a", "b c", "d e"]),
            (r#"a'b'"c" d\ e \'f"#, &["abc", "d e", "'f"]),
            (
                r#"sh -c 'echo $HOME; "x" \n'"#,
                &["sh", "-c", r#"echo $HOME; "x" \n"#],
            ),
            (r#""a\"b" '' """#, &["a\"b", "", ""]),
            ("$HOME *", &["$HOME", "*"]),
        ];
        for (text, words) in cases {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
        for bad in ["", "  ", "'a", "\"a", "a\\"] {
            assert_eq!(split(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
    }
}
