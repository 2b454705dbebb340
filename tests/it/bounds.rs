//! What is large in a way that is easily forgotten: many large files at once, chunks of the largest size, incidents without end.

use crate::limits::{alone, memory};
use crate::world::{Things, Turn, World, assert_whole, context, names, noise, take};
use holdall::chunk::ChunkParams;
use holdall::format::cbor::Decoder;
use holdall::format::index::BlobKind;
use holdall::format::layout::ObjectName;
use holdall::format::limits;
use holdall::format::repo_config::ChunkProfile;
use holdall::repository::{Cache, InitOptions, Repository};
use holdall::testkit::repo;
use holdall::testkit::rounds::Hand;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restoring_many_large_files_stays_near_the_budget() {
    const FILES: u64 = 8;
    const LEN: usize = 20 << 20;
    if !alone("bounds::restoring_many_large_files_stays_near_the_budget") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (data, target) = (place.path().join("data"), place.path().join("out"));
    fs_err::create_dir(&data).unwrap();
    for n in 0..FILES {
        fs_err::write(data.join(format!("large-{n}")), noise(LEN, n)).unwrap();
    }
    let context = context();
    let repository = repo::init(&repo::local(&place.path().join("repo"), &context), &context).await;
    let repository = repository.unwrap();
    repo::snapshot_of(&context, &repository, &data).await.unwrap();
    // The peak so far is forgotten: only what restoring takes counts.
    fs_err::write("/proc/self/clear_refs", "5").unwrap();
    let (before, _) = memory();
    let report = repo::restore_to(&context, &repository, "latest", &data, &target)
        .await
        .unwrap();
    let (_, peak) = memory();
    assert_eq!(report.sink.written, FILES, "{report:?}");
    for n in 0..FILES {
        assert_eq!(
            fs_err::read(target.join(format!("large-{n}"))).unwrap(),
            noise(LEN, n)
        );
    }
    let (grown, budget) = (peak.saturating_sub(before), context.budget.total());
    println!(
        "restore of {FILES} large files: {} MiB, budget {} MiB",
        grown >> 20,
        budget >> 20
    );
    assert!(grown <= budget, "{grown} bytes with a budget of {budget}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_chunks_fit_the_smallest_budget() {
    let (world, context) = (World::new(), context());
    let profile = ChunkProfile {
        name: "files".into(),
        params: ChunkParams::new(1 << 20, 4 << 20, 16 << 20).unwrap(),
    };
    let options = InitOptions {
        profiles: vec![profile],
        ..repo::init_options()
    };
    let cache = Arc::new(Cache::in_memory().unwrap());
    let made = Repository::init(world.store(&context), &context, options, cache)
        .await
        .unwrap();
    // Zeros are cut at the largest size only.
    let mut things = Things::new([("noise", noise(70 << 20, 1)), ("zeros", vec![0; 70 << 20])]);
    for n in 0..40 {
        things.contents.insert(format!("z{n}"), noise(900_000, n).into());
    }
    let taken = tokio::time::timeout(
        Duration::from_secs(120),
        take(&context, &made.repository, &things),
    );
    let taken = taken.await.expect("it stands still").unwrap();
    assert!(
        taken.snapshot.statistics.blobs_new < 100,
        "{:?}",
        taken.snapshot.statistics
    );
    assert_eq!(
        assert_whole(&context, &world.store(&context), &[&things]).await,
        1
    );
}

#[tokio::test]
async fn incidents_without_end_are_all_listed_in_order() {
    const COUNT: usize = 120_000;
    let mut things = Things::new([("only", vec![1; 10]), ("then", vec![2; 10])]);
    things.turns = (0..COUNT).map(|_| (1, Turn::Incident)).collect();
    let (world, context) = (World::new(), context());
    let repository = repo::init(&world.store(&context), &context).await.unwrap();
    let record = take(&context, &repository, &things).await.unwrap().snapshot;
    assert_eq!(
        (record.incident_count, record.incidents.len()),
        (COUNT as u64, 1000)
    );
    let (level, refs) = record.incident_list.clone().unwrap();
    assert_eq!(level, 0);
    assert!(refs.len() > 1, "more than one chunk");
    let view = repository.view(&context).await.unwrap();
    let blobs = repository.reader(&context, &view);
    let mut list = Vec::new();
    for reference in refs {
        list.extend(blobs.get(BlobKind::Data, &reference.id).await.unwrap());
    }
    let mut decoder = Decoder::new(&list);
    for _ in 0..COUNT {
        decoder.array_of(2).unwrap();
        assert_eq!(decoder.bytes(limits::KEY_MAX).unwrap(), b"then.lost");
        assert_eq!(decoder.text(limits::TEXT_MAX).unwrap(), "cannot be read");
    }
    decoder.finish().unwrap();
    assert_eq!(
        assert_whole(&context, &world.store(&context), &[&things]).await,
        1
    );
}

#[tokio::test]
async fn a_check_looks_below_the_lists_of_a_list_of_incidents() {
    const COUNT: usize = 60_000;
    let mut things = Things::new([("only", vec![1; 10]), ("then", vec![2; 10])]);
    things.turns = (0..COUNT).map(|_| (1, Turn::Incident)).collect();
    let (world, context) = (World::new(), context());
    let profile = ChunkProfile {
        name: "default".into(),
        params: ChunkParams::new(1 << 10, 4 << 10, 16 << 10).unwrap(),
    };
    let options = InitOptions {
        profiles: vec![profile],
        ..repo::init_options()
    };
    let cache = Arc::new(Cache::in_memory().unwrap());
    let made = Repository::init(world.store(&context), &context, options, cache).await;
    let repository = made.unwrap().repository;
    let record = take(&context, &repository, &things).await.unwrap().snapshot;
    let (level, _) = record.incident_list.clone().unwrap();
    assert!(level > 0);
    let hand = Hand {
        repository: &repository,
        context: &context,
    };
    let run = names(&world.objects().await, "index/s/").remove(0);
    let tables = hand.read_run(run).await;
    // Of content there is nothing else.
    let chunk = tables
        .entries
        .iter()
        .find(|entry| entry.kind == BlobKind::Data)
        .unwrap();
    let block = &tables.blocks[chunk.block as usize];
    let pack = ObjectName::Pack(tables.packs[block.pack as usize].id).to_string();
    let mut bytes = world.get(&pack).await.unwrap().to_vec();
    bytes[block.offset as usize + 20] ^= 1;
    world.remove(&pack).await;
    world.set(&pack, bytes.into()).await;
    let report = repo::check_all(&context, &repository).await.unwrap();
    assert_eq!(report.snapshots_hit, [record.sid.name()], "{:?}", report.findings);
    let hit = report
        .findings
        .iter()
        .find_map(|finding| finding.hit.clone())
        .unwrap();
    assert_eq!(hit.paths, ["(the list of incidents)"]);
}
