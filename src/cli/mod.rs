//! The command line. Only here are arguments, the environment, the home directory and the terminal read, and only here is anything
//! printed. No rule about backups lives here: each command turns its arguments into a request for `ops` and shows the report.

#![expect(
    clippy::format_push_string,
    reason = "texts for people are short, and a write to a String cannot fail anyway"
)]

mod app;
mod args;
mod command;
mod environment;
mod exit;
mod parse;
mod prompt;
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "numbers that people read are rounded anyway"
)]
mod render;
mod repo;
mod second;
mod secret;
mod signal;
mod variables;
mod words;

pub use app::main;
