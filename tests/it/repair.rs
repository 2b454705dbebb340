//! Repairs as those see them whose store has lost something: what can be read comes back, what cannot is named, and nothing is deleted.

use crate::collect::{Stage, all, stage, whole_round};
use crate::copy::{make_replica, request as copy_request, version};
use crate::lost_records::stage_without_minimum;
use crate::world::{
    Objects, START, Things, World, assert_whole, contents, noise, over, seeded, snapshots, take,
};
use futures::FutureExt;
use holdall::context::{Context, Time};
use holdall::error::ErrorKind;
use holdall::event::{Event, Recorder};
use holdall::ops::{self, RepairReport, RepairRequest};
use holdall::repository::{Cache, ReadData, Repository};
use holdall::testkit::{When, repo};
use std::sync::Arc;

pub(crate) fn request() -> RepairRequest {
    RepairRequest {
        host: "mender".into(),
        read_data: ReadData::All,
        dry_run: false,
    }
}

pub(crate) async fn repair(stage: &Stage, from: Option<&Repository>) -> RepairReport {
    let repository = repo::open(&stage.world.store(&stage.context)).await.unwrap();
    ops::repair(&stage.context, &repository, from, &request())
        .await
        .unwrap()
}

/// The largest object whose name begins like this.
pub(crate) fn largest(objects: &Objects, start: &str) -> String {
    let found = objects.iter().filter(|(name, _)| name.starts_with(start));
    found
        .max_by_key(|(_, bytes)| bytes.len())
        .map(|(name, _)| name.clone())
        .unwrap()
}

pub(crate) async fn damage(world: &World, name: &str, at: usize) {
    let mut bytes = world.get(name).await.unwrap().to_vec();
    bytes[at] ^= 1;
    world.set(name, bytes.into()).await;
}

pub(crate) async fn replica(stage: &Stage) -> (World, Repository) {
    let world = World::new();
    let target = make_replica(&stage.repository, world.store(&stage.context), &stage.context)
        .await
        .unwrap();
    ops::copy(&stage.context, &stage.repository, Some(&target), &copy_request())
        .await
        .unwrap();
    (world, target)
}

/// Every snapshot restores to one of these, and no snapshot is said to be hit.
async fn restores(stage: &Stage, expected: &[&Things]) -> usize {
    let repository = repo::open(&stage.world.store(&stage.context)).await.unwrap();
    let check = repo::check_all(&stage.context, &repository).await.unwrap();
    assert!(check.snapshots_hit.is_empty(), "{:?}", check.findings);
    let found = snapshots(&stage.context, &repository).await.unwrap();
    for snapshot in &found {
        let contents = contents(snapshot).await.unwrap();
        assert!(expected.iter().any(|things| things.contents == contents));
    }
    found.len()
}

/// As [`restores`], after what nobody needs is gone: then nothing at all is found.
async fn whole_after_collections(stage: &Stage, expected: &[&Things]) -> usize {
    let store = stage.world.store(&stage.context);
    let repository = repo::open(&store).await.unwrap();
    for _ in 0..3 {
        ops::prune(&stage.context, &repository, &all()).await.unwrap();
    }
    assert_whole(&stage.context, &store, expected).await
}

/// What a repair adds: nothing that was there may change or go.
async fn only_added(stage: &Stage, before: &Objects) -> Vec<String> {
    let after = stage.world.objects().await;
    for (name, bytes) in before {
        assert_eq!(after.get(name), Some(bytes), "{name}");
    }
    let added = after.keys().filter(|name| !before.contains_key(*name));
    added.cloned().collect()
}

#[tokio::test]
async fn where_nothing_is_wrong_nothing_is_written_but_what_was_verified() {
    let stage = stage().await;
    stage.take(&version(0)).await;
    let before = stage.world.objects().await;
    let report = repair(&stage, None).await;
    assert!(!report.has_work() && !report.is_damaged());
    let added = only_added(&stage, &before).await;
    assert!(added.iter().all(|name| name.starts_with("ledger/")), "{added:?}");
}

#[tokio::test]
async fn a_lost_index_run_is_made_anew_from_the_packs() {
    for cut in [false, true] {
        let stage = stage().await;
        stage.take(&version(0)).await;
        stage.take(&version(1)).await;
        let run = largest(&stage.world.objects().await, "index/s/");
        if cut {
            damage(&stage.world, &run, 200).await;
        } else {
            stage.world.remove(&run).await;
        }
        let before = stage.world.objects().await;
        let report = repair(&stage, None).await;
        assert!(report.packs_listed > 0);
        assert_eq!(report.blobs_stored, 0);
        assert!(!report.is_damaged(), "{report:?}");
        let added = only_added(&stage, &before).await;
        assert!(!added.iter().any(|name| name.starts_with("packs/")), "{added:?}");
        assert_eq!(restores(&stage, &[&version(0), &version(1)]).await, 2);
        // The next snapshot rests on what was listed again, and it stays when the run of the repair is gone.
        let again = take(&stage.context, &stage.repository, &version(1))
            .await
            .unwrap();
        assert_eq!(again.snapshot.statistics.bytes_new, 0);
        let second = repair(&stage, None).await;
        assert!(!second.has_work());
        assert_eq!(restores(&stage, &[&version(0), &version(1)]).await, 3);
        let versions = [&version(0), &version(1)];
        assert_eq!(whole_after_collections(&stage, &versions).await, 3);
        assert!(stage.world.get(&run).await.is_none());
    }
}

#[tokio::test]
async fn where_packs_were_collected_a_lost_index_is_made_anew_by_copying() {
    let stage = stage().await;
    let first = stage.take(&version(0)).await;
    stage.take(&version(1)).await;
    stage.take(&version(2)).await;
    stage.hand().forget(first).await;
    for _ in 0..3 {
        stage.prune(&all()).await.unwrap();
    }
    let run = largest(&stage.world.objects().await, "index/g/");
    let objects = stage.world.objects().await;
    for cut in [false, true] {
        let stage = Stage {
            world: World::of(&objects).await,
            ..stage_of(&stage)
        };
        if cut {
            damage(&stage.world, &run, 200).await;
        } else {
            stage.world.remove(&run).await;
        }
        let before = stage.world.objects().await;
        let report = repair(&stage, None).await;
        assert!(report.blobs_stored > 0 && !report.is_damaged(), "{report:?}");
        only_added(&stage, &before).await;
        let versions = [&version(1), &version(2)];
        assert_eq!(restores(&stage, &versions).await, 2);
        assert_eq!(whole_after_collections(&stage, &versions).await, 2);
        assert!(stage.world.get(&run).await.is_none());
    }
}

#[tokio::test]
async fn a_damaged_pack_is_healed_from_a_replica() {
    let stage = stage().await;
    for n in 0..3 {
        stage.take(&version(n)).await;
    }
    let (_world, from) = replica(&stage).await;
    let pack = largest(&stage.world.objects().await, "packs/");
    damage(&stage.world, &pack, 5_000).await;
    let dry = RepairRequest {
        dry_run: true,
        ..request()
    };
    let store = stage.world.store(&stage.context);
    let before = stage.world.objects().await;
    let read_only = repo::open(&store.read_only()).await.unwrap();
    let planned = ops::repair(&stage.context, &read_only, Some(&from), &dry)
        .await
        .unwrap();
    assert_eq!(stage.world.objects().await, before);
    let report = repair(&stage, Some(&from)).await;
    assert_eq!(report.bad_packs.len(), 1);
    assert_eq!(report.bad_packs[0].0, pack);
    assert!(
        report.blobs_from_replica > 0 && !report.is_damaged(),
        "{report:?}"
    );
    assert_eq!(
        (
            planned.blobs_stored,
            planned.bytes_stored,
            planned.blobs_from_replica
        ),
        (
            report.blobs_stored,
            report.bytes_stored,
            report.blobs_from_replica
        )
    );
    only_added(&stage, &before).await;
    let versions = [&version(0), &version(1), &version(2)];
    assert_eq!(restores(&stage, &versions).await, 3);
    assert_eq!(whole_after_collections(&stage, &versions).await, 3);
    assert!(stage.world.get(&pack).await.is_none());
}

#[tokio::test]
async fn a_lost_pack_of_trees_is_healed_from_a_replica() {
    let stage = stage().await;
    let many = |n: usize| Things::new((0..n).map(|i| (format!("entry {i:06}"), noise(10, i as u64))));
    stage.take(&many(20_000)).await;
    let (_world, from) = replica(&stage).await;
    for pack in stage
        .world
        .objects()
        .await
        .keys()
        .filter(|name| name.starts_with("packs/"))
    {
        stage.world.remove(pack).await;
    }
    let report = repair(&stage, Some(&from)).await;
    assert!(
        report.blobs_from_replica > 1 && !report.is_damaged(),
        "{report:?}"
    );
    assert_eq!(restores(&stage, &[&many(20_000)]).await, 1);
    assert_eq!(whole_after_collections(&stage, &[&many(20_000)]).await, 1);
}

#[tokio::test]
async fn what_is_lost_for_good_is_named_and_the_next_snapshot_heals_it() {
    let stage = stage().await;
    let things = Things::new([("gone", noise(1 << 20, 1)), ("kept", noise(1 << 20, 2))]);
    let sid = stage.take(&things).await;
    let pack = largest(&stage.world.objects().await, "packs/");
    damage(&stage.world, &pack, 200_000).await;
    let report = repair(&stage, None).await;
    assert!(report.is_damaged());
    assert_eq!(report.hit.len(), 1);
    assert_eq!(report.hit[0].sid, sid);
    assert_eq!((report.hit[0].entries_hit, report.hit[0].nodes_hit), (1, 0));
    assert_eq!(report.hit[0].entries, ["gone"]);
    // What is intact of the pack was stored anew.
    assert!(report.bytes_stored >= 1 << 20, "{report:?}");
    let healed = stage.take(&things).await;
    assert_ne!(healed, sid);
    assert_eq!(restores(&stage, &[&things]).await, 2);
    assert!(!repair(&stage, None).await.is_damaged());
    assert_eq!(whole_after_collections(&stage, &[&things]).await, 2);
}

#[tokio::test]
async fn a_snapshot_whose_record_is_lost_comes_back_from_a_replica() {
    let stage = stage().await;
    let sid = stage.take(&version(0)).await;
    stage.take(&version(1)).await;
    let (_world, from) = replica(&stage).await;
    let name = format!("snapshots/{sid}");
    damage(&stage.world, &name, 150).await;
    let alone = repair(&stage, None).await;
    assert_eq!(alone.unreadable, [sid]);
    let report = repair(&stage, Some(&from)).await;
    assert_eq!(report.snapshots_back, [sid]);
    assert!(report.unreadable.is_empty());
    assert_eq!(restores(&stage, &[&version(0), &version(1)]).await, 2);
    let again = repair(&stage, Some(&from)).await;
    assert_eq!((again.snapshots_back, again.snapshots_there), (vec![], vec![sid]));
    assert!(again.unreadable.is_empty());
    let versions = [&version(0), &version(1)];
    assert_eq!(whole_after_collections(&stage, &versions).await, 2);
    assert!(stage.world.get(&name).await.is_none());
}

/// The machine that made a snapshot remembers its record; others do not find it.
#[tokio::test]
async fn what_only_this_machine_remembers_is_mended_for_others() {
    let stage = stage().await;
    let sid = stage.take(&version(0)).await;
    stage.take(&version(1)).await;
    let run = largest(&stage.world.objects().await, "index/s/");
    let record = format!("snapshots/{sid}");
    let another = repo::open(&stage.world.store(&stage.context)).await.unwrap();
    another.view(&stage.context).await.unwrap();
    for name in [&run, &record] {
        damage(&stage.world, name, 150).await;
    }
    let known = stage.repository.view(&stage.context).await.unwrap();
    assert!(known.holds(&sid) && known.damaged.is_empty());
    let plan = RepairRequest {
        dry_run: true,
        ..request()
    };
    let before = stage.world.objects().await;
    for (request, is_applied) in [(plan, false), (request(), true)] {
        let recorder = Arc::new(Recorder::default());
        let context = Context {
            observer: recorder.clone(),
            ..stage.context.clone()
        };
        let report = ops::repair(&context, &stage.repository, None, &request)
            .await
            .unwrap();
        assert!(report.packs_listed > 0 && !report.is_damaged(), "{report:?}");
        let notes = recorder.events();
        assert!(
            !notes.iter().any(|event| matches!(event, Event::Note { .. })),
            "{notes:?}"
        );
        assert_eq!(report.snapshots_back, [sid]);
        let added = only_added(&stage, &before).await;
        let is_written = added.iter().any(|name| !name.starts_with("ledger/"));
        assert_eq!(is_written, is_applied, "{added:?}");
    }
    assert_eq!(restores(&stage, &[&version(0), &version(1)]).await, 2);
    let again = repair(&stage, None).await;
    assert_eq!((again.has_work(), again.snapshots_there), (false, vec![sid]));
    let known = stage.repository.view(&stage.context).await.unwrap();
    assert!(!known.holds(&sid), "nobody is shown both");
    // By a machine that remembers the record too.
    for _ in 0..3 {
        ops::prune(&stage.context, &another, &all()).await.unwrap();
    }
    assert!(stage.world.get(&record).await.is_none());
    let versions = [&version(0), &version(1)];
    assert_eq!(whole_after_collections(&stage, &versions).await, 2);
}

#[tokio::test]
async fn a_snapshot_that_was_let_go_does_not_come_back_when_its_record_is_lost() {
    let stage = stage_without_minimum().await;
    let sid = stage.take(&version(0)).await;
    stage.take(&version(1)).await;
    let (_world, from) = replica(&stage).await;
    stage.hand().forget(sid).await;
    damage(&stage.world, &format!("snapshots/{sid}"), 150).await;
    let report = repair(&stage, Some(&from)).await;
    assert_eq!(
        (report.snapshots_back, report.snapshots_let_go),
        (vec![], vec![sid])
    );
    assert!(report.unreadable.is_empty());
    assert_eq!(restores(&stage, &[&version(1)]).await, 1);
}

#[tokio::test]
async fn a_repair_that_collectors_overtake_is_done_once_more() {
    let stage = stage().await;
    stage.take(&version(0)).await;
    stage.take(&version(1)).await;
    let (theirs, _from) = replica(&stage).await;
    damage(
        &stage.world,
        &largest(&stage.world.objects().await, "packs/"),
        5_000,
    )
    .await;
    let base = stage.world.objects().await;
    let expected = [&version(0), &version(1)];
    let open = |store| async move { Repository::open(store, &repo::key(), |_| Cache::in_memory()).await };
    let mut rounds = 0;
    for n in 0.. {
        let at = format!("call {n}");
        let world = World::of(&base).await;
        let faults = world.faults();
        let (mending, collecting) = (context(2), context(4));
        let from = open(theirs.store(&mending)).await.unwrap();
        let repository = open(over(Arc::new(faults.clone()), &mending)).await.unwrap();
        let collector = open(world.store(&collecting)).await.unwrap();
        // Two rounds: what a session of the first epoch lists after them does not count.
        faults.meanwhile(
            n,
            async move {
                for _ in 0..2 {
                    let _ = whole_round(&collecting, &collector).await;
                }
            }
            .boxed(),
        );
        let report = ops::repair(&mending, &repository, Some(&from), &request()).await;
        if faults.is_waiting() {
            break;
        }
        let report = report.unwrap();
        assert!(!report.is_damaged(), "{at}: {report:?}");
        let context = context(3);
        let store = world.store(&context);
        let repository = open(store.clone()).await.unwrap();
        let seal = format!("gc/{:016x}/seal", 2);
        rounds += usize::from(world.get(&seal).await.is_some());
        for snapshot in snapshots(&context, &repository).await.unwrap() {
            let found = contents(&snapshot).await;
            let found = found.unwrap_or_else(|error| panic!("{at}: {error}"));
            assert!(expected.iter().any(|things| things.contents == found), "{at}");
        }
        for _ in 0..3 {
            ops::prune(&context, &repository, &all()).await.unwrap();
        }
        assert_eq!(assert_whole(&context, &store, &expected).await, 2, "{at}");
    }
    assert!(rounds > 10, "{rounds}");
}

#[tokio::test]
async fn a_repository_with_other_keys_heals_nothing() {
    let stage = stage().await;
    stage.take(&version(0)).await;
    let other = World::new();
    let other = crate::copy::init_other(&other.store(&stage.context), &stage.context).await;
    let refused = ops::repair(&stage.context, &stage.repository, Some(&other), &request()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
}

fn stage_of(stage: &Stage) -> Stage {
    Stage {
        world: stage.world.clone(),
        context: stage.context.clone(),
        clock: stage.clock.clone(),
        repository: stage.repository.clone(),
    }
}

fn context(seed: u64) -> Context {
    let (context, clock) = seeded(seed);
    let seconds = START.seconds + 100_000;
    clock.set(Time { seconds, nanos: 0 });
    context
}

#[tokio::test]
async fn a_repair_may_crash_anywhere() {
    let stage = stage().await;
    stage.take(&version(0)).await;
    stage.take(&version(1)).await;
    let (theirs, _from) = replica(&stage).await;
    let objects = stage.world.objects().await;
    damage(&stage.world, &largest(&objects, "packs/"), 5_000).await;
    stage.world.remove(&largest(&objects, "index/s/")).await;
    let base = stage.world.objects().await;
    let expected = [&version(0), &version(1)];

    let world = World::of(&base).await;
    let faults = world.faults();
    let whole = context(2);
    let open = |store| async move { Repository::open(store, &repo::key(), |_| Cache::in_memory()).await };
    let from = open(theirs.store(&whole)).await.unwrap();
    let repository = open(over(Arc::new(faults.clone()), &whole)).await.unwrap();
    faults.forget_calls();
    let report = ops::repair(&whole, &repository, Some(&from), &request())
        .await
        .unwrap();
    assert!(!report.is_damaged() && report.has_work(), "{report:?}");
    let calls = faults.calls().len() as u64;
    println!("{calls} calls");
    for when in [When::Before, When::After] {
        for n in 0..calls {
            let at = format!("call {n} {when:?}");
            let world = World::of(&base).await;
            let faults = world.faults();
            let crashing = context(2);
            let repository = open(over(Arc::new(faults.clone()), &crashing)).await.unwrap();
            faults.crash(n, when);
            let crashed = ops::repair(&crashing, &repository, Some(&from), &request()).await;
            assert!(crashed.is_err(), "{at}");
            for (name, bytes) in &base {
                assert_eq!(world.get(name).await.as_ref(), Some(bytes), "{at}: {name}");
            }
            let context = context(3);
            let repository = open(world.store(&context)).await.unwrap();
            if n % 2 == 0 {
                // A collector deletes nothing that can still be read, or leaves all alone.
                let _ = ops::prune(&context, &repository, &all()).await;
            }
            let report = ops::repair(&context, &repository, Some(&from), &request())
                .await
                .unwrap();
            assert!(!report.is_damaged(), "{at}: {report:?}");
            for snapshot in snapshots(&context, &repository).await.unwrap() {
                let found = contents(&snapshot).await.unwrap();
                assert!(expected.iter().any(|things| things.contents == found), "{at}");
            }
            if n % 3 == 0 {
                for _ in 0..3 {
                    ops::prune(&context, &repository, &all()).await.unwrap();
                }
                let store = world.store(&context);
                assert_eq!(assert_whole(&context, &store, &expected).await, 2, "{at}");
            }
        }
    }
}
