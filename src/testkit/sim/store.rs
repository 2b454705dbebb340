//! A store in memory whose every request waits until the simulator lets it go on.

use super::actors::Shared;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, oneshot};

/// What an actor asks of the store.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Put(String, Bytes),
    /// The object, or the part of it that is wanted; only its size and time if there is no part.
    Get(String, Wanted),
    /// Names under a prefix, behind a name: one page.
    Page(String, String),
    Delete(String),
}

#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Head,
    Whole,
    Part(Range<u64>),
}

impl Request {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Put(name, _) | Self::Get(name, _) | Self::Page(name, _) | Self::Delete(name) => name,
        }
    }

    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::Put(..) => "put",
            Self::Get(_, Wanted::Head) => "head",
            Self::Get(..) => "get",
            Self::Page(..) => "list",
            Self::Delete(_) => "delete",
        }
    }
}

/// What the store answers.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Done,
    Got(ObjectMeta, Range<u64>, Bytes),
    /// A page, and whether it is the last.
    Page(Vec<ObjectMeta>, bool),
}

/// Which of the stores of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Where projects are written.
    Home,
    /// The replica of it.
    Replica,
}

/// One of something for each store.
#[derive(Clone, Default)]
pub(super) struct Both<T> {
    pub(super) home: T,
    pub(super) replica: T,
}

impl<T> Both<T> {
    pub(super) fn of(&self, at: At) -> &T {
        match at {
            At::Home => &self.home,
            At::Replica => &self.replica,
        }
    }

    pub(super) fn of_mut(&mut self, at: At) -> &mut T {
        match at {
            At::Home => &mut self.home,
            At::Replica => &mut self.replica,
        }
    }
}

/// A request that waits for its turn.
pub(super) struct Waiting {
    pub(super) actor: usize,
    pub(super) at: At,
    pub(super) request: Request,
    /// Not before this moment, in milliseconds of the world: whoever asked sleeps, or the line is slow.
    pub(super) not_before: u64,
    /// Whether the simulator has seen it.
    pub(super) is_seen: bool,
    pub(super) reply: oneshot::Sender<Result<Answer>>,
}

impl Waiting {
    /// What tells requests to the replica from others.
    pub(super) fn mark(&self) -> &'static str {
        match self.at {
            At::Home => "",
            At::Replica => "'",
        }
    }
}

#[derive(Clone)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
    /// Milliseconds of the world.
    pub(super) modified: u64,
}

/// What one store holds.
#[derive(Default)]
pub(super) struct Objects {
    pub(super) there: BTreeMap<String, Object>,
    /// What was deleted.
    pub(super) gone: BTreeMap<String, Bytes>,
    /// Bytes that there is room for, if that is little.
    pub(super) room: Option<u64>,
    /// No object is deleted that is younger than so many milliseconds.
    pub(super) lock: u64,
}

/// The objects and who waits for them.
#[derive(Default)]
pub(super) struct Core {
    pub(super) stores: Both<Objects>,
    pub(super) waiting: Vec<Waiting>,
    /// Names on one page of a list.
    pub(super) page: usize,
    /// Milliseconds since the world began.
    pub(super) now: u64,
}

/// When the world begins, in seconds.
pub(super) const BEGIN: u64 = 1_767_225_600;

fn meta(name: &str, object: &Object) -> ObjectMeta {
    let at = Duration::from_secs(BEGIN) + Duration::from_millis(object.modified);
    let at: SystemTime = UNIX_EPOCH + at;
    ObjectMeta {
        location: Path::from(name),
        last_modified: at.into(),
        size: object.bytes.len() as u64,
        e_tag: None,
        version: None,
    }
}

impl Core {
    /// Does what is asked, now. Gives whether something changed.
    pub(super) fn apply(&mut self, at: At, request: &Request) -> (Result<Answer>, bool) {
        let (now, page) = (self.now, self.page);
        let store = self.stores.of_mut(at);
        match request {
            Request::Put(name, bytes) => {
                if store.there.contains_key(name) {
                    let error = Error::AlreadyExists {
                        path: name.clone(),
                        source: "taken".into(),
                    };
                    return (Err(error), false);
                }
                if store
                    .room
                    .is_some_and(|room| store.len() + bytes.len() as u64 > room)
                {
                    return (Err(generic(io::Error::from(io::ErrorKind::StorageFull))), false);
                }
                let (bytes, modified) = (bytes.clone(), now);
                store.there.insert(name.clone(), Object { bytes, modified });
                (Ok(Answer::Done), true)
            }
            Request::Get(name, wanted) => (store.get(name, wanted), false),
            Request::Page(prefix, after) => (Ok(store.page_of((prefix, after), page)), false),
            Request::Delete(name) => {
                let until = |object: &Object| object.modified + store.lock;
                if store.lock > 0 && store.there.get(name).is_some_and(|object| until(object) > now) {
                    let error = Error::PermissionDenied {
                        path: name.clone(),
                        source: "retained".into(),
                    };
                    return (Err(error), false);
                }
                let gone = store.there.remove(name);
                let is_gone = gone.is_some();
                store.gone.extend(gone.map(|object| (name.clone(), object.bytes)));
                (Ok(Answer::Done), is_gone)
            }
        }
    }
}

impl Objects {
    /// Bytes of all objects.
    pub(super) fn len(&self) -> u64 {
        self.there.values().map(|object| object.bytes.len() as u64).sum()
    }

    /// Whether something is left of what was reserved for collections.
    pub(super) fn has_reserve(&self) -> bool {
        self.there.keys().any(|name| name.starts_with("reserve/"))
    }

    fn get(&self, name: &str, wanted: &Wanted) -> Result<Answer> {
        let Some(object) = self.there.get(name) else {
            return Err(Error::NotFound {
                path: name.to_owned(),
                source: "nothing there".into(),
            });
        };
        let size = object.bytes.len() as u64;
        let range = match wanted {
            Wanted::Head => 0..0,
            Wanted::Whole => 0..size,
            Wanted::Part(range) => range.start.min(size)..range.end.min(size),
        };
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let part = object.bytes.slice(place(range.start)..place(range.end));
        Ok(Answer::Got(meta(name, object), range, part))
    }

    fn page_of(&self, (prefix, after): (&str, &str), len: usize) -> Answer {
        let start = if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        };
        let from: &str = if after > start.as_str() { after } else { &start };
        let from = (Bound::Included(from), Bound::Unbounded);
        let names = self.there.range::<str, _>(from);
        let mut names = names
            .filter(|(name, _)| name.as_str() > after)
            .take_while(|(name, _)| name.starts_with(&start));
        let page = names.by_ref().take(len.max(1));
        let page: Vec<_> = page.map(|(name, object)| meta(name, object)).collect();
        let is_last = names.next().is_none();
        Answer::Page(page, is_last)
    }
}

/// The answer that was lost on its way.
pub(super) fn reset() -> Error {
    generic(io::Error::from(io::ErrorKind::ConnectionReset))
}

/// A server that is in trouble.
pub(super) fn trouble() -> Error {
    generic(crate::store::Fault::Status {
        status: 503,
        code: "SlowDown".to_owned(),
        message: "injected".to_owned(),
    })
}

fn generic(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic {
        store: "simulated",
        source: Box::new(source),
    }
}

/// The store of one actor's process.
#[derive(Clone)]
pub(super) struct SimStore {
    pub(super) core: Arc<Mutex<Core>>,
    pub(super) arrived: Arc<Notify>,
    pub(super) at: At,
    pub(super) who: Who,
}

/// Who asks.
#[derive(Clone)]
pub(super) enum Who {
    /// An actor, who waits for its turn.
    Actor(usize),
    /// Somebody beside the world, who is answered at once; the oracle is told, once there is one.
    Beside(Option<Arc<Shared>>),
}

/// Does what is asked, and has the oracle look at what has changed.
pub(super) fn apply(core: &Mutex<Core>, shared: &Shared, at: At, request: &Request) -> Result<Answer> {
    let (answer, changed, now) = {
        let mut core = lock(core);
        let (answer, changed) = core.apply(at, request);
        (answer, changed, BEGIN + core.now / 1000)
    };
    let mut oracle = shared.oracle(at);
    oracle.tick(i64::try_from(now).unwrap_or(i64::MAX));
    match &answer {
        Err(Error::PermissionDenied { .. }) => oracle.seen.refused += 1,
        Err(Error::Generic { .. }) => oracle.seen.full += 1,
        _ => {}
    }
    if changed {
        match request {
            Request::Put(name, bytes) => oracle.landed(name, bytes),
            Request::Delete(name) => oracle.gone(name),
            _ => {}
        }
    }
    answer
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimStore {
    async fn ask(&self, request: Request) -> Result<Answer> {
        let actor = match &self.who {
            Who::Actor(actor) => *actor,
            Who::Beside(None) => return lock(&self.core).apply(self.at, &request).0,
            Who::Beside(Some(shared)) => return apply(&self.core, shared, self.at, &request),
        };
        let (reply, answer) = oneshot::channel();
        lock(&self.core).waiting.push(Waiting {
            actor,
            at: self.at,
            request,
            not_before: 0,
            is_seen: false,
            reply,
        });
        self.arrived.notify_one();
        answer.await.unwrap_or_else(|_| Err(reset()))
    }

    fn pages(&self, prefix: Option<&Path>, after: String) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.map(ToString::to_string).unwrap_or_default();
        let this = self.clone();
        let pages = stream::unfold(Some(after), move |after| {
            let (this, prefix) = (this.clone(), prefix.clone());
            async move {
                let after = after?;
                match this.ask(Request::Page(prefix, after)).await {
                    Ok(Answer::Page(page, is_last)) => {
                        let next = page.last().map(|meta| meta.location.to_string());
                        let next = next.filter(|_| !is_last);
                        let page: Vec<_> = page.into_iter().map(Ok).collect();
                        Some((page, next))
                    }
                    Ok(_) => Some((vec![Err(reset())], None)),
                    Err(error) => Some((vec![Err(error)], None)),
                }
            }
        });
        pages.flat_map(stream::iter).boxed()
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, name: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if options.mode != PutMode::Create {
            return Err(Error::NotSupported {
                source: "a repository never overwrites".into(),
            });
        }
        self.ask(Request::Put(name.to_string(), payload.into())).await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
            extensions: object_store::Extensions::default(),
        })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotSupported {
            source: "a repository never uploads in parts".into(),
        })
    }

    async fn get_opts(&self, name: &Path, options: GetOptions) -> Result<GetResult> {
        let wanted = match (options.head, options.range) {
            (true, _) => Wanted::Head,
            (false, Some(GetRange::Bounded(range))) => Wanted::Part(range),
            (false, _) => Wanted::Whole,
        };
        match self.ask(Request::Get(name.to_string(), wanted)).await? {
            Answer::Got(meta, range, bytes) => Ok(GetResult {
                payload: GetResultPayload::Stream(stream::once(async move { Ok(bytes) }).boxed()),
                meta,
                range,
                attributes: object_store::Attributes::default(),
                extensions: object_store::Extensions::default(),
            }),
            _ => Err(reset()),
        }
    }

    fn delete_stream(&self, names: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        names
            .then(move |name| {
                let this = this.clone();
                async move {
                    let name = name?;
                    this.ask(Request::Delete(name.to_string())).await?;
                    Ok(name)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix, String::new())
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix, offset.to_string())
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(Error::NotSupported {
            source: "a repository never lists one level".into(),
        })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotSupported {
            source: "a repository never copies inside a store".into(),
        })
    }
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStore")
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated store")
    }
}
