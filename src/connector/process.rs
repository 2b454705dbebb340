//! Child processes: started without a shell, watched to their end, killed when nobody waits for them any more.

mod effort;

pub use effort::Effort;

use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use effort::Doing;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::process::Stdio;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::task::JoinSet;

/// Environment variables that hold secrets of ours, or lead to them; no child is given them.
pub const SECRETS: [&str; 18] = [
    "HOLDALL_PASSWORD",
    "HOLDALL_PASSWORD_FILE",
    "HOLDALL_PASSWORD_COMMAND",
    "HOLDALL_KEY_FILE",
    "HOLDALL_RECOVERY_PHRASE",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECRET_ACCESS_KEY_FILE",
    "AWS_SESSION_TOKEN",
    "AWS_SESSION_TOKEN_FILE",
    "HOLDALL_COPY_PASSWORD",
    "HOLDALL_COPY_PASSWORD_FILE",
    "HOLDALL_COPY_PASSWORD_COMMAND",
    "HOLDALL_COPY_KEY_FILE",
    "HOLDALL_COPY_SECRET_ACCESS_KEY",
    "HOLDALL_COPY_SECRET_ACCESS_KEY_FILE",
    "HOLDALL_COPY_SESSION_TOKEN",
    "HOLDALL_COPY_SESSION_TOKEN_FILE",
    "CREDENTIALS_DIRECTORY",
];
/// Lines of a child's standard error that an error quotes, and how much of each.
const TAIL_LINES: usize = 10;
const LINE_MAX: u64 = 1024;

/// A child whose standard output is read. Its standard input is empty; what it writes to standard error becomes notes.
pub(crate) struct Running {
    program: String,
    child: Child,
    stdout: Option<ChildStdout>,
    stderr: JoinSet<VecDeque<String>>,
    doing: Option<Doing>,
}

/// How the environment of a child differs from ours, beside [`SECRETS`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Environment<'a> {
    /// Variables that it is not given.
    pub(crate) remove: &'a [&'a str],
    /// Variables that it is given.
    pub(crate) set: &'a [(OsString, OsString)],
}

/// Starts `argv`. No message ever holds more of it than the program's name: arguments may hold secrets.
///
/// # Errors
/// `Invalid` for an empty `argv`, `Source` if it cannot be started.
pub(crate) fn start(context: &Context, argv: &[OsString], environment: &Environment<'_>) -> Result<Running> {
    let [program, arguments @ ..] = argv else {
        return Err(Error::new(ErrorKind::Invalid, "no command to run"));
    };
    let name = program.to_string_lossy().into_owned();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for name in SECRETS.iter().chain(environment.remove) {
        command.env_remove(name);
    }
    command.envs(environment.set.iter().map(|(name, value)| (name, value)));
    let mut child = command.spawn().map_err(|error| {
        Error::new(ErrorKind::Source, "cannot start a command")
            .with("program", &name)
            .because(error)
    })?;
    let mut stderr = JoinSet::new();
    if let Some(pipe) = child.stderr.take() {
        stderr.spawn(listen(context.clone(), name.clone(), pipe));
    }
    Ok(Running {
        program: name,
        stdout: child.stdout.take(),
        child,
        stderr,
        doing: None,
    })
}

impl Running {
    /// Has what it does counted, until it ends.
    pub(crate) fn count_in(mut self, effort: &Effort) -> Self {
        self.doing = Some(effort.count(self.child.id()));
        self
    }

    /// So many bytes of its standard output were read.
    pub(crate) fn wrote(&self, bytes: usize) {
        if let Some(doing) = &self.doing {
            doing.wrote(bytes);
        }
    }

    /// Its standard output; gives it once.
    pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
        self.stdout.take()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// `Source` unless it exits with status 0; the message names the program, the status and its last lines.
    pub(crate) async fn wait(mut self) -> Result<()> {
        let failed = |what: &str| Error::new(ErrorKind::Source, what).with("program", &self.program);
        let status = self
            .child
            .wait()
            .await
            .map_err(|error| failed("cannot wait for a command").because(error))?;
        // A grandchild may hold the pipe open for ever; what the child itself said is there by now.
        let patience = std::time::Duration::from_secs(2);
        let tail = match tokio::time::timeout(patience, self.stderr.join_next()).await {
            Ok(Some(Ok(tail))) => tail,
            _ => VecDeque::new(),
        };
        if status.success() {
            return Ok(());
        }
        let error = failed("a command failed; nothing is kept").with("ended with", status);
        if tail.is_empty() {
            return Err(error);
        }
        let said: Vec<_> = tail.into_iter().collect();
        Err(error.because(format!("its last words: {}", said.join(" | "))))
    }
}

/// Turns lines of standard error into notes, and keeps the last.
async fn listen(context: Context, program: String, pipe: ChildStderr) -> VecDeque<String> {
    let mut tail = VecDeque::new();
    let mut reader = BufReader::new(pipe);
    while let Some(line) = next_line(&mut reader).await {
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        context.emit(&Event::Note {
            text: format!("{program}: {line}"),
        });
        tail.push_back(line);
    }
    tail
}

/// The next line, its first [`LINE_MAX`] bytes; nothing at the end, or when the pipe breaks.
async fn next_line(reader: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut line = Vec::new();
    loop {
        let chunk = reader.fill_buf().await.ok()?;
        if chunk.is_empty() && line.is_empty() {
            return None;
        }
        let end = chunk.iter().position(|b| *b == b'\n');
        let room = usize::try_from(LINE_MAX).unwrap_or(0).saturating_sub(line.len());
        let part = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        line.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
        let done = end.is_some() || chunk.is_empty();
        let used = end.map_or(chunk.len(), |e| e + 1);
        reader.consume(used);
        if done {
            return Some(String::from_utf8_lossy(&line).into_owned());
        }
    }
}
