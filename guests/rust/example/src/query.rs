//! The part of a target after `?`.

use crate::Text;

pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn new(text: &str) -> Query {
        let parameters = text.split('&').filter_map(|parameter| parameter.split_once('='));
        Query(parameters.map(|(name, value)| (decoded(name), decoded(value))).collect())
    }

    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |parameter| parameter.0 == name).map(|parameter| &*parameter.1)
    }

    pub fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The first value of a name, or nothing.
    pub fn text(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or_default()
    }

    pub fn number(&self, name: &str, otherwise: Option<u64>) -> Result<u64, Text> {
        match (self.all(name).next(), otherwise) {
            (None, Some(otherwise)) => Ok(otherwise),
            (text, _) => {
                let number = text.unwrap_or_default().parse();
                number.map_err(|_| Text(400, format!("{name} is not a whole number")))
            }
        }
    }
}

/// Percent-decoded, as UTF-8.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, left) = match (first, after) {
            (b'%', [high, low, left @ ..]) => match byte(*high, *low) {
                Some(byte) => (byte, left),
                None => (b'%', after),
            },
            _ => (*first, after),
        };
        bytes.push(byte);
        rest = left;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What two hexadecimal digits stand for.
fn byte(high: u8, low: u8) -> Option<u8> {
    let digit = |digit: u8| (digit as char).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}
