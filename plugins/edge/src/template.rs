//! What a site can be told of a bundle and of a job, and what is wrong with it.

use holdfast_plugin::{Problem, template};
use serde::Deserialize;
use serde_json::{Value, json};

const JOB_TIMEOUT_DEFAULT_MS: u32 = 60_000;
const JOB_TIMEOUT_MS: (u32, u32) = (10, 3_600_000);
const JOB_BODY_MAX_BYTES: usize = 64 << 10;
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

/// Everything is optional; what is left out, the site decides.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bundle {
    host: Option<String>,
    memory_mib: Option<u32>,
    timeout_ms: Option<u32>,
    concurrency: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    path: String,
    method: Option<String>,
    body: Option<String>,
    timeout: Option<String>,
}

fn problem(at: &str, message: String) -> Problem {
    Problem {
        at: at.into(),
        message,
        hint: String::new(),
    }
}

pub fn bundle_problems(text: &str) -> Vec<Problem> {
    let bundle: Bundle = match template(text) {
        Ok(bundle) => bundle,
        Err(problem) => {
            return vec![Problem {
                hint: "an edge template knows host, memory_mib, timeout_ms and concurrency".into(),
                ..problem
            }];
        }
    };
    let limits = [
        ("memory_mib", bundle.memory_mib, 1, 512),
        ("timeout_ms", bundle.timeout_ms, 10, 60_000),
        ("concurrency", bundle.concurrency, 1, 1024),
    ];
    let out_of_range = limits.into_iter().filter_map(|(name, value, least, most)| {
        let value = value.filter(|value| !(least..=most).contains(value))?;
        Some(problem(
            &format!("/template/{name}"),
            format!("{value} is not in {least} to {most}"),
        ))
    });
    let is_host = |host: &String| {
        (1..=253).contains(&host.len()) && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
    };
    let host = bundle.host.filter(|host| !is_host(host));
    let host = host.map(|host| problem("/template/host", format!("{host:?} is not a host name without a port")));
    out_of_range.chain(host).collect()
}

/// The request that the site is given, or all that is wrong.
pub fn job_request(text: &str) -> Result<Value, Vec<Problem>> {
    let job: Job = template(text).map_err(|problem| {
        vec![Problem {
            hint: "a job of an edge workload knows path, method, body and timeout".into(),
            ..problem
        }]
    })?;
    let mut problems = Vec::new();
    if !job.path.starts_with('/') || !job.path.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b'#') {
        problems.push(problem(
            "/template/path",
            format!("{:?} is not a path that begins with /, in plain ASCII", job.path),
        ));
    }
    let method = job.method.unwrap_or_else(|| "POST".into());
    if !METHODS.contains(&method.as_str()) {
        problems.push(problem(
            "/template/method",
            format!("{method:?} is none of {}", METHODS.join(", ")),
        ));
    }
    let body = job.body.unwrap_or_default();
    if body.len() > JOB_BODY_MAX_BYTES {
        problems.push(problem(
            "/template/body",
            format!("it has {} bytes; at most {JOB_BODY_MAX_BYTES} are sent", body.len()),
        ));
    }
    let (least, most) = JOB_TIMEOUT_MS;
    let timeout_ms = match &job.timeout {
        None => Some(JOB_TIMEOUT_DEFAULT_MS),
        Some(text) => duration_ms(text).filter(|ms| (least..=most).contains(ms)),
    };
    if timeout_ms.is_none() {
        problems.push(problem(
            "/template/timeout",
            format!(
                "{:?} is not a duration of 10ms to 1h, as in 30s or 5m",
                job.timeout.unwrap_or_default()
            ),
        ));
    }
    if problems.is_empty() {
        Ok(json!({ "path": job.path, "method": method, "body": body, "timeout_ms": timeout_ms }))
    } else {
        Err(problems)
    }
}

fn duration_ms(text: &str) -> Option<u32> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u32>().ok()?.checked_mul(unit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(problems: &[Problem]) -> String {
        problems
            .iter()
            .map(|problem| problem.at.trim_start_matches("/template"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn bundles() {
        for (text, expected) in [
            ("{}", ""),
            (
                r#"{"host":"shop.example.com","memory_mib":8,"timeout_ms":100,"concurrency":1}"#,
                "",
            ),
            (
                r#"{"memory_mib":0,"timeout_ms":1,"concurrency":9999}"#,
                "/memory_mib /timeout_ms /concurrency",
            ),
            (r#"{"memory_mib":"8"}"#, "/memory_mib"),
            (r#"{"host":"a b"}"#, "/host"),
            (r#"{"memory":8}"#, "/memory"),
        ] {
            assert_eq!(places(&bundle_problems(text)), expected, "{text}");
        }
    }

    #[test]
    fn jobs() {
        for (text, expected) in [
            (r#"{"path":"/migrate"}"#, ""),
            (r#"{"path":"/m?x=1","method":"PUT","body":"b","timeout":"5m"}"#, ""),
            (
                r#"{"path":"migrate","method":"post","timeout":"2h"}"#,
                "/path /method /timeout",
            ),
            (r#"{"path":"/a b","timeout":"soon"}"#, "/path /timeout"),
            (r#"{"path":"/m","timeout":60}"#, "/timeout"),
            (r#"{"path":"/m","retries":3}"#, "/retries"),
            (r#"{}"#, ""),
        ] {
            let found = job_request(text).err().unwrap_or_default();
            assert_eq!(places(&found), expected, "{text}");
        }
        assert!(
            job_request("{}").is_err(),
            "the whole template is the place of what is missing"
        );
        let request = job_request(r#"{"path":"/m"}"#).unwrap();
        assert_eq!(
            request,
            json!({ "path": "/m", "method": "POST", "body": "", "timeout_ms": 60_000 })
        );
    }
}
