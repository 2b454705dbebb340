//! One behaviour on every kind of store: a round trip, an unchanged and a changed snapshot, a check.

use crate::world::{Things, assert_whole, context, noise, take};
use holdall::context::Context;
use holdall::store::Store;
use holdall::testkit::{SeaweedFs, repo};

async fn behaves(context: &Context, store: &Store) {
    let repository = repo::init(store, context).await.unwrap();
    let small = (0..50).map(|n| (format!("s{n:02}"), noise(n * 500, n as u64)));
    let first = Things::new(small.chain([("large".to_owned(), noise(20 << 20, 99))]));
    take(context, &repository, &first).await.unwrap();
    let unchanged = take(context, &repository, &first).await.unwrap().snapshot;
    assert_eq!(
        (unchanged.statistics.blobs_new, unchanged.statistics.bytes_stored),
        (0, 0)
    );

    let repository = repo::open(store).await.unwrap();
    let mut second = first.clone();
    let mut large = second.contents["large"].to_vec();
    large[10 << 20] ^= 1;
    second.contents.insert("large".into(), large.into());
    second.contents.insert("s07".into(), noise(100_000, 500).into());
    let changed = take(context, &repository, &second).await.unwrap().snapshot;
    assert!(changed.statistics.bytes_new < 2 << 20, "{:?}", changed.statistics);
    assert_eq!(
        assert_whole(context, &store.read_only(), &[&first, &second]).await,
        3
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory() {
    let context = context();
    behaves(&context, &repo::memory(&context)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let context = context();
    behaves(&context, &repo::local(directory.path(), &context)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_s3() {
    let server = SeaweedFs::start().await.unwrap();
    let context = context();
    let store = Store::open(&server.location("proof"), &server.options(), &context).unwrap();
    behaves(&context, &store).await;
}
