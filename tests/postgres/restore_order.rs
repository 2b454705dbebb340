//! Rows that several connections write lie among each other: what that costs later; and how they are read back by several.

use crate::handmade;
use crate::restore::{request, restore};
use crate::source::{DURABLE, assert_same_rows, request as source_request, take};
use holdall::connector::postgres::PostgresSource;
use holdall::connector::postgres::key::Place;
use holdall::connector::postgres::record::How;
use holdall::connector::postgres::source::Contents;
use holdall::context::Context;
use holdall::testkit::PostgresServer;
use holdall::testkit::collect::Collected;

#[tokio::test]
async fn what_was_near_each_other_stays_near_and_changes_stay_cheap() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", "CREATE DATABASE shop").unwrap();
    let fill = "CREATE TABLE orders (id int, note text);
        INSERT INTO orders SELECT g, repeat(md5(g::text), 10) FROM generate_series(1, 90000) g";
    server.psql("shop", fill).unwrap();
    let context = Context::deterministic(1).unwrap();
    let mut all = source_request(&server, "shop");
    all.contents = Contents::Database;
    let snapshot = Collected::take(&context, &mut PostgresSource::new(all), None)
        .await
        .unwrap();
    let mut read = Vec::new();
    for jobs in [1, 8] {
        let name = format!("jobs_{jobs}");
        server
            .psql("postgres", &format!("CREATE DATABASE {name}"))
            .unwrap();
        let mut wanted = request(&server.url(&name));
        wanted.jobs = jobs;
        let restored = restore(&snapshot, wanted).await;
        assert_eq!((restored.incidents.len(), restored.summary.compared), (0, 1));
        // Neighbouring segments, some 120 here, go together.
        let sent = server.psql(&name, "SELECT count(DISTINCT xmin::text) FROM orders");
        let sent: u32 = sent.unwrap().trim().parse().unwrap();
        assert!(sent <= 40, "{sent} transactions");
        let source = source_request(&server, &name);
        let first = take(&source, None, 1).await.unwrap();
        // The newest hundredth, as it mostly is.
        let change = "UPDATE orders SET note = 'x' || note WHERE id > 89100";
        server.psql(&name, change).unwrap();
        let second = take(&source, Some(&first), 2).await.unwrap();
        assert_same_rows(&second, &take(&source, None, 3).await.unwrap());
        let line = second.line("orders");
        assert_eq!(line.how, How::Changes, "{line:?}");
        assert!(line.ranges_read * 12 < line.ranges, "{line:?}");
        read.push(line.ranges_read);
    }
    assert!(
        read[1] <= read[0] + 8,
        "ranges read with 1 and with 8 jobs: {read:?}"
    );
}

/// What the server was asked to read back of ranges of a table.
fn stripes(server: &PostgresServer, table: &str) -> usize {
    let log = std::fs::read_to_string(server.socket().join("log")).unwrap();
    let reads =
        |line: &&str| line.contains("COPY (SELECT") && line.contains(table) && line.contains("ctid >=");
    log.lines().filter(reads).count()
}

#[tokio::test]
async fn a_large_table_is_read_back_in_stripes_and_every_row_counts() {
    let server = PostgresServer::start(15, "log_statement = all").unwrap();
    server.psql("postgres", "CREATE DATABASE source").unwrap();
    let fill = "CREATE TABLE large (id int, note text); CREATE TABLE gone (id int, note text);
        INSERT INTO large SELECT g, repeat(md5(g::text), 10) FROM generate_series(1, 3000) g; INSERT INTO gone SELECT * FROM large";
    server.psql("source", fill).unwrap();
    let mut snapshot = handmade::snapshot(&server, "source", "").await;
    let small = |url: &str| {
        let mut request = request(url);
        request.stripe = 100_000;
        request
    };
    server.psql("postgres", "CREATE DATABASE same").unwrap();
    let restored = restore(&snapshot, small(&server.url("same"))).await;
    assert_eq!((restored.incidents.len(), restored.summary.compared), (0, 2));
    assert_eq!(stripes(&server, "large"), 9);
    // In the first stripe and in the last; and a table that is not there any more costs no other its comparison.
    for row in [1, 3000] {
        let change =
            format!("UPDATE public.large SET note = 'other' WHERE id = {row};\nDROP TABLE public.gone;\n");
        handmade::statements(&mut snapshot, b"source", &Place::Constraints, &change);
        let name = format!("other_{row}");
        server
            .psql("postgres", &format!("CREATE DATABASE {name}"))
            .unwrap();
        let restored = restore(&snapshot, small(&server.url(&name))).await;
        let told = restored.incidents.join("\n");
        assert!(
            told.contains("public.large: its rows differ from the snapshot"),
            "{told}"
        );
        assert!(
            told.contains("public.gone: it cannot be compared: 42P01"),
            "{told}"
        );
        assert_eq!(restored.report.unwrap().different, 1, "{told}");
    }
}
