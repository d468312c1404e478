//! What may stand in for a binding's network: a simulated target, a recording, faults. A plugin cannot tell; its rules, caps
//! and phases are checked before, as ever.

use crate::endpoint::{Binding, Exchange, Outgoing, Payload, SendFail};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// One request as the plugin made it, after everything was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireRequest {
    pub alias: String,
    pub method: String,
    /// With its query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl WireRequest {
    pub(crate) fn new(alias: &str, outgoing: Outgoing) -> Result<Self, SendFail> {
        let Payload::Bytes(body) = outgoing.payload else {
            let message = "a blob or archive needs a real endpoint; here the network is simulated or recorded";
            return Err(SendFail::Denied(message.into()));
        };
        Ok(Self {
            alias: alias.to_owned(),
            method: outgoing.method,
            path: outgoing.path,
            headers: outgoing.headers,
            body: body.into(),
        })
    }
}

pub type Sending<'a> = Pin<Box<dyn Future<Output = Result<Exchange, SendFail>> + Send + 'a>>;

pub trait Wire: Send + Sync {
    fn send<'a>(&'a self, request: &'a WireRequest) -> Sending<'a>;
}

impl Binding {
    /// Sends over the real network, with the alias's credentials: what a recording puts itself in front of. Rules are not
    /// looked at here.
    pub async fn exchange(&self, request: &WireRequest, timeout: Duration) -> Result<Exchange, SendFail> {
        let alias = self
            .aliases
            .get(&request.alias)
            .ok_or_else(|| SendFail::Denied(format!("no endpoint {:?}", request.alias)))?;
        let outgoing = Outgoing {
            method: request.method.clone(),
            path: request.path.clone(),
            headers: request.headers.clone(),
            payload: Payload::Bytes(request.body.clone().into()),
            pulls_from: None,
        };
        alias.send(outgoing, timeout.min(alias.timeout), alias.max_body_bytes).await
    }
}
