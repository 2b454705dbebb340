//! The demo's own PostgreSQL server: in a directory of its own, reached by a socket in it, never by the network.

use super::children::{Children, to_the_end};
use crate::cli::environment;
use crate::error::{Error, ErrorKind, Result};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

/// The programs of PostgreSQL: where the user says, else the newest of Debian's places, else wherever `initdb` is in PATH.
///
/// # Errors
/// `Unsupported` if there is none, with how to install it.
pub(super) fn find_binaries(given: Option<&Path>) -> Result<PathBuf> {
    let complete = |dir: &Path| {
        ["initdb", "pg_ctl", "psql", "pg_dump", "createdb"]
            .iter()
            .all(|p| dir.join(p).is_file())
    };
    if let Some(dir) = given {
        return if complete(dir) {
            Ok(dir.to_path_buf())
        } else {
            Err(
                Error::new(ErrorKind::NotFound, "the programs of PostgreSQL are not here")
                    .with("path", dir.display()),
            )
        };
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
        .filter(|(_, dir)| complete(dir))
        .collect();
    versions.sort();
    if let Some((_, newest)) = versions.pop() {
        return Ok(newest);
    }
    let path = environment::variable("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).find(|dir| complete(dir));
    found.ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "PostgreSQL is not installed: the demo needs initdb, pg_ctl, psql and pg_dump",
        )
        .hint("apt-get install postgresql (or scripts/demo, which does it), or --postgres-bin DIR")
    })
}

/// A server.
pub(super) struct Cluster {
    children: Children,
    data: PathBuf,
    started: bool,
}

impl Cluster {
    /// A server that will keep its data in `data`.
    pub(super) fn new(children: Children, data: PathBuf) -> Self {
        Self {
            children,
            data,
            started: false,
        }
    }

    /// Makes and starts it.
    ///
    /// # Errors
    /// `Source` if a program fails, `Cancelled`.
    pub(super) async fn start(&mut self) -> Result<()> {
        let data = self.data.display().to_string();
        let failed = |e: std::io::Error| {
            Error::new(ErrorKind::Source, "cannot prepare the server's directory").because(e)
        };
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&self.data)
            .map_err(failed)?;
        if let Some((uid, gid)) = self.children.server_user() {
            chown(&self.data, Some(uid), Some(gid)).map_err(failed)?;
        }
        let arguments = [
            "-D",
            &data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ];
        self.children
            .run(self.children.as_server("initdb", &arguments))
            .await?;
        // Holdall takes over only what a server keeps across a crash, so this one writes as real ones do: fsync stays on.
        let settings = format!(
            "\nlisten_addresses = ''\nport = 5432\nunix_socket_directories = '{}'\nsynchronous_commit = off\n\
             max_wal_size = '4GB'\nwal_level = minimal\nmax_wal_senders = 0\nautovacuum = off\n\
             shared_buffers = '128MB'\nmaintenance_work_mem = '128MB'\n",
            self.children.socket().display().to_string().replace('\'', "''")
        );
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(self.data.join("postgresql.conf"))
            .map_err(failed)?;
        file.write_all(settings.as_bytes()).map_err(failed)?;
        self.started = true;
        let log = self.data.join("server.log").display().to_string();
        // The server inherits nothing of ours that it could hold open: its output goes to the log.
        let mut start = self
            .children
            .as_server("pg_ctl", &["-D", &data, "-l", &log, "-w", "-t", "60", "start"]);
        start
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        self.children.run(start).await.map_err(|error| {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            match log.lines().last() {
                Some(last) => error.with("server log", last),
                None => error,
            }
        })?;
        Ok(())
    }

    /// Stops it, whether or not the demo was interrupted.
    ///
    /// # Errors
    /// `Source` if it does not stop.
    pub(super) async fn stop(&mut self) -> Result<()> {
        if !self.started || !self.data.join("postmaster.pid").exists() {
            return Ok(());
        }
        self.started = false;
        let data = self.data.display().to_string();
        let stop = self
            .children
            .as_server("pg_ctl", &["-D", &data, "-m", "immediate", "-w", "stop"]);
        to_the_end(stop).await.map(drop)
    }
}
