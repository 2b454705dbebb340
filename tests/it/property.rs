//! restore(snapshot(tree)) = tree, for any tree and for what becomes of it.

use crate::world::{context, noise};
use futures::TryStreamExt;
use holdall::context::Context;
use holdall::repository::Repository;
use holdall::snapshot::entry::{EntryRecord, Key};
use holdall::testkit::repo;
use holdall::testkit::trees::{self, Child};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// What a snapshot says of the things below `source`; the directories above are not this test's alone.
async fn below(
    context: &Context,
    repository: &Repository,
    spec: &str,
    source: &Path,
) -> Vec<Arc<EntryRecord>> {
    let reader = repo::reader(context, repository, spec).await.unwrap();
    let prefix = format!("files{}/", source.display());
    reader
        .records(Key::from(prefix.as_str()))
        .try_collect()
        .await
        .unwrap()
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

    for change in &changes {
        apply(&source, change);
    }
    let after = trees::describe(&source).unwrap();
    let two = repo::snapshot_of(&context, &repository, &source)
        .await
        .unwrap()
        .snapshot;
    let three = repo::snapshot_of(&context, &repository, &source)
        .await
        .unwrap()
        .snapshot;
    let (two_says, three_says) = (
        below(&context, &repository, &two.sid.name(), &source).await,
        below(&context, &repository, &three.sid.name(), &source).await,
    );
    for (one, other) in two_says.iter().zip(&three_says) {
        assert_eq!(one, other, "nothing changed");
    }
    assert!(!two_says.is_empty());
    assert_eq!(two_says.len(), three_says.len());
    assert_eq!(three.statistics.bytes_new, 0, "nothing changed");

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
