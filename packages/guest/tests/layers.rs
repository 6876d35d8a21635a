//! Layers of real overlays, as root: what is packed and applied shows the same file system again.

mod layers_tree;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use delta::helper::error::code;
use delta::helper::layers::{apply, changes, pack, pack_base, read, Applied, Base, ChangeKind, Limits, View};
use layers_tree::{expect_same, make_node, run, see, set_owner, set_time, Hand, Mounted, Place, Random, Tree, Upper};

const NO_LIMITS: Limits = Limits {
    max_bytes: u64::MAX,
    max_entries: u64::MAX,
};

fn packed(view: &View, parent: Option<&View>, base: &Base) -> Vec<u8> {
    let mut bytes = Vec::new();
    let done = pack(view, parent, base, &mut bytes).unwrap_or_else(|error| panic!("{}", error));
    assert_eq!(done.bytes, bytes.len() as u64);
    bytes
}

fn applied(mut layer: &[u8], view: &View, base: &Base) -> Applied {
    apply(&mut layer, view, base, NO_LIMITS).unwrap_or_else(|error| panic!("{}", error))
}

fn seen(place: &Place, upper: &Upper, base: &Base) -> Tree {
    let mounted = Mounted::to_see(place, upper, base);
    see(&mounted.path)
}

/// What the difference of two trees is to a person.
fn difference(old: &Tree, new: &Tree) -> BTreeMap<Vec<u8>, ChangeKind> {
    let mut out = BTreeMap::new();
    for (name, seen) in new.iter().filter(|(name, _)| !name.is_empty()) {
        match old.get(name) {
            None => drop(out.insert(name.clone(), ChangeKind::Added)),
            Some(before) => {
                let mut before = before.clone();
                before.names = seen.names.clone();
                if seen.kind == "folder" {
                    before.modified = seen.modified;
                }
                if before != *seen {
                    out.insert(name.clone(), ChangeKind::Changed);
                }
            }
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        out.insert(name.clone(), ChangeKind::Removed);
    }
    out
}

/// Random changes on an overlay, with a snapshot after each part; every snapshot's layer is applied on top of those before it.
fn follow(place: &Place, base: &Base, seed: u64, parts: usize, acts: usize) {
    let what = |part: usize| format!("seed {} part {}", seed, part);
    let mut random = Random::new(seed);
    let (live, target) = (
        place.upper(&format!("live{}", seed)),
        place.upper(&format!("target{}", seed)),
    );
    let mut snapshots: Vec<(Upper, Tree)> = Vec::new();
    for part in 0..parts {
        {
            let mounted = Mounted::writable(place, &live, base);
            let mut hand = Hand {
                root: &mounted.path,
                random: &mut random,
            };
            (0..acts).for_each(|_| hand.act());
        }
        let snapshot = place.snapshot(&live, &format!("snapshot{}-{}", seed, part));
        let tree = seen(place, &snapshot, base);
        let view = snapshot.view(base);
        let parent = snapshots.last().map(|(upper, _)| upper.view(base));
        let layer = packed(&view, parent.as_ref(), base);
        assert_eq!(
            packed(&view, parent.as_ref(), base),
            layer,
            "{}: packed twice",
            what(part)
        );
        applied(&layer, &target.view(base), base);
        expect_same(&tree, &seen(place, &target, base), &what(part));
        // The other way round nothing is left to say.
        let mut left = Vec::new();
        let rest = pack(&target.view(base), Some(&view), base, &mut left).unwrap();
        assert_eq!(
            rest.entries,
            0,
            "{}: {}",
            what(part),
            String::from_utf8_lossy(&left[..left.len().min(4000)])
        );
        let before = snapshots
            .last()
            .map_or_else(|| seen(place, &place.upper("none"), base), |(_, tree)| tree.clone());
        let mut told = BTreeMap::new();
        changes(&view, parent.as_ref(), base, &mut |change| {
            assert!(told.insert(change.path.to_vec(), change.kind).is_none());
            Ok(())
        })
        .unwrap();
        let expected = difference(&before, &tree);
        let other = |one: &BTreeMap<Vec<u8>, ChangeKind>, two: &BTreeMap<Vec<u8>, ChangeKind>| -> Vec<String> {
            let only = one.iter().filter(|(name, kind)| two.get(*name) != Some(kind));
            only.map(|(name, kind)| format!("{:?} {}", kind, name.escape_ascii()))
                .collect()
        };
        let (more, less) = (other(&told, &expected), other(&expected, &told));
        assert!(
            more.is_empty() && less.is_empty(),
            "{}: told {:?}, not {:?}",
            what(part),
            more,
            less
        );
        snapshots.push((snapshot, tree));
        fs::remove_dir_all(place.path.join("none")).ok();
    }
    // Any two, not only one after the other. Back to an older one a file of the template shows again, and its other names, which
    // no upper has, are not known.
    for _ in 0..parts {
        let (from, to) = (random.below(parts), random.below(parts));
        let copy = place.snapshot(&snapshots[from].0, "copy");
        let layer = packed(&snapshots[to].0.view(base), Some(&snapshots[from].0.view(base)), base);
        applied(&layer, &copy.view(base), base);
        let (mut expected, mut found) = (snapshots[to].1.clone(), seen(place, &copy, base));
        if to < from {
            expected
                .values_mut()
                .chain(found.values_mut())
                .for_each(|seen| seen.names.clear());
        }
        expect_same(&expected, &found, &format!("seed {} from {} to {}", seed, from, to));
        fs::remove_dir_all(&copy.path).unwrap();
    }
}

fn template(place: &Place, name: &str, seed: u64) -> PathBuf {
    let path = place.folder(name);
    for folder in ["usr", "etc", "opt"] {
        fs::create_dir_all(path.join(folder)).unwrap();
    }
    let mut random = Random::new(seed);
    let mut hand = Hand {
        root: &path,
        random: &mut random,
    };
    (0..120).for_each(|_| hand.act());
    // Where the second file system goes.
    let _ = fs::remove_file(path.join("usr"));
    fs::create_dir_all(path.join("usr")).unwrap();
    path
}

#[test]
fn a_history_on_copied_uppers_comes_back_layer_by_layer() {
    let place = Place::new("folder");
    for seed in 1..4 {
        let base = Base {
            roots: vec![template(&place, &format!("base{}", seed), seed)],
            usrs: Vec::new(),
        };
        follow(&place, &base, seed, 4, 40);
    }
}

#[test]
fn a_history_on_btrfs_snapshots_comes_back_layer_by_layer() {
    let place = Place::on_btrfs("btrfs");
    for seed in 11..14 {
        let base = Base {
            roots: vec![template(&place, &format!("base{}", seed), seed)],
            usrs: Vec::new(),
        };
        follow(&place, &base, seed, 4, 40);
    }
}

#[test]
fn a_history_with_usr_as_a_file_system_of_its_own_comes_back() {
    let place = Place::new("usr");
    for seed in 21..23 {
        let (root, usr) = (template(&place, "root", seed), template(&place, "own-usr", seed + 100));
        // The mask of what must not be seen of the host: whiteouts above its /usr.
        let mask = place.folder("mask");
        let hidden = fs::read_dir(&usr).unwrap().next().unwrap().unwrap().file_name();
        make_node(&mask.join(hidden), 0o020000).unwrap();
        follow(
            &place,
            &Base {
                roots: vec![root.clone()],
                usrs: vec![mask.clone(), usr.clone()],
            },
            seed,
            3,
            50,
        );
        [root, usr, mask]
            .iter()
            .for_each(|path| fs::remove_dir_all(path).unwrap());
    }
}

#[test]
fn a_history_on_nothing_comes_back() {
    let place = Place::new("scratch");
    for seed in 31..33 {
        follow(&place, &Base::default(), seed, 3, 50);
    }
}

#[test]
fn a_history_on_a_snapshot_as_template_comes_back() {
    let place = Place::on_btrfs("stacked");
    for seed in 41..43 {
        let first = Base {
            roots: vec![template(&place, &format!("first{}", seed), seed)],
            usrs: Vec::new(),
        };
        let upper = place.upper(&format!("template{}", seed));
        {
            let mounted = Mounted::writable(&place, &upper, &first);
            let mut random = Random::new(seed);
            let mut hand = Hand {
                root: &mounted.path,
                random: &mut random,
            };
            (0..80).for_each(|_| hand.act());
        }
        let base = Base {
            roots: vec![upper.path.join("upper"), first.roots[0].clone()],
            usrs: Vec::new(),
        };
        follow(&place, &base, seed, 3, 50);
        // A template as one layer, on nothing.
        let mut layer = Vec::new();
        pack_base(&base, &mut layer).unwrap();
        let alone = place.upper(&format!("alone{}", seed));
        applied(&layer, &alone.view(&Base::default()), &Base::default());
        let whole = seen(&place, &upper, &first);
        expect_same(
            &whole,
            &seen(&place, &alone, &Base::default()),
            &format!("seed {} alone", seed),
        );
    }
}

/// One folder of everything a layer's format must carry.
fn sampler(root: &Path) {
    fs::create_dir_all(root.join("folder/below")).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("folder/file"), "content").unwrap();
    fs::write(root.join("größe"), "unicode").unwrap();
    fs::write(root.join("n".repeat(255)), "long").unwrap();
    let deep = root.join("d".repeat(200)).join("e".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "deep").unwrap();
    fs::hard_link(root.join("folder/file"), root.join("link")).unwrap();
    std::os::unix::fs::symlink("s".repeat(300), root.join("symlink")).unwrap();
    make_node(&root.join("fifo"), 0o010644).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    for at in [1u64 << 20, 3 << 20, 40 << 20] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", at).unwrap();
    }
    sparse.set_len(64 << 20).unwrap();
    layers_tree::set_attribute(&root.join("folder/file"), b"user.note", b"a\0b").unwrap();
    set_owner(&root.join("empty"), 3_000_000, 5);
    for (name, seconds, nanoseconds) in [
        ("empty", 1_700_000_000, 123_456_789),
        ("symlink", 1_600_000_000, 5),
        ("sparse", 0, 0),
    ] {
        set_time(&root.join(name), seconds, nanoseconds);
    }
    // Folders last: what is made in them moves their time.
    set_time(root, 1_650_000_000, 1);
}

#[test]
fn other_tools_read_a_layer() {
    let place = Place::new("tools");
    let root = place.folder("root");
    sampler(&root);
    let base = Base {
        roots: vec![root.clone()],
        usrs: Vec::new(),
    };
    let mut layer = Vec::new();
    pack_base(&base, &mut layer).unwrap();
    assert!(layer.len() < 4 << 20, "holes take no room");
    let file = place.path.join("layer.tar");
    fs::write(&file, &layer).unwrap();
    let out = place.folder("out");
    run(Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"])
        .arg(&file)
        .arg("-C")
        .arg(&out));
    expect_same(&see(&root), &see(&out), "GNU tar");
    let script = r#"
import sys, tarfile, os
with tarfile.open(sys.argv[1]) as tar:
    for member in tar.getmembers():
        path = os.path.join(sys.argv[2], member.name)
        found = os.lstat(path)
        assert (member.uid, member.gid) == (found.st_uid, found.st_gid), member.name
        assert abs(member.mtime - found.st_mtime) < 1e-6, member.name
        if member.isfile():
            assert tar.extractfile(member).read() == open(path, 'rb').read(), member.name
        if member.issym():
            assert member.linkname == os.readlink(path)
    print(len(tar.getmembers()))
"#;
    let count = run(Command::new("python3").args(["-c", script]).arg(&file).arg(&root));
    assert_eq!(count.trim().parse::<usize>().unwrap(), see(&root).len());
}

/// Below 4,096 bytes of path no system call could name the files.
#[test]
fn a_tree_deeper_than_any_path_comes_back() {
    let place = Place::new("deep");
    let upper = place.upper("deep");
    let script = "import os\nos.chdir(os.sys.argv[1])\nfor at in range(600):\n os.mkdir('d' * 20); os.chdir('d' * 20)\n if at % 100 == 0: open('f', 'w').write(str(at))\nopen('end', 'w').write('end')\n";
    run(Command::new("python3")
        .args(["-c", script])
        .arg(upper.path.join("upper")));
    let (base, target) = (Base::default(), place.upper("target"));
    let view = upper.view(&base);
    let layer = packed(&view, None, &base);
    let done = applied(&layer, &target.view(&base), &base);
    assert_eq!(done.entries, 1 + 600 + 7);
    let mut path = b"dddddddddddddddddddd/".repeat(600);
    path.extend_from_slice(b"end");
    let mut content = Vec::new();
    read(&target.view(&base), &base, &path, &mut content).unwrap();
    assert_eq!(content, b"end");
    let mut rest = Vec::new();
    assert_eq!(
        pack(&view, Some(&target.view(&base)), &base, &mut rest)
            .unwrap()
            .entries,
        0
    );
    // Gone again, and everything below it.
    let none = place.upper("none");
    let removal = packed(&none.view(&base), Some(&view), &base);
    applied(&removal, &target.view(&base), &base);
    assert_eq!(fs::read_dir(target.path.join("upper")).unwrap().count(), 0);
    run(Command::new("rm").arg("-rf").arg(&upper.path));
}

#[test]
fn a_tree_deeper_than_a_layer_holds_is_refused_by_name() {
    let place = Place::new("deeper");
    let upper = place.upper("deep");
    let script = "import os\nos.chdir(os.sys.argv[1])\nfor at in range(4200):\n os.mkdir('d'); os.chdir('d')\n";
    run(Command::new("python3")
        .args(["-c", script])
        .arg(upper.path.join("upper")));
    let mut layer = Vec::new();
    let base = Base::default();
    let error = pack(&upper.view(&base), None, &base, &mut layer).unwrap_err();
    assert_eq!(error.code, code::LIMIT);
    assert!(error.message.contains("/d/d/d"), "{}", error);
    run(Command::new("rm").arg("-rf").arg(&upper.path));
}

#[test]
fn a_file_is_read_without_following_links() {
    let place = Place::new("read");
    let root = place.folder("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/hosts"), "template").unwrap();
    std::os::unix::fs::symlink("etc", root.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("etc/out")).unwrap();
    let base = Base {
        roots: vec![root],
        usrs: Vec::new(),
    };
    let upper = place.upper("upper");
    let view = upper.view(&base);
    let try_read = |path: &str| {
        let mut out = Vec::new();
        read(&view, &base, path.as_bytes(), &mut out)
            .map(|_| String::from_utf8(out).unwrap())
            .map_err(|error| error.code)
    };
    assert_eq!(try_read("/etc/hosts").unwrap(), "template");
    for path in ["/link/hosts", "/etc/out", "/etc", "/", "/etc/../etc/hosts"] {
        assert_eq!(try_read(path), Err(code::INVALID), "{}", path);
    }
    assert_eq!(try_read("/etc/none"), Err(code::NOT_FOUND));
    fs::create_dir(upper.path.join("upper/etc")).unwrap();
    fs::write(upper.path.join("upper/etc/hosts"), "own").unwrap();
    assert_eq!(try_read("etc/hosts").unwrap(), "own");
    fs::remove_file(upper.path.join("upper/etc/hosts")).unwrap();
    make_node(&upper.path.join("upper/etc/hosts"), 0o020000).unwrap();
    assert_eq!(try_read("/etc/hosts"), Err(code::NOT_FOUND));
}

#[test]
fn sockets_devices_and_the_platforms_own_folder_stay_out_of_a_layer() {
    let place = Place::new("left-out");
    let upper = place.upper("upper");
    let root = upper.path.join("upper");
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    fs::create_dir(root.join(".delta")).unwrap();
    fs::write(root.join(".delta/guest"), "program").unwrap();
    fs::write(root.join("kept"), "").unwrap();
    let mut layer = Vec::new();
    let done = pack(&upper.view(&Base::default()), None, &Base::default(), &mut layer).unwrap();
    assert_eq!((done.entries, done.skipped), (2, 1));
}
