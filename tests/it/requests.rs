//! What each operation asks of the store: the table of the README's costs. None depends on the number of chunks.

use crate::collect::all;
use crate::world::{Things, World, contents, noise, over, seeded, snapshots, take};
use holdall::context::{Clock, Context};
use holdall::ops;
use holdall::repository::Repository;
use holdall::testkit::rounds::Hand;
use holdall::testkit::{FaultStore, Op, repo};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The requests since the last look, as `12 put packs`, sorted.
fn asked(faults: &FaultStore) -> String {
    let mut counts: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for call in faults.calls() {
        let op = match call.op {
            Op::Put => "put",
            Op::Get => "get",
            Op::Head => "head",
            Op::List => "list",
            Op::Delete => "delete",
        };
        let place = call.name.split('/').next().unwrap_or_default().to_owned();
        *counts.entry((op, place)).or_default() += 1;
    }
    faults.forget_calls();
    let lines: Vec<_> = counts
        .iter()
        .map(|((op, place), count)| format!("{count} {op} {place}"))
        .collect();
    lines.join(", ")
}

struct Stage {
    context: Context,
    faults: FaultStore,
    repository: Repository,
    later: Box<dyn Fn()>,
}

async fn stage() -> Stage {
    let world = World::new();
    let (context, clock) = seeded(7);
    let faults = world.faults();
    let repository = repo::init(&over(Arc::new(faults.clone()), &context), &context)
        .await
        .unwrap();
    let later = Box::new(move || {
        let mut now = clock.now();
        now.seconds += 10;
        clock.set(now);
    });
    Stage {
        context,
        faults,
        repository,
        later,
    }
}

/// The requests of each operation on a repository whose snapshots have `entries` entries.
async fn operations(entries: usize) -> BTreeMap<&'static str, String> {
    let stage = stage().await;
    let (context, repository, faults) = (&stage.context, &stage.repository, &stage.faults);
    let mut table = BTreeMap::from([("init", asked(faults))]);
    let first = Things::new((0..entries).map(|n| (format!("{n:04}"), noise(3000, n as u64))));
    (stage.later)();
    let mut same = vec![take(context, repository, &first).await.unwrap().snapshot.sid];
    table.insert("snapshot, first", asked(faults));
    (stage.later)();
    same.push(take(context, repository, &first).await.unwrap().snapshot.sid);
    table.insert("snapshot, unchanged", asked(faults));
    let store = over(Arc::new(faults.clone()), context);
    (stage.later)();
    let other = repo::open(&store).await.unwrap();
    same.push(take(context, &other, &first).await.unwrap().snapshot.sid);
    table.insert("snapshot, unchanged, on another machine", asked(faults));
    let mut second = first.clone();
    for n in 0..entries / 10 {
        let changed = noise(3000, 100_000 + n as u64);
        second.contents.insert(format!("{n:04}"), changed.into());
    }
    (stage.later)();
    take(context, repository, &second).await.unwrap();
    table.insert("snapshot, a tenth changed", asked(faults));
    let other = repo::open(&store).await.unwrap();
    let found = snapshots(context, &other).await.unwrap();
    table.insert("list", asked(faults));
    assert_eq!(contents(found.last().unwrap()).await.unwrap(), second.contents);
    table.insert("restore, after list", asked(faults));
    let other = repo::open(&store).await.unwrap();
    faults.forget_calls();
    assert!(
        repo::check_all(context, &other)
            .await
            .unwrap()
            .findings
            .is_empty()
    );
    table.insert("check --read-data", asked(faults));
    let hand = Hand { repository, context };
    hand.forget(same[0]).await;
    table.insert("forget", asked(faults));
    hand.forget(same[1]).await;
    hand.forget(same[2]).await;
    faults.forget_calls();
    let pruned = ops::prune(context, repository, &all()).await.unwrap();
    assert!(pruned.round.is_some() && pruned.swept.bytes > 0, "{pruned:?}");
    table.insert("prune, after three snapshots were let go", asked(faults));
    ops::prune(context, repository, &all()).await.unwrap();
    table.insert("prune, the next", asked(faults));
    ops::prune(context, repository, &all()).await.unwrap();
    table.insert("prune, nothing to do", asked(faults));
    table
}

/// How many listings are among what was asked.
fn lists(asked: &str) -> usize {
    let counts = asked.split(", ").filter_map(|part| {
        let (count, rest) = part.split_once(' ')?;
        rest.starts_with("list ").then(|| count.parse::<usize>().unwrap())
    });
    counts.sum()
}

/// What every snapshot asks, however large: `protocol.md` counts the same.
const FIXED: &str = "1 get holdall.json, 1 list forgets, 4 list gc, 2 list index, 1 list ledger, 1 list snapshots, 1 put holdall.json";

#[tokio::test]
async fn no_operation_asks_the_store_once_for_each_chunk() {
    let (few, many) = (operations(30).await, operations(300).await);
    for (operation, asked) in &many {
        println!("{operation}: {asked}");
    }
    let snapshot = |kind: &str| many[format!("snapshot, {kind}").as_str()].clone();
    assert_eq!(
        snapshot("first"),
        format!("{FIXED}, 1 put index, 1 put packs, 1 put sessions, 1 put snapshots")
    );
    assert_eq!(
        snapshot("unchanged"),
        format!("{FIXED}, 1 put sessions, 1 put snapshots")
    );
    assert!(
        !many
            .iter()
            .any(|(operation, asked)| { operation.starts_with("snapshot") && asked.contains("list packs") })
    );
    assert_eq!(many["forget"], "1 put forgets");
    // The column LIST of the README. The first prune sees four snapshots for the first time.
    let columns = [
        ("snapshot, unchanged", 9),
        ("snapshot, unchanged, on another machine", 11),
        ("list", 8),
        ("prune, after three snapshots were let go", 19 + 4),
        ("prune, the next", 19),
        ("prune, nothing to do", 12),
    ];
    for (operation, expected) in columns {
        assert_eq!(
            lists(&many[operation]),
            expected,
            "{operation}: {}",
            many[operation]
        );
    }
    // Of what is read of packs, ranges that lie side by side are read at once; how many there are varies a little.
    let varies = |operation: &str| operation.starts_with("prune") || operation.starts_with("restore");
    for (operation, asked) in many {
        if varies(operation) {
            let counts = asked.split(", ").map(|part| part.split(' ').next());
            assert!(
                counts.flatten().all(|count| count.len() == 1),
                "{operation}: {asked}"
            );
        } else {
            assert_eq!(few[operation], asked, "{operation}");
        }
    }
}
