//! The whole work on S3 servers as they are: busy, far away, and not always able to do what they are asked.

use crate::collect::all;
use crate::world::{Things, assert_whole, context, noise, take};
use holdall::error::ErrorKind;
use holdall::format::layout::ObjectName;
use holdall::ops;
use holdall::store::{Capability, Put, Retry, Store, StoreOptions, Timeouts};
use holdall::testkit::rounds::Hand;
use holdall::testkit::{FaultyLine, S3rver, SeaweedFs, repo};
use std::time::Duration;

/// Options to reach the server by a line, with waits that suit a test.
fn through(server: &SeaweedFs, line: &FaultyLine) -> StoreOptions {
    let mut options = server.options();
    options.s3.endpoint = Some(line.endpoint());
    options.retry = Retry {
        attempts: 12,
        first_contact: 12,
        first: Duration::from_millis(5),
        longest: Duration::from_millis(50),
    };
    options.timeouts = Timeouts {
        stall: Duration::from_secs(2),
        slowest_line: 8 << 20,
        ..Timeouts::default()
    };
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_which_a_third_of_the_answers_fail_costs_time_and_nothing_else() {
    let server = SeaweedFs::start().await.unwrap();
    let location = server.location("faults");
    let line = FaultyLine::start(server.address(), 1, 3).unwrap();
    let context = context();
    let store = Store::open(&location, &through(&server, &line), &context).unwrap();
    let repository = repo::init(&store, &context).await.unwrap();
    let small = (0..40).map(|n| (format!("s{n:02}"), noise(n * 1000, n as u64)));
    let first = Things::new(small.chain([("large".to_owned(), noise(6 << 20, 99))]));
    let forgotten = take(&context, &repository, &first).await.unwrap().snapshot.sid;
    let mut second = first.clone();
    second.contents.insert("large".into(), noise(6 << 20, 100).into());
    take(&context, &repository, &second).await.unwrap();
    let (context_of_hand, repository_of_hand) = (&context, &repository);
    let hand = Hand {
        repository: repository_of_hand,
        context: context_of_hand,
    };
    hand.forget(forgotten).await;
    let pruned = ops::prune(&context, &repository, &all()).await.unwrap();
    assert!(pruned.round.is_some() && pruned.swept.deleted > 0, "{pruned:?}");
    let unchanged = take(&context, &repository, &second).await.unwrap().snapshot;
    assert_eq!(unchanged.statistics.blobs_new, 0);
    assert_eq!(assert_whole(&context, &store.read_only(), &[&second]).await, 2);
    // Nothing is hidden by the line: the same from close by.
    let store = Store::open(&location, &server.options(), &context).unwrap();
    assert_eq!(assert_whole(&context, &store.read_only(), &[&second]).await, 2);
    let (requests, troubles) = line.dealt();
    println!("{requests} requests, {troubles:?}");
    assert_eq!(troubles.len(), 9, "not every trouble was met: {troubles:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_packs_are_put_into_a_storage_class() {
    let server = SeaweedFs::start().await.unwrap();
    let line = FaultyLine::start(server.address(), 1, u64::MAX).unwrap();
    let mut options = through(&server, &line);
    options.s3.storage_class = Some("STANDARD_IA".into());
    let context = context();
    let store = Store::open(&server.location("class"), &options, &context).unwrap();
    let repository = repo::init(&store, &context).await.unwrap();
    let things = Things::new([("a", noise(100_000, 1))]);
    take(&context, &repository, &things).await.unwrap();
    let heads = line.heads();
    let puts: Vec<_> = heads.iter().filter(|head| head.starts_with("put ")).collect();
    let packs = puts.iter().filter(|head| head.contains("/packs/")).count();
    assert!(packs > 0 && packs < puts.len(), "{packs} of {}", puts.len());
    for head in puts {
        let class = head.contains("\r\nx-amz-storage-class: standard_ia\r\n");
        assert_eq!(class, head.contains("/packs/"), "{head}");
    }
    // Whatever the server makes of it, what was put is found.
    assert_eq!(assert_whole(&context, &store.read_only(), &[&things]).await, 1);
    assert_eq!(
        store
            .put_new(&ObjectName::Reserve(200), noise(10, 1).into())
            .await
            .unwrap(),
        Put::Created
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ignores_conditions_is_found_out_and_collects_only_for_one_who_is_alone() {
    let server = S3rver::start().await.unwrap();
    let context = context();
    let store = Store::open(&server.location("loose"), &server.options(), &context).unwrap();
    let repository = repo::init(&store, &context).await.unwrap();
    let marker = store.get(&ObjectName::Marker).await.unwrap();
    let probed = store.probe(&ObjectName::Marker, marker).await.unwrap();
    assert_eq!(probed, Capability::Overwrites);
    let first = Things::new([("a", noise(300_000, 1)), ("b", noise(300_000, 2))]);
    let forgotten = take(&context, &repository, &first).await.unwrap().snapshot.sid;
    let mut second = first.clone();
    second.contents.insert("b".into(), noise(300_000, 3).into());
    take(&context, &repository, &second).await.unwrap();
    let (context, repository) = (&context, &repository);
    Hand { repository, context }.forget(forgotten).await;
    let refused = ops::prune(context, repository, &all()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused:?}");
    assert!(refused.advice().unwrap().contains("--exclusive"), "{refused:?}");
    let mut request = all();
    request.exclusive = true;
    let pruned = ops::prune(context, repository, &request).await.unwrap();
    assert!(pruned.swept.deleted > 0, "{pruned:?}");
    assert_eq!(assert_whole(context, &store.read_only(), &[&second]).await, 1);
}
