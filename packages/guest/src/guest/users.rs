//! /etc/passwd and /etc/group, read as what they are: files anyone with root inside may have made into anything.

use super::sys;

const FILE_BYTES: usize = 1 << 20;
const MAX_GROUPS: usize = 256;

pub struct Users {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

impl Users {
    pub fn load() -> Users {
        Users {
            passwd: sys::read_small("/etc/passwd", FILE_BYTES).unwrap_or_default(),
            group: sys::read_small("/etc/group", FILE_BYTES).unwrap_or_default(),
        }
    }

    /// `name`, `uid`, each with an optional `:group`. A number needs no entry; its group is then the same number.
    pub fn identity(&self, text: &str) -> Option<Identity> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let (name, uid, own_gid) = self.user(user)?;
        let gid = match group {
            None => own_gid,
            Some(group) => self.gid(group)?,
        };
        let mut groups = vec![gid];
        if let (Some(name), None) = (name, group) {
            groups.extend(self.groups_of(name).filter(|other| *other != gid).take(MAX_GROUPS));
        }
        Some(Identity { uid, gid, groups })
    }

    /// Who owns what the host makes: a user, `uid:gid`, or empty for `user`, or root where there is none.
    pub fn owner(&self, text: &str) -> Option<(u32, u32)> {
        let identity = match text {
            "" => self.identity("user").or_else(|| self.identity("0:0")),
            text => self.identity(text),
        };
        identity.map(|identity| (identity.uid, identity.gid))
    }

    pub fn user_name(&self, uid: u32) -> String {
        name_of(&self.passwd, uid)
    }

    pub fn group_name(&self, gid: u32) -> String {
        name_of(&self.group, gid)
    }

    fn user<'a>(&'a self, text: &str) -> Option<(Option<&'a [u8]>, u32, u32)> {
        let entry = |matches: &dyn Fn(&[u8], u32) -> bool| {
            rows(&self.passwd).find_map(|row| {
                let (name, uid) = (row.first()?, number(row.get(2)?)?);
                let gid = number(row.get(3)?)?;
                if matches(name, uid) {
                    Some((Some(*name), uid, gid))
                } else {
                    None
                }
            })
        };
        let by_name = entry(&|name, _| !text.is_empty() && name == text.as_bytes());
        by_name.or_else(|| {
            let wanted = number(text.as_bytes())?;
            entry(&|_, uid| uid == wanted).or(Some((None, wanted, wanted)))
        })
    }

    fn gid(&self, text: &str) -> Option<u32> {
        let by_name = rows(&self.group).find_map(|row| {
            if !text.is_empty() && *row.first()? == text.as_bytes() {
                number(row.get(2)?)
            } else {
                None
            }
        });
        by_name.or_else(|| number(text.as_bytes()))
    }

    fn groups_of<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
        rows(&self.group).filter_map(move |row| {
            let member = row.get(3)?.split(|byte| *byte == b',').any(|member| member == name);
            if member {
                number(row.get(2)?)
            } else {
                None
            }
        })
    }
}

/// The colon-separated fields of each line.
fn rows(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    file.split(|byte| *byte == b'\n').map(|line| line.splitn(8, |byte| *byte == b':').collect())
}

/// Decimal digits only. The largest value means "no id" to the kernel and is refused.
fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = std::str::from_utf8(text).ok()?.parse().ok()?;
    if value == u32::MAX {
        return None;
    }
    Some(value)
}

fn name_of(file: &[u8], id: u32) -> String {
    rows(file)
        .find_map(|row| {
            let name = *row.first()?;
            if number(row.get(2)?)? == id && !name.is_empty() && name.len() <= 256 {
                Some(String::from_utf8_lossy(name).into_owned())
            } else {
                None
            }
        })
        .unwrap_or_else(|| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        Users {
            passwd: b"root:x:0:0:root:/root:/bin/bash\nbroken\n:x:5:5::/:/bin/sh\nuser:x:1000:1001::/home/user:/bin/bash\n4:x:77:77::/:\nevil:x:-1:0::/:\nbig:x:4294967295:0::/:\n"
                .to_vec(),
            group: b"root:x:0:\nsudo:x:27:user,other\nuser:x:1001:\ndocker:x:999:other,user".to_vec(),
        }
    }

    fn identity(uid: u32, gid: u32, groups: &[u32]) -> Option<Identity> {
        Some(Identity { uid, gid, groups: groups.to_vec() })
    }

    #[test]
    fn finds_names_numbers_and_groups() {
        let users = users();
        assert_eq!(users.identity("root"), identity(0, 0, &[0]));
        assert_eq!(users.identity("user"), identity(1000, 1001, &[1001, 27, 999]));
        assert_eq!(users.identity("1000"), identity(1000, 1001, &[1001, 27, 999]));
        assert_eq!(users.identity("user:sudo"), identity(1000, 27, &[27]));
        assert_eq!(users.identity("12:34"), identity(12, 34, &[34]));
        assert_eq!(users.identity("12"), identity(12, 12, &[12]));
        assert_eq!(users.identity("4"), identity(77, 77, &[77]));
    }

    #[test]
    fn refuses_what_is_no_user() {
        let users = users();
        for text in
            ["", ":", "nobody", "evil", "big", "-1", "+1", "4294967295", "4294967296", "user:", "user:none", "0x1"]
        {
            assert_eq!(users.identity(text), None, "{text:?}");
        }
    }

    #[test]
    fn owners_fall_back_to_user_then_root() {
        assert_eq!(users().owner(""), Some((1000, 1001)));
        assert_eq!(Users { passwd: Vec::new(), group: Vec::new() }.owner(""), Some((0, 0)));
        assert_eq!(users().owner("1:2"), Some((1, 2)));
        assert_eq!(users().owner("nobody"), None);
    }

    #[test]
    fn names_of_ids_or_the_number() {
        assert_eq!(users().user_name(1000), "user");
        assert_eq!(users().user_name(5), "5");
        assert_eq!(users().group_name(27), "sudo");
        assert_eq!(users().group_name(4_000_000_000), "4000000000");
    }
}
