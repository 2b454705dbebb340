//! x
use crate::cli::app::App;
use crate::cli::exit::{DONE, Ended};
/// x
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {}
pub(in crate::cli) async fn run(_a: &App, _args: Args) -> Ended {
    Ok(DONE)
}
