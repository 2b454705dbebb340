//! Streams: standard input and the output of commands.

use crate::{Ran, Sandbox};
use std::io::Write;
use std::process::Stdio;

#[test]
fn several_streams_and_files_make_one_snapshot() {
    let sandbox = Sandbox::new();
    let ran = sandbox.good(&[
        "snapshot",
        "data",
        "--stream",
        "one.sql=echo first",
        "--stream",
        "two.sql=sh -c 'echo $0 \"and more\"' second",
        "--stdin-filename",
        "three.sql",
        "--stdin-from-command",
        "--json",
        "--",
        "echo",
        "third",
        "*",
    ]);
    assert_eq!(ran.json()["status"], "complete");
    for (name, content) in [
        ("one.sql", "first\n"),
        ("two.sql", "second and more\n"),
        ("three.sql", "third *\n"),
    ] {
        assert_eq!(sandbox.good(&["cat", "latest", name]).out, content);
    }
    let ls = sandbox.good(&["ls", "latest"]).out;
    assert!(ls.starts_with("one.sql\nthree.sql\ntwo.sql\n/"), "{ls}");
    let ran = sandbox.good(&["restore", "latest", "--target", "out"]);
    ran.has_error("holdall cat");
}

#[test]
fn standard_input_is_kept_under_its_name() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["snapshot", "--stdin", "--stdin-filename", "dump.sql"]);
    let command = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    running.stdin.take().unwrap().write_all(b"select 1;\n").unwrap();
    let ran = Ran::from(running.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(sandbox.good(&["cat", "latest", "dump.sql"]).out, "select 1;\n");
    sandbox.good(&["cat", "latest", "dump.sql", "--output", "written"]);
    assert_eq!(std::fs::read(sandbox.path("written")).unwrap(), b"select 1;\n");
    sandbox.bad(&["cat", "latest", "dump.sql", "--output", "written"], 1);
}

#[test]
fn nothing_is_committed_when_a_command_fails() {
    let sandbox = Sandbox::new();
    let ran = sandbox.bad(
        &[
            "snapshot",
            "data",
            "--stream",
            "x.sql=sh -c 'echo half; echo sorry >&2; exit 3'",
        ],
        1,
    );
    ran.has_error("exit status: 3");
    ran.has_error("sorry");
    sandbox.bad(&["snapshot", "--stream", "x=/no/such/program secretargument"], 1);
    assert_eq!(sandbox.good(&["list", "--json"]).out.trim(), "[]");
    sandbox.good(&["check"]);
}

#[test]
fn arguments_and_secrets_of_commands_are_told_to_nobody() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&[
        "snapshot",
        "--stream",
        "e=sh -c env",
        "--stream",
        "x=false hunter2",
        "-v",
    ]);
    let ran = Ran::from(command.env("HOLDALL_PASSWORD", "").output().unwrap());
    assert_eq!(ran.code, 1);
    assert!(
        !ran.err.contains("hunter2") && !ran.out.contains("hunter2"),
        "{}",
        ran.err
    );
    sandbox.good(&["snapshot", "--stream", "e=env"]);
    let told = sandbox.good(&["cat", "latest", "e"]).out;
    assert!(
        told.contains("PATH=") && !told.contains("HOLDALL_KEY_FILE"),
        "{told}"
    );
}

/// Runs the program with `input` as its standard input.
fn fed(sandbox: &Sandbox, arguments: &[&str], input: &[u8]) -> Ran {
    let mut command = sandbox.command(arguments);
    let mut running = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses to run may be gone already.
    let _ = running.stdin.take().unwrap().write_all(input);
    Ran::from(running.wait_with_output().unwrap())
}

#[test]
fn a_password_command_leaves_standard_input_alone() {
    let sandbox = Sandbox::empty();
    let secret = ["--password-command", "sh -c 'cat >/dev/null; echo secret'"];
    sandbox.good(&["init", secret[0], secret[1]]);
    let mut command = sandbox.command(&["snapshot", "--stdin", secret[0], secret[1]]);
    let mut running = command
        .env_remove("HOLDALL_KEY_FILE")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    running.stdin.take().unwrap().write_all(b"select 1;\n").unwrap();
    assert!(running.wait().unwrap().success());
    let cat = sandbox
        .command(&["cat", "latest", "stdin", secret[0], secret[1]])
        .env_remove("HOLDALL_KEY_FILE")
        .output();
    assert_eq!(Ran::from(cat.unwrap()).out, "select 1;\n");
}

#[test]
fn standard_input_is_read_once_and_an_empty_one_is_told() {
    let sandbox = Sandbox::new();
    for arguments in [
        &["snapshot", "--stdin", "--files-from", "-"][..],
        &["snapshot", "--files-from", "-", "--files-from", "-"],
    ] {
        let ran = fed(&sandbox, arguments, b"data\n");
        assert_eq!(ran.code, 2, "{}", ran.err);
        ran.has_error("read once");
    }
    let ran = fed(&sandbox, &["snapshot", "--stdin"], b"");
    assert_eq!(ran.code, 0, "{}", ran.err);
    ran.has_error("standard input was empty");
}

#[test]
fn an_output_file_appears_whole_or_not_at_all() {
    let sandbox = Sandbox::new();
    sandbox.good(&["snapshot", "--stream", "x=echo content"]);
    std::fs::create_dir(sandbox.path("place")).unwrap();
    std::fs::write(sandbox.path("place/mine"), "mine").unwrap();
    sandbox.bad(&["cat", "latest", "x", "-o", "place/mine"], 1);
    assert_eq!(std::fs::read(sandbox.path("place/mine")).unwrap(), b"mine");
    sandbox.good(&["cat", "latest", "x", "-o", "place/new"]);
    assert_eq!(std::fs::read(sandbox.path("place/new")).unwrap(), b"content\n");
    for pack in crate::files_below(&sandbox.path("repo/packs")) {
        std::fs::remove_file(pack).unwrap();
    }
    let ran = sandbox.run(&["cat", "latest", "x", "-o", "place/half", "--no-cache"]);
    assert_ne!(ran.code, 0);
    assert_eq!(
        crate::files_below(&sandbox.path("place")).len(),
        2,
        "something is left"
    );
}
