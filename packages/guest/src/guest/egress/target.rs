//! Where to: a host name or a literal address, as a program inside wrote it and as the host is told.

use std::net::{Ipv4Addr, Ipv6Addr};

const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// In lower case without a last dot; IPv6 without brackets.
    pub host: String,
    pub port: u16,
}

impl Target {
    /// As it stands in an authority.
    pub fn shown(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// A name that DNS could hold: labels of letters, digits, `-` and `_`. None for anything else, also for an empty one.
pub fn name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label = |label: &str| !label.is_empty() && label.len() <= MAX_LABEL_BYTES && label.bytes().all(known);
    if text.len() > MAX_NAME_BYTES || !text.split('.').all(label) {
        return None;
    }
    Some(text.to_ascii_lowercase())
}

/// `host:port` or `host`, the latter only where there is a port to take by default. Why not, in a sentence, otherwise.
pub fn authority(text: &str, default_port: Option<u16>) -> Result<Target, &'static str> {
    if text.contains('@') {
        return Err("The address holds a user name, which a proxy request must not.");
    }
    let (host, rest) = match text.strip_prefix('[') {
        Some(inner) => {
            let (literal, rest) = inner.split_once(']').ok_or("The address has an open bracket.")?;
            let parsed: Ipv6Addr = literal.parse().map_err(|_| "The address in brackets is no IPv6 address.")?;
            (parsed.to_string(), rest)
        }
        None => {
            let at = text.find(':').unwrap_or(text.len());
            if at == 0 {
                return Err("The request names no host.");
            }
            (plain_host(&text[..at]).ok_or("The request names a host that cannot exist.")?, &text[at..])
        }
    };
    let port = match (rest.strip_prefix(':'), default_port) {
        (Some(digits), _) => port(digits).ok_or("The request names no port from 1 to 65535.")?,
        (None, Some(port)) if rest.is_empty() => port,
        _ => return Err("The request names no port."),
    };
    Ok(Target { host, port })
}

fn plain_host(text: &str) -> Option<String> {
    match text.parse::<Ipv4Addr>() {
        Ok(address) => Some(address.to_string()),
        Err(_) => name(text),
    }
}

fn port(digits: &str) -> Option<u16> {
    if digits.is_empty() || digits.len() > 5 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> Option<(String, u16)> {
        authority(text, Some(80)).ok().map(|target| (target.host, target.port))
    }

    #[test]
    fn hosts_are_told_in_one_way() {
        let some = |host: &str, port| Some((host.to_string(), port));
        assert_eq!(taken("Example.ORG."), some("example.org", 80));
        assert_eq!(taken("a_b.x-1.test:8080"), some("a_b.x-1.test", 8080));
        assert_eq!(taken("203.0.113.7:22"), some("203.0.113.7", 22));
        assert_eq!(taken("[2001:DB8::0:1]:443"), some("2001:db8::1", 443));
        assert_eq!(taken("[::1]"), some("::1", 80));
        assert_eq!(authority("[::1]:5", None).unwrap().shown(), "[::1]:5");
    }

    #[test]
    fn what_names_no_host_and_port_is_refused() {
        let long = "a".repeat(64);
        for text in [
            "", ":80", "a b", "a..b", ".", "a:", "a:0", "a:65536", "a:+1", "a:1x", "a:1:2", "user@a", "u:p@a:80", "[::1", "[::g]",
            "[::1]x", "[::1%25eth0]:80", "a%00b", "ä.example", "a/b", long.as_str(),
        ] {
            assert_eq!(taken(text), None, "{text}");
        }
        assert!(authority("example.org", None).is_err());
        assert_eq!(name(&vec!["a"; 127].join(".")).map(|name| name.len()), Some(253));
        assert_eq!(name(&vec!["a"; 128].join(".")), None);
    }
}
