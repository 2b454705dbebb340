//! Entries of a database, made from what the server's own programs say of it.

use crate::dump;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use holdall::connector::postgres::catalog::Filter;
use holdall::connector::postgres::dump::{PgDump, Section};
use holdall::connector::postgres::key::{self, Place, Segment, TableName};
use holdall::connector::postgres::name::{literal, qualified, quote};
use holdall::connector::postgres::record::{
    ColumnRecord, DatabaseRecord, How, Identity, LargeObjectRecord, ReportLine, RowSum, SegmentRecord,
    TableRecord, encode_report,
};
use holdall::connector::{Origin, Source};
use holdall::context::Context;
use holdall::error::Result;
use holdall::snapshot::entry::{Content, Entry, EntryHead, EntryKind, Item, Metadata, Piece, Prior};
use holdall::testkit::PostgresServer;
use holdall::testkit::collect::{Collected, Kept, Pieces};
use std::sync::Arc;

/// Rows of a segment.
const ROWS: usize = 50;

/// A snapshot of a database that nobody writes to, with these statements about roles.
pub(crate) async fn snapshot(server: &PostgresServer, database: &str, globals: &str) -> Collected {
    let mut out = Collected::default();
    let name = database.as_bytes();
    let record = DatabaseRecord {
        name: name.to_vec(),
        server_version: server
            .psql(database, "SHOW server_version")
            .unwrap()
            .trim()
            .into(),
        server_version_num: server
            .psql(database, "SHOW server_version_num")
            .unwrap()
            .trim()
            .parse()
            .unwrap(),
        encoding: "UTF8".into(),
        owner: b"postgres".to_vec(),
        ..DatabaseRecord::default()
    };
    let metadata = record.to_metadata().unwrap();
    add(
        &mut out,
        name,
        &Place::Database,
        (EntryKind::Database, metadata, ""),
    );
    let part = |out: &mut Collected, place: Place, sql: &str| {
        if !sql.is_empty() {
            statements(out, name, &place, sql);
        }
    };
    part(&mut out, Place::Globals, globals);
    part(
        &mut out,
        Place::Schema,
        &section(server, database, Section::Schema).await,
    );
    let report = tables(&mut out, server, database);
    large_objects(&mut out, server, database);
    let list = "SELECT format('%I.%I', schemaname, sequencename) FROM pg_sequences ORDER BY 1";
    let mut sequences = String::new();
    for sequence in server.psql(database, list).unwrap().lines() {
        let value = format!(
            "SELECT format('SELECT pg_catalog.setval(%L, %s, %L);', {}, last_value, is_called) FROM {sequence}",
            literal(sequence)
        );
        sequences.push_str(&server.psql(database, &value).unwrap());
    }
    part(&mut out, Place::Sequences, &sequences);
    let constraints = section(server, database, Section::Constraints).await;
    part(&mut out, Place::Constraints, &constraints);
    part(
        &mut out,
        Place::Refresh,
        &section(server, database, Section::Refresh).await,
    );
    let (key, metadata) = (key::key(name, &Place::Report), Metadata::new(&[]).unwrap());
    insert(
        &mut out,
        head(key, EntryKind::Statements, metadata),
        encode_report(&report),
    );
    out
}

/// Adds statements to a snapshot.
pub(crate) fn statements(out: &mut Collected, name: &[u8], place: &Place, sql: &str) {
    let metadata = Metadata::new(&[]).unwrap();
    add(out, name, place, (EntryKind::Statements, metadata, sql));
}

fn head(key: holdall::snapshot::entry::Key, kind: EntryKind, metadata: Metadata) -> EntryHead {
    EntryHead {
        key,
        kind,
        metadata,
        state: Bytes::new(),
        size: None,
    }
}

fn insert(out: &mut Collected, mut head: EntryHead, content: Vec<u8>) {
    head.size = Some(content.len() as u64);
    let key = head.key.clone();
    let pieces = if content.is_empty() {
        vec![]
    } else {
        vec![Piece::Data(content.into())]
    };
    let unchanged = false;
    out.entries.insert(
        key,
        Kept {
            head,
            pieces,
            unchanged,
        },
    );
}

fn add(out: &mut Collected, name: &[u8], place: &Place, (kind, metadata, text): (EntryKind, Metadata, &str)) {
    let head = head(key::key(name, place), kind, metadata);
    insert(out, head, text.as_bytes().to_vec());
}

async fn section(server: &PostgresServer, database: &str, section: Section) -> String {
    let context = Context::deterministic(1).unwrap();
    let version = server.psql(database, "SHOW server_version_num").unwrap();
    let own = server.programs().to_owned();
    let found = PgDump::find(&context, None, &[own], version.trim().parse().unwrap())
        .await
        .unwrap();
    let exported = dump::export(&context, server, database).await;
    let run = dump::run(server, database, &exported, Filter::default());
    dump::text(&context, &found, &run, section).await.unwrap()
}

fn tables(out: &mut Collected, server: &PostgresServer, database: &str) -> Vec<ReportLine> {
    let list = "SELECT encode(convert_to(nspname, 'UTF8'), 'hex') || ' ' || encode(convert_to(relname, 'UTF8'), 'hex') || ' ' || coalesce(
            (SELECT string_agg(encode(convert_to(attname, 'UTF8'), 'hex'), ',' ORDER BY attnum) FROM pg_attribute
            WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''), '')
        FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind = 'r' AND nspname !~ '^pg_|^information'
        AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype = 'e') ORDER BY 1";
    let mut report = Vec::new();
    for line in server.psql(database, list).unwrap().lines() {
        let mut fields = line.split(' ').map(str::to_owned);
        let mut next = || fields.next().unwrap();
        let name = TableName {
            schema: unhex(&next()),
            table: unhex(&next()),
        };
        let columns: Vec<Vec<u8>> = next().split(',').filter(|c| !c.is_empty()).map(unhex).collect();
        report.push(table(out, server, database, name, &columns));
    }
    report.sort_by(|a, b| a.table.cmp(&b.table));
    report
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

fn table(
    out: &mut Collected,
    server: &PostgresServer,
    database: &str,
    name: TableName,
    columns: &[Vec<u8>],
) -> ReportLine {
    let list: Vec<String> = columns.iter().map(|c| quote(c).unwrap()).collect();
    let list = if list.is_empty() {
        String::new()
    } else {
        format!("({})", list.join(", "))
    };
    let settings = "SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET extra_float_digits = 3;
        SET search_path = ''; SET lc_monetary = 'C'; SET xmlbinary = 'base64'";
    let sql = format!("{settings}; COPY {} {list} TO STDOUT", qualified(&name).unwrap());
    let text = server.psql(database, &sql).unwrap().into_bytes();
    let record = TableRecord {
        columns: columns
            .iter()
            .map(|name| ColumnRecord {
                name: name.clone(),
                type_name: "text".into(),
                identity: Identity::None,
            })
            .collect(),
        ..TableRecord::default()
    };
    let (place, metadata) = (Place::Table(name.clone()), record.to_metadata().unwrap());
    add(out, database.as_bytes(), &place, (EntryKind::Table, metadata, ""));
    let lines: Vec<&[u8]> = text.split_inclusive(|b| *b == b'\n').collect();
    let mut all = RowSum::default();
    for (at, part) in lines.chunks(ROWS).enumerate() {
        let mut sum = RowSum::default();
        for line in part {
            sum.add(RowSum::of_line(line.strip_suffix(b"\n").unwrap()));
        }
        all.add(sum);
        let rows = part.len() as u64;
        let metadata = SegmentRecord { rows, sum }.to_metadata().unwrap();
        let (block, part_number) = (at as u64 * 16, 0);
        let place = Place::Segment(
            name.clone(),
            Segment {
                block,
                part: part_number,
            },
        );
        let head = head(
            key::key(database.as_bytes(), &place),
            EntryKind::Segment,
            metadata,
        );
        insert(out, head, part.concat());
    }
    ReportLine {
        table: name,
        rows: lines.len() as u64,
        bytes: text.len() as u64,
        sum: all,
        how: How::Full,
        why: "made by hand".into(),
        ranges: 1,
        ranges_read: 1,
    }
}

fn large_objects(out: &mut Collected, server: &PostgresServer, database: &str) {
    let list = "SELECT oid || ' ' || lomowner::regrole || ' ' || encode(lo_get(oid), 'hex') || ' ' || coalesce(lomacl::text, '')
        || '|' || coalesce(obj_description(oid, 'pg_largeobject'), '') FROM pg_largeobject_metadata";
    for line in server.psql(database, list).unwrap().lines() {
        let (line, comment) = line.split_once('|').unwrap();
        let fields: Vec<&str> = line.splitn(4, ' ').collect();
        let acl = fields[3]
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'));
        let record = LargeObjectRecord {
            owner: fields[1].as_bytes().to_vec(),
            acl: acl.map(|text| text.split(',').map(str::to_owned).collect()),
            comment: (!comment.is_empty()).then(|| comment.to_owned()),
        };
        let place = Place::LargeObject(fields[0].parse().unwrap());
        let key = key::key(database.as_bytes(), &place);
        let head = head(key, EntryKind::LargeObject, record.to_metadata().unwrap());
        let content = unhex(fields[2]);
        let cut = content.len().min(100_000);
        insert(out, head.clone(), content.clone());
        // Several pieces, zeros as a hole.
        let zeros = content.iter().take_while(|b| **b == 0).count();
        let kept = out.entries.get_mut(&head.key).unwrap();
        kept.pieces = match zeros {
            0 => [&content[..cut], &content[cut..]]
                .iter()
                .filter(|part| !part.is_empty())
                .map(|part| Piece::Data(part.to_vec().into()))
                .collect(),
            n => vec![Piece::Hole(n as u64), Piece::Data(content[n..].to_vec().into())],
        };
    }
}

/// Yields the entries of a snapshot again.
pub(crate) struct Again(pub(crate) Collected);

impl Source for Again {
    fn origin(&self) -> Origin {
        Origin {
            connector: "postgres".into(),
            description: "made by hand".into(),
            version: None,
        }
    }

    fn entries<'a>(&'a mut self, _: &'a Context, _: Arc<dyn Prior>) -> BoxStream<'a, Result<Item>> {
        let entries = std::mem::take(&mut self.0.entries);
        let items = entries.into_values().map(|Kept { head, pieces, .. }| {
            let content = if pieces.is_empty() {
                Content::None
            } else {
                Content::Open(Box::new(Pieces(pieces)))
            };
            Ok(Item::Entry(Entry { head, content }))
        });
        stream::iter(items).boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}
