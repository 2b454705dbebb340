//! Connection strings in both of libpq's forms: `postgres://` URLs and `key=value` pairs. No message holds anything of a value: what is
//! wrong in a string may be a password that was not escaped.

use super::parameters::Parameters;
use crate::error::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

/// The longest string that is read, in bytes.
const LENGTH_MAX: usize = 64 << 10;

/// What a connection string says.
///
/// # Errors
/// `Invalid` if it cannot be read, `Unsupported` for what is not done here.
pub(super) fn parse(text: &str) -> Result<Parameters> {
    if text.len() > LENGTH_MAX {
        return Err(wrong("it is longer than 64 KiB"));
    }
    if text.contains('\0') {
        return Err(wrong("it holds a zero byte"));
    }
    match text
        .strip_prefix("postgresql://")
        .or_else(|| text.strip_prefix("postgres://"))
    {
        Some(rest) => parse_url(rest),
        None => parse_pairs(text),
    }
}

/// libpq's `conninfo_uri_parse_options`. The first `@` before a `/` ends the user and password, and the first `:` in front of it
/// the user.
fn parse_url(text: &str) -> Result<Parameters> {
    let mut all = Parameters::default();
    let (authority, path, query) = cut(text)?;
    let hosts = match authority.split_once('@') {
        Some((login, hosts)) => {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            store(&mut all, "user", user)?;
            store(&mut all, "password", password)?;
            hosts
        }
        None => authority,
    };
    if hosts.contains('@') {
        return Err(wrong("there is more than one @ before the host")
            .hint("write an @ in the user or the password as %40"));
    }
    let (names, ports) = hosts_and_ports(hosts)?;
    store(&mut all, "host", &names)?;
    store(&mut all, "port", &ports)?;
    store(&mut all, "dbname", path)?;
    for pair in query.split('&').filter(|_| !query.is_empty()) {
        let (name, value) = pair
            .split_once('=')
            .filter(|(_, value)| !value.contains('='))
            .ok_or_else(|| wrong("what follows the ? is not a list of NAME=VALUE"))?;
        let (name, value) = (decode(name)?, decode(value)?);
        // What JDBC says for it.
        let (name, value) = match (name.as_str(), value.as_str()) {
            ("ssl", "true") => ("sslmode", Zeroizing::new("require".to_owned())),
            (name, _) => (name, value),
        };
        all.set(name, value)?;
    }
    Ok(all)
}

/// A URL behind its scheme: user, password, hosts and ports; the path; the query.
fn cut(text: &str) -> Result<(&str, &str, &str)> {
    // A `?` may stand in a password, so the user's part is looked for first.
    let login = text
        .find(['@', '/'])
        .filter(|at| text.as_bytes().get(*at) == Some(&b'@'));
    let from = login.map_or(0, |at| at + 1);
    let rest = text.get(from..).unwrap_or_default();
    let end = rest
        .find(['/', '?'])
        .map_or(text.len(), |at| from.saturating_add(at));
    let (authority, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = path.strip_prefix('/').unwrap_or(path);
    if login.is_none() && path.contains('@') {
        return Err(wrong("there is an @ behind the first /").hint(
            "write a / in the user or the password as %2F, and an @ in the name of the database as %40",
        ));
    }
    Ok((authority, path, query))
}

/// `HOST[:PORT]` separated by commas, as the lists that `host` and `port` are.
fn hosts_and_ports(text: &str) -> Result<(String, String)> {
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    let mut rest = text;
    loop {
        let name;
        if let Some(inner) = rest.strip_prefix('[') {
            let (address, after) = inner
                .split_once(']')
                .filter(|(address, _)| !address.is_empty())
                .ok_or_else(|| wrong("an address in brackets is not complete"))?;
            if !after.is_empty() && !after.starts_with([':', ',']) {
                return Err(wrong("something follows an address in brackets"));
            }
            (name, rest) = (address, after);
        } else {
            let end = rest.find([':', ',']).unwrap_or(rest.len());
            (name, rest) = rest.split_at_checked(end).unwrap_or((rest, ""));
        }
        let end = rest.find(',').unwrap_or(rest.len());
        let (port, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        names.push(name);
        ports.push(port.strip_prefix(':').unwrap_or(port));
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => break,
        }
    }
    let ports = if ports.iter().all(|port| port.is_empty()) {
        String::new()
    } else {
        ports.join(",")
    };
    Ok((names.join(","), ports))
}

fn store(all: &mut Parameters, name: &str, value: &str) -> Result<()> {
    if value.is_empty() {
        return Ok(());
    }
    all.set(name, decode(value)?)
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let value = digit().zip(digit()).map(|(high, low)| high * 16 + low);
        match value.and_then(|value| u8::try_from(value).ok()) {
            Some(0) => return Err(wrong("it holds %00")),
            Some(value) => bytes.push(value),
            None => {
                return Err(wrong("a % is not followed by two hexadecimal digits")
                    .hint("write a % in the user or the password as %25"));
            }
        }
    }
    std::str::from_utf8(&bytes)
        .map(|text| Zeroizing::new(text.to_owned()))
        .map_err(|_| wrong("it is not UTF-8 when its escapes are undone"))
}

/// libpq's `conninfo_parse`: `key = value` pairs, values in single quotes where they hold spaces, backslashes before quotes and
/// backslashes.
fn parse_pairs(text: &str) -> Result<Parameters> {
    let mut all = Parameters::default();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| c == '=' || c.is_whitespace())
            .unwrap_or(rest.len());
        let (name, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let after = after.trim_start().strip_prefix('=').ok_or_else(|| {
            wrong("a parameter has no value")
                .hint("postgres://USER@HOST:PORT/DATABASE, or host=HOST port=PORT user=USER dbname=DATABASE")
        })?;
        let (value, after) = value(after.trim_start())?;
        all.set(name, value)?;
        rest = after.trim_start();
    }
    Ok(all)
}

/// A value at the front of the text, and what follows it.
fn value(text: &str) -> Result<(Zeroizing<String>, &str)> {
    let quoted = text.strip_prefix('\'');
    let mut value = Zeroizing::new(String::with_capacity(text.len()));
    let mut letters = quoted.unwrap_or(text).chars();
    loop {
        let before = letters.as_str();
        match letters.next() {
            None if quoted.is_some() => return Err(wrong("a quote is not closed")),
            None => return Ok((value, "")),
            Some('\'') if quoted.is_some() => return Ok((value, letters.as_str())),
            Some(c) if quoted.is_none() && c.is_whitespace() => return Ok((value, before)),
            Some('\\') => value.extend(letters.next()),
            Some(c) => value.push(c),
        }
    }
}

fn wrong(why: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("this is no connection string of PostgreSQL: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, names: &[&str]) -> Vec<String> {
        let all = parse(text).unwrap();
        names
            .iter()
            .map(|name| all.get(name).unwrap_or_default().to_owned())
            .collect()
    }

    /// The examples of the manual, and the tests of libpq (`src/interfaces/libpq/t/001_uri.pl`).
    #[test]
    fn urls_are_read_as_libpq_reads_them() {
        let names = ["user", "password", "host", "port", "dbname"];
        for (text, expected) in [
            (
                "postgresql://uri-user:secret@host:12345/db",
                ["uri-user", "secret", "host", "12345", "db"],
            ),
            (
                "postgresql://uri-user@host:12345/db",
                ["uri-user", "", "host", "12345", "db"],
            ),
            ("postgresql://uri-user@/db", ["uri-user", "", "", "", "db"]),
            ("postgresql://host", ["", "", "host", "", ""]),
            ("postgresql://", ["", "", "", "", ""]),
            ("postgresql://?hostaddr=127.0.0.1", ["", "", "", "", ""]),
            (
                "postgresql://host/db?user=uri-user",
                ["uri-user", "", "host", "", "db"],
            ),
            (
                "postgresql://host:123/?user=uri-user",
                ["uri-user", "", "host", "123", ""],
            ),
            ("postgresql://[::1]:12345/db", ["", "", "::1", "12345", "db"]),
            (
                "postgresql://[2001:db8::1234]",
                ["", "", "2001:db8::1234", "", ""],
            ),
            (
                "postgresql://%68ost/%64b?%75ser=uri-user",
                ["uri-user", "", "host", "", "db"],
            ),
            ("postgres://@host", ["", "", "host", "", ""]),
            ("postgres://host:/db", ["", "", "host", "", "db"]),
            ("postgres://:12345/", ["", "", "", "12345", ""]),
            (
                "postgres://otheruser@?host=/no/such",
                ["otheruser", "", "/no/such", "", ""],
            ),
            ("postgres://%2Fvar%2Frun/db", ["", "", "/var/run", "", "db"]),
            ("postgres://a:1,b:2,c/db", ["", "", "a,b,c", "1,2,", "db"]),
            ("postgres://u:p?q#%40:%2F@h/d", ["u", "p?q#@:/", "h", "", "d"]),
            ("postgres://host?sslmode=disable", ["", "", "host", "", ""]),
        ] {
            assert_eq!(read(text, &names), expected, "{text}");
        }
        assert_eq!(read("postgres://h?ssl=true", &["sslmode"]), ["require"]);
    }

    #[test]
    fn pairs_are_read_as_libpq_reads_them() {
        let names = ["host", "password", "dbname"];
        for (text, expected) in [
            ("host=a dbname = 'b c'", ["a", "", "b c"]),
            (r"password='it\'s \\ me' host = h", ["h", r"it's \ me", ""]),
            (r"password=a\ b'c", ["", "a b'c", ""]),
            ("host='' dbname=d", ["", "", "d"]),
            ("  ", ["", "", ""]),
        ] {
            assert_eq!(read(text, &names), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_a_word_of_it() {
        for text in [
            "postgres://u:hunter2@x@host/db",
            "postgres://u:hunter2/x@host/db",
            "postgres://u:hunter2%zz@host/db",
            "postgres://u:hunter2%00@host/db",
            "postgres://u:p@host/db?hunter2",
            "postgres://u:p@host/db?Hunter2=1",
            "postgres://u:p@[::1]hunter2/db",
            "postgres://u:p@[::1",
            "postgres://u:p@host/db?a=b=hunter2",
            "password='hunter2",
            "password hunter2",
            "hunter2",
            "host=a \u{0}hunter2",
        ] {
            let error = parse(text).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            let said = format!("{error} {error:?} {:?}", error.advice()).to_lowercase();
            assert!(!said.contains("hunter2"), "{said}");
        }
        let error = parse("postgres://u@host/db?pgbouncer=true").err().unwrap();
        assert_eq!(error.context("parameter"), Some("pgbouncer"));
        let error = parse("sslpassword=x").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
