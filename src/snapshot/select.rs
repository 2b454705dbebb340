//! Which snapshot somebody means: a prefix of its name, `latest`, `latest:PROJECT`, `latest~2`; with `:path` behind it a place in it.

use crate::error::{Error, ErrorKind, Result};
use crate::format::id::SessionId;
use crate::format::snapshot::SnapshotRecord;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::str::FromStr;
use std::sync::Arc;

/// What somebody typed, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSpec {
    base: Base,
    /// How many snapshots before the one named.
    back: usize,
    /// The place inside it, as it was typed: paths need not be UTF-8.
    pub path: Option<OsString>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Base {
    Latest,
    LatestOf(String),
    Prefix(String),
}

/// What a snapshot must be like to be considered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// The host that wrote it.
    pub host: Option<String>,
    /// Its project.
    pub project: Option<String>,
    /// Tags: any of these groups, of a group all.
    pub tags: Vec<Vec<String>>,
}

impl SnapshotFilter {
    /// Whether a snapshot with these tags passes.
    pub fn passes(&self, snapshot: &SnapshotRecord, tags: &[String]) -> bool {
        self.host.as_ref().is_none_or(|host| *host == snapshot.host)
            && self
                .project
                .as_ref()
                .is_none_or(|project| Some(project) == snapshot.project.as_ref())
            && (self.tags.is_empty()
                || self
                    .tags
                    .iter()
                    .any(|all| all.iter().all(|tag| tags.contains(tag))))
    }
}

impl FromStr for SnapshotSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text.as_ref())
    }
}

impl SnapshotSpec {
    /// Takes apart what somebody typed.
    ///
    /// # Errors
    /// `Invalid` if it names no snapshot.
    pub fn parse(given: &OsStr) -> Result<Self> {
        // Only what is behind the last colon that counts may be other than text.
        let bytes = given.as_bytes();
        let text_end = bytes.utf8_chunks().next().map_or(0, |chunk| chunk.valid().len());
        let text = bytes
            .get(..text_end)
            .and_then(|valid| std::str::from_utf8(valid).ok());
        let text = text.unwrap_or_default();
        let rest = bytes.get(text_end..).unwrap_or_default();
        let mut spec = Self::parse_text(text, !rest.is_empty())?;
        if !rest.is_empty() {
            let mut path = spec.path.take().unwrap_or_default().into_vec();
            path.extend_from_slice(rest);
            spec.path = Some(OsString::from_vec(path));
        }
        Ok(spec)
    }

    /// Takes apart `text`; `cut` if a path in it goes on behind its end.
    fn parse_text(text: &str, cut: bool) -> Result<Self> {
        let invalid = || {
            Error::new(ErrorKind::Invalid, "this names no snapshot")
                .with("given", text)
                .hint("a prefix of a snapshot's id, `latest`, `latest:PROJECT`, `latest~2`; with `:/PATH` behind it a path inside")
        };
        let (name, mut path) = match text.split_once(':') {
            Some((name, path)) => (name, Some(path.to_owned())),
            None => (text, None),
        };
        let (name, mut back) = split_back(name).ok_or_else(invalid)?;
        let mut base = match name {
            "latest" => Base::Latest,
            hex if !hex.is_empty() && hex.len() <= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Base::Prefix(hex.to_ascii_lowercase())
            }
            _ => return Err(invalid()),
        };
        // `latest:PROJECT` and `latest:/path` share a sign; a path begins with a slash or holds one.
        if base == Base::Latest
            && let Some(rest) = path.clone()
            && !rest.starts_with('/')
        {
            let (project, inner) = match rest.split_once(':') {
                Some((project, inner)) => (project.to_owned(), Some(inner.to_owned())),
                None => (rest, None),
            };
            let (project, project_back) = split_back(&project).ok_or_else(invalid)?;
            if project.is_empty() {
                return Err(invalid());
            }
            base = Base::LatestOf(project.to_owned());
            back += project_back;
            path = inner;
        }
        if cut && path.is_none() {
            return Err(invalid());
        }
        let path = path.map(OsString::from);
        Ok(Self { base, back, path })
    }
}

fn split_back(name: &str) -> Option<(&str, usize)> {
    match name.split_once('~') {
        None => Some((name, 0)),
        Some((name, "")) => Some((name, 1)),
        Some((name, back)) => Some((name, back.parse().ok()?)),
    }
}

impl SnapshotSpec {
    /// The newest snapshot.
    pub fn latest() -> Self {
        Self {
            base: Base::Latest,
            back: 0,
            path: None,
        }
    }

    /// This, for what is done to whole snapshots.
    ///
    /// # Errors
    /// `Invalid` if it names a place inside a snapshot.
    pub fn whole(&self) -> Result<&Self> {
        match &self.path {
            None => Ok(self),
            Some(path) => Err(Error::new(
                ErrorKind::Invalid,
                "this is done to whole snapshots, and a path inside one is given",
            )
            .with("path", path.display())
            .hint("name the snapshot without a path")),
        }
    }

    /// The full name of a snapshot, if nothing else was typed.
    pub fn full_name(&self) -> Option<&str> {
        match &self.base {
            Base::Prefix(name) if name.len() == 32 && self.back == 0 && self.path.is_none() => Some(name),
            _ => None,
        }
    }

    /// Whether the id of this snapshot was typed, or its beginning.
    pub fn names(&self, sid: &SessionId) -> bool {
        matches!(&self.base, Base::Prefix(prefix) if sid.name().starts_with(prefix))
    }

    /// Whether a snapshot of which only the id is known may be the one that is meant.
    pub fn may_mean(&self, sid: &SessionId) -> bool {
        match &self.base {
            Base::Prefix(_) if self.back == 0 => self.names(sid),
            _ => true,
        }
    }

    /// Finds the snapshot among `snapshots`, which need no order. `filter` says which count for `latest` and `~`.
    ///
    /// # Errors
    /// `NotFound`, or `Invalid` for a prefix that several share.
    pub fn find(
        &self,
        snapshots: &[Arc<SnapshotRecord>],
        filter: &dyn Fn(&SnapshotRecord) -> bool,
    ) -> Result<Arc<SnapshotRecord>> {
        let mut ordered: Vec<&Arc<SnapshotRecord>> = snapshots.iter().filter(|s| filter(s)).collect();
        ordered.sort_by_key(|s| std::cmp::Reverse(age_key(s)));
        let from = match &self.base {
            Base::Latest => 0,
            Base::LatestOf(project) => {
                ordered.retain(|s| s.project.as_deref() == Some(project));
                0
            }
            Base::Prefix(prefix) => {
                let found = by_prefix(snapshots, prefix)?;
                if self.back == 0 {
                    return Ok(found);
                }
                // Back from a snapshot means within its series.
                ordered.retain(|s| {
                    s.host == found.host && s.project == found.project && s.sources == found.sources
                });
                ordered.iter().position(|s| s.sid == found.sid).unwrap_or(0)
            }
        };
        ordered
            .get(from + self.back)
            .map(|s| Arc::clone(s))
            .ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "there is no such snapshot")
                    .hint("`holdall list` shows those there are")
            })
    }
}

/// Newest last; ties are broken by the id, so that every machine has one order.
pub fn age_key(snapshot: &SnapshotRecord) -> (crate::context::Time, SessionId) {
    (snapshot.started, snapshot.sid)
}

fn by_prefix(snapshots: &[Arc<SnapshotRecord>], prefix: &str) -> Result<Arc<SnapshotRecord>> {
    let mut matching = snapshots.iter().filter(|s| s.sid.name().starts_with(prefix));
    match (matching.next(), matching.next()) {
        (Some(only), None) => Ok(only.clone()),
        (Some(_), Some(_)) => Err(
            Error::new(ErrorKind::Invalid, "several snapshots begin with this id")
                .with("given", prefix)
                .hint("give more of its digits"),
        ),
        _ => Err(Error::new(ErrorKind::NotFound, "there is no such snapshot")
            .with("given", prefix)
            .hint("`holdall list` shows those there are")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> SnapshotSpec {
        text.parse().unwrap()
    }

    #[test]
    fn what_people_type_is_taken_apart() {
        assert_eq!(parse("latest"), SnapshotSpec::latest());
        assert_eq!(parse("latest~2").back, 2);
        assert_eq!(parse("latest:/etc/hosts").path, Some("/etc/hosts".into()));
        assert_eq!(parse("latest:shop").base, Base::LatestOf("shop".into()));
        let spec = parse("latest:shop~1:/a:b");
        assert_eq!(
            (spec.base, spec.back, spec.path),
            (Base::LatestOf("shop".into()), 1, Some("/a:b".into()))
        );
        let spec = parse("AB12~:public.orders");
        assert_eq!(
            (spec.base, spec.back, spec.path),
            (Base::Prefix("ab12".into()), 1, Some("public.orders".into()))
        );
        let raw = SnapshotSpec::parse(OsStr::from_bytes(b"latest:/a/\xff\xfe/b")).unwrap();
        assert_eq!(raw.path.unwrap().as_bytes(), b"/a/\xff\xfe/b");
        for wrong in [&b"\xff"[..], b"lat\xff:/x", b"latest:sh\xffop"] {
            assert!(
                SnapshotSpec::parse(OsStr::from_bytes(wrong)).is_err(),
                "{wrong:?}"
            );
        }
        for wrong in ["", "xyz", "latest~x", "latest:", ":path"] {
            assert!(wrong.parse::<SnapshotSpec>().is_err(), "{wrong}");
        }
    }
}
