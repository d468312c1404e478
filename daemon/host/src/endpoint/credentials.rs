//! An endpoint's own credentials: read from their files for each request, so that a rotated one counts at once.

use super::exchange::SendFail;
use super::{AuthConfig, EndpointConfig, RegistryAuthConfig};
use crate::policy::REGISTRY_AUTH;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use std::path::Path;
use zeroize::Zeroizing;

pub(super) struct Credentials {
    auth: Option<AuthConfig>,
    registries: Vec<RegistryAuthConfig>,
}

/// Headers to put in, and the texts that must never be seen in an answer.
#[derive(Default)]
pub(super) struct PutIn {
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub hidden: Vec<Zeroizing<String>>,
}

impl Credentials {
    pub fn new(config: &EndpointConfig) -> Self {
        Self {
            auth: config.auth.clone(),
            registries: config.registry_auth.clone(),
        }
    }

    /// `pulls_from`: the registry from which the request makes the target pull.
    pub fn read(&self, pulls_from: Option<&str>) -> Result<PutIn, SendFail> {
        let mut put_in = PutIn::default();
        if let Some(file) = self.auth.as_ref().and_then(|auth| auth.bearer_token_file.as_ref()) {
            let token = secret(file)?;
            put_in.header(AUTHORIZATION, &Zeroizing::new(format!("Bearer {}", *token)))?;
            put_in.hidden.push(token);
        } else if let Some(basic) = self.auth.as_ref().and_then(|auth| auth.basic.as_ref()) {
            let password = secret(&basic.password_file)?;
            let pair = Zeroizing::new(format!("{}:{}", basic.username, *password));
            let pair = Zeroizing::new(STANDARD.encode(&*pair));
            put_in.header(AUTHORIZATION, &Zeroizing::new(format!("Basic {}", *pair)))?;
            put_in.hidden.extend([password, pair]);
        }
        let registry = self.registries.iter().find(|one| Some(one.registry.as_str()) == pulls_from);
        if let Some(registry) = registry {
            let password = secret(&registry.password_file)?;
            let login = serde_json::json!({
                "username": registry.username, "password": *password, "serveraddress": registry.registry,
            });
            let login = Zeroizing::new(URL_SAFE.encode(&*Zeroizing::new(login.to_string())));
            put_in.header(REGISTRY_AUTH, &login)?;
            put_in.hidden.extend([password, login]);
        }
        Ok(put_in)
    }
}

impl PutIn {
    fn header(&mut self, name: HeaderName, value: &str) -> Result<(), SendFail> {
        let value = HeaderValue::from_str(value);
        let mut value = value.map_err(|_| SendFail::Denied("the endpoint's credential is no header value".into()))?;
        value.set_sensitive(true);
        self.headers.push((name, value));
        Ok(())
    }
}

fn secret(file: &Path) -> Result<Zeroizing<String>, SendFail> {
    // The path is the operator's business, not the plugin's.
    let unreadable = |_| SendFail::Denied("the endpoint's credential cannot be read by the host".into());
    let text = Zeroizing::new(std::fs::read_to_string(file).map_err(unreadable)?);
    match text.trim() {
        "" => Err(SendFail::Denied("the endpoint's credential is empty".into())),
        text => Ok(Zeroizing::new(text.to_owned())),
    }
}
