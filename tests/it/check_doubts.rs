//! Checks of packs that were set aside, of deltas whose bases are lost, and of ledgers that cannot be read.

use crate::check::{aged, check, data_packs, errors, flip, things};
use crate::collect::{Stage, all, stage};
use crate::world::{Things, World, noise, over};
use holdall::error::ErrorKind;
use holdall::format::id::{ObjectId, SessionId};
use holdall::format::index::BlobKind;
use holdall::format::layout::{ObjectName, Prefix};
use holdall::ops::{self, CheckRequest, RepairRequest};
use holdall::repository::{Finding, PacksKnown, ReadData};
use holdall::testkit::{Failure, Op, Plan, When, repo};
use std::collections::BTreeSet;
use std::sync::Arc;

fn plain() -> CheckRequest {
    CheckRequest::default()
}

async fn known(stage: &Stage) -> PacksKnown {
    let repository = repo::open(&stage.world.store(&stage.context)).await.unwrap();
    let view = repository.view(&stage.context).await.unwrap();
    let now = stage.context.clock.now();
    repository.packs_known(&view, now).await.unwrap()
}

fn of<'a>(findings: &'a [Finding], object: &str) -> Vec<&'a Finding> {
    findings.iter().filter(|found| found.object == object).collect()
}

fn id(pack: &str) -> ObjectId {
    match ObjectName::parse(pack).unwrap() {
        ObjectName::Pack(id) => id,
        name => panic!("{name} is no pack"),
    }
}

async fn packs(world: &World) -> BTreeSet<String> {
    let objects = world.objects().await;
    let packs = objects.into_keys().filter(|name| name.starts_with("packs/"));
    packs.collect()
}

#[tokio::test]
async fn a_pack_that_was_set_aside_is_told_with_what_it_hits_until_all_of_it_is_stored_elsewhere() {
    let stage = stage().await;
    let sid = stage.take(&things(0)).await;
    let [pack] = data_packs(&stage.world).await.try_into().unwrap();
    flip(&stage.world, &pack).await;
    assert!(check(&stage, aged(0)).await.is_damaged());
    let report = check(&stage, plain()).await;
    let [found] = of(&report.findings, &pack).try_into().unwrap();
    assert!(found.is_error);
    let hit = found.hit.as_ref().unwrap();
    assert_eq!(hit.snapshots, [sid.name()]);
    assert_eq!(hit.paths, ["/000", "/001", "/002", "/003"]);
    assert_eq!(report.snapshots_hit, [sid.name()]);
    let before = known(&stage).await;
    assert_eq!((before.quarantined, before.at_risk), (1, 1));

    // The next snapshot of the same heals it, and what is left of it waits for a collection.
    stage.take(&things(0)).await;
    let report = check(&stage, plain()).await;
    assert!(!report.is_damaged(), "{:?}", report.findings);
    let [found] = of(&report.findings, &pack).try_into().unwrap();
    assert!(found.what.contains("stored elsewhere"), "{}", found.what);
    assert!(found.what.contains("holdall prune"), "{}", found.what);
    let after = known(&stage).await;
    assert_eq!((after.quarantined, after.at_risk), (1, 0));
    // What is found only now is news, whatever serves instead.
    let [other] = data_packs(&stage.world)
        .await
        .into_iter()
        .filter(|name| *name != pack)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    flip(&stage.world, &other).await;
    assert!(check(&stage, aged(0)).await.is_damaged());
    assert!(
        check(&stage, plain()).await.is_damaged(),
        "each was the other's only stand-in"
    );
}

#[tokio::test]
async fn after_a_repair_a_check_finds_nothing_at_risk_and_after_a_collection_nothing_at_all() {
    let stage = stage().await;
    stage.take(&things(0)).await;
    let [pack] = data_packs(&stage.world).await.try_into().unwrap();
    let replica = World::of(&stage.world.objects().await).await;
    flip(&stage.world, &pack).await;
    let from = repo::open(&replica.store(&stage.context)).await.unwrap();
    let request = RepairRequest {
        host: "mender".into(),
        read_data: ReadData::All,
        dry_run: false,
    };
    let repaired = ops::repair(&stage.context, &stage.repository, Some(&from), &request)
        .await
        .unwrap();
    assert!(!repaired.is_damaged() && repaired.has_work(), "{repaired:?}");
    for request in [plain(), aged(0)] {
        let report = check(&stage, request).await;
        assert!(!report.is_damaged(), "{:?}", report.findings);
        assert_eq!(of(&report.findings, &pack).len(), 1, "{:?}", report.findings);
    }
    stage.prune(&all()).await.unwrap();
    assert!(stage.world.get(&pack).await.is_none());
    assert!(check(&stage, aged(0)).await.findings.is_empty());
}

/// What no snapshot needs is not stored again: a damaged pack of it is no risk, unless a run that is under way may rest on it.
#[tokio::test]
async fn what_no_snapshot_needs_of_a_pack_that_was_set_aside_is_a_risk_only_while_a_run_is_open() {
    let stage = stage().await;
    let first = stage.take(&things(0)).await;
    let [pack] = data_packs(&stage.world).await.try_into().unwrap();
    flip(&stage.world, &pack).await;
    check(&stage, aged(0)).await;
    // Half of it is stored again.
    let half = Things::new(
        things(0)
            .contents
            .into_iter()
            .take(2)
            .map(|(n, b)| (n, b.to_vec())),
    );
    stage.take(&half).await;
    stage.hand().forget(first).await;
    assert_eq!(known(&stage).await.at_risk, 1);
    let report = check(&stage, plain()).await;
    assert!(!report.is_damaged(), "{:?}", report.findings);
    let [found] = of(&report.findings, &pack).try_into().unwrap();
    assert!(found.what.contains("no snapshot needs"), "{}", found.what);
    let open = stage.hand().session(0).await;
    let report = check(&stage, plain()).await;
    let [found] = of(&report.findings, &pack).try_into().unwrap();
    assert!(
        found.is_error && found.what.contains("under way"),
        "{}",
        found.what
    );
    stage.hand().fence(open).await;
    assert!(!check(&stage, plain()).await.is_damaged());
}

/// A snapshot, and one that stores what differs from it: the pack with the base and the one with the delta.
async fn with_a_delta(stage: &Stage) -> (SessionId, String, String) {
    let mut content = noise(300_000, 1);
    let sid = stage.take(&Things::new([("a", content.clone())])).await;
    let [base] = packs(&stage.world)
        .await
        .into_iter()
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    content[150_000] ^= 1;
    stage.take(&Things::new([("a", content)])).await;
    let mut new = packs(&stage.world).await;
    new.remove(&base);
    let [delta] = new.into_iter().collect::<Vec<_>>().try_into().unwrap();
    assert!(
        stage.world.get(&delta).await.unwrap().len() < 100_000,
        "it is no delta"
    );
    (sid, base, delta)
}

#[tokio::test]
async fn a_pack_with_a_delta_whose_base_is_lost_is_not_called_verified_and_stays_set_aside() {
    let stage = stage().await;
    let (_, base, delta) = with_a_delta(&stage).await;
    check(&stage, aged(0)).await;
    assert_eq!(known(&stage).await.reads.never, 0);
    stage.hand().quarantine(&[id(&delta)]).await;
    stage.world.remove(&base).await;
    stage.later(10);
    let report = check(&stage, aged(0)).await;
    let named: Vec<_> = errors(&report).iter().map(|found| found.object.clone()).collect();
    assert!(named.contains(&base) && !named.contains(&delta), "{named:?}");
    let after = known(&stage).await;
    assert_eq!((after.quarantined, after.reads.never), (2, 2));
    let [found] = of(&report.findings, &delta).try_into().unwrap();
    assert!(found.what.contains("stays so"), "{}", found.what);
}

#[tokio::test]
async fn a_base_that_the_disk_does_not_give_is_told_of_its_own_pack() {
    let stage = stage().await;
    let (_, base, delta) = with_a_delta(&stage).await;
    let faults = stage.world.faults();
    faults.plan(
        Plan::new(When::Before, Failure::System(5))
            .op(Op::Get)
            .name(base.clone())
            .forever(),
    );
    let store = over(Arc::new(faults), &stage.context);
    // The base's pack may be read before or after, or not be among those that are to be read.
    let part = |name: &str| {
        let number = u32::from_be_bytes(id(name).0[..4].try_into().unwrap());
        ReadData::Part {
            part: number % 97 + 1,
            of: 97,
        }
    };
    for read_data in [ReadData::All, part(&delta)] {
        let repository = repo::open(&store).await.unwrap();
        let request = CheckRequest {
            read_data,
            ..CheckRequest::default()
        };
        let report = ops::check(&stage.context, &repository, request).await.unwrap();
        assert!(of(&report.findings, &delta).is_empty(), "{:?}", report.findings);
        assert!(
            report.survey.bad_packs.contains(&id(&base)),
            "{:?}",
            report.findings
        );
        assert!(!report.survey.bad_packs.contains(&id(&delta)));
    }
    let after = known(&stage).await;
    assert_eq!(
        (after.quarantined, after.reads.never),
        (1, 2),
        "nothing was proven"
    );
}

#[tokio::test]
async fn a_ledger_record_that_is_replaced_leaves_no_pack_in_use_that_it_may_have_set_aside() {
    let stage = stage().await;
    let (_, base, delta) = with_a_delta(&stage).await;
    stage.hand().quarantine(&[id(&delta)]).await;
    let record = ObjectName::Ledger(0).to_string();
    flip(&stage.world, &record).await;
    stage.world.remove(&base).await;
    let store = stage.world.store(&stage.context);
    let repository = repo::open(&store).await.unwrap();
    let report = ops::check(&stage.context, &repository, aged(0)).await.unwrap();
    assert!(!of(&report.findings, &record).is_empty(), "{:?}", report.findings);
    assert!(stage.world.get(&record).await.is_none(), "it was replaced");
    let after = known(&stage).await;
    assert!(after.damaged_ledger.is_empty());
    assert_eq!(after.quarantined, 2, "that of the delta could not be proven");
}

#[tokio::test]
async fn a_ledger_record_stays_where_nobody_can_tell_what_packs_hold() {
    let stage = stage().await;
    let (sid, ..) = with_a_delta(&stage).await;
    stage.hand().forget(sid).await;
    stage.prune(&all()).await.unwrap();
    stage.hand().quarantine(&[ObjectId([7; 32])]).await;
    let record = stage
        .hand()
        .names(Prefix::Ledger)
        .await
        .pop()
        .unwrap()
        .to_string();
    flip(&stage.world, &record).await;
    flip(&stage.world, &ObjectName::Seal(1).to_string()).await;
    let repository = repo::open(&stage.world.store(&stage.context)).await.unwrap();
    let report = ops::check(&stage.context, &repository, aged(0)).await.unwrap();
    assert!(report.is_damaged() && !report.knows_snapshots());
    assert!(stage.world.get(&record).await.is_some(), "{:?}", report.findings);
}

#[tokio::test]
async fn a_snapshot_record_that_is_damaged_leaves_unknown_which_snapshots_there_are() {
    let stage = stage().await;
    let sid = stage.take(&things(0)).await;
    stage.take(&things(50)).await;
    let report = check(&stage, plain()).await;
    assert!(report.knows_snapshots());
    flip(&stage.world, &ObjectName::Snapshot(sid).to_string()).await;
    let repository = repo::open(&stage.world.store(&stage.context)).await.unwrap();
    let report = ops::check(&stage.context, &repository, plain()).await.unwrap();
    assert!(report.is_damaged() && report.snapshots_hit.is_empty());
    assert!(!report.knows_snapshots());
}

#[tokio::test]
async fn packs_are_not_compared_with_a_view_that_a_collection_has_outlived() {
    let stage = stage().await;
    let first = stage.take(&things(0)).await;
    stage.take(&things(50)).await;
    let view = stage.repository.view(&stage.context).await.unwrap();
    let health = stage.repository.pack_health(&view).await.unwrap().unwrap();
    assert_eq!((health.wrong, health.unlisted.0), (0, 0));
    stage.hand().forget(first).await;
    stage.later(10);
    stage.prune(&all()).await.unwrap();
    assert_eq!(stage.repository.pack_health(&view).await.unwrap(), None);
    let view = stage.repository.view(&stage.context).await.unwrap();
    assert!(stage.repository.pack_health(&view).await.unwrap().is_some());
}

#[tokio::test]
async fn what_a_reader_was_told_to_avoid_it_avoids_in_every_later_view() {
    let stage = stage().await;
    let first = stage.take(&things(0)).await;
    let sid = stage.take(&things(10)).await;
    let view = stage.repository.view(&stage.context).await.unwrap();
    let reader = stage.repository.reader_of_store(&stage.context, &view);
    let packs: Vec<ObjectId> = packs(&stage.world).await.iter().map(|pack| id(pack)).collect();
    let root = view.snapshot(&sid).unwrap().root.id;
    reader.get(BlobKind::Node, &root).await.unwrap();
    reader.avoid(&packs).unwrap();
    assert_eq!(
        reader.get(BlobKind::Node, &root).await.unwrap_err().kind(),
        ErrorKind::Damaged
    );
    stage.hand().forget(first).await;
    assert!(stage.prune(&all()).await.unwrap().round.is_some());
    // The round has ended, and what the reader looks at is read anew.
    assert_eq!(
        reader.get(BlobKind::Node, &root).await.unwrap_err().kind(),
        ErrorKind::Damaged
    );
    let view = stage.repository.view(&stage.context).await.unwrap();
    let later = stage.repository.reader_of_store(&stage.context, &view);
    later.get(BlobKind::Node, &root).await.unwrap();
}
