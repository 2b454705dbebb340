//! HTTP for S3: our own client below `object_store`, because uploads must be paced and watched piece by piece, and because
//! failures must keep their status and code.
//!
//! A request may take as long as it likes while bytes move. An upload's bytes are counted when the HTTP layer takes them;
//! what lies in the system's socket buffer after that is watched by the kernel (`TCP_USER_TIMEOUT`).

use super::fault::Fault;
use super::limit::{Limiter, PIECE, lock};
use super::options::{S3Options, Timeouts};
use crate::error::{Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context as Task, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// The most of an upload that the system's socket buffers can hold unseen.
const BUFFERED_MAX: u64 = 8 << 20;
/// The most of an error document that is read.
const ERROR_MAX: usize = 64 << 10;
/// The most of an answer that is read which tells what became of a thousand objects.
const DELETED_MAX: usize = 8 << 20;

/// Sends requests; given to `object_store` as its connector.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    client: reqwest::Client,
    timeouts: Timeouts,
    upload: Option<Arc<Limiter>>,
}

impl Wire {
    pub(crate) fn new(s3: &S3Options, timeouts: Timeouts, upload: Option<Arc<Limiter>>) -> Result<Self> {
        let invalid = |what: &str| Error::new(ErrorKind::Invalid, what);
        let plain = s3.endpoint.as_deref().is_some_and(|e| e.starts_with("http://"));
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("holdall/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(timeouts.connect)
            .https_only(!plain)
            .http1_only()
            // A redirected request would carry a signature for another host; S3 redirects mean a wrong region.
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            // The environment is read by the command line only.
            .no_proxy()
            .tcp_keepalive(Duration::from_secs(15))
            // Servers close idle connections after some 20 s to 60 s; a put on one of those looks like a lost answer.
            .pool_idle_timeout(Duration::from_secs(15));
        #[cfg(target_os = "linux")]
        {
            builder = builder.tcp_user_timeout(timeouts.stall);
        }
        if let Some(pem) = &s3.ca_certificates {
            let certificates = reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|e| invalid("the CA certificates cannot be read").because(e))?;
            if certificates.is_empty() {
                return Err(invalid("the CA certificate file holds no certificate (PEM)"));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        if let Some((url, except)) = &s3.proxy {
            let proxy = reqwest::Proxy::all(url.reveal())
                .map_err(|e| invalid("the proxy's address is not valid").because(e.without_url()))?;
            let except = except.as_deref().and_then(reqwest::NoProxy::from_string);
            builder = builder.proxy(proxy.no_proxy(except));
        }
        let client = builder
            .build()
            .map_err(|e| Error::new(ErrorKind::Internal, "cannot make an HTTP client").because(e))?;
        Ok(Self {
            client,
            timeouts,
            upload,
        })
    }
}

impl HttpConnector for Wire {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let objects = objects_to_delete(&parts.method, parts.uri.query(), &body);
        let transfer = Arc::new(Transfer::new(body.content_length() as u64, self.timeouts));
        let url = reqwest::Url::parse(&parts.uri.to_string())
            .map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let mut out = reqwest::Request::new(parts.method, url);
        *out.headers_mut() = parts.headers;
        if transfer.total > 0 {
            *out.body_mut() = Some(reqwest::Body::wrap(Upload::new(
                body,
                transfer.clone(),
                self.upload.clone(),
            )));
        }
        let answer = tokio::select! {
            biased;
            answer = self.client.execute(out) => answer.map_err(http_error)?,
            () = transfer.stalled() => return Err(self.stall()),
        };
        let (parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
        let body = Download {
            body,
            stall: self.timeouts.stall,
            alarm: None,
        };
        if parts.status.is_success() && objects > 0 {
            return all_told(parts, body, objects).await;
        }
        if parts.status.is_success() {
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)));
        }
        let text = read_some(body).await;
        let tag = |name| between(&text, name).unwrap_or_default();
        let fault = Fault::Status {
            status: parts.status.as_u16(),
            code: tag("Code"),
            message: tag("Message"),
        };
        Err(HttpError::new(HttpErrorKind::Unknown, fault))
    }
}

impl Wire {
    fn stall(&self) -> HttpError {
        HttpError::new(HttpErrorKind::Timeout, Fault::Stalled(self.timeouts.stall))
    }
}

/// How many objects a request asks to be deleted at once; 0 for every other request.
fn objects_to_delete(method: &http::Method, query: Option<&str>, body: &HttpRequestBody) -> usize {
    let is_bulk = method == http::Method::POST && query == Some("delete");
    let text = body.as_bytes().filter(|_| is_bulk);
    text.map_or(0, |text| count(text, b"<Object>"))
}

/// An answer that tells of each object that was to be deleted what became of it. `object_store` takes one that it says nothing of for
/// deleted; one that is too short counts as lost, so that each object is asked for again.
async fn all_told(
    parts: http::response::Parts,
    body: Download,
    objects: usize,
) -> Result<HttpResponse, HttpError> {
    let mut body = pin!(body);
    let mut text = Vec::new();
    while let Some(frame) = std::future::poll_fn(|task| body.as_mut().poll_frame(task)).await {
        text.extend_from_slice(frame?.data_ref().map_or(&[][..], |data| data));
        if text.len() > DELETED_MAX {
            return Err(HttpError::new(HttpErrorKind::Decode, Fault::Silent));
        }
    }
    if count(&text, b"</Deleted>") + count(&text, b"</Error>") < objects {
        return Err(HttpError::new(HttpErrorKind::Decode, Fault::Silent));
    }
    Ok(HttpResponse::from_parts(parts, Bytes::from(text).into()))
}

/// How often `part` stands in `text`.
fn count(text: &[u8], part: &[u8]) -> usize {
    text.windows(part.len()).filter(|window| *window == part).count()
}

/// Reads the beginning of an error document; an answer that breaks off has still told its status.
async fn read_some(body: Download) -> String {
    let mut body = pin!(body);
    let mut text = Vec::new();
    while text.len() < ERROR_MAX {
        match std::future::poll_fn(|task| body.as_mut().poll_frame(task)).await {
            Some(Ok(frame)) => text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Some(Err(_)) | None => break,
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The text of the first `<tag>`, at most 500 characters.
fn between(text: &str, tag: &str) -> Option<String> {
    let start = text.find(&format!("<{tag}>"))? + tag.len() + 2;
    let rest = text.get(start..)?;
    let end = rest.find("</")?;
    Some(rest.get(..end)?.chars().take(500).collect())
}

fn http_error(error: reqwest::Error) -> HttpError {
    let kind = if error.is_connect() {
        HttpErrorKind::Connect
    } else if error.is_timeout() {
        HttpErrorKind::Timeout
    } else {
        // Whatever else breaks may have broken after the server acted.
        HttpErrorKind::Interrupted
    };
    HttpError::new(kind, error.without_url())
}

/// How far an upload is; shared between its body and its watchdog.
struct Transfer {
    total: u64,
    timeouts: Timeouts,
    state: Mutex<Moved>,
}

struct Moved {
    begun: Instant,
    last: Instant,
    bytes: u64,
}

impl Transfer {
    fn new(total: u64, timeouts: Timeouts) -> Self {
        let begun = Instant::now();
        Self {
            total,
            timeouts,
            state: Mutex::new(Moved {
                begun,
                last: begun,
                bytes: 0,
            }),
        }
    }

    /// `bytes` were taken by the HTTP layer.
    fn moved(&self, bytes: u64) {
        let mut state = lock(&self.state);
        state.last = state.last.max(Instant::now());
        state.bytes += bytes;
    }

    /// We ourselves pause until `at`: that is no stall.
    fn pause(&self, at: Instant) {
        let mut state = lock(&self.state);
        state.last = state.last.max(at);
    }

    /// When the request counts as lost, if nothing moves until then.
    fn deadline(&self) -> Instant {
        let state = lock(&self.state);
        let mut wait = self.timeouts.stall;
        if state.bytes >= self.total {
            // All is handed over, but some may lie in buffers: what took long to hand over takes long to arrive.
            let unseen = self.total.min(BUFFERED_MAX) * 1000 / self.timeouts.slowest_line.max(1);
            wait += state.last.saturating_duration_since(state.begun) + Duration::from_millis(unseen);
        }
        state.last + wait
    }

    /// Returns when no byte moved for too long.
    async fn stalled(&self) {
        loop {
            let deadline = self.deadline();
            if deadline <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

/// The body of an upload: pieces of at most [`PIECE`] bytes, each in its turn.
struct Upload {
    source: HttpRequestBody,
    current: Bytes,
    left: u64,
    transfer: Arc<Transfer>,
    limiter: Option<Arc<Limiter>>,
    turn: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    fn new(source: HttpRequestBody, transfer: Arc<Transfer>, limiter: Option<Arc<Limiter>>) -> Self {
        Self {
            source,
            current: Bytes::new(),
            left: transfer.total,
            transfer,
            limiter,
            turn: None,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        while this.current.is_empty() {
            match ready!(Pin::new(&mut this.source).poll_frame(task)) {
                Some(Ok(frame)) => this.current = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let size = this.current.len().min(PIECE);
        if let Some(limiter) = &this.limiter {
            let turn = this.turn.get_or_insert_with(|| {
                let at = limiter.turn(size);
                this.transfer.pause(at);
                Box::pin(tokio::time::sleep_until(at))
            });
            ready!(turn.as_mut().poll(task));
            this.turn = None;
        }
        let piece = this.current.split_to(size);
        this.left = this.left.saturating_sub(size as u64);
        this.transfer.moved(size as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The body of an answer, which fails when nothing arrives for too long while somebody waits for it.
struct Download {
    body: reqwest::Body,
    stall: Duration,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Body for Download {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(task) {
            this.alarm = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(http_error)));
        }
        let stall = this.stall;
        let alarm = this
            .alarm
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(alarm.as_mut().poll(task));
        let fault = HttpError::new(HttpErrorKind::Timeout, Fault::Stalled(stall));
        Poll::Ready(Some(Err(fault)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(total: u64) -> Transfer {
        Transfer::new(total, Timeouts::default())
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_is_lost_when_no_byte_moves_and_not_before() {
        let transfer = transfer(1 << 20);
        let begun = Instant::now();
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(59)).await;
            transfer.moved(1000);
        }
        transfer.stalled().await;
        assert_eq!(begun.elapsed().as_secs(), 590 + 60);
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_may_take_longer_after_a_slow_upload() {
        let slow = transfer(32 << 20);
        tokio::time::sleep(Duration::from_secs(30)).await;
        slow.moved(32 << 20);
        assert_eq!((slow.deadline() - Instant::now()).as_secs(), 60 + 30 + 256);
        let small = transfer(0);
        assert_eq!((small.deadline() - Instant::now()).as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_our_own_is_no_stall() {
        let transfer = transfer(1 << 20);
        transfer.pause(Instant::now() + Duration::from_secs(100));
        assert_eq!((transfer.deadline() - Instant::now()).as_secs(), 160);
    }

    #[test]
    fn error_documents_give_code_and_message() {
        let text = "<?xml?><Error><Code>SlowDown</Code><Message>less</Message></Error>";
        assert_eq!(between(text, "Code").unwrap(), "SlowDown");
        assert_eq!(between(text, "Message").unwrap(), "less");
        assert_eq!(between("<Code>broken", "Code"), None);
    }
}
