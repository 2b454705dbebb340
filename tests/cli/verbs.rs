//! What each verb does, as text and as JSON.

use crate::{Sandbox, files_below, members};
use serde_json::Value;

#[test]
fn a_directory_goes_in_and_comes_back_equal() {
    let sandbox = Sandbox::new();
    let ran = sandbox.good(&[
        "snapshot",
        "data",
        "--tag",
        "a,b",
        "--project",
        "shop",
        "--host",
        "h1",
    ]);
    assert!(ran.out.starts_with("snapshot "), "{}", ran.out);
    for word in ["read ", "new ", "stored ", " read)", " s\n"] {
        assert!(ran.out.contains(word), "{word:?} is not in {}", ran.out);
    }
    let list = sandbox.good(&["list"]).out;
    for word in ["h1", "shop", "a,b", "complete", "UTC"] {
        assert!(list.contains(word), "{word:?} is not in {list}");
    }
    let data = sandbox.data();
    let ls = sandbox.good(&["ls", "latest"]).out;
    assert_eq!(ls, format!("{data}/deep/\n{data}/hello.txt\n{data}/link\n"));
    let ls = sandbox
        .good(&["ls", &format!("latest:{data}"), "--recursive", "-l"])
        .out;
    assert!(ls.contains("big.bin") && ls.contains("-> hello.txt"), "{ls}");
    assert_eq!(
        sandbox.good(&["cat", &format!("latest:{data}/hello.txt")]).out,
        "hello\n"
    );
    let ran = sandbox.good(&[
        "restore",
        &format!("latest:{data}"),
        "--target",
        "out",
        "--verify",
    ]);
    assert!(ran.out.contains("verified"), "{}", ran.out);
    for name in ["hello.txt", "deep/er/big.bin", "link"] {
        let (a, b) = (sandbox.path("data").join(name), sandbox.path("out").join(name));
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
        assert_eq!(
            std::fs::symlink_metadata(&a).unwrap().modified().unwrap(),
            std::fs::symlink_metadata(&b).unwrap().modified().unwrap(),
            "{name}"
        );
    }
    assert!(
        sandbox
            .good(&["check", "--read-data"])
            .out
            .contains("no errors were found")
    );
}

#[test]
fn the_second_snapshot_stores_only_what_changed() {
    let sandbox = Sandbox::new();
    let first = sandbox.good(&["snapshot", "data", "--json"]).json();
    std::fs::write(sandbox.path("data/more.txt"), "more\n").unwrap();
    let second = sandbox.good(&["snapshot", "data", "--json"]).json();
    assert_eq!(second["parent"], first["snapshot_id"]);
    assert!(first["data_added"].as_u64().unwrap() >= 300_000);
    assert!(second["data_added"].as_u64().unwrap() < 20_000, "{second}");
    let id = |v: &Value| v["snapshot_id"].as_str().unwrap().to_owned();
    let listed: Value = sandbox.good(&["list", "--json"]).json();
    let ids: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [id(&first), id(&second)]);
    sandbox.bad(&["cat", "latest~1", &format!("{}/more.txt", sandbox.data())], 1);
    let prefix = &id(&second)[..10];
    assert_eq!(
        sandbox
            .good(&["cat", prefix, &format!("{}/more.txt", sandbox.data())])
            .out,
        "more\n"
    );
}

#[test]
fn json_of_writing_commands_has_the_documented_members() {
    let sandbox = Sandbox::empty();
    let made = sandbox
        .good(&["init", "--generate-key-file", "key", "--json"])
        .json();
    assert_eq!(
        members(&made),
        [
            "finished_earlier",
            "id",
            "message_type",
            "recovery_phrase",
            "repository"
        ]
    );
    assert_eq!(made["recovery_phrase"].as_str().unwrap().split(' ').count(), 24);
    let summary = sandbox.good(&["snapshot", "data", "--json"]).json();
    assert_eq!(
        members(&summary),
        [
            "backup_end",
            "backup_start",
            "bytes_fetched",
            "bytes_read",
            "data_added",
            "data_added_packed",
            "data_blobs",
            "dry_run",
            "files_changed",
            "files_new",
            "files_unmodified",
            "incidents",
            "message_type",
            "parent",
            "skipped",
            "snapshot_id",
            "status",
            "total_bytes_processed",
            "total_duration",
            "total_files_processed",
        ]
    );
}

#[test]
fn json_of_listings_has_the_documented_members() {
    let sandbox = Sandbox::new();
    sandbox.good(&["snapshot", "data"]);
    let listed = sandbox.good(&["list", "--json"]).json();
    assert_eq!(
        members(&listed[0]),
        [
            "consistent_at",
            "description",
            "end",
            "forget_without_effect",
            "hostname",
            "id",
            "incidents",
            "parent",
            "program_version",
            "project",
            "protected",
            "short_id",
            "sources",
            "status",
            "summary",
            "tags",
            "time",
        ]
    );
    let ls = sandbox.good(&["ls", "latest", "--recursive", "--json"]).out;
    let lines: Vec<Value> = ls
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["struct_type"], "snapshot");
    let file = lines.iter().find(|n| n["name"] == "hello.txt").unwrap();
    assert_eq!((&file["type"], &file["size"]), (&"file".into(), &6.into()));
    assert_eq!(
        members(file),
        [
            "gid",
            "group",
            "message_type",
            "mode",
            "mtime",
            "name",
            "path",
            "permissions",
            "size",
            "struct_type",
            "type",
            "uid",
            "user"
        ]
    );
}

#[test]
fn json_of_restore_check_key_and_cat_has_the_documented_members() {
    let sandbox = Sandbox::new();
    sandbox.good(&["snapshot", "data"]);
    let restored = sandbox
        .good(&["restore", "latest", "--target", "out", "--json"])
        .json();
    assert_eq!(
        members(&restored),
        [
            "bytes_restored",
            "dry_run",
            "files_deleted",
            "files_different",
            "files_failed",
            "files_restored",
            "files_skipped",
            "incidents",
            "message_type",
            "ranges_lost",
            "snapshot_id",
            "snapshot_status",
            "total_duration",
        ]
    );
    let checked = sandbox.good(&["check", "--json"]).json();
    assert_eq!(
        (&checked["num_errors"], &checked["snapshots"]),
        (&0.into(), &1.into())
    );
    let keys = sandbox.good(&["key", "list", "--json"]).json();
    assert_eq!(
        members(&keys[0]),
        ["created", "current", "hostName", "kind", "label", "slot"]
    );
    let cat = sandbox.good(&[
        "cat",
        "latest",
        &format!("{}/hello.txt", sandbox.data()),
        "--json",
    ]);
    assert_eq!(cat.out, "hello\n");
    let told: Value = serde_json::from_str(cat.err.lines().last().unwrap()).unwrap();
    assert_eq!(told["total_bytes"], 6);
}

#[test]
fn dry_runs_change_nothing() {
    let sandbox = Sandbox::new();
    let before = files_below(&sandbox.path("repo")).len();
    let ran = sandbox.good(&["snapshot", "data", "--dry-run"]);
    assert!(ran.out.contains("nothing was written"), "{}", ran.out);
    assert_eq!(files_below(&sandbox.path("repo")).len(), before);
    sandbox.good(&["snapshot", "data"]);
    sandbox.good(&["restore", "latest", "--target", "out", "--dry-run"]);
    assert!(!sandbox.path("out").exists());
}

#[test]
fn keys_are_added_changed_and_removed_but_never_the_last() {
    let sandbox = Sandbox::new();
    sandbox.bad(&["key", "remove", "0"], 14);
    sandbox.good(&["key", "add", "--generate-key-file", "key2", "--label", "second"]);
    assert!(sandbox.good(&["key", "list"]).out.contains("second"));
    std::fs::copy(sandbox.path("key2"), sandbox.path("key")).unwrap();
    let mut command = sandbox.command(&["key", "passwd", "--generate-key-file", "key3"]);
    assert!(command.output().unwrap().status.success());
    sandbox.bad(&["list"], 12);
    std::fs::copy(sandbox.path("key3"), sandbox.path("key")).unwrap();
    sandbox.good(&["key", "remove", "0"]);
    let phrase = sandbox
        .good(&["key", "add", "--new-recovery-phrase", "--json"])
        .json();
    let words = phrase["recovery_phrase"].as_str().unwrap();
    std::fs::write(sandbox.path("phrase"), words.to_uppercase()).unwrap();
    sandbox.good(&["list", "--recovery-phrase-file", "phrase"]);
}

#[test]
fn a_password_from_a_file_or_a_command_opens_what_it_made() {
    let sandbox = Sandbox::empty();
    std::fs::write(sandbox.path("password"), "correct horse\n").unwrap();
    sandbox.good(&["init", "--password-file", "password", "--no-recovery-phrase"]);
    sandbox.good(&["list", "--password-command", "printf 'correct horse'"]);
    let ran = sandbox.bad(&["list", "--password-command", "echo wrong"], 12);
    ran.has_error("hint:");
    sandbox.bad(&["list", "--password-command", "false"], 1);
}

#[test]
fn whoever_reads_half_of_the_output_is_no_failure() {
    let sandbox = Sandbox::new();
    sandbox.good(&["snapshot", "data"]);
    let mut command = sandbox.command(&["cat", "latest", &format!("{}/deep/er/big.bin", sandbox.data())]);
    let mut running = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(running.stdout.take());
    let output = running.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), b"".as_slice())
    );
}

#[test]
fn quiet_says_nothing_but_the_result_and_colors_obey() {
    let sandbox = Sandbox::new();
    let ran = sandbox.good(&["snapshot", "data", "-q"]);
    assert_eq!(ran.err, "");
    let ran = sandbox.good(&["snapshot", "data", "-v"]);
    assert!(
        ran.err.contains("unchanged") || ran.err.contains("new"),
        "{}",
        ran.err
    );
    assert!(
        sandbox
            .run(&["list", "--repo", "gone", "--color", "always"])
            .err
            .contains("\u{1b}[")
    );
    assert!(!sandbox.run(&["list", "--repo", "gone"]).err.contains('\u{1b}'));
}
