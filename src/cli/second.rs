//! The second repository of a command: where copies go to, and repairs come from.

use super::app::App;
use super::render;
use super::repo::{self, Access};
use super::secret;
use crate::error::{Error, ErrorKind, Result};
use crate::ops;
use crate::repository::{Found, LeftOut, Repository};
use crate::store::Location;
use std::path::PathBuf;

/// What opens it. A replica is opened with the keys of the first, and needs none of these.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Second repository")]
pub(super) struct Second {
    /// A file that holds the second repository's password, if it has keys of its own [env: HOLDALL_COPY_PASSWORD_FILE; the password
    /// itself: HOLDALL_COPY_PASSWORD]
    #[arg(id = "copy_password_file", long = "copy-password-file", value_name = "FILE")]
    pub(super) password_file: Option<PathBuf>,
    /// A command that prints it; no shell sees it [env: HOLDALL_COPY_PASSWORD_COMMAND]
    #[arg(
        id = "copy_password_command",
        long = "copy-password-command",
        value_name = "COMMAND"
    )]
    pub(super) password_command: Option<String>,
    /// The second repository's key file, if it has keys of its own [env: HOLDALL_COPY_KEY_FILE]
    #[arg(id = "copy_key_file", long = "copy-key-file", value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
}

/// What is to be done where there is no repository yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// It is an error.
    Refuse,
    /// A replica is begun.
    Make,
    /// Nothing: it is asked only what would be done.
    Leave,
}

/// What [`Second::open`] found or made.
#[derive(Default)]
pub(super) struct Opened {
    /// Nothing if it is missing and is left so.
    pub(super) repository: Option<Repository>,
    /// Key slots that it was made without.
    pub(super) left_out: LeftOut,
}

impl Second {
    /// Opens the repository at `location`; nothing if it is missing and is left so.
    ///
    /// # Errors
    /// `NoRepository` if there is none, `Invalid` if it is the first one, or as [`Repository::open`], [`Repository::open_replica`] and [`Repository::make_replica`].
    pub(super) async fn open(
        &self,
        app: &App,
        location: &Location,
        first: &Repository,
        (access, missing): (Access, Missing),
    ) -> Result<Opened> {
        apart(app, location)?;
        let names = repo::names_of_second();
        let create = missing == Missing::Make;
        let access = if create { Access::Create } else { access };
        let store = match repo::store_at(app, location, names, access) {
            // A directory that a run would make.
            Err(error) if error.kind() == ErrorKind::NoRepository && missing == Missing::Leave => {
                return Ok(Opened::default());
            }
            Err(error) if error.kind() == ErrorKind::NoRepository => {
                return Err(nothing_there(location).because(error));
            }
            store => store?,
        };
        let place = repo::place(location, names)?;
        let cache = |id| repo::cache(app, Some((id, &place)));
        let of_first = || cache(first.id());
        let opened = match Found::at(&store).await? {
            Found::Nothing | Found::Unfinished(_) if missing == Missing::Leave => {
                return Ok(Opened::default());
            }
            Found::Nothing if !create => return Err(nothing_there(location)),
            Found::Nothing | Found::Unfinished(_) if create => {
                let reserves = matches!(location, Location::Local(_));
                let (made, left_out) = first
                    .make_replica(store, &app.context, reserves, of_first)
                    .await?;
                // At once, since a copy may end early and the next one finds a replica that is made.
                for (key, why) in &left_out {
                    app.warning(&format!(
                        "of the first repository {key} cannot be read, and the second was made without it: what opens the first by that key does not \
                         open the second, unless `holdall key add` is run there: {}",
                        render::with_causes(why)
                    ));
                }
                let keys = match left_out.len() {
                    0 => "the same keys open it",
                    _ => "the same keys open it, but for those that could not be read",
                };
                app.note(&format!("made a replica at {}: {keys}", made.store()));
                return Ok(Opened {
                    repository: Some(made),
                    left_out,
                });
            }
            Found::Repository(id) if id != first.id() => {
                let unlock = secret::unlock_second(app, self).await?;
                Repository::open(store, &unlock, cache).await
            }
            _ => first.open_replica(store, of_first).await,
        };
        Ok(Opened {
            repository: Some(opened?),
            left_out: LeftOut::new(),
        })
    }
}

/// Opens the replica of `first` at `location`, to read it. No password is asked for: a repository with other keys is refused.
///
/// # Errors
/// `NoRepository` if there is none, `Invalid` if it is no replica or the first repository itself, or as [`Repository::open_replica`].
pub(super) async fn open_replica(app: &App, location: &Location, first: &Repository) -> Result<Repository> {
    apart(app, location)?;
    let names = repo::names_of_second();
    let store = repo::store_at(app, location, names, Access::ReadOnly)?;
    match Found::at(&store).await? {
        Found::Nothing => return Err(nothing_there(location)),
        Found::Repository(id) if id != first.id() => {
            return Err(ops::no_replica().with("store", location));
        }
        _ => {}
    }
    let place = repo::place(location, names)?;
    let cache = || repo::cache(app, Some((first.id(), &place)));
    first.open_replica(store, cache).await
}

/// A second repository that is the first one is no second one.
fn apart(app: &App, second: &Location) -> Result<()> {
    if repo::is_first(app, second)? {
        return Err(ops::same_store().with("store", second));
    }
    Ok(())
}

fn nothing_there(location: &Location) -> Error {
    Error::new(ErrorKind::NoRepository, "there is no repository there")
        .with("store", location)
        .hint("check the address; `holdall copy --to … --init` makes a replica there, and `holdall init` a repository with keys of its own")
}
