//! Letting snapshots go, and keeping them.

use crate::{Sandbox, files_below};
use serde_json::Value;

fn names(sandbox: &Sandbox) -> Vec<String> {
    let listed = sandbox.good(&["list", "--json"]).json();
    let name = |s: &Value| s["id"].as_str().unwrap().to_owned();
    listed.as_array().unwrap().iter().map(name).collect()
}

/// A sandbox with snapshots of its directory, oldest first.
fn with_snapshots(count: usize) -> (Sandbox, Vec<String>) {
    let sandbox = Sandbox::new();
    for number in 0..count {
        std::fs::write(sandbox.path("data").join("number"), number.to_string()).unwrap();
        sandbox.good(&["snapshot", "data"]);
    }
    let names = names(&sandbox);
    assert_eq!(names.len(), count);
    (sandbox, names)
}

#[test]
fn a_policy_keeps_what_it_says_and_tells_why() {
    let (sandbox, all) = with_snapshots(4);
    let plan = sandbox.good(&["forget", "--keep-last", "2", "--dry-run"]).out;
    assert!(
        plan.contains("would forget 2 snapshots; nothing was written"),
        "{plan}"
    );
    assert_eq!(names(&sandbox), all, "a dry run changes nothing");

    let done = sandbox.good(&["forget", "--keep-last", "2", "--json"]).json();
    assert_eq!(done["forgotten"], 2);
    let snapshots = done["groups"][0]["snapshots"].as_array().unwrap();
    assert_eq!(snapshots[0]["keep"], true);
    assert!(
        snapshots[0]["reasons"]
            .as_array()
            .unwrap()
            .contains(&"last".into())
    );
    assert_eq!(snapshots[3]["keep"], false);
    assert_eq!(names(&sandbox), all[2..]);
    sandbox.good(&["check", "--read-data"]);
    sandbox.bad(&["cat", &format!("{}:x", all[0])], 1);
}

#[test]
fn a_policy_without_a_rule_or_that_keeps_nothing_is_refused() {
    let (sandbox, all) = with_snapshots(2);
    let ran = sandbox.bad(&["forget"], 2);
    assert!(ran.err.contains("--keep-daily"), "{}", ran.err);
    // The repository retains the newest of each source whatever a policy says.
    let done = sandbox.good(&["forget", "--keep-tag", "nobody", "--json"]).json();
    assert_eq!(done["forgotten"], 1);
    assert_eq!(names(&sandbox), all[1..]);
    sandbox.bad(&["forget", &all[1], "--keep-daily", "1"], 2);
}

#[test]
fn a_protected_snapshot_is_kept_until_it_is_unprotected() {
    let (sandbox, all) = with_snapshots(3);
    assert!(sandbox.good(&["protect", &all[0]]).out.contains("protected"));
    sandbox.good(&["forget", "--keep-last", "1"]);
    assert_eq!(names(&sandbox), [all[0].clone(), all[2].clone()]);
    let ran = sandbox.bad(&["forget", &all[0]], 14);
    assert!(ran.err.contains("unprotect"), "{}", ran.err);
    sandbox.good(&["unprotect", &all[0]]);
    sandbox.good(&["forget", &all[0]]);
    assert_eq!(names(&sandbox), all[2..]);
    // It is gone: nothing can be said of it any more.
    sandbox.bad(&["protect", &all[0]], 1);
}

#[test]
fn a_forget_that_waited_for_the_protection_to_end_is_told_when_it_does() {
    let (sandbox, all) = with_snapshots(2);
    // As two machines do it that do not see each other: one protects, one lets go.
    sandbox.good(&["forget", &all[0]]);
    let key = files_below(&sandbox.path("repo").join("forgets")).remove(0);
    let forget = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    sandbox.good(&["protect", &all[0]]);
    std::fs::write(&key, forget).unwrap();
    assert_eq!(names(&sandbox), all);
    let ran = sandbox.good(&["unprotect", &all[0]]);
    assert!(
        ran.err.contains(&all[0]) && ran.err.contains("was let go"),
        "{}",
        ran.err
    );
    assert_eq!(names(&sandbox), all[1..]);
    let other = sandbox.good(&["protect", &all[1]]);
    assert!(!other.err.contains("let go"), "{}", other.err);
    let other = sandbox.good(&["unprotect", &all[1], "--json"]).json();
    assert_eq!(
        (&other[0]["changed"], &other[0]["forgotten"]),
        (&true.into(), &false.into())
    );
}

#[test]
fn tags_are_added_removed_and_set_and_policies_see_them() {
    let (sandbox, all) = with_snapshots(2);
    sandbox.good(&["tag", &all[0], "--add", "release,keep"]);
    let tagged = sandbox
        .good(&["tag", &all[0], "--remove", "keep", "--json"])
        .json();
    assert_eq!(tagged[0]["tags"], serde_json::json!(["release"]));
    assert_eq!(
        sandbox
            .good(&["list", "--tag", "release", "--json"])
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    sandbox.good(&["forget", "--keep-tag", "release"]);
    assert_eq!(
        names(&sandbox),
        all,
        "one by its tag, one because it is the newest"
    );
    let set = sandbox.good(&["tag", &all[0], "--set", "a", "--json"]).json();
    assert_eq!(set[0]["tags"], serde_json::json!(["a"]));
    assert_eq!(set[0]["changed"], true);
    sandbox.bad(&["tag", &all[0]], 2);
}

#[test]
fn latest_means_the_newest_that_the_filter_lets_pass() {
    let sandbox = Sandbox::new();
    for host in ["web2", "web2", "web1", "web1"] {
        sandbox.good(&["snapshot", "data", "--host", host]);
    }
    let all = names(&sandbox);
    assert_eq!(all.len(), 4);
    sandbox.good(&["forget", "latest~1", "--host", "web2"]);
    assert_eq!(names(&sandbox), all[1..]);
    // One that is named by its id is not forgotten against the filter either.
    let ran = sandbox.bad(&["forget", &all[2], "--host", "web2"], 2);
    assert!(ran.err.contains("the filter leaves out"), "{}", ran.err);
    assert_eq!(names(&sandbox), all[1..]);
}

#[test]
fn a_path_inside_a_snapshot_is_refused_where_only_whole_snapshots_are_meant() {
    let (sandbox, all) = with_snapshots(2);
    let inside = format!("{}:/some/where", all[0]);
    for arguments in [
        &["forget", &inside][..],
        &["tag", &inside, "--add", "x"],
        &["protect", &inside],
        &["unprotect", &inside],
    ] {
        let ran = sandbox.bad(arguments, 2);
        assert!(ran.err.contains("/some/where"), "{}", ran.err);
    }
    assert_eq!(names(&sandbox), all);
}

#[test]
fn what_the_repository_retains_is_kept_named_or_not_and_however_it_is_grouped() {
    let sandbox = Sandbox::empty();
    sandbox.good(&[
        "init",
        "--generate-key-file",
        "key",
        "--no-recovery-phrase",
        "--retain-last",
        "2",
    ]);
    for host in ["web1", "web1", "web1", "web2"] {
        sandbox.good(&["snapshot", "data", "--host", host]);
    }
    let all = names(&sandbox);
    let ran = sandbox.bad(&["forget", &all[1]], 14);
    assert!(ran.err.contains("retains the newest 2"), "{}", ran.err);
    // One group of all, but two sources.
    let done = sandbox.good(&["forget", "--keep-last", "1", "--group-by", "tags", "--json"]);
    assert_eq!(done.json()["forgotten"], 1);
    assert_eq!(names(&sandbox), all[1..]);
}

/// Damages the only note that there is.
fn damage_note(sandbox: &Sandbox) {
    let notes = files_below(&sandbox.path("repo/notes"));
    assert_eq!(notes.len(), 1);
    let mut bytes = std::fs::read(&notes[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&notes[0]).unwrap();
    std::fs::write(&notes[0], &bytes).unwrap();
    std::fs::remove_dir_all(sandbox.path("cache")).unwrap();
}

#[test]
fn a_snapshot_whose_notes_cannot_be_read_is_kept_as_if_it_were_protected() {
    let (sandbox, all) = with_snapshots(3);
    sandbox.good(&["protect", &all[0]]);
    damage_note(&sandbox);
    let name = format!("-{}/00000000", all[0]);
    let listed = sandbox.run(&["list"]);
    assert_eq!(listed.code, 13, "{}", listed.err);
    assert!(listed.err.contains(&name), "{}", listed.err);
    let done = sandbox.good(&["forget", "--keep-last", "1", "--json"]).json();
    assert_eq!(done["forgotten"], 1);
    let oldest = &done["groups"][0]["snapshots"][2];
    assert_eq!(oldest["reasons"], serde_json::json!(["its notes cannot be read"]));
    let ran = sandbox.bad(&["forget", &all[0]], 13);
    assert!(
        ran.err.contains(&name) && ran.err.contains("unprotect"),
        "{}",
        ran.err
    );
    // What is said anew is above what cannot be read.
    sandbox.good(&["unprotect", &all[0]]);
    sandbox.good(&["forget", &all[0]]);
    let left = sandbox.run(&["list", "--json"]).json();
    assert_eq!(left.as_array().unwrap().len(), 1);
}

#[test]
fn tags_that_cannot_be_read_are_kept_by_and_not_changed_until_all_are_said_anew() {
    let (sandbox, all) = with_snapshots(3);
    sandbox.good(&["tag", &all[0], "--add", "release"]);
    damage_note(&sandbox);
    sandbox.good(&["unprotect", &all[0]]);

    let ran = sandbox.bad(&["tag", &all[0], "--add", "audit"], 13);
    assert!(
        ran.err.contains(&format!("-{}/00000000", all[0])) && ran.err.contains("--set"),
        "{}",
        ran.err
    );
    let policy = ["forget", "--keep-tag", "release", "--json"];
    let done = sandbox.good(&[&policy[..], &["--dry-run"]].concat()).json();
    let oldest = &done["groups"][0]["snapshots"][2];
    assert_eq!(oldest["reasons"], serde_json::json!(["its notes cannot be read"]));

    let set = ["tag", &all[0], "--json", "--set", ""];
    assert_eq!(sandbox.good(&set).json()[0]["changed"], true);
    assert_eq!(sandbox.good(&policy).json()["forgotten"], 2);
    sandbox.good(&["tag", &all[2], "--add", "audit"]);
}
