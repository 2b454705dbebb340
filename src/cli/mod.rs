//! The command line. Only here are arguments, the environment, the home directory and the terminal read, and only here is anything
//! printed. No rule about backups lives here: each command turns its arguments into a request for `ops` and shows the report.

mod app;
mod args;
mod command;
mod environment;
mod exit;
mod parse;
mod prompt;
mod render;
mod repo;
mod secret;
mod signal;
mod words;

pub use app::main;
