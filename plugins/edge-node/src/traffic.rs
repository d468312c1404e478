//! Traffic: which generation answers, and what is counted of it.

use crate::bundle::Loaded;
use crate::component::bad_gateway;
use crate::record::Generation;
use crate::server::Handler;
use crate::site::{Live, Site, Status, lock};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

const GENERATION: HeaderName = HeaderName::from_static("x-holdfast-generation");
const RELEASE: HeaderName = HeaderName::from_static("x-holdfast-release");

/// Smooth weighted round robin: each pick adds every weight to its counter, takes the largest and subtracts the sum.
/// Over any 10000 picks the shares are exact, and close to it over far fewer.
pub struct Split(Mutex<Vec<(u32, i64, i64)>>);

impl Split {
    pub fn new(shares: &BTreeMap<u32, u32>) -> Self {
        Self(Mutex::new(
            shares.iter().map(|(number, live)| (*number, i64::from(*live), 0)).collect(),
        ))
    }

    /// New weights; counters go on for those that stay, so that a repeat of the same weights disturbs nothing.
    pub fn set(&self, shares: &BTreeMap<u32, u32>) {
        let mut entries = lock(&self.0);
        let same = entries.len() == shares.len()
            && entries
                .iter()
                .all(|(number, live, _)| shares.get(number).map(|s| i64::from(*s)) == Some(*live));
        if !same {
            *entries = shares.iter().map(|(number, live)| (*number, i64::from(*live), 0)).collect();
        }
    }

    pub fn pick(&self) -> Option<u32> {
        let mut entries = lock(&self.0);
        let sum: i64 = entries.iter().map(|(_, live, _)| live).sum();
        if sum == 0 {
            return None;
        }
        for (_, live, current) in entries.iter_mut() {
            *current += *live;
        }
        let best = entries.iter_mut().max_by_key(|(_, _, current)| *current)?;
        best.2 -= sum;
        Some(best.0)
    }
}

/// Latency buckets: upper bounds grow by a quarter from 100 µs, so a quantile is right to within a quarter.
const BUCKETS: usize = 64;

fn bucket_bound_us(index: usize) -> f64 {
    100.0 * 1.25f64.powi(index as i32)
}

pub struct Counters {
    requests: AtomicU64,
    errors: AtomicU64,
    in_flight: AtomicU32,
    latency: [AtomicU64; BUCKETS],
    draining_since: OnceLock<Instant>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            latency: std::array::from_fn(|_| AtomicU64::new(0)),
            draining_since: OnceLock::new(),
        }
    }
}

impl Counters {
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Since this was first asked.
    #[allow(clippy::disallowed_methods, reason = "a drain is measured in real time")]
    pub fn draining_ms(&self) -> u64 {
        self.draining_since.get_or_init(Instant::now).elapsed().as_millis() as u64
    }

    fn done(&self, error: bool, elapsed_us: f64) {
        let bucket = (0..BUCKETS - 1)
            .find(|index| elapsed_us <= bucket_bound_us(*index))
            .unwrap_or(BUCKETS - 1);
        self.latency[bucket].fetch_add(1, Ordering::Relaxed);
        if error {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        // Last, so that a reader never sees an error without its request... the other way round is harmless.
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Upper bound of the bucket in which the quantile lies; none without requests.
    pub fn latency_ms(&self, quantile: f64) -> Option<f64> {
        let counts: Vec<u64> = self.latency.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = (quantile * total as f64).ceil() as u64;
        let mut seen = 0;
        let bucket = counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        bucket.map(|bucket| bucket_bound_us(bucket) / 1000.0)
    }
}

/// Leaves the in-flight count when dropped, however the request ends.
struct InFlight<'a>(&'a Counters);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Release);
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

#[allow(clippy::disallowed_methods, reason = "latency is measured in real time")]
async fn counted(number: u32, generation: &Generation, live: &Live, request: Request<Bytes>) -> Response<Full<Bytes>> {
    let begun = Instant::now();
    let response = answer(number, generation, live, request).await;
    live.counters
        .done(response.status().is_server_error(), begun.elapsed().as_micros() as f64);
    response
}

async fn answer(number: u32, generation: &Generation, live: &Live, request: Request<Bytes>) -> Response<Full<Bytes>> {
    let now_in_flight = live.counters.in_flight.fetch_add(1, Ordering::Acquire) + 1;
    let _in_flight = InFlight(&live.counters);
    let loaded: Option<Arc<Loaded>> = match &*lock(&live.status) {
        Status::Ready(loaded) => Some(loaded.clone()),
        _ => None,
    };
    let mut response = match loaded {
        None => plain(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        Some(_) if now_in_flight > generation.template.concurrency => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once\n")
        }
        Some(loaded) => loaded.handle(request).await.unwrap_or_else(|trouble| {
            live.output.line(&trouble);
            bad_gateway()
        }),
    };
    response.headers_mut().insert(GENERATION, HeaderValue::from(number));
    let release = &generation.release_id;
    if let Ok(release) = HeaderValue::from_str(release.get(..12).unwrap_or(release)) {
        response.headers_mut().insert(RELEASE, release);
    }
    response
}

/// The site's own listener: by weight.
pub fn front_handler(site: Arc<Site>) -> Handler {
    Arc::new(move |request: Request<Bytes>| {
        let site = site.clone();
        Box::pin(async move {
            let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
            let Some((key, split)) = site.route(host, request.uri().path()) else {
                return plain(StatusCode::NOT_FOUND, "no workload answers here\n");
            };
            let Some(number) = split.pick() else {
                return plain(StatusCode::SERVICE_UNAVAILABLE, "off line\n");
            };
            let record = site.record();
            let generation = record
                .workloads
                .get(&key)
                .and_then(|workload| workload.generations.get(&number));
            match (generation, site.live(&key, number)) {
                (Some(generation), Some(live)) => counted(number, generation, &live, request).await,
                _ => plain(StatusCode::SERVICE_UNAVAILABLE, "gone\n"),
            }
        })
    })
}

/// A generation's own address: for probes and people; counted apart from traffic, which is not what it is.
pub fn instance_handler(number: u32, generation: Generation, live: Arc<Live>) -> Handler {
    Arc::new(move |request: Request<Bytes>| {
        let (generation, live) = (generation.clone(), live.clone());
        Box::pin(async move { answer(number, &generation, &live, request).await })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact() {
        for (shares, picks) in [
            (vec![(1, 9_000), (2, 1_000)], 100),
            (vec![(1, 5_000), (2, 5_000)], 10),
            (vec![(1, 3_333), (2, 6_667)], 10_000),
        ] {
            let shares: BTreeMap<u32, u32> = shares.into_iter().collect();
            let split = Split::new(&shares);
            let mut seen: BTreeMap<u32, u32> = BTreeMap::new();
            for _ in 0..picks {
                *seen.entry(split.pick().unwrap()).or_default() += 1;
            }
            for (number, live) in &shares {
                assert_eq!(seen[number] * 10_000, live * picks, "{shares:?}");
            }
        }
        assert_eq!(Split::new(&BTreeMap::new()).pick(), None);
    }

    #[test]
    fn quantiles() {
        let counters = Counters::default();
        assert_eq!(counters.latency_ms(0.5), None);
        (0..99).for_each(|_| counters.done(false, 900.0));
        counters.done(true, 90_000.0);
        let (p50, p99, max) = (
            counters.latency_ms(0.5).unwrap(),
            counters.latency_ms(0.99).unwrap(),
            counters.latency_ms(1.0).unwrap(),
        );
        assert!((0.9..1.2).contains(&p50) && (0.9..1.2).contains(&p99) && max > 80.0);
        assert_eq!((counters.requests(), counters.errors()), (100, 1));
    }
}
