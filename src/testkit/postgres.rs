//! Real PostgreSQL servers for tests: each in a directory of its own, on a socket there and a free loopback port, run by a user that
//! is not root. A server ends with the process of the test, even one that is killed.

#![expect(clippy::disallowed_methods, reason = "these children are the tests' own")]

use crate::connector::postgres::connect::{Server, Surroundings};
use crate::error::{Error, ErrorKind, Result};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a server may take to start, recovery included.
const START_MAX: Duration = Duration::from_secs(60);
/// How long its orphans may take to end after it was killed.
const ORPHANS_MAX: Duration = Duration::from_secs(20);

/// A running server; stopped, and its directory removed, when dropped. It trusts everyone who reaches it, until [`Self::admit`] says
/// otherwise.
pub struct PostgresServer {
    programs: PathBuf,
    dir: tempfile::TempDir,
    port: u16,
    child: Mutex<Option<Child>>,
}

impl PostgresServer {
    /// Starts a server of a major version (14 to 18), with more lines for `postgresql.conf`. Of 14 only the server's own programs
    /// are to be had; 16 and 18 are built without TLS.
    ///
    /// # Errors
    /// If the version cannot be had (`scripts/test-servers` fetches it) or does not start; never a reason to skip a test.
    pub fn start(major: u32, settings: &str) -> Result<Self> {
        let programs = programs(major)?;
        let mut last = None;
        // Another process may take a port between our look and the server's start.
        for _ in 0..3 {
            let server = Self::initialize(&programs, settings)?;
            match server.launch() {
                Ok(()) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| failed("it did not start")))
    }

    fn initialize(programs: &Path, settings: &str) -> Result<Self> {
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
        let server = Self {
            programs: programs.to_owned(),
            dir,
            port,
            child: Mutex::new(None),
        };
        let data = server.data();
        fs_err::create_dir(&data).map_err(|e| failed("no directory").because(e))?;
        for dir in [server.dir.path(), &data] {
            own(dir)?;
        }
        let data_name = data.display().to_string();
        let arguments = [
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ];
        server.run("initdb", &[&["-D", &data_name], &arguments[..]].concat())?;
        server.append(&format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nfsync = off\n\
             full_page_writes = off\nmax_connections = 50\n{settings}\n",
            server.socket().display(),
        ))?;
        Ok(server)
    }

    /// Starts the server's process and waits until it takes connections.
    fn launch(&self) -> Result<()> {
        let begun = Instant::now();
        while !self.launch_once(begun)? {
            if begun.elapsed() > ORPHANS_MAX {
                return Err(failed("processes of its former life do not end").with("log", self.log_tail()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// False if processes of a server that was killed still hold its memory.
    fn launch_once(&self, begun: Instant) -> Result<bool> {
        let log = self.log_length();
        let mut child = spawn(self.server_command()?)?;
        let pid = child.id().to_string();
        let ready = |text: &str| {
            text.lines().next() == Some(&pid)
                && text.lines().nth(7).is_some_and(|state| state.trim() == "ready")
        };
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                let text = fs_err::read(self.log()).unwrap_or_default();
                let text = String::from_utf8_lossy(text.get(log..).unwrap_or_default()).into_owned();
                if text.contains("pre-existing shared memory block") || text.contains("lock file \"") {
                    return Ok(false);
                }
                return Err(failed("it ended").with("status", status).with("log", text));
            }
            // What `pg_ctl -w start` looks at.
            if fs_err::read_to_string(self.data().join("postmaster.pid")).is_ok_and(|text| ready(&text)) {
                *self.child() = Some(child);
                return Ok(true);
            }
            if begun.elapsed() > START_MAX {
                let _killed = child.kill();
                let _status = child.wait();
                return Err(failed("no answer").with("log", self.log_tail()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The server's process: ended at once, but in order, when the process of the test ends.
    fn server_command(&self) -> Result<Command> {
        let log = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .map_err(|e| failed("no log").because(e))?;
        let log = log.into_parts().0;
        let again = log.try_clone().map_err(|e| failed("no log").because(e))?;
        let mut command = self.command("postgres", true)?;
        command
            .arg("-D")
            .arg(self.data())
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(again));
        Ok(command)
    }

    /// Does what `pg_ctl` does with its data: `["-m", "immediate", "stop"]`, `["start"]`, `["restart"]`, `["reload"]`. A start waits
    /// for the server.
    ///
    /// # Errors
    /// If it fails; with the end of the server's log.
    pub fn control(&self, arguments: &[&str]) -> Result<()> {
        let has = |verb: &str| arguments.contains(&verb);
        if has("start") {
            return self.launch();
        }
        if has("restart") {
            self.stop("fast")?;
            return self.launch();
        }
        let data = self.data().display().to_string();
        let all = [&["-D", &data], arguments].concat();
        self.run("pg_ctl", &all)
            .map_err(|error| error.with("log", self.log_tail()))?;
        if has("stop") && !has("-W") {
            self.wait_for_end();
        }
        Ok(())
    }

    /// Stops it: `smart`, `fast` or `immediate`. [`Self::control`] with `["start"]` starts it again on the same port.
    ///
    /// # Errors
    /// If it does not stop.
    pub fn stop(&self, mode: &str) -> Result<()> {
        self.control(&["-w", "-m", mode, "stop"])
    }

    /// Stops it in order, and starts it again on the same port.
    ///
    /// # Errors
    /// If it does not stop, or does not start.
    pub fn restart(&self) -> Result<()> {
        self.control(&["restart"])
    }

    /// Kills its main process, as a machine that loses power does to it; the others end when they notice.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&self) -> Result<()> {
        let mut child = self.child();
        let running = child.as_mut().ok_or_else(|| failed("it does not run"))?;
        running.kill().map_err(|e| failed("kill").because(e))?;
        drop(child);
        self.wait_for_end();
        Ok(())
    }

    fn wait_for_end(&self) {
        if let Some(mut child) = self.child().take() {
            let _status = child.wait();
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds lines to `postgresql.conf` and has the server read it; what needs a restart needs [`Self::restart`].
    ///
    /// # Errors
    /// If it cannot be written or is not taken.
    pub fn configure(&self, lines: &str) -> Result<()> {
        self.append(lines)?;
        self.reload()
    }

    /// Replaces `pg_hba.conf` by these lines and has the server read it. The superuser `postgres` keeps the way by the socket, which
    /// [`Self::psql`] takes.
    ///
    /// # Errors
    /// If it cannot be written or is not taken.
    pub fn admit(&self, lines: &str) -> Result<()> {
        let text = format!("local all postgres trust\n{lines}\n");
        fs_err::write(self.data().join("pg_hba.conf"), text).map_err(|e| failed("pg_hba.conf").because(e))?;
        self.reload()
    }

    /// Has the server read its configuration, and waits until it did.
    fn reload(&self) -> Result<()> {
        let when = || self.psql("postgres", "SELECT pg_conf_load_time()");
        let before = when()?;
        let begun = Instant::now();
        self.control(&["reload"])?;
        while when()? == before {
            if begun.elapsed() > START_MAX {
                return Err(failed("the configuration is not read").with("log", self.log_tail()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn append(&self, lines: &str) -> Result<()> {
        let file = self.data().join("postgresql.conf");
        let text = fs_err::read_to_string(&file).map_err(|e| failed("no configuration").because(e))?;
        fs_err::write(&file, text + lines + "\n").map_err(|e| failed("no configuration").because(e))
    }

    /// Writes a file into the directory of its data that only its user can read: a key, a certificate. Gives its path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn install(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.data().join(name);
        fs_err::write(&path, content).map_err(|e| failed("no file").because(e))?;
        let mode = std::fs::Permissions::from_mode(0o600);
        fs_err::set_permissions(&path, mode).map_err(|e| failed("no file").because(e))?;
        own(&path)?;
        Ok(path)
    }

    /// Runs SQL with `psql` in a database, as superuser and by the socket, stopping at the first error; gives what it printed,
    /// unaligned and without headers.
    ///
    /// # Errors
    /// If a statement fails.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let (socket, port) = (self.socket().display().to_string(), self.port.to_string());
        let place = ["-h", &socket, "-p", &port, "-U", "postgres", "-d", database];
        let arguments = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql];
        let output = self.run("psql", &[&arguments[..], &place].concat())?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs one of its programs, as the user of the server; the newest of Debian's where this version comes without it.
    ///
    /// # Errors
    /// If it does not end well; with what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        // A server that inherited our pipe would hold it open.
        let piped = program != "pg_ctl";
        let output = self
            .command(program, false)?
            .args(arguments)
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

    /// A program as the user of the server; with `bound` it is ended by SIGQUIT with the process of the test.
    fn command(&self, program: &str, bound: bool) -> Result<Command> {
        let program = self.program(program)?;
        let mut command = run_as_server(&program, bound);
        command
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        Ok(command)
    }

    fn program(&self, name: &str) -> Result<PathBuf> {
        let own = self.programs.join(name);
        if own.exists() {
            return Ok(own);
        }
        let debian = (12..=30)
            .rev()
            .map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin/{name}")));
        debian
            .into_iter()
            .find(|path| path.exists())
            .ok_or_else(|| failed("no such program").with("program", name))
    }

    /// Where a database is, over TCP, for the superuser.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// A database of it, as the superuser.
    ///
    /// # Errors
    /// Never in practice.
    pub fn server(&self, database: &str) -> Result<Server> {
        Server::parse(&self.url(database), &Surroundings::default())
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

    fn log_length(&self) -> usize {
        fs_err::metadata(self.log()).map_or(0, |data| usize::try_from(data.len()).unwrap_or(usize::MAX))
    }

    /// The end of the server's log.
    pub fn log_tail(&self) -> String {
        let text = fs_err::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let tail: Vec<&str> = text.lines().rev().take(10).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if self.child().is_some() {
            let _stopped = self.stop("immediate");
        }
        if let Some(mut child) = self.child().take() {
            let _killed = child.kill();
            let _status = child.wait();
        }
    }
}

/// A program as the user that servers run as; with `bound` it gets SIGQUIT when the process that started it ends, if `setpriv` is
/// there to arrange that.
pub(super) fn run_as_server(program: &Path, bound: bool) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.exists() {
        return Command::new(program);
    }
    let mut command = Command::new(setpriv);
    if let Some((uid, gid)) = other_user() {
        command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
        command.arg("--clear-groups");
    }
    if bound {
        command.args(["--pdeathsig", "QUIT"]);
    }
    command.arg(program);
    command
}

/// Starts a process from a thread that lives as long as this process: the signal at a parent's death is sent when the thread ends that
/// started the child, and threads of tests end early.
pub(super) fn spawn(command: Command) -> Result<Child> {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static STARTER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, taken) = channel::<Order>();
        let _detached = std::thread::Builder::new().name("servers".into()).spawn(move || {
            for (mut command, answer) in taken {
                let _gone = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, child) = channel();
    let gone = || failed("no thread to start it");
    starter
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .map_err(|_| gone())?;
    child
        .recv()
        .map_err(|_| gone())?
        .map_err(|e| failed("it cannot be run").because(e))
}

/// The directory of a version's programs; the script fetches it the first time.
fn programs(major: u32) -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/test-servers");
    let output = Command::new(&script)
        .args(["postgres", &major.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failed("scripts/test-servers cannot be run").because(e))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(failed("scripts/test-servers failed")
            .with("version", major)
            .because(why));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Whom a server runs as if we are root: it refuses root.
fn other_user() -> Option<(u32, u32)> {
    let nobody = 65_534;
    rustix::process::geteuid().is_root().then_some((nobody, nobody))
}

/// Gives a file to the user that servers run as.
pub(super) fn own(path: &Path) -> Result<()> {
    let Some((uid, gid)) = other_user() else {
        return Ok(());
    };
    chown(path, Some(uid), Some(gid)).map_err(|e| failed("chown").because(e))
}

fn failed(what: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("PostgreSQL for tests: {what}"))
}
