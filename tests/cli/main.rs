//! The program as its users meet it: arguments in; text, JSON and exit codes out. `HOLDALL_TEST_BINARY` names the binary (`scripts/test`
//! sets it to one that is built without `testkit`); without it, the one that cargo built for the tests is taken.

#![expect(clippy::unwrap_used, reason = "what must not happen in a test ends it")]

mod check;
mod failures;
mod forget;
mod health;
mod help;
mod history;
mod interrupts;
mod killed;
mod manners;
mod pipes;
mod prune;
mod second;
mod stats;
mod streams;
mod verbs;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A place with a repository, a key file and a directory to keep.
struct Sandbox {
    directory: tempfile::TempDir,
}

/// How a run ended.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn binary() -> PathBuf {
    std::env::var_os("HOLDALL_TEST_BINARY")
        .map_or_else(|| env!("CARGO_BIN_EXE_holdall").into(), PathBuf::from)
}

#[expect(clippy::disallowed_methods, reason = "the program under test is a child")]
fn child(program: &Path) -> Command {
    Command::new(program)
}

impl Sandbox {
    /// A directory with files, and no repository yet.
    fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        std::fs::create_dir_all(data.join("deep/er")).unwrap();
        std::fs::write(data.join("hello.txt"), "hello\n").unwrap();
        std::fs::write(data.join("deep/er/big.bin"), noise(300_000, 1)).unwrap();
        std::os::unix::fs::symlink("hello.txt", data.join("link")).unwrap();
        Self { directory }
    }

    /// The same with a repository that the key file opens.
    fn new() -> Self {
        let sandbox = Self::empty();
        sandbox.good(&["init", "--generate-key-file", "key", "--no-recovery-phrase"]);
        sandbox
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn data(&self) -> String {
        self.path("data").canonicalize().unwrap().display().to_string()
    }

    /// The program, with nothing of this environment but where to find programs.
    fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(&binary(), arguments)
    }

    fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = child(program);
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOLDALL_REPOSITORY", self.path("repo"))
            .env("HOLDALL_CACHE_DIR", self.path("cache"))
            .stdin(Stdio::null());
        if !arguments.contains(&"init") {
            command.env("HOLDALL_KEY_FILE", self.path("key"));
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().unwrap())
    }

    /// Runs it and expects success.
    fn good(&self, arguments: &[&str]) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {} {}", ran.out, ran.err);
        ran
    }

    /// Runs it and expects an exit code, and an error in its form.
    fn bad(&self, arguments: &[&str], code: i32) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {} {}", ran.out, ran.err);
        assert!(
            ran.err.lines().any(|line| line.starts_with("error: ")),
            "{arguments:?}: {}",
            ran.err
        );
        ran
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// The last line of standard output as JSON.
    fn json(&self) -> Value {
        let line = self.out.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    fn has_error(&self, text: &str) {
        assert!(self.err.contains(text), "{text:?} is not in {:?}", self.err);
    }
}

/// The names of a JSON object's members, sorted.
fn members(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// Bytes that follow from `seed` and do not compress.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// All files below a directory.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    for path in entries.map(|e| e.unwrap().path()) {
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}
