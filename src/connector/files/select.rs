//! Patterns: what a source leaves out, and what a restore or a listing picks. Both follow `.gitignore`.

use crate::error::{Error, ErrorKind, Result};
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Globs that pick paths of a snapshot. A directory that is picked is picked with all that it holds.
#[derive(Clone, Debug)]
pub struct Select {
    include: Globs,
    exclude: Globs,
}

/// Globs, and names that are no UTF-8.
#[derive(Clone, Debug)]
struct Globs {
    globs: Gitignore,
    names: Vec<Name>,
}

/// A pattern that is no UTF-8: no glob can hold such bytes, so it is taken literally.
#[derive(Clone, Debug)]
struct Name {
    /// Without slashes at its ends.
    bytes: Vec<u8>,
    anchored: bool,
    directory: bool,
}

impl Select {
    /// Picks what matches one of `include` (or everything if that is empty) and none of `exclude`. A pattern with a `/` before its
    /// end is anchored at `/`; one without matches a name at any depth. A pattern that is not UTF-8 is no glob but a name.
    ///
    /// # Errors
    /// `Invalid` for a glob that cannot be parsed, and for one that is not UTF-8.
    pub fn new(include: &[impl AsRef<OsStr>], exclude: &[impl AsRef<OsStr>]) -> Result<Self> {
        Ok(Self {
            include: Globs::new(include)?,
            exclude: Globs::new(exclude)?,
        })
    }

    /// Picks everything.
    pub fn everything() -> Self {
        Self {
            include: Globs::empty(),
            exclude: Globs::empty(),
        }
    }

    /// Whether it picks everything.
    pub fn is_everything(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether `path` (absolute, without its leading and without a trailing `/`) is picked.
    pub fn picks(&self, path: &[u8], is_directory: bool) -> bool {
        if self.is_everything() {
            return true;
        }
        if path.starts_with(b"/") {
            return false;
        }
        let hit = |globs: &Globs| globs.hit(path, is_directory);
        (self.include.is_empty() || hit(&self.include)) && !hit(&self.exclude)
    }
}

impl Globs {
    fn empty() -> Self {
        Self {
            globs: Gitignore::empty(),
            names: Vec::new(),
        }
    }

    fn new(lines: &[impl AsRef<OsStr>]) -> Result<Self> {
        let (mut text, mut names) = (Vec::new(), Vec::new());
        for line in lines {
            let line = line.as_ref();
            match line.to_str() {
                Some(line) => text.push(line.to_owned()),
                None => names.push(Name::new(line)?),
            }
        }
        let globs = patterns(&text)?;
        Ok(Self { globs, names })
    }

    fn is_empty(&self) -> bool {
        self.globs.is_empty() && self.names.is_empty()
    }

    /// Whether they match `path` or a directory above it.
    fn hit(&self, path: &[u8], is_directory: bool) -> bool {
        let as_path = Path::new(OsStr::from_bytes(path));
        let matched = self.globs.matched_path_or_any_parents(as_path, is_directory);
        matches!(matched, Match::Ignore(_)) || self.names.iter().any(|name| name.hits(path, is_directory))
    }
}

impl Name {
    fn new(line: &OsStr) -> Result<Self> {
        let line = line.as_bytes();
        if line.iter().any(|b| b"*?[]\\!#".contains(b)) {
            let what = "a pattern that is not UTF-8 is taken as a name, and must have no sign of a glob";
            return Err(Error::new(ErrorKind::Invalid, what).with("pattern", String::from_utf8_lossy(line)));
        }
        let (bytes, directory) = match line.strip_suffix(b"/") {
            Some(bytes) => (bytes, true),
            None => (line, false),
        };
        Ok(Self {
            anchored: bytes.contains(&b'/'),
            bytes: bytes.strip_prefix(b"/").unwrap_or(bytes).to_vec(),
            directory,
        })
    }

    fn hits(&self, path: &[u8], is_directory: bool) -> bool {
        let above = path
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(at, _)| (at, true));
        above.chain([(path.len(), is_directory)]).any(|(end, directory)| {
            let prefix = path.get(..end).unwrap_or_default();
            let last = prefix.rsplit(|b| *b == b'/').next().unwrap_or_default();
            let found = if self.anchored { prefix } else { last };
            (directory || !self.directory) && found == self.bytes
        })
    }
}

impl Default for Select {
    fn default() -> Self {
        Self::everything()
    }
}

/// What a files source leaves out of the roots it was given. The roots themselves are never left out.
#[derive(Clone, Debug, Default)]
pub struct Excludes {
    /// `.gitignore` lines, anchored at each root; later lines win over earlier ones.
    pub patterns: Vec<String>,
    /// Files of such lines, read before `patterns`.
    pub pattern_files: Vec<PathBuf>,
    /// `NAME` or `NAME:HEADER`: a directory that holds a file NAME (which starts with HEADER) is kept with that file only.
    pub if_present: Vec<String>,
    /// The same for `CACHEDIR.TAG` with its signature.
    pub caches: bool,
    /// Regular files larger than so many bytes are left out.
    pub larger_than: Option<u64>,
}

/// The signature of <https://bford.info/cachedir/>.
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// A file that marks its directory.
#[derive(Clone, Debug)]
pub(super) struct Tag {
    pub(super) name: Vec<u8>,
    pub(super) header: Vec<u8>,
}

/// [`Excludes`], compiled.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    patterns: Gitignore,
    pub(super) tags: Vec<Tag>,
    pub(super) larger_than: Option<u64>,
}

impl Filter {
    /// Reads the pattern files and compiles all patterns.
    pub(super) fn new(excludes: &Excludes) -> Result<Self> {
        let mut lines = Vec::new();
        for path in &excludes.pattern_files {
            let text = fs_err::read_to_string(path)
                .map_err(|e| Error::new(ErrorKind::Invalid, "cannot read exclude patterns").because(e))?;
            lines.extend(text.lines().map(str::to_owned));
        }
        lines.extend_from_slice(&excludes.patterns);
        let mut tags = Vec::new();
        if excludes.caches {
            tags.push(Tag {
                name: b"CACHEDIR.TAG".to_vec(),
                header: CACHE_SIGNATURE.to_vec(),
            });
        }
        for spec in &excludes.if_present {
            let (name, header) = spec.split_once(':').unwrap_or((spec, ""));
            if super::key::check_name(name.as_bytes()).is_err() || name.contains('/') {
                return Err(Error::new(ErrorKind::Invalid, "not the name of a file").with("name", spec));
            }
            tags.push(Tag {
                name: name.into(),
                header: header.into(),
            });
        }
        Ok(Self {
            patterns: patterns(&lines)?,
            tags,
            larger_than: excludes.larger_than,
        })
    }

    /// Whether `relative` to its root is left out. The directories above it are known not to be.
    pub(super) fn excludes(&self, relative: &[u8], is_directory: bool) -> bool {
        !self.patterns.is_empty()
            && self
                .patterns
                .matched(OsStr::from_bytes(relative), is_directory)
                .is_ignore()
    }
}

fn patterns(lines: &[String]) -> Result<Gitignore> {
    // The root `.` is never stripped from a path: all paths are relative already.
    let mut builder = GitignoreBuilder::new(".");
    let invalid = |error: ignore::Error, line: &str| {
        Error::new(ErrorKind::Invalid, "pattern cannot be parsed")
            .with("pattern", line)
            .because(error)
    };
    for line in lines {
        builder.add_line(None, line).map_err(|e| invalid(e, line))?;
    }
    builder.build().map_err(|e| invalid(e, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(patterns: &[&str]) -> Filter {
        Filter::new(&Excludes {
            patterns: patterns.iter().map(ToString::to_string).collect(),
            ..Excludes::default()
        })
        .unwrap()
    }

    #[test]
    fn patterns_follow_gitignore() {
        let cases: [(&[&str], &str, bool, bool); 17] = [
            (&["*.o"], "a/b.o", false, true),
            (&["*.o"], "a/b.c", false, false),
            (&["/a.o"], "a.o", false, true),
            (&["/a.o"], "x/a.o", false, false),
            (&["x/a"], "y/x/a", false, false),
            (&["x/a"], "x/a", false, true),
            (&["cache/"], "cache", false, false),
            (&["cache/"], "deep/cache", true, true),
            (&["**/tmp"], "a/b/tmp", true, true),
            (&["a/**/z"], "a/b/c/z", false, true),
            (&["*.log", "!keep.log"], "keep.log", false, false),
            (&["!keep.log", "*.log"], "keep.log", false, true),
            (&["# no", ""], "# no", false, false),
            (&["\\#yes"], "#yes", false, true),
            (&["[ab]?c"], "bxc", false, true),
            (&["a*"], "x/ab/c", false, false),
            (&["a\\ "], "a ", false, true),
        ];
        for (patterns, path, dir, excluded) in cases {
            assert_eq!(
                filter(patterns).excludes(path.as_bytes(), dir),
                excluded,
                "{patterns:?} {path}"
            );
        }
    }

    #[test]
    fn a_selection_takes_directories_whole_and_exclude_wins() {
        let select = |i: &[&str], e: &[&str]| {
            let own = |l: &[&str]| l.iter().map(ToString::to_string).collect::<Vec<_>>();
            Select::new(&own(i), &own(e)).unwrap()
        };
        let s = select(&["/home/anna", "*.sql"], &["*.tmp", "/home/anna/.cache/"]);
        let cases: [(&[u8], bool, bool); 7] = [
            (b"home/anna/x/y", false, true),
            (b"home/anna/x/y.tmp", false, false),
            (b"home/anna/.cache/deep/f", false, false),
            (b"home/bert/x", false, false),
            (b"srv/db.sql", false, true),
            (b"home", true, false),
            (b"home/anna/\xff", false, true),
        ];
        for (path, dir, picked) in cases {
            assert_eq!(s.picks(path, dir), picked, "{}", String::from_utf8_lossy(path));
        }
        assert!(select(&[], &[]).picks(b"x", false));
        assert!(Select::new(&["a{"], &[""; 0]).is_err());
        let raw = |pattern: &[u8]| Select::new(&[OsStr::from_bytes(pattern)], &[""; 0]);
        let cases: [(&[u8], &[u8], bool); 6] = [
            (b"\xff", b"a/\xff/b", true),
            (b"\xff", b"a/\xfe", false),
            (b"/a/\xff", b"a/\xff/b", true),
            (b"/\xff", b"a/\xff", false),
            (b"\xff/", b"a/\xff", false),
            (b"\xff/", b"a/\xff/b", true),
        ];
        for (pattern, path, picked) in cases {
            assert_eq!(raw(pattern).unwrap().picks(path, false), picked, "{pattern:?}");
        }
        assert!(raw(b"*\xff").is_err());
    }
}
