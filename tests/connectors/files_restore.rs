//! What a restore does with what is there, with options, and after an interruption.

use super::{context, incidents, is_root, keep, key, restore, restore_with, scratch, strip};
use holdall::connector::Sink;
use holdall::connector::files::{Attributes, FilesSink, Overwrite, RestoreRequest, Select};
use holdall::error::ErrorKind;
use holdall::snapshot::entry::{Content, Entry, EntryKind, Piece};
use holdall::testkit::collect::{Collected, Pieces};
use holdall::testkit::trees::{describe, set_mtime};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

pub(super) fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs_err::write(path, text).unwrap();
}

pub(super) fn read(path: &Path) -> String {
    fs_err::read_to_string(path).unwrap()
}

/// A small tree of every type, and its snapshot.
pub(super) async fn sample(root: &Path) -> (std::path::PathBuf, Collected) {
    let source = root.join("source");
    fs_err::create_dir_all(source.join("dir/deep")).unwrap();
    for (name, text) in [("a", "aaa"), ("dir/b", "bbb"), ("dir/deep/c", "ccc")] {
        write(&source.join(name), text);
        set_mtime(&source.join(name), (1000, 7)).unwrap();
    }
    fs_err::hard_link(source.join("a"), source.join("dir/a2")).unwrap();
    symlink("../a", source.join("dir/link")).unwrap();
    set_mtime(&source.join("dir/deep"), (500, 5)).unwrap();
    set_mtime(&source.join("dir"), (600, 6)).unwrap();
    let kept = keep(&source).await;
    (source, kept)
}

#[tokio::test]
async fn each_way_to_overwrite_replaces_what_it_says() {
    let policies = [
        Overwrite::Always,
        Overwrite::IfChanged,
        Overwrite::IfNewer,
        Overwrite::Never,
    ];
    // What is there: content and time, beside the snapshot's `new` of time 1000; what is there afterwards, for each policy.
    let cases = [
        (("new", 1000), ["new"; 4]),
        (("OLD", 1000), ["new", "OLD", "OLD", "OLD"]),
        (("longer", 1000), ["new", "new", "longer", "longer"]),
        (("OLD", 999), ["new", "new", "new", "OLD"]),
        (("OLD", 1001), ["new", "new", "OLD", "OLD"]),
    ];
    for ((text, time), wanted) in cases {
        for (overwrite, wanted) in policies.into_iter().zip(wanted) {
            let (_dir, root) = scratch();
            let (source, target) = (root.join("source"), root.join("target"));
            fs_err::create_dir_all(&source).unwrap();
            fs_err::create_dir_all(&target).unwrap();
            write(&source.join("f"), "new");
            set_mtime(&source.join("f"), (1000, 0)).unwrap();
            let kept = keep(&source).await;
            write(&target.join("f"), text);
            set_mtime(&target.join("f"), (time, 0)).unwrap();
            let request = RestoreRequest {
                overwrite,
                ..RestoreRequest::default()
            };
            let (_, incidents) = restore_with(&kept, &source, &target, request).await;
            assert_eq!(incidents, [""; 0]);
            assert_eq!(
                read(&target.join("f")),
                wanted,
                "{overwrite:?} over {text} of {time}"
            );
        }
    }
}

#[tokio::test]
async fn a_skipped_file_gets_its_attributes_but_never_through_a_second_name() {
    let (_dir, root) = scratch();
    let (source, kept) = sample(&root).await;
    let target = root.join("target");
    restore(&kept, &source, &target).await;
    let wanted = describe(&target).unwrap();
    let mode = |path: &Path, mode| fs_err::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    mode(&target.join("dir/b"), 0o600);
    // A second name outside of the target: the file behind it must not change.
    let outside = root.join("outside");
    fs_err::hard_link(target.join("dir/deep/c"), &outside).unwrap();
    mode(&outside, 0o640);
    let (report, incidents) = restore(&kept, &source, &target).await;
    assert_eq!(incidents, [""; 0]);
    assert_eq!(report.written, 1);
    assert_eq!(describe(&target).unwrap(), wanted);
    assert_eq!(fs_err::metadata(&outside).unwrap().mode() & 0o7777, 0o640);
}

#[tokio::test]
async fn delete_removes_what_the_snapshot_does_not_have_and_nothing_else() {
    let (_dir, root) = scratch();
    let (source, kept) = sample(&root).await;
    let target = root.join("target");
    restore(&kept, &source, &target).await;
    let wanted = describe(&target).unwrap();
    fs_err::create_dir_all(target.join("junk/in/it")).unwrap();
    for name in [
        "extra",
        "dir/extra",
        "junk/in/it/x",
        "dir/.holdall-0123456789abcdef",
    ] {
        write(&target.join(name), "x");
    }
    symlink(root.join("source"), target.join("junk/out")).unwrap();
    let options = |delete, dry_run| RestoreRequest {
        delete,
        dry_run,
        ..RestoreRequest::default()
    };
    let (report, _) = restore_with(&kept, &source, &target, options(false, false)).await;
    assert_eq!((report.deleted, target.join("extra").exists()), (0, true));
    let (dry, _) = restore_with(&kept, &source, &target, options(true, true)).await;
    assert_eq!((dry.deleted, target.join("extra").exists()), (8, true));
    let (real, incidents) = restore_with(&kept, &source, &target, options(true, false)).await;
    assert_eq!((real, incidents), (dry, vec![]));
    assert_eq!(describe(&target).unwrap(), wanted);
    assert!(source.join("a").exists());
}

#[tokio::test]
async fn delete_spares_directories_that_the_snapshot_does_not_have_whole() {
    let (_dir, root) = scratch();
    let (source, _) = sample(&root).await;
    let request = holdall::connector::files::FilesRequest {
        roots: vec![source.join("dir/deep")],
        ..Default::default()
    };
    let mut files = holdall::connector::files::FilesSource::new(request).unwrap();
    let kept = Collected::take(&context().0, &mut files, None).await.unwrap();
    let target = root.join("target");
    fs_err::create_dir_all(target.join("dir/deep")).unwrap();
    for name in ["mine", "dir/mine", "dir/deep/gone"] {
        write(&target.join(name), "x");
    }
    let request = RestoreRequest {
        delete: true,
        ..RestoreRequest::default()
    };
    let (report, _) = restore_with(&kept, &source, &target, request).await;
    assert_eq!(report.deleted, 1);
    assert!(target.join("mine").exists() && target.join("dir/mine").exists());
    assert!(!target.join("dir/deep/gone").exists());
}

#[tokio::test]
async fn delete_and_a_selection_are_refused_together() {
    let (_dir, root) = scratch();
    let mut sink = FilesSink::new(RestoreRequest {
        target: root.join("target"),
        delete: true,
        select: Select::new(&["a"], &[""; 0]).unwrap(),
        ..RestoreRequest::default()
    });
    let error = sink.prepare(&context().0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(!root.join("target").exists());
}

#[tokio::test]
async fn delete_and_never_to_overwrite_are_refused_together() {
    let (_dir, root) = scratch();
    let mut sink = FilesSink::new(RestoreRequest {
        target: root.join("target"),
        delete: true,
        overwrite: Overwrite::Never,
        ..RestoreRequest::default()
    });
    let error = sink.prepare(&context().0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(!root.join("target").exists());
}

#[tokio::test]
async fn a_dry_run_reports_the_same_and_touches_nothing() {
    let (_dir, root) = scratch();
    let (source, kept) = sample(&root).await;
    let target = root.join("target");
    let dry = || RestoreRequest {
        dry_run: true,
        ..RestoreRequest::default()
    };
    let (planned, _) = restore_with(&kept, &source, &target, dry()).await;
    assert!(!target.exists());
    let (done, _) = restore(&kept, &source, &target).await;
    assert_eq!(planned, done);
    assert_eq!((done.written, done.skipped, done.bytes), (7, 1, 9));
    write(&target.join("dir/b"), "other");
    fs_err::remove_file(target.join("dir/a2")).unwrap();
    let before = describe(&target).unwrap();
    let (planned, _) = restore_with(&kept, &source, &target, dry()).await;
    assert_eq!(describe(&target).unwrap(), before);
    let (done, _) = restore(&kept, &source, &target).await;
    assert_eq!(planned, done);
    assert_eq!(done.written, 2);
}

#[tokio::test]
async fn verify_finds_a_flipped_byte() {
    let (_dir, root) = scratch();
    let (source, kept) = sample(&root).await;
    let target = root.join("target");
    restore(&kept, &source, &target).await;
    write(&target.join("dir/b"), "bXb");
    set_mtime(&target.join("dir/b"), (1000, 7)).unwrap();
    let verify = || RestoreRequest {
        verify: true,
        ..RestoreRequest::default()
    };
    let (found, incidents) = restore_with(&kept, &source, &target, verify()).await;
    assert_eq!((found.different, found.written, found.failed), (1, 0, 0));
    assert_eq!(incidents.len(), 1);
    assert!(incidents[0].contains("dir/b: differs"), "{incidents:?}");
    let again = RestoreRequest {
        overwrite: Overwrite::Always,
        ..verify()
    };
    assert_eq!(restore_with(&kept, &source, &target, again).await.0.different, 0);
    assert_eq!(
        restore_with(&kept, &source, &target, verify()).await.0.different,
        0
    );
}

#[tokio::test]
async fn an_interrupted_restore_continues() {
    let (_dir, root) = scratch();
    let (source, mut kept) = sample(&root).await;
    let target = root.join("target");
    // The content of one file breaks off: the entry fails, the rest is restored, and nothing half-written has a name.
    let whole = kept.clone();
    let broken = kept.entries.remove(&key(&source, "dir/b")).unwrap();
    let mut sink = FilesSink::new(RestoreRequest {
        target: target.clone(),
        strip: strip(&source),
        ..RestoreRequest::default()
    });
    let (context, recorder) = context();
    sink.prepare(&context).await.unwrap();
    for (entry_key, entry) in &whole.entries {
        let content: Content = if *entry_key == broken.head.key {
            Content::Open(Box::new(Broken))
        } else {
            Content::Open(Box::new(Pieces(entry.pieces.clone())))
        };
        let head = entry.head.clone();
        let content = if matches!(head.kind, EntryKind::File) {
            content
        } else {
            Content::None
        };
        sink.write(&context, Entry { head, content }).await.unwrap();
    }
    let report = sink.finish(&context).await.unwrap();
    assert_eq!((report.written, report.failed), (6, 1));
    assert!(incidents(&recorder)[0].contains("pack is gone"));
    let names = describe(&target).unwrap();
    assert_eq!(names.len(), 6, "{names:?}");
    // A sink that dies leaves a temporary file and directories without their attributes.
    write(&target.join("dir/.holdall-leftover"), "x");
    fs_err::remove_file(target.join("dir/.holdall-leftover")).unwrap();
    let name = format!(".holdall-{}", &blake3::hash(b"b").to_hex()[..16]);
    write(&target.join("dir").join(name), "half of it");
    let (report, incidents) = restore(&whole, &source, &target).await;
    assert_eq!((report.written, report.skipped, incidents), (1, 7, vec![]));
    assert_eq!(describe(&target).unwrap(), describe(&source).unwrap());
}

struct Broken;

impl holdall::snapshot::entry::OpenContent for Broken {
    fn open(
        self: Box<Self>,
    ) -> futures::future::BoxFuture<'static, holdall::error::Result<holdall::snapshot::entry::ContentStream>>
    {
        use futures::StreamExt;
        let error = holdall::error::Error::new(ErrorKind::Damaged, "pack is gone");
        let pieces = [Ok(Piece::Data(vec![1; 2 << 20].into())), Err(error)];
        Box::pin(async move { Ok(futures::stream::iter(pieces).boxed()) })
    }
}

#[tokio::test]
async fn a_selection_makes_only_what_it_picks_and_the_way_to_it() {
    let (_dir, root) = scratch();
    let (source, kept) = sample(&root).await;
    let pick = |include: &[&str], exclude: &[&str]| {
        let own = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        Select::new(&own(include), &own(exclude)).unwrap()
    };
    let full = format!("{}/dir/deep", source.display());
    let cases = [
        (pick(&["c"], &[]), vec!["dir", "dir/deep", "dir/deep/c"]),
        (pick(&[&full], &[]), vec!["dir", "dir/deep", "dir/deep/c"]),
        (pick(&[], &["deep", "link", "a*"]), vec!["dir", "dir/b"]),
        (pick(&["nothing"], &[]), vec![]),
    ];
    for (at, (select, wanted)) in cases.into_iter().enumerate() {
        let target = root.join(format!("target{at}"));
        let request = RestoreRequest {
            select,
            ..RestoreRequest::default()
        };
        let (report, incidents) = restore_with(&kept, &source, &target, request).await;
        assert_eq!((report.failed, incidents), (0, vec![]));
        let names = describe(&target).unwrap().into_keys();
        let names: Vec<_> = names.map(|name| String::from_utf8(name).unwrap()).collect();
        assert_eq!(names, wanted);
    }
}

#[tokio::test]
async fn a_later_name_restored_without_the_first_needs_its_content() {
    let (_dir, root) = scratch();
    let (source, kept) = sample(&root).await;
    fs_err::create_dir(root.join("target")).unwrap();
    let head = kept.entries[&key(&source, "dir/a2")].head.clone();
    for given in [false, true] {
        let target = root.join("target").join(given.to_string());
        let mut sink = FilesSink::new(RestoreRequest {
            target: target.clone(),
            strip: strip(&source.join("dir")),
            ..RestoreRequest::default()
        });
        let context = context().0;
        sink.prepare(&context).await.unwrap();
        assert_eq!(sink.borrows_from(&head), Some(key(&source, "a")));
        let mut head = head.clone();
        let content = if given {
            head.size = Some(3);
            Content::Bytes("aaa".into())
        } else {
            Content::None
        };
        sink.write(
            &context,
            Entry {
                head: head.clone(),
                content,
            },
        )
        .await
        .unwrap();
        assert_eq!(sink.borrows_from(&head).is_none(), given);
        // A further name of the same file is linked to the stand-in.
        let mut third = head.clone();
        third.key = key(&source, "dir/a3");
        sink.write(
            &context,
            Entry {
                head: third,
                content: Content::None,
            },
        )
        .await
        .unwrap();
        let report = sink.finish(&context).await.unwrap();
        if given {
            assert_eq!((report.written, report.failed), (2, 0));
            let inode = |name: &str| fs_err::metadata(target.join(name)).unwrap().ino();
            assert_eq!(inode("a2"), inode("a3"));
            assert_eq!(read(&target.join("a2")), "aaa");
        } else {
            assert_eq!((report.written, report.failed), (0, 2));
        }
    }
}

#[tokio::test]
async fn rights_and_devices_come_back_only_with_privileges() {
    let (_dir, root) = scratch();
    let source = root.join("source");
    fs_err::create_dir(&source).unwrap();
    write(&source.join("setuid"), "x");
    let can_make_devices = is_root()
        && rustix::fs::mknodat(
            rustix::fs::CWD,
            source.join("null"),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::RWXU,
            rustix::fs::makedev(1, 3),
        )
        .is_ok();
    fs_err::set_permissions(source.join("setuid"), PermissionsExt::from_mode(0o4755)).unwrap();
    let kept = keep(&source).await;
    let target = root.join("target");
    let (report, incidents) = restore(&kept, &source, &target).await;
    assert_eq!(
        fs_err::metadata(target.join("setuid")).unwrap().mode() & 0o7777,
        0o755
    );
    if can_make_devices {
        assert_eq!(report.failed, 1);
        assert!(incidents[0].contains("--privileged"));
        assert!(!target.join("null").exists());
    }
    if is_root() {
        let request = RestoreRequest {
            privileged: true,
            ..RestoreRequest::default()
        };
        restore_with(&kept, &source, &target, request).await;
        assert_eq!(describe(&target).unwrap(), describe(&source).unwrap());
    }
}

#[tokio::test]
async fn access_control_lists_come_back_and_are_not_inherited() {
    let (_dir, root) = scratch();
    let (source, target) = (root.join("source"), root.join("target"));
    fs_err::create_dir_all(source.join("d")).unwrap();
    write(&source.join("d/with"), "x");
    // user::rw- user:1234:r-- group::r-- mask::r-- other::---
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xd2\x04\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    if xattr::set(source.join("d/with"), "system.posix_acl_access", acl).is_err() {
        return;
    }
    write(&source.join("d/without"), "x");
    let kept = keep(&source).await;
    let attributes = &kept.entries[&key(&source, "d/with")].head.metadata;
    assert_eq!(
        Attributes::from_metadata(attributes).unwrap().xattrs[0].0,
        b"system.posix_acl_access"
    );
    // New files in the target inherit this, unless the restore takes it off again.
    fs_err::create_dir_all(&target).unwrap();
    xattr::set(&target, "system.posix_acl_default", acl).unwrap();
    let (_, incidents) = restore(&kept, &source, &target).await;
    assert_eq!(incidents, [""; 0]);
    assert_eq!(describe(&target).unwrap(), describe(&source).unwrap());
}

#[tokio::test]
async fn a_full_target_ends_the_restore() {
    let full = Path::new("/dev/shm");
    let (_dir, root) = scratch();
    if !is_root() || !full.exists() {
        return;
    }
    let mount = root.join("small");
    fs_err::create_dir(&mount).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    if rustix::mount::mount("none", &mount, "tmpfs", flags, Some(c"size=1m")).is_err() {
        return;
    }
    let source = root.join("source");
    fs_err::create_dir(&source).unwrap();
    write(&source.join("big"), vec![1; 3 << 20]);
    let kept = keep(&source).await;
    let mut sink = FilesSink::new(RestoreRequest {
        target: mount.clone(),
        strip: strip(&source),
        ..RestoreRequest::default()
    });
    let error = kept.give(&context().0, &mut sink).await.unwrap_err();
    drop(sink);
    let left = describe(&mount).unwrap();
    rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(error.kind(), ErrorKind::StoreFull);
    assert_eq!(left.len(), 0);
    assert!(error.advice().is_some());
}

#[tokio::test]
async fn a_directory_in_the_place_of_a_file_goes_only_when_the_file_is_whole() {
    let (_dir, root) = scratch();
    let (source, kept) = sample(&root).await;
    let target = root.join("target");
    for name in ["a", "dir/b", "dir/link", "dir/a2"] {
        fs_err::create_dir_all(target.join(name)).unwrap();
        write(&target.join(name).join("mine"), "x");
    }
    let request = || RestoreRequest {
        target: target.clone(),
        strip: strip(&source),
        delete: true,
        ..RestoreRequest::default()
    };
    let mut sink = FilesSink::new(request());
    let (context, recorder) = context();
    sink.prepare(&context).await.unwrap();
    let head = kept.entries[&key(&source, "a")].head.clone();
    let content = Content::Open(Box::new(Broken));
    sink.write(&context, Entry { head, content }).await.unwrap();
    let report = sink.finish(&context).await.unwrap();
    assert_eq!((report.written, report.failed), (0, 1));
    assert!(incidents(&recorder)[0].contains("pack is gone"));
    assert_eq!(read(&target.join("a/mine")), "x");
    // Whole, it takes the place; so do links.
    let (report, incidents) = restore_with(&kept, &source, &target, request()).await;
    assert_eq!((report.failed, incidents), (0, vec![]));
    assert_eq!(describe(&target).unwrap(), describe(&source).unwrap());
}
