//! restore(snapshot(tree)) = tree, and the second snapshot stores only what changed.

use holdall::context::Context;
use holdall::event::Silent;
use holdall::testkit::{repo, trees};
use std::sync::Arc;

fn context() -> Context {
    Context::new(Arc::new(Silent), 64 << 20, 2).unwrap()
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_comes_back_as_it_was() {
    let source = tempfile::tempdir().unwrap();
    fs_err::create_dir(source.path().join("sub")).unwrap();
    fs_err::write(source.path().join("large"), noise(40 << 20, 1)).unwrap();
    fs_err::write(source.path().join("empty"), b"").unwrap();
    for i in 0..300u64 {
        fs_err::write(
            source.path().join(format!("sub/{i}")),
            noise(usize::try_from(i * 97).unwrap(), i),
        )
        .unwrap();
    }
    let context = context();
    let store = repo::memory(&context);
    let repository = repo::init(&store, &context).await.unwrap();
    let first = repo::snapshot_of(&context, &repository, source.path())
        .await
        .unwrap();
    assert!(!first.snapshot.partial, "{:?}", first.snapshot.incidents);
    let report = repo::check_all(&context, &repository).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);

    let target = tempfile::tempdir().unwrap();
    let restored = repo::restore_to(&context, &repository, "latest", source.path(), target.path())
        .await
        .unwrap();
    assert_eq!(restored.sink.failed, 0);
    assert_eq!(
        trees::describe(source.path()).unwrap(),
        trees::describe(target.path()).unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_snapshot_stores_only_what_changed() {
    let source = tempfile::tempdir().unwrap();
    fs_err::write(source.path().join("a"), noise(8 << 20, 1)).unwrap();
    fs_err::write(source.path().join("b"), noise(8 << 20, 2)).unwrap();
    let context = context();
    let store = repo::memory(&context);
    let repository = repo::init(&store, &context).await.unwrap();
    let first = repo::snapshot_of(&context, &repository, source.path())
        .await
        .unwrap()
        .snapshot
        .statistics;
    assert_eq!(first.bytes_new, 16 << 20);
    let mut changed = noise(8 << 20, 2);
    changed[4 << 20] ^= 1;
    fs_err::write(source.path().join("b"), changed).unwrap();
    let report = repo::snapshot_of(&context, &repository, source.path())
        .await
        .unwrap();
    let second = report.snapshot.statistics;
    assert!(report.parent.is_some());
    assert!(second.bytes_new <= 1 << 20, "{second:?}");
    assert!(second.bytes_stored <= (1 << 20) + (1 << 18), "{second:?}");

    let third = repo::snapshot_of(&context, &repository, source.path())
        .await
        .unwrap()
        .snapshot
        .statistics;
    // Directories on the way may have changed meanwhile: they cost a node, never content.
    assert_eq!(third.bytes_new, 0, "{third:?}");
}

/// A pack is damaged on the disk; the check says so; the next snapshot does not rest on it and is whole again.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_check_found_damaged_is_stored_again() {
    let source = tempfile::tempdir().unwrap();
    let place = tempfile::tempdir().unwrap();
    fs_err::write(source.path().join("data"), noise(3 << 20, 1)).unwrap();
    let context = context();
    let store = repo::local(&place.path().join("repository"), &context);
    let repository = repo::init(&store, &context).await.unwrap();
    repo::snapshot_of(&context, &repository, source.path())
        .await
        .unwrap();

    let mut packs = Vec::new();
    for folder in fs_err::read_dir(place.path().join("repository/packs")).unwrap() {
        for pack in fs_err::read_dir(folder.unwrap().path()).unwrap() {
            let path = pack.unwrap().path();
            packs.push((fs_err::metadata(&path).unwrap().len(), path));
        }
    }
    let (_, largest) = packs.into_iter().max().unwrap();
    let mut bytes = fs_err::read(&largest).unwrap();
    bytes[1 << 20] ^= 1;
    fs_err::remove_file(&largest).unwrap();
    fs_err::write(&largest, bytes).unwrap();

    let report = repo::check_all(&context, &repository).await.unwrap();
    assert!(report.is_damaged());
    let name = largest.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(
        report.findings.iter().any(|f| f.object.contains(&name)),
        "{:?}",
        report.findings
    );

    let healed = repo::snapshot_of(&context, &repository, source.path())
        .await
        .unwrap();
    assert_eq!(healed.snapshot.statistics.bytes_new, 3 << 20);
    let target = tempfile::tempdir().unwrap();
    let restored = repo::restore_to(&context, &repository, "latest", source.path(), target.path())
        .await
        .unwrap();
    assert_eq!(restored.sink.failed, 0);
    assert!(fs_err::read(target.path().join("data")).unwrap() == noise(3 << 20, 1));
}
