//! The servers that the other tests stand on.

use holdall::testkit::PostgresServer;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[test]
fn every_version_starts_stops_and_recovers() {
    for major in [14, 15, 16, 17, 18] {
        let server = PostgresServer::start(major, "").unwrap();
        let version = server.psql("postgres", "SHOW server_version_num").unwrap();
        assert!(version.starts_with(&major.to_string()), "{version}");
        server
            .psql("postgres", "CREATE TABLE t AS SELECT 1 AS a; CHECKPOINT")
            .unwrap();
        server.kill().unwrap();
        assert!(server.psql("postgres", "SELECT 1").is_err(), "it was killed");
        server.control(&["start"]).unwrap();
        server.configure("work_mem = '7MB'").unwrap();
        assert_eq!(server.psql("postgres", "SHOW work_mem").unwrap(), "7MB\n");
        server.restart().unwrap();
        assert_eq!(server.psql("postgres", "SELECT a FROM t").unwrap(), "1\n");
        server.stop("fast").unwrap();
        assert!(server.psql("postgres", "SELECT 1").is_err(), "it was stopped");
    }
}

#[test]
fn a_server_outlives_the_thread_that_started_it() {
    let server = std::thread::scope(|scope| {
        scope
            .spawn(|| PostgresServer::start(15, "").unwrap())
            .join()
            .unwrap()
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.psql("postgres", "SELECT 1").unwrap(), "1\n");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "runs this test again")]
fn a_server_ends_with_a_test_that_is_killed() {
    let mut test = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "servers::waits_with_a_server",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(test.stdout.take().unwrap()).lines();
    let port = lines
        .map(Result::unwrap)
        .find_map(|line| {
            line.split_once("port=")
                .map(|(_, port)| port.parse::<u16>().unwrap())
        })
        .unwrap();
    let reachable = || TcpStream::connect(("127.0.0.1", port)).is_ok();
    assert!(reachable());
    test.kill().unwrap();
    test.wait().unwrap();
    let begun = Instant::now();
    while reachable() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the server lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "the test above runs this one, and kills it"]
#[expect(clippy::print_stdout, reason = "how it tells the port")]
fn waits_with_a_server() {
    let server = PostgresServer::start(15, "").unwrap();
    println!("port={}", server.port());
    std::thread::sleep(Duration::from_secs(60));
}
