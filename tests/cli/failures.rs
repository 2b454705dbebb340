//! What is said and which code comes when something is wrong: what, where, what next.

use crate::{Ran, Sandbox, files_below, noise};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_missing_repository_is_10_and_names_the_place() {
    let sandbox = Sandbox::new();
    let ran = sandbox.bad(&["list", "--repo", "elsewhere"], 10);
    ran.has_error("elsewhere");
    ran.has_error("hint:");
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    sandbox.bad(&["list", "--repo", "empty"], 10);
    let ran = sandbox.run(&["list", "--repo", "empty", "--json"]);
    let last: Value = serde_json::from_str(ran.err.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["message_type"], &last["code"]),
        (&"exit_error".into(), &10.into())
    );
    assert_eq!(ran.out, "");
}

#[test]
fn a_repository_is_not_made_twice() {
    let sandbox = Sandbox::new();
    sandbox
        .bad(&["init", "--generate-key-file", "other"], 1)
        .has_error("already");
    assert!(
        !sandbox.path("other").exists(),
        "a key file that opens nothing is left"
    );
}

#[test]
fn wrong_keys_are_12_and_broken_key_files_are_2() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("wrong"), [9; 32]).unwrap();
    sandbox
        .bad(&["list", "--key-file", "wrong"], 12)
        .has_error("wrong key file");
    std::fs::write(sandbox.path("short"), [9; 31]).unwrap();
    sandbox
        .bad(&["list", "--key-file", "short"], 2)
        .has_error("32 bytes");
    sandbox.bad(&["list", "--key-file", "wrong", "--password-file", "short"], 2);
}

#[test]
fn nobody_is_asked_without_a_terminal() {
    let sandbox = Sandbox::new();
    let output = sandbox
        .command(&["list"])
        .env_remove("HOLDALL_KEY_FILE")
        .output()
        .unwrap();
    let ran = Ran::from(output);
    assert_eq!(ran.code, 14, "{}", ran.err);
    ran.has_error("--password-file");
    let output = sandbox.command(&["key", "add"]).output().unwrap();
    let ran = Ran::from(output);
    assert_eq!(ran.code, 14, "{}", ran.err);
    ran.has_error("--new-password-file");
}

#[test]
fn a_key_slot_that_cannot_be_read_is_listed_as_such() {
    let sandbox = Sandbox::new();
    sandbox.good(&["key", "add", "--generate-key-file", "key2"]);
    let slot = sandbox.path("repo/keys/1");
    let mut bytes = std::fs::read(&slot).unwrap();
    bytes[200] ^= 1;
    std::fs::remove_file(&slot).unwrap();
    std::fs::write(&slot, bytes).unwrap();
    let ran = sandbox.run(&["key", "list"]);
    assert_eq!(ran.code, 13, "{}", ran.err);
    assert!(ran.out.contains("cannot be read"), "{}", ran.out);
    assert!(ran.err.contains("holdall key remove 1"), "{}", ran.err);
    let ran = sandbox.run(&["key", "list", "--json"]);
    assert_eq!(ran.code, 13);
    let keys = ran.json();
    assert_eq!(
        (&keys[0]["kind"], &keys[1]["slot"]),
        (&"key-file".into(), &1.into())
    );
    assert!(keys[0]["unreadable"].is_null() && keys[1]["unreadable"].is_string());
    sandbox.good(&["key", "remove", "1"]);
    sandbox.good(&["key", "list"]);
}

#[test]
fn damage_is_13_and_named() {
    let sandbox = Sandbox::new();
    sandbox.good(&["snapshot", "data"]);
    let largest = files_below(&sandbox.path("repo/packs"))
        .into_iter()
        .max_by_key(|p| p.metadata().unwrap().len());
    let pack = largest.unwrap();
    let name = pack.file_name().unwrap().to_str().unwrap().to_owned();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[1000] ^= 1;
    std::fs::remove_file(&pack).unwrap();
    std::fs::write(&pack, &bytes).unwrap();
    let ran = sandbox.run(&["check", "--read-data"]);
    assert_eq!(ran.code, 13, "{} {}", ran.out, ran.err);
    ran.has_error(&name);
    let ran = sandbox.run(&["check", "--read-data", "--json"]);
    let summary = ran.json();
    assert!(summary["num_errors"].as_u64().unwrap() > 0);
    assert_eq!(summary["broken_packs"][0], name.as_str());
    sandbox
        .bad(
            &["cat", "latest", &format!("{}/deep/er/big.bin", sandbox.data())],
            13,
        )
        .has_error("hint:");
    std::fs::remove_file(&pack).unwrap();
    let ran = sandbox.run(&["check"]);
    assert_eq!(ran.code, 13, "{} {}", ran.out, ran.err);
    assert!(ran.out.contains("not restore wholly"), "{}", ran.out);
}

/// So many files in each of [`DIRECTORIES`], small enough to lie in the tree itself.
const FILES: usize = 1200;
const DIRECTORIES: [&str; 4] = ["a", "b", "c", "e"];

/// A sandbox whose snapshot is restored to `whole`, with a file `mine` put into each directory there, and whose tree is damaged since:
/// with the name of the damaged pack.
fn with_a_damaged_tree() -> (Sandbox, String) {
    // Keys are drawn, and with them the borders of the tree: in one of twelve the damaged block has a node that leads to all of it.
    let mut made = (0..8).map(|_| made_and_damaged());
    let in_part = |(sandbox, _): &(Sandbox, String)| {
        let what = format!("latest:{}", sandbox.data());
        let probe = ["restore", &what, "--target", "probe", "--no-cache"];
        sandbox.run(&probe).code == 3
    };
    made.find(in_part).unwrap()
}

fn made_and_damaged() -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    for (at, directory) in DIRECTORIES.iter().enumerate() {
        let directory = sandbox.path("data").join(directory);
        std::fs::create_dir(&directory).unwrap();
        for i in 0..FILES {
            let content = noise(500, (at * FILES + i) as u64);
            std::fs::write(directory.join(format!("f{i:04}")), content).unwrap();
        }
    }
    sandbox.good(&["snapshot", "data"]);
    let what = format!("latest:{}", sandbox.data());
    sandbox.good(&["restore", &what, "--target", "whole"]);
    for directory in DIRECTORIES {
        std::fs::write(sandbox.path("whole").join(directory).join("mine"), "mine").unwrap();
    }
    let packs = files_below(&sandbox.path("repo/packs")).into_iter();
    let nodes = packs.max_by_key(|p| p.metadata().unwrap().len()).unwrap();
    let name = nodes.file_name().unwrap().to_str().unwrap().to_owned();
    let mut bytes = std::fs::read(&nodes).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&nodes).unwrap();
    std::fs::write(&nodes, &bytes).unwrap();
    (sandbox, name)
}

#[test]
fn a_restore_goes_on_behind_damaged_parts_of_the_tree_and_deletes_nothing_that_they_may_have_held() {
    let (sandbox, name) = with_a_damaged_tree();
    let what = format!("latest:{}", sandbox.data());
    // The cache has the tree still: this is about what a machine without it can save.
    let ran = sandbox.run(&["restore", &what, "--target", "out", "--no-cache"]);
    assert_eq!(ran.code, 3, "{} {}", ran.out, ran.err);
    assert!(
        ran.err.contains(&name) && ran.err.contains("nodes of the snapshot's tree"),
        "{}",
        ran.err
    );
    assert!(
        ran.err.contains("after /") && ran.err.contains(", up to /"),
        "{}",
        ran.err
    );
    assert_eq!(ran.err.matches("warning: ").count(), 1, "one range: {}", ran.err);
    assert!(ran.out.contains("LOST"), "{}", ran.out);
    let mut missing = 0;
    for directory in DIRECTORIES {
        for i in 0..FILES {
            let file = format!("{directory}/f{i:04}");
            match std::fs::read(sandbox.path("out").join(&file)) {
                Ok(found) => assert_eq!(found, std::fs::read(sandbox.path("data").join(&file)).unwrap()),
                Err(_) => missing += 1,
            }
        }
    }
    assert!((1..FILES * 3).contains(&missing), "{missing} are missing");
    assert!(sandbox.path("out/a/f0000").exists() && sandbox.path("out/link").exists());

    let ran = sandbox.run(&[
        "restore",
        &what,
        "--target",
        "whole",
        "--delete",
        "--json",
        "--no-cache",
    ]);
    assert_eq!(ran.code, 3, "{} {}", ran.out, ran.err);
    assert!(ran.json()["ranges_lost"].as_u64().unwrap() > 0);
    ran.has_error("nothing more was deleted");
    let of_snapshot = files_below(&sandbox.path("whole"));
    let files = of_snapshot.iter().filter(|p| !p.ends_with("mine")).count();
    assert_eq!(
        files,
        FILES * 4 + 3,
        "a file that was lost was deleted from the target"
    );
    assert!(sandbox.path("whole/e/mine").exists());
    assert!(
        !sandbox.path("whole/a/mine").exists(),
        "before the damage all is known"
    );
}

#[test]
fn an_unreachable_store_is_15() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["list", "--repo", "s3://bucket/prefix"]);
    command.env("HOLDALL_S3_ENDPOINT", "http://127.0.0.1:1");
    command
        .env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "topsecretvalue");
    let ran = Ran::from(command.output().unwrap());
    assert_eq!(ran.code, 15, "{}", ran.err);
    ran.has_error("s3://bucket/prefix");
    assert!(!ran.err.contains("topsecretvalue"));
    let ran = sandbox.bad(&["list", "--repo", "s3://bucket/prefix"], 2);
    ran.has_error("AWS_ACCESS_KEY_ID");
}

#[test]
fn what_cannot_be_read_makes_the_snapshot_partial_and_exit_3() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["snapshot", "data", "not-there", "--json"]);
    assert_eq!(ran.code, 3, "{} {}", ran.out, ran.err);
    assert_eq!(ran.json()["status"], "partial");
    assert!(ran.err.contains("not-there"), "{}", ran.err);
    assert!(sandbox.good(&["list"]).out.contains("partial"));
    let ran = sandbox.good(&["restore", "latest", "--target", "out", "--json"]);
    ran.has_error("this snapshot is partial: 1 thing");
    assert_eq!(ran.json()["snapshot_status"], "partial");
    assert_eq!(ran.json()["incidents"], 1);
    std::fs::write(sandbox.path("out/mine"), "the only copy").unwrap();
    sandbox
        .bad(&["restore", "latest", "--target", "out", "--delete"], 14)
        .has_error("restore without --delete");
    assert!(sandbox.path("out/mine").exists());
}

/// A user who may read the repository and not write it: everybody else if we are root, we ourselves without the right otherwise.
#[test]
fn data_commands_work_with_a_store_that_may_only_be_read_and_writing_is_17() {
    use std::os::unix::process::CommandExt;
    let sandbox = Sandbox::new();
    sandbox.good(&["snapshot", "data"]);
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(sandbox.directory.path(), 0o755);
    open(&sandbox.path("key"), 0o644);
    let mut directories = vec![sandbox.path("repo")];
    while let Some(directory) = directories.pop() {
        for path in std::fs::read_dir(&directory).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                directories.push(path);
            } else {
                open(&path, 0o444);
            }
        }
        open(&directory, 0o555);
    }
    // Where the program lies, everybody else may have no way to.
    let program = sandbox.path("program");
    std::fs::copy(crate::binary(), &program).unwrap();
    open(&program, 0o755);
    let run = |arguments: &[&str]| {
        let mut command = sandbox.command_of(&program, arguments);
        command.args(["--no-cache"]);
        if root {
            command.uid(65534).gid(65534);
        }
        Ran::from(command.output().unwrap())
    };
    let target = tempfile::tempdir().unwrap();
    open(target.path(), 0o777);
    let target = target.path().join("out").display().to_string();
    for arguments in [
        &["list"][..],
        &["ls", "latest"],
        &["cat", "latest", &format!("{}/hello.txt", sandbox.data())],
        &["check", "--read-data"],
        &["restore", "latest", "--target", &target],
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.err);
    }
    let ran = run(&["snapshot", "data"]);
    assert_eq!(ran.code, 17, "{}", ran.err);
    ran.has_error("hint:");
    // So that the sandbox can be removed.
    let mut directories = vec![sandbox.path("repo")];
    while let Some(directory) = directories.pop() {
        open(&directory, 0o755);
        directories.extend(
            std::fs::read_dir(&directory)
                .unwrap()
                .map(|e| e.unwrap().path())
                .filter(|p| p.is_dir()),
        );
    }
}
