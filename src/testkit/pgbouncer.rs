//! A real pooler for tests: Debian's PgBouncer in front of a [`PostgresServer`], on a free loopback port.

use super::postgres::{PostgresServer, own, run_as_server, spawn};
use crate::error::{Error, ErrorKind, Result};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const START_MAX: Duration = Duration::from_secs(20);

/// A running pooler; killed, and its directory removed, when dropped.
pub struct PgBouncer {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

impl PgBouncer {
    /// Starts a pooler: `mode` is `transaction` or `session`, `size` how many connections it opens to the server.
    ///
    /// # Errors
    /// If it is not installed (`apt-get install pgbouncer`) or does not start.
    pub fn start(server: &PostgresServer, mode: &str, size: u32) -> Result<Self> {
        Self::start_with(server, mode, size, "")
    }

    /// As [`Self::start`], with further lines of configuration.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(server: &PostgresServer, mode: &str, size: u32, lines: &str) -> Result<Self> {
        let program = Path::new("/usr/sbin/pgbouncer");
        if !program.exists() {
            return Err(failed("it is not installed").hint("apt-get install pgbouncer"));
        }
        let dir = tempfile::Builder::new()
            .prefix("pgbouncer-")
            .tempdir()
            .map_err(|e| failed("no directory").because(e))?;
        let mode_of_dir = std::fs::Permissions::from_mode(0o755);
        fs_err::set_permissions(dir.path(), mode_of_dir).map_err(|e| failed("no directory").because(e))?;
        own(dir.path())?;
        let port = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.local_addr())
            .map_err(|e| failed("no free port").because(e))?
            .port();
        let config = dir.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = {size}\n{lines}\n",
            server.port()
        );
        fs_err::write(&config, text).map_err(|e| failed("no configuration").because(e))?;
        let log = fs_err::File::create(dir.path().join("log")).map_err(|e| failed("no log").because(e))?;
        let mut command = run_as_server(program, true);
        command
            .arg(&config)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log.into_parts().0));
        let mut pooler = Self {
            child: spawn(command)?,
            dir,
            port,
        };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if begun.elapsed() > START_MAX || pooler.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                let log = fs_err::read_to_string(pooler.dir.path().join("log")).unwrap_or_default();
                return Err(failed("it did not start").with("log", log));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(pooler)
    }

    /// Where a database is, through the pooler.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

fn failed(what: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("PgBouncer for tests: {what}"))
}
