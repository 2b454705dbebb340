//! PostgreSQL: a database straight into a snapshot and back. `format-spec/64-databases.md` defines its entries.

pub mod catalog;
pub mod connect;
pub mod dump;
pub mod key;
pub mod name;
pub mod record;
pub mod session;
pub mod sink;
pub mod state;
pub mod statement;
