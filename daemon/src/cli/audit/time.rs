//! Points in time and in the log, as people write them.

use std::str::FromStr;

/// Wall time as entries have it, `2026-11-24T10:00:00.000Z`: compared as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Time(pub String);

impl FromStr for Time {
    type Err = String;

    /// A day, or a part of a time in UTC from the left: what is missing is zero.
    fn from_str(text: &str) -> Result<Self, String> {
        const SHAPE: &[u8] = b"0000-00-00T00:00:00.000Z";
        let bytes = text.as_bytes();
        let ends = [10, 16, 19, 23, 24].contains(&bytes.len()) || (bytes.ends_with(b"Z") && [17, 20].contains(&bytes.len()));
        let digits = text.strip_suffix('Z').unwrap_or(text);
        let fits = digits.bytes().zip(SHAPE).all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            _ => byte == *shape,
        });
        if !ends || !fits {
            return Err("a time in UTC, as in 2026-11-24 or 2026-11-24T10:00:00Z".to_owned());
        }
        let rest = std::str::from_utf8(&SHAPE[digits.len()..]).unwrap_or_default();
        Ok(Self(format!("{digits}{rest}")))
    }
}

/// `--as-of`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AsOf {
    /// After so many entries.
    Size(u64),
    Time(Time),
}

impl FromStr for AsOf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(size) => Ok(Self::Size(size)),
            Err(_) => text
                .parse()
                .map(Self::Time)
                .map_err(|why| format!("a number of entries, or {why}")),
        }
    }
}

/// Milliseconds since 1970 of a wall time as entries have it; none: it is not one.
pub fn wall_ms(wall: &str) -> Option<u64> {
    let at: jiff::Timestamp = wall.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::engine::rfc3339;

    #[test]
    fn times_are_read_from_the_left() {
        for (text, expected) in [
            ("2026-11-24", Some("2026-11-24T00:00:00.000Z")),
            ("2026-11-24T10:05", Some("2026-11-24T10:05:00.000Z")),
            ("2026-11-24T10:05Z", Some("2026-11-24T10:05:00.000Z")),
            ("2026-11-24T10:05:06.007Z", Some("2026-11-24T10:05:06.007Z")),
            ("2026-11", None),
            ("2026-11-24 10:05", None),
            ("24.11.2026", None),
            ("2026-11-24T10:05:0\u{e9}", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Time>().ok().map(|time| time.0).as_deref(), expected, "{text}");
        }
        assert_eq!("812".parse(), Ok(AsOf::Size(812)));
        assert!("yesterday".parse::<AsOf>().is_err());
    }

    #[test]
    fn wall_times_are_those_that_entries_have() {
        for ms in [0, 951_782_399_999, 951_782_400_000, 1_763_000_000_123, 4_102_444_800_000] {
            assert_eq!(wall_ms(&rfc3339(ms)), Some(ms));
        }
        for wall in ["2026-13-01T00:00:00Z", "1969-12-31T00:00:00Z", "now", ""] {
            assert_eq!(wall_ms(wall), None, "{wall}");
        }
    }
}
