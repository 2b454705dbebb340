//! What `check` reads, remembers and says, and what it does without a key.

use crate::{Sandbox, files_below, members, noise};
use std::path::{Path, PathBuf};

/// A repository with packs of data and packs of trees: small runs would put both into one.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("data/large"), noise(2_000_000, 2)).unwrap();
    sandbox.good(&["snapshot", "data"]);
    sandbox
}

/// Changes a bit of the largest pack and gives its name.
fn damage(sandbox: &Sandbox) -> (PathBuf, String) {
    let packs = files_below(&sandbox.path("repo/packs")).into_iter();
    let pack = packs.max_by_key(|p| p.metadata().unwrap().len()).unwrap();
    flip(&pack, 1000);
    let name = pack.file_name().unwrap().to_str().unwrap().to_owned();
    (pack, name)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, &bytes).unwrap();
}

#[test]
fn what_was_verified_is_remembered_by_the_repository() {
    let sandbox = sandbox();
    let ran = sandbox.good(&["check", "--max-age", "30d", "--max-duration", "1h"]);
    assert!(ran.out.contains("all data was verified since"), "{}", ran.out);
    assert!(!files_below(&sandbox.path("repo/ledger")).is_empty());
    std::fs::write(sandbox.path("data/new"), noise(2_000_000, 9)).unwrap();
    sandbox.good(&["snapshot", "data"]);
    let ran = sandbox.good(&["check", "--max-age", "30d", "--max-duration", "0", "--json"]);
    let summary = ran.json();
    assert_eq!(summary["packs_never_read"], summary["packs_left"]);
    assert!(summary["packs_left"].as_u64().unwrap() > 0, "{summary}");
    assert!(summary["oldest_read"].is_string(), "{summary}");
    let ran = sandbox.good(&["check", "--max-duration", "0"]);
    assert!(ran.out.contains("still to be read"), "{}", ran.out);
    sandbox.bad(&["check", "--max-age", "a month"], 2);
    // Without reading data nothing is written.
    let before = files_below(&sandbox.path("repo")).len();
    sandbox.good(&["check"]);
    assert_eq!(files_below(&sandbox.path("repo")).len(), before);
}

#[test]
fn the_summary_and_findings_have_their_members() {
    let sandbox = sandbox();
    let (_, name) = damage(&sandbox);
    let ran = sandbox.run(&["check", "--read-data", "--json"]);
    assert_eq!(ran.code, 13, "{} {}", ran.out, ran.err);
    let lines = ran
        .out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let finding = lines
        .filter(|line| line["message_type"] == "error")
        .find(|line| line["object"].as_str().unwrap().ends_with(&name));
    let finding = finding.unwrap();
    let expected = [
        "mend",
        "message",
        "message_type",
        "more_paths",
        "num_snapshots",
        "object",
        "paths",
        "snapshots",
    ];
    assert_eq!(members(&finding), expected);
    assert_eq!(finding["num_snapshots"], 1);
    let listed = sandbox.good(&["list", "--json"]).json();
    assert_eq!(finding["snapshots"][0], listed[0]["id"]);
    let path = format!("{}/large", sandbox.data());
    assert!(
        finding["paths"]
            .as_array()
            .unwrap()
            .contains(&path.as_str().into()),
        "{finding}"
    );
    let expected = [
        "blobs_verified",
        "broken_packs",
        "broken_snapshots",
        "bytes_left",
        "bytes_read",
        "bytes_unlisted",
        "bytes_void",
        "message_type",
        "num_errors",
        "objects",
        "objects_void",
        "oldest_read",
        "packs",
        "packs_left",
        "packs_never_read",
        "packs_read",
        "packs_unlisted",
        "snapshots",
        "total_duration",
        "with_key",
    ];
    assert_eq!(members(&ran.json()), expected);
}

#[test]
fn what_is_found_damaged_is_told_on_one_line_and_stored_again() {
    let sandbox = sandbox();
    let (_, name) = damage(&sandbox);
    let path = format!("{}/large", sandbox.data());
    let ran = sandbox.run(&["check", "--read-data"]);
    let line = ran.err.lines().find(|line| line.contains(&name)).unwrap();
    assert!(
        line.contains("1 snapshot needs it (") && line.contains(&path),
        "{line}"
    );
    std::fs::write(sandbox.path("data/other"), "x").unwrap();
    let again = sandbox
        .good(&["snapshot", "data", "--force-read", "--json"])
        .json();
    assert!(again["data_added"].as_u64().unwrap() >= 2_000_000, "{again}");
    let target = sandbox.path("out");
    sandbox.good(&[
        "restore",
        "latest",
        "--target",
        target.to_str().unwrap(),
        "--verify",
    ]);
}

#[test]
fn without_a_key_objects_are_proven_and_nothing_is_asked_for() {
    let sandbox = sandbox();
    let bare = |arguments: &[&str]| {
        let mut command = sandbox.command(arguments);
        command.env_remove("HOLDALL_KEY_FILE");
        crate::Ran::from(command.output().unwrap())
    };
    let ran = bare(&["check", "--no-key"]);
    assert_eq!(ran.code, 0, "{} {}", ran.out, ran.err);
    assert!(
        ran.out.contains("without a key") && ran.out.contains("no errors"),
        "{}",
        ran.out
    );
    let summary = bare(&["check", "--no-key", "--json"]).json();
    assert_eq!(
        (&summary["with_key"], &summary["snapshots"]),
        (&false.into(), &serde_json::Value::Null)
    );
    assert_eq!(summary["packs_read"], summary["packs"]);
    let (_, name) = damage(&sandbox);
    let ran = bare(&["check", "--no-key"]);
    assert_eq!(ran.code, 13, "{} {}", ran.out, ran.err);
    ran.has_error(&name);
    let ran = bare(&["check", "--no-key", "--max-age", "1d"]);
    assert_eq!(ran.code, 2);
    let ran = bare(&["check", "--no-key", "--repo", "nothing-here"]);
    assert_eq!(ran.code, 10, "{}", ran.err);
}

/// The machine that took it remembers its record.
#[test]
fn a_record_is_an_error_until_it_is_gone_and_what_came_back_in_its_place_is_named() {
    let sandbox = sandbox();
    flip(&files_below(&sandbox.path("repo/snapshots"))[0], 150);
    let ran = sandbox.run(&["check"]);
    assert!(ran.code == 13 && ran.out.contains("repair --from"), "{}", ran.out);
    let repaired = sandbox.good(&["repair"]);
    assert!(
        repaired.out.contains("1 snapshot brought back"),
        "{}",
        repaired.out
    );
    let ran = sandbox.run(&["check"]);
    assert!(
        ran.code == 13 && ran.out.contains("`holdall prune`") && ran.err.contains("here again as"),
        "{} {}",
        ran.out,
        ran.err
    );
    for _ in 0..2 {
        sandbox.good(&["prune"]);
    }
    sandbox.good(&["check", "--read-data"]);
    assert_eq!(
        sandbox.good(&["list", "--json"]).json().as_array().unwrap().len(),
        1
    );
}
