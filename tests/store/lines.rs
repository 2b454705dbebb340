//! Slow, broken and dead lines to a real server.

use crate::{quick, recorded, retries};
use holdall::error::ErrorKind;
use holdall::event::Recorder;
use holdall::format::layout::ObjectName;
use holdall::store::{Put, Store, StoreOptions};
use holdall::testkit::store_suite::noise;
use holdall::testkit::{SeaweedFs, Throttle, ThrottleOptions};
use std::sync::Arc;
use std::time::{Duration, Instant};

const NAME: ObjectName = ObjectName::Key(3);
const MIB: usize = 1 << 20;

/// A server, a line to it, and a store at the other end of the line.
struct Line {
    server: SeaweedFs,
    proxy: Throttle,
    store: Store,
    recorder: Arc<Recorder>,
}

impl Line {
    async fn new(throttle: ThrottleOptions, change: impl FnOnce(&mut StoreOptions)) -> Self {
        let server = SeaweedFs::start().await.unwrap();
        let proxy = Throttle::start(server.address(), throttle).unwrap();
        let (context, recorder) = recorded();
        let mut options = server.options();
        options.retry = quick();
        options.s3.endpoint = Some(format!("http://{}", proxy.address()));
        change(&mut options);
        let store = Store::open(&server.location("line"), &options, &context).unwrap();
        Self {
            server,
            proxy,
            store,
            recorder,
        }
    }

    /// A store beside the line.
    fn direct(&self) -> Store {
        Store::open(
            &self.server.location("line"),
            &self.server.options(),
            &crate::context(),
        )
        .unwrap()
    }
}

fn stall(seconds: u64) -> impl FnOnce(&mut StoreOptions) {
    move |options| options.timeouts.stall = Duration::from_secs(seconds)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_takes_many_times_the_stall_limit_while_bytes_move() {
    let throttle = ThrottleOptions {
        up: Some(2_000_000),
        ..ThrottleOptions::default()
    };
    // Three seconds, so that a busy machine is not taken for a silent line.
    let line = Line::new(throttle, stall(3)).await;
    let bytes = noise(1, 24 * MIB);
    let begun = Instant::now();
    assert_eq!(
        line.store.put_new(&NAME, bytes.clone()).await.unwrap(),
        Put::Created
    );
    assert!(begun.elapsed() > Duration::from_secs(9), "{:?}", begun.elapsed());
    assert!(retries(&line.recorder).is_empty());
    assert!(line.direct().get(&NAME).await.unwrap() == bytes);
}

/// The promise itself, in full size and with the ordinary limits: about 134 s of waiting, next to no work.
#[tokio::test(flavor = "multi_thread")]
async fn a_pack_of_32_mib_goes_up_through_2_mbit_per_second() {
    let throttle = ThrottleOptions {
        up: Some(250_000),
        down: Some(250_000),
        ..ThrottleOptions::default()
    };
    let line = Line::new(throttle, |_| {}).await;
    let bytes = noise(2, 32 * MIB);
    let begun = Instant::now();
    assert_eq!(
        line.store.put_new(&NAME, bytes.clone()).await.unwrap(),
        Put::Created
    );
    assert!(
        begun.elapsed() > Duration::from_secs(120),
        "{:?}",
        begun.elapsed()
    );
    assert!(retries(&line.recorder).is_empty());
    assert_eq!(line.proxy.connections(), 1);
    assert!(line.direct().get(&NAME).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_takes_many_times_the_stall_limit_while_bytes_move() {
    let throttle = ThrottleOptions {
        down: Some(1_000_000),
        ..ThrottleOptions::default()
    };
    let line = Line::new(throttle, stall(1)).await;
    let bytes = noise(3, 6 * MIB);
    assert_eq!(
        line.direct().put_new(&NAME, bytes.clone()).await.unwrap(),
        Put::Created
    );
    let begun = Instant::now();
    assert!(line.store.get(&NAME).await.unwrap() == bytes);
    assert!(begun.elapsed() > Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(retries(&line.recorder).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_goes_dead_in_an_upload_is_noticed_and_the_upload_repeated() {
    let throttle = ThrottleOptions {
        dead_after_up: Some(MIB as u64),
        disturbed: Some(1),
        ..ThrottleOptions::default()
    };
    let line = Line::new(throttle, stall(1)).await;
    let bytes = noise(4, 16 * MIB);
    assert_eq!(
        line.store.put_new(&NAME, bytes.clone()).await.unwrap(),
        Put::Created
    );
    assert!(!retries(&line.recorder).is_empty());
    assert!(line.direct().get(&NAME).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_stays_dead_leaves_the_outcome_unknown() {
    let throttle = ThrottleOptions {
        dead_after_up: Some(2 * MIB as u64),
        ..ThrottleOptions::default()
    };
    let line = Line::new(throttle, |options| {
        options.timeouts.stall = Duration::from_secs(1);
        options.retry.attempts = 2;
        options.uploads = Some(8);
    })
    .await;
    // Reading back goes through too, as long as it sends little; so the put itself is what keeps failing.
    let error = line
        .store
        .put_new(&NAME, noise(5, 16 * MIB))
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(error.to_string().contains("outcome is unknown"), "{error}");
    assert!(format!("{error:?}").contains("no byte moved"), "{error:?}");
    assert!(line.store.concurrency() < 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_drops_at_99_percent_costs_one_more_upload() {
    let throttle = ThrottleOptions {
        reset_after_up: Some((8 * MIB * 99 / 100) as u64),
        disturbed: Some(1),
        ..ThrottleOptions::default()
    };
    let line = Line::new(throttle, |_| {}).await;
    let bytes = noise(6, 8 * MIB);
    assert_eq!(
        line.store.put_new(&NAME, bytes.clone()).await.unwrap(),
        Put::Created
    );
    assert_eq!(retries(&line.recorder).len(), 1);
    assert!(line.direct().get(&NAME).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_drops_before_the_answer_costs_nothing() {
    let throttle = ThrottleOptions {
        reset_after_down: Some(0),
        disturbed: Some(1),
        ..ThrottleOptions::default()
    };
    let line = Line::new(throttle, |_| {}).await;
    let bytes = noise(7, 2 * MIB);
    assert_eq!(line.store.put_new(&NAME, bytes).await.unwrap(), Put::Mine);
    assert!(
        line.proxy.sent() < 3 * MIB as u64,
        "sent twice: {}",
        line.proxy.sent()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    for dead in [false, true] {
        let after = Some(6 * MIB as u64);
        let throttle = ThrottleOptions {
            reset_after_down: after.filter(|_| !dead),
            dead_after_down: after.filter(|_| dead),
            // The line between is paced a little, so that what was read is known to have arrived.
            down: Some(20_000_000),
            disturbed: Some(1),
            ..ThrottleOptions::default()
        };
        let line = Line::new(throttle, stall(1)).await;
        let bytes = noise(8, 8 * MIB);
        assert_eq!(
            line.direct().put_new(&NAME, bytes.clone()).await.unwrap(),
            Put::Created
        );
        assert!(line.store.get(&NAME).await.unwrap() == bytes);
        assert_eq!(retries(&line.recorder).len(), 1, "dead: {dead}");
        assert_eq!(line.proxy.connections(), 2);
        assert!(
            line.proxy.received() < 9 * MIB as u64,
            "read again from the start: {}",
            line.proxy.received()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_spread_uploads_and_downloads_evenly() {
    let line = Line::new(ThrottleOptions::default(), |options| {
        options.limit_upload = Some(MIB as u64);
        options.limit_download = Some(MIB as u64);
        options.timeouts.stall = Duration::from_secs(1);
    })
    .await;
    let bytes = noise(9, 4 * MIB);
    let begun = Instant::now();
    let mut seen = Vec::new();
    let upload = async {
        assert_eq!(
            line.store.put_new(&NAME, bytes.clone()).await.unwrap(),
            Put::Created
        );
        begun.elapsed()
    };
    let watch = async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            seen.push(line.proxy.sent());
        }
    };
    let took = tokio::select! {
        took = upload => took,
        () = watch => unreachable!(),
    };
    assert!(took > Duration::from_millis(3800), "{took:?}");
    // Half a second's worth each time, neither nothing nor all at once.
    let steps: Vec<u64> = seen.windows(2).map(|w| w[1] - w[0]).collect();
    let (least, most) = (MIB as u64 / 8, MIB as u64);
    assert!(
        steps.len() >= 5 && steps.iter().all(|s| (least..=most).contains(s)),
        "{steps:?}"
    );
    let begun = Instant::now();
    assert!(line.store.get(&NAME).await.unwrap() == bytes);
    assert!(
        begun.elapsed() > Duration::from_millis(3500),
        "{:?}",
        begun.elapsed()
    );
}
