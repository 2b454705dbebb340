//! Help, completions, manual pages, and what is said to wrong usage.

use crate::Sandbox;

const VERBS: [&str; 23] = [
    "init",
    "snapshot",
    "list",
    "ls",
    "cat",
    "find",
    "diff",
    "restore",
    "check",
    "copy",
    "repair",
    "status",
    "doctor",
    "stats",
    "forget",
    "prune",
    "tag",
    "protect",
    "unprotect",
    "key",
    "demo",
    "completions",
    "man",
];

#[test]
fn every_verb_explains_itself_with_an_example() {
    let sandbox = Sandbox::empty();
    let top = sandbox.good(&["--help"]).out;
    for verb in VERBS {
        assert!(
            top.contains(&format!("\n  {verb} ")),
            "{verb} is not in the help:\n{top}"
        );
        let help = sandbox.good(&[verb, "--help"]).out;
        assert!(help.contains("Example"), "{verb} has no example");
        assert!(
            help.contains(&format!("holdall {verb}")),
            "{verb}: its example does not use it"
        );
    }
    assert!(sandbox.good(&["--version"]).out.starts_with("holdall "));
}

#[test]
fn aliases_of_restic_are_understood() {
    let sandbox = Sandbox::empty();
    for (alias, verb) in [("backup", "snapshot"), ("snapshots", "list"), ("dump", "cat")] {
        assert_eq!(
            sandbox.good(&[alias, "-h"]).out,
            sandbox.good(&[verb, "-h"]).out,
            "{alias}"
        );
    }
}

#[test]
fn wrong_usage_is_exit_2_and_suggests() {
    let sandbox = Sandbox::empty();
    let ran = sandbox.bad(&["snapshoot"], 2);
    ran.has_error("snapshot");
    sandbox.bad(&["restore", "latest"], 2).has_error("--target");
    sandbox.bad(&["list", "--no-such-flag"], 2);
    sandbox.bad(&["ls", "not-an-id"], 2).has_error("latest");
    sandbox
        .bad(&["check", "--read-data-subset", "6/5"], 2)
        .has_error("N/T");
    let ran = sandbox.run(&["list", "--json", "--no-such-flag"]);
    let last: serde_json::Value = serde_json::from_str(ran.err.lines().last().unwrap()).unwrap();
    assert_eq!(
        (ran.code, &last["message_type"], &last["code"]),
        (2, &"exit_error".into(), &2.into())
    );
    let message = last["message"].as_str().unwrap();
    assert!(
        message.contains("--no-such-flag") && !message.contains("Usage"),
        "{message}"
    );
    assert!(last["hint"].as_str().unwrap().contains("holdall help"), "{last}");
    let ran = sandbox.run(&["restore", "latest", "--json"]);
    let last: serde_json::Value = serde_json::from_str(ran.err.lines().last().unwrap()).unwrap();
    assert!(last["message"].as_str().unwrap().contains("--target"), "{last}");
}

#[test]
fn the_long_help_names_the_variables() {
    let help = Sandbox::empty().good(&["--help"]).out;
    for name in [
        "HOLDALL_S3_ENDPOINT",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "HOLDALL_MEMORY",
        "HOLDALL_REPOSITORY",
        "HOLDALL_BASE_CACHE",
        "HOLDALL_DB_URL",
        "HOLDALL_COPY_S3_STORAGE_CLASS",
    ] {
        assert!(help.contains(name), "{name} is not in the help");
    }
}

#[test]
fn completions_and_manual_pages_name_all_verbs() {
    let sandbox = Sandbox::empty();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = sandbox.good(&["completions", shell]).out;
        assert!(VERBS.iter().all(|verb| script.contains(verb)), "{shell}");
    }
    assert!(sandbox.good(&["man"]).out.contains(".TH holdall"));
    sandbox.good(&["man", "--directory", "man1"]);
    for verb in VERBS {
        assert!(
            sandbox.path(&format!("man1/holdall-{verb}.1")).is_file(),
            "{verb}"
        );
    }
}
