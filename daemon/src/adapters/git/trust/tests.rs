use super::*;
use crate::adapters::git::GitSource;
use crate::adapters::git::tests::{Put, Repo};
use ssh_key::LineEnding;
use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;

const ADA: &str = "ada@example.com";
const PGP: &str = "-----BEGIN PGP SIGNATURE-----\n\niQEz\n-----END PGP SIGNATURE-----\n";
const X509: &str = "-----BEGIN SIGNED MESSAGE-----\nMIIE\n-----END SIGNED MESSAGE-----\n";

/// By `ssh-keygen -Y sign -n git`, over these bytes, with keys that were thrown away.
const SIGNED: &[u8] = b"holdfast\n";
const BY_SSH_KEYGEN: [(&str, &str); 2] = [
    (
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCzLDJgm9bKJdYC16LsctPj3gNpeBkb9cKaJfVlBkEi8ZbMnTdF4t+rnXgCTp0dmSI8xeSHYf6wpyBjhAuF/2QOWqC3L0kc45S4sLV5iCu1LUTQArjInyfI/jDnhuDkvY4DwMHv/DzHh9kuPUZimG3I0UMgDb1kTIm2dwOsSglSs6qTpMylbjLjl9b1G8K0fumDzg7qwdCntWS9qCukPlJiwwDORrQkPZascTjlL2QNGFjWXl3J+Gw0nxUeEtA/3oWdfsIpJR1enrUTJZXG4oKhXBiEIqNM93Kz1ayj+2pwoIp8TAvcJgjusiC9f45bZgWGH+vsVjTupttCNJ5ggW3V",
        "\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAARcAAAAHc3NoLXJzYQAAAAMBAAEAAAEBALMsMmCb1sol1gLXouxy0+
PeA2l4GRv1wpol9WUGQSLxlsydN0Xi36udeAJOnR2ZIjzF5Idh/rCnIGOEC4X/ZA5aoLcv
SRzjlLiwtXmIK7UtRNACuMifJ8j+MOeG4OS9jgPAwe/8PMeH2S49RmKYbcjRQyANvWRMib
Z3A6xKCVKzqpOkzKVuMuOX1vUbwrR+6YPODurB0Ke1ZL2oK6Q+UmLDAM5GtCQ9lqxxOOUv
ZA0YWNZeXcn4bDSfFR4S0D/ehZ1+wiklHV6etRMllcbigqFcGIQio0z3crPVrKP7anCgin
xMC9wmCO6yIL1/jltmBYYf6+xWNO6m20I0nmCBbdUAAAADZ2l0AAAAAAAAAAZzaGE1MTIA
AAEUAAAADHJzYS1zaGEyLTUxMgAAAQCNW70ZdWojjKGQwpPWnyZse929XGiGhJKcZNFlkm
DWMBe5ZkL8mOFRRZ88uFvDVP47yHVM01LyjKcUU76ik5xzxZZTM049TQ6EkPXV2s3t67cV
0u25tHgPAvkO+rCZFKTXB2vzg0/h4tDjiKdnaU2oVJvRN85nZv5tNP9HvQkwbt5iBrgtHi
ROUHET8jGtDcXf+qWUmFa4lcOlhIY8fx1A9ZiiHv0q8VezNYA2CgMk2arNSpVzF0c8HPtP
UA/4cbcRI1Mkh8KsK2OjcbiFsZSZsGeSoqU0Rt1kWOv/quEC8WG0HAFB295sNxXazftARB
B65z5eJtoUxPgLwA8XZ4RE
-----END SSH SIGNATURE-----
",
    ),
    (
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBPXWMo0zdC3NLAw3GlEltiylFFKPcGYul6axyd7n73mQs9Rqo3Q8RHFwsm75rYHSz2XCH3Ta3o3nujURCPszzP4=",
        "\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAAGgAAAATZWNkc2Etc2hhMi1uaXN0cDI1NgAAAAhuaXN0cDI1NgAAAE
EE9dYyjTN0Lc0sDDcaUSW2LKUUUo9wZi6XprHJ3ufveZCz1GqjdDxEcXCybvmtgdLPZcIf
dNrejee6NREI+zPM/gAAAANnaXQAAAAAAAAABnNoYTUxMgAAAGMAAAATZWNkc2Etc2hhMi
1uaXN0cDI1NgAAAEgAAAAgUFlbTh0ME3Xl+8w08YzovkAApK97lvtcRSYPbGSbxgIAAAAg
ORWjfOY7FSBQu2PZ1p8hcoCvU9jrR6vO+bg1yiCoDzc=
-----END SSH SIGNATURE-----
",
    ),
];
const RSA_1024: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDJIfb0B0rxgIJ/+yI7neLI4UBT6G5eFZAx49CHI/RvU6/FbliY4bkl6Gg8Wbu7HMMQAr/v0YpK9lezU7rVYkL0moahZB5CQ0Mx6reaNVNVThsEr/ddcaVd+fRWrhHmV6MamBBdH4CrPJi02yTaA5ixvUAuan9F3J6QiKJ4qBGGyw==";
const ECDSA_384: &str = "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBOrjROUXSKSE5fQagARxcQHW1bLJVAB1yAe4jxzvG28qqH2j7jfkJO/xnz0W9X9QioayOPv3/25/XcwKZF8wvJLf5ur22LxtC0KthtaCWbuoKKVAxedTNOJQUdHjQ9RtVw==";

/// The same key for the same seed.
pub(crate) fn key(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

pub(crate) fn line(principals: &str, options: &str, key: &PrivateKey) -> String {
    format!("{principals} {options} {}\n", key.public_key().to_openssh().unwrap())
}

pub(crate) fn sign(key: &PrivateKey, namespace: &str, bytes: &[u8]) -> String {
    let signature = key.sign(namespace, HashAlg::Sha512, bytes).unwrap();
    signature.to_pem(LineEnding::LF).unwrap()
}

fn parse(text: &str) -> Result<AllowedSigners, String> {
    AllowedSigners::parse(Path::new("allowed"), text.as_bytes())
}

/// The verdict's text, with addresses in brackets.
fn text(verdict: &Verdict) -> String {
    verdict.text(|email| format!("<{email}>"))
}

#[test]
fn a_commit_is_verified_or_the_verdict_says_why_not() {
    let (ada, bob) = (key(1), key(2));
    let of_ada = ada.fingerprint(HashAlg::Sha256).to_string();
    let verified = format!("verified: <{ADA}> {of_ada}");
    let with = |principals: &str, options: &str| line(principals, options, &ada);
    // Committed at 2023-11-14T22:13:20Z.
    let lists = [
        ("plain", with(ADA, ""), verified.clone()),
        ("for git among others", with(ADA, "namespaces=\"file,git\""), verified.clone()),
        ("by a pattern", with("*@example.com,!eve@*", ""), verified.clone()),
        ("quoted, with blanks", with("\"ada@example.com\"", ""), verified.clone()),
        (
            "begun at that second",
            with(ADA, "valid-after=\"20231114221320Z\",valid-before=\"20240101Z\""),
            verified.clone(),
        ),
        (
            "a second line counts",
            with("eve@example.com", "") + &with(ADA, "valid-before=\"20200101Z\"") + &with(ADA, ""),
            verified,
        ),
        ("unknown key", line(ADA, "", &bob), format!("unknown key {of_ada}")),
        ("an empty list", "# nobody\n\n".into(), format!("unknown key {of_ada}")),
        (
            "another's key",
            with("eve@example.com", ""),
            format!("other committer than key {of_ada} is for"),
        ),
        (
            "excluded",
            with("*@example.com,!ada@*", ""),
            format!("other committer than key {of_ada} is for"),
        ),
        (
            "a key for files",
            with(ADA, "namespaces=\"file\""),
            format!("not for git: key {of_ada}"),
        ),
        (
            "expired",
            with(ADA, "valid-before=\"20231114221319Z\""),
            format!("expired key {of_ada}"),
        ),
        (
            "not yet valid",
            with(ADA, "valid-after=\"202311142214Z\""),
            format!("not yet valid key {of_ada}"),
        ),
    ];
    let repo = Repo::new(true);
    let plain = repo.push(&[("a.yaml", Put::File("x"))]);
    let other = repo.push(&[("a.yaml", Put::File("y"))]);
    let source = GitSource::open(&repo.config(), repo.git.path()).unwrap();
    let signed = repo.signed(&plain, |bytes| sign(&ada, "git", bytes));
    for (what, list, expected) in lists {
        let allowed = parse(&list).unwrap();
        let verdict = source.verdict(&signed, Some(&allowed)).unwrap();
        assert_eq!(text(&verdict), expected, "{what}");
        assert_eq!(verdict.is_verified(), expected.starts_with("verified"), "{what}");
    }

    let allowed = parse(&line(ADA, "", &ada)).unwrap();
    let mut of_plain = String::new();
    repo.signed(&plain, |bytes| {
        of_plain = sign(&ada, "git", bytes);
        of_plain.clone()
    });
    let longer = of_plain.replace("\n-----END", "AAAA\n-----END");
    for (what, commit, expected) in [
        ("unsigned", plain.clone(), "unsigned"),
        (
            "another commit's signature",
            repo.signed(&other, |_| of_plain),
            "bad signature: the commit is not what was signed",
        ),
        (
            "another namespace",
            repo.signed(&plain, |bytes| sign(&ada, "file", bytes)),
            "bad signature: it was not made for git",
        ),
        (
            "bytes too many",
            repo.signed(&plain, |_| longer),
            "bad signature: it cannot be read",
        ),
        (
            "no armour",
            repo.signed(&plain, |_| "signed, Ada".into()),
            "bad signature: it is of no known kind",
        ),
        ("OpenPGP", repo.signed(&plain, |_| PGP.into()), "unverified: OpenPGP"),
        ("X.509", repo.signed(&plain, |_| X509.into()), "unverified: X.509"),
    ] {
        let verdict = source.verdict(&commit, Some(&allowed)).unwrap();
        assert_eq!(text(&verdict), expected, "{what}");
        assert!(!verdict.is_verified(), "{what}");
    }
    let verdict = source.verdict(&signed, None).unwrap();
    assert_eq!(text(&verdict), "unverified: SSH, and no allowed signers are configured");
}

#[test]
fn what_ssh_keygen_signs_is_verified() {
    for (key, signature) in BY_SSH_KEYGEN {
        let allowed = parse(&format!("{ADA} {key}\n")).unwrap();
        let verdict = |signed: &[u8]| verdict(signature.as_bytes(), signed, ADA, 0, Some(&allowed));
        assert!(verdict(SIGNED).is_verified(), "{key}");
        assert_eq!(
            verdict(b"Holdfast\n"),
            Verdict::Bad("the commit is not what was signed"),
            "{key}"
        );
    }
}

#[test]
fn every_malformed_line_is_told_at_its_place() {
    let good = key(1).public_key().to_openssh().unwrap();
    for (line, problem) in [
        ("ada@example.com".to_owned(), "a line is: principals"),
        ("ada@x namespaces=git ssh-ed25519".to_owned(), "a line is: principals"),
        ("ada@x ssh-ed25519 AAAA".to_owned(), "the key cannot be read"),
        (format!("ada@x cert-authority {good}"), "cert-authority is not supported"),
        (
            format!("ada@x namespaces=\"git\",CERT-AUTHORITY {good}"),
            "cert-authority is not supported",
        ),
        (format!("ada@x no-touch {good}"), "unknown option no-touch"),
        (format!("ada@x namespaces=\"\" {good}"), "unknown option namespaces"),
        (format!("ada@x namespaces=\"git {good}"), "a quotation mark is not closed"),
        (format!("ada@? {good}"), "a pattern with ?"),
        (
            format!("ada@x valid-after=\"20240101\" {good}"),
            "\"20240101\" is no moment in UTC",
        ),
        (format!("ada@x valid-after=\"20240230Z\" {good}"), "is no moment"),
        (format!("ada@x valid-before=\"2024é1Z\" {good}"), "is no moment"),
        (
            format!("ada@x valid-after=\"20240101Z\",valid-before=\"20240101Z\" {good}"),
            "valid-before is not after",
        ),
        (format!("ada@x {RSA_1024}"), "an RSA key has 2048 to 8192 bits, not 1024"),
        (
            format!("ada@x {ECDSA_384}"),
            "keys of type ecdsa-sha2-nistp384 are not supported",
        ),
    ] {
        let told = parse(&format!("# these may\nada@x {good} a comment\r\n{line}\n")).unwrap_err();
        let at_its_place = told.strip_prefix("allowed:3: ").is_some_and(|told| told.contains(problem));
        assert!(at_its_place && !told.contains("; allowed"), "{line}: {told}");
    }
    let told = parse("a\nb\n").unwrap_err();
    assert!(told.contains("allowed:1: ") && told.contains("allowed:2: "), "{told}");
    let not_text = AllowedSigners::parse(Path::new("allowed"), b"\n\xff\n").unwrap_err();
    assert_eq!(not_text, "allowed:2: this is not UTF-8");
}
