//! `holdall demo`: the main job on a throwaway PostgreSQL database and a directory, by the very commands that a user would type.

mod children;
mod cluster;
mod compare;
mod shop;
mod story;

use crate::cli::app::App;
use crate::cli::environment;
use crate::cli::exit::{DONE, Ended};
use crate::error::{Error, ErrorKind, Result};
use children::Children;
use cluster::Cluster;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use story::Story;

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  \
    holdall demo\n\n\
    Makes a PostgreSQL server of its own in a temporary directory (reached by a socket in it, never by the network), with more than \
    200 MB of tables, and a directory of uploads; takes two snapshots of both, checks the repository, restores both into new databases and \
    directories and compares everything. Needs about 2 GB of space for a minute or two. Everything is removed at the end, also after Ctrl-C. Exit code 0 means \
    that everything compared equal.")]
pub(in crate::cli) struct Args {
    /// Where the programs of PostgreSQL are (initdb, pg_ctl, psql, pg_dump) [default: the newest of this machine]
    #[arg(long, value_name = "DIR")]
    postgres_bin: Option<PathBuf>,
    /// Where the temporary directory is made
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Leave everything there, to look at; the server is stopped
    #[arg(long)]
    keep: bool,
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let binaries = cluster::find_binaries(args.postgres_bin.as_deref())?;
    let parent = args.directory.unwrap_or_else(environment::temporary_directory);
    let place = Place::new(app, &parent)?;
    let children = Children::new(app, &place.0, &binaries)?;
    let mut cluster = Cluster::new(children.clone(), place.0.join("pg"));
    let told = async {
        cluster.start().await?;
        Story::new(app, children, place.0.clone()).tell().await
    };
    let told = told.await;
    // Whatever happened, also Ctrl-C: the server ends and the directory goes.
    let stopped = cluster.stop().await;
    if args.keep {
        app.note(&format!("kept: {}", place.0.display()));
    } else {
        place.remove()?;
    }
    told?;
    stopped?;
    Ok(DONE)
}

/// The directory that everything happens in.
struct Place(PathBuf);

impl Place {
    fn new(app: &App, parent: &Path) -> Result<Self> {
        let number: [u8; 4] = app.context.random.bytes()?;
        let path = parent.join(format!("holdall-demo-{}", crate::format::id::hex(&number)));
        // Others may look in: the server runs as another user when we are root. What is secret has its own mode.
        std::fs::DirBuilder::new()
            .mode(0o755)
            .create(&path)
            .map_err(|e| {
                Error::new(ErrorKind::Source, "cannot make a temporary directory")
                    .with("path", path.display())
                    .because(e)
            })?;
        Ok(Self(path))
    }

    fn remove(&self) -> Result<()> {
        std::fs::remove_dir_all(&self.0).map_err(|e| {
            Error::new(ErrorKind::Source, "cannot remove the demo's directory")
                .with("path", self.0.display())
                .because(e)
        })
    }
}
