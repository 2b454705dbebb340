//! What sessions and readers make of a collector's rounds, put by hand: `format-spec/85-sessions.md`.

use crate::world::{
    Objects, Things, Turn, World, assert_whole, contents, names, noise, over, seeded, snapshots, take,
};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use holdall::connector::{Origin, Source};
use holdall::context::{Context, Time};
use holdall::error::{ErrorKind, Result};
use holdall::format::id::{ObjectId, SessionId};
use holdall::format::layout::{ObjectName, Prefix};
use holdall::ops;
use holdall::repository::Repository;
use holdall::snapshot::SnapshotFilter;
use holdall::snapshot::entry::{Item, Prior};
use holdall::testkit::rounds::{Hand, Round};
use holdall::testkit::{Failure, Op, Plan, When, repo};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Stage {
    world: World,
    context: Context,
    clock: Arc<holdall::context::ManualClock>,
    repository: Repository,
}

async fn stage() -> Stage {
    let world = World::new();
    let (context, clock) = seeded(1);
    let repository = repo::init(&world.store(&context), &context).await.unwrap();
    Stage {
        world,
        context,
        clock,
        repository,
    }
}

impl Stage {
    fn hand(&self) -> Hand<'_> {
        Hand {
            repository: &self.repository,
            context: &self.context,
        }
    }

    fn later(&self) {
        let Time { seconds, nanos } = self.context.clock.now();
        self.clock.set(Time {
            seconds: seconds + 10,
            nanos,
        });
    }

    async fn take(&self, things: &Things) -> Arc<holdall::format::snapshot::SnapshotRecord> {
        self.later();
        take(&self.context, &self.repository, things)
            .await
            .unwrap()
            .snapshot
    }

    /// Seals round `number`, which keeps everything of the sessions `live` by collector runs that say what theirs say.
    async fn sweep(&self, number: u64, floor: u64, live: &[SessionId], dead: Vec<ObjectId>) {
        let hand = self.hand();
        let mut runs = Vec::new();
        for run in hand.names(Prefix::SessionRuns).await {
            if matches!(run, ObjectName::SessionRun(sid, _) if live.contains(&sid)) {
                runs.push((number, hand.copy_run(number, run).await));
            }
        }
        // What is not below the floor is told by the listing.
        let live = live.iter().filter(|sid| sid.epoch < floor).copied().collect();
        hand.seal(Round {
            number,
            floor,
            live,
            runs,
            dead,
        })
        .await;
    }

    async fn listed(&self) -> Vec<SessionId> {
        let readers = snapshots(&self.context, &self.repository).await.unwrap();
        readers.iter().map(|reader| reader.record().sid).collect()
    }

    async fn packs(&self) -> Objects {
        let mut objects = self.world.objects().await;
        objects.retain(|name, _| name.starts_with("packs/"));
        objects
    }
}

fn pack_ids(objects: &Objects) -> Vec<ObjectId> {
    let names = names(objects, "packs/").into_iter();
    names
        .filter_map(|name| {
            if let ObjectName::Pack(id) = name {
                Some(id)
            } else {
                None
            }
        })
        .collect()
}

fn things(seed: u64) -> Things {
    Things::new([("a", noise(1_200_000, seed)), ("b", noise(40_000, seed + 1))])
}

#[tokio::test]
async fn a_session_below_the_floor_counts_only_if_it_is_live() {
    let stage = stage().await;
    let one = stage.take(&things(1)).await.sid;
    let two = stage.take(&things(10)).await.sid;
    assert_eq!(stage.listed().await, [one, two]);
    stage.sweep(1, 0, &[], Vec::new()).await;
    stage.sweep(2, 1, &[two], Vec::new()).await;
    assert_eq!(stage.listed().await, [two]);
    let readers = snapshots(&stage.context, &stage.repository).await.unwrap();
    assert!(contents(&readers[0]).await.unwrap() == things(10).contents);
    // What the void session stored cannot be rested on; what the live one stored can.
    let again = stage.take(&things(10)).await;
    assert_eq!((again.sid.epoch, again.statistics.bytes_new), (2, 0));
    let again = stage.take(&things(1)).await;
    assert_eq!(again.statistics.bytes_new, 1_240_000);
}

#[tokio::test]
async fn a_collector_run_counts_only_if_the_newest_state_names_it() {
    let stage = stage().await;
    let one = stage.take(&things(1)).await.sid;
    let run = stage.hand().names(Prefix::SessionRuns).await[0];
    stage.sweep(1, 0, &[one], Vec::new()).await;
    // A run of a superseded collector: listed, and named by nobody.
    stage.hand().copy_run(2, run).await;
    stage
        .hand()
        .seal(Round {
            number: 2,
            floor: 1,
            live: vec![one],
            ..Round::default()
        })
        .await;
    let readers = snapshots(&stage.context, &stage.repository).await.unwrap();
    assert_eq!(
        contents(&readers[0]).await.unwrap_err().kind(),
        ErrorKind::Damaged
    );
    let again = stage.take(&things(1)).await;
    assert_eq!(again.statistics.bytes_new, 1_240_000);
}

#[tokio::test]
async fn packs_that_a_round_killed_are_not_rested_on() {
    let stage = stage().await;
    stage.take(&things(1)).await;
    let dead = pack_ids(&stage.packs().await);
    stage.sweep(1, 0, &[], dead.clone()).await;
    // The packs are still there, and a valid run lists them.
    let again = stage.take(&things(1)).await;
    assert_eq!(again.statistics.bytes_new, 1_240_000);
    for id in dead {
        stage.world.remove(&ObjectName::Pack(id).to_string()).await;
    }
    let readers = snapshots(&stage.context, &stage.repository).await.unwrap();
    assert!(contents(&readers[1]).await.unwrap() == things(1).contents);
}

#[tokio::test]
async fn condemned_packs_are_uploaded_again() {
    let stage = stage().await;
    let one = stage.take(&things(1)).await.sid;
    stage.hand().forget(one).await;
    let condemned = pack_ids(&stage.packs().await);
    stage.hand().condemn(1, condemned.clone()).await;
    let again = stage.take(&things(1)).await;
    assert_eq!(again.statistics.bytes_new, 1_240_000);
    for id in condemned {
        stage.world.remove(&ObjectName::Pack(id).to_string()).await;
    }
    let readers = snapshots(&stage.context, &stage.repository).await.unwrap();
    assert_eq!(readers.len(), 1);
    assert!(contents(&readers[0]).await.unwrap() == things(1).contents);
}

#[tokio::test]
async fn a_condemned_parent_does_not_stop_a_snapshot() {
    let stage = stage().await;
    stage.take(&things(1)).await;
    // A collector repacks: the parent's packs are condemned though it is alive.
    stage.hand().condemn(1, pack_ids(&stage.packs().await)).await;
    stage.take(&things(1)).await;
    let store = stage.world.store(&stage.context);
    assert_eq!(assert_whole(&stage.context, &store, &[&things(1)]).await, 2);
}

/// Leaves what an interrupted run leaves: packs, and a run that lists them.
async fn interrupted(stage: &Stage, things: &Things) -> Objects {
    stage.later();
    let broken = things.clone().at(1, Turn::Fail);
    let error = take(&stage.context, &stage.repository, &broken)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Source);
    let packs = stage.packs().await;
    assert_eq!(packs.len(), 1);
    packs
}

#[tokio::test]
async fn packs_of_an_aborted_session_are_claimed() {
    let stage = stage().await;
    let left = interrupted(&stage, &things(1)).await;
    let faults = stage.world.faults();
    let store = over(Arc::new(faults.clone()), &stage.context);
    let repository = repo::open(&store).await.unwrap();
    let next = take(&stage.context, &repository, &things(1))
        .await
        .unwrap()
        .snapshot;
    assert_eq!(next.statistics.bytes_new, 40_000);
    let claimed = pack_ids(&left)[0];
    let asked = faults.calls().into_iter().filter(|call| call.op == Op::Head);
    let asked: Vec<_> = asked.map(|call| call.name).collect();
    assert_eq!(asked, [ObjectName::Pack(claimed).to_string()]);
    // The session's own runs list all that it rests on.
    let mut own = Vec::new();
    for run in stage.hand().names(Prefix::RunsOf(next.sid)).await {
        own.extend(
            stage
                .hand()
                .read_run(run)
                .await
                .packs
                .into_iter()
                .map(|pack| pack.id),
        );
    }
    own.sort_unstable();
    assert_eq!(own, pack_ids(&stage.packs().await));
    assert!(own.contains(&claimed));
    // And nothing else is needed: the aborted session's run may go.
    for run in stage.hand().names(Prefix::SessionRuns).await {
        if !run.to_string().contains(&next.sid.to_string()) {
            stage.world.remove(&run.to_string()).await;
        }
    }
    assert_eq!(assert_whole(&stage.context, &store, &[&things(1)]).await, 1);
}

#[tokio::test]
async fn a_claimed_pack_that_vanished_is_uploaded_again() {
    let stage = stage().await;
    for name in interrupted(&stage, &things(1)).await.keys() {
        stage.world.remove(name).await;
    }
    let next = stage.take(&things(1)).await;
    assert_eq!(next.statistics.bytes_new, 1_240_000);
    let readers = snapshots(&stage.context, &stage.repository).await.unwrap();
    assert!(contents(&readers[0]).await.unwrap() == things(1).contents);
}

#[tokio::test]
async fn packs_of_sessions_below_the_floor_are_not_claimed() {
    let stage = stage().await;
    interrupted(&stage, &things(1)).await;
    stage.sweep(1, 0, &[], Vec::new()).await;
    stage.sweep(2, 1, &[], Vec::new()).await;
    let next = stage.take(&things(1)).await;
    assert_eq!(next.statistics.bytes_new, 1_240_000);
}

#[tokio::test]
async fn a_reader_goes_on_when_a_round_moved_what_it_reads() {
    let stage = stage().await;
    let one = stage.take(&things(1)).await.sid;
    let old = stage.packs().await;
    let store = stage.world.store(&stage.context);
    let other = repo::open(&store).await.unwrap();
    let mut readers = snapshots(&stage.context, &other).await.unwrap();
    let reader = readers.remove(0);
    // The same blobs in other packs, as a repack leaves them: stored by a session that sees the old ones condemned.
    stage.hand().condemn(1, pack_ids(&old)).await;
    let two = stage.take(&things(1)).await.sid;
    stage.sweep(1, 0, &[one, two], pack_ids(&old)).await;
    for name in old.keys() {
        stage.world.remove(name).await;
    }
    assert!(contents(&reader).await.unwrap() == things(1).contents);
    // Without a round that explains it, what is gone is damage, and told as such.
    for name in stage.packs().await.keys() {
        stage.world.remove(name).await;
    }
    let mut readers = snapshots(&stage.context, &other).await.unwrap();
    assert_eq!(
        contents(&readers.remove(0)).await.unwrap_err().kind(),
        ErrorKind::Damaged
    );
}

#[tokio::test]
async fn a_reader_is_told_that_its_snapshot_was_let_go_and_not_that_it_is_damaged() {
    for void in [false, true] {
        let stage = stage().await;
        let one = stage.take(&things(1)).await.sid;
        let old = stage.packs().await;
        let two = stage.take(&things(10)).await.sid;
        let other = repo::open(&stage.world.store(&stage.context)).await.unwrap();
        let spec = one.name().parse().unwrap();
        let filter = SnapshotFilter::default();
        let reader = ops::open_snapshot(&stage.context, &other, &spec, &filter)
            .await
            .unwrap();
        stage.hand().forget(one).await;
        stage.sweep(1, 0, &[two], pack_ids(&old)).await;
        if void {
            stage.sweep(2, 1, &[two], Vec::new()).await;
            stage.world.remove(&ObjectName::Forget(one).to_string()).await;
        }
        for name in old.keys() {
            stage.world.remove(name).await;
        }
        let error = contents(&reader).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert_eq!(error.context("snapshot"), Some(one.short().as_str()));
    }
}

/// A source during which a collector fences every open session, `times` times.
struct Fenced {
    things: Things,
    world: World,
    left: Arc<AtomicUsize>,
}

impl Source for Fenced {
    fn origin(&self) -> Origin {
        self.things.origin()
    }

    fn entries<'a>(&'a mut self, context: &'a Context, prior: Arc<dyn Prior>) -> BoxStream<'a, Result<Item>> {
        let (world, left) = (self.world.clone(), self.left.clone());
        let fence = async move {
            if left.load(Ordering::Relaxed) > 0 {
                left.fetch_sub(1, Ordering::Relaxed);
                let (mut other, _) = seeded(1000 + left.load(Ordering::Relaxed) as u64);
                other.cpu = context.cpu.clone();
                let repository = repo::open(&world.store(&other)).await.unwrap();
                let hand = Hand {
                    repository: &repository,
                    context: &other,
                };
                let decided = hand.names(Prefix::Snapshots).await;
                for name in hand.names(Prefix::Sessions).await {
                    if let ObjectName::Session(sid) = name
                        && !decided.contains(&ObjectName::Snapshot(sid))
                    {
                        hand.fence(sid).await;
                    }
                }
            }
            stream::empty().boxed()
        };
        self.things
            .entries(context, prior)
            .chain(stream::once(fence).flatten())
            .boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

async fn fenced(
    stage: &Stage,
    repository: &Repository,
    fences: usize,
    openings: usize,
) -> Result<ops::SnapshotReport> {
    let left = Arc::new(AtomicUsize::new(fences));
    let mut opened = 0;
    let mut open = || -> Result<Option<Vec<Box<dyn Source>>>> {
        opened += 1;
        if opened > openings {
            return Ok(None);
        }
        let (things, world, left) = (things(1), stage.world.clone(), left.clone());
        Ok(Some(vec![Box::new(Fenced { things, world, left })]))
    };
    ops::snapshot(&stage.context, repository, &repo::request(), &mut open).await
}

/// A repository in which packs of dead sessions are always found to be gone.
async fn without_claims(stage: &Stage) -> Repository {
    let faults = stage.world.faults();
    let gone = Plan::new(When::Before, Failure::Status(404, "NoSuchKey"));
    faults.plan(gone.op(Op::Head).name("packs/").forever());
    let store = over(Arc::new(faults), &stage.context);
    repo::open(&store).await.unwrap()
}

#[tokio::test]
async fn a_fenced_run_commits_what_it_uploaded_without_reading_again() {
    let stage = stage().await;
    let report = fenced(&stage, &stage.repository, 1, 1).await.unwrap();
    // What the whole run did, as if nothing had come between.
    assert_eq!(report.snapshot.statistics.bytes_new, 1_240_000);
    assert_eq!(stage.packs().await.len(), 2);
    let store = stage.world.store(&stage.context);
    assert_eq!(assert_whole(&stage.context, &store, &[&things(1)]).await, 1);
}

#[tokio::test]
async fn a_fenced_run_that_may_not_rest_on_what_it_uploaded_reads_again() {
    let stage = stage().await;
    let repository = without_claims(&stage).await;
    let report = fenced(&stage, &repository, 1, 9).await.unwrap();
    assert_eq!(report.snapshot.statistics.bytes_new, 1_240_000);
    assert_eq!(stage.packs().await.len(), 4, "stored anew");
    let store = stage.world.store(&stage.context);
    assert_eq!(assert_whole(&stage.context, &store, &[&things(1)]).await, 1);
}

#[tokio::test]
async fn a_fenced_run_whose_source_cannot_be_read_again_says_so() {
    let stage = stage().await;
    let repository = without_claims(&stage).await;
    let error = fenced(&stage, &repository, 1, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(stage.listed().await.is_empty());
    let next = take(&stage.context, &stage.repository, &things(1)).await.unwrap();
    assert_eq!(next.snapshot.statistics.bytes_new, 0);
}

#[tokio::test]
async fn a_run_that_is_fenced_again_and_again_gives_up() {
    let stage = stage().await;
    let repository = without_claims(&stage).await;
    let error = fenced(&stage, &repository, 99, 99).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(stage.listed().await.is_empty());
}

#[tokio::test]
async fn a_run_is_skipped_where_another_one_was_just_done() {
    let stage = stage().await;
    let first = stage.take(&things(1)).await;
    let run = async |seconds: u64| {
        stage.later();
        let request = ops::SnapshotRequest {
            skip_if_newer_than: Some(seconds),
            ..repo::request()
        };
        let mut open = || -> Result<Option<Vec<Box<dyn Source>>>> { Ok(Some(vec![Box::new(things(10))])) };
        ops::snapshot(&stage.context, &stage.repository, &request, &mut open)
            .await
            .unwrap()
    };
    let before = stage.world.objects().await;
    let skipped = run(3600).await;
    assert!(skipped.skipped && skipped.snapshot.sid == first.sid);
    assert!(before == stage.world.objects().await);
    assert!(!run(15).await.skipped);
    // What was dated by a wrong clock does not count for ever.
    let now = stage.context.clock.now();
    stage.clock.set(Time {
        seconds: now.seconds - 3 * 86_400,
        nanos: 0,
    });
    assert!(!run(3600).await.skipped);
}
