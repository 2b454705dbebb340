//! What must be equal for the block ranges of two snapshots to be comparable. Anything else that the same rows could be read
//! differently by, or other rows look the same by, is in here; a table of another incarnation is read in full.
//!
//! The incarnation is the BLAKE3-256 of one CBOR array of, in this order: the version 2; system identifier (H5); timeline
//! (H4); time of the server's start (H3); whether it is a standby (H20); `server_version_num` (H11); bytes of
//! a block; oid of the database; oid of the table (H21); its file after the lock (H6); its tablespace; its access method (H17); its
//! persistence (H16); the role that reads (H19); the array of names and values of the settings that text depends on (H10); the
//! signature of its columns and their types (H7, H8, H11). The numbers are those of the holes that each closes, in the design's table.
//!
//! What WAL summaries tell of is the same log as long as the version 1, the same facts of the server's life and the database are (section 10).
//!
//! What statements are made by has an incarnation too (section 9): of the version 2; Holdall's own; of the same facts of the server and
//! the role; the database; the settings; the files that a `pg_dump` is chosen from; its arguments that choose what it writes; its
//! environment, the password left out.

use super::catalog::Table;
use super::dump::Run;
use super::session::{Facts, settings};
use crate::format::cbor::Encoder;

/// The version of the encoding.
const VERSION: u64 = 2;
/// The version of that of a log.
const LOG_VERSION: u64 = 1;

/// Why nothing of this server can be compared between snapshots, if so.
pub(crate) fn obstacle(facts: &Facts) -> Option<&'static str> {
    if facts.server.version_num < 140_000 {
        return Some("servers before version 14 cannot read ranges of blocks");
    }
    let server = &facts.server;
    if server.system_identifier.is_none() || server.timeline.is_none() || server.started.is_none() {
        return Some("the role may not read the server's control data");
    }
    if !facts.server.fsync {
        return Some("the server runs with fsync = off: after a crash it may hold anything");
    }
    if facts.xmax.is_none() || server.position.is_none() {
        return Some("the server does not say where its log ends");
    }
    None
}

/// The incarnation of a table that is locked.
pub(crate) fn incarnation(facts: &Facts, table: &Table) -> [u8; 32] {
    let mut out = Encoder::new();
    let server = &facts.server;
    out.array(16).uint(VERSION);
    out.uint(server.system_identifier.unwrap_or(0));
    out.uint(server.timeline.unwrap_or(0).into());
    out.int(server.started.unwrap_or(0)).bool(server.in_recovery);
    out.uint(server.version_num.into()).uint(facts.block_size);
    out.uint(server.database.into()).uint(table.oid.into());
    out.uint(table.filenode.into()).uint(table.tablespace.into());
    out.text(&table.access_method);
    out.text(table.record.persistence.as_text()).bytes(&server.role);
    out.array(settings::TEXT.len() * 2);
    for (name, value) in settings::TEXT {
        out.text(name).text(value);
    }
    out.bytes(&table.signature);
    blake3::hash(&out.finish()).into()
}

/// The incarnation of the log that a database is written into.
pub(crate) fn of_log(facts: &Facts) -> [u8; 32] {
    let mut out = Encoder::new();
    let server = &facts.server;
    out.array(6).uint(LOG_VERSION);
    out.uint(server.system_identifier.unwrap_or(0));
    out.uint(server.timeline.unwrap_or(0).into());
    out.int(server.started.unwrap_or(0));
    out.uint(server.version_num.into()).uint(server.database.into());
    blake3::hash(&out.finish()).into()
}

/// The incarnation of what `pg_dump` writes: `programs` says which one is chosen.
pub(crate) fn of_statements(facts: &Facts, programs: &[u8; 32], run: &Run) -> [u8; 32] {
    let mut out = Encoder::new();
    let server = &facts.server;
    out.array(13).uint(VERSION).text(env!("CARGO_PKG_VERSION"));
    out.uint(server.system_identifier.unwrap_or(0));
    out.uint(server.timeline.unwrap_or(0).into());
    out.int(server.started.unwrap_or(0)).bool(server.in_recovery);
    out.uint(server.version_num.into());
    out.uint(server.database.into()).bytes(&server.role);
    out.array(settings::TEXT.len() * 2);
    for (name, value) in settings::TEXT {
        out.text(name).text(value);
    }
    out.bytes(programs);
    let arguments = run.filter.arguments();
    out.array(arguments.len());
    for argument in &arguments {
        out.text(argument);
    }
    let told: Vec<_> = run
        .environment
        .iter()
        .filter(|(name, _)| name != "PGPASSWORD")
        .collect();
    out.array(told.len() * 2);
    for (name, value) in told {
        out.bytes(name.as_encoded_bytes()).bytes(value.as_encoded_bytes());
    }
    blake3::hash(&out.finish()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::postgres::catalog::ServerFacts;
    use crate::connector::postgres::key::TableName;
    use crate::connector::postgres::record::{Persistence, TableRecord};
    use std::collections::HashSet;

    fn table() -> Table {
        Table {
            oid: 16_384,
            name: TableName::new("public", "orders"),
            record: TableRecord::default(),
            access_method: "heap".into(),
            pages: 1,
            toast_pages: 0,
            rows: None,
            filenode: 16_384,
            tablespace: 0,
            readable: Ok(()),
            signature: [0; 32],
            comparable: Ok(()),
        }
    }

    fn facts() -> Facts {
        Facts {
            server: ServerFacts {
                version_num: 150_018,
                system_identifier: Some(7),
                timeline: Some(1),
                started: Some(1_767_225_600_000_000),
                in_recovery: false,
                fsync: true,
                role: b"postgres".to_vec(),
                database: 5,
                snapshot_xmin: 700,
                position: Some(1),
                checkpoint: None,
            },
            xmax: Some(700),
            block_size: 8192,
            moment: None,
            configured: None,
        }
    }

    #[test]
    fn everything_that_rows_could_hide_behind_changes_it() {
        let mut seen = HashSet::from([incarnation(&facts(), &table())]);
        let servers: [fn(&mut Facts); 8] = [
            |f| f.server.system_identifier = Some(8),
            |f| f.server.timeline = Some(2),
            |f| f.server.started = Some(1),
            |f| f.server.in_recovery = true,
            |f| f.server.version_num = 150_019,
            |f| f.block_size = 32_768,
            |f| f.server.database = 6,
            |f| f.server.role = b"reader".to_vec(),
        ];
        for change in servers {
            let mut facts = facts();
            change(&mut facts);
            assert!(seen.insert(incarnation(&facts, &table())), "{facts:?}");
        }
        let tables: [fn(&mut Table); 6] = [
            |t| t.oid += 1,
            |t| t.filenode += 1,
            |t| t.tablespace = 1,
            |t| t.access_method = "columnar".into(),
            |t| t.record.persistence = Persistence::Unlogged,
            |t| t.signature = [1; 32],
        ];
        for change in tables {
            let mut table = table();
            change(&mut table);
            assert!(seen.insert(incarnation(&facts(), &table)), "{table:?}");
        }
    }

    #[test]
    fn a_server_that_can_lose_what_it_showed_is_never_compared() {
        assert_eq!(obstacle(&facts()), None);
        let broken: [fn(&mut Facts); 7] = [
            |f| f.server.position = None,
            |f| f.server.fsync = false,
            |f| f.server.system_identifier = None,
            |f| f.server.timeline = None,
            |f| f.server.started = None,
            |f| f.xmax = None,
            |f| f.server.version_num = 130_022,
        ];
        for change in broken {
            let mut facts = facts();
            change(&mut facts);
            assert!(obstacle(&facts).is_some(), "{facts:?}");
        }
    }
}
