//! A deploy as a signed statement for other people's policy engines: in-toto Statement v1 with a SLSA Verification Summary
//! (VSA) predicate, in a DSSE envelope under the log's key.

use super::super::book::Book;
use super::super::error::CliError;
use super::super::ledger::proofs::log_key;
use super::super::show::Out;
use super::deploy::{Deploy, deploy, find_deploy, no_deploy};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_ledger::tlog::note::SignerKey;
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

pub(super) fn attest(config: &Path, book: &Book, wanted: &str, out: &Out) -> Result<ExitCode, CliError> {
    let key = log_key(config)?;
    let began = find_deploy(book, wanted)?.ok_or_else(|| no_deploy(wanted))?;
    let deploy = deploy(book, &began)?;
    if deploy.ended.is_empty() {
        return Err(CliError::usage(
            format!("deploy {} is still under way", deploy.deploy),
            "`holdfast status` says what it waits on",
        ));
    }
    book.show(deploy.entries.iter().copied());
    out.json(&envelope(&key, &statement(key.verifier().name(), &deploy)));
    Ok(ExitCode::SUCCESS)
}

fn statement(origin: &str, deploy: &Deploy) -> Value {
    let subject: Vec<Value> = deploy
        .artifacts
        .iter()
        .map(|(name, digest)| json!({ "name": name, "digest": { "sha256": digest.hex() } }))
        .collect();
    let passed = deploy.outcome == "succeeded";
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": "https://slsa.dev/verification_summary/v1",
        "predicate": {
            "verifier": { "id": format!("https://{origin}"), "version": { "holdfast": env!("CARGO_PKG_VERSION") } },
            "timeVerified": deploy.ended,
            "resourceUri": format!("https://{origin}/{}@{}#{}", deploy.workload, deploy.target, deploy.deploy),
            "policy": { "uri": format!("git+commit:{}", deploy.commit), "digest": { "gitCommit": deploy.commit } },
            "verificationResult": if passed { "PASSED" } else { "FAILED" },
            "verifiedLevels": [],
            "slsaVersion": "1.0",
            "https://holdfast.dev/deploy/v1": deploy,
        },
    })
}

/// DSSE: what is signed is the pre-authentication encoding, not the JSON around it.
fn envelope(key: &SignerKey, statement: &Value) -> Value {
    let payload = statement.to_string();
    let signature = key.sign(&encoding(&payload), 0);
    json!({
        "payloadType": PAYLOAD_TYPE,
        "payload": STANDARD.encode(&payload),
        "signatures": [ { "keyid": key.verifier().to_string(), "sig": STANDARD.encode(signature.bytes) } ],
    })
}

fn encoding(payload: &str) -> String {
    format!("DSSEv1 {} {PAYLOAD_TYPE} {} {payload}", PAYLOAD_TYPE.len(), payload.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_ledger::tlog::note::KeyKind;

    #[test]
    fn the_encoding_is_that_of_the_specification() {
        assert_eq!(
            encoding("hello world"),
            "DSSEv1 28 application/vnd.in-toto+json 11 hello world"
        );
    }

    #[test]
    fn a_deploy_that_was_bad_has_failed() {
        let deploy = Deploy {
            deploy: "d1-7".into(),
            outcome: "bad".into(),
            artifacts: [("main".to_owned(), holdfast_core::ids::Digest::of(b"x"))].into(),
            ..Deploy::default()
        };
        let statement = statement("ledger.example", &deploy);
        assert_eq!(statement["predicate"]["verificationResult"], "FAILED");
        assert_eq!(
            statement["subject"][0]["digest"]["sha256"],
            holdfast_core::ids::Digest::of(b"x").hex()
        );
        let key = SignerKey::new("ledger.example", KeyKind::Log, [7; 32]).unwrap();
        let envelope = envelope(&key, &statement);
        let payload = STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap(), statement);
        let again = key.sign(&encoding(std::str::from_utf8(&payload).unwrap()), 0);
        assert_eq!(envelope["signatures"][0]["sig"], STANDARD.encode(again.bytes));
    }
}
