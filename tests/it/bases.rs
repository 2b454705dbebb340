//! The local cache of what deltas rest on, and the budget for what it does not hold: they save bytes, and nothing else ever depends on
//! them.

use crate::world::{Things, World, contents, context, noise, over, snapshots};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use holdall::connector::{Origin, Source};
use holdall::context::Context;
use holdall::error::{ErrorKind, Result};
use holdall::ops::{self, SnapshotReport, SnapshotRequest};
use holdall::repository::{Cache, Repository};
use holdall::snapshot::DeltaPolicy;
use holdall::snapshot::entry::{Item, Prior};
use holdall::store::Store;
use holdall::testkit::{FaultStore, Op, repo};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const NOTHING: DeltaPolicy = DeltaPolicy::FetchUpTo(0);
const LARGE: u64 = 1 << 30;

/// A few contents that do not compress, over several blocks, each changed a little in each round.
fn things(round: usize) -> Things {
    Things::new((0..24).map(|n| {
        let mut content = noise(300 << 10, n);
        for (at, byte) in content.iter_mut().enumerate().step_by(20_000).take(round * 4) {
            *byte = byte.wrapping_add(u8::try_from(at % 97 + round).unwrap());
        }
        (format!("{n:04}"), content)
    }))
}

/// The repository as a new process opens it, with a cache of `most` bytes in `directory`.
async fn open(store: &Store, directory: Option<&Path>, most: u64) -> Repository {
    let repository = repo::open(store).await.unwrap();
    if let Some(directory) = directory {
        repository.use_base_cache(Cache::open_bases(directory, repository.id(), most).unwrap());
    }
    repository
}

async fn take(
    context: &Context,
    repository: &Repository,
    round: usize,
    deltas: DeltaPolicy,
) -> SnapshotReport {
    take_things(context, repository, &things(round), deltas).await
}

async fn take_things(
    context: &Context,
    repository: &Repository,
    things: &Things,
    deltas: DeltaPolicy,
) -> SnapshotReport {
    let mut open = || -> Result<Option<Vec<Box<dyn Source>>>> { Ok(Some(vec![Box::new(things.clone())])) };
    let request = SnapshotRequest {
        deltas,
        ..repo::request()
    };
    let report = ops::snapshot(context, repository, &request, &mut open)
        .await
        .unwrap();
    assert!(!report.snapshot.partial);
    report
}

/// Whether a snapshot consists of deltas: all was changed.
fn is_of_deltas(report: &SnapshotReport) -> bool {
    report.snapshot.statistics.bytes_stored < report.snapshot.statistics.bytes_new / 10
}

fn file(directory: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path());
    files
        .find(|path| path.extension().is_some_and(|e| e == "bases"))
        .unwrap()
}

async fn begin(context: &Context, world: &World, directory: &Path) -> Store {
    let store = world.store(context);
    repo::init(&store, context).await.unwrap();
    let first = take(context, &open(&store, Some(directory), LARGE).await, 0, NOTHING).await;
    assert!(first.snapshot.statistics.bytes_stored > 6 << 20);
    store
}

async fn assert_sound(context: &Context, store: &Store) {
    let repository = repo::open(store).await.unwrap();
    let report = repo::check_all(context, &repository).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_uploaded_from_here_is_compared_with_and_not_fetched() {
    let (world, context, directory) = (World::new(), context(), tempfile::tempdir().unwrap());
    let store = begin(&context, &world, directory.path()).await;
    for round in 1..4 {
        let repository = open(&store, Some(directory.path()), LARGE).await;
        let next = take(&context, &repository, round, NOTHING).await;
        assert!(
            is_of_deltas(&next),
            "round {round}: {:?}",
            next.snapshot.statistics
        );
        assert_eq!(next.bytes_fetched, 0);
    }
    // Nothing in it reads as what was kept.
    let held = std::fs::read(file(directory.path())).unwrap();
    let plain = noise(300 << 10, 3);
    assert!(held.len() > 6 << 20, "{}", held.len());
    assert!(!held.windows(32).any(|window| window == &plain[5_000..5_032]));
    assert_sound(&context, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_lost_damaged_or_anothers_costs_bytes_and_nothing_else() {
    let (world, context, directory) = (World::new(), context(), tempfile::tempdir().unwrap());
    let store = begin(&context, &world, directory.path()).await;
    let path = file(directory.path());
    let held = std::fs::read(&path).unwrap();
    let mut broken = held.clone();
    broken[20_000..]
        .iter_mut()
        .step_by(50)
        .for_each(|byte| *byte ^= 0x55);
    let foreign = tempfile::tempdir().unwrap();
    begin(&context, &World::new(), foreign.path()).await;
    let foreign = std::fs::read(file(foreign.path())).unwrap();
    let kinds: [(&str, Option<&[u8]>); 4] = [
        ("lost", None),
        ("no database", Some(b"what is this")),
        ("damaged", Some(&broken)),
        ("another repository's", Some(&foreign)),
    ];
    for (round, (kind, bytes)) in (1..).zip(kinds) {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", path.display()));
        }
        if let Some(bytes) = bytes {
            std::fs::write(&path, bytes).unwrap();
        }
        let repository = open(&store, Some(directory.path()), LARGE).await;
        let next = take(&context, &repository, round, DeltaPolicy::default()).await;
        assert!(is_of_deltas(&next), "{kind}: {:?}", next.snapshot.statistics);
        assert!(
            next.bytes_fetched > 1 << 20,
            "{kind}: fetched {}",
            next.bytes_fetched
        );
    }
    // As it was long ago: what came since is fetched, or does without.
    std::fs::write(&path, &held).unwrap();
    let repository = open(&store, Some(directory.path()), LARGE).await;
    take(&context, &repository, 5, NOTHING).await;
    assert_sound(&context, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_fetched_than_the_budget_allows_and_the_rest_is_stored_whole() {
    let (world, context, directory) = (World::new(), context(), tempfile::tempdir().unwrap());
    let store = begin(&context, &world, directory.path()).await;
    let budget = 3 << 20;
    let next = take(
        &context,
        &open(&store, None, 0).await,
        1,
        DeltaPolicy::FetchUpTo(budget),
    )
    .await;
    let counts = next.snapshot.statistics;
    assert!(
        next.bytes_fetched > 0 && next.bytes_fetched <= budget,
        "{}",
        next.bytes_fetched
    );
    assert!(counts.bytes_stored > counts.bytes_new / 4, "{counts:?}");
    assert!(counts.bytes_stored < counts.bytes_new * 9 / 10, "{counts:?}");
    let whole = take(&context, &open(&store, None, 0).await, 2, DeltaPolicy::Off).await;
    assert_eq!(whole.bytes_fetched, 0);
    assert!(!is_of_deltas(&whole) && whole.snapshot.statistics.bytes_stored > counts.bytes_new * 9 / 10);
    // As much as is uploaded: half of the bytes at the most come back for the other half.
    let even = take(
        &context,
        &open(&store, None, 0).await,
        3,
        DeltaPolicy::FetchAsUploaded,
    )
    .await;
    let stored = even.snapshot.statistics.bytes_stored;
    assert!(even.bytes_fetched > 0, "{:?}", even.snapshot.statistics);
    assert!(
        even.bytes_fetched <= stored + (4 << 20),
        "{} for {stored}",
        even.bytes_fetched
    );
    assert_sound(&context, &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_holds_what_it_may_and_two_may_use_it_at_once() {
    let (world, context, directory) = (World::new(), context(), tempfile::tempdir().unwrap());
    let store = begin(&context, &world, directory.path()).await;
    let a = open(&store, Some(directory.path()), LARGE).await;
    let b = open(&store, Some(directory.path()), LARGE).await;
    let (first, second) = tokio::join!(take(&context, &a, 1, NOTHING), take(&context, &b, 2, NOTHING));
    assert!(is_of_deltas(&first) && is_of_deltas(&second));
    drop((a, b));
    let small = tempfile::tempdir().unwrap();
    for round in 3..6 {
        let repository = open(&store, Some(small.path()), 2 << 20).await;
        take(&context, &repository, round, DeltaPolicy::default()).await;
    }
    let size = Cache::size_of_bases(small.path());
    assert!((1..4 << 20).contains(&size), "{size}");
    assert_sound(&context, &store).await;
}

/// The objects of packs that a step adds.
async fn packs(world: &World) -> BTreeSet<String> {
    let objects = world.objects().await;
    let packs = objects.keys().filter(|name| name.starts_with("packs/"));
    packs.cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_new_rests_on_a_pack_that_was_lost_though_its_content_is_kept_here() {
    // The packs of the first snapshot are lost, or those of the second, whose deltas the third would rest on.
    for lost_round in [0, 1] {
        let (world, context, directory) = (World::new(), context(), tempfile::tempdir().unwrap());
        let mut there = BTreeSet::new();
        let mut lost = BTreeSet::new();
        let store = begin(&context, &world, directory.path()).await;
        for round in 0..2 {
            if round > 0 {
                let repository = open(&store, Some(directory.path()), LARGE).await;
                assert!(is_of_deltas(&take(&context, &repository, round, NOTHING).await));
            }
            let now = packs(&world).await;
            if round == lost_round {
                lost = &now - &there;
            }
            there = now;
        }
        // Of the packs that hold content, the largest; nodes of the tree are another matter.
        let objects = world.objects().await;
        let largest = lost.iter().max_by_key(|name| objects[*name].len()).unwrap();
        world.remove(largest).await;
        let repository = open(&store, Some(directory.path()), LARGE).await;
        let mut changed = things(2);
        // In hand, and what the index says of it is known to be wrong by the time that it is put.
        let known = things(lost_round).contents["0005"].clone();
        changed.contents.insert("9999".into(), known);
        let next = take_things(&context, &repository, &changed, NOTHING).await;
        assert!(!is_of_deltas(&next), "{:?}", next.snapshot.statistics);
        let found = snapshots(&context, &repo::open(&store).await.unwrap())
            .await
            .unwrap();
        assert!(contents(found.last().unwrap()).await.unwrap() == changed.contents);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_pack_that_bases_lie_in_is_asked_for_once_at_most() {
    let (world, context, directory) = (World::new(), context(), tempfile::tempdir().unwrap());
    begin(&context, &world, directory.path()).await;
    let faults = world.faults();
    let store = over(Arc::new(faults.clone()), &context);
    let mut there = packs(&world).await.len();
    for round in 1..5 {
        let repository = open(&store, Some(directory.path()), LARGE).await;
        faults.forget_calls();
        assert!(is_of_deltas(&take(&context, &repository, round, NOTHING).await));
        let calls = faults.calls();
        let asked = calls.iter().filter(|call| call.op == Op::Head);
        let asked: Vec<&str> = asked.map(|call| call.name.as_str()).collect();
        let once: BTreeSet<&str> = asked.iter().copied().collect();
        assert!(!asked.is_empty() && asked.len() == once.len(), "{asked:?}");
        assert!(asked.len() <= there, "{asked:?}");
        assert!(asked.iter().all(|name| name.starts_with("packs/")), "{asked:?}");
        there = packs(&world).await.len();
    }
    let repository = open(&store, None, 0).await;
    faults.forget_calls();
    assert!(is_of_deltas(
        &take(&context, &repository, 5, DeltaPolicy::default()).await
    ));
    // Not even those of which the end was read.
    let calls = faults.calls();
    let asked = calls.iter().filter(|call| call.op == Op::Head);
    let asked: Vec<&str> = asked.map(|call| call.name.as_str()).collect();
    let once: BTreeSet<&str> = asked.iter().copied().collect();
    assert!(asked.len() == once.len() && asked.len() < there, "{asked:?}");
}

/// Things whose store hangs from the moment that they are read.
struct Hanging(Things, FaultStore);

impl Source for Hanging {
    fn origin(&self) -> Origin {
        self.0.origin()
    }

    fn entries<'a>(&'a mut self, context: &'a Context, prior: Arc<dyn Prior>) -> BoxStream<'a, Result<Item>> {
        self.1.delay(Duration::from_secs(600));
        self.0.entries(context, prior)
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<()>> {
        self.0.finish()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_is_heard_while_a_base_is_waited_for() {
    let (world, context) = (World::new(), context());
    let faults = world.faults();
    let store = over(Arc::new(faults.clone()), &context);
    let repository = repo::init(&store, &context).await.unwrap();
    take(&context, &repository, 0, NOTHING).await;
    let mut source = Some(Hanging(things(1), faults.clone()));
    let mut open = || -> Result<Option<Vec<Box<dyn Source>>>> {
        Ok(source
            .take()
            .map(|source| -> Vec<Box<dyn Source>> { vec![Box::new(source)] }))
    };
    let waits_for_packs = || {
        let calls = faults.calls();
        calls
            .iter()
            .any(|call| call.op == Op::Get && call.name.starts_with("packs/"))
    };
    faults.forget_calls();
    let interrupt = async {
        while !waits_for_packs() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Now all batches that may wait do.
        tokio::time::sleep(Duration::from_millis(300)).await;
        context.cancel.cancel();
        // What was asked hangs on; what ends the session need not.
        faults.delay(Duration::ZERO);
    };
    let request = repo::request();
    let run = ops::snapshot(&context, &repository, &request, &mut open);
    let both = Box::pin(async { tokio::join!(run, interrupt).0 });
    let ended = tokio::time::timeout(Duration::from_secs(30), both).await;
    let error = ended.expect("an interrupt is heard").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rebuilt_from_deltas_counts_in_the_budget_and_never_waits_for_it() {
    let (world, context, directory) = (World::new(), context(), tempfile::tempdir().unwrap());
    let store = begin(&context, &world, directory.path()).await;
    let repository = open(&store, Some(directory.path()), LARGE).await;
    assert!(is_of_deltas(&take(&context, &repository, 1, NOTHING).await));
    let fresh = crate::world::context();
    let found = snapshots(&fresh, &repo::open(&store).await.unwrap())
        .await
        .unwrap();
    assert!(contents(found.last().unwrap()).await.unwrap() == things(1).contents);
    // More than the contents that are ahead: two buffers, and the block that the chain begins in.
    let ahead = 3 * (300 << 10);
    assert!(
        fresh.budget.peak() > ahead + (512 << 10),
        "{}",
        fresh.budget.peak()
    );
    assert!(fresh.budget.is_free());
    // Somebody has all of it, and may be waiting for what is read here.
    let mut held = Vec::new();
    while let Some(part) = fresh.budget.try_reserve(1 << 20) {
        held.push(part);
    }
    let read = contents(found.last().unwrap());
    let read = tokio::time::timeout(Duration::from_secs(60), read).await;
    assert!(read.expect("nobody waits").unwrap() == things(1).contents);
    drop(held);
    assert!(fresh.budget.is_free());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_contents_are_rebuilt_while_one_is_in_use_and_go_if_nobody_wants_them() {
    let (world, context, directory) = (World::new(), context(), tempfile::tempdir().unwrap());
    let store = begin(&context, &world, directory.path()).await;
    let repository = repo::open(&store).await.unwrap();
    let found = snapshots(&context, &repository).await.unwrap();
    let mut entries = found[0].entries("".into(), |_: &_| true);
    let first = entries.next().await.unwrap().unwrap();
    // Whole chunks take nothing of the budget when they are read: what is held is what is ahead.
    assert!(!context.budget.is_free());
    let mut pieces = first.content.open().await.unwrap();
    while let Some(piece) = pieces.next().await {
        piece.unwrap();
    }
    drop(entries);
    assert!(context.budget.is_free());
    // A reader who wants none of them: after a few, nothing is rebuilt for it.
    let mut entries = found[0].entries("".into(), |_: &_| true);
    let mut seen = 0;
    while let Some(entry) = entries.next().await {
        drop(entry.unwrap());
        seen += 1;
        assert!(seen < 12 || context.budget.is_free(), "entry {seen}");
    }
    assert_eq!(seen, 24);
}

/// Reading the head of a pack says nothing of its tail.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_new_rests_on_a_pack_whose_tail_is_cut_off_though_its_head_is_read() {
    let (world, context, directory) = (World::new(), context(), tempfile::tempdir().unwrap());
    let store = world.store(&context);
    repo::init(&store, &context).await.unwrap();
    take(&context, &open(&store, None, LARGE).await, 0, NOTHING).await;
    let objects = world.objects().await;
    let packs = objects.iter().filter(|(name, _)| name.starts_with("packs/"));
    let (pack, bytes) = packs.max_by_key(|(_, bytes)| bytes.len()).unwrap();
    // What its tail holds is fetched for this one, and kept here.
    let mut changed = things(0);
    changed.contents.extend(things(1).contents.into_iter().skip(18));
    let fetches = DeltaPolicy::FetchUpTo(LARGE);
    let here = || open(&store, Some(directory.path()), LARGE);
    let second = take_things(&context, &here().await, &changed, fetches).await;
    assert!(is_of_deltas(&second), "{:?}", second.snapshot.statistics);
    world.remove(pack).await;
    world.set(pack, bytes.slice(..bytes.len() - (1 << 20))).await;
    take(&context, &here().await, 2, fetches).await;
    let read = snapshots(&context, &repo::open(&store).await.unwrap())
        .await
        .unwrap();
    assert!(contents(&read[2]).await.unwrap() == things(2).contents);
}
