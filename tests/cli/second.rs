//! A second repository: copies go there, repairs come from there.

use crate::{Sandbox, files_below, members, noise};
use std::path::Path;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.good(&["snapshot", "data", "--tag", "first", "--project", "shop"]);
    std::fs::write(sandbox.path("data").join("more"), noise(100_000, 5)).unwrap();
    sandbox.good(&["snapshot", "data"]);
    sandbox
}

fn length(value: &serde_json::Value) -> usize {
    value.as_array().unwrap().len()
}

/// Flips a bit in the largest file below.
fn damage(directory: &Path) {
    let files = files_below(directory);
    let largest = files
        .iter()
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    flip(largest, 20_000);
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 1;
    let mut permissions = file.metadata().unwrap().permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "a file of this test")]
    permissions.set_readonly(false);
    std::fs::set_permissions(file, permissions).unwrap();
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn a_replica_is_made_filled_and_restores_without_the_first() {
    let sandbox = sandbox();
    sandbox.bad(&["copy", "--to", "replica"], 10).has_error("--init");
    let ran = sandbox.good(&["copy", "--to", "replica", "--init", "--dry-run"]);
    assert!(ran.out.contains("would copy 2 snapshots"), "{}", ran.out);
    assert!(!sandbox.path("replica").exists());
    let ran = sandbox.good(&["copy", "--to", "replica", "--init"]);
    assert!(
        ran.out.contains("copied 2 snapshots to replica, as they are"),
        "{}",
        ran.out
    );
    let again = sandbox.good(&["copy", "--to", "replica"]);
    assert!(again.out.contains("nothing to copy"), "{}", again.out);
    assert!(again.out.contains("2 there already"), "{}", again.out);
    std::fs::remove_dir_all(sandbox.path("repo")).unwrap();
    let of_replica = ["--repo", "replica"];
    sandbox.good(&["check", "--read-data", of_replica[0], of_replica[1]]);
    let ran = sandbox.good(&["list", "--tag", "first", "--json", of_replica[0], of_replica[1]]);
    assert_eq!(length(&ran.json()), 1);
    let data = sandbox.data();
    let place = format!("latest:{data}");
    sandbox.good(&[
        "restore",
        &place,
        "--target",
        "back",
        of_replica[0],
        of_replica[1],
    ]);
    assert_eq!(
        std::fs::read(sandbox.path("back/more")).unwrap(),
        noise(100_000, 5)
    );
}

#[test]
fn what_json_says_of_a_copy_has_its_shape() {
    let sandbox = sandbox();
    let ran = sandbox.good(&["copy", "latest:shop", "--to", "replica", "--init", "--json"]);
    let summary = ran.json();
    assert_eq!(
        members(&summary),
        [
            "already_there",
            "behind",
            "copied",
            "damaged_objects",
            "damaged_packs",
            "damaged_there",
            "dry_run",
            "failed",
            "keys_left_out",
            "let_go_there",
            "message_type",
            "missing_there",
            "newest_there",
            "newest_there_age",
            "notes_added",
            "planned_bytes",
            "planned_packs",
            "same_keys",
            "stopped",
            "to",
            "total_duration",
        ]
    );
    assert_eq!(summary["message_type"], "summary");
    assert_eq!(
        (length(&summary["copied"]), length(&summary["missing_there"])),
        (1, 1)
    );
    assert_eq!(summary["same_keys"], true);
    assert!(summary["behind"].as_f64().unwrap() > 0.0);
    assert_eq!(
        members(&summary["copied"][0]),
        ["bytes_stored", "copy", "id", "time"]
    );
}

/// A repository `other` with keys of its own.
fn init_other(sandbox: &Sandbox) {
    let init = [
        "init",
        "--repo",
        "other",
        "--generate-key-file",
        "other.key",
        "--no-recovery-phrase",
    ];
    sandbox.good(&init);
}

#[test]
fn a_repository_with_keys_of_its_own_is_opened_with_them() {
    let sandbox = sandbox();
    init_other(&sandbox);
    sandbox
        .bad(&["copy", "--to", "other", "--init"], 14)
        .has_error("--copy-key-file");
    sandbox.bad(&["copy", "--to", "other", "--copy-key-file", "key"], 12);
    let ran = sandbox.good(&["copy", "--to", "other", "--copy-key-file", "other.key"]);
    assert!(
        ran.out.contains("copied 2 snapshots") && ran.out.contains("encrypted again"),
        "{}",
        ran.out
    );
    let mut list = sandbox.command(&["list", "--json", "--repo", "other"]);
    let output = list
        .env("HOLDALL_KEY_FILE", sandbox.path("other.key"))
        .output()
        .unwrap();
    assert_eq!(length(&crate::Ran::from(output).json()), 2);
    let mut again = sandbox.command(&["copy", "--json"]);
    again
        .env("HOLDALL_COPY_REPOSITORY", sandbox.path("other"))
        .env("HOLDALL_COPY_KEY_FILE", sandbox.path("other.key"));
    let again = crate::Ran::from(again.output().unwrap()).json();
    assert_eq!(
        (length(&again["copied"]), &again["already_there"]),
        (0, &2.into())
    );
}

#[test]
fn a_snapshot_is_copied_after_it_was_made_and_stays_if_that_fails() {
    let sandbox = sandbox();
    let ran = sandbox.bad(&["snapshot", "data", "--copy-to", "replica"], 10);
    assert!(ran.out.contains("snapshot "), "{}", ran.out);
    ran.has_error("is made, but it was not copied");
    assert_eq!(length(&sandbox.good(&["list", "--json"]).json()), 3);
    sandbox.good(&["copy", "--to", "replica", "--init"]);
    std::fs::write(sandbox.path("data").join("new"), noise(1_000, 9)).unwrap();
    let ran = sandbox.good(&["snapshot", "data", "--copy-to", "replica"]);
    assert!(ran.out.contains("copied 1 snapshot to replica"), "{}", ran.out);
    let count = sandbox.good(&["list", "--json", "--repo", "replica"]).json();
    assert_eq!(length(&count), 4);
    sandbox.bad(&["snapshot", "data", "--copy-to", "gs://x/y"], 2);
}

#[test]
fn variables_of_the_second_store_are_not_mixed_with_those_of_the_first() {
    let sandbox = sandbox();
    let mut copy = sandbox.command(&["copy", "--to", "s3://bucket/x"]);
    copy.env("AWS_ACCESS_KEY_ID", "first")
        .env("AWS_SECRET_ACCESS_KEY", "topsecret")
        .env("HOLDALL_COPY_S3_ENDPOINT", "http://127.0.0.1:1");
    let ran = crate::Ran::from(copy.output().unwrap());
    assert_eq!(ran.code, 2, "{}", ran.err);
    ran.has_error("an S3 store needs an access key");
    assert!(!ran.err.contains("topsecret"));
}

#[test]
fn a_damaged_repository_is_copied_as_far_as_it_is_whole_and_repaired_from_its_replica() {
    let sandbox = sandbox();
    // A pack of data alone: only who reads the data finds what is wrong with it.
    std::fs::write(sandbox.path("data").join("large"), noise(2_000_000, 7)).unwrap();
    sandbox.good(&["snapshot", "data"]);
    sandbox.good(&["copy", "--to", "replica", "--init"]);
    damage(&sandbox.path("repo/packs"));
    let ran = sandbox.good(&["repair", "--known"]);
    assert!(ran.out.contains("the data was not read"), "{}", ran.out);
    let ran = sandbox.run(&["copy", "--to", "second", "--init"]);
    assert_eq!(ran.code, 13, "{} {}", ran.out, ran.err);
    ran.has_error("is damaged");
    sandbox.bad_check();
    let plan = sandbox.run(&["repair", "--dry-run", "--json"]).json();
    assert!(length(&plan["snapshots_hit"]) > 0, "{plan}");
    let ran = sandbox.good(&["repair", "--from", "replica", "--dry-run"]);
    assert!(ran.out.contains("would be stored again"), "{}", ran.out);
    let ran = sandbox.good(&["repair", "--from", "replica"]);
    assert!(ran.out.contains("stored again"), "{}", ran.out);
    let place = format!("latest:{}", sandbox.data());
    sandbox.good(&["restore", &place, "--target", "back", "--verify"]);
    sandbox.good(&["prune", "--confirm"]);
    sandbox.good(&["check", "--read-data"]);
    let ran = sandbox.good(&["repair"]);
    assert!(ran.out.contains("nothing to do"), "{}", ran.out);
    let summary = sandbox.good(&["repair", "--json"]).json();
    assert_eq!(
        members(&summary),
        [
            "blobs_from_replica",
            "blobs_stored",
            "bytes_stored",
            "damaged_objects",
            "damaged_packs",
            "dry_run",
            "message_type",
            "not_set_aside",
            "packs_listed",
            "snapshots_back",
            "snapshots_hit",
            "snapshots_let_go",
            "snapshots_not_given",
            "snapshots_there",
            "snapshots_unreadable",
            "total_duration",
        ]
    );
}

#[test]
fn a_copy_of_a_repository_with_an_unreadable_snapshot_says_so() {
    let sandbox = sandbox();
    let mut records = files_below(&sandbox.path("repo/snapshots"));
    records.sort();
    let record = records.remove(0);
    flip(&record, 150);
    // What this machine has in its cache it does not read again.
    let ran = sandbox.run(&["copy", "--no-cache", "--to", "replica", "--init"]);
    assert_eq!(ran.code, 13, "{} {}", ran.out, ran.err);
    assert!(ran.err.contains("cannot be read"), "{}", ran.err);
    assert!(ran.out.contains("copied 1 snapshot"), "{}", ran.out);
    let ran = sandbox.run(&["copy", "--no-cache", "--to", "replica", "--json"]);
    assert_eq!(ran.code, 13);
    assert_eq!(length(&ran.json()["damaged_objects"]), 1);
}

#[test]
fn a_repository_is_not_copied_to_itself_nor_repaired_from_itself() {
    let sandbox = sandbox();
    std::os::unix::fs::symlink("repo", sandbox.path("link")).unwrap();
    for place in ["repo", "./repo/", "data/../repo", "link"] {
        sandbox
            .bad(&["copy", "--to", place, "--init"], 2)
            .has_error("is the first one");
        sandbox
            .bad(&["repair", "--from", place], 2)
            .has_error("is the first one");
        sandbox
            .bad(&["status", "--copy-to", place], 2)
            .has_error("is the first one");
    }
}

#[test]
fn a_repair_from_other_keys_is_refused_before_a_password_is_asked_for() {
    let sandbox = sandbox();
    init_other(&sandbox);
    let ran = sandbox.bad(&["repair", "--from", "other"], 2);
    ran.has_error("cannot heal this one");
    sandbox.bad(&["repair", "--from", "nowhere"], 10);
}

#[test]
fn status_tells_how_far_the_copy_is_behind() {
    let sandbox = sandbox();
    sandbox.bad(&["status", "--copy-to", "replica"], 10);
    sandbox.good(&["copy", "latest:shop", "--to", "replica", "--init"]);
    let ran = sandbox.good(&["status", "--copy-to", "replica"]);
    assert!(
        ran.out.contains("copy in replica: the newest there is of")
            && ran.out.contains("missing there: 1 snapshot"),
        "{}",
        ran.out
    );
    // What was kept without a project is young here, and not there at all.
    sandbox.good(&["status", "--max-age", "26h"]);
    let ran = sandbox.run(&["status", "--max-age", "26h", "--copy-to", "replica"]);
    assert_eq!(ran.code, 4, "{} {}", ran.out, ran.err);
    assert!(ran.err.contains("is overdue (absent)"), "{}", ran.err);
    let of_shop = [
        "status",
        "--project",
        "shop",
        "--max-age",
        "26h",
        "--copy-to",
        "replica",
        "--json",
    ];
    let copy = sandbox.good(&of_shop).json()["copy"].clone();
    assert_eq!((length(&copy["missing_there"]), length(&copy["overdue"])), (0, 0));
    assert_eq!(copy["behind"], 0.0);
    sandbox.good(&["copy", "--to", "replica"]);
    sandbox.good(&["status", "--max-age", "26h", "--copy-to", "replica"]);
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let ran = sandbox.run(&["status", "--max-age", "0s", "--copy-to", "replica", "--json"]);
    assert_eq!(ran.code, 4, "{} {}", ran.out, ran.err);
    let overdue = ran.json()["copy"]["overdue"].clone();
    assert_eq!(length(&overdue), 2);
    assert_eq!(overdue[0]["why"], "old");
}

impl Sandbox {
    /// What finds the damage, and remembers it.
    fn bad_check(&self) {
        let ran = self.run(&["check", "--read-data"]);
        assert_eq!(ran.code, 13, "{} {}", ran.out, ran.err);
    }
}
