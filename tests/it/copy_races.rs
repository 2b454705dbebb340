//! A collector that comes between any two calls of a copy, in the source or in the target: nothing is lost, the copy ends whole or says
//! what to do, and the next one is whole.

use crate::collect::{all, whole_round};
use crate::copy::{Two, other, request, version};
use crate::world::{Objects, START, Things, World, assert_whole, contents, over, seeded, snapshots};
use futures::FutureExt;
use holdall::context::{Context, Time};
use holdall::error::{ErrorKind, Result};
use holdall::ops::{self, CopyReport};
use holdall::repository::{Cache, Repository};
use holdall::store::Store;
use holdall::testkit::repo;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn context(seed: u64) -> Context {
    let (context, clock) = seeded(seed);
    let seconds = START.seconds + 100_000;
    clock.set(Time { seconds, nanos: 0 });
    context
}

async fn open(store: Store, replica: bool) -> Result<Repository> {
    let key = if replica { repo::key() } else { other() };
    Repository::open(store, &key, |_| Cache::in_memory()).await
}

/// Both stores before the copy. In each a snapshot was let go that nobody has collected yet.
struct Base {
    here: Objects,
    there: Objects,
    replica: bool,
    things: Vec<Things>,
}

impl Base {
    /// A replica that was filled twice, so that the next copy rests on what is there, and packs that only the forgotten ones need.
    async fn new(replica: bool) -> Self {
        let two = Two::new(replica).await;
        let things: Vec<_> = (0..4).map(version).collect();
        for things in &things[..2] {
            two.take(things).await;
        }
        two.copy(&request()).await;
        for things in &things[2..] {
            two.take(things).await;
        }
        for repository in [&two.source, &two.target] {
            let oldest = two.records(repository).await[0].sid;
            two.hand(repository).forget(oldest).await;
        }
        Self {
            here: two.here.objects().await,
            there: two.there.objects().await,
            replica,
            things,
        }
    }

    async fn copy(&self, context: &Context, here: Store, there: Store) -> Result<CopyReport> {
        let (source, target) = (open(here, true).await?, open(there, self.replica).await?);
        ops::copy(context, &source, Some(&target), &request()).await
    }

    async fn whole(&self, context: &Context, there: &World, at: &str) {
        let target = open(there.store(context), self.replica).await.unwrap();
        let check = repo::check_all(context, &target).await.unwrap();
        assert!(check.findings.is_empty(), "{at}: {:?}", check.findings);
        let found = snapshots(context, &target).await.unwrap();
        // One was there, two are new.
        assert_eq!(found.len(), 3, "{at}");
        for (snapshot, things) in found.iter().zip(&self.things[1..]) {
            assert_eq!(contents(snapshot).await.unwrap(), things.contents, "{at}");
        }
    }

    /// Gives how often a round came between, and how often the copy was whole nevertheless.
    async fn collect_everywhere(&self, in_source: bool, rounds: usize) -> (u64, u64) {
        let (mut tried, mut whole, ended) = (0, 0, Arc::new(AtomicU64::new(0)));
        for n in 0.. {
            let at = format!("call {n}, {rounds} rounds");
            let (here, there) = (World::of(&self.here).await, World::of(&self.there).await);
            let (side, replica) = if in_source {
                (&here, true)
            } else {
                (&there, self.replica)
            };
            let (copying, collecting) = (context(2), context(4));
            let faults = side.faults();
            let collector = open(side.store(&collecting), replica).await.unwrap();
            let counted = ended.clone();
            faults.meanwhile(
                n,
                async move {
                    for _ in 0..rounds {
                        let round = whole_round(&collecting, &collector).await;
                        counted.fetch_add(u64::from(round.is_ok()), Ordering::Relaxed);
                    }
                }
                .boxed(),
            );
            let watched = over(Arc::new(faults.clone()), &copying);
            let (from, to) = if in_source {
                (watched, there.store(&copying))
            } else {
                (here.store(&copying), watched)
            };
            let copied = self.copy(&copying, from, to).await;
            if faults.is_waiting() {
                let ended = ended.load(Ordering::Relaxed);
                assert!(ended * 10 >= tried * 9, "{ended} rounds in {tried} copies");
                return (tried, whole);
            }
            tried += 1;
            whole += u64::from(was_whole(copied, &at));
            self.afterwards(&here, &there, (&at, n % 3 == 0)).await;
        }
        unreachable!("the copy ends")
    }

    /// The next copy brings what is missing, whatever came between; nothing of either side is lost, now or after collections.
    async fn afterwards(&self, here: &World, there: &World, (at, collects): (&str, bool)) {
        let after = context(3);
        let again = self.copy(&after, here.store(&after), there.store(&after)).await;
        let again = again.unwrap();
        assert!(again.failed.is_empty() && again.lag.missing.is_empty(), "{at}");
        self.whole(&after, there, at).await;
        if collects {
            let target = open(there.store(&after), self.replica).await.unwrap();
            for _ in 0..3 {
                ops::prune(&after, &target, &all()).await.unwrap();
            }
            self.whole(&after, there, at).await;
            let things: Vec<_> = self.things.iter().collect();
            let kept = assert_whole(&after, &here.store(&after), &things).await;
            assert_eq!(kept, 3, "{at}");
        }
    }

    async fn everything(&self) {
        for (in_source, rounds) in [(true, 1), (false, 1), (false, 2)] {
            let (tried, whole) = self.collect_everywhere(in_source, rounds).await;
            println!("source {in_source}, {rounds} rounds: {tried} calls, {whole} whole");
            assert!(tried > 20 && whole * 10 > tried * 9);
        }
    }
}

/// Whether a copy was whole; if not, it says that it must be done again.
fn was_whole(copied: Result<CopyReport>, at: &str) -> bool {
    match copied {
        Ok(report) => {
            assert!(report.failed.is_empty(), "{at}: {:?}", report.failed);
            assert!(!report.is_damaged(), "{at}: {:?}", report.damaged_there);
            true
        }
        Err(error) => {
            let may = matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Unreachable);
            assert!(may, "{at}: {error}");
            let says = error.advice().is_some_and(|hint| hint.contains("again"));
            assert!(says, "{at}: {error}");
            false
        }
    }
}

#[tokio::test]
async fn a_copy_into_a_replica_meets_a_collector_anywhere() {
    Base::new(true).await.everything().await;
}

#[tokio::test]
async fn a_copy_into_other_keys_meets_a_collector_anywhere() {
    Base::new(false).await.everything().await;
}
