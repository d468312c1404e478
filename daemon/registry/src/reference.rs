//! References: `registry.example.com[:port]/repository[:tag][@sha256:...]`. Strict, and without defaults: a reference
//! that leaves its registry out would mean another artifact for each reader.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    pub host: String,
    pub repository: String,
    pub version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    Tag(String),
    /// With the tag that stood beside it, which is data only.
    Digest(String, Option<String>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("it names no registry: write REGISTRY/REPOSITORY:TAG, as in registry.example.com/team/app:1.0")]
    NoRegistry,
    #[error("registry {0:?} is not a host name with an optional port")]
    Registry(String),
    #[error("repository {0:?} is not valid: parts of a-z, 0-9 with single . _ - or -- between, separated by /")]
    Repository(String),
    #[error("it names neither a tag nor a digest; `latest` is not assumed")]
    NoVersion,
    #[error("tag {0:?} is not valid: up to 128 of A-Za-z0-9._-, not beginning with . or -")]
    Tag(String),
    #[error("digest {0:?} is not valid: sha256: and 64 lower-case hex digits")]
    Digest(String),
    #[error("it is longer than 512 characters")]
    TooLong,
}

impl Reference {
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.len() > 512 {
            return Err(ReferenceError::TooLong);
        }
        let (host, rest) = text.split_once('/').ok_or(ReferenceError::NoRegistry)?;
        if !(host.contains('.') || host.contains(':') || host == "localhost") {
            return Err(ReferenceError::NoRegistry);
        }
        if !is_host(host) {
            return Err(ReferenceError::Registry(host.into()));
        }
        let (named, digest) = match rest.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (rest, None),
        };
        let (repository, tag) = match named.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (named, None),
        };
        if !is_repository(repository) {
            return Err(ReferenceError::Repository(repository.into()));
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag(tag.into()));
        }
        let version = match (digest, tag) {
            (Some(digest), _) if !is_digest(digest) => return Err(ReferenceError::Digest(digest.into())),
            (Some(digest), tag) => Version::Digest(digest.into(), tag.map(str::to_owned)),
            (None, Some(tag)) => Version::Tag(tag.into()),
            (None, None) => return Err(ReferenceError::NoVersion),
        };
        Ok(Self {
            host: host.into(),
            repository: repository.into(),
            version,
        })
    }

    /// Where the artifact is kept: registry and repository.
    pub fn source(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// What goes into a manifest URL.
    pub(crate) fn version_text(&self) -> &str {
        match &self.version {
            Version::Tag(tag) => tag,
            Version::Digest(digest, _) => digest,
        }
    }

    pub fn with_digest(&self, digest: &str) -> Self {
        Self {
            version: Version::Digest(digest.into(), None),
            ..self.clone()
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source();
        match &self.version {
            Version::Tag(tag) => write!(f, "{source}:{tag}"),
            Version::Digest(digest, Some(tag)) => write!(f, "{source}:{tag}@{digest}"),
            Version::Digest(digest, None) => write!(f, "{source}@{digest}"),
        }
    }
}

pub(crate) fn is_host(text: &str) -> bool {
    let (name, port) = text.rsplit_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let name_ok = !name.is_empty()
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    name_ok && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn is_repository(text: &str) -> bool {
    !text.is_empty() && text.split('/').all(is_repository_part)
}

fn is_repository_part(part: &str) -> bool {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let separated = !part.contains("..")
        && !part.contains("___")
        && !part.contains("._")
        && !part.contains("_.")
        && !part.contains(".-")
        && !part.contains("-.");
    bytes.first().is_some_and(alnum)
        && bytes.last().is_some_and(alnum)
        && separated
        && bytes.iter().all(|b| alnum(b) || matches!(b, b'.' | b'_' | b'-'))
}

pub(crate) fn is_tag(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first
        && text.len() <= 128
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for good in [
            "registry.example.com/pay/api:1.4.2".to_owned(),
            "127.0.0.1:15000/app:v1".to_owned(),
            "localhost/app:v1".to_owned(),
            format!("r.example.com/a/b/c@{digest}"),
            format!("r.example.com/a:1@{digest}"),
        ] {
            assert_eq!(Reference::parse(&good).map(|reference| reference.to_string()), Ok(good));
        }
        for (bad, expected) in [
            ("app:v1", ReferenceError::NoRegistry),
            ("team/app:v1", ReferenceError::NoRegistry),
            ("r.example.com/app", ReferenceError::NoVersion),
            ("r.example.com/App:v1", ReferenceError::Repository("App".into())),
            ("r.example.com/../x:v1", ReferenceError::Repository("../x".into())),
            ("r.example.com/a:", ReferenceError::Tag("".into())),
            ("r.example.com/a:-x", ReferenceError::Tag("-x".into())),
            ("r.example.com/a@sha256:12", ReferenceError::Digest("sha256:12".into())),
            ("-r.example.com/a:1", ReferenceError::Registry("-r.example.com".into())),
            (
                "r.example.com:99999/a:1",
                ReferenceError::Registry("r.example.com:99999".into()),
            ),
        ] {
            assert_eq!(Reference::parse(bad), Err(expected), "{bad}");
        }
    }
}
