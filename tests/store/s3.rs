//! What only S3 can do wrong: keys, rights, buckets, addresses.

use crate::{context, quick};
use futures::TryStreamExt;
use holdall::error::{Error, ErrorKind};
use holdall::format::layout::{ObjectName, Prefix};
use holdall::store::{Bulk, Location, Put, Secret, Store, StoreOptions, Timeouts};
use holdall::testkit::SeaweedFs;
use holdall::testkit::store_suite::noise;
use std::time::{Duration, Instant};

/// No message, cause or hint holds what must stay secret.
fn keeps_secrets(error: &Error) {
    let text = format!("{error:?} {:?}", error.advice());
    for secret in [
        "cisecret",
        "wrong-secret",
        "Signature=",
        "X-Amz-Credential",
        "Authorization",
    ] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rights_and_buckets_that_do_not_fit_have_their_kinds() {
    let server = SeaweedFs::start().await.unwrap();
    let location = server.location("rights");
    let open =
        |location: &Location, options: &StoreOptions| Store::open(location, options, &context()).unwrap();
    let owner = open(&location, &server.options());
    assert_eq!(
        owner.put_new(&ObjectName::Key(0), noise(1, 1000)).await.unwrap(),
        Put::Created
    );

    let mut options = server.options();
    options.s3.secret_access_key = Some(Secret::new("wrong-secret"));
    let error = open(&location, &options)
        .get(&ObjectName::Key(0))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(error.advice().unwrap().contains("key"), "{error:?}");
    keeps_secrets(&error);

    let reader = open(&location, &server.reader_options());
    assert_eq!(reader.get(&ObjectName::Key(0)).await.unwrap(), noise(1, 1000));
    assert_eq!(
        reader
            .list(Prefix::All)
            .try_collect::<Vec<_>>()
            .await
            .unwrap()
            .len(),
        1
    );
    for error in [
        reader
            .put_new(&ObjectName::Key(1), noise(1, 10))
            .await
            .map(drop)
            .unwrap_err(),
        reader.delete(&ObjectName::Key(0)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
        keeps_secrets(&error);
    }

    let nowhere = open(
        &Location::parse("s3://no-such-bucket/x").unwrap(),
        &server.options(),
    );
    for error in [
        nowhere.get(&ObjectName::Key(0)).await.map(drop).unwrap_err(),
        nowhere
            .put_new(&ObjectName::Key(0), noise(1, 10))
            .await
            .map(drop)
            .unwrap_err(),
        nowhere
            .list(Prefix::All)
            .try_collect::<Vec<_>>()
            .await
            .map(drop)
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NoRepository, "{error:?}");
        assert!(error.to_string().contains("s3://no-such-bucket/x"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_is_unreachable_and_what_was_acknowledged_was_told() {
    let server = SeaweedFs::start().await.unwrap();
    let mut options = server.options();
    options.retry = quick();
    let store = Store::open(&server.location("killed"), &options, &context()).unwrap();
    assert_eq!(
        store.put_new(&ObjectName::Key(0), noise(1, 1000)).await.unwrap(),
        Put::Created
    );
    drop(server);
    let error = store.get(&ObjectName::Key(0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    keeps_secrets(&error);
}

fn nowhere(address: &str) -> StoreOptions {
    let mut options = crate::writable();
    options.s3.endpoint = Some(address.into());
    options.s3.access_key_id = Some("id".into());
    options.s3.secret_access_key = Some(Secret::new("wrong-secret"));
    options.retry.first_contact = 1;
    options.timeouts = Timeouts {
        connect: Duration::from_secs(1),
        ..Timeouts::default()
    };
    options
}

async fn first_error(options: &StoreOptions) -> Error {
    let location = Location::parse("s3://bucket/prefix").unwrap();
    let store = Store::open(&location, options, &context()).unwrap();
    store.get(&ObjectName::Marker).await.unwrap_err()
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_unreachable_at_once() {
    // Bound and closed again: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let begun = Instant::now();
    let error = first_error(&nowhere(&format!("http://127.0.0.1:{port}"))).await;
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(error.advice().unwrap().contains("address"));
    keeps_secrets(&error);
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_unreachable() {
    let error = first_error(&nowhere("http://holdall.invalid")).await;
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
}

#[tokio::test]
async fn an_address_that_swallows_connections_is_unreachable_within_the_time_to_connect() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Fills the queue; from then on the system drops connection requests.
    let mut held = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(
        Duration::from_millis(300),
        tokio::net::TcpStream::connect(address),
    )
    .await
    {
        held.push(stream);
        assert!(held.len() < 100);
    }
    let begun = Instant::now();
    let error = first_error(&nowhere(&format!("http://{address}"))).await;
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(900) && took < Duration::from_secs(3),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_is_unreachable_after_the_stall_limit() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = nowhere(&format!("http://{}", listener.local_addr().unwrap()));
    options.timeouts.stall = Duration::from_secs(1);
    let begun = Instant::now();
    let error = first_error(&options).await;
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(900) && took < Duration::from_secs(4),
        "{took:?}"
    );
}

#[tokio::test]
async fn plain_http_is_used_only_if_the_endpoint_says_so() {
    // An HTTPS endpoint that speaks something else gets no plain request.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = nowhere(&format!("https://{}", listener.local_addr().unwrap()));
    let (error, first) = tokio::join!(first_error(&options), async {
        use tokio::io::AsyncReadExt;
        let (mut client, _) = listener.accept().await.unwrap();
        let mut first = [0; 3];
        client.read_exact(&mut first).await.unwrap();
        first
    });
    assert_eq!(first[0], 0x16, "not the beginning of a TLS handshake");
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_objects_are_deleted_by_one_request_and_those_that_stay_are_named() {
    let server = SeaweedFs::start().await.unwrap();
    let location = server.location("bulk");
    let owner = Store::open(&location, &server.options(), &context()).unwrap();
    let names: Vec<_> = (0..40).map(ObjectName::Ledger).collect();
    for name in &names[..30] {
        assert_eq!(owner.put_new(name, noise(1, 100)).await.unwrap(), Put::Created);
    }
    let objects = async || {
        owner
            .list(Prefix::All)
            .try_collect::<Vec<_>>()
            .await
            .unwrap()
            .len()
    };

    let reader = Store::open(&location, &server.reader_options(), &context()).unwrap();
    let left = reader.delete_in_bulk(&names[..30]).await.unwrap();
    // Some servers refuse the request, some each object.
    assert!(
        left == Bulk::Unknown || left == Bulk::Left(names[..30].to_vec()),
        "{left:?}"
    );
    let error = reader.delete(&names[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    let error = owner.read_only().delete_in_bulk(&names).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(objects().await, 30);

    // Those that are not there are no failure.
    assert!(owner.deletes_in_bulk());
    assert_eq!(
        owner.delete_in_bulk(&names).await.unwrap(),
        Bulk::Left(Vec::new())
    );
    assert!(owner.deletes_in_bulk());
    assert_eq!(objects().await, 0);
}

/// A server that answers one request after another: a status, and a document.
async fn answering(answers: Vec<(u16, String)>) -> StoreOptions {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = nowhere(&format!("http://{}", listener.local_addr().unwrap()));
    tokio::spawn(async move {
        for (status, document) in answers {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"</Delete>") {
                let mut part = [0; 4096];
                let len = client.read(&mut part).await.unwrap();
                assert!(len > 0, "the request broke off");
                request.extend_from_slice(&part[..len]);
            }
            let len = document.len();
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n");
            client.write_all((head + &document).as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
        }
    });
    options
}

/// What S3 answers, objects by name and whether they are gone.
fn told(objects: &[(&ObjectName, bool)]) -> String {
    let object = |(name, gone): &(&ObjectName, bool)| {
        let key = format!("<Key>p/{name}</Key>");
        if *gone {
            format!("<Deleted>{key}</Deleted>")
        } else {
            format!("<Error>{key}<Code>AccessDenied</Code><Message>locked</Message></Error>")
        }
    };
    let objects: String = objects.iter().map(object).collect();
    format!("<DeleteResult>{objects}</DeleteResult>")
}

#[tokio::test]
async fn what_an_answer_says_nothing_of_does_not_count_as_deleted() {
    let names: Vec<_> = (0..3).map(ObjectName::Ledger).collect();
    let whole = told(&[(&names[0], true), (&names[1], false), (&names[2], true)]);
    let short = told(&[(&names[0], true), (&names[2], true)]);
    let failed = "<Error><Code>InternalError</Code></Error>".to_owned();
    let options = answering(vec![(200, whole), (500, failed), (200, short)]).await;
    let location = Location::parse("s3://bucket/p").unwrap();
    let store = Store::open(&location, &options, &context()).unwrap();
    let told = store.delete_in_bulk(&names).await.unwrap();
    assert_eq!(told, Bulk::Left(vec![names[1]]));
    // Of none is it known what became of it, and the next may be asked for at once again.
    assert_eq!(store.delete_in_bulk(&names).await.unwrap(), Bulk::Unknown);
    assert!(store.deletes_in_bulk());
    assert_eq!(store.delete_in_bulk(&names).await.unwrap(), Bulk::Unknown);
    assert!(
        !store.deletes_in_bulk(),
        "a server that answers so is asked for each object"
    );
}
