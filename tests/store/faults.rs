//! Every answer that a put or a read can get, and what it is taken for.

use crate::{over, quick, recorded, retries, writable};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use holdall::error::ErrorKind;
use holdall::format::layout::{ObjectName, Prefix};
use holdall::store::{Capability, Listed, Put, Race, Store};
use holdall::testkit::store_suite::noise;
use holdall::testkit::{Failure, FaultStore, Op, Plan, When};
use std::sync::Arc;
use std::time::Duration;

const NAME: ObjectName = ObjectName::Key(1);

/// Failures that leave open whether the object was stored.
fn ambiguous() -> [Failure; 7] {
    [
        Failure::Stalled,
        Failure::Dropped,
        Failure::Exists,
        Failure::Status(500, "InternalError"),
        Failure::Status(503, "SlowDown"),
        Failure::Status(409, "ConditionalRequestConflict"),
        Failure::Status(412, "PreconditionFailed"),
    ]
}

#[tokio::test]
async fn a_put_whose_answer_got_lost_is_mine() {
    for failure in ambiguous() {
        let faults = FaultStore::in_memory();
        faults.plan(Plan::new(When::After, failure.clone()).op(Op::Put));
        let store = over(&faults);
        assert_eq!(
            store.put_new(&NAME, noise(1, 9000)).await.unwrap(),
            Put::Mine,
            "{failure:?}"
        );
        assert_eq!(faults.count(Op::Put), 1, "{failure:?}");
    }
}

#[tokio::test]
async fn a_put_that_did_not_arrive_is_sent_again() {
    for failure in ambiguous() {
        let faults = FaultStore::in_memory();
        faults.plan(Plan::new(When::Before, failure.clone()).op(Op::Put).times(3));
        let store = over(&faults);
        assert_eq!(
            store.put_new(&NAME, noise(1, 9000)).await.unwrap(),
            Put::Created,
            "{failure:?}"
        );
        assert_eq!(faults.count(Op::Put), 4, "{failure:?}");
        assert_eq!(store.get(&NAME).await.unwrap(), noise(1, 9000));
    }
}

#[tokio::test]
async fn an_answer_that_got_lost_hides_no_conflict() {
    for failure in ambiguous() {
        let faults = FaultStore::in_memory();
        let store = over(&faults);
        assert_eq!(store.put_new(&NAME, noise(1, 9000)).await.unwrap(), Put::Created);
        faults.plan(Plan::new(When::After, failure.clone()).op(Op::Put));
        assert_eq!(
            store.put_new(&NAME, noise(2, 9000)).await.unwrap(),
            Put::Conflict,
            "{failure:?}"
        );
        assert_eq!(store.get(&NAME).await.unwrap(), noise(1, 9000));
    }
}

#[tokio::test]
async fn reading_back_is_tried_again_too() {
    let faults = FaultStore::in_memory();
    faults.plan(Plan::new(When::After, Failure::Stalled).op(Op::Put));
    faults.plan(Plan::new(When::Before, Failure::Dropped).op(Op::Get).times(3));
    assert_eq!(
        over(&faults).put_new(&NAME, noise(1, 9000)).await.unwrap(),
        Put::Mine
    );
    assert_eq!((faults.count(Op::Put), faults.count(Op::Get)), (1, 4));
}

#[tokio::test]
async fn a_store_that_falls_silent_leaves_the_outcome_unknown() {
    let faults = FaultStore::in_memory();
    faults.plan(Plan::new(When::After, Failure::Stalled).op(Op::Put));
    faults.plan(
        Plan::new(When::Before, Failure::Unreachable)
            .op(Op::Get)
            .forever(),
    );
    let store = over(&faults);
    let error = store.put_new(&NAME, noise(1, 9000)).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("outcome is unknown"), "{error}");
    assert!(
        error.to_string().contains("keys/1") && error.to_string().contains("faulty"),
        "{error}"
    );
    assert!(error.advice().is_some());
    faults.heal();
    assert_eq!(store.put_new(&NAME, noise(1, 9000)).await.unwrap(), Put::Mine);
}

#[tokio::test]
async fn a_put_that_may_not_be_read_back_leaves_the_outcome_unknown() {
    let faults = FaultStore::in_memory();
    faults.plan(Plan::new(When::After, Failure::Stalled).op(Op::Put));
    faults.plan(
        Plan::new(When::Before, Failure::Status(403, "AccessDenied"))
            .op(Op::Get)
            .forever(),
    );
    let error = over(&faults)
        .put_new(&NAME, noise(1, 9000))
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("outcome is unknown"), "{error}");
}

#[tokio::test]
async fn an_endless_conflict_ends_with_an_unknown_outcome() {
    let faults = FaultStore::in_memory();
    faults.plan(
        Plan::new(When::Before, Failure::Status(409, ""))
            .op(Op::Put)
            .forever(),
    );
    let error = over(&faults)
        .put_new(&NAME, noise(1, 9000))
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("outcome is unknown"), "{error}");
    assert_eq!(faults.count(Op::Put), 8);
}

#[tokio::test]
async fn failures_that_time_does_not_heal_are_told_at_once_by_their_kind() {
    for (failure, kind) in [
        (Failure::System(28), ErrorKind::StoreFull),
        (Failure::System(122), ErrorKind::StoreFull),
        (Failure::Status(507, ""), ErrorKind::StoreFull),
        (Failure::Status(403, "QuotaExceeded"), ErrorKind::StoreFull),
        (Failure::Status(507, "XMinioStorageFull"), ErrorKind::StoreFull),
        (Failure::System(13), ErrorKind::Denied),
        (Failure::System(30), ErrorKind::Denied),
        (Failure::Status(403, "AccessDenied"), ErrorKind::Denied),
        (Failure::Status(404, "NoSuchBucket"), ErrorKind::NoRepository),
        (Failure::Status(501, "NotImplemented"), ErrorKind::Unsupported),
    ] {
        let faults = FaultStore::in_memory();
        faults.plan(Plan::new(When::Before, failure.clone()).op(Op::Put).forever());
        let error = over(&faults)
            .put_new(&NAME, noise(1, 9))
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{failure:?}");
        assert_eq!(error.context("object"), Some("keys/1"));
        assert!(error.advice().is_some(), "{failure:?} has no hint");
        assert!(!error.to_string().contains("unknown"), "{error}");
        assert_eq!(faults.calls().len(), 1, "{failure:?}");
    }
}

#[tokio::test]
async fn a_full_store_after_a_lost_answer_does_not_claim_that_nothing_was_written() {
    let faults = FaultStore::in_memory();
    faults.plan(Plan::new(When::Before, Failure::Stalled).op(Op::Put));
    faults.plan(Plan::new(When::Before, Failure::System(28)).op(Op::Put));
    let error = over(&faults)
        .put_new(&NAME, noise(1, 9))
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreFull);
    assert!(error.to_string().contains("outcome is unknown"), "{error}");
}

#[tokio::test]
async fn reads_lists_and_deletes_are_tried_again_and_say_so() {
    let faults = FaultStore::in_memory();
    let (context, recorder) = recorded();
    let store = Store::over(Arc::new(faults.clone()), "faulty", &writable(), &context).unwrap();
    assert_eq!(store.put_new(&NAME, noise(1, 5000)).await.unwrap(), Put::Created);
    for op in [Op::Get, Op::Head, Op::List, Op::Delete] {
        faults.plan(Plan::new(When::Before, Failure::Status(503, "SlowDown")).op(op));
        faults.plan(Plan::new(When::Before, Failure::Unreachable).op(op));
    }
    assert_eq!(store.get(&NAME).await.unwrap(), noise(1, 5000));
    assert_eq!(store.head(&NAME).await.unwrap().size, 5000);
    assert_eq!(store.list(Prefix::Keys).count().await, 1);
    store.delete(&NAME).await.unwrap();
    let told = retries(&recorder);
    let whats: Vec<&str> = told.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(
        whats,
        [
            "read keys/1",
            "read keys/1",
            "read keys/1",
            "read keys/1",
            "list keys/",
            "list keys/",
            "delete keys/1",
            "delete keys/1"
        ]
    );
    assert!(told[0].1.contains("503 SlowDown"), "{told:?}");
}

#[tokio::test]
async fn a_listing_that_breaks_off_goes_on_without_gaps_or_repeats() {
    let faults = FaultStore::in_memory();
    let store = over(&faults);
    let mut all = Vec::new();
    for n in 1..=50 {
        let name = ObjectName::Seal(n);
        assert_eq!(store.put_new(&name, noise(n, 10)).await.unwrap(), Put::Created);
        all.push(name);
    }
    faults.plan(Plan::new(When::After, Failure::Dropped).op(Op::List).times(4));
    let found: Vec<Listed> = store.list(Prefix::Gc).try_collect().await.unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|l| match l {
            Listed::Object(info) => info.name,
            Listed::Foreign { name, .. } => panic!("{name}"),
        })
        .collect();
    assert_eq!(found, all);
    assert_eq!(faults.count(Op::List), 5);
}

#[tokio::test]
async fn a_listing_that_fails_for_good_ends_with_the_error() {
    let faults = FaultStore::in_memory();
    faults.plan(
        Plan::new(When::Before, Failure::Status(403, "AccessDenied"))
            .op(Op::List)
            .forever(),
    );
    let store = over(&faults);
    let listed: Vec<_> = store.list(Prefix::Snapshots).collect().await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].as_ref().unwrap_err().kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn a_store_that_never_answered_is_given_up_soon() {
    let faults = FaultStore::in_memory();
    faults.plan(Plan::new(When::Before, Failure::Unreachable).forever());
    let mut options = writable();
    options.retry.first_contact = 2;
    let store = Store::over(Arc::new(faults.clone()), "faulty", &options, &crate::context()).unwrap();
    for error in [
        store.get(&NAME).await.map(drop).unwrap_err(),
        store.put_new(&NAME, noise(1, 1)).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(
            !error.to_string().contains("unknown"),
            "nothing was sent: {error}"
        );
    }
    assert_eq!(faults.calls().len(), 4);
    faults.heal();
    assert_eq!(store.put_new(&NAME, noise(1, 1)).await.unwrap(), Put::Created);
    faults.forget_calls();
    faults.plan(Plan::new(When::Before, Failure::Unreachable).forever());
    assert!(store.get(&NAME).await.is_err());
    assert_eq!(faults.calls().len(), 8);
}

#[tokio::test]
async fn after_a_crash_nothing_works_and_nothing_is_tried_again() {
    for (when, kept) in [(When::Before, false), (When::After, true)] {
        let faults = FaultStore::in_memory();
        let store = over(&faults);
        faults.crash(1, when);
        assert_eq!(
            store.put_new(&ObjectName::Key(0), noise(0, 9)).await.unwrap(),
            Put::Created
        );
        assert!(store.put_new(&NAME, noise(1, 9)).await.is_err());
        assert!(store.get(&ObjectName::Key(0)).await.is_err());
        assert!(faults.calls().len() <= 4, "{:?}", faults.calls());
        faults.heal();
        assert_eq!(store.get(&NAME).await.is_ok(), kept);
    }
}

#[tokio::test]
async fn cancellation_ends_the_wait_between_tries() {
    let faults = FaultStore::in_memory();
    let (context, _) = recorded();
    let mut options = writable();
    options.retry.first = Duration::from_secs(600);
    options.retry.longest = Duration::from_secs(600);
    let store = Store::over(Arc::new(faults.clone()), "faulty", &options, &context).unwrap();
    faults.plan(Plan::new(When::Before, Failure::Stalled).op(Op::Put).forever());
    faults.plan(
        Plan::new(When::Before, Failure::Unreachable)
            .op(Op::Get)
            .forever(),
    );
    let cancel = context.cancel.clone();
    let begun = std::time::Instant::now();
    let (put, ()) = tokio::join!(store.put_new(&NAME, noise(1, 9)), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cancel.cancel();
    });
    let error = put.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(error.to_string().contains("unknown"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    // What is begun after it (a last look, a run for the next session to find) still gets its one try.
    faults.heal();
    assert_eq!(
        store.put_new(&ObjectName::Key(2), noise(2, 9)).await.unwrap(),
        Put::Created
    );
}

#[tokio::test]
async fn a_slow_read_is_interrupted_by_cancellation() {
    let faults = FaultStore::in_memory();
    let (context, _) = recorded();
    let store = Store::over(Arc::new(faults.clone()), "faulty", &writable(), &context).unwrap();
    faults.delay(Duration::from_secs(600));
    let cancel = context.cancel.clone();
    let (got, ()) = tokio::join!(store.get(&NAME), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cancel.cancel();
    });
    assert_eq!(got.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn uploads_at_once_shrink_under_pressure_and_recover() {
    let faults = FaultStore::in_memory();
    let mut options = writable();
    options.uploads = Some(8);
    options.retry = quick();
    let store = Store::over(Arc::new(faults.clone()), "faulty", &options, &crate::context()).unwrap();
    assert_eq!(store.concurrency(), 8);
    faults.delay(Duration::from_millis(10));
    let put_many = async |from: u32, count: u32| {
        let puts = (from..from + count).map(|n| {
            let store = store.clone();
            async move {
                store
                    .put_new(&ObjectName::Config(n), noise(u64::from(n), 10))
                    .await
                    .unwrap()
            }
        });
        for put in futures::future::join_all(puts).await {
            assert_eq!(put, Put::Created);
        }
    };
    put_many(0, 40).await;
    assert_eq!(faults.most_running(), 8);
    faults.plan(Plan::new(When::Before, Failure::Status(503, "SlowDown")).op(Op::Put));
    assert_eq!(store.put_new(&NAME, noise(1, 10)).await.unwrap(), Put::Created);
    assert_eq!(store.concurrency(), 4);
    faults.forget_calls();
    put_many(100, 4).await;
    assert_eq!(faults.most_running(), 4);
    put_many(200, 40).await;
    assert_eq!(store.concurrency(), 8);
}

#[tokio::test]
async fn the_probes_find_a_store_that_overwrites() {
    let faults = FaultStore::in_memory();
    faults.overwrite();
    let store = over(&faults);
    let marker = noise(3, 500);
    assert_eq!(
        store.put_new(&ObjectName::Marker, marker.clone()).await.unwrap(),
        Put::Created
    );
    let found = store.probe(&ObjectName::Marker, marker.clone()).await.unwrap();
    assert_eq!(found, Capability::Overwrites);
    assert_eq!(store.get(&ObjectName::Marker).await.unwrap(), marker);
    assert_eq!(
        store.probe_race(2, &crate::context()).await.unwrap(),
        Race::Broken
    );
}

#[tokio::test]
async fn the_probes_find_a_store_that_refuses_conditions() {
    let faults = FaultStore::in_memory();
    let store = over(&faults);
    assert_eq!(
        store.put_new(&ObjectName::Marker, noise(3, 500)).await.unwrap(),
        Put::Created
    );
    faults.plan(
        Plan::new(When::Before, Failure::Status(501, "NotImplemented"))
            .op(Op::Put)
            .forever(),
    );
    let found = store.probe(&ObjectName::Marker, noise(3, 500)).await.unwrap();
    assert_eq!(found, Capability::Refuses);
}

#[tokio::test]
async fn the_probe_takes_no_lost_answer_for_a_capability() {
    let faults = FaultStore::in_memory();
    let store = over(&faults);
    assert_eq!(
        store.put_new(&ObjectName::Marker, noise(3, 500)).await.unwrap(),
        Put::Created
    );
    faults.plan(Plan::new(When::Before, Failure::Stalled).op(Op::Put).times(2));
    let found = store.probe(&ObjectName::Marker, noise(3, 500)).await.unwrap();
    assert_eq!(found, Capability::PutIfAbsent);
    let changed = store.probe(&ObjectName::Marker, noise(4, 500)).await.unwrap_err();
    assert_eq!(changed.kind(), ErrorKind::Damaged);
}

#[tokio::test]
async fn a_race_without_the_right_to_delete_still_tells() {
    let faults = FaultStore::in_memory();
    faults.plan(
        Plan::new(When::Before, Failure::Status(403, "AccessDenied"))
            .op(Op::Delete)
            .forever(),
    );
    let store = over(&faults);
    assert_eq!(
        store.probe_race(3, &crate::context()).await.unwrap(),
        Race::OneWinner
    );
    let left: Vec<Listed> = store.list(Prefix::Reserve).try_collect().await.unwrap();
    assert_eq!(left.len(), 3);
}

#[tokio::test]
async fn an_object_that_no_format_allows_is_not_read_into_memory() {
    let faults = FaultStore::in_memory();
    let store = over(&faults);
    assert_eq!(store.put_new(&NAME, noise(1, 10)).await.unwrap(), Put::Created);
    faults.replace("keys/1", Bytes::from(vec![0; (64 << 20) + 1]));
    assert_eq!(store.get(&NAME).await.unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(store.get_range(&NAME, 5..10).await.unwrap(), vec![0; 5]);
}

#[tokio::test]
async fn foreign_names_are_shown_and_disturb_nothing() {
    use object_store::{ObjectStoreExt, path::Path};
    let faults = FaultStore::in_memory();
    let raw = object_store::memory::InMemory::new();
    for name in ["keys/0", "keys/00", "keys/readme.txt", "other/thing"] {
        raw.put(&Path::from(name), Bytes::from_static(b"abc").into())
            .await
            .unwrap();
    }
    drop(faults);
    let store = Store::over(Arc::new(raw), "mixed", &writable(), &crate::context()).unwrap();
    let mut objects = Vec::new();
    let mut foreign = Vec::new();
    for listed in store.list(Prefix::All).try_collect::<Vec<_>>().await.unwrap() {
        match listed {
            Listed::Object(info) => objects.push(info.name),
            Listed::Foreign { name, size, .. } => {
                assert_eq!(size, 3);
                foreign.push(name);
            }
        }
    }
    assert_eq!(objects, [ObjectName::Key(0)]);
    assert_eq!(foreign, ["keys/00", "keys/readme.txt", "other/thing"]);
}
