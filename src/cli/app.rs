//! One run of the program: arguments, runtime, signals, the command, and how it ended.

use super::args::{Cli, Command, Globals, When};
use super::command;
use super::exit::{DONE, Ended, Failure, USAGE, code_and_hint};
use super::render::{self, Progress};
use super::signal::{self, Interrupted};
use super::{environment, parse};
use crate::context::{BUDGET_DEFAULT, Context};
use crate::error::{Error, ErrorKind, Result};
use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

/// What commands are given.
pub(super) struct App {
    /// The flags of all commands.
    pub(super) globals: Globals,
    /// For `ops`.
    pub(super) context: Context,
    /// What is shown while work goes on.
    pub(super) progress: Arc<Progress>,
}

impl App {
    /// Tells something that is worth knowing, unless only errors are wanted.
    pub(super) fn note(&self, text: &str) {
        if !self.globals.quiet {
            self.progress.aside(|| render::note(text));
        }
    }

    /// Tells that something is missing or wrong.
    pub(super) fn warning(&self, text: &str) {
        self.progress.aside(|| render::warning(text));
    }

    /// Whether results are wanted as JSON.
    pub(super) fn json(&self) -> bool {
        self.globals.json
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    // Keys are in memory: no dump of it may reach a disk.
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Core,
        rustix::process::Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let json = arguments
        .iter()
        .skip(1)
        .take_while(|a| *a != "--")
        .any(|a| a == "--json");
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, json),
    };
    render::set_json(cli.globals.json);
    render::set_color(match cli.globals.color {
        When::Always => Some(true),
        When::Never => Some(false),
        When::Auto => None,
    });
    ExitCode::from(run(cli))
}

/// Help, the version, or wrong usage.
fn usage(error: &clap::Error, json: bool) -> ExitCode {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    if json {
        let text = error.to_string();
        // All that clap says but how the command is used.
        let said = text.lines().take_while(|line| !line.starts_with("Usage:"));
        let said = said
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("; ");
        let said = said.strip_prefix("error: ").unwrap_or(&said);
        render::exit_error(said, code_and_hint(ErrorKind::Invalid).1, USAGE);
    } else {
        // Nothing is left to be done if even this cannot be printed.
        let _ = error.print();
    }
    ExitCode::from(USAGE)
}

fn run(cli: Cli) -> u8 {
    let json = cli.globals.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = Error::new(ErrorKind::Internal, "cannot start the runtime").because(error);
            return failed(&error, json, &Interrupted::default());
        }
    };
    let code = runtime.block_on(async {
        let (app, interrupted) = match begin(cli.globals) {
            Ok(begun) => begun,
            Err(error) => return failed(&error, json, &Interrupted::default()),
        };
        // Boxed: the futures of commands are large, and the main thread's stack is not.
        let ended = Box::pin(dispatch(&app, cli.command)).await;
        app.progress.end();
        match ended {
            Ok(code) => code,
            Err(Failure::PipeClosed) => DONE,
            Err(Failure::Error(error)) => failed(&error, json, &interrupted),
        }
    });
    // A thread may wait for standard input for ever.
    runtime.shutdown_background();
    code
}

fn begin(globals: Globals) -> Result<(App, Interrupted)> {
    let fps = environment::text("HOLDALL_PROGRESS_FPS")?;
    let fps = match fps.map(|text| text.parse::<f64>()) {
        None => None,
        Some(Ok(fps)) if fps > 0.0 && fps <= 60.0 => Some(fps),
        Some(_) => {
            return Err(Error::new(
                ErrorKind::Invalid,
                "HOLDALL_PROGRESS_FPS is not a number between 0 and 60",
            ));
        }
    };
    let progress = Arc::new(Progress::new(&globals, fps));
    let memory = match globals.memory {
        Some(bytes) => bytes,
        None => match environment::text("HOLDALL_MEMORY")? {
            Some(text) => parse::bytes(&text)
                .map_err(|why| Error::new(ErrorKind::Invalid, format!("HOLDALL_MEMORY: {why}")))?,
            None => BUDGET_DEFAULT,
        },
    };
    let context = Context::new(progress.clone(), memory, globals.threads)?;
    let interrupted = signal::listen(&context, globals.quiet)?;
    Progress::keep_going(&progress)?;
    let app = App {
        globals,
        context,
        progress,
    };
    Ok((app, interrupted))
}

async fn dispatch(app: &App, command: Command) -> Ended {
    match command {
        Command::Init(args) => command::init::run(app, args).await,
        Command::Snapshot(args) => command::snapshot::run(app, *args).await,
        Command::List(args) => command::list::run(app, args).await,
        Command::Ls(args) => command::ls::run(app, args).await,
        Command::Cat(args) => command::cat::run(app, args).await,
        Command::Find(args) => command::find::run(app, args).await,
        Command::Diff(args) => command::diff::run(app, args).await,
        Command::Restore(args) => command::restore::run(app, args).await,
        Command::Check(args) => command::check::run(app, args).await,
        Command::Status(args) => command::status::run(app, args).await,
        Command::Doctor(args) => command::doctor::run(app, args).await,
        Command::Stats(args) => command::stats::run(app, args).await,
        Command::Forget(args) => command::forget::run(app, *args).await,
        Command::Prune(args) => command::prune::run(app, args).await,
        Command::Copy(args) => command::copy::run(app, args).await,
        Command::Repair(args) => command::repair::run(app, args).await,
        Command::Tag(args) => command::tag::run(app, args).await,
        Command::Protect(args) => command::tag::protect(app, args, true).await,
        Command::Unprotect(args) => command::tag::protect(app, args, false).await,
        Command::Key(args) => command::key::run(app, args).await,
        Command::Demo(args) => command::demo::run(app, args).await,
        Command::Completions(args) => command::completions::run(&args),
        Command::Man(args) => command::man::run(&args),
    }
}

/// Shows why the program failed and gives its exit code.
fn failed(error: &Error, json: bool, interrupted: &Interrupted) -> u8 {
    let (mut code, hint) = code_and_hint(error.kind());
    if error.kind() == ErrorKind::Cancelled {
        code = interrupted.code();
    }
    let hint = error.advice().or(hint);
    if json {
        let mut message = error.to_string();
        for cause in error.causes() {
            message.push_str(": ");
            message.push_str(&cause);
        }
        render::exit_error(&message, hint, code);
    } else {
        render::error(error, hint);
    }
    code
}
