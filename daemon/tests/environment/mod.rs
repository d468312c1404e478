//! The command line in a world of its own: an empty environment, a directory that is thrown away, and a daemon of paper
//! that answers what it is told to.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

pub const CONFIG: &str = "repository: { url: repo }\ndata: data\n";

pub struct Environment {
    dir: tempfile::TempDir,
}

impl Environment {
    /// Nothing but these files.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = dir.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Listens where the configuration says, and answers each question as `answer` does: `ok` or `error`.
    pub fn daemon(&self, mut answer: impl FnMut(Value) -> Result<Value, String> + Send + 'static) {
        std::fs::create_dir_all(self.path().join("data")).unwrap();
        let listener = UnixListener::bind(self.path().join("data/holdfast.sock")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut line = String::new();
                let mut reader = BufReader::new(stream);
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    continue;
                }
                let said = match answer(serde_json::from_str(&line).unwrap()) {
                    Ok(value) => json!({ "ok": value }),
                    Err(message) => json!({ "error": message }),
                };
                // Who asked may have gone away.
                let _ = writeln!(reader.get_mut(), "{said}");
            }
        });
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .env("COLUMNS", "100")
            .stdin(Stdio::null());
        command
    }

    #[must_use = "compare it"]
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        self.told(args, &output)
    }

    /// Command, exit code and both outputs as one text, without what differs from run to run.
    pub fn told(&self, args: &[&str], output: &Output) -> String {
        let mut text = format!("$ holdfast {}\nexit {}\n", args.join(" "), output.status.code().unwrap_or(-1));
        for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            if !bytes.is_empty() {
                text.push_str(&format!("--- {name}\n{}", String::from_utf8_lossy(bytes)));
            }
        }
        text.replace(&self.path().display().to_string(), "$DIR")
            .replace(env!("CARGO_PKG_VERSION"), "$VERSION")
    }

    /// In a terminal so many columns wide: everything that it shows, and the exit code. Its process id is in the file `pid`.
    pub fn in_terminal(&self, columns: usize, args: &[&str], vars: &[(&str, &str)]) -> (String, i32) {
        let line = format!(
            "echo $$ > pid; stty cols {columns} rows 24; exec {} {}",
            env!("CARGO_BIN_EXE_holdfast"),
            args.join(" ")
        );
        let output = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .current_dir(self.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TERM", "xterm")
            .envs(vars.iter().copied())
            .stdin(Stdio::null())
            .output()
            .expect("script of util-linux makes the terminal");
        let text = String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n");
        (text, output.status.code().unwrap_or(-1))
    }
}

/// Polls until there is something, for at most ten seconds.
#[allow(clippy::disallowed_methods, reason = "a test waits in real time")]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}
