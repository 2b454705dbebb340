//! Reading and listing.

use super::Store;
use super::fault::{Attempt, Class, classify};
use super::retry::Tries;
use crate::context::Time;
use crate::error::{Error, ErrorKind, Result};
use crate::format::layout::{ObjectName, Prefix};
use crate::format::limits::OBJECT_MAX;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStoreExt};
use std::ops::Range;

/// What a store tells about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub name: ObjectName,
    /// Its size in bytes.
    pub size: u64,
    /// When the store says it was written; never part of a safety argument.
    pub last_modified: Time,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// An object of a repository.
    Object(ObjectInfo),
    /// Something whose name no repository uses: put there by somebody else, or the leftover of a killed writer
    /// (`<name>#<number>` in a directory).
    Foreign {
        /// Its name below the repository's place, as the store writes it.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// When the store says it was written.
        last_modified: Time,
    },
}

/// A read in progress: what has arrived survives a broken connection.
struct Fetch {
    want: Option<Range<u64>>,
    /// The object's size as far as wanted, known from the first answer on.
    end: Option<u64>,
    have: Vec<u8>,
}

impl Store {
    /// The whole object.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unreachable`, `NoRepository` (no such bucket or directory), `Cancelled`; `Damaged` if the
    /// object is larger than any object of the format may be.
    pub async fn get(&self, name: &ObjectName) -> Result<Bytes> {
        self.fetch(name, None).await
    }

    /// The bytes of `range`; less, or none, where the object ends before.
    ///
    /// # Errors
    /// As [`Store::get`]; an empty range asks nobody and cannot fail.
    pub async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.fetch(name, Some(range)).await
    }

    /// Size and age of an object.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn head(&self, name: &ObjectName) -> Result<ObjectInfo> {
        let text = name.to_string();
        let path = self.path(&text);
        let mut tries = Tries::new(self, Attempt::Read, &text);
        loop {
            match tries.interruptible(self.shared.raw.head(&path)).await? {
                Ok(meta) => {
                    tries.answered();
                    return Ok(ObjectInfo {
                        name: *name,
                        size: meta.size,
                        last_modified: time(&meta),
                    });
                }
                Err(e) => self.pass(&mut tries, Attempt::Read, &text, e).await?,
            }
        }
    }

    /// Everything under `prefix`, in the order of names, read page by page. A listing of several pages is not atomic. It
    /// ends after its first error.
    pub fn list(&self, prefix: Prefix) -> BoxStream<'_, Result<Listed>> {
        self.list_from(prefix, None)
    }

    /// As [`Store::list`], what comes after `start` only. S3 does not send what comes before.
    pub fn list_after(&self, prefix: Prefix, start: &ObjectName) -> BoxStream<'_, Result<Listed>> {
        self.list_from(prefix, Some(self.path(&start.to_string())))
    }

    fn list_from(&self, prefix: Prefix, start: Option<Path>) -> BoxStream<'_, Result<Listed>> {
        let prefix_text = prefix.to_string();
        let path = self.path(&prefix_text);
        let path = (!path.as_ref().is_empty()).then_some(path);
        let state = Listing {
            store: self,
            path,
            text: prefix_text,
            last: start,
            open: None,
        };
        stream::try_unfold(state, |mut state| async move {
            Ok(state.next().await?.map(|found| (found, state)))
        })
        .boxed()
    }

    /// Waits for the next try, or gives the failure in words.
    pub(super) async fn pass(
        &self,
        tries: &mut Tries<'_>,
        attempt: Attempt,
        object: &str,
        error: object_store::Error,
    ) -> Result<()> {
        if classify(&error).passes() && tries.again(&error, false).await? {
            return Ok(());
        }
        Err(self.place(attempt, object).error(&error))
    }

    async fn fetch(&self, name: &ObjectName, want: Option<Range<u64>>) -> Result<Bytes> {
        let text = name.to_string();
        let path = self.path(&text);
        let mut tries = Tries::new(self, Attempt::Read, &text);
        let mut fetch = Fetch {
            want,
            end: None,
            have: Vec::new(),
        };
        loop {
            let before = fetch.have.len();
            let tried = tries.interruptible(self.fetch_on(&path, &mut fetch)).await?;
            match tried {
                Ok(bytes) => {
                    tries.answered();
                    return Ok(bytes);
                }
                Err(Failed::Store(error)) => {
                    if fetch.have.len() > before {
                        tries.progress();
                    }
                    // Reading behind the end is answered in many ways; the size settles it.
                    if let Some(range) = &fetch.want
                        && classify(&error) != Class::Absent
                        && !classify(&error).passes()
                        && self.head(name).await?.size <= range.start
                    {
                        return Ok(Bytes::new());
                    }
                    self.pass(&mut tries, Attempt::Read, &text, error).await?;
                }
                Err(Failed::TooLarge) => {
                    let what = "the object is larger than any object of a repository";
                    let place = self.place(Attempt::Read, &text);
                    return Err(place.place(Error::new(ErrorKind::Damaged, what)));
                }
            }
        }
    }

    /// Reads on from what has arrived.
    async fn fetch_on(&self, path: &Path, fetch: &mut Fetch) -> Result<Bytes, Failed> {
        let start = fetch.want.as_ref().map_or(0, |r| r.start) + fetch.have.len() as u64;
        let range = match (&fetch.want, fetch.end) {
            (_, Some(end)) => Some(GetRange::Bounded(start..end)),
            (Some(range), None) => Some(GetRange::Bounded(range.clone())),
            (None, None) => None,
        };
        let options = GetOptions {
            range,
            ..GetOptions::default()
        };
        let result = self.shared.raw.get_opts(path, options).await?;
        let (size, arriving) = (result.meta.size, result.range.clone());
        let end = fetch.want.as_ref().map_or(size, |r| r.end.min(size));
        fetch.end = Some(end);
        let left = arriving.end.saturating_sub(arriving.start);
        if left + fetch.have.len() as u64 > OBJECT_MAX as u64 {
            return Err(Failed::TooLarge);
        }
        self.collect(result, left, &mut fetch.have).await
    }

    /// Takes what arrives, at the pace of the limit; a whole answer in one piece is passed on as it is.
    async fn collect(&self, result: GetResult, left: u64, have: &mut Vec<u8>) -> Result<Bytes, Failed> {
        let whole = have.is_empty();
        if matches!(result.payload, GetResultPayload::File(..)) && self.shared.download.is_none() {
            let bytes = result.bytes().await?;
            if whole {
                return Ok(bytes);
            }
            have.extend_from_slice(&bytes);
            return Ok(std::mem::take(have).into());
        }
        let mut stream = result.into_stream();
        let mut arrived = 0;
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            if let Some(limiter) = &self.shared.download {
                limiter.pace(piece.len()).await;
            }
            arrived += piece.len() as u64;
            if whole && arrived == left && piece.len() as u64 == left {
                return Ok(piece);
            }
            if have.is_empty() {
                have.reserve_exact(usize::try_from(left).unwrap_or_default());
            }
            have.extend_from_slice(&piece);
        }
        if arrived == left {
            Ok(std::mem::take(have).into())
        } else {
            Err(Failed::Store(object_store::Error::Generic {
                store: "store",
                source: Box::new(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
            }))
        }
    }
}

enum Failed {
    Store(object_store::Error),
    TooLarge,
}

impl From<object_store::Error> for Failed {
    fn from(error: object_store::Error) -> Self {
        Self::Store(error)
    }
}

type Open = BoxStream<'static, object_store::Result<ObjectMeta>>;

/// A listing in progress: after a failure it goes on behind the last name it gave.
struct Listing<'a> {
    store: &'a Store,
    path: Option<Path>,
    text: String,
    last: Option<Path>,
    open: Option<Open>,
}

impl Listing<'_> {
    async fn next(&mut self) -> Result<Option<Listed>> {
        let (store, raw) = (self.store, &self.store.shared.raw);
        let text = format!("{}/", self.text);
        let mut tries = Tries::new(store, Attempt::List, &text);
        loop {
            let (path, last) = (self.path.as_ref(), self.last.as_ref());
            let open = self.open.get_or_insert_with(|| match last {
                Some(last) => raw.list_with_offset(path, last),
                None => raw.list(path),
            });
            match tries.interruptible(open.next()).await? {
                Some(Ok(meta)) => {
                    tries.answered();
                    self.last = Some(meta.location.clone());
                    return Ok(Some(store.listed(&meta)));
                }
                Some(Err(error)) => {
                    self.open = None;
                    store.pass(&mut tries, Attempt::List, &text, error).await?;
                }
                None => {
                    tries.answered();
                    return Ok(None);
                }
            }
        }
    }
}

impl Store {
    fn listed(&self, meta: &ObjectMeta) -> Listed {
        let full = meta.location.as_ref();
        let root = self.shared.root.as_ref();
        let name = full
            .strip_prefix(root)
            .map_or(full, |rest| rest.trim_start_matches('/'));
        match ObjectName::parse(name) {
            Ok(name) => Listed::Object(ObjectInfo {
                name,
                size: meta.size,
                last_modified: time(meta),
            }),
            Err(_) => Listed::Foreign {
                name: name.to_owned(),
                size: meta.size,
                last_modified: time(meta),
            },
        }
    }
}

fn time(meta: &ObjectMeta) -> Time {
    Time {
        seconds: meta.last_modified.timestamp(),
        // A leap second is told as 10⁹ and more.
        nanos: meta.last_modified.timestamp_subsec_nanos().min(999_999_999),
    }
}
