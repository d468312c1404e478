//! Secret values: files on this host that the operator grants by name. They go from here to the plugin host, which puts
//! them into requests; plugins, logs and the ledger see names, versions and markers.

use crate::operator::{SecretGrant, SecretsConfig};
use holdfast_core::config::matches;
use holdfast_core::ids::{WorkloadId, hex};
use holdfast_core::spec::SecretRef;
use holdfast_core::target::{Fault, FaultClass, Secret};
use holdfast_host::SecretValue;
use std::io::Read;

/// As the plugin host has it: a shorter value could not be taken out of answers.
const VALUE_MIN_BYTES: usize = 4;
const VALUE_MAX_BYTES: u64 = 64 << 10;
const NAME_MAX_BYTES: usize = 128;

pub(crate) struct SecretStore {
    config: Option<SecretsConfig>,
}

/// The secrets of one call.
#[derive(Debug)]
pub(crate) struct Issued {
    /// One for every reference, whether or not there is a value.
    pub markers: Vec<Secret>,
    pub values: Vec<SecretValue>,
    /// The first secret that has no value, and why.
    pub missing: Option<Fault>,
}

impl SecretStore {
    pub fn new(config: Option<SecretsConfig>) -> Self {
        Self { config }
    }

    /// Markers that nobody can guess and no other call has, with the values that are granted.
    pub fn issue(&self, references: &[SecretRef], workload: &WorkloadId, target: &str) -> Result<Issued, Fault> {
        let mut issued = Issued {
            markers: Vec::new(),
            values: Vec::new(),
            missing: None,
        };
        for reference in references {
            let (marker, marker_base64) = (marker()?, marker()?);
            match self.value(reference, workload, target) {
                Ok(value) => issued.values.push(SecretValue {
                    marker: marker.clone(),
                    marker_base64: marker_base64.clone(),
                    value,
                }),
                Err(fault) => {
                    issued.missing.get_or_insert(fault);
                }
            }
            issued.markers.push(Secret {
                name: reference.name.clone(),
                version: reference.version.clone(),
                marker,
                marker_base64,
            });
        }
        Ok(issued)
    }

    /// Exactly the bytes of `DIR/NAME/VERSION`.
    fn value(&self, reference: &SecretRef, workload: &WorkloadId, target: &str) -> Result<Vec<u8>, Fault> {
        let SecretRef { name, version } = reference;
        let what = format!("secret {name} version {version}");
        let invalid = |message: String| fault(FaultClass::Invalid, format!("{what}: {message}"));
        if !is_file_name(name) || !is_file_name(version) {
            return Err(invalid(
                "name and version are 1 to 128 of A-Za-z0-9._-, beginning with a letter or digit".into(),
            ));
        }
        let granted = self.config.as_ref().filter(|config| {
            let mut grants = config.grants.iter();
            grants.any(|grant| grants_it(grant, name, workload, target))
        });
        let Some(config) = granted else {
            let message = format!("not granted to {workload} on {target}; the operator can add it under `secrets.grants`");
            return Err(fault(FaultClass::Denied, format!("{what}: {message}")));
        };
        let file = config.dir.join(name).join(version);
        let unreadable = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => invalid(format!("there is no {} on the daemon's host", file.display())),
            _ => invalid(format!("{} cannot be read: {error}", file.display())),
        };
        let real = file.canonicalize().map_err(unreadable)?;
        if !real.starts_with(config.dir.canonicalize().map_err(unreadable)?) {
            return Err(invalid(format!("{} leads out of the secrets' directory", file.display())));
        }
        // Before it is opened: a pipe would block.
        if !real.metadata().map_err(unreadable)?.is_file() {
            return Err(invalid(format!("{} is not a file", file.display())));
        }
        let mut value = Vec::new();
        let opened = std::fs::File::open(&real).map_err(unreadable)?;
        opened.take(VALUE_MAX_BYTES + 1).read_to_end(&mut value).map_err(unreadable)?;
        match value.len() {
            ..VALUE_MIN_BYTES => Err(invalid(format!("{} is shorter than {VALUE_MIN_BYTES} bytes", file.display()))),
            size if size as u64 > VALUE_MAX_BYTES => {
                Err(invalid(format!("{} is longer than {VALUE_MAX_BYTES} bytes", file.display())))
            }
            _ => Ok(value),
        }
    }
}

fn fault(class: FaultClass, message: String) -> Fault {
    Fault {
        class,
        message,
        fence: None,
    }
}

fn grants_it(grant: &SecretGrant, name: &str, workload: &WorkloadId, target: &str) -> bool {
    matches(&grant.target, target)
        && matches(&grant.workload, workload.as_str())
        && grant.names.iter().any(|pattern| matches(pattern, name))
}

fn is_file_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= NAME_MAX_BYTES
        && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// 128 random bits in letters and digits: nothing that JSON escapes, and valid as base64 too.
fn marker() -> Result<String, Fault> {
    let mut bits = [0; 16];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random
        .fill(&mut bits)
        .map_err(|_| fault(FaultClass::Internal, "the system gives no random bytes".into()))?;
    Ok(format!("hfsecret{}", hex(&bits)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn reference(name: &str, version: &str) -> SecretRef {
        SecretRef {
            name: name.into(),
            version: version.into(),
        }
    }

    fn workload(id: &str) -> WorkloadId {
        WorkloadId::try_from(id.to_owned()).unwrap()
    }

    /// `db/1` and `db/2`, and things that are none; granted to main/pay on prod-*.
    fn store(dir: &std::path::Path) -> SecretStore {
        let secrets = dir.join("secrets");
        for name in ["db", "other"] {
            std::fs::create_dir_all(secrets.join(name)).unwrap();
        }
        let write = |path: &str, bytes: &[u8]| std::fs::write(secrets.join(path), bytes).unwrap();
        write("db/1", b"the \"value\"\n");
        write("db/short", b"abc");
        write("db/large", &vec![b'x'; VALUE_MAX_BYTES as usize + 1]);
        write("db/largest", &vec![b'x'; VALUE_MAX_BYTES as usize]);
        write("other/1", b"other value");
        std::fs::write(dir.join("outside"), b"not a secret").unwrap();
        symlink("../other/1", secrets.join("db/inside-link")).unwrap();
        symlink("../../outside", secrets.join("db/outside-link")).unwrap();
        std::fs::create_dir(secrets.join("db/directory")).unwrap();
        SecretStore::new(Some(SecretsConfig {
            dir: secrets,
            grants: vec![SecretGrant {
                target: "prod-*".into(),
                workload: "main/pay".into(),
                names: vec!["db".into()],
            }],
        }))
    }

    #[test]
    fn values_come_only_from_granted_files_below_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let unconfigured = SecretStore::new(None);
        for (store, name, version, workload_id, target, expected) in [
            (&store, "db", "1", "main/pay", "prod-eu", Ok(12)),
            (&store, "db", "largest", "main/pay", "prod-eu", Ok(VALUE_MAX_BYTES as usize)),
            (&store, "db", "inside-link", "main/pay", "prod-eu", Ok(11)),
            (
                &store,
                "db",
                "1",
                "main/pay",
                "dev",
                Err((FaultClass::Denied, "not granted to main/pay on dev")),
            ),
            (
                &store,
                "db",
                "1",
                "main/payroll",
                "prod-eu",
                Err((FaultClass::Denied, "not granted")),
            ),
            (
                &store,
                "other",
                "1",
                "main/pay",
                "prod-eu",
                Err((FaultClass::Denied, "not granted")),
            ),
            (
                &unconfigured,
                "db",
                "1",
                "main/pay",
                "prod-eu",
                Err((FaultClass::Denied, "not granted")),
            ),
            (
                &store,
                "db",
                "2",
                "main/pay",
                "prod-eu",
                Err((FaultClass::Invalid, "there is no ")),
            ),
            (
                &store,
                "db",
                "outside-link",
                "main/pay",
                "prod-eu",
                Err((FaultClass::Invalid, "leads out of")),
            ),
            (
                &store,
                "db",
                "directory",
                "main/pay",
                "prod-eu",
                Err((FaultClass::Invalid, "is not a file")),
            ),
            (
                &store,
                "db",
                "short",
                "main/pay",
                "prod-eu",
                Err((FaultClass::Invalid, "shorter than 4")),
            ),
            (
                &store,
                "db",
                "large",
                "main/pay",
                "prod-eu",
                Err((FaultClass::Invalid, "longer than 65536")),
            ),
            (
                &store,
                "..",
                "outside",
                "main/pay",
                "prod-eu",
                Err((FaultClass::Invalid, "name and version are")),
            ),
            (
                &store,
                "db",
                "../other/1",
                "main/pay",
                "prod-eu",
                Err((FaultClass::Invalid, "name and version are")),
            ),
            (
                &store,
                "db",
                "",
                "main/pay",
                "prod-eu",
                Err((FaultClass::Invalid, "name and version are")),
            ),
        ] {
            let issued = store
                .issue(&[reference(name, version)], &workload(workload_id), target)
                .unwrap();
            assert_eq!(issued.markers.len(), 1, "{name}/{version} has a marker in any case");
            match expected {
                Ok(size) => {
                    assert_eq!(issued.missing, None, "{name}/{version}");
                    assert_eq!(issued.values[0].value.len(), size, "{name}/{version}");
                    assert_eq!(issued.values[0].marker, issued.markers[0].marker);
                    assert_eq!(issued.values[0].marker_base64, issued.markers[0].marker_base64);
                }
                Err((class, part)) => {
                    let missing = issued.missing.unwrap();
                    assert_eq!(missing.class, class, "{name}/{version}: {missing:?}");
                    assert!(missing.message.contains(part), "{name}/{version}: {missing:?}");
                    assert!(issued.values.is_empty());
                }
            }
        }
    }

    #[test]
    fn markers_are_new_in_every_call_and_nothing_shows_a_value() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let issue = || {
            store.issue(
                &[reference("db", "1"), reference("db", "inside-link")],
                &workload("main/pay"),
                "prod-eu",
            )
        };
        let (one, two) = (issue().unwrap(), issue().unwrap());
        let all: std::collections::BTreeSet<&String> = [&one, &two]
            .iter()
            .flat_map(|issued| &issued.markers)
            .flat_map(|secret| [&secret.marker, &secret.marker_base64])
            .collect();
        assert_eq!(all.len(), 8);
        for marker in all {
            assert!(
                marker.len() == 40 && marker.bytes().all(|byte| byte.is_ascii_alphanumeric()),
                "{marker}"
            );
        }
        let shown = format!("{one:?}");
        assert!(!shown.contains("value\\") && !shown.contains("116, 104, 101"), "{shown}");
    }
}
