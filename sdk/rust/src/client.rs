//! A client for one endpoint alias. Failures become faults here, once; nothing is retried in the guest, but a lost
//! compare-and-swap is read again.

use crate::Fault;
use crate::bindings::holdfast::target::endpoint::{Content, Fail, Header, Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Of one list; a server that names a next page for ever is a fault.
const PAGES_MAX: usize = 1_000;
/// Somebody else wrote in between so many times.
const SWAPS_MAX: usize = 5;

pub struct Endpoint {
    alias: &'static str,
}

/// A status that the caller wants to look at, and the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The `etag` header, for a conditional write.
    pub etag: Option<String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Fault::Unavailable(format!("the endpoint's answer is not what was expected: {error}")))
    }

    /// The first 300 characters of the body, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(300).collect()
    }
}

/// What a write is conditional on.
enum Condition<'a> {
    None,
    Absent,
    Etag(&'a str),
}

impl Endpoint {
    pub const fn new(alias: &'static str) -> Self {
        Self { alias }
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Fault> {
        expect_success(self.ask(path)?)?.json()
    }

    /// Whatever the status is.
    pub fn ask(&self, path: &str) -> Result<Answer, Fault> {
        self.send("GET", path, Content::Empty, Condition::None)
    }

    /// None: 404 or 410.
    pub fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Fault> {
        Ok(self.read(path)?.map(|(document, _)| document))
    }

    pub fn put(&self, path: &str, body: &impl Serialize) -> Result<Answer, Fault> {
        self.with_body("PUT", path, body, Condition::None)
    }

    pub fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, Fault> {
        self.with_body("POST", path, body, Condition::None)
    }

    pub fn delete(&self, path: &str, body: &impl Serialize) -> Result<Answer, Fault> {
        self.with_body("DELETE", path, body, Condition::None)
    }

    /// What is not there is gone already.
    pub fn remove(&self, path: &str) -> Result<(), Fault> {
        let answer = self.send("DELETE", path, Content::Empty, Condition::None)?;
        match answer.status {
            404 | 410 => Ok(()),
            _ => expect_success(answer).map(drop),
        }
    }

    /// Every item of a paged list. `split` says what a page holds, and the path of the next one.
    pub fn list<P: DeserializeOwned, T>(
        &self,
        first: &str,
        split: impl Fn(P) -> (Vec<T>, Option<String>),
    ) -> Result<Vec<T>, Fault> {
        let (mut items, mut path) = (Vec::new(), first.to_owned());
        for _ in 0..PAGES_MAX {
            let (more, next) = split(self.get(&path)?);
            items.extend(more);
            match next {
                Some(next) => path = next,
                None => return Ok(items),
            }
        }
        // A short list would mean that the rest is gone.
        Err(Fault::Unavailable(format!(
            "the list {first} has more than {PAGES_MAX} pages"
        )))
    }

    /// As `list`: what carries our stamp, and what does not.
    pub fn list_by_stamp<P: DeserializeOwned, T>(
        &self,
        first: &str,
        split: impl Fn(P) -> (Vec<T>, Option<String>),
        is_ours: impl Fn(&T) -> bool,
    ) -> Result<(Vec<T>, Vec<T>), Fault> {
        Ok(self.list(first, split)?.into_iter().partition(is_ours))
    }

    /// Creates what is not there. What is there has to be the same thing, or it is a conflict.
    pub fn create_or_match<T: Serialize + DeserializeOwned>(
        &self,
        path: &str,
        wanted: &T,
        is_same: impl Fn(&T) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let answer = self.with_body("PUT", path, wanted, Condition::Absent)?;
        if !matches!(answer.status, 409 | 412) {
            return expect_success(answer).map(drop);
        }
        let there: T = self.get(path)?;
        match is_same(&there)? {
            true => Ok(()),
            false => Err(Fault::Conflict(format!("{path} is there already, and is something else"))),
        }
    }

    /// Compare-and-swap: reads, changes, writes only if nobody wrote in between, and else begins again. `change` sees what is
    /// there (none: nothing) and says what shall be (none: leave it); it is where owner and fence are looked at, each time.
    pub fn swap<T: Serialize + DeserializeOwned>(
        &self,
        path: &str,
        mut change: impl FnMut(Option<T>) -> Result<Option<T>, Fault>,
    ) -> Result<(), Fault> {
        for _ in 0..SWAPS_MAX {
            let (there, etag) = match self.read(path)? {
                Some((there, etag)) => (Some(there), etag),
                None => (None, None),
            };
            let is_there = there.is_some();
            let Some(wanted) = change(there)? else { return Ok(()) };
            let condition = match (&etag, is_there) {
                (Some(etag), _) => Condition::Etag(etag),
                (None, true) => Condition::None,
                (None, false) => Condition::Absent,
            };
            let answer = self.with_body("PUT", path, &wanted, condition)?;
            if answer.status != 412 {
                return expect_success(answer).map(drop);
            }
        }
        Err(Fault::Unavailable(format!(
            "others wrote {path} {SWAPS_MAX} times in between"
        )))
    }

    /// As `swap`, where what shall be does not depend on what is; `may` looks at what would be overwritten.
    pub fn replace<T: Serialize + DeserializeOwned>(
        &self,
        path: &str,
        wanted: &T,
        may: impl Fn(&T) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let wanted = serde_json::to_value(wanted).map_err(|error| Fault::Internal(error.to_string()))?;
        self.swap(path, |there: Option<serde_json::Value>| {
            if let Some(there) = there {
                let there =
                    T::deserialize(&there).map_err(|error| Fault::Conflict(format!("{path} is something else: {error}")))?;
                may(&there)?;
            }
            Ok(Some(wanted.clone()))
        })
    }

    fn read<T: DeserializeOwned>(&self, path: &str) -> Result<Option<(T, Option<String>)>, Fault> {
        let answer = self.ask(path)?;
        if matches!(answer.status, 404 | 410) {
            return Ok(None);
        }
        let answer = expect_success(answer)?;
        Ok(Some((answer.json()?, answer.etag)))
    }

    fn with_body(&self, method: &str, path: &str, body: &impl Serialize, condition: Condition<'_>) -> Result<Answer, Fault> {
        let bytes = serde_json::to_vec(body).map_err(|error| Fault::Internal(error.to_string()))?;
        self.send(method, path, Content::Bytes(bytes), condition)
    }

    fn send(&self, method: &str, path: &str, body: Content, condition: Condition<'_>) -> Result<Answer, Fault> {
        let header = |name: &str, value: &str| Header {
            name: name.into(),
            value: value.into(),
        };
        let mut headers = vec![header("accept", "application/json")];
        if !matches!(body, Content::Empty) {
            headers.push(header("content-type", "application/json"));
        }
        match condition {
            Condition::None => {}
            Condition::Absent => headers.push(header("if-none-match", "*")),
            Condition::Etag(etag) => headers.push(header("if-match", etag)),
        }
        let request = Request {
            method: method.into(),
            path: path.into(),
            headers,
            body,
            timeout_ms: 0,
        };
        match exchange(self.alias, &request) {
            Ok(response) => Ok(Answer {
                status: response.status as u16,
                etag: response
                    .headers
                    .into_iter()
                    .find(|header| header.name.eq_ignore_ascii_case("etag"))
                    .map(|header| header.value),
                body: response.body,
            }),
            Err(Fail::Denied(message)) => Err(Fault::Denied(message)),
            Err(Fail::Unreachable(message)) => Err(Fault::Unavailable(message)),
            Err(Fail::Lost(message)) => Err(Fault::Unavailable(format!("sent, but no answer came: {message}"))),
            Err(Fail::TooLarge(message)) => Err(Fault::Exhausted(message)),
            Err(Fail::Malformed(message)) => Err(Fault::Unavailable(message)),
        }
    }
}

#[cfg(target_arch = "wasm32")]
fn exchange(alias: &str, request: &Request) -> Result<Response, Fail> {
    crate::bindings::holdfast::target::endpoint::send(alias, request)
}

/// In a plain `cargo test` there is no host: the fake one of this thread answers.
#[cfg(not(target_arch = "wasm32"))]
fn exchange(alias: &str, request: &Request) -> Result<Response, Fail> {
    crate::fake::send(alias, request)
}

/// Any status but 2xx as the fault that HTTP means by it.
pub fn expect_success(answer: Answer) -> Result<Answer, Fault> {
    match answer.status {
        200..=299 => Ok(answer),
        status => {
            let message = format!("HTTP {status}: {}", answer.text());
            Err(match status {
                400 | 405 | 422 => Fault::Invalid(message),
                401 | 403 => Fault::Denied(message),
                404 | 410 => Fault::Absent(message),
                409 | 412 => Fault::Conflict(message),
                413 | 429 | 507 => Fault::Exhausted(message),
                _ => Fault::Unavailable(message),
            })
        }
    }
}
