//! What a snapshot was asked for: paths, as a tree of their components, so that the walk visits each directory once and in
//! key order, and shows the way from `/` to each.

use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// A directory on the way to roots, or a root.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// Further down.
    pub(super) children: BTreeMap<Vec<u8>, Arc<Way>>,
    /// Whether everything below is asked for.
    pub(super) is_root: bool,
    /// Whether a link here is followed: the root was given with a trailing `/`.
    pub(super) follow: bool,
}

#[derive(Default)]
struct Growing {
    children: BTreeMap<Vec<u8>, Growing>,
    is_root: bool,
    follow: bool,
}

impl Way {
    /// The tree of `roots`.
    ///
    /// # Errors
    /// `Invalid` for a path that is relative, or has a `..`, or for no path at all.
    pub(super) fn new(roots: &[PathBuf]) -> Result<Arc<Self>> {
        if roots.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "no path to keep"));
        }
        let mut top = Growing::default();
        for root in roots {
            let mut at = &mut top;
            let invalid = |what| Err(Error::new(ErrorKind::Invalid, what).with("path", root.display()));
            if !root.is_absolute() {
                return invalid("path is not absolute");
            }
            for component in root.components() {
                match component {
                    Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                    Component::ParentDir => return invalid("path has a `..`"),
                    Component::Normal(name) => at = at.children.entry(name.as_bytes().to_vec()).or_default(),
                }
            }
            at.is_root = true;
            let bytes = root.as_os_str().as_bytes();
            at.follow |= bytes.ends_with(b"/") || bytes.ends_with(b"/.");
        }
        Ok(top.grown())
    }
}

impl Growing {
    fn grown(self) -> Arc<Way> {
        let children = self.children.into_iter().map(|(n, g)| (n, g.grown())).collect();
        Arc::new(Way {
            children,
            is_root: self.is_root,
            follow: self.follow,
        })
    }
}

/// The absolute form of a path that a user gave in `directory`. A `..` is taken as the system takes it: after the links before it
/// were followed. A link at the end stays a link.
///
/// # Errors
/// `NotFound` if a directory before a `..` is not there.
pub fn absolute(directory: &Path, given: &Path) -> Result<PathBuf> {
    let path = directory.join(given);
    let last_parent = path
        .components()
        .enumerate()
        .filter(|(_, c)| *c == Component::ParentDir)
        .last();
    let Some((at, _)) = last_parent else {
        return Ok(path);
    };
    let before: PathBuf = path.components().take(at + 1).collect();
    let before = fs_err::canonicalize(before)
        .map_err(|e| Error::new(ErrorKind::NotFound, "cannot resolve a path").because(e))?;
    let rest: PathBuf = path.components().skip(at + 1).collect();
    let mut out = if rest.as_os_str().is_empty() {
        before
    } else {
        before.join(rest)
    };
    if path.as_os_str().as_bytes().ends_with(b"/") {
        out.push("");
    }
    Ok(out)
}

/// The paths of a `--files-from` list: one a line, or NUL-separated if there is a NUL; empty lines and, in line form, lines that
/// start with `#` are skipped.
pub fn parse_files_from(list: &[u8]) -> Vec<PathBuf> {
    let nul = list.contains(&0);
    list.split(|b| *b == if nul { 0 } else { b'\n' })
        .map(|line| match (nul, line) {
            (false, line) => line.strip_suffix(b"\r").unwrap_or(line),
            (true, line) => line,
        })
        .filter(|line| !line.is_empty() && (nul || !line.starts_with(b"#")))
        .map(|line| PathBuf::from(OsStr::from_bytes(line)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_roots_share_their_way() {
        let way = Way::new(&["/a/b".into(), "/a".into(), "/c/./d/".into()]).unwrap();
        let a = &way.children[b"a".as_slice()];
        assert!(a.is_root && a.children[b"b".as_slice()].is_root);
        assert!(way.children[b"c".as_slice()].children[b"d".as_slice()].follow);
        for bad in ["a", "/a/../b"] {
            assert_eq!(Way::new(&[bad.into()]).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn relative_paths_resolve_as_the_system_does() {
        let dir = tempfile::tempdir().unwrap();
        let base = fs_err::canonicalize(dir.path()).unwrap();
        fs_err::create_dir_all(base.join("real/inner")).unwrap();
        fs_err::os::unix::fs::symlink("real/inner", base.join("link")).unwrap();
        assert_eq!(
            absolute(&base, Path::new("link/../x")).unwrap(),
            base.join("real/x")
        );
        assert_eq!(absolute(&base, Path::new("link")).unwrap(), base.join("link"));
        assert!(absolute(&base, Path::new("gone/../x")).is_err());
    }

    #[test]
    fn lists_are_lines_or_nul_separated() {
        let lines = parse_files_from(b"/a\n\n# no\r\n/b c\r\n");
        assert_eq!(lines, [PathBuf::from("/a"), "/b c".into()]);
        let nuls = parse_files_from(b"/a\n\0#b\0");
        assert_eq!(nuls, [PathBuf::from("/a\n"), "#b".into()]);
    }
}
