//! Records of references: what a collection remembers for those that come after it decides what they cost, and nothing else.

use crate::collect::{Stage, all, stage};
use crate::world::{Things, World, noise};
use holdall::format::id::SessionId;
use holdall::format::layout::{ObjectName, Prefix};
use holdall::ops::{self, CollectPlan, PruneRequest, Worth};
use holdall::repository::collect::Round;
use holdall::testkit::repo;
use proptest::prelude::*;

/// Entries whose contents change by themselves, and one content that is long enough for lists, twice.
#[derive(Clone)]
struct Rows {
    entries: Vec<u64>,
    long: u64,
}

impl Rows {
    fn new(entries: u64) -> Self {
        Self {
            entries: (0..entries).collect(),
            long: 0,
        }
    }

    fn change(&mut self, at: usize, seed: u64) {
        let at = at % self.entries.len();
        self.entries[at] = seed << 32 | at as u64;
    }

    fn things(&self) -> Things {
        let entries = self.entries.iter().enumerate();
        let entries = entries.map(|(at, seed)| (format!("{at:05}"), noise(600, *seed)));
        let long = noise(2_500_000, 1 << 60 | self.long);
        let twice = [("long/a".to_owned(), long.clone()), ("long/b".to_owned(), long)];
        Things::new(entries.chain(twice))
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// So many entries change, from this one on, so far apart; and the long content if it is told.
    Snapshot(usize, usize, usize, bool),
    Forget(usize),
    Prune(Worth),
}

fn step() -> impl Strategy<Value = Step> {
    let worth = (1u32..6, prop_oneof![Just(3), Just(40), Just(400), Just(100_000)]);
    prop_oneof![
        3 => (0usize..12, 0usize..900, 1usize..300, any::<bool>())
            .prop_map(|(n, from, by, long)| Step::Snapshot(n, from, by, long)),
        1 => any::<usize>().prop_map(Step::Forget),
        2 => worth.prop_map(|(nodes, references)| Step::Prune(Worth { nodes, references })),
    ]
}

fn request(worth: Worth) -> PruneRequest {
    let mut request = all();
    request.options.worth = worth;
    request
}

/// What a round would do here, to the byte, and all that it says. (What it says of each snapshot goes by the store's times, which a copy of the
/// objects has not.)
async fn plan(stage: &Stage, world: &World) -> ([u64; 9], CollectPlan) {
    let repository = repo::open(&world.store(&stage.context)).await.unwrap();
    let mut request = all();
    request.options.dry_run = true;
    let plan = ops::prune(&stage.context, &repository, &request)
        .await
        .unwrap()
        .plan;
    let figures = [
        plan.snapshots_kept,
        plan.packs,
        plan.pack_bytes,
        plan.dead_packs,
        plan.dead_bytes,
        plan.repack_packs,
        plan.repack_bytes,
        plan.copied_bytes,
        plan.unused_bytes,
    ];
    (figures, plan)
}

/// What a round would do if nothing were remembered.
async fn plan_from_nothing(stage: &Stage) -> ([u64; 9], CollectPlan) {
    let mut objects = stage.world.objects().await;
    objects.retain(|name, _| !name.starts_with("refs/"));
    plan(stage, &World::of(&objects).await).await
}

async fn go(steps: &[Step]) {
    let stage = stage().await;
    let mut rows = Rows::new(900);
    let mut kept = vec![(stage.take(&rows.things()).await, rows.things())];
    for (number, step) in (1..).zip(steps) {
        match step {
            Step::Snapshot(changes, from, by, long) => {
                (0..*changes).for_each(|n| rows.change(from + n * by, number));
                rows.long += u64::from(*long);
                kept.push((stage.take(&rows.things()).await, rows.things()));
            }
            // The newest one of a source is retained.
            Step::Forget(which) if kept.len() > 1 => {
                let (sid, _) = kept.remove(which % (kept.len() - 1));
                stage.hand().forget(sid).await;
            }
            Step::Forget(_) => {}
            Step::Prune(worth) => {
                stage.prune(&request(*worth)).await.unwrap();
            }
        }
        let (with, _) = plan(&stage, &stage.world).await;
        let (without, _) = plan_from_nothing(&stage).await;
        assert_eq!(with, without, "after step {number} of {steps:?}");
    }
    stage.prune(&request(Worth::default())).await.unwrap();
    let things: Vec<&Things> = kept.iter().map(|(_, things)| things).collect();
    let store = stage.world.store(&stage.context);
    let whole = crate::world::assert_whole(&stage.context, &store, &things).await;
    assert_eq!(whole, kept.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_remembered_changes_no_plan(steps in prop::collection::vec(step(), 1..16)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(go(&steps));
    }
}

/// Snapshots of a tree of some 30 nodes, most of which change each time; and what a plan reads after one more.
async fn read_after_one_more(snapshots: u64) -> (Stage, (SessionId, Rows), CollectPlan) {
    let stage = stage().await;
    let mut rows = Rows::new(6_000);
    let mut change = |number: u64| {
        (0..20).for_each(|n| rows.change(n * 300 + 7 * usize::try_from(number).unwrap(), number));
        rows.clone()
    };
    for number in 1..=snapshots {
        stage.take(&change(number).things()).await;
    }
    let first = stage.prune(&all()).await.unwrap().plan;
    assert!(first.nodes_read > 20 * snapshots, "{first:?}");
    let last = change(snapshots + 1);
    let newest = stage.take(&last.things()).await;
    let (_, plan) = plan(&stage, &stage.world).await;
    (stage, (newest, last), plan)
}

#[tokio::test]
async fn a_collection_reads_what_is_new_however_many_snapshots_there_are() {
    let (_, _, few) = read_after_one_more(3).await;
    let (stage, (newest, mut rows), many) = read_after_one_more(12).await;
    assert_eq!((few.references_used, many.references_used), (3, 12));
    assert!((20..60).contains(&few.nodes_read), "{few:?}");
    assert!((20..60).contains(&many.nodes_read), "{many:?}");

    // The snapshot goes that has in its record what the others share: that is read, and then told by others.
    stage.prune(&all()).await.unwrap();
    rows.change(5, 1_000);
    stage.take(&rows.things()).await;
    stage.hand().forget(newest).await;
    let mut read = Vec::new();
    for number in 1..5 {
        rows.change(5, 1_000 + number);
        stage.take(&rows.things()).await;
        read.push(stage.prune(&all()).await.unwrap().plan.nodes_read);
    }
    assert!(read.last().unwrap() < &16, "{read:?}");
    let (with, _) = plan(&stage, &stage.world).await;
    let (without, walked) = plan_from_nothing(&stage).await;
    assert_eq!((with, walked.snapshots_kept), (without, 12 + 5));
}

/// A round, whether it is worth while or not.
async fn round(stage: &Stage, worth: Worth) -> CollectPlan {
    let options = request(worth).options;
    // Without what another one has at hand.
    let repository = repo::open(&stage.world.store(&stage.context)).await.unwrap();
    let round = Round::begin(&repository, &stage.context, options).await.unwrap();
    let plan = round.plan().clone();
    let mut waiting = round.condemn().await.unwrap();
    assert!(waiting.settle().await.unwrap());
    let sealed = waiting.rescue().await.unwrap().seal().await.unwrap();
    sealed.sweep().await.unwrap();
    plan
}

async fn records(stage: &Stage) -> Vec<ObjectName> {
    stage.hand().names(Prefix::Refs).await
}

#[tokio::test]
async fn records_that_could_not_be_better_are_left_alone() {
    let stage = stage().await;
    let mut rows = Rows::new(1_500);
    let mut sids = Vec::new();
    for number in 1..6 {
        (0..6).for_each(|n| rows.change(n * 240 + 7 * usize::try_from(number).unwrap(), number));
        sids.push(stage.take(&rows.things()).await);
    }
    stage.hand().forget(sids[1]).await;
    stage.hand().forget(sids[3]).await;
    // What does not fit into one record is read again by each round, whatever is done about it.
    for references in [3, 60, 200, 700, 100_000] {
        let worth = Worth { nodes: 2, references };
        let mut last = Vec::new();
        for _ in 0..5 {
            let read = round(&stage, worth).await.nodes_read;
            last.push((read, records(&stage).await));
        }
        assert_eq!(last[3], last[4], "{references} references");
        assert_eq!(last[2], last[3], "{references} references");
    }
}

#[tokio::test]
async fn a_tree_of_many_snapshots_is_looked_at_once() {
    let stage = stage().await;
    let rows = Rows::new(900);
    for _ in 0..4 {
        stage.take(&rows.things()).await;
    }
    let worth = Worth {
        nodes: 2,
        ..Worth::default()
    };
    round(&stage, worth).await;
    let plan = round(&stage, worth).await;
    assert_eq!((plan.references_used, plan.nodes_read), (1, 0), "{plan:?}");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_made_anew() {
    let stage = stage().await;
    let rows = Rows::new(900);
    stage.take(&rows.things()).await;
    let worth = Worth {
        nodes: 2,
        ..Worth::default()
    };
    round(&stage, worth).await;
    let names = records(&stage).await;
    assert_eq!(names.len(), 1);
    let name = names[0].to_string();
    let mut bytes = stage.world.get(&name).await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    stage.world.set(&name, bytes.into()).await;
    let mut used = Vec::new();
    for _ in 0..3 {
        used.push(round(&stage, worth).await.references_used);
    }
    assert_eq!((used, records(&stage).await), (vec![0, 0, 1], names));
    let store = stage.world.store(&stage.context);
    crate::world::assert_whole(&stage.context, &store, &[&rows.things()]).await;
}
