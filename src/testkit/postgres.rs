//! Real PostgreSQL servers for tests: each in a directory of its own, on a socket there and a free loopback port, run by a user that
//! is not root.

use crate::error::{Error, ErrorKind, Result};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A running server; stopped, and its directory removed, when dropped. It trusts everyone who reaches it.
pub struct PostgresServer {
    programs: PathBuf,
    dir: tempfile::TempDir,
    port: u16,
}

impl PostgresServer {
    /// Starts a server of a major version, with more lines for `postgresql.conf`.
    ///
    /// # Errors
    /// If the version cannot be had or does not start; never a reason to skip a test.
    pub fn start(major: u32, settings: &str) -> Result<Self> {
        let programs = programs(major)?;
        let dir = tempfile::Builder::new()
            .prefix("pg-")
            .tempdir()
            .map_err(|e| failed("no directory").because(e))?;
        let mode = std::fs::Permissions::from_mode(0o755);
        fs_err::set_permissions(dir.path(), mode).map_err(|e| failed("no directory").because(e))?;
        let port = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.local_addr())
            .map_err(|e| failed("no free port").because(e))?
            .port();
        let server = Self { programs, dir, port };
        server.initialize(settings)?;
        server.control(&["-w", "-t", "60", "start"])?;
        Ok(server)
    }

    fn initialize(&self, settings: &str) -> Result<()> {
        let data = self.data();
        fs_err::create_dir(&data).map_err(|e| failed("no directory").because(e))?;
        for dir in [self.dir.path(), &data] {
            if let Some((uid, gid)) = other_user()? {
                chown(dir, Some(uid), Some(gid)).map_err(|e| failed("chown").because(e))?;
            }
        }
        let data_name = data.display().to_string();
        self.run(
            "initdb",
            &[
                "-D",
                &data_name,
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            ],
        )?;
        let more = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\nfull_page_writes = off\n\
             max_connections = 50\n{settings}\n",
            self.port,
            self.socket().display(),
        );
        let file = data.join("postgresql.conf");
        let text = fs_err::read_to_string(&file).map_err(|e| failed("no configuration").because(e))?;
        fs_err::write(&file, text + &more).map_err(|e| failed("no configuration").because(e))
    }

    /// Runs `pg_ctl` on its data: `["-m", "immediate", "stop"]`, `["-w", "start"]`, `["reload"]`.
    ///
    /// # Errors
    /// If it fails; with the end of the server's log.
    pub fn control(&self, arguments: &[&str]) -> Result<()> {
        let (data, log) = (
            self.data().display().to_string(),
            self.log().display().to_string(),
        );
        let mut all = vec!["-D", &data, "-l", &log];
        all.extend(arguments);
        self.run("pg_ctl", &all).map(drop).map_err(|error| {
            let text = fs_err::read_to_string(self.log()).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(10).collect();
            error.with("log", tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
        })
    }

    /// Runs SQL with `psql` in a database, stopping at the first error; gives what it printed, unaligned and without headers.
    ///
    /// # Errors
    /// If a statement fails.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let url = self.url(database);
        let output = self.run(
            "psql",
            &[
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-d",
                &url,
                "-c",
                sql,
            ],
        )?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs one of its programs, as the user of the server.
    ///
    /// # Errors
    /// If it does not end well; with what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = match other_user()? {
            None => Command::new(self.programs.join(program)),
            Some((uid, gid)) => {
                let mut command = Command::new("setpriv");
                command
                    .arg(format!("--reuid={uid}"))
                    .arg(format!("--regid={gid}"));
                command.arg("--clear-groups").arg(self.programs.join(program));
                command
            }
        };
        // A server that inherited our pipe would hold it open.
        let piped = program != "pg_ctl";
        let output = command
            .args(arguments)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(if piped { Stdio::piped() } else { Stdio::null() })
            .stderr(if piped { Stdio::piped() } else { Stdio::null() })
            .output()
            .map_err(|e| {
                failed("a program cannot be run")
                    .with("program", program)
                    .because(e)
            })?;
        if output.status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(failed("a program failed").with("program", program).because(said))
    }

    /// Where a database is, over TCP.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its socket.
    pub fn socket(&self) -> &Path {
        self.dir.path()
    }

    /// The directory of its programs.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// The directory of its data.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        let _stopped = self.control(&["-m", "immediate", "-w", "stop"]);
    }
}

/// The directory of a version's programs.
fn programs(major: u32) -> Result<PathBuf> {
    let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    if debian.join("initdb").exists() {
        return Ok(debian);
    }
    Err(failed("this version is not installed").with("version", major))
}

/// Whom a server runs as if we are root: it refuses root.
fn other_user() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let nobody = 65_534;
    Ok(Some((nobody, nobody)))
}

fn failed(what: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("PostgreSQL for tests: {what}"))
}
