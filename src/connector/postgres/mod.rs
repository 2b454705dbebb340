//! PostgreSQL: a database straight into a snapshot and back. `format-spec/64-databases.md` defines its entries.

pub mod catalog;
pub mod connect;
pub mod dump;
mod fingerprint;
mod incarnation;
pub mod key;
mod mark;
pub mod name;
pub mod plan;
pub mod record;
pub mod segment;
pub mod session;
pub mod sink;
pub mod source;
pub mod state;
pub mod statement;

pub use session::SessionOptions;
pub use source::{PostgresRequest, PostgresSource};
