//! Git over ssh, by the system's own client: the best-kept implementation there is, held to one key and to the operator's
//! known_hosts, without any configuration of the user's.

use super::Class;
use super::transport::{failed, ssh_settings};
use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

const STDERR_KEPT_BYTES: u64 = 4 << 10;

#[derive(Clone)]
pub struct Settings {
    pub place: Place,
    pub key_file: PathBuf,
    pub known_hosts_file: PathBuf,
    pub timeout_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `user@host` or `host`.
    pub destination: String,
    pub port: Option<u16>,
    pub path: String,
}

impl Place {
    pub fn parse(url: &str) -> Option<Self> {
        let (destination, port, path) = match url.strip_prefix("ssh://") {
            Some(rest) => {
                let (authority, path) = rest.split_once('/')?;
                let (host, port) = match authority.rsplit_once(':') {
                    Some((host, port)) => (host, Some(port.parse().ok()?)),
                    None => (authority, None),
                };
                (host.to_owned(), port, format!("/{path}"))
            }
            None => {
                let (destination, path) = url.split_once(':')?;
                (destination.to_owned(), None, path.to_owned())
            }
        };
        // Nothing here may be taken for an option, by ssh or by the server's shell.
        let host_ok = !destination.is_empty()
            && !destination.starts_with('-')
            && destination
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'@'));
        let path_ok = !path.is_empty() && !path.starts_with('-') && !path.contains(['\'', '\n', '\0', '\\']);
        (host_ok && path_ok).then_some(Self { destination, port, path })
    }
}

pub struct Ssh;

impl SmartSubtransport for Ssh {
    fn action(&self, url: &str, service: Service) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        if !matches!(service, Service::UploadPackLs | Service::UploadPack) {
            return Err(git2::Error::from_str("Holdfast never pushes"));
        }
        let name = url.to_owned();
        let settings = ssh_settings(&name).ok_or_else(|| git2::Error::from_str("unknown remote"))?;
        for (what, file) in [("key", &settings.key_file), ("known_hosts", &settings.known_hosts_file)] {
            if !file.is_file() {
                return Err(failed(
                    &name,
                    Class::Denied,
                    format!("the {what} file {} is not there", file.display()),
                ));
            }
        }
        let mut command = Command::new("ssh");
        command.args([
            "-F",
            "none",
            "-T",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "IdentitiesOnly=yes",
        ]);
        command.args([
            "-o",
            "GlobalKnownHostsFile=/dev/null",
            "-o",
            "ForwardAgent=no",
            "-o",
            "ClearAllForwardings=yes",
            "-o",
            "PermitLocalCommand=no",
        ]);
        command
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", settings.known_hosts_file.display()));
        command
            .arg("-o")
            .arg(format!("ConnectTimeout={}", (settings.timeout_ms / 1000).max(1)));
        command
            .args(["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"])
            .arg("-i")
            .arg(&settings.key_file);
        if let Some(port) = settings.place.port {
            command.arg("-p").arg(port.to_string());
        }
        command
            .arg("--")
            .arg(&settings.place.destination)
            .arg(format!("git-upload-pack '{}'", settings.place.path));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_remove("SSH_AUTH_SOCK");
        let mut child = command
            .spawn()
            .map_err(|error| failed(&name, Class::Invalid, format!("the ssh client cannot be run: {error}")))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(failed(&name, Class::Invalid, "the ssh client has no pipes".into()));
        };
        // Read apart, or a chatty client would block on a full pipe.
        let said = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.take(STDERR_KEPT_BYTES).read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Ok(Box::new(Stream {
            name,
            child,
            stdin,
            stdout,
            said: Some(said),
            answered: false,
        }))
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}

struct Stream {
    name: String,
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    said: Option<JoinHandle<String>>,
    answered: bool,
}

impl Stream {
    /// The client ended without a word from the server: its own words say why.
    fn why(&mut self) -> io::Error {
        let _ = self.child.wait();
        // The client has ended, so its last words are on their way.
        let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        let said = said
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .unwrap_or("the server closed the connection")
            .trim()
            .to_owned();
        let class = if said.contains("Host key verification failed") || said.contains("host key") {
            Class::HostKey
        } else if said.contains("Permission denied") {
            Class::Denied
        } else {
            Class::Unreachable
        };
        io::Error::other(failed(&self.name, class, format!("ssh: {said}")))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stdout.read(buffer)?;
        if count == 0 && !self.answered {
            return Err(self.why());
        }
        self.answered = true;
        Ok(count)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stdin.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stdin.flush()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // By its own process id; it may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn places() {
        let place = |destination: &str, port, path: &str| {
            Some(Place {
                destination: destination.into(),
                port,
                path: path.into(),
            })
        };
        assert_eq!(
            Place::parse("ssh://git@h.example.com:2222/a/b.git"),
            place("git@h.example.com", Some(2222), "/a/b.git")
        );
        assert_eq!(
            Place::parse("git@h.example.com:a/b.git"),
            place("git@h.example.com", None, "a/b.git")
        );
        for bad in [
            "ssh://-oProxyCommand=x/a",
            "ssh://h/a'b",
            "ssh://h:x/a",
            "ssh://h",
            "git@h:-x",
        ] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }
}
