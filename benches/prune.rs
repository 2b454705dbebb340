//! What a collection costs: the first one of a repository, and those after one more snapshot, on this machine and on another one. Blobs and
//! snapshots are arguments: `cargo bench --bench prune -- 1000000 500`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program for developers"
)]

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use holdall::connector::{Origin, Source};
use holdall::context::Context;
use holdall::error::Result;
use holdall::event::Silent;
use holdall::format::id::SessionId;
use holdall::ops::{self, CollectOptions, PruneRequest, SnapshotRequest};
use holdall::repository::Repository;
use holdall::snapshot::SnapshotSpec;
use holdall::snapshot::entry::{
    Content, Entry, EntryHead, EntryKind, Item, Key, Metadata, Prior, PriorEntry,
};
use holdall::store::{Access, Store, StoreOptions};
use holdall::testkit::{FaultStore, Op, repo};
use object_store::local::LocalFileSystem;
use std::sync::Arc;
use std::time::Instant;

/// Bytes of each blob: the least that is not kept in its entry.
const BLOB: usize = 600;
/// Snapshots of each source, and entries that change from one to the next.
const OF_SOURCE: u64 = 5;
const CHANGED: u64 = 20;

/// A source of many small entries.
struct Rows {
    source: u64,
    version: u64,
    len: u64,
}

impl Rows {
    /// The version in which an entry was changed last.
    fn version_of(&self, entry: u64) -> u64 {
        let step = (self.len / CHANGED).max(1);
        let mut versions = (1..=self.version).rev();
        let changes = |version: &u64| entry % step == version * 7 % step;
        versions.find(changes).unwrap_or(0)
    }

    fn item(&self, entry: u64, prior: Option<&PriorEntry>) -> Item {
        let version = self.version_of(entry);
        let state = Bytes::copy_from_slice(&version.to_le_bytes());
        if let Some(prior) = prior.filter(|prior| *prior.state() == state) {
            return Item::Unchanged(prior.clone());
        }
        let mut content = vec![0; BLOB];
        let seed = [self.source, entry, version].map(u64::to_le_bytes);
        blake3::Hasher::new()
            .update(seed.as_flattened())
            .finalize_xof()
            .fill(&mut content);
        let head = EntryHead {
            key: Key::from(format!("{:05}/{entry:08}", self.source).as_str()),
            kind: EntryKind::File,
            metadata: Metadata::default(),
            state,
            size: Some(BLOB as u64),
        };
        Item::Entry(Entry {
            head,
            content: Content::Bytes(content.into()),
        })
    }
}

impl Source for Rows {
    fn origin(&self) -> Origin {
        Origin {
            connector: "files".into(),
            description: format!("source {}", self.source),
            version: None,
        }
    }

    fn entries<'a>(&'a mut self, _: &'a Context, prior: Arc<dyn Prior>) -> BoxStream<'a, Result<Item>> {
        let this = &*self;
        let items = async move {
            let known: Vec<PriorEntry> = prior.entries(Key::from("")).map(Result::unwrap).collect().await;
            stream::iter(0..this.len).map(move |entry| {
                let prior = known.get(usize::try_from(entry).unwrap());
                Ok(this.item(entry, prior))
            })
        };
        stream::once(items).flatten().boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

struct Bench {
    context: Context,
    faults: FaultStore,
    repository: Repository,
    len: u64,
}

impl Bench {
    fn store(&self) -> Store {
        store(&self.faults, &self.context)
    }

    async fn snapshot(&self, source: u64, version: u64) -> SessionId {
        let mut open = || -> Result<Option<Vec<Box<dyn Source>>>> {
            Ok(Some(vec![Box::new(Rows {
                source,
                version,
                len: self.len,
            })]))
        };
        let request = SnapshotRequest {
            host: "bench".into(),
            ..SnapshotRequest::default()
        };
        let report = ops::snapshot(&self.context, &self.repository, &request, &mut open).await;
        report.unwrap().snapshot.sid
    }

    async fn forget(&self, sid: SessionId) {
        let request = ops::ForgetRequest {
            named: vec![sid.name().parse::<SnapshotSpec>().unwrap()],
            ..forget_nothing()
        };
        ops::forget(&self.context, &self.repository, &request)
            .await
            .unwrap();
    }

    async fn prune(&self, what: &str, repository: &Repository, blobs: u64) {
        let request = PruneRequest {
            options: CollectOptions::default(),
            confirmed: true,
            exclusive: false,
        };
        // The peak from here on.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = status("VmRSS:");
        self.faults.forget_calls();
        let began = Instant::now();
        let report = ops::prune(&self.context, repository, &request).await.unwrap();
        let seconds = began.elapsed().as_secs_f64();
        let counts = [Op::Put, Op::Get, Op::Head, Op::List, Op::Delete].map(|op| self.faults.count(op));
        let peak = status("VmHWM:").saturating_sub(before) * 1024;
        println!(
            "{what}: {seconds:.2} s; {} nodes read, {} records used; put {} get {} head {} list {} delete {}; peak {:.0} MB, {:.0} bytes of each blob",
            report.plan.nodes_read,
            report.plan.references_used,
            counts[0],
            counts[1],
            counts[2],
            counts[3],
            counts[4],
            peak as f64 / 1e6,
            peak as f64 / blobs as f64,
        );
    }
}

fn store(faults: &FaultStore, context: &Context) -> Store {
    let options = StoreOptions {
        access: Access::ReadWrite,
        ..StoreOptions::default()
    };
    Store::over(Arc::new(faults.clone()), "bench", &options, context).unwrap()
}

fn forget_nothing() -> ops::ForgetRequest {
    ops::ForgetRequest {
        named: Vec::new(),
        policy: ops::Policy::default(),
        filter: holdall::snapshot::SnapshotFilter::default(),
        group_by: ops::GroupBy::default(),
        zone: jiff::tz::TimeZone::UTC,
        dry_run: false,
        who: "bench".into(),
    }
}

/// A figure of this process in KiB.
fn status(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn run(blobs: u64, snapshots: u64) {
    let folder = tempfile::tempdir().unwrap();
    let context = Context::new(Arc::new(Silent), 256 << 20, 2).unwrap();
    let faults = FaultStore::new(Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap()));
    let store = store(&faults, &context);
    let sources = (snapshots / OF_SOURCE).max(1);
    let bench = Bench {
        repository: repo::init(&store, &context).await.unwrap(),
        context,
        faults,
        len: blobs / sources,
    };
    let began = Instant::now();
    let mut first = Vec::new();
    for version in 0..OF_SOURCE {
        for source in 0..sources {
            let sid = bench.snapshot(source, version).await;
            if version == 0 {
                first.push(sid);
            }
        }
    }
    let made = sources * OF_SOURCE;
    println!(
        "{blobs} blobs, {made} snapshots of {sources} sources: made in {:.0} s",
        began.elapsed().as_secs_f64()
    );
    let mut first = first.into_iter();
    bench.forget(first.next().unwrap()).await;
    bench.prune("the first", &bench.repository, blobs).await;
    bench.snapshot(1, OF_SOURCE).await;
    bench.forget(first.next().unwrap()).await;
    bench
        .prune("after one more snapshot", &bench.repository, blobs)
        .await;
    bench.snapshot(2, OF_SOURCE).await;
    bench.forget(first.next().unwrap()).await;
    let other = repo::open(&bench.store()).await.unwrap();
    bench
        .prune("after one more, without a cache", &other, blobs)
        .await;
    bench.snapshot(3, OF_SOURCE).await;
    bench.forget(first.next().unwrap()).await;
    bench
        .prune("after one more, on that machine", &other, blobs)
        .await;
}

fn main() {
    let mut figures = std::env::args().filter_map(|argument| argument.parse().ok());
    let (blobs, snapshots) = (figures.next().unwrap_or(1_000_000), figures.next().unwrap_or(500));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(run(blobs, snapshots));
}
