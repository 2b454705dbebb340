//! `holdall man`.

use crate::cli::args::Cli;
use crate::cli::exit::{DONE, Ended, Failure};
use crate::error::{Error, ErrorKind};
use clap::CommandFactory;
use std::io::Write;
use std::path::PathBuf;

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall man | man -l -\n  \
    holdall man --directory /usr/local/share/man/man1")]
pub(in crate::cli) struct Args {
    /// Write one page for each command into this directory
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(in crate::cli) fn run(args: &Args) -> Ended {
    let mut command = Cli::command();
    command.build();
    if let Some(directory) = &args.directory {
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Source, "cannot write manual pages")
                .with("directory", directory.display())
                .because(error)
        };
        fs_err::create_dir_all(directory).map_err(failed)?;
        clap_mangen::generate_to(command, directory).map_err(failed)?;
        return Ok(DONE);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    let mut out = std::io::stdout().lock();
    out.write_all(&page).map_err(Failure::of_content)?;
    out.flush().map_err(Failure::of_content)?;
    Ok(DONE)
}
