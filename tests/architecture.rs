//! The rules of the house that a text search can hold: layers, sizes, names, where the world outside is read, chapters of the format.

#![expect(clippy::unwrap_used, reason = "what must not happen in a test ends it")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Rooms from the bottom up; a room may use those of lower layers, and what its line names.
const LAYERS: [(&str, u8, &[&str]); 14] = [
    ("error", 0, &[]),
    ("event", 0, &[]),
    // Everything below the terminal is given these three; they may see each other.
    ("context", 0, &["error", "event"]),
    ("format", 1, &["chunk"]),
    ("chunk", 1, &["format", "crypto"]),
    ("crypto", 1, &["format"]),
    ("store", 2, &[]),
    ("repository", 3, &[]),
    ("snapshot", 4, &[]),
    ("connector", 5, &[]),
    ("ops", 6, &[]),
    ("cli", 9, &[]),
    ("testkit", 10, &[]),
    ("main", 10, &[]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Rust files below `directory`, with paths relative to it.
fn sources(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(directory).unwrap().display().to_string();
                found.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    assert!(found.len() > 20, "no sources below {}", directory.display());
    found
}

fn room(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The code of a file: without comments, and without its tests.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths behind `crate::` in a file, braces resolved one level deep: `crate::a::{b, c::d}` gives `a::b` and `a::c::d`.
fn uses(code: &str) -> BTreeSet<String> {
    let word = |text: &str| {
        text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
            .unwrap_or(text.len())
    };
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let path = &rest[..word(rest)];
        match rest[path.len()..].strip_prefix('{') {
            Some(group) => {
                let group = group.split('}').next().unwrap();
                found.extend(group.split(',').map(|item| format!("{path}{}", item.trim())));
            }
            None => {
                found.insert(path.to_owned());
            }
        }
    }
    found
}

#[test]
fn arrows_point_down() {
    let layers: BTreeMap<&str, (u8, &[&str])> = LAYERS.iter().map(|(n, l, a)| (*n, (*l, *a))).collect();
    let mut wrong = Vec::new();
    for (file, text) in sources(&root().join("src")) {
        let from = room(&file);
        if from == "lib" {
            continue;
        }
        let (layer, also) = layers
            .get(from)
            .unwrap_or_else(|| panic!("{file}: a room that is not in the table"));
        for path in uses(&code(&text)) {
            let to = path.split(':').next().unwrap();
            let Some((target, _)) = layers.get(to) else {
                continue;
            };
            if to != from && *target >= *layer && !also.contains(&to) {
                wrong.push(format!("{file} uses {path}: an arrow that points up"));
            }
            if from == "connector" && to == "snapshot" && !path.starts_with("snapshot::entry") {
                wrong.push(format!("{file} uses {path}: connectors see entries only"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_are_small_and_named_for_what_they_hold() {
    for folder in ["src", "tests", "benches"] {
        for (file, text) in sources_or_few(&root().join(folder)) {
            assert!(
                text.lines().count() <= 600,
                "{folder}/{file} has more than 600 lines"
            );
            for part in file.trim_end_matches(".rs").split('/') {
                let bad = ["util", "utils", "helper", "helpers", "common", "misc"];
                assert!(!bad.contains(&part), "{folder}/{file} is named for nothing");
            }
        }
    }
}

/// As [`sources`], for folders that may hold few files.
fn sources_or_few(directory: &Path) -> BTreeMap<String, String> {
    if directory.ends_with("src") {
        return sources(directory);
    }
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(directory).unwrap().display().to_string();
                found.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn the_library_reads_no_environment_and_prints_nothing() {
    // What makes a child's environment, or only names a compile-time value, is not reading ours.
    let banned = [
        "env::var",
        "env::vars",
        "env::home_dir",
        "env::args",
        "println!",
        "eprintln!",
        "io::stdin",
        "io::stdout",
        "is_terminal",
    ];
    for (file, text) in sources(&root().join("src")) {
        if matches!(room(&file), "cli" | "testkit") {
            continue;
        }
        let code = code(&text);
        for word in banned {
            let mut hits = code
                .match_indices(word)
                .filter(|(at, _)| !code[..*at].ends_with(|c: char| c.is_alphanumeric()));
            assert!(hits.next().is_none(), "{file} has {word}: only cli may");
        }
    }
}

#[test]
fn the_program_is_thin() {
    let main = std::fs::read_to_string(root().join("src/main.rs")).unwrap();
    assert!(main.lines().count() < 40);
}

#[test]
fn chapters_and_files_of_the_format_name_each_other() {
    let spec = root().join("format-spec");
    let index = std::fs::read_to_string(spec.join("README.md")).unwrap();
    for entry in std::fs::read_dir(&spec).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let chapter = Path::new(&name).extension().is_some_and(|e| e == "md")
            && name.starts_with(|c: char| c.is_ascii_digit());
        assert!(
            !chapter || index.contains(&name),
            "{name} is not in format-spec/README.md"
        );
    }
    for (file, text) in sources(&root().join("src")) {
        for at in text.match_indices("format-spec/").map(|(at, _)| at) {
            let rest = &text[at..];
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && !"-_./".contains(c))
                .unwrap_or(rest.len());
            let named = rest[..end].trim_end_matches(['.', '/']);
            assert!(
                root().join(named).exists(),
                "src/{file} names {named}, which is not there"
            );
        }
        let is_format = file.starts_with("format/") && !file.ends_with("mod.rs");
        let name = file.trim_start_matches("format/");
        assert!(
            !is_format || index.contains(name),
            "src/{file} has no chapter in format-spec/README.md"
        );
    }
}

#[test]
fn what_the_readme_runs_is_there() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for path in [
        "scripts/demo",
        "scripts/test",
        ".ci/run",
        "format-spec/reader.py",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "LICENSE-MIT",
    ] {
        assert!(readme.contains(path), "README.md does not name {path}");
        assert!(
            root().join(path).exists(),
            "README.md names {path}, which is not there"
        );
    }
}
