//! What a source leaves out.

use super::{keep_with, key, scratch};
use holdall::connector::files::{Attributes, Excludes, FilesRequest, FilesSource};
use holdall::error::ErrorKind;
use std::collections::BTreeSet;
use std::path::Path;

const TREE: [&str; 12] = [
    "keep.log",
    "a.log",
    "src/main.rs",
    "src/a.log",
    "src/target/out",
    "target/out",
    "cache/CACHEDIR.TAG",
    "cache/blob",
    "cache/deep/blob",
    ".nobackup",
    "marked/.nobackup",
    "marked/data",
];

fn plant(root: &Path) {
    for path in TREE {
        let path = root.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        let text = if path.ends_with("CACHEDIR.TAG") {
            "Signature: 8a477f597d28d172789f06886806bc55\n# comment"
        } else {
            "no backup please"
        };
        fs_err::write(path, text).unwrap();
    }
    fs_err::remove_file(root.join(".nobackup")).unwrap();
}

/// The files that are left out.
async fn missing(root: &Path, excludes: Excludes) -> BTreeSet<&'static str> {
    let kept = keep_with(
        FilesRequest {
            excludes,
            ..FilesRequest::default()
        },
        root,
        None,
    )
    .await;
    assert_eq!(kept.incidents, []);
    let there = TREE.iter().filter(|path| **path != ".nobackup");
    there
        .filter(|path| !kept.entries.contains_key(&key(root, path)))
        .copied()
        .collect()
}

fn patterns(lines: &[&str]) -> Excludes {
    Excludes {
        patterns: lines.iter().map(ToString::to_string).collect(),
        ..Excludes::default()
    }
}

#[tokio::test]
async fn patterns_are_anchored_at_the_root_and_prune_directories() {
    let (_dir, root) = scratch();
    plant(&root);
    let cases: [(&[&str], &[&str]); 8] = [
        (&["*.log"], &["keep.log", "a.log", "src/a.log"]),
        (&["*.log", "!keep.log"], &["a.log", "src/a.log"]),
        (&["/a.log"], &["a.log"]),
        (&["target/"], &["src/target/out", "target/out"]),
        (&["/target"], &["target/out"]),
        // What lies in a directory that is left out cannot be taken in again.
        (&["/target", "!/target/out"], &["target/out"]),
        (&["/target/*", "!/target/out"], &[]),
        (&["src/**/out"], &["src/target/out"]),
    ];
    for (lines, wanted) in cases {
        assert_eq!(
            missing(&root, patterns(lines)).await,
            wanted.iter().copied().collect(),
            "{lines:?}"
        );
    }
}

#[tokio::test]
async fn pattern_files_come_before_patterns() {
    let (_dir, root) = scratch();
    plant(&root);
    let (_other, elsewhere) = scratch();
    let file = elsewhere.join("patterns");
    fs_err::write(&file, "# comment\n*.log\r\n\n").unwrap();
    let excludes = Excludes {
        pattern_files: vec![file.clone()],
        ..patterns(&["!keep.log"])
    };
    assert_eq!(missing(&root, excludes).await, ["a.log", "src/a.log"].into());
    fs_err::remove_file(&file).unwrap();
    let excludes = Excludes {
        pattern_files: vec![file],
        ..Excludes::default()
    };
    let request = FilesRequest {
        roots: vec![root],
        excludes,
        ..FilesRequest::default()
    };
    assert_eq!(
        FilesSource::new(request).err().unwrap().kind(),
        ErrorKind::Invalid
    );
}

#[tokio::test]
async fn tagged_directories_keep_their_tag_only() {
    let (_dir, root) = scratch();
    plant(&root);
    let caches = Excludes {
        caches: true,
        ..Excludes::default()
    };
    assert_eq!(
        missing(&root, caches.clone()).await,
        ["cache/blob", "cache/deep/blob"].into()
    );
    fs_err::write(root.join("cache/CACHEDIR.TAG"), "Signature: no").unwrap();
    assert_eq!(missing(&root, caches).await, [].into());
    let present = |name: &str| Excludes {
        if_present: vec![name.into()],
        ..Excludes::default()
    };
    assert_eq!(missing(&root, present(".nobackup")).await, ["marked/data"].into());
    assert_eq!(
        missing(&root, present(".nobackup:no back")).await,
        ["marked/data"].into()
    );
    assert_eq!(missing(&root, present(".nobackup:other")).await, [].into());
}

#[tokio::test]
async fn directories_say_that_something_was_left_out_and_the_request_may_change() {
    let (_dir, root) = scratch();
    plant(&root);
    let excluding = FilesRequest {
        excludes: patterns(&["/src/target"]),
        ..FilesRequest::default()
    };
    let kept = keep_with(excluding, &root, None).await;
    let partial = |kept: &holdall::testkit::collect::Collected, path| {
        Attributes::from_metadata(&kept.entries[&key(&root, path)].head.metadata)
            .unwrap()
            .partial
    };
    assert!(partial(&kept, "src/") && !partial(&kept, "cache/") && !partial(&kept, ""));
    let next = keep_with(FilesRequest::default(), &root, Some((&kept, super::later()))).await;
    assert!(!partial(&next, "src/"));
    assert!(next.entries[&key(&root, "src/main.rs")].unchanged);
}

#[tokio::test]
async fn large_files_and_nested_roots() {
    let (_dir, root) = scratch();
    plant(&root);
    fs_err::write(root.join("src/main.rs"), vec![0; 5000]).unwrap();
    let excludes = Excludes {
        larger_than: Some(4999),
        ..Excludes::default()
    };
    assert_eq!(missing(&root, excludes).await, ["src/main.rs"].into());
    // A root inside of a directory that another root's patterns leave out is kept, and nothing else of that directory.
    let request = FilesRequest {
        roots: vec![root.clone(), root.join("cache/deep")],
        excludes: patterns(&["/cache"]),
        ..FilesRequest::default()
    };
    let mut source = FilesSource::new(request).unwrap();
    let kept = holdall::testkit::collect::Collected::take(&super::context().0, &mut source, None)
        .await
        .unwrap();
    assert!(kept.entries.contains_key(&key(&root, "cache/deep/blob")));
    assert!(!kept.entries.contains_key(&key(&root, "cache/blob")));
}

#[tokio::test]
async fn other_file_systems_are_not_entered_if_asked() {
    let proc_is_mounted = Path::new("/proc/self").exists();
    assert!(proc_is_mounted);
    let excludes = patterns(&["/*", "!/proc"]);
    let request = FilesRequest {
        excludes,
        one_file_system: true,
        ..FilesRequest::default()
    };
    let kept = keep_with(request, Path::new("/"), None).await;
    let keys: Vec<_> = kept.entries.keys().map(ToString::to_string).collect();
    assert_eq!(keys, ["files/", "files/proc/"]);
}
