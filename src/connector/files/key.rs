//! Keys of files entries (`format-spec/62-files.md` section 1).

use crate::snapshot::entry::Key;

/// What every key of this connector starts with.
pub const PREFIX: &str = "files/";

/// What a name under which a restore writes starts with.
pub(super) const TEMPORARY: &[u8] = b".holdall-";

/// The longest name of one component, in bytes.
const NAME_MAX: usize = 255;

/// The key of an absolute path, given without its leading `/`; a directory's path ends with `/`.
pub fn key_of(path: &[u8]) -> Key {
    let mut key = Vec::with_capacity(PREFIX.len() + path.len());
    key.extend_from_slice(PREFIX.as_bytes());
    key.extend_from_slice(path);
    Key::new(key)
}

/// The path behind a key, without its leading `/`, unchecked: for listings, never for opening anything.
pub fn path_of(key: &Key) -> Option<&[u8]> {
    key.as_bytes().strip_prefix(PREFIX.as_bytes())
}

/// A key's path as checked components.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Components<'a> {
    /// Names from the top, none of them able to leave the directory it is looked up in.
    pub(super) names: Vec<&'a [u8]>,
    /// Whether the key is a directory's.
    pub(super) directory: bool,
}

/// Splits `path` (without leading `/`) into names that are safe to look up one by one.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn components(path: &[u8]) -> Result<Components<'_>, &'static str> {
    if path.is_empty() {
        return Ok(Components {
            names: Vec::new(),
            directory: true,
        });
    }
    let (body, directory) = match path.strip_suffix(b"/") {
        Some(body) => (body, true),
        None => (path, false),
    };
    let names: Vec<&[u8]> = body.split(|b| *b == b'/').collect();
    for name in &names {
        check_name(name)?;
    }
    Ok(Components { names, directory })
}

/// Checks one component.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn check_name(name: &[u8]) -> Result<(), &'static str> {
    match name {
        b"" => Err("its path has an empty component"),
        b"." | b".." => Err("its path has a `.` or `..` component"),
        name if name.contains(&0) => Err("its path holds a NUL byte"),
        name if name.len() > NAME_MAX => Err("a component of its path is longer than 255 bytes"),
        _ => Ok(()),
    }
}

/// Whether restores write under names like this one, `.holdall-` and 16 hex digits: nothing else may have such a name in a target.
/// In any case, because some file systems take `A` and `a` for the same name.
pub(super) fn is_temporary(name: &[u8]) -> bool {
    name.split_at_checked(TEMPORARY.len())
        .is_some_and(|(start, rest)| {
            start.eq_ignore_ascii_case(TEMPORARY)
                && rest.len() == 16
                && rest.iter().all(u8::is_ascii_hexdigit)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_puts_a_directory_before_what_it_holds_and_keeps_that_together() {
        let mut keys: Vec<Key> = ["a0", "a/", "a.b", "a/z", "a/b/", "a/b/c", "a-"]
            .iter()
            .map(|p| key_of(p.as_bytes()))
            .collect();
        keys.sort();
        let paths: Vec<_> = keys.iter().map(|k| path_of(k).unwrap()).collect();
        let expected: [&[u8]; 7] = [b"a-", b"a.b", b"a/", b"a/b/", b"a/b/c", b"a/z", b"a0"];
        assert_eq!(paths, expected);
    }

    #[test]
    fn hostile_paths_are_refused() {
        for path in [
            "..",
            "a/../b",
            "../",
            "./a",
            "a//b",
            "/etc/passwd",
            "/",
            "a/./",
            "a\0b",
            "a/..",
        ] {
            assert!(components(path.as_bytes()).is_err(), "{path:?}");
        }
        assert!(components(&[b'x'; 256]).is_err());
        assert_eq!(components(b"a/b/").unwrap().names, [b"a", b"b"]);
        assert!(components("\u{1b}[2J/..a/...".as_bytes()).is_ok());
    }
}
