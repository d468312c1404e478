//! A plugin that does whatever harm the target's config asks for, in any verb, and says what came of it.

#![allow(clippy::disallowed_methods, reason = "what a guest sees of time is under test")]

use holdfast_plugin::bindings::holdfast::target::endpoint::{Content, Fail, Header, LongState, Request, send, send_long};
use holdfast_plugin::{
    Abilities, Capacity, Change, Context, Diagnosis, Excerpt, Fault, Generation, Jobs, Level, Page, Preview, Problem, Progress,
    Query, Report, RouteEntry, Routing, Sample, Sizing, Target, Telemetry, Wait, clock, config, export_target, log,
};
use serde::Deserialize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    ops: Vec<Op>,
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Op {
    Say {
        text: String,
    },
    Loop,
    Recurse,
    Panic,
    Exit {
        code: i32,
    },
    Trap,
    Sleep {
        ms: u64,
    },
    /// One allocation after the other until it has so many.
    Allocate {
        mib: usize,
    },
    Log {
        lines: u32,
        bytes: usize,
    },
    /// One answer of so many bytes.
    Output {
        bytes: usize,
    },
    /// Pages without end, of so many bytes each.
    Pages {
        bytes: usize,
    },
    Handles {
        count: u32,
    },
    /// Calls of the host that do nothing.
    Calls {
        count: u32,
    },
    /// Looks through all of its own memory for a text, which is given in hexadecimal with each byte xored with 0x5a, so that it
    /// does not find what it was told.
    Hunt {
        hidden: String,
    },
    Times,
    Random {
        bytes: usize,
    },
    Environment,
    Send(Sending),
    SendLong(Sending),
}

#[derive(Deserialize)]
struct Sending {
    alias: String,
    method: String,
    path: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// What the body is of: empty, bytes, blob, archive.
    #[serde(default)]
    kind: String,
    #[serde(default)]
    body: String,
    /// The body so many times over.
    #[serde(default)]
    body_times: usize,
    #[serde(default)]
    times: usize,
    #[serde(default)]
    timeout_ms: u32,
}

impl Sending {
    fn request(&self) -> Request {
        let body = match self.kind.as_str() {
            "bytes" => Content::Bytes(self.body.repeat(self.body_times.max(1)).into_bytes()),
            "blob" => Content::Blob(self.body.clone()),
            "archive" => Content::Archive(self.body.clone()),
            _ => Content::Empty,
        };
        let headers = self.headers.iter().map(|(name, value)| Header {
            name: name.clone(),
            value: value.clone(),
        });
        Request {
            method: self.method.clone(),
            path: self.path.clone(),
            headers: headers.collect(),
            body,
            timeout_ms: self.timeout_ms,
        }
    }
}

fn fail(fail: Fail) -> String {
    match fail {
        Fail::Denied(message) => format!("denied: {message}"),
        Fail::Unreachable(message) => format!("unreachable: {message}"),
        Fail::Lost(message) => format!("lost: {message}"),
        Fail::TooLarge(message) => format!("too-large: {message}"),
        Fail::Malformed(message) => format!("malformed: {message}"),
    }
}

fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    if depth == u64::MAX {
        0
    } else {
        recurse(depth + 1) + frame[(depth % 64) as usize]
    }
}

/// How often a hidden text stands in this instance's memory.
fn hunt(hidden: &str) -> usize {
    let wanted: Vec<u8> = (0..hidden.len() / 2)
        .filter_map(|at| u8::from_str_radix(hidden.get(2 * at..2 * at + 2)?, 16).ok())
        .collect();
    let size = core::arch::wasm32::memory_size(0) << 16;
    // Byte by byte: a copy of the text would be found.
    #[allow(unsafe_code, reason = "all of the memory is this instance's, whatever lies there")]
    let at = |address: usize| unsafe { core::ptr::read_volatile(address as *const u8) } ^ 0x5a;
    let last = size.saturating_sub(wanted.len());
    (1..last)
        .filter(|address| wanted.iter().enumerate().all(|(offset, byte)| at(address + offset) == *byte))
        .count()
}

/// What it said; and how large a page should be, if without end.
#[derive(Default)]
struct Done {
    said: Vec<String>,
    pages_bytes: Option<usize>,
}

fn perform(ctx: &Context) -> Result<Done, Fault> {
    let mut done = Done::default();
    for op in config::<Config>(&ctx.config)?.ops {
        let said = match op {
            Op::Say { text } => text,
            Op::Loop => {
                let mut number = 0u64;
                loop {
                    number = std::hint::black_box(number.wrapping_add(1));
                }
            }
            Op::Recurse => recurse(0).to_string(),
            Op::Panic => panic!("the plugin panicked on purpose"),
            Op::Exit { code } => std::process::exit(code),
            Op::Trap => std::process::abort(),
            Op::Sleep { ms } => {
                std::thread::sleep(Duration::from_millis(ms));
                "slept".into()
            }
            Op::Allocate { mib } => {
                let held: Vec<Vec<u8>> = (0..mib).map(|_| std::hint::black_box(vec![1; 1 << 20])).collect();
                format!("holds {} MiB", held.len())
            }
            Op::Log { lines, bytes } => {
                for line in 0..lines {
                    log(Level::Info, &format!("line {line}\n\u{1b}[31mforged {}", "x".repeat(bytes)));
                }
                "logged".into()
            }
            Op::Output { bytes } => "x".repeat(bytes),
            Op::Pages { bytes } => {
                done.pages_bytes = Some(bytes);
                continue;
            }
            Op::Handles { count } => {
                let held: Vec<_> = (0..count)
                    .map(|_| wasip2::clocks::monotonic_clock::subscribe_duration(1))
                    .collect();
                format!("holds {} handles", held.len())
            }
            Op::Calls { count } => {
                for _ in 0..count {
                    std::hint::black_box(clock::now_ms());
                }
                "called".into()
            }
            Op::Hunt { hidden } => format!("found {}", hunt(&hidden)),
            Op::Times => {
                let began = Instant::now();
                let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
                let mut spent = 0u64;
                (0..1_000_000u64).for_each(|one| spent = std::hint::black_box(spent ^ one));
                format!("wall {wall}, ours {}, elapsed {:?}", clock::now_ms(), began.elapsed())
            }
            Op::Random { bytes } => format!("{:?}", wasip2::random::random::get_random_bytes(bytes as u64)),
            Op::Environment => {
                let files = std::fs::read_dir("/").map(|entries| entries.count()).unwrap_or(0);
                let read = std::fs::read("/etc/passwd").is_ok();
                format!(
                    "{} variables, {} arguments, {files} files, {read}",
                    std::env::vars().count(),
                    std::env::args().count()
                )
            }
            Op::Send(sending) => {
                for _ in 1..sending.times {
                    let _ = send(&sending.alias, &sending.request());
                }
                match send(&sending.alias, &sending.request()) {
                    Ok(response) => {
                        let headers: Vec<String> = response
                            .headers
                            .iter()
                            .map(|header| format!("{}={}", header.name, header.value))
                            .collect();
                        format!(
                            "{} {} {}",
                            response.status,
                            headers.join(";"),
                            String::from_utf8_lossy(&response.body)
                        )
                    }
                    Err(why) => fail(why),
                }
            }
            Op::SendLong(sending) => match send_long(&sending.alias, &sending.request()) {
                Ok(LongState::Running(kib)) => format!("running {kib}"),
                Ok(LongState::Finished(response)) => {
                    format!("finished {} {}", response.status, String::from_utf8_lossy(&response.body))
                        .trim_end()
                        .to_owned()
                }
                Err(why) => fail(why),
            },
        };
        done.said.push(said);
    }
    Ok(done)
}

fn progress(ctx: &Context) -> Result<Progress, Fault> {
    Ok(Progress::Pending(Wait {
        resume: perform(ctx)?.said.join("\n"),
        after_ms: 0,
        message: String::new(),
    }))
}

struct Hostile;
export_target!(Hostile: jobs, preview, capacity, telemetry, diagnosis);

impl Target for Hostile {
    fn check(ctx: Context, subject: Generation) -> Result<Report, Fault> {
        let mut said = perform(&ctx)?.said;
        // What the guest is told of secrets, so that a test can look for their values.
        said.extend(
            subject
                .secrets
                .iter()
                .map(|secret| format!("{} {} {}", secret.name, secret.version, secret.marker)),
        );
        let abilities = Abilities {
            routing: Routing::Weighted,
            most_live: 2,
            finest_share: 1,
            sizing: Sizing::Planned,
            overlap: true,
            staged: true,
            seamless: true,
            guarded: false,
            probed: false,
        };
        Ok(Report {
            problems: problems(said),
            abilities,
        })
    }

    fn observe(ctx: Context, _: Query) -> Result<Page, Fault> {
        let done = perform(&ctx)?;
        let mut page = Page {
            owner: None,
            high_fence: 0,
            generations: vec![],
            routes: vec![],
            strangers: done.said,
            more: None,
        };
        if let Some(bytes) = done.pages_bytes {
            page.strangers = vec!["x".repeat(bytes)];
            page.more = Some("more".into());
        }
        Ok(page)
    }

    fn launch(ctx: Context, _: Generation, _: u32) -> Result<Progress, Fault> {
        progress(&ctx)
    }
    fn scale(ctx: Context, _: Generation, _: u32) -> Result<Progress, Fault> {
        progress(&ctx)
    }
    fn route(ctx: Context, _: Vec<RouteEntry>) -> Result<Progress, Fault> {
        progress(&ctx)
    }
    fn retire(ctx: Context, _: Generation, _: bool) -> Result<Progress, Fault> {
        progress(&ctx)
    }
}

fn problems(said: Vec<String>) -> Vec<Problem> {
    let problem = |message| Problem {
        at: String::new(),
        message,
        hint: String::new(),
    };
    said.into_iter().map(problem).collect()
}

impl Jobs for Hostile {
    fn check_job(ctx: Context, _: Generation, job: String, template: String) -> Result<Vec<Problem>, Fault> {
        let mut said = perform(&ctx)?.said;
        said.push(format!("{job}: {template}"));
        Ok(problems(said))
    }
    fn run(ctx: Context, subject: Generation, job: String, template: String) -> Result<Progress, Fault> {
        let said = perform(&ctx)?.said.join("\n");
        Ok(Progress::Pending(Wait {
            resume: said,
            after_ms: 7,
            message: format!("{}-{job}: {template}", subject.name),
        }))
    }
}

impl Preview for Hostile {
    fn diff(ctx: Context, current: Option<Generation>, wanted: Generation) -> Result<Vec<Change>, Fault> {
        Ok(vec![Change {
            item: wanted.name,
            path: "/x".into(),
            have: current.map(|current| current.name).unwrap_or_default(),
            want: perform(&ctx)?.said.join("\n"),
        }])
    }
}

impl Capacity for Hostile {
    fn room(ctx: Context, subject: Generation) -> Result<Option<u32>, Fault> {
        perform(&ctx)?;
        Ok((subject.number > 1).then_some(subject.number))
    }
}

impl Telemetry for Hostile {
    fn read(ctx: Context, _: Generation) -> Result<Vec<Sample>, Fault> {
        perform(&ctx)?;
        Ok(vec![Sample {
            name: "requests_total".into(),
            value: 1.5,
        }])
    }
}

impl Diagnosis for Hostile {
    fn explain(ctx: Context, subject: Generation) -> Result<Vec<Excerpt>, Fault> {
        Ok(vec![Excerpt {
            instance: subject.name,
            source: "hostile".into(),
            text: perform(&ctx)?.said.join("\n"),
        }])
    }
}
