//! Questions on the terminal. Asked only if standard input and standard error are both terminals; else the answer must come from a
//! flag or a variable.

use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use std::io::{self, IsTerminal};
use zeroize::Zeroizing;

/// Whether anyone can be asked.
pub(super) fn possible() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// What gives a password without asking.
pub(super) const PASSWORD: &str = "give --password-file, --password-command or --key-file, or set HOLDALL_PASSWORD_FILE, \
    HOLDALL_PASSWORD_COMMAND, HOLDALL_PASSWORD or HOLDALL_KEY_FILE";

/// Asks whether something shall be done.
///
/// # Errors
/// `Refused` if the answer is not yes, or nobody can be asked: `instead` says what to give then. `Source` if the terminal is gone.
pub(super) fn confirm(question: &str, instead: &str) -> Result<()> {
    use io::{BufRead, Write};
    if possible() {
        let failed = |error| Error::new(ErrorKind::Source, "cannot read from the terminal").because(error);
        let mut answer = String::new();
        write!(io::stderr(), "{question} [y/N] ").map_err(failed)?;
        io::stdin().lock().read_line(&mut answer).map_err(failed)?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(());
        }
    }
    Err(Error::new(ErrorKind::Refused, "not confirmed; nothing was done").hint(instead))
}

/// Asks for a secret; what is typed is not shown. `instead` says what to give when nobody can be asked.
///
/// # Errors
/// `Refused` if nobody can be asked, naming what to give instead; `Cancelled`; `Invalid` for an empty answer.
pub(super) async fn secret(context: &Context, question: &str, instead: &str) -> Result<Zeroizing<String>> {
    if !possible() {
        let what = "a secret is needed, and there is no terminal to ask for it";
        return Err(Error::new(ErrorKind::Refused, what)
            .with("secret", question)
            .hint(instead));
    }
    let before = rustix::termios::tcgetattr(io::stdin()).ok();
    let text = format!("{question}: ");
    let asking = tokio::task::spawn_blocking(move || rpassword::prompt_password(text).map(Zeroizing::new));
    let answer = tokio::select! {
        biased;
        () = context.cancel.cancelled() => {
            // The thread that asks cannot be stopped, and dies with the process: the terminal must show what is typed again.
            if let Some(before) = before {
                let _ = rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Now, &before);
            }
            return Err(Error::new(ErrorKind::Cancelled, "interrupted"));
        }
        answer = asking => answer,
    };
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Source, "cannot read from the terminal").because(error)
    };
    let answer = match answer.map_err(|e| failed(e.into()))? {
        // The signal reached the thread that reads before it reached us.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            return Err(Error::new(ErrorKind::Cancelled, "interrupted"));
        }
        answer => answer.map_err(|e| failed(e.into()))?,
    };
    if answer.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "an empty answer is not accepted"));
    }
    Ok(answer)
}

/// Asks for a new secret twice.
///
/// # Errors
/// As [`secret`]; `Invalid` if the answers differ.
pub(super) async fn new_secret(context: &Context, question: &str) -> Result<Zeroizing<String>> {
    let first = secret(context, question, PASSWORD).await?;
    let second = secret(context, "the same again", PASSWORD).await?;
    if *first == *second {
        return Ok(first);
    }
    Err(Error::new(ErrorKind::Invalid, "the two answers differ").hint("run the command again"))
}
