//! What the source yields: types, roots, incidents, proof of being unchanged, amounts.

use super::{context, is_root, keep, keep_with, key, later, scratch};
use futures::StreamExt;
use holdall::connector::Source;
use holdall::connector::files::{Attributes, FilesRequest, FilesSource};
use holdall::context::{Clock, Context, SystemClock, Time};
use holdall::error::ErrorKind;
use holdall::snapshot::entry::{Content, EntryKind, Item, NoPrior, Piece};
use holdall::testkit::collect::Collected;
use holdall::testkit::trees::set_mtime;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::Arc;

fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs_err::write(path, text).unwrap();
}

async fn collect(request: FilesRequest) -> holdall::error::Result<Collected> {
    Collected::take(&context().0, &mut FilesSource::new(request)?, None).await
}

#[tokio::test]
async fn holes_are_kept_as_holes_and_zeros_as_data() {
    let (_dir, root) = scratch();
    let file = fs_err::File::create(root.join("sparse")).unwrap();
    file.file().write_all_at(&[0; 8192], 1 << 20).unwrap();
    file.set_len(5 << 20).unwrap();
    let kept = keep(&root).await;
    let pieces = &kept.entries[&key(&root, "sparse")].pieces;
    let zeros = Piece::Data(vec![0; 8192].into());
    assert_eq!(
        *pieces,
        [Piece::Hole(1 << 20), zeros, Piece::Hole((4 << 20) - 8192)]
    );
}

#[tokio::test]
async fn the_way_to_a_root_is_kept_without_its_other_names() {
    let (_dir, root) = scratch();
    fs_err::create_dir_all(root.join("a/b/c")).unwrap();
    for name in ["a/no", "a/b/yes", "z"] {
        write(&root.join(name), "x");
    }
    let roots = vec![root.join("a/b"), root.join("a/b/c"), root.join("z")];
    let kept = collect(FilesRequest {
        roots,
        ..FilesRequest::default()
    })
    .await
    .unwrap();
    let below: Vec<_> = kept
        .entries
        .range(key(&root, "")..)
        .map(|(k, _)| k.clone())
        .collect();
    let wanted = ["", "a/", "a/b/", "a/b/c/", "a/b/yes", "z"];
    assert_eq!(below, wanted.map(|path| key(&root, path)));
    let partial = |path| {
        Attributes::from_metadata(&kept.entries[&key(&root, path)].head.metadata)
            .unwrap()
            .partial
    };
    assert!(partial("a/") && partial("") && !partial("a/b/"));
    assert_eq!(kept.entries.first_key_value().unwrap().0, &"files/".into());
}

#[tokio::test]
async fn links_on_the_way_are_followed_and_links_as_roots_are_kept() {
    let (_dir, root) = scratch();
    fs_err::create_dir_all(root.join("real/in")).unwrap();
    write(&root.join("real/in/f"), "x");
    symlink("real", root.join("link")).unwrap();
    let kept = collect(FilesRequest {
        roots: vec![root.join("link/in")],
        ..FilesRequest::default()
    })
    .await
    .unwrap();
    assert_eq!(kept.entries[&key(&root, "link/")].head.kind, EntryKind::Directory);
    assert!(kept.entries.contains_key(&key(&root, "link/in/f")));
    let kept = collect(FilesRequest {
        roots: vec![root.join("link")],
        ..FilesRequest::default()
    })
    .await
    .unwrap();
    assert_eq!(kept.entries[&key(&root, "link")].head.kind, EntryKind::Symlink);
    let kept = collect(FilesRequest {
        roots: vec![root.join("link/")],
        ..FilesRequest::default()
    })
    .await
    .unwrap();
    assert!(kept.entries.contains_key(&key(&root, "link/in/f")));
}

#[tokio::test]
async fn a_missing_root_is_an_incident_and_no_root_at_all_an_error() {
    let (_dir, root) = scratch();
    write(&root.join("here"), "x");
    let roots = vec![root.join("here"), root.join("gone/deep")];
    let kept = collect(FilesRequest {
        roots,
        ..FilesRequest::default()
    })
    .await
    .unwrap();
    assert_eq!(kept.incidents.len(), 1);
    assert_eq!(kept.incidents[0].key, key(&root, "gone"));
    let roots = vec![root.join("gone"), root.join("too")];
    let error = collect(FilesRequest {
        roots,
        ..FilesRequest::default()
    })
    .await
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // Below another root it is missed as well.
    let roots = vec![root.clone(), root.join("gone")];
    let kept = collect(FilesRequest {
        roots,
        ..FilesRequest::default()
    })
    .await
    .unwrap();
    assert_eq!(kept.incidents.len(), 1);
}

#[tokio::test]
async fn later_names_of_a_file_point_to_the_first() {
    let (_dir, root) = scratch();
    fs_err::create_dir(root.join("d")).unwrap();
    write(&root.join("z"), "same");
    fs_err::hard_link(root.join("z"), root.join("d/a")).unwrap();
    fs_err::hard_link(root.join("z"), root.join("m")).unwrap();
    let kept = keep(&root).await;
    let first = |path| {
        let head = &kept.entries[&key(&root, path)].head;
        (
            head.kind,
            Attributes::from_metadata(&head.metadata).unwrap().first,
        )
    };
    assert_eq!(first("d/a"), (EntryKind::File, None));
    let link = (EntryKind::HardLink, Some((key(&root, "d/a"), EntryKind::File)));
    assert_eq!((first("m"), first("z")), (link.clone(), link));
    assert_eq!(kept.entries[&key(&root, "d/a")].bytes(), b"same");
}

#[tokio::test]
async fn only_old_and_equal_files_are_taken_over_unread() {
    let (_dir, root) = scratch();
    for name in ["same", "content", "touched", "mode", "replaced", "gone", "future"] {
        write(&root.join(name), "old");
    }
    let far = later().seconds + 1000;
    set_mtime(&root.join("future"), (far, 0)).unwrap();
    let kept = keep(&root).await;
    write(&root.join("content"), "new");
    set_mtime(&root.join("touched"), (5, 5)).unwrap();
    fs_err::set_permissions(
        root.join("mode"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    write(&root.join("tmp"), "old");
    fs_err::rename(root.join("tmp"), root.join("replaced")).unwrap();
    fs_err::remove_file(root.join("gone")).unwrap();
    write(&root.join("added"), "x");
    let unchanged = |kept: &Collected| {
        let below = kept.entries.range(key(&root, "")..);
        below
            .filter(|(_, k)| k.unchanged)
            .map(|(k, _)| k.clone())
            .collect::<Vec<_>>()
    };
    let next = keep_with(FilesRequest::default(), &root, Some((&kept, later()))).await;
    assert_eq!(unchanged(&next), [key(&root, "same")]);
    assert_eq!(next.entries[&key(&root, "content")].bytes(), b"new");
    let all = FilesRequest {
        force_read: true,
        ..FilesRequest::default()
    };
    assert_eq!(
        unchanged(&keep_with(all, &root, Some((&kept, later()))).await),
        []
    );
}

#[tokio::test]
async fn a_file_written_again_within_the_same_tick_is_read_again() {
    let (_dir, root) = scratch();
    let path = root.join("f");
    write(&path, "old");
    let started = SystemClock.now();
    let kept = keep(&root).await;
    // The same length, the same times as far as a coarse clock can tell: only the parent's start tells that it may have changed.
    write(&path, "new");
    let mut parent = kept.clone();
    let now = keep(&root).await;
    let entry = parent.entries.get_mut(&key(&root, "f")).unwrap();
    entry.head.state = now.entries[&key(&root, "f")].head.state.clone();
    let next = keep_with(FilesRequest::default(), &root, Some((&parent, started))).await;
    assert_eq!(next.entries[&key(&root, "f")].bytes(), b"new");
    // The same state is proof when it is older than the parent.
    let next = keep_with(FilesRequest::default(), &root, Some((&parent, later()))).await;
    assert!(next.entries[&key(&root, "f")].unchanged);
}

#[tokio::test]
async fn a_large_file_that_changes_while_it_is_read_is_kept_with_an_incident() {
    let (_dir, root) = scratch();
    let path = root.join("log");
    write(&path, vec![1; 8 << 20]);
    let (context, _) = context();
    let mut source = FilesSource::new(FilesRequest {
        roots: vec![path.clone()],
        ..FilesRequest::default()
    })
    .unwrap();
    let mut items = source.entries(&context, Arc::new(NoPrior));
    let (mut read, mut incidents) = (0, 0);
    while let Some(item) = items.next().await {
        match item.unwrap() {
            Item::Entry(entry) => {
                let mut stream = entry.content.open().await.unwrap();
                while let Some(piece) = stream.next().await {
                    if read == 0 {
                        let file = fs_err::OpenOptions::new().append(true).open(&path).unwrap();
                        std::io::Write::write_all(&mut file.into_file(), b"more").unwrap();
                    }
                    let Piece::Data(bytes) = piece.unwrap() else {
                        panic!("a hole")
                    };
                    read += bytes.len();
                }
            }
            Item::Incident(incident) => {
                assert!(incident.why.contains("changed while it was read"));
                incidents += 1;
            }
            _ => panic!("neither"),
        }
    }
    // The content is the size that the entry says; what was appended comes next time.
    assert_eq!((read, incidents), (8 << 20, 1));
}

#[tokio::test]
async fn the_end_waits_for_contents_but_not_for_dropped_ones() {
    let (_dir, root) = scratch();
    write(&root.join("large"), vec![1; 3 << 20]);
    let (context, _) = context();
    let mut source = FilesSource::new(FilesRequest {
        roots: vec![root],
        ..FilesRequest::default()
    })
    .unwrap();
    let mut items = source.entries(&context, Arc::new(NoPrior));
    let mut held = None;
    let end = async {
        while let Some(item) = items.next().await {
            if let Ok(Item::Entry(entry)) = item
                && matches!(entry.content, Content::Open(_))
            {
                held = Some(entry.content);
                break;
            }
        }
        held.take()
    };
    let held = end.await.unwrap();
    let wait = std::time::Duration::from_millis(100);
    assert!(tokio::time::timeout(wait, items.next()).await.is_err());
    drop(held);
    assert!(items.next().await.is_none());
}

#[tokio::test]
async fn what_cannot_be_read_is_an_incident_and_the_walk_goes_on() {
    let (_dir, root) = scratch();
    let long = root.join("long");
    fs_err::create_dir(&long).unwrap();
    // Longer than a key may be: 40 directories of 250 bytes.
    let mut dir = rustix::fs::open(&long, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    let name = "n".repeat(250);
    for _ in 0..40 {
        rustix::fs::mkdirat(&dir, name.as_str(), rustix::fs::Mode::RWXU).unwrap();
        dir = rustix::fs::openat(
            &dir,
            name.as_str(),
            rustix::fs::OFlags::PATH,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
    }
    write(&root.join("z"), "x");
    let kept = keep(&root).await;
    assert_eq!(kept.incidents.len(), 1, "{:?}", kept.incidents);
    assert!(kept.incidents[0].why.contains("longer than a key"));
    assert!(kept.incidents[0].key.as_bytes().len() < 2048);
    assert!(kept.entries.contains_key(&key(&root, "z")));
    // Paths longer than the system takes in one call are no trouble.
    assert!(kept.entries.keys().any(|k| k.as_bytes().len() > 7500));
}

#[tokio::test]
async fn a_cancelled_source_ends_with_an_error() {
    let (_dir, root) = scratch();
    write(&root.join("f"), "x");
    let context = Context::deterministic(1).unwrap();
    context.cancel.cancel();
    let mut source = FilesSource::new(FilesRequest {
        roots: vec![root],
        ..FilesRequest::default()
    })
    .unwrap();
    let error = Collected::take(&context, &mut source, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn devices_keep_their_numbers_and_files_without_a_size_their_content() {
    let roots = vec!["/dev/null".into(), "/proc/self/status".into()];
    let kept = collect(FilesRequest {
        roots,
        ..FilesRequest::default()
    })
    .await
    .unwrap();
    let null = &kept.entries[&"files/dev/null".into()].head;
    assert_eq!(null.kind, EntryKind::CharDevice);
    assert_eq!(
        Attributes::from_metadata(&null.metadata).unwrap().device,
        Some((1, 3))
    );
    let status = kept
        .entries
        .iter()
        .find(|(k, _)| k.to_string().ends_with("status"))
        .unwrap()
        .1;
    assert!(status.bytes().starts_with(b"Name:"));
}

#[tokio::test]
async fn a_hundred_thousand_small_files_are_read_within_the_budget() {
    let (_dir, root) = scratch();
    let content = vec![7; 10 << 10];
    for directory in 0..100 {
        let directory = root.join(format!("d{directory}"));
        fs_err::create_dir(&directory).unwrap();
        for file in 0..1000 {
            write(&directory.join(format!("f{file}")), &content);
        }
    }
    let start = std::time::Instant::now();
    let (context, _) = context();
    let mut source = FilesSource::new(FilesRequest {
        roots: vec![root.clone()],
        ..FilesRequest::default()
    })
    .unwrap();
    let mut items = source.entries(&context, Arc::new(NoPrior));
    let (mut files, mut bytes) = (0, 0);
    while let Some(item) = items.next().await {
        if let Item::Entry(entry) = item.unwrap()
            && let Content::Bytes(content) = entry.content
        {
            files += 1;
            bytes += content.len();
        }
    }
    println!("100,000 files of 10 KiB: {:?}", start.elapsed());
    assert_eq!((files, bytes), (100_000, 1_024_000_000));
    drop(items);

    let kept = keep(&root).await;
    let start = std::time::Instant::now();
    let mut source = FilesSource::new(FilesRequest {
        roots: vec![root.clone()],
        ..FilesRequest::default()
    })
    .unwrap();
    let mut items = source.entries(&context, Arc::new(kept.as_prior(later())));
    let mut unchanged = 0;
    while let Some(item) = items.next().await {
        unchanged += usize::from(matches!(item.unwrap(), Item::Unchanged(_)));
    }
    println!("100,000 unchanged files: {:?}", start.elapsed());
    assert_eq!(unchanged, 100_101);
}

#[tokio::test]
async fn names_that_vanish_are_notes_and_unreadable_ones_incidents() {
    if is_root() {
        // Root may read everything; `tests/connectors/main.rs` runs as any user, and this part as others.
        return;
    }
    let (_dir, root) = scratch();
    for name in ["secret", "z"] {
        write(&root.join(name), "x");
    }
    fs_err::create_dir(root.join("locked")).unwrap();
    let deny = |name: &str| {
        fs_err::set_permissions(
            root.join(name),
            std::os::unix::fs::PermissionsExt::from_mode(0o000),
        )
        .unwrap();
    };
    deny("secret");
    deny("locked");
    let kept = keep(&root).await;
    let keys: Vec<_> = kept.incidents.iter().map(|i| i.key.clone()).collect();
    assert_eq!(keys, [key(&root, "locked/"), key(&root, "secret")]);
    assert!(kept.entries.contains_key(&key(&root, "locked/")) && kept.entries.contains_key(&key(&root, "z")));
    assert!(Time::default() < later());
    fs_err::set_permissions(
        root.join("locked"),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
}
