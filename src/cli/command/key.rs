//! `holdall key`.

use crate::cli::app::App;
use crate::cli::environment;
use crate::cli::exit::{DAMAGED, DONE, Ended, reported};
use crate::cli::render::{self, Table};
use crate::cli::repo::{self, Access};
use crate::cli::{prompt, secret};
use crate::context::Time;
use crate::crypto::Unlock;
use crate::error::{Error, ErrorKind, Result, escape};
use crate::ops::{self, AddedKey, KeyList, KeySlotInfo, NewKey};
use serde_json::json;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Arguments of `key`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    holdall key list\n  \
    holdall key add --label 'Anna, laptop'\n  \
    holdall key add --generate-key-file /etc/holdall/shop.key\n  \
    holdall key remove 2\n  \
    holdall key passwd")]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the keys
    List,
    /// Add a key: a password that is asked for, or what the flags say
    Add(AddArgs),
    /// Remove a key, never the last
    Remove {
        /// Its number, as `key list` shows it
        slot: u32,
        /// Do not ask before the key that is used now is removed
        #[arg(short, long)]
        yes: bool,
    },
    /// Put a new secret in the place of the one that is used now
    Passwd(NewArgs),
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    #[command(flatten)]
    new: NewArgs,
    /// Make a recovery phrase and show it once
    #[arg(long, conflicts_with_all = ["new_password_file", "new_key_file", "generate_key_file"])]
    new_recovery_phrase: bool,
    /// What the key is called
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
}

#[expect(clippy::struct_field_names, reason = "the flags are called so")]
#[derive(Debug, clap::Args)]
struct NewArgs {
    /// A file that holds the new password
    #[arg(long, value_name = "FILE", conflicts_with_all = ["new_key_file", "generate_key_file"])]
    new_password_file: Option<PathBuf>,
    /// A key file that is there
    #[arg(long, value_name = "FILE", conflicts_with = "generate_key_file")]
    new_key_file: Option<PathBuf>,
    /// Make a key file of 32 random bytes here
    #[arg(long, value_name = "FILE")]
    generate_key_file: Option<PathBuf>,
}

impl NewArgs {
    /// Takes back what was made for a key that then could not be added.
    fn withdraw(&self, error: Error) -> Error {
        match &self.generate_key_file {
            Some(path) if error.context("new slot").is_none() => secret::withdraw_key_file(path, error),
            _ => error,
        }
    }

    async fn secret(&self, app: &App) -> Result<Unlock> {
        if let Some(path) = &self.generate_key_file {
            return secret::make_key_file(&app.context, path).map(Unlock::KeyFile);
        }
        if let Some(path) = &self.new_key_file {
            return secret::key_file(path).map(Unlock::KeyFile);
        }
        if let Some(path) = &self.new_password_file {
            let bytes = environment::read_secret(path)?;
            let password = environment::without_newline(&bytes);
            if password.is_empty() {
                return Err(Error::new(ErrorKind::Invalid, "the new password is empty"));
            }
            return Ok(Unlock::Password(Zeroizing::new(password.to_vec())));
        }
        if !prompt::possible() {
            return Err(Error::new(
                ErrorKind::Refused,
                "a new password is needed, and there is no terminal to ask for it",
            )
            .hint("give --new-password-file, --new-key-file or --generate-key-file"));
        }
        let password = prompt::new_secret(&app.context, "new password").await?;
        Ok(Unlock::Password(Zeroizing::new(password.as_bytes().to_vec())))
    }
}

pub(in crate::cli) async fn run(app: &App, args: Args) -> Ended {
    match args.command {
        Command::List => {
            let repository = repo::open(app, Access::ReadOnly).await?;
            let list = ops::list_keys(&repository).await?;
            let told = show_list(app, &list);
            tell_unread(app, &list);
            reported(if list.unread.is_empty() { DONE } else { DAMAGED }, told)
        }
        Command::Add(args) => {
            let repository = repo::open(app, Access::ReadWrite).await?;
            let key = if args.new_recovery_phrase {
                NewKey::Phrase
            } else {
                NewKey::Given(args.new.secret(app).await?)
            };
            let host = super::host(None)?;
            let added = ops::add_key(&app.context, &repository, key, &args.label, &host).await;
            let added = added.map_err(|error| args.new.withdraw(error))?;
            told(&added, show_added(app, "added", &added))
        }
        Command::Remove { slot, yes } => {
            let repository = repo::open(app, Access::ReadWrite).await?;
            if slot == repository.slot() && !yes {
                let question = format!("key {slot} is the one that is used now; remove it?");
                prompt::confirm(
                    &question,
                    "this is the key that is used now; --yes removes it all the same",
                )?;
            }
            ops::remove_key(&repository, slot).await?;
            app.note(
                "whoever copied the repository while the key was there can still open that copy with it",
            );
            let told = if app.json() {
                render::line(&json!({"message_type": "removed", "slot": slot}))
            } else {
                render::print(&format!("removed key {slot}\n"))
            };
            reported(DONE, told)
        }
        Command::Passwd(args) => {
            let repository = repo::open(app, Access::ReadWrite).await?;
            let unlock = args.secret(app).await?;
            let changed = ops::change_key(&app.context, &repository, unlock, &super::host(None)?).await;
            let changed = changed.map_err(|error| args.withdraw(error))?;
            told(&changed, show_added(app, "changed: it is now", &changed))
        }
    }
}

/// A phrase that could not be shown is lost, and no success; anything else was done whoever reads of it.
fn told(added: &AddedKey, shown: std::io::Result<()>) -> Ended {
    match (&added.phrase, shown) {
        (Some(_), Err(error)) => Err(error.into()),
        (_, shown) => reported(DONE, shown),
    }
}

/// What is known of slots that cannot be read. A damaged one may go; one that the disk does not give may be somebody's only key.
fn tell_unread(app: &App, list: &KeyList) {
    for (slot, why) in &list.unread {
        app.warning(&if why.kind() == ErrorKind::Damaged {
            format!("key {slot} is damaged and opens nothing: {why}; `holdall key remove {slot}`")
        } else {
            format!("key {slot} cannot be read, and what it opens cannot be told: {why}")
        });
    }
}

fn show_list(app: &App, list: &KeyList) -> std::io::Result<()> {
    let created = |slot: &KeySlotInfo| Time {
        seconds: slot.info.created,
        nanos: 0,
    };
    if app.json() {
        let all = list.slots.iter().map(|slot| {
            json!({
                "slot": slot.slot,
                "current": slot.current,
                "kind": slot.kind.word(),
                "label": slot.info.label,
                "hostName": slot.info.host,
                "created": created(slot).to_rfc3339(),
            })
        });
        let unread = list.unread.iter().map(|(slot, why)| {
            json!({
                "slot": slot,
                "current": *slot == list.current,
                "unreadable": why.to_string(),
            })
        });
        return render::line(&all.chain(unread).collect::<Vec<_>>());
    }
    let mut table = Table::new(&["SLOT", "KIND", "CREATED", "HOST", "LABEL"], &[0]);
    let mark = |slot: u32| if slot == list.current { "*" } else { "" };
    for slot in &list.slots {
        table.row(vec![
            format!("{}{}", mark(slot.slot), slot.slot),
            slot.kind.word().to_owned(),
            render::local_time(created(slot)),
            escape(&slot.info.host),
            escape(&slot.info.label),
        ]);
    }
    for (slot, _) in &list.unread {
        let mut row = vec![format!("{}{slot}", mark(*slot)), "cannot be read".to_owned()];
        row.resize(5, String::new());
        table.row(row);
    }
    render::print(&table.text(render::width()))
}

fn show_added(app: &App, verb: &str, added: &AddedKey) -> std::io::Result<()> {
    let phrase = added.phrase.as_ref().map(|p| p.as_str());
    if app.json() {
        return render::line(
            &json!({"message_type": "added", "slot": added.slot, "recovery_phrase": phrase}),
        );
    }
    let mut text = format!("key {verb} {}\n", added.slot);
    if let Some(phrase) = phrase {
        text.push_str(&format!(
            "\nWrite this on paper; it is shown this once:\n\n  {phrase}\n\n"
        ));
    }
    render::print(&text)
}
