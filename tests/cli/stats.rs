//! Where the bytes are, as `stats` tells it.

use crate::{Sandbox, members, noise};
use serde_json::Value;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let data = sandbox.path("data");
    std::fs::create_dir(data.join("copies")).unwrap();
    std::fs::write(data.join("copies/a"), noise(2_000_000, 1)).unwrap();
    std::fs::write(data.join("copies/b"), noise(2_000_000, 1)).unwrap();
    std::fs::write(data.join("zeros.txt"), vec![b'z'; 3_000_000]).unwrap();
    sandbox.good(&["snapshot", "data", "--project", "shop"]);
    sandbox
}

fn part<'a>(stats: &'a Value, end: &str) -> &'a Value {
    let parts = stats["parts"].as_array().unwrap();
    let found = parts
        .iter()
        .find(|part| part["name"].as_str().unwrap().ends_with(end));
    found.unwrap_or_else(|| panic!("no {end} in {stats}"))
}

#[test]
fn a_snapshot_is_told_by_its_directories_and_what_each_takes() {
    let sandbox = sandbox();
    let stats = sandbox.good(&["stats", "latest", "--json"]).json();
    let expected = [
        "growth",
        "largest",
        "parts",
        "snapshot",
        "snapshots_count",
        "store",
        "taken",
        "total_file_count",
        "total_size",
        "unneeded",
    ];
    assert_eq!(members(&stats), expected);
    assert_eq!(stats["total_size"], 2 * 2_000_000 + 3_000_000 + 300_000 + 6);
    let copies = part(&stats, "/copies/");
    assert_eq!(
        (copies["size"].as_u64(), copies["entries"].as_u64()),
        (Some(4_000_000), Some(3))
    );
    assert_eq!(
        copies["taken"]["distinct"], 2_000_000,
        "the second is the first once more"
    );
    assert!(
        copies["taken"]["stored"].as_u64().unwrap() >= 2_000_000,
        "noise does not compress"
    );
    let zeros = part(&stats, "/zeros.txt");
    assert!(zeros["taken"]["stored"].as_u64().unwrap() < 10_000, "{zeros}");
    let largest: Vec<_> = stats["largest"].as_array().unwrap().iter().collect();
    assert!(
        largest[0]["name"].as_str().unwrap().ends_with("/zeros.txt"),
        "{largest:?}"
    );
    assert!(
        largest
            .windows(2)
            .all(|two| two[0]["size"].as_u64() >= two[1]["size"].as_u64())
    );
    // A place in it.
    let place = format!("latest:{}/copies", sandbox.data());
    let stats = sandbox.good(&["stats", &place, "--json"]).json();
    assert_eq!(stats["total_size"], 4_000_000);
    assert_eq!(part(&stats, "/copies/a")["taken"]["distinct"], 2_000_000);
    assert_eq!(part(&stats, "/copies/b")["taken"]["distinct"], 0);
    sandbox.bad(&["stats", "latest:/nowhere"], 1);
    let text = sandbox.good(&["stats", "latest", "--top", "1"]).out;
    assert!(
        text.contains("by deduplication") && text.contains("by compression"),
        "{text}"
    );
    assert!(text.contains("WHERE") && text.contains("more ("), "{text}");
}

#[test]
fn all_snapshots_are_told_with_what_is_in_the_store_and_how_it_grows() {
    let sandbox = sandbox();
    std::fs::write(sandbox.path("data/new"), noise(1_500_000, 7)).unwrap();
    sandbox.good(&["snapshot", "data", "--project", "shop"]);
    let stats = sandbox.good(&["stats", "--json"]).json();
    assert_eq!(
        (&stats["snapshot"], &stats["snapshots_count"]),
        (&Value::Null, &2.into())
    );
    let growth = stats["growth"].as_array().unwrap();
    assert_eq!(growth.len(), 2);
    assert!(
        growth[1]["data_added"].as_u64().unwrap() >= 1_500_000,
        "{growth:?}"
    );
    // What the parts take is what the packs hold, rounding and directories apart.
    let stored: u64 = stats["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["taken"]["stored"].as_u64().unwrap())
        .sum();
    let packs = stats["store"]["packs"]["bytes"].as_u64().unwrap();
    assert_eq!(stored, stats["taken"]["stored"].as_u64().unwrap());
    assert_eq!(stats["unneeded"].as_u64().unwrap(), packs - stored);
    assert!(stored > packs * 3 / 4, "{stored} of {packs}");
    let none = sandbox.good(&["stats", "--project", "other", "--json"]).json();
    assert_eq!(
        (&none["snapshots_count"], &none["total_size"]),
        (&0.into(), &0.into())
    );
    let text = sandbox.good(&["stats"]).out;
    for word in ["2 snapshots", "IN THE STORE", "DAY", "STORED"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

/// What one change stores as its difference is told as saved.
#[test]
fn what_deltas_save_is_told() {
    let sandbox = sandbox();
    let data = sandbox.path("data/copies/a");
    let mut bytes = noise(2_000_000, 1);
    for at in (0..bytes.len()).step_by(100_000) {
        bytes[at] ^= 1;
    }
    std::fs::write(&data, &bytes).unwrap();
    sandbox.good(&["snapshot", "data", "--project", "shop"]);
    let stats = sandbox.good(&["stats", "--json"]).json();
    assert!(
        stats["taken"]["saved_by_deltas"].as_u64().unwrap() > 1_500_000,
        "{stats}"
    );
}
