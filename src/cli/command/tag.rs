//! `holdall tag`, `holdall protect` and `holdall unprotect`: what people say of snapshots.

use crate::cli::app::App;
use crate::cli::exit::{DONE, Ended, reported};
use crate::cli::parse;
use crate::cli::render;
use crate::cli::repo::{self, Access};
use crate::error::{Error, ErrorKind, escape};
use crate::ops::{self, Noted, TagChange};
use crate::snapshot::SnapshotSpec;
use serde_json::{Value, json};

/// Arguments of `tag`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall tag latest --add before-migration\n  \
    holdall tag 4f2a91c0 --remove nightly\n  \
    holdall tag latest --set ''")]
pub(in crate::cli) struct Args {
    /// The snapshots
    #[arg(value_name = "SNAPSHOT", value_parser = parse::snapshot(), required = true)]
    snapshots: Vec<SnapshotSpec>,
    /// Add a tag; repeat it, or separate tags by commas
    #[arg(long, value_name = "TAG")]
    add: Vec<String>,
    /// Remove a tag
    #[arg(long, value_name = "TAG")]
    remove: Vec<String>,
    /// These tags instead of all others; '' for none
    #[arg(long, value_name = "TAG")]
    set: Option<Vec<String>>,
}

/// Arguments of `protect` and `unprotect`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall protect latest:shop\n  \
    holdall unprotect 4f2a91c0\n\n\
    A protected snapshot is kept whatever a policy says.")]
pub(in crate::cli) struct ProtectArgs {
    /// The snapshots
    #[arg(value_name = "SNAPSHOT", value_parser = parse::snapshot(), required = true)]
    snapshots: Vec<SnapshotSpec>,
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    let change = TagChange {
        set: args.set.as_ref().map(|tags| parse::tags(tags)),
        add: parse::tags(&args.add),
        remove: parse::tags(&args.remove),
    };
    if change.set.is_none() && change.add.is_empty() && change.remove.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "nothing to change")
            .hint("--add, --remove or --set TAG")
            .into());
    }
    let repository = repo::open(app, Access::ReadWrite).await?;
    let noted = ops::tag(&app.context, &repository, &args.snapshots, &change).await?;
    app.progress.end();
    reported(DONE, tell(app, &noted))
}

pub(in crate::cli) async fn protect(app: &App, args: ProtectArgs, protected: bool) -> Ended {
    let repository = repo::open(app, Access::ReadWrite).await?;
    let noted = ops::protect(&app.context, &repository, &args.snapshots, protected).await?;
    app.progress.end();
    reported(DONE, tell(app, &noted))
}

fn tell(app: &App, noted: &[Noted]) -> std::io::Result<()> {
    if app.json() {
        let all: Vec<Value> = noted
            .iter()
            .map(|one| json!({ "id": one.name, "tags": one.tags, "protected": one.protected, "changed": one.changed, "forgotten": one.let_go }))
            .collect();
        return render::line(&all);
    }
    for one in noted.iter().filter(|one| one.let_go) {
        app.warning(&format!(
            "snapshot {} was let go while it was protected, and that holds from now on: it is not listed any more, and the next prune \
             takes what is its alone; it cannot be brought back",
            one.name
        ));
    }
    let mut text = String::new();
    for one in noted {
        let tags = if one.tags.is_empty() {
            "no tags".to_owned()
        } else {
            one.tags.join(", ")
        };
        let protected = if one.protected { "; protected" } else { "" };
        let changed = if one.changed { "" } else { " (as before)" };
        text.push_str(&format!("{}: {}{protected}{changed}\n", one.name, escape(&tags)));
    }
    render::print(&text)
}
