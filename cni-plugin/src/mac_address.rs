//! Ethernet addresses, written as people write them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

/// Text that is not six hexadecimal bytes with colons between them.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an Ethernet address like 02:00:5e:10:00:01")]
pub struct NotAMacAddress(String);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddress {
    type Err = NotAMacAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || NotAMacAddress(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(error)?;
            // `from_str_radix` takes a sign, an Ethernet address does not.
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(error());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() { Err(error()) } else { Ok(Self(bytes)) }
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_agree() {
        let address = MacAddress([0x02, 0, 0x5e, 0x10, 0xab, 1]);
        assert_eq!(address.to_string(), "02:00:5e:10:ab:01");
        assert_eq!("02:00:5E:10:AB:01".parse(), Ok(address));
    }

    #[test]
    fn other_text_is_refused() {
        for text in
            ["", "02:00:5e:10:ab", "02:00:5e:10:ab:01:02", "02:00:5e:10:ab:+1", "2:0:5e:10:ab:1", "02-00-5e-10-ab-01"]
        {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }
}
