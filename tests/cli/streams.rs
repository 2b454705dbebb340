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
