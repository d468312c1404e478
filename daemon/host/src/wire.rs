//! What may stand in for a binding's network: a simulated target, a recording, faults. A plugin cannot tell; its rules, caps
//! and phases are checked before, as ever.

use crate::endpoint::{Binding, Exchange, SendFail};
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
        alias
            .send(
                &request.method,
                &request.path,
                &request.headers,
                request.body.clone(),
                timeout.min(alias.timeout),
                alias.max_body_bytes,
            )
            .await
    }
}
