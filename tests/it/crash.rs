//! A process that is gone at any call to the store leaves nothing that hurts, and its work is not lost.

use crate::world::{self, Objects, START, Things, Turn, World, assert_whole, noise, over, seeded, take};
use holdall::context::{Context, Time};
use holdall::error::ErrorKind;
use holdall::format::id::BlobId;
use holdall::format::layout::ObjectName;
use holdall::repository::{Cache, Repository};
use holdall::testkit::rounds::Hand;
use holdall::testkit::{When, repo};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

const BOTH: [When; 2] = [When::Before, When::After];

async fn init(store: &holdall::store::Store, context: &Context) -> holdall::error::Result<Repository> {
    let cache = Arc::new(Cache::in_memory()?);
    let made = Repository::init(store.clone(), context, repo::init_options(), cache).await?;
    Ok(made.repository)
}

#[tokio::test]
async fn init_can_be_finished_from_any_point() {
    let world = World::new();
    let faults = world.faults();
    let (context, _) = seeded(1);
    init(&over(Arc::new(faults.clone()), &context), &context)
        .await
        .unwrap();
    let calls = faults.calls().len() as u64;
    assert!(calls >= 6, "{calls}");
    for when in BOTH {
        for n in 0..calls {
            let world = World::new();
            let faults = world.faults();
            faults.crash(n, when);
            let (context, _) = seeded(1);
            let crashed = init(&over(Arc::new(faults), &context), &context).await;
            assert!(crashed.is_err(), "call {n} {when:?}");
            let before = world.objects().await;

            let (context, _) = seeded(2);
            let store = world.store(&context);
            if before.contains_key("keys/0") && !before.contains_key("config/0") {
                let mut other = repo::init_options();
                other.unlock = holdall::crypto::Unlock::KeyFile(holdall::crypto::Secret::new([7; 32]));
                let cache = Arc::new(Cache::in_memory().unwrap());
                let refused = Repository::init(store.clone(), &context, other, cache).await;
                assert_eq!(refused.err().unwrap().kind(), ErrorKind::WrongKey);
            }
            if !before.contains_key("config/0") {
                let error = repo::open(&store).await.err().unwrap();
                assert_eq!(
                    error.kind(),
                    ErrorKind::NoRepository,
                    "call {n} {when:?}: {error}"
                );
            }
            match init(&store, &context).await {
                Ok(repository) => drop(repository),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Exists, "call {n} {when:?}: {error}");
                    assert!(before.contains_key("config/0"));
                }
            }
            for (name, bytes) in &before {
                assert_eq!(world.get(name).await.as_ref(), Some(bytes), "{name}");
            }
            assert_eq!(assert_whole(&context, &store, &[]).await, 0);
        }
    }
}

/// Blobs that index runs list, whatever their sessions came to, in packs that are there.
async fn listed(world: &World, objects: &Objects, context: &Context) -> BTreeMap<BlobId, BTreeSet<String>> {
    let repository = repo::open(&world.store(context)).await.unwrap();
    let hand = Hand {
        repository: &repository,
        context,
    };
    let mut listed: BTreeMap<BlobId, BTreeSet<String>> = BTreeMap::new();
    for run in world::names(objects, "index/s/") {
        let tables = hand.read_run(run).await;
        for entry in &tables.entries {
            let pack = tables.packs[tables.blocks[entry.block as usize].pack as usize].id;
            let name = ObjectName::Pack(pack).to_string();
            assert!(
                objects.contains_key(&name),
                "{run} lists {name}, which is not durable"
            );
            listed.entry(entry.id).or_default().insert(name);
        }
    }
    listed
}

/// Crashes the snapshot of `things` at every call, over what `base` holds.
async fn crash_everywhere(base: &Objects, things: &Things, others: &[&Things], turn: Option<usize>) {
    let run = |seed: u64| {
        let (context, clock) = seeded(seed);
        let seconds = START.seconds + 1_000 * i64::try_from(seed).unwrap();
        clock.set(Time { seconds, nanos: 0 });
        let mut things = things.clone();
        if let Some(at) = turn {
            things = things.at(at, Turn::Later(clock));
        }
        (context, things)
    };
    let mut expected = others.to_vec();
    expected.push(things);

    let world = World::of(base).await;
    let faults = world.faults();
    let (context, source) = run(2);
    let repository = repo::open(&over(Arc::new(faults.clone()), &context))
        .await
        .unwrap();
    faults.forget_calls();
    take(&context, &repository, &source).await.unwrap();
    let calls = faults.calls().len() as u64;
    let mut reused = 0;
    for when in BOTH {
        for n in 0..calls {
            let world = World::of(base).await;
            let faults = world.faults();
            let (context, source) = run(2);
            let repository = repo::open(&over(Arc::new(faults.clone()), &context))
                .await
                .unwrap();
            faults.crash(n, when);
            let crashed = take(&context, &repository, &source).await;
            assert!(crashed.is_err(), "call {n} {when:?}");
            drop(repository);

            let (context, source) = run(3);
            let store = world.store(&context);
            let before = assert_whole(&context, &store, &expected).await;
            assert!(
                before == others.len() || before == others.len() + 1,
                "call {n} {when:?}"
            );

            let objects = world.objects().await;
            let known = listed(&world, &objects, &context).await;
            let repository = repo::open(&store).await.unwrap();
            let report = take(&context, &repository, &source).await.unwrap();
            assert_eq!(assert_whole(&context, &store, &expected).await, before + 1);
            let after = world.objects().await;
            let fresh: HashSet<String> = after
                .keys()
                .filter(|name| !objects.contains_key(*name))
                .cloned()
                .collect();
            for (blob, packs) in listed(&world, &after, &context).await {
                let again = known.contains_key(&blob) && packs.iter().any(|pack| fresh.contains(pack));
                assert!(
                    !again,
                    "call {n} {when:?}: blob {blob} was durable and is uploaded again"
                );
            }
            let data: u64 = things.contents.values().map(|bytes| bytes.len() as u64).sum();
            if report.snapshot.statistics.bytes_new < data / 2 && before == others.len() {
                reused += 1;
            }
        }
    }
    println!("{calls} calls; {reused} crashes before the commit left most of the content for the next run");
    assert!(reused > 0);
}

async fn empty_repository() -> Objects {
    let world = World::new();
    let (context, _) = seeded(1);
    init(&world.store(&context), &context).await.unwrap();
    world.objects().await
}

fn some_things() -> Things {
    let small = (0..40).map(|i| (format!("c{i:02}"), noise(i * 300, i as u64)));
    let large = [
        ("a".to_owned(), noise(9 << 20, 100)),
        ("b".to_owned(), noise(3 << 20, 101)),
        ("d".to_owned(), b"short".to_vec()),
    ];
    Things::new(small.chain(large))
}

#[tokio::test]
async fn a_first_snapshot_may_crash_anywhere() {
    // A sign of life in the middle: an index run lists what is durable by then.
    crash_everywhere(&empty_repository().await, &some_things(), &[], Some(20)).await;
}

#[tokio::test]
async fn a_further_snapshot_may_crash_anywhere() {
    let first = some_things();
    let world = World::of(&empty_repository().await).await;
    let (context, _) = seeded(20);
    let repository = repo::open(&world.store(&context)).await.unwrap();
    take(&context, &repository, &first).await.unwrap();
    let mut second = first.clone();
    second.contents.insert("b".into(), noise(4 << 20, 200).into());
    second.contents.insert("c07".into(), noise(5 << 20, 201).into());
    second.contents.remove("c08");
    let base = world.objects().await;
    crash_everywhere(&base, &second, &[&first], Some(20)).await;
}

async fn stored_bytes(seed: u64) -> Objects {
    let world = World::new();
    let (context, clock) = seeded(seed);
    let store = world.store(&context);
    let repository = init(&store, &context).await.unwrap();
    let first = some_things().at(20, Turn::Later(clock));
    take(&context, &repository, &first).await.unwrap();
    let mut second = first.clone();
    second.contents.insert("b".into(), noise(4 << 20, 200).into());
    take(&context, &repository, &second).await.unwrap();
    world.objects().await
}

#[tokio::test]
async fn the_same_seed_gives_the_same_stored_bytes() {
    let one = stored_bytes(5).await;
    assert!(one == stored_bytes(5).await);
    let other = stored_bytes(6).await;
    let shared: Vec<_> = one
        .iter()
        .filter(|(name, bytes)| other.get(*name) == Some(bytes))
        .collect();
    assert!(shared.is_empty(), "{shared:?}");
}
