//! A store that fails where it is told to, and remembers what it was asked.

use crate::store::Fault;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// A put.
    Put,
    /// A read of an object or a part of it.
    Get,
    /// A question for an object's size.
    Head,
    /// A listing; counted once, however many pages it has.
    List,
    /// A delete.
    Delete,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was asked.
    pub op: Op,
    /// The object's name, or the prefix of a listing.
    pub name: String,
    /// The part that was asked for.
    pub range: Option<Range<u64>>,
    /// The bytes of a put.
    pub bytes: u64,
}

/// When a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before it has an effect.
    Before,
    /// After it took effect: the answer is lost.
    After,
}

/// How a call fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection.
    Unreachable,
    /// No byte moved for too long.
    Stalled,
    /// The connection broke.
    Dropped,
    /// An HTTP status with an S3 error code.
    Status(u16, &'static str),
    /// "The name is taken", whether it is or not.
    Exists,
    /// An error of the operating system, by its number.
    System(i32),
    /// The process is gone: nothing works from that call on, and nothing is tried again.
    Crash,
}

/// Which calls fail, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    op: Option<Op>,
    name: Option<String>,
    skip: u64,
    times: u64,
    when: When,
    failure: Failure,
}

impl Plan {
    /// The next call fails, whatever it is.
    pub fn new(when: When, failure: Failure) -> Self {
        Self {
            op: None,
            name: None,
            skip: 0,
            times: 1,
            when,
            failure,
        }
    }

    /// Only calls of this kind.
    #[must_use]
    pub fn op(mut self, op: Op) -> Self {
        self.op = Some(op);
        self
    }

    /// Only calls whose name begins like this.
    #[must_use]
    pub fn name(mut self, start: impl Into<String>) -> Self {
        self.name = Some(start.into());
        self
    }

    /// Lets the first `calls` that fit pass.
    #[must_use]
    pub fn skip(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// Fails so many times.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Fails from then on.
    #[must_use]
    pub fn forever(self) -> Self {
        self.times(u64::MAX)
    }

    fn takes(&mut self, call: &Call) -> bool {
        let fits = self.op.is_none_or(|op| op == call.op)
            && self
                .name
                .as_ref()
                .is_none_or(|start| call.name.starts_with(start));
        if !fits || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times = self.times.saturating_sub(1);
        true
    }
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    /// What happens before a call has an effect, and how many calls pass before that.
    meanwhile: Option<(u64, BoxFuture<'static, ()>)>,
    plans: Vec<Plan>,
    hidden: HashSet<String>,
    replaced: HashMap<String, Bytes>,
    delay: Option<Duration>,
    overwrites: bool,
    listed: usize,
    crashed: bool,
    running: usize,
    most_running: usize,
}

/// A store around another one. Cheap to clone; clones share plans and records.
#[derive(Clone)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
}

impl FaultStore {
    /// A store that behaves like `inner` until it is told otherwise.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            state: Arc::default(),
        }
    }

    /// Over an empty store in memory.
    pub fn in_memory() -> Self {
        Self::new(Arc::new(object_store::memory::InMemory::new()))
    }

    /// Adds a plan; the first plan that fits a call decides it.
    pub fn plan(&self, plan: Plan) {
        self.state().plans.push(plan);
    }

    /// The call after the next `calls` finds the process gone, and so does every later one: that call has no effect
    /// (`Before`), or has its effect and no answer (`After`).
    pub fn crash(&self, calls: u64, when: When) {
        self.plan(Plan::new(when, Failure::Crash).skip(calls));
    }

    /// Before the call after the next `calls` has an effect, all of this happens.
    pub fn meanwhile(&self, calls: u64, work: BoxFuture<'static, ()>) {
        self.state().meanwhile = Some((calls, work));
    }

    /// Whether that is still to come.
    pub fn is_waiting(&self) -> bool {
        self.state().meanwhile.is_some()
    }

    /// Everything works again: forgets plans and the crash, not what was hidden or replaced.
    pub fn heal(&self) {
        let mut state = self.state();
        state.plans.clear();
        state.crashed = false;
    }

    /// Hides an object from reads and listings, as a loss would.
    pub fn hide(&self, name: impl Into<String>) {
        self.state().hidden.insert(name.into());
    }

    /// Serves other bytes for an object, as damage would.
    pub fn replace(&self, name: impl Into<String>, bytes: Bytes) {
        self.state().replaced.insert(name.into(), bytes);
    }

    /// Makes every call take this long.
    pub fn delay(&self, delay: Duration) {
        self.state().delay = Some(delay);
    }

    /// Ignores put-if-absent and overwrites, as some servers do.
    pub fn overwrite(&self) {
        self.state().overwrites = true;
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// How many calls of a kind there were.
    pub fn count(&self, op: Op) -> usize {
        self.state().calls.iter().filter(|c| c.op == op).count()
    }

    /// How many objects all listings so far have shown.
    pub fn listed(&self) -> usize {
        self.state().listed
    }

    /// The most calls that ran at the same time.
    pub fn most_running(&self) -> usize {
        self.state().most_running
    }

    /// Forgets the calls so far.
    pub fn forget_calls(&self) {
        let mut state = self.state();
        state.calls.clear();
        state.most_running = state.running;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens before this call, if it is the one.
    fn turn(&self) -> Option<BoxFuture<'static, ()>> {
        let mut state = self.state();
        match &mut state.meanwhile {
            Some((0, _)) => state.meanwhile.take().map(|(_, work)| work),
            Some((calls, _)) => {
                *calls -= 1;
                None
            }
            None => None,
        }
    }

    /// Records a call and decides its fate.
    fn enter(&self, op: Op, name: &str, range: Option<Range<u64>>, bytes: u64) -> (Option<Plan>, Running) {
        let mut state = self.state();
        let call = Call {
            op,
            name: name.to_owned(),
            range,
            bytes,
        };
        state.running += 1;
        state.most_running = state.most_running.max(state.running);
        let plan = if state.crashed {
            Some(Plan::new(When::Before, Failure::Crash))
        } else {
            state
                .plans
                .iter_mut()
                .find_map(|p| p.takes(&call).then(|| p.clone()))
        };
        if plan.as_ref().is_some_and(|p| p.failure == Failure::Crash) {
            state.crashed = true;
        }
        state.calls.push(call);
        (plan, Running(self.clone()))
    }

    async fn around<T>(
        &self,
        (op, name, bytes): (Op, &str, u64),
        range: Option<Range<u64>>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let (plan, _running) = self.enter(op, name, range, bytes);
        if let Some(work) = self.turn() {
            work.await;
        }
        let delay = self.state().delay;
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        match plan {
            None => work.await,
            Some(plan) if plan.when == When::Before => Err(failure(&plan.failure, name)),
            Some(plan) => {
                // The answer is lost, whatever it was.
                let _ = work.await;
                Err(failure(&plan.failure, name))
            }
        }
    }

    fn is_hidden(&self, name: &str) -> bool {
        self.state().hidden.contains(name)
    }

    fn served(&self, mut result: GetResult, name: &str, wanted: Option<&GetRange>) -> Result<GetResult> {
        let Some(bytes) = self.state().replaced.get(name).cloned() else {
            return Ok(result);
        };
        let size = bytes.len() as u64;
        result.meta.size = size;
        result.range = match wanted {
            Some(range) => range
                .as_range(size)
                .map_err(|e| generic(io::Error::new(io::ErrorKind::InvalidInput, e.to_string())))?,
            None => 0..size,
        };
        let place = |at: u64| usize::try_from(at).unwrap_or(bytes.len());
        let part = bytes.slice(place(result.range.start)..place(result.range.end));
        result.payload = GetResultPayload::Stream(stream::once(async move { Ok(part) }).boxed());
        Ok(result)
    }
}

/// Counts a call as running until it is dropped.
struct Running(FaultStore);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.state().running -= 1;
    }
}

fn generic(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic {
        store: "fault",
        source: Box::new(source),
    }
}

fn failure(failure: &Failure, name: &str) -> Error {
    match failure {
        Failure::Unreachable => generic(io::Error::from(io::ErrorKind::ConnectionRefused)),
        Failure::Stalled => generic(Fault::Stalled(Duration::from_secs(60))),
        Failure::Dropped => generic(io::Error::from(io::ErrorKind::ConnectionReset)),
        Failure::Status(status, code) => generic(Fault::Status {
            status: *status,
            code: (*code).to_owned(),
            message: "injected".to_owned(),
        }),
        Failure::Exists => Error::AlreadyExists {
            path: name.to_owned(),
            source: "injected".into(),
        },
        Failure::System(number) => generic(io::Error::from_raw_os_error(*number)),
        Failure::Crash => generic(io::Error::other("the process is gone (injected crash)")),
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, name: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        if self.state().overwrites {
            options.mode = PutMode::Overwrite;
        }
        let call = (Op::Put, name.as_ref(), payload.content_length() as u64);
        self.around(call, None, self.inner.put_opts(name, payload, options))
            .await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotSupported {
            source: "a repository never uploads in parts".into(),
        })
    }

    async fn get_opts(&self, name: &Path, options: GetOptions) -> Result<GetResult> {
        let op = if options.head { Op::Head } else { Op::Get };
        let range = match &options.range {
            Some(GetRange::Bounded(range)) => Some(range.clone()),
            _ => None,
        };
        let text = name.as_ref();
        let wanted = options.range.clone();
        let work = async {
            if self.is_hidden(text) {
                return Err(Error::NotFound {
                    path: text.to_owned(),
                    source: "hidden".into(),
                });
            }
            let replaced = self.state().replaced.contains_key(text);
            let options = if replaced {
                GetOptions {
                    range: None,
                    ..options
                }
            } else {
                options
            };
            let result = self.inner.get_opts(name, options).await?;
            self.served(result, text, wanted.as_ref())
        };
        self.around((op, text, 0), range, work).await
    }

    fn delete_stream(&self, names: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        names
            .then(move |name| {
                let this = this.clone();
                async move {
                    let name = name?;
                    let one = stream::once({
                        let name = name.clone();
                        async move { Ok(name) }
                    });
                    let work = async {
                        let mut done = this.inner.delete_stream(one.boxed());
                        done.next().await.unwrap_or_else(|| Ok(name.clone()))
                    };
                    this.around((Op::Delete, name.as_ref(), 0), None, work).await
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, self.inner.list_with_offset(prefix, offset))
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

impl FaultStore {
    /// `Before`: fails at once. `After`: gives half of what it has, then fails.
    fn listing(
        &self,
        prefix: Option<&Path>,
        inner: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = self.clone();
        let prefix = prefix.map(ToString::to_string).unwrap_or_default();
        stream::once(async move {
            let (plan, running) = this.enter(Op::List, &prefix, None, 0);
            if let Some(work) = this.turn() {
                work.await;
            }
            let mut found: Vec<_> = inner.collect().await;
            drop(running);
            found.retain(|m| m.as_ref().map_or(true, |m| !this.is_hidden(m.location.as_ref())));
            if let Some(plan) = plan {
                found.truncate(if plan.when == When::Before {
                    0
                } else {
                    found.len() / 2
                });
                found.push(Err(failure(&plan.failure, &prefix)));
            }
            this.state().listed += found.len();
            stream::iter(found)
        })
        .flatten()
        .boxed()
    }
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.inner)
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faults over {}", self.inner)
    }
}
