//! Templates built from this machine, as root, in folders of their own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use delta::helper::error::code;
use delta::helper::templates::{self, State};

struct Data(PathBuf);

impl Data {
    fn new(name: &str) -> Data {
        let path = std::env::temp_dir().join(format!("delta-templates-{}-{}", name, std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Data(path.canonicalize().unwrap())
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn build(data: &Path, name: &str) -> templates::Template {
    templates::build(data, name, &mut |line| println!("{}", line)).unwrap()
}

fn state(data: &Path, name: &str) -> State {
    templates::list(data).into_iter().find(|status| status.name == name).unwrap().state
}

/// Runs a program of the host in the template as `user`.
fn run_in_host(data: &Data, template: &templates::Template) {
    // The mask's whiteouts and /usr, as an overlay makes them one.
    let (root, usr) = (data.0.join("merged"), data.0.join("merged/usr"));
    for folder in ["merged", "upper", "work"] {
        fs::create_dir(data.0.join(folder)).unwrap();
    }
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        template.root.display(),
        data.0.join("upper").display(),
        data.0.join("work").display()
    );
    let mut script = format!("mount -t overlay overlay -o {} {} && ", layers, root.display());
    match &template.usr_mask {
        Some(mask) => script.push_str(&format!("mount -t overlay overlay -o lowerdir={}:/usr {}", mask.display(), usr.display())),
        None => script.push_str(&format!("mount --bind /usr {}", usr.display())),
    }
    script.push_str(&format!(
        " && mount -t proc proc {0}/proc && exec chroot --userspec=1000:1000 {0} /bin/bash -l -c 'cd /workspace && touch made && id -un && dpkg -s bash | grep -c ^Status && cat /etc/os-release | head -1'",
        root.display()
    ));
    let ran = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout).lines().take(2).collect::<Vec<_>>(),
        ["user", "1"],
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

#[test]
fn the_host_template_has_its_accounts_and_folders_no_secret_of_the_host_and_runs_its_programs() {
    let data = Data::new("host");
    assert_eq!(templates::resolve(&data.0, "host").unwrap_err().code, code::NOT_FOUND);
    assert_eq!(state(&data.0, "host"), State::Missing);
    let template = build(&data.0, "host");
    assert_eq!(templates::resolve(&data.0, "host").unwrap(), template);
    assert_eq!(state(&data.0, "host"), State::Ready);
    assert_eq!(template.usr.as_deref(), Some(Path::new("/usr")));
    println!("{} {:?}", template.detail, template.warnings);
    let root = &template.root;
    for (path, mode, uid) in [
        ("workspace", 0o755, 1000),
        ("home/user", 0o755, 1000),
        ("root", 0o700, 0),
        ("tmp", 0o1777, 0),
        ("var/tmp", 0o1777, 0),
        ("usr", 0o755, 0),
        ("etc/shadow", 0o640, 0),
        ("etc/passwd", 0o644, 0),
    ] {
        let found = fs::symlink_metadata(root.join(path)).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid()), (mode, uid), "{}", path);
    }
    assert_eq!(fs::read_link(root.join("bin")).unwrap(), Path::new("usr/bin"));
    assert_eq!(fs::read_dir(root.join("usr")).unwrap().count(), 0);
    assert!(
        root.join("var/lib/dpkg/status").exists()
            && root.join("etc/alternatives").is_dir()
            && root.join("etc/ssl/certs").is_dir()
    );
    for path in [
        "etc/ssh", "etc/environment", "etc/gitconfig", "etc/ssl/private", "etc/shadow-", "etc/npmrc", "etc/apt/auth.conf",
        "etc/fstab.d",
    ] {
        assert!(root.join(path).symlink_metadata().is_err(), "{}", path);
    }
    assert_eq!(fs::read_to_string(root.join("etc/machine-id")).unwrap(), "");
    let own_name = fs::read_to_string("/etc/hostname").unwrap_or_default();
    let shadow = fs::read_to_string(root.join("etc/shadow")).unwrap();
    assert!(shadow.lines().all(|line| line.split(':').nth(1) == Some("*")), "{}", shadow);
    assert_eq!(fs::read_to_string(root.join("etc/hostname")).unwrap(), "sandbox\n");
    assert!(own_name.trim().is_empty() || !fs::read_to_string(root.join("etc/hosts")).unwrap().contains(own_name.trim()));
    // What only some may read on the host is not in it at all.
    let closed = Command::new("find")
        .arg(root)
        .args(["-type", "f", "!", "-perm", "-o=r", "!", "-name", "shadow", "!", "-name", "gshadow", "!", "-path", "*/sudoers*"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&closed.stdout), "");
    run_in_host(&data, &template);
}

#[test]
fn builds_at_once_give_one_template_and_only_one_out_of_date_is_built_again() {
    let data = Data::new("concurrent");
    let builders: Vec<_> = (0..3)
        .map(|_| {
            let path = data.0.clone();
            thread::spawn(move || build(&path, "host"))
        })
        .collect();
    for builder in builders {
        builder.join().unwrap();
    }
    let before = fs::metadata(data.0.join("templates/host/meta")).unwrap().ino();
    build(&data.0, "host");
    assert_eq!(fs::metadata(data.0.join("templates/host/meta")).unwrap().ino(), before);
    assert!(!data.0.join("templates/.old").exists());
    // Out of date: built again, and the old one stays for those who run on it.
    let meta = data.0.join("templates/host/meta");
    let text = fs::read_to_string(&meta).unwrap().replace("fingerprint=", "fingerprint=older ");
    fs::write(&meta, text).unwrap();
    assert!(templates::list(&data.0)[0].detail.contains("out of date"));
    build(&data.0, "host");
    assert!(!templates::list(&data.0)[0].detail.contains("out of date"));
    assert_eq!(fs::read_dir(data.0.join("templates/.old")).unwrap().count(), 1);
    // A folder that several share is left alone: the others' boxes are not known.
    let guest = data.0.join("other");
    fs::create_dir(&guest).unwrap();
    std::os::unix::fs::symlink(data.0.join("templates"), guest.join("templates")).unwrap();
    templates::remove_old(&guest).unwrap();
    assert!(data.0.join("templates/.old").exists());
    templates::remove_old(&data.0).unwrap();
    assert!(!data.0.join("templates/.old").exists());
}

/// Run by the next test in a process of its own.
#[test]
fn child_that_builds() {
    if let Some(data) = std::env::var_os("DELTA_TEMPLATES_TEST_DATA") {
        let _ = templates::build(Path::new(&data), "host", &mut |line| {
            if line.contains("dpkg") {
                unsafe { delta::helper::ffi::kill(delta::helper::ffi::getpid(), 9) };
            }
        });
    }
}

#[test]
fn a_build_that_was_killed_leaves_nothing_usable_and_the_next_one_cleans_up() {
    let data = Data::new("killed");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_builds", "--test-threads=1"])
        .env("DELTA_TEMPLATES_TEST_DATA", &data.0)
        .output()
        .unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.status), Some(9));
    assert!(data.0.join("templates/.build-host").exists());
    assert_eq!(templates::resolve(&data.0, "host").unwrap_err().code, code::NOT_FOUND);
    assert_eq!(state(&data.0, "host"), State::Missing);
    build(&data.0, "host");
    assert!(!data.0.join("templates/.build-host").exists());
}

#[test]
fn an_unknown_template_is_refused_by_name() {
    let data = Data::new("unknown");
    for name in ["", "..", "host/../debian", "nix"] {
        assert_eq!(templates::build(&data.0, name, &mut |_| {}).unwrap_err().code, code::NOT_FOUND);
        assert_eq!(templates::resolve(&data.0, name).unwrap_err().code, code::NOT_FOUND);
    }
}

/// Minutes and a package mirror: run by `npm run test:all` (`cargo test -- --ignored`).
#[test]
#[ignore = "downloads some 200 MB from the host's package mirror and takes minutes; test:all runs it"]
fn the_debian_template_runs_its_tools_as_user_and_sudo_works() {
    let data = Data::new("debian");
    let template = build(&data.0, "debian");
    assert_eq!(template.usr, None);
    println!("{} {:?}", template.detail, template.warnings);
    let script = format!(
        "mount --bind {0} {0} && mount --rbind /dev {0}/dev && mount -t proc proc {0}/proc && hostname sandbox && exec chroot --userspec=1000:1000 {0} /usr/bin/env -i HOME=/home/user PATH=/usr/bin:/bin /bin/bash -l -c \
         'cd /workspace && touch made && id -un && sudo -n id -u && python3 -c \"print(6*7)\" && node -p 6*8 && git --version && pip --version && gcc --version | head -1 && which npm curl make'",
        template.root.display()
    );
    let ran = Command::new("unshare").args(["-m", "-u", "sh", "-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{}\n{}", said, String::from_utf8_lossy(&ran.stderr));
    assert_eq!(said.lines().take(4).collect::<Vec<_>>(), ["user", "0", "42", "48"], "{}", said);
    let devices = Command::new("find").arg(&template.root).args(["-type", "b", "-o", "-type", "c"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&devices.stdout), "");
    let settings = fs::read_to_string(template.root.join("etc/apt/apt.conf.d/99delta")).unwrap();
    assert!(!settings.to_ascii_lowercase().contains("proxy"), "{}", settings);
    assert_eq!(fs::read_dir(template.root.join("var/cache/apt/archives")).unwrap().count(), 1);
}
