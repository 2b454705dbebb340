//! Checks that remember what they verified, stop in time, name what is hit, and do without a key.

use crate::collect::{Stage, all, stage};
use crate::world::{Objects, Things, World, noise, over};
use holdall::context::{Context, ManualClock};
use holdall::event::{Event, Observer};
use holdall::format::layout::ObjectName;
use holdall::ops::{self, CheckReport, CheckRequest};
use holdall::repository::{DataRequest, Finding, ReadData, Repository, Survey};
use holdall::testkit::{Failure, Op, Plan, When, repo};
use std::sync::Arc;

const DAY: i64 = 86_400;

/// A snapshot whose content takes a data pack and a node pack of its own.
pub(crate) fn things(seed: u64) -> Things {
    let contents = (seed..seed + 4).map(|n| (format!("files/{n:03}"), noise(600_000, n)));
    Things::new(contents)
}

pub(crate) fn aged(days: u64) -> CheckRequest {
    CheckRequest {
        read_data: ReadData::All,
        max_age: Some(days * 86_400),
        max_duration: None,
    }
}

pub(crate) async fn check(stage: &Stage, request: CheckRequest) -> CheckReport {
    ops::check(&stage.context, &stage.repository, request)
        .await
        .unwrap()
}

pub(crate) fn errors(report: &CheckReport) -> Vec<&Finding> {
    report
        .findings
        .iter()
        .filter(|finding| finding.is_error)
        .collect()
}

/// Packs with nodes are read by every check: how many there are.
async fn node_packs(stage: &Stage) -> u64 {
    check(stage, CheckRequest::default()).await.survey.packs_read
}

/// The pack that holds the content of a snapshot, which is far larger than what holds its tree.
pub(crate) async fn data_packs(world: &World) -> Vec<String> {
    let objects = world.objects().await.into_iter();
    let large = objects.filter(|(name, bytes)| name.starts_with("packs/") && bytes.len() > 1 << 20);
    large.map(|(name, _)| name).collect()
}

pub(crate) async fn flip(world: &World, name: &str) {
    let mut bytes = world.get(name).await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    world.remove(name).await;
    world.set(name, bytes.into()).await;
}

#[tokio::test]
async fn what_was_verified_is_not_read_again_before_its_age() {
    let stage = stage().await;
    stage.take(&things(0)).await;
    let nodes = node_packs(&stage).await;
    let report = check(&stage, aged(30)).await;
    assert_eq!(
        (report.survey.packs_read, report.survey.packs),
        (nodes + 1, nodes + 1)
    );
    assert_eq!(report.survey.reads.unwrap().never, 0);

    stage.later(10 * DAY);
    stage.take(&things(100)).await;
    let nodes = node_packs(&stage).await;
    let report = check(&stage, aged(30)).await;
    assert_eq!(report.survey.packs_read, nodes + 1, "only the new one");
    stage.later(25 * DAY);
    let report = check(&stage, aged(30)).await;
    assert_eq!(report.survey.packs_read, nodes + 1, "only the old one");
    // Another machine, with nothing in its cache, knows it too.
    let other = repo::open(stage.repository.store()).await.unwrap();
    let report = ops::check(&stage.context, &other, aged(30)).await.unwrap();
    assert_eq!(report.survey.packs_read, nodes);
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

/// By a clock that was far ahead nothing counts as verified.
#[tokio::test]
async fn a_clock_that_was_ahead_does_not_keep_packs_from_being_read() {
    let stage = stage().await;
    stage.take(&things(0)).await;
    let nodes = node_packs(&stage).await;
    stage.later(5_000 * DAY);
    check(&stage, aged(30)).await;
    stage.later(-5_000 * DAY);
    assert_eq!(check(&stage, aged(30)).await.survey.packs_read, nodes + 1);
    assert_eq!(check(&stage, aged(30)).await.survey.packs_read, nodes);
}

/// Lets a minute pass for each pack that is read.
struct SlowDisk(Arc<ManualClock>, Context);

impl Observer for SlowDisk {
    fn on(&self, event: &Event) {
        if matches!(event, Event::Progress { bytes } if *bytes > 1 << 20) {
            let now = self.1.clock.now();
            self.0.set(holdall::context::Time {
                seconds: now.seconds + 60,
                ..now
            });
        }
    }
}

#[tokio::test]
async fn a_check_stops_in_time_and_the_next_one_goes_on() {
    let stage = stage().await;
    for n in 0..5 {
        stage.take(&things(n * 10)).await;
    }
    let nodes = node_packs(&stage).await;
    let packs = data_packs(&stage.world).await.len() as u64;
    assert_eq!(packs, 5);
    let mut context = stage.context.clone();
    context.observer = Arc::new(SlowDisk(stage.clock.clone(), stage.context.clone()));
    let request = CheckRequest {
        read_data: ReadData::All,
        max_age: None,
        max_duration: Some(119),
    };
    // Two of five, two of five, and the last one with the one that was verified longest ago.
    for (left, never) in [(3, 3), (3, 1), (3, 0)] {
        let repository = repo::open(stage.repository.store()).await.unwrap();
        let report = ops::check(&context, &repository, request).await.unwrap();
        assert_eq!(report.survey.packs_read, nodes + 2);
        assert_eq!(report.survey.packs_left, left);
        assert_eq!(report.survey.reads.unwrap().never, never);
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    }
    // No time at all: the structure is looked at nevertheless.
    let none = CheckRequest {
        max_duration: Some(0),
        ..request
    };
    let report = ops::check(&context, &stage.repository, none).await.unwrap();
    assert_eq!((report.survey.packs_read, report.survey.packs_left), (nodes, 5));
    assert_eq!(report.snapshots, 5);
}

#[tokio::test]
async fn without_permission_to_write_a_check_is_the_same_and_says_that_it_cannot_remember() {
    let stage = stage().await;
    stage.take(&things(0)).await;
    let before = stage.world.objects().await;
    let faults = stage.world.faults();
    faults.plan(
        Plan::new(When::Before, Failure::Status(403, "AccessDenied"))
            .op(Op::Put)
            .forever(),
    );
    let refusing = over(Arc::new(faults), &stage.context);
    for store in [stage.repository.store().read_only(), refusing] {
        let repository = repo::open(&store).await.unwrap();
        let report = ops::check(&stage.context, &repository, aged(30)).await.unwrap();
        assert!(!report.is_damaged());
        assert_eq!(report.survey.packs_read, report.survey.packs);
        let [note] = report.findings.as_slice() else {
            panic!("{:?}", report.findings);
        };
        assert!(note.what.contains("could not be remembered"), "{}", note.what);
        assert_eq!(stage.world.objects().await, before);
    }
}

#[tokio::test]
async fn a_damaged_pack_is_named_with_the_snapshots_and_the_paths_that_it_hits() {
    let stage = stage().await;
    let first = stage.take(&things(0)).await;
    let [pack] = data_packs(&stage.world).await.try_into().unwrap();
    // The second snapshot shares what the first one holds, the third one shares nothing.
    let mut more = things(0);
    more.contents.insert("files/900".into(), noise(100, 900).into());
    let second = stage.take(&more).await;
    let third = stage.take(&things(50)).await;
    flip(&stage.world, &pack).await;
    let report = check(&stage, aged(0)).await;
    let errors = errors(&report);
    let found = errors.iter().find(|finding| finding.object == pack).unwrap();
    let hit = found.hit.as_ref().unwrap();
    let mut named = hit.snapshots.clone();
    named.sort_unstable();
    let mut expected = vec![first.name(), second.name()];
    expected.sort_unstable();
    assert_eq!((named, hit.snapshots_all), (expected.clone(), 2));
    assert_eq!(hit.paths, ["/000", "/001", "/002", "/003"]);
    assert!(!hit.more_paths);
    let mut broken = report.snapshots_hit.clone();
    broken.sort_unstable();
    assert_eq!(broken, expected);
    assert!(!broken.contains(&third.name()));
    // The pack is there and as long as it was; but it was set aside, and is looked at.
    let again = check(&stage, CheckRequest::default()).await;
    let found = again.findings.iter().find(|finding| finding.object == pack);
    assert_eq!(found.unwrap().hit.as_ref().unwrap().snapshots_all, 2);
}

/// Of a pack that is gone the tree of every snapshot that shares it is told, though each node is read once.
#[tokio::test]
async fn what_many_snapshots_share_hits_each_of_them() {
    let stage = stage().await;
    let contents = (0..2_000).map(|n| (format!("files/{n:05}"), noise(700, n)));
    let mut all = Things::new(contents);
    let mut sids = Vec::new();
    for n in 0..6_u64 {
        all.contents
            .insert("files/zzz".into(), noise(700, 1 << 40 | n).into());
        sids.push(stage.take(&all).await.name());
    }
    let objects = stage.world.objects().await;
    let data = objects.iter().filter(|(name, _)| name.starts_with("packs/"));
    let (pack, _) = data.max_by_key(|(_, bytes)| bytes.len()).unwrap();
    stage.world.remove(pack).await;
    let report = check(&stage, CheckRequest::default()).await;
    let found = errors(&report)
        .into_iter()
        .find(|f| f.object == *pack)
        .unwrap()
        .clone();
    let hit = found.hit.unwrap();
    sids.sort_unstable();
    let mut named = hit.snapshots;
    named.sort_unstable();
    assert_eq!(named, sids);
    assert!(hit.more_paths && hit.paths.len() == 20, "{:?}", hit.paths);
    assert_eq!(report.snapshots_hit.len(), 6);
}

#[tokio::test]
async fn what_was_damaged_on_its_way_only_is_used_again_once_it_is_found_right() {
    let stage = stage().await;
    stage.take(&things(0)).await;
    let [pack] = data_packs(&stage.world).await.try_into().unwrap();
    let whole = stage.world.get(&pack).await.unwrap();
    flip(&stage.world, &pack).await;
    assert!(check(&stage, aged(0)).await.is_damaged());
    stage.world.remove(&pack).await;
    stage.world.set(&pack, whole).await;
    // Set aside: the same content is stored again.
    let again = |things: Things| async move {
        let report = crate::world::take(&stage.context, &stage.repository, &things).await;
        (report.unwrap().snapshot.statistics.bytes_new, stage)
    };
    // A parent that is in doubt is not rested on either.
    let (stored, stage) = again(things(0)).await;
    assert_eq!(stored, 4 * 600_000);
    stage.later(10);
    assert!(!check(&stage, aged(0)).await.is_damaged());
    for pack in data_packs(&stage.world)
        .await
        .iter()
        .filter(|name| **name != pack)
    {
        stage.world.remove(pack).await;
    }
    assert!(check(&stage, CheckRequest::default()).await.is_damaged());
    let report = crate::world::take(&stage.context, &stage.repository, &things(0)).await;
    assert_eq!(
        report.unwrap().snapshot.statistics.bytes_new,
        0,
        "the first copy serves again"
    );
}

#[tokio::test]
async fn one_object_that_the_disk_does_not_give_does_not_end_the_check() {
    let stage = stage().await;
    let sid = stage.take(&things(0)).await;
    let mut packs = data_packs(&stage.world).await;
    stage.take(&things(10)).await;
    let mut other = data_packs(&stage.world).await;
    other.retain(|pack| *pack != packs[0]);
    packs.append(&mut other);
    let faults = stage.world.faults();
    for name in [packs[0].clone(), ObjectName::Session(sid).to_string()] {
        faults.plan(
            Plan::new(When::Before, Failure::System(5))
                .op(Op::Get)
                .name(name)
                .forever(),
        );
    }
    let store = over(Arc::new(faults.clone()), &stage.context);
    let repository = repo::open(&store).await.unwrap();
    let report = ops::check(&stage.context, &repository, aged(0)).await.unwrap();
    let named: Vec<_> = errors(&report)
        .iter()
        .map(|finding| finding.object.clone())
        .collect();
    assert!(named.contains(&packs[0]), "{named:?}");
    assert!(named.contains(&ObjectName::Session(sid).to_string()), "{named:?}");
    assert!(!named.contains(&packs[1]), "{named:?}");
    assert_eq!(report.snapshots_hit, [sid.name()]);
    // A store that gives nothing at all is not damaged.
    faults.plan(Plan::new(When::Before, Failure::Unreachable).forever());
    let error = ops::check(&stage.context, &repository, aged(0))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), holdall::error::ErrorKind::Unreachable);
}

/// What a collector takes between the look at the structure and the reading of data is not missing.
#[tokio::test]
async fn a_collection_that_ends_during_a_check_is_no_damage() {
    let stage = stage().await;
    let first = stage.take(&things(0)).await;
    stage.take(&things(50)).await;
    stage.later(10);
    let survey = Survey::structure(&stage.repository, &stage.context, true).await;
    let mut survey = survey.unwrap();
    stage.hand().forget(first).await;
    stage.later(2 * DAY);
    let before = stage.packs().await.0;
    assert!(stage.prune(&all()).await.unwrap().round.is_some());
    assert!(stage.packs().await.0 < before);
    let request = DataRequest {
        read_data: ReadData::All,
        ..DataRequest::default()
    };
    survey.read_data(request).await.unwrap();
    let report = survey.finish().await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

async fn without_key(world: &World, context: &Context) -> CheckReport {
    let store = world.store(context).read_only();
    ops::check_without_key(context, &store, ReadData::All)
        .await
        .unwrap()
}

/// A repository with an object of every kind that this program writes.
async fn with_everything() -> (Stage, Objects) {
    let stage = stage().await;
    let first = stage.take(&things(0)).await;
    stage.take(&things(2)).await;
    stage.hand().forget(first).await;
    check(&stage, aged(0)).await;
    stage.later(2 * DAY);
    stage.prune(&all()).await.unwrap();
    let kept = stage.take(&things(50)).await;
    stage.hand().forget(kept).await;
    let objects = stage.world.objects().await;
    for kind in [
        "config/",
        "keys/",
        "packs/",
        "index/s/",
        "index/g/",
        "sessions/",
        "snapshots/",
        "forgets/",
        "gc/",
        "ledger/",
    ] {
        assert!(objects.keys().any(|name| name.starts_with(kind)), "no {kind}");
    }
    (stage, objects)
}

#[tokio::test]
async fn without_a_key_every_changed_byte_is_found() {
    let (stage, objects) = with_everything().await;
    let world = &stage.world;
    let report = without_key(world, &stage.context).await;
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(report.survey.objects, objects.len() as u64);
    assert_eq!(report.survey.packs_read, report.survey.packs);
    assert!(report.survey.packs > 0);
    for (name, whole) in &objects {
        let last = whole.len() - 1;
        for at in [0, 7, 8, 10, 30, last / 2, last] {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 0x10;
            world.set(name, bytes.into()).await;
            let report = without_key(world, &stage.context).await;
            let found = errors(&report);
            assert!(
                found.len() == 1 && found[0].object == *name,
                "{name} byte {at}: {found:?}"
            );
        }
        world.set(name, whole.slice(..last)).await;
        assert_eq!(
            errors(&without_key(world, &stage.context).await).len(),
            1,
            "{name} cut off"
        );
        world.set(name, whole.clone()).await;
    }
}

#[tokio::test]
async fn without_a_key_objects_under_other_names_and_what_must_stay_are_told() {
    let (stage, objects) = with_everything().await;
    let world = &stage.world;
    let of = |start: &str| {
        let names = objects.keys().filter(|name| name.starts_with(start));
        names.cloned().collect::<Vec<_>>()
    };
    // Two packs that stand in each other's place; a session's run under another session.
    let packs = of("packs/");
    world.set(&packs[0], objects[&packs[1]].clone()).await;
    let run = of("index/s/").remove(0);
    let (_, id) = run.rsplit_once('/').unwrap();
    let stray = format!("index/s/0000000000000009-{}/{id}", "7".repeat(32));
    world.set(&stray, objects[&run].clone()).await;
    let seal = of("gc/").into_iter().find(|name| name.ends_with("seal")).unwrap();
    let later = seal.replace("0000001", "0000003");
    world.set(&later, objects[&seal].clone()).await;
    world.remove("config/0").await;
    world.remove("keys/0").await;
    world.set("notes.txt", "mine".into()).await;
    let report = without_key(world, &stage.context).await;
    let named: Vec<_> = errors(&report)
        .iter()
        .map(|finding| finding.object.as_str())
        .collect();
    let missing = seal.replace("0000001", "0000002");
    for name in [&packs[0], &stray, &missing, "config/0", "keys/"] {
        assert!(named.contains(&name), "{name} is not among {named:?}");
    }
    assert_eq!(named.len(), 5, "{named:?}");
    let notes = report.findings.iter().filter(|finding| !finding.is_error);
    assert_eq!(
        notes.map(|n| n.object.as_str()).collect::<Vec<_>>(),
        ["notes.txt"]
    );

    let empty = World::new();
    let store = empty.store(&stage.context).read_only();
    let error = ops::check_without_key(&stage.context, &store, ReadData::All)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), holdall::error::ErrorKind::NoRepository);
    let part = ReadData::Part {
        part: 1,
        of: 1_000_000,
    };
    let store = world.store(&stage.context).read_only();
    let report = ops::check_without_key(&stage.context, &store, part)
        .await
        .unwrap();
    assert_eq!(report.survey.packs_read, 0);
    drop::<Repository>(stage.repository);
}
