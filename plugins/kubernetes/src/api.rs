//! The API server, as this plugin needs it: JSON in and out, lists by page, and writes that lose no race. What the server
//! says about a refusal reaches people word for word.

use holdfast_plugin::Fault;
use holdfast_plugin::bindings::holdfast::target::endpoint::{Content, Fail, Header, Request, send};
use serde_json::{Value, json};

const ALIAS: &str = "cluster";
/// Somebody else wrote in between so many times.
const SWAPS_MAX: u32 = 5;
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const JSON: &str = "application/json";
/// A log is plain text.
const ACCEPT: &str = "application/json, */*;q=0.5";
/// Of a Secret only this may come into the guest: its values are nobody's business here.
const ACCEPT_METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// Who the server thinks owns the fields that are applied.
pub const FIELD_MANAGER: &str = "holdfast";

/// A kind of object in one namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub group: &'static str,
    pub plural: &'static str,
}

impl Kind {
    pub const DEPLOYMENT: Self = Self::of("apps/v1", "deployments");
    pub const JOB: Self = Self::of("batch/v1", "jobs");
    pub const SERVICE: Self = Self::of("v1", "services");
    pub const CONFIG_MAP: Self = Self::of("v1", "configmaps");
    pub const SECRET: Self = Self::of("v1", "secrets");
    pub const POD: Self = Self::of("v1", "pods");
    pub const EVENT: Self = Self::of("v1", "events");
    pub const HTTP_ROUTE: Self = Self::of("gateway.networking.k8s.io/v1", "httproutes");
    pub const BUDGET: Self = Self::of("policy/v1", "poddisruptionbudgets");

    pub const fn of(group: &'static str, plural: &'static str) -> Self {
        Self { group, plural }
    }

    fn path(self, namespace: &str) -> String {
        let root = if self.group.contains('/') { "apis" } else { "api" };
        format!("/{root}/{}/namespaces/{namespace}/{}", self.group, self.plural)
    }
}

pub struct Api {
    namespace: String,
}

pub struct Page {
    pub items: Vec<Value>,
    /// Token of the next page.
    pub more: Option<String>,
}

struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Result<Value, Fault> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Fault::Unavailable(format!("the API server's answer is no JSON: {error}")))
    }

    fn success(self, what: &str) -> Result<Value, Fault> {
        if (200..300).contains(&self.status) {
            self.json()
        } else {
            Err(refusal(self.status, &self.body, what))
        }
    }
}

/// What the server refused, as a fault. <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/>
fn refusal(status: u16, body: &[u8], what: &str) -> Fault {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let said = match answer["message"].as_str() {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(body).chars().take(300).collect(),
    };
    let message = format!("{what}: {said}");
    match status {
        403 if said.contains("exceeded quota") => Fault::Exhausted(message),
        // A policy or a webhook: the manifest has to change, or the policy.
        400 | 403 | 422 if said.contains("denied") => Fault::Invalid(message),
        401 | 403 => Fault::Denied(message),
        400 | 405 | 413 | 415 | 422 => Fault::Invalid(message),
        404 => Fault::Absent(message),
        409 => Fault::Conflict(message),
        _ => Fault::Unavailable(message),
    }
}

impl Api {
    pub fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
        }
    }

    pub fn get(&self, kind: Kind, name: &str) -> Result<Option<Value>, Fault> {
        let path = format!("{}/{name}", kind.path(&self.namespace));
        let answer = request("GET", &path, JSON, None)?;
        if answer.status == 404 {
            return Ok(None);
        }
        answer.success(&format!("reading {} {name}", kind.plural)).map(Some)
    }

    /// One page; `selector` as in a label selector, in the characters that a query may hold.
    pub fn page(&self, kind: Kind, selector: &str, limit: u32, more: Option<&str>) -> Result<Page, Fault> {
        let more = more.map_or(String::new(), |token| format!("&continue={token}"));
        self.query(kind, &format!("labelSelector={selector}&limit={limit}{more}"))
    }

    fn query(&self, kind: Kind, query: &str) -> Result<Page, Fault> {
        let path = format!("{}?{query}", kind.path(&self.namespace));
        let mut answer = request("GET", &path, JSON, None)?.success(&format!("listing {}", kind.plural))?;
        let more = answer["metadata"]["continue"].as_str().filter(|token| !token.is_empty());
        let more = more.map(str::to_owned);
        match answer["items"].take() {
            Value::Array(items) => Ok(Page { items, more }),
            _ => Err(Fault::Unavailable(format!("the list of {} has no items", kind.plural))),
        }
    }

    /// All pages of a list that is short by its nature: what one workload has.
    pub fn list(&self, kind: Kind, selector: &str) -> Result<Vec<Value>, Fault> {
        let (mut items, mut more) = (Vec::new(), None);
        loop {
            let page = self.page(kind, selector, 200, more.as_deref())?;
            items.extend(page.items);
            match page.more {
                Some(token) => more = Some(token),
                None => return Ok(items),
            }
        }
    }

    /// Events about one object, newest last.
    pub fn events(&self, name: &str) -> Result<Vec<Value>, Fault> {
        Ok(self
            .query(Kind::EVENT, &format!("fieldSelector=involvedObject.name={name}&limit=20"))?
            .items)
    }

    /// The last lines of a container's log. None: there is none, or it may not be read.
    pub fn log(&self, pod: &str, container: &str, previous: bool) -> Option<String> {
        let path = format!(
            "{}/{pod}/log?container={container}&tailLines=20&limitBytes=8192{}",
            Kind::POD.path(&self.namespace),
            if previous { "&previous=true" } else { "" }
        );
        let answer = request("GET", &path, JSON, None).ok()?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        (answer.status == 200 && !text.trim().is_empty()).then_some(text)
    }

    /// None: an object of this name is there.
    pub fn create(&self, kind: Kind, object: &Value) -> Result<Option<Value>, Fault> {
        let what = format!("creating {} {}", kind.plural, name_of(object));
        let path = format!("{}?fieldManager={FIELD_MANAGER}", kind.path(&self.namespace));
        let answer = request("POST", &path, JSON, Some(object))?;
        match (answer.status, reason(&answer)) {
            (409, reason) if reason == "AlreadyExists" => Ok(None),
            // The namespace is going: its objects are, too.
            _ => answer.success(&what).map(Some),
        }
    }

    /// What the server would make of it, its defaults and policies included.
    pub fn dry_run(&self, kind: Kind, object: &Value) -> Result<Value, Fault> {
        let path = format!(
            "{}/{}?dryRun=All&force=true&fieldManager={FIELD_MANAGER}",
            kind.path(&self.namespace),
            name_of(object)
        );
        request("PATCH", &path, APPLY, Some(object))?.success(&format!("trying {} {}", kind.plural, name_of(object)))
    }

    /// Server-side apply: our fields, and nobody else's.
    pub fn apply(&self, kind: Kind, object: &Value) -> Result<Value, Fault> {
        let path = format!(
            "{}/{}?force=true&fieldManager={FIELD_MANAGER}",
            kind.path(&self.namespace),
            name_of(object)
        );
        request("PATCH", &path, APPLY, Some(object))?.success(&format!("applying {} {}", kind.plural, name_of(object)))
    }

    /// Reads, lets `change` say what is to be merged in (none: it is well), and writes if nobody else has in between.
    pub fn swap(
        &self,
        kind: Kind,
        name: &str,
        mut change: impl FnMut(&Value) -> Result<Option<Value>, Fault>,
    ) -> Result<Value, Fault> {
        let what = format!("writing {} {name}", kind.plural);
        for _ in 0..SWAPS_MAX {
            let Some(found) = self.get(kind, name)? else {
                return Err(Fault::Absent(format!("{} {name} is not there", kind.plural)));
            };
            let Some(mut patch) = change(&found)? else { return Ok(found) };
            patch["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"].clone();
            let path = format!("{}/{name}?fieldManager={FIELD_MANAGER}", kind.path(&self.namespace));
            let answer = request("PATCH", &path, MERGE, Some(&patch))?;
            if answer.status != 409 {
                return answer.success(&what);
            }
        }
        Err(Fault::Unavailable(format!("{what}: somebody else writes it all the time")))
    }

    /// By the scale subresource, as autoscalers do; `found` is the Deployment as it was read.
    pub fn set_replicas(&self, kind: Kind, found: &Value, replicas: u32) -> Result<(), Fault> {
        let name = name_of(found);
        let scale = json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale",
            "metadata": { "name": name, "namespace": self.namespace, "resourceVersion": found["metadata"]["resourceVersion"] },
            "spec": { "replicas": replicas },
        });
        let path = format!("{}/{name}/scale", kind.path(&self.namespace));
        let answer = request("PUT", &path, JSON, Some(&scale))?;
        answer.success(&format!("scaling {} {name}", kind.plural)).map(drop)
    }

    /// With everything that hangs off it, and only what was read. Not there: gone already.
    pub fn delete(&self, kind: Kind, found: &Value) -> Result<(), Fault> {
        let name = name_of(found);
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground",
            "preconditions": { "uid": found["metadata"]["uid"] },
        });
        let path = format!("{}/{name}", kind.path(&self.namespace));
        let answer = request("DELETE", &path, JSON, Some(&options))?;
        if answer.status == 404 {
            return Ok(());
        }
        answer.success(&format!("deleting {} {name}", kind.plural)).map(drop)
    }
}

pub fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn reason(answer: &Answer) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    body["reason"].as_str().unwrap_or_default().to_owned()
}

fn request(method: &str, path: &str, content_type: &str, body: Option<&Value>) -> Result<Answer, Fault> {
    let kind = path
        .strip_prefix("/api/v1/namespaces/")
        .and_then(|rest| rest.split(['/', '?']).nth(1));
    let accept = if kind == Some("secrets") { ACCEPT_METADATA } else { ACCEPT };
    let mut headers = vec![("accept", accept)];
    let body = match body {
        Some(value) => {
            headers.push(("content-type", content_type));
            Content::Bytes(serde_json::to_vec(value).map_err(|error| Fault::Internal(error.to_string()))?)
        }
        None => Content::Empty,
    };
    let header = |(name, value): (&str, &str)| Header {
        name: name.into(),
        value: value.into(),
    };
    let request = Request {
        method: method.into(),
        path: path.into(),
        headers: headers.into_iter().map(header).collect(),
        body,
        timeout_ms: 0,
    };
    match send(ALIAS, &request) {
        Ok(response) => Ok(Answer {
            status: response.status as u16,
            body: response.body,
        }),
        Err(Fail::Denied(message)) => Err(Fault::Denied(message)),
        Err(Fail::Unreachable(message)) => Err(Fault::Unavailable(message)),
        Err(Fail::Lost(message)) => Err(Fault::Unavailable(format!("sent, but no answer came: {message}"))),
        Err(Fail::TooLarge(message)) => Err(Fault::Exhausted(message)),
        Err(Fail::Malformed(message)) => Err(Fault::Unavailable(message)),
    }
}
