//! A disk that does not give a key slot, though it gives others: who has another key goes on, and nobody is told that it opens nothing.

use crate::broken_disk::eio;
use crate::collect::{Stage, stage};
use crate::world::{World, over};
use holdall::crypto::{Secret, SlotInfo, Unlock};
use holdall::error::{ErrorKind, Result};
use holdall::ops;
use holdall::repository::{Cache, Repository};
use holdall::store::Store;
use holdall::testkit::{Failure, FaultStore, Op, Plan, When, repo};
use std::sync::Arc;

/// The secret of slot `slot`; that of slot 0 is [`repo::key`].
fn secret(slot: u8) -> Unlock {
    match slot {
        0 => repo::key(),
        _ => Unlock::KeyFile(Secret::new([slot; 32])),
    }
}

/// A repository with so many key slots.
async fn with_keys(slots: u8) -> Stage {
    let stage = stage().await;
    for slot in 1..slots {
        let info = SlotInfo {
            label: format!("key {slot}"),
            ..SlotInfo::default()
        };
        let added = stage
            .repository
            .add_key(&stage.context, &secret(slot), &info)
            .await;
        assert_eq!(added.unwrap(), u32::from(slot));
    }
    stage
}

/// The store, on a disk that does not give these objects.
fn without(stage: &Stage, names: &[&str]) -> (FaultStore, Store) {
    let faults = stage.world.faults();
    for name in names {
        faults.plan(eio(name).forever());
    }
    let store = over(Arc::new(faults.clone()), &stage.context);
    (faults, store)
}

async fn open(store: &Store, unlock: &Unlock) -> Result<Repository> {
    Repository::open(store.clone(), unlock, |_| Cache::in_memory()).await
}

/// Which of so many secrets open it.
async fn opening(world: &World, stage: &Stage, secrets: u8) -> Vec<u8> {
    let store = world.store(&stage.context);
    let mut opening = Vec::new();
    for slot in 0..secrets {
        if open(&store, &secret(slot)).await.is_ok() {
            opening.push(slot);
        }
    }
    opening
}

#[tokio::test]
async fn what_one_slot_would_open_another_opens() {
    let stage = with_keys(2).await;
    for (bad, good) in [(0, 1), (1, 0)] {
        let (_faults, store) = without(&stage, &[&format!("keys/{bad}")]);
        let opened = open(&store, &secret(good)).await.unwrap();
        assert_eq!(opened.slot(), u32::from(good));
        // That its secret is wrong nobody can tell.
        let error = open(&store, &secret(bad)).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
    }
}

#[tokio::test]
async fn the_slots_that_are_given_are_listed_and_the_other_is_named() {
    let stage = with_keys(3).await;
    let (faults, store) = without(&stage, &["keys/1"]);
    let repository = open(&store, &secret(0)).await.unwrap();
    let list = ops::list_keys(&repository).await.unwrap();
    let listed: Vec<_> = list
        .slots
        .iter()
        .map(|slot| (slot.slot, slot.info.label.as_str()))
        .collect();
    assert_eq!((list.current, listed), (0, vec![(0, ""), (2, "key 2")]));
    let [(slot, why)] = list.unread.as_slice() else {
        panic!("{list:?}")
    };
    assert_eq!((*slot, why.kind()), (1, ErrorKind::Unreadable), "{why}");
    // Where nothing is given at all, nothing is known of any.
    faults.plan(Plan::new(When::Before, Failure::System(5)).op(Op::Get).forever());
    let error = ops::list_keys(&repository).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
}

#[tokio::test]
async fn a_key_is_added_beside_one_that_is_not_given() {
    for bad in ["keys/0", "keys/1"] {
        let stage = with_keys(2).await;
        let (faults, store) = without(&stage, &[]);
        let repository = open(&store, &secret(0)).await.unwrap();
        faults.plan(eio(bad).forever());
        let added = repository
            .add_key(&stage.context, &secret(2), &SlotInfo::default())
            .await;
        assert_eq!(added.unwrap(), 2, "{bad}");
        assert_eq!(opening(&stage.world, &stage, 3).await, [0, 1, 2]);
    }
}

/// Of seventeen the last would never be tried.
#[tokio::test]
async fn what_is_not_given_may_be_a_password_and_counts_as_one() {
    let stage = with_keys(16).await;
    let (faults, store) = without(&stage, &[]);
    let repository = open(&store, &secret(0)).await.unwrap();
    faults.plan(eio("keys/").forever());
    let password = Unlock::Password(b"correct horse".to_vec().into());
    let add = |unlock: Unlock| {
        let (context, repository) = (&stage.context, &repository);
        async move { repository.add_key(context, &unlock, &SlotInfo::default()).await }
    };
    assert_eq!(add(password).await.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(add(secret(16)).await.unwrap(), 16);
}

#[tokio::test]
async fn a_key_is_removed_as_long_as_another_is_known_to_open() {
    let stage = with_keys(3).await;
    let (_faults, store) = without(&stage, &["keys/1"]);
    let repository = open(&store, &secret(0)).await.unwrap();
    repository.remove_key(2).await.unwrap();
    // Whether slot 1 opens anything, the disk does not tell.
    let error = repository.remove_key(0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(opening(&stage.world, &stage, 3).await, [0, 1]);
    // Who must not have it any more is locked out, whatever the disk does.
    repository.remove_key(1).await.unwrap();
    assert_eq!(opening(&stage.world, &stage, 3).await, [0]);
}

/// Two at once, of which each leaves what the other one removes.
#[tokio::test]
async fn a_key_that_is_not_given_is_not_removed_with_the_last_that_is_known_to_open() {
    let stage = with_keys(2).await;
    let (faults, store) = without(&stage, &[]);
    let repository = open(&store, &secret(0)).await.unwrap();
    faults.plan(eio("keys/1").forever());
    faults.forget_calls();
    // Before the slot is deleted, somebody removes the other.
    let world = stage.world.clone();
    let delete = {
        let probe = World::of(&stage.world.objects().await).await;
        let counted = probe.faults();
        let store = over(Arc::new(counted.clone()), &stage.context);
        let repository = open(&store, &secret(0)).await.unwrap();
        counted.plan(eio("keys/1").forever());
        counted.forget_calls();
        repository.remove_key(1).await.unwrap();
        let calls = counted.calls();
        calls.iter().position(|call| call.op == Op::Delete).unwrap() as u64
    };
    faults.meanwhile(delete, Box::pin(async move { world.remove("keys/0").await }));
    let error = repository.remove_key(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(opening(&stage.world, &stage, 2).await, [0]);
}

#[tokio::test]
async fn a_key_is_put_back_where_nobody_can_tell_whether_another_is_left() {
    let stage = with_keys(2).await;
    let (faults, store) = without(&stage, &[]);
    let repository = open(&store, &secret(0)).await.unwrap();
    // Both slots and the one to put back are read before it is deleted.
    let fails = Plan::new(When::Before, Failure::System(5)).op(Op::Get);
    faults.plan(fails.skip(3).forever());
    let error = repository.remove_key(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
    assert!(error.advice().unwrap().contains("was put back"), "{error:?}");
    assert_eq!(faults.count(Op::Delete), 1);
    assert_eq!(opening(&stage.world, &stage, 2).await, [0, 1]);
}

#[tokio::test]
async fn a_secret_is_changed_though_its_slot_is_not_given_any_more() {
    let stage = with_keys(1).await;
    let (faults, store) = without(&stage, &[]);
    let repository = open(&store, &secret(0)).await.unwrap();
    faults.plan(eio("keys/0").forever());
    let changed = ops::change_key(&stage.context, &repository, secret(1), "host").await;
    assert_eq!(changed.unwrap().slot, 1);
    assert_eq!(opening(&stage.world, &stage, 2).await, [1]);
}

#[tokio::test]
async fn a_replica_is_made_without_a_key_that_is_not_given_and_says_so() {
    let stage = with_keys(3).await;
    let (faults, store) = without(&stage, &["keys/1"]);
    let repository = open(&store, &secret(0)).await.unwrap();
    let there = World::new();
    let make = || {
        let (repository, context) = (&repository, &stage.context);
        let store = there.store(context);
        async move {
            repository
                .make_replica(store, context, false, Cache::in_memory)
                .await
        }
    };
    // With none that is known to open, nobody might be able to open it.
    faults.plan(eio("keys/").forever());
    let error = make().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
    assert!(there.objects().await.is_empty());
    faults.heal();
    faults.plan(eio("keys/1").forever());
    let (_, left_out) = make().await.unwrap();
    let left_out: Vec<_> = left_out
        .iter()
        .map(|(name, why)| (name.to_string(), why.kind()))
        .collect();
    assert_eq!(left_out, [("keys/1".to_owned(), ErrorKind::Unreadable)]);
    assert_eq!(opening(&there, &stage, 3).await, [0, 2]);
}
