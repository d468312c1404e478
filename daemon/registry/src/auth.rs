//! Registry authentication: anonymous, basic, and bearer tokens from the service that a 401 names.

use crate::config::RegistryConfig;
use crate::{Class, RegistryError};
use base64::Engine as _;
use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use std::collections::BTreeMap;

/// What a 401 asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

pub fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| parse(value.to_str().ok()?))
        .next()
}

fn parse(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = parameters(rest);
    Some(Challenge::Bearer {
        realm: parameters.remove("realm")?,
        service: parameters.remove("service"),
        scope: parameters.remove("scope"),
    })
}

/// `key="value"` pairs; commas inside quotes belong to the value, as scopes have them.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text.trim_start_matches([' ', ',']);
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"').and_then(|quoted| quoted.split_once('"')) {
            Some((value, after)) => (value, after),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        rest = after.trim_start_matches([' ', ',']);
    }
    found
}

/// The Authorization header of basic authentication, if the operator gave credentials.
pub fn basic(config: &RegistryConfig) -> Result<Option<String>, RegistryError> {
    let Some(auth) = &config.auth else { return Ok(None) };
    let password = std::fs::read_to_string(&auth.password_file).map_err(|error| {
        let message = format!("the password file {} cannot be read: {error}", auth.password_file.display());
        RegistryError::new(Class::NotConfigured, &config.host, message)
    })?;
    let pair = format!("{}:{}", auth.username, password.trim_end_matches(['\n', '\r']));
    Ok(Some(format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(pair)
    )))
}

/// Checks that a token service may be asked, and with credentials. A registry cannot send them elsewhere.
pub fn realm_url(config: &RegistryConfig, realm: &str) -> Result<reqwest::Url, RegistryError> {
    let refuse = |message: &str| RegistryError::new(Class::Denied, &config.host, format!("token service {realm:?}: {message}"));
    let url = reqwest::Url::parse(realm).map_err(|_| refuse("not a URL"))?;
    if url.scheme() != "https" && !(config.plain_http && url.scheme() == "http") {
        return Err(refuse("not https"));
    }
    let name = |host: &str| host.rsplit_once(':').map_or(host.to_owned(), |(name, _)| name.to_owned());
    let allowed = config
        .auth
        .as_ref()
        .and_then(|auth| auth.token_host.clone())
        .unwrap_or_else(|| name(&config.host));
    if url.host_str() != Some(name(&allowed).as_str()) {
        return Err(refuse(
            "another host than the registry's; name it as auth.token_host if that is right",
        ));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = r#"Bearer realm="https://r.example.com/token",service="r",scope="repository:a:pull,push""#;
        assert_eq!(
            parse(bearer),
            Some(Challenge::Bearer {
                realm: "https://r.example.com/token".into(),
                service: Some("r".into()),
                scope: Some("repository:a:pull,push".into())
            })
        );
        assert_eq!(parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(parse("Negotiate"), None);
        assert_eq!(parse("Bearer service=x"), None);
    }

    #[test]
    fn credentials_stay_home() {
        let config: RegistryConfig = serde_json::from_value(serde_json::json!({ "host": "r.example.com:5000" })).unwrap();
        assert!(realm_url(&config, "https://r.example.com/token").is_ok());
        assert!(realm_url(&config, "http://r.example.com/token").is_err());
        assert!(realm_url(&config, "https://evil.example.com/token").is_err());
    }
}
