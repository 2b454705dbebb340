//! Sessions with a server.

pub(crate) mod settings;
