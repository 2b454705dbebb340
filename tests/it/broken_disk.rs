//! A disk that does not give one object any more, though it gives the others: that is one copy less, and no reason to end.

use crate::check::errors;
use crate::collect::{Stage, all, stage, things};
use crate::collect_doubts::twice;
use crate::copy::{Two, make_replica, request as copy_request, version};
use crate::lost_records::{forget, stage_without_minimum};
use crate::repair::{damage, largest, replica, request};
use crate::world::{Objects, Things, World, contents, names, noise, over, snapshots, take};
use holdall::context::Context;
use holdall::error::{ErrorKind, Result};
use holdall::format::layout::ObjectName;
use holdall::ops::{self, CheckRequest};
use holdall::repository::{ReadData, Repository};
use holdall::snapshot::SnapshotFilter;
use holdall::store::Store;
use holdall::testkit::{Failure, FaultStore, Op, Plan, When, repo};
use std::path::Path;
use std::sync::Arc;

/// The repository, on a disk that does not give these objects.
async fn without(stage: &Stage, names: &[&String]) -> (FaultStore, Repository) {
    let (faults, repository) = stage.faulty().await;
    for name in names {
        faults.plan(eio(name).forever());
    }
    (faults, repository)
}

pub(crate) fn eio(name: &str) -> Plan {
    Plan::new(When::Before, Failure::System(5)).op(Op::Get).name(name)
}

/// Restores everything; gives how many snapshots there are.
pub(crate) async fn restored(stage: &Stage, repository: &Repository, expected: &[&Things]) -> Result<usize> {
    let found = snapshots(&stage.context, repository).await?;
    for snapshot in &found {
        let found = contents(snapshot).await?;
        assert!(expected.iter().any(|things| things.contents == found));
    }
    Ok(found.len())
}

fn data_pack(objects: &Objects, before: &Objects) -> String {
    let new = objects.iter().filter(|(name, _)| !before.contains_key(*name));
    let new: Objects = new.map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
    largest(&new, "packs/")
}

#[tokio::test]
async fn what_a_disk_does_not_give_is_read_from_another_copy() {
    let (stage, things) = twice().await;
    let mut bad = 0;
    for pack in stage.pack_names().await {
        let (_faults, repository) = without(&stage, &[&pack]).await;
        assert_eq!(
            restored(&stage, &repository, &[&things]).await.unwrap(),
            2,
            "{pack}"
        );
        let there = World::new();
        let target = make_replica(&stage.repository, there.store(&stage.context), &stage.context);
        let target = target.await.unwrap();
        let (_faults, repository) = without(&stage, &[&pack]).await;
        let copied = ops::copy(&stage.context, &repository, Some(&target), &copy_request()).await;
        let copied = copied.unwrap();
        assert_eq!(
            (copied.copied.len(), copied.failed.len()),
            (2, 0),
            "{pack}: {copied:?}"
        );
        // All was copied, and a pack is bad: that is damage, exit code 13.
        assert_eq!(copied.is_damaged(), !copied.bad_packs.is_empty());
        bad += copied.bad_packs.len();
        assert_eq!(restored(&stage, &target, &[&things]).await.unwrap(), 2, "{pack}");
    }
    assert!(bad > 0, "of each two packs one is copied whole");
}

#[tokio::test]
async fn what_a_check_calls_stored_elsewhere_is_given_from_there() {
    let (stage, things) = twice().await;
    for pack in stage.pack_names().await {
        let world = World::of(&stage.world.objects().await).await;
        let faults = world.faults();
        faults.plan(eio(&pack).forever());
        let store = over(Arc::new(faults), &stage.context);
        let open = || async { repo::open(&store).await.unwrap() };
        let request = CheckRequest {
            read_data: ReadData::All,
            ..CheckRequest::default()
        };
        let first = ops::check(&stage.context, &open().await, request).await.unwrap();
        let [found] = errors(&first).try_into().unwrap();
        assert!(
            found.object == pack && found.is_elsewhere && found.hit.is_none(),
            "{found:?}"
        );
        let second = ops::check(&stage.context, &open().await, request).await.unwrap();
        assert!(!second.is_damaged(), "{:?}", second.findings);
        assert_eq!(restored(&stage, &open().await, &[&things]).await.unwrap(), 2);
    }
}

#[tokio::test]
async fn what_a_disk_gives_at_the_second_try_is_not_lost() {
    let stage = stage().await;
    stage.take(&things(1)).await;
    let (faults, repository) = stage.faulty().await;
    for pack in stage.pack_names().await {
        faults.plan(eio(&pack));
    }
    assert_eq!(restored(&stage, &repository, &[&things(1)]).await.unwrap(), 1);
}

#[tokio::test]
async fn what_only_a_broken_pack_holds_costs_those_that_need_it_and_no_others() {
    let two = Two::replica().await;
    two.take(&things(1)).await;
    let before = two.here.objects().await;
    let hit = two.take(&things(10)).await;
    let pack = data_pack(&two.here.objects().await, &before);
    let faults = two.here.faults();
    faults.plan(eio(&pack).forever());
    let source = repo::open(&over(Arc::new(faults), &two.context)).await.unwrap();
    let copied = ops::copy(&two.context, &source, Some(&two.target), &copy_request())
        .await
        .unwrap();
    assert_eq!((copied.copied.len(), copied.failed.len()), (1, 1), "{copied:?}");
    assert_eq!(copied.failed[0].record.sid, hit);
    assert!(copied.is_damaged() && copied.bad_packs[0].0 == pack, "{copied:?}");
    assert_eq!(two.whole(&[&things(1)]).await, 1);
    for snapshot in snapshots(&two.context, &source).await.unwrap() {
        let read = contents(&snapshot).await;
        assert_eq!(read.is_err(), snapshot.record().sid == hit);
        if let Err(error) = read {
            assert_eq!(error.kind(), ErrorKind::Damaged);
            assert!(error.causes()[0].contains(&pack), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_store_that_gives_nothing_at_all_has_lost_nothing() {
    let stage = stage().await;
    stage.take(&things(1)).await;
    let (faults, repository) = stage.faulty().await;
    let found = snapshots(&stage.context, &repository).await.unwrap();
    for (failure, kind) in [
        (Failure::Unreachable, ErrorKind::Unreachable),
        (Failure::System(5), ErrorKind::Unreadable),
    ] {
        faults.plan(Plan::new(When::Before, failure).forever());
        assert_eq!(contents(&found[0]).await.unwrap_err().kind(), kind);
        faults.heal();
    }
    assert_eq!(contents(&found[0]).await.unwrap(), things(1).contents);
}

#[tokio::test]
async fn a_repair_heals_what_a_disk_does_not_give() {
    let stage = stage().await;
    stage.take(&version(0)).await;
    stage.take(&version(1)).await;
    let (_world, from) = replica(&stage).await;
    let expected = [&version(0), &version(1)];
    for pack in stage.pack_names().await {
        let world = World::of(&stage.world.objects().await).await;
        let faults = world.faults();
        faults.plan(eio(&pack).forever());
        let store = over(Arc::new(faults), &stage.context);
        let open = || async { repo::open(&store).await.unwrap() };
        let alone = ops::repair(&stage.context, &open().await, None, &request())
            .await
            .unwrap();
        assert!(alone.is_damaged() && !alone.hit.is_empty(), "{pack}: {alone:?}");
        let report = ops::repair(&stage.context, &open().await, Some(&from), &request())
            .await
            .unwrap();
        assert!(
            !report.is_damaged() && report.blobs_from_replica > 0,
            "{pack}: {report:?}"
        );
        assert_eq!(
            restored(&stage, &open().await, &expected).await.unwrap(),
            2,
            "{pack}"
        );
    }
}

/// A pack of a tree that was found right, and is not given when the tree is walked.
#[tokio::test]
async fn what_a_repair_finds_lost_on_its_way_is_named_and_healed() {
    let stage = stage().await;
    let sid = stage.take(&version(0)).await;
    let (_world, from) = replica(&stage).await;
    let objects = stage.world.objects().await;
    let run = names(&objects, "index/s/").remove(0);
    let tables = stage.hand().read_run(run).await;
    let is_of_tree = |pack: usize| {
        let entries = tables.entries.iter();
        let mut of_pack = entries.filter(|e| tables.blocks[e.block as usize].pack as usize == pack);
        of_pack.any(|e| e.kind != holdall::format::index::BlobKind::Data)
    };
    let pack = (0..tables.packs.len()).find(|pack| is_of_tree(*pack)).unwrap();
    let pack = ObjectName::Pack(tables.packs[pack].id).to_string();
    for heals in [false, true] {
        let world = World::of(&objects).await;
        let faults = world.faults();
        let store = over(Arc::new(faults.clone()), &stage.context);
        let repository = repo::open(&store).await.unwrap();
        // The survey reads it whole, once.
        faults.plan(eio(&pack).skip(1).forever());
        let from = heals.then_some(&from);
        let report = ops::repair(&stage.context, &repository, from, &request())
            .await
            .unwrap();
        assert!(
            report.bad_packs.iter().any(|(name, _)| *name == pack),
            "{report:?}"
        );
        assert_eq!(report.is_damaged(), !heals, "{report:?}");
        if heals {
            let repository = repo::open(&store).await.unwrap();
            assert_eq!(restored(&stage, &repository, &[&version(0)]).await.unwrap(), 1);
        } else {
            assert!(
                report.hit[0].sid == sid && report.hit[0].nodes_hit > 0,
                "{report:?}"
            );
        }
    }
}

/// These objects on a disk that does not give one of them.
pub(crate) async fn on_a_disk_without(objects: &Objects, name: &str, context: &Context) -> Store {
    let faults = World::of(objects).await.faults();
    faults.plan(eio(name).forever());
    over(Arc::new(faults), context)
}

#[tokio::test]
async fn a_run_that_a_disk_does_not_give_is_made_anew_from_the_packs() {
    let (stage, things) = twice().await;
    let objects = stage.world.objects().await;
    let runs = names(&objects, "index/s/");
    assert_eq!(runs.len(), 2);
    for run in &runs {
        let run = run.to_string();
        let store = on_a_disk_without(&objects, &run, &stage.context).await;
        let open = || async { repo::open(&store).await.unwrap() };
        // What it lists cannot be found, what others list can.
        for snapshot in snapshots(&stage.context, &open().await).await.unwrap() {
            match contents(&snapshot).await {
                Ok(found) => assert_eq!(found, things.contents),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Damaged, "{error}"),
            }
        }
        let check = ops::check(&stage.context, &open().await, CheckRequest::default())
            .await
            .unwrap();
        assert!(
            errors(&check).iter().any(|found| found.object == run),
            "{check:?}"
        );
        let report = ops::repair(&stage.context, &open().await, None, &request())
            .await
            .unwrap();
        assert!(!report.is_damaged(), "{run}: {report:?}");
        assert_eq!(
            restored(&stage, &open().await, &[&things]).await.unwrap(),
            2,
            "{run}"
        );
        ops::prune(&stage.context, &open().await, &all()).await.unwrap();
        assert_eq!(
            restored(&stage, &open().await, &[&things]).await.unwrap(),
            2,
            "{run}"
        );
    }
}

/// It may be there again tomorrow: other snapshots are given, and nothing is let go or deleted for its sake.
#[tokio::test]
async fn a_snapshot_that_a_disk_does_not_give_costs_no_other_and_is_not_let_go() {
    let stage = stage_without_minimum().await;
    let lost = stage.take(&version(0)).await;
    stage.take(&version(1)).await;
    let objects = stage.world.objects().await;
    let name = ObjectName::Snapshot(lost).to_string();
    let world = World::of(&objects).await;
    let faults = world.faults();
    faults.plan(eio(&name).forever());
    let store = over(Arc::new(faults.clone()), &stage.context);
    let open = || async { repo::open(&store).await.unwrap() };
    assert_eq!(restored(&stage, &open().await, &[&version(1)]).await.unwrap(), 1);
    // The next snapshot is taken as if it had never been.
    take(&stage.context, &open().await, &version(2)).await.unwrap();
    let before = world.objects().await;
    let refused = ops::prune(&stage.context, &open().await, &all()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unreadable);
    // By a part of its id it may be anybody's.
    let refused = ops::forget(&stage.context, &open().await, &forget(&lost.short())).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unreadable);
    assert_eq!(world.objects().await, before);
    // The cable was loose.
    faults.heal();
    ops::prune(&stage.context, &open().await, &all()).await.unwrap();
    let expected = [&version(0), &version(1), &version(2)];
    assert_eq!(restored(&stage, &open().await, &expected).await.unwrap(), 3);
    // Once more: this time somebody gives up, and nobody takes it for lost.
    faults.plan(eio(&name).forever());
    let forgotten = ops::forget(&stage.context, &open().await, &forget(&lost.name())).await;
    assert_eq!(forgotten.unwrap().unread, [lost]);
    let before = world.objects().await;
    let refused = ops::prune(&stage.context, &open().await, &all()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unreadable);
    assert_eq!(world.objects().await, before);
    faults.heal();
    for _ in 0..2 {
        ops::prune(&stage.context, &open().await, &all()).await.unwrap();
    }
    assert_eq!(restored(&stage, &open().await, &expected[1..]).await.unwrap(), 2);
}

#[tokio::test]
async fn a_disk_that_gives_nothing_is_no_damage() {
    let stage = stage().await;
    stage.take(&things(1)).await;
    let (faults, repository) = stage.faulty().await;
    faults.plan(Plan::new(When::Before, Failure::System(5)).op(Op::Get).forever());
    let error = ops::list(&stage.context, &repository, &SnapshotFilter::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
    faults.heal();
    // A program that has too many files open has lost none.
    faults.plan(Plan::new(When::Before, Failure::System(24)).op(Op::Get).forever());
    let error = ops::list(&stage.context, &repository, &SnapshotFilter::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn a_repair_that_may_not_set_packs_aside_says_so_and_fails() {
    let stage = stage().await;
    stage.take(&things(1)).await;
    let (_world, from) = replica(&stage).await;
    let pack = largest(&stage.world.objects().await, "packs/");
    damage(&stage.world, &pack, 5_000).await;
    let (faults, repository) = stage.faulty().await;
    let refusal = Plan::new(When::Before, Failure::Status(403, "AccessDenied"));
    faults.plan(refusal.op(Op::Put).name("ledger/").forever());
    let report = ops::repair(&stage.context, &repository, Some(&from), &request())
        .await
        .unwrap();
    assert!(
        report.not_set_aside.is_some() && report.is_damaged(),
        "{report:?}"
    );
    faults.heal();
    let report = ops::repair(&stage.context, &repository, Some(&from), &request())
        .await
        .unwrap();
    assert!(
        report.not_set_aside.is_none() && !report.is_damaged(),
        "{report:?}"
    );
}

/// Eight snapshots of files, each with some that are new: what the last one holds lies in as many packs.
async fn with_files(stage: &Stage, directory: &Path) -> usize {
    let mut files = 0;
    for round in 0..8 {
        for _ in 0..6 {
            let content = noise(1_500_000, 1_000 + files);
            std::fs::write(directory.join(format!("{round}-{files:03}")), content).unwrap();
            files += 1;
        }
        stage.later(10);
        repo::snapshot_of(&stage.context, &stage.repository, directory)
            .await
            .unwrap();
    }
    usize::try_from(files).unwrap()
}

#[tokio::test]
async fn a_restore_ends_at_once_where_the_disk_dies_in_the_middle_of_it() {
    let stage = stage().await;
    let directory = tempfile::tempdir().unwrap();
    let files = with_files(&stage, directory.path()).await;
    let restore = |faults: FaultStore| {
        let (stage, directory) = (&stage, directory.path());
        async move {
            let store = over(Arc::new(faults), &stage.context);
            let repository = repo::open(&store).await.unwrap();
            let target = tempfile::tempdir().unwrap();
            let done = repo::restore_to(&stage.context, &repository, "latest", directory, target.path());
            let done = done.await;
            (done, std::fs::read_dir(target.path()).unwrap().count())
        }
    };
    let whole = stage.world.faults();
    let (done, found) = restore(whole.clone()).await;
    assert_eq!((done.unwrap().sink.failed, found), (0, files));
    let gets = whole.count(Op::Get);
    // With the last reads, so that some files are there and others are not.
    let mut seen = Vec::new();
    for reads in 1..gets.min(8) {
        let faults = stage.world.faults();
        let fails = Plan::new(When::Before, Failure::System(5)).op(Op::Get);
        faults.plan(fails.skip((gets - reads) as u64).forever());
        let (done, found) = restore(faults.clone()).await;
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Unreadable);
        seen.push((found, faults.count(Op::Get) - (gets - reads)));
    }
    assert!(
        seen.iter().any(|(found, _)| 0 < *found && *found < files),
        "{seen:?}"
    );
    // What was under way, alone once more, and the question whether anything is given: not so for each file that is left.
    assert!(
        seen.iter().all(|(_, asked)| *asked < files),
        "{seen:?} of {files}"
    );
}
