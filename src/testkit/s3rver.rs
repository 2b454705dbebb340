//! An S3 server that takes `If-None-Match` and does not heed it: s3rver from npm, on a free loopback port.

use super::seaweedfs::{BUCKET, command, place, program, reached};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Location, StoreOptions};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Child;

/// Both halves of the only key that it knows.
const KEY: &str = "S3RVER";
const START_MAX: Duration = Duration::from_secs(60);

/// A running server; killed, and its directory removed, when dropped.
pub struct S3rver {
    _child: Child,
    _dir: tempfile::TempDir,
    port: u16,
}

impl S3rver {
    /// Starts a server and waits until it listens.
    ///
    /// # Errors
    /// If the program cannot be had (`scripts/test-servers` fetches it) or does not start; never a reason to skip a test.
    pub async fn start() -> Result<Self> {
        let script = program("s3rver").await?;
        let dir = tempfile::tempdir().map_err(|e| failed("no directory").because(e))?;
        let data = dir.path().join("data");
        fs_err::create_dir(&data).map_err(|e| failed("no directory").because(e))?;
        let log = dir.path().join("log");
        let file = fs_err::File::create(&log).map_err(|e| failed("no log file").because(e))?;
        let port = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.local_addr())
            .map_err(|e| failed("no free port").because(e))?
            .port();
        let mut node = command(Path::new("node"));
        node.arg(script)
            .args(["--address", "127.0.0.1", "--configure-bucket", BUCKET])
            .arg(format!("--port={port}"))
            .arg(format!("--directory={}", data.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(file.into_parts().0))
            .kill_on_drop(true);
        let mut child = node
            .spawn()
            .map_err(|e| failed("node cannot be run").because(e))?;
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = child.try_wait().is_ok_and(|status| status.is_some());
            if ended || begun.elapsed() > START_MAX {
                let told = fs_err::read_to_string(&log).unwrap_or_default();
                return Err(failed("it does not listen").with("log", told));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self {
            _child: child,
            _dir: dir,
            port,
        })
    }

    /// A place in the bucket that is there.
    pub fn location(&self, prefix: &str) -> Location {
        place(prefix)
    }

    /// Options to read and write there.
    pub fn options(&self) -> StoreOptions {
        reached(format!("http://127.0.0.1:{}", self.port), KEY, KEY)
    }
}

fn failed(what: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("s3rver for tests: {what}"))
}
