//! Git over ssh, by the system's own client: the best-kept implementation there is, held to one key and to the operator's
//! known_hosts, without any configuration of the user's.

use super::Class;
use super::transport::{self, Purpose, failed, ssh_settings, time_left};
use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const STDERR_KEPT_BYTES: u64 = 4 << 10;
const CONNECT_TIMEOUT_S: u64 = 30;
/// When the client has closed its output, its last words are on their way.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Settings {
    pub place: Place,
    pub key_file: PathBuf,
    pub known_hosts_file: PathBuf,
    pub purpose: Purpose,
    pub deadline: Instant,
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
        let name = url.to_owned();
        let settings = ssh_settings(&name).ok_or_else(|| git2::Error::from_str("unknown remote"))?;
        let Some((program, _)) = transport::service(settings.purpose, service) else {
            return Err(git2::Error::from_str("Holdfast never pushes there"));
        };
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
        command.arg("-o").arg(format!(
            "ConnectTimeout={}",
            time_left(settings.deadline).as_secs().clamp(1, CONNECT_TIMEOUT_S)
        ));
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
            .arg(format!("{program} '{}'", settings.place.path));
        command.env_remove("SSH_AUTH_SOCK");
        Ok(Box::new(Stream::start(command, name, settings.deadline)?))
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}

/// A client that is spoken to over pipes, until the deadline of the fetch.
struct Stream {
    name: String,
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    said: mpsc::Receiver<String>,
    answered: bool,
    deadline: Instant,
}

impl Stream {
    fn start(mut command: Command, name: String, deadline: Instant) -> Result<Self, git2::Error> {
        let unusable =
            |error: &dyn std::fmt::Display| failed(&name, Class::Invalid, format!("the ssh client cannot be run: {error}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| unusable(&error))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(unusable(&"it has no pipes"));
        };
        // A full pipe must not hold the fetch beyond its deadline.
        rustix::io::ioctl_fionbio(&stdin, true).map_err(|error| unusable(&error))?;
        // Read apart, or a chatty client would block on a full pipe.
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.take(STDERR_KEPT_BYTES).read_to_end(&mut text);
            // Mostly nobody asks.
            let _ = say.send(String::from_utf8_lossy(&text).into_owned());
        });
        Ok(Self {
            name,
            child,
            stdin,
            stdout,
            said,
            answered: false,
            deadline,
        })
    }

    /// The client ended without a word from the server: its own words say why.
    fn why(&mut self) -> io::Error {
        let said = self
            .said
            .recv_timeout(time_left(self.deadline).min(LAST_WORDS_WITHIN))
            .unwrap_or_default();
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

    /// Waits until the pipe can be used; at the deadline the client is ended.
    fn wait(&mut self, interest: PollFlags) -> io::Result<()> {
        let left = time_left(self.deadline);
        let ready = {
            let mut fds = match interest {
                PollFlags::OUT => [PollFd::new(&self.stdin, interest)],
                _ => [PollFd::new(&self.stdout, interest)],
            };
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            loop {
                match poll(&mut fds, Some(&timeout)) {
                    Err(rustix::io::Errno::INTR) if !time_left(self.deadline).is_zero() => {}
                    other => break other?,
                }
            }
        };
        if ready > 0 {
            return Ok(());
        }
        let _ = self.child.kill();
        let message = "ssh: the fetch did not end in time (repository.timeout)".to_owned();
        Err(io::Error::other(failed(&self.name, Class::Unreachable, message)))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::IN)?;
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
        loop {
            match self.stdin.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                other => return other,
            }
        }
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
    use super::{Place, Stream};
    use std::io::{Read, Write};
    use std::process::Command;
    use std::time::{Duration, Instant};

    /// Talks to a shell instead of ssh, for so long.
    fn talk(script: &str, within: Duration) -> Stream {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        #[allow(clippy::disallowed_methods, reason = "a deadline in real time is what is tested")]
        let deadline = Instant::now() + within;
        Stream::start(command, "holdfast-ssh://test/".into(), deadline).unwrap()
    }

    #[test]
    fn a_client_that_hangs_is_ended() {
        let mut silent = talk("printf x; exec sleep 600", Duration::from_millis(300));
        let mut byte = [0; 1];
        assert_eq!((silent.read(&mut byte).unwrap(), byte), (1, *b"x"));
        let error = silent.read(&mut byte).unwrap_err().to_string();
        assert!(error.contains("did not end in time"), "{error}");
        assert!(!silent.child.wait().unwrap().success());
        let mut deaf = talk("exec sleep 600", Duration::from_millis(300));
        let error = deaf.write_all(&vec![0; 10 << 20]).unwrap_err().to_string();
        assert!(error.contains("did not end in time"), "{error}");
    }

    #[test]
    fn a_client_that_ends_has_the_last_word() {
        let mut refused = talk(
            "echo hello >&2; echo 'Permission denied (publickey).' >&2",
            Duration::from_secs(60),
        );
        let error = refused.read(&mut [0; 1]).unwrap_err().to_string();
        assert_eq!(error, "ssh: Permission denied (publickey).");
    }

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
