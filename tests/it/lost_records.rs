//! Snapshots whose records cannot be read: what they need stays until it is known that nobody misses them, and nothing blocks collections for ever.

use crate::collect::{Stage, all, stage};
use crate::copy::{Two, request as copy_request, version};
use crate::repair::{damage, repair, replica};
use crate::world::{Things, World, assert_whole, contents, seeded, snapshots};
use holdall::error::{Error, ErrorKind};
use holdall::format::id::SessionId;
use holdall::format::note::NoteRecord;
use holdall::ops::{self, ForgetReport, ForgetRequest, GroupBy, Policy};
use holdall::repository::{Cache, InitOptions, Repository};
use holdall::snapshot::SnapshotFilter;
use holdall::testkit::repo;
use jiff::tz::TimeZone;
use std::sync::Arc;

async fn lose(world: &World, sid: SessionId) {
    damage(world, &format!("snapshots/{sid}"), 150).await;
}

pub(crate) fn forget(name: &str) -> ForgetRequest {
    ForgetRequest {
        named: vec![name.parse().unwrap()],
        policy: Policy::default(),
        filter: SnapshotFilter::default(),
        group_by: GroupBy::default(),
        zone: TimeZone::UTC,
        dry_run: false,
        who: "tester".into(),
    }
}

fn protected() -> NoteRecord {
    NoteRecord {
        protected: Some(true),
        tags: Some(vec!["kept".into()]),
        ..NoteRecord::default()
    }
}

/// As [`stage`], where nothing is retained.
pub(crate) async fn stage_without_minimum() -> Stage {
    let world = World::new();
    let (context, clock) = seeded(1);
    let options = InitOptions {
        retain_last: 0,
        ..repo::init_options()
    };
    let cache = Arc::new(Cache::in_memory().unwrap());
    let made = Repository::init(world.store(&context), &context, options, cache).await;
    Stage {
        world,
        context,
        clock,
        repository: made.unwrap().repository,
    }
}

impl Stage {
    /// As somebody sees it who comes later: nothing is remembered of what could be read before.
    async fn open(&self) -> Repository {
        repo::open(&self.world.store(&self.context)).await.unwrap()
    }

    async fn sids(&self) -> Vec<SessionId> {
        let found = snapshots(&self.context, &self.open().await).await.unwrap();
        found.iter().map(|snapshot| snapshot.record().sid).collect()
    }

    /// Two snapshots, of which the record of the first cannot be read, and a replica of both.
    async fn losing_one(&self) -> (SessionId, Repository) {
        let sid = self.take(&version(0)).await;
        self.take(&version(1)).await;
        let (_world, from) = replica(self).await;
        lose(&self.world, sid).await;
        (sid, from)
    }

    /// The only snapshot that is a copy.
    async fn copy(&self) -> SessionId {
        let found = snapshots(&self.context, &self.open().await).await.unwrap();
        let mut copies = found.iter().filter(|s| s.record().original.is_some());
        copies.next().unwrap().record().sid
    }

    async fn refused(&self) -> Error {
        let refused = ops::prune(&self.context, &self.open().await, &all()).await;
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        error
    }

    /// Collections go on, and what is left is whole.
    async fn collected(&self, expected: &[&Things]) -> usize {
        for _ in 0..3 {
            ops::prune(&self.context, &self.open().await, &all())
                .await
                .unwrap();
        }
        assert_whole(&self.context, &self.world.store(&self.context), expected).await
    }
}

async fn let_go(stage: &Stage, sid: SessionId) -> holdall::error::Result<ForgetReport> {
    ops::forget(&stage.context, &stage.open().await, &forget(&sid.name())).await
}

#[tokio::test]
async fn what_comes_back_is_as_protected_as_it_was_here() {
    let stage = stage().await;
    let sid = stage.take(&version(0)).await;
    let (_world, from) = replica(&stage).await;
    // The replica does not know of it.
    stage
        .repository
        .put_note(&stage.context, sid, protected())
        .await
        .unwrap();
    lose(&stage.world, sid).await;
    assert_eq!(repair(&stage, Some(&from)).await.snapshots_back, [sid]);
    let listed = ops::list(&stage.context, &stage.open().await, &SnapshotFilter::default()).await;
    let copy = listed.unwrap().snapshots.remove(0);
    assert_eq!((copy.protected, copy.tags), (true, vec!["kept".into()]));
    assert_eq!(stage.collected(&[&version(0)]).await, 1);
}

#[tokio::test]
async fn a_copy_that_is_not_protected_stands_for_nothing_that_may_be() {
    let stage = stage().await;
    let sid = stage.take(&version(0)).await;
    let (_world, from) = replica(&stage).await;
    lose(&stage.world, sid).await;
    repair(&stage, Some(&from)).await;
    stage
        .repository
        .put_note(&stage.context, sid, protected())
        .await
        .unwrap();
    let copy = stage.sids().await[0];
    let error = stage.refused().await;
    let hint = error.advice().unwrap();
    assert!(
        hint.contains(&format!("holdall protect {}", copy.name())),
        "{hint}"
    );
    let specs = [copy.name().parse().unwrap()];
    ops::protect(&stage.context, &stage.repository, &specs, true)
        .await
        .unwrap();
    assert_eq!(stage.collected(&[&version(0)]).await, 1);
}

#[tokio::test]
async fn a_copy_that_was_let_go_stands_for_no_record_that_is_lost() {
    let stage = stage().await;
    let (sid, from) = stage.losing_one().await;
    repair(&stage, Some(&from)).await;
    let copies = stage.sids().await;
    let copy = stage.copy().await;
    stage.hand().forget(copy).await;
    stage.refused().await;
    let alone = repair(&stage, None).await;
    assert!(
        alone.unreadable == [sid] && alone.snapshots_let_go.is_empty(),
        "{alone:?}"
    );
    // It comes back once more, under a third id.
    assert_eq!(repair(&stage, Some(&from)).await.snapshots_back, [sid]);
    assert!(stage.sids().await.iter().any(|sid| !copies.contains(sid)));
    assert_eq!(stage.collected(&[&version(0), &version(1)]).await, 2);
}

#[tokio::test]
async fn what_a_minimum_may_retain_is_not_called_let_go_and_comes_back() {
    let stage = stage().await;
    let sid = stage.take(&version(0)).await;
    stage.take(&version(1)).await;
    let (_world, from) = replica(&stage).await;
    stage.hand().forget(sid).await;
    lose(&stage.world, sid).await;
    stage.refused().await;
    assert_eq!(repair(&stage, None).await.unreadable, [sid]);
    assert_eq!(repair(&stage, Some(&from)).await.snapshots_back, [sid]);
    assert_eq!(stage.collected(&[&version(0), &version(1)]).await, 2);
}

#[tokio::test]
async fn what_a_minimum_may_retain_goes_once_whoever_collects_says_so() {
    let stage = stage().await;
    let sid = stage.take(&version(0)).await;
    stage.take(&version(1)).await;
    lose(&stage.world, sid).await;
    let mut request = all();
    request.options.lost.insert(sid.name());
    // Nobody has let it go.
    let early = ops::prune(&stage.context, &stage.open().await, &request).await;
    assert_eq!(early.unwrap_err().kind(), ErrorKind::Damaged);
    let report = let_go(&stage, sid).await.unwrap();
    assert!(
        report.unread == [sid] && report.unread_may_stay == [sid],
        "{report:?}"
    );
    let error = stage.refused().await;
    let hint = error.advice().unwrap();
    assert!(
        hint.contains(&format!("holdall prune --lost {}", sid.name())),
        "{hint}"
    );
    // The record itself goes with the second.
    for _ in 0..2 {
        ops::prune(&stage.context, &stage.open().await, &request)
            .await
            .unwrap();
    }
    assert_eq!(stage.collected(&[&version(1)]).await, 1);
}

#[tokio::test]
async fn a_record_that_nothing_brings_back_is_let_go_by_its_full_name() {
    let stage = stage_without_minimum().await;
    let sid = stage.take(&version(0)).await;
    stage.take(&version(1)).await;
    stage
        .repository
        .put_note(&stage.context, sid, protected())
        .await
        .unwrap();
    lose(&stage.world, sid).await;
    let error = stage.refused().await;
    let hint = error.advice().unwrap();
    assert!(hint.contains(&format!("holdall forget {}", sid.name())), "{hint}");
    let error = let_go(&stage, sid).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(
        error
            .advice()
            .unwrap()
            .contains(&format!("holdall unprotect {}", sid.name())),
        "{error:?}"
    );
    let specs = [sid.name().parse().unwrap()];
    let noted = ops::protect(&stage.context, &stage.open().await, &specs, false)
        .await
        .unwrap();
    assert!(
        noted.len() == 1 && noted[0].changed && !noted[0].let_go,
        "{noted:?}"
    );
    // A part of the name may be anybody's.
    let part = ops::forget(&stage.context, &stage.open().await, &forget(&sid.short())).await;
    assert_eq!(part.unwrap_err().kind(), ErrorKind::Damaged);
    stage.refused().await;
    let report = let_go(&stage, sid).await.unwrap();
    assert_eq!((report.forgotten, report.unread), (1, vec![sid]));
    assert_eq!(stage.collected(&[&version(1)]).await, 1);
}

#[tokio::test]
async fn a_copy_whose_record_is_lost_is_copied_again_and_then_let_go() {
    let two = Two::replica().await;
    two.take(&version(0)).await;
    two.take(&version(1)).await;
    two.copy(&copy_request()).await;
    let lost = two.records(&two.target).await[0].sid;
    lose(&two.there, lost).await;
    let open = || async { repo::open(&two.there.store(&two.context)).await.unwrap() };
    let blocked = ops::prune(&two.context, &open().await, &all()).await.unwrap_err();
    assert!(blocked.advice().unwrap().contains("holdall copy"), "{blocked:?}");
    let again = ops::copy(&two.context, &two.source, Some(&open().await), &copy_request()).await;
    assert_eq!(again.unwrap().copied.len(), 1);
    ops::forget(&two.context, &open().await, &forget(&lost.name()))
        .await
        .unwrap();
    let mut request = all();
    request.options.lost.insert(lost.name());
    for _ in 0..3 {
        ops::prune(&two.context, &open().await, &request).await.unwrap();
    }
    assert_eq!(two.whole(&[&version(0), &version(1)]).await, 2);
}

#[tokio::test]
async fn nothing_stands_for_the_latest_snapshot_when_that_cannot_be_read() {
    let stage = stage_without_minimum().await;
    let older = stage.take(&version(0)).await;
    let newest = stage.take(&version(1)).await;
    lose(&stage.world, newest).await;
    let (context, repository) = (&stage.context, stage.open().await);
    let filter = SnapshotFilter::default();
    for spec in ["latest", "latest~1", &newest.name()[..6]] {
        let spec = spec.parse().unwrap();
        let opened = ops::open_snapshot(context, &repository, &spec, &filter).await;
        assert_eq!(opened.err().unwrap().kind(), ErrorKind::Damaged);
        let protected = ops::protect(context, &repository, &[spec], true).await;
        assert_eq!(protected.unwrap_err().kind(), ErrorKind::Damaged);
    }
    let refused = ops::forget(context, &repository, &forget("latest")).await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert_eq!(
        error.context("object"),
        Some(format!("snapshots/{newest}").as_str())
    );
    let request = ops::FindRequest {
        patterns: vec!["*".into()],
        ..ops::FindRequest::default()
    };
    let searched = ops::find(context, &repository, &request, &mut |_| Ok(()))
        .await
        .unwrap();
    assert_eq!((searched.searched, searched.damaged.len()), (1, 1));
    // By its id the other is there, and without it once nobody misses the newest.
    let spec = older.name()[..12].parse().unwrap();
    let opened = ops::open_snapshot(context, &repository, &spec, &filter)
        .await
        .unwrap();
    assert_eq!(opened.record().sid, older);
    ops::protect(context, &repository, &[spec], true).await.unwrap();
    let_go(&stage, newest).await.unwrap();
    let latest = "latest".parse().unwrap();
    let opened = ops::open_snapshot(context, &stage.open().await, &latest, &filter)
        .await
        .unwrap();
    assert_eq!(opened.record().sid, older);
}

#[tokio::test]
async fn what_is_let_go_while_a_copy_runs_is_not_copied_again() {
    let two = Two::replica().await;
    let first = two.take(&version(0)).await;
    two.take(&version(1)).await;
    let faults = two.there.faults();
    let watched = crate::world::over(Arc::new(faults.clone()), &two.context);
    let target = repo::open(&watched).await.unwrap();
    let open = || async { repo::open(&two.there.store(&two.context)).await.unwrap() };
    let (other, source, context) = (open().await, two.source.clone(), two.context.clone());
    // Between the look at what is there and the session of the first snapshot.
    let sessions = holdall::testkit::Op::Put;
    faults.forget_calls();
    let calls = {
        let probe = World::of(&two.there.objects().await).await;
        let counted = probe.faults();
        let store = crate::world::over(Arc::new(counted.clone()), &two.context);
        let target = repo::open(&store).await.unwrap();
        counted.forget_calls();
        ops::copy(&two.context, &two.source, Some(&target), &copy_request())
            .await
            .unwrap();
        counted
            .calls()
            .iter()
            .position(|call| call.op == sessions)
            .unwrap() as u64
    };
    let work = async move {
        ops::copy(&context, &source, Some(&other), &copy_request())
            .await
            .unwrap();
        let records = snapshots(&context, &other).await.unwrap();
        let copy = records
            .iter()
            .find(|s| s.record().original.unwrap().1 == first)
            .unwrap();
        let hand = holdall::testkit::rounds::Hand {
            repository: &other,
            context: &context,
        };
        hand.forget(copy.record().sid).await;
    };
    faults.meanwhile(calls, Box::pin(work));
    let report = ops::copy(&two.context, &two.source, Some(&target), &copy_request())
        .await
        .unwrap();
    assert_eq!(
        (report.copied.len(), report.there, report.let_go),
        (0, 1, 1),
        "{report:?}"
    );
    let left = snapshots(&two.context, &open().await).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(contents(&left[0]).await.unwrap(), version(1).contents);
}

/// Its record cannot be read, and that it was let go can be seen nevertheless.
#[tokio::test]
async fn what_was_let_go_here_comes_back_by_no_copy_when_its_record_is_lost() {
    let stage = stage_without_minimum().await;
    let (sid, from) = stage.losing_one().await;
    let home = || async {
        let target = stage.open().await;
        ops::copy(&stage.context, &from, Some(&target), &copy_request())
            .await
            .unwrap()
    };
    let mut dry = copy_request();
    dry.dry_run = true;
    let planned = ops::copy(&stage.context, &from, Some(&stage.open().await), &dry).await;
    assert_eq!(planned.unwrap().copied.len(), 1, "nobody has let it go");
    let_go(&stage, sid).await.unwrap();
    let report = home().await;
    assert_eq!(
        (report.copied.len(), report.there, report.let_go),
        (0, 1, 1),
        "{report:?}"
    );
    assert!(report.lag.missing.is_empty(), "{report:?}");
    assert_eq!(stage.collected(&[&version(1)]).await, 1);
}

/// Only the record of the copy says whose copy it is.
#[tokio::test]
async fn a_copy_that_is_lost_after_its_original_was_let_go_is_copied_again() {
    let stage = stage_without_minimum().await;
    let (sid, from) = stage.losing_one().await;
    repair(&stage, Some(&from)).await;
    let copy = stage.copy().await;
    let_go(&stage, sid).await.unwrap();
    lose(&stage.world, copy).await;
    let copied = ops::copy(&stage.context, &from, Some(&stage.open().await), &copy_request()).await;
    assert_eq!(copied.unwrap().copied.len(), 1);
    let_go(&stage, copy).await.unwrap();
    assert_eq!(stage.collected(&[&version(0), &version(1)]).await, 2);
}

#[tokio::test]
async fn what_is_let_go_while_a_repair_runs_is_not_brought_back() {
    let stage = stage_without_minimum().await;
    let (sid, from) = stage.losing_one().await;
    let base = stage.world.objects().await;
    // Before the session that brings it back looks at what is there.
    let mut calls = 0;
    for is_let_go in [false, true] {
        let world = World::of(&base).await;
        let faults = world.faults();
        let store = crate::world::over(Arc::new(faults.clone()), &stage.context);
        let repository = repo::open(&store).await.unwrap();
        let (other, context) = (
            repo::open(&world.store(&stage.context)).await.unwrap(),
            stage.context.clone(),
        );
        faults.forget_calls();
        if is_let_go {
            let work = async move {
                ops::forget(&context, &other, &forget(&sid.name())).await.unwrap();
            };
            faults.meanwhile(calls, Box::pin(work));
        }
        let report = ops::repair(
            &stage.context,
            &repository,
            Some(&from),
            &crate::repair::request(),
        )
        .await
        .unwrap();
        let after = repo::open(&world.store(&stage.context)).await.unwrap();
        let there = snapshots(&stage.context, &after).await.unwrap().len();
        if is_let_go {
            assert_eq!(report.snapshots_let_go, [sid], "{report:?}");
            assert!(
                report.snapshots_back.is_empty() && !report.is_damaged(),
                "{report:?}"
            );
            assert_eq!(there, 1);
        } else {
            assert_eq!(
                (report.snapshots_back.as_slice(), there),
                ([sid].as_slice(), 2),
                "{report:?}"
            );
            let is_begin = |call: &holdall::testkit::Call| {
                call.op == holdall::testkit::Op::Put && call.name.starts_with("sessions/")
            };
            calls = faults.calls().iter().rposition(is_begin).unwrap() as u64;
        }
    }
}
