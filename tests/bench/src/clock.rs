//! Time of this thread on a core, so that other programs on the machine do not count, and memory.

/// Milliseconds that this thread has run.
pub fn cpu_ms() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

/// What `work` takes on a core.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let begun = cpu_ms();
    let done = work();
    (done, cpu_ms() - begun)
}

/// Resident memory of this process.
pub fn resident_mb() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0.0);
    pages * 4096.0 / 1e6
}

/// One line: what, how much, and what it may be.
pub fn say(what: &str, figure: f64, unit: &str, limit: Option<f64>) {
    let verdict = match limit {
        Some(limit) if figure <= limit => format!("  ok, limit {limit} {unit}"),
        Some(limit) => format!("  OVER, limit {limit} {unit}"),
        None => String::new(),
    };
    println!("{what:60} {figure:10.2} {unit}{verdict}");
}
