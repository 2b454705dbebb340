//! A forget that is gone at any call to the store leaves a sound repository, in which each snapshot is there or let go, and can be done again.

use crate::collect::{all, stage};
use crate::lost_records::forget;
use crate::repair::damage;
use crate::world::{Objects, START, Things, World, assert_whole, noise, over, seeded};
use holdall::context::{Context, Time};
use holdall::format::id::SessionId;
use holdall::ops::{self, ForgetRequest, Policy};
use holdall::testkit::{When, repo};
use std::sync::Arc;

fn context(seed: u64) -> Context {
    let (context, clock) = seeded(seed);
    let seconds = START.seconds + 100_000;
    clock.set(Time { seconds, nanos: 0 });
    context
}

fn version(n: u64) -> Things {
    Things::new([("a", noise(60_000, n)), ("b", noise(20_000, 7))])
}

async fn base() -> (Objects, Vec<SessionId>) {
    let stage = stage().await;
    let mut sids = Vec::new();
    for n in 0..4 {
        sids.push(stage.take(&version(n)).await);
    }
    (stage.world.objects().await, sids)
}

/// Gives how many calls one takes. A collection notes when it first saw snapshots, in the order of their files here: that is no order for a policy.
async fn crash_everywhere(
    base: &Objects,
    (request, prunes): (&ForgetRequest, bool),
    left: &[&Things],
    all_of: &[&Things],
) -> u64 {
    let (world, whole) = (World::of(base).await, context(2));
    let faults = world.faults();
    let repository = repo::open(&over(Arc::new(faults.clone()), &whole)).await.unwrap();
    faults.forget_calls();
    let report = ops::forget(&whole, &repository, request).await.unwrap();
    assert_eq!(report.forgotten as usize, all_of.len() - left.len());
    let calls = faults.calls().len() as u64;
    for when in [When::Before, When::After] {
        for n in 0..calls {
            let at = format!("call {n} {when:?}");
            let world = World::of(base).await;
            let faults = world.faults();
            let crashing = context(2);
            let repository = repo::open(&over(Arc::new(faults.clone()), &crashing))
                .await
                .unwrap();
            faults.crash(n, when);
            let crashed = ops::forget(&crashing, &repository, request).await;
            assert!(crashed.is_err(), "{at}");
            let context = context(3);
            let store = world.store(&context);
            let there = assert_whole(&context, &store, all_of).await;
            assert!((left.len()..=all_of.len()).contains(&there), "{at}: {there}");
            let repository = repo::open(&store).await.unwrap();
            if prunes && n % 2 == 0 {
                // What was let go goes, and nothing else.
                ops::prune(&context, &repository, &all()).await.unwrap();
                assert_eq!(assert_whole(&context, &store, all_of).await, there, "{at}");
            }
            let again = ops::forget(&context, &repository, request).await;
            if there > left.len() {
                assert_eq!(again.unwrap().forgotten as usize, there - left.len(), "{at}");
            }
            assert_eq!(assert_whole(&context, &store, left).await, left.len(), "{at}");
            for _ in 0..3 {
                ops::prune(&context, &repository, &all()).await.unwrap();
            }
            assert_eq!(assert_whole(&context, &store, left).await, left.len(), "{at}");
            assert!(
                !world
                    .objects()
                    .await
                    .keys()
                    .any(|name| name.starts_with("forgets/")),
                "{at}"
            );
        }
    }
    calls
}

#[tokio::test]
async fn a_forget_by_a_policy_may_crash_anywhere() {
    let (base, _) = base().await;
    let versions: Vec<Things> = (0..4).map(version).collect();
    let versions: Vec<&Things> = versions.iter().collect();
    let request = ForgetRequest {
        named: Vec::new(),
        policy: Policy {
            last: Some(1),
            ..Policy::default()
        },
        ..forget("latest")
    };
    let calls = crash_everywhere(&base, (&request, false), &versions[3..], &versions).await;
    println!("{calls} calls");
    assert!(calls > 5, "{calls}");
}

#[tokio::test]
async fn a_forget_by_name_may_crash_anywhere() {
    let (base, sids) = base().await;
    let versions: Vec<Things> = (0..4).map(version).collect();
    let versions: Vec<&Things> = versions.iter().collect();
    let request = forget(&sids[0].name());
    let calls = crash_everywhere(&base, (&request, true), &versions[1..], &versions).await;
    println!("{calls} calls");
}

/// Its record cannot be read, so that it is not listed before or after.
#[tokio::test]
async fn a_forget_of_what_cannot_be_read_may_crash_anywhere() {
    let (base, sids) = base().await;
    let request = forget(&sids[0].name());
    let lost = World::of(&base).await;
    damage(&lost, &format!("snapshots/{}", sids[0]), 150).await;
    let base = lost.objects().await;
    let versions: Vec<Things> = (1..4).map(version).collect();
    let versions: Vec<&Things> = versions.iter().collect();
    for when in [When::Before, When::After] {
        for n in 0.. {
            let at = format!("call {n} {when:?}");
            let world = World::of(&base).await;
            let faults = world.faults();
            let crashing = context(2);
            let repository = repo::open(&over(Arc::new(faults.clone()), &crashing))
                .await
                .unwrap();
            faults.crash(n, when);
            let ended = ops::forget(&crashing, &repository, &request).await.is_ok();
            let context = context(3);
            let store = world.store(&context);
            let repository = repo::open(&store).await.unwrap();
            assert_eq!(
                ops::forget(&context, &repository, &request)
                    .await
                    .unwrap()
                    .forgotten,
                1,
                "{at}"
            );
            let mut collect = all();
            collect.options.lost.insert(sids[0].name());
            for _ in 0..3 {
                ops::prune(&context, &repository, &collect).await.unwrap();
            }
            assert_eq!(assert_whole(&context, &store, &versions).await, 3, "{at}");
            if ended {
                assert!(n > 3, "{n} calls");
                break;
            }
        }
    }
}
