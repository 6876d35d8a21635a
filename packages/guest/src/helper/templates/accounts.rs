//! passwd, group, shadow and gshadow of a template: the system's accounts without anybody's password, and `user`.

use std::path::Path;

use super::files;
use crate::helper::error::Result;

pub const USER: u32 = 1000;
const SYSTEM_BELOW: u32 = 1000;
const NOBODY: u32 = 65_534;
const SUDO_GROUP: u32 = 27;
/// Days since 1970 in shadow's "last changed": any fixed day, so that two builds are alike.
const CHANGED_DAY: u32 = 19_000;

fn is_system(id: &str) -> bool {
    id.parse::<u32>().map_or(false, |id| id < SYSTEM_BELOW || id == NOBODY)
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.+$".contains(&byte))
}

/// The host's system accounts in passwd's form. Real names may say who administrates the host: they stay behind.
pub fn passwd(host: &str) -> String {
    let mut text = String::from("root:x:0:0:root:/root:/bin/bash\n");
    for line in host.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if fields.len() != 7
            || !is_plain(fields[0])
            || !is_system(fields[2])
            || fields[2] == "0"
            || fields[3].parse::<u32>().is_err()
        {
            continue;
        }
        if fields[0] == "user" {
            continue;
        }
        text.push_str(&format!("{}:x:{}:{}:{}:{}:{}\n", fields[0], fields[2], fields[3], fields[0], fields[5], fields[6]));
    }
    text.push_str(&format!("user:x:{0}:{0}:user:/home/user:/bin/bash\n", USER));
    text
}

/// The host's system groups without their members; `user` is in `sudo`.
pub fn group(host: &str) -> String {
    let mut text = String::from("root:x:0:\n");
    let mut has_sudo = false;
    for line in host.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if fields.len() != 4 || !is_plain(fields[0]) || !is_system(fields[2]) || fields[2] == "0" || fields[0] == "user" {
            continue;
        }
        has_sudo |= fields[0] == "sudo";
        let members = if fields[0] == "sudo" { "user" } else { "" };
        text.push_str(&format!("{}:x:{}:{}\n", fields[0], fields[2], members));
    }
    if !has_sudo {
        text.push_str(&format!("sudo:x:{}:user\n", SUDO_GROUP));
    }
    text.push_str(&format!("user:x:{}:\n", USER));
    text
}

fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.split(':').next())
}

/// No account has a password; `*` refuses every password and still lets sudo and su by root in.
pub fn shadow(passwd: &str) -> String {
    names(passwd).map(|name| format!("{}:*:{}:0:99999:7:::\n", name, CHANGED_DAY)).collect()
}

pub fn gshadow(group: &str) -> String {
    names(group).map(|name| format!("{}:*::{}\n", name, if name == "sudo" { "user" } else { "" })).collect()
}

/// Numeric gid of a group in group's form.
pub fn gid(group: &str, name: &str) -> u32 {
    let found = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        let matches = fields.next() == Some(name);
        fields.nth(1).filter(|_| matches)?.parse().ok()
    });
    found.unwrap_or(0)
}

/// Writes the four files into `etc`.
pub fn write(etc: &Path, host_passwd: &str, host_group: &str) -> Result<String> {
    let passwd = passwd(host_passwd);
    let group = group(host_group);
    let shadow_gid = gid(&group, "shadow");
    files::file(&etc.join("passwd"), 0o644, 0, 0, passwd.as_bytes())?;
    files::file(&etc.join("group"), 0o644, 0, 0, group.as_bytes())?;
    files::file(&etc.join("shadow"), 0o640, 0, shadow_gid, shadow(&passwd).as_bytes())?;
    files::file(&etc.join("gshadow"), 0o640, 0, shadow_gid, gshadow(&group).as_bytes())?;
    files::file(&etc.join("subuid"), 0o644, 0, 0, b"")?;
    files::file(&etc.join("subgid"), 0o644, 0, 0, b"")?;
    Ok(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:The Boss,Room 1:/root:/bin/zsh\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
        alice:x:1000:1000:Alice Liddell:/home/alice:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
        toor::0:0::/root:/bin/sh\n+@netgroup::::::\nbad line\n";

    #[test]
    fn people_of_the_host_and_their_names_stay_behind() {
        let text = passwd(PASSWD);
        assert!(!text.contains("alice") && !text.contains("Alice") && !text.contains("Boss") && !text.contains("toor"));
        assert!(text.starts_with("root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:"));
        assert!(text.contains("nobody:x:65534:") && text.ends_with("user:x:1000:1000:user:/home/user:/bin/bash\n"));
    }

    #[test]
    fn nobody_has_a_password_and_only_user_is_in_sudo() {
        let groups = group("root:x:0:\nsudo:x:27:alice,bob\nadm:x:4:alice\nalice:x:1000:\n");
        assert!(groups.contains("sudo:x:27:user\n") && groups.contains("adm:x:4:\n") && !groups.contains("alice"));
        for line in shadow(&passwd(PASSWD)).lines() {
            assert_eq!(line.split(':').nth(1), Some("*"), "{}", line);
        }
        assert_eq!(gid(&groups, "sudo"), 27);
        assert!(group("root:x:0:\n").contains("sudo:x:27:user\n"));
    }
}
