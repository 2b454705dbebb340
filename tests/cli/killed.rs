//! Processes that end without a word, and many at once: whatever they did, each snapshot that was acknowledged restores.

use crate::{Ran, Sandbox, noise};
use holdall::store::Location;
use holdall::testkit::SeaweedFs;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A sandbox whose repository may be in S3.
struct Place {
    sandbox: Sandbox,
    variables: Vec<(&'static str, String)>,
    server: Option<(tokio::runtime::Runtime, SeaweedFs)>,
}

impl Place {
    fn in_a_directory() -> Self {
        let place = Self {
            sandbox: Sandbox::empty(),
            variables: Vec::new(),
            server: None,
        };
        place.init()
    }

    fn in_s3() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let server = runtime.block_on(SeaweedFs::start()).unwrap();
        let s3 = server.options().s3;
        let Location::S3 { bucket, prefix } = server.location("killed") else {
            panic!("not in S3");
        };
        let variables = vec![
            ("HOLDALL_REPOSITORY", format!("s3://{bucket}/{prefix}")),
            ("HOLDALL_S3_ENDPOINT", s3.endpoint.unwrap()),
            ("AWS_ACCESS_KEY_ID", s3.access_key_id.unwrap()),
            (
                "AWS_SECRET_ACCESS_KEY",
                s3.secret_access_key.unwrap().reveal().to_owned(),
            ),
        ];
        let place = Self {
            sandbox: Sandbox::empty(),
            variables,
            server: Some((runtime, server)),
        };
        place.init()
    }

    fn init(self) -> Self {
        self.good(&["init", "--generate-key-file", "key", "--no-recovery-phrase"]);
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.command(arguments);
        command.envs(self.variables.clone());
        command
    }

    fn good(&self, arguments: &[&str]) -> Ran {
        let ran = Ran::from(self.command(arguments).output().unwrap());
        assert_eq!(ran.code, 0, "{arguments:?}: {} {}", ran.out, ran.err);
        ran
    }

    /// Puts content into a directory that follows from `tag`.
    fn fill(&self, directory: &str, tag: u64) {
        let directory = self.sandbox.path(directory);
        std::fs::create_dir_all(&directory).unwrap();
        for (name, content) in contents(tag) {
            std::fs::write(directory.join(name), content).unwrap();
        }
    }

    /// The tags of the snapshots that are listed, oldest first.
    fn tags(&self) -> Vec<String> {
        let listed = self.good(&["list", "--json"]).json();
        let tags = listed.as_array().unwrap().iter();
        tags.map(|snapshot| snapshot["tags"][0].as_str().unwrap().to_owned())
            .collect()
    }

    /// Asserts that each listed snapshot restores to what its tag says; gives the tags.
    fn assert_whole(&self) -> Vec<u64> {
        self.good(&["check", "--read-data"]);
        let listed = self.good(&["list", "--json"]).json();
        let mut tags = Vec::new();
        for snapshot in listed.as_array().unwrap() {
            let tag: u64 = snapshot["tags"][0].as_str().unwrap().parse().unwrap();
            let id = snapshot["id"].as_str().unwrap();
            let target = format!("out-{tag}");
            let source = snapshot["sources"][0]["description"].as_str().unwrap();
            self.good(&["restore", &format!("{id}:{source}"), "--target", &target]);
            for (name, content) in contents(tag) {
                let restored = std::fs::read(self.sandbox.path(&target).join(&name)).unwrap();
                assert!(restored == content, "{name} of {tag} is not as it was");
            }
            std::fs::remove_dir_all(self.sandbox.path(&target)).unwrap();
            tags.push(tag);
        }
        tags
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The server's child must end inside its runtime.
        if let Some((runtime, server)) = self.server.take() {
            let _inside = runtime.enter();
            drop(server);
        }
    }
}

/// Most of it the same for all tags, some changed a little, some new.
fn contents(tag: u64) -> BTreeMap<String, Vec<u8>> {
    let mut changing = noise(400_000, 1);
    let at = usize::try_from(tag % 390).unwrap() * 1000;
    changing[at..at + 500].copy_from_slice(&noise(500, tag));
    BTreeMap::from([
        ("same".to_owned(), noise(500_000, 2)),
        ("changing".to_owned(), changing),
        ("new".to_owned(), noise(2_000_000, 1000 + tag)),
    ])
}

/// Kills snapshots and collections at moments spread over their usual time.
fn kill_many(place: &Place) {
    let mut before: Vec<String> = Vec::new();
    let mut usual = Duration::from_millis(300);
    for tag in 0..16 {
        place.fill("data", tag);
        let tag_text = tag.to_string();
        let collect = [
            "forget",
            "--keep-last",
            "3",
            "--prune",
            "--confirm",
            "--take-over",
            "--lease",
            "1s",
        ];
        let arguments: &[&str] = if tag % 3 == 2 {
            &collect
        } else {
            &["snapshot", "data", "--tag", &tag_text]
        };
        let mut command = place.command(arguments);
        let began = Instant::now();
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The first is left to end, and tells how long one takes here.
        if tag > 0 {
            std::thread::sleep(usual * (u32::try_from(tag).unwrap() * 7 % 16) / 16);
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        if tag == 0 {
            usual = began.elapsed();
        }
        let after = place.tags();
        // A collection, half or whole, leaves the newest three; a snapshot, half or whole, leaves all.
        let kept = if tag % 3 == 2 {
            before.len().saturating_sub(3)
        } else {
            0
        };
        for wanted in &before[kept..] {
            assert!(after.contains(wanted), "{wanted} is gone: {after:?}");
        }
        let acknowledged = status.success() && tag % 3 != 2;
        assert!(!acknowledged || after.contains(&tag_text), "{tag}: {after:?}");
        before = after;
        place.good(&["check"]);
    }
    let wait = Duration::from_millis(1100);
    std::thread::sleep(wait);
    place.good(&["prune", "--confirm", "--take-over", "--lease", "1s"]);
    place.fill("data", 100);
    place.good(&["snapshot", "data", "--tag", "100"]);
    let tags = place.assert_whole();
    assert!(tags.contains(&100), "{tags:?}");
}

#[test]
fn processes_that_are_killed_harm_no_repository_in_a_directory() {
    kill_many(&Place::in_a_directory());
}

#[test]
fn processes_that_are_killed_harm_no_repository_in_s3() {
    kill_many(&Place::in_s3());
}

/// Four machines snapshot and forget, and one collects, all at once; nobody fails, nobody waits, and everything restores.
/// `HOLDALL_TEST_SECONDS` says how long; a minute is a good measure.
fn all_at_once(place: &Place) {
    let seconds = std::env::var("HOLDALL_TEST_SECONDS").map_or(6, |text| text.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let taken = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4_u64)
            .map(|writer| {
                scope.spawn(move || {
                    let directory = format!("data-{writer}");
                    let cache = format!("cache-{writer}");
                    let mut taken = 0;
                    while Instant::now() < end || taken == 0 {
                        let tag = (writer * 1000 + taken).to_string();
                        place.fill(&directory, writer * 1000 + taken);
                        let project = format!("project-{writer}");
                        let common = ["--cache-dir", &cache, "--project", &project];
                        let snapshot = [&["snapshot", &directory, "--tag", &tag], &common[..]].concat();
                        place.good(&snapshot);
                        place.good(&[&["forget", "--keep-last", "2"], &common[..]].concat());
                        taken += 1;
                    }
                    taken
                })
            })
            .collect();
        let collector = scope.spawn(|| {
            let mut rounds = 0;
            while Instant::now() < end || rounds == 0 {
                place.good(&[
                    "prune",
                    "--confirm",
                    "--max-unused",
                    "0",
                    "--cache-dir",
                    "cache-5",
                ]);
                rounds += 1;
            }
            rounds
        });
        let taken: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
        let rounds: u64 = collector.join().unwrap();
        assert!(rounds > 0);
        taken
    });
    let tags = place.assert_whole();
    assert!((4..=8).contains(&tags.len()), "{tags:?} of {taken} snapshots");
}

#[test]
fn four_writers_and_a_collector_share_a_directory() {
    all_at_once(&Place::in_a_directory());
}

#[test]
fn four_writers_and_a_collector_share_a_bucket() {
    all_at_once(&Place::in_s3());
}
