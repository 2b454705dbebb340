//! `holdall completions`.

use crate::cli::args::Cli;
use crate::cli::exit::{DONE, Ended, Failure};
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::Write;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall completions bash > /etc/bash_completion.d/holdall\n  \
    holdall completions zsh > ~/.zfunc/_holdall")]
pub(in crate::cli) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(in crate::cli) fn run(args: &Args) -> Ended {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "holdall", &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script).map_err(Failure::of_content)?;
    out.flush().map_err(Failure::of_content)?;
    Ok(DONE)
}
