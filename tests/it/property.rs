//! restore(snapshot(tree)) = tree, for any tree and for what becomes of it.

use crate::world::{context, noise};
use futures::TryStreamExt;
use holdall::context::Context;
use holdall::repository::Repository;
use holdall::snapshot::entry::Key;
use holdall::testkit::repo;
use holdall::testkit::trees::{self, Child};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

type Description = BTreeMap<Vec<u8>, String>;

/// One change of a tree.
#[derive(Clone, Debug)]
enum Change {
    /// Writes some bytes somewhere into a file.
    Write(usize, u32, u8),
    /// Cuts or grows a file.
    Resize(usize, u32),
    /// Sets a time.
    Touch(usize, i64),
    /// Adds a file that does not compress.
    Add(u32),
    /// Removes a file or a link.
    Remove(usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<usize>(), 0u32..200_000, any::<u8>())
            .prop_map(|(at, offset, byte)| Change::Write(at, offset, byte)),
        (any::<usize>(), 0u32..300_000).prop_map(|(at, len)| Change::Resize(at, len)),
        (any::<usize>(), 0i64..2_000_000_000).prop_map(|(at, time)| Change::Touch(at, time)),
        (1u32..2_000_000).prop_map(Change::Add),
        any::<usize>().prop_map(Change::Remove),
    ]
}

/// Files and links below a directory, in order.
fn leaves(directory: &Path, links: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs_err::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() || links {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn apply(directory: &Path, change: &Change) {
    let files = leaves(directory, false);
    let pick = |at: usize| files.get(at % files.len().max(1)).cloned();
    match change {
        Change::Write(at, offset, byte) => {
            if let Some(path) = pick(*at) {
                let file = fs_err::OpenOptions::new().write(true).open(path).unwrap();
                std::os::unix::fs::FileExt::write_all_at(file.file(), &[*byte; 77], (*offset).into())
                    .unwrap();
            }
        }
        Change::Resize(at, len) => {
            if let Some(path) = pick(*at) {
                fs_err::OpenOptions::new()
                    .write(true)
                    .open(path)
                    .unwrap()
                    .set_len((*len).into())
                    .unwrap();
            }
        }
        Change::Touch(at, seconds) => {
            if let Some(path) = pick(*at) {
                trees::set_mtime(&path, (*seconds, 5)).unwrap();
            }
        }
        Change::Add(len) => {
            let name = directory.join(format!("added {len}"));
            fs_err::write(name, noise(*len as usize, (*len).into())).unwrap();
        }
        Change::Remove(at) => {
            let all = leaves(directory, true);
            if let Some(path) = all.get(at % all.len().max(1)) {
                fs_err::remove_file(path).unwrap();
            }
        }
    }
}

async fn restored(context: &Context, repository: &Repository, spec: &str, source: &Path) -> Description {
    let target = tempfile::tempdir().unwrap();
    let report = repo::restore_to(context, repository, spec, source, target.path())
        .await
        .unwrap();
    assert_eq!(report.sink.failed, 0, "{report:?}");
    trees::describe(target.path()).unwrap()
}

/// What two snapshots say differently.
async fn differences(context: &Context, repository: &Repository, specs: [&str; 2]) -> String {
    let mut records = Vec::new();
    for spec in specs {
        let reader = repo::reader(context, repository, spec).await.unwrap();
        let all: Vec<_> = reader.records(Key::from("")).try_collect().await.unwrap();
        records.push(all);
    }
    let mut out = String::from("an unchanged tree gave another snapshot:");
    for (one, two) in records[0].iter().zip(&records[1]).filter(|(one, two)| one != two) {
        out += &format!("\n{one:?}\n{two:?}");
    }
    out
}

fn assert_same(found: &Description, expected: &Description) {
    let names = |of: &Description| of.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for (name, line) in expected {
        assert_eq!(&found[name], line, "{}", name.escape_ascii());
    }
}

async fn law(first: Vec<Child>, changes: Vec<Change>) {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("tree");
    fs_err::create_dir(&source).unwrap();
    trees::build(&source, &first).unwrap();
    let before = trees::describe(&source).unwrap();
    let context = context();
    let store = repo::memory(&context);
    let repository = repo::init(&store, &context).await.unwrap();
    let one = repo::snapshot_of(&context, &repository, &source)
        .await
        .unwrap()
        .snapshot;
    assert!(
        one.incidents.iter().all(|(_, why)| why.contains("socket")),
        "{:?}",
        one.incidents
    );

    changes.iter().for_each(|change| apply(&source, change));
    let after = trees::describe(&source).unwrap();
    let two = repo::snapshot_of(&context, &repository, &source)
        .await
        .unwrap()
        .snapshot;
    let three = repo::snapshot_of(&context, &repository, &source)
        .await
        .unwrap()
        .snapshot;
    let specs = [two.sid.name(), three.sid.name()];
    let told = differences(&context, &repository, [&specs[0], &specs[1]]).await;
    assert_eq!(three.root, two.root, "{told}");
    assert_eq!(three.statistics.blobs_new, 0, "nothing changed");

    // A process that knows nothing but the store.
    let repository = repo::open(&store).await.unwrap();
    assert_same(
        &restored(&context, &repository, &one.sid.name(), &source).await,
        &before,
    );
    assert_same(
        &restored(&context, &repository, &two.sid.name(), &source).await,
        &after,
    );
    let report = repo::check_all(&context, &repository).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_restored_is_what_was_there(first in trees::arbitrary(), changes in prop::collection::vec(change(), 0..8)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(law(first, changes));
    }
}
