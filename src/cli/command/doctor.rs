//! `holdall doctor`.

mod surroundings;

use super::snapshot::environment_url;
use crate::cli::app::App;
use crate::cli::exit::{DONE, Ended, OVERDUE, code_and_hint, reported};
use crate::cli::render;
use crate::cli::repo::{self, Access};
use crate::cli::{environment, parse};
use crate::connector::postgres::connect::Server;
use crate::connector::postgres::dump::PgDump;
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{self, Diagnosis, DoctorRequest, Level};
use crate::store::Location;
use serde_json::json;
use std::path::Path;

/// Free space below which a disk is told: a twentieth of it, but no less than the first of these bytes and no more than the second, for
/// a twentieth of a large disk is room for many snapshots.
const FREE_MIN: (u64, u64) = (1 << 30, 10 << 30);

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall doctor\n  \
    holdall doctor --max-age 26h\n  \
    holdall doctor --json | jq -r 'select(.level == \"failure\") | .fix'\n\n\
    Looks at variables and files of secrets, the store and what it can do, keys, clocks, the repository (quickly: `holdall check` proves \
    it), the cache, free space, pg_dump, and the database that HOLDALL_DB_URL names. Everything found comes with what to do. Exit code \
    4 if something is a warning or a failure. Small objects are put into the store and deleted again, if the credentials allow it.")]
pub(in crate::cli) struct Args {
    /// A project without a complete snapshot for so long is overdue (26h, 8d)
    #[arg(long, value_name = "AGE", value_parser = parse::seconds)]
    max_age: Option<u64>,
    /// Show only what needs somebody
    #[arg(long)]
    problems: bool,
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let mut all = vec![Diagnosis::good(
        "program",
        format!("holdall {}", env!("CARGO_PKG_VERSION")),
    )];
    all.extend(surroundings::look(&app.globals));
    all.extend(repository(app, args.max_age).await?);
    all.extend(cache(app));
    all.extend(databases(app).await?);
    app.progress.end();
    let worst = all.iter().map(|one| one.level).max().unwrap_or(Level::Good);
    let code = if worst >= Level::Warning { OVERDUE } else { DONE };
    let shown = all.iter().filter(|one| !args.problems || one.level > Level::Good);
    let shown: Vec<&Diagnosis> = shown.collect();
    let told = if app.json() {
        show_json(&shown, &all)
    } else {
        render::print(&text(&shown, &all))
    };
    reported(code, told)
}

/// Opens the repository, and looks at it if that can be done.
async fn repository(app: &App, max_age: Option<u64>) -> Result<Vec<Diagnosis>> {
    let location = match repo::location(&app.globals) {
        Ok(location) => location,
        Err(error) => return Ok(vec![of("repository", &error)]),
    };
    let mut found = Vec::new();
    if let Location::Local(directory) = &location {
        found.extend(space("store", directory));
    }
    match repo::open(app, Access::ReadWrite).await {
        Ok(repository) => {
            let id = repository.id();
            found.push(Diagnosis::good(
                "repository",
                format!("{location} can be opened (id {id})"),
            ));
            let request = DoctorRequest {
                max_age,
                local: matches!(location, Location::Local(_)),
            };
            found.extend(ops::doctor(&app.context, &repository, &request).await?);
        }
        Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
        Err(error) => found.push(of("repository", &error)),
    }
    Ok(found)
}

/// An error, with the advice that the program gives when it ends with it.
fn of(area: &'static str, error: &Error) -> Diagnosis {
    let (_, hint) = code_and_hint(error.kind());
    Diagnosis::of(area, error, hint.unwrap_or("see what the message says"))
}

/// Free space where a directory is.
fn space(area: &'static str, directory: &Path) -> Option<Diagnosis> {
    // A directory that is not there yet is told where it is opened.
    let stat = rustix::fs::statvfs(directory).ok()?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let all = stat.f_blocks.saturating_mul(stat.f_frsize);
    let told = format!("{} free where {} is", render::bytes(free), directory.display());
    if free < (all / 20).clamp(FREE_MIN.0, FREE_MIN.1) {
        let fix = match area {
            "cache" => "make room, or name another place with --cache-dir",
            _ => "make room; `holdall forget` and `holdall prune` free what is not needed any more",
        };
        return Some(Diagnosis::new(area, Level::Warning, format!("only {told}"), fix));
    }
    Some(Diagnosis::good(area, told))
}

/// Whether the cache can be used.
fn cache(app: &App) -> Vec<Diagnosis> {
    let Some(directory) = repo::cache_directory(&app.globals) else {
        return vec![Diagnosis::new(
            "cache",
            Level::Note,
            "no cache is kept: every run reads the index from the store again",
            "without --no-cache, and with a home directory or --cache-dir, it is kept",
        )];
    };
    let mut found = Vec::new();
    let made = std::fs::create_dir_all(&directory);
    let probed = made.and_then(|()| tempfile_in(&directory));
    match probed {
        Ok(()) => {
            found.push(Diagnosis::good(
                "cache",
                format!("{} can be written", directory.display()),
            ));
            found.extend(space("cache", &directory));
        }
        Err(error) => found.push(Diagnosis::new(
            "cache",
            Level::Warning,
            format!("{} cannot be written: {error}", directory.display()),
            "let this user write there, or name another place with --cache-dir",
        )),
    }
    found
}

/// Makes a file and removes it.
fn tempfile_in(directory: &Path) -> std::io::Result<()> {
    let path = directory.join(format!(".doctor-{}", std::process::id()));
    let made = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path);
    made.and_then(|_| std::fs::remove_file(&path))
}

/// The database that the environment names, and a `pg_dump` that fits it; without one, whether there is any `pg_dump`.
async fn databases(app: &App) -> Result<Vec<Diagnosis>> {
    let search = environment::program_directories();
    let url = match environment_url() {
        Ok(url) => url,
        Err(error) => return Ok(vec![of("database", &error)]),
    };
    let Some(url) = url else {
        return Ok(vec![match PgDump::find(&app.context, None, &search, 0).await {
            Ok(found) => Diagnosis::good(
                "pg_dump",
                format!("{} at {}", found.version().text, found.path().display()),
            ),
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(_) => Diagnosis::new(
                "pg_dump",
                Level::Note,
                "there is no pg_dump: databases cannot be kept from this machine",
                "install the PostgreSQL client if this machine is to keep databases (Debian: apt install postgresql-client)",
            ),
        }]);
    };
    let connected = async {
        let server = Server::parse(&url, &environment::surroundings()?)?;
        let connection = server.connect(&app.context).await?;
        Ok::<_, Error>((server.description(), connection.version()))
    };
    let (name, version) = match connected.await {
        Ok(connected) => connected,
        Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
        Err(error) => return Ok(vec![of("database", &error)]),
    };
    let told = format!(
        "{name} answers (PostgreSQL {}.{})",
        version / 10_000,
        version % 10_000
    );
    let mut found = vec![Diagnosis::good("database", told)];
    found.push(match PgDump::find(&app.context, None, &search, version).await {
        Ok(dump) => Diagnosis::good(
            "pg_dump",
            format!("{} at {}", dump.version().text, dump.path().display()),
        ),
        Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
        Err(error) => of("pg_dump", &error),
    });
    Ok(found)
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Good => "good",
        Level::Note => "note",
        Level::Warning => "warning",
        Level::Failure => "failure",
    }
}

fn count(all: &[Diagnosis], level: Level) -> u64 {
    all.iter().filter(|one| one.level == level).count() as u64
}

fn show_json(shown: &[&Diagnosis], all: &[Diagnosis]) -> std::io::Result<()> {
    for one in shown {
        render::line(&json!({
            "message_type": "diagnosis",
            "area": one.area,
            "level": word(one.level),
            "message": one.what,
            "fix": one.fix,
        }))?;
    }
    render::line(&json!({
        "message_type": "summary",
        "good": count(all, Level::Good),
        "notes": count(all, Level::Note),
        "warnings": count(all, Level::Warning),
        "failures": count(all, Level::Failure),
    }))
}

fn text(shown: &[&Diagnosis], all: &[Diagnosis]) -> String {
    let width = render::width().unwrap_or(usize::MAX);
    let mut text = String::new();
    for one in shown {
        let mark = match one.level {
            Level::Good => "  ok  ",
            Level::Note => " note ",
            Level::Warning => " WARN ",
            Level::Failure => " FAIL ",
        };
        let line = format!("{}: {}", one.area, crate::error::escape(&one.what));
        text.push_str(&format!("[{mark}] {}\n", render::wrapped(&line, width, 9)));
        if let Some(fix) = &one.fix {
            let fix = format!("→ {}", crate::error::escape(fix));
            text.push_str(&format!("         {}\n", render::wrapped(&fix, width, 11)));
        }
    }
    text.push_str(&match (count(all, Level::Warning), count(all, Level::Failure)) {
        (0, 0) => "nothing needs you\n".to_owned(),
        (warnings, 0) => format!("{}\n", render::count(warnings, "warning")),
        (0, failures) => format!("{}\n", render::count(failures, "failure")),
        (warnings, failures) => format!(
            "{} and {}\n",
            render::count(failures, "failure"),
            render::count(warnings, "warning")
        ),
    });
    text
}
