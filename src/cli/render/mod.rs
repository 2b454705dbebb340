//! What people and programs see. Data goes to standard output; messages and progress go to standard error.

mod json;
mod progress;
mod table;

pub(super) use json::{line, lines};
pub(super) use progress::Progress;
pub(super) use table::{Table, age, bytes, compared, count, local_time, ratio, seconds, share, wrapped};

use crate::error::{Error, escape};
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

static COLOR: OnceLock<bool> = OnceLock::new();
static JSON: OnceLock<bool> = OnceLock::new();

/// Decides once whether messages are JSON lines.
pub(super) fn set_json(json: bool) {
    let _ = JSON.set(json);
}

/// The width of the terminal that tables are printed on, if it is one.
pub(super) fn width() -> Option<usize> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&out).ok()?;
    Some(usize::from(size.ws_col)).filter(|width| *width >= 20)
}

/// Decides on colors once: what was asked for, else what the terminal and the usual variables say.
pub(super) fn set_color(asked: Option<bool>) {
    let _ = COLOR.set(asked.unwrap_or_else(color_by_default));
}

fn color_by_default() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if set("NO_COLOR") {
        return false;
    }
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    set("CLICOLOR_FORCE") || io::stderr().is_terminal() && !dumb
}

fn painted(style: &str, text: &str) -> String {
    if *COLOR.get_or_init(color_by_default) {
        format!("\u{1b}[{style}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// One line on standard error. If that is closed there is nobody to tell.
fn message(label: &str, text: &str) {
    let _ = writeln!(io::stderr().lock(), "{label} {text}");
}

fn told_as_json(kind: &str, text: &str) -> bool {
    let json = JSON.get().is_some_and(|json| *json);
    if json {
        message_line(&serde_json::json!({"message_type": kind, "message": text}));
    }
    json
}

/// Tells something worth knowing.
pub(super) fn note(text: &str) {
    if told_as_json("note", text) {
        return;
    }
    message(&painted("36", "note:"), &escape(text));
}

/// Tells that something is missing or wrong.
pub(super) fn warning(text: &str) {
    if told_as_json("warning", text) {
        return;
    }
    message(&painted("33", "warning:"), &escape(text));
}

/// Shows an error in three parts: what, why, what next.
pub(super) fn error(error: &Error, hint: Option<&str>) {
    message(&painted("1;31", "error:"), &error.to_string());
    for cause in error.causes() {
        message("  caused by:", &cause);
    }
    if let Some(hint) = hint {
        message(&painted("32", "  hint:"), hint);
    }
}

/// The last line of a run that failed, for programs.
pub(super) fn exit_error(text: &str, hint: Option<&str>, code: u8) {
    let value =
        serde_json::json!({"message_type": "exit_error", "code": code, "message": text, "hint": hint});
    let _ = writeln!(io::stderr().lock(), "{value}");
}

/// A JSON line on standard error, for commands whose standard output is content.
pub(super) fn message_line(value: &serde_json::Value) {
    let _ = writeln!(io::stderr().lock(), "{value}");
}

/// Plain progress: one line on standard error.
fn progress_line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints a text for people on standard output.
///
/// # Errors
/// What writing says.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Makes text bold on a terminal.
pub(super) fn bold(text: &str) -> String {
    painted("1", text)
}

/// What an error says, and what caused it, in one line.
pub(super) fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    for cause in error.causes() {
        text.push_str(&format!(": {cause}"));
    }
    text
}
