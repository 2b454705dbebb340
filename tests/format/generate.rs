//! Writes vectors that are missing, never one that exists: `HOLDALL_WRITE_VECTORS=1 cargo test --test format -- --ignored`.
//! A vector is changed by deleting its file and its line in `SUMS` first, so that the change shows in two places.

mod frames;
mod names;
mod objects;
mod packs;
mod plain;
mod records;
mod slots;
mod tables;

use crate::vectors::{files, folder};
use serde_json::{Value, json};
use std::io::Write;

pub(super) fn hex(bytes: &[u8]) -> String {
    holdall::format::id::hex(bytes)
}

/// Vectors of one kind, until they are written.
struct File {
    path: &'static str,
    kind: &'static str,
    about: &'static str,
    cases: Vec<Value>,
}

impl File {
    fn new(path: &'static str, kind: &'static str, about: &'static str) -> Self {
        Self {
            path,
            kind,
            about,
            cases: Vec::new(),
        }
    }

    fn add(&mut self, name: &str, mut case: Value) {
        case["name"] = json!(name);
        self.cases.push(case);
    }

    /// One case to a line.
    fn text(&self) -> String {
        let cases: Vec<_> = self.cases.iter().map(|case| format!("    {case}")).collect();
        format!(
            "{{\n  \"kind\": {},\n  \"about\": {},\n  \"cases\": [\n{}\n  ]\n}}\n",
            json!(self.kind),
            json!(self.about),
            cases.join(",\n")
        )
    }
}

fn all() -> Vec<File> {
    let parts = [
        plain::all(),
        names::all(),
        records::all(),
        tables::all(),
        objects::all(),
        slots::all(),
        packs::all(),
        frames::all(),
    ];
    parts.into_iter().flatten().collect()
}

/// Sealed bytes included: all but the output of zstd, which another version of it may choose otherwise.
#[test]
fn the_program_still_writes_the_pinned_vectors() {
    for file in all().into_iter().filter(|file| file.path != "packs/packs.json") {
        let pinned = std::fs::read_to_string(folder().join(file.path)).unwrap();
        assert!(
            file.text() == pinned,
            "{} is not what the program writes now",
            file.path
        );
    }
}

#[test]
#[ignore = "run by hand when the format gets new vectors: it writes into format-spec/vectors"]
fn write_missing_vectors() {
    assert_eq!(
        std::env::var("HOLDALL_WRITE_VECTORS").as_deref(),
        Ok("1"),
        "set HOLDALL_WRITE_VECTORS=1 to write"
    );
    let mut pinned = std::fs::read_to_string(folder().join("SUMS")).unwrap_or_default();
    for file in all() {
        let path = folder().join(file.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match std::fs::File::create_new(&path) {
            Ok(mut out) => {
                let text = file.text();
                out.write_all(text.as_bytes()).unwrap();
                pinned = format!("{pinned}{}  {}\n", blake3::hash(text.as_bytes()), file.path);
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{error}"),
        }
    }
    // Vectors that others wrote are pinned when they are first seen.
    for (path, text) in files().into_iter().filter(|(path, _)| path.starts_with("tree/")) {
        if !pinned.contains(&format!("  {path}\n")) {
            pinned = format!("{pinned}{}  {path}\n", blake3::hash(&text));
        }
    }
    let mut lines: Vec<_> = pinned.lines().collect();
    lines.sort_by_key(|line| line.split_once("  ").map(|(_, path)| path.to_owned()));
    std::fs::write(folder().join("SUMS"), lines.join("\n") + "\n").unwrap();
    assert!(!files().is_empty());
}
