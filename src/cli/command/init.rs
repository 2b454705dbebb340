//! `holdall init`.

use crate::cli::app::App;
use crate::cli::exit::{DONE, Ended, reported};
use crate::cli::render;
use crate::cli::repo::{self, Access};
use crate::cli::{parse, secret};
use crate::crypto::Unlock;
use crate::error::{Error, ErrorKind};
use crate::ops::{self, InitReport, InitRequest};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// How sizes of objects are hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Padding {
    /// Sizes are rounded up by at most 12 percent.
    Padme,
    /// Sizes are as they are.
    None,
}

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall init --repo /srv/backup\n  \
    holdall init --repo s3://my-bucket/shop --generate-key-file /etc/holdall/shop.key\n\n\
    Whoever loses password, key file and recovery phrase loses the backups: there is no back door.")]
pub(in crate::cli) struct Args {
    /// Make a key file of 32 random bytes here and use it instead of a password
    #[arg(long, value_name = "FILE")]
    generate_key_file: Option<PathBuf>,
    /// Make no recovery phrase
    #[arg(long)]
    no_recovery_phrase: bool,
    /// Complete snapshots of each source that are never collected
    #[arg(long, value_name = "N", default_value_t = 1)]
    retain_last: u32,
    /// How long no snapshot is collected, such as 7d
    #[arg(long, value_name = "SPAN", value_parser = parse::seconds, default_value = "0")]
    retain_age: u64,
    /// Round sizes of objects, so that they tell less
    #[arg(long, value_enum, default_value_t = Padding::Padme)]
    padding: Padding,
    /// About how large chunks are: a power of two, up to 4M; NAME=SIZE is for one connector (files, stdio, postgres, storage, s3). Smaller
    /// chunks find more that is equal and cost more memory and requests. It cannot be changed later [default: 256K]
    #[arg(long, value_name = "[NAME=]SIZE", value_parser = parse::chunk_size)]
    chunk_size: Vec<(String, usize)>,
    /// What the first key is called
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let context = &app.context;
    if args.generate_key_file.is_some() && secret::is_given(&app.globals) {
        let what = "--generate-key-file makes the first secret, and another is given too";
        return Err(Error::new(ErrorKind::Invalid, what)
            .hint("give one of them; `holdall key add` adds the other later")
            .into());
    }
    // A wrong address is told before a password is asked for.
    let store = repo::store(app, Access::Create)?;
    let unlock = match &args.generate_key_file {
        Some(path) => Unlock::KeyFile(secret::make_key_file(context, path)?),
        None => secret::unlock_new(app).await?,
    };
    let request = InitRequest {
        unlock,
        label: args.label.clone(),
        host: super::host(None)?,
        padme: args.padding == Padding::Padme,
        chunk_sizes: args.chunk_size.clone(),
        retain_last: args.retain_last,
        retain_age: args.retain_age,
        reserve: repo::is_directory(&app.globals)?,
        phrase: !args.no_recovery_phrase,
    };
    let label = store.label().to_owned();
    let cache = Arc::new(repo::cache(app, None)?);
    let made = ops::init(context, store, cache, request).await;
    let made = made.map_err(|error| with_key_file(&args, error))?;
    let id = made.repository.id().to_string();
    if app.json() {
        let line = json!({
            "message_type": "initialized",
            "id": id,
            "repository": label,
            "finished_earlier": made.finished_earlier,
            "recovery_phrase": made.phrase.as_ref().map(|p| p.as_str()),
        });
        return told(&made, render::line(&line));
    }
    let verb = if made.finished_earlier {
        "finished the repository that an earlier init began"
    } else {
        "made repository"
    };
    let mut text = format!("{verb} {} at {label}\n", id.get(..8).unwrap_or(&id));
    if let Some(path) = &args.generate_key_file {
        text.push_str(&format!("key file: {}\n", path.display()));
    }
    if let Some(phrase) = &made.phrase {
        text.push_str("\nThe recovery phrase opens the repository when all else is lost. It is shown this once; write it on paper:\n\n");
        let words: Vec<&str> = phrase.split(' ').collect();
        for (row, words) in words.chunks(6).enumerate() {
            text.push_str(&format!("  {:>2}  {}\n", row * 6 + 1, words.join(" ")));
        }
        text.push('\n');
    }
    told(&made, render::print(&text))
}

/// A phrase that could not be shown is lost, and no success; anything else was done whoever reads of it.
fn told(made: &InitReport, shown: std::io::Result<()>) -> Ended {
    match (&made.phrase, shown) {
        (Some(_), Err(error)) => Err(error.into()),
        (_, shown) => reported(DONE, shown),
    }
}

/// What becomes of a key file that was made for a repository that then was not: one that opens nothing would only be mistaken for one
/// that does, and one that the repository may know is still needed.
fn with_key_file(args: &Args, error: Error) -> Error {
    match (&args.generate_key_file, error.kind()) {
        (Some(path), ErrorKind::Exists | ErrorKind::WrongKey | ErrorKind::Invalid) => {
            let _ = std::fs::remove_file(path);
            error
        }
        (Some(path), _) if error.advice().is_none() => {
            error.hint(format!("run it again with --key-file {}", path.display()))
        }
        _ => error,
    }
}
