//! Holdall and its peers as a user runs them: programs, each with a repository of its own for each table.

use holdall::testkit::PostgresServer;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What a run cost. Read: megabytes of text that the server sent, as far as the tool tells; stored: what its repository grew by.
#[derive(Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    pub(crate) read: f64,
    pub(crate) stored: f64,
}

/// Where everything is.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    url: String,
    /// Of another database on the same server.
    other: Box<dyn Fn(&str) -> String>,
    programs: PathBuf,
}

/// A tool with its repository for one table.
pub(crate) struct Peer {
    tool: Tool,
    repository: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tool {
    Holdall,
    Restic,
    Borg,
    Rustic,
    Dump,
}

const PASSWORD: &str = "correct horse";

impl Place {
    pub(crate) fn new(server: &PostgresServer) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("holdall-bench-")
            .tempdir()
            .unwrap();
        std::fs::write(dir.path().join("key"), [7u8; 32]).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(dir.path().join("key"), mode).unwrap();
        let port = server.port();
        let other = Box::new(move |name: &str| format!("postgres://postgres@127.0.0.1:{port}/{name}"));
        Self {
            url: other("shop"),
            other,
            programs: server.programs().to_path_buf(),
            dir,
        }
    }

    /// A shell that fails where any part of a pipe does.
    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-o", "pipefail", "-ec", script]);
        command
            .env(
                "PATH",
                format!("{}:{}", self.programs.display(), std::env::var("PATH").unwrap()),
            )
            .env("HOME", self.dir.path())
            .env("RESTIC_PASSWORD", PASSWORD)
            .env("RUSTIC_PASSWORD", PASSWORD)
            .env("BORG_PASSPHRASE", PASSWORD)
            .env("HOLDALL_KEY_FILE", self.dir.path().join("key"))
            .env("HOLDALL_BIN", env!("CARGO_BIN_EXE_holdall"))
            .env("URL", &self.url)
            .stdin(Stdio::null());
        command
    }

    /// Runs a script; gives its seconds and what it printed.
    fn run(&self, script: &str) -> (f64, String) {
        let begun = Instant::now();
        let output = self.shell(script).stderr(Stdio::piped()).output().unwrap();
        let seconds = begun.elapsed().as_secs_f64();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {said}");
        (seconds, String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) fn dump_custom(&self) -> Measured {
        let file = self.dir.path().join("shop.dump");
        let (seconds, _) = self.run(&format!("pg_dump -Fc -f {} \"$URL\"", file.display()));
        Measured {
            seconds,
            read: f64::NAN,
            stored: megabytes(size(&file)),
        }
    }

    /// Into a repository of its own; that of the first run is what is restored.
    pub(crate) fn first_of_all(&self, run: usize) -> Measured {
        let peer = Peer {
            tool: Tool::Holdall,
            repository: self.dir.path().join(format!("holdall-all-{run}")),
        };
        peer.init(self);
        peer.measure(self, "\"$HOLDALL_BIN\" -r REPO snapshot \"$URL\" --json")
    }

    pub(crate) fn restore_custom(&self, database: &str) -> Measured {
        let (file, url) = (self.dir.path().join("shop.dump"), (self.other)(database));
        let (seconds, _) = self.run(&format!("pg_restore -j2 -d {url} {}", file.display()));
        Measured {
            seconds,
            read: f64::NAN,
            stored: f64::NAN,
        }
    }

    pub(crate) fn restore_holdall(&self, database: &str, unverified: bool) -> Measured {
        let (repository, url) = (self.dir.path().join("holdall-all-0"), (self.other)(database));
        let flag = if unverified { "--no-verify" } else { "" };
        let script = format!(
            "\"$HOLDALL_BIN\" -r {} restore latest --target {url} --jobs 2 {flag}",
            repository.display()
        );
        let (seconds, _) = self.run(&script);
        Measured {
            seconds,
            read: f64::NAN,
            stored: f64::NAN,
        }
    }
}

impl Peer {
    /// Every tool that is installed, with a fresh repository.
    pub(crate) fn available(place: &Place, table: &str) -> Vec<Self> {
        let mut peers = Vec::new();
        for tool in [Tool::Holdall, Tool::Dump, Tool::Restic, Tool::Borg, Tool::Rustic] {
            let repository = place.dir.path().join(format!("{}-{table}", tool.name()));
            let peer = Self { tool, repository };
            let there = match tool {
                Tool::Holdall | Tool::Dump => true,
                _ => place
                    .shell(&format!("command -v {}", tool.name()))
                    .output()
                    .unwrap()
                    .status
                    .success(),
            };
            if there {
                peer.init(place);
                peers.push(peer);
            } else if table == "narrow" {
                println!("{} is not installed and is left out", tool.name());
            }
        }
        peers
    }

    pub(crate) fn name(&self) -> &'static str {
        self.tool.name()
    }

    pub(crate) fn is_holdall(&self) -> bool {
        self.tool == Tool::Holdall
    }

    /// Whether it keeps what it reads: a bare dump is no peer, but a measure.
    pub(crate) fn stores(&self) -> bool {
        self.tool != Tool::Dump
    }

    fn init(&self, place: &Place) {
        let script = match self.tool {
            Tool::Holdall => "\"$HOLDALL_BIN\" -r REPO init --key-file \"$HOLDALL_KEY_FILE\" >&2",
            Tool::Restic => "restic -q -r REPO init >&2",
            Tool::Borg => "borg init -e repokey-blake2 REPO >&2",
            Tool::Rustic => "rustic -r REPO init >&2",
            Tool::Dump => "mkdir REPO",
        };
        place.run(&self.fill(script));
    }

    fn fill(&self, script: &str) -> String {
        script.replace("REPO", &self.repository.display().to_string())
    }

    /// One snapshot of a table.
    pub(crate) fn snapshot(&self, place: &Place, table: &str) -> Measured {
        let dump = format!("pg_dump -t public.{table} \"$URL\"");
        let script = match self.tool {
            Tool::Holdall => {
                format!(
                    "\"$HOLDALL_BIN\" -r REPO snapshot \"$URL\" --table public.{table} --project {table} --json"
                )
            }
            Tool::Dump => format!("{dump} | wc -c"),
            Tool::Restic => {
                format!("{dump} | restic -q -r REPO backup --stdin --stdin-filename {table}.sql >&2")
            }
            Tool::Borg => format!("{dump} | borg create -C zstd,3 REPO::{{now}}-$$ - >&2"),
            Tool::Rustic => {
                format!("{dump} | rustic -r REPO backup --force --stdin-filename {table}.sql - >&2")
            }
        };
        self.measure(place, &script)
    }

    fn measure(&self, place: &Place, script: &str) -> Measured {
        let before = size(&self.repository);
        let (seconds, printed) = place.run(&self.fill(script));
        let read = match self.tool {
            Tool::Holdall => {
                let summary: serde_json::Value =
                    serde_json::from_str(printed.lines().last().unwrap()).unwrap();
                summary["bytes_read"].as_f64().unwrap() / 1e6
            }
            Tool::Dump => printed.trim().parse::<f64>().unwrap() / 1e6,
            _ => f64::NAN,
        };
        Measured {
            seconds,
            read,
            stored: megabytes(size(&self.repository)) - megabytes(before),
        }
    }
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Self::Holdall => "holdall",
            Self::Restic => "restic",
            Self::Borg => "borg",
            Self::Rustic => "rustic",
            Self::Dump => "pg_dump",
        }
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
    std::fs::read_dir(path)
        .unwrap()
        .map(|entry| size(&entry.unwrap().path()))
        .sum()
}
