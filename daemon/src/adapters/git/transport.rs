//! Ways to a repository that libgit2 is built without: https through rustls, ssh through the system's own client.
//!
//! libgit2 knows transports by URL scheme, for the whole process. A remote's settings are therefore kept in a table, and
//! its URL becomes `holdfast-https://ID/` or `holdfast-ssh://ID/`.

use super::{Class, GitAuth, GitConfig, GitError, https, is_scp_form, ssh};
use git2::transport::{Service, Transport};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static REGISTERED: Once = Once::new();
static REMOTES: Mutex<BTreeMap<String, Entry>> = Mutex::new(BTreeMap::new());

struct Entry {
    remote: Remote,
    failure: Option<(Class, String)>,
}

#[derive(Clone)]
pub(super) enum Remote {
    Https(https::Settings),
    Ssh(ssh::Settings),
}

fn remotes() -> MutexGuard<'static, BTreeMap<String, Entry>> {
    REMOTES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What may be asked of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Fetch,
    Push,
}

/// The service by its name on the other side, and whether its references are only listed; none: it is not what the remote is
/// for.
pub(super) fn service(purpose: Purpose, service: Service) -> Option<(&'static str, bool)> {
    match (service, purpose) {
        (Service::UploadPackLs, _) => Some(("git-upload-pack", true)),
        (Service::UploadPack, _) => Some(("git-upload-pack", false)),
        (Service::ReceivePackLs, Purpose::Push) => Some(("git-receive-pack", true)),
        (Service::ReceivePack, Purpose::Push) => Some(("git-receive-pack", false)),
        (Service::ReceivePackLs | Service::ReceivePack, Purpose::Fetch) => None,
    }
}

/// What libgit2 is given instead of the URL; the URL itself for what it can do alone.
#[allow(clippy::disallowed_methods, reason = "a fetch's deadline is real time")]
pub(super) fn prepare(config: &GitConfig, purpose: Purpose) -> Result<Prepared, GitError> {
    let deadline = Instant::now() + Duration::from_millis(config.timeout.clamp(1_000, 24 * 3_600_000));
    let url = &config.url;
    let invalid = |message: &str| GitError::new(Class::Invalid, format!("{url}: {message}"));
    register();
    if config.is_local() {
        return Ok(Prepared(url.clone()));
    }
    let (scheme, remote) = if url.starts_with("https://") || url.starts_with("http://") {
        let parsed = reqwest::Url::parse(url).map_err(|_| invalid("not a URL"))?;
        let loopback = matches!(parsed.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        if parsed.scheme() == "http" && !loopback {
            return Err(invalid("plain http is only for loopback; use https"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(invalid(
                "credentials belong into a file named by auth.basic.password_file, not into the URL",
            ));
        }
        let basic = match &config.auth {
            Some(GitAuth::Basic { username, password_file }) => Some((username.clone(), password_file.clone())),
            Some(GitAuth::Ssh { .. }) => return Err(invalid("auth.ssh does not go with https")),
            None => None,
        };
        (
            "holdfast-https",
            Remote::Https(https::Settings {
                url: parsed,
                basic,
                ca_file: config.ca_file.clone(),
                purpose,
                deadline,
            }),
        )
    } else if url.starts_with("ssh://") || is_scp_form(url) {
        let Some(GitAuth::Ssh {
            key_file,
            known_hosts_file,
        }) = &config.auth
        else {
            return Err(invalid("ssh needs auth.ssh with key_file and known_hosts_file"));
        };
        let place = ssh::Place::parse(url).ok_or_else(|| invalid("not ssh://[USER@]HOST[:PORT]/PATH or USER@HOST:PATH"))?;
        let settings = ssh::Settings {
            place,
            key_file: key_file.clone(),
            known_hosts_file: known_hosts_file.clone(),
            purpose,
            deadline,
        };
        ("holdfast-ssh", Remote::Ssh(settings))
    } else {
        return Err(invalid(
            "the scheme is not known; there are paths, file://, https:// and ssh://",
        ));
    };
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed).to_string();
    let name = format!("{scheme}://{id}/");
    remotes().insert(id, Entry { remote, failure: None });
    Ok(Prepared(name))
}

/// The URL that libgit2 gets, for one fetch: its settings are forgotten afterwards.
pub(super) struct Prepared(pub String);

impl Drop for Prepared {
    fn drop(&mut self) {
        remotes().remove(id_of(&self.0));
    }
}

/// Settings by the id in a URL.
fn remote(url: &str) -> Option<Remote> {
    remotes().get(id_of(url)).map(|entry| entry.remote.clone())
}

fn id_of(url: &str) -> &str {
    url.split_once("://")
        .map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default())
}

/// What is left of the time for the whole fetch.
#[allow(clippy::disallowed_methods, reason = "a fetch's deadline is real time")]
pub(super) fn time_left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Keeps what really went wrong: libgit2 carries only a line of text.
pub(super) fn failed(url: &str, class: Class, message: String) -> git2::Error {
    if let Some(entry) = remotes().get_mut(id_of(url)) {
        entry.failure = Some((class, message.clone()));
    }
    git2::Error::from_str(&message)
}

pub(super) fn explain(url: &str) -> Option<GitError> {
    let (class, message) = remotes().get_mut(id_of(url))?.failure.take()?;
    Some(GitError::new(class, message))
}

#[allow(
    unsafe_code,
    reason = "libgit2's table of transports is not locked; registered once, before any use of the schemes"
)]
pub(super) fn register() {
    REGISTERED.call_once(|| {
        // SAFETY: `register` must not run while another thread uses or changes libgit2's table of transports. The `Once`
        // lets it run in one thread only, and no remote with these schemes exists before it has returned.
        let outcome = unsafe {
            git2::transport::register("holdfast-https", |remote| Transport::smart(remote, true, https::Https))
                .and_then(|()| git2::transport::register("holdfast-ssh", |remote| Transport::smart(remote, false, ssh::Ssh)))
        };
        // The operator names the repository; that another user owns it is how it should be. libgit2 runs nothing of it.
        // SAFETY: sets one flag of libgit2, before any repository of ours is opened for reading.
        let outcome = outcome.and_then(|()| unsafe { git2::opts::set_verify_owner_validation(false) });
        if let Err(error) = outcome {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "Git transports could not be registered"
            );
        }
    });
}

pub(super) fn https_settings(url: &str) -> Option<https::Settings> {
    match remote(url)? {
        Remote::Https(settings) => Some(settings),
        Remote::Ssh(_) => None,
    }
}

pub(super) fn ssh_settings(url: &str) -> Option<ssh::Settings> {
    match remote(url)? {
        Remote::Ssh(settings) => Some(settings),
        Remote::Https(_) => None,
    }
}
