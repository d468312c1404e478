//! Whose signatures count: OpenSSH's file of allowed signers, and the verdict on an SSH signature of a commit.

use holdfast_core::config::matches;
use holdfast_core::ids::Digest;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents};
use serde::Deserialize;
use ssh_key::public::{KeyData, RsaPublicKey};
use ssh_key::{Algorithm, EcdsaCurve, HashAlg, PublicKey, SshSig};
use std::path::{Path, PathBuf};

/// What git signs for. A signature made for anything else is none of a commit.
const NAMESPACE: &str = "git";
const SIGNATURE_MAX_BYTES: usize = 64 << 10;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustConfig {
    pub require: Require,
    pub allowed_signers_file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Require {
    /// A tip whose signature is not verified is not taken.
    Signed,
    /// The verdict is only written down.
    None,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// By the committer, with this key.
    Verified {
        email: String,
        key: String,
    },
    Unsigned,
    UnknownKey(String),
    OtherCommitter(String),
    NotForGit(String),
    Expired(String),
    NotYetValid(String),
    Bad(&'static str),
    /// A signature of another kind, which is not looked into.
    Unverified(&'static str),
}

impl Verdict {
    pub fn is_verified(&self) -> bool {
        matches!(self, Self::Verified { .. })
    }

    /// As the ledger has it: e-mail addresses only by way of `name_of`.
    pub fn text(&self, name_of: impl Fn(&str) -> String) -> String {
        match self {
            Self::Verified { email, key } => format!("verified: {} {key}", name_of(email)),
            Self::Unsigned => "unsigned".into(),
            Self::UnknownKey(key) => format!("unknown key {key}"),
            Self::OtherCommitter(key) => format!("other committer than key {key} is for"),
            Self::NotForGit(key) => format!("not for git: key {key}"),
            Self::Expired(key) => format!("expired key {key}"),
            Self::NotYetValid(key) => format!("not yet valid key {key}"),
            Self::Bad(why) => format!("bad signature: {why}"),
            Self::Unverified(kind) => format!("unverified: {kind}"),
        }
    }
}

/// The lines of a file of allowed signers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedSigners {
    signers: Vec<Signer>,
    /// Of the file.
    digest: Option<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Signer {
    principals: String,
    key: KeyData,
    namespaces: Option<String>,
    valid_after_s: Option<i64>,
    valid_before_s: Option<i64>,
}

impl AllowedSigners {
    /// All of the file, or everything that is wrong with it.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, String> {
        let (mut signers, mut problems) = (Vec::new(), Vec::new());
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let signer = match std::str::from_utf8(line).map(str::trim) {
                Ok(line) if line.is_empty() || line.starts_with('#') => continue,
                Ok(line) => Signer::parse(line),
                Err(_) => Err("this is not UTF-8".to_owned()),
            };
            match signer {
                Ok(signer) => signers.push(signer),
                Err(problem) => problems.push(format!("{}:{}: {problem}", file.display(), index + 1)),
            }
        }
        match problems.is_empty() {
            true => Ok(Self {
                signers,
                digest: Some(Digest::of(bytes)),
            }),
            false => Err(problems.join("; ")),
        }
    }

    /// What the file says now. None: the same as here.
    pub fn changed(&self, file: &Path) -> Result<Option<Self>, String> {
        let bytes = std::fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
        match self.digest.as_ref() == Some(&Digest::of(&bytes)) {
            true => Ok(None),
            false => Self::parse(file, &bytes).map(Some),
        }
    }

    /// Git asks only whether the key has a line. Here the line must be for the committer too, as the hosting services have
    /// it: who approves is told from who wrote by these addresses, so nobody may sign as somebody else.
    fn verdict(&self, key: &KeyData, committer: &str, committed_s: i64) -> Verdict {
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        let mut lines: Vec<&Signer> = self.signers.iter().filter(|signer| signer.key == *key).collect();
        if lines.is_empty() {
            return Verdict::UnknownKey(fingerprint);
        }
        lines.retain(|signer| is_in(&signer.principals, committer));
        if lines.is_empty() {
            return Verdict::OtherCommitter(fingerprint);
        }
        lines.retain(|signer| signer.namespaces.as_ref().is_none_or(|list| is_in(list, NAMESPACE)));
        if lines.is_empty() {
            return Verdict::NotForGit(fingerprint);
        }
        lines.retain(|signer| signer.valid_after_s.is_none_or(|from_s| committed_s >= from_s));
        if lines.is_empty() {
            return Verdict::NotYetValid(fingerprint);
        }
        lines.retain(|signer| signer.valid_before_s.is_none_or(|until_s| committed_s <= until_s));
        match lines.is_empty() {
            true => Verdict::Expired(fingerprint),
            false => Verdict::Verified {
                email: committer.to_owned(),
                key: fingerprint,
            },
        }
    }
}

impl Signer {
    fn parse(line: &str) -> Result<Self, String> {
        let (principals, rest) = field(line)?;
        let (second, after) = field(rest)?;
        let is_key_type = ["ssh-", "ecdsa-", "sk-"].iter().any(|start| second.starts_with(start));
        let (options, (kind, rest)) = if is_key_type {
            ("", (second, after))
        } else {
            (second, field(after)?)
        };
        let (encoded, _comment) = field(rest)?;
        if encoded.is_empty() {
            return Err("a line is: principals, options if any, type of the key, key".into());
        }
        let key =
            PublicKey::from_openssh(&format!("{kind} {encoded}")).map_err(|error| format!("the key cannot be read: {error}"))?;
        let mut signer = Self {
            principals: unquoted(principals).to_owned(),
            key: supported(key.key_data())?,
            namespaces: None,
            valid_after_s: None,
            valid_before_s: None,
        };
        for option in split_outside_quotes(options, |c| c == ',').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = unquoted(value);
            match name.to_ascii_lowercase().as_str() {
                "namespaces" if !value.is_empty() => signer.namespaces = Some(value.to_owned()),
                "valid-after" => signer.valid_after_s = Some(moment(value)?),
                "valid-before" => signer.valid_before_s = Some(moment(value)?),
                "cert-authority" => return Err("cert-authority is not supported: give the keys themselves".into()),
                _ => {
                    return Err(format!(
                        "unknown option {option}; there are namespaces, valid-after and valid-before, with values"
                    ));
                }
            }
        }
        let lists = [Some(&signer.principals), signer.namespaces.as_ref()];
        if lists.into_iter().flatten().any(|list| list.contains('?')) {
            return Err("a pattern with ? is not supported; * stands for anything".into());
        }
        let ends_first = signer
            .valid_after_s
            .zip(signer.valid_before_s)
            .is_some_and(|(from, until)| until <= from);
        if ends_first {
            return Err("valid-before is not after valid-after".into());
        }
        Ok(signer)
    }
}

/// Pieces between separators that do not stand in double quotes.
fn split_outside_quotes(text: &str, is_separator: impl Fn(char) -> bool) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    text.split(move |c| {
        is_quoted ^= c == '"';
        !is_quoted && is_separator(c)
    })
}

/// The first field, and what comes after it.
fn field(text: &str) -> Result<(&str, &str), String> {
    let text = text.trim_start();
    let field = split_outside_quotes(text, char::is_whitespace).next().unwrap_or_default();
    match field.matches('"').count() % 2 {
        0 => Ok((field, &text[field.len()..])),
        _ => Err("a quotation mark is not closed".into()),
    }
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

fn supported(key: &KeyData) -> Result<KeyData, String> {
    match key {
        KeyData::Ed25519(_) | KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => Ok(key.clone()),
        KeyData::Ecdsa(ecdsa) if ecdsa.curve() == EcdsaCurve::NistP256 => Ok(key.clone()),
        KeyData::Rsa(rsa) => {
            let bits = rsa.n.as_positive_bytes().map_or(0, |n| n.len() * 8);
            match RSA_BITS.contains(&bits) {
                true => Ok(key.clone()),
                false => Err(format!(
                    "an RSA key has {} to {} bits, not {bits}",
                    RSA_BITS.start(),
                    RSA_BITS.end()
                )),
            }
        }
        other => Err(format!(
            "keys of type {} are not supported; ssh-ed25519, ecdsa-sha2-nistp256, ssh-rsa and both sk- types are",
            other.algorithm()
        )),
    }
}

/// Unix seconds of YYYYMMDD[HHMM[SS]]Z. OpenSSH takes local time without the Z, which is another moment on another host.
fn moment(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no moment in UTC, as in 20260131Z or 20260131123000Z");
    let digits = text.strip_suffix(['Z', 'z']).ok_or_else(wrong)?;
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let part = |from: usize, to: usize| digits.get(from..to).map_or(Ok(0), str::parse::<i8>).map_err(|_| wrong());
    let year = digits[..4].parse().map_err(|_| wrong())?;
    let civil = DateTime::new(year, part(4, 6)?, part(6, 8)?, part(8, 10)?, part(10, 12)?, part(12, 14)?, 0);
    let zoned = civil.and_then(|civil| civil.to_zoned(TimeZone::UTC)).map_err(|_| wrong())?;
    Ok(zoned.timestamp().as_second())
}

/// OpenSSH's lists of patterns: one that matches, and none with `!` that does.
fn is_in(patterns: &str, text: &str) -> bool {
    let is_excluded = |pattern: &str| pattern.strip_prefix('!').is_some_and(|pattern| matches(pattern, text));
    patterns.split(',').any(|pattern| matches(pattern, text)) && !patterns.split(',').any(is_excluded)
}

/// Without a list of allowed signers an SSH signature is not looked into either.
pub(super) fn verdict(
    signature: &[u8],
    signed: &[u8],
    committer: &str,
    committed_s: i64,
    allowed: Option<&AllowedSigners>,
) -> Verdict {
    let armour = |label: &str| signature.starts_with(format!("-----BEGIN {label}-----").as_bytes());
    if armour("PGP SIGNATURE") || armour("PGP MESSAGE") {
        return Verdict::Unverified("OpenPGP");
    }
    if armour("SIGNED MESSAGE") {
        return Verdict::Unverified("X.509");
    }
    if !armour("SSH SIGNATURE") || signature.len() > SIGNATURE_MAX_BYTES {
        return Verdict::Bad("it is of no known kind");
    }
    let Some(allowed) = allowed else {
        return Verdict::Unverified("SSH, and no allowed signers are configured");
    };
    let Ok(signature) = SshSig::from_pem(signature) else {
        return Verdict::Bad("it cannot be read");
    };
    if signature.namespace() != NAMESPACE {
        return Verdict::Bad("it was not made for git");
    }
    if !is_by_its_key(&signature, signed) {
        return Verdict::Bad("the commit is not what was signed");
    }
    allowed.verdict(signature.public_key(), committer, committed_s)
}

fn is_by_its_key(signature: &SshSig, signed: &[u8]) -> bool {
    match signature.public_key() {
        KeyData::Rsa(key) => is_by_rsa(key, signature, signed).unwrap_or(false),
        key => PublicKey::from(key.clone()).verify(NAMESPACE, signed, signature).is_ok(),
    }
}

/// None: key or signature have no form that can be checked.
fn is_by_rsa(key: &RsaPublicKey, signature: &SshSig, signed: &[u8]) -> Option<bool> {
    let parameters = match signature.algorithm() {
        Algorithm::Rsa {
            hash: Some(HashAlg::Sha256),
        } => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rsa {
            hash: Some(HashAlg::Sha512),
        } => &RSA_PKCS1_2048_8192_SHA512,
        _ => return None,
    };
    let components = RsaPublicKeyComponents {
        n: key.n.as_positive_bytes()?,
        e: key.e.as_positive_bytes()?,
    };
    let data = SshSig::signed_data(NAMESPACE, signature.hash_alg(), signed).ok()?;
    Some(components.verify(parameters, &data, signature.signature_bytes()).is_ok())
}

#[cfg(test)]
pub(crate) mod tests;
