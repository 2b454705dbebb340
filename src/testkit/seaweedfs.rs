//! A real S3 server for tests: SeaweedFS from PyPI, on free loopback ports, with a directory of its own.

use crate::error::{Error, ErrorKind, Result};
use crate::store::{Access, Location, S3Options, Secret, StoreOptions};
use http::Method;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpRequest, HttpRequestBody};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

const KEY: &str = "ciaccess";
const SECRET: &str = "cisecretcisecret";
/// Made at the start.
pub(super) const BUCKET: &str = "holdall-test";
const START_MAX: Duration = Duration::from_secs(60);

/// A running server; killed, and its directory removed, when dropped.
pub struct SeaweedFs {
    child: Child,
    dir: tempfile::TempDir,
    /// Of master, volume server, filer, S3.
    ports: [u16; 4],
}

impl SeaweedFs {
    /// Starts a server and waits until a signed put and get work.
    ///
    /// # Errors
    /// If the program cannot be had (`scripts/test-servers` fetches it) or does not start; never a reason to skip a test.
    pub async fn start() -> Result<Self> {
        let program = program("seaweedfs").await?;
        let mut last = None;
        // Another process may take a port between our look and the server's start.
        for _ in 0..3 {
            match Self::start_once(&program).await {
                Ok(server) => return Ok(server),
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| failed("it did not start")))
    }

    async fn start_once(program: &Path) -> Result<Self> {
        let dir = tempfile::tempdir().map_err(|e| failed("no directory").because(e))?;
        let config = dir.path().join("s3.json");
        let identities = format!(
            r#"{{"identities":[{{"name":"ci","credentials":[{{"accessKey":"{KEY}","secretKey":"{SECRET}"}}],"actions":["Admin","Read","Write","List","Tagging"]}},
               {{"name":"reader","credentials":[{{"accessKey":"reader","secretKey":"{SECRET}"}}],"actions":["Read:{BUCKET}","List:{BUCKET}"]}}]}}"#
        );
        fs_err::write(&config, identities).map_err(|e| failed("no configuration").because(e))?;
        let log =
            fs_err::File::create(dir.path().join("log")).map_err(|e| failed("no log file").because(e))?;
        let ports = ports()?;
        let [master, volume, filer, s3] = ports;
        let mut command = command(program);
        command
            .arg("-logtostderr=true")
            .arg("server")
            .arg(format!("-dir={}", dir.path().display()))
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
            .arg(format!("-master.port={master}"))
            .arg(format!("-volume.port={volume}"))
            .args([
                "-volume.max=0",
                "-master.volumeSizeLimitMB=64",
                "-master.telemetry=false",
            ])
            .arg("-filer")
            .arg(format!("-filer.port={filer}"))
            .arg("-s3")
            .arg(format!("-s3.port={s3}"))
            .arg(format!("-s3.config={}", config.display()))
            .args([
                "-s3.iam=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-s3.autoCreateBucket=false",
            ])
            .args(["-master.electionTimeout=1s", "-master.heartbeatInterval=100ms"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log.into_parts().0))
            .kill_on_drop(true);
        let child = command
            .spawn()
            .map_err(|e| failed("it cannot be run").because(e))?;
        let mut server = Self { child, dir, ports };
        server.wait().await?;
        Ok(server)
    }

    /// Waits for a bucket, then for an object in it.
    async fn wait(&mut self) -> Result<()> {
        let begun = Instant::now();
        let steps: [(Method, &str, &'static [u8]); 3] = [
            (Method::PUT, BUCKET, b""),
            (Method::PUT, "holdall-test/ready", b"yes"),
            (Method::GET, "holdall-test/ready", b""),
        ];
        for (method, path, body) in steps {
            loop {
                match self.request(method.clone(), path, body).await {
                    Ok(200 | 409) => break,
                    _ if begun.elapsed() > START_MAX => {
                        return Err(failed("no answer").with("log", self.log()));
                    }
                    _ => tokio::time::sleep(Duration::from_millis(100)).await,
                }
                if let Ok(Some(status)) = self.child.try_wait() {
                    return Err(failed("it ended").with("status", status).with("log", self.log()));
                }
            }
        }
        self.request(Method::DELETE, "holdall-test/ready", b"").await?;
        Ok(())
    }

    /// A signed request; gives the status.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn request(&self, method: Method, path: &str, body: &'static [u8]) -> Result<u16> {
        let credential = AwsCredential {
            key_id: KEY.into(),
            secret_key: SECRET.into(),
            token: None,
        };
        let url = format!("{}/{path}", self.endpoint());
        let mut request: HttpRequest = http::Request::builder()
            .method(method)
            .uri(&url)
            .body(HttpRequestBody::from(bytes::Bytes::from_static(body)))
            .map_err(|e| failed("not a request").because(e))?;
        AwsAuthorizer::new(&credential, "s3", "us-east-1")
            .try_authorize(&mut request, None)
            .map_err(|e| failed("not signed").because(e))?;
        let (parts, _) = request.into_parts();
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .map_err(|e| failed("no client").because(e))?;
        let answer = client
            .request(parts.method, url)
            .headers(parts.headers)
            .body(body)
            .send()
            .await
            .map_err(|e| failed("no answer").because(e))?;
        Ok(answer.status().as_u16())
    }

    fn log(&self) -> String {
        let text = fs_err::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(20).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// The S3 address.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[3]))
    }

    /// The S3 endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// A place in the bucket that is there.
    pub fn location(&self, prefix: &str) -> Location {
        place(prefix)
    }

    /// Options to read and write there.
    pub fn options(&self) -> StoreOptions {
        reached(self.endpoint(), KEY, SECRET)
    }

    /// Options with a key that the server lets read and list only.
    pub fn reader_options(&self) -> StoreOptions {
        let mut options = self.options();
        options.s3.access_key_id = Some("reader".into());
        options
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        // It has no quick way to stop in order, and leaves sockets behind when killed.
        let _ = self.child.start_kill();
        for (name, port) in ["master", "volume", "filer", "s3"].iter().zip(self.ports) {
            for socket in [format!("{name}-grpc-{}", port + 10_000), format!("{name}-{port}")] {
                let _ = std::fs::remove_file(format!("/tmp/seaweedfs-{socket}.sock"));
            }
        }
    }
}

/// A place in the bucket of a server for tests.
pub(super) fn place(prefix: &str) -> Location {
    Location::S3 {
        bucket: BUCKET.into(),
        prefix: prefix.into(),
    }
}

/// Options to read and write at a server for tests.
pub(super) fn reached(endpoint: String, key: &str, secret: &str) -> StoreOptions {
    StoreOptions {
        access: Access::ReadWrite,
        s3: S3Options {
            endpoint: Some(endpoint),
            access_key_id: Some(key.into()),
            secret_access_key: Some(Secret::new(secret)),
            ..S3Options::default()
        },
        ..StoreOptions::default()
    }
}

fn failed(what: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("SeaweedFS for tests: {what}"))
}

/// Has the script print where the program is; it fetches it the first time.
pub(super) async fn program(name: &str) -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/test-servers");
    let output = Command::new(&script)
        .arg(name)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|e| failed("scripts/test-servers cannot be run").because(e))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(failed("scripts/test-servers failed").because(why));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// The server dies with the test, even one that is killed, where `setpriv` can arrange that.
pub(super) fn command(program: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if setpriv.exists() {
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "KILL"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

/// Four free ports whose neighbours 10,000 higher, which the server takes for gRPC, are free too.
fn ports() -> Result<[u16; 4]> {
    let mut seed = [0; 2];
    getrandom::fill(&mut seed).map_err(|e| failed(&e.to_string()))?;
    let start = 20_000 + u16::from_le_bytes(seed) % 20_000;
    let mut held = Vec::new();
    let mut found = Vec::new();
    for port in (start..=45_000).chain(15_000..start) {
        let bind = |port| TcpListener::bind(("127.0.0.1", port));
        if let (Ok(a), Ok(b)) = (bind(port), bind(port + 10_000)) {
            held.push((a, b));
            found.push(port);
        }
        if let Ok(ports) = found.clone().try_into() {
            return Ok(ports);
        }
    }
    Err(failed("no free ports"))
}
