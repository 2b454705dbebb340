//! Metadata and state of files entries (`format-spec/62-files.md` sections 3 and 4).

use super::xattrs::Xattrs;
use crate::context::Time;
use crate::format::error::DecodeError;
use crate::snapshot::entry::{EntryKind, Key, Metadata, Value};
use bytes::Bytes;

/// How much older than the parent's start a file's times must be to prove it unchanged, in seconds.
const MARGIN_SECONDS: i64 = 2;

/// Everything a Unix file has beside its name and content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, `st_mode & 0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The owner's name, if it was known.
    pub user: Option<String>,
    /// The group's name, if it was known.
    pub group: Option<String>,
    /// Modification time.
    pub mtime: Time,
    /// The target of a symbolic link.
    pub target: Option<Vec<u8>>,
    /// Of a hard link: the key of the name that has the content, and that entry's kind.
    pub first: Option<(Key, EntryKind)>,
    /// Of a device: major and minor number.
    pub device: Option<(u32, u32)>,
    /// Extended attributes, ascending by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Names that the file had, at least 1.
    pub names: u64,
    /// Of a directory: names of it may be missing from the snapshot.
    pub partial: bool,
}

const MODE: u64 = 1;
const UID: u64 = 2;
const GID: u64 = 3;
const USER: u64 = 4;
const GROUP: u64 = 5;
const MTIME: u64 = 6;
const MTIME_NANOS: u64 = 7;
const TARGET: u64 = 8;
const FIRST: u64 = 9;
const MAJOR: u64 = 10;
const MINOR: u64 = 11;
const XATTRS: u64 = 12;
const NAMES: u64 = 13;
const PARTIAL: u64 = 14;
const FIRST_KIND: u64 = 15;

impl Attributes {
    /// Their encoding.
    ///
    /// # Errors
    /// `OverLimit` if the extended attributes are larger than metadata may be.
    pub fn to_metadata(&self) -> Result<Metadata, DecodeError> {
        let mut fields = vec![
            (MODE, Value::Int(self.mode.into())),
            (UID, Value::Int(self.uid.into())),
            (GID, Value::Int(self.gid.into())),
        ];
        let text = |value: &Option<String>| value.clone().map(Value::Text);
        fields.extend(text(&self.user).map(|v| (USER, v)));
        fields.extend(text(&self.group).map(|v| (GROUP, v)));
        fields.push((MTIME, Value::Int(self.mtime.seconds)));
        if self.mtime.nanos != 0 {
            fields.push((MTIME_NANOS, Value::Int(self.mtime.nanos.into())));
        }
        fields.extend(self.target.clone().map(|t| (TARGET, Value::Bytes(t))));
        if let Some((first, _)) = &self.first {
            fields.push((FIRST, Value::Bytes(first.as_bytes().to_vec())));
        }
        if let Some((major, minor)) = self.device {
            fields.push((MAJOR, Value::Int(major.into())));
            fields.push((MINOR, Value::Int(minor.into())));
        }
        if !self.xattrs.is_empty() {
            let pair = |(name, value): &(Vec<u8>, Vec<u8>)| {
                Value::List(vec![Value::Bytes(name.clone()), Value::Bytes(value.clone())])
            };
            fields.push((XATTRS, Value::List(self.xattrs.iter().map(pair).collect())));
        }
        if self.names > 1 {
            let names = i64::try_from(self.names).unwrap_or(i64::MAX);
            fields.push((NAMES, Value::Int(names)));
        }
        if self.partial {
            fields.push((PARTIAL, Value::Bool(true)));
        }
        if let Some((_, kind)) = &self.first {
            fields.push((FIRST_KIND, Value::Int(i64::from(*kind as u8))));
        }
        Metadata::new(&fields)
    }

    /// Reads them back, checking everything that a restore relies on.
    ///
    /// # Errors
    /// `Invalid` or any other class of [`DecodeError`].
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, DecodeError> {
        let mut out = Self {
            names: 1,
            ..Self::default()
        };
        let (mut first, mut first_kind, mut major, mut minor) = (None, None, None, None);
        for (number, value) in metadata.fields()? {
            match (number, value) {
                (MODE, Value::Int(v)) => out.mode = ranged(v, 0o7777)?,
                (UID, Value::Int(v)) => out.uid = ranged(v, u32::MAX - 1)?,
                (GID, Value::Int(v)) => out.gid = ranged(v, u32::MAX - 1)?,
                (USER, Value::Text(v)) => out.user = Some(v),
                (GROUP, Value::Text(v)) => out.group = Some(v),
                (MTIME, Value::Int(v)) => out.mtime.seconds = v,
                (MTIME_NANOS, Value::Int(v)) => out.mtime.nanos = ranged(v, 999_999_999)?,
                (TARGET, Value::Bytes(v)) if !v.is_empty() && !v.contains(&0) => out.target = Some(v),
                (FIRST, Value::Bytes(v)) => first = Some(Key::new(v)),
                (MAJOR, Value::Int(v)) => major = Some(ranged(v, u32::MAX)?),
                (MINOR, Value::Int(v)) => minor = Some(ranged(v, u32::MAX)?),
                (XATTRS, Value::List(v)) => out.xattrs = xattrs(v)?,
                (NAMES, Value::Int(v)) => out.names = u64::try_from(v).map_err(|_| FIELD)?,
                (PARTIAL, Value::Bool(v)) => out.partial = v,
                (FIRST_KIND, Value::Int(v)) => {
                    first_kind = Some(EntryKind::from_number(u64::try_from(v).map_err(|_| FIELD)?)?);
                }
                _ => return Err(FIELD),
            }
        }
        out.device = major.zip(minor);
        out.first = first.zip(first_kind);
        Ok(out)
    }
}

const FIELD: DecodeError = DecodeError::Invalid("metadata of a file");

fn ranged(value: i64, max: u32) -> Result<u32, DecodeError> {
    u32::try_from(value).ok().filter(|v| *v <= max).ok_or(FIELD)
}

fn xattrs(values: Vec<Value>) -> Result<Xattrs, DecodeError> {
    let mut out = Xattrs::with_capacity(values.len().min(64));
    for value in values {
        let Value::List(pair) = value else {
            return Err(FIELD);
        };
        let [Value::Bytes(name), Value::Bytes(value)] = pair.as_slice() else {
            return Err(FIELD);
        };
        if name.is_empty() || name.contains(&0) || out.last().is_some_and(|(last, _)| last >= name) {
            return Err(FIELD);
        }
        out.push((name.clone(), value.clone()));
    }
    Ok(out)
}

/// What is compared to prove a file unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) size: u64,
    pub(super) mtime: Time,
    pub(super) ctime: Time,
    pub(super) inode: u64,
}

impl State {
    /// The fixed-width encoding.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(41);
        out.push(1);
        out.extend_from_slice(&self.size.to_le_bytes());
        for time in [self.mtime, self.ctime] {
            out.extend_from_slice(&time.seconds.to_le_bytes());
            out.extend_from_slice(&time.nanos.to_le_bytes());
        }
        out.extend_from_slice(&self.inode.to_le_bytes());
        out.into()
    }

    /// Whether the same state in the parent is proof: a file that was written within one tick of the clock before and after
    /// the parent read it has the same times and other content.
    pub(super) fn proves(&self, parent_started: Time) -> bool {
        let limit = parent_started.seconds.saturating_sub(MARGIN_SECONDS);
        self.mtime.seconds < limit && self.ctime.seconds < limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Attributes {
        Attributes {
            mode: 0o4755,
            uid: 1000,
            gid: 100,
            user: Some("anna".into()),
            group: Some("users".into()),
            mtime: Time {
                seconds: -5,
                nanos: 999_999_999,
            },
            target: Some(b"\xff/x".to_vec()),
            first: Some(("files/a".into(), EntryKind::Symlink)),
            device: Some((8, 1)),
            xattrs: vec![(b"user.a".to_vec(), vec![]), (b"user.b".to_vec(), vec![0, 255])],
            names: 3,
            partial: true,
        }
    }

    #[test]
    fn attributes_round_trip_whatever_is_absent() {
        let bare = Attributes {
            names: 1,
            ..Attributes::default()
        };
        for attributes in [full(), bare] {
            let metadata = attributes.to_metadata().unwrap();
            assert_eq!(Attributes::from_metadata(&metadata).unwrap(), attributes);
        }
    }

    #[test]
    fn hostile_metadata_is_refused() {
        let cases = [
            (MODE, Value::Int(0o10_000)),
            (UID, Value::Int(-1)),
            (UID, Value::Int(i64::from(u32::MAX))),
            (MTIME_NANOS, Value::Int(1_000_000_000)),
            (TARGET, Value::Bytes(b"a\0b".to_vec())),
            (TARGET, Value::Text("a".into())),
            (XATTRS, Value::List(vec![Value::Int(1)])),
            (99, Value::Int(1)),
        ];
        for case in cases {
            let metadata = Metadata::new(std::slice::from_ref(&case)).unwrap();
            assert!(Attributes::from_metadata(&metadata).is_err(), "{case:?}");
        }
    }

    #[test]
    fn state_is_41_bytes_and_proves_nothing_near_the_parents_start() {
        let time = |seconds| Time { seconds, nanos: 0 };
        let state = |mtime, ctime| State {
            size: 1,
            mtime: time(mtime),
            ctime: time(ctime),
            inode: 2,
        };
        assert_eq!(state(0, 0).encode().len(), 41);
        assert!(state(97, 97).proves(time(100)));
        for (mtime, ctime) in [(98, 97), (97, 98), (97, 100), (200, 97)] {
            assert!(!state(mtime, ctime).proves(time(100)), "{mtime} {ctime}");
        }
    }
}
