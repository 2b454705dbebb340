//! Restores while they write: temporary names, and how much is open at once.

use super::files_restore::{read, sample, write};
use super::{context, incidents, keep, key, restore, scratch, strip};
use holdall::connector::Sink;
use holdall::connector::files::{Attributes, FilesSink, RestoreRequest};
use holdall::snapshot::entry::{Content, Entry, Piece};
use holdall::testkit::collect::Collected;
use holdall::testkit::trees::describe;
use std::os::unix::fs::symlink;

/// The name under which a restore writes `name`.
fn temporary_name(name: &str) -> String {
    format!(".holdall-{}", &blake3::hash(name.as_bytes()).to_hex()[..16])
}

#[tokio::test]
async fn what_an_interrupted_restore_left_is_not_kept_and_makes_its_directory_partial() {
    let (_dir, root) = scratch();
    let source = root.join("source");
    fs_err::create_dir_all(source.join("d")).unwrap();
    fs_err::create_dir_all(source.join("e").join(temporary_name("f"))).unwrap();
    for name in ["d/a", "e/.holdall-not-hex-at-all", "e/b"] {
        write(&source.join(name), "x");
    }
    write(&source.join("d").join(temporary_name("a")), "left");
    let kept = keep(&source).await;
    let partial = |path: &str| {
        let metadata = &kept.entries[&key(&source, path)].head.metadata;
        Attributes::from_metadata(metadata).unwrap().partial
    };
    assert!(partial("d/") && !partial("e/") && !partial(""));
    let below = kept.entries.range(key(&source, "")..).count();
    assert_eq!(below, 7, "{:?}", kept.entries.keys());
    assert_eq!((kept.notes.len(), kept.incidents.len()), (1, 0));
    assert!(kept.notes[0].contains(&temporary_name("a")), "{:?}", kept.notes);
    // Asked for by its name, it is missed loudly.
    let request = holdall::connector::files::FilesRequest {
        roots: vec![source.join("d").join(temporary_name("a"))],
        ..Default::default()
    };
    let mut files = holdall::connector::files::FilesSource::new(request).unwrap();
    let kept = Collected::take(&context().0, &mut files, None).await.unwrap();
    assert_eq!(kept.incidents.len(), 1);
}

#[tokio::test]
async fn an_entry_with_a_name_that_restores_write_under_fails_and_harms_no_other() {
    for upper in [false, true] {
        let (_dir, root) = scratch();
        let source = root.join("source");
        fs_err::create_dir(&source).unwrap();
        let names = ["a", "-before", "link"];
        for name in &names[..2] {
            write(&source.join(name), name);
        }
        symlink("a", source.join("link")).unwrap();
        let mut kept = keep(&source).await;
        // As a snapshot of another origin may have it.
        let spare = kept.entries[&key(&source, "a")].clone();
        for name in names {
            let mut name = temporary_name(name);
            if upper {
                name.make_ascii_uppercase();
            }
            let mut evil = spare.clone();
            evil.head.key = key(&source, &name);
            evil.pieces = vec![Piece::Data("evil".into())];
            evil.head.size = Some(4);
            kept.entries.insert(evil.head.key.clone(), evil);
        }
        let target = root.join("target");
        let (report, incidents) = restore(&kept, &source, &target).await;
        assert_eq!((report.written, report.failed), (3, 3), "{incidents:?}");
        assert!(
            incidents
                .iter()
                .all(|i| i.contains("restores use for themselves"))
        );
        assert_eq!(describe(&target).unwrap(), describe(&source).unwrap());
    }
}

/// Content that takes the temporary name of `a` away while it is read.
struct Thief(std::path::PathBuf);

impl holdall::snapshot::entry::OpenContent for Thief {
    fn open(
        self: Box<Self>,
    ) -> futures::future::BoxFuture<'static, holdall::error::Result<holdall::snapshot::entry::ContentStream>>
    {
        use futures::StreamExt;
        let steal = move |step| {
            if step == 2 {
                let name = self.0.join(temporary_name("a"));
                fs_err::remove_file(&name).unwrap();
                write(&name, "not ours");
            }
            Ok(Piece::Data(vec![1; 2 << 20].into()))
        };
        Box::pin(async move { Ok(futures::stream::iter(0..4).map(steal).boxed()) })
    }
}

#[tokio::test]
async fn a_file_whose_temporary_name_was_taken_away_fails_and_nothing_else_gets_its_name() {
    let (_dir, root) = scratch();
    let (source, kept) = sample(&root).await;
    let target = root.join("target");
    let mut sink = FilesSink::new(RestoreRequest {
        target: target.clone(),
        strip: strip(&source),
        ..RestoreRequest::default()
    });
    let (context, recorder) = context();
    sink.prepare(&context).await.unwrap();
    let mut head = kept.entries[&key(&source, "a")].head.clone();
    head.size = Some(8 << 20);
    let content = Content::Open(Box::new(Thief(target.clone())));
    sink.write(&context, Entry { head, content }).await.unwrap();
    let report = sink.finish(&context).await.unwrap();
    assert_eq!((report.written, report.failed), (0, 1));
    assert!(incidents(&recorder)[0].contains("was replaced"));
    assert!(!target.join("a").exists());
    assert_eq!(read(&target.join(temporary_name("a"))), "not ours");
}

/// Content of some bytes that counts how many of its kind are open, and the most that ever were.
struct Counted(usize, std::sync::Arc<[std::sync::atomic::AtomicUsize; 2]>);

impl holdall::snapshot::entry::OpenContent for Counted {
    fn open(
        self: Box<Self>,
    ) -> futures::future::BoxFuture<'static, holdall::error::Result<holdall::snapshot::entry::ContentStream>>
    {
        use futures::StreamExt;
        use std::sync::atomic::Ordering::SeqCst;
        Box::pin(async move {
            let Self(len, counts) = *self;
            counts[1].fetch_max(counts[0].fetch_add(1, SeqCst) + 1, SeqCst);
            let piece = async move {
                // Long enough for the others to be opened meanwhile.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                counts[0].fetch_sub(1, SeqCst);
                Ok(Piece::Data(vec![1; len].into()))
            };
            Ok(futures::stream::once(piece).boxed())
        })
    }
}

#[tokio::test]
async fn two_large_contents_are_open_at_once_and_more_small_ones() {
    for (len, declared, most) in [((1 << 20) + 1, true, 2), (1 << 20, false, 2), (1 << 20, true, 4)] {
        let (_dir, root) = scratch();
        let (source, kept) = sample(&root).await;
        let mut sink = FilesSink::new(RestoreRequest {
            target: root.join("target"),
            strip: strip(&source),
            ..RestoreRequest::default()
        });
        let (context, _) = context();
        sink.prepare(&context).await.unwrap();
        let counts = std::sync::Arc::default();
        for name in 'a'..='h' {
            let mut head = kept.entries[&key(&source, "dir/b")].head.clone();
            head.key = key(&source, &name.to_string());
            head.size = declared.then_some(len as u64);
            let content = Content::Open(Box::new(Counted(len, std::sync::Arc::clone(&counts))));
            sink.write(&context, Entry { head, content }).await.unwrap();
        }
        let report = sink.finish(&context).await.unwrap();
        assert_eq!((report.written, report.bytes), (8, 8 * len as u64));
        // The smallest budget allows 4 jobs.
        let highest = counts[1].load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!(highest, most, "{len} bytes, declared: {declared}");
    }
}
