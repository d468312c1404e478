//! A target in memory: JSON documents by path, with ETags, conditional writes, collections in pages, and effects that follow
//! a write (what is asked for starts to run). A description says what there is, so that a plugin's author writes no server.
//!
//! | request | answer |
//! |---|---|
//! | `GET /path` | 200 with `etag`; 404 |
//! | `GET /collection` | 200 `{"items": [{"path", "etag", "document"}], "next": "/collection?after=..." or null}` |
//! | `PUT /path` | 201 new, 200 changed; 412 when `if-match` or `if-none-match: *` does not hold; 400 when it is no JSON |
//! | `DELETE /path` | 204; 404; 412 |

use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

const DOCUMENTS_MAX: usize = 10_000;
const DEFAULT_PAGE: usize = 100;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The alias under which a plugin reaches it.
    pub alias: String,
    /// What is there at first, by path.
    #[serde(default)]
    pub documents: BTreeMap<String, Value>,
    #[serde(default)]
    pub collections: BTreeMap<String, Collection>,
    #[serde(default)]
    pub effects: Vec<Effect>,
}

/// A GET of its path lists the documents below it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collection {
    /// Documents in one page.
    #[serde(default)]
    pub page: Option<usize>,
}

/// After a write below `below`, the value at the pointer `copy` appears at `to`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Effect {
    pub below: String,
    pub copy: String,
    pub to: String,
    /// So many reads see it as it was.
    #[serde(default)]
    pub after_reads: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

pub struct Simulation {
    description: Description,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    documents: BTreeMap<String, Document>,
    writes: u64,
}

#[derive(Clone)]
struct Document {
    value: Value,
    version: u64,
    /// Effects that have not happened: index, and reads until then.
    pending: Vec<(usize, u32)>,
}

impl Simulation {
    pub fn new(description: Description) -> Self {
        let mut state = State::default();
        for (path, value) in &description.documents {
            state.writes += 1;
            let document = Document {
                value: value.clone(),
                version: state.writes,
                pending: Vec::new(),
            };
            state.documents.insert(path.clone(), document);
        }
        Self {
            description,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that is there, by path.
    pub fn documents(&self) -> BTreeMap<String, Value> {
        let state = self.state();
        state
            .documents
            .iter()
            .map(|(path, document)| (path.clone(), document.value.clone()))
            .collect()
    }

    /// Header names in lower case.
    pub fn handle(&self, method: &str, path_and_query: &str, headers: &[(String, String)], body: &[u8]) -> Answer {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let header = |name: &str| {
            headers
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.as_str())
        };
        let mut state = self.state();
        let current = state.documents.get(path).map(|document| etag(document.version));
        let holds = match (header("if-match"), header("if-none-match")) {
            (Some(wanted), _) => current.as_deref() == Some(wanted),
            (None, Some("*")) => current.is_none(),
            _ => true,
        };
        match method {
            "GET" => match self.description.collections.get(path) {
                Some(collection) => self.list(&mut state, path, collection, query),
                None => self.read(&mut state, path),
            },
            "PUT" | "DELETE" if !holds => refusal(412, "it is not as the condition says"),
            "PUT" => self.write(&mut state, path, body),
            "DELETE" => match state.documents.remove(path) {
                Some(_) => Answer {
                    status: 204,
                    headers: Vec::new(),
                    body: Vec::new(),
                },
                None => refusal(404, "no such document"),
            },
            _ => refusal(405, "GET, PUT and DELETE are known"),
        }
    }

    fn read(&self, state: &mut State, path: &str) -> Answer {
        let Some(document) = state.documents.get_mut(path) else {
            return refusal(404, "no such document");
        };
        self.settle(document);
        answer(200, Some(document.version), &document.value)
    }

    fn list(&self, state: &mut State, path: &str, collection: &Collection, query: &str) -> Answer {
        let after = query.strip_prefix("after=").unwrap_or_default();
        let below = format!("{path}/");
        let page = collection.page.unwrap_or(DEFAULT_PAGE).max(1);
        let mut items = Vec::new();
        let mut next = None;
        for (place, document) in state.documents.iter_mut() {
            let Some(name) = place.strip_prefix(&below).filter(|name| *name > after) else {
                continue;
            };
            if items.len() == page {
                let last: &Value = &items[page - 1];
                let last = last["path"].as_str().unwrap_or_default().trim_start_matches(&below);
                next = Some(format!("{path}?after={last}"));
                break;
            }
            self.settle(document);
            items.push(json!({ "path": format!("{below}{name}"), "etag": etag(document.version), "document": document.value }));
        }
        answer(200, None, &json!({ "items": items, "next": next }))
    }

    fn write(&self, state: &mut State, path: &str, body: &[u8]) -> Answer {
        let Ok(value) = serde_json::from_slice::<Value>(body) else {
            return refusal(400, "the body is not JSON");
        };
        if state.documents.len() >= DOCUMENTS_MAX && !state.documents.contains_key(path) {
            return refusal(507, "it holds no more documents");
        }
        state.writes += 1;
        let effects = self.description.effects.iter().enumerate();
        let pending = effects
            .filter(|(_, effect)| path.starts_with(&format!("{}/", effect.below)) || path == effect.below)
            .map(|(index, effect)| (index, effect.after_reads));
        let mut document = Document {
            value,
            version: state.writes,
            pending: pending.collect(),
        };
        // What is observed stays what it was until the effect happens.
        if let Some(old) = state.documents.get(path) {
            for (index, _) in &document.pending {
                let to = &self.description.effects[*index].to;
                if let Some(value) = old.value.pointer(to) {
                    set(&mut document.value, to, value.clone());
                }
            }
        }
        let answered = answer(
            if state.documents.contains_key(path) { 200 } else { 201 },
            Some(document.version),
            &document.value,
        );
        state.documents.insert(path.to_owned(), document);
        answered
    }

    fn settle(&self, document: &mut Document) {
        let pending = std::mem::take(&mut document.pending);
        for (index, reads) in pending {
            if reads > 0 {
                document.pending.push((index, reads - 1));
                continue;
            }
            let effect = &self.description.effects[index];
            if let Some(value) = document.value.pointer(&effect.copy).cloned() {
                set(&mut document.value, &effect.to, value);
            }
        }
    }
}

/// At a pointer whose parents are there.
fn set(document: &mut Value, pointer: &str, value: Value) {
    let Some((parent, name)) = pointer.rsplit_once('/') else {
        return;
    };
    if let Some(Value::Object(fields)) = document.pointer_mut(parent) {
        fields.insert(name.to_owned(), value);
    }
}

fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

fn answer(status: u16, version: Option<u64>, body: &Value) -> Answer {
    let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    headers.extend(version.map(|version| ("etag".to_owned(), etag(version))));
    Answer {
        status,
        headers,
        body: body.to_string().into_bytes(),
    }
}

fn refusal(status: u16, message: &str) -> Answer {
    answer(status, None, &json!({ "message": message }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(simulation: &Simulation, method: &str, path: &str, condition: Option<(&str, &str)>, body: &str) -> (u16, Value) {
        let headers: Vec<(String, String)> = condition.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        let answer = simulation.handle(method, path, &headers, body.as_bytes());
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    #[test]
    fn documents_conditions_pages_and_effects() {
        let description = json!({ "alias": "api", "documents": { "/units/a": { "is": "foreign" } },
            "collections": { "/units": { "page": 2 } },
            "effects": [{ "below": "/units", "copy": "/digest", "to": "/running", "after_reads": 1 }] });
        let simulation = Simulation::new(serde_json::from_value(description).unwrap());
        let any = Some(("if-none-match", "*"));
        for (method, path, condition, body, status) in [
            ("GET", "/units/x", None, "", 404),
            ("PUT", "/units/b", any, r#"{"digest":"d1"}"#, 201),
            ("PUT", "/units/b", any, r#"{"digest":"d1"}"#, 412),
            ("PUT", "/units/b", Some(("if-match", "\"9\"")), "{}", 412),
            ("PUT", "/units/c", None, "no json", 400),
            ("PUT", "/units/c", None, "{}", 201),
            ("PUT", "/units/c", None, "{}", 200),
            ("DELETE", "/units/x", None, "", 404),
            ("POST", "/units/x", None, "", 405),
        ] {
            assert_eq!(ask(&simulation, method, path, condition, body).0, status, "{method} {path}");
        }
        let first = ask(&simulation, "GET", "/units", None, "").1;
        assert_eq!(first["items"].as_array().unwrap().len(), 2);
        assert_eq!(
            first["items"][1]["document"].get("running"),
            None,
            "one read sees it as it was"
        );
        let rest = ask(&simulation, "GET", first["next"].as_str().unwrap(), None, "").1;
        assert_eq!((&rest["items"][0]["path"], &rest["next"]), (&json!("/units/c"), &Value::Null));
        assert_eq!(ask(&simulation, "GET", "/units/b", None, "").1["running"], "d1");
        ask(&simulation, "PUT", "/units/b", None, r#"{"digest":"d2"}"#);
        assert_eq!(
            ask(&simulation, "GET", "/units/b", None, "").1["running"],
            "d1",
            "the old one runs until then"
        );
        assert_eq!(ask(&simulation, "GET", "/units/b", None, "").1["running"], "d2");
        assert_eq!(ask(&simulation, "DELETE", "/units/b", None, "").0, 204);
        assert_eq!(simulation.documents().len(), 2);
    }
}
