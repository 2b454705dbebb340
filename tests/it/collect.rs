//! Collections as those see them who take snapshots and read them: what was let go is gone, and the rest is whole.

use crate::world::{Things, Turn, World, assert_whole, names, noise, over, seeded, take};
use holdall::context::{Context, ManualClock, Time};
use holdall::error::{Error, ErrorKind, Result};
use holdall::format::id::SessionId;
use holdall::format::layout::Prefix;
use holdall::format::note::NoteRecord;
use holdall::ops::{self, CollectOptions, PruneReport, PruneRequest, Unused};
use holdall::repository::Repository;
use holdall::repository::collect::Round;
use holdall::testkit::rounds::Hand;
use holdall::testkit::{Failure, Op, Plan, When, repo};
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) context: Context,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) repository: Repository,
}

pub(crate) async fn stage() -> Stage {
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

/// Everything that is not needed goes, whoever else says to work here.
pub(crate) fn all() -> PruneRequest {
    PruneRequest {
        options: CollectOptions {
            max_unused: Unused::Bytes(0),
            take_over: Duration::ZERO,
            ..CollectOptions::default()
        },
        confirmed: true,
        exclusive: false,
    }
}

/// A round from its begin to its sweep, whether it is worth while or not; sessions that are open are ended, but for one that shows a
/// sign of life right then.
pub(crate) async fn whole_round(context: &Context, repository: &Repository) -> Result<()> {
    let mut options = all().options;
    options.lease = Duration::ZERO;
    let mut waiting = Round::begin(repository, context, options)
        .await?
        .condemn()
        .await?;
    if !waiting.settle().await? {
        return Err(Error::new(ErrorKind::Busy, "a session is at work"));
    }
    waiting.rescue().await?.seal().await?.sweep().await.map(drop)
}

impl Stage {
    pub(crate) fn hand(&self) -> Hand<'_> {
        Hand {
            repository: &self.repository,
            context: &self.context,
        }
    }

    pub(crate) fn later(&self, by: i64) {
        let Time { seconds, nanos } = self.context.clock.now();
        self.clock.set(Time {
            seconds: seconds + by,
            nanos,
        });
    }

    pub(crate) async fn take(&self, things: &Things) -> SessionId {
        self.later(10);
        let report = take(&self.context, &self.repository, things).await;
        report.unwrap().snapshot.sid
    }

    pub(crate) async fn prune(&self, request: &PruneRequest) -> Result<PruneReport> {
        ops::prune(&self.context, &self.repository, request).await
    }

    pub(crate) async fn packs(&self) -> (usize, u64) {
        let objects = self.world.objects().await;
        let packs = objects.iter().filter(|(name, _)| name.starts_with("packs/"));
        packs.fold((0, 0), |(n, sum), (_, bytes)| (n + 1, sum + bytes.len() as u64))
    }

    async fn whole(&self, expected: &[&Things]) -> usize {
        assert_whole(&self.context, &self.world.store(&self.context), expected).await
    }
}

pub(crate) fn things(seed: u64) -> Things {
    Things::new([("a", noise(1_200_000, seed)), ("b", noise(40_000, seed + 1))])
}

#[tokio::test]
async fn what_was_let_go_is_freed_and_the_rest_restores() {
    let stage = stage().await;
    let mut sids = Vec::new();
    for seed in [1, 10, 20] {
        sids.push(stage.take(&things(seed)).await);
    }
    let (_, before) = stage.packs().await;
    stage.hand().forget(sids[0]).await;
    let report = stage.prune(&all()).await.unwrap();
    let (_, after) = stage.packs().await;
    assert!(before - after > 1_240_000, "{before} {after}");
    assert_eq!(report.plan.snapshots_going, [sids[0]]);
    assert_eq!(report.swept.bytes, before - after);
    assert_eq!(
        (report.plan.dead_bytes, report.swept.retained),
        (before - after, 0)
    );
    assert_eq!(stage.whole(&[&things(10), &things(20)]).await, 2);

    // The next rounds take what the floor has passed; then there is nothing to do, and nothing is done.
    let report = stage.prune(&all()).await.unwrap();
    assert!(report.round.is_some());
    let objects = stage.world.objects().await;
    assert!(names(&objects, "index/s/").is_empty() && names(&objects, "sessions/").is_empty());
    assert_eq!(
        (
            names(&objects, "index/g/").len(),
            names(&objects, "snapshots/").len()
        ),
        (1, 2)
    );
    assert!(names(&objects, "forgets/").is_empty());
    assert_eq!(stage.whole(&[&things(10), &things(20)]).await, 2);
    let report = stage.prune(&all()).await.unwrap();
    assert!(report.round.is_none(), "{report:?}");
    let mut left = stage.world.objects().await;
    // What checks have written.
    left.retain(|name, _| !name.starts_with("ledger/"));
    assert!(
        left.keys().all(|name| objects.contains_key(name)),
        "{:?}",
        left.keys()
    );

    // Reuse goes on over what a collector compacted.
    stage.later(10);
    let again = take(&stage.context, &stage.repository, &things(10))
        .await
        .unwrap();
    assert_eq!(again.snapshot.statistics.bytes_new, 0);
}

/// Many small things, of which those below `changed` are of that round.
pub(crate) fn many(round: u64, changed: u64) -> Things {
    let content = |n: u64| noise(6_000, if n < changed { 1_000 * round + n } else { n });
    Things::new((0..300).map(|n| (format!("{n:03}"), content(n))))
}

#[tokio::test]
async fn packs_that_hold_little_are_copied_and_not_more_than_allowed() {
    let stage = stage().await;
    let first = stage.take(&many(0, 0)).await;
    stage.take(&many(2, 240)).await;
    stage.hand().forget(first).await;
    let (_, before) = stage.packs().await;

    let mut request = all();
    request.options.max_unused = Unused::Unlimited;
    request.options.dry_run = true;
    let plan = stage.prune(&request).await.unwrap().plan;
    // Only what it had of nodes is of no use to anybody.
    assert_eq!((plan.repack_packs, plan.dead_packs), (0, 1));
    assert!(plan.unused_bytes > 1_400_000, "{plan:?}");
    request.options.max_unused = Unused::Bytes(0);
    request.options.max_repack = 1000;
    let bounded = stage.prune(&request).await.unwrap().plan;
    assert_eq!(
        (bounded.repack_packs, bounded.unused_bytes),
        (0, plan.unused_bytes)
    );

    let report = stage.prune(&all()).await.unwrap();
    let round = report.round.unwrap();
    assert_eq!(
        (report.plan.repack_packs, round.new_packs, round.reprieved_packs),
        (1, 1, 0)
    );
    let (_, after) = stage.packs().await;
    assert!(before - after > 1_300_000, "{before} {after}");
    assert_eq!(stage.whole(&[&many(2, 240)]).await, 1);
    // And the same once only a collector's run lists what was copied.
    for _ in 0..2 {
        stage.prune(&all()).await.unwrap();
        assert_eq!(stage.whole(&[&many(2, 240)]).await, 1);
    }
    assert_eq!(stage.packs().await.1, after);
}

/// One large thing, with a few bytes of each round.
fn edited(round: u8) -> Things {
    let mut bytes = noise(1_000_000, 7);
    for at in 1..=usize::from(round) {
        bytes[at * 40_000] ^= 0x5a;
    }
    Things::new([("a", bytes)])
}

#[tokio::test]
async fn chains_of_deltas_keep_their_bases_and_lose_nothing() {
    let stage = stage().await;
    let mut sids = Vec::new();
    for round in 0..10 {
        sids.push(stage.take(&edited(round)).await);
    }
    let (_, all_of_them) = stage.packs().await;
    assert!(all_of_them < 2_500_000, "the rounds are deltas: {all_of_them}");
    // The last stays, which rests on all before it.
    for (at, sid) in sids.iter().enumerate().take(9) {
        stage.hand().forget(*sid).await;
        if at % 3 == 0 {
            stage.prune(&all()).await.unwrap();
            let kept: Vec<_> = (at + 1..10).map(|round| edited(round as u8)).collect();
            assert_eq!(stage.whole(&kept.iter().collect::<Vec<_>>()).await, kept.len());
        }
    }
    for _ in 0..3 {
        stage.prune(&all()).await.unwrap();
        assert_eq!(stage.whole(&[&edited(9)]).await, 1);
    }
    stage.take(&edited(10)).await;
    assert_eq!(stage.whole(&[&edited(9), &edited(10)]).await, 2);
}

#[tokio::test]
async fn a_plan_is_what_a_run_does_and_writes_nothing() {
    let stage = stage().await;
    let first = stage.take(&many(0, 0)).await;
    stage.take(&many(2, 200)).await;
    let mut request = all();
    request.options.dry_run = true;
    let before = stage.world.objects().await;
    // Snapshots may be left out that nobody has let go yet: what a forget would free.
    request.options.also_forgotten = [first].into();
    let ahead = stage.prune(&request).await.unwrap();
    assert!(before == stage.world.objects().await);
    stage.hand().forget(first).await;
    request.options.also_forgotten.clear();
    let plan = stage.prune(&request).await.unwrap();
    assert_eq!(plan.plan.dead_bytes, ahead.plan.dead_bytes);
    assert_eq!(plan.plan.repack_bytes, ahead.plan.repack_bytes);
    assert!(plan.round.is_none() && plan.plan.is_needed && plan.plan.repack_packs > 0);
    let done = stage.prune(&all()).await.unwrap();
    let figures = |report: &PruneReport| {
        let plan = &report.plan;
        (
            plan.dead_packs,
            plan.dead_bytes,
            plan.repack_packs,
            plan.repack_bytes,
            plan.snapshots_going.clone(),
        )
    };
    assert_eq!(figures(&done), figures(&plan));
    assert_eq!(
        done.round.unwrap().dead_packs,
        plan.plan.dead_packs + plan.plan.repack_packs
    );
}

#[tokio::test]
async fn a_plan_that_takes_much_is_done_only_if_it_is_confirmed() {
    let stage = stage().await;
    let one = stage.take(&things(1)).await;
    stage.take(&things(10)).await;
    stage.hand().forget(one).await;
    let before = stage.world.objects().await;
    let unsure = PruneRequest {
        confirmed: false,
        ..all()
    };
    let error = stage.prune(&unsure).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.advice().unwrap().contains("--confirm"), "{error}");
    assert!(before == stage.world.objects().await);
    stage.prune(&all()).await.unwrap();
    // What is left of it is small.
    stage.prune(&unsure).await.unwrap();
    assert_eq!(stage.whole(&[&things(10)]).await, 1);
}

/// What was let go by a round that was confirmed asks for nothing again, though its tree is still there in a pack that is needed.
#[tokio::test]
async fn a_plan_that_was_confirmed_asks_no_second_time_for_what_it_could_not_free() {
    let stage = stage().await;
    let first = stage.take(&things(1)).await;
    let only = things(1).contents.into_iter().take(1);
    stage
        .take(&Things::new(only.map(|(name, bytes)| (name, bytes.to_vec()))))
        .await;
    stage.hand().forget(first).await;
    stage.later(10);
    let request = |confirmed| {
        let mut request = PruneRequest { confirmed, ..all() };
        request.options.max_unused = Unused::Unlimited;
        request
    };
    let error = stage.prune(&request(false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let done = stage.prune(&request(true)).await.unwrap();
    assert_eq!(done.plan.snapshots_going, [first]);
    stage.later(10);
    let again = stage.prune(&request(false)).await.unwrap();
    assert!(again.plan.snapshots_going.is_empty() && !again.plan.is_large);
}

/// A key that had no effect on the last round, and has one now, is looked at before it takes anything.
#[tokio::test]
async fn what_was_retained_until_now_counts_for_the_size_of_a_plan() {
    let stage = stage().await;
    let first = stage.take(&things(1)).await;
    stage.hand().forget(first).await;
    stage.later(10);
    // The only snapshot of its source is retained.
    let plan = stage.prune(&all()).await.unwrap().plan;
    assert!(plan.kept_in_spite.contains_key(&first) && plan.snapshots_going.is_empty());
    stage.take(&things(20)).await;
    stage.later(10);
    let unsure = PruneRequest {
        confirmed: false,
        ..all()
    };
    let error = stage.prune(&unsure).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}

#[tokio::test]
async fn what_is_protected_or_retained_stays_and_is_told() {
    let stage = stage().await;
    let (one, two) = (stage.take(&things(1)).await, stage.take(&things(10)).await);
    let three = stage.take(&things(20)).await;
    let note = NoteRecord {
        protected: Some(true),
        ..NoteRecord::default()
    };
    stage
        .repository
        .put_note(&stage.context, one, note)
        .await
        .unwrap();
    for sid in [one, two, three] {
        stage.hand().forget(sid).await;
    }
    let report = stage.prune(&all()).await.unwrap();
    assert_eq!(report.plan.snapshots_going, [two]);
    let kept: Vec<_> = report.plan.kept_in_spite.keys().copied().collect();
    let mut expected = vec![one, three];
    expected.sort_unstable();
    assert_eq!(kept, expected);
    stage.prune(&all()).await.unwrap();
    let repository = repo::open(&stage.world.store(&stage.context)).await.unwrap();
    let check = repo::check_all(&stage.context, &repository).await.unwrap();
    assert!(
        check.findings.iter().all(|finding| !finding.is_error),
        "{:?}",
        check.findings
    );
    assert_eq!(check.snapshots, 2);
}

#[tokio::test]
async fn the_first_collector_notes_when_the_store_saw_a_snapshot() {
    let stage = stage().await;
    let sid = stage.take(&things(1)).await;
    stage.take(&things(10)).await;
    stage.hand().forget(sid).await;
    stage.prune(&all()).await.unwrap();
    let seen = stage.repository.notes().await.unwrap()[&sid]
        .said
        .first_seen
        .unwrap();
    // By the store's clock, which is not the writer's.
    assert!(seen.seconds > crate::world::START.seconds + 86_400, "{seen:?}");
    let notes = stage.hand().names(Prefix::Notes).await.len();
    assert_eq!(notes, 2);
    stage.prune(&all()).await.unwrap();
    assert_eq!(
        stage.hand().names(Prefix::Notes).await.len(),
        1,
        "one for the one that is left"
    );
}

#[tokio::test]
async fn a_clock_that_is_ahead_makes_no_snapshot_old() {
    let world = World::new();
    let (context, clock) = seeded(1);
    let options = holdall::repository::InitOptions {
        retain_age: 30 * 86_400,
        ..repo::init_options()
    };
    let cache = Arc::new(holdall::repository::Cache::in_memory().unwrap());
    let made = Repository::init(world.store(&context), &context, options, cache).await;
    let repository = made.unwrap().repository;
    let stage = Stage {
        world,
        context,
        clock,
        repository,
    };
    let one = stage.take(&things(1)).await;
    stage.take(&things(10)).await;
    stage.hand().forget(one).await;
    // By the store's time they are seconds old.
    let report = stage.prune(&all()).await.unwrap();
    assert!(report.plan.kept_in_spite.contains_key(&one));
    let seen = stage
        .repository
        .store()
        .head(&holdall::format::layout::ObjectName::Snapshot(one))
        .await;
    let seconds = seen.unwrap().last_modified.seconds + 40 * 86_400;
    stage.clock.set(Time { seconds, nanos: 0 });
    let error = stage.prune(&all()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.what().contains("clock"), "{error}");
    assert_eq!(stage.packs().await.0, 4);
    // The round was given up: whoever has a right clock goes on.
    stage.clock.set(Time {
        seconds: seconds - 40 * 86_400,
        nanos: 0,
    });
    stage.prune(&all()).await.unwrap();
}

#[tokio::test]
async fn a_later_collection_reads_new_nodes_only() {
    let stage = stage().await;
    let long = |round: u64| {
        Things::new((0..6_000u64).map(|n| {
            (
                format!("{n:05}"),
                noise(600, if n == 77 { n + round * 10_000 } else { n }),
            )
        }))
    };
    stage.take(&long(0)).await;
    let first = stage.take(&long(1)).await;
    stage.hand().forget(first).await;
    stage.take(&long(2)).await;
    let first = stage.prune(&all()).await.unwrap().plan.nodes_read;
    assert!(first > 40, "{first}");
    stage.take(&long(3)).await;
    // From another machine: without what this one has cached.
    let repository = repo::open(&stage.world.store(&stage.context)).await.unwrap();
    let report = ops::prune(&stage.context, &repository, &all()).await.unwrap();
    assert!(report.plan.nodes_read < 16, "{:?}", report.plan);
    assert!(report.plan.references_used > 0);
    assert!(!stage.hand().names(Prefix::Refs).await.is_empty());
    assert_eq!(stage.whole(&[&long(0), &long(2), &long(3)]).await, 3);
}

#[tokio::test]
async fn a_store_that_does_not_let_go_is_no_failure() {
    let stage = stage().await;
    let one = stage.take(&things(1)).await;
    stage.take(&things(10)).await;
    stage.hand().forget(one).await;
    let faults = stage.world.faults();
    let store = over(Arc::new(faults.clone()), &stage.context);
    let repository = repo::open(&store).await.unwrap();
    faults.plan(
        Plan::new(When::Before, Failure::Status(403, "AccessDenied"))
            .op(Op::Delete)
            .forever(),
    );
    let report = ops::prune(&stage.context, &repository, &all()).await.unwrap();
    assert!(
        report.swept.deleted == 0 && report.swept.retained_bytes > 1_240_000,
        "{report:?}"
    );
    assert_eq!(stage.whole(&[&things(10)]).await, 1);
    // Nothing new to do: the round is not repeated for it.
    let again = ops::prune(&stage.context, &repository, &all()).await.unwrap();
    let again = if again.round.is_some() {
        ops::prune(&stage.context, &repository, &all()).await.unwrap()
    } else {
        again
    };
    assert!(
        again.round.is_none() && again.swept.retained_bytes > 1_240_000,
        "{again:?}"
    );
    faults.heal();
    let report = ops::prune(&stage.context, &repository, &all()).await.unwrap();
    assert!(
        report.swept.bytes > 1_240_000 && report.swept.retained == 0,
        "{report:?}"
    );
    assert_eq!(stage.whole(&[&things(10)]).await, 1);
}

#[tokio::test]
async fn a_full_disk_gives_back_its_reserve_for_a_collection() {
    let stage = stage().await;
    for number in 0..4 {
        stage.hand().reserve(number, 1000).await;
    }
    let first = stage.take(&many(0, 0)).await;
    stage.take(&many(2, 200)).await;
    stage.hand().forget(first).await;
    let faults = stage.world.faults();
    let store = over(Arc::new(faults.clone()), &stage.context);
    let repository = repo::open(&store).await.unwrap();
    // Copies do not fit at all; each record fits after one piece was given back.
    let full = || Plan::new(When::Before, Failure::Status(507, "InsufficientStorage")).op(Op::Put);
    faults.plan(full().name("packs/").forever());
    faults.plan(full().name("gc/0000000000000001/condemned"));
    faults.plan(full().name("gc/0000000000000001/seal"));
    let report = ops::prune(&stage.context, &repository, &all()).await.unwrap();
    let round = report.round.unwrap();
    assert!(
        round.reprieved_packs > 0 && round.notes.iter().any(|note| note.contains("full")),
        "{round:?}"
    );
    assert_eq!(stage.hand().names(Prefix::Reserve).await.len(), 4, "taken again");
    assert_eq!(stage.whole(&[&many(2, 200)]).await, 1);
    faults.heal();
    let report = ops::prune(&stage.context, &repository, &all()).await.unwrap();
    assert_eq!(report.round.unwrap().reprieved_packs, 0);
    assert_eq!(stage.whole(&[&many(2, 200)]).await, 1);
}

#[tokio::test]
async fn a_store_that_overwrites_is_collected_only_by_who_is_alone() {
    let stage = stage().await;
    let one = stage.take(&things(1)).await;
    stage.take(&things(10)).await;
    stage.hand().forget(one).await;
    let faults = stage.world.faults();
    faults.overwrite();
    let repository = repo::open(&over(Arc::new(faults), &stage.context)).await.unwrap();
    let error = ops::prune(&stage.context, &repository, &all()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.advice().unwrap().contains("--exclusive"), "{error}");
    let alone = PruneRequest {
        exclusive: true,
        ..all()
    };
    ops::prune(&stage.context, &repository, &alone).await.unwrap();
    assert_eq!(stage.whole(&[&things(10)]).await, 1);
}

#[tokio::test]
async fn what_an_interrupted_run_left_goes_once_it_is_known_to_be_dead() {
    let stage = stage().await;
    stage.take(&things(1)).await;
    let (_, before) = stage.packs().await;
    let broken = things(10).at(1, Turn::Fail);
    take(&stage.context, &stage.repository, &broken)
        .await
        .unwrap_err();
    assert!(stage.packs().await.1 > before + 1_000_000);
    // It has aborted itself: nobody waits for it.
    let report = stage.prune(&all()).await.unwrap();
    assert_eq!((report.plan.dead_packs, report.fenced.len()), (1, 0));
    assert_eq!(stage.packs().await.1, before);
    assert_eq!(stage.whole(&[&things(1)]).await, 1);
}
