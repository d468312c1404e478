//! Durations and percentages as people write them.

use crate::ids::{FULL_SHARE, Millis};

const LONGEST_MS: u64 = 366 * 86_400_000;

/// `250ms`, `30s`, `5m`, `1h30m`, `3d`. None: not a duration, or longer than a year.
pub fn parse_duration_ms(text: &str) -> Option<Millis> {
    let mut rest = text;
    let mut total: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0)?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let factor = match &rest[..unit_end] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        rest = &rest[unit_end..];
        total = total.checked_add(number.checked_mul(factor)?)?;
    }
    (total <= LONGEST_MS).then_some(total)
}

/// `25%`, `12.5%`, in 1/10000.
pub fn parse_percent(text: &str) -> Option<u32> {
    let (whole, fraction) = text
        .strip_suffix('%')?
        .split_once('.')
        .unwrap_or((text.strip_suffix('%')?, ""));
    if whole.is_empty()
        || fraction.len() > 2
        || !fraction.bytes().all(|b| b.is_ascii_digit())
        || !whole.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let share = whole.parse::<u32>().ok()?.checked_mul(100)? + format!("{fraction:0<2}").parse::<u32>().ok()?;
    (share <= FULL_SHARE).then_some(share)
}

/// For people: the two largest units.
pub fn human_ms(ms: Millis) -> String {
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    match units.iter().position(|(_, size)| ms >= *size) {
        None => format!("{ms}ms"),
        Some(at) => {
            let (unit, size) = units[at];
            let rest = units
                .get(at + 1)
                .map(|(unit, smaller)| (unit, ms % size / smaller))
                .filter(|(_, count)| *count > 0);
            format!(
                "{}{unit}{}",
                ms / size,
                rest.map(|(unit, count)| format!("{count}{unit}")).unwrap_or_default()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("250ms", Some(250)),
            ("5m", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("0s", Some(0)),
            ("5", None),
            ("m", None),
            ("", None),
            ("-5s", None),
            ("5 m", None),
            ("99999999999999999999s", None),
            ("400d", None),
        ] {
            assert_eq!(parse_duration_ms(text), expected, "{text}");
        }
        assert_eq!(
            (human_ms(250), human_ms(5_400_000), human_ms(60_000)),
            ("250ms".into(), "1h30m".into(), "1m".into())
        );
    }

    #[test]
    fn percentages() {
        for (text, expected) in [
            ("25%", Some(2_500)),
            ("12.5%", Some(1_250)),
            ("0.01%", Some(1)),
            ("100%", Some(10_000)),
            ("101%", None),
            ("5", None),
            ("%", None),
            ("1.234%", None),
            ("-1%", None),
        ] {
            assert_eq!(parse_percent(text), expected, "{text}");
        }
    }
}
