//! The kinds of values that options have, and how they are written.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// How many of something that cannot be none.
pub(super) fn count(text: &str) -> Result<NonZeroU32> {
    text.parse().map_err(|_| anyhow::anyhow!("expected a whole number from 1 to {}", u32::MAX))
}

/// A variable of the environment: its name, and the value, or else the server's own.
pub(super) fn variable(text: &str) -> Result<(String, String)> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => {
            let value = std::env::var(text);
            (text, value.context("the server has no such variable; give a value with NAME=VALUE")?)
        }
    };
    ensure!(!name.is_empty(), "the name is missing");
    ensure!(!text.contains('\0'), "a variable has no zeros in it");
    Ok((name.to_owned(), value))
}

/// Of a variable that is given again, the last value counts, as with options.
pub(super) fn variables(given: &[(String, String)]) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::with_capacity(given.len());
    for (name, value) in given {
        variables.retain(|(earlier, _)| earlier != name);
        variables.push((name.clone(), value.clone()));
    }
    variables
}

/// A number of bytes, written as `4096`, `64K`, `128M`, `1G` (also `KiB`, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub usize);

impl FromStr for Bytes {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Bytes> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "" | "B" => 1usize,
            "K" | "KiB" => 1 << 10,
            "M" | "MiB" => 1 << 20,
            "G" | "GiB" => 1 << 30,
            _ => bail!("expected a number of bytes, such as 65536, 64K, 128M or 1G"),
        };
        let number: usize =
            digits.parse().context("expected a number of bytes, such as 65536, 64K, 128M or 1G")?;
        number.checked_mul(unit).map(Bytes).context("too many bytes")
    }
}

/// A duration, written in seconds with or without a fraction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seconds(pub Duration);

impl FromStr for Seconds {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Seconds> {
        let seconds: f64 = text.parse().context("expected seconds, such as 30 or 0.5")?;
        // A hundred years: further sums of such durations cannot overflow.
        ensure!((0.0..=3.2e9).contains(&seconds), "expected seconds from 0 to 3200000000");
        Ok(Seconds(Duration::from_secs_f64(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_have_binary_units() {
        for (text, expected) in [("0", 0), ("64K", 65536), ("128MiB", 128 << 20), ("1G", 1 << 30)] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(expected), "{text}");
        }
        for text in ["", "K", "-1", "1X", "99999999999999999999", "99999999999G"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_may_have_a_fraction_and_an_end() {
        assert_eq!("0.5".parse::<Seconds>().unwrap().0, Duration::from_millis(500));
        for text in ["-1", "NaN", "inf", "1e99", "x"] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
    }
}
