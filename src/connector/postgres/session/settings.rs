//! What a session that reads is set to (`format-spec/64-databases.md` section 1): the text of values depends on it.

use crate::error::{Error, ErrorKind, Result};
use tokio_postgres::{Client, SimpleQueryMessage};

/// Settings that the text of values depends on, and their values. They are part of what makes ranges comparable.
pub(crate) const TEXT: [(&str, &str); 14] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("xmlbinary", "base64"),
    ("xmloption", "content"),
    ("search_path", ""),
    ("row_security", "off"),
    ("quote_all_identifiers", "off"),
    ("synchronize_seqscans", "off"),
    ("standard_conforming_strings", "on"),
];

/// Settings of time and plan, which change no text. Those that a server does not know are left.
const WORK: [(&str, &str); 13] = [
    ("application_name", "holdall"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
    ("jit", "off"),
    ("max_parallel_workers_per_gather", "0"),
    ("enable_tidscan", "on"),
    ("enable_seqscan", "on"),
    ("enable_nestloop", "on"),
    ("default_transaction_deferrable", "off"),
    // A view or foreign table put in a table's place must not run code of its owner (CVE-2024-7348).
    ("restrict_nonsystem_relation_kind", "view, foreign-table"),
    ("check_function_bodies", "off"),
];

/// Sets everything, and reads back what the text of values depends on: in a message of its own, sent when the first was answered, as a
/// pooler hands on at once what comes at once.
///
/// # Errors
/// `Source` if the server cannot be asked or a setting did not take: a pooler that hands each statement to another session may show
/// like this. That none does is proved where the first connection is made.
pub(crate) async fn pin(client: &Client, lock_timeout_ms: u64) -> Result<()> {
    let failed = |error: tokio_postgres::Error| {
        Error::new(ErrorKind::Source, "cannot set up a session to read with").because(error)
    };
    let set = client.simple_query(&set(lock_timeout_ms)).await;
    set.map_err(failed)?;
    let shown: Vec<String> = TEXT
        .iter()
        .map(|(name, _)| format!("pg_catalog.current_setting('{name}')"))
        .collect();
    let read = format!("SELECT {}", shown.join(", "));
    let answer = client.simple_query(&read).await.map_err(failed)?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    for (index, (name, value)) in TEXT.iter().enumerate() {
        let found = row.and_then(|row| row.get(index)).unwrap_or("nothing");
        // The order of days and months is kept by DateStyle, and empty names come back in quotes.
        let found = found.split(',').next().unwrap_or(found).trim_matches('"');
        if !found.eq_ignore_ascii_case(value) {
            return Err(Error::new(ErrorKind::Source, "the server did not take a setting")
                .with("setting", name)
                .with("wanted", value)
                .with("found", found)
                .hint("connect to the server itself, or to a pooler in session mode"));
        }
    }
    Ok(())
}

/// SQL that sets everything. Settings that a server does not know show nothing; to look them up in `pg_settings` takes it longer than all
/// the rest of a session's beginning.
fn set(lock_timeout_ms: u64) -> String {
    let lock_timeout = lock_timeout_ms.to_string();
    let all = TEXT
        .iter()
        .chain(&WORK)
        .copied()
        .chain([("lock_timeout", lock_timeout.as_str())]);
    let pairs: Vec<String> = all
        .map(|(name, value)| format!("('{name}', '{value}')"))
        .collect();
    format!(
        "SELECT pg_catalog.count(pg_catalog.set_config(v.name, v.value, false)) FROM (VALUES {}) v(name, value)
         WHERE pg_catalog.current_setting(v.name, true) IS NOT NULL",
        pairs.join(", ")
    )
}
