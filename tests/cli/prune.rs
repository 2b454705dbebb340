//! Giving space back: what is told, what is asked, what is freed.

use crate::{Sandbox, files_below, noise};

/// Four snapshots, each with 200 kB of its own.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    for number in 0..4 {
        std::fs::write(sandbox.path("data").join("changing"), noise(200_000, 10 + number)).unwrap();
        sandbox.good(&["snapshot", "data", "--no-delta"]);
    }
    sandbox
}

fn pack_bytes(sandbox: &Sandbox) -> u64 {
    let packs = files_below(&sandbox.path("repo").join("packs"));
    packs
        .iter()
        .map(|path| std::fs::metadata(path).unwrap().len())
        .sum()
}

#[test]
fn what_was_let_go_is_freed_after_it_was_looked_at() {
    let sandbox = sandbox();
    let before = pack_bytes(&sandbox);
    // Two of four are more than a third: a plan with what would be let go, and no word of it in the repository.
    let ran = sandbox.good(&["forget", "--keep-last", "2", "--prune", "--dry-run"]);
    assert!(ran.out.contains("2 snapshots kept, 2 let go"), "{}", ran.out);
    assert!(
        ran.out.contains("--confirm") && ran.out.contains("nothing was written"),
        "{}",
        ran.out
    );
    assert_eq!(
        sandbox.good(&["list", "--json"]).json().as_array().unwrap().len(),
        4
    );
    let ran = sandbox.bad(&["forget", "--keep-last", "2", "--prune"], 14);
    assert!(ran.err.contains("--confirm"), "{}", ran.err);
    assert_eq!(pack_bytes(&sandbox), before);

    let plan = sandbox.good(&["prune", "--dry-run", "--json"]).json();
    assert_eq!(plan["needs_confirm"], true);
    let done = sandbox.good(&["prune", "--confirm", "--json"]).json();
    for figure in [
        "dead_packs",
        "dead_bytes",
        "repack_packs",
        "copied_bytes",
        "snapshots_going",
    ] {
        assert_eq!(done[figure], plan[figure], "{figure}");
    }
    let freed = before - pack_bytes(&sandbox);
    assert!(freed > 400_000, "{freed}");
    assert!(done["deleted_bytes"].as_u64().unwrap() >= freed);
    assert_eq!(done["retained"], 0);

    let ran = sandbox.good(&["check", "--read-data"]);
    assert!(ran.out.contains("no errors were found"), "{}", ran.out);
    sandbox.good(&["restore", "latest", "--target", "out"]);
    sandbox.good(&["prune"]);
    let ran = sandbox.good(&["prune"]);
    assert!(ran.out.contains("there was nothing to do"), "{}", ran.out);
    sandbox.good(&["check", "--read-data"]);
    let again = sandbox.good(&["snapshot", "data", "--json"]).json();
    assert_eq!(again["data_added"], 0);
}

#[test]
fn a_policy_frees_at_once_and_says_what_stays() {
    let sandbox = sandbox();
    sandbox.good(&["protect", "latest~3"]);
    let ran = sandbox.good(&["forget", "--keep-last", "1", "--prune", "--confirm", "--json"]);
    let lines: Vec<serde_json::Value> = ran
        .out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!((lines.len(), lines[0]["forgotten"].as_u64()), (2, Some(2)));
    assert_eq!(lines[1]["snapshots_kept"], 2);
    assert!(pack_bytes(&sandbox) < 1_000_000);
    sandbox.good(&["check", "--read-data"]);
}

#[test]
fn a_run_is_left_out_if_another_one_is_young() {
    let sandbox = sandbox();
    let ran = sandbox.good(&["snapshot", "data", "--skip-if-newer-than", "1h"]);
    assert!(ran.out.starts_with("skipped: snapshot "), "{}", ran.out);
    let ran = sandbox.good(&["snapshot", "data", "--skip-if-newer-than", "1h", "--json"]);
    assert_eq!(ran.json()["skipped"], true);
    assert_eq!(
        sandbox.good(&["list", "--json"]).json().as_array().unwrap().len(),
        4
    );
    let ran = sandbox.good(&["snapshot", "data", "--skip-if-newer-than", "0", "--json"]);
    assert_eq!(ran.json()["skipped"], false);
}

#[test]
fn amounts_and_spans_are_understood_or_refused() {
    let sandbox = sandbox();
    for amount in ["0", "5%", "10G", "unlimited"] {
        sandbox.good(&[
            "prune",
            "--dry-run",
            "--max-unused",
            amount,
            "--max-repack",
            "1G",
            "--lease",
            "2h",
        ]);
    }
    for amount in ["%", "5 percent", "all"] {
        sandbox.bad(&["prune", "--dry-run", "--max-unused", amount], 2);
    }
}

#[test]
fn how_to_free_space_is_not_said_to_a_forget_that_frees_none() {
    let sandbox = sandbox();
    for flags in [
        &["--max-unused", "0"][..],
        &["--max-repack", "1G"],
        &["--lease", "2h"],
        &["--confirm"],
        &["--take-over"],
        &["--exclusive"],
    ] {
        let ran = sandbox.bad(&[&["forget", "--keep-last", "1"], flags].concat(), 2);
        assert!(ran.err.contains("--prune"), "{}", ran.err);
    }
    let listed = sandbox.good(&["list", "--json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 4, "nothing was let go");
    sandbox.good(&[
        "forget",
        "--keep-last",
        "1",
        "--prune",
        "--confirm",
        "--max-unused",
        "0",
    ]);
}

#[test]
fn a_pack_that_says_nothing_of_itself_stays_and_costs_the_exit_code() {
    let sandbox = sandbox();
    let name = "ab".repeat(32);
    let pack = sandbox.path("repo/packs").join(&name[..2]).join(&name);
    std::fs::create_dir_all(pack.parent().unwrap()).unwrap();
    std::fs::write(&pack, [0; 300]).unwrap();
    let ran = sandbox.run(&["prune", "--quiet"]);
    assert!(ran.code == 13 && ran.err.contains(&name), "{}", ran.err);
    // Once a check has seen it, it is known, and nothing rests on it.
    assert_eq!(sandbox.run(&["check", "--read-data"]).code, 13);
    let ran = sandbox.good(&["prune", "--quiet"]);
    assert!(
        ran.err.contains(&name) && ran.err.contains("set aside"),
        "{}",
        ran.err
    );
    assert!(pack.exists());
    sandbox.good(&["check"]);
}
