//! A snapshot that wants out of its target: nothing outside changes, and the rest is restored.

use super::{context, incidents, keep, scratch, strip};
use futures::FutureExt;
use holdall::connector::files::{Attributes, FilesSink, Overwrite, RestoreRequest, key_of};
use holdall::connector::{Sink, SinkReport};
use holdall::context::Time;
use holdall::snapshot::entry::{Content, Entry, EntryHead, EntryKind, Key};
use holdall::testkit::trees::describe;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A directory with a target and a canary beside it.
struct Stage {
    _dir: tempfile::TempDir,
    root: PathBuf,
    target: PathBuf,
    before: std::collections::BTreeMap<Vec<u8>, String>,
}

impl Stage {
    fn new() -> Self {
        let (dir, root) = scratch();
        fs_err::create_dir_all(root.join("outside/inner")).unwrap();
        fs_err::write(root.join("outside/canary"), "alive").unwrap();
        let target = root.join("target");
        fs_err::create_dir(&target).unwrap();
        let before = describe(&root.join("outside")).unwrap();
        Self {
            _dir: dir,
            root,
            target,
            before,
        }
    }

    fn is_safe(&self) {
        assert_eq!(describe(&self.root.join("outside")).unwrap(), self.before);
        let names: Vec<_> = fs_err::read_dir(&self.root)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    async fn restore(&self, entries: Vec<Entry>, request: RestoreRequest) -> (SinkReport, Vec<String>) {
        let (context, recorder) = context();
        let mut sink = FilesSink::new(RestoreRequest {
            target: self.target.clone(),
            ..request
        });
        sink.prepare(&context).await.unwrap();
        for entry in entries {
            sink.write(&context, entry).await.unwrap();
        }
        let report = sink.finish(&context).await.unwrap();
        self.is_safe();
        (report, incidents(&recorder))
    }
}

fn entry(key: Key, kind: EntryKind, attributes: Attributes) -> Entry {
    let content = if kind == EntryKind::File {
        Content::Bytes("evil".into())
    } else {
        Content::None
    };
    Entry {
        head: EntryHead {
            key,
            kind,
            metadata: Attributes {
                mode: if attributes.mode == 0 {
                    0o644
                } else {
                    attributes.mode
                },
                names: 1,
                mtime: Time { seconds: 9, nanos: 0 },
                ..attributes
            }
            .to_metadata()
            .unwrap(),
            state: bytes::Bytes::new(),
            size: Some(if kind == EntryKind::File { 4 } else { 0 }),
        },
        content,
    }
}

fn file(path: &[u8]) -> Entry {
    entry(key_of(path), EntryKind::File, Attributes::default())
}

fn directory(path: &[u8]) -> Entry {
    entry(
        key_of(path),
        EntryKind::Directory,
        Attributes {
            mode: 0o755,
            ..Attributes::default()
        },
    )
}

fn link(path: &[u8], target: &Path) -> Entry {
    use std::os::unix::ffi::OsStrExt;
    let target = Some(target.as_os_str().as_bytes().to_vec());
    entry(
        key_of(path),
        EntryKind::Symlink,
        Attributes {
            target,
            ..Attributes::default()
        },
    )
}

fn hard_link(path: &[u8], first: Key) -> Entry {
    let first = Some((first, EntryKind::File));
    entry(
        key_of(path),
        EntryKind::HardLink,
        Attributes {
            first,
            ..Attributes::default()
        },
    )
}

#[tokio::test]
async fn hostile_paths_are_refused_and_the_others_restored() {
    let stage = Stage::new();
    let paths: [&[u8]; 10] = [
        b"../outside/canary",
        b"..",
        b"/etc/x",
        b"a/../../outside/x",
        b"a//b",
        b"./x",
        b"a\0b",
        b"d/",
        b"",
        b"a/./b",
    ];
    let mut keys: Vec<_> = paths.iter().map(|p| key_of(p)).collect();
    keys.push(key_of(&[b'n'; 256]));
    keys.push(Key::from("streams/x"));
    keys.push(Key::from("../x"));
    let hostile = keys.len() as u64;
    let mut entries: Vec<_> = keys
        .into_iter()
        .map(|k| entry(k, EntryKind::File, Attributes::default()))
        .collect();
    entries.push(directory(b"up/../.."));
    entries.push(directory(b"file-as-dir"));
    entries.push(file(b"good"));
    let (report, incidents) = stage.restore(entries, RestoreRequest::default()).await;
    assert_eq!((report.written, report.failed), (1, hostile + 2), "{incidents:?}");
    assert_eq!(describe(&stage.target).unwrap().len(), 1);
}

#[tokio::test]
async fn nothing_is_written_through_a_link_whoever_made_it() {
    for overwrite in [Overwrite::Always, Overwrite::IfChanged, Overwrite::IfNewer] {
        for delete in [false, true] {
            let stage = Stage::new();
            let outside = stage.root.join("outside");
            symlink(&outside, stage.target.join("there")).unwrap();
            symlink(outside.join("canary"), stage.target.join("file")).unwrap();
            symlink(outside.join("new"), stage.target.join("dangling")).unwrap();
            let entries = vec![
                directory(b""),
                file(b"dangling"),
                file(b"file"),
                link(b"made", &outside),
                directory(b"made/"),
                file(b"made/canary"),
                directory(b"there/"),
                file(b"there/canary"),
                directory(b"there/inner/"),
                file(b"there/inner/x"),
            ];
            let request = RestoreRequest {
                overwrite,
                delete,
                ..RestoreRequest::default()
            };
            let (report, incidents) = stage.restore(entries, request).await;
            assert!(report.failed >= 4, "{report:?} {incidents:?}");
            let name = stage.target.join("file");
            if overwrite != Overwrite::IfNewer {
                assert_eq!(fs_err::read_to_string(&name).unwrap(), "evil");
                assert!(name.symlink_metadata().unwrap().is_file());
            }
        }
    }
}

#[tokio::test]
async fn a_link_never_reaches_a_file_that_was_not_restored() {
    let stage = Stage::new();
    let canary = stage.root.join("outside/canary");
    fs_err::write(stage.target.join("mine"), "mine").unwrap();
    symlink(&canary, stage.target.join("via")).unwrap();
    let absolute = key_of(canary.to_str().unwrap().strip_prefix('/').unwrap().as_bytes());
    let entries = vec![
        hard_link(b"l1", absolute),
        hard_link(b"l2", key_of(b"../outside/canary")),
        hard_link(b"l3", key_of(b"mine")),
        hard_link(b"l4", key_of(b"via")),
        hard_link(b"l5", Key::from("elsewhere/x")),
    ];
    let (report, _) = stage.restore(entries, RestoreRequest::default()).await;
    assert_eq!((report.written, report.failed), (0, 5));
    assert_eq!(describe(&stage.target).unwrap().len(), 2);
}

#[tokio::test]
async fn attributes_never_reach_a_second_name_outside() {
    let stage = Stage::new();
    let canary = stage.root.join("outside/canary");
    fs_err::hard_link(&canary, stage.target.join("same")).unwrap();
    holdall::testkit::trees::set_mtime(&canary, (9, 0)).unwrap();
    fs_err::set_permissions(&canary, PermissionsExt::from_mode(0o600)).unwrap();
    let before = describe(&stage.root.join("outside")).unwrap();
    let stage = Stage { before, ..stage };
    // The same size and time, so that only the attributes differ.
    let mut same = file(b"same");
    same.head.size = Some(5);
    same.content = Content::Bytes("alive".into());
    let (report, _) = stage.restore(vec![same], RestoreRequest::default()).await;
    assert_eq!(report.written, 1);
}

#[tokio::test]
async fn odd_names_are_only_names() {
    let stage = Stage::new();
    let names: Vec<Vec<u8>> = vec![
        b"\x1b[2J\x1b[31mred".to_vec(),
        b"-rf".to_vec(),
        b"...".to_vec(),
        b"A".to_vec(),
        b"\xff\xfe".to_vec(),
        b"a".to_vec(),
        b"new\nline".to_vec(),
        vec![b'n'; 255],
    ];
    let mut sorted = names.clone();
    sorted.sort();
    let entries = sorted.iter().map(|n| file(n)).collect();
    let (report, incidents) = stage.restore(entries, RestoreRequest::default()).await;
    assert_eq!((report.written, incidents), (8, vec![]));
    assert_eq!(
        describe(&stage.target).unwrap().into_keys().collect::<Vec<_>>(),
        sorted
    );
}

#[tokio::test]
async fn entries_out_of_order_or_with_damaged_metadata_fail_alone() {
    let stage = Stage::new();
    let mut damaged = file(b"c");
    damaged.head.metadata =
        holdall::snapshot::entry::Metadata::new(&[(1, holdall::snapshot::entry::Value::Bool(true))]).unwrap();
    let linkless = entry(key_of(b"d"), EntryKind::Symlink, Attributes::default());
    let entries = vec![file(b"b"), file(b"a"), file(b"b"), damaged, linkless, file(b"e")];
    let (report, _) = stage.restore(entries, RestoreRequest::default()).await;
    assert_eq!((report.written, report.failed), (2, 4));
}

#[tokio::test]
async fn five_thousand_directories_deep_goes_down_and_up_again() {
    let stage = Stage::new();
    let mut path = Vec::new();
    let mut entries = Vec::new();
    for _ in 0..5000 {
        path.extend_from_slice(b"d/");
        entries.push(directory(&path));
    }
    path.push(b'f');
    entries.push(file(&path));
    entries.push(file(b"z"));
    let (report, incidents) = stage.restore(entries, RestoreRequest::default()).await;
    assert_eq!((report.written, incidents), (5002, vec![]));
    // The source keeps what a key can name, says what it could not, and finds its way back up.
    let kept = keep(&stage.target).await;
    assert_eq!(kept.incidents.len(), 1, "{:?}", kept.incidents.last());
    assert!(kept.entries.len() > 4000);
    assert!(
        kept.entries
            .contains_key(&key_of(&[&strip(&stage.target)[..], b"z"].concat()))
    );
    // And a restore that may delete removes it again.
    let request = RestoreRequest {
        delete: true,
        ..RestoreRequest::default()
    };
    let (report, incidents) = stage.restore(vec![directory(b""), file(b"z")], request).await;
    assert_eq!((report.deleted, incidents), (5001, vec![]));
}

#[tokio::test]
async fn a_sink_that_was_not_prepared_writes_nothing() {
    let stage = Stage::new();
    let mut sink = FilesSink::new(RestoreRequest {
        target: stage.target.clone(),
        ..RestoreRequest::default()
    });
    assert!(
        sink.write(&context().0, file(b"x"))
            .now_or_never()
            .unwrap()
            .is_err()
    );
    stage.is_safe();
}

#[tokio::test]
async fn delete_spares_what_is_there_of_an_entry_that_fails() {
    let stage = Stage::new();
    fs_err::create_dir(stage.target.join("as-file")).unwrap();
    fs_err::create_dir(stage.target.join("damaged-dir")).unwrap();
    for name in ["as-dir", "as-file/in", "damaged", "damaged-dir/in", "extra"] {
        fs_err::write(stage.target.join(name), "mine").unwrap();
    }
    let damage = |mut entry: Entry| {
        let unknown = (99, holdall::snapshot::entry::Value::Bool(true));
        entry.head.metadata = holdall::snapshot::entry::Metadata::new(&[unknown]).unwrap();
        entry
    };
    let mut as_file = file(b"as-file/");
    as_file.content = Content::None;
    let entries = vec![
        directory(b""),
        directory(b"as-dir"),
        as_file,
        damage(file(b"damaged")),
        damage(directory(b"damaged-dir/")),
    ];
    let request = RestoreRequest {
        delete: true,
        ..RestoreRequest::default()
    };
    let (report, incidents) = stage.restore(entries, request).await;
    assert_eq!((report.failed, report.deleted), (4, 1), "{incidents:?}");
    let left = describe(&stage.target).unwrap();
    let names: Vec<_> = left.keys().map(|n| String::from_utf8_lossy(n)).collect();
    assert_eq!(
        names,
        [
            "as-dir",
            "as-file",
            "as-file/in",
            "damaged",
            "damaged-dir",
            "damaged-dir/in"
        ]
    );
}
