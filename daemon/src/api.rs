//! The daemon's API: one JSON line in, one JSON line out, over a unix socket that only the daemon's user and root may use.
//! Who asks is what the kernel says (peer credentials), never what the request claims.

use crate::shell::Event;
use holdfast_core::engine::CommandRequest;
use holdfast_core::entry::{By, Precondition};
use holdfast_core::ids::WorkloadId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

const REQUEST_MAX_BYTES: u64 = 64 << 10;
const ANSWER_MAX_BYTES: u64 = 256 << 20;
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
const CONNECTIONS_MAX: usize = 64;

/// What goes over the socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Ask {
    Status,
    Sync,
    /// State, whole: for planning beside the daemon.
    State,
    Ledger(LedgerQuestion),
    Command {
        workload: Option<String>,
        wish: holdfast_core::engine::Wish,
        reason: String,
        key: String,
    },
}

/// Answered by the index: each answer says as of which entry it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "question", rename_all = "kebab-case")]
pub enum LedgerQuestion {
    /// Entries that have all of these keys, newest first, below `before`.
    Find {
        keys: Vec<(FindBy, String)>,
        before: Option<u64>,
        limit: usize,
    },
    /// Keys that begin so.
    Complete { by: FindBy, start: String },
    /// These entries.
    Entries { seqs: Vec<u64> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindBy {
    Kind,
    Workload,
    Target,
    Commit,
    Digest,
    Reference,
    Deploy,
    Release,
}

/// A request with its asker established.
pub struct ApiRequest {
    pub query: Query,
}

pub enum Query {
    Status,
    Sync,
    State,
    Ledger(LedgerQuestion),
    Command(CommandRequest),
}

pub fn serve(path: &Path, events: mpsc::UnboundedSender<Event>) -> io::Result<tokio::task::AbortHandle> {
    // The ledger's lock is held by now, so a socket that is there was left by a daemon that is not.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let task = tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                continue;
            };
            let events = events.clone();
            tokio::spawn(async move {
                // A client that went away is no event.
                let _ = tokio::time::timeout(ANSWER_WITHIN * 2, one(stream, events)).await;
                drop(slot);
            });
        }
    });
    Ok(task.abort_handle())
}

async fn one(stream: UnixStream, events: mpsc::UnboundedSender<Event>) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(read)
        .take(REQUEST_MAX_BYTES)
        .read_line(&mut line)
        .await?;
    let answer = answer(&line, uid, &events).await;
    let answer = match answer {
        Ok(value) => json!({ "ok": value }),
        Err(message) => json!({ "error": message }),
    };
    let mut bytes = answer.to_string().into_bytes();
    bytes.push(b'\n');
    write.write_all(&bytes).await?;
    write.shutdown().await
}

async fn answer(line: &str, uid: u32, events: &mpsc::UnboundedSender<Event>) -> Result<Value, String> {
    let own = rustix::process::getuid().as_raw();
    if uid != own && uid != 0 {
        return Err("only the daemon's own user and root may ask".into());
    }
    let ask: Ask = serde_json::from_str(line).map_err(|error| format!("the request is not understood: {error}"))?;
    let query = match ask {
        Ask::Status => Query::Status,
        Ask::Sync => Query::Sync,
        Ask::State => Query::State,
        Ask::Ledger(question) => Query::Ledger(question),
        Ask::Command {
            workload,
            wish,
            reason,
            key,
        } => {
            let workload = workload
                .map(WorkloadId::try_from)
                .transpose()
                .map_err(|error| error.to_string())?;
            let by = By {
                kind: "user".into(),
                id: user_name(uid),
                auth: "peercred".into(),
            };
            Query::Command(CommandRequest {
                by,
                person: None,
                workload,
                target: None,
                only_if: Precondition::default(),
                wish,
                reason,
                key,
            })
        }
    };
    let (reply, answered) = oneshot::channel();
    events
        .send(Event::Api(ApiRequest { query }, reply))
        .map_err(|_| "the daemon is stopping".to_owned())?;
    match tokio::time::timeout(ANSWER_WITHIN, answered).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err("the daemon is stopping".into()),
        Err(_) => Err("the daemon did not answer in time".into()),
    }
}

/// The name in /etc/passwd, or the number.
fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse::<u32>().ok()? == uid).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("uid:{uid}"))
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no daemon answers at {socket}")]
    NotRunning { socket: String, source: io::Error },
    #[error("talking to the daemon")]
    Talk(#[source] io::Error),
    #[error("the daemon's answer is not understood")]
    Json(#[source] serde_json::Error),
    #[error("{0}")]
    Refused(String),
}

/// Asks the daemon, blocking.
pub fn ask(socket: &Path, ask: &Ask) -> Result<Value, ClientError> {
    let stream = std::os::unix::net::UnixStream::connect(socket);
    let mut stream = stream.map_err(|source| ClientError::NotRunning {
        socket: socket.display().to_string(),
        source,
    })?;
    stream.set_read_timeout(Some(ANSWER_WITHIN * 2)).map_err(ClientError::Talk)?;
    let mut line = serde_json::to_vec(ask).map_err(ClientError::Json)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(ClientError::Talk)?;
    let mut answer = String::new();
    io::BufReader::new(stream.take(ANSWER_MAX_BYTES))
        .read_line(&mut answer)
        .map_err(ClientError::Talk)?;
    let mut answer: Value = serde_json::from_str(&answer).map_err(ClientError::Json)?;
    match answer.get("error").and_then(Value::as_str) {
        Some(message) => Err(ClientError::Refused(message.to_owned())),
        None => Ok(answer["ok"].take()),
    }
}
