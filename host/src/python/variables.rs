//! Variables of the environment that an application asked for while it was imported: what
//! it made of them is in its component, which is another one where they have other values.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};
use wasm_encoder::{ComponentSection, CustomSection};
use wasmparser::{Parser, Payload};

/// The section of a component that tells of them. It is the first one, so that nothing else of
/// a component is read for it.
const SECTION: &str = "wasm-serve:variables";
/// Bytes in front of the first section.
const PREAMBLE: usize = 8;
/// In place of the sum of a value that is not there; the adapter says so, too.
const MISSING: &str = "missing";
/// In place of a name: all names were asked for, so what is not among them was missing.
const ALL: &str = "=";

/// Names, each with the SHA-256 sum of its value.
#[derive(Default)]
pub(crate) struct Asked(pub BTreeMap<String, String>);

impl Asked {
    pub(crate) fn parse(value: &Value) -> Option<Asked> {
        let pair = |(name, sum): (&String, &Value)| Some((name.clone(), sum.as_str()?.to_owned()));
        value.as_object()?.iter().map(pair).collect::<Option<_>>().map(Asked)
    }

    /// Reads what the adapter has written.
    pub(crate) fn read(json: &[u8]) -> Option<Asked> {
        Asked::parse(&serde_json::from_slice(json).ok()?)
    }

    /// Whether an import would see in `environment` what the one of the component saw.
    pub(crate) fn is_as_in(&self, environment: &[(String, String)]) -> bool {
        let now = sums(environment);
        let is_same = |(name, sum): (&String, &String)| {
            name == ALL || now.get(name.as_str()).map_or(MISSING, String::as_str) == sum
        };
        self.0.iter().all(is_same) && self.differing(environment).is_none()
    }

    /// A variable that has a value in `environment`, where the import saw another one, or none.
    fn differing<'a>(&self, environment: &'a [(String, String)]) -> Option<&'a str> {
        let all = self.0.get(ALL);
        let differs = |name: &str, sum: &str| self.0.get(name).or(all).is_some_and(|seen| seen != sum);
        sums(environment).into_iter().find(|(name, sum)| differs(name, sum)).map(|(name, _)| name)
    }

    /// Puts them into the component.
    pub(crate) fn add_to(&self, component: &mut Vec<u8>) {
        let json = json(&self.0);
        let section = CustomSection { name: SECTION.into(), data: json.as_bytes().into() };
        let mut bytes = Vec::new();
        section.append_to_component(&mut bytes);
        component.splice(PREAMBLE..PREAMBLE, bytes);
    }

    /// Those of a guest; none of one that is no Python application.
    fn of(guest: &[u8]) -> Option<Asked> {
        let payloads = Parser::new(0).parse_all(guest).map_while(Result::ok).take(2);
        let ours = payloads.filter_map(|payload| match payload {
            Payload::CustomSection(section) if section.name() == SECTION => Asked::read(section.data()),
            _ => None,
        });
        ours.last()
    }
}

/// Whether a guest is a Python application, as far as it says so itself.
pub(super) fn are_in(guest: &[u8]) -> bool {
    Asked::of(guest).is_some()
}

/// A guest that was built with other variables than it is served with would have the
/// settings of its build, and nobody would notice.
pub(crate) fn check(guest: &[u8], environment: &[(String, String)]) -> Result<()> {
    let asked = Asked::of(guest).unwrap_or_default();
    let differing = asked.differing(environment);
    let name = differing.unwrap_or_default();
    ensure!(
        differing.is_none(),
        "the application asked for the variable {name}, or for all variables, while the component was built, and it had another value then, or none; build it with `wasm-serve build --env {name}=VALUE`, or leave --env {name} out"
    );
    Ok(())
}

fn json(texts: &BTreeMap<String, String>) -> String {
    serde_json::to_string(texts).expect("texts are JSON")
}

/// Of two values of a name, the last one counts.
fn sums(environment: &[(String, String)]) -> BTreeMap<&str, String> {
    let sum = |value: &String| format!("{:x}", Sha256::digest(value));
    environment.iter().map(|(name, value)| (name.as_str(), sum(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn asked(pairs: &[(&str, &str)]) -> Asked {
        let sum = |value: &str| match value {
            MISSING => MISSING.to_owned(),
            value => format!("{:x}", Sha256::digest(value)),
        };
        Asked(pairs.iter().map(|(name, value)| ((*name).to_owned(), sum(value))).collect())
    }

    #[test]
    fn only_what_was_asked_for_counts() {
        let some = asked(&[("KEY", "x"), ("DEBUG", MISSING)]);
        let all = asked(&[("KEY", "x"), (ALL, MISSING)]);
        // An environment, whether some and all are as in it, and what of it is another one.
        let rows = [
            ("KEY=x", [true, true], [None, None]),
            ("KEY=y KEY=x", [true, true], [None, None]),
            ("KEY=x OTHER=1", [true, false], [None, Some("OTHER")]),
            ("KEY=y", [false, false], [Some("KEY"), Some("KEY")]),
            ("KEY=x DEBUG=1", [false, false], [Some("DEBUG"), Some("DEBUG")]),
            // A setting of the build need not be there in the run.
            ("", [false, false], [None, None]),
        ];
        for (text, same, differing) in rows {
            let pairs: Vec<_> = text.split(' ').filter_map(|pair| pair.split_once('=')).collect();
            let now = environment(&pairs);
            assert_eq!([&some, &all].map(|asked| asked.is_as_in(&now)), same, "{text}");
            assert_eq!([&some, &all].map(|asked| asked.differing(&now)), differing, "{text}");
        }
    }

    #[test]
    fn they_are_found_in_a_component_which_is_one_as_before() {
        let mut component = wasm_encoder::Component::new().finish();
        assert!(!are_in(&component));
        asked(&[("KEY", "x")]).add_to(&mut component);
        wasmparser::Validator::new().validate_all(&component).unwrap();
        assert!(check(&component, &environment(&[("KEY", "x")])).is_ok());
        let error = check(&component, &environment(&[("KEY", "y")])).unwrap_err().to_string();
        assert!(error.contains("variable KEY") && error.contains("--env KEY=VALUE"), "{error}");
    }
}
