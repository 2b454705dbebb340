//! The programs that the demo runs: PostgreSQL's, and this one.

use crate::cli::app::App;
use crate::cli::environment;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// Variables that would lead a child elsewhere than to the demo's own server and repository.
const FOREIGN: [&str; 27] = [
    "PGDATABASE",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGOPTIONS",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGHOSTADDR",
    "PGSSLMODE",
    "PGDATA",
    "PGREQUIRESSL",
    "PGREQUIREAUTH",
    "PGREQUIREPEER",
    "PGCHANNELBINDING",
    "PGSSLNEGOTIATION",
    "PGTARGETSESSIONATTRS",
    "PGCLIENTENCODING",
    "HOLDALL_REPOSITORY_FILE",
    "HOLDALL_PASSWORD",
    "HOLDALL_PASSWORD_FILE",
    "HOLDALL_PASSWORD_COMMAND",
    "HOLDALL_HOST",
    "HOLDALL_PROGRESS_FPS",
    "CREDENTIALS_DIRECTORY",
    "XDG_CACHE_HOME",
    "PSQLRC",
    "PAGER",
    "HOLDALL_MEMORY",
];

/// Starts children. Cheap to clone.
#[derive(Clone)]
pub(super) struct Children {
    context: Context,
    directory: PathBuf,
    binaries: PathBuf,
    path: OsString,
    holdall: PathBuf,
    /// Whom the server runs as, if we are root.
    server: Option<(u32, u32)>,
}

impl Children {
    /// Children for the demo in `directory`.
    ///
    /// # Errors
    /// `Refused` for root without another user to run the server as.
    pub(super) fn new(app: &App, directory: &Path, binaries: &Path) -> Result<Self> {
        let mut path = vec![binaries.to_path_buf()];
        if let Some(more) = environment::variable("PATH") {
            path.extend(std::env::split_paths(&more));
        }
        let path = std::env::join_paths(path)
            .map_err(|e| Error::new(ErrorKind::Invalid, "PATH cannot be extended").because(e))?;
        Ok(Self {
            context: app.context.clone(),
            directory: directory.to_path_buf(),
            binaries: binaries.to_path_buf(),
            path,
            holdall: environment::own_program()?,
            server: server_user()?,
        })
    }

    /// Whom the server's files belong to, if not us.
    pub(super) fn server_user(&self) -> Option<(u32, u32)> {
        self.server
    }

    /// The directory that the server's socket is in.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.join("pg")
    }

    fn command(&self, program: &Path, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(program);
        for name in FOREIGN {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .current_dir(&self.directory)
            .env("PATH", &self.path)
            .env("PGHOST", self.socket())
            .env("PGPORT", "5432")
            .env("PGUSER", "postgres")
            .env("HOLDALL_REPOSITORY", self.directory.join("repository"))
            .env("HOLDALL_KEY_FILE", self.directory.join("shop.key"))
            .env("HOLDALL_CACHE_DIR", self.directory.join("cache"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// A program of PostgreSQL.
    pub(super) fn postgres(&self, program: &str, arguments: &[&str]) -> Command {
        self.command(&self.binaries.join(program), arguments)
    }

    /// A program of PostgreSQL that must not run as root.
    pub(super) fn as_server(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.postgres(program, arguments);
        if let Some((uid, gid)) = self.server {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// This program.
    pub(super) fn holdall(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        self.command(&self.holdall, arguments)
    }

    /// Runs a child to its end and gives its standard output.
    ///
    /// # Errors
    /// `Source` unless it ends well, with what it said; `Cancelled`.
    pub(super) async fn run(&self, command: Command) -> Result<Vec<u8>> {
        tokio::select! {
            biased;
            () = self.context.cancel.cancelled() => Err(Self::cancelled()),
            output = to_the_end(command) => output,
        }
    }

    fn cancelled() -> Error {
        Error::new(
            ErrorKind::Cancelled,
            "the demo was interrupted; its server is stopped and its directory removed",
        )
    }
}

/// Runs a child to its end, whether or not the demo was interrupted.
///
/// # Errors
/// `Source` unless it ends well.
pub(super) async fn to_the_end(mut command: Command) -> Result<Vec<u8>> {
    let program = Path::new(command.as_std().get_program());
    let program = program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let failed = |what: &str| Error::new(ErrorKind::Source, what).with("program", &program);
    let output = command
        .output()
        .await
        .map_err(|e| failed("cannot run a program").because(e))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = said.lines().rev().take(8).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        return Err(failed("a program failed")
            .with("ended with", output.status)
            .because(tail.join(" | ")));
    }
    Ok(output.stdout)
}

/// The user that the server runs as when we are root, which PostgreSQL refuses to be: `postgres`, or `nobody`.
fn server_user() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |wanted: &str| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            (name == wanted).then_some((uid, gid))
        })
    };
    find("postgres")
        .or_else(|| find("nobody"))
        .map(Some)
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Refused,
                "PostgreSQL does not run as root, and there is no user postgres or nobody",
            )
            .hint("run the demo as an ordinary user")
        })
}
