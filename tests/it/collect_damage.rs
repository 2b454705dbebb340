//! Collections in repositories that are not whole: they delete nothing that could be the last copy.

use crate::collect::{Stage, all, many, stage, things};
use crate::collect_doubts::twice;
use crate::repair::request;
use crate::world::{World, contents, names, snapshots};
use holdall::error::ErrorKind;
use holdall::format::layout::ObjectName;
use holdall::ops;
use holdall::repository::collect::Round;
use holdall::testkit::repo;

/// A stage with a pack that holds little of use, and that pack.
pub(crate) async fn with_a_sparse_pack() -> (Stage, String) {
    let stage = stage().await;
    let first = stage.take(&many(0, 0)).await;
    stage.take(&many(2, 240)).await;
    let objects = stage.world.objects().await;
    let run = names(&objects, &format!("index/s/{first}")).remove(0);
    let packs = stage.hand().read_run(run).await.packs;
    let largest = packs.iter().max_by_key(|pack| pack.size).unwrap();
    stage.hand().forget(first).await;
    (stage, ObjectName::Pack(largest.id).to_string())
}

#[tokio::test]
async fn a_pack_that_is_found_damaged_while_it_is_copied_ends_the_round() {
    let (stage, pack) = with_a_sparse_pack().await;
    let mut bytes = stage.world.get(&pack).await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    stage.world.remove(&pack).await;
    stage.world.set(&pack, bytes.into()).await;
    let before = stage.world.objects().await;
    let error = stage.prune(&all()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert!(error.advice().unwrap().contains("check --read-data"), "{error}");
    let after = stage.world.objects().await;
    assert!(before.keys().all(|name| after.contains_key(name)));

    // Once a check has set the pack aside, the next collection goes on and leaves it.
    let found = repo::check_all(&stage.context, &stage.repository).await.unwrap();
    assert!(!found.findings.is_empty());
    assert!(stage.prune(&all()).await.unwrap().round.is_some());
    assert!(stage.world.get(&pack).await.is_some());
}

#[tokio::test]
async fn a_pack_that_was_cut_off_is_not_copied_out_of_and_stays() {
    let (stage, pack) = with_a_sparse_pack().await;
    let bytes = stage.world.get(&pack).await.unwrap();
    stage.world.remove(&pack).await;
    stage.world.set(&pack, bytes.slice(..bytes.len() / 2)).await;
    assert!(stage.prune(&all()).await.unwrap().round.is_some());
    assert!(stage.world.get(&pack).await.is_some());
}

#[tokio::test]
async fn a_snapshot_that_counts_and_is_not_there_is_no_garbage() {
    let stage = stage().await;
    let first = stage.take(&things(1)).await;
    let kept = stage.take(&things(10)).await;
    stage.take(&things(20)).await;
    stage.hand().forget(first).await;
    for _ in 0..2 {
        stage.prune(&all()).await.unwrap();
    }
    let objects = stage.world.objects().await;
    let world = World::of(&objects).await;
    world.remove(&format!("snapshots/{kept}")).await;
    let repository = repo::open(&world.store(&stage.context)).await.unwrap();
    let error = ops::prune(&stage.context, &repository, &all()).await.unwrap_err();
    assert!(error.advice().unwrap().contains("holdall check"), "{error}");
    let after = world.objects().await;
    let packs = |name: &&String| name.starts_with("packs/") || name.starts_with("index/");
    assert!(objects.keys().filter(packs).all(|name| after.contains_key(name)));
}

#[tokio::test]
async fn a_collector_that_was_slower_does_not_end_the_round_of_another() {
    let (stage, _) = with_a_sparse_pack().await;
    let begin = || Round::begin(&stage.repository, &stage.context, all().options);
    let (one, other) = (begin().await.unwrap(), begin().await.unwrap());
    let slower = other.name();
    let mut waiting = one.condemn().await.unwrap();
    let Err(error) = other.condemn().await else {
        panic!("two collectors have one round")
    };
    assert_eq!(error.kind(), ErrorKind::Busy);
    Round::abandon(&stage.repository, &stage.context, slower)
        .await
        .unwrap();
    assert!(waiting.settle().await.unwrap());
    let sealed = waiting.rescue().await.unwrap().seal().await.unwrap();
    assert!(sealed.sweep().await.unwrap().bytes > 0);
}

#[tokio::test]
async fn damage_stops_a_collection_before_it_deletes() {
    let stage = stage().await;
    let one = stage.take(&things(1)).await;
    let two = stage.take(&things(10)).await;
    stage.take(&things(20)).await;
    stage.hand().forget(one).await;
    let objects = stage.world.objects().await;
    // A run, a snapshot, and a pack with nodes: each tells what is needed.
    let run = names(&objects, &format!("index/s/{two}")).remove(0).to_string();
    let of_two = stage
        .hand()
        .read_run(names(&objects, &format!("index/s/{two}"))[0])
        .await;
    let pack = ObjectName::Pack(of_two.packs[0].id).to_string();
    for name in [run, format!("snapshots/{two}"), pack] {
        let world = World::of(&objects).await;
        let mut bytes = objects[&name].to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        if name.starts_with("packs/") {
            world.remove(&name).await;
        } else {
            world.set(&name, bytes.into()).await;
        }
        let before = world.objects().await;
        let repository = repo::open(&world.store(&stage.context)).await.unwrap();
        let error = ops::prune(&stage.context, &repository, &all()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{name}: {error}");
        let after = world.objects().await;
        assert!(before.keys().all(|name| after.contains_key(name)), "{name}");
    }
}

#[tokio::test]
async fn what_a_run_that_cannot_be_read_lists_stays_if_its_double_is_found_damaged_during_the_round() {
    let (stage, things) = twice().await;
    let runs = names(&stage.world.objects().await, "index/s/");
    let double = stage.hand().read_run(runs[1]).await.packs;
    let double: Vec<_> = double.iter().map(|pack| pack.id).collect();
    let mut bytes = stage.world.get(&runs[0].to_string()).await.unwrap().to_vec();
    bytes[200] ^= 1;
    stage.world.set(&runs[0].to_string(), bytes.into()).await;
    let repository = repo::open(&stage.world.store(&stage.context)).await.unwrap();
    let begun = Round::begin(&repository, &stage.context, all().options).await;
    let mut waiting = begun.unwrap().condemn().await.unwrap();
    assert!(waiting.settle().await.unwrap());
    // What only that run lists is condemned, and what stood for it is not whole.
    stage.hand().quarantine(&double).await;
    let Err(error) = waiting.rescue().await else {
        panic!("the last whole copies are let go")
    };
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.advice().unwrap().contains("holdall repair"), "{error:?}");
    let mended = ops::repair(&stage.context, &repository, None, &request())
        .await
        .unwrap();
    assert!(!mended.is_damaged(), "{mended:?}");
    for snapshot in snapshots(&stage.context, &repository).await.unwrap() {
        assert_eq!(contents(&snapshot).await.unwrap(), things.contents);
    }
}
