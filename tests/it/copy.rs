//! Copies as those see them who have a second store: what it holds restores without the first, and nothing is copied twice.

use crate::collect::all;
use crate::world::{
    Objects, Things, World, assert_whole, context, names, noise, over, seeded, snapshots, take,
};
use holdall::context::{Context, ManualClock, Time};
use holdall::crypto::{Secret, Unlock};
use holdall::error::{ErrorKind, Result};
use holdall::event::{Event, Observer};
use holdall::format::id::SessionId;
use holdall::format::snapshot::SnapshotRecord;
use holdall::ops::{self, CopyReport, CopyRequest};
use holdall::repository::{Cache, InitOptions, Repository};
use holdall::snapshot::SnapshotFilter;
use holdall::store::Store;
use holdall::testkit::rounds::Hand;
use holdall::testkit::{Op, SeaweedFs, repo};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A repository and a place for copies of it.
pub(crate) struct Two {
    pub(crate) here: World,
    pub(crate) there: World,
    pub(crate) context: Context,
    clock: Arc<ManualClock>,
    pub(crate) source: Repository,
    pub(crate) target: Repository,
}

pub(crate) fn request() -> CopyRequest {
    CopyRequest {
        host: "copier".into(),
        ..CopyRequest::default()
    }
}

pub(crate) async fn make_replica(source: &Repository, store: Store, context: &Context) -> Result<Repository> {
    let (made, left_out) = source
        .make_replica(store, context, false, Cache::in_memory)
        .await?;
    assert!(left_out.is_empty(), "{left_out:?}");
    Ok(made)
}

/// The other key.
pub(crate) fn other() -> Unlock {
    Unlock::KeyFile(Secret::new([7; 32]))
}

pub(crate) async fn init_other(store: &Store, context: &Context) -> Repository {
    let options = InitOptions {
        unlock: other(),
        ..repo::init_options()
    };
    let cache = Arc::new(Cache::in_memory().unwrap());
    let made = Repository::init(store.clone(), context, options, cache).await;
    made.unwrap().repository
}

impl Two {
    /// With a replica.
    pub(crate) async fn replica() -> Self {
        Self::new(true).await
    }

    pub(crate) async fn new(replica: bool) -> Self {
        let (here, there) = (World::new(), World::new());
        let (context, clock) = seeded(1);
        let source = repo::init(&here.store(&context), &context).await.unwrap();
        let store = there.store(&context);
        let target = if replica {
            make_replica(&source, store, &context).await.unwrap()
        } else {
            init_other(&store, &context).await
        };
        Self {
            here,
            there,
            context,
            clock,
            source,
            target,
        }
    }

    pub(crate) async fn take(&self, things: &Things) -> SessionId {
        self.later(10);
        let taken = take(&self.context, &self.source, things).await;
        taken.unwrap().snapshot.sid
    }

    pub(crate) async fn copy(&self, request: &CopyRequest) -> CopyReport {
        ops::copy(&self.context, &self.source, Some(&self.target), request)
            .await
            .unwrap()
    }

    pub(crate) fn later(&self, by: i64) {
        let Time { seconds, nanos } = self.context.clock.now();
        self.clock.set(Time {
            seconds: seconds + by,
            nanos,
        });
    }

    pub(crate) async fn whole(&self, expected: &[&Things]) -> usize {
        assert_whole(&self.context, &self.there.store(&self.context), expected).await
    }

    pub(crate) async fn records(&self, repository: &Repository) -> Vec<Arc<SnapshotRecord>> {
        let snapshots = snapshots(&self.context, repository).await.unwrap();
        snapshots.iter().map(|s| s.record().clone()).collect()
    }

    pub(crate) fn hand<'a>(&'a self, repository: &'a Repository) -> Hand<'a> {
        Hand {
            repository,
            context: &self.context,
        }
    }
}

/// Small things and large ones, of which some bytes are of this version.
pub(crate) fn version(n: u64) -> Things {
    let small = (0..20).map(|i| {
        (
            format!("{i:02}"),
            noise(4_000, if i < n { 100 * n + i } else { i }),
        )
    });
    let mut large = noise(400_000, 7);
    for byte in large
        .iter_mut()
        .skip(usize::try_from(n).unwrap() * 1_000)
        .take(50)
    {
        *byte ^= 0x5a;
    }
    Things::new(small.chain([("large".to_owned(), large)]))
}

pub(crate) fn packs(objects: &Objects) -> Objects {
    let packs = objects.iter().filter(|(name, _)| name.starts_with("packs/"));
    packs.map(|(name, bytes)| (name.clone(), bytes.clone())).collect()
}

#[tokio::test]
async fn a_replica_has_the_same_packs_and_restores_alone() {
    let two = Two::replica().await;
    let mut sids = Vec::new();
    for n in 0..3 {
        sids.push(two.take(&version(n)).await);
    }
    let report = two.copy(&request()).await;
    assert!(report.same_keys && report.failed.is_empty() && report.bad_packs.is_empty());
    let copied: Vec<_> = report.copied.iter().map(|copied| copied.record.sid).collect();
    assert_eq!(copied, sids);
    assert!(report.lag.missing.is_empty());
    assert_eq!(report.lag.behind, Some(0.0));
    assert_eq!(
        packs(&two.here.objects().await),
        packs(&two.there.objects().await)
    );
    let originals = two.records(&two.source).await;
    let copies = two.records(&two.target).await;
    for (original, copy) in originals.iter().zip(&copies) {
        assert_eq!(copy.original, Some((two.source.id(), original.sid)));
        assert_ne!(copy.sid, original.sid);
        let back = SnapshotRecord {
            sid: original.sid,
            original: None,
            parent: original.parent,
            nonce: original.nonce,
            ..SnapshotRecord::clone(copy)
        };
        assert_eq!(back, **original);
    }
    assert_eq!(copies[2].parent, Some(copies[1].sid));
    // Nothing of the first store is left.
    for name in two.here.objects().await.keys() {
        two.here.remove(name).await;
    }
    assert_eq!(two.whole(&[&version(0), &version(1), &version(2)]).await, 3);
    let again = take(&two.context, &two.target, &version(2)).await.unwrap();
    assert_eq!(again.snapshot.statistics.bytes_new, 0);
}

#[tokio::test]
async fn a_second_copy_does_nothing_and_a_further_one_brings_what_is_new() {
    let two = Two::replica().await;
    two.take(&version(0)).await;
    two.copy(&request()).await;
    let before = two.there.objects().await;
    let report = two.copy(&request()).await;
    assert_eq!((report.copied.len(), report.there, report.noted), (0, 1, 0));
    assert_eq!(two.there.objects().await, before);

    let had = packs(&two.here.objects().await);
    two.take(&version(1)).await;
    let faults = two.here.faults();
    let source = repo::open(&over(Arc::new(faults.clone()), &two.context).read_only())
        .await
        .unwrap();
    let report = ops::copy(&two.context, &source, Some(&two.target), &request()).await;
    assert_eq!(report.unwrap().copied.len(), 1);
    let read: BTreeSet<String> = faults
        .calls()
        .into_iter()
        .filter(|call| call.op == Op::Get && call.range.is_none() && call.name.starts_with("packs/"))
        .map(|call| call.name)
        .collect();
    let new: BTreeSet<String> = packs(&two.here.objects().await)
        .into_keys()
        .filter(|name| !had.contains_key(name))
        .collect();
    assert_eq!(read, new);
    assert!(faults.calls().iter().all(|call| call.op != Op::Put));
    assert_eq!(two.whole(&[&version(0), &version(1)]).await, 2);
}

#[tokio::test]
async fn a_dry_run_tells_what_a_run_does_and_writes_nothing() {
    let two = Two::replica().await;
    two.take(&version(0)).await;
    two.take(&version(1)).await;
    let before = two.there.objects().await;
    let dry = CopyRequest {
        dry_run: true,
        ..request()
    };
    let planned = two.copy(&dry).await;
    assert_eq!(two.there.objects().await, before);
    assert_eq!((planned.copied.len(), planned.lag.missing.len()), (2, 2));
    let into_nothing = ops::copy(&two.context, &two.source, None, &dry).await.unwrap();
    assert_eq!(into_nothing.planned, planned.planned);
    two.copy(&request()).await;
    let stored = packs(&two.there.objects().await);
    let bytes = stored.values().map(|bytes| bytes.len() as u64).sum::<u64>();
    assert_eq!(planned.planned, Some((stored.len() as u64, bytes)));
}

#[tokio::test]
async fn a_name_that_a_collector_of_the_replica_may_still_delete_is_not_used_again() {
    let two = Two::replica().await;
    two.take(&version(0)).await;
    two.take(&Things::new([("b", noise(50_000, 90))])).await;
    two.copy(&request()).await;
    let first = packs(&two.there.objects().await);
    let copies = two.records(&two.target).await;
    two.hand(&two.target).forget(copies[0].sid).await;
    let report = two.copy(&request()).await;
    assert_eq!((report.copied.len(), report.let_go), (0, 1));
    for _ in 0..3 {
        ops::prune(&two.context, &two.target, &all()).await.unwrap();
    }
    let left = packs(&two.there.objects().await);
    assert!(left.len() < first.len());
    let report = two.copy(&request()).await;
    assert_eq!((report.copied.len(), report.there), (1, 1));
    let now = packs(&two.there.objects().await);
    let back: Vec<_> = now
        .keys()
        .filter(|name| first.contains_key(*name) && !left.contains_key(*name))
        .collect();
    assert!(back.is_empty(), "{back:?}");
    assert_eq!(
        two.whole(&[&version(0), &Things::new([("b", noise(50_000, 90))])])
            .await,
        2
    );
    assert_eq!(two.copy(&request()).await.copied.len(), 0);
}

#[tokio::test]
async fn what_a_collector_repacked_is_recognized_by_its_blobs() {
    let two = Two::replica().await;
    for n in 0..3 {
        two.take(&version(n)).await;
    }
    two.copy(&request()).await;
    let copies = two.records(&two.target).await;
    two.hand(&two.target).forget(copies[0].sid).await;
    two.hand(&two.target).forget(copies[1].sid).await;
    for _ in 0..3 {
        ops::prune(&two.context, &two.target, &all()).await.unwrap();
    }
    two.take(&version(3)).await;
    let latest = CopyRequest {
        snapshots: vec!["latest".parse().unwrap()],
        ..request()
    };
    let before: u64 = packs(&two.there.objects().await)
        .values()
        .map(|b| b.len() as u64)
        .sum();
    assert_eq!(two.copy(&latest).await.copied.len(), 1);
    let after: u64 = packs(&two.there.objects().await)
        .values()
        .map(|b| b.len() as u64)
        .sum();
    assert!(after - before < 200_000, "{before} {after}");
    assert_eq!(two.whole(&[&version(2), &version(3)]).await, 2);
}

#[tokio::test]
async fn a_damaged_pack_costs_the_snapshots_that_need_it_and_no_others() {
    let two = Two::replica().await;
    let first = Things::new([("a", noise(300_000, 1)), ("b", noise(300_000, 2))]);
    let had = {
        two.take(&first).await;
        packs(&two.here.objects().await)
    };
    let second = Things::new([("c", noise(200_000, 3))]);
    let hit = two.take(&second).await;
    let bad = packs(&two.here.objects().await)
        .into_keys()
        .find(|name| !had.contains_key(name))
        .unwrap();
    two.take(&first).await;
    let mut bytes = two.here.get(&bad).await.unwrap().to_vec();
    bytes[5_000] ^= 1;
    two.here.set(&bad, bytes.into()).await;
    let report = two.copy(&request()).await;
    assert_eq!(report.copied.len(), 2);
    assert_eq!(report.failed.len(), 1);
    assert_eq!(report.failed[0].record.sid, hit);
    assert_eq!(report.failed[0].why.kind(), ErrorKind::Damaged);
    assert_eq!(report.lag.missing, [hit]);
    assert_eq!(report.bad_packs.len(), 1);
    assert_eq!(report.bad_packs[0].0, bad);
    assert_eq!(two.whole(&[&first]).await, 2);
}

#[tokio::test]
async fn what_is_intact_of_a_damaged_pack_is_copied_blob_by_blob() {
    let two = Two::replica().await;
    // Blocks of a megabyte: one is hit, which the second snapshot does not need.
    let both = Things::new([("a", noise(1 << 20, 1)), ("b", noise(1 << 20, 2))]);
    let hit = two.take(&both).await;
    let bad = packs(&two.here.objects().await)
        .into_iter()
        .max_by_key(|(_, bytes)| bytes.len())
        .unwrap();
    let one = Things::new([("b", noise(1 << 20, 2))]);
    two.take(&one).await;
    let mut bytes = bad.1.to_vec();
    bytes[200_000] ^= 1;
    two.here.set(&bad.0, bytes.into()).await;
    let report = two.copy(&request()).await;
    assert_eq!((report.copied.len(), report.failed.len()), (1, 1));
    assert_eq!(report.failed[0].record.sid, hit);
    assert_eq!(two.whole(&[&one]).await, 1);
}

#[tokio::test]
async fn snapshots_are_chosen_by_name_project_and_tag() {
    let two = Two::replica().await;
    let sids = [two.take(&version(0)).await, two.take(&version(1)).await];
    let by_name = CopyRequest {
        snapshots: vec![sids[0].name().parse().unwrap()],
        ..request()
    };
    let report = two.copy(&by_name).await;
    assert_eq!(report.copied.len(), 1);
    assert_eq!(report.copied[0].record.sid, sids[0]);
    assert_eq!(report.lag.missing, [sids[1]]);
    assert_eq!(report.lag.behind, Some(10.0));
    let none = CopyRequest {
        filter: SnapshotFilter {
            project: Some("elsewhere".into()),
            ..SnapshotFilter::default()
        },
        ..request()
    };
    assert_eq!(two.copy(&none).await.copied.len(), 0);
    let unknown = CopyRequest {
        snapshots: vec!["ffffffffffff".parse().unwrap()],
        ..request()
    };
    let error = ops::copy(&two.context, &two.source, Some(&two.target), &unknown).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn packs_that_an_interrupted_copy_left_are_collected_if_nobody_goes_on() {
    let two = Two::replica().await;
    two.take(&version(0)).await;
    let pack = packs(&two.here.objects().await).into_iter().next().unwrap();
    two.there.set(&pack.0, pack.1).await;
    ops::prune(&two.context, &two.target, &all()).await.unwrap();
    assert!(names(&two.there.objects().await, "packs/").is_empty());
    assert_eq!(two.copy(&request()).await.copied.len(), 1);
    assert_eq!(two.whole(&[&version(0)]).await, 1);
}

/// Interrupts at the first progress.
struct Interrupt(CancellationToken);

impl Observer for Interrupt {
    fn on(&self, event: &Event) {
        if matches!(event, Event::Progress { .. }) {
            self.0.cancel();
        }
    }
}

#[tokio::test]
async fn an_interrupted_copy_is_taken_up_by_the_next() {
    let two = Two::replica().await;
    let things = Things::new([("large", noise(20 << 20, 3))]);
    two.take(&things).await;
    let mut puts = Vec::new();
    for interrupted in [true, false] {
        let (mut context, _) = seeded(if interrupted { 8 } else { 9 });
        if interrupted {
            context.observer = Arc::new(Interrupt(context.cancel.clone()));
        }
        let faults = two.there.faults();
        let source = repo::open(&two.here.store(&context)).await.unwrap();
        let target = repo::open(&over(Arc::new(faults.clone()), &context))
            .await
            .unwrap();
        let copied = ops::copy(&context, &source, Some(&target), &request()).await;
        assert_eq!(copied.is_err(), interrupted);
        if let Err(error) = copied {
            assert_eq!(error.kind(), ErrorKind::Cancelled);
        }
        let calls = faults.calls().into_iter();
        puts.push(
            calls
                .filter(|call| call.op == Op::Put && call.name.starts_with("packs/"))
                .count(),
        );
    }
    let all = packs(&two.here.objects().await).len();
    assert!(puts[0] > 0 && puts[0] < all, "{puts:?} of {all}");
    assert_eq!(puts[0] + puts[1], all);
    assert_eq!(two.whole(&[&things]).await, 1);
}

async fn behaves(context: &Context, here: &Store, there: &Store) {
    let source = repo::init(here, context).await.unwrap();
    let large = |n: u64| Things::new([("large", noise(9 << 20, n)), ("small", noise(10_000, n + 50))]);
    take(context, &source, &large(1)).await.unwrap();
    let target = make_replica(&source, there.clone(), context).await.unwrap();
    let report = ops::copy(context, &source, Some(&target), &request())
        .await
        .unwrap();
    assert_eq!(report.copied.len(), 1);
    take(context, &source, &large(2)).await.unwrap();
    let report = ops::copy(context, &source, Some(&target), &request())
        .await
        .unwrap();
    assert_eq!((report.copied.len(), report.there), (1, 1));
    assert_eq!(
        assert_whole(context, &there.read_only(), &[&large(1), &large(2)]).await,
        2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_directories() {
    let directory = tempfile::tempdir().unwrap();
    let context = context();
    let here = repo::local(&directory.path().join("here"), &context);
    let there = repo::local(&directory.path().join("there"), &context);
    behaves(&context, &here, &there).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_directory_to_s3() {
    let directory = tempfile::tempdir().unwrap();
    let server = SeaweedFs::start().await.unwrap();
    let context = context();
    let here = repo::local(directory.path(), &context);
    let there = Store::open(&server.location("offsite"), &server.options(), &context).unwrap();
    behaves(&context, &here, &there).await;
}
