//! A copier that is gone at any call to either store leaves both whole, and the next one ends what it began without uploading anew what
//! is listed.

use crate::collect::all;
use crate::copy::{init_other, make_replica, other, request, version};
use crate::world::{Objects, START, Things, World, contents, over, seeded, snapshots, take};
use holdall::context::{Context, Time};
use holdall::error::Result;
use holdall::ops::{self, CopyReport};
use holdall::repository::{Cache, Repository};
use holdall::store::Store;
use holdall::testkit::rounds::Hand;
use holdall::testkit::{FaultStore, When, repo};
use std::sync::Arc;

fn context(seed: u64) -> Context {
    let (context, clock) = seeded(seed);
    let seconds = START.seconds + 100_000;
    clock.set(Time { seconds, nanos: 0 });
    context
}

/// What stands in both stores before the copy that crashes.
struct Base {
    here: Objects,
    there: Objects,
    replica: bool,
    /// Snapshots of the source.
    things: Vec<Things>,
}

async fn open(store: &Store, replica: bool) -> Result<Repository> {
    if replica {
        return repo::open(store).await;
    }
    Repository::open(store.clone(), &other(), |_| Cache::in_memory()).await
}

/// A whole copy, by its own opening of both.
async fn run(context: &Context, (here, there): (&Store, &Store), replica: bool) -> Result<CopyReport> {
    let source = repo::open(here).await?;
    let target = open(there, replica).await?;
    ops::copy(context, &source, Some(&target), &request()).await
}

impl Base {
    /// Asserts that the source is as it was and the target whole; gives how many snapshots that has.
    async fn assert_whole(&self, here: &World, there: &World, at: &str) -> usize {
        assert!(
            here.objects().await == self.here,
            "{at}: the source was written to"
        );
        let context = context(90);
        let repository = open(&there.store(&context), self.replica).await.unwrap();
        let check = repo::check_all(&context, &repository).await.unwrap();
        assert!(check.findings.is_empty(), "{at}: {:?}", check.findings);
        let found = snapshots(&context, &repository).await.unwrap();
        for snapshot in &found {
            let contents = contents(snapshot).await.unwrap();
            assert!(
                self.things.iter().any(|things| things.contents == contents),
                "{at}"
            );
        }
        found.len()
    }

    async fn crash_everywhere(&self) {
        let worlds = || async { (World::of(&self.here).await, World::of(&self.there).await) };
        let (here, there) = worlds().await;
        let faults = [here.faults(), there.faults()];
        let whole = context(2);
        let stores = |faults: &[FaultStore; 2], context: &Context| {
            faults
                .each_ref()
                .map(|faults| over(Arc::new(faults.clone()), context))
        };
        let [a, b] = stores(&faults, &whole);
        let report = run(&whole, (&a, &b), self.replica).await.unwrap();
        let copied = report.copied.len();
        assert!(copied > 0 && report.failed.is_empty());
        let total = self.assert_whole(&here, &there, "no crash").await;
        let calls = faults.each_ref().map(|faults| faults.calls().len() as u64);
        println!("{calls:?} calls");
        for (side, calls) in calls.into_iter().enumerate() {
            for when in [When::Before, When::After] {
                for n in 0..calls {
                    let at = format!("store {side} call {n} {when:?}");
                    let (here, there) = worlds().await;
                    let faults = [here.faults(), there.faults()];
                    faults[side].crash(n, when);
                    let crashing = context(2);
                    let [a, b] = stores(&faults, &crashing);
                    let crashed = run(&crashing, (&a, &b), self.replica).await;
                    assert!(crashed.is_err() || !crashed.unwrap().failed.is_empty(), "{at}");
                    let before = self.assert_whole(&here, &there, &at).await;
                    assert!(before >= total - copied && before <= total, "{at}");
                    // A collector of the target comes between, every other time.
                    let context = context(3);
                    let store = there.store(&context);
                    if n % 2 == 0 {
                        let target = open(&store, self.replica).await.unwrap();
                        ops::prune(&context, &target, &all()).await.unwrap();
                    }
                    let again = run(&context, (&here.store(&context), &store), self.replica).await;
                    let again = again.unwrap();
                    assert_eq!(again.copied.len(), total - before, "{at}");
                    assert_eq!(self.assert_whole(&here, &there, &at).await, total, "{at}");
                    if n % 3 == 0 {
                        let target = open(&store, self.replica).await.unwrap();
                        for _ in 0..3 {
                            ops::prune(&context, &target, &all()).await.unwrap();
                        }
                        assert_eq!(self.assert_whole(&here, &there, &at).await, total, "{at}");
                    }
                    let third = run(&context, (&here.store(&context), &store), self.replica).await;
                    assert_eq!(third.unwrap().copied.len(), 0, "{at}");
                }
            }
        }
    }
}

async fn base(replica: bool) -> Base {
    let (here, there) = (World::new(), World::new());
    let context = context(1);
    let source = repo::init(&here.store(&context), &context).await.unwrap();
    let store = there.store(&context);
    if replica {
        make_replica(&source, store, &context).await.unwrap();
    } else {
        init_other(&store, &context).await;
    }
    let things = vec![version(0), version(1)];
    for things in &things {
        take(&context, &source, things).await.unwrap();
    }
    Base {
        here: here.objects().await,
        there: there.objects().await,
        replica,
        things,
    }
}

#[tokio::test]
async fn a_copy_into_a_new_replica_may_crash_anywhere() {
    base(true).await.crash_everywhere().await;
}

#[tokio::test]
async fn a_copy_into_other_keys_may_crash_anywhere() {
    base(false).await.crash_everywhere().await;
}

#[tokio::test]
async fn a_copy_into_a_replica_that_was_collected_may_crash_anywhere() {
    let mut base = base(true).await;
    let (here, there) = (World::of(&base.here).await, World::of(&base.there).await);
    let context = context(20);
    let stores = (here.store(&context), there.store(&context));
    run(&context, (&stores.0, &stores.1), true).await.unwrap();
    let target = repo::open(&stores.1).await.unwrap();
    let copies = snapshots(&context, &target).await.unwrap();
    let hand = Hand {
        repository: &target,
        context: &context,
    };
    hand.forget(copies[0].record().sid).await;
    for _ in 0..3 {
        ops::prune(&context, &target, &all()).await.unwrap();
    }
    let source = repo::open(&stores.0).await.unwrap();
    take(&context, &source, &version(2)).await.unwrap();
    base.things.push(version(2));
    base.here = here.objects().await;
    base.there = there.objects().await;
    base.crash_everywhere().await;
}

#[tokio::test]
async fn a_replica_may_be_begun_anywhere_and_finished() {
    let base = base(true).await;
    let here = World::of(&base.here).await;
    let whole = context(2);
    let source = repo::open(&here.store(&whole)).await.unwrap();
    let there = World::new();
    let faults = there.faults();
    make_replica(&source, over(Arc::new(faults.clone()), &whole), &whole)
        .await
        .unwrap();
    let calls = faults.calls().len() as u64;
    for when in [When::Before, When::After] {
        for n in 0..calls {
            let there = World::new();
            let faults = there.faults();
            faults.crash(n, when);
            let crashed = make_replica(&source, over(Arc::new(faults), &whole), &whole).await;
            assert!(crashed.is_err(), "call {n} {when:?}");
            let before = there.objects().await;
            let target = make_replica(&source, there.store(&whole), &whole).await.unwrap();
            for (name, bytes) in &before {
                assert_eq!(there.get(name).await.as_ref(), Some(bytes), "{name}");
            }
            let report = ops::copy(&whole, &source, Some(&target), &request()).await;
            assert_eq!(report.unwrap().copied.len(), 2);
        }
    }
}
