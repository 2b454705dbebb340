//! A line to a server that reads along, and harms a connection once its client has said certain words.

use holdall::testkit::PostgresServer;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What happens to what the server sends from then on.
#[derive(Clone, Copy)]
pub(crate) enum Harm {
    /// So many bytes come through and nothing behind them, and the connection stays.
    Silence(usize),
    /// The byte behind so many is another one, and the connection is lost at the second number.
    Falsify(usize, usize),
}

/// A proxy on a free port of this machine; gone when dropped.
pub(crate) struct Wire {
    port: u16,
    done: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Plan {
    words: &'static str,
    harm: Harm,
    /// Connections that are harmed.
    times: usize,
    done: Arc<AtomicUsize>,
}

impl Wire {
    pub(crate) async fn start(
        server: &PostgresServer,
        words: &'static str,
        times: usize,
        harm: Harm,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (server, done) = (server.port(), Arc::new(AtomicUsize::new(0)));
        let plan = Plan {
            words,
            harm,
            times,
            done: done.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                lines.spawn(line(client, server, plan.clone()));
            }
        });
        Self {
            port,
            done,
            _tasks: tasks,
        }
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Connections that were harmed.
    pub(crate) fn harmed(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }
}

async fn line(client: TcpStream, server: TcpStream, plan: Plan) {
    let (mut client_in, client_out) = client.into_split();
    let (server_in, mut server_out) = server.into_split();
    let (begin, begun) = tokio::sync::watch::channel(false);
    let harm = plan.harm;
    let forth = async {
        let mut buffer = vec![0; 64 << 10];
        let mut said = Vec::new();
        while let Ok(read @ 1..) = client_in.read(&mut buffer).await {
            let kept = said.len() - plan.words.len().min(said.len());
            said.drain(..kept);
            said.extend_from_slice(&buffer[..read]);
            let words = plan.words.as_bytes();
            if !*begin.borrow()
                && said.windows(words.len()).any(|some| some == words)
                && plan
                    .done
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |done| {
                        (done < plan.times).then_some(done + 1)
                    })
                    .is_ok()
            {
                begin.send_replace(true);
            }
            if server_out.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = forth => {}
        () = back(server_in, client_out, begun, harm) => {}
    }
}

async fn back(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    begun: tokio::sync::watch::Receiver<bool>,
    harm: Harm,
) {
    let mut buffer = vec![0; 16 << 10];
    let mut moved = 0;
    while let Ok(read @ 1..) = server.read(&mut buffer).await {
        let mut some = &mut buffer[..read];
        if *begun.borrow() {
            match harm {
                Harm::Silence(after) if moved + read > after => std::future::pending().await,
                Harm::Falsify(_, cut) if moved + read > cut => return,
                Harm::Falsify(at, _) if (moved..moved + read).contains(&at) => some[at - moved] ^= 1,
                _ => {}
            }
            moved += read;
        }
        if client.write_all(&std::mem::take(&mut some)[..]).await.is_err() {
            return;
        }
    }
}
