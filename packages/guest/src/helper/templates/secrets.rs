//! What looks like a secret in files that would be seen inside a sandbox.
//!
//! Root inside reads every file of the host's `/usr`, also those only host root may read: the mount maps root to the sandbox's
//! own range. What a Debian package brought is public. Everything else below `/usr` is looked through, and what looks like a
//! secret is hidden by a whiteout.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::files;

const HEAD_BYTES: u64 = 64 << 10;
/// Enough of a file whose name says nothing to see a key at its beginning.
const GLANCE_BYTES: u64 = 2 << 10;
/// Forms of files that are made from others and hold no key in clear; most of what no package brought is such.
const MADE: [&str; 14] = ["pyc", "so", "a", "o", "gz", "xz", "zst", "png", "svg", "html", "h", "mo", "ttf", "rlib"];
const LOOKED_AT_MAX: usize = 300_000;
const FOUND_MAX: usize = 2_000;
/// Files whose name alone says that they hold credentials.
const NAMES: [&str; 14] = [
    ".netrc", "_netrc", ".git-credentials", ".pgpass", ".my.cnf", ".htpasswd", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519",
    ".pypirc", "credentials", ".dockercfg", ".env",
];
const ENDINGS: [&str; 4] = [".kdbx", ".p12", ".pfx", ".keytab"];
const KEYS: [&[u8]; 7] = [b"password", b"passwd", b"secret", b"token", b"api_key", b"apikey", b"access_key"];

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

/// `scheme://user:password@host`, not `scheme://host:port/path@x`.
fn has_url_password(line: &[u8]) -> bool {
    let mut rest = line;
    while let Some(at) = rest.windows(3).position(|window| window == b"://") {
        rest = &rest[at + 3..];
        let end = rest.iter().position(|byte| b"/ \t\"'>?#<)".contains(byte)).unwrap_or(rest.len());
        if let Some(sign) = rest[..end].iter().rposition(|byte| *byte == b'@') {
            let colon = rest[..sign].iter().position(|byte| *byte == b':');
            // A variable or a placeholder is no password.
            if colon.map_or(false, |colon| sign > colon + 1 && !b"$<{%[*".contains(&rest[colon + 1])) {
                return true;
            }
        }
    }
    false
}

/// `name = value` where the name ends like a credential's and the value looks like one.
fn has_assignment(line: &[u8]) -> bool {
    let at = match line.iter().position(|byte| *byte == b'=' || *byte == b':') {
        Some(at) => at,
        None => return false,
    };
    let name: Vec<u8> = line[..at].iter().filter(|byte| !b" \t\"'".contains(byte)).map(u8::to_ascii_lowercase).collect();
    let value: Vec<u8> = line[at + 1..]
        .iter()
        .copied()
        .skip_while(|byte| b" \t\"'=".contains(byte))
        .take_while(|byte| !b" \t\"',;".contains(byte))
        .collect();
    let opaque = value.len() >= 8
        && value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=_-.~!@#%^&*".contains(byte))
        && value.iter().any(u8::is_ascii_digit)
        && value.iter().any(u8::is_ascii_alphabetic);
    opaque && KEYS.iter().any(|key| name.ends_with(key))
}

/// A private key's block, not the mere mention of one in a program or a manual.
fn has_private_key(content: &[u8]) -> bool {
    content.split(|byte| *byte == b'\n').any(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.starts_with(b"-----BEGIN ") && (line.ends_with(b"PRIVATE KEY-----") || line.ends_with(b"PRIVATE KEY BLOCK-----"))
    })
}

/// Why a file's content looks like a secret.
pub fn reason(content: &[u8]) -> Option<&'static str> {
    if has_private_key(content) {
        return Some("a private key");
    }
    if content.contains(&0) {
        return None;
    }
    for line in content.split(|byte| *byte == b'\n') {
        let start = line.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0);
        let line = &line[start..line.len().min(start + 4096)];
        if line.starts_with(b"#")
            || line.starts_with(b";")
            || line.starts_with(b"//") && !contains(line, b"_authToken") && !contains(line, b"_password")
        {
            continue;
        }
        if contains(line, b"_authToken=") || contains(line, b"_password=") || contains(line, b"_auth=") {
            return Some("a registry token");
        }
        if has_url_password(line) {
            return Some("a password in an address");
        }
        if has_assignment(line) {
            return Some("a credential");
        }
    }
    None
}

/// Sources say `token = …` all the time; only settings are read for assignments and addresses.
fn is_settings(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    let by_ending = matches!(
        ending.as_deref(),
        Some("conf") | Some("cfg") | Some("ini") | Some("env") | Some("properties") | Some("toml") | Some("cnf")
    );
    by_ending || path.parent().map_or(false, |folder| folder.ends_with("etc")) || name.ends_with("rc")
}

fn suspicion(path: &Path, found: &fs::Metadata) -> Option<String> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    let hidden_from_others = found.mode() & 0o004 == 0;
    if hidden_from_others && found.mode() & 0o111 == 0 {
        return Some("others on the host may not read it".into());
    }
    if NAMES.contains(&name.as_str()) || ENDINGS.iter().any(|ending| name.ends_with(ending)) {
        return Some("its name".into());
    }
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("");
    if MADE.contains(&ending) {
        return None;
    }
    if is_settings(path) {
        return reason(&files::head(path, HEAD_BYTES).ok()?).map(str::to_string);
    }
    let bytes = if matches!(ending, "pem" | "key" | "crt" | "cert") { HEAD_BYTES } else { GLANCE_BYTES };
    if has_private_key(&files::head(path, bytes).ok()?) {
        return Some("a private key".into());
    }
    None
}

/// Every path the host's packages brought, from dpkg's lists.
pub fn packaged(info: &Path) -> HashSet<OsString> {
    let mut paths = HashSet::new();
    let entries = match fs::read_dir(info) {
        Ok(entries) => entries,
        Err(_) => return paths,
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().map_or(true, |ending| ending != "list") {
            continue;
        }
        for line in fs::read(&path).unwrap_or_default().split(|byte| *byte == b'\n') {
            // Packages made before the merge of /usr list /bin and /lib.
            let merged = [&b"/bin/"[..], b"/sbin/", b"/lib/", b"/lib64/"].iter().any(|start| line.starts_with(start));
            let name = if merged { [b"/usr", line].concat() } else { line.to_vec() };
            paths.insert(OsString::from_vec(name));
        }
    }
    paths
}

/// What a look through a tree found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Path and why it is suspicious.
    pub found: Vec<(PathBuf, String)>,
    /// False when the tree was too large to be looked through.
    pub complete: bool,
}

/// Looks at every file below `tree` that no package brought, without entering other file systems.
pub fn scan(tree: &Path, packaged: &HashSet<OsString>) -> Scan {
    let mut scan = Scan { found: Vec::new(), complete: true };
    let device = match fs::symlink_metadata(tree) {
        Ok(found) => found.dev(),
        Err(_) => return scan,
    };
    let mut folders = vec![tree.to_path_buf()];
    let mut looked_at = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                Err(_) => continue,
            };
            let is_public = packaged.contains(path.as_os_str());
            if !kind.is_dir() && (!kind.is_file() || is_public) {
                continue;
            }
            let found = match fs::symlink_metadata(&path) {
                Ok(found) => found,
                Err(_) => continue,
            };
            if kind.is_dir() {
                // A folder only its owner may enter, and that no package brought, is hidden whole.
                if !is_public && found.mode() & 0o005 == 0 {
                    scan.found.push((path, "others on the host may not enter it".into()));
                } else if found.dev() == device {
                    folders.push(path);
                }
                continue;
            }
            looked_at += 1;
            if looked_at > LOOKED_AT_MAX || scan.found.len() >= FOUND_MAX {
                scan.complete = false;
                return scan;
            }
            if let Some(why) = suspicion(&path, &found) {
                scan.found.push((path, why));
            }
        }
    }
    scan.found.sort();
    scan
}

/// The path in a form for people, whatever bytes it has.
pub fn shown(path: &Path) -> String {
    String::from_utf8_lossy(path.as_os_str().as_bytes()).replace(|character: char| character.is_control(), "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_seen() {
        for (text, why) in [
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA", "a private key"),
            ("deb https://bob:hunter2@packages.example.org/debian stable main", "a password in an address"),
            ("//registry.example.org/:_authToken=npm_abc", "a registry token"),
            ("  export API_TOKEN=\"a1b2c3d4e5f6\"", "a credential"),
            ("password = hunter2hunter2", "a credential"),
            ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG1", "a credential"),
        ] {
            assert_eq!(reason(text.as_bytes()), Some(why), "{}", text);
        }
    }

    #[test]
    fn ordinary_settings_are_not_taken_for_secrets() {
        for text in [
            "deb http://deb.debian.org/debian bookworm main",
            "password\trequisite\tpam_unix.so obscure yescrypt",
            "# password = hunter2hunter2",
            "url = http://host:8080/path@v1",
            "token = $TOKEN",
            "see ssh://git@example.org:22/repo",
            "passwd: files systemd",
            "proxy=http://${user}:${password}@host",
        ] {
            assert_eq!(reason(text.as_bytes()), None, "{}", text);
        }
    }

    #[test]
    fn a_scan_finds_what_no_package_brought_and_leaves_what_one_did() {
        let tree = std::env::temp_dir().join(format!("delta-scan-{}", std::process::id()));
        let _ = fs::remove_dir_all(&tree);
        fs::create_dir_all(tree.join("local/etc")).unwrap();
        fs::write(tree.join("local/etc/npmrc"), "//r.example.org/:_authToken=abc").unwrap();
        fs::write(tree.join("private"), "x").unwrap();
        files::set_mode(&tree.join("private"), 0o600).unwrap();
        fs::write(tree.join("packaged"), "-----BEGIN RSA PRIVATE KEY-----\n").unwrap();
        fs::write(tree.join("key"), "-----BEGIN RSA PRIVATE KEY-----\n").unwrap();
        fs::write(tree.join("program.py"), "print('-----BEGIN RSA PRIVATE KEY-----')\ntoken = 'abc123456789'\n").unwrap();
        fs::create_dir(tree.join("closed")).unwrap();
        files::set_mode(&tree.join("closed"), 0o700).unwrap();
        let scan = scan(&tree, &HashSet::from([tree.join("packaged").into_os_string()]));
        let names: Vec<String> =
            scan.found.iter().map(|found| found.0.strip_prefix(&tree).unwrap().display().to_string()).collect();
        assert_eq!(names, ["closed", "key", "local/etc/npmrc", "private"]);
        assert!(scan.complete);
        fs::remove_dir_all(&tree).unwrap();
    }
}
