//! What changed from snapshot to snapshot, and where something is.

use crate::{Ran, Sandbox, members, noise};
use serde_json::Value;

fn lines(ran: &Ran) -> Vec<Value> {
    let lines = ran.out.lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Three snapshots: as it was; a file changed, one gone, one new, one turned into a link; and only a time changed.
fn changed() -> Sandbox {
    let sandbox = Sandbox::new();
    let data = sandbox.path("data");
    std::fs::write(data.join("gone.txt"), "soon\n").unwrap();
    std::fs::write(data.join("turned"), "a file\n").unwrap();
    std::fs::write(data.join("odd\nname"), "x").unwrap();
    sandbox.good(&["snapshot", "data"]);
    std::fs::write(data.join("deep/er/big.bin"), noise(300_001, 2)).unwrap();
    std::fs::remove_file(data.join("gone.txt")).unwrap();
    std::fs::remove_file(data.join("turned")).unwrap();
    std::os::unix::fs::symlink("hello.txt", data.join("turned")).unwrap();
    std::fs::write(data.join("new.csv"), "1,2\n").unwrap();
    sandbox.good(&["snapshot", "data"]);
    let hello = std::fs::File::options()
        .append(true)
        .open(data.join("hello.txt"))
        .unwrap();
    let then = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    hello.set_modified(then).unwrap();
    sandbox.good(&["snapshot", "data"]);
    sandbox
}

#[test]
fn a_diff_names_each_entry_that_differs_and_how() {
    let sandbox = changed();
    let ran = sandbox.good(&["diff", "latest~2", "latest~1", "--json"]);
    let all = lines(&ran);
    let (summary, changes) = all.split_last().unwrap();
    let mut told: Vec<(String, String)> = changes
        .iter()
        .map(|line| {
            let path = line["path"].as_str().unwrap();
            let name = path.trim_end_matches('/').rsplit('/').next().unwrap();
            (line["modifier"].as_str().unwrap().to_owned(), name.to_owned())
        })
        .collect();
    told.sort();
    let expected = [
        ("+", "new.csv"),
        ("-", "gone.txt"),
        ("M", "big.bin"),
        ("T", "turned"),
    ];
    assert_eq!(
        told,
        expected.map(|(modifier, name)| (modifier.to_owned(), name.to_owned()))
    );
    assert_eq!(summary["added"]["entries"], 1);
    assert_eq!(summary["removed"]["entries"], 1);
    assert_eq!(summary["changed_entries"], 2);
    assert_eq!(
        members(summary),
        [
            "added",
            "changed_entries",
            "changed_metadata",
            "message_type",
            "removed",
            "source_snapshot",
            "tables_different",
            "target_snapshot"
        ]
    );

    let none = sandbox.good(&["diff", "latest~1", "latest"]).out;
    assert!(
        none.contains("0 added, 0 removed, 0 changed, 1 in metadata only"),
        "{none}"
    );
    let shown = sandbox.good(&["diff", "latest~1", "latest", "--metadata"]).out;
    assert!(
        shown
            .lines()
            .any(|l| l.starts_with("U    /") && l.ends_with("/hello.txt")),
        "{shown}"
    );
}

#[test]
fn a_diff_of_a_place_shows_nothing_else() {
    let sandbox = changed();
    let deep = format!("latest~1:{}/deep", sandbox.data());
    let shown = sandbox.good(&["diff", "latest~2", &deep]).out;
    let changes: Vec<&str> = shown.lines().take_while(|line| !line.is_empty()).collect();
    assert_eq!(changes.len(), 1, "{shown}");
    assert!(changes[0].ends_with("/deep/er/big.bin"), "{shown}");
    let gone = format!("latest~1:{}/gone.txt", sandbox.data());
    assert!(
        sandbox
            .good(&["diff", "latest~2", &gone])
            .out
            .starts_with("-    /")
    );
    sandbox.bad(&["diff", "latest~2", "latest:/no/such/place"], 1);
    sandbox.bad(&["diff", "latest~2:/a", "latest:/b"], 2);
    sandbox.bad(&["diff", "latest"], 2);
}

#[test]
fn find_shows_each_version_once_with_its_snapshots() {
    let sandbox = changed();
    let found = lines(&sandbox.good(&["find", "*.bin", "HELLO.*", "-i", "--json"]));
    let mut versions: Vec<(String, u64, u64)> = found
        .iter()
        .map(|line| {
            let path = line["path"].as_str().unwrap();
            (
                path.rsplit('/').next().unwrap().to_owned(),
                line["size"].as_u64().unwrap(),
                line["snapshots"].as_u64().unwrap(),
            )
        })
        .collect();
    versions.sort();
    assert_eq!(
        versions,
        [
            ("big.bin".to_owned(), 300_000, 1),
            ("big.bin".to_owned(), 300_001, 2),
            ("hello.txt".to_owned(), 6, 1),
            ("hello.txt".to_owned(), 6, 2),
        ]
    );
    let whole = format!("{}/**/*.bin", sandbox.data());
    assert_eq!(sandbox.good(&["find", &whole]).out.lines().count(), 2);
    assert!(
        sandbox.good(&["find", "er/*.bin"]).out.is_empty(),
        "a path is matched whole"
    );
    let gone = lines(&sandbox.good(&["find", "gone.txt", "--json"])).remove(0);
    assert_eq!(
        gone["first"]["id"], gone["last"]["id"],
        "it was in the first snapshot only"
    );
    assert_eq!(
        members(&gone),
        [
            "first",
            "last",
            "message_type",
            "mtime",
            "path",
            "size",
            "snapshots",
            "type"
        ]
    );
    assert!(
        sandbox
            .good(&["find", "nowhere"])
            .err
            .contains("nothing in 3 snapshots")
    );
    sandbox.bad(&["find", "[z-a]"], 2);
    let odd = sandbox.good(&["find", "odd*"]).out;
    assert_eq!(odd.lines().count(), 1, "control characters are escaped: {odd:?}");
}
