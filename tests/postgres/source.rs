//! Snapshots of databases, taken without a repository: what a source yields is the parent of the next one.

use futures::StreamExt;
use holdall::connector::Source;
use holdall::connector::postgres::catalog::Filter;
use holdall::connector::postgres::connect::{Server, Surroundings};
use holdall::connector::postgres::key::{self, Place, TableName};
use holdall::connector::postgres::name::parse_table;
use holdall::connector::postgres::record::{ReportLine, decode_report};
use holdall::connector::postgres::source::Contents;
use holdall::connector::postgres::{PostgresRequest, PostgresSource, SessionOptions};
use holdall::context::Context;
use holdall::error::Result;
use holdall::format::entry::ContentRecord;
use holdall::snapshot::entry::{Content, EntryRecord, Item, Key, MemoryPrior, NoPrior, Piece, Prior};
use holdall::testkit::PostgresServer;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What a server needs for ranges to be comparable.
pub(crate) const DURABLE: &str = "fsync = on";

/// What a source yielded.
#[derive(Default)]
pub(crate) struct Taken {
    /// Everything, with contents inside.
    pub(crate) records: Vec<Arc<EntryRecord>>,
    /// What was taken over.
    pub(crate) unchanged: BTreeSet<Key>,
    pub(crate) notes: Vec<String>,
    pub(crate) incidents: Vec<String>,
}

pub(crate) fn request(server: &PostgresServer, database: &str) -> PostgresRequest {
    PostgresRequest {
        server: Server::parse(&server.url(database), &Surroundings::default()).unwrap(),
        jobs: 2,
        filter: Filter::default(),
        contents: Contents::Data,
        all_databases: false,
        pg_dump: None,
        search: Vec::new(),
        session: SessionOptions {
            lock_timeout: Duration::from_secs(10),
            ..SessionOptions::default()
        },
        dry_run: false,
    }
}

/// Takes a snapshot to its end.
pub(crate) async fn take(request: &PostgresRequest, prior: Option<&Taken>, seed: u64) -> Result<Taken> {
    take_beside(request, parent(prior), seed).await
}

pub(crate) async fn take_beside(
    request: &PostgresRequest,
    prior: Arc<dyn Prior>,
    seed: u64,
) -> Result<Taken> {
    let context = Context::deterministic(seed).unwrap();
    let mut source = PostgresSource::new(request.clone());
    let mut taken = Taken::default();
    {
        let mut items = source.entries(&context, prior);
        while let Some(item) = items.next().await {
            taken.add(item?).await?;
        }
    }
    source.finish().await?;
    Ok(taken)
}

pub(crate) fn parent(prior: Option<&Taken>) -> Arc<dyn Prior> {
    match prior {
        None => Arc::new(NoPrior),
        Some(taken) => Arc::new(MemoryPrior {
            started: None,
            entries: taken.records.clone(),
        }),
    }
}

impl Taken {
    pub(crate) async fn add(&mut self, item: Item) -> Result<()> {
        let record = match item {
            Item::Unchanged(prior) => {
                self.unchanged.insert(prior.key().clone());
                prior.record().clone()
            }
            Item::Entry(entry) => {
                let content = read(entry.content).await?;
                Arc::new(EntryRecord {
                    key: entry.head.key,
                    kind: entry.head.kind,
                    metadata: entry.head.metadata,
                    state: entry.head.state,
                    size: content.len() as u64,
                    content: ContentRecord::Inline(content.into()),
                    whole: None,
                })
            }
            Item::Note(text) => {
                self.notes.push(text);
                return Ok(());
            }
            Item::Incident(incident) => {
                self.incidents.push(format!("{}: {}", incident.key, incident.why));
                return Ok(());
            }
        };
        if let Some(last) = self.records.last() {
            assert!(
                last.key < record.key,
                "{} does not follow {}",
                record.key,
                last.key
            );
        }
        self.records.push(record);
        Ok(())
    }

    /// The entries of a table's segments.
    pub(crate) fn segments(&self, table: &str) -> Vec<&Arc<EntryRecord>> {
        let table = parse_table(table).unwrap();
        let of_table = |record: &&Arc<EntryRecord>| matches!(key::parse(&record.key), Some((_, Place::Segment(name, _))) if name == table);
        self.records.iter().filter(of_table).collect()
    }

    /// The rows of a table, as `COPY` writes them.
    pub(crate) fn rows(&self, table: &str) -> String {
        let bytes: Vec<u8> = self
            .segments(table)
            .iter()
            .flat_map(|s| content(s).to_vec())
            .collect();
        String::from_utf8(bytes).unwrap()
    }

    /// How many of a table's segments were read.
    pub(crate) fn read(&self, table: &str) -> usize {
        let segments = self.segments(table);
        segments
            .iter()
            .filter(|s| !self.unchanged.contains(&s.key))
            .count()
    }

    pub(crate) fn report(&self) -> Vec<ReportLine> {
        let is_report = |r: &&Arc<EntryRecord>| matches!(key::parse(&r.key), Some((_, Place::Report)));
        decode_report(content(self.records.iter().find(is_report).unwrap())).unwrap()
    }

    pub(crate) fn line(&self, table: &str) -> ReportLine {
        let table = parse_table(table).unwrap();
        self.report()
            .into_iter()
            .find(|line| line.table == table)
            .unwrap()
    }

    /// The text of an entry of statements.
    pub(crate) fn statements(&self, place: &Place) -> Option<String> {
        let here = |r: &&Arc<EntryRecord>| key::parse(&r.key).is_some_and(|(_, found)| found == *place);
        let record = self.records.iter().find(here)?;
        Some(String::from_utf8(content(record).to_vec()).unwrap())
    }

    pub(crate) fn tables(&self) -> Vec<TableName> {
        let name = |r: &Arc<EntryRecord>| match key::parse(&r.key) {
            Some((_, Place::Table(name))) => Some(name),
            _ => None,
        };
        self.records.iter().filter_map(name).collect()
    }
}

pub(crate) fn content(record: &EntryRecord) -> &[u8] {
    match &record.content {
        ContentRecord::Inline(bytes) => bytes,
        _ => panic!("contents are kept inside here"),
    }
}

async fn read(content: Content) -> Result<Vec<u8>> {
    let mut pieces = content.open().await?;
    let mut out = Vec::new();
    while let Some(piece) = pieces.next().await {
        match piece? {
            Piece::Data(bytes) => out.extend(bytes),
            Piece::Hole(_) => panic!("databases have no holes"),
        }
    }
    Ok(out)
}

/// Fails unless two snapshots of one moment hold the same rows, however they were read.
pub(crate) fn assert_same_rows(left: &Taken, right: &Taken) {
    let (left_lines, right_lines) = (left.report(), right.report());
    assert_eq!(left_lines.len(), right_lines.len());
    for (a, b) in left_lines.iter().zip(&right_lines) {
        let name = a.table.to_string();
        assert_eq!(
            left.rows(&name),
            right.rows(&name),
            "rows of {name}, {a:?} and {b:?}"
        );
        assert_eq!((a.rows, a.bytes, a.sum), (b.rows, b.bytes, b.sum), "{name}");
    }
}

#[tokio::test]
async fn a_snapshot_has_every_row_and_says_so() {
    let server = PostgresServer::start(15, "").unwrap();
    let fill = "CREATE TABLE orders (id int PRIMARY KEY, note text);
        INSERT INTO orders SELECT g, 'note ' || g FROM generate_series(1, 30000) g; CREATE TABLE none (a int);";
    server.psql("postgres", fill).unwrap();
    let taken = take(&request(&server, "postgres"), None, 1).await.unwrap();
    let lines: Vec<String> = (1..=30000).map(|i| format!("{i}\tnote {i}\n")).collect();
    let expected = lines.concat();
    assert_eq!(taken.rows("orders"), expected);
    assert_eq!(taken.tables().len(), 2);
    let line = taken.line("orders");
    assert_eq!((line.rows, line.bytes), (30000, expected.len() as u64));
    assert_eq!(line.ranges, taken.segments("orders").len() as u64);
    assert!(line.ranges > 1, "{line:?}");
    assert_eq!((taken.line("none").rows, taken.read("none")), (0, 0));
    // The test's server may lose what it showed: nothing of this is ever compared.
    assert!(
        taken.notes.iter().any(|note| note.contains("fsync")),
        "{:?}",
        taken.notes
    );
    let again = take(&request(&server, "postgres"), Some(&taken), 2)
        .await
        .unwrap();
    assert!(again.unchanged.is_empty());
    assert_same_rows(&taken, &again);
}

#[tokio::test]
async fn a_dry_run_reads_no_rows_and_tells_what_would_be_read() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    let fill =
        "CREATE TABLE orders AS SELECT g AS id, repeat('x', 100) AS note FROM generate_series(1, 30000) g";
    server.psql("postgres", fill).unwrap();
    let mut request = request(&server, "postgres");
    let first = take(&request, None, 1).await.unwrap();
    server
        .psql("postgres", "UPDATE orders SET note = 'y' WHERE id = 1")
        .unwrap();
    request.dry_run = true;
    let dry = take(&request, Some(&first), 2).await.unwrap();
    assert!(dry.rows("orders").len() < first.rows("orders").len());
    assert!((1..=2).contains(&dry.read("orders")), "{}", dry.read("orders"));
}

#[tokio::test]
async fn statements_surround_the_data_in_one_snapshot() {
    let server = PostgresServer::start(15, "").unwrap();
    let fill = "CREATE TABLE orders (id serial PRIMARY KEY, note text); INSERT INTO orders (note) VALUES ('a'), ('b');
        CREATE VIEW noted AS SELECT note FROM orders; CREATE MATERIALIZED VIEW kept AS SELECT * FROM orders;
        SELECT lo_from_bytea(4711, '\\x00ff'); CREATE ROLE reader;";
    server.psql("postgres", fill).unwrap();
    let mut request = request(&server, "postgres");
    request.contents = Contents::Database;
    let taken = take(&request, None, 1).await.unwrap();
    let has = |place: &Place, text: &str| {
        let statements = taken.statements(place).unwrap_or_default();
        assert!(statements.contains(text), "{place:?}: {statements}");
    };
    has(&Place::Globals, "reader");
    has(&Place::Schema, "CREATE TABLE public.orders");
    has(&Place::Sequences, "orders_id_seq");
    has(&Place::Constraints, "PRIMARY KEY");
    has(&Place::Refresh, "REFRESH MATERIALIZED VIEW public.kept");
    let object = key::key(b"postgres", &Place::LargeObject(4711));
    let object = taken.records.iter().find(|r| r.key == object).unwrap();
    assert_eq!(content(object), [0, 0xff]);
    request.contents = Contents::Schema;
    let schema = take(&request, None, 1).await.unwrap();
    assert!(schema.tables().is_empty());
    assert_eq!(
        schema.statements(&Place::Schema),
        taken.statements(&Place::Schema)
    );
}

#[tokio::test]
async fn all_databases_of_a_server_are_read_in_order() {
    let server = PostgresServer::start(15, "").unwrap();
    for name in ["b", "a", "\"A b\""] {
        server
            .psql("postgres", &format!("CREATE DATABASE {name}"))
            .unwrap();
    }
    server.psql("A b", "CREATE TABLE t AS SELECT 1").unwrap();
    let mut request = request(&server, "postgres");
    request.all_databases = true;
    let taken = take(&request, None, 1).await.unwrap();
    let is_database = |r: &Arc<EntryRecord>| match key::parse(&r.key) {
        Some((name, Place::Database)) => Some(String::from_utf8(name).unwrap()),
        _ => None,
    };
    let names: Vec<String> = taken.records.iter().filter_map(is_database).collect();
    assert_eq!(names, ["A b", "a", "b", "postgres"]);
    assert_eq!(taken.tables().len(), 1);
}

#[tokio::test]
async fn databases_that_do_not_let_the_role_in_are_told_and_the_others_kept() {
    let server = PostgresServer::start(15, "").unwrap();
    for name in ["closed", "open"] {
        server
            .psql("postgres", &format!("CREATE DATABASE {name}"))
            .unwrap();
        server
            .psql(name, "CREATE TABLE t AS SELECT 1; GRANT SELECT ON t TO PUBLIC")
            .unwrap();
    }
    let close = "CREATE ROLE reader LOGIN; REVOKE CONNECT ON DATABASE closed FROM PUBLIC";
    server.psql("postgres", close).unwrap();
    let mut request = request(&server, "postgres");
    let url = server.url("postgres").replace("postgres@", "reader@");
    request.server = Server::parse(&url, &Surroundings::default()).unwrap();
    request.all_databases = true;
    let taken = take(&request, None, 1).await.unwrap();
    assert_eq!(taken.incidents.len(), 1, "{:?}", taken.incidents);
    assert!(taken.incidents[0].contains("closed") && taken.incidents[0].contains("may not connect"));
    assert_eq!(taken.tables().len(), 1);

    // If none lets it in, that is no snapshot.
    let close =
        "REVOKE CONNECT ON DATABASE open, template1 FROM PUBLIC; ALTER DATABASE open ALLOW_CONNECTIONS false";
    server.psql("postgres", close).unwrap();
    server.admit("host postgres reader 127.0.0.1/32 trust").unwrap();
    let taken = take(&request, None, 1).await.unwrap();
    assert_eq!(taken.incidents.len(), 1, "{:?}", taken.incidents);
}

#[tokio::test]
async fn a_series_of_snapshots_is_of_one_choice() {
    let server = PostgresServer::start(15, "").unwrap();
    let request = request(&server, "postgres");
    let description = |change: fn(&mut PostgresRequest)| {
        let mut request = request.clone();
        change(&mut request);
        PostgresSource::new(request).origin().description
    };
    let all = description(|r| r.contents = Contents::Database);
    assert_eq!(all, request.server.description());
    let changes: [fn(&mut PostgresRequest); 6] = [
        |_| {},
        |r| r.contents = Contents::Schema,
        |r| r.filter.tables = vec!["a".into(), "b".into()],
        |r| r.filter.exclude_tables = vec!["a".into(), "b".into()],
        |r| r.filter.user_schemas_only = true,
        |r| r.filter.tables = (0..1000).map(|i| format!("table_{i}")).collect(),
    ];
    let mut seen = BTreeSet::from([all]);
    for change in changes {
        let description = description(change);
        assert!(description.len() < 2000 && seen.insert(description));
    }
    let turned = description(|r| r.filter.tables = vec!["b".into(), "a".into(), "b".into()]);
    assert!(seen.contains(&turned), "{turned}");
}
