//! Queries of Prometheus and of what speaks its HTTP API. A query answers one number; everything else is unmeasured, with
//! a sentence that says why. One attempt, a deadline, and caps.

use super::web::{WebError, WebServer};
use crate::operator::MetricSourceConfig;
use holdfast_core::plan::facts::Measure;
use holdfast_host::AuthConfig;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::sync::Semaphore;

const DEADLINE: Duration = Duration::from_secs(10);
const ANSWER_MAX_BYTES: usize = 1 << 20;
const QUERIES_AT_ONCE: usize = 8;
/// A range is cut into so many steps of at least a second.
const RANGE_STEPS: u64 = 60;
const SENTENCE_MAX_CHARS: usize = 300;

/// What stands for a generation in a query.
#[derive(Debug, Clone, Default)]
pub struct Placeholders {
    pub generation: String,
    pub workload: String,
    pub target: String,
    pub release: String,
    pub deploy: String,
}

impl Placeholders {
    fn get(&self, name: &str) -> Option<&str> {
        Some(match name {
            "generation" => &self.generation,
            "workload" => &self.workload,
            "target" => &self.target,
            "release" => &self.release,
            "deploy" => &self.deploy,
            _ => return None,
        })
    }

    /// The query with every `{{name}}` filled in, as text for the inside of a PromQL string.
    fn fill(&self, query: &str) -> Result<String, String> {
        let mut filled = String::new();
        let mut rest = query;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after.split_once("}}").ok_or("a {{ in the query is not closed".to_owned())?;
            let name = name.trim();
            let value = self.get(name).ok_or_else(|| {
                format!("the query names {{{{{name}}}}}; there are generation, workload, target, release and deploy")
            })?;
            filled.push_str(before);
            escape(value, &mut filled);
            rest = after;
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

/// Bytes that are not plainly harmless become `\xNN`, which is right in "double" and 'single' quotes and ends neither;
/// between `backticks` nothing can be escaped, and there it ends nothing either.
fn escape(value: &str, filled: &mut String) {
    use std::fmt::Write;
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':' | b'/') {
            filled.push(byte.into());
        } else {
            let _ = write!(filled, "\\x{byte:02x}");
        }
    }
}

/// The last `range_ms` before `end_ms`, which is in Unix milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct RangeQuery {
    pub end_ms: u64,
    pub range_ms: u64,
}

/// Every metric source that the operator configured.
#[derive(Default)]
pub struct MetricSources(BTreeMap<String, Prometheus>);

struct Prometheus {
    server: WebServer,
    auth: Option<AuthConfig>,
    queries: Semaphore,
}

impl MetricSources {
    pub fn new(configs: &BTreeMap<String, MetricSourceConfig>) -> Result<Self, WebError> {
        configs
            .iter()
            .map(|(name, config)| Ok((name.clone(), Prometheus::new(name, config)?)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The number that a query answers for one generation. `samples`: a query for how many samples that rests on.
    pub async fn measure(
        &self,
        source: &str,
        query: &str,
        samples: Option<&str>,
        range: Option<RangeQuery>,
        placeholders: &Placeholders,
    ) -> Result<Measure, String> {
        let prometheus = self.0.get(source).ok_or_else(|| {
            format!("no metric source {source:?} in the operator's configuration; add it under `metrics.sources`")
        })?;
        let query = placeholders.fill(query)?;
        let points = prometheus.points(&query, range);
        let Some(samples) = samples else {
            return Ok(mean(&points.await?));
        };
        let samples = placeholders.fill(samples)?;
        let (points, samples) = tokio::join!(points, prometheus.points(&samples, None));
        let samples = samples.map_err(|why| format!("the samples query: {why}"))?;
        Ok(Measure {
            value: mean(&points?).value,
            // Saturates, and counts what is below zero as none.
            samples: mean(&samples).value as u64,
        })
    }
}

fn mean(points: &[f64]) -> Measure {
    Measure {
        value: points.iter().sum::<f64>() / points.len() as f64,
        samples: points.len() as u64,
    }
}

impl Prometheus {
    fn new(name: &str, config: &MetricSourceConfig) -> Result<Self, WebError> {
        let who = format!("metric source {name}");
        Ok(Self {
            server: WebServer::new(&who, &config.url, config.ca_file.as_deref(), DEADLINE)?,
            auth: config.auth.clone(),
            queries: Semaphore::new(QUERIES_AT_ONCE),
        })
    }

    /// The numbers of the one series that a query answers: one of an instant query, one a step of a range.
    async fn points(&self, query: &str, range: Option<RangeQuery>) -> Result<Vec<f64>, String> {
        let mut parameters = vec![("query", query.to_owned())];
        let endpoint = match range {
            None => "query",
            Some(range) => {
                let step_ms = (range.range_ms / RANGE_STEPS).max(1_000);
                let start_ms = range.end_ms.saturating_sub(range.range_ms);
                parameters.push(("start", seconds(start_ms)));
                parameters.push(("end", seconds(range.end_ms)));
                parameters.push(("step", seconds(step_ms)));
                "query_range"
            }
        };
        parameters.push(("timeout", format!("{}s", DEADLINE.as_secs())));
        let _turn = self
            .queries
            .acquire()
            .await
            .map_err(|_| "the daemon is stopping".to_owned())?;
        let response = self.send(endpoint, &parameters).await?;
        let status = response.status();
        let body = read(response).await?;
        let answer = serde_json::from_slice::<Answer>(&body);
        match answer {
            Ok(answer) if answer.status == "success" && status.is_success() => one_series(&answer),
            Ok(Answer { error: Some(error), .. }) => Err(sentence(format!("Prometheus refuses the query: {error}"))),
            _ if status.is_success() => Err("the answer is not the JSON that Prometheus gives".into()),
            _ if status.is_redirection() => Err(format!("the metric source answered {status}; redirects are not followed")),
            _ => Err(format!("the metric source answered {status}")),
        }
    }

    /// As a form, which carries long queries; once more as a GET where something in between lets only that through.
    async fn send(&self, endpoint: &str, parameters: &[(&str, String)]) -> Result<Response, String> {
        let text = format!("{}/api/v1/{endpoint}", self.server.base);
        let mut url = Url::parse(&text).map_err(|_| format!("{text:?} is no URL"))?;
        url.query_pairs_mut().extend_pairs(parameters);
        let mut form_url = url.clone();
        form_url.set_query(None);
        let form = url.query().unwrap_or_default().to_owned();
        let form = self
            .server
            .client
            .post(form_url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form);
        let response = self.authorized(form)?.send().await.map_err(|error| unreachable(&error))?;
        if !matches!(
            response.status(),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
        ) {
            return Ok(response);
        }
        let get = self.authorized(self.server.client.get(url))?;
        get.send().await.map_err(|error| unreachable(&error))
    }

    fn authorized(&self, request: RequestBuilder) -> Result<RequestBuilder, String> {
        match &self.auth {
            Some(auth) => authorized(request, auth),
            None => Ok(request),
        }
    }
}

fn authorized(request: RequestBuilder, auth: &AuthConfig) -> Result<RequestBuilder, String> {
    let read = |file: &Path| {
        std::fs::read_to_string(file)
            .map(|text| text.trim_end_matches(['\n', '\r']).to_owned())
            .map_err(|error| format!("the credential file {} cannot be read: {error}", file.display()))
    };
    if let Some(file) = &auth.bearer_token_file {
        let mut value = HeaderValue::try_from(format!("Bearer {}", read(file)?))
            .map_err(|_| format!("what {} holds is no token", file.display()))?;
        value.set_sensitive(true);
        return Ok(request.header(AUTHORIZATION, value));
    }
    match &auth.basic {
        Some(basic) => Ok(request.basic_auth(&basic.username, Some(read(&basic.password_file)?))),
        None => Ok(request),
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

fn unreachable(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("the metric source did not answer within {} s", DEADLINE.as_secs());
    }
    // The innermost cause says it in words; the outer ones repeat the URL.
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    sentence(format!("the metric source cannot be reached: {cause}"))
}

async fn read(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
        if body.len() + chunk.len() > ANSWER_MAX_BYTES {
            return Err(format!(
                "the answer has more than {ANSWER_MAX_BYTES} bytes; let the query answer one series"
            ));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[derive(Deserialize)]
struct Answer {
    status: String,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

fn one_series(answer: &Answer) -> Result<Vec<f64>, String> {
    let result = &answer.data["result"];
    let kind = answer.data["resultType"].as_str().unwrap_or_default();
    let points = match kind {
        "scalar" => vec![result],
        "vector" | "matrix" => {
            let series = result.as_array().map(Vec::as_slice).unwrap_or_default();
            let one = match series {
                [one] => one,
                [] => {
                    let warned = answer.warnings.first();
                    let warned = warned
                        .map(|warning| format!("; Prometheus warns: {warning}"))
                        .unwrap_or_default();
                    return Err(sentence(format!("the query answers nothing{warned}")));
                }
                many => {
                    let count = many.len();
                    return Err(format!(
                        "the query answers {count} series; let it answer one, as sum(...) does"
                    ));
                }
            };
            match one["values"].as_array() {
                Some(values) => values.iter().collect(),
                None => vec![&one["value"]],
            }
        }
        other => return Err(sentence(format!("the query answers a {other:?}; let it answer a number"))),
    };
    let numbers = points
        .iter()
        .map(|point| point[1].as_str().and_then(|text| text.parse::<f64>().ok()))
        .collect::<Option<Vec<f64>>>()
        .ok_or("the query answers a series without numbers".to_owned())?;
    // Of a range, moments without traffic (0/0) are left out: only what was measured is averaged.
    let finite: Vec<f64> = numbers.into_iter().filter(|number| number.is_finite()).collect();
    if finite.is_empty() {
        return Err("the query answers no finite number (0/0, when nothing was asked of it yet?)".into());
    }
    Ok(finite)
}

/// For people: one line, not too long, and nothing that moves a cursor.
fn sentence(text: String) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(SENTENCE_MAX_CHARS)
        .collect()
}

#[cfg(test)]
#[path = "prometheus_tests.rs"]
mod tests;
