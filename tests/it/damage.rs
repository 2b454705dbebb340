//! Damage of any object is found and named, and reading gives exact bytes or a typed error.

use crate::world::{Objects, Things, World, contents, noise, seeded, snapshots, take};
use bytes::Bytes;
use holdall::context::Context;
use holdall::crypto::{Secret, SlotInfo, Unlock};
use holdall::error::ErrorKind;
use holdall::format::layout::{ObjectName, Prefix};
use holdall::format::note::NoteRecord;
use holdall::format::snapshot::SnapshotRecord;
use holdall::ops::{self, CheckRequest};
use holdall::repository::{Cache, ReadData, Repository, Session};
use holdall::store::Store;
use holdall::testkit::repo;
use holdall::testkit::rounds::{Hand, Round};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long reading or checking the small repository may take before it counts as hung.
const HANG: Duration = Duration::from_secs(10);

/// A small repository with every type of object.
struct Golden {
    objects: Objects,
    /// What its snapshots hold.
    held: Vec<BTreeMap<String, Bytes>>,
    /// A cache that has seen all of it.
    cache: tempfile::TempDir,
}

impl Golden {
    /// The pack that holds the large content.
    fn data_pack(&self) -> String {
        let largest = self.objects.iter().max_by_key(|(_, bytes)| bytes.len());
        largest.unwrap().0.clone()
    }
}

fn second_key() -> Unlock {
    Unlock::KeyFile(Secret::new([43; 32]))
}

async fn golden() -> Golden {
    let world = World::new();
    let (context, clock) = seeded(1);
    let later = |seconds: i64| {
        let seconds = crate::world::START.seconds + seconds;
        clock.set(holdall::context::Time { seconds, nanos: 0 });
    };
    let store = world.store(&context);
    let repository = repo::init(&store, &context).await.unwrap();
    // The oldest is the one that is let go: the newest of a source is kept.
    let other = Things::new([("other", noise(900, 300))]);
    let forgotten = take(&context, &repository, &other).await.unwrap().snapshot;
    later(100);
    let small = (0..30).map(|i| (format!("s{i:02}"), noise(100 + i * 40, i as u64)));
    let first = Things::new(small.chain([("large".to_owned(), noise(400_000, 100))]));
    take(&context, &repository, &first).await.unwrap();
    later(200);
    let mut second = first.clone();
    second.contents.insert("s07".into(), noise(3000, 200).into());
    let committed = take(&context, &repository, &second).await.unwrap().snapshot;

    every_other_type(&repository, &context, &store, [committed, forgotten]).await;
    let cache = cache_that_saw(&store, &context).await;
    let opened = repo::open(&store).await.unwrap();
    let mut held = Vec::new();
    for snapshot in snapshots(&context, &opened).await.unwrap() {
        held.push(contents(&snapshot).await.unwrap());
    }
    assert_eq!(held, [first.contents, second.contents]);
    let objects = world.objects().await;
    let kinds: BTreeSet<&str> = objects.keys().map(|name| kind(name)).collect();
    let all = [
        "condemned",
        "config",
        "forgets",
        "holdall.json",
        "index/g",
        "index/s",
        "keys",
        "ledger",
        "notes",
        "packs",
        "refs",
        "reserve",
        "seal",
        "sessions",
        "snapshots",
        "state",
    ];
    assert_eq!(kinds, all.into_iter().collect());
    Golden { objects, held, cache }
}

/// Puts what no snapshot puts.
async fn every_other_type(
    repository: &Repository,
    context: &Context,
    store: &Store,
    [committed, forgotten]: [Arc<SnapshotRecord>; 2],
) {
    let hand = Hand { repository, context };
    hand.forget(forgotten.sid).await;
    let aborted = Session::begin(repository, context, "test", None).await.unwrap();
    aborted.abort(context, "test").await.unwrap();
    hand.fence(hand.session(0).await).await;
    let note = |text: &str| NoteRecord {
        description: Some(text.into()),
        ..NoteRecord::default()
    };
    repository
        .put_note(context, committed.sid, note("one"))
        .await
        .unwrap();
    repository
        .put_note(context, committed.sid, note("two"))
        .await
        .unwrap();
    repository
        .add_key(context, &second_key(), &SlotInfo::default())
        .await
        .unwrap();
    hand.config().await;
    hand.reserve(0, 700).await;
    hand.reserve(1, 800).await;
    hand.refs(committed.root.id).await;
    hand.refs(forgotten.root.id).await;
    let mut runs = Vec::new();
    for run in hand.names(Prefix::SessionRuns).await {
        runs.push((1, hand.copy_run(1, run).await));
    }
    let round = |number| Round {
        number,
        runs: runs.clone(),
        ..Round::default()
    };
    hand.condemn(1, Vec::new()).await;
    hand.seal(round(1)).await;
    hand.seal(round(2)).await;
    hand.condemn(3, Vec::new()).await;
    // Two checks: their ledgers.
    for _ in 0..2 {
        let repository = repo::open(store).await.unwrap();
        let report = repo::check_all(context, &repository).await.unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    }
}

async fn cache_that_saw(store: &Store, context: &Context) -> tempfile::TempDir {
    let cache = tempfile::tempdir().unwrap();
    let key = repo::key();
    let opened = Repository::open(store.read_only(), &key, |id| Cache::open(cache.path(), id));
    let report = repo::check_all(context, &opened.await.unwrap()).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    cache
}

/// The type of an object.
fn kind(name: &str) -> &str {
    for part in ["condemned", "seal", "state", "index/g", "index/s"] {
        if name.split_once(part).is_some() {
            return part;
        }
    }
    name.split('/').next().unwrap()
}

/// What came of looking at a damaged repository.
struct Outcome {
    /// It could not be opened, and the error names the object.
    unopened: Option<holdall::error::Error>,
    /// The objects that `check` calls wrong, and what it says.
    findings: BTreeMap<String, String>,
}

impl Outcome {
    fn names(&self, object: &str) -> bool {
        match &self.unopened {
            Some(error) => error.context("object") == Some(object),
            None => self.findings.contains_key(object),
        }
    }
}

/// Opens with either key and checks.
async fn check(world: &World, context: &Context, read_data: ReadData, cache: Option<&Path>) -> Outcome {
    let store = world.store(context).read_only();
    let mut unopened = None;
    for key in [repo::key(), second_key()] {
        let opened = Repository::open(store.clone(), &key, |id| match cache {
            Some(directory) => Cache::open(directory, id),
            None => Cache::in_memory(),
        });
        match opened.await {
            Ok(repository) => {
                let report = ops::check(
                    context,
                    &repository,
                    CheckRequest {
                        read_data,
                        ..CheckRequest::default()
                    },
                )
                .await
                .unwrap();
                let findings = report
                    .findings
                    .into_iter()
                    .map(|finding| (finding.object, finding.what));
                return Outcome {
                    unopened: None,
                    findings: findings.collect(),
                };
            }
            Err(error) => {
                typed(&error);
                // The error that names an object says more than "wrong key".
                if unopened
                    .as_ref()
                    .is_none_or(|e: &holdall::error::Error| e.context("object").is_none())
                {
                    unopened = Some(error);
                }
            }
        }
    }
    Outcome {
        unopened,
        findings: BTreeMap::new(),
    }
}

fn typed(error: &holdall::error::Error) {
    use ErrorKind::{Damaged, NoRepository, NotFound, Unsupported, WrongKey};
    let known = [Damaged, NoRepository, NotFound, Unsupported, WrongKey];
    assert!(known.contains(&error.kind()), "{error:?}");
}

/// Restores everything that is listed: exact bytes, or a typed error.
async fn restore(golden: &Golden, world: &World, context: &Context) {
    let store = world.store(context).read_only();
    let repository = match repo::open(&store).await {
        Ok(repository) => repository,
        Err(error) => return typed(&error),
    };
    let readers = match snapshots(context, &repository).await {
        Ok(readers) => readers,
        Err(error) => return typed(&error),
    };
    for reader in readers {
        match contents(&reader).await {
            Ok(found) => assert!(
                golden.held.contains(&found) || found.contains_key("other"),
                "other content"
            ),
            Err(error) => typed(&error),
        }
    }
}

/// Something done to one object.
#[derive(Clone)]
enum Harm {
    Flip { at: usize, bit: u8 },
    Bytes(Bytes),
    Delete,
}

struct Case {
    object: String,
    harm: Harm,
    mode: ReadData,
    restores: bool,
}

struct Tally {
    cases: AtomicU64,
    slowest: AtomicU64,
}

/// Runs cases one after the other on one thread, each in a repository that is whole but for it.
fn run(golden: &Golden, cases: &[Case], tally: &Tally, cache: Option<&Path>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::of(&golden.objects).await;
        let (context, _) = seeded(9);
        for case in cases {
            let whole = golden.objects[&case.object].clone();
            let mut what = String::new();
            match &case.harm {
                Harm::Flip { at, bit } => {
                    what = format!("byte {at} bit {bit} of {}", whole.len());
                    let mut bytes = whole.to_vec();
                    bytes[*at] ^= 1 << bit;
                    world.set(&case.object, bytes.into()).await;
                }
                Harm::Bytes(bytes) => {
                    what = format!("{} other bytes", bytes.len());
                    world.set(&case.object, bytes.clone()).await;
                }
                Harm::Delete => {
                    "deleted".clone_into(&mut what);
                    world.remove(&case.object).await;
                }
            }
            let started = Instant::now();
            let looked = async {
                let outcome = check(&world, &context, case.mode, cache).await;
                assert_named(case, &what, &outcome);
                if case.restores {
                    restore(golden, &world, &context).await;
                }
            };
            tokio::time::timeout(HANG, looked)
                .await
                .unwrap_or_else(|_| panic!("hang: {} {what}", case.object));
            let micros = u64::try_from(started.elapsed().as_micros()).unwrap();
            tally.slowest.fetch_max(micros, Ordering::Relaxed);
            tally.cases.fetch_add(1, Ordering::Relaxed);
            world.set(&case.object, whole).await;
        }
    });
}

fn assert_named(case: &Case, what: &str, outcome: &Outcome) {
    let gone = matches!(case.harm, Harm::Delete);
    let named = outcome.names(&case.object)
        // Without its marker it is no repository; what is gone cannot be told from what never was.
        || gone && case.object == "holdall.json"
            && outcome.unopened.as_ref().is_some_and(|e| e.kind() == ErrorKind::NoRepository);
    assert!(
        named,
        "{} ({what}) is not named by {:?}: {:?} {:?}",
        case.object, case.mode, outcome.unopened, outcome.findings
    );
}

/// On all cores.
fn run_all(golden: &Golden, cases: Vec<Case>, cache: bool) {
    let started = Instant::now();
    let tally = Tally {
        cases: AtomicU64::new(0),
        slowest: AtomicU64::new(0),
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let mut parts: Vec<Vec<Case>> = (0..threads).map(|_| Vec::new()).collect();
    for (at, case) in cases.into_iter().enumerate() {
        parts[at % threads].push(case);
    }
    std::thread::scope(|scope| {
        for part in &parts {
            let tally = &tally;
            scope.spawn(move || {
                // A cache of its own, so that what one case makes it forget does not hide another's.
                let own = tempfile::tempdir().unwrap();
                for case in part.chunks(if cache { 1 } else { part.len().max(1) }) {
                    if cache {
                        for file in fs_err::read_dir(golden.cache.path()).unwrap() {
                            let file = file.unwrap();
                            fs_err::copy(file.path(), own.path().join(file.file_name())).unwrap();
                        }
                    }
                    run(golden, case, tally, cache.then(|| own.path()));
                }
            });
        }
    });
    println!(
        "{} cases in {:.1} s, the slowest {:.1} ms",
        tally.cases.into_inner(),
        started.elapsed().as_secs_f64(),
        tally.slowest.into_inner() as f64 / 1000.0
    );
}

#[test]
fn every_bit_of_the_ends_and_many_others() {
    const ENDS: usize = 256;
    /// What is outside of what is sealed lies here.
    const EDGES: usize = 128;
    const SAMPLED: usize = 20_000;
    let golden = runtime_block(golden());
    let mut cases = Vec::new();
    let data = golden.data_pack();
    // Without reading data, what is inside a data pack is not looked at.
    let flip = |object: &str, at: usize, bit: u8, sample: usize| Case {
        object: object.to_owned(),
        harm: Harm::Flip { at, bit },
        mode: if sample % 16 != 1 && object != data {
            ReadData::None
        } else {
            ReadData::All
        },
        restores: sample.is_multiple_of(32),
    };
    let mut kinds = BTreeSet::new();
    for (object, bytes) in &golden.objects {
        // Every bit of the edges of one object of each type, and of the pack of data; of the rest one bit of each byte.
        let is_first = kinds.insert(kind(object)) || *object == data;
        for at in (0..bytes.len()).filter(|at| *at < ENDS || at + ENDS >= bytes.len()) {
            let every = is_first && (at < EDGES || at + EDGES >= bytes.len());
            let first = u8::try_from(at % 8).unwrap();
            for bit in if every { 0..8 } else { first..first + 1 } {
                cases.push(flip(object, at, bit, cases.len()));
            }
        }
    }
    println!(
        "{} objects, {} bits of their ends",
        golden.objects.len(),
        cases.len()
    );
    let inside: Vec<_> = golden
        .objects
        .iter()
        .filter(|(_, bytes)| bytes.len() > 2 * ENDS)
        .collect();
    let random = noise(SAMPLED * 16, 77);
    for (at, draw) in random.chunks_exact(16).enumerate() {
        let (a, b) = draw.split_at(8);
        let (a, b) = (
            u64::from_le_bytes(a.try_into().unwrap()),
            u64::from_le_bytes(b.try_into().unwrap()),
        );
        let (object, bytes) = inside[(a % inside.len() as u64) as usize];
        let bit = b % ((bytes.len() - 2 * ENDS) as u64 * 8);
        cases.push(flip(object, ENDS + (bit / 8) as usize, (bit % 8) as u8, at));
    }
    run_all(&golden, cases, false);
}

#[test]
fn truncated_emptied_swapped_replaced_and_deleted_objects() {
    let golden = runtime_block(golden());
    let mut cases = Vec::new();
    for (object, bytes) in &golden.objects {
        let mut harm = |harm: Harm| {
            for mode in [ReadData::All, ReadData::None] {
                // Bytes of the same length inside a data pack are for a reader of data.
                let hidden = matches!(&harm, Harm::Bytes(b) if b.len() == bytes.len())
                    && *object == golden.data_pack();
                if mode == ReadData::All || !hidden {
                    let (object, harm) = (object.clone(), harm.clone());
                    cases.push(Case {
                        object,
                        harm,
                        mode,
                        restores: mode == ReadData::All,
                    });
                }
            }
        };
        let len = bytes.len();
        for keep in [0, 1, 32, 104, 136, len / 2, len - 33, len - 32, len - 1] {
            if keep < len {
                harm(Harm::Bytes(bytes.slice(..keep)));
            }
        }
        let longer = [bytes.as_ref(), &[0; 32]].concat();
        harm(Harm::Bytes(longer.into()));
        for (other, theirs) in &golden.objects {
            // Every other of its type, and some of other types. A reserve holds random bytes, and any will do.
            if kind(object) != "reserve"
                && other != object
                && (kind(other) == kind(object) || theirs.len() % 7 == 0)
            {
                harm(Harm::Bytes(theirs.clone()));
            }
        }
        if !may_go(object) {
            harm(Harm::Delete);
        }
    }
    run_all(&golden, cases, true);
}

/// Objects that any collector or owner may remove, so that nobody can call their absence damage.
fn may_go(object: &str) -> bool {
    match ObjectName::parse(object).unwrap() {
        ObjectName::Refs(_) | ObjectName::Reserve(_) => true,
        ObjectName::Condemned(round) | ObjectName::State(round, _) => round == 1,
        _ => false,
    }
}

fn runtime_block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}
