//! A line between a client and a server that is slow, breaks off, or goes dead.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What the line does to each connection.
#[derive(Clone, Debug, Default)]
pub struct ThrottleOptions {
    /// Bytes per second from client to server, all connections together.
    pub up: Option<u64>,
    /// Bytes per second from server to client, all connections together.
    pub down: Option<u64>,
    /// The connection is reset after so many bytes from client to server.
    pub reset_after_up: Option<u64>,
    /// The connection is reset after so many bytes from server to client.
    pub reset_after_down: Option<u64>,
    /// Nothing moves after so many bytes from client to server, but the connection stays.
    pub dead_after_up: Option<u64>,
    /// Nothing moves after so many bytes from server to client, but the connection stays.
    pub dead_after_down: Option<u64>,
    /// Only the first so many connections are disturbed by resets and dead lines; the later ones are only slow.
    pub disturbed: Option<u64>,
}

/// A TCP proxy on a free loopback port; gone when dropped.
pub struct Throttle {
    address: SocketAddr,
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

/// Small buffers, so that the sender feels the line at once and not when megabytes lie in the kernel.
const BUFFER: u32 = 32 << 10;

impl Throttle {
    /// A line to `server`.
    ///
    /// # Errors
    /// If no port can be listened on.
    pub fn start(server: SocketAddr, options: ThrottleOptions) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(BUFFER)?;
        socket.set_send_buffer_size(BUFFER)?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(64)?;
        let address = listener.local_addr()?;
        let (up, down, connections) = (Arc::default(), Arc::default(), Arc::default());
        let mut tasks = JoinSet::new();
        let counts = Counts {
            up: Arc::clone(&up),
            down: Arc::clone(&down),
            connections: Arc::clone(&connections),
        };
        tasks.spawn(accept(listener, server, options, counts));
        Ok(Self {
            address,
            up,
            down,
            connections,
            _tasks: tasks,
        })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that went from clients to the server.
    pub fn sent(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// Bytes that went from the server to clients.
    pub fn received(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

struct Counts {
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
}

async fn accept(listener: TcpListener, server: SocketAddr, options: ThrottleOptions, counts: Counts) {
    let mut tasks = JoinSet::new();
    let up = Arc::new(Pace::new(options.up));
    let down = Arc::new(Pace::new(options.down));
    while let Ok((client, _)) = listener.accept().await {
        let number = counts.connections.fetch_add(1, Ordering::Relaxed);
        let Ok(server) = TcpStream::connect(server).await else {
            continue;
        };
        let mut options = options.clone();
        if options.disturbed.is_some_and(|most| number >= most) {
            options.reset_after_up = None;
            options.reset_after_down = None;
            options.dead_after_up = None;
            options.dead_after_down = None;
        }
        let (up, down) = (up.clone(), down.clone());
        let (sent, received) = (counts.up.clone(), counts.down.clone());
        tasks.spawn(async move {
            let (client_in, client_out) = client.into_split();
            let (server_in, server_out) = server.into_split();
            let forth = Half {
                pace: up,
                reset: options.reset_after_up,
                dead: options.dead_after_up,
                count: sent,
            };
            let back = Half {
                pace: down,
                reset: options.reset_after_down,
                dead: options.dead_after_down,
                count: received,
            };
            // A reset of one half drops both connections.
            tokio::select! {
                () = forth.run(client_in, server_out) => {}
                () = back.run(server_in, client_out) => {}
            }
        });
    }
}

struct Half {
    pace: Arc<Pace>,
    reset: Option<u64>,
    dead: Option<u64>,
    count: Arc<AtomicU64>,
}

impl Half {
    /// Returns when the connection is over or to be reset.
    async fn run(self, mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin) {
        let mut buffer = vec![0; 8 << 10];
        let mut moved = 0;
        while let Ok(read) = from.read(&mut buffer).await {
            if read == 0 {
                return;
            }
            self.pace.wait(read).await;
            moved += read as u64;
            self.count.fetch_add(read as u64, Ordering::Relaxed);
            if self.reset.is_some_and(|after| moved > after) {
                return;
            }
            if self.dead.is_some_and(|after| moved > after) {
                std::future::pending::<()>().await;
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }
}

/// Bytes per second, shared by all connections of one direction.
struct Pace {
    rate: Option<u64>,
    next: tokio::sync::Mutex<Option<Instant>>,
}

impl Pace {
    fn new(rate: Option<u64>) -> Self {
        Self {
            rate,
            next: tokio::sync::Mutex::new(None),
        }
    }

    async fn wait(&self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let at = {
            let mut next = self.next.lock().await;
            let now = Instant::now();
            let at = next.map_or(now, |at| at.max(now))
                + Duration::from_nanos(bytes as u64 * 1_000_000_000 / rate.max(1));
            *next = Some(at);
            at
        };
        tokio::time::sleep_until(at).await;
    }
}
