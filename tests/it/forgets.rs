//! Which forgets have an effect, and for whom: `format-spec/85-sessions.md` section 5.

use crate::world::{START, Things, World, contents, noise, over, seeded, snapshots, take};
use holdall::context::{Context, ManualClock, Time};
use holdall::error::ErrorKind;
use holdall::format::id::SessionId;
use holdall::format::note::NoteRecord;
use holdall::ops;
use holdall::repository::{Cache, InitOptions, Repository};
use holdall::snapshot::{SnapshotFilter, SnapshotSpec};
use holdall::testkit::rounds::Hand;
use holdall::testkit::{Op, repo};
use std::sync::Arc;

const DAY: i64 = 86_400;

struct Stage {
    world: World,
    context: Context,
    clock: Arc<ManualClock>,
    repository: Repository,
}

async fn stage(retain_last: u32, retain_age: u64) -> Stage {
    let world = World::new();
    let (context, clock) = seeded(1);
    let options = InitOptions {
        retain_last,
        retain_age,
        ..repo::init_options()
    };
    let cache = Arc::new(Cache::in_memory().unwrap());
    let made = Repository::init(world.store(&context), &context, options, cache).await;
    let repository = made.unwrap().repository;
    Stage {
        world,
        context,
        clock,
        repository,
    }
}

impl Stage {
    /// Sets the clock to so many days after the start.
    fn day(&self, day: i64) {
        let seconds = START.seconds + day * DAY;
        self.clock.set(Time { seconds, nanos: 0 });
    }

    /// A snapshot of one content; the same for the same seed.
    async fn take(&self, day: i64, seed: u64) -> SessionId {
        self.day(day);
        let things = Things::new([("a", noise(30_000, seed))]);
        let report = take(&self.context, &self.repository, &things).await.unwrap();
        report.snapshot.sid
    }

    /// Lets a snapshot go as one does who asks nobody.
    async fn forget(&self, sid: SessionId) {
        let hand = Hand {
            repository: &self.repository,
            context: &self.context,
        };
        hand.forget(sid).await;
    }

    async fn note(&self, sid: SessionId, note: NoteRecord) {
        self.repository.put_note(&self.context, sid, note).await.unwrap();
    }

    async fn listed(&self) -> Vec<SessionId> {
        let readers = snapshots(&self.context, &self.repository).await.unwrap();
        readers.iter().map(|reader| reader.record().sid).collect()
    }

    /// Ids and reasons of snapshots whose forget has no effect, as `list` tells them.
    async fn kept(&self) -> Vec<(SessionId, String)> {
        let listed = ops::list(&self.context, &self.repository, &SnapshotFilter::default()).await;
        let snapshots = listed.unwrap().snapshots.into_iter();
        snapshots
            .filter_map(|s| Some((s.record.sid, s.forget_without_effect?)))
            .collect()
    }
}

fn spec(sid: SessionId) -> SnapshotSpec {
    sid.name().parse().unwrap()
}

#[tokio::test]
async fn a_forget_of_what_the_repository_retains_has_no_effect_and_is_told() {
    let stage = stage(1, 0).await;
    let one = stage.take(0, 1).await;
    let two = stage.take(1, 2).await;
    stage.forget(two).await;
    assert_eq!(stage.listed().await, [one, two]);
    let kept = stage.kept().await;
    assert!(
        kept.len() == 1 && kept[0].0 == two && kept[0].1.contains("retains the newest 1"),
        "{kept:?}"
    );
    let report = repo::check_all(&stage.context, &stage.repository).await.unwrap();
    assert!(!report.is_damaged());
    let told: Vec<_> = report.findings.iter().map(|f| f.object.clone()).collect();
    assert_eq!(told, [format!("snapshot {}", two.short())]);
    // A newer one takes its place.
    let three = stage.take(2, 3).await;
    assert_eq!(stage.listed().await, [one, three]);
    assert!(stage.kept().await.is_empty());
    let report = repo::check_all(&stage.context, &stage.repository).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[tokio::test]
async fn a_writer_rests_nothing_on_what_somebody_let_go_with_or_without_an_effect() {
    let stage = stage(1, 0).await;
    let one = stage.take(0, 1).await;
    stage.forget(one).await;
    assert_eq!(stage.listed().await, [one]);
    stage.day(1);
    let things = Things::new([("a", noise(30_000, 1))]);
    let next = take(&stage.context, &stage.repository, &things).await.unwrap();
    assert_eq!(next.parent, None);
}

#[tokio::test]
async fn a_forget_of_what_is_protected_has_no_effect_until_that_ends() {
    let stage = stage(1, 0).await;
    let one = stage.take(0, 1).await;
    let two = stage.take(1, 2).await;
    ops::protect(&stage.context, &stage.repository, &[spec(one)], true)
        .await
        .unwrap();
    stage.forget(one).await;
    assert_eq!(stage.listed().await, [one, two]);
    assert_eq!(stage.kept().await, [(one, "it is protected".to_owned())]);
    // It is so already: nothing is put.
    let again = ops::protect(&stage.context, &stage.repository, &[spec(one)], true).await;
    assert!(!again.unwrap()[0].changed);
    ops::protect(&stage.context, &stage.repository, &[spec(one)], false)
        .await
        .unwrap();
    assert_eq!(stage.listed().await, [two]);
}

#[tokio::test]
async fn a_note_that_cannot_be_read_stands_against_a_forget() {
    let stage = stage(1, 0).await;
    let one = stage.take(0, 1).await;
    let two = stage.take(1, 2).await;
    stage.note(one, NoteRecord::default()).await;
    stage.forget(one).await;
    assert_eq!(stage.listed().await, [two]);
    let name = format!("notes/{one}/00000000");
    let mut bytes = stage.world.get(&name).await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    stage.world.set(&name, bytes.into()).await;
    let repository = repo::open(&stage.world.store(&stage.context)).await.unwrap();
    assert_eq!(snapshots(&stage.context, &repository).await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_was_let_go_cannot_be_protected() {
    let stage = stage(1, 0).await;
    let one = stage.take(0, 1).await;
    let two = stage.take(1, 2).await;
    stage.forget(two).await;
    let both = [spec(one), spec(two)];
    let error = ops::protect(&stage.context, &stage.repository, &both, true)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(error.context("snapshot"), Some(two.short().as_str()));
    assert!(
        stage.repository.notes().await.unwrap().is_empty(),
        "none is protected, or all"
    );
}

#[tokio::test]
async fn the_age_that_a_repository_retains_counts_from_first_sight_where_it_is_known() {
    let stage = stage(0, 10 * DAY as u64).await;
    // The clock of this machine stood two years back when it made the first.
    let one = stage.take(-700, 1).await;
    let two = stage.take(0, 2).await;
    let seen = Time {
        seconds: START.seconds,
        nanos: 0,
    };
    let first_seen = NoteRecord {
        first_seen: Some(seen),
        ..NoteRecord::default()
    };
    stage.note(one, first_seen).await;
    stage.forget(one).await;
    stage.forget(two).await;
    stage.day(9);
    assert_eq!(stage.listed().await, [one, two]);
    stage.day(11);
    assert!(stage.listed().await.is_empty());
}

#[tokio::test]
async fn notes_are_read_only_of_what_was_let_go() {
    let stage = stage(1, 0).await;
    let mut all = Vec::new();
    for seed in 0..6 {
        all.push(stage.take(i64::try_from(seed).unwrap(), seed).await);
    }
    for sid in &all {
        stage.note(*sid, NoteRecord::default()).await;
    }
    let asked = async || {
        let faults = stage.world.faults();
        let store = over(Arc::new(faults.clone()), &stage.context);
        let repository = repo::open(&store).await.unwrap();
        repository.view(&stage.context).await.unwrap();
        let calls = faults.calls().into_iter();
        let notes = calls.filter(|call| call.name.starts_with("notes"));
        let (gets, lists): (Vec<_>, Vec<_>) = notes.partition(|call| call.op == Op::Get);
        (
            gets.into_iter().map(|call| call.name).collect::<Vec<_>>(),
            lists.len(),
        )
    };
    assert_eq!(asked().await, (Vec::new(), 0));
    stage.forget(all[2]).await;
    assert_eq!(asked().await, (vec![format!("notes/{}/00000000", all[2])], 1));
}

/// The prefixes that were listed, in order, each once.
fn listed(calls: Vec<holdall::testkit::Call>) -> Vec<String> {
    let lists = calls.into_iter().filter(|call| call.op == Op::List);
    let mut names: Vec<String> = lists
        .map(|call| call.name.trim_end_matches('/').to_owned())
        .filter(|name| name != "gc")
        .collect();
    names.dedup();
    names
}

#[tokio::test]
async fn readers_list_runs_last_and_writers_first() {
    let stage = stage(1, 0).await;
    let one = stage.take(0, 1).await;
    stage.take(1, 2).await;
    stage.forget(one).await;
    let faults = stage.world.faults();
    let store = over(Arc::new(faults.clone()), &stage.context);
    let repository = repo::open(&store).await.unwrap();
    faults.forget_calls();
    repository.view(&stage.context).await.unwrap();
    assert_eq!(
        listed(faults.calls()),
        ["snapshots", "forgets", "notes", "index/s", "index/g"]
    );
    faults.forget_calls();
    let things = Things::new([("a", noise(30_000, 3))]);
    take(&stage.context, &repository, &things).await.unwrap();
    let lists = listed(faults.calls());
    assert_eq!(lists[..4], ["index/s", "index/g", "snapshots", "forgets"]);
    let readers = snapshots(&stage.context, &repository).await.unwrap();
    assert!(contents(&readers[1]).await.unwrap() == things.contents);
}
