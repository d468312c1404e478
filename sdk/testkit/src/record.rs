//! Host calls written down, and answered again from what was written: a call that is replayed needs no target.

use holdfast_host::{Binding, Exchange, SendFail, Sending, Wire, WireRequest};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Of one exchange while recording; the call's own deadline cuts it too.
const EXCHANGE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    pub exchanges: Vec<Recorded>,
}

/// Bodies as text where they are text, so that a recording can be read and changed by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    pub alias: String,
    pub method: String,
    pub path: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Body::is_empty")]
    pub body: Body,
    pub answer: RecordedAnswer,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordedAnswer {
    Response {
        status: u16,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        headers: Vec<(String, String)>,
        #[serde(default, skip_serializing_if = "Body::is_empty")]
        body: Body,
    },
    Fail(SendFail),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Body {
    Text(String),
    Bytes(Vec<u8>),
}

impl Default for Body {
    fn default() -> Self {
        Body::Text(String::new())
    }
}

impl Body {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Body::Text(text.to_owned()),
            Err(_) => Body::Bytes(bytes.to_vec()),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Body::Text(text) => text.clone().into_bytes(),
            Body::Bytes(bytes) => bytes.clone(),
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// In front of the real network. Credentials are put in behind it, so that a recording holds none.
pub struct Recorder {
    binding: Arc<Binding>,
    recording: Mutex<Recording>,
}

impl Recorder {
    pub fn new(binding: Arc<Binding>) -> Self {
        Self {
            binding,
            recording: Mutex::default(),
        }
    }

    pub fn recording(&self) -> Recording {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Wire for Recorder {
    fn send<'a>(&'a self, request: &'a WireRequest) -> Sending<'a> {
        Box::pin(async move {
            let outcome = self.binding.exchange(request, EXCHANGE_MAX).await;
            let answer = match &outcome {
                Ok(exchange) => RecordedAnswer::Response {
                    status: exchange.status,
                    headers: exchange.headers.clone(),
                    body: Body::of(&exchange.body),
                },
                Err(fail) => RecordedAnswer::Fail(fail.clone()),
            };
            let recorded = Recorded {
                alias: request.alias.clone(),
                method: request.method.clone(),
                path: request.path.clone(),
                headers: request.headers.clone(),
                body: Body::of(&request.body),
                answer,
            };
            self.recording
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .exchanges
                .push(recorded);
            outcome
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("the plugin did not ask for what was recorded: {0}")]
    Differs(String),
    #[error("{0} recorded exchanges were not asked for")]
    Left(usize),
}

/// Answers in the recorded order, and only what was recorded.
pub struct Replayer {
    state: Mutex<(Recording, usize, Option<String>)>,
}

impl Replayer {
    pub fn new(recording: Recording) -> Self {
        Self {
            state: Mutex::new((recording, 0, None)),
        }
    }

    /// Whether the call did what was recorded, no more and no less.
    pub fn outcome(&self) -> Result<(), RecordingError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (recording, next, difference) = &*state;
        match difference {
            Some(difference) => Err(RecordingError::Differs(difference.clone())),
            None if *next < recording.exchanges.len() => Err(RecordingError::Left(recording.exchanges.len() - next)),
            None => Ok(()),
        }
    }

    fn answer(&self, request: &WireRequest) -> Result<Exchange, SendFail> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (recording, next, difference) = &mut *state;
        let Some(recorded) = recording.exchanges.get(*next) else {
            let text = format!("{} {} after the last one", request.method, request.path);
            difference.get_or_insert(text.clone());
            return Err(SendFail::Denied(text));
        };
        let asked = (&request.alias, &request.method, &request.path, Body::of(&request.body));
        let known = (&recorded.alias, &recorded.method, &recorded.path, recorded.body.clone());
        if asked != known {
            let text = format!(
                "exchange {next} is {} {}, it asked for {} {} with {:?}",
                recorded.method, recorded.path, request.method, request.path, asked.3
            );
            difference.get_or_insert(text.clone());
            return Err(SendFail::Denied(text));
        }
        *next += 1;
        match &recorded.answer {
            RecordedAnswer::Fail(fail) => Err(fail.clone()),
            RecordedAnswer::Response { status, headers, body } => Ok(Exchange {
                status: *status,
                headers: headers.clone(),
                body: body.bytes(),
            }),
        }
    }
}

impl Wire for Replayer {
    fn send<'a>(&'a self, request: &'a WireRequest) -> Sending<'a> {
        let answer = self.answer(request);
        Box::pin(async move { answer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_replay_answers_only_what_was_recorded() {
        let recording = || -> Recording {
            serde_json::from_value(json!({ "exchanges": [
                { "alias": "api", "method": "GET", "path": "/a", "answer": { "response": { "status": 200, "body": "{}" } } },
                { "alias": "api", "method": "PUT", "path": "/a", "body": "x", "answer": { "fail": { "lost": "cut" } } } ] }))
            .unwrap()
        };
        let request = |method: &str, body: &str| WireRequest {
            alias: "api".into(),
            method: method.into(),
            path: "/a".into(),
            headers: Vec::new(),
            body: body.into(),
        };
        let replayer = Replayer::new(recording());
        assert_eq!(replayer.answer(&request("GET", "")).unwrap().body, b"{}");
        assert!(matches!(replayer.outcome(), Err(RecordingError::Left(1))));
        assert_eq!(
            replayer.answer(&request("PUT", "x")).unwrap_err(),
            SendFail::Lost("cut".into())
        );
        assert!(replayer.outcome().is_ok());
        assert!(
            replayer.answer(&request("PUT", "x")).is_err() && replayer.outcome().is_err(),
            "one more"
        );
        let replayer = Replayer::new(recording());
        assert!(replayer.answer(&request("GET", "other")).is_err());
        assert!(matches!(replayer.outcome(), Err(RecordingError::Differs(_))));
    }
}
