//! `.pgpass`: lines of `host:port:database:user:password`, `*` for any, backslashes before colons and backslashes.

use crate::error::{Error, ErrorKind, Result};
use std::io::{ErrorKind as IoErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use zeroize::Zeroizing;

/// The largest file that is read, in bytes.
const SIZE_MAX: u64 = 1 << 20;

/// The entries of a password file.
#[derive(Clone, Default)]
pub(super) struct Passfile {
    lines: Zeroizing<String>,
}

impl Passfile {
    /// Reads the file, if it is there. As with libpq, one that others may read is not used; the second value says so.
    ///
    /// # Errors
    /// `Invalid` if it is there and cannot be read.
    pub(super) fn read(path: &Path) -> Result<(Self, Option<String>)> {
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Invalid, "cannot read the password file")
                .with("path", path.display())
                .because(error)
        };
        let data = match std::fs::metadata(path) {
            Ok(data) => data,
            Err(e) if matches!(e.kind(), IoErrorKind::NotFound | IoErrorKind::NotADirectory) => {
                return Ok((Self::default(), None));
            }
            Err(e) => return Err(failed(e)),
        };
        let ignored = |why: &str| {
            let note = format!("the password file {} is not used: {why}", path.display());
            Ok((Self::default(), Some(note)))
        };
        // `/dev/null` is how one says that there is none.
        if !data.is_file() {
            return if path == Path::new("/dev/null") {
                Ok((Self::default(), None))
            } else {
                ignored("it is not a plain file")
            };
        }
        if data.mode() & 0o077 != 0 {
            return ignored("others may read it; chmod 600 makes it usable");
        }
        if data.len() > SIZE_MAX {
            return ignored("it is larger than 1 MiB");
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
        std::fs::File::open(path)
            .and_then(|file| file.take(SIZE_MAX).read_to_end(&mut bytes))
            .map_err(failed)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => {
                let lines = Zeroizing::new(text.to_owned());
                Ok((Self { lines }, None))
            }
            Err(_) => ignored("it is not UTF-8"),
        }
    }

    /// The password of the first entry that fits. The host is `localhost` for the default socket directory.
    pub(super) fn find(
        &self,
        host: &str,
        port: u16,
        database: &str,
        user: &str,
    ) -> Option<Zeroizing<String>> {
        let port = port.to_string();
        let wanted = [host, &port, database, user];
        self.lines
            .lines()
            .filter(|line| !line.starts_with('#'))
            .find_map(|line| password(line, wanted))
    }
}

/// The password of a line, if its first four fields fit.
fn password(line: &str, wanted: [&str; 4]) -> Option<Zeroizing<String>> {
    let mut rest = line;
    for field in wanted {
        let (found, after) = cut(rest)?;
        if found != "*" && *unescape(found) != field {
            return None;
        }
        rest = after;
    }
    let end = cut(rest).map_or(rest, |(found, _)| found);
    Some(unescape(end)).filter(|password| !password.is_empty())
}

/// A field and what follows its colon.
fn cut(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let at = text.find(|c: char| {
        let ends = c == ':' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    let (field, rest) = text.split_at_checked(at)?;
    Some((field, rest.strip_prefix(':')?))
}

fn unescape(text: &str) -> Zeroizing<String> {
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    let mut letters = text.chars();
    while let Some(c) = letters.next() {
        plain.push(match c {
            '\\' => letters.next().unwrap_or('\\'),
            other => other,
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_gives_the_password() {
        let file = Passfile {
            lines: Zeroizing::new(
                "# a remark:5432:*:*:no\nshort:line\n\\*:1:a:b:star\nhost:5432:db:role:one\n\
                 host:*:*:ro\\:le:t\\:w\\\\o\n::1:5432:*:*:never\n\\:\\:1:5432:*:*:six\nlocalhost:*:*:*:rest:ignored\n*:*:*:nobody:\n"
                    .to_owned(),
            ),
        };
        let find = |host, port, database, user| {
            file.find(host, port, database, user)
                .map(|password| password.to_string())
        };
        assert_eq!(find("host", 5432, "db", "role").as_deref(), Some("one"));
        assert_eq!(find("host", 5433, "db", "role"), None);
        assert_eq!(find("host", 1, "x", "ro:le").as_deref(), Some(r"t:w\o"));
        assert_eq!(find("::1", 5432, "x", "y").as_deref(), Some("six"));
        assert_eq!(find("localhost", 9, "x", "y").as_deref(), Some("rest"));
        assert_eq!(find("other", 9, "x", "nobody"), None, "an empty password is none");
    }
}
