//! Secret values and credentials: put into what is sent just before it goes, and taken out of what comes back. A guest
//! only ever sees markers.

use crate::endpoint::{Exchange, SendFail};
use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// A shorter one occurs in answers by chance, so it could not be taken out of them.
const VALUE_MIN_BYTES: usize = 4;
const VALUE_MAX_BYTES: usize = 64 << 10;
const REMOVED: &str = "[removed]";

/// One secret of a release: what a request body says in its place, and what it is.
#[derive(Clone)]
pub struct SecretValue {
    pub marker: String,
    pub marker_base64: String,
    pub value: Vec<u8>,
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue")
    }
}

impl Drop for SecretValue {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

/// Many texts replaced by others in one pass, so that what was put in is never searched itself.
struct Swap {
    finder: AhoCorasick,
    with: Vec<Zeroizing<Vec<u8>>>,
}

impl Swap {
    /// None when there is nothing to replace. An empty text would be found everywhere, so it is left out.
    fn new(pairs: impl IntoIterator<Item = (Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>)>) -> Result<Option<Self>, String> {
        let (find, with): (Vec<_>, Vec<_>) = pairs.into_iter().filter(|(find, _)| !find.is_empty()).unzip();
        if find.is_empty() {
            return Ok(None);
        }
        // Where one text begins another, the longer one is meant.
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&find);
        finder
            .map(|finder| Some(Self { finder, with }))
            .map_err(|error| format!("the secrets cannot be searched for: {error}"))
    }

    fn size_after(&self, text: &[u8]) -> usize {
        self.finder.find_iter(text).fold(text.len(), |size, found| {
            size - found.len() + self.with[found.pattern()].len()
        })
    }

    fn apply(&self, text: &[u8]) -> Vec<u8> {
        self.finder.replace_all_bytes(text, &self.with)
    }

    fn longest_bytes(&self) -> usize {
        self.finder.max_pattern_len()
    }

    /// Leaves out what may be the rest of a text whose beginning was lost.
    fn without_rest(&self, mut exchange: Exchange) -> Exchange {
        let body = &exchange.body;
        let rest = self.longest_bytes().saturating_sub(1).min(body.len());
        let across = self.finder.find_iter(body).take_while(|found| found.start() < rest).last();
        let rest = across.map_or(rest, |found| found.end().max(rest));
        exchange.body.drain(..rest);
        exchange
    }
}

/// The secrets of one call, ready for both directions.
#[derive(Default)]
pub(crate) struct Secrets {
    fill: Option<Swap>,
    take_out: Option<Swap>,
    /// Markers that stand for something which cannot be put in, and why not.
    refused: Vec<(String, &'static str)>,
}

impl Secrets {
    pub fn new(secrets: &[SecretValue]) -> Result<Self, String> {
        let mut refused = Vec::new();
        let (mut fill, mut take_out) = (Vec::new(), Vec::new());
        for secret in secrets {
            let text = std::str::from_utf8(&secret.value).ok();
            let size_problem = match secret.value.len() {
                ..VALUE_MIN_BYTES => Some("is shorter than 4 bytes, too short to be kept out of answers"),
                VALUE_MIN_BYTES..=VALUE_MAX_BYTES => None,
                _ => Some("is longer than 64 KiB"),
            };
            if let Some(problem) = size_problem {
                refused.extend([(secret.marker.clone(), problem), (secret.marker_base64.clone(), problem)]);
                continue;
            }
            let base64 = Zeroizing::new(STANDARD.encode(&secret.value).into_bytes());
            let (marker, marker_base64) = (secret.marker.as_bytes().to_vec(), secret.marker_base64.as_bytes().to_vec());
            // The first of equal texts counts.
            take_out.push((base64.clone(), Zeroizing::new(marker_base64.clone())));
            for found in readings(&secret.value) {
                take_out.push((found, Zeroizing::new(marker.clone())));
            }
            match text {
                Some(text) => fill.push((Zeroizing::new(marker), json_escaped(text))),
                None => refused.push((secret.marker.clone(), "is not UTF-8; use its base64 marker")),
            }
            fill.push((Zeroizing::new(marker_base64), base64));
        }
        refused.retain(|(marker, _)| !marker.is_empty());
        Ok(Self {
            fill: Swap::new(fill)?,
            take_out: Swap::new(take_out)?,
            refused,
        })
    }

    /// The body with values in place of markers, at most `left_bytes` of it.
    pub fn fill(&self, body: Vec<u8>, left_bytes: usize) -> Result<Vec<u8>, SendFail> {
        for (marker, problem) in &self.refused {
            if body.windows(marker.len()).any(|window| window == marker.as_bytes()) {
                return Err(SendFail::Denied(format!("the secret that {marker} stands for {problem}")));
            }
        }
        match &self.fill {
            Some(swap) if swap.size_after(&body) > left_bytes => Err(SendFail::Denied(
                "with its secrets the body would be larger than what is left of the call".into(),
            )),
            Some(swap) => Ok(swap.apply(&body)),
            None => Ok(body),
        }
    }

    pub fn take_out(&self, exchange: Exchange) -> Exchange {
        match &self.take_out {
            Some(swap) => apply(swap, exchange),
            None => exchange,
        }
    }

    /// As `take_out`, where the beginning of the body was lost.
    pub fn take_out_of_tail(&self, exchange: Exchange) -> Exchange {
        match &self.take_out {
            Some(swap) => apply(swap, swap.without_rest(exchange)),
            None => exchange,
        }
    }

    pub fn longest_bytes(&self) -> usize {
        self.take_out.as_ref().map_or(0, Swap::longest_bytes)
    }
}

/// Takes an endpoint's own credentials out of whatever echoes them.
pub(crate) struct Removal(Option<Swap>);

impl Removal {
    pub fn new(credentials: &[Zeroizing<String>]) -> Result<Self, String> {
        let long_enough = credentials.iter().filter(|one| one.len() >= VALUE_MIN_BYTES);
        let pairs = long_enough.flat_map(|one| {
            readings(one.as_bytes())
                .into_iter()
                .map(|found| (found, Zeroizing::new(REMOVED.into())))
        });
        Swap::new(pairs).map(Self)
    }

    pub fn exchange(&self, exchange: Exchange) -> Exchange {
        match &self.0 {
            Some(swap) => apply(swap, exchange),
            None => exchange,
        }
    }

    pub fn text(&self, text: &str) -> String {
        match &self.0 {
            Some(swap) => String::from_utf8_lossy(&swap.apply(text.as_bytes())).into_owned(),
            None => text.to_owned(),
        }
    }

    /// As `exchange`, where the beginning of the body was lost.
    pub fn tail(&self, exchange: Exchange) -> Exchange {
        match &self.0 {
            Some(swap) => apply(swap, swap.without_rest(exchange)),
            None => exchange,
        }
    }

    pub fn longest_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, Swap::longest_bytes)
    }
}

fn apply(swap: &Swap, mut exchange: Exchange) -> Exchange {
    exchange.body = swap.apply(&exchange.body);
    for (_, value) in &mut exchange.headers {
        *value = String::from_utf8_lossy(&swap.apply(value.as_bytes())).into_owned();
    }
    exchange
}

/// The value in every form in which software commonly repeats what it was given.
fn readings(value: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut readings = vec![value.to_vec()];
    if let Ok(text) = std::str::from_utf8(value) {
        let json = json_escaped(text);
        // Go also escapes what HTML could read.
        let html = String::from_utf8_lossy(&json)
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026");
        readings.push(json.to_vec());
        readings.push(html.into_bytes());
    }
    readings.push(STANDARD.encode(value).into_bytes());
    readings.push(STANDARD_NO_PAD.encode(value).into_bytes());
    readings.push(URL_SAFE.encode(value).into_bytes());
    readings.push(URL_SAFE_NO_PAD.encode(value).into_bytes());
    readings.push(percent_encoded(value, "%20"));
    readings.push(percent_encoded(value, "+"));
    let hex = holdfast_core::ids::hex(value);
    readings.push(hex.to_ascii_uppercase().into_bytes());
    readings.push(hex.into_bytes());
    readings.into_iter().map(Zeroizing::new).collect()
}

fn percent_encoded(value: &[u8], space: &str) -> Vec<u8> {
    use std::io::Write as _;
    let mut text = Vec::with_capacity(value.len());
    for byte in value {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(*byte),
            b' ' => text.extend_from_slice(space.as_bytes()),
            // Writing into memory does not fail.
            other => drop(write!(text, "%{other:02X}")),
        }
    }
    text
}

/// What stands between the quotes.
fn json_escaped(text: &str) -> Zeroizing<Vec<u8>> {
    let quoted = Zeroizing::new(serde_json::Value::from(text).to_string());
    Zeroizing::new(quoted.as_bytes()[1..quoted.len() - 1].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, value: &[u8]) -> SecretValue {
        SecretValue {
            marker: format!("@@{name}@@"),
            marker_base64: format!("@@{name}.base64@@"),
            value: value.into(),
        }
    }

    fn answer(body: &[u8]) -> Exchange {
        Exchange {
            status: 200,
            headers: vec![("etag".into(), String::from_utf8_lossy(body).into_owned())],
            body: body.into(),
        }
    }

    #[test]
    fn values_go_in_and_come_out_as_markers() {
        let secrets = Secrets::new(&[
            secret("db", b"pa\"ss<1>"),
            // It names another marker, and begins another value.
            secret("odd", b"@@db@@"),
            secret("long", b"pa\"ss<1>-and-more"),
            secret("bytes", &[0xff, 0xfe, 0, 1, 2]),
        ])
        .unwrap();
        for (sent, expected) in [
            (r#"{"a":"@@db@@"}"#, r#"{"a":"pa\"ss<1>"}"#),
            (r#"{"a":"@@db.base64@@@@db@@"}"#, r#"{"a":"cGEic3M8MT4=pa\"ss<1>"}"#),
            ("@@odd@@", "@@db@@"),
            ("@@bytes.base64@@", "//4AAQI="),
            ("@@unknown@@", "@@unknown@@"),
            ("", ""),
        ] {
            let filled = secrets.fill(sent.into(), 1_000).unwrap_or_default();
            assert_eq!(String::from_utf8_lossy(&filled), expected, "{sent}");
        }
        for (came, expected) in [
            ("x pa\"ss<1> y", "x @@db@@ y"),
            (r#"pa\"ss<1>"#, "@@db@@"),
            (r#"pa\"ss\u003c1\u003e"#, "@@db@@"),
            ("pa\"ss<1>-and-more", "@@long@@"),
            ("cGEic3M8MT4=", "@@db.base64@@"),
            ("cGEic3M8MT4", "@@db@@"),
            ("pa%22ss%3C1%3E", "@@db@@"),
            ("70612273733c313e", "@@db@@"),
            ("70612273733C313E", "@@db@@"),
            ("__4AAQI", "@@bytes@@"),
            ("nothing", "nothing"),
        ] {
            let cleaned = secrets.take_out(answer(came.as_bytes()));
            assert_eq!(String::from_utf8_lossy(&cleaned.body), expected, "{came}");
            assert_eq!(cleaned.headers[0].1, expected, "{came}, in a header");
        }
    }

    #[test]
    fn what_cannot_be_put_in_is_not_sent() {
        let secrets = Secrets::new(&[
            secret("empty", b""),
            secret("short", b"abc"),
            secret("bytes", &[0xff; 8]),
            secret("big", &vec![b'x'; VALUE_MAX_BYTES + 1]),
            secret("good", b"good-value"),
            SecretValue {
                marker: String::new(),
                marker_base64: String::new(),
                value: b"without a marker".to_vec(),
            },
        ])
        .unwrap();
        assert_eq!(secrets.fill(b"no marker".to_vec(), 1_000).unwrap_or_default(), b"no marker");
        for (body, part) in [
            ("@@empty@@", "shorter"),
            ("@@short.base64@@", "shorter"),
            ("@@bytes@@", "not UTF-8"),
            ("@@big@@", "longer"),
        ] {
            match secrets.fill(body.into(), 1_000) {
                Err(SendFail::Denied(message)) => assert!(message.contains(part), "{message}"),
                other => panic!("{body}: {other:?}"),
            }
        }
        assert!(
            secrets.fill("@@good@@".repeat(10).into(), 99).is_err(),
            "larger than what is left"
        );
        assert_eq!(secrets.take_out(answer(b"abc, nothing")).body, b"abc, nothing");
    }

    #[test]
    fn credentials_that_the_mark_contains_end() {
        let credentials = ["moved", "[removed]", "remo", "", "abc"].map(|one| Zeroizing::new(one.to_owned()));
        let cleaned = Removal::new(&credentials).unwrap().exchange(answer(b"a moved remo b abc"));
        assert_eq!(String::from_utf8_lossy(&cleaned.body), "a [removed] [removed] b abc");
        assert_eq!(format!("{:?}", secret("db", b"value")), "SecretValue");
    }

    #[test]
    fn the_rest_of_a_secret_at_the_beginning_of_a_tail_is_left_out() {
        let secrets = Secrets::new(&[secret("db", b"0123456789")]).unwrap();
        // Its longest form is the hexadecimal one, of 20 bytes; so 19 of any tail are left out.
        for (tail, expected) in [
            ("56789 and what follows", "ows"),
            ("............0123456789 end", " end"),
            (".........0123456789 end", " end"),
            (".......................0123456789", "....@@db@@"),
            ("short", ""),
        ] {
            let cleaned = secrets.take_out_of_tail(answer(tail.as_bytes()));
            assert_eq!(String::from_utf8_lossy(&cleaned.body), expected, "{tail}");
        }
        assert_eq!(secrets.longest_bytes(), 20);
    }
}
