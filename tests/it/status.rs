//! How old what is kept is, by clocks that tests move.

use crate::collect::stage;
use crate::world::{Things, Turn, noise};
use holdall::ops::{self, CheckRequest, Overdue, StatusRequest};
use holdall::repository::ReadData;

const HOUR: i64 = 3_600;

fn things(seed: u64) -> Things {
    Things::new([(format!("files/{seed}"), noise(2_000_000, seed))])
}

fn nightly() -> StatusRequest {
    StatusRequest {
        max_age: Some(26 * 3_600),
        ..StatusRequest::default()
    }
}

#[tokio::test]
async fn a_snapshot_that_lacks_something_does_not_make_a_project_young() {
    let stage = stage().await;
    let complete = stage.take(&things(1)).await;
    stage.later(20 * HOUR);
    let partial = stage.take(&things(2).at(0, Turn::Incident)).await;
    let status = ops::status(&stage.context, &stage.repository, &nightly())
        .await
        .unwrap();
    assert!(!status.is_overdue(&nightly()), "{status:?}");
    stage.later(10 * HOUR);
    let status = ops::status(&stage.context, &stage.repository, &nightly())
        .await
        .unwrap();
    let [project] = status.projects.as_slice() else {
        panic!("{status:?}");
    };
    assert_eq!(project.overdue, Some(Overdue::Partial));
    assert_eq!(project.newest.record.sid, partial);
    assert_eq!(project.complete.map(|(sid, _)| sid), Some(complete));
    stage.later(30 * HOUR);
    let status = ops::status(&stage.context, &stage.repository, &nightly())
        .await
        .unwrap();
    assert_eq!(status.projects[0].overdue, Some(Overdue::Old));
    assert_eq!(
        (status.projects[0].age / 3_600, status.projects[0].snapshots),
        (40, 2)
    );
    // Without a limit nothing is overdue.
    let any = StatusRequest::default();
    let status = ops::status(&stage.context, &stage.repository, &any)
        .await
        .unwrap();
    assert!(!status.is_overdue(&any));
}

/// A snapshot from the future would never be old.
#[tokio::test]
async fn a_clock_that_was_ahead_does_not_make_a_project_young_for_ever() {
    let stage = stage().await;
    stage.later(9_000 * HOUR);
    stage.take(&things(1)).await;
    stage.later(-9_000 * HOUR);
    let status = ops::status(&stage.context, &stage.repository, &nightly())
        .await
        .unwrap();
    assert_eq!(status.projects[0].overdue, Some(Overdue::Ahead));
}

#[tokio::test]
async fn what_was_verified_and_which_runs_are_open_is_told() {
    let stage = stage().await;
    stage.take(&things(1)).await;
    let session = holdall::repository::Session::begin(&stage.repository, &stage.context, "db1", None);
    let session = session.await.unwrap();
    stage.later(3 * HOUR);
    let any = StatusRequest::default();
    let status = ops::status(&stage.context, &stage.repository, &any)
        .await
        .unwrap();
    let [run] = status.open.as_slice() else {
        panic!("{status:?}");
    };
    assert_eq!((run.host.as_deref(), run.age), (Some("db1"), Some(10_800)));
    assert_eq!((status.packs.reads.never, status.packs.packs), (2, 2));
    session.abort(&stage.context, "enough").await.unwrap();
    let request = CheckRequest {
        read_data: ReadData::All,
        ..CheckRequest::default()
    };
    ops::check(&stage.context, &stage.repository, request)
        .await
        .unwrap();
    let status = ops::status(&stage.context, &stage.repository, &any)
        .await
        .unwrap();
    assert!(status.open.is_empty());
    assert_eq!(status.packs.reads.never, 0);
    assert_eq!(
        status.packs.reads.oldest.unwrap().seconds,
        holdall::context::Clock::now(&*stage.clock).seconds
    );
}
