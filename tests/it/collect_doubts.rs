//! Collections in doubt: what cannot be read, what is gone, clocks that are wrong, plans that take much, and what is told of them.

use crate::collect::{Stage, all, stage, things};
use crate::world::{START, Things, World, contents, names, noise, over, seeded, snapshots, take};
use holdall::context::{Context, Time};
use holdall::error::{Error, ErrorKind};
use holdall::event::{Event, Observer, Recorder};
use holdall::format::id::{ObjectId, SessionId};
use holdall::format::layout::{ObjectName, Prefix};
use holdall::format::note::NoteRecord;
use holdall::ops::{self, CheckReport, CheckRequest, PruneRequest};
use holdall::repository::collect::{Rescued, Round};
use holdall::repository::{ReadData, Repository};
use holdall::store::{Access, Location, Store, StoreOptions};
use holdall::testkit::rounds::{Hand, Round as Sealed};
use holdall::testkit::{Failure, FaultStore, Op, Plan, When, repo};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Two snapshots, of which the first is let go.
async fn with_garbage() -> (Stage, SessionId) {
    let stage = stage().await;
    let first = stage.take(&things(1)).await;
    stage.take(&things(10)).await;
    stage.hand().forget(first).await;
    (stage, first)
}

impl Stage {
    /// The stage's store with faults between, opened without a cache.
    pub(crate) async fn faulty(&self) -> (FaultStore, Repository) {
        let faults = self.world.faults();
        let store = over(Arc::new(faults.clone()), &self.context);
        (faults, repo::open(&store).await.unwrap())
    }

    pub(crate) async fn pack_names(&self) -> BTreeSet<String> {
        let objects = self.world.objects().await;
        objects
            .into_keys()
            .filter(|name| name.starts_with("packs/"))
            .collect()
    }
}

async fn flip(world: &World, name: &str) {
    let mut bytes = world.get(name).await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    world.remove(name).await;
    world.set(name, bytes.into()).await;
}

fn unsure() -> PruneRequest {
    PruneRequest {
        confirmed: false,
        ..all()
    }
}

#[tokio::test]
async fn a_ledger_that_cannot_be_read_ends_a_collection_until_a_check_has_replaced_it() {
    let (stage, _) = with_garbage().await;
    stage.hand().quarantine(&[ObjectId([7; 32])]).await;
    flip(&stage.world, "ledger/00000000").await;
    let repository = repo::open(&stage.world.store(&stage.context)).await.unwrap();
    let before = stage.world.objects().await;
    let error = ops::prune(&stage.context, &repository, &all()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert!(error.to_string().contains("ledger/00000000"), "{error}");
    assert!(error.advice().unwrap().contains("check --read-data"), "{error}");
    let after = stage.world.objects().await;
    assert!(before.keys().all(|name| after.contains_key(name)));
    // A run of a writer goes on, and says so.
    let recorder = Arc::new(Recorder::default());
    let context = Context {
        observer: recorder.clone(),
        ..stage.context.clone()
    };
    take(&context, &repository, &things(10)).await.unwrap();
    let is_told = |event: &Event| matches!(event, Event::Note { text } if text.contains("ledger/00000000"));
    assert!(recorder.events().iter().any(is_told));

    let report = repo::check_all(&stage.context, &repository).await.unwrap();
    let told =
        |finding: &holdall::repository::Finding| finding.object == "ledger/00000000" && finding.is_error;
    assert!(report.findings.iter().any(told), "{:?}", report.findings);
    let report = repo::check_all(&stage.context, &repository).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert!(
        ops::prune(&stage.context, &repository, &all())
            .await
            .unwrap()
            .round
            .is_some()
    );
}

/// A world in which two writers have stored the same at the same time.
pub(crate) async fn twice() -> (Stage, Things) {
    let stage = stage().await;
    let empty = stage.world.objects().await;
    let other = World::of(&empty).await;
    let things = things(1);
    stage.take(&things).await;
    let (context, clock) = seeded(2);
    clock.set(stage.context.clock.now());
    let repository = repo::open(&other.store(&context)).await.unwrap();
    take(&context, &repository, &things).await.unwrap();
    for (name, bytes) in other.objects().await {
        if !empty.contains_key(&name) {
            stage.world.set(&name, bytes).await;
        }
    }
    let repository = repo::open(&stage.world.store(&stage.context)).await.unwrap();
    (Stage { repository, ..stage }, things)
}

#[tokio::test]
async fn a_pack_that_a_check_sets_aside_during_a_round_is_no_reason_to_kill_its_double() {
    // Which of the two stays, a round in another world tells.
    let (stage, things) = twice().await;
    let packs = stage.pack_names().await;
    let other = Stage {
        world: World::of(&stage.world.objects().await).await,
        context: stage.context.clone(),
        clock: stage.clock.clone(),
        repository: stage.repository.clone(),
    };
    let other_repository = repo::open(&other.world.store(&other.context)).await.unwrap();
    ops::prune(&other.context, &other_repository, &all())
        .await
        .unwrap();
    let stays = other.pack_names().await;
    assert_eq!((packs.len(), stays.len()), (4, 2));

    let begun = Round::begin(&stage.repository, &stage.context, all().options).await;
    let mut waiting = begun.unwrap().condemn().await.unwrap();
    assert!(waiting.settle().await.unwrap());
    let ids = stays.iter().map(|name| match ObjectName::parse(name).unwrap() {
        ObjectName::Pack(id) => id,
        name => panic!("{name}"),
    });
    stage.hand().quarantine(&ids.collect::<Vec<_>>()).await;
    let rescued = waiting.rescue().await.unwrap();
    assert_eq!((rescued.dead().count(), rescued.reprieved()), (0, 2));
    rescued.seal().await.unwrap().sweep().await.unwrap();
    // It was right to doubt them.
    for name in &stays {
        stage.world.remove(name).await;
    }
    let repository = repo::open(&stage.world.store(&stage.context)).await.unwrap();
    for snapshot in snapshots(&stage.context, &repository).await.unwrap() {
        assert_eq!(contents(&snapshot).await.unwrap(), things.contents);
    }
}

#[tokio::test]
async fn snapshots_count_for_the_size_of_a_plan_though_others_share_their_trees() {
    let stage = stage().await;
    let mut sids = vec![stage.take(&Things::new([("a", noise(9_000, 5))])).await];
    for _ in 0..5 {
        sids.push(stage.take(&things(1)).await);
    }
    // One takes a little with it, the others nothing.
    for sid in &sids[..3] {
        stage.hand().forget(*sid).await;
    }
    let error = stage.prune(&unsure()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.what().contains("3 of 6 snapshots"), "{error}");
    let done = stage.prune(&all()).await.unwrap();
    assert_eq!(done.plan.snapshots_going.len(), 3);
    // They are counted once, though a later round only can sweep their keys.
    for _ in 0..3 {
        assert!(!stage.prune(&unsure()).await.unwrap().plan.is_large);
    }
    assert_eq!(stage.hand().names(Prefix::Snapshots).await.len(), 3);
}

#[tokio::test]
async fn what_an_earlier_round_has_killed_does_not_make_a_plan_look_smaller() {
    let (stage, _) = with_garbage().await;
    let (faults, repository) = stage.faulty().await;
    let (_, bytes) = stage.packs().await;
    faults.plan(
        Plan::new(When::Before, Failure::Status(403, "AccessDenied"))
            .op(Op::Delete)
            .forever(),
    );
    ops::prune(&stage.context, &repository, &all()).await.unwrap();
    assert_eq!(stage.packs().await.1, bytes, "the store lets nothing go");
    let mut request = all();
    request.options.dry_run = true;
    let plan = ops::prune(&stage.context, &repository, &request)
        .await
        .unwrap()
        .plan;
    assert!(plan.unfinished_bytes > 1_240_000, "{plan:?}");
    assert!(plan.pack_bytes < bytes - 1_240_000, "{plan:?}");
    assert_eq!(plan.packs, 2);
}

/// A round up to its seal.
async fn rescued(context: &Context, repository: &Repository) -> Rescued {
    let begun = Round::begin(repository, context, all().options).await;
    let mut waiting = begun.unwrap().condemn().await.unwrap();
    assert!(waiting.settle().await.unwrap());
    waiting.rescue().await.unwrap()
}

#[tokio::test]
async fn a_seal_that_is_not_the_newest_says_what_happened_and_what_to_do() {
    let said = |error: &Error| format!("{error} {}", error.advice().unwrap_or_default());
    let (stage, _) = with_garbage().await;
    let before = stage.pack_names().await;
    let round = rescued(&stage.context, &stage.repository).await;
    let later = Sealed {
        number: 2,
        ..Sealed::default()
    };
    stage.hand().seal(later).await;
    let Err(error) = round.seal().await else {
        panic!("an old seal counts")
    };
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(
        said(&error).contains("gc/0000000000000001/seal"),
        "{}",
        said(&error)
    );
    assert!(said(&error).contains("run the command again"), "{}", said(&error));
    assert_eq!(stage.pack_names().await, before);

    let (stage, _) = with_garbage().await;
    let (faults, repository) = stage.faulty().await;
    let before = stage.pack_names().await;
    let round = rescued(&stage.context, &repository).await;
    faults.hide("gc/0000000000000001/seal");
    let Err(error) = round.seal().await else {
        panic!("a seal counts that nobody sees")
    };
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(
        said(&error).contains("gc/0000000000000001/seal"),
        "{}",
        said(&error)
    );
    assert!(said(&error).contains("holdall check"), "{}", said(&error));
    assert_eq!(stage.pack_names().await, before);
}

#[tokio::test]
async fn sessions_that_were_ended_are_told_though_the_round_fails() {
    let (stage, _) = with_garbage().await;
    let idle = stage.hand().session(0).await;
    let (faults, repository) = stage.faulty().await;
    faults.plan(
        Plan::new(When::Before, Failure::Status(403, "AccessDenied"))
            .op(Op::Put)
            .name("gc/0000000000000001/state")
            .forever(),
    );
    let recorder = Arc::new(Recorder::default());
    let context = Context {
        observer: recorder.clone(),
        ..stage.context.clone()
    };
    let mut request = all();
    request.options.lease = Duration::ZERO;
    let error = ops::prune(&context, &repository, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains(&idle.short()), "{error}");
    let is_told = |event: &Event| matches!(event, Event::Note { text } if text.contains(&idle.short()) && text.contains("was ended"));
    assert!(recorder.events().iter().any(is_told));
}

#[tokio::test]
async fn a_reserve_that_a_failed_collection_gave_back_is_taken_again() {
    let folder = tempfile::tempdir().unwrap();
    let (context, _) = seeded(1);
    let location = Location::Local(folder.path().join("repository"));
    let options = StoreOptions {
        access: Access::Create,
        ..StoreOptions::default()
    };
    let store = Store::open(&location, &options, &context).unwrap();
    // All of it is gone: the round that gave it back is over, and whoever comes next knows nothing of it.
    let repository = repo::init(&store, &context).await.unwrap();
    let hand = Hand {
        repository: &repository,
        context: &context,
    };
    assert_eq!(hand.names(Prefix::Reserve).await.len(), 0);
    let report = ops::prune(&context, &repository, &all()).await.unwrap();
    assert!(report.round.is_none(), "there is nothing to collect");
    assert_eq!(hand.names(Prefix::Reserve).await.len(), 4);
}

#[tokio::test]
async fn a_note_that_is_gone_may_be_the_one_that_protects() {
    let stage = stage().await;
    let one = stage.take(&things(1)).await;
    stage.take(&things(10)).await;
    let note = NoteRecord {
        protected: Some(true),
        ..NoteRecord::default()
    };
    stage
        .repository
        .put_note(&stage.context, one, note)
        .await
        .unwrap();
    stage.hand().forget(one).await;
    let (faults, repository) = stage.faulty().await;
    faults.plan(
        Plan::new(When::Before, Failure::Status(404, "NoSuchKey"))
            .op(Op::Get)
            .name("notes/")
            .forever(),
    );
    let report = ops::prune(&stage.context, &repository, &all()).await.unwrap();
    assert!(report.plan.snapshots_going.is_empty(), "{:?}", report.plan);
    assert!(
        report.plan.kept_in_spite[&one].contains("cannot be read"),
        "{:?}",
        report.plan
    );
    assert_eq!(snapshots(&stage.context, &repository).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_clock_that_is_wrong_decides_nothing() {
    // Ahead: whatever the repository retains, a snapshot of a wrong clock could be the newest by it.
    let (stage, first) = with_garbage().await;
    let seen = stage.repository.store().head(&ObjectName::Snapshot(first)).await;
    let seconds = seen.unwrap().last_modified.seconds + 86_400;
    stage.clock.set(Time { seconds, nanos: 0 });
    let before = stage.pack_names().await;
    let error = stage.prune(&all()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.what().contains("clock"), "{error}");
    assert_eq!(stage.pack_names().await, before);

    // Behind: what is new does not come from the future.
    let stage = crate::collect::stage().await;
    stage.take(&things(1)).await;
    stage.later(5 * 86_400);
    let newest = stage.take(&things(10)).await;
    stage.hand().forget(newest).await;
    stage.clock.set(START);
    let report = stage.prune(&all()).await.unwrap();
    assert!(
        report.plan.kept_in_spite.contains_key(&newest),
        "{:?}",
        report.plan
    );
    assert!(report.plan.snapshots_going.is_empty());
}

#[tokio::test]
async fn the_log_is_read_from_the_newest_seal_that_is_known() {
    let stage = stage().await;
    stage.take(&things(1)).await;
    for number in 1..=40 {
        let round = Sealed {
            number,
            ..Sealed::default()
        };
        stage.hand().seal(round).await;
    }
    let (faults, repository) = stage.faulty().await;
    let listed = async || {
        let before = faults.listed();
        repository.view(&stage.context).await.unwrap();
        faults.listed() - before
    };
    let first = listed().await;
    let again = listed().await;
    assert!(first > 80 && again < 20, "{first} {again}");
    // One that is known and gone is no end: a store that was put back to an earlier state.
    stage.world.remove("gc/0000000000000028/seal").await;
    let log = listed().await;
    assert!(log > 80, "{log}");
}

/// Does something in the middle of whatever is watched.
struct Meanwhile<F>(AtomicBool, F);

impl<F: Fn() + Send + Sync> Observer for Meanwhile<F> {
    fn on(&self, event: &Event) {
        let now = matches!(event, Event::Progress { bytes: 0 } | Event::Retry { .. });
        if now && !self.0.swap(true, Ordering::Relaxed) {
            (self.1)();
        }
    }
}

/// What a check says while a collection takes one of three snapshots, after the check has begun to walk another one.
async fn checked_beside_a_collection(stage: &Stage, sids: &[SessionId], read_data: ReadData) -> CheckReport {
    // They are walked in the order of their names: of the two that may go, the one that comes later goes during the first.
    let newest = sids[2];
    let going = sids.iter().copied().filter(|sid| *sid != newest).max().unwrap();
    let (context, repository) = (stage.context.clone(), stage.repository.clone());
    let meanwhile = move || {
        let collect = async {
            let (context, repository) = (&context, &repository);
            Hand { repository, context }.forget(going).await;
            let report = ops::prune(context, repository, &all()).await.unwrap();
            assert!(report.swept.bytes > 1_000_000);
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(collect));
    };
    let watched = Context {
        observer: Arc::new(Meanwhile(AtomicBool::new(false), meanwhile)),
        ..stage.context.clone()
    };
    let repository = repo::open(&stage.world.store(&stage.context)).await.unwrap();
    ops::check(
        &watched,
        &repository,
        CheckRequest {
            read_data,
            ..CheckRequest::default()
        },
    )
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_beside_a_collection_takes_nothing_for_damage_that_was_let_go() {
    let stage = stage().await;
    let mut sids = Vec::new();
    for seed in [1, 10, 20] {
        sids.push(stage.take(&things(seed)).await);
    }
    let report = checked_beside_a_collection(&stage, &sids, ReadData::None).await;
    assert!(!report.is_damaged(), "{:?}", report.findings);
    assert_eq!(report.snapshots, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_beside_a_collection_tells_of_damage_all_the_same() {
    let stage = stage().await;
    let mut sids = Vec::new();
    for seed in [1, 10, 20] {
        sids.push(stage.take(&things(seed)).await);
    }
    let runs = names(&stage.world.objects().await, &format!("index/s/{}", sids[2]));
    let packs = stage.hand().read_run(runs[0]).await.packs;
    let data = packs.iter().max_by_key(|pack| pack.size).unwrap();
    let damaged = ObjectName::Pack(data.id).to_string();
    flip(&stage.world, &damaged).await;
    let report = checked_beside_a_collection(&stage, &sids, ReadData::All).await;
    let objects: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.is_error)
        .collect();
    assert!(
        objects.iter().any(|finding| finding.object == damaged),
        "{objects:?}"
    );
    assert_eq!(report.snapshots_hit, [sids[2].name()]);
    assert_eq!(
        (report.snapshots, report.survey.packs_read),
        (2, 6),
        "three of nodes, two that are left of data, and the damaged one again: what was found right is not read twice"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_was_swept_while_it_was_being_protected_is_not_called_protected() {
    let (stage, _) = with_garbage().await;
    let one = stage.take(&things(20)).await;
    stage.take(&things(30)).await;
    let (faults, repository) = stage.faulty().await;
    // Between the look and the note somebody lets it go, and two rounds take it with all its keys.
    faults.plan(
        Plan::new(When::Before, Failure::Status(503, "SlowDown"))
            .op(Op::Put)
            .name("notes/"),
    );
    let (context, others) = (stage.context.clone(), stage.repository.clone());
    let meanwhile = move || {
        let collect = async {
            let (context, repository) = (&context, &others);
            Hand { repository, context }.forget(one).await;
            for _ in 0..2 {
                ops::prune(context, repository, &all()).await.unwrap();
            }
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(collect));
    };
    let watched = Context {
        observer: Arc::new(Meanwhile(AtomicBool::new(false), meanwhile)),
        ..stage.context.clone()
    };
    let store = over(Arc::new(faults), &watched);
    let racing = repo::open(&store).await.unwrap();
    let spec = one.name().parse().unwrap();
    let error = ops::protect(&watched, &racing, &[spec], true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let left = snapshots(&stage.context, &repository).await.unwrap();
    assert!(left.iter().all(|snapshot| snapshot.record().sid != one));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_check_says_of_packs_that_are_set_aside_is_as_of_after_a_collection() {
    let (stage, _) = twice().await;
    let newest = stage.take(&things(30)).await;
    let view = stage.repository.view(&stage.context).await.unwrap();
    let mut sids: Vec<SessionId> = view.snapshots().map(|record| record.sid).collect();
    sids.retain(|sid| *sid != newest);
    let going = stage.take(&things(40)).await;
    sids.push(going);
    let last = stage.take(&things(50)).await;
    let packs = stage
        .hand()
        .read_run(names(&stage.world.objects().await, &format!("index/s/{}", sids[0]))[0])
        .await
        .packs;
    let data = packs.iter().max_by_key(|pack| pack.size).unwrap();
    let damaged = ObjectName::Pack(data.id).to_string();
    flip(&stage.world, &damaged).await;
    stage.hand().quarantine(&[data.id]).await;
    // The collection takes it, and one of these two.
    let report = checked_beside_a_collection(&stage, &[newest, going, last], ReadData::None).await;
    assert!(stage.world.get(&damaged).await.is_none());
    assert!(!report.is_damaged(), "{:?}", report.findings);
    assert!(
        report.findings.iter().all(|finding| finding.object != damaged),
        "{:?}",
        report.findings
    );
}
