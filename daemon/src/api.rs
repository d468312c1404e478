//! The daemon's API: one JSON line in, one JSON line out, over a unix socket that only the daemon's user, root and the
//! people of the operator's configuration may use. Who asks is what the kernel says (peer credentials), never what the
//! request claims.

use crate::shell::{Event, People};
use holdfast_core::engine::{CommandRequest, Person};
use holdfast_core::entry::{By, Precondition};
use holdfast_core::ids::WorkloadId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};

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
        /// For what is about a target: freeze and thaw.
        #[serde(default)]
        target: Option<String>,
        #[serde(default)]
        only_if: Precondition,
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
    /// A blob that is text, as all JSON is.
    Blob { digest: holdfast_core::ids::Digest },
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
    Ready,
    /// Prometheus text.
    Metrics,
    State,
    Ledger(LedgerQuestion),
    Command(Box<CommandRequest>),
}

pub fn serve(
    path: &Path,
    events: mpsc::UnboundedSender<Event>,
    mut people: watch::Receiver<Arc<People>>,
) -> io::Result<tokio::task::AbortHandle> {
    // The ledger's lock is held by now, so a socket that is there was left by a daemon that is not.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    open_for(path, &people.borrow_and_update())?;
    let path = path.to_owned();
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let task = tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Ok(()) = people.changed() => {
                    if let Err(error) = open_for(&path, &people.borrow_and_update()) {
                        tracing::error!(error = &error as &dyn std::error::Error, "the socket's mode cannot be set");
                    }
                    continue;
                }
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let people = people.borrow().clone();
            // A stranger takes up no slot.
            let Some(asker) = stream.peer_cred().ok().and_then(|peer| Asker::known(peer.uid(), &people)) else {
                let refused = json!({ "error": "only the daemon's own user, root and the `users` of its configuration may ask" });
                let _ = stream.try_write(format!("{refused}\n").as_bytes());
                continue;
            };
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                continue;
            };
            let events = events.clone();
            tokio::spawn(async move {
                // A client that went away is no event.
                let _ = tokio::time::timeout(ANSWER_WITHIN * 2, one(stream, asker, events)).await;
                drop(slot);
            });
        }
    });
    Ok(task.abort_handle())
}

/// Where people are named, each must be able to connect; who it is, the kernel says.
fn open_for(socket: &Path, people: &People) -> io::Result<()> {
    let mode = if people.is_empty() { 0o600 } else { 0o666 };
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(mode))
}

/// Who is at the other end.
struct Asker {
    user: String,
    person: Option<Person>,
}

impl Asker {
    fn known(uid: u32, people: &People) -> Option<Self> {
        let user = user_name(uid);
        let person = people.get(&user).cloned();
        let own = rustix::process::getuid().as_raw();
        (uid == own || uid == 0 || person.is_some()).then_some(Self { user, person })
    }
}

async fn one(stream: UnixStream, asker: Asker, events: mpsc::UnboundedSender<Event>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(read)
        .take(REQUEST_MAX_BYTES)
        .read_line(&mut line)
        .await?;
    let answer = answer(&line, asker, &events).await;
    let answer = match answer {
        Ok(value) => json!({ "ok": value }),
        Err(message) => json!({ "error": message }),
    };
    let mut bytes = answer.to_string().into_bytes();
    bytes.push(b'\n');
    write.write_all(&bytes).await?;
    write.shutdown().await
}

async fn answer(line: &str, asker: Asker, events: &mpsc::UnboundedSender<Event>) -> Result<Value, String> {
    let ask: Ask = serde_json::from_str(line).map_err(|error| format!("the request is not understood: {error}"))?;
    let query = match ask {
        Ask::Status => Query::Status,
        Ask::Sync => Query::Sync,
        Ask::State => Query::State,
        Ask::Ledger(question) => Query::Ledger(question),
        Ask::Command {
            workload,
            target,
            only_if,
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
                id: asker.user,
                auth: "peercred".into(),
            };
            Query::Command(Box::new(CommandRequest {
                by,
                person: asker.person,
                workload,
                target,
                only_if,
                wish,
                reason,
                key,
            }))
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
pub(crate) fn user_name(uid: u32) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::check;
    use crate::shell::Salts;
    use holdfast_core::engine::Wish;

    /// A configuration that names these unix users.
    fn people(users: &[&str], salt: &Salts) -> People {
        let named: String = users
            .iter()
            .map(|user| format!("  {user:?}: {{ name: Ada, emails: [ \"Ada@example.com \" ] }}\n"))
            .collect();
        let text = format!("repository: {{ url: x }}\ndata: d\nusers:\n{named}");
        People::new(&check(Path::new("h.yaml"), text.as_bytes()).unwrap(), salt).unwrap()
    }

    #[test]
    fn strangers_may_not_ask() {
        let dir = tempfile::tempdir().unwrap();
        let salt = Salts::load(&dir.path().join("salt")).unwrap();
        let stranger = 4_000_000_000;
        assert!(Asker::known(stranger, &people(&[], &salt)).is_none());
        assert!(Asker::known(stranger, &people(&["somebody"], &salt)).is_none());
        let asker = Asker::known(stranger, &people(&["uid:4000000000"], &salt)).unwrap();
        assert_eq!(asker.person.unwrap().name, "Ada");
        assert!(Asker::known(0, &people(&[], &salt)).unwrap().person.is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_command_says_who_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let salt = Salts::load(&dir.path().join("salt")).unwrap();
        let own = user_name(rustix::process::getuid().as_raw());
        let (events, mut inbox) = mpsc::unbounded_channel();
        let (named, known) = watch::channel(Arc::new(People::default()));
        let socket = dir.path().join("socket");
        let mode = |socket: &Path| std::fs::metadata(socket).unwrap().permissions().mode() & 0o777;
        let task = serve(&socket, events, known).unwrap();
        assert_eq!(mode(&socket), 0o600);
        named.send_replace(Arc::new(people(&[&own], &salt)));
        let deadline = tokio::time::sleep(Duration::from_secs(20));
        tokio::pin!(deadline);
        while mode(&socket) != 0o666 {
            tokio::select! {
                () = &mut deadline => panic!("the socket's mode did not follow the configuration"),
                () = tokio::task::yield_now() => {}
            }
        }
        let command = Ask::Command {
            workload: Some("main/shop".into()),
            target: None,
            only_if: Precondition::default(),
            wish: Wish::Pause,
            reason: String::new(),
            key: "k".into(),
        };
        let client = tokio::task::spawn_blocking(move || ask(&socket, &command).unwrap());
        let Some(Event::Api(request, reply)) = inbox.recv().await else {
            panic!("no request")
        };
        let Query::Command(command) = request.query else {
            panic!("no command")
        };
        assert_eq!(command.by.id, own);
        let expected = Person {
            name: "Ada".into(),
            emails: [salt.hash("ada@example.com").unwrap()].into(),
        };
        assert_eq!(command.person, Some(expected));
        reply.send(Ok(json!("done"))).unwrap();
        assert_eq!(client.await.unwrap(), json!("done"));
        task.abort();
    }
}
