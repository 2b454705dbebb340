//! Streams: from readers and commands, kept only if all ended well.

use super::context;
use futures::StreamExt;
use holdall::connector::Source;
use holdall::connector::stdio::{Input, StdioSource, StreamRequest, key_of, write_content};
use holdall::error::{Error, ErrorKind};
use holdall::event::Event;
use holdall::snapshot::entry::{Content, EntryKind, Item, MemoryPrior, NoPrior, Piece};
use holdall::testkit::collect::{Collected, Pieces};
use std::sync::Arc;

fn command(name: &str, argv: &[&str]) -> StreamRequest {
    StreamRequest {
        name: name.into(),
        input: Input::Command(argv.iter().map(Into::into).collect()),
    }
}

fn shell(name: &str, script: &str) -> StreamRequest {
    command(name, &["/bin/sh", "-c", script])
}

fn reader(name: &str, bytes: &'static [u8]) -> StreamRequest {
    StreamRequest {
        name: name.into(),
        input: Input::Reader(Box::new(bytes)),
    }
}

async fn keep(streams: Vec<StreamRequest>) -> Result<Collected, Error> {
    Collected::take(&context().0, &mut StdioSource::new(streams)?, None).await
}

#[tokio::test]
async fn several_streams_come_in_key_order_with_their_content() {
    let long = shell("b.sql", "head -c 3000000 /dev/zero; echo end");
    let streams = vec![shell("z", "printf z"), long, reader("a/stdin", b"from stdin")];
    let kept = keep(streams).await.unwrap();
    let keys: Vec<_> = kept.entries.keys().cloned().collect();
    assert_eq!(keys, [key_of("a/stdin"), key_of("b.sql"), key_of("z")]);
    assert_eq!(kept.entries[&key_of("a/stdin")].bytes(), b"from stdin");
    let long = kept.entries[&key_of("b.sql")].bytes();
    assert_eq!((long.len(), long.ends_with(b"\0end\n")), (3_000_004, true));
    assert_eq!(kept.entries[&key_of("z")].head.kind, EntryKind::Stream);
    assert!(kept.entries.values().all(|k| k.head.state.is_empty()));
}

#[tokio::test]
async fn a_stream_is_never_taken_over_from_the_parent() {
    let parent = keep(vec![reader("dump", b"same")]).await.unwrap();
    let prior: MemoryPrior = parent.as_prior(super::later());
    let mut source = StdioSource::new(vec![reader("dump", b"same")]).unwrap();
    let (context, _) = context();
    let items: Vec<_> = source.entries(&context, Arc::new(prior)).collect().await;
    assert!(matches!(items.as_slice(), [Ok(Item::Entry(_))]));
}

#[tokio::test]
async fn nothing_is_kept_unless_every_command_exits_with_0() {
    let cases = [
        (
            shell("s", "echo half; echo 'disk on fire' >&2; exit 3"),
            vec!["exit status: 3", "disk on fire"],
        ),
        (shell("s", "echo half; kill -9 $$"), vec!["signal: 9"]),
        (
            command("s", &["/nonexistent/program", "secret-argument"]),
            vec!["cannot start", "/nonexistent/program"],
        ),
    ];
    for (failing, says) in cases {
        let (context, _) = context();
        let mut source = StdioSource::new(vec![reader("fine", b"x"), failing]).unwrap();
        let mut items = source.entries(&context, Arc::new(NoPrior));
        let mut failed = 0;
        while let Some(item) = items.next().await {
            let Item::Entry(entry) = item.unwrap() else {
                panic!("not an entry")
            };
            let ended = match entry.content.open().await {
                Ok(stream) => stream
                    .collect::<Vec<_>>()
                    .await
                    .last()
                    .is_some_and(Result::is_err),
                Err(_) => true,
            };
            failed += u64::from(ended);
        }
        drop(items);
        // The consumer may have overlooked it; the source does not.
        assert_eq!(failed, 1);
        let error = source.finish().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Source);
        let text = format!("{error:?}");
        assert!(says.iter().all(|part| text.contains(part)), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn a_stream_that_nobody_read_to_its_end_is_not_kept() {
    let (context, _) = context();
    let pid = tempfile::NamedTempFile::new().unwrap();
    let script = format!("echo $$ > {}; exec sleep 1000", pid.path().display());
    let mut source = StdioSource::new(vec![shell("s", &format!("echo x; {script}"))]).unwrap();
    let mut items = source.entries(&context, Arc::new(NoPrior));
    let Some(Ok(Item::Entry(entry))) = items.next().await else {
        panic!("no entry")
    };
    let stream = entry.content.open().await.unwrap();
    let number = loop {
        let text = fs_err::read_to_string(pid.path()).unwrap();
        if text.ends_with('\n') {
            break text.trim().parse::<u32>().unwrap();
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    drop(stream);
    drop(items);
    // The child does not outlive its reader.
    let alive = || {
        let status = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        !status.is_empty() && !status.contains(") Z ")
    };
    for _ in 0..200 {
        if !alive() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(!alive());
    assert_eq!(source.finish().await.unwrap_err().kind(), ErrorKind::Source);
}

#[tokio::test]
async fn standard_error_becomes_notes_and_never_content() {
    let (context, recorder) = context();
    let mut source = StdioSource::new(vec![shell(
        "s",
        "echo out; echo careful >&2; echo '' >&2; echo last >&2",
    )])
    .unwrap();
    let kept = Collected::take(&context, &mut source, None).await.unwrap();
    assert_eq!(kept.entries[&key_of("s")].bytes(), b"out\n");
    let notes: Vec<_> = recorder
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Note { text } => Some(text),
            _ => None,
        })
        .collect();
    assert_eq!(notes, ["/bin/sh: careful", "/bin/sh: ", "/bin/sh: last"]);
}

#[tokio::test]
async fn names_and_commands_are_checked_before_anything_runs() {
    let bad: [Vec<StreamRequest>; 7] = [
        vec![],
        vec![reader("", b"")],
        vec![reader("../x", b"")],
        vec![reader("a//b", b"")],
        vec![reader("a\nb", b"")],
        vec![reader("same", b""), reader("same", b"")],
        vec![command("x", &[])],
    ];
    for streams in bad {
        assert_eq!(
            StdioSource::new(streams).err().unwrap().kind(),
            ErrorKind::Invalid
        );
    }
}

#[tokio::test]
async fn content_is_written_with_holes_as_zeros() {
    let pieces = vec![
        Piece::Data("ab".into()),
        Piece::Hole(40_000),
        Piece::Data("c".into()),
    ];
    let mut out = Vec::new();
    let written = write_content(Content::Open(Box::new(Pieces(pieces))), &mut out)
        .await
        .unwrap();
    assert_eq!((written, out.len()), (40_003, 40_003));
    assert!(out.starts_with(b"ab\0") && out.ends_with(b"\0c"));
    assert_eq!(write_content(Content::None, &mut out).await.unwrap(), 0);
}

#[tokio::test]
async fn commands_are_not_given_the_secrets_of_the_environment() {
    const INNER: &str = "HOLDALL_TEST_INNER";
    // Written out: the list must not shrink unnoticed.
    let secrets = [
        "HOLDALL_PASSWORD",
        "HOLDALL_PASSWORD_FILE",
        "HOLDALL_PASSWORD_COMMAND",
        "HOLDALL_KEY_FILE",
        "HOLDALL_RECOVERY_PHRASE",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SECRET_ACCESS_KEY_FILE",
        "AWS_SESSION_TOKEN",
        "AWS_SESSION_TOKEN_FILE",
        "CREDENTIALS_DIRECTORY",
    ];
    if std::env::var_os(INNER).is_some() {
        let kept = keep(vec![shell("s", "env")]).await.unwrap();
        let text = String::from_utf8(kept.entries[&key_of("s")].bytes()).unwrap();
        assert!(text.contains(INNER), "{text}");
        let given = |name: &&str| text.lines().any(|line| line.starts_with(&format!("{name}=")));
        assert_eq!(secrets.iter().filter(|name| given(name)).count(), 0, "{text}");
        return;
    }
    // The environment of a process is changed safely only before it starts.
    #[expect(clippy::disallowed_methods, reason = "runs this test again")]
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args([
        "--exact",
        "stdio::commands_are_not_given_the_secrets_of_the_environment",
    ]);
    again.env(INNER, "1").envs(secrets.map(|name| (name, "hush")));
    let output = again.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
