//! What workspaces ask of the helper: snapshots of boxes that run, boxes on snapshots, volumes. On both kinds of pool.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

use delta::helper::protocol;
use delta::wire::{code, Reader};

mod helper_client;
use helper_client::*;

const POOLS: [&str; 2] = ["btrfs", "folder"];

/// Flush and freeze in microseconds, and bytes.
fn snapshot(helper: &mut Helper, upper: &str, id: &str) -> Result<(u64, u64, u64), Refusal> {
    let payload = helper.call(protocol::SNAPSHOT, |writer| {
        writer.str(upper);
        writer.str(id);
    })?;
    let mut reader = Reader::new(&payload);
    Ok((reader.u64().unwrap(), reader.u64().unwrap(), reader.u64().unwrap()))
}

fn make_upper(helper: &mut Helper, upper: &str, from: &str, empty: bool) -> Result<(), Refusal> {
    let made = helper.call(protocol::MAKE_UPPER, |writer| {
        writer.str(upper);
        writer.str(from);
        writer.u32(64);
        writer.u8(u8::from(empty));
    });
    made.map(drop)
}

fn make_volume(helper: &mut Helper, id: &str) -> Result<(), Refusal> {
    let made = helper.call(protocol::MAKE_VOLUME, |writer| {
        writer.str(id);
        writer.u32(64);
    });
    made.map(drop)
}

/// Snapshots with their templates, and volumes.
fn disks(helper: &mut Helper) -> (Vec<(String, String)>, Vec<String>) {
    let payload = helper.call(protocol::DISKS, |_| {}).unwrap();
    let mut reader = Reader::new(&payload);
    let pair = |reader: &mut Reader<'_>| Ok((reader.str()?.to_string(), reader.str()?.to_string()));
    let snapshots = reader.list(pair).unwrap();
    (snapshots, reader.list(|reader| Ok(reader.str()?.to_string())).unwrap())
}

fn refused(result: Result<Vec<u8>, Refusal>) -> u16 {
    result.unwrap_err().0
}

fn kept<'a>(id: &'a str, upper: &'a str) -> Wanted<'a> {
    Wanted {
        fresh: 0,
        ..wanted(id, upper, "")
    }
}

/// Ends every box, drops every disk, and sees that nothing is left.
fn leave_nothing(place: &Place, mut helper: Helper) {
    for (id, ..) in helper.list().0 {
        helper.end(&id, false).unwrap();
    }
    for upper in helper.list().1 {
        helper.on(protocol::DROP_UPPER, &upper).unwrap();
    }
    for id in disks(&mut helper).1 {
        helper.on(protocol::DROP_VOLUME, &id).unwrap();
    }
    // The topmost first: those below are in use until it is gone.
    while let (snapshots @ [_, ..], _) = (&disks(&mut helper).0[..], ()) {
        let dropped = snapshots.iter().filter(|(id, _)| helper.on(protocol::DROP_SNAPSHOT, id).is_ok()).count();
        assert!(dropped > 0, "none of {:?} can be dropped", snapshots);
    }
    for folder in ["uppers", "snapshots", "volumes", "new"] {
        let left: Vec<_> = fs::read_dir(place.data.join("pool").join(folder)).unwrap().flatten().collect();
        assert!(left.is_empty(), "{:?}", left);
    }
    assert_eq!(helper.stop(), Some(0));
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn a_running_box_is_kept_as_it_is_and_goes_on_and_forks_and_rollbacks_have_its_files() {
    for pool in POOLS {
        let place = Place::new(&format!("keep-{}", pool));
        let mut helper = place.start_with(&[("DELTA_POOL", pool)]);
        let id = place.id("a");
        let made = helper.create(&wanted(&id, "wup_a", "")).unwrap();
        let mut guest = helper.guest(&made.wire);
        let script = "cd /workspace; head -c 3000000 /dev/urandom > file; echo tool > /usr/tool; rm /usr/bin/env; sha256sum file | cut -c1-64";
        let digest = guest.sh(script).output;
        let counting = guest.begin("root", "i=0; while [ $i -lt 40 ]; do i=$((i+1)); sleep 0.05; done; echo $i");
        let (_, frozen, bytes) = snapshot(&mut helper, "wup_a", "snp_a").unwrap();
        assert!(frozen > 0, "a box that writes must stand still");
        assert_eq!(bytes == u64::MAX, pool == "folder");
        assert_eq!(guest.finish(counting).output, "40\n", "the box did not go on");
        assert_eq!(helper.list().0[0].2, 1);
        // A frozen one stays frozen.
        helper.on(protocol::FREEZE, &id).unwrap();
        assert_eq!(snapshot(&mut helper, "wup_a", "snp_frozen").unwrap().1, 0);
        assert_eq!(helper.list().0[0].2, 2);
        helper.on(protocol::THAW, &id).unwrap();
        guest.sh("echo later > /workspace/file");

        make_upper(&mut helper, "wup_b", "snp_a", false).unwrap();
        let other = place.id("b");
        let fork = helper.create(&kept(&other, "wup_b")).unwrap();
        let mut inside = helper.guest(&fork.wire);
        let look = "sha256sum /workspace/file | cut -c1-64; cat /usr/tool; ls /usr/bin/env 2>/dev/null; id -u";
        assert_eq!(inside.sh(look).output, format!("{}tool\n0\n", digest));
        inside.sh("echo fork > /workspace/file; rm /usr/tool");
        assert_eq!(guest.sh("cat /workspace/file /usr/tool").output, "later\ntool\n");

        helper.end(&id, true).unwrap();
        assert_eq!(snapshot(&mut helper, "wup_a", "snp_b").unwrap().1, 0, "nobody stood still");
        make_upper(&mut helper, "wup_c", "snp_a", false).unwrap();
        helper.on(protocol::DROP_UPPER, "wup_a").unwrap();
        let back = helper.create(&kept(&id, "wup_c")).unwrap();
        assert_eq!(helper.guest(&back.wire).sh(look).output, format!("{}tool\n0\n", digest));
        assert_eq!(
            disks(&mut helper).0,
            ["snp_a", "snp_b", "snp_frozen"].map(|id| (id.to_string(), "host".to_string()))
        );
        leave_nothing(&place, helper);
    }
}

#[test]
fn boxes_share_a_snapshot_as_their_template_and_it_stays_as_long_as_one_of_them() {
    for pool in POOLS {
        let place = Place::new(&format!("template-{}", pool));
        let mut helper = place.start_with(&[("DELTA_POOL", pool)]);
        let id = place.id("a");
        let made = helper.create(&wanted(&id, "wup_a", "")).unwrap();
        let script = "mkdir -p /opt/tool /workspace/old; echo one > /opt/tool/file; echo gone > /workspace/old/x; echo low > /etc/low; \
                      echo usr > /usr/made; rm /usr/bin/env";
        assert_eq!(exited(&helper.guest(&made.wire).sh(script)), (0, 0));
        helper.end(&id, true).unwrap();
        snapshot(&mut helper, "wup_a", "snp_a").unwrap();
        helper.on(protocol::DROP_UPPER, "wup_a").unwrap();

        let ids = [place.id("b"), place.id("c")];
        let uppers = ["upp_b", "upp_c"];
        let mut wires = Vec::new();
        for (id, upper) in ids.iter().zip(uppers) {
            let on_snapshot = Wanted {
                template: "snp_a",
                ..wanted(id, upper, "")
            };
            wires.push(helper.create(&on_snapshot).unwrap().wire);
        }
        let look = "cat /opt/tool/file /usr/made 2>/dev/null; ls /usr/bin/env /workspace/old/x 2>/dev/null; true";
        let mut first = helper.guest(&wires[0]);
        assert_eq!(first.sh(look).output, "one\nusr\n/workspace/old/x\n");
        first.sh("echo two > /opt/tool/file; rm -r /workspace/old; mkdir /workspace/old; rm /usr/made");
        assert_eq!(helper.guest(&wires[1]).sh(look).output, "one\nusr\n/workspace/old/x\n");
        assert_eq!(first.sh(look).output, "two\n");

        // A snapshot of a box on a snapshot: both lie below the next.
        snapshot(&mut helper, "upp_b", "snp_b").unwrap();
        assert_eq!(disks(&mut helper).0[1], ("snp_b".to_string(), "snp_a".to_string()));
        let id = place.id("d");
        let on_both = Wanted {
            template: "snp_b",
            ..wanted(&id, "upp_d", "")
        };
        let made = helper.create(&on_both).unwrap();
        let mut third = helper.guest(&made.wire);
        assert_eq!(third.sh(look).output, "two\n");
        assert_eq!(third.sh("ls -A /workspace/old; cat /etc/low").output, "low\n");

        assert_eq!(refused(helper.on(protocol::DROP_SNAPSHOT, "snp_a")), code::BUSY);
        assert_eq!(refused(helper.on(protocol::DROP_SNAPSHOT, "snp_b")), code::BUSY);
        for id in [&ids[0], &ids[1]] {
            helper.end(id, false).unwrap();
        }
        assert_eq!(refused(helper.on(protocol::DROP_SNAPSHOT, "snp_a")), code::BUSY, "snp_b stands on it");
        helper.end(&id, true).unwrap();
        assert_eq!(refused(helper.on(protocol::DROP_SNAPSHOT, "snp_b")), code::BUSY, "upp_d stands on it");
        // An upper starts on what it was made on, and on nothing else.
        let wrong = Wanted { template: "host", ..kept(&id, "upp_d") };
        assert_eq!(helper.create(&wrong).err().unwrap().0, code::INVALID);
        let right = Wanted { template: "snp_b", ..kept(&id, "upp_d") };
        let made = helper.create(&right).unwrap();
        assert_eq!(helper.guest(&made.wire).sh(look).output, "two\n");
        leave_nothing(&place, helper);
    }
}

#[test]
fn a_box_on_scratch_has_what_an_image_brings_and_nothing_else() {
    let place = Place::new("scratch");
    let mut helper = place.start();
    make_upper(&mut helper, "wup_a", "scratch", false).unwrap();
    let root = place.data.join("pool/uppers/wup_a/upper");
    // What an image would bring: one program with its libraries, and no folder but theirs.
    let libraries = Command::new("ldd").arg("/bin/sh").output().unwrap();
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    for path in libraries.split_whitespace().filter(|word| word.starts_with('/')).chain(["/bin/sh"]) {
        let to = root.join(&path[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    }
    let id = place.id("a");
    let made = helper
        .create(&Wanted {
            template: "scratch",
            ..kept(&id, "wup_a")
        })
        .unwrap();
    let outcome = helper.guest(&made.wire).sh_as("0", "echo /*; echo x > /file; read line < /file; echo $line");
    let (folders, rest) = outcome.output.split_once('\n').unwrap();
    assert!(!folders.contains("/usr") && !folders.contains("/home"), "{}", folders);
    assert_eq!(rest, "x\n");
    leave_nothing(&place, helper);
}

#[test]
fn a_volume_is_shared_by_boxes_and_written_only_where_it_may_be() {
    for pool in POOLS {
        let place = Place::new(&format!("volume-{}", pool));
        let mut helper = place.start_with(&[("DELTA_POOL", pool)]);
        make_volume(&mut helper, "vol_a").unwrap();
        assert_eq!(make_volume(&mut helper, "vol_a").unwrap_err().0, code::EXISTS);
        let (writer, reader) = (place.id("w"), place.id("r"));
        let one = Wanted {
            volumes: &[("vol_a", "/workspace/shared", false)],
            ..wanted(&writer, "upp_w", "")
        };
        let other = Wanted {
            volumes: &[("vol_a", "/deep/er/shared", true)],
            ..wanted(&reader, "upp_r", "")
        };
        let (one, other) = (helper.create(&one).unwrap(), helper.create(&other).unwrap());
        assert_ne!(one.uid_first, other.uid_first);
        let (mut one, mut other) = (helper.guest(&one.wire), helper.guest(&other.wire));
        let script = "cd /workspace/shared && echo hello > file && cp /bin/sh shell && chmod 4755 shell && stat -c %u:%g . file";
        assert_eq!(one.sh_as("user", script).output, "1000:1000\n1000:1000\n");
        assert_eq!(other.sh("cat /deep/er/shared/file").output, "hello\n");
        let refused_write = other.sh("echo x > /deep/er/shared/file2 || echo refused; mount -o remount,rw /deep/er/shared 2>/dev/null || echo still");
        assert_eq!(refused_write.output.lines().filter(|line| !line.contains("cannot")).collect::<Vec<_>>(), ["refused", "still"]);
        one.sh("chown 0:0 /workspace/shared/shell; chmod 4755 /workspace/shared/shell");
        // What one box's root marks setuid makes nobody root in another.
        assert_eq!(other.sh_as("user", "/deep/er/shared/shell -p -c 'id -u'").output, "1000\n");
        assert_eq!(refused(helper.on(protocol::DROP_VOLUME, "vol_a")), code::BUSY);

        // It is no part of the disk: neither a snapshot nor a fork has it.
        snapshot(&mut helper, "upp_w", "snp_a").unwrap();
        assert!(!place.data.join("pool/snapshots/snp_a/upper/workspace/shared/file").exists());
        helper.kill();
        let mut helper = place.start_with(&[("DELTA_POOL", pool)]);
        assert_eq!(refused(helper.on(protocol::DROP_VOLUME, "vol_a")), code::BUSY, "adopted boxes use it");
        assert_eq!(one.sh("cat /workspace/shared/file").output, "hello\n");

        let missing = Wanted {
            volumes: &[("vol_never", "/shared", false)],
            ..wanted("sbx_n", "upp_n", "")
        };
        assert_eq!(helper.create(&missing).err().unwrap().0, code::NOT_FOUND);
        for path in ["/proc/x", "/a/../b", "relative", "/", "/dev", "/run/x", "/.delta/x"] {
            let bad = Wanted {
                volumes: &[("vol_a", path, false)],
                ..wanted("sbx_n", "upp_n", "")
            };
            assert_eq!(helper.create(&bad).err().unwrap().0, code::INVALID, "{}", path);
        }
        // A link that a sandbox left on the way leads nowhere.
        one.sh("ln -s /etc /workspace/way; echo file > /workspace/file");
        helper.end(&writer, true).unwrap();
        for path in ["/workspace/way", "/workspace/way/x", "/workspace/file"] {
            let trap = Wanted {
                volumes: &[("vol_a", path, false)],
                ..kept(&writer, "upp_w")
            };
            assert_eq!(helper.create(&trap).err().unwrap().0, code::INVALID, "{}", path);
        }
        helper.end(&reader, false).unwrap();
        helper.on(protocol::DROP_VOLUME, "vol_a").unwrap();
        assert_eq!(disks(&mut helper).1, Vec::<String>::new());
        leave_nothing(&place, helper);
    }
}

/// Bytes on a box's disk and how many these may be.
fn disk(helper: &mut Helper, id: &str) -> (u64, u64) {
    let payload = helper.on(protocol::STATS, id).unwrap();
    let mut reader = Reader::new(&payload);
    for _ in 0..5 {
        reader.u64().unwrap();
    }
    reader.u32().unwrap();
    (reader.u64().unwrap(), reader.u64().unwrap())
}

#[test]
fn a_box_that_is_kept_again_and_again_may_write_as_much_after_each_time() {
    let place = Place::new("again");
    let mut helper = place.start_with(&[("DELTA_POOL", "btrfs")]);
    let id = place.id("a");
    let made = helper.create(&wanted(&id, "wup_a", "")).unwrap();
    let write = "head -c 40000000 /dev/zero > /workspace/file && sync && echo written";
    let mut guest = helper.guest(&made.wire);
    let stops = |guest: &mut Guest| {
        let more = guest.sh("head -c 40000000 /dev/zero > /workspace/more && sync").output;
        assert!(more.contains("quota") || more.contains("No space"), "{}", more);
        guest.sh("rm -f /workspace/more; sync");
    };
    for round in 0..3 {
        assert_eq!(guest.sh(write).output, "written\n", "round {}", round);
        let (used, limit) = disk(&mut helper, &id);
        assert!(used >= 40_000_000 && limit == 64 << 20, "round {}: {} of {}", round, used, limit);
        if round == 1 {
            helper.on(protocol::FREEZE, &id).unwrap();
        }
        let (_, _, charged) = snapshot(&mut helper, "wup_a", &format!("snp_{}", round)).unwrap();
        helper.on(protocol::THAW, &id).unwrap();
        assert!(charged >= 40_000_000 * (round + 1), "round {}: {}", round, charged);
        let (used, limit) = disk(&mut helper, &id);
        assert!(used < 4 << 20 && limit == 64 << 20, "round {}: {} of {}", round, used, limit);
    }
    assert_eq!(guest.sh(write).output, "written\n");
    stops(&mut guest);
    // The next helper knows it, and so do other limits and the next box on this upper.
    helper.kill();
    let mut helper = place.start_with(&[("DELTA_POOL", "btrfs")]);
    let mut guest = helper.guest(&made.wire);
    assert_eq!(disk(&mut helper, &id).1, 64 << 20);
    stops(&mut guest);
    let changed = helper.call(protocol::LIMITS, |writer| {
        writer.str(&id);
        [1_000, 96, 128, 100].iter().for_each(|value| writer.u32(*value));
    });
    changed.unwrap();
    assert_eq!(guest.sh("head -c 40000000 /dev/zero > /workspace/more && sync && echo written").output, "written\n");
    let (used, limit) = disk(&mut helper, &id);
    assert!(used >= 80_000_000 && limit == 128 << 20, "{} of {}", used, limit);
    helper.end(&id, true).unwrap();
    snapshot(&mut helper, "wup_a", "snp_rest").unwrap();
    let other = place.id("b");
    let made = helper.create(&kept(&other, "wup_a")).unwrap();
    let mut guest = helper.guest(&made.wire);
    assert_eq!(guest.sh(write).output, "written\n");
    assert_eq!(disk(&mut helper, &other).1, 64 << 20);
    stops(&mut guest);
    leave_nothing(&place, helper);
}

/// The helper kills itself at every step of keeping a running box. Whatever the next one finds, the box runs, and the snapshot is whole or
/// not there.
#[test]
fn a_kill_while_a_box_is_kept_leaves_it_running() {
    for pool in POOLS {
        let place = Place::new(&format!("thaw-{}", pool));
        let environment = [("DELTA_POOL", pool)];
        let id = place.id("a");
        let mut helper = place.start_with(&environment);
        let made = helper.create(&wanted(&id, "wup_a", "")).unwrap();
        helper.guest(&made.wire).sh("echo kept > /workspace/file");
        helper.kill();
        let mut reached_the_end = false;
        for step in 1..=8 {
            let mut helper = place.start_with(&[environment[0], ("DELTA_TEST_CRASH_AT", &step.to_string())]);
            let number = helper.send(protocol::SNAPSHOT, |writer| {
                writer.str("wup_a");
                writer.str("snp_a");
            });
            reached_the_end = helper.wait(number).is_some();
            helper.kill_if_alive();
            let mut helper = place.start_with(&environment);
            let boxes = helper.list().0;
            assert_eq!((boxes.len(), boxes[0].2), (1, 1), "step {} on {}: {:?}", step, pool, boxes);
            assert_eq!(helper.guest(&boxes[0].3).sh("cat /workspace/file").output, "kept\n", "step {} on {}", step, pool);
            assert!(!place.data.join("state/boxes").join(&id).join("freezing").exists());
            for (snapshot, template) in disks(&mut helper).0 {
                assert_eq!(template, "host");
                make_upper(&mut helper, "wup_b", &snapshot, false).unwrap();
                let file = place.data.join("pool/uppers/wup_b/upper/workspace/file");
                assert_eq!(fs::read_to_string(file).unwrap(), "kept\n");
                helper.on(protocol::DROP_UPPER, "wup_b").unwrap();
                helper.on(protocol::DROP_SNAPSHOT, &snapshot).unwrap();
            }
            helper.kill();
            if reached_the_end {
                break;
            }
        }
        assert!(reached_the_end, "keeping a box has more steps: raise the number");
        let helper = place.start_with(&environment);
        leave_nothing(&place, helper);
    }
}

#[test]
fn what_breaks_the_rules_of_disks_is_refused_and_does_nothing() {
    let place = Place::new("rules");
    let mut helper = place.start();
    make_upper(&mut helper, "wup_a", "host", false).unwrap();
    assert_eq!(make_upper(&mut helper, "wup_a", "host", false).unwrap_err().0, code::EXISTS);
    for (from, wanted) in [
        ("nothere", code::NOT_FOUND),
        ("snp_never", code::NOT_FOUND),
        ("../host", code::INVALID),
        ("", code::INVALID),
        ("debian", code::NOT_FOUND),
    ] {
        for empty in [false, true] {
            assert_eq!(make_upper(&mut helper, "wup_b", from, empty).unwrap_err().0, wanted, "{:?}", from);
        }
    }
    assert_eq!(snapshot(&mut helper, "wup_never", "snp_a").unwrap_err().0, code::NOT_FOUND);
    for id in ["upp_a", "../x", "snp_", "snp_A", ""] {
        assert_eq!(snapshot(&mut helper, "wup_a", id).unwrap_err().0, code::INVALID, "{:?}", id);
    }
    helper.on(protocol::DROP_SNAPSHOT, "snp_never").unwrap();
    helper.on(protocol::DROP_VOLUME, "vol_never").unwrap();
    assert_eq!(refused(helper.on(protocol::DROP_SNAPSHOT, "wup_a")), code::INVALID);
    for kind in [protocol::SNAPSHOT, protocol::MAKE_UPPER, protocol::DROP_SNAPSHOT, protocol::MAKE_VOLUME] {
        assert_eq!(refused(helper.call(kind, |_| {})), code::INVALID);
    }
    let small = helper.call(protocol::MAKE_UPPER, |writer| {
        writer.str("wup_b");
        writer.str("host");
        writer.u32(1);
        writer.u8(0);
    });
    assert_eq!(refused(small), code::INVALID);
    assert_eq!(helper.list().1, ["wup_a"]);
    leave_nothing(&place, helper);
}

#[test]
fn a_pool_that_went_read_only_keeps_what_it_has_and_the_next_start_repairs_it() {
    let place = Place::new("repair");
    let mut helper = place.start();
    let id = place.id("a");
    let made = helper.create(&wanted(&id, "wup_a", "")).unwrap();
    helper.guest(&made.wire).sh("echo kept > /workspace/file; sync");
    snapshot(&mut helper, "wup_a", "snp_a").unwrap();
    let pool = place.data.join("pool");
    assert!(Command::new("mount").args(["-o", "remount,ro"]).arg(&pool).status().unwrap().success());
    let said = snapshot(&mut helper, "wup_a", "snp_b").unwrap_err();
    assert!(said.0 == code::IO && said.1.contains("read-only"), "{}", said.1);
    assert_eq!(helper.guest(&made.wire).sh("cat /workspace/file").output, "kept\n");
    let usage = helper.call(protocol::USAGE, |_| {}).unwrap();
    assert_eq!(usage.last(), Some(&1));
    // Every box ends, as at Ctrl-C; what holds the pool goes with them.
    helper.end(&id, true).unwrap();
    assert_eq!(helper.stop(), Some(0));
    let mut helper = place.start();
    assert_eq!(helper.call(protocol::USAGE, |_| {}).unwrap().last(), Some(&0));
    let made = helper.create(&kept(&id, "wup_a")).unwrap();
    assert_eq!(helper.guest(&made.wire).sh("cat /workspace/file; echo on >> /workspace/file").output, "kept\n");
    snapshot(&mut helper, "wup_a", "snp_b").unwrap();
    leave_nothing(&place, helper);
}

/// Connects to a stream of this name.
fn connect(place: &Place, name: &str) -> UnixStream {
    use std::os::unix::io::AsRawFd;
    let folder = fs::File::open(place.data.join("wires")).unwrap();
    UnixStream::connect(format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), name)).unwrap()
}

fn ask_stream(helper: &mut Helper, kind: u8, one: &str, other: &str) -> Result<String, Refusal> {
    let payload = helper.call(kind, |writer| {
        writer.str(one);
        writer.str(other);
    })?;
    Ok(Reader::new(&payload).str().unwrap().to_string())
}

fn ask_apply(helper: &mut Helper, upper: &str, max_bytes: u64, max_entries: u64) -> Result<String, Refusal> {
    let payload = helper.call(protocol::APPLY, |writer| {
        writer.str(upper);
        writer.u64(max_bytes);
        writer.u64(max_entries);
    })?;
    Ok(Reader::new(&payload).str().unwrap().to_string())
}

/// Code, message, entries and bytes.
fn tail(socket: &mut UnixStream) -> (u16, String, u64, u64) {
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).unwrap();
    let mut reader = Reader::new(&rest);
    (reader.u16().unwrap(), reader.str().unwrap().to_string(), reader.u64().unwrap(), reader.u64().unwrap())
}

/// All that a stream brings, and its end.
fn drain(mut socket: UnixStream) -> (Vec<u8>, (u16, String, u64, u64)) {
    let mut bytes = Vec::new();
    loop {
        let mut length = [0; 4];
        socket.read_exact(&mut length).unwrap();
        let length = u32::from_le_bytes(length) as usize;
        assert!(length <= 1 << 20);
        if length == 0 {
            return (bytes, tail(&mut socket));
        }
        let start = bytes.len();
        bytes.resize(start + length, 0);
        socket.read_exact(&mut bytes[start..]).unwrap();
    }
}

fn receive(place: &Place, helper: &mut Helper, kind: u8, one: &str, other: &str) -> Result<Vec<u8>, Refusal> {
    let name = ask_stream(helper, kind, one, other)?;
    match drain(connect(place, &name)) {
        (bytes, (0, ..)) => Ok(bytes),
        (_, (code, message, ..)) => Err((code, message)),
    }
}

fn send(place: &Place, helper: &mut Helper, upper: &str, layer: &[u8]) -> Result<u64, Refusal> {
    let mut socket = connect(place, &ask_apply(helper, upper, 1 << 30, 100_000)?);
    for chunk in layer.chunks(70_000) {
        let sent = socket.write_all(&(chunk.len() as u32).to_le_bytes()).and_then(|()| socket.write_all(chunk));
        if sent.is_err() {
            break;
        }
    }
    let _ = socket.write_all(&[0; 4]);
    match tail(&mut socket) {
        (0, _, entries, _) => Ok(entries),
        (code, message, ..) => Err((code, message)),
    }
}

fn read_changes(bytes: &[u8]) -> Vec<(u8, u8, u64, String)> {
    let mut reader = Reader::new(bytes);
    let mut all = Vec::new();
    while let Ok(kind) = reader.u8() {
        all.push((kind, reader.u8().unwrap(), reader.u64().unwrap(), reader.str().unwrap().to_string()));
    }
    all
}

#[test]
fn what_is_packed_and_applied_elsewhere_is_the_same_to_a_box() {
    for pool in POOLS {
        let place = Place::new(&format!("pack-{}", pool));
        let mut helper = place.start_with(&[("DELTA_POOL", pool)]);
        let id = place.id("a");
        let made = helper.create(&wanted(&id, "wup_a", "")).unwrap();
        let mut guest = helper.guest(&made.wire);
        let first = "cd /workspace; mkdir -p d/e; head -c 5000000 /dev/urandom > d/e/file; ln d/e/file hard; ln -s d soft; echo x > /usr/tool; rm /usr/bin/env; \
                     chown user hard; chmod 4755 hard";
        assert_eq!(exited(&guest.sh(first)), (0, 0));
        snapshot(&mut helper, "wup_a", "snp_a").unwrap();
        assert_eq!(exited(&guest.sh("cd /workspace; rm soft; mkdir soft; echo two > two; rm /usr/tool")), (0, 0));
        snapshot(&mut helper, "wup_a", "snp_b").unwrap();
        let look = "cd / && find workspace usr/tool usr/bin/env -printf '%p %y %m %U:%G %n %s %T@ %l\\n' 2>/dev/null | sort; sha256sum /workspace/hard";
        let seen = guest.sh(look).output;

        let one = receive(&place, &mut helper, protocol::PACK, "snp_a", "").unwrap();
        let two = receive(&place, &mut helper, protocol::PACK, "snp_b", "snp_a").unwrap();
        assert!(one.len() > 5_000_000 && two.len() < 100_000, "{} and {} bytes", one.len(), two.len());
        assert_eq!(receive(&place, &mut helper, protocol::PACK, "snp_a", "").unwrap(), one, "the same bytes again");
        make_upper(&mut helper, "wup_b", "host", false).unwrap();
        assert!(send(&place, &mut helper, "wup_b", &one).unwrap() > 3);
        send(&place, &mut helper, "wup_b", &two).unwrap();
        let other = place.id("b");
        let again = helper.create(&kept(&other, "wup_b")).unwrap();
        assert_eq!(helper.guest(&again.wire).sh(look).output, seen);

        let changed = read_changes(&receive(&place, &mut helper, protocol::CHANGES, "snp_b", "snp_a").unwrap());
        assert!(changed.contains(&(1, 1, 4, "/workspace/two".to_string())), "{:?}", changed);
        assert!(changed.iter().any(|(kind, _, _, path)| *kind == 3 && path == "/usr/tool"), "{:?}", changed);
        let file = receive(&place, &mut helper, protocol::READ, "snp_b", "/workspace/two").unwrap();
        assert_eq!(file, b"two\n");
        assert!(!receive(&place, &mut helper, protocol::READ, "snp_b", "/etc/passwd").unwrap().is_empty());
        let refused = |helper: &mut Helper, path: &str| receive(&place, helper, protocol::READ, "snp_b", path).unwrap_err().0;
        assert_eq!(refused(&mut helper, "/workspace/never"), code::NOT_FOUND);
        for path in ["/workspace", "/bin", "/workspace/../etc/passwd", "/", ""] {
            assert_eq!(refused(&mut helper, path), code::INVALID, "{:?}", path);
        }
        leave_nothing(&place, helper);
    }
}

#[test]
fn a_stream_has_one_peer_and_a_name_for_moments_and_what_it_reads_stays() {
    let place = Place::new("streams");
    let mut helper = place.start();
    let id = place.id("a");
    let made = helper.create(&wanted(&id, "wup_a", "")).unwrap();
    helper.guest(&made.wire).sh("head -c 30000000 /dev/urandom > /workspace/big");
    snapshot(&mut helper, "wup_a", "snp_a").unwrap();
    let wires = place.data.join("wires");

    let name = ask_stream(&mut helper, protocol::PACK, "snp_a", "").unwrap();
    let found = wires.join(&name).symlink_metadata().unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (place.uid_base, 0o600));
    let slow = connect(&place, &name);
    let gone = || (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        !wires.join(&name).exists()
    });
    assert!(gone(), "the name stays");
    assert_eq!(refused(helper.on(protocol::DROP_SNAPSHOT, "snp_a")), code::BUSY, "it is being read");
    // Four at once; the fifth waits and is answered when one goes.
    let more: Vec<UnixStream> = (0..3)
        .map(|_| {
            let name = ask_stream(&mut helper, protocol::PACK, "snp_a", "").unwrap();
            connect(&place, &name)
        })
        .collect();
    let fifth = helper.send(protocol::PACK, |writer| {
        writer.str("snp_a");
        writer.str("");
    });
    // Streams that wait hold up nothing else, and those of another kind neither: as many readers as there may be, none of whom reads.
    snapshot(&mut helper, "wup_a", "snp_b").unwrap();
    let readers: Vec<UnixStream> = (0..8)
        .map(|_| {
            let name = ask_stream(&mut helper, protocol::READ, "snp_a", "/workspace/big").unwrap();
            connect(&place, &name)
        })
        .collect();
    let ninth = helper.send(protocol::CHANGES, |writer| {
        writer.str("snp_a");
        writer.str("");
    });
    make_upper(&mut helper, "wup_c", "host", false).unwrap();
    send(&place, &mut helper, "wup_c", &[0; 1_024]).unwrap();
    helper.on(protocol::DROP_UPPER, "wup_c").unwrap();
    assert!(!helper.answers.contains_key(&ninth));
    assert!(!helper.answers.contains_key(&fifth));
    drop(more);
    // It is packed while nobody reads what they asked for.
    let answer = helper.wait(fifth).unwrap().unwrap();
    let (bytes, end) = drain(connect(&place, Reader::new(&answer).str().unwrap()));
    assert_eq!((end.0, end.3), (0, bytes.len() as u64));
    drop(readers);
    assert!(helper.wait(ninth).unwrap().is_ok());
    let (all, end) = drain(slow);
    assert_eq!((end.0, all == bytes), (0, true));

    // What comes to nothing: a peer that goes, a layer that breaks off, one that is none.
    make_upper(&mut helper, "wup_b", "host", false).unwrap();
    let mut cut = connect(&place, &ask_apply(&mut helper, "wup_b", 1 << 30, 1_000).unwrap());
    cut.write_all(&1_000u32.to_le_bytes()).unwrap();
    assert_eq!(refused(helper.on(protocol::DROP_UPPER, "wup_b")), code::BUSY, "it is being written");
    assert_eq!(helper.create(&kept("sbx_b", "wup_b")).err().unwrap().0, code::BUSY);
    assert_eq!(snapshot(&mut helper, "wup_b", "snp_c").unwrap_err().0, code::BUSY);
    drop(cut);
    let free = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        send(&place, &mut helper, "wup_b", b"").map_or_else(|(found, _)| found != code::BUSY, |_| true)
    });
    assert!(free, "a peer that went still holds the upper");
    let noise: Vec<u8> = (0..3_000_000u32).map(|at| (at * 7 % 251) as u8).collect();
    assert_eq!(send(&place, &mut helper, "wup_b", &noise).unwrap_err().0, code::INVALID);
    let mut small = connect(&place, &ask_apply(&mut helper, "wup_b", 1_000, 1_000).unwrap());
    for chunk in bytes.chunks(1 << 20) {
        let _ = small.write_all(&(chunk.len() as u32).to_le_bytes()).and_then(|()| small.write_all(chunk));
    }
    let _ = small.write_all(&[0; 4]);
    assert_eq!(tail(&mut small).0, code::LIMIT);
    helper.on(protocol::DROP_UPPER, "wup_b").unwrap();

    for (one, other, wanted) in [
        ("snp_never", "", code::NOT_FOUND),
        ("snp_a", "snp_never", code::NOT_FOUND),
        ("snp_a", "host", code::INVALID),
        ("host", "snp_a", code::INVALID),
        ("../host", "", code::INVALID),
        ("debian", "", code::NOT_FOUND),
    ] {
        assert_eq!(ask_stream(&mut helper, protocol::PACK, one, other).unwrap_err().0, wanted, "{} {}", one, other);
    }
    assert_eq!(ask_apply(&mut helper, "wup_a", 1, 1).unwrap_err().0, code::BUSY);
    assert_eq!(ask_apply(&mut helper, "wup_never", 1, 1).unwrap_err().0, code::NOT_FOUND);

    // A helper that ends takes its streams with it, the one nobody came for too.
    let unread = ask_stream(&mut helper, protocol::PACK, "snp_a", "").unwrap();
    let name = ask_stream(&mut helper, protocol::PACK, "snp_a", "").unwrap();
    let reading = connect(&place, &name);
    assert!(wires.join(&unread).exists());
    helper.kill();
    let mut rest = Vec::new();
    let _ = (&reading).read_to_end(&mut rest);
    let helper = place.start();
    leave_nothing(&place, helper);
}
