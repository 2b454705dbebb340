//! The second reader, `format-spec/reader.py`, on the vectors and on repositories that the program wrote.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use holdall::connector::files::{FilesRequest, FilesSource};
use holdall::connector::stdio::{Input, StdioSource, StreamRequest};
use holdall::connector::{Origin, Source};
use holdall::context::Context;
use holdall::event::Silent;
use holdall::format::note::NoteRecord;
use holdall::ops;
use holdall::snapshot::entry::{Content, Entry, EntryHead, EntryKind, Item, Key, Metadata, Prior};
use holdall::testkit::rounds::Hand;
use holdall::testkit::{repo, trees};
use std::path::Path;
use std::sync::Arc;

fn reader(arguments: &[&Path], key: &Path) -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test starts Python, no connector does"
    )]
    let mut python = std::process::Command::new("python3");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/format-spec/reader.py");
    let output = python
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("HOLDALL_KEY_FILE", key)
        .arg(script)
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

fn grow(source: &Path) {
    fs_err::create_dir_all(source.join("sub/deep")).unwrap();
    fs_err::write(source.join("large"), noise(90 << 20, 1)).unwrap();
    fs_err::write(source.join("text"), "line of text\n".repeat(300_000)).unwrap();
    fs_err::write(source.join("empty"), b"").unwrap();
    for i in 0..500u64 {
        fs_err::write(
            source.join(format!("sub/{i}")),
            noise(usize::try_from(i * 37).unwrap(), i),
        )
        .unwrap();
    }
    let sparse = fs_err::File::create(source.join("sub/deep/sparse")).unwrap();
    sparse.set_len(300 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(sparse.file(), &noise(100_000, 9), 200 << 20).unwrap();
    fs_err::hard_link(source.join("text"), source.join("sub/again")).unwrap();
    fs_err::os::unix::fs::symlink("../text", source.join("sub/link")).unwrap();
}

/// Entries as databases have them: names that end with NUL, numbers that look like anything.
struct Rows;

impl Source for Rows {
    fn origin(&self) -> Origin {
        Origin {
            connector: "postgres".into(),
            description: "shop".into(),
            version: None,
        }
    }

    fn entries<'a>(
        &'a mut self,
        _: &'a Context,
        _: Arc<dyn Prior>,
    ) -> BoxStream<'a, holdall::error::Result<Item>> {
        let group = |key: &[u8], kind| (key.to_vec(), kind, Content::None);
        let entry =
            |key: &[u8], kind, content: Vec<u8>| (key.to_vec(), kind, Content::Bytes(Bytes::from(content)));
        let entries = vec![
            group(b"database/shop\0", EntryKind::Database),
            entry(
                b"database/shop\x001-schema",
                EntryKind::Statements,
                b"CREATE TABLE t ();\n".to_vec(),
            ),
            group(b"database/shop\x002-data/public\0t\0", EntryKind::Table),
            entry(
                b"database/shop\x002-data/public\0t\0\0\0\0\0\0\0\0\0",
                EntryKind::Segment,
                noise(40_000, 5),
            ),
            entry(
                b"database/shop\x002-data/public\0t\0\0\0\0\0\0\0//",
                EntryKind::Segment,
                b"1\tx\n".to_vec(),
            ),
            entry(
                b"database/shop\x003-large-objects/..//",
                EntryKind::LargeObject,
                b"large".to_vec(),
            ),
        ];
        let item = |(key, kind, content)| {
            let head = EntryHead {
                key: Key::new(key),
                kind,
                metadata: Metadata::default(),
                state: Bytes::new(),
                size: None,
            };
            Ok(Item::Entry(Entry { head, content }))
        };
        stream::iter(entries.into_iter().map(item)).boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, holdall::error::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

#[test]
#[ignore = "scripts/test runs it, with the packages of Python that it needs"]
fn the_second_reader_holds_the_vectors() {
    reader(&[Path::new("vectors")], Path::new("/dev/null"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/test runs it, with the packages of Python that it needs"]
async fn the_second_reader_restores_what_was_written() {
    let work = tempfile::tempdir().unwrap();
    let (source, stored, key) = (
        work.path().join("source"),
        work.path().join("repo"),
        work.path().join("key"),
    );
    fs_err::create_dir(&source).unwrap();
    grow(&source);
    fs_err::write(&key, [42; 32]).unwrap();
    let context = Context::new(Arc::new(Silent), 64 << 20, 2).unwrap();
    let store = repo::local(&stored, &context);
    let repository = repo::init(&store, &context).await.unwrap();
    repo::snapshot_of(&context, &repository, &source).await.unwrap();

    // The same names with other content: what the second snapshot stores rests on the first.
    let mut large = noise(90 << 20, 1);
    large[50 << 20] ^= 1;
    fs_err::write(source.join("large"), large).unwrap();
    let dump = noise(3 << 20, 77);
    fs_err::write(work.path().join("dump"), &dump).unwrap();
    let mut open = || -> holdall::error::Result<Option<Vec<Box<dyn Source>>>> {
        let roots = vec![source.clone()];
        let files = FilesSource::new(FilesRequest {
            roots,
            ..FilesRequest::default()
        })?;
        let input = Input::Reader(Box::new(std::io::Cursor::new(dump.clone())));
        let streams = StdioSource::new(vec![StreamRequest {
            name: "dump.sql".into(),
            input,
        }])?;
        Ok(Some(vec![Box::new(files), Box::new(streams)]))
    };
    ops::snapshot(&context, &repository, &repo::request(), &mut open)
        .await
        .unwrap();

    let mut databases =
        || -> holdall::error::Result<Option<Vec<Box<dyn Source>>>> { Ok(Some(vec![Box::new(Rows)])) };
    ops::snapshot(&context, &repository, &repo::request(), &mut databases)
        .await
        .unwrap();
    let given_out = work.path().join("given");
    reader(
        &[Path::new("restore"), &stored, Path::new("latest"), &given_out],
        &key,
    );
    for (name, content) in [
        ("database/shop%001-schema", b"CREATE TABLE t ();\n".to_vec()),
        (
            "database/shop%002-data/public%00t%00%00%00%00%00%00%00%00%00",
            noise(40_000, 5),
        ),
        (
            "database/shop%002-data/public%00t%00%00%00%00%00%00%00/%2F",
            b"1\tx\n".to_vec(),
        ),
        ("database/shop%003-large-objects/%2E./%2F", b"large".to_vec()),
    ] {
        assert_eq!(fs_err::read(given_out.join(name)).unwrap(), content, "{name}");
    }

    let target = work.path().join("target");
    let files = repo::reader(&context, &repository, "latest~1").await.unwrap();
    let files = files.record().sid.name();
    reader(&[Path::new("restore"), &stored, Path::new(&files), &target], &key);
    let there = target.join(source.strip_prefix("/").unwrap());
    assert_eq!(
        trees::describe(&source).unwrap(),
        trees::describe(&there).unwrap()
    );
    assert_eq!(fs_err::read(target.join("dump.sql")).unwrap(), dump);
    reader(&[Path::new("ls"), &stored, Path::new("latest")], &key);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "scripts/test runs it, with the packages of Python that it needs"]
async fn the_second_reader_knows_which_forgets_have_an_effect() {
    let work = tempfile::tempdir().unwrap();
    let (source, stored, key) = (
        work.path().join("source"),
        work.path().join("repo"),
        work.path().join("key"),
    );
    fs_err::create_dir(&source).unwrap();
    fs_err::write(&key, [42; 32]).unwrap();
    let context = Context::new(Arc::new(Silent), 64 << 20, 2).unwrap();
    let store = repo::local(&stored, &context);
    let repository = repo::init(&store, &context).await.unwrap();
    let mut sids = Vec::new();
    for content in ["one", "two", "three", "four"] {
        fs_err::write(source.join("file"), content).unwrap();
        let report = repo::snapshot_of(&context, &repository, &source).await.unwrap();
        sids.push(report.snapshot.sid);
    }
    let hand = Hand {
        repository: &repository,
        context: &context,
    };
    let protect = |protected| NoteRecord {
        protected: Some(protected),
        ..NoteRecord::default()
    };
    for (sid, notes) in [(sids[0], [true, true]), (sids[1], [true, false])] {
        for protected in notes {
            repository
                .put_note(&context, sid, protect(protected))
                .await
                .unwrap();
        }
    }
    // The second is not protected any more, and the last is the newest of its source.
    for sid in [sids[0], sids[1], sids[3]] {
        hand.forget(sid).await;
    }
    let states = || {
        let listed = reader(&[Path::new("ls"), &stored], &key);
        let lines = listed.lines().map(|line| {
            let mut words = line.split(' ');
            (
                words.next().unwrap().to_owned(),
                words.next_back().unwrap().to_owned(),
            )
        });
        lines.collect::<std::collections::BTreeMap<_, _>>()
    };
    let found = states();
    let found: Vec<_> = sids.iter().map(|sid| found[&sid.name()].as_str()).collect();
    assert_eq!(found, ["complete", "forgotten", "complete", "complete"]);
    let view = repository.view(&context).await.unwrap();
    let known: Vec<_> = view.snapshots().map(|record| record.sid).collect();
    assert_eq!(known.len(), 3, "as this program sees it");

    let target = work.path().join("target");
    reader(
        &[Path::new("restore"), &stored, Path::new("latest"), &target],
        &key,
    );
    let restored = target.join(source.strip_prefix("/").unwrap()).join("file");
    assert_eq!(fs_err::read(restored).unwrap(), b"four");
    // A note that cannot be read may be the one that protects.
    let notes = stored.join("notes").join(sids[1].to_string());
    let last = notes.join("00000001");
    let mut bytes = fs_err::read(&last).unwrap();
    bytes[120] ^= 1;
    fs_err::remove_file(&last).unwrap();
    fs_err::write(&last, bytes).unwrap();
    assert_eq!(states()[&sids[1].name()], "complete");
}
