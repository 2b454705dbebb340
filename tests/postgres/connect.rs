//! Connections.

use holdall::connector::postgres::connect::Server;
use holdall::context::Context;
use holdall::testkit::PostgresServer;

#[tokio::test]
async fn a_url_reaches_the_database_it_names() {
    let running = PostgresServer::start(15, "").unwrap();
    let context = Context::deterministic(1).unwrap();
    let server = Server::parse(&running.url("postgres")).unwrap();
    let connection = server.connect(&context).await.unwrap();
    let row = connection
        .client()
        .query_one("SELECT current_database()::text", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, String>(0), "postgres");
}
