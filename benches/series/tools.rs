//! Holdall and its peers as a user runs them, each with a repository of its own for the whole series.

use holdall::testkit::PostgresServer;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const PASSWORD: &str = "correct horse";
/// What `pg_dump` prints is called so.
const NAME: &str = "shop.sql";

/// Where everything is.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    url: String,
    programs: PathBuf,
}

/// A tool, its repository and what that has come to.
pub(crate) struct Tool {
    pub(crate) kind: Kind,
    repository: PathBuf,
    size: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Reads the server.
    Server,
    /// Takes the dump, as the peers do.
    Dump,
    Restic,
    Borg,
    Rustic,
    Bupstash,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Server => "holdall",
            Self::Dump => "holdall, dump",
            Self::Restic => "restic",
            Self::Borg => "borg",
            Self::Rustic => "rustic",
            Self::Bupstash => "bupstash",
        }
    }

    pub(crate) fn is_peer(self) -> bool {
        !matches!(self, Self::Server | Self::Dump)
    }

    fn init(self) -> &'static str {
        match self {
            Self::Server | Self::Dump => "\"$HOLDALL_BIN\" -r REPO init --key-file \"$HOLDALL_KEY_FILE\" >&2",
            Self::Restic => "restic -q -r REPO init >&2",
            Self::Borg => "borg init -e repokey-blake2 REPO >&2",
            Self::Rustic => "rustic -r REPO init >&2",
            Self::Bupstash => "bupstash init -r REPO && bupstash new-key -o REPO.key",
        }
    }

    fn snapshot(self) -> &'static str {
        match self {
            Self::Server => "\"$HOLDALL_BIN\" -r REPO snapshot \"$URL\" --json FLAGS",
            Self::Dump => {
                "pg_dump \"$URL\" | \"$HOLDALL_BIN\" -r REPO snapshot --stdin --stdin-filename shop.sql --json FLAGS"
            }
            Self::Restic => {
                "pg_dump \"$URL\" | restic -q -r REPO backup --stdin --stdin-filename shop.sql >&2"
            }
            Self::Borg => "pg_dump \"$URL\" | borg create -C zstd,3 REPO::{now}-$$ - >&2",
            // Without --force its second snapshot of standard input is the first one's content.
            Self::Rustic => {
                "pg_dump \"$URL\" | rustic -r REPO backup --force --stdin-filename shop.sql - >&2"
            }
            Self::Bupstash => "pg_dump \"$URL\" | bupstash put -q -r REPO -k REPO.key name=shop.sql - >&2",
        }
    }
}

impl Place {
    pub(crate) fn new(server: &PostgresServer) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("holdall-bench-")
            .tempdir()
            .unwrap();
        std::fs::write(dir.path().join("key"), [7u8; 32]).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(dir.path().join("key"), mode).unwrap();
        Self {
            url: format!("postgres://postgres@127.0.0.1:{}/shop", server.port()),
            programs: server.programs().to_path_buf(),
            dir,
        }
    }

    /// Runs a script that fails where any part of a pipe does; gives its seconds and what it printed.
    fn run(&self, script: &str) -> (f64, String) {
        let path = format!("{}:{}", self.programs.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command
            .args(["-o", "pipefail", "-ec", script])
            .env("PATH", path)
            .env("HOME", self.dir.path())
            .env("RESTIC_PASSWORD", PASSWORD)
            .env("RUSTIC_PASSWORD", PASSWORD)
            .env("BORG_PASSPHRASE", PASSWORD)
            .env("HOLDALL_KEY_FILE", self.dir.path().join("key"))
            .env("HOLDALL_BIN", env!("CARGO_BIN_EXE_holdall"))
            .env("URL", &self.url)
            .stdin(Stdio::null());
        let begun = Instant::now();
        let output = command.stderr(Stdio::piped()).output().unwrap();
        let seconds = begun.elapsed().as_secs_f64();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {said}");
        (seconds, String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn has(program: &str) -> bool {
        let there = Command::new("bash")
            .args(["-c", &format!("command -v {program}")])
            .output();
        there.unwrap().status.success()
    }

    /// Megabytes of what `pg_dump` prints now.
    pub(crate) fn dump_size(&self) -> f64 {
        self.run("pg_dump \"$URL\" | wc -c")
            .1
            .trim()
            .parse::<f64>()
            .unwrap()
            / 1e6
    }
}

impl Tool {
    /// Every tool that is installed, with a fresh repository.
    pub(crate) fn available(place: &Place) -> Vec<Self> {
        let kinds = [
            Kind::Server,
            Kind::Dump,
            Kind::Restic,
            Kind::Borg,
            Kind::Rustic,
            Kind::Bupstash,
        ];
        let (there, not): (Vec<Kind>, Vec<Kind>) = kinds
            .into_iter()
            .partition(|kind| !kind.is_peer() || Place::has(kind.name()));
        for kind in not {
            println!("{} is not installed and is left out", kind.name());
        }
        there
            .into_iter()
            .map(|kind| Self::new(place, kind, "series"))
            .collect()
    }

    pub(crate) fn new(place: &Place, kind: Kind, what: &str) -> Self {
        let mut tool = Self {
            kind,
            repository: place.dir.path().join(format!("{kind:?}-{what}")),
            size: 0,
        };
        place.run(&tool.fill(kind.init(), ""));
        // Space that is reserved for a full disk is not what a snapshot costs.
        tool.size = size(&tool.repository);
        tool
    }

    fn fill(&self, script: &str, flags: &str) -> String {
        script
            .replace("REPO", &self.repository.display().to_string())
            .replace("FLAGS", flags)
    }

    /// A snapshot: its seconds, and the megabytes that the repository grew by.
    pub(crate) fn snapshot(&mut self, place: &Place, flags: &str) -> (f64, f64) {
        let (seconds, _) = place.run(&self.fill(self.kind.snapshot(), flags));
        let before = std::mem::replace(&mut self.size, size(&self.repository));
        (seconds, megabytes(self.size) - megabytes(before))
    }

    /// Seconds that a restore of the newest snapshot takes: into a database, or the dump into a file.
    pub(crate) fn restore(&self, place: &Place) -> f64 {
        let script = if self.kind == Kind::Server {
            let anew =
                "-c 'DROP DATABASE IF EXISTS restored' -c 'CREATE DATABASE restored TEMPLATE template0'";
            place.run(&format!("psql -q \"$URL\" {anew}"));
            "\"$HOLDALL_BIN\" -r REPO restore latest --target \"${URL%/*}/restored\" --no-verify".to_owned()
        } else {
            let target = place.dir.path().join("restored.sql");
            format!("\"$HOLDALL_BIN\" -r REPO cat latest {NAME} >{}", target.display())
        };
        place.run(&self.fill(&script, "")).0
    }

    /// Seconds that it takes to read what the newest snapshot holds and to throw it away: the dump, or the rows of one table.
    pub(crate) fn read_back(&self, place: &Place) -> f64 {
        let path = if self.kind == Kind::Server {
            "public.events"
        } else {
            NAME
        };
        let script = format!("\"$HOLDALL_BIN\" -r REPO cat latest {path} >/dev/null");
        place.run(&self.fill(&script, "")).0
    }
}

fn megabytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1000).unwrap()) / 1000.0
}

/// Bytes below a path; 0 if there is nothing.
fn size(path: &Path) -> u64 {
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return 0;
    };
    if !meta.is_dir() {
        return meta.len();
    }
    let entries = std::fs::read_dir(path).unwrap();
    entries.map(|entry| size(&entry.unwrap().path())).sum()
}
