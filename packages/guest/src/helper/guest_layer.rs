//! The topmost lower layer of every box: the guest's program, and what tells programs inside of the ways out. It is of the platform,
//! not of a template, so both change with it, whatever a box is made from.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::error::{Context, Result};

/// Every command gets these from the server; a login shell of its own (`su -`, `sudo -i`, ssh) starts without. What is set stays.
const PROFILE: &str = "\
: \"${http_proxy=http://127.0.0.1:3129}\" \"${https_proxy=http://127.0.0.1:3129}\" \"${no_proxy=localhost,127.0.0.1,::1}\"
: \"${HTTP_PROXY=$http_proxy}\" \"${HTTPS_PROXY=$https_proxy}\" \"${NO_PROXY=$no_proxy}\" \"${NODE_USE_ENV_PROXY=1}\"
export http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY NODE_USE_ENV_PROXY
";
/// sudo keeps no environment but what it is told to.
const SUDOERS: &str =
    "Defaults env_keep += \"http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY NODE_USE_ENV_PROXY\"\n";
/// Folders: where two layers have one, the upper layer's mode is the one that shows.
const FOLDERS: [(&str, u32); 5] =
    [(".delta", 0o755), (".delta/wire", 0o755), ("etc", 0o755), ("etc/profile.d", 0o755), ("etc/sudoers.d", 0o750)];
const FILES: [(&str, u32, &str); 2] =
    [("etc/profile.d/delta-proxy.sh", 0o644, PROFILE), ("etc/sudoers.d/delta-proxy", 0o440, SUDOERS)];

/// Puts the layer into the data folder as `guest/<digest>` and returns the digest. It is of the content, so boxes that run keep
/// theirs when the platform changes.
pub fn install(data: &Path, program: &Path) -> Result<String> {
    let bytes = fs::read(program).context(format_args!("reading the guest {} (is it built?)", program.display()))?;
    let mut content = bytes.clone();
    for (name, mode, text) in FILES {
        content.extend_from_slice(format!("{} {:o}\n{}", name, mode, text).as_bytes());
    }
    let digest = super::sha256::hex(&content)[..16].to_string();
    let base = data.join("guest");
    let folder = base.join(&digest);
    make_folder(&base, 0o755)?;
    if folder.join(".delta/guest").is_file() {
        return Ok(digest);
    }
    let fresh = base.join(format!("{}.new", digest));
    let _ = fs::remove_dir_all(&fresh);
    make_folder(&fresh, 0o755)?;
    for (name, mode) in FOLDERS {
        make_folder(&fresh.join(name), mode)?;
    }
    for (name, mode, text) in FILES {
        write(&fresh.join(name), mode, text.as_bytes())?;
    }
    write(&fresh.join(".delta/guest"), 0o555, &bytes)?;
    fs::rename(&fresh, &folder).context(format_args!("naming {}", folder.display()))?;
    Ok(digest)
}

fn make_folder(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(path).context(format_args!("making {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .context(format_args!("setting the mode of {}", path.display()))
}

/// Flushed, since the layer's name says that it is whole.
fn write(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file: File| {
        file.write_all(content)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()
    });
    written.context(format_args!("writing {}", path.display()))
}
