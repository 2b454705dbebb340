//! Rows that several connections write lie among each other: what that costs later.

use crate::restore::{request, restore};
use crate::source::{DURABLE, assert_same_rows, request as source_request, take};
use holdall::connector::postgres::PostgresSource;
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
