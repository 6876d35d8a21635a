//! The template `host`: the host's own `/usr`, a curated `/etc`, fresh accounts. Nothing is downloaded and no secret of the host is in it.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::accounts::{self, USER};
use super::files::{self, Copied, Verdict};
use super::secrets;
use super::Built;
use crate::helper::error::{code, Context, Error, Result};
use crate::helper::ffi;

/// Raised when a build would give another result from the same host.
const RECIPE: u32 = 2;
const USR_STATS: [&str; 9] = [
    "/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/share", "/usr/local", "/usr/local/bin", "/usr/local/lib", "/usr/local/etc",
];
const WARNED_MAX: usize = 10;

/// What is offered of `/etc`: what programs in `/usr` need to start, and nothing that tells about this host or its people.
const ETC: [&str; 62] = [
    "ImageMagick-6", "ImageMagick-7", "OpenCL", "X11", "adduser.conf", "alternatives", "bash.bashrc", "bash_completion",
    "bash_completion.d", "bindresvport.blacklist", "ca-certificates", "ca-certificates.conf", "dconf", "debconf.conf",
    "debian_version", "deluser.conf", "dpkg", "emacs", "ethertypes", "fonts", "gai.conf", "gdb", "ghostscript", "glvnd",
    "gprofng.rc", "groff", "gtk-3.0", "host.conf", "inputrc", "issue", "issue.net", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
    "libaudit.conf", "libpaper.d", "locale.alias", "locale.gen", "localtime", "login.defs", "lsb-release", "magic", "magic.mime",
    "mailcap", "manpath.config", "maven", "mime.types", "nanorc", "netconfig", "networks", "os-release", "pam.conf", "pam.d",
    "perl", "profile", "protocols", "rpc", "security", "services", "sgml", "shells", "skel",
];
const ETC_MORE: [&str; 12] = [
    "sudo.conf", "sudo_logsrvd.conf", "terminfo", "timezone", "ucf.conf", "vim", "xattr.conf", "xdg", "xml", "zsh",
    "mke2fs.conf", "rmt",
];
/// Families of names: every version of Python, Java, Lua, …
const ETC_STARTS: [&str; 5] = ["python", "java-", "lua", "php", "lynx"];
const ETC_DEFAULT: [&str; 2] = ["useradd", "locale"];
const ETC_SSL: [&str; 2] = ["certs", "openssl.cnf"];
const ETC_APT: [&str; 6] = ["trusted.gpg", "sources.list", "sources.list.d", "trusted.gpg.d", "preferences.d", "apt.conf.d"];
const TOOLS: [&str; 9] = ["python3", "node", "git", "curl", "sudo", "pip3", "gcc", "make", "npm"];

fn stat_of(path: &str) -> String {
    fs::metadata(path).map_or_else(|_| "-".into(), |found| format!("{}.{}.{}", found.mtime(), found.mtime_nsec(), found.size()))
}

/// Changes when packages are installed or removed, or when `/usr` gets or loses something near its top.
pub fn fingerprint() -> String {
    let mut text = format!("{} {}", RECIPE, stat_of("/var/lib/dpkg/status"));
    for path in USR_STATS {
        text.push(' ');
        text.push_str(&stat_of(path));
    }
    text
}

pub(super) fn build(work: &Path, progress: &mut dyn FnMut(&str)) -> Result<Built> {
    let root = work.join("root");
    files::folder(&root, 0o755, 0, 0)?;
    make_merged_links(&root)?;
    make_skeleton(&root)?;
    progress("copying /etc without what is the host's own");
    let packaged = secrets::packaged(Path::new("/var/lib/dpkg/info"));
    let mut warnings = copy_etc(&root, &packaged)?;
    write_own_etc(&root)?;
    progress("copying dpkg's records");
    copy_var(&root)?;
    progress("looking through what no package brought below /usr");
    let masked = mask_secrets(work, &packaged, &mut warnings)?;
    warnings.extend(mounts_below_usr());
    let lacking: Vec<&str> = TOOLS.iter().copied().filter(|tool| !offers(tool)).collect();
    let having: Vec<&str> = TOOLS.iter().copied().filter(|tool| offers(tool)).collect();
    let mut detail = format!("this machine's own /usr; has {}", having.join(", "));
    if !lacking.is_empty() {
        detail.push_str(&format!("; lacks {}", lacking.join(", ")));
    }
    Ok(Built { fingerprint: fingerprint(), usr: Some("/usr".into()), masked, detail, warnings })
}

/// `/bin` and its like as the host's merge of `/usr` has them.
fn make_merged_links(root: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        let path = Path::new("/").join(name);
        match fs::read_link(&path) {
            Ok(target) => files::link(&target, &root.join(name))?,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(_) => {
                return Err(Error::new(
                    code::NOT_SUPPORTED,
                    format!(
                        "/{} is not a link into /usr on this host: install the package usrmerge, or use the template debian",
                        name
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn make_skeleton(root: &Path) -> Result<()> {
    for name in ["usr", "dev", "proc", "sys", "run", "var", "home", "opt", "mnt", "media", "srv", "etc", "boot"] {
        files::folder(&root.join(name), 0o755, 0, 0)?;
    }
    files::folder(&root.join("tmp"), 0o1777, 0, 0)?;
    files::folder(&root.join("run/lock"), 0o1777, 0, 0)?;
    files::folder(&root.join("root"), 0o700, 0, 0)?;
    files::folder(&root.join("workspace"), 0o755, USER, USER)?;
    files::folder(&root.join("home/user"), 0o755, USER, USER)?;
    for name in [".bashrc", ".profile", ".bash_logout"] {
        let from_skel = fs::read(Path::new("/etc/skel").join(name));
        if let Ok(content) = from_skel {
            files::file(&root.join("home/user").join(name), 0o644, USER, USER, &content)?;
        }
        if let Ok(content) = fs::read(Path::new("/usr/share/base-files").join(format!("dot{}", name))) {
            files::file(&root.join("root").join(name), 0o644, 0, 0, &content)?;
        }
    }
    Ok(())
}

fn is_offered(name: &str) -> bool {
    ETC.contains(&name) || ETC_MORE.contains(&name) || ETC_STARTS.iter().any(|start| name.starts_with(start))
}

/// Copies the allow-list. A file that looks like it holds a secret stays behind and is named.
fn copy_etc(root: &Path, packaged: &HashSet<OsString>) -> Result<Vec<String>> {
    let (from, to) = (Path::new("/etc"), root.join("etc"));
    let mut copied = Copied::default();
    let mut left_out: Vec<String> = Vec::new();
    let mut judge = |path: &Path, content: &[u8]| match secrets::reason(content) {
        Some(why) if !path.starts_with("/etc/ssl/certs") => {
            left_out.push(format!("{} ({})", secrets::shown(path), why));
            Verdict::Skip
        }
        _ => Verdict::Copy,
    };
    for entry in fs::read_dir(from).context("listing /etc")?.flatten() {
        let name = entry.file_name();
        if name.to_str().map_or(false, is_offered) {
            files::copy_tree(&from.join(&name), &to.join(&name), &mut copied, &mut judge)?;
        }
    }
    for (folder, names) in [("default", &ETC_DEFAULT[..]), ("ssl", &ETC_SSL[..])] {
        files::folder(&to.join(folder), 0o755, 0, 0)?;
        for name in names {
            files::copy_tree(&from.join(folder).join(name), &to.join(folder).join(name), &mut copied, &mut judge)?;
        }
    }
    // Login scripts are where people put tokens and proxies: only those a package brought.
    files::copy_tree(&from.join("profile.d"), &to.join("profile.d"), &mut copied, &mut |path, content| {
        if packaged.contains(path.as_os_str()) {
            judge(path, content)
        } else {
            Verdict::Skip
        }
    })?;
    copy_apt(from, &to, &mut copied)?;
    Ok(left_out.into_iter().map(|what| format!("{} is left out", what)).collect())
}

fn copy_apt(from: &Path, to: &Path, copied: &mut Copied) -> Result<()> {
    files::folder(&to.join("apt"), 0o755, 0, 0)?;
    for name in ["auth.conf.d", "keyrings"] {
        files::folder(&to.join("apt").join(name), 0o755, 0, 0)?;
    }
    // Keys that sources name are public; anything else that lies there is not ours to judge.
    for entry in fs::read_dir(from.join("apt/keyrings")).into_iter().flatten().flatten() {
        if entry.path().extension().map_or(false, |ending| ending == "gpg" || ending == "asc") {
            let target = to.join("apt/keyrings").join(entry.file_name());
            files::copy_tree(&entry.path(), &target, copied, &mut |_, content| match secrets::reason(content) {
                Some(_) => Verdict::Skip,
                None => Verdict::Copy,
            })?;
        }
    }
    for name in ETC_APT {
        files::copy_tree(&from.join("apt").join(name), &to.join("apt").join(name), copied, &mut |path, content| {
            judge_apt(path, content)
        })?;
    }
    Ok(())
}

/// apt's settings without proxies, credentials and hooks that call the host's programs; sources without passwords.
fn judge_apt(path: &Path, content: &[u8]) -> Verdict {
    let ending = path.extension().map(|ending| ending.to_string_lossy().into_owned()).unwrap_or_default();
    let is_key = matches!(ending.as_str(), "gpg" | "asc" | "pgp");
    if is_key {
        return if secrets::reason(content).is_some() { Verdict::Skip } else { Verdict::Copy };
    }
    let text = String::from_utf8_lossy(content);
    let kept: String = text
        .lines()
        .filter(|line| {
            let lower = line.to_ascii_lowercase();
            secrets::reason(line.as_bytes()).is_none()
                && !lower.contains("proxy")
                && !lower.contains("auth")
                && !lower.contains("sslkey")
                && !lower.contains("sslcert")
        })
        .map(|line| format!("{}\n", line))
        .collect();
    // A source that lost its address would be a syntax error that stops apt altogether.
    if ending == "sources" && !kept.contains("URIs:") {
        return Verdict::Skip;
    }
    Verdict::Replace(kept.into_bytes())
}

const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\ngshadow: files\nhosts: files dns\nnetworks: files\nprotocols: db files\nservices: db files\n\
    ethers: db files\nrpc: db files\n";
const SUDOERS: &str =
    "Defaults env_reset\nDefaults secure_path=\"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"\n\
    root ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n";

/// What is made instead of copied.
fn write_own_etc(root: &Path) -> Result<()> {
    let etc = root.join("etc");
    let host_passwd = fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
    let host_group = fs::read_to_string("/etc/group").context("reading /etc/group")?;
    let group = accounts::write(&etc, &host_passwd, &host_group)?;
    super::write_common_etc(&etc)?;
    files::file(&etc.join("nsswitch.conf"), 0o644, 0, 0, NSSWITCH.as_bytes())?;
    if offers("sudo") {
        write_sudoers(&etc)?;
    }
    files::folder(&root.join("var/mail"), 0o2775, 0, accounts::gid(&group, "mail"))?;
    files::folder(&root.join("var/local"), 0o2775, 0, accounts::gid(&group, "staff"))
}

fn write_sudoers(etc: &Path) -> Result<()> {
    files::folder(&etc.join("sudoers.d"), 0o750, 0, 0)?;
    files::file(&etc.join("sudoers"), 0o440, 0, 0, SUDOERS.as_bytes())?;
    files::file(&etc.join("sudoers.d/user"), 0o440, 0, 0, b"user ALL=(ALL:ALL) NOPASSWD: ALL\n")
}

const VAR: [(&str, u32); 20] = [
    ("backups", 0o755),
    ("cache", 0o755),
    ("cache/apt", 0o755),
    ("cache/apt/archives", 0o755),
    ("cache/debconf", 0o755),
    ("cache/ldconfig", 0o700),
    ("cache/man", 0o755),
    ("lib", 0o755),
    ("lib/apt", 0o755),
    ("lib/apt/lists", 0o755),
    ("lib/apt/mirrors", 0o755),
    ("lib/apt/periodic", 0o755),
    ("lib/misc", 0o755),
    ("lib/systemd", 0o755),
    ("lib/sudo", 0o700),
    ("lib/python", 0o755),
    ("log", 0o755),
    ("log/apt", 0o755),
    ("spool", 0o755),
    ("opt", 0o755),
];

fn copy_var(root: &Path) -> Result<()> {
    let var = root.join("var");
    for (name, mode) in VAR {
        files::folder(&var.join(name), mode, 0, 0)?;
    }
    files::folder(&var.join("tmp"), 0o1777, 0, 0)?;
    files::link(Path::new("/run"), &var.join("run"))?;
    files::link(Path::new("/run/lock"), &var.join("lock"))?;
    for name in ["lists/partial", "../../cache/apt/archives/partial"] {
        files::folder(&var.join("lib/apt").join(name), 0o700, 0, 0)?;
    }
    let mut copied = Copied::default();
    for name in ["dpkg", "apt/extended_states", "ucf", "pam", "shells.state", "emacsen-common", "gems", "xml-core", "sgml-base"] {
        let (from, to) = (Path::new("/var/lib").join(name), var.join("lib").join(name));
        files::copy_tree(&from, &to, &mut copied, &mut |path, _| {
            let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            // Locks and backups are the host's; the rest came from packages and is public.
            if file.starts_with("lock") || file.ends_with("-old") {
                Verdict::Skip
            } else {
                Verdict::Copy
            }
        })?;
    }
    for name in ["updates", "triggers", "info", "parts"] {
        files::folder(&var.join("lib/dpkg").join(name), 0o755, 0, 0)?;
    }
    Ok(())
}

/// Another file system below `/usr` is not part of the clone a sandbox gets.
fn mounts_below_usr() -> Vec<String> {
    let mounts = ffi::mounts().unwrap_or_default();
    let below = mounts.iter().filter(|line| line.point.starts_with(b"/usr/"));
    below
        .map(|line| format!("{} is a file system of its own and empty in sandboxes", String::from_utf8_lossy(&line.point)))
        .collect()
}

/// Whether a program of this name is in `/usr`, by the links it would have inside.
fn offers(tool: &str) -> bool {
    ["/usr/bin", "/usr/local/bin", "/usr/sbin"].iter().any(|folder| {
        let path = Path::new(folder).join(tool);
        path.canonicalize().map_or(false, |real| real.starts_with("/usr") && real.is_file())
    })
}

/// Makes a layer of whiteouts over what looks like a secret below `/usr`. Root inside could read it: the mount maps root.
fn mask_secrets(work: &Path, packaged: &HashSet<OsString>, warnings: &mut Vec<String>) -> Result<bool> {
    let scan = secrets::scan(Path::new("/usr"), packaged);
    if !scan.complete {
        warnings.push("/usr holds too many files that no package brought: not all were looked through for secrets".into());
    }
    if scan.found.is_empty() {
        return Ok(false);
    }
    let mask = work.join("usr-mask");
    files::folder(&mask, 0o755, 0, 0)?;
    for (path, _) in &scan.found {
        white_out(&mask, path)?;
    }
    let named: Vec<String> =
        scan.found.iter().take(WARNED_MAX).map(|(path, why)| format!("{} ({})", secrets::shown(path), why)).collect();
    let more = scan.found.len().saturating_sub(WARNED_MAX);
    let rest = if more > 0 { format!(" and {} more", more) } else { String::new() };
    warnings.push(format!("hidden from sandboxes, since it may be secret: {}{}", named.join(", "), rest));
    Ok(true)
}

/// overlayfs takes a character device 0:0 as "this name does not exist here". The folders above keep the owner and mode they have in
/// `/usr`, because the upper layer's folder is the one that shows.
fn white_out(mask: &Path, path: &Path) -> Result<()> {
    let inside =
        path.strip_prefix("/usr").map_err(|_| Error::new(code::INVALID, format!("{} is not below /usr", path.display())))?;
    let mut at = PathBuf::new();
    for part in inside.parent().into_iter().flat_map(Path::components) {
        at.push(part);
        let target = mask.join(&at);
        if target.symlink_metadata().is_err() {
            let found =
                fs::symlink_metadata(Path::new("/usr").join(&at)).context(format_args!("looking at /usr/{}", at.display()))?;
            files::folder(&target, found.mode() & 0o7777, found.uid(), found.gid())?;
        }
    }
    let target = ffi::c_path(&mask.join(inside)).context(format_args!("hiding {}", path.display()))?;
    // SAFETY: the path lives through the call. S_IFCHR with device 0:0.
    ffi::check(unsafe { ffi::mknod(target.as_ptr(), 0o020_000, 0) }).context(format_args!("hiding {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(path: &str, text: &str) -> Option<String> {
        match judge_apt(Path::new(path), text.as_bytes()) {
            Verdict::Replace(bytes) => Some(String::from_utf8(bytes).unwrap()),
            _ => None,
        }
    }

    #[test]
    fn apt_settings_lose_proxies_and_passwords_and_keep_the_rest() {
        let text = "Acquire::http::Proxy \"http://bob:pw@proxy:3128\";\nAPT::Install-Recommends \"false\";\n";
        assert_eq!(replaced("/etc/apt/apt.conf.d/99x", text).unwrap(), "APT::Install-Recommends \"false\";\n");
        let text = "deb http://deb.debian.org/debian bookworm main\ndeb https://a:b1@private.example.org/ x y\n";
        assert_eq!(replaced("/etc/apt/sources.list", text).unwrap(), "deb http://deb.debian.org/debian bookworm main\n");
        assert!(replaced(
            "/etc/apt/sources.list.d/p.sources",
            "Types: deb\nURIs: https://a:b1@private.example.org/\nSuites: x\n"
        )
        .is_none());
    }

    #[test]
    fn names_of_etc_that_hold_secrets_or_tell_of_the_host_are_not_offered() {
        for name in [
            "shadow", "ssh", "environment", "gitconfig", "npmrc", "pip.conf", "wgetrc", "hosts", "hostname", "machine-id",
            "fstab", "sudoers", "krb5.keytab", "letsencrypt", "wireguard", "NetworkManager", "ldap", "mysql", "postgresql",
            "cron.d", "passwd", "subuid", "netrc", "docker", "ssl", "default", "apt",
        ] {
            assert!(!is_offered(name), "{}", name);
        }
        assert!(is_offered("python3.11") && is_offered("alternatives") && is_offered("ld.so.cache"));
    }
}
