//! A client for one endpoint alias. Failures become faults here, once; nothing is retried in the guest.

use crate::Fault;
use crate::bindings::holdfast::target::endpoint::{Content, Fail, Header, Request, send};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub struct Endpoint {
    alias: &'static str,
}

/// A status that the caller wants to look at, and the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
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

impl Endpoint {
    pub const fn new(alias: &'static str) -> Self {
        Self { alias }
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Fault> {
        expect_success(self.send("GET", path, Content::Empty)?)?.json()
    }

    pub fn put(&self, path: &str, body: &impl Serialize) -> Result<Answer, Fault> {
        self.with_body("PUT", path, body)
    }

    pub fn delete(&self, path: &str, body: &impl Serialize) -> Result<Answer, Fault> {
        self.with_body("DELETE", path, body)
    }

    fn with_body(&self, method: &str, path: &str, body: &impl Serialize) -> Result<Answer, Fault> {
        let bytes = serde_json::to_vec(body).map_err(|error| Fault::Internal(error.to_string()))?;
        self.send(method, path, Content::Bytes(bytes))
    }

    fn send(&self, method: &str, path: &str, body: Content) -> Result<Answer, Fault> {
        let mut headers = vec![Header {
            name: "accept".into(),
            value: "application/json".into(),
        }];
        if !matches!(body, Content::Empty) {
            headers.push(Header {
                name: "content-type".into(),
                value: "application/json".into(),
            });
        }
        let request = Request {
            method: method.into(),
            path: path.into(),
            headers,
            body,
            timeout_ms: 0,
        };
        match send(self.alias, &request) {
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
