//! What a plugin call costs: `cargo bench -p holdfast --bench plugin_call`. Each is a fresh instance of the built-in edge
//! plugin; `observe` also asks a real site over loopback TCP, `check` asks nobody.

#[path = "../tests/edge_node/driver.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod driver;
#[path = "../tests/edge_node/site.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod site;

use driver::{Driver, generation};
use holdfast::builtin;
use holdfast_host::{Limits, PluginHost};
use std::time::Instant;

const CALLS: usize = 5_000;

fn report(what: &str, mut took_us: Vec<f64>) {
    took_us.sort_by(f64::total_cmp);
    let at = |share: f64| took_us[((took_us.len() - 1) as f64 * share) as usize];
    println!(
        "{what}: {CALLS} calls, p50 {:.0} us, p99 {:.0} us, longest {:.0} us",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

#[allow(clippy::disallowed_methods, reason = "measures real time")]
fn took_us(call: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    call();
    begun.elapsed().as_secs_f64() * 1e6
}

fn main() {
    let (_, bytes) = builtin::plugins().into_iter().find(|(name, _)| *name == "edge").unwrap();
    let host = PluginHost::new(Limits::default(), None).unwrap();
    let load = took_us(|| drop(host.load("edge", bytes).unwrap()));
    println!("load (compile): {:.0} ms", load / 1_000.0);
    let driver = Driver::new();
    driver.site.launch(1, 10, "r1", "1.0.0");
    driver.site.reaches(1, "ready");
    let subject = generation(&driver.site, 1, "1.0.0", "{}");
    let (mut checks, mut observes) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        checks.push(took_us(|| {
            driver
                .call(0, async |plugin, options| plugin.check(options, &subject).await)
                .unwrap();
        }));
        observes.push(took_us(|| {
            driver
                .call(0, async |plugin, options| plugin.observe(options, None).await)
                .unwrap();
        }));
    }
    report("check", checks);
    report("observe, with its HTTP request", observes);
}
