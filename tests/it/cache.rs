//! The local cache of a tree's blocks: it saves requests, and nothing else ever depends on it.

use crate::collect::all;
use crate::copy::{make_replica, request as copy_request, version};
use crate::world::{Things, World, assert_whole, contents, context, noise, over, snapshots, take};
use futures::TryStreamExt;
use holdall::format::layout::{ObjectName, Prefix};
use holdall::ops::{self, CheckRequest};
use holdall::repository::{Cache, ReadData, Repository};
use holdall::store::{Listed, Store};
use holdall::testkit::rounds::Hand;
use holdall::testkit::{SeaweedFs, repo};
use std::path::Path;
use std::sync::Arc;

/// Enough entries that the tree has packs of its own.
fn many() -> Things {
    let entries = (0..4000).map(|n| (format!("directory/{n:05}"), noise(400, n)));
    Things::new(entries)
}

async fn open(store: &Store, directory: &Path) -> Repository {
    let cache = |id| Cache::open(directory, id);
    Repository::open(store.clone(), &repo::key(), cache)
        .await
        .unwrap()
}

async fn packs(store: &Store) -> Vec<ObjectName> {
    let listed: Vec<Listed> = store.list(Prefix::Packs).try_collect().await.unwrap();
    let name = |listed| {
        if let Listed::Object(info) = listed {
            Some(info.name)
        } else {
            None
        }
    };
    listed.into_iter().filter_map(name).collect()
}

#[tokio::test]
async fn an_unchanged_parent_is_not_read_from_the_store() {
    let (world, context, things) = (World::new(), context(), many());
    let directory = tempfile::tempdir().unwrap();
    let store = world.store(&context);
    repo::init(&store, &context).await.unwrap();
    take(&context, &open(&store, directory.path()).await, &things)
        .await
        .unwrap();

    let faults = world.faults();
    let store = over(Arc::new(faults.clone()), &context);
    let repository = open(&store, directory.path()).await;
    let second = take(&context, &repository, &things).await.unwrap().snapshot;
    assert_eq!(
        (second.statistics.blobs_new, second.statistics.entries_unchanged),
        (0, 4000)
    );
    let read: Vec<_> = faults
        .calls()
        .into_iter()
        .filter(|call| call.name.starts_with("packs/"))
        .collect();
    assert!(read.is_empty(), "{read:?}");
    // Without the cache they are.
    take(&context, &repo::open(&store).await.unwrap(), &things)
        .await
        .unwrap();
    assert!(faults.calls().iter().any(|call| call.name.starts_with("packs/")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_snapshot_on_a_server_fetches_no_node_pack() {
    let server = SeaweedFs::start().await.unwrap();
    let (context, things) = (context(), many());
    let store = Store::open(&server.location("cache"), &server.options(), &context).unwrap();
    let directory = tempfile::tempdir().unwrap();
    repo::init(&store, &context).await.unwrap();
    take(&context, &open(&store, directory.path()).await, &things)
        .await
        .unwrap();
    // What is gone from the server cannot have been fetched from it.
    let gone = packs(&store).await;
    assert!(!gone.is_empty());
    for name in &gone {
        store.delete(name).await.unwrap();
    }
    let repository = open(&store, directory.path()).await;
    let second = take(&context, &repository, &things).await.unwrap().snapshot;
    assert_eq!(
        (second.statistics.blobs_new, second.statistics.entries_unchanged),
        (0, 4000)
    );
    // And a check is not deceived by what only the cache has.
    let report = ops::check(
        &context,
        &repository,
        CheckRequest {
            read_data: ReadData::None,
            ..CheckRequest::default()
        },
    )
    .await
    .unwrap();
    assert!(
        gone.iter()
            .all(|name| report.findings.iter().any(|f| f.object == name.to_string()))
    );
}

#[tokio::test]
async fn blocks_in_the_cache_that_are_wrong_or_stale_change_nothing() {
    let (world, context, things) = (World::new(), context(), many());
    let directory = tempfile::tempdir().unwrap();
    let store = world.store(&context);
    let repository = repo::init(&store, &context).await.unwrap();
    take(&context, &open(&store, directory.path()).await, &things)
        .await
        .unwrap();
    let cache = || Cache::open(directory.path(), repository.id()).unwrap();
    let held = cache().blocks();
    assert!(held.len() > 1, "{held:?}");
    let first = held.iter().next().unwrap();
    let other = cache().get_block(&first.0, first.1).unwrap();
    for harm in 0..4 {
        let spoiled = cache();
        for (pack, offset) in &held {
            let whole = spoiled.get_block(pack, *offset).unwrap_or_default();
            match harm {
                0 => assert!(spoiled.put_block(pack, *offset, b"wrong")),
                1 => assert!(spoiled.put_block(pack, *offset, &other)),
                2 => assert!(spoiled.put_block(pack, *offset, &whole[..whole.len().saturating_sub(1)])),
                _ => spoiled.remove_block(pack, *offset),
            }
        }
        drop(spoiled);
        let opened = open(&store, directory.path()).await;
        let again = take(&context, &opened, &things).await.unwrap().snapshot;
        assert_eq!(again.statistics.blobs_new, 0, "harm {harm}");
        for reader in snapshots(&context, &opened).await.unwrap() {
            assert!(contents(&reader).await.unwrap() == things.contents, "harm {harm}");
        }
        // What was wrong is right again.
        let sound = cache();
        assert!(
            sound.get_block(&first.0, first.1).unwrap() == other,
            "harm {harm}"
        );
    }
    assert_eq!(assert_whole(&context, &store, &[&things]).await, 5);
}

#[tokio::test]
async fn a_repository_and_its_replica_may_share_a_cache_though_their_rounds_differ() {
    let directory = tempfile::tempdir().unwrap();
    let (worlds, context) = ([World::new(), World::new()], context());
    let stores = worlds.each_ref().map(|world| world.store(&context));
    let made = repo::init(&stores[0], &context).await.unwrap();
    for n in 0..3 {
        take(&context, &made, &version(n)).await.unwrap();
    }
    let replica = make_replica(&made, stores[1].clone(), &context).await.unwrap();
    ops::copy(&context, &made, Some(&replica), &copy_request())
        .await
        .unwrap();
    // Each lets another snapshot go, in a first round of its own.
    for (n, store) in stores.iter().enumerate() {
        let repository = open(store, directory.path()).await;
        let found = snapshots(&context, &repository).await.unwrap();
        let hand = Hand {
            repository: &repository,
            context: &context,
        };
        hand.forget(found[n].record().sid).await;
        ops::prune(&context, &repository, &all()).await.unwrap();
    }
    for (n, store) in stores.iter().enumerate() {
        let repository = open(store, directory.path()).await;
        let check = repo::check_all(&context, &repository).await.unwrap();
        assert!(check.snapshots_hit.is_empty(), "{:?}", check.findings);
        let found = snapshots(&context, &repository).await.unwrap();
        assert_eq!(found.len(), 2);
        let kept = version(1 - n as u64).contents;
        assert_eq!(contents(&found[0]).await.unwrap(), kept);
        let things = version(4 + n as u64);
        take(&context, &repository, &things).await.unwrap();
    }
    for (n, store) in stores.iter().enumerate() {
        let versions = [version(0), version(1), version(2), version(4 + n as u64)];
        assert_eq!(assert_whole(&context, store, &versions.each_ref()).await, 3);
    }
}
