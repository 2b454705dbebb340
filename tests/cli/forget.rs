//! Letting snapshots go, and keeping them.

use crate::Sandbox;
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
