//! What a closed pipe and a full disk make of the exit code: the truth about the work, whoever reads of it.

use crate::{Ran, Sandbox, files_below, noise};
use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

/// Runs it with a standard output that nobody reads any more.
fn unread(sandbox: &Sandbox, arguments: &[&str]) -> Ran {
    let mut command = sandbox.command(arguments);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(
        output.status.signal(),
        None,
        "{arguments:?} died of the closed pipe"
    );
    Ran::from(output)
}

/// Runs it with a standard output that is full.
fn full(sandbox: &Sandbox, arguments: &[&str]) -> Ran {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = sandbox
        .command(arguments)
        .stdout(full)
        .stderr(Stdio::piped())
        .output();
    Ran::from(output.unwrap())
}

#[test]
fn a_closed_pipe_does_not_change_what_a_command_did() {
    let sandbox = Sandbox::new();
    let ran = unread(&sandbox, &["snapshot", "data"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let ran = unread(&sandbox, &["snapshot", "data", "not-there"]);
    assert_eq!(ran.code, 3, "what is missing stays missing: {}", ran.err);
    let hello = format!("{}/deep/er/big.bin", sandbox.data());
    for arguments in [
        &["list"][..],
        &["list", "--json"],
        &["ls", "latest", "--recursive"],
        &["cat", "latest", &hello],
        &["restore", "latest", "--target", "out"],
        &["check"],
        &["key", "list"],
    ] {
        let ran = unread(&sandbox, arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.err);
    }
    assert!(sandbox.path("out").exists());
    for pack in files_below(&sandbox.path("repo/packs")) {
        std::fs::remove_file(pack).unwrap();
    }
    // What the cache still has of the tree would hide the damage.
    for arguments in [
        &["check"][..],
        &["check", "--json"],
        &["ls", "latest", "--no-cache"],
        &["cat", "latest", &hello, "--no-cache"],
    ] {
        let ran = unread(&sandbox, arguments);
        assert_eq!(
            ran.code, 13,
            "damage is damage, read or unread: {arguments:?} {}",
            ran.err
        );
    }
}

#[test]
fn a_report_that_cannot_be_written_is_no_success_unless_the_work_is_done() {
    let sandbox = Sandbox::new();
    let ran = full(&sandbox, &["snapshot", "data"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("is committed"), "{}", ran.err);
    let hello = format!("{}/hello.txt", sandbox.data());
    for arguments in [
        &["list"][..],
        &["ls", "latest"],
        &["cat", "latest", &hello],
        &["check"],
    ] {
        let ran = full(&sandbox, arguments);
        assert_ne!(ran.code, 0, "{arguments:?}: what was asked for is lost");
        assert!(ran.err.contains("error: "), "{arguments:?}: {}", ran.err);
    }
}

/// A file system in memory, unmounted when dropped.
struct Tiny(std::path::PathBuf);

impl Tiny {
    fn mount(at: std::path::PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let mut mount = crate::child("mount".as_ref());
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&at);
        let done = mount.stderr(Stdio::null()).status();
        done.is_ok_and(|s| s.success()).then_some(Self(at))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Needs the right to mount, and proves nothing without it.
#[test]
fn a_full_disk_is_16_loses_nothing_and_the_next_run_goes_on() {
    let sandbox = Sandbox::empty();
    let Some(disk) = Tiny::mount(sandbox.path("disk"), "90m") else {
        return;
    };
    let repo = disk.0.join("repo").display().to_string();
    sandbox.good(&[
        "init",
        "--generate-key-file",
        "key",
        "--no-recovery-phrase",
        "--repo",
        &repo,
    ]);
    sandbox.good(&["snapshot", "data", "--repo", &repo]);
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, noise(10 << 20, 5)).unwrap();
    std::fs::write(sandbox.path("data/large.bin"), noise(40 << 20, 6)).unwrap();
    let ran = sandbox.bad(&["snapshot", "data", "--repo", &repo], 16);
    ran.has_error("hint:");
    sandbox.good(&["check", "--repo", &repo]);
    let listed = sandbox.good(&["list", "--json", "--repo", &repo]).json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "half a snapshot is listed");
    // A target that is full is told the same way.
    let Some(target) = Tiny::mount(sandbox.path("small"), "200k") else {
        return;
    };
    let into = target.0.display().to_string();
    sandbox.bad(&["restore", "latest", "--target", &into, "--repo", &repo], 16);
    drop(File::open(&ballast).unwrap());
    std::fs::remove_file(&ballast).unwrap();
    std::fs::write(sandbox.path("data/large.bin"), noise(12 << 20, 6)).unwrap();
    let ran = sandbox.run(&["snapshot", "data", "--repo", &repo]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    sandbox.good(&["check", "--read-data", "--repo", &repo]);
}
