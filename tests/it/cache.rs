//! The local cache of a tree's blocks: it saves requests, and nothing else ever depends on it.

use crate::collect::all;
use crate::copy::{make_replica, request as copy_request, version};
use crate::limits::one_snapshot;
use crate::world::{Things, World, assert_whole, contents, context, noise, over, snapshots, take};
use futures::TryStreamExt;
use holdall::context::Context;
use holdall::format::layout::{ObjectName, Prefix};
use holdall::ops::{self, CheckRequest};
use holdall::repository::{Cache, ReadData, Repository};
use holdall::store::{Listed, Store};
use holdall::testkit::rounds::Hand;
use holdall::testkit::{SeaweedFs, repo};
use std::collections::BTreeMap;
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

/// Takes a snapshot, reads all and checks, through the cache in `directory`.
async fn through_cache(world: &World, directory: &Path, things: &Things, expected: &[&Things]) {
    let context = context();
    let store = world.store(&context);
    let repository = Repository::open(store, &repo::key(), |id| Cache::open(directory, id))
        .await
        .unwrap();
    let taken = take(&context, &repository, things).await.unwrap().snapshot;
    assert_eq!(taken.statistics.bytes_new, 0);
    for reader in snapshots(&context, &repository).await.unwrap() {
        let found = contents(&reader).await.unwrap();
        assert!(expected.iter().any(|things| things.contents == found));
    }
    let report = repo::check_all(&context, &repository).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[tokio::test]
async fn a_cache_changes_nothing_but_time() {
    let things = Things::new([
        ("a", noise(1_500_000, 1)),
        ("b", noise(30_000, 2)),
        ("c", b"short".to_vec()),
    ]);
    let (world, context, repository) = one_snapshot(&things).await;
    let directory = tempfile::tempdir().unwrap();
    through_cache(&world, directory.path(), &things, &[&things]).await;
    let left = files_of(directory.path());
    let moved = {
        let file = directory.path().join(format!("{}.sqlite", repository.id()));
        // Who opens it otherwise moves the log into the file at the end.
        let connection = rusqlite::Connection::open(file).unwrap();
        connection
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE);")
            .unwrap();
        drop(connection);
        files_of(directory.path())
    };

    // Lost.
    fs_err::remove_dir_all(directory.path()).unwrap();
    through_cache(&world, directory.path(), &things, &[&things]).await;
    // Stale: what it holds is an older state.
    write_files(directory.path(), &left);
    through_cache(&world, directory.path(), &things, &[&things]).await;
    // Damaged: the header, the middle, the end, all of it, cut short, empty, gone.
    let of = |files: &BTreeMap<String, Vec<u8>>, end: &str| {
        let mut names = files.keys().filter(|name| name.ends_with(end));
        names.next().unwrap().clone()
    };
    for (whole, name) in [(&moved, of(&moved, ".sqlite")), (&left, of(&left, "-wal"))] {
        let bytes = &whole[&name];
        assert!(bytes.len() > 10_000, "{name}");
        let mut harms: Vec<Vec<u8>> = Vec::new();
        for at in (0..bytes.len()).step_by(bytes.len() / 24) {
            let mut harmed = bytes.clone();
            let end = (at + 200).min(harmed.len());
            harmed[at..end].fill(0xa5);
            harms.push(harmed);
        }
        harms.push(noise(bytes.len(), 5));
        harms.push(bytes[..bytes.len() / 2].to_vec());
        harms.push(bytes[..100].to_vec());
        harms.push(Vec::new());
        for harmed in harms {
            let mut files = whole.clone();
            files.insert(name.clone(), harmed);
            write_files(directory.path(), &files);
            through_cache(&world, directory.path(), &things, &[&things]).await;
        }
        let mut files = whole.clone();
        files.remove(&name);
        write_files(directory.path(), &files);
        through_cache(&world, directory.path(), &things, &[&things]).await;
    }
    foreign_caches(&world, &context, &repository, &things, directory.path()).await;
}

/// A cache's files, by their names.
fn files_of(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs_err::read_dir(directory).unwrap();
    let read = |file: fs_err::DirEntry| {
        let name = file.file_name().into_string().unwrap();
        (name, fs_err::read(file.path()).unwrap())
    };
    files.map(|file| read(file.unwrap())).collect()
}

/// Makes these all that is in a directory.
fn write_files(directory: &Path, files: &BTreeMap<String, Vec<u8>>) {
    fs_err::remove_dir_all(directory).unwrap();
    fs_err::create_dir(directory).unwrap();
    for (name, bytes) in files {
        fs_err::write(directory.join(name), bytes).unwrap();
    }
}

/// A cache that another repository left, and one that holds the wrong bytes under every name.
async fn foreign_caches(
    world: &World,
    context: &Context,
    repository: &Repository,
    things: &Things,
    directory: &Path,
) {
    let (other, _, other_repository) = one_snapshot(&Things::new([("x", noise(5000, 9))])).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let cache = |id| Cache::open(elsewhere.path(), id);
    let opened = Repository::open(other.store(context), &repo::key(), cache)
        .await
        .unwrap();
    repo::check_all(context, &opened).await.unwrap();
    drop(opened);
    let (theirs, ours) = (other_repository.id().to_string(), repository.id().to_string());
    let foreign = files_of(elsewhere.path()).into_iter();
    let foreign = foreign.map(|(name, bytes)| (name.replace(&theirs, &ours), bytes));
    write_files(directory, &foreign.collect());
    let cache = |id| Cache::open(directory, id);
    let opened = Repository::open(world.store(context), &repo::key(), cache).await;
    let repository = opened.unwrap();
    for reader in snapshots(context, &repository).await.unwrap() {
        assert!(contents(&reader).await.unwrap() == things.contents);
    }
    // Bytes under wrong names, and bytes that are wrong.
    let names: Vec<String> = world.objects().await.into_keys().collect();
    let cache = Cache::open(directory, repository.id()).unwrap();
    let whole = world.objects().await;
    for (name, other) in names.iter().zip(names.iter().skip(1)) {
        let parsed = ObjectName::parse(name).unwrap();
        cache.put(
            &parsed,
            if name.len() % 2 == 0 {
                &whole[other]
            } else {
                b"wrong"
            },
        );
    }
    drop(cache);
    for reader in snapshots(context, &repository).await.unwrap() {
        assert!(contents(&reader).await.unwrap() == things.contents);
    }
}
