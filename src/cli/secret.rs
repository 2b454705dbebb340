//! Where the secret that opens a repository comes from: a flag, else a variable, else systemd's credentials, else a question. Never
//! an argument: other users of the machine can read those.

use super::app::App;
use super::args::Globals;
use super::second::Second;
use super::{environment, prompt, words};
use crate::connector::process::SECRETS;
use crate::context::Context;
use crate::crypto::{Secret, Unlock, secret_from_phrase};
use crate::error::{Error, ErrorKind, Result};
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

/// The longest output of a password command that is read, in bytes.
const OUTPUT_MAX: u64 = 64 << 10;

/// Where a secret comes from.
enum Origin {
    PasswordFile(PathBuf),
    PasswordCommand(String),
    Password(Zeroizing<String>),
    KeyFile(PathBuf),
    PhraseFile(PathBuf),
    PhrasePrompt,
}

/// The secret that opens the repository; asks for a password if nothing else is given.
///
/// # Errors
/// `Invalid` for several or unreadable secrets, `Refused` if there is none and nobody to ask, `Source` if a command fails.
pub(super) async fn unlock(app: &App) -> Result<Unlock> {
    if let Some(origin) = origin(&app.globals)? {
        return read(app, origin).await;
    }
    let password = prompt::secret(&app.context, "password of the repository", prompt::PASSWORD).await?;
    Ok(Unlock::Password(Zeroizing::new(password.as_bytes().to_vec())))
}

/// The secret of the second repository, if that has keys of its own.
///
/// # Errors
/// As [`unlock`].
pub(super) async fn unlock_second(app: &App, second: &Second) -> Result<Unlock> {
    let flags = [
        second.password_file.clone().map(Origin::PasswordFile),
        second.password_command.clone().map(Origin::PasswordCommand),
        second.key_file.clone().map(Origin::KeyFile),
        None,
        None,
    ];
    let origin = chosen(flags, &SECOND)?;
    if let Some(origin) = origin {
        return read(app, origin).await;
    }
    let password = prompt::secret(
        &app.context,
        "password of the second repository, which has keys of its own",
        "give --copy-password-file, --copy-password-command or --copy-key-file, or set HOLDALL_COPY_PASSWORD",
    )
    .await?;
    Ok(Unlock::Password(Zeroizing::new(password.as_bytes().to_vec())))
}

/// The first secret of a repository that is being made: what is given, else a password that is asked for twice.
///
/// # Errors
/// As [`unlock`].
pub(super) async fn unlock_new(app: &App) -> Result<Unlock> {
    if let Some(origin) = origin(&app.globals)? {
        return read(app, origin).await;
    }
    let password = prompt::new_secret(&app.context, "password for the new repository").await?;
    Ok(Unlock::Password(Zeroizing::new(password.as_bytes().to_vec())))
}

/// Whether a flag says where the secret comes from.
pub(super) fn is_given(globals: &Globals) -> bool {
    globals.password_file.is_some()
        || globals.password_command.is_some()
        || globals.key_file.is_some()
        || globals.recovery_phrase_file.is_some()
        || globals.recovery_phrase
}

/// Flags first; all of them count before any variable does.
fn origin(globals: &Globals) -> Result<Option<Origin>> {
    let flags = [
        globals.password_file.clone().map(Origin::PasswordFile),
        globals.password_command.clone().map(Origin::PasswordCommand),
        globals.key_file.clone().map(Origin::KeyFile),
        globals.recovery_phrase_file.clone().map(Origin::PhraseFile),
        globals.recovery_phrase.then_some(Origin::PhrasePrompt),
    ];
    chosen(flags, &FIRST)
}

/// Variables and credentials of a service that say where a secret is.
struct Names {
    password_file: &'static str,
    password_command: &'static str,
    password: &'static str,
    key_file: &'static str,
    credentials: [&'static str; 2],
}

const FIRST: Names = Names {
    password_file: "HOLDALL_PASSWORD_FILE",
    password_command: "HOLDALL_PASSWORD_COMMAND",
    password: "HOLDALL_PASSWORD",
    key_file: "HOLDALL_KEY_FILE",
    credentials: ["holdall-password", "holdall-key"],
};

const SECOND: Names = Names {
    password_file: "HOLDALL_COPY_PASSWORD_FILE",
    password_command: "HOLDALL_COPY_PASSWORD_COMMAND",
    password: "HOLDALL_COPY_PASSWORD",
    key_file: "HOLDALL_COPY_KEY_FILE",
    credentials: ["holdall-copy-password", "holdall-copy-key"],
};

/// Flags, else variables, else credentials; of each at most one.
fn chosen(flags: [Option<Origin>; 5], names: &Names) -> Result<Option<Origin>> {
    if let Some(origin) = only(flags, "several secrets are given by flags")? {
        return Ok(Some(origin));
    }
    let path = |name| environment::variable(name).map(PathBuf::from);
    let variables = [
        path(names.password_file).map(Origin::PasswordFile),
        environment::text(names.password_command)?.map(Origin::PasswordCommand),
        environment::text(names.password)?.map(|p| Origin::Password(Zeroizing::new(p))),
        path(names.key_file).map(Origin::KeyFile),
    ];
    if let Some(origin) = only(variables, "several secrets are given by the environment")? {
        return Ok(Some(origin));
    }
    let credentials = path("CREDENTIALS_DIRECTORY");
    let credential = |name: &str| {
        credentials
            .as_ref()
            .map(|dir| dir.join(name))
            .filter(|p| p.is_file())
    };
    let [password, key] = names.credentials;
    let credentials = [
        credential(password).map(Origin::PasswordFile),
        credential(key).map(Origin::KeyFile),
    ];
    only(
        credentials,
        "several secrets are among the credentials of the service",
    )
}

fn only<const N: usize>(origins: [Option<Origin>; N], otherwise: &str) -> Result<Option<Origin>> {
    let mut origins = origins.into_iter().flatten();
    let first = origins.next();
    if origins.next().is_some() {
        return Err(Error::new(ErrorKind::Invalid, otherwise).hint("give one of them"));
    }
    Ok(first)
}

/// Warns of a file that others may read too. Credentials of a service are guarded by their directory.
fn warn_if_open(app: &App, path: &Path) {
    let Ok(metadata) = path.metadata() else { return };
    let guarded = environment::variable("CREDENTIALS_DIRECTORY").is_some_and(|dir| path.starts_with(dir));
    if metadata.is_file() && metadata.mode() & 0o077 != 0 && !guarded {
        app.warning(&format!(
            "others than its owner may use {}, which opens the repository: chmod 600 it",
            path.display()
        ));
    }
}

async fn read(app: &App, origin: Origin) -> Result<Unlock> {
    if let Origin::PasswordFile(path) | Origin::KeyFile(path) | Origin::PhraseFile(path) = &origin {
        warn_if_open(app, path);
    }
    let password = |bytes: &[u8]| {
        let bytes = environment::without_newline(bytes);
        if bytes.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "the password is empty"));
        }
        Ok(Unlock::Password(Zeroizing::new(bytes.to_vec())))
    };
    match origin {
        Origin::PasswordFile(path) => password(&environment::read_secret(&path)?),
        Origin::PasswordCommand(command) => password(&run(&app.context, &command).await?),
        Origin::Password(text) => password(text.as_bytes()),
        Origin::KeyFile(path) => key_file(&path).map(Unlock::KeyFile),
        Origin::PhraseFile(path) => phrase(&environment::read_secret(&path)?),
        Origin::PhrasePrompt => {
            let words = prompt::secret(
                &app.context,
                "recovery phrase (24 words)",
                "give --recovery-phrase-file",
            )
            .await?;
            phrase(words.as_bytes())
        }
    }
}

/// The secret of a key file.
///
/// # Errors
/// `Invalid` if it cannot be read or does not hold exactly 32 bytes.
pub(super) fn key_file(path: &Path) -> Result<Secret> {
    let bytes = environment::read_secret(path)?;
    Secret::from_slice(&bytes).map_err(|error| error.with("path", path.display()))
}

fn phrase(bytes: &[u8]) -> Result<Unlock> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Error::new(ErrorKind::Invalid, "this is not a recovery phrase"))?;
    secret_from_phrase(text).map(Unlock::Phrase)
}

/// What a password command prints. It may talk to the user at a terminal; its standard output is ours.
async fn run(context: &Context, command: &str) -> Result<Zeroizing<Vec<u8>>> {
    let words = words::split(command)?;
    let [program, arguments @ ..] = words.as_slice() else {
        return Err(Error::new(ErrorKind::Invalid, "no command to run"));
    };
    let failed = |what: &str| Error::new(ErrorKind::Source, what).with("program", program);
    let mut command = tokio::process::Command::new(program);
    // A pipe or file on standard input may be what is to be kept: the command must not read from it.
    let stdin = if std::io::stdin().is_terminal() {
        Stdio::inherit()
    } else {
        Stdio::null()
    };
    command
        .args(arguments)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    for name in SECRETS {
        command.env_remove(name);
    }
    let mut child = command
        .spawn()
        .map_err(|e| failed("cannot start the password command").because(e))?;
    let mut output = Zeroizing::new(Vec::with_capacity(4096));
    let ended = async {
        if let Some(stdout) = child.stdout.take() {
            stdout.take(OUTPUT_MAX).read_to_end(&mut output).await?;
        }
        child.wait().await
    };
    let status = tokio::select! {
        biased;
        () = context.cancel.cancelled() => return Err(Error::new(ErrorKind::Cancelled, "interrupted")),
        status = ended => status.map_err(|e| failed("cannot read the password command").because(e))?,
    };
    if !status.success() {
        return Err(failed("the password command failed").with("ended with", status));
    }
    Ok(output)
}

/// Makes a key file, for the owner only, and gives its secret.
///
/// # Errors
/// `Exists` if the file is there, `Source` if it cannot be written.
pub(super) fn make_key_file(context: &Context, path: &Path) -> Result<Secret> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let secret = Secret::new(context.random.bytes()?);
    let failed = |error: std::io::Error| {
        let kind = if error.kind() == std::io::ErrorKind::AlreadyExists {
            ErrorKind::Exists
        } else {
            ErrorKind::Source
        };
        Error::new(kind, "cannot make the key file")
            .with("path", path.display())
            .because(error)
    };
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let written = file.write_all(secret.expose()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        let _ = std::fs::remove_file(path);
        failed(error)
    })?;
    Ok(secret)
}

/// Removes a key file that was made for what then failed: one that opens nothing would only be mistaken for one that does. It stays
/// if nobody can tell whether the key is in the repository; the error then says so.
pub(super) fn withdraw_key_file(path: &Path, error: Error) -> Error {
    if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Cancelled) {
        let text = format!(
            "the key file {} is kept: the repository may know it",
            path.display()
        );
        return if error.advice().is_some() {
            error.with("key file", path.display())
        } else {
            error.hint(text)
        };
    }
    let _ = std::fs::remove_file(path);
    error
}
