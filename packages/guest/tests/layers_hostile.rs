//! Layers that may be anyone's: what they may do, what is refused, and that nothing beside the upper is ever touched. Needs root,
//! for owners and device numbers; mounts nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use delta::helper::error::{code, Error};
use delta::helper::layers::{apply, pack_base, Applied, Base, Limits, View};

const LIMITS: Limits = Limits {
    max_bytes: 16 << 20,
    max_entries: 1000,
};
static NUMBER: AtomicU32 = AtomicU32::new(0);

struct Stage {
    path: PathBuf,
}

impl Stage {
    fn new() -> Stage {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("delta-layers-hostile-{}-{}", std::process::id(), number));
        for folder in ["upper", "base/etc/deep", "beside"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        fs::write(path.join("base/etc/hosts"), "template").unwrap();
        fs::write(path.join("base/etc/deep/file"), "template").unwrap();
        symlink("/", path.join("base/root-link")).unwrap();
        fs::write(path.join("beside/canary"), "alive").unwrap();
        Stage { path }
    }

    fn upper(&self) -> PathBuf {
        self.path.join("upper")
    }

    fn apply(&self, layer: &[u8], limits: Limits) -> Result<Applied, Error> {
        let view = View {
            root: self.upper(),
            usr: None,
        };
        let base = Base {
            roots: vec![self.path.join("base")],
            usrs: Vec::new(),
        };
        let mut layer = layer;
        apply(&mut layer, &view, &base, limits)
    }

    fn takes(&self, tar: &Tar) -> Applied {
        self.apply(&tar.done(), LIMITS)
            .unwrap_or_else(|error| panic!("{}", error))
    }

    fn refuses(&self, tar: &Tar, expected: u16, names: &str) {
        let error = self.apply(&tar.done(), LIMITS).unwrap_err();
        assert_eq!(error.code, expected, "{}", error);
        assert!(error.message.contains(names), "{} should name {}", error, names);
    }

    /// What lies beside the upper, to the last time.
    fn outside(&self) -> BTreeMap<PathBuf, (u32, u64, i64, i64, u64, Vec<u8>)> {
        let mut found = BTreeMap::new();
        let mut queue = vec![self.path.join("beside"), self.path.join("base")];
        while let Some(path) = queue.pop() {
            let stat = fs::symlink_metadata(&path).unwrap();
            if stat.is_dir() {
                queue.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            let content = if stat.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            found.insert(
                path,
                (
                    stat.mode(),
                    stat.ino(),
                    stat.ctime(),
                    stat.ctime_nsec(),
                    stat.nlink(),
                    content,
                ),
            );
        }
        assert_eq!(
            fs::read_dir(&self.path).unwrap().count(),
            3,
            "nothing new beside the upper"
        );
        found
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[derive(Clone, Default)]
struct Tar(Vec<u8>);

fn header(path: &str, kind: u8, size: u64, link: &str) -> [u8; 512] {
    let mut block = [0; 512];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{:011o}\0", size).as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    sum(&mut block);
    block
}

fn sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let total: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{:06o}\0 ", total).as_bytes());
}

impl Tar {
    fn raw(mut self, mut block: [u8; 512], change: impl Fn(&mut [u8; 512])) -> Tar {
        change(&mut block);
        sum(&mut block);
        self.0.extend_from_slice(&block);
        self
    }

    fn content(mut self, bytes: &[u8]) -> Tar {
        self.0.extend_from_slice(bytes);
        self.0.resize((self.0.len() + 511) / 512 * 512, 0);
        self
    }

    fn file(self, path: &str, content: &str) -> Tar {
        self.raw(header(path, b'0', content.len() as u64, ""), |_| ())
            .content(content.as_bytes())
    }

    fn entry(self, path: &str, kind: u8, link: &str) -> Tar {
        self.raw(header(path, kind, 0, link), |_| ())
    }

    fn folder(self, path: &str) -> Tar {
        self.raw(header(path, b'5', 0, ""), |block| {
            block[100..108].copy_from_slice(b"0000755\0")
        })
    }

    fn records(self, kind: u8, records: &[(&str, &str)]) -> Tar {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest..)
                .find(|length| rest + length.to_string().len() == *length)
                .unwrap();
            text.extend_from_slice(format!("{} {}={}\n", length, key, value).as_bytes());
        }
        self.raw(header("records", kind, text.len() as u64, ""), |_| ())
            .content(&text)
    }

    fn done(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).map_or(false, |found| found.mode() & 0o170000 == 0o020000 && found.rdev() == 0)
}

fn is_opaque(path: &Path) -> bool {
    let done = Command::new("python3")
        .args([
            "-c",
            "import os, sys; print(os.getxattr(sys.argv[1], 'trusted.overlay.opaque').decode())",
        ])
        .arg(path)
        .output()
        .unwrap();
    done.stdout == b"y\n"
}

#[test]
fn no_path_leads_out_of_the_tree() {
    let stage = Stage::new();
    let before = stage.outside();
    for path in ["../beside/canary", "etc/../../beside/canary", "..", "a/..", "./../x"] {
        stage.refuses(&Tar::default().file(path, "dead"), code::INVALID, "..");
    }
    let canary = stage.path.join("beside/canary").to_string_lossy().into_owned();
    stage.takes(&Tar::default().file(&canary, "inside"));
    assert_eq!(
        fs::read(stage.upper().join(canary.trim_start_matches('/'))).unwrap(),
        b"inside"
    );
    stage.refuses(
        &Tar::default().entry("link", b'1', "../beside/canary"),
        code::INVALID,
        "..",
    );
    stage.refuses(
        &Tar::default().entry("link", b'1', "beside/canary"),
        code::INVALID,
        "not there",
    );
    assert_eq!(stage.outside(), before);
}

#[test]
fn a_symlink_on_the_way_is_followed_inside_the_tree_alone() {
    let beside = Stage::new();
    let canary = beside.path.join("beside").to_string_lossy().into_owned();
    // Each leads out of the tree when it is the system that follows it.
    for (target, inside) in [
        ("/run", "run"),
        ("../../../../../../run", "run"),
        ("./a/../../b/./c", "b/c"),
        ("/", ""),
        (".", ""),
        ("..", ""),
        ("/../..", ""),
        (canary.as_str(), canary.trim_start_matches('/')),
    ] {
        let stage = Stage::new();
        let before = (stage.outside(), beside.outside());
        let upper = stage.upper();
        stage.takes(
            &Tar::default()
                .folder("b/")
                .entry("way", b'2', target)
                .file("way/file", "1")
                .file("way/x/y/deep", "2")
                .entry("way/hard", b'1', "way/file")
                .entry("also", b'1', "way/x/y/deep")
                .entry("way/symlink", b'2', "/etc"),
        );
        let at = |path: &str| upper.join(inside).join(path);
        assert_eq!(fs::read(at("file")).unwrap(), b"1", "{}", target);
        assert_eq!(fs::read(at("x/y/deep")).unwrap(), b"2", "{}", target);
        assert_eq!(
            fs::metadata(at("hard")).unwrap().ino(),
            fs::metadata(at("file")).unwrap().ino()
        );
        assert_eq!(fs::metadata(upper.join("also")).unwrap().nlink(), 2);
        assert_eq!(fs::read_link(at("symlink")).unwrap(), Path::new("/etc"));
        assert_eq!(fs::read_link(upper.join("way")).unwrap(), Path::new(target));
        // Marks of a later layer, too, are about what is there.
        stage.takes(&Tar::default().file("way/.wh.file", "").file("way/x/.wh..wh..opq", ""));
        assert!(
            !at("file").exists() && at("hard").exists() && at("x").exists() && !at("x/y").exists(),
            "{}",
            target
        );
        assert_eq!((stage.outside(), beside.outside()), before, "{}", target);
    }
}

#[test]
fn chains_of_symlinks_are_followed_and_loops_refused() {
    let stage = Stage::new();
    let before = stage.outside();
    let chain = |length: usize| {
        let tar = (1..length).fold(Tar::default(), |tar, at| {
            tar.entry(&format!("l{}", at), b'2', &format!("/x/../l{}", at + 1))
        });
        tar.folder("x/")
            .folder("end/")
            .entry(&format!("l{}", length), b'2', "end")
            .file("l1/file", "1")
    };
    stage.takes(&chain(40));
    assert_eq!(fs::read(stage.upper().join("end/file")).unwrap(), b"1");
    stage.refuses(&chain(41), code::INVALID, "more than 40 symlinks");
    for target in ["loop", "/loop/x", "./loop", "loop2"] {
        let tar = Tar::default().entry("loop2", b'2', "/loop").entry("loop", b'2', target);
        stage.refuses(
            &tar.clone().file("loop/file", ""),
            code::INVALID,
            "more than 40 symlinks",
        );
        stage.refuses(
            &tar.entry("hard", b'1', "loop/file"),
            code::INVALID,
            "more than 40 symlinks",
        );
    }
    stage.refuses(
        &Tar::default()
            .file("plain", "")
            .entry("way", b'2', "plain")
            .file("way/x", ""),
        code::INVALID,
        "/plain is no folder",
    );
    let wide = "w".repeat(300);
    stage.refuses(
        &Tar::default()
            .records(b'x', &[("linkpath", &wide)])
            .entry("way", b'2', "")
            .file("way/x", ""),
        code::INVALID,
        "255",
    );
    assert_eq!(stage.outside(), before);
}

#[test]
fn a_symlink_that_takes_a_folders_place_leads_on_from_there() {
    let stage = Stage::new();
    let before = stage.outside();
    let upper = stage.upper();
    let beside = stage.path.join("beside").to_string_lossy().into_owned();
    stage.takes(
        &Tar::default()
            .file("a/b/first", "1")
            .entry("a", b'2', &beside)
            .file("a/canary", "inside")
            .entry("a", b'2', "elsewhere")
            .file("a/canary", "later")
            .folder("a/")
            .file("a/canary", "last"),
    );
    let read = |path: &str| fs::read_to_string(upper.join(path)).unwrap();
    assert_eq!(read(&format!("{}/canary", beside.trim_start_matches('/'))), "inside");
    assert_eq!(
        (read("elsewhere/canary"), read("a/canary")),
        ("later".to_string(), "last".to_string())
    );
    assert!(fs::symlink_metadata(upper.join("a")).unwrap().is_dir() && !upper.join("a/b").exists());
    // One of the template leads into the tree as one of the layer's own; what it leads to is the upper's from then on.
    stage.takes(
        &Tar::default()
            .file("root-link/etc/new", "1")
            .entry("root-link/etc/h2", b'1', "root-link/etc/hosts"),
    );
    assert_eq!(
        (read("etc/new"), read("etc/h2")),
        ("1".to_string(), "template".to_string())
    );
    assert!(fs::symlink_metadata(upper.join("root-link")).is_err());
    // As an entry of its own name it is replaced, not followed; a hard link to one is none to what it leads to.
    stage.takes(&Tar::default().entry("way", b'2', &beside).file("way", "now a file"));
    assert_eq!(read("way"), "now a file");
    stage.refuses(
        &Tar::default()
            .entry("link", b'2', "etc/hosts")
            .entry("hard", b'1', "link"),
        code::INVALID,
        "no regular file",
    );
    stage.refuses(
        &Tar::default()
            .folder("d/")
            .file("d/x", "")
            .entry("s", b'2', "d")
            .entry("s/x", b'1', "d/x"),
        code::INVALID,
        "to itself",
    );
    assert_eq!(stage.outside(), before);
}

#[test]
fn no_symlink_leads_to_what_is_the_platforms() {
    let stage = Stage::new();
    let tar = Tar::default()
        .entry("own", b'2', "/.delta")
        .entry("root", b'2', "..")
        .file("own/guest", "evil")
        .file("root/.delta/guest", "evil")
        .entry("root/.delta", b'2', "/etc")
        .file("root/.wh..delta", "")
        .file("own/.wh..wh..opq", "")
        .folder("own/x/y/");
    let done = stage.takes(&tar);
    assert_eq!((done.entries, done.skipped), (8, 6));
    assert!(fs::symlink_metadata(stage.upper().join(".delta")).is_err());
    stage.refuses(&tar.entry("hard", b'1', "own/guest"), code::INVALID, "platform");
}

#[test]
fn folders_that_no_entry_makes_count_as_entries() {
    let stage = Stage::new();
    let small = Limits {
        max_bytes: 10,
        max_entries: 5,
    };
    let tar = Tar::default().file("a/b/c/d/file", "");
    assert_eq!(stage.apply(&tar.done(), small).unwrap().entries, 5);
    let error = stage
        .apply(
            &tar.file("e/file", "").done(),
            Limits {
                max_entries: 2,
                ..small
            },
        )
        .unwrap_err();
    assert_eq!(error.code, code::LIMIT, "{}", error);
    let deep = format!("/{}", "d/".repeat(30));
    let tar = Tar::default().entry("way", b'2', &deep).file("way/file", "");
    assert_eq!(stage.apply(&tar.done(), small).unwrap_err().code, code::LIMIT);
}

#[test]
fn devices_and_what_is_the_platforms_are_passed_over() {
    let stage = Stage::new();
    let tar = Tar::default()
        .entry("null", b'3', "")
        .entry("disk", b'4', "")
        .file(".delta/guest", "evil")
        .file("./.delta/../x".trim_end_matches("/../x"), "evil")
        .file(".wh..delta", "")
        .file(".wh..wh.plnk", "")
        .file("kept", "");
    let done = stage.takes(&tar);
    assert_eq!((done.entries, done.skipped), (7, 6));
    let names: Vec<_> = fs::read_dir(stage.upper())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["kept"]);
}

#[test]
fn setuid_stays_and_attributes_of_the_overlay_do_not_come_in() {
    let stage = Stage::new();
    let tar = Tar::default()
        .records(
            b'x',
            &[
                ("SCHILY.xattr.trusted.overlay.opaque", "y"),
                ("SCHILY.xattr.user.note", "kept"),
            ],
        )
        .raw(header("program", b'0', 0, ""), |block| {
            block[100..108].copy_from_slice(b"0004755\0")
        });
    stage.takes(&tar);
    let path = stage.upper().join("program");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o4755);
    let list = Command::new("python3")
        .args(["-c", "import os, sys; print(os.listxattr(sys.argv[1]))"])
        .arg(&path)
        .output();
    assert_eq!(String::from_utf8_lossy(&list.unwrap().stdout).trim(), "['user.note']");
}

#[test]
fn marks_become_the_overlays_own_only_where_the_template_has_something() {
    let stage = Stage::new();
    stage.takes(
        &Tar::default()
            .file("own/file", "1")
            .file("etc/.wh.hosts", "")
            .file("etc/.wh.none", ""),
    );
    let upper = stage.upper();
    assert!(is_whiteout(&upper.join("etc/hosts")));
    assert!(!upper.join("etc/none").exists());
    stage.takes(&Tar::default().file("own/.wh.file", "").file(".wh.etc", ""));
    assert!(is_whiteout(&upper.join("etc")));
    assert_eq!(fs::read_dir(upper.join("own")).unwrap().count(), 0);
    // What comes back after it was removed shows nothing of the template.
    stage.takes(&Tar::default().file("etc/new", "1"));
    assert!(is_opaque(&upper.join("etc")));
}

#[test]
fn an_opaque_mark_keeps_what_its_own_layer_wrote() {
    let stage = Stage::new();
    let upper = stage.upper();
    stage.takes(&Tar::default().file("etc/old", "1").file("etc/deep/old", "1"));
    stage.takes(
        &Tar::default()
            .file("etc/deep/new", "2")
            .file("etc/before", "2")
            .file("etc/.wh..wh..opq", "")
            .file("etc/z", "2"),
    );
    assert!(is_opaque(&upper.join("etc")));
    for (name, is_there) in [
        ("old", false),
        ("deep/old", false),
        ("deep/new", true),
        ("before", true),
        ("z", true),
    ] {
        assert_eq!(upper.join("etc").join(name).exists(), is_there, "{}", name);
    }
    // On the root every name of the template is marked.
    stage.takes(&Tar::default().file("only", "").file(".wh..wh..opq", ""));
    assert!(is_whiteout(&upper.join("etc")) && is_whiteout(&upper.join("root-link")) && upper.join("only").exists());
}

#[test]
fn folders_on_the_way_are_as_the_template_has_them() {
    let stage = Stage::new();
    let deep = stage.path.join("base/etc/deep");
    fs::set_permissions(&deep, fs::Permissions::from_mode(0o2750)).unwrap();
    let chown = Command::new("chown").arg("12:34").arg(&deep).status().unwrap();
    assert!(chown.success());
    stage.takes(&Tar::default().file("etc/deep/new", "1").file("made/new", "1"));
    let (is, should) = (
        fs::metadata(stage.upper().join("etc/deep")).unwrap(),
        fs::metadata(&deep).unwrap(),
    );
    let all = |found: &fs::Metadata| {
        (
            found.mode(),
            found.uid(),
            found.gid(),
            found.mtime(),
            found.mtime_nsec(),
        )
    };
    assert_eq!(all(&is), all(&should));
    let made = fs::metadata(stage.upper().join("made")).unwrap();
    assert_eq!((made.mode() & 0o7777, made.uid(), made.mtime()), (0o755, 0, 0));
}

#[test]
fn a_hard_link_to_a_file_of_the_template_gets_its_content() {
    let stage = Stage::new();
    let before = stage.outside();
    stage.takes(&Tar::default().entry("link", b'1', "etc/hosts"));
    let (link, target) = (stage.upper().join("link"), stage.upper().join("etc/hosts"));
    assert_eq!(fs::read(&link).unwrap(), b"template");
    assert_eq!(fs::metadata(&link).unwrap().ino(), fs::metadata(&target).unwrap().ino());
    assert_eq!(stage.outside(), before);
    for (target, why) in [
        ("etc", "no regular file"),
        ("none", "not there"),
        ("self", "itself"),
        ("", "no file"),
    ] {
        stage.refuses(&Tar::default().entry("self", b'1', target), code::INVALID, why);
    }
    stage.refuses(
        &Tar::default().file("etc/.wh.hosts", "").entry("x", b'1', "etc/hosts"),
        code::INVALID,
        "no regular file",
    );
}

#[test]
fn a_layer_has_no_more_bytes_entries_or_depth_than_allowed() {
    let stage = Stage::new();
    let small = Limits {
        max_bytes: 10,
        max_entries: 2,
    };
    let refused = |tar: &Tar, names: &str| {
        let error = stage.apply(&tar.done(), small).unwrap_err();
        assert_eq!(error.code, code::LIMIT, "{}", error);
        assert!(error.message.contains(names), "{}", error);
    };
    refused(&Tar::default().file("a", "12345").file("b", "123456"), "/b");
    refused(&Tar::default().file("a", "").file("b", "").file("c", ""), "/c");
    refused(
        &Tar::default()
            .entry("link", b'1', "etc/hosts")
            .entry("more", b'1', "etc/deep/file"),
        "/more",
    );
    let deep = "d/".repeat(4097);
    refused(&Tar::default().records(b'x', &[("path", &deep)]).file("x", ""), "4096");
    let wide = "d".repeat(256);
    refused(&Tar::default().records(b'x', &[("path", &wide)]).file("x", ""), "255");
    // A size that only the header claims is refused before a byte is written.
    let huge = Tar::default().raw(header("huge", b'0', 0, ""), |block| {
        block[124..136].copy_from_slice(b"77777777777\0")
    });
    refused(&huge, "/huge");
    let records = Tar::default().raw(header("records", b'x', 2 << 20, ""), |_| ());
    refused(&records, "extended header");
}

#[test]
fn what_is_no_whole_archive_is_refused() {
    let stage = Stage::new();
    let whole = Tar::default().file("file", "content").done();
    for length in [0, 1, 511, 512, 600, 1024] {
        let error = stage.apply(&whole[..length], LIMITS).unwrap_err();
        assert_eq!(error.code, code::INVALID, "{}: {}", length, error);
    }
    // One block of zeros is an end, as many writers leave it; more than two are padding.
    stage.apply(&whole[..1536], LIMITS).unwrap();
    stage.apply(&[&whole[..], &[0; 9000]].concat(), LIMITS).unwrap();
    let changes: [(usize, &[u8]); 7] = [
        (124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"),
        (124, b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        (124, b"0000000000x\0"),
        (108, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        (116, b"\x80\0\0\0\xff\xff\xff\xff"),
        (100, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        (156, b"Z"),
    ];
    for (at, bytes) in changes {
        let tar = Tar::default().raw(header("file", b'0', 0, ""), |block| {
            block[at..at + bytes.len()].copy_from_slice(bytes)
        });
        assert_eq!(
            stage.apply(&tar.done(), LIMITS).unwrap_err().code,
            code::INVALID,
            "{:?}",
            bytes.escape_ascii().to_string()
        );
    }
    let mut damaged = whole;
    damaged[0] ^= 1;
    assert!(stage.apply(&damaged, LIMITS).unwrap_err().message.contains("checksum"));
    stage.refuses(
        &Tar::default().entry("/", b'0', "").entry("./", b'2', "x"),
        code::INVALID,
        "root",
    );
    stage.refuses(&Tar::default().file("a/.wh.", ""), code::INVALID, "names nothing");
    stage.refuses(&Tar::default().file("a/.wh...", ""), code::INVALID, "names nothing");
}

#[test]
fn maps_of_holes_that_lie_are_refused() {
    let stage = Stage::new();
    let sparse = |map: &str, size: &str| {
        Tar::default()
            .records(
                b'x',
                &[
                    ("GNU.sparse.major", "1"),
                    ("GNU.sparse.minor", "0"),
                    ("GNU.sparse.realsize", size),
                ],
            )
            .raw(header("sparse", b'0', 512 + 4, ""), |_| ())
            .content(&[map.as_bytes(), &vec![0; 512 - map.len()], b"data"].concat())
    };
    stage.takes(&sparse("1\n4096\n4\n", "8192"));
    let path = stage.upper().join("sparse");
    assert_eq!(fs::metadata(&path).unwrap().len(), 8192);
    assert_eq!(&fs::read(&path).unwrap()[4096..4100], b"data");
    for (map, size) in [
        ("1\n4096\n4\n", "4098"),
        ("1\n0\n5\n", "8192"),
        ("2\n10\n2\n5\n2\n", "8192"),
        ("1\n9223372036854775807\n4\n", "9223372036854775807"),
        ("99999999\n", "1"),
        ("x\n", "1"),
        ("1\n-1\n4\n", "8192"),
    ] {
        let error = stage.apply(&sparse(map, size).done(), LIMITS).unwrap_err();
        assert!(
            matches!(error.code, code::INVALID | code::LIMIT),
            "{:?}: {}",
            map,
            error
        );
    }
    let bomb = Tar::default()
        .records(b'x', &[("GNU.sparse.map", ""), ("GNU.sparse.size", "4398046511104")])
        .entry("bomb", b'0', "");
    stage.takes(&bomb);
    let found = fs::metadata(stage.upper().join("bomb")).unwrap();
    assert_eq!((found.len(), found.blocks()), (4_398_046_511_104, 0));
}

#[test]
fn layers_of_other_tools_and_older_formats_are_understood() {
    let stage = Stage::new();
    let source = stage.path.join("beside/tree");
    let long = source.join("n".repeat(120)).join("m".repeat(120));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("file"), "long").unwrap();
    symlink("t".repeat(150), source.join("symlink")).unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    for at in 0..30u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[at as u8 + 1; 5000], at << 17).unwrap();
    }
    sparse.set_len(5 << 20).unwrap();
    let formats: [&[&str]; 5] = [
        &["--format=gnu", "-S"],
        &["--format=posix", "-S", "--sparse-version=0.0"],
        &["--format=posix", "-S", "--sparse-version=0.1"],
        &["--format=posix", "-S", "--sparse-version=1.0"],
        &["--format=oldgnu"],
    ];
    for format in formats {
        let done = Command::new("tar")
            .args(format)
            .arg("-C")
            .arg(&source)
            .args(["-cf", "-", "."])
            .output()
            .unwrap();
        assert!(done.status.success());
        let target = Stage::new();
        target
            .apply(&done.stdout, LIMITS)
            .unwrap_or_else(|error| panic!("{:?}: {}", format, error));
        let same = Command::new("diff")
            .args(["-r", "--no-dereference"])
            .arg(&source)
            .arg(target.upper())
            .output()
            .unwrap();
        assert!(
            same.status.success(),
            "{:?}: {}",
            format,
            String::from_utf8_lossy(&same.stdout)
        );
    }
    let tar = Tar::default()
        .records(b'g', &[("comment", "for all"), ("path", "global")])
        .records(b'x', &[("path", "first"), ("path", "second")])
        .file("header", "1");
    stage.takes(&tar);
    assert!(stage.upper().join("second").exists() && !stage.upper().join("global").exists());
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit as u64) as usize
    }
}

/// A tree with something of everything, packed by us, and by the system's tar in GNU's format.
fn seeds(stage: &Stage) -> Vec<Vec<u8>> {
    let source = stage.path.join("beside/seed");
    fs::create_dir_all(source.join("etc/deep/more")).unwrap();
    fs::write(source.join("etc/hosts"), "own").unwrap();
    fs::write(source.join("etc/deep/file"), vec![7; 3000]).unwrap();
    fs::hard_link(source.join("etc/hosts"), source.join("link")).unwrap();
    symlink(stage.path.join("beside"), source.join("out")).unwrap();
    symlink("../beside/canary", source.join("up")).unwrap();
    fs::write(source.join(".wh.odd"), "odd").unwrap();
    fs::write(source.join("n".repeat(150)), "long").unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 100_000).unwrap();
    sparse.set_len(300_000).unwrap();
    let mut own = Vec::new();
    pack_base(
        &Base {
            roots: vec![source.clone()],
            usrs: Vec::new(),
        },
        &mut own,
    )
    .unwrap();
    let gnu = Command::new("tar")
        .args(["--format=gnu", "-S", "-C"])
        .arg(&source)
        .args(["-cf", "-", "."])
        .output()
        .unwrap();
    let hostile = Tar::default()
        .folder("etc/")
        .file("etc/.wh..wh..opq", "")
        .file("etc/new", "1")
        .file(".wh.root-link", "")
        .entry("out", b'2', &stage.path.join("beside").to_string_lossy())
        .records(
            b'x',
            &[
                ("path", "out2"),
                ("linkpath", "out"),
                ("SCHILY.xattr.user.a", "b"),
                ("mtime", "1.5"),
            ],
        )
        .entry("x", b'1', "etc/new")
        .entry("fifo", b'6', "");
    fs::remove_dir_all(&source).unwrap();
    vec![own, gnu.stdout, hostile.done()]
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    const PIECES: [&[u8]; 16] = [
        b"..",
        b"../",
        b"/",
        b"\0",
        b".wh.",
        b".wh..wh..opq",
        b"out/canary",
        b"77777777777\0",
        b"\x80\xff\xff\xff\xff\xff\xff\xff",
        b"\xff\xff",
        b"GNU.sparse.major=1",
        b"path=",
        b"99 ",
        b"-1",
        b"beside/canary",
        b"./",
    ];
    let blocks = (bytes.len() / 512).max(1);
    for _ in 0..1 + random.below(4) {
        if bytes.len() < 1024 {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(8) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.below(256) as u8,
            2 => bytes.truncate(at),
            3 => {
                let piece = PIECES[random.below(PIECES.len())];
                let end = (at + piece.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&piece[..end - at]);
            }
            4 => {
                let (from, to) = (random.below(blocks) * 512, random.below(blocks) * 512);
                if from.max(to) + 512 <= bytes.len() {
                    bytes.copy_within(from..from + 512, to);
                }
            }
            // In a header, where it hurts: the name, the type, the size, the link.
            5 | 6 => {
                let block = random.below(blocks) * 512;
                let field = [0, 100, 108, 124, 136, 156, 157, 257, 345, 386, 482][random.below(11)];
                let piece = PIECES[random.below(PIECES.len())];
                if block + 512 <= bytes.len() {
                    bytes[block + field..block + field + piece.len()].copy_from_slice(piece);
                }
            }
            _ => {
                let block = random.below(blocks) * 512;
                if block + 512 <= bytes.len() {
                    bytes[block + 156] = b"01234567xgLKSAZ\0"[random.below(16)];
                }
            }
        }
    }
    // What still looks like a header gets a true checksum, else nothing behind the first check would be tried.
    for block in bytes.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        if random.below(8) > 0 {
            sum(block);
        }
    }
}

#[test]
fn no_damage_to_an_archive_touches_anything_outside_the_tree() {
    let stage = Stage::new();
    let seeds = seeds(&stage);
    let before = stage.outside();
    let (mut taken, mut refused) = (0, 0);
    for seed in 1..600u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut bytes = seeds[random.below(seeds.len())].clone();
        mutate(&mut bytes, &mut random);
        match stage.apply(&bytes, LIMITS) {
            Ok(done) => {
                taken += 1;
                assert!(
                    done.entries <= LIMITS.max_entries && done.bytes <= LIMITS.max_bytes,
                    "seed {}",
                    seed
                );
            }
            Err(error) => {
                refused += 1;
                // Never the system's "no such file" or "not permitted": everything is judged before it is tried.
                let typed = matches!(error.code, code::INVALID | code::LIMIT);
                assert!(
                    typed || error.message.contains("sizing"),
                    "seed {}: {} {}",
                    seed,
                    error.code,
                    error
                );
            }
        }
        if seed % 10 == 0 {
            assert_eq!(stage.outside(), before, "seed {}", seed);
        }
        // Half of them meet what the last one left.
        if seed % 2 == 0 {
            fs::remove_dir_all(stage.upper()).unwrap();
            fs::create_dir(stage.upper()).unwrap();
        }
    }
    assert!(taken > 50 && refused > 50, "{} taken, {} refused", taken, refused);
}
