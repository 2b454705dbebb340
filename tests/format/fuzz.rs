//! The bodies of the fuzz targets, on the vectors, on what follows from them by small changes, and on noise.

use crate::vectors;
use holdall::testkit::arbitrary::Gen;
use holdall::testkit::fuzz::TARGETS;
use std::time::{Duration, Instant};

/// How long all targets together run.
const TIME: Duration = Duration::from_secs(5);

fn mutate(g: &mut Gen, input: &[u8]) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..=g.index(3) {
        let at = g.index(out.len().max(1));
        match g.below(6) {
            0 => out.truncate(at),
            1 => out.extend(g.bytes(9)),
            2 if at < out.len() => out[at] ^= 1 << g.below(8),
            3 if at < out.len() => out[at] = [0, 0xff, 0x18, 0x1b, 0x5b, 0x9b, 0xbb, 0x7f][g.index(8)],
            4 => {
                let bytes = g.bytes(4);
                out.splice(at..at, bytes);
            }
            _ => {
                let end = (at + g.index(8)).min(out.len());
                out.drain(at.min(end)..end);
            }
        }
    }
    out
}

#[test]
fn no_input_breaks_a_decoder_or_the_chunker() {
    let corpus = vectors::all_bytes();
    assert!(corpus.len() > 100, "the vectors are gone");
    for (name, target) in TARGETS {
        for input in &corpus {
            target(input);
        }
        let mut g = Gen::new(u64::from_le_bytes(
            blake3::hash(name.as_bytes()).as_bytes()[..8].try_into().unwrap(),
        ));
        let (began, share) = (Instant::now(), TIME / u32::try_from(TARGETS.len()).unwrap());
        while began.elapsed() < share {
            let at = g.index(corpus.len());
            let input = if g.below(3) == 0 {
                g.bytes(600)
            } else {
                mutate(&mut g, &corpus[at])
            };
            target(&input);
        }
    }
}

#[test]
fn every_target_has_a_file_and_every_file_a_target() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");
    let mut files: Vec<_> = std::fs::read_dir(format!("{root}/fuzz_targets"))
        .unwrap()
        .map(|f| {
            f.unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    files.sort();
    let targets: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files, targets);
    let manifest = std::fs::read_to_string(format!("{root}/Cargo.toml")).unwrap();
    for name in targets {
        assert!(
            manifest.contains(&format!("name = \"{name}\"\n")),
            "{name} is not in fuzz/Cargo.toml"
        );
    }
}
