//! Collections on a disk that does not give one object any more: what is not known to be garbage stays, and what can go goes.

use crate::broken_disk::{eio, on_a_disk_without, restored};
use crate::collect::{Stage, all, many, stage, things};
use crate::collect_damage::with_a_sparse_pack;
use crate::collect_doubts::twice;
use crate::copy::version;
use crate::lost_records::{forget, stage_without_minimum};
use crate::repair::{damage, replica, request};
use crate::world::{Objects, Things, World, assert_whole, contents, names, noise, over, snapshots};
use holdall::context::Context;
use holdall::error::{Error, ErrorKind};
use holdall::format::id::SessionId;
use holdall::format::layout::ObjectName;
use holdall::ops::{self, PruneRequest, Worth};
use holdall::repository::Repository;
use holdall::snapshot::SnapshotFilter;
use holdall::store::Store;
use holdall::testkit::{FaultStore, Op, repo};
use std::sync::Arc;

/// A disk that does not give one object, and gives it again once it is healed.
struct Disk {
    world: World,
    faults: FaultStore,
    context: Context,
}

impl Disk {
    async fn new(objects: &Objects, context: &Context, bad: &str) -> Self {
        let world = World::of(objects).await;
        let faults = world.faults();
        faults.plan(eio(bad).forever());
        Self {
            world,
            faults,
            context: context.clone(),
        }
    }

    async fn open(&self) -> Repository {
        let store = over(Arc::new(self.faults.clone()), &self.context);
        repo::open(&store).await.unwrap()
    }

    async fn prune(&self, request: &PruneRequest) -> holdall::error::Result<ops::PruneReport> {
        ops::prune(&self.context, &self.open().await, request).await
    }

    /// A collection that ends, with nothing deleted.
    async fn refused(&self, request: &PruneRequest) -> Error {
        let before = self.world.objects().await;
        let error = self.prune(request).await.unwrap_err();
        let after = self.world.objects().await;
        assert!(before.keys().all(|name| after.contains_key(name)), "{error}");
        error
    }

    async fn let_go(&self, sid: SessionId) -> ops::ForgetReport {
        let request = forget(&sid.name());
        ops::forget(&self.context, &self.open().await, &request)
            .await
            .unwrap()
    }
}

fn taken_for_lost(sid: SessionId) -> PruneRequest {
    let mut request = all();
    request.options.lost.insert(sid.name());
    request
}

/// What an error about a record says to do.
fn says_both_commands(error: &Error, sid: SessionId) {
    assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
    let hint = error.advice().unwrap();
    for command in ["forget", "prune --lost"] {
        let command = format!("`holdall {command} {}`", sid.name());
        assert!(hint.contains(&command), "{hint}");
    }
}

#[tokio::test]
async fn a_snapshot_that_is_not_given_goes_once_it_is_let_go_and_taken_for_lost() {
    for stage in [stage().await, stage_without_minimum().await] {
        let lost = stage.take(&version(0)).await;
        stage.take(&version(1)).await;
        let name = format!("snapshots/{lost}");
        let disk = Disk::new(&stage.world.objects().await, &stage.context, &name).await;
        says_both_commands(&disk.refused(&all()).await, lost);
        says_both_commands(&disk.refused(&taken_for_lost(lost)).await, lost);
        let report = disk.let_go(lost).await;
        assert_eq!(
            (report.unread.as_slice(), report.unread_may_stay.as_slice()),
            ([lost].as_slice(), [lost].as_slice())
        );
        says_both_commands(&disk.refused(&all()).await, lost);
        // The record itself goes with the second.
        for _ in 0..2 {
            disk.prune(&taken_for_lost(lost)).await.unwrap();
        }
        assert!(disk.world.get(&name).await.is_none());
        disk.prune(&all()).await.unwrap();
        let store = disk.world.store(&stage.context);
        assert_eq!(assert_whole(&stage.context, &store, &[&version(1)]).await, 1);
    }
}

/// It may be there again tomorrow: then it is one that was let go, or one that is retained.
#[tokio::test]
async fn a_snapshot_that_is_given_again_before_it_was_taken_for_lost_is_an_ordinary_one() {
    for (stage, stays) in [(stage().await, true), (stage_without_minimum().await, false)] {
        stage.take(&version(0)).await;
        let newest = stage.take(&version(1)).await;
        let name = format!("snapshots/{newest}");
        let disk = Disk::new(&stage.world.objects().await, &stage.context, &name).await;
        disk.let_go(newest).await;
        disk.refused(&all()).await;
        disk.faults.heal();
        for _ in 0..3 {
            disk.prune(&all()).await.unwrap();
        }
        let expected = [&version(0), &version(1)];
        let left = restored(&stage, &disk.open().await, &expected).await;
        assert_eq!(left.unwrap(), 1 + usize::from(stays));
    }
}

/// What it alone needed is gone then, and what retains it would keep an empty name.
#[tokio::test]
async fn a_snapshot_that_is_given_again_after_it_was_taken_for_lost_goes_by_its_name() {
    let stage = stage().await;
    stage.take(&version(0)).await;
    let newest = stage.take(&version(1)).await;
    let name = format!("snapshots/{newest}");
    let disk = Disk::new(&stage.world.objects().await, &stage.context, &name).await;
    disk.let_go(newest).await;
    disk.prune(&taken_for_lost(newest)).await.unwrap();
    disk.faults.heal();
    let error = disk.refused(&all()).await;
    let command = format!("`holdall prune --lost {}`", newest.name());
    assert!(error.advice().unwrap().contains(&command), "{error:?}");
    for _ in 0..2 {
        disk.prune(&taken_for_lost(newest)).await.unwrap();
    }
    assert!(disk.world.get(&name).await.is_none());
    disk.prune(&all()).await.unwrap();
    let store = disk.world.store(&stage.context);
    assert_eq!(assert_whole(&stage.context, &store, &[&version(0)]).await, 1);
}

/// Its tree can be read, and what it alone has is gone.
#[tokio::test]
async fn a_retained_snapshot_whose_content_is_gone_is_taken_for_lost_by_its_name() {
    let stage = stage().await;
    stage.take(&version(0)).await;
    let before = stage.pack_names().await;
    let large = Things::new([("large", noise(2_000_000, 5))]);
    let newest = stage.take(&large).await;
    let packs = stage.pack_names().await;
    stage.hand().forget(newest).await;
    let new: Vec<_> = packs.difference(&before).collect();
    assert!(new.len() > 1, "{new:?}");
    for pack in new {
        let disk = Disk::new(&stage.world.objects().await, &stage.context, pack).await;
        disk.world.remove(pack).await;
        let error = disk.refused(&all()).await;
        assert!(error.advice().unwrap().contains("prune --lost"), "{error:?}");
        for _ in 0..2 {
            disk.prune(&taken_for_lost(newest)).await.unwrap();
        }
        let store = disk.world.store(&stage.context);
        assert_eq!(assert_whole(&stage.context, &store, &[&version(0)]).await, 1);
    }
}

#[tokio::test]
async fn a_record_that_is_given_at_the_second_try_is_not_taken_for_lost() {
    let stage = stage().await;
    stage.take(&version(0)).await;
    let newest = stage.take(&version(1)).await;
    // Retained, and let go without an effect.
    stage.hand().forget(newest).await;
    let name = format!("snapshots/{newest}");
    let disk = Disk::new(&stage.world.objects().await, &stage.context, &name).await;
    for _ in 0..3 {
        disk.faults.heal();
        let repository = disk.open().await;
        disk.faults.plan(eio(&name));
        let request = taken_for_lost(newest);
        ops::prune(&stage.context, &repository, &request).await.unwrap();
    }
    disk.faults.heal();
    let expected = [&version(0), &version(1)];
    let left = restored(&stage, &disk.open().await, &expected).await;
    assert_eq!(left.unwrap(), 2);
}

#[tokio::test]
async fn the_id_of_a_record_that_is_not_given_leads_to_its_copy() {
    let stage = stage_without_minimum().await;
    let lost = stage.take(&version(0)).await;
    stage.take(&version(1)).await;
    let (_world, from) = replica(&stage).await;
    let name = format!("snapshots/{lost}");
    let disk = Disk::new(&stage.world.objects().await, &stage.context, &name).await;
    let repaired = ops::repair(&stage.context, &disk.open().await, Some(&from), &request()).await;
    let repaired = repaired.unwrap();
    assert_eq!(
        (
            repaired.snapshots_back.as_slice(),
            repaired.snapshots_not_given.as_slice()
        ),
        ([lost].as_slice(), [lost].as_slice())
    );
    let repository = disk.open().await;
    let found = snapshots(&stage.context, &repository).await.unwrap();
    let copy = found.iter().find(|s| s.record().original.is_some()).unwrap();
    let copy = copy.record().sid;
    let filter = SnapshotFilter::default();
    for spec in [lost.name(), lost.short(), format!("{}:/a", lost.name())] {
        let spec = spec.parse().unwrap();
        let opened = ops::open_snapshot(&stage.context, &repository, &spec, &filter).await;
        let error = opened.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
        assert_eq!(error.context("object"), Some(name.as_str()));
        assert!(error.advice().unwrap().contains(&copy.name()), "{error:?}");
    }
    // It is no other's newest, and what cannot be named is not there.
    for (spec, kind) in [("latest", None), ("ffffffff", Some(ErrorKind::NotFound))] {
        let spec = spec.parse().unwrap();
        let opened = ops::open_snapshot(&stage.context, &repository, &spec, &filter).await;
        assert_eq!(opened.err().map(|error| error.kind()), kind);
    }
    // The copy does not let a collection go on: the record may be given again.
    says_both_commands(&disk.refused(&all()).await, lost);
    disk.let_go(lost).await;
    for _ in 0..2 {
        disk.prune(&taken_for_lost(lost)).await.unwrap();
    }
    disk.prune(&all()).await.unwrap();
    let store = disk.world.store(&stage.context);
    let expected = [&version(0), &version(1)];
    assert_eq!(assert_whole(&stage.context, &store, &expected).await, 2);
}

/// Packs that nobody needs, one of which no run lists: that one.
async fn with_an_unlisted_pack(stage: &Stage) -> String {
    let listed = stage.take(&things(40)).await;
    stage.hand().forget(listed).await;
    let gone = stage.take(&things(50)).await;
    stage.take(&things(60)).await;
    stage.hand().forget(gone).await;
    let run = names(&stage.world.objects().await, &format!("index/s/{gone}")).remove(0);
    let packs = stage.hand().read_run(run).await.packs;
    stage.world.remove(&run.to_string()).await;
    let largest = packs.iter().max_by_key(|pack| pack.size).unwrap();
    ObjectName::Pack(largest.id).to_string()
}

#[tokio::test]
async fn a_pack_that_does_not_tell_whose_it_is_stays_and_is_told() {
    let stage = stage().await;
    let pack = with_an_unlisted_pack(&stage).await;
    let objects = stage.world.objects().await;
    for is_given in [true, false] {
        let disk = Disk::new(&objects, &stage.context, &pack).await;
        if is_given {
            disk.faults.heal();
            damage(&disk.world, &pack, 0).await;
        }
        let report = disk.prune(&all()).await.unwrap();
        let untold: Vec<_> = report.plan.untold_packs.keys().copied().collect();
        let untold: Vec<_> = untold
            .into_iter()
            .map(|id| ObjectName::Pack(id).to_string())
            .collect();
        assert_eq!(untold, [pack.as_str()]);
        assert!(report.round.is_some(), "what else there was to do was done");
        assert!(disk.world.get(&pack).await.is_some());
        if !is_given {
            disk.faults.heal();
            disk.prune(&all()).await.unwrap();
            assert!(disk.world.get(&pack).await.is_none());
        }
    }
}

/// Beside a run that cannot be read, whoever still has that run at hand may rest on it.
#[tokio::test]
async fn a_pack_that_does_not_tell_whose_it_is_ends_a_round_without_a_run_until_it_is_set_aside() {
    let (stage, _) = twice().await;
    let run = names(&stage.world.objects().await, "index/s/")[0].to_string();
    let pack = with_an_unlisted_pack(&stage).await;
    let disk = Disk::new(&stage.world.objects().await, &stage.context, &pack).await;
    disk.faults.plan(eio(&run).forever());
    let error = disk.refused(&all()).await;
    assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
    assert!(error.to_string().contains(&pack), "{error}");
    assert!(error.advice().unwrap().contains("check --read-data"), "{error:?}");
    assert!(error.causes()[0].contains("the disk fails"), "{error:?}");
    repo::check_all(&stage.context, &disk.open().await).await.unwrap();
    disk.prune(&all()).await.unwrap();
    assert!(disk.world.get(&pack).await.is_some());
}

#[tokio::test]
async fn why_a_run_was_left_out_is_told_where_snapshots_need_it() {
    let stage = stage().await;
    stage.take(&version(0)).await;
    let objects = stage.world.objects().await;
    let run = names(&objects, "index/s/")[0].to_string();
    let disk = Disk::new(&objects, &stage.context, &run).await;
    let error = disk.refused(&all()).await;
    assert_eq!(
        (error.kind(), error.context("object")),
        (ErrorKind::Unreadable, Some(run.as_str()))
    );
    let causes = error.causes();
    assert!(causes[0].contains("a snapshot needs"), "{causes:?}");
    let (why, missing) = (
        causes.iter().position(|cause| cause.contains("the disk fails")),
        causes
            .iter()
            .position(|cause| cause.contains("a blob is missing")),
    );
    assert!(missing.is_some() && missing < why, "{causes:?}");
}

/// The store, on a disk that does not give a pack when it is copied out of; so many times.
async fn failing_at_the_copy(stage: &Stage, pack: &str, times: u64) -> (World, Store) {
    let objects = stage.world.objects().await;
    let probe = World::of(&objects).await.faults();
    let repository = repo::open(&over(Arc::new(probe.clone()), &stage.context))
        .await
        .unwrap();
    ops::prune(&stage.context, &repository, &all()).await.unwrap();
    let calls = probe.calls();
    let mut gets = calls
        .iter()
        .filter(|call| call.op == Op::Get && call.name == pack);
    let before = gets.position(|call| call.range.is_none()).unwrap() as u64;
    let world = World::of(&objects).await;
    let faults = world.faults();
    faults.plan(eio(pack).skip(before).times(times));
    (world, over(Arc::new(faults), &stage.context))
}

#[tokio::test]
async fn a_pack_is_copied_out_of_if_the_disk_gives_it_at_the_second_try() {
    let (stage, pack) = with_a_sparse_pack().await;
    let (world, store) = failing_at_the_copy(&stage, &pack, 1).await;
    let repository = repo::open(&store).await.unwrap();
    let report = ops::prune(&stage.context, &repository, &all()).await.unwrap();
    assert!(report.round.unwrap().new_packs > 0);
    assert!(world.get(&pack).await.is_none());
    let store = world.store(&stage.context);
    assert_eq!(assert_whole(&stage.context, &store, &[&many(2, 240)]).await, 1);
}

#[tokio::test]
async fn a_pack_that_is_not_given_when_it_is_copied_out_of_is_not_called_damaged() {
    let (stage, pack) = with_a_sparse_pack().await;
    let (world, store) = failing_at_the_copy(&stage, &pack, u64::MAX).await;
    let open = || async { repo::open(&store).await.unwrap() };
    let before = world.objects().await;
    let refused = ops::prune(&stage.context, &open().await, &all()).await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
    assert_eq!(error.context("pack"), Some(pack.as_str()));
    assert!(!error.to_string().contains("damaged"), "{error}");
    let after = world.objects().await;
    assert!(before.keys().all(|name| after.contains_key(name)));
    // Once a check has set the pack aside, the next collection goes on and leaves it.
    repo::check_all(&stage.context, &open().await).await.unwrap();
    ops::prune(&stage.context, &open().await, &all()).await.unwrap();
    assert!(world.get(&pack).await.is_some());
}

#[tokio::test]
async fn a_record_of_references_that_is_not_given_costs_no_more_than_reading_the_tree() {
    let stage = stage().await;
    stage.take(&many(0, 0)).await;
    stage.take(&many(2, 240)).await;
    let mut request = all();
    request.options.worth = Worth {
        nodes: 1,
        ..Worth::default()
    };
    stage.prune(&request).await.unwrap();
    let objects = stage.world.objects().await;
    assert!(!names(&objects, "refs/").is_empty());
    let without: Objects = objects
        .iter()
        .filter(|(name, _)| !name.starts_with("refs/"))
        .map(|(name, bytes)| (name.clone(), bytes.clone()))
        .collect();
    let mut dry = request.clone();
    dry.options.dry_run = true;
    let plan_of = |store: Store| {
        let (dry, context) = (&dry, &stage.context);
        async move {
            let repository = repo::open(&store).await.unwrap();
            ops::prune(context, &repository, dry).await.unwrap().plan
        }
    };
    let bare = plan_of(World::of(&without).await.store(&stage.context)).await;
    let plan = plan_of(on_a_disk_without(&objects, "refs/", &stage.context).await).await;
    assert!(bare.nodes_read > 0);
    assert_eq!(
        (
            plan.references_used,
            plan.nodes_read,
            plan.dead_bytes,
            plan.repack_bytes
        ),
        (0, bare.nodes_read, bare.dead_bytes, bare.repack_bytes)
    );
    let disk = Disk::new(&objects, &stage.context, "refs/").await;
    disk.prune(&request).await.unwrap();
    let expected = [&many(0, 0), &many(2, 240)];
    let left = restored(&stage, &disk.open().await, &expected).await;
    assert_eq!(left.unwrap(), 2);
    for snapshot in snapshots(&stage.context, &disk.open().await).await.unwrap() {
        contents(&snapshot).await.unwrap();
    }
}

/// It is read from the other copy, and which of the two is whole is not known.
#[tokio::test]
async fn a_pack_of_a_tree_that_is_not_given_is_not_called_damaged_and_nothing_is_deleted() {
    let (stage, things) = twice().await;
    let objects = stage.world.objects().await;
    let mut ended = 0;
    for pack in stage.pack_names().await {
        let disk = Disk::new(&objects, &stage.context, &pack).await;
        let before = disk.world.objects().await;
        if let Err(error) = disk.prune(&all()).await {
            assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
            assert!(!error.to_string().contains("damaged"), "{error}");
            let after = disk.world.objects().await;
            assert!(before.keys().all(|name| after.contains_key(name)));
            repo::check_all(&stage.context, &disk.open().await).await.unwrap();
            disk.prune(&all()).await.unwrap();
            ended += 1;
        }
        disk.faults.heal();
        let left = restored(&stage, &disk.open().await, &[&things]).await;
        assert_eq!(left.unwrap(), 2, "{pack}");
    }
    assert!(ended > 0, "one holds nodes");
}

#[tokio::test]
async fn the_only_copy_of_a_tree_that_is_not_given_is_not_called_damaged() {
    let stage = stage().await;
    for n in 0..2 {
        stage.take(&version(n)).await;
    }
    let objects = stage.world.objects().await;
    let mut ended = 0;
    for pack in stage.pack_names().await {
        let disk = Disk::new(&objects, &stage.context, &pack).await;
        if let Err(error) = disk.prune(&all()).await {
            assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
            assert!(!error.advice().unwrap().contains("forg"), "{error:?}");
            let after = disk.world.objects().await;
            assert!(objects.keys().all(|name| after.contains_key(name)));
            ended += 1;
        }
        disk.faults.heal();
        let left = restored(&stage, &disk.open().await, &[&version(0), &version(1)]).await;
        assert_eq!(left.unwrap(), 2, "{pack}");
    }
    assert!(ended > 0, "one holds nodes");
}
