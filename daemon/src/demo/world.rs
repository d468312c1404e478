//! The demo's world: a repository, a layout, three sites, a daemon and a client, each a process of its own below one
//! directory, and each stopped by its own process id.

use super::DemoError;
use super::evidence::AnswerBook;
use super::screen::Screen;
use holdfast_edge_node::Addresses;
use holdfast_registry::layout::Writer;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

pub const SITES: [&str; 3] = ["site-a", "site-b", "site-c"];
pub const HOST: &str = "bundles.example.com";

pub struct World {
    pub dir: PathBuf,
    pub sites: BTreeMap<&'static str, Addresses>,
    pub digests: BTreeMap<&'static str, String>,
    children: BTreeMap<String, Child>,
    layout: Writer,
    program: PathBuf,
    screen: Screen,
    pub(super) answer_book: std::cell::RefCell<AnswerBook>,
    stopped_by: Arc<AtomicU8>,
    stays: bool,
    temporary: bool,
}

/// The signal that asks the demo to end, 0 until one does.
fn watch_signals() -> Result<Arc<AtomicU8>, DemoError> {
    use tokio::signal::unix::{SignalKind, signal};
    let fail = |source| DemoError::io("signals cannot be handled", source);
    let stopped_by = Arc::new(AtomicU8::new(0));
    let seen = stopped_by.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(fail)?;
    let guard = runtime.enter();
    let start = |kind| signal(kind).map_err(fail);
    let (mut terminate, mut interrupt) = (start(SignalKind::terminate())?, start(SignalKind::interrupt())?);
    let mut hang_up = start(SignalKind::hangup())?;
    drop(guard);
    let wait = move || {
        runtime.block_on(async {
            let signal = tokio::select! {
                _ = terminate.recv() => SignalKind::terminate(),
                _ = interrupt.recv() => SignalKind::interrupt(),
                _ = hang_up.recv() => SignalKind::hangup(),
            };
            seen.store(u8::try_from(signal.as_raw_value()).unwrap_or(1), Ordering::Relaxed);
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map_err(fail)?;
    Ok(stopped_by)
}

fn make(path: &Path, text: &str) -> Result<(), DemoError> {
    fs::write(path, text).map_err(|source| DemoError::io(format!("{} cannot be written", path.display()), source))
}

impl World {
    /// `stays`: its processes may outlive this one.
    pub fn start(dir: Option<PathBuf>, stays: bool, json: bool) -> Result<Self, DemoError> {
        let stopped_by = watch_signals()?;
        let temporary = dir.is_none();
        let dir = match dir {
            Some(dir) => std::path::absolute(&dir).unwrap_or(dir),
            None => tempfile::Builder::new()
                .prefix("holdfast-demo-")
                .tempdir()
                .map_err(|source| DemoError::io("a temporary directory cannot be made", source))?
                .keep(),
        };
        let fail = |source| DemoError::io(format!("{} cannot be made", dir.display()), source);
        fs::create_dir_all(dir.join("sites")).map_err(fail)?;
        let layout = Writer::create(&dir.join("bundles/shop")).map_err(fail)?;
        let program = std::env::current_exe().map_err(|source| DemoError::io("this program cannot be found", source))?;
        let mut world = Self {
            dir,
            sites: BTreeMap::new(),
            digests: BTreeMap::new(),
            children: BTreeMap::new(),
            layout,
            program,
            screen: Screen::new(json),
            answer_book: Default::default(),
            stopped_by,
            stays,
            temporary,
        };
        world.say(&format!("everything is in {}", world.dir.display()));
        for (version, bytes) in crate::builtin::bundles() {
            let digest = world
                .layout
                .component(bytes)
                .map_err(|source| DemoError::io("a bundle cannot be written", source))?;
            world
                .layout
                .tag(version, &digest)
                .map_err(|source| DemoError::io("a tag cannot be written", source))?;
            world.digests.insert(version, digest);
        }
        world.make_repository()?;
        make(
            &world.dir.join("registries.yaml"),
            &format!("- host: {HOST}\n  layout: {}\n", world.dir.join("bundles").display()),
        )?;
        for site in SITES {
            world.start_site(site)?;
        }
        world.write_config()?;
        world.start_daemon()?;
        world.start_client()?;
        Ok(world)
    }

    pub fn say(&self, text: &str) {
        self.screen.say(text);
    }

    fn spawn(&mut self, name: &str, args: &[&str]) -> Result<(), DemoError> {
        let log = self.dir.join(format!("{name}.log"));
        let open = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|source| DemoError::io(format!("{} cannot be written", log.display()), source))?;
        let mut command = Command::new(&self.program);
        command
            .arg("demo-process")
            .args(self.stays.then_some("--keep"))
            .arg("--")
            .args(args)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(open)
            .env_remove("NOTIFY_SOCKET");
        let child = command
            .spawn()
            .map_err(|source| DemoError::io(format!("{name} cannot be started"), source))?;
        self.children.insert(name.to_owned(), child);
        Ok(())
    }

    fn start_site(&mut self, site: &'static str) -> Result<(), DemoError> {
        let dir = self.dir.join("sites").join(site);
        fs::create_dir_all(&dir).map_err(|source| DemoError::io(format!("{} cannot be made", dir.display()), source))?;
        let token = dir.join("token");
        // Guards loopback against other users of this machine, while the demo runs.
        make(&token, &holdfast_core::ids::hex(&random()?))?;
        fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .map_err(|source| DemoError::io("a token cannot be protected", source))?;
        let (dir, token) = (dir.display().to_string(), token.display().to_string());
        self.spawn(
            site,
            &[
                "edge-node",
                "--dir",
                &dir,
                "--token-file",
                &token,
                "--api",
                "127.0.0.1:0",
                "--listen",
                "127.0.0.1:0",
                "--registries",
                "registries.yaml",
            ],
        )?;
        let file = PathBuf::from(dir).join("addresses.json");
        let addresses = self.until("a site that listens", 20, |_| {
            Ok(fs::read(&file)
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Addresses>(&bytes).ok()))
        })?;
        self.sites.insert(site, addresses);
        Ok(())
    }

    fn write_config(&self) -> Result<(), DemoError> {
        let mut text = format!(
            "repository: {{ url: {}, branch: main, interval: 60s }}\ndata: holdfast-data\ntag_poll: 500ms\nregistries:\n  - {{ host: {HOST}, layout: bundles }}\nbindings:\n",
            self.dir.join("repo").display()
        );
        for (site, addresses) in &self.sites {
            text.push_str(&format!(
                "  - target: {site}\n    plugin: edge\n    endpoints: {{ site: {{ url: \"http://{}\", auth: {{ bearer_token_file: sites/{site}/token }} }} }}\n    probe_networks: [ 127.0.0.0/8 ]\n",
                addresses.api
            ));
        }
        make(&self.dir.join("holdfast.yaml"), &text)
    }

    pub fn start_daemon(&mut self) -> Result<(), DemoError> {
        self.spawn("daemon", &["--config", "holdfast.yaml", "run"])?;
        let socket = self.dir.join("holdfast-data/holdfast.sock");
        self.until("a daemon that answers", 30, |_| {
            Ok(std::os::unix::net::UnixStream::connect(&socket).ok())
        })?;
        Ok(())
    }

    fn start_client(&mut self) -> Result<(), DemoError> {
        let sites: Vec<String> = self
            .sites
            .iter()
            .map(|(site, addresses)| format!("{site}={}", addresses.listen))
            .collect();
        let mut args = vec!["demo-traffic", "--out", "answers.jsonl"];
        args.extend(sites.iter().map(String::as_str));
        self.spawn("client", &args)
    }

    /// SIGKILL, as a crash would.
    pub fn kill_daemon(&mut self) -> Result<(), DemoError> {
        if let Some(mut daemon) = self.children.remove("daemon") {
            daemon
                .kill()
                .and_then(|()| daemon.wait())
                .map_err(|source| DemoError::io("the daemon cannot be killed", source))?;
        }
        Ok(())
    }

    fn make_repository(&self) -> Result<(), DemoError> {
        let mut options = git2::RepositoryInitOptions::new();
        options.initial_head("main");
        git2::Repository::init_opts(self.dir.join("repo"), &options)?;
        Ok(())
    }

    /// Writes files and commits them; returns the commit.
    pub fn commit(&self, message: &str, files: &[(&str, &str)]) -> Result<String, DemoError> {
        let root = self.dir.join("repo");
        let repository = git2::Repository::open(&root)?;
        let mut index = repository.index()?;
        for (name, text) in files {
            make(&root.join(name), text)?;
            index.add_path(Path::new(name))?;
        }
        index.write()?;
        let tree = repository.find_tree(index.write_tree()?)?;
        let signature = git2::Signature::now("demo", "demo@localhost")?;
        let parent = repository.head().ok().and_then(|head| head.peel_to_commit().ok());
        let commit = repository.commit(
            Some("HEAD"),
            &signature,
            &signature,
            message,
            &tree,
            &parent.iter().collect::<Vec<_>>(),
        )?;
        self.say(&format!("commit {} {message}", &commit.to_string()[..10]));
        Ok(commit.to_string())
    }

    pub fn move_tag(&self, tag: &str, digest: &str) -> Result<(), DemoError> {
        self.layout
            .tag(tag, digest)
            .map_err(|source| DemoError::io("the tag cannot be moved", source))
    }

    /// Polls until something is there, or the time is up.
    #[allow(clippy::disallowed_methods, reason = "the demo waits in real time")]
    pub fn until<T>(
        &self,
        what: &str,
        within_s: u64,
        mut look: impl FnMut(&Self) -> Result<Option<T>, DemoError>,
    ) -> Result<T, DemoError> {
        let end = Instant::now() + Duration::from_secs(within_s);
        loop {
            let stopped = match self.stopped_by.load(Ordering::Relaxed) {
                0 if self.screen.is_gone() => Some(DemoError::ReaderGone),
                0 => None,
                signal => Some(DemoError::Interrupted(signal)),
            };
            if let Some(error) = stopped {
                self.screen.clear();
                return Err(error);
            }
            if let Some(found) = look(self)? {
                self.screen.clear();
                return Ok(found);
            }
            self.screen.status(|| format!("{what}   {}", self.traffic_bars()));
            if Instant::now() > end {
                self.screen.clear();
                return Err(DemoError::TimeOut {
                    what: what.to_owned(),
                    within_s,
                });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs this program's own command line; exit code and stdout.
    pub fn cli(&self, args: &[&str]) -> Result<(i32, String), DemoError> {
        let output = Command::new(&self.program)
            .args(args)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .output();
        let output = output.map_err(|source| DemoError::io("the command line cannot be run", source))?;
        Ok((
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        ))
    }

    /// Forgets the processes instead of stopping them, and says what to do with them. Each line is a command.
    pub fn keep(mut self) {
        let pids: Vec<String> = self.children.values().map(|child| child.id().to_string()).collect();
        self.children.clear();
        self.temporary = false;
        let (dir, program) = (self.dir.display(), self.program.display());
        let listen = self.sites.values().next().map(|a| a.listen.to_string()).unwrap_or_default();
        let commands = [
            format!("cd {dir}"),
            format!("{program} status"),
            "sed -i s/:1.1.0/:1.0.0/ repo/shop.yaml".to_owned(),
            "git -C repo -c user.name=me -c user.email=me@localhost commit -qam 'back to 1.0.0'".to_owned(),
            format!("{program} status --wait \"$(git -C repo rev-parse HEAD)\""),
            format!("{program} audit target site-a"),
            format!("curl -i http://{listen}/"),
        ];
        let mut text = format!("\nLeft running in {dir}. Try:\n");
        for command in commands {
            text.push_str(&format!("  {command}\n"));
        }
        text.push_str(
            "Logs: daemon.log, site-*.log. Ledger: holdfast-data/ledger. Journals: sites/*/journal.jsonl.\nStop it with:\n",
        );
        text.push_str(&format!("  kill {}", pids.join(" ")));
        self.screen.note(&text);
    }
}

fn random() -> Result<[u8; 16], DemoError> {
    let mut bytes = [0; 16];
    let read = fs::File::open("/dev/urandom").and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    read.map_err(|source| DemoError::io("no random bytes", source))?;
    Ok(bytes)
}

impl Drop for World {
    fn drop(&mut self) {
        // The client first: it would only count refused connections.
        for name in ["client", "daemon"].into_iter().chain(SITES) {
            if let Some(mut child) = self.children.remove(name) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if self.temporary && !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
