//! One file for each command: arguments, what they mean, and how the report is shown.

pub(super) mod cat;
pub(super) mod check;
pub(super) mod completions;
pub(super) mod copy;
pub(super) mod demo;
pub(super) mod diff;
pub(super) mod doctor;
pub(super) mod find;
pub(super) mod forget;
pub(super) mod init;
pub(super) mod key;
pub(super) mod list;
pub(super) mod ls;
pub(super) mod man;
pub(super) mod prune;
pub(super) mod repair;
pub(super) mod restore;
pub(super) mod snapshot;
pub(super) mod stats;
pub(super) mod status;
pub(super) mod tag;

use super::app::App;
use super::environment;
use super::parse;
use super::repo::{self, Access};
use crate::error::Result;
use crate::ops;
use crate::snapshot::{SnapshotFilter, SnapshotReader, SnapshotSpec};

/// Which snapshots count.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Filter {
    /// Only snapshots of this host
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Only snapshots of this project
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// Only snapshots with this tag; a comma means "and", a second --tag means "or"
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
}

impl Filter {
    fn to_filter(&self) -> SnapshotFilter {
        SnapshotFilter {
            host: self.host.clone(),
            project: self.project.clone(),
            tags: parse::tag_groups(&self.tag),
        }
    }
}

/// Opens the repository for reading, and the snapshot in it.
async fn open_snapshot(app: &App, spec: &SnapshotSpec, filter: &Filter) -> Result<SnapshotReader> {
    let repository = repo::open(app, Access::ReadOnly).await?;
    ops::open_snapshot(&app.context, &repository, spec, &filter.to_filter()).await
}

/// The host's name: the flag, else the environment, else the system.
fn host(flag: Option<&String>) -> Result<String> {
    flag.map_or_else(environment::host, |host| Ok(host.clone()))
}
