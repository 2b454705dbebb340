//! Writers, readers and collectors at the same time: the steps of each in every order, and the races that the protocol is about.

use crate::collect::{Stage, all, stage, things};
use crate::world::{Things, World, assert_whole, contents, noise, over, seeded, snapshots, take};
use futures::stream::StreamExt;
use holdall::connector::Source;
use holdall::context::{Context, Time};
use holdall::error::{ErrorKind, Result};
use holdall::format::id::SessionId;
use holdall::format::layout::{ObjectName, Prefix};
use holdall::format::snapshot::SnapshotRecord;
use holdall::ops;
use holdall::repository::collect::{Rescued, Round, Sealed, Waiting};
use holdall::repository::{Commit, Repository, Session};
use holdall::snapshot::entry::{NoPrior, Prior};
use holdall::snapshot::{DeltaPolicy, ParentPrior, SnapshotReader, SnapshotWriter, Written};
use holdall::testkit::rounds::Hand;
use holdall::testkit::{Plan, When, repo};
use std::sync::Arc;
use std::time::Duration;

/// One actor with a repository of its own: its own cache, its own randomness.
async fn actor(world: &World, seed: u64) -> (Context, Repository) {
    let (context, clock) = seeded(seed);
    let seconds = crate::world::START.seconds + 1_000 * i64::try_from(seed).unwrap();
    clock.set(Time { seconds, nanos: 0 });
    let repository = repo::open(&world.store(&context)).await.unwrap();
    (context, repository)
}

/// A collector whose steps a test takes one by one.
struct Collector {
    context: Context,
    repository: Repository,
    request: ops::PruneRequest,
    at: At,
}

enum At {
    Start,
    Begun(Box<Round>),
    Waiting(Box<Waiting>),
    Rescued(Box<Rescued>),
    Sealed(Box<Sealed>),
    Done,
    /// Somebody else was faster.
    Beaten,
}

impl Collector {
    async fn new(world: &World, seed: u64, request: ops::PruneRequest) -> Self {
        let (context, repository) = actor(world, seed).await;
        Self {
            context,
            repository,
            request,
            at: At::Start,
        }
    }

    fn is_done(&self) -> bool {
        matches!(self.at, At::Done | At::Beaten)
    }

    /// One step; a wait that is not over stays where it is. Gives whether something moved.
    async fn step(&mut self) -> bool {
        let step = match std::mem::replace(&mut self.at, At::Done) {
            At::Start => {
                let begun = Round::begin(&self.repository, &self.context, self.request.options.clone()).await;
                begun.map(|round| At::Begun(Box::new(round)))
            }
            At::Begun(round) if !round.plan().is_needed => Ok(At::Done),
            At::Begun(round) => round
                .condemn()
                .await
                .map(|waiting| At::Waiting(Box::new(waiting))),
            At::Waiting(mut waiting) => {
                if !waiting.settle().await.unwrap() {
                    self.at = At::Waiting(waiting);
                    return false;
                }
                waiting
                    .rescue()
                    .await
                    .map(|rescued| At::Rescued(Box::new(rescued)))
            }
            At::Rescued(rescued) => rescued.seal().await.map(|sealed| At::Sealed(Box::new(sealed))),
            At::Sealed(sealed) => sealed.sweep().await.map(|_| At::Done),
            done @ (At::Done | At::Beaten) => {
                self.at = done;
                return false;
            }
        };
        self.at = match step {
            Ok(at) => at,
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Busy),
                    "{error} {:?}",
                    error.causes()
                );
                At::Beaten
            }
        };
        true
    }
}

/// A writer whose steps a test takes one by one.
struct Writer {
    context: Context,
    repository: Repository,
    things: Things,
    at: Writing,
    acknowledged: Option<SessionId>,
    fenced: usize,
}

enum Writing {
    Start(Option<SessionId>),
    Open(Box<Session>),
    Written(Box<Session>, Box<Written>),
    Done,
}

impl Writer {
    async fn new(world: &World, seed: u64, things: Things) -> Self {
        let (context, repository) = actor(world, seed).await;
        Self {
            context,
            repository,
            things,
            at: Writing::Start(None),
            acknowledged: None,
            fenced: 0,
        }
    }

    async fn write(&mut self, session: &Session) -> Written {
        let parents: Vec<_> = session.view().snapshots().cloned().collect();
        let parent = parents
            .into_iter()
            .max_by_key(|record| (record.started, record.sid));
        let blobs = self.repository.reader(&self.context, session.view());
        let reader =
            parent.map(|parent| SnapshotReader::new(parent, blobs.clone(), self.context.budget.total()));
        let prior: Arc<dyn Prior> = match &reader {
            Some(reader) => {
                let bases = self.repository.bases(session.view());
                Arc::new(ParentPrior::new(reader.clone(), blobs.clone(), bases))
            }
            None => Arc::new(NoPrior),
        };
        let tree = reader.as_ref().map(SnapshotReader::tree);
        let mut writer = SnapshotWriter::new(&self.repository, session, &self.context, tree);
        if reader.is_some() {
            writer.use_deltas(blobs, DeltaPolicy::default());
        }
        let mut items = self.things.entries(&self.context, prior);
        while let Some(item) = items.next().await {
            writer.add(item.unwrap()).await.unwrap();
        }
        drop(items);
        writer.finish().await.unwrap()
    }

    async fn step(&mut self) -> bool {
        self.at = match std::mem::replace(&mut self.at, Writing::Done) {
            Writing::Start(adopted) => {
                let session = Session::begin(&self.repository, &self.context, "test", adopted).await;
                Writing::Open(Box::new(session.unwrap()))
            }
            Writing::Open(session) => {
                let written = self.write(&session).await;
                Writing::Written(session, Box::new(written))
            }
            Writing::Written(session, written) => {
                let origin = self.things.origin();
                let source = holdall::format::snapshot::SourceRecord {
                    connector: origin.connector,
                    description: origin.description,
                    version: None,
                };
                let mut record =
                    SnapshotRecord::planned("test".into(), None, vec![source], session.started());
                record.sid = session.sid();
                record.ended = self.context.clock.now();
                record.root = written.root;
                match session
                    .commit(&self.context, written.durable, record)
                    .await
                    .unwrap()
                {
                    Commit::Acknowledged(record) => {
                        self.acknowledged = Some(record.sid);
                        Writing::Done
                    }
                    Commit::Fenced => {
                        self.fenced += 1;
                        Writing::Start(Some(session.sid()))
                    }
                }
            }
            Writing::Done => return false,
        };
        true
    }
}

/// A repository with an old snapshot, which is let go before the race, and a newer one that keeps the source.
async fn before_the_race() -> (Stage, Things) {
    let stage = stage().await;
    let shared = |last: u64| {
        Things::new([
            ("a", noise(90_000, 1)),
            ("b", noise(30_000, last)),
            ("c", noise(30_000, 3)),
        ])
    };
    stage.take(&shared(2)).await;
    stage.take(&Things::new([("z", noise(20_000, 50))])).await;
    (stage, shared(2))
}

async fn finish(world: &World, expected: &[&Things], acknowledged: usize) {
    let (context, _) = actor(world, 90).await;
    let store = world.store(&context);
    assert_eq!(assert_whole(&context, &store, expected).await, acknowledged);
    for seed in 91..94 {
        let (context, repository) = actor(world, seed).await;
        ops::prune(&context, &repository, &all()).await.unwrap();
        assert_eq!(assert_whole(&context, &store, expected).await, acknowledged);
    }
}

/// All orders of the steps of a writer that wants what is being let go, a forget, and a collector.
#[tokio::test]
async fn a_writer_that_wants_what_is_let_go_and_a_collector_in_every_order() {
    let (base, wanted) = before_the_race().await;
    let old = snapshots(&base.context, &base.repository).await.unwrap()[0]
        .record()
        .sid;
    let newer = Things::new([("z", noise(20_000, 50))]);
    let objects = base.world.objects().await;
    let (mut orders, mut fenced) = (0, 0);
    for lease in [Duration::ZERO, Duration::from_secs(86_400)] {
        // Each bit is a turn: the writer's, or the collector's.
        for order in 0u32..1 << 9 {
            if order.count_ones() != 4 {
                continue;
            }
            let world = World::of(&objects).await;
            let mut request = all();
            request.options.lease = lease;
            let mut collector = Collector::new(&world, 2, request).await;
            let mut writer = Writer::new(&world, 3, wanted.clone()).await;
            let (context, repository) = actor(&world, 4).await;
            for turn in 0..9 {
                if order >> turn & 1 == 0 {
                    collector.step().await;
                } else if turn == order.trailing_zeros() {
                    // The first of the four is the forget: before or after the others.
                    Hand {
                        repository: &repository,
                        context: &context,
                    }
                    .forget(old)
                    .await;
                } else {
                    writer.step().await;
                }
            }
            while writer.acknowledged.is_none() || !collector.is_done() {
                let moved = (collector.step().await, writer.step().await);
                assert!(moved != (false, false), "order {order:b} stands still");
            }
            orders += 1;
            fenced += writer.fenced;
            // A second round right behind the first, as the next night's.
            let mut collector = Collector::new(&world, 5, all()).await;
            while !collector.is_done() {
                collector.step().await;
            }
            finish(&world, &[&wanted, &newer], 2).await;
        }
    }
    println!("{orders} orders, {fenced} fenced");
    assert!(orders == 252 && fenced > 0);
}

/// All orders of the steps of two collectors, with what one of them takes over from the other.
#[tokio::test]
async fn two_collectors_in_every_order() {
    let (base, _) = before_the_race().await;
    let old = snapshots(&base.context, &base.repository).await.unwrap()[0]
        .record()
        .sid;
    base.hand().forget(old).await;
    let newer = Things::new([("z", noise(20_000, 50))]);
    let objects = base.world.objects().await;
    let mut beaten = 0;
    for order in 0u32..1 << 10 {
        if order.count_ones() != 5 {
            continue;
        }
        let world = World::of(&objects).await;
        let mut one = Collector::new(&world, 2, all()).await;
        let mut two = Collector::new(&world, 3, all()).await;
        for turn in 0..10 {
            let collector = if order >> turn & 1 == 0 {
                &mut one
            } else {
                &mut two
            };
            collector.step().await;
        }
        while !(one.is_done() && two.is_done()) {
            one.step().await;
            two.step().await;
        }
        beaten += [one, two].iter().filter(|c| matches!(c.at, At::Beaten)).count();
        finish(&world, &[&newer], 1).await;
    }
    assert!(beaten > 0);
}

#[tokio::test]
async fn a_round_of_another_collector_is_left_alone_until_it_is_old() {
    let (stage, _) = before_the_race().await;
    let old = snapshots(&stage.context, &stage.repository).await.unwrap()[0]
        .record()
        .sid;
    stage.hand().forget(old).await;
    let mut slow = Collector::new(&stage.world, 2, all()).await;
    slow.step().await;
    slow.step().await;
    let mut patient = all();
    patient.options.take_over = Duration::from_secs(300);
    let error = stage.prune(&patient).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.advice().unwrap().contains("--take-over"), "{error}");
    // By the store's time, which here is that of the machine.
    let name = ObjectName::Condemned(1);
    let begun = stage.repository.store().head(&name).await.unwrap().last_modified;
    stage.clock.set(Time {
        seconds: begun.seconds + 301,
        nanos: 0,
    });
    assert!(stage.prune(&patient).await.unwrap().round.is_some());
    // The slow one comes back, and deletes nothing.
    let before = stage.world.objects().await;
    while !slow.is_done() {
        slow.step().await;
    }
    assert!(matches!(slow.at, At::Beaten));
    let after = stage.world.objects().await;
    assert!(before.keys().all(|name| after.contains_key(name)));
}

#[tokio::test]
async fn a_writer_that_shows_life_is_waited_for_and_a_silent_one_is_fenced() {
    let (stage, wanted) = before_the_race().await;
    let mut writer = Writer::new(&stage.world, 3, wanted.clone()).await;
    writer.step().await;
    let mut collector = Collector::new(&stage.world, 2, all()).await;
    let old = snapshots(&stage.context, &stage.repository).await.unwrap()[0]
        .record()
        .sid;
    stage.hand().forget(old).await;
    collector.step().await;
    collector.step().await;
    assert!(!collector.step().await, "it waits");
    // Twenty-five hours by the collector's clock, without a sign of life.
    collector
        .context
        .sleep(Duration::from_secs(25 * 3600))
        .await
        .unwrap();
    assert!(collector.step().await);
    while !collector.is_done() {
        collector.step().await;
    }
    while writer.step().await {}
    assert_eq!(writer.fenced, 1);
    finish(
        &stage.world,
        &[&wanted, &Things::new([("z", noise(20_000, 50))])],
        2,
    )
    .await;
}

#[tokio::test]
async fn a_pack_that_comes_late_is_rested_on_by_nobody_and_goes_again() {
    let (stage, wanted) = before_the_race().await;
    let old = snapshots(&stage.context, &stage.repository).await.unwrap()[0]
        .record()
        .sid;
    let before = stage.world.objects().await;
    stage.hand().forget(old).await;
    stage.prune(&all()).await.unwrap();
    let after = stage.world.objects().await;
    let lost: Vec<_> = before
        .keys()
        .filter(|name| !after.contains_key(*name))
        .cloned()
        .collect();
    assert!(lost.iter().any(|name| name.starts_with("packs/")));
    stage.prune(&all()).await.unwrap();
    // Puts of long ago are applied now: packs, their run, the session, even the commit.
    let gone = stage.world.objects().await;
    for (name, bytes) in &before {
        let late = ["packs/", "index/s/", "sessions/", "snapshots/"];
        if !gone.contains_key(name) && late.iter().any(|start| name.starts_with(start)) {
            stage.world.set(name, bytes.clone()).await;
        }
    }
    let newer = Things::new([("z", noise(20_000, 50))]);
    let store = stage.world.store(&stage.context);
    assert_eq!(assert_whole(&stage.context, &store, &[&newer]).await, 1);
    let (context, repository) = actor(&stage.world, 7).await;
    let again = take(&context, &repository, &wanted).await.unwrap().snapshot;
    assert_eq!(again.statistics.bytes_new, 150_000, "nothing late is rested on");
    finish(&stage.world, &[&newer, &wanted], 2).await;
    let end = stage.world.objects().await;
    for name in before.keys().filter(|name| !gone.contains_key(*name)) {
        assert!(!end.contains_key(name), "{name} came late and stays");
    }
}

#[tokio::test]
async fn a_reader_goes_on_across_two_collections() {
    let stage = stage().await;
    let many = |round: u64, changed: u64| {
        Things::new((0..300).map(|n| {
            (
                format!("{n:03}"),
                noise(6_000, if n < changed { 1_000 * round + n } else { n }),
            )
        }))
    };
    let first = stage.take(&many(0, 0)).await;
    let second = stage.take(&many(2, 250)).await;
    stage.take(&many(3, 200)).await;
    let (context, repository) = actor(&stage.world, 5).await;
    let readers = snapshots(&context, &repository).await.unwrap();
    stage.hand().forget(first).await;
    stage.prune(&all()).await.unwrap();
    stage.hand().forget(second).await;
    stage.prune(&all()).await.unwrap();
    stage.prune(&all()).await.unwrap();
    assert!(contents(&readers[2]).await.unwrap() == many(3, 200).contents);
}

#[tokio::test]
async fn a_lost_answer_to_a_seal_is_settled_by_reading_it() {
    let stage = stage().await;
    let one = stage.take(&things(1)).await;
    stage.take(&things(10)).await;
    stage.hand().forget(one).await;
    let faults = stage.world.faults();
    let repository = repo::open(&over(Arc::new(faults.clone()), &stage.context))
        .await
        .unwrap();
    for name in ["condemned", "state", "seal"] {
        let plan = Plan::new(When::After, holdall::testkit::Failure::Dropped);
        faults.plan(
            plan.op(holdall::testkit::Op::Put)
                .name(format!("gc/0000000000000001/{name}")),
        );
    }
    let report = ops::prune(&stage.context, &repository, &all()).await.unwrap();
    assert!(report.round.is_some() && report.swept.bytes > 1_240_000);
    let names = stage.hand().names(Prefix::Gc).await;
    assert_eq!(names.len(), 3);
}

/// Two sessions of one epoch, of which one claimed what a third left: each round finds the claims.
#[tokio::test]
async fn what_a_fenced_session_left_and_another_claimed_stays() -> Result<()> {
    let (stage, wanted) = before_the_race().await;
    let other = Things::new([("a", noise(90_000, 70)), ("q", noise(50_000, 71))]);
    let mut dead = Writer::new(&stage.world, 3, other.clone()).await;
    dead.step().await;
    dead.step().await;
    let mut request = all();
    request.options.lease = Duration::ZERO;
    let mut collector = Collector::new(&stage.world, 2, request.clone()).await;
    while !collector.is_done() {
        collector.step().await;
    }
    // Fenced, and another one commits what it left.
    let (context, repository) = actor(&stage.world, 6).await;
    let next = take(&context, &repository, &other).await?.snapshot;
    assert_eq!(next.statistics.bytes_new, 0);
    finish(
        &stage.world,
        &[&wanted, &other, &Things::new([("z", noise(20_000, 50))])],
        3,
    )
    .await;
    Ok(())
}
