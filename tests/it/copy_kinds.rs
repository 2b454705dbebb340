//! Copies between repositories of different kinds: other keys, copies of copies, what is said of them, and what a place may hold.

use crate::copy::{Two, make_replica, packs, request, version};
use crate::repair::damage;
use crate::world::{Things, Turn, World, assert_whole, contents, noise, over, snapshots, take};
use holdall::context::Time;
use holdall::error::ErrorKind;
use holdall::format::note::NoteRecord;
use holdall::ops;
use holdall::repository::{Cache, Found, Repository};
use holdall::snapshot::SnapshotFilter;
use holdall::testkit::{Failure, Op, Plan, When, repo};
use std::sync::Arc;

#[tokio::test]
async fn a_repository_with_other_keys_holds_the_same_under_other_ids() {
    let two = Two::new(false).await;
    for n in 0..3 {
        two.take(&version(n)).await;
    }
    let broken = version(3).at(4, Turn::Incident);
    two.take(&broken).await;
    let report = two.copy(&request()).await;
    assert!(!report.same_keys && report.failed.is_empty());
    assert_eq!(report.copied.len(), 4);
    // The first is whole, the others are what differs.
    for copied in &report.copied[1..] {
        assert!(copied.bytes_stored < 250_000, "{}", copied.bytes_stored);
    }
    let found = snapshots(&two.context, &two.target).await.unwrap();
    let originals = snapshots(&two.context, &two.source).await.unwrap();
    assert_eq!(found.len(), 4);
    for (copy, original) in found.iter().zip(&originals) {
        assert_eq!(contents(copy).await.unwrap(), contents(original).await.unwrap());
        let (copy, original) = (copy.record(), original.record());
        assert_eq!(copy.original, Some((two.source.id(), original.sid)));
        assert_eq!((copy.started, copy.partial), (original.started, original.partial));
        assert_eq!(copy.incidents, original.incidents);
        assert_ne!(copy.root.id, original.root.id);
    }
    let objects = two.there.objects().await;
    let again = two.copy(&request()).await;
    assert_eq!((again.copied.len(), again.there), (0, 4));
    assert_eq!(two.there.objects().await, objects);
    let check = repo::check_all(&two.context, &two.target).await.unwrap();
    assert!(check.findings.is_empty(), "{:?}", check.findings);
}

#[tokio::test]
async fn with_other_keys_a_snapshot_that_lost_content_is_not_committed() {
    let two = Two::new(false).await;
    let hit = two.take(&version(0)).await;
    let large = packs(&two.here.objects().await)
        .into_iter()
        .max_by_key(|(_, bytes)| bytes.len())
        .unwrap();
    let other = Things::new([("z", noise(9_000, 77))]);
    two.take(&other).await;
    let mut bytes = large.1.to_vec();
    bytes[300_000] ^= 1;
    two.here.set(&large.0, bytes.into()).await;
    let report = two.copy(&request()).await;
    assert_eq!((report.copied.len(), report.failed.len()), (1, 1));
    assert_eq!(report.failed[0].record.sid, hit);
    assert_eq!(report.failed[0].why.kind(), ErrorKind::Damaged);
    assert_eq!(snapshots(&two.context, &two.target).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_said_of_a_snapshot_goes_with_it_and_overrides_nothing() {
    let two = Two::replica().await;
    let sid = two.take(&version(0)).await;
    let seen = Time {
        seconds: 1_700_000_000,
        nanos: 0,
    };
    let note = NoteRecord {
        tags: Some(vec!["kept".into()]),
        protected: Some(true),
        first_seen: Some(seen),
        report: Some("of this store".into()),
        ..NoteRecord::default()
    };
    two.source.put_note(&two.context, sid, note).await.unwrap();
    two.copy(&request()).await;
    let list = |repository: Repository| {
        let context = two.context.clone();
        async move {
            let all = ops::list(&context, &repository, &SnapshotFilter::default()).await;
            all.unwrap().snapshots.remove(0)
        }
    };
    let copy = list(two.target.clone()).await;
    assert_eq!(
        (copy.tags, copy.protected, copy.first_seen),
        (vec!["kept".into()], true, Some(seen))
    );
    let notes = two.target.notes().await.unwrap();
    assert_eq!(notes[&copy.record.sid].said.report, None);

    // There it is let go of protection, and described here: one stays, the other follows.
    let unprotect = NoteRecord {
        protected: Some(false),
        ..NoteRecord::default()
    };
    two.target
        .put_note(&two.context, copy.record.sid, unprotect)
        .await
        .unwrap();
    let describe = NoteRecord {
        description: Some("before the move".into()),
        ..NoteRecord::default()
    };
    two.source.put_note(&two.context, sid, describe).await.unwrap();
    let report = two.copy(&request()).await;
    assert_eq!((report.noted, report.there), (1, 1));
    let copy = list(two.target.clone()).await;
    assert_eq!(
        (copy.protected, copy.description.as_deref()),
        (false, Some("before the move"))
    );
    assert_eq!(two.copy(&request()).await.noted, 0);
}

#[tokio::test]
async fn a_copy_of_a_copy_names_the_first_and_can_come_home() {
    let two = Two::replica().await;
    let sid = two.take(&version(0)).await;
    let second = two.take(&version(1)).await;
    two.copy(&request()).await;
    let third = World::new();
    let target = make_replica(&two.target, third.store(&two.context), &two.context)
        .await
        .unwrap();
    let report = ops::copy(&two.context, &two.target, Some(&target), &request()).await;
    assert_eq!(report.unwrap().copied.len(), 2);
    let copies = two.records(&target).await;
    assert_eq!(copies[0].original, Some((two.source.id(), sid)));
    assert_eq!(copies[1].original, Some((two.source.id(), second)));
    assert_eq!(copies[1].parent, Some(copies[0].sid));
    // At home it is there already.
    let report = ops::copy(&two.context, &target, Some(&two.source), &request()).await;
    let report = report.unwrap();
    assert_eq!((report.copied.len(), report.there), (0, 2));
    // What was made in the replica comes home too.
    take(&two.context, &two.target, &version(5)).await.unwrap();
    let report = ops::copy(&two.context, &two.target, Some(&two.source), &request()).await;
    assert_eq!(report.unwrap().copied.len(), 1);
    let store = two.here.store(&two.context);
    assert_eq!(
        assert_whole(&two.context, &store, &[&version(0), &version(1), &version(5)]).await,
        3
    );
}

#[tokio::test]
async fn a_place_with_something_else_is_told_from_an_empty_and_an_unfinished_one() {
    let two = Two::new(false).await;
    let id = two.source.id();
    let store = two.there.store(&two.context);
    assert_eq!(
        Found::at(&store).await.unwrap(),
        Found::Repository(two.target.id())
    );
    let refused = make_replica(&two.source, store, &two.context).await;
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::Differs);
    let empty = World::new();
    let store = empty.store(&two.context);
    assert_eq!(Found::at(&store).await.unwrap(), Found::Nothing);
    let error = two.source.open_replica(store.clone(), Cache::in_memory).await;
    assert_eq!(error.err().unwrap().kind(), ErrorKind::NoRepository);
    let marker = two.here.get("holdall.json").await.unwrap();
    empty.set("holdall.json", marker).await;
    assert_eq!(Found::at(&store).await.unwrap(), Found::Unfinished(id));
    make_replica(&two.source, store.clone(), &two.context)
        .await
        .unwrap();
    assert_eq!(Found::at(&store).await.unwrap(), Found::Repository(id));
    repo::open(&store).await.unwrap();
}

#[tokio::test]
async fn tags_that_change_after_a_copy_are_carried_unless_the_copy_was_changed_after_that() {
    let two = Two::replica().await;
    let sid = two.take(&version(0)).await;
    two.copy(&request()).await;
    let copy = two.records(&two.target).await[0].sid;
    let tag = |name: &str| NoteRecord {
        tags: Some(vec![name.to_owned()]),
        ..NoteRecord::default()
    };
    let tags = || async {
        two.target.notes().await.unwrap()[&copy]
            .said
            .tags
            .clone()
            .unwrap()
    };
    for name in ["first", "second"] {
        two.later(10);
        two.source.put_note(&two.context, sid, tag(name)).await.unwrap();
        // A copy that comes much later makes an old word no newer.
        two.later(10);
        assert_eq!(two.copy(&request()).await.noted, 1);
        assert_eq!(tags().await, [name]);
    }
    two.source
        .put_note(&two.context, sid, tag("older"))
        .await
        .unwrap();
    two.later(10);
    two.target
        .put_note(&two.context, copy, tag("its own"))
        .await
        .unwrap();
    assert_eq!(two.copy(&request()).await.noted, 0);
    assert_eq!(tags().await, ["its own"]);
    two.later(10);
    two.source
        .put_note(&two.context, sid, tag("newest"))
        .await
        .unwrap();
    assert_eq!(two.copy(&request()).await.noted, 1);
    assert_eq!(tags().await, ["newest"]);
    assert_eq!(two.copy(&request()).await.noted, 0);
}

#[tokio::test]
async fn a_copy_of_a_snapshot_whose_tags_cannot_be_read_is_protected() {
    let two = Two::replica().await;
    let sid = two.take(&version(0)).await;
    let say = |tags: Option<&str>, protected| NoteRecord {
        tags: tags.map(|tag| vec![tag.to_owned()]),
        protected,
        ..NoteRecord::default()
    };
    for note in [
        say(Some("older"), None),
        say(Some("release"), None),
        say(None, Some(false)),
    ] {
        two.later(10);
        two.source.put_note(&two.context, sid, note).await.unwrap();
    }
    damage(&two.here, &format!("notes/{sid}/00000001"), 150).await;
    // Nothing is remembered there of what could be read before.
    let source = repo::open(&two.here.store(&two.context)).await.unwrap();
    let copied = ops::copy(&two.context, &source, Some(&two.target), &request()).await;
    assert_eq!(copied.unwrap().copied.len(), 1);
    let copy = two.records(&two.target).await[0].sid;
    let said = &two.target.notes().await.unwrap()[&copy].said;
    assert_eq!((&said.tags, said.protected), (&None, Some(true)));
}

#[tokio::test]
async fn protection_is_carried_later_too_and_never_taken_away() {
    let two = Two::replica().await;
    let sid = two.take(&version(0)).await;
    two.copy(&request()).await;
    let copy = two.records(&two.target).await[0].sid;
    let protect = |protected| NoteRecord {
        protected: Some(protected),
        ..NoteRecord::default()
    };
    let is_protected = async || {
        let notes = two.target.notes().await.unwrap();
        notes.get(&copy).and_then(|notes| notes.said.protected)
    };
    two.later(10);
    two.source
        .put_note(&two.context, sid, protect(true))
        .await
        .unwrap();
    let report = two.copy(&request()).await;
    assert!(report.failed.is_empty());
    assert_eq!(is_protected().await, Some(true));
    two.later(10);
    two.source
        .put_note(&two.context, sid, protect(false))
        .await
        .unwrap();
    assert_eq!(two.copy(&request()).await.noted, 0);
    assert_eq!(is_protected().await, Some(true));
}

#[tokio::test]
async fn what_cannot_be_read_of_the_source_is_told_and_the_rest_is_copied() {
    let two = Two::replica().await;
    let hit = two.take(&version(0)).await;
    two.take(&version(1)).await;
    let name = format!("snapshots/{hit}");
    let mut bytes = two.here.get(&name).await.unwrap().to_vec();
    bytes[150] ^= 1;
    two.here.set(&name, bytes.into()).await;
    // Without what this process remembers.
    let source = repo::open(&two.here.store(&two.context)).await.unwrap();
    let report = ops::copy(&two.context, &source, Some(&two.target), &request()).await;
    let report = report.unwrap();
    assert_eq!((report.copied.len(), report.failed.len()), (1, 0));
    assert_eq!(report.damaged.len(), 1);
    assert_eq!(report.damaged[0].0, name);
    assert!(report.is_damaged());
}

#[tokio::test]
async fn damage_is_told_even_if_something_else_ends_the_copy() {
    let two = Two::replica().await;
    two.take(&version(0)).await;
    let pack = packs(&two.here.objects().await).into_keys().next().unwrap();
    two.here.remove(&pack).await;
    two.take(&Things::new([("b", noise(50_000, 90))])).await;
    let faults = two.there.faults();
    // The second snapshot finds the target's disk full.
    faults.plan(
        Plan::new(When::Before, Failure::System(28))
            .op(Op::Put)
            .name("packs/")
            .forever(),
    );
    let target = repo::open(&over(Arc::new(faults), &two.context)).await.unwrap();
    let report = ops::copy(&two.context, &two.source, Some(&target), &request())
        .await
        .unwrap();
    assert_eq!((report.copied.len(), report.failed.len()), (0, 1));
    assert_eq!(report.stopped.as_ref().unwrap().kind(), ErrorKind::StoreFull);
    assert!(report.is_damaged());
}

#[tokio::test]
async fn a_repository_is_no_copy_of_itself() {
    let two = Two::replica().await;
    two.take(&version(0)).await;
    let itself = repo::open(&two.here.store(&two.context)).await.unwrap();
    let refused = ops::copy(&two.context, &two.source, Some(&itself), &request()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    // What another program has made of all its objects is a place of its own.
    let clone = World::of(&two.here.objects().await).await;
    let clone = repo::open(&clone.store(&two.context)).await.unwrap();
    let report = ops::copy(&two.context, &two.source, Some(&clone), &request())
        .await
        .unwrap();
    assert_eq!((report.copied.len(), report.there), (0, 1));
}
