//! A collector that is gone at any call to the store leaves every snapshot whole, and the next one ends what it began.

use crate::collect::{all, stage};
use crate::world::{Objects, START, Things, Turn, World, assert_whole, noise, over, seeded, take};
use holdall::context::{Context, Time};
use holdall::ops;
use holdall::testkit::{When, repo};
use std::sync::Arc;

/// Small things, of which those below `changed` are of that round, and one that is stored as deltas.
fn some(round: u64, changed: u64) -> Things {
    let small = (0..30).map(|n| {
        (
            format!("{n:02}"),
            noise(4_000, if n < changed { 100 * round + n } else { n }),
        )
    });
    let mut large = noise(300_000, 7);
    large[usize::try_from(round).unwrap() * 1_000] ^= 0x5a;
    Things::new(small.chain([("large".to_owned(), large)]))
}

fn context(seed: u64) -> Context {
    let (context, clock) = seeded(seed);
    let seconds = START.seconds + 100_000;
    clock.set(Time { seconds, nanos: 0 });
    context
}

/// Three snapshots, the first let go, and what an interrupted run left.
async fn base() -> Objects {
    let stage = stage().await;
    let first = stage.take(&some(1, 30)).await;
    stage.take(&some(2, 20)).await;
    take(&stage.context, &stage.repository, &some(3, 30).at(20, Turn::Fail))
        .await
        .unwrap_err();
    stage.take(&some(4, 10)).await;
    stage.hand().forget(first).await;
    stage.world.objects().await
}

/// Collects until there is nothing to do; gives how often it took.
async fn collect_all(world: &World, seed: u64) -> usize {
    for rounds in 0..6 {
        let context = context(seed + rounds as u64);
        let repository = repo::open(&world.store(&context)).await.unwrap();
        if ops::prune(&context, &repository, &all())
            .await
            .unwrap()
            .round
            .is_none()
        {
            return rounds;
        }
    }
    panic!("collections do not end");
}

/// Nothing is left that nobody needs, but for what packs hold beside what is needed.
async fn assert_swept(world: &World, at: &str) {
    let context = context(70);
    let repository = repo::open(&world.store(&context)).await.unwrap();
    let mut request = all();
    request.options.dry_run = true;
    let plan = ops::prune(&context, &repository, &request).await.unwrap().plan;
    let left = (
        plan.dead_packs,
        plan.repack_packs,
        plan.unused_bytes,
        plan.unfinished,
    );
    assert_eq!(left, (0, 0, 0, 0), "{at}: {plan:?}");
    let check = repo::check_all(&context, &repository).await.unwrap().survey;
    assert_eq!((check.packs_unlisted, check.objects_void), (0, 0), "{at}");
    let objects = world.objects().await;
    for gone in ["sessions/", "forgets/", "index/s/"] {
        assert!(!objects.keys().any(|name| name.starts_with(gone)), "{at}: {gone}");
    }
}

async fn crash_everywhere(base: &Objects, expected: &[&Things]) {
    let world = World::of(base).await;
    let faults = world.faults();
    let whole = context(2);
    let repository = repo::open(&over(Arc::new(faults.clone()), &whole)).await.unwrap();
    faults.forget_calls();
    ops::prune(&whole, &repository, &all()).await.unwrap();
    let calls = faults.calls().len() as u64;
    collect_all(&world, 50).await;
    assert_swept(&world, "no crash").await;
    println!("{calls} calls");
    assert!(calls > 30, "{calls}");
    for when in [When::Before, When::After] {
        for n in 0..calls {
            let world = World::of(base).await;
            let faults = world.faults();
            let crashing = context(2);
            let repository = repo::open(&over(Arc::new(faults.clone()), &crashing))
                .await
                .unwrap();
            faults.crash(n, when);
            let crashed = ops::prune(&crashing, &repository, &all()).await;
            assert!(crashed.is_err(), "call {n} {when:?}");
            let store = world.store(&crashing);
            assert_eq!(
                assert_whole(&crashing, &store, expected).await,
                expected.len(),
                "call {n} {when:?}"
            );
            // A writer in between finds all that it may rest on.
            let context = context(3);
            let repository = repo::open(&world.store(&context)).await.unwrap();
            let again = take(&context, &repository, expected[0]).await.unwrap().snapshot;
            if again.statistics.bytes_new > 0 {
                assert!(
                    world
                        .objects()
                        .await
                        .keys()
                        .any(|name| name.ends_with("condemned")),
                    "call {n} {when:?}"
                );
            }
            ops::prune(&context, &repository, &all()).await.unwrap();
            assert_eq!(
                assert_whole(&context, &store, expected).await,
                expected.len() + 1,
                "call {n} {when:?}"
            );
            collect_all(&world, 60).await;
            assert_eq!(
                assert_whole(&context, &store, expected).await,
                expected.len() + 1,
                "call {n} {when:?}"
            );
            assert_swept(&world, &format!("call {n} {when:?}")).await;
        }
    }
}

#[tokio::test]
async fn a_first_collection_may_crash_anywhere() {
    let base = base().await;
    crash_everywhere(&base, &[&some(2, 20), &some(4, 10)]).await;
}

#[tokio::test]
async fn a_further_collection_may_crash_anywhere() {
    let world = World::of(&base().await).await;
    let context = context(20);
    let repository = repo::open(&world.store(&context)).await.unwrap();
    ops::prune(&context, &repository, &all()).await.unwrap();
    let snapshots = crate::world::snapshots(&context, &repository).await.unwrap();
    let hand = holdall::testkit::rounds::Hand {
        repository: &repository,
        context: &context,
    };
    hand.forget(snapshots[0].record().sid).await;
    take(&context, &repository, &some(5, 5)).await.unwrap();
    crash_everywhere(&world.objects().await, &[&some(4, 10), &some(5, 5)]).await;
}
