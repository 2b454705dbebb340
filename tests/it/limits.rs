//! Much, large, hostile, interrupted: memory stays bounded, nothing leaves the target, and nothing is lost.

use crate::world::{Things, Turn, World, assert_whole, context, noise, over, seeded, take};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use holdall::connector::files::{FilesSink, RestoreRequest as FilesRestore};
use holdall::connector::{Origin, Source};
use holdall::context::Context;
use holdall::crypto::{Secret, Unlock};
use holdall::error::{ErrorKind, Result};
use holdall::ops::{self, RestoreRequest, SnapshotReport};
use holdall::repository::{Cache, Repository};
use holdall::snapshot::entry::{
    Content, ContentStream, Entry, EntryHead, EntryKind, Item, Key, Metadata, OpenContent, Piece, Prior,
};
use holdall::testkit::{Failure, Plan, When, repo};
use std::sync::Arc;
use std::time::Instant;

/// The length of a file that is larger than the budget.
const LEN: u64 = 300 << 20;
/// Entries of a large snapshot.
const COUNT: u32 = 1_000_000;

/// Runs a test alone in a process of its own, so that the peak of its memory is its own. Gives whether this is that process.
#[expect(
    clippy::disallowed_methods,
    reason = "this program itself, which asks nothing"
)]
pub(crate) fn alone(name: &str) -> bool {
    const ALONE: &str = "HOLDALL_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let status = command
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .status();
    assert!(status.unwrap().success(), "{name} failed");
    false
}

/// Resident bytes now and at their peak, as the kernel counts them.
pub(crate) fn memory() -> (u64, u64) {
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    };
    (field("VmRSS:"), field("VmHWM:"))
}

fn assert_bounded(what: &str, before: u64, budget: u64) {
    let (_, peak) = memory();
    let grown = peak.saturating_sub(before);
    println!(
        "{what}: peak {} MiB above the start, budget {} MiB",
        grown >> 20,
        budget >> 20
    );
    assert!(
        grown <= budget + (100 << 20),
        "{what}: {grown} bytes with a budget of {budget}"
    );
}

/// Content that is made while it is read.
struct Endless {
    len: u64,
    seed: u64,
}

const PIECE: u64 = 1 << 20;

impl Endless {
    fn pieces(len: u64, seed: u64) -> impl Iterator<Item = Bytes> + Send + 'static {
        (0..len.div_ceil(PIECE)).map(move |n| {
            let part = usize::try_from((len - n * PIECE).min(PIECE)).unwrap();
            noise(part, seed << 32 | n).into()
        })
    }
}

impl OpenContent for Endless {
    fn open(self: Box<Self>) -> BoxFuture<'static, Result<ContentStream>> {
        let pieces = Self::pieces(self.len, self.seed).map(|bytes| Ok(Piece::Data(bytes)));
        Box::pin(async move { Ok(stream::iter(pieces).boxed()) })
    }
}

/// Entries that are made while they are read.
#[derive(Clone, Copy)]
enum Made {
    Large(u64),
    Many(u32),
}

fn head(key: &str, size: u64) -> EntryHead {
    EntryHead {
        key: Key::from(key),
        kind: EntryKind::File,
        metadata: Metadata::default(),
        state: Bytes::from_static(b"as it was"),
        size: Some(size),
    }
}

impl Source for Made {
    fn origin(&self) -> Origin {
        Origin {
            connector: "files".into(),
            description: "made".into(),
            version: None,
        }
    }

    fn entries<'a>(&'a mut self, _: &'a Context, prior: Arc<dyn Prior>) -> BoxStream<'a, Result<Item>> {
        match *self {
            Self::Large(len) => {
                let content = Content::Open(Box::new(Endless { len, seed: 1 }));
                let head = head("large", len);
                stream::iter([Ok(Item::Entry(Entry { head, content }))]).boxed()
            }
            Self::Many(count) => {
                let parent = prior.entries(Key::from(""));
                let items = stream::unfold((parent, 0), move |(mut parent, n)| async move {
                    if n == count {
                        return None;
                    }
                    let item = match parent.next().await {
                        Some(entry) => entry.map(Item::Unchanged),
                        None => Ok(Item::Entry(Entry {
                            head: head(&format!("some/directory/{:03}/{n:08}", n / 1000), 8),
                            content: Content::Bytes(Bytes::copy_from_slice(&u64::from(n).to_le_bytes())),
                        })),
                    };
                    Some((item, (parent, n + 1)))
                });
                items.boxed()
            }
        }
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

async fn take_made(context: &Context, repository: &Repository, made: Made) -> SnapshotReport {
    let mut open = || -> Result<Option<Vec<Box<dyn Source>>>> { Ok(Some(vec![Box::new(made)])) };
    ops::snapshot(context, repository, &repo::request(), &mut open)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_larger_than_the_budget() {
    if !alone("limits::a_file_larger_than_the_budget") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let context = context();
    let budget = context.budget.total();
    assert_eq!(budget, 64 << 20);
    let (before, _) = memory();
    let repository = repo::init(&repo::local(directory.path(), &context), &context)
        .await
        .unwrap();
    let taken = take_made(&context, &repository, Made::Large(LEN)).await.snapshot;
    assert_eq!(taken.statistics.bytes_new, LEN);
    assert_bounded("snapshot of 300 MiB", before, budget);

    let reader = repo::reader(&context, &repository, "latest").await.unwrap();
    let mut entries = reader.entries(Key::from(""), |_| true);
    let mut pieces = entries
        .next()
        .await
        .unwrap()
        .unwrap()
        .content
        .open()
        .await
        .unwrap();
    let (mut found, mut expected) = (blake3::Hasher::new(), blake3::Hasher::new());
    while let Some(piece) = pieces.next().await {
        let Piece::Data(bytes) = piece.unwrap() else {
            panic!("a hole")
        };
        found.update(&bytes);
    }
    for bytes in Endless::pieces(LEN, 1) {
        expected.update(&bytes);
    }
    assert_eq!(found.finalize(), expected.finalize());
    assert_bounded("and reading it", before, budget);
    let report = repo::check_all(&context, &repository).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_bounded("and checking it", before, budget);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_entries() {
    if !alone("limits::a_million_entries") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let context = context();
    let budget = context.budget.total();
    let (before, _) = memory();
    let repository = repo::init(&repo::local(directory.path(), &context), &context)
        .await
        .unwrap();
    let first = take_made(&context, &repository, Made::Many(COUNT)).await;
    assert_eq!(first.snapshot.root.entries, u64::from(COUNT));
    println!("first snapshot: {:.1} s", first.seconds);
    let second = take_made(&context, &repository, Made::Many(COUNT)).await;
    let statistics = second.snapshot.statistics;
    println!("unchanged snapshot: {:.1} s", second.seconds);
    assert_eq!((statistics.blobs_new, statistics.bytes_stored), (0, 0));
    assert_eq!(statistics.entries_unchanged, u64::from(COUNT));
    assert_eq!(second.snapshot.root, first.snapshot.root);
    assert_bounded("two snapshots of a million entries", before, budget);
    let started = Instant::now();
    let report = repo::check_all(&context, &repository).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    println!("check: {:.1} s", started.elapsed().as_secs_f64());
    assert_bounded("and their check", before, budget);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_small_files() {
    let source = tempfile::tempdir().unwrap();
    for directory in 0..100 {
        let path = source.path().join(directory.to_string());
        fs_err::create_dir(&path).unwrap();
        for file in 0..1000u64 {
            let content = format!("{directory} {file} ").repeat(1 + usize::try_from(file % 200).unwrap());
            fs_err::write(path.join(file.to_string()), content).unwrap();
        }
    }
    let context = context();
    let repository = repo::init(&repo::memory(&context), &context).await.unwrap();
    let first = repo::snapshot_of(&context, &repository, source.path())
        .await
        .unwrap();
    assert!(
        first.snapshot.root.entries >= 100_100,
        "{:?}",
        first.snapshot.root
    );
    let second = repo::snapshot_of(&context, &repository, source.path())
        .await
        .unwrap();
    let target = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let report = repo::restore_to(&context, &repository, "latest", source.path(), target.path())
        .await
        .unwrap();
    println!(
        "100,000 files: {:.1} s, unchanged {:.1} s, restored in {:.1} s",
        first.seconds,
        second.seconds,
        started.elapsed().as_secs_f64()
    );
    assert_eq!(report.sink.failed, 0);
    // The property of trees holds what a file has; here it is the number of them that counts.
    let mut files = 0;
    for directory in 0..100 {
        for entry in fs_err::read_dir(target.path().join(directory.to_string())).unwrap() {
            let path = entry.unwrap().path();
            files += 1;
            if files % 37 == 0 {
                let name = path.strip_prefix(target.path()).unwrap();
                let expected = fs_err::read(source.path().join(name)).unwrap();
                assert_eq!(fs_err::read(&path).unwrap(), expected);
            }
        }
    }
    assert_eq!(files, 100_000);
}

pub(crate) async fn one_snapshot(things: &Things) -> (World, Context, Repository) {
    let world = World::new();
    let context = context();
    let repository = repo::init(&world.store(&context), &context).await.unwrap();
    take(&context, &repository, things).await.unwrap();
    (world, context, repository)
}

fn some_things() -> Things {
    Things::new([
        ("a", noise(1_500_000, 1)),
        ("b", noise(30_000, 2)),
        ("c", b"short".to_vec()),
    ])
}

#[tokio::test]
async fn hostile_names_stay_inside_the_target() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    fs_err::create_dir(&target).unwrap();
    let absolute = format!("files/{}/absolute", outside.path().display());
    let names = [
        "files/../escaped",
        "files/x/../../escaped",
        "files//escaped",
        "files/./dot",
        "files/ok",
        absolute.as_str(),
        "files/..",
        "files/.",
        "files/",
        "files/nul\0name",
        "elsewhere/name",
        "files/deep/../deeper",
    ];
    let hostile = Things::new(names.map(|name| (name, b"hostile".to_vec())));
    let (_, context, repository) = one_snapshot(&hostile).await;
    let reader = repo::reader(&context, &repository, "latest").await.unwrap();
    let mut sink = FilesSink::new(FilesRestore {
        target: target.clone(),
        ..FilesRestore::default()
    });
    let request = RestoreRequest {
        prefix: "files/".into(),
        wanted: Box::new(|_| true),
    };
    match ops::restore(&context, &reader, request, &mut sink).await {
        Ok(report) => assert!(report.sink.failed > 0, "{report:?}"),
        Err(error) => assert_ne!(error.kind(), ErrorKind::Internal, "{error:?}"),
    }
    let beside: Vec<_> = fs_err::read_dir(outside.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(beside, ["target"]);
}

#[tokio::test]
async fn a_wrong_key_is_told_as_such() {
    let (world, context, _) = one_snapshot(&some_things()).await;
    let wrong = Unlock::KeyFile(Secret::new([7; 32]));
    let store = world.store(&context);
    let error = Repository::open(store.clone(), &wrong, |_| Cache::in_memory())
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    let other_kind = Unlock::Phrase(Secret::new([42; 32]));
    let error = Repository::open(store, &other_kind, |_| Cache::in_memory())
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
}

#[tokio::test]
async fn an_interrupted_snapshot_is_cheap_to_repeat() {
    let things = some_things();
    let world = World::new();
    for turn in [Turn::Cancel, Turn::Fail] {
        let world = World::new();
        let context = context();
        repo::init(&world.store(&context), &context).await.unwrap();
        // A new process each: a cancelled context stays cancelled.
        let first = crate::world::context();
        let repository = repo::open(&world.store(&first)).await.unwrap();
        let kind = if matches!(turn, Turn::Cancel) {
            ErrorKind::Cancelled
        } else {
            ErrorKind::Source
        };
        let error = take(&first, &repository, &things.clone().at(2, turn))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind);
        let store = world.store(&context);
        assert_eq!(assert_whole(&context, &store, &[]).await, 0);
        let repository = repo::open(&store).await.unwrap();
        let next = take(&context, &repository, &things).await.unwrap().snapshot;
        assert!(next.statistics.bytes_new <= 30_000, "{:?}", next.statistics);
        assert_eq!(assert_whole(&context, &store, &[&things]).await, 1);
    }
    drop(world);
}

#[tokio::test]
async fn more_incidents_than_a_snapshot_record_holds() {
    let mut things = Things::new((0..1500).map(|n| (format!("e{n:05}"), vec![1; 10])));
    things.turns = (0..1500).map(|n| (n, Turn::Incident)).collect();
    let (world, context, repository) = one_snapshot(&things).await;
    let reader = repo::reader(&context, &repository, "latest").await.unwrap();
    let record = reader.record();
    assert!(record.partial);
    assert_eq!((record.incident_count, record.incidents.len()), (1500, 1000));
    let (level, refs) = record.incident_list.clone().unwrap();
    assert!(level == 0 && !refs.is_empty());
    let view = repository.view(&context).await.unwrap();
    let blobs = repository.reader(&context, &view);
    let mut list = Vec::new();
    for reference in refs {
        list.extend(
            blobs
                .get(holdall::format::index::BlobKind::Data, &reference.id)
                .await
                .unwrap(),
        );
    }
    for name in ["e00000.lost", "e01000.lost", "e01499.lost"] {
        assert!(
            list.windows(name.len()).any(|window| window == name.as_bytes()),
            "{name}"
        );
    }
    assert_eq!(
        assert_whole(&context, &world.store(&context), &[&things]).await,
        1
    );
}

#[tokio::test]
async fn a_store_that_fails_now_and_then_takes_a_snapshot_that_restores() {
    let first = some_things();
    let mut second = first.clone();
    second.contents.insert("a".into(), noise(1_600_000, 7).into());
    let failures = [
        Failure::Status(503, "SlowDown"),
        Failure::Status(500, "InternalError"),
        Failure::Stalled,
        Failure::Dropped,
        Failure::Unreachable,
    ];
    for seed in 0..30u64 {
        let world = World::new();
        let faults = world.faults();
        let (context, _) = seeded(seed);
        let store = over(Arc::new(faults.clone()), &context);
        let repository = repo::init(&store, &context).await.unwrap();
        // Fewer than a request is tried, even if they all hit the same one.
        let draws = noise(7 * 4, seed);
        for draw in draws.chunks_exact(4) {
            let when = if draw[0] % 2 == 0 {
                When::Before
            } else {
                When::After
            };
            let failure = failures[usize::from(draw[1]) % failures.len()].clone();
            faults.plan(Plan::new(when, failure).skip(u64::from(draw[2]) % 40));
        }
        take(&context, &repository, &first).await.unwrap();
        take(&context, &repository, &second).await.unwrap();
        faults.heal();
        let (context, _) = seeded(seed + 100);
        assert_eq!(
            assert_whole(&context, &world.store(&context), &[&first, &second]).await,
            2
        );
    }
}
