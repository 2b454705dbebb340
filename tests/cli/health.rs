//! What `status` and `doctor` say of a repository, and their exit codes.

use crate::{Ran, Sandbox, files_below, members, noise};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.good(&["snapshot", "data", "--project", "shop"]);
    sandbox
}

fn lines(ran: &Ran) -> Vec<Value> {
    let lines = ran.out.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .filter(|line: &Value| line["message_type"] != "status")
        .collect()
}

#[test]
fn status_tells_of_each_project_how_old_its_newest_snapshot_is() {
    let sandbox = sandbox();
    sandbox.good(&["snapshot", "data"]);
    let ran = sandbox.good(&["status", "--json"]);
    let status = ran.json();
    let expected = [
        "bytes",
        "copy",
        "damaged",
        "ledger_damaged",
        "oldest_read",
        "open_runs",
        "overdue",
        "packs",
        "packs_at_risk",
        "packs_never_read",
        "packs_quarantined",
        "projects",
    ];
    assert_eq!(members(&status), expected);
    let projects = status["projects"].as_array().unwrap();
    assert_eq!(
        projects.len(),
        2,
        "one has a name, the other is told by host and sources"
    );
    let shop = projects.iter().find(|project| project["name"] == "shop").unwrap();
    let expected = [
        "age_seconds",
        "complete_age_seconds",
        "complete_id",
        "data_added_packed",
        "hostname",
        "incidents",
        "name",
        "overdue",
        "project",
        "size",
        "snapshot_id",
        "snapshots",
        "status",
        "time",
    ];
    assert_eq!(members(shop), expected);
    assert_eq!(
        (&shop["status"], &shop["overdue"]),
        (&"complete".into(), &Value::Null)
    );
    assert!(
        projects
            .iter()
            .any(|project| project["name"].as_str().unwrap().contains("/data"))
    );
    let text = sandbox.good(&["status"]);
    assert!(
        text.out.contains("shop") && text.out.contains("complete"),
        "{}",
        text.out
    );
    text.has_error("--max-age");
}

#[test]
fn what_is_overdue_is_exit_4() {
    let sandbox = sandbox();
    sandbox.good(&["status", "--max-age", "1h"]);
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let ran = sandbox.run(&["status", "--max-age", "0"]);
    assert_eq!(ran.code, 4, "{} {}", ran.out, ran.err);
    assert!(ran.out.contains("OVERDUE"), "{}", ran.out);
    ran.has_error("shop: the newest snapshot is");
    let ran = sandbox.run(&["status", "--max-age", "0", "--json"]);
    assert_eq!((ran.code, &ran.json()["overdue"]), (4, &true.into()));
    // A project that should be there and is not.
    let ran = sandbox.run(&["status", "--project", "other", "--max-age", "1h"]);
    assert_eq!(ran.code, 4, "{} {}", ran.out, ran.err);
    let empty = Sandbox::new();
    let ran = empty.run(&["status", "--max-age", "1d"]);
    assert_eq!(ran.code, 4, "no snapshot at all: {} {}", ran.out, ran.err);
    empty.good(&["status"]);
}

/// Whether a diagnosis tells of the disk of this machine, which the tests did not fill.
fn of_the_disk(one: &Value) -> bool {
    one["level"] == "warning" && one["message"].as_str().unwrap().contains(" free where ")
}

/// Runs `doctor --json` and expects that nothing needs anyone, but perhaps a disk that has little room.
fn healthy(sandbox: &Sandbox, arguments: &[&str]) -> Ran {
    let ran = sandbox.run(&[&["doctor", "--json"], arguments].concat());
    let all = lines(&ran);
    let (summary, found) = all.split_last().unwrap();
    let full = found.iter().filter(|one| of_the_disk(one)).count();
    assert_eq!(
        (&summary["failures"], &summary["warnings"]),
        (&0.into(), &full.into()),
        "{}",
        ran.out
    );
    assert_eq!(ran.code, if full > 0 { 4 } else { 0 }, "{} {}", ran.out, ran.err);
    ran
}

#[test]
fn doctor_finds_nothing_wrong_where_nothing_is() {
    let sandbox = Sandbox::empty();
    sandbox.good(&["init", "--generate-key-file", "key"]);
    sandbox.good(&["snapshot", "data"]);
    let ran = healthy(&sandbox, &[]);
    let all = lines(&ran);
    let (summary, found) = all.split_last().unwrap();
    assert_eq!(
        members(summary),
        ["failures", "good", "message_type", "notes", "warnings"]
    );
    for one in found {
        assert_eq!(members(one), ["area", "fix", "level", "message", "message_type"]);
        assert_eq!(one["fix"].is_null(), one["level"] == "good", "{one}");
    }
    for area in [
        "store",
        "clock",
        "keys",
        "repository",
        "snapshots",
        "reserve",
        "cache",
        "variables",
    ] {
        assert!(
            found
                .iter()
                .any(|one| one["area"] == area && one["level"] == "good"),
            "{area}: {}",
            ran.out
        );
    }
    // What it put into the store is gone again.
    let probes = files_below(&sandbox.path("repo/reserve")).into_iter();
    assert_eq!(
        probes.filter(|path| path.file_name().unwrap().len() > 1).count(),
        0
    );
    let ran = sandbox.run(&["doctor"]);
    let nothing = ran.out.ends_with("nothing needs you\n");
    assert_eq!(nothing, !found.iter().any(of_the_disk), "{}", ran.out);
    assert_eq!(nothing, ran.code == 0, "{}", ran.out);
    assert!(ran.out.contains("[  ok  ]"), "{}", ran.out);
    assert!(!sandbox.run(&["doctor", "--problems"]).out.contains("[  ok  ]"));
}

fn problem(ran: &Ran, area: &str, words: &str) {
    let all = lines(ran);
    let found = all.iter().find(|one| {
        one["area"] == area && one["level"] != "good" && one["message"].as_str().unwrap().contains(words)
    });
    let found = found.unwrap_or_else(|| panic!("no {words:?} about {area} in {}", ran.out));
    assert!(!found["fix"].as_str().unwrap().is_empty());
}

#[test]
fn doctor_finds_what_is_wrong_and_says_what_to_do() {
    let sandbox = sandbox();
    std::fs::write(sandbox.path("data/large"), noise(2_000_000, 2)).unwrap();
    sandbox.good(&["snapshot", "data", "--project", "shop"]);
    let packs = files_below(&sandbox.path("repo/packs"));
    std::fs::remove_file(&packs[0]).unwrap();
    std::fs::remove_file(sandbox.path("repo/reserve/2")).unwrap();
    std::fs::set_permissions(sandbox.path("key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = sandbox.command(&["doctor", "--json"]);
    command.env("HOLDALL_REPOSITRY", "/slip");
    command.env("SUPABASE_DB_URL", "postgres://nobody@127.0.0.1:1/none");
    let ran = Ran::from(command.output().unwrap());
    assert_eq!(ran.code, 4, "{} {}", ran.out, ran.err);
    problem(&ran, "keys", "one key alone");
    problem(&ran, "repository", "cut off: 1");
    problem(&ran, "reserve", "3 of 4");
    problem(&ran, "secrets", "mode 644");
    problem(&ran, "variables", "HOLDALL_REPOSITRY");
    problem(&ran, "database", "");
    problem(&ran, "data", "never verified");
    // A repository that cannot be opened is one problem among others.
    let mut command = sandbox.command(&["doctor", "--json", "--repo", "nothing-here"]);
    command.env("HOLDALL_PASSWORD", "x");
    let ran = Ran::from(command.output().unwrap());
    assert_eq!(ran.code, 4, "{} {}", ran.out, ran.err);
    problem(&ran, "repository", "");
    problem(&ran, "variables", "HOLDALL_PASSWORD and HOLDALL_KEY_FILE");
}

#[test]
fn doctor_tells_of_snapshots_that_are_overdue_or_were_never_taken() {
    let sandbox = Sandbox::empty();
    sandbox.good(&["init", "--generate-key-file", "key"]);
    problem(&healthy(&sandbox, &[]), "snapshots", "no snapshot");
    let ran = sandbox.run(&["doctor", "--json", "--max-age", "1d"]);
    assert_eq!(ran.code, 4, "{} {}", ran.out, ran.err);
    problem(&ran, "snapshots", "no snapshot");
    sandbox.good(&["snapshot", "data"]);
    healthy(&sandbox, &["--max-age", "1d"]);
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let ran = sandbox.run(&["doctor", "--json", "--max-age", "0"]);
    assert_eq!(ran.code, 4, "{} {}", ran.out, ran.err);
    problem(&ran, "snapshots", "hours old");
}

/// Changes the middle of a file.
fn damage(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn packs_that_were_set_aside_are_no_success_until_they_are_replaced() {
    let sandbox = Sandbox::empty();
    sandbox.good(&["init", "--generate-key-file", "key"]);
    std::fs::write(sandbox.path("data/large"), noise(2_000_000, 2)).unwrap();
    sandbox.good(&["snapshot", "data", "--project", "shop"]);
    let packs = files_below(&sandbox.path("repo/packs")).into_iter();
    damage(&packs.max_by_key(|p| p.metadata().unwrap().len()).unwrap());
    sandbox.good(&["check"]);
    assert_eq!(sandbox.run(&["check", "--read-data"]).code, 13);
    let ran = sandbox.run(&["check"]);
    assert_eq!(ran.code, 13, "{} {}", ran.out, ran.err);
    let ran = sandbox.run(&["status"]);
    assert_eq!(ran.code, 13, "{} {}", ran.out, ran.err);
    ran.has_error("stored nowhere else");
    let status = sandbox.run(&["status", "--json"]).json();
    assert_eq!(
        (&status["damaged"], &status["packs_at_risk"]),
        (&true.into(), &1.into())
    );
    let ran = sandbox.run(&["doctor", "--json"]);
    assert_eq!(ran.code, 4, "{} {}", ran.out, ran.err);
    problem(&ran, "data", "stored nowhere else");

    sandbox.good(&["snapshot", "data", "--project", "shop"]);
    let ran = sandbox.good(&["check"]);
    ran.has_error("stored elsewhere");
    assert!(ran.out.contains("no errors"), "{}", ran.out);
    sandbox.good(&["status"]).has_error("stored elsewhere");
    problem(&healthy(&sandbox, &[]), "data", "stored elsewhere");
}

#[test]
fn a_ledger_that_cannot_be_read_is_told() {
    let sandbox = sandbox();
    sandbox.good(&["check", "--read-data"]);
    sandbox.good(&["status"]);
    damage(&files_below(&sandbox.path("repo/ledger"))[0]);
    let ran = sandbox.run(&["status"]);
    assert_eq!(ran.code, 13, "{} {}", ran.out, ran.err);
    ran.has_error("ledger/");
    let ran = sandbox.run(&["doctor", "--json"]);
    assert_eq!(ran.code, 4, "{} {}", ran.out, ran.err);
    problem(&ran, "data", "ledger/");
}
