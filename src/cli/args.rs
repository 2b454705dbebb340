//! The arguments: what every command takes, and which commands there are. Each command's own are in its file.

use super::command::{
    cat, check, completions, copy, demo, diff, doctor, find, forget, init, key, list, ls, man, prune, repair,
    restore, snapshot, stats, status, tag,
};
use super::{parse, variables};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Encrypted, deduplicated, verified backups of PostgreSQL and Supabase projects, streams and files.
#[derive(Debug, Parser)]
#[command(
    name = "holdall",
    version,
    disable_help_subcommand = false,
    max_term_width = 110
)]
#[command(after_help = variables::after_help(), after_long_help = variables::after_long_help())]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) globals: Globals,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// When to use colors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What every command takes.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Clone, Debug, Args)]
pub(super) struct Globals {
    /// Where the repository is: a directory, or s3://bucket/prefix [env: HOLDALL_REPOSITORY]
    #[arg(
        short,
        long,
        global = true,
        value_name = "LOCATION",
        help_heading = "Repository"
    )]
    pub(super) repo: Option<String>,
    /// A file that holds the location [env: HOLDALL_REPOSITORY_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Repository")]
    pub(super) repository_file: Option<PathBuf>,
    /// A file that holds the password [env: HOLDALL_PASSWORD_FILE; the password itself: HOLDALL_PASSWORD]
    #[arg(short, long, global = true, value_name = "FILE", help_heading = "Repository")]
    pub(super) password_file: Option<PathBuf>,
    /// A command that prints the password; no shell sees it [env: HOLDALL_PASSWORD_COMMAND]
    #[arg(long, global = true, value_name = "COMMAND", help_heading = "Repository")]
    pub(super) password_command: Option<String>,
    /// A key file of 32 bytes, instead of a password [env: HOLDALL_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Repository")]
    pub(super) key_file: Option<PathBuf>,
    /// Ask for the 24 words of the recovery phrase
    #[arg(long, global = true, help_heading = "Repository")]
    pub(super) recovery_phrase: bool,
    /// A file that holds the recovery phrase
    #[arg(long, global = true, value_name = "FILE", help_heading = "Repository")]
    pub(super) recovery_phrase_file: Option<PathBuf>,
    /// Where copies of small objects are kept to save requests [env: HOLDALL_CACHE_DIR] [default: ~/.cache/holdall]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Repository")]
    pub(super) cache_dir: Option<PathBuf>,
    /// Keep no copies on this machine
    #[arg(long, global = true, help_heading = "Repository")]
    pub(super) no_cache: bool,
    /// Certificates (PEM) to trust besides those of the system
    #[arg(long, global = true, value_name = "FILE", help_heading = "Repository")]
    pub(super) cacert: Option<PathBuf>,
    /// Send at most so many KiB per second
    #[arg(long, global = true, value_name = "KIB", help_heading = "Resources")]
    pub(super) limit_upload: Option<u64>,
    /// Receive at most so many KiB per second
    #[arg(long, global = true, value_name = "KIB", help_heading = "Resources")]
    pub(super) limit_download: Option<u64>,
    /// Memory for data on its way, at least 64M [env: HOLDALL_MEMORY] [default: 256M]
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse::bytes, help_heading = "Resources")]
    pub(super) memory: Option<u64>,
    /// Threads for compression and encryption [default: one for each core]
    #[arg(
        long,
        global = true,
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true,
        help_heading = "Resources"
    )]
    pub(super) threads: usize,
    /// Print JSON: data on standard output, messages as JSON lines
    #[arg(long, global = true, help_heading = "Output")]
    pub(super) json: bool,
    /// Print errors and results only
    #[arg(short, long, global = true, help_heading = "Output")]
    pub(super) quiet: bool,
    /// Name every entry
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Output")]
    pub(super) verbose: u8,
    /// Colors of messages; NO_COLOR and CLICOLOR_FORCE are respected
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        help_heading = "Output"
    )]
    pub(super) color: When,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a new repository
    Init(init::Args),
    /// Take a snapshot of databases, files, standard input, or the output of commands
    #[command(visible_alias = "backup")]
    Snapshot(Box<snapshot::Args>),
    /// List snapshots
    #[command(visible_alias = "snapshots")]
    List(list::Args),
    /// List what a snapshot holds
    Ls(ls::Args),
    /// Write a file, stream or table of a snapshot to standard output
    #[command(visible_alias = "dump")]
    Cat(cat::Args),
    /// Show in which snapshots an entry is, and in which versions
    Find(find::Args),
    /// Show what changed between two snapshots
    Diff(diff::Args),
    /// Restore files of a snapshot into a directory, or a database into an empty one
    Restore(restore::Args),
    /// Prove that a repository is whole
    Check(check::Args),
    /// Show of each project how old its newest snapshot is
    Status(status::Args),
    /// Look for everything that may need you, and say what to do
    Doctor(doctor::Args),
    /// Show where the bytes are, what is saved, and how it grows
    Stats(stats::Args),
    /// Let snapshots go, by name or by a policy of what to keep
    Forget(Box<forget::Args>),
    /// Free what no snapshot needs any more
    Prune(prune::Args),
    /// Copy snapshots into another repository, such as an offsite replica
    Copy(copy::Args),
    /// Make whole again what can be: from packs, from a replica
    Repair(repair::Args),
    /// Change the tags of snapshots
    Tag(tag::Args),
    /// Keep snapshots whatever a policy says
    Protect(tag::ProtectArgs),
    /// Let policies decide about snapshots again
    Unprotect(tag::ProtectArgs),
    /// Manage the keys that open a repository
    Key(key::Args),
    /// Watch it work on a throwaway PostgreSQL database
    Demo(demo::Args),
    /// Print completions for a shell
    Completions(completions::Args),
    /// Print the manual page, or write one for each command
    Man(man::Args),
}
