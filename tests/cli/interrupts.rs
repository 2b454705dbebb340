//! Signals lose nothing: what was uploaded is found by the next run.

use crate::{Ran, Sandbox, files_below, noise};
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

fn kill(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// A snapshot whose files are uploaded, and which then waits for a command that says nothing.
fn begin(sandbox: &Sandbox) -> Child {
    std::fs::write(sandbox.path("data/large.bin"), noise(80 << 20, 7)).unwrap();
    let mut command = sandbox.command(&["snapshot", "data", "--stream", "slow.sql=sleep 600", "--json"]);
    let running = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while files_below(&sandbox.path("repo/packs")).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(120), "nothing was uploaded");
        std::thread::sleep(Duration::from_millis(50));
    }
    running
}

#[test]
fn an_interrupted_snapshot_commits_nothing_and_the_next_run_reuses_it() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let sandbox = Sandbox::new();
        let running = begin(&sandbox);
        kill(&running, signal);
        let ran = Ran::from(running.wait_with_output().unwrap());
        assert_eq!(ran.code, code, "{} {}", ran.out, ran.err);
        let last: serde_json::Value = serde_json::from_str(ran.err.lines().last().unwrap()).unwrap();
        assert_eq!(last["code"], code);
        assert_eq!(sandbox.good(&["list", "--json"]).out.trim(), "[]");
        sandbox.good(&["check", "--read-data"]);
        let next = sandbox.good(&["snapshot", "data", "--json"]).json();
        let stored = next["data_added_packed"].as_u64().unwrap();
        assert!(stored < 60 << 20, "{stored} bytes were stored again");
        let restored = sandbox.good(&["restore", "latest", "--target", "out", "--verify"]);
        assert!(restored.out.contains("verified"));
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let sandbox = Sandbox::new();
    let mut running = begin(&sandbox);
    // Two in a row may be merged into one by the system: the second is sent until the process is gone.
    let began = Instant::now();
    while running.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_secs(60) {
        kill(&running, Signal::INT);
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = running.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    sandbox.good(&["check"]);
}
