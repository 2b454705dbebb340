//! What a careful program does with names, keys, limits and proxies that are not of the ordinary kind.

use crate::{Ran, Sandbox};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

/// Runs the program with arguments that need not be UTF-8.
fn raw(sandbox: &Sandbox, arguments: &[&[u8]]) -> Ran {
    let mut command = sandbox.command(&[]);
    command.args(arguments.iter().map(|a| OsStr::from_bytes(a)));
    Ran::from(command.output().unwrap())
}

#[test]
fn names_that_are_no_text_can_be_listed_read_and_restored() {
    let sandbox = Sandbox::new();
    let directory = sandbox.path("data").join(OsStr::from_bytes(b"d\xff"));
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join(OsStr::from_bytes(b"f\xfe.txt")), "raw\n").unwrap();
    std::fs::write(directory.join("plain"), "plain\n").unwrap();
    sandbox.good(&["snapshot", "data"]);
    let path = [sandbox.data().as_bytes(), b"/d\xff/f\xfe.txt"].concat();

    let listed = sandbox.good(&["ls", "latest", "--recursive", "--json"]).out;
    let lines: Vec<Value> = listed.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let hex = path[1..]
        .iter()
        .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let of_file: Vec<_> = lines.iter().filter(|l| l["path_bytes"] == hex.as_str()).collect();
    assert_eq!(of_file.len(), 1, "{listed}");
    assert!(of_file[0]["path"].as_str().unwrap().contains('\u{fffd}'));
    let plain = lines.iter().find(|l| l["name"] == "hello.txt").unwrap();
    assert!(plain.get("path_bytes").is_none(), "text needs no bytes: {plain}");

    let ran = raw(&sandbox, &[b"cat", b"latest", &path]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "raw\n"), "{}", ran.err);
    let ran = raw(&sandbox, &[b"cat", &[b"latest:", path.as_slice()].concat()]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "raw\n"), "{}", ran.err);
    let ran = raw(
        &sandbox,
        &[
            b"restore",
            b"latest",
            b"--target",
            b"out",
            b"--include",
            b"f\xfe.txt",
        ],
    );
    assert_eq!(ran.code, 0, "{}", ran.err);
    let restored = crate::files_below(&sandbox.path("out"));
    assert_eq!(restored.len(), 1, "{restored:?}");
    assert_eq!(std::fs::read(&restored[0]).unwrap(), b"raw\n");
    let ran = raw(
        &sandbox,
        &[
            b"restore",
            b"latest",
            b"--target",
            b"x",
            b"--include",
            b"*\xfe.txt",
        ],
    );
    assert_eq!(ran.code, 2, "{}", ran.err);
}

#[test]
fn a_selection_that_matches_nothing_is_told() {
    let sandbox = Sandbox::new();
    sandbox.good(&["snapshot", "data"]);
    let ran = sandbox.bad(
        &["restore", "latest", "--target", "out", "--include", "*.nothing"],
        1,
    );
    ran.has_error("nothing in the snapshot matches");
    ran.has_error("*.nothing");
}

#[test]
fn the_key_in_use_is_not_removed_without_a_word() {
    let sandbox = Sandbox::new();
    sandbox.good(&["key", "add", "--generate-key-file", "key2"]);
    sandbox.bad(&["key", "remove", "0"], 14).has_error("--yes");
    sandbox.good(&["list"]);
    sandbox.good(&["key", "remove", "0", "--yes"]);
    sandbox.bad(&["list"], 12);
    sandbox.good(&["list", "--key-file", "key2"]);
}

#[test]
fn a_key_file_that_others_may_read_is_warned_of() {
    let sandbox = Sandbox::new();
    assert!(!sandbox.good(&["list"]).err.contains("chmod"));
    std::fs::set_permissions(sandbox.path("key"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let ran = sandbox.good(&["list"]);
    assert!(
        ran.err.contains("warning: ") && ran.err.contains("chmod 600"),
        "{}",
        ran.err
    );
}

#[test]
fn one_secret_makes_a_repository() {
    let sandbox = Sandbox::empty();
    std::fs::write(sandbox.path("password"), "secret").unwrap();
    let both = [
        "init",
        "--generate-key-file",
        "key",
        "--password-file",
        "password",
    ];
    sandbox.bad(&both, 2).has_error("another is given too");
    assert!(!sandbox.path("key").exists() && !sandbox.path("repo").exists());
}

#[test]
fn a_key_file_of_a_key_that_could_not_be_added_is_gone() {
    let sandbox = Sandbox::new();
    sandbox.good(&["key", "list"]);
    let label = "x".repeat(2000);
    let ran = sandbox.run(&["key", "add", "--generate-key-file", "key2", "--label", &label]);
    assert_ne!(ran.code, 0, "{}", ran.out);
    assert!(
        !sandbox.path("key2").exists(),
        "a key file that opens nothing is left: {}",
        ran.err
    );
    sandbox.good(&["check"]);
}

#[test]
fn texts_over_their_limits_are_refused_before_anything_is_stored() {
    let sandbox = Sandbox::new();
    let before = crate::files_below(&sandbox.path("repo")).len();
    let long = "x".repeat(1025);
    let many: Vec<String> = (0..257).map(|i| format!("t{i}")).collect();
    let many = many.join(",");
    for (flag, value) in [
        ("--project", &long),
        ("--host", &long),
        ("--tag", &long),
        ("--tag", &many),
    ] {
        sandbox
            .bad(&["snapshot", "data", flag, value], 2)
            .has_error("is the most");
    }
    assert_eq!(
        crate::files_below(&sandbox.path("repo")).len(),
        before,
        "a session was begun"
    );
    // A long list of paths is no reason to keep nothing.
    let mut lines = String::new();
    for i in 0..300 {
        let name = format!("data/a-file-with-a-long-name-{i:06}");
        std::fs::write(sandbox.path(&name), "x").unwrap();
        lines.push_str(&name);
        lines.push('\n');
    }
    std::fs::write(sandbox.path("lines"), lines).unwrap();
    let first = sandbox
        .good(&["snapshot", "--files-from", "lines", "--json"])
        .json();
    let second = sandbox
        .good(&["snapshot", "--files-from", "lines", "--json"])
        .json();
    assert_eq!(
        second["parent"], first["snapshot_id"],
        "the same list is the same series"
    );
}

#[test]
fn a_file_in_the_place_of_the_repository_is_10() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("file"), "text").unwrap();
    for place in ["file", "file/below"] {
        let ran = sandbox.bad(&["list", "--repo", place], 10);
        ran.has_error("no such bucket or directory");
        assert!(ran.err.to_lowercase().contains("not a directory"), "{}", ran.err);
    }
}

#[test]
fn a_failing_stream_says_why_once() {
    let sandbox = Sandbox::new();
    let ran = sandbox.bad(&["snapshot", "--stream", "x=sh -c 'echo sorry >&2; exit 3'"], 1);
    let error: Vec<_> = ran
        .err
        .lines()
        .skip_while(|l| !l.starts_with("error: "))
        .collect();
    assert_eq!(
        error.join("\n").matches("exit status: 3").count(),
        1,
        "{}",
        ran.err
    );
}

#[test]
fn what_takes_more_room_than_it_had_is_not_called_smaller() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("tiny"), "x").unwrap();
    let ran = sandbox.good(&["snapshot", "tiny"]);
    assert!(ran.out.contains("as large as read"), "{}", ran.out);
}

/// A proxy that answers nothing; gives the first line of the request that it was asked.
fn asked_of_proxy(sandbox: &Sandbox, endpoint: &str, variables: &[(&str, &str)]) -> Option<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut command = sandbox.command(&["list", "--repo", "s3://bucket/prefix"]);
    command
        .env("HOLDALL_S3_ENDPOINT", endpoint)
        .env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "topsecretvalue");
    for (name, value) in variables {
        command.env(name, value.replace("PROXY", &format!("http://{address}")));
    }
    listener.set_nonblocking(true).unwrap();
    let mut running = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    loop {
        if let Ok((mut connection, _)) = listener.accept() {
            connection.set_nonblocking(false).unwrap();
            let mut bytes = [0; 512];
            let read = connection.read(&mut bytes).unwrap_or(0);
            let _ = connection
                .write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = running.kill();
            running.wait().unwrap();
            let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
            return text.lines().next().map(str::to_owned);
        }
        if running.try_wait().unwrap().is_some() {
            return None;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_proxy_is_chosen_by_the_scheme_of_the_endpoint_as_curl_does() {
    let sandbox = Sandbox::new();
    let (plain, tls) = ("http://127.0.0.1:9", "https://127.0.0.1:9");
    let asked = |endpoint, variables: &[(&str, &str)]| asked_of_proxy(&sandbox, endpoint, variables);
    assert!(
        asked(tls, &[("HTTPS_PROXY", "PROXY")])
            .unwrap()
            .starts_with("CONNECT 127.0.0.1:9 ")
    );
    assert!(
        asked(plain, &[("http_proxy", "PROXY")])
            .unwrap()
            .starts_with("GET http://127.0.0.1:9/")
    );
    assert!(asked(plain, &[("ALL_PROXY", "PROXY")]).is_some());
    for unused in [
        &[("HTTPS_PROXY", "PROXY")][..],
        &[("HTTP_PROXY", "PROXY")],
        &[("http_proxy", "PROXY"), ("no_proxy", "127.0.0.1")],
    ] {
        assert_eq!(asked(plain, unused), None, "{unused:?}");
    }
}

#[test]
fn the_size_of_chunks_is_chosen_at_init_for_each_connector() {
    let sandbox = Sandbox::empty();
    let init = [
        "init",
        "--generate-key-file",
        "key",
        "--no-recovery-phrase",
        "--chunk-size",
    ];
    for wrong in ["100K", "8M", "files=1", "mails=64K", "x"] {
        let ran = sandbox.run(&[&init[..], &[wrong]].concat());
        assert_eq!(ran.code, 2, "{wrong}: {}", ran.err);
        let _ = std::fs::remove_file(sandbox.path("key"));
    }
    sandbox.good(&[&init[..], &["64K", "--chunk-size", "files=1M"]].concat());
    std::fs::write(sandbox.path("large"), crate::noise(8 << 20, 3)).unwrap();
    let blobs = |arguments: &[&str]| sandbox.good(arguments).json()["data_blobs"].as_u64().unwrap();
    let of_file = blobs(&["snapshot", "large", "--json"]);
    let of_stream = blobs(&["snapshot", "--stream", "x=tail -c +2 large", "--json"]);
    assert!((4..24).contains(&of_file), "{of_file}");
    assert!(of_stream > 60, "{of_stream}");
}
