//! A line to an HTTP server on which requests go wrong in the ways that a busy service and a bad network have.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// 503 `SlowDown`; the server never sees the request.
    SlowDown,
    /// 429; the server never sees the request.
    TooMany,
    /// 500 `InternalError`, though the server did what was asked.
    Internal,
    /// 504 of a gateway in front, with a page that is no XML, though the server did what was asked.
    Gateway,
    /// The connection is reset in the middle of the request.
    CutBefore,
    /// The connection is reset instead of the answer: the server did what was asked.
    CutAfter,
    /// The connection is reset in the middle of the answer.
    Half,
    /// The server did what was asked, and the answer never comes.
    Swallowed,
    /// The answer comes a third of a second late.
    Late,
}

/// All of them, in the order in which they are dealt.
const ALL: [Trouble; 9] = [
    Trouble::SlowDown,
    Trouble::CutAfter,
    Trouble::Late,
    Trouble::TooMany,
    Trouble::Internal,
    Trouble::Half,
    Trouble::CutBefore,
    Trouble::Gateway,
    Trouble::Swallowed,
];

/// No head and no body of these tests is larger, in bytes.
const MESSAGE_MAX: usize = 64 << 20;

/// A proxy on a free loopback port; gone when dropped. Each request gets a connection of its own to the server.
pub struct FaultyLine {
    address: SocketAddr,
    dealt: Arc<Mutex<Dealt>>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Dealt {
    one_in: u64,
    seed: u64,
    requests: u64,
    troubles: BTreeMap<Trouble, u64>,
    heads: Vec<String>,
}

impl FaultyLine {
    /// A line to `server` on which about one request in `one_in` goes wrong; which ones follows from `seed`.
    ///
    /// # Errors
    /// If no port can be listened on.
    pub fn start(server: SocketAddr, seed: u64, one_in: u64) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(64)?;
        let address = listener.local_addr()?;
        let dealt = Arc::new(Mutex::new(Dealt {
            one_in,
            seed,
            ..Dealt::default()
        }));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, server, Arc::clone(&dealt)));
        Ok(Self {
            address,
            dealt,
            _tasks: tasks,
        })
    }

    /// Where clients connect to: `http://host:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many requests came, and how often each trouble was dealt.
    pub fn dealt(&self) -> (u64, BTreeMap<Trouble, u64>) {
        let dealt = self.dealt.lock().unwrap_or_else(PoisonError::into_inner);
        (dealt.requests, dealt.troubles.clone())
    }

    /// The request lines and headers that came, in lower case.
    pub fn heads(&self) -> Vec<String> {
        let dealt = self.dealt.lock().unwrap_or_else(PoisonError::into_inner);
        dealt.heads.clone()
    }
}

impl Dealt {
    fn next(&mut self, head: &[u8]) -> Option<Trouble> {
        self.heads.push(String::from_utf8_lossy(head).to_lowercase());
        self.requests += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(&self.requests.to_le_bytes());
        let mut drawn = [0; 8];
        hasher.finalize_xof().fill(&mut drawn);
        if u64::from_le_bytes(drawn) % self.one_in.max(1) != 0 {
            return None;
        }
        // Each in turn, so that a short run meets all of them.
        let so_far: u64 = self.troubles.values().sum();
        let trouble = ALL[usize::try_from(so_far).unwrap_or(0) % ALL.len()];
        *self.troubles.entry(trouble).or_default() += 1;
        Some(trouble)
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, dealt: Arc<Mutex<Dealt>>) {
    let mut tasks = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while tasks.try_join_next().is_some() {}
        let dealt = Arc::clone(&dealt);
        // What breaks here breaks the client's request, which is what it is for.
        tasks.spawn(async move { drop(one_request(client, server, &dealt).await) });
    }
}

/// Carries one request, and closes the connection.
async fn one_request(mut client: TcpStream, server: SocketAddr, dealt: &Mutex<Dealt>) -> io::Result<()> {
    let mut request = Vec::new();
    let head = loop {
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if client.read_buf(&mut request).await? == 0 || request.len() > MESSAGE_MAX {
            return Ok(());
        }
    };
    let whole = head + length(&request[..head])?;
    let trouble = dealt
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .next(&request[..head]);
    let enough = if trouble == Some(Trouble::CutBefore) {
        head + (whole - head) / 2
    } else {
        whole
    };
    while request.len() < enough {
        if client.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    match trouble {
        Some(Trouble::CutBefore) => return client.set_zero_linger(),
        Some(Trouble::SlowDown) => return answer(client, "503 Slow Down", "SlowDown").await,
        Some(Trouble::TooMany) => return answer(client, "429 Too Many Requests", "").await,
        _ => {}
    }
    let response = ask(server, &request, head).await?;
    match trouble {
        Some(Trouble::Internal) => answer(client, "500 Internal Server Error", "InternalError").await,
        Some(Trouble::Gateway) => answer(client, "504 Gateway Timeout", "").await,
        Some(Trouble::CutAfter) => client.set_zero_linger(),
        Some(Trouble::Half) => {
            client.write_all(&response[..response.len() / 2]).await?;
            client.flush().await
        }
        Some(Trouble::Swallowed) => {
            // Until the client gives up.
            let mut rest = [0; 1];
            client.read(&mut rest).await.map(drop)
        }
        _ => {
            if trouble == Some(Trouble::Late) {
                tokio::time::sleep(Duration::from_millis(333)).await;
            }
            client.write_all(&response).await?;
            client.shutdown().await
        }
    }
}

/// The server's answer, whole. It is told to close the connection, so that its end is the answer's.
async fn ask(server: SocketAddr, request: &[u8], head: usize) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(server).await?;
    let (first, rest) = request.split_at(head - 2);
    server.write_all(first).await?;
    server.write_all(b"Connection: close\r\n").await?;
    server.write_all(rest).await?;
    let mut response = Vec::new();
    server.read_to_end(&mut response).await?;
    Ok(response)
}

/// The length of the body.
fn length(head: &[u8]) -> io::Result<usize> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let head = std::str::from_utf8(head).map_err(|_| wrong("not text"))?;
    let mut length = 0;
    for line in head.lines() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(|_| wrong("no length"))?;
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(wrong("a body without a length"));
        }
    }
    if length > MESSAGE_MAX {
        Err(wrong("too long"))
    } else {
        Ok(length)
    }
}

async fn answer(mut client: TcpStream, status: &str, code: &str) -> io::Result<()> {
    let body = if code.is_empty() {
        "<html><body>not now</body></html>".to_owned()
    } else {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>not now</Message></Error>"
        )
    };
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    client.write_all(text.as_bytes()).await?;
    client.shutdown().await
}
