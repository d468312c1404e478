//! A server that records what reaches it and answers with the bytes it is told to.

use holdfast_host::{Binding, BindingConfig};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

#[derive(Debug, Clone)]
pub struct Seen {
    /// Request line and headers.
    pub head: String,
    pub body: String,
    pub bytes: Vec<u8>,
}

type Answer = Arc<dyn Fn(&Seen) -> Vec<u8> + Send + Sync>;

pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

pub fn answer(status: u16, content_type: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

impl Server {
    pub async fn start(answer: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::accepting(None, Arc::new(answer)).await
    }

    pub async fn start_tls(config: Arc<rustls::ServerConfig>) -> Self {
        Self::accepting(Some(config), Arc::new(|_| self::answer(200, "text/plain", b"secure"))).await
    }

    async fn accepting(tls: Option<Arc<rustls::ServerConfig>>, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            connections: Arc::default(),
        };
        let (seen, connections) = (server.seen.clone(), server.connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let (seen, answer, tls) = (seen.clone(), answer.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve_all(stream, &seen, &answer).await,
                        Some(config) => {
                            if let Ok(stream) = tokio_rustls::TlsAcceptor::from(config).accept(stream).await {
                                serve_all(stream, &seen, &answer).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    pub fn start_unix(path: &std::path::Path) -> Arc<Mutex<Vec<Seen>>> {
        let listener = UnixListener::bind(path).unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let all = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer: Answer = Arc::new(|_| self::answer(200, "text/plain", b"local"));
                serve_all(stream, &all, &answer).await;
            }
        });
        seen
    }

    /// For bodies that are no text.
    pub async fn start_bytes() -> Self {
        Self::start(|_| self::answer(200, "text/plain", b"")).await
    }

    pub fn bodies(&self) -> Vec<Vec<u8>> {
        self.seen().into_iter().map(|seen| seen.bytes).collect()
    }

    /// How many there were, in all.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// One request after the other, until one of the two closes. An answer of unknown length ends the connection.
async fn serve_all(mut stream: impl AsyncRead + AsyncWrite + Unpin, seen: &Mutex<Vec<Seen>>, answer: &Answer) {
    while serve(&mut stream, seen, answer).await == Some(true) {}
    // The other side may be gone already.
    let _ = stream.shutdown().await;
}

/// One request, one answer; what is no whole request is not recorded. Whether the connection can be used again.
async fn serve(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), seen: &Mutex<Vec<Seen>>, answer: &Answer) -> Option<bool> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    while bytes.len() < head_end + 4 + length.unwrap_or(0) {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let request = Seen {
        head: String::from_utf8_lossy(&bytes[..head_end]).into_owned(),
        body: String::from_utf8_lossy(&bytes[head_end + 4..]).into_owned(),
        bytes: bytes.split_off(head_end + 4),
    };
    let reply = answer(&request);
    seen.lock().unwrap().push(request);
    stream.write_all(&reply).await.ok()?;
    if reply.is_empty() {
        std::future::pending::<()>().await;
    }
    let head_end = reply.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&reply[..head_end]);
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let whole = length == Some(reply.len() - head_end - 4);
    Some(whole && !head.contains("connection: close"))
}

pub fn binding(endpoint: Value) -> Arc<Binding> {
    let config: BindingConfig = serde_json::from_value(json!({ "endpoints": { "a": endpoint } })).unwrap();
    Arc::new(Binding::new(&config).unwrap())
}

pub fn http_binding(server: &Server, rules: Value) -> Arc<Binding> {
    binding(json!({ "url": format!("http://{}", server.address), "rules": rules }))
}
