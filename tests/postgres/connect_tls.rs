//! Every `sslmode` against every kind of certificate, beside what psql does with the same parameters.

use crate::connect::{ask, psql, told};
use holdall::connector::postgres::connect::{Connection, Server, Surroundings};
use holdall::context::Context;
use holdall::error::{ErrorKind, Result};
use holdall::testkit::PostgresServer;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const SSL: &str = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

/// An authority of its own.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters
        .distinguished_name
        .push(DnType::CommonName, "an authority");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for a name, and its key, as PEM.
fn issued(by: &CertifiedIssuer<'_, KeyPair>, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, name);
    let certificate = parameters.signed_by(&key, by).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn self_signed(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, name);
    (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn serve(running: &PostgresServer, (certificate, key): &(String, String)) {
    running.install("server.crt", certificate).unwrap();
    running.install("server.key", key).unwrap();
    running.configure("ssl = on").unwrap();
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs_err::write(&path, text).unwrap();
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

async fn connect(text: &str) -> Result<Connection> {
    let context = Context::deterministic(1).unwrap();
    Server::parse(text, &Surroundings::default())?
        .connect(&context)
        .await
}

/// `tls`, `plain`, or the words of the error; and psql must come to the same end.
async fn outcome(text: &str) -> String {
    let ours = match connect(text).await {
        Ok(connection) if ask(&connection, SSL).await == "true" => "tls".to_owned(),
        Ok(_) => "plain".to_owned(),
        Err(error) => told(&error),
    };
    let server = Server::parse(text, &Surroundings::default()).unwrap();
    let theirs = psql(&server.child_environment(), SSL);
    let theirs = match theirs.as_deref() {
        Ok("true\n") => "tls",
        Ok(_) => "plain",
        Err(_) => "error",
    };
    let class = if ours == "tls" || ours == "plain" {
        &ours
    } else {
        "error"
    };
    assert_eq!(class, theirs, "{text}: {ours}");
    ours
}

const MODES: [&str; 6] = [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

#[tokio::test]
async fn every_sslmode_means_what_it_means_to_libpq() {
    let running = PostgresServer::start(15, "").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (authority(), authority());
    let root = write(dir.path(), "root.crt", &ours.pem());
    let missing = dir.path().join("missing.crt").display().to_string();
    let (not_trusted, name, no_tls, no_root) = (
        "is not trusted",
        "for another name",
        "offers no TLS",
        "is not there",
    );
    let certificates = [
        (None, ["plain", "plain", "plain", no_tls, no_tls, no_tls]),
        (
            Some(issued(&ours, "localhost")),
            ["plain", "plain", "tls", "tls", "tls", "tls"],
        ),
        (
            Some(issued(&ours, "elsewhere.test")),
            ["plain", "plain", "tls", "tls", "tls", name],
        ),
        (
            Some(issued(&other, "localhost")),
            ["plain", "plain", "plain", not_trusted, not_trusted, not_trusted],
        ),
        (
            Some(self_signed("localhost")),
            ["plain", "plain", "plain", not_trusted, not_trusted, not_trusted],
        ),
    ];
    for (certificate, expected) in certificates {
        if let Some(certificate) = &certificate {
            serve(&running, certificate);
        }
        for (mode, expected) in MODES.iter().zip(expected) {
            let text = format!(
                "host=localhost hostaddr=127.0.0.1 port={} user=postgres dbname=postgres sslmode={mode}",
                running.port()
            );
            let found = outcome(&format!("{text} sslrootcert={root}")).await;
            assert!(found.contains(expected), "{mode}: {expected} / {found}");
            // Without trusted certificates the weaker modes encrypt, and the others cannot begin.
            let expected = match *mode {
                "disable" | "allow" => "plain",
                "prefer" if certificate.is_none() => "plain",
                "require" if certificate.is_none() => no_tls,
                "prefer" | "require" => "tls",
                _ => no_root,
            };
            let found = outcome(&format!("{text} sslrootcert={missing}")).await;
            assert!(found.contains(expected), "{mode} without: {expected} / {found}");
        }
    }
}

#[tokio::test]
async fn a_server_that_insists_gets_tls_from_allow_and_the_refusal_says_so() {
    let running = PostgresServer::start(15, "").unwrap();
    let (ours, dir) = (authority(), tempfile::tempdir().unwrap());
    serve(&running, &issued(&ours, "127.0.0.1"));
    let root = write(dir.path(), "root.crt", &ours.pem());
    let url = |rest: &str| format!("{}?{rest}", running.url("postgres"));
    running.admit("hostssl all all 127.0.0.1/32 trust").unwrap();
    assert_eq!(outcome(&url("sslmode=allow")).await, "tls");
    assert_eq!(outcome(&url("sslmode=prefer")).await, "tls");
    assert_eq!(
        outcome(&url(&format!("sslmode=verify-full&sslrootcert={root}"))).await,
        "tls"
    );
    let refused = outcome(&url("sslmode=disable")).await;
    assert!(
        refused.contains("without TLS") && refused.contains("sslmode=require"),
        "{refused}"
    );
    // With a wrong root, `prefer` falls back and is refused there: what is told is why TLS failed.
    let wrong = write(dir.path(), "wrong.crt", &authority().pem());
    let refused = outcome(&url(&format!("sslmode=prefer&sslrootcert={wrong}"))).await;
    assert!(refused.contains("is not trusted"), "{refused}");
    // The other way round: `prefer` gives up TLS when the server's rules want that.
    running.admit("hostnossl all all 127.0.0.1/32 trust").unwrap();
    assert_eq!(outcome(&url("sslmode=prefer")).await, "plain");
    let refused = outcome(&url("sslmode=require")).await;
    assert!(refused.contains("pg_hba.conf"), "{refused}");
    // A self-signed certificate may be its own root.
    running.admit("host all all 127.0.0.1/32 trust").unwrap();
    let own = self_signed("127.0.0.1");
    serve(&running, &own);
    let root = write(dir.path(), "own.crt", &own.0);
    assert_eq!(
        outcome(&url(&format!("sslmode=verify-full&sslrootcert={root}"))).await,
        "tls"
    );
    let other = self_signed("127.0.0.2");
    serve(&running, &other);
    let root = write(dir.path(), "other.crt", &other.0);
    assert_eq!(
        outcome(&url(&format!("sslmode=verify-ca&sslrootcert={root}"))).await,
        "tls"
    );
    let refused = outcome(&url(&format!("sslmode=verify-full&sslrootcert={root}"))).await;
    assert!(refused.contains("for another name"), "{refused}");
}

#[tokio::test]
async fn a_client_shows_its_certificate() {
    let running = PostgresServer::start(15, "").unwrap();
    running.psql("postgres", "CREATE ROLE app LOGIN").unwrap();
    let (ours, dir) = (authority(), tempfile::tempdir().unwrap());
    serve(&running, &issued(&ours, "127.0.0.1"));
    running.install("ca.crt", &ours.pem()).unwrap();
    running.configure("ssl_ca_file = 'ca.crt'").unwrap();
    running.admit("hostssl all app 127.0.0.1/32 cert").unwrap();
    let (certificate, key) = issued(&ours, "app");
    let (certificate, key) = (
        write(dir.path(), "app.crt", &certificate),
        write(dir.path(), "app.key", &key),
    );
    let url = |rest: &str| format!("postgres://app@127.0.0.1:{}/postgres?{rest}", running.port());
    let shown = url(&format!("sslmode=require&sslcert={certificate}&sslkey={key}"));
    assert_eq!(outcome(&shown).await, "tls");
    let refused = outcome(&url("sslmode=require")).await;
    assert!(refused.contains("client certificate"), "{refused}");
    let (stranger, stranger_key) = issued(&authority(), "app");
    let (stranger, stranger_key) = (
        write(dir.path(), "stranger.crt", &stranger),
        write(dir.path(), "stranger.key", &stranger_key),
    );
    let refused = outcome(&url(&format!(
        "sslmode=require&sslcert={stranger}&sslkey={stranger_key}"
    )))
    .await;
    assert!(refused.contains("certificate"), "{refused}");
    fs_err::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = connect(&shown).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.advice().unwrap().contains("chmod 600"));
}

#[tokio::test]
async fn a_password_is_bound_to_the_channel_where_that_is_asked_for() {
    let running = PostgresServer::start(15, "").unwrap();
    running
        .psql("postgres", "CREATE ROLE app LOGIN PASSWORD 'hunter2'")
        .unwrap();
    serve(&running, &issued(&authority(), "127.0.0.1"));
    running
        .admit("host all app 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust")
        .unwrap();
    let url = |role: &str, rest: &str| {
        format!(
            "postgres://{role}:hunter2@127.0.0.1:{}/postgres?channel_binding=require&{rest}",
            running.port()
        )
    };
    assert_eq!(outcome(&url("app", "sslmode=require")).await, "tls");
    for refused in [url("app", "sslmode=disable"), url("postgres", "sslmode=require")] {
        let words = outcome(&refused).await;
        assert!(words.contains("bind the password"), "{words}");
        assert!(!words.contains("hunter2"));
    }
}

#[tokio::test]
async fn tls_may_begin_with_the_first_byte() {
    let running = PostgresServer::start(17, "").unwrap();
    serve(&running, &issued(&authority(), "127.0.0.1"));
    let url = format!(
        "{}?sslnegotiation=direct&sslmode=require",
        running.url("postgres")
    );
    let connection = connect(&url).await.unwrap();
    assert_eq!(ask(&connection, SSL).await, "true");
    let token = connection.cancel_token();
    let sleep = connection.client().simple_query("SELECT pg_sleep(60)");
    let cancel = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        token.cancel().await.unwrap();
    };
    let (ended, ()) = futures::join!(sleep, cancel);
    assert_eq!(ended.unwrap_err().code().unwrap().code(), "57014");
    let weak = Server::parse(
        &format!("{}?sslnegotiation=direct", running.url("postgres")),
        &Surroundings::default(),
    );
    assert_eq!(weak.unwrap_err().kind(), ErrorKind::Invalid);
}
