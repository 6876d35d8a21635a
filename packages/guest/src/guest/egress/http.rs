//! Requests to the proxy, read strictly: what two readers could take for two different requests is refused.

use super::target::{authority, Target};

pub const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_FIELDS: usize = 200;
/// Fields that concern only the connection to this proxy.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "proxy-connection", "proxy-authorization", "proxy-authenticate", "keep-alive", "te", "upgrade"];
/// What a request may not declare to be of one connection only: without it the next reader would see another request.
const END_TO_END: [&str; 3] = ["content-length", "transfer-encoding", "host"];

#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    pub reason: &'static str,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    Tunnel(Target),
    /// One request, its head as the server is to get it; the server is told to close after its answer.
    Request {
        target: Target,
        head: Vec<u8>,
        body: Framing,
        without_answer_body: bool,
    },
}

/// How long a request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
}

fn bad(reason: &'static str) -> Refused {
    Refused { status: 400, reason }
}

/// Where the head ends, behind its empty line; None until that came. `from` is where an earlier look stopped. What can never
/// become a request is refused at its first bytes, since its sender may wait for an answer.
pub fn end_of_head(bytes: &[u8], from: usize) -> Result<Option<usize>, Refused> {
    match bytes.first() {
        None => return Ok(None),
        Some(0x16) => {
            return Err(bad("This is an HTTP proxy, spoken to without TLS: write its address with http://, not https://."))
        }
        Some(4 | 5) => return Err(bad("This is an HTTP proxy, not a SOCKS proxy.")),
        Some(first) if !is_token(*first) => return Err(bad("This is an HTTP proxy, and what came is no HTTP request.")),
        Some(_) => {}
    }
    let from = from.saturating_sub(3);
    let end = bytes[from..].windows(4).position(|four| four == b"\r\n\r\n").map(|at| from + at + 4);
    let read = end.unwrap_or(bytes.len());
    // A lone CR at the very end may be the first half of a line's end.
    for (at, byte) in bytes[from..read].iter().enumerate() {
        let at = from + at;
        let fits = match byte {
            b'\n' => at > 0 && bytes[at - 1] == b'\r',
            b'\r' => bytes.get(at + 1).map_or(true, |next| *next == b'\n'),
            b'\t' => true,
            byte => *byte >= 0x20 && *byte != 0x7f,
        };
        if !fits {
            return Err(bad("The request's head holds a line end or control character that HTTP does not allow."));
        }
    }
    if read > MAX_HEAD_BYTES {
        return Err(Refused { status: 431, reason: "The request's head is larger than 64 KiB." });
    }
    Ok(end)
}

/// A whole head, as `end_of_head` found it.
pub fn parse(head: &[u8]) -> Result<Asked, Refused> {
    let text = std::str::from_utf8(head).map_err(|_| bad("The request's head is not UTF-8."))?;
    let mut lines = text.strip_suffix("\r\n\r\n").unwrap_or(text).split("\r\n");
    let mut words = lines.next().unwrap_or("").split(' ');
    let (method, aim, version) = match (words.next(), words.next(), words.next(), words.next()) {
        (Some(method), Some(aim), Some(version), None) if !aim.is_empty() => (method, aim, version),
        _ => return Err(bad("The first line is not: method, address, version.")),
    };
    if !method.bytes().all(is_token) {
        return Err(bad("The method is no word."));
    }
    if version == "HTTP/2.0" {
        return Err(bad("The proxy speaks HTTP/1.1, not HTTP/2; inside a CONNECT tunnel every protocol passes."));
    }
    if version != "HTTP/1.1" && version != "HTTP/1.0" {
        return Err(Refused { status: 505, reason: "The proxy speaks HTTP/1.1." });
    }
    let fields = lines.map(field).collect::<Result<Vec<_>, _>>()?;
    if fields.len() > MAX_FIELDS {
        return Err(Refused { status: 431, reason: "The request has more than 200 header fields." });
    }
    if method == "CONNECT" {
        return authority(aim, None).map(Asked::Tunnel).map_err(bad);
    }
    let (target, path) = absolute(method, aim)?;
    let body = framing(&fields, version)?;
    let head = rewrite(method, &path, version, &target, &fields)?;
    Ok(Asked::Request { target, head, body, without_answer_body: method == "HEAD" })
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn field(line: &str) -> Result<(&str, &str), Refused> {
    match line.split_once(':') {
        Some((name, value)) if !name.is_empty() && name.bytes().all(is_token) => {
            Ok((name, value.trim_matches(|c| c == ' ' || c == '\t')))
        }
        _ => Err(bad("A header line is not: name, colon, value.")),
    }
}

/// The target and path of `http://host[:port]/path`.
fn absolute(method: &str, aim: &str) -> Result<(Target, String), Refused> {
    let rest = match aim.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
            return Err(bad("The proxy passes https:// on only through CONNECT."))
        }
        _ => return Err(bad("A request to the proxy names its host: http://host/path, or CONNECT host:port.")),
    };
    let end = rest.find(|c| c == '/' || c == '?' || c == '#').unwrap_or(rest.len());
    let target = authority(&rest[..end], Some(80)).map_err(bad)?;
    let path = rest[end..].split('#').next().unwrap_or("");
    let path = match path {
        "" if method == "OPTIONS" => "*".to_string(),
        path if path.starts_with('/') => path.to_string(),
        path => format!("/{path}"),
    };
    Ok((target, path))
}

fn framing(fields: &[(&str, &str)], version: &str) -> Result<Framing, Refused> {
    let all = |wanted: &str| -> Vec<&str> {
        fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| *value).collect()
    };
    match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) => {
            let digits = !length.is_empty() && length.len() <= 18 && length.bytes().all(|byte| byte.is_ascii_digit());
            length.parse().ok().filter(|_| digits).map(Framing::Length).ok_or_else(|| bad("Content-Length is no number."))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") && version == "HTTP/1.1" => Ok(Framing::Chunked),
        ([], [_]) => Err(Refused { status: 501, reason: "The proxy knows no Transfer-Encoding but chunked, in HTTP/1.1." }),
        _ => Err(bad("The request says in two ways how long it is.")),
    }
}

fn rewrite(
    method: &str,
    path: &str,
    version: &str,
    target: &Target,
    fields: &[(&str, &str)],
) -> Result<Vec<u8>, Refused> {
    let named: Vec<String> = fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("connection") || name.eq_ignore_ascii_case("proxy-connection"))
        .flat_map(|(_, value)| value.split(',').map(|word| word.trim().to_ascii_lowercase()))
        .collect();
    if END_TO_END.iter().any(|name| named.iter().any(|word| word == name)) {
        return Err(bad("The field Connection names one that concerns the whole way."));
    }
    let host = if target.port == 80 { target.shown().trim_end_matches(":80").to_string() } else { target.shown() };
    let mut out = format!("{method} {path} {version}\r\nHost: {host}\r\n");
    for (name, value) in fields {
        let lower = name.to_ascii_lowercase();
        let dropped = lower == "host" || HOP_BY_HOP.contains(&lower.as_str()) || named.contains(&lower);
        if !dropped {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    out.push_str("Connection: close\r\n\r\n");
    Ok(out.into_bytes())
}

/// The answer to a request that did not get out. The reason stands in the first line too: after CONNECT no client shows a body.
pub fn refusal(status: u16, reason: &str, without_body: bool) -> Vec<u8> {
    let line: String = reason.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).take(300).collect();
    let body = if without_body { String::new() } else { format!("{line}\n") };
    format!(
        "HTTP/1.1 {status} {line}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        line.len() + 1
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Result<Asked, Refused> {
        let end = end_of_head(text.as_bytes(), 0)?.expect("a whole head");
        assert_eq!(end, text.len());
        parse(text.as_bytes())
    }

    fn request(text: &str) -> (String, String, Framing) {
        match asked(text) {
            Ok(Asked::Request { target, head, body, .. }) => (target.shown(), String::from_utf8(head).unwrap(), body),
            other => panic!("{text:?}: {other:?}"),
        }
    }

    fn status(text: &str) -> u16 {
        match end_of_head(text.as_bytes(), 0) {
            Err(refused) => refused.status,
            Ok(None) => 0,
            Ok(Some(end)) => parse(&text.as_bytes()[..end]).err().map_or(200, |refused| refused.status),
        }
    }

    #[test]
    fn a_tunnel_needs_a_host_and_a_port() {
        let target = |host: &str, port| Ok(Asked::Tunnel(Target { host: host.into(), port }));
        assert_eq!(asked("CONNECT Example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n"), target("example.org", 443));
        assert_eq!(asked("CONNECT [::1]:22 HTTP/1.0\r\n\r\n"), target("::1", 22));
        for aim in ["example.org", "http://example.org:443", ":443", "a@b:443", "example.org:", "/"] {
            assert_eq!(status(&format!("CONNECT {aim} HTTP/1.1\r\n\r\n")), 400, "{aim}");
        }
    }

    #[test]
    fn a_request_goes_on_in_origin_form_without_what_is_the_proxys() {
        let text = "GET http://Example.org:8080/a?b=1#c HTTP/1.1\r\nHost: other.example\r\nProxy-Connection: keep-alive\r\n\
                    Proxy-Authorization: Basic c2VjcmV0\r\nConnection: X-One, keep-alive\r\nX-One: 1\r\nX-Two: 2\r\nTE: trailers\r\n\
                    Upgrade: h2c\r\nCookie: a=b\r\n\r\n";
        let (target, head, body) = request(text);
        assert_eq!((target.as_str(), body), ("example.org:8080", Framing::Length(0)));
        let wanted = "GET /a?b=1 HTTP/1.1\r\nHost: example.org:8080\r\nX-Two: 2\r\nCookie: a=b\r\nConnection: close\r\n\r\n";
        assert_eq!(head, wanted);
        assert!(request("GET http://a HTTP/1.1\r\n\r\n").1.starts_with("GET / HTTP/1.1\r\nHost: a\r\n"));
        assert!(request("GET http://a?q HTTP/1.0\r\n\r\n").1.starts_with("GET /?q HTTP/1.0\r\n"));
        assert!(request("OPTIONS http://a HTTP/1.1\r\n\r\n").1.starts_with("OPTIONS * "));
        assert!(request("GET http://[::1]/ HTTP/1.1\r\n\r\n").1.contains("\r\nHost: [::1]\r\n"));
    }

    #[test]
    fn a_request_that_names_no_host_or_another_protocol_is_refused_with_the_reason() {
        for text in [
            "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
            "GET http:///x HTTP/1.1\r\n\r\n",
            "GET https://example.org/ HTTP/1.1\r\n\r\n",
            "GET ftp://example.org/ HTTP/1.1\r\n\r\n",
            "GET http://u:p@example.org/ HTTP/1.1\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\n",
            "GET\r\n\r\n",
            "GET  http://a/ HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/1.1 x\r\n\r\n",
            "\r\nGET http://a/ HTTP/1.1\r\n\r\n",
            "\x16\x03\x01",
            "\x05\x01\x00",
        ] {
            assert_eq!(status(text), 400, "{text:?}");
        }
        assert_eq!(status("GET http://a/ HTTP/3\r\n\r\n"), 505);
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let with = |fields: &str| status(&format!("POST http://a/ HTTP/1.1\r\n{fields}\r\n\r\n"));
        for fields in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 0x1",
            "Content-Length: 99999999999999999999",
            "Content-Length:",
            "Content-Length : 1",
            " Content-Length: 1",
            "X: 1\r\n folded: 2",
            "X: 1\nY: 2",
            "X: 1\rY: 2",
            "X: \0",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Connection: content-length\r\nContent-Length: 1",
            "no colon",
            ": no name",
        ] {
            assert_eq!(with(fields), 400, "{fields:?}");
        }
        assert_eq!(with("Transfer-Encoding: gzip, chunked"), 501);
        assert_eq!(status("POST http://a/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 501);
        assert_eq!(request("POST http://a/ HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n").2, Framing::Chunked);
        assert_eq!(request("POST http://a/ HTTP/1.1\r\nContent-Length: 12\r\n\r\n").2, Framing::Length(12));
    }

    #[test]
    fn a_head_is_found_however_it_is_cut_and_never_beyond_its_limit() {
        let text = b"GET http://a/ HTTP/1.1\r\nX: 1\r\n\r\nrest";
        let mut from = 0;
        for length in 1..=text.len() {
            let found = end_of_head(&text[..length], from).unwrap();
            assert_eq!(found, if length >= text.len() - 4 { Some(text.len() - 4) } else { None });
            from = if found.is_none() { length } else { from };
        }
        let long = format!("GET http://a/ HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD_BYTES));
        assert_eq!(status(&long), 431);
        let many = format!("GET http://a/ HTTP/1.1\r\n{}\r\n", "X: 1\r\n".repeat(201));
        assert_eq!(status(&many), 431);
    }

    #[test]
    fn a_refusal_is_one_printable_line_wherever_its_reason_comes_from() {
        let text = String::from_utf8(refusal(403, "no\r\nX: injected é", false)).unwrap();
        assert!(text.starts_with("HTTP/1.1 403 no??X: injected ?\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nno??X: injected ?\n"));
        assert!(String::from_utf8(refusal(403, "no", true)).unwrap().ends_with("close\r\n\r\n"));
        assert!(refusal(403, &"x".repeat(10_000), false).len() < 1_000);
    }
}
