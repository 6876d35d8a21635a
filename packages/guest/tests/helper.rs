//! The privileged helper against the real kernel and the installed runtimes. Needs root and at least one of crun, runc, runsc.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use delta::helper::cgroup::folder_digest;
use delta::helper::ffi;
use delta::helper::protocol;
use delta::wire::{code, Reader};

mod helper_client;
use helper_client::*;

#[test]
fn a_box_answers_on_its_wire_and_ends_without_a_trace_on_every_runtime() {
    let place = Place::new("life");
    let mut helper = place.start();
    for (at, runtime) in runtimes().into_iter().enumerate() {
        let id = place.id(runtime);
        let upper = format!("upp_{}", at);
        let made = helper.create(&wanted(&id, &upper, runtime)).unwrap();
        let mut guest = helper.guest(&made.wire);
        let outcome = guest.sh("echo hello from $(id -u) on $(hostname); echo kept > /workspace/kept; exit 3");
        assert_eq!(
            (exited(&outcome), outcome.output.as_str()),
            ((0, 3), "hello from 0 on box\n"),
            "{}",
            runtime
        );
        if runtime != "runsc" {
            assert!(
                status_of(made.pid, "Uid:").starts_with(&made.uid_first.to_string()),
                "{}",
                runtime
            );
            assert_eq!(status_of(made.pid, "Seccomp:"), "2", "{}", runtime);
            assert_eq!(status_of(made.pid, "CapEff:"), "00000000800405fb", "{}", runtime);
        }
        if runtime == "runsc" {
            // Its wire lies in a folder of the host that the guest has bound in; nothing else may ever get there.
            guest.sh("cd /.delta/wire; touch x; mkdir y; ln -s /etc z; rm -f wire; mv wire w; chmod 777 . wire; true");
            let inside: Vec<String> = fs::read_dir(place.data.join("wires").join(format!("{}.d", id)))
                .unwrap()
                .flatten()
                .map(|entry| {
                    format!(
                        "{:?} {:o}",
                        entry.file_name(),
                        entry.metadata().unwrap().permissions().mode()
                    )
                })
                .collect();
            assert_eq!(inside, ["\"wire\" 140600"]);
            assert_eq!(helper.guest(&made.wire).sh("echo still here").output, "still here\n");
        }
        let (boxes, free) = helper.list();
        assert_eq!((boxes.len(), boxes[0].2, free.len()), (1, 1, 0), "{}", runtime);

        helper.end(&id, true).unwrap();
        assert_eq!(place.left_of_boxes(), Vec::<String>::new(), "{}", runtime);
        assert_eq!(helper.list().1, [upper.as_str()]);

        let again = helper
            .create(&Wanted {
                fresh: 0,
                ..wanted(&id, &upper, runtime)
            })
            .unwrap();
        assert_eq!(
            helper.guest(&again.wire).sh("cat /workspace/kept").output,
            "kept\n",
            "{}",
            runtime
        );
        helper.end(&id, false).unwrap();
        assert_eq!(helper.list(), (Vec::new(), Vec::new()), "{}", runtime);
        helper.end(&id, false).unwrap();
    }
    assert_eq!(helper.stop(), Some(0));
    assert_eq!(place.left(), Vec::<String>::new());
}

/// Connects and tells what came back, or `refused` or `unreachable`.
const CONNECT: &str = r#"
import socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(20)
        try:
            s.connect((host, int(port)))
            print(s.makefile().read().strip() or "nothing")
        except ConnectionResetError:
            print("reset")
        except OSError as error:
            print(error.strerror)
"#;

#[test]
fn every_way_out_of_a_box_ends_at_its_own_wire() {
    let place = Place::new("egress");
    let mut helper = place.start();
    for runtime in runtimes().into_iter().filter(|name| *name != "runsc") {
        let (one, other) = (place.id("one"), place.id("other"));
        let boxes: Vec<Made> = [&one, &other]
            .iter()
            .zip(["upp_1", "upp_2"])
            .map(|(id, upper)| helper.create(&wanted(id, upper, runtime)).unwrap())
            .collect();
        let mut guest = helper.guest(&boxes[0].wire);
        let mut neighbour = helper.guest(&boxes[1].wire);
        let script = format!("cat > /tmp/connect <<'END'\n{}END\nprintf 'nameserver 127.0.0.1\\n' > /etc/resolv.conf", CONNECT);
        assert_eq!(exited(&guest.sh(&script)), (0, 0));
        assert_eq!(exited(&neighbour.sh(&script)), (0, 0));
        for user in ["root", "1000"] {
            let script = "python3 /tmp/connect 203.0.113.7:4444 127.0.0.1:80 2001:db8::1:80 198.19.9.9:80 one.example:22
                          getent ahostsv4 two.example";
            let outcome = guest.sh_as(user, script);
            let wanted = "203.0.113.7:4444/3\nConnection refused\nNetwork is unreachable\nreset\none.example:22/3\n";
            assert!(outcome.output.starts_with(wanted), "{}", outcome.output);
            assert_eq!(outcome.output[wanted.len()..].get(..9), Some("198.18.0."), "{} as {}", runtime, user);
        }
        let proxied = guest.sh(
            "bash -c \"exec 3<>/dev/tcp/127.0.0.1/3129; printf 'CONNECT a.example:443 HTTP/1.1\\r\\n\\r\\n' >&3; cat <&3\"",
        );
        assert!(proxied.output.ends_with("\r\n\r\na.example:443/1\n"), "{}: {}", runtime, proxied.output);

        // A shell that starts with nothing finds the proxy; what is set stays.
        let script = ". /etc/profile.d/delta-proxy.sh; env | grep -i proxy | sort";
        let told = guest.sh(&format!("exec env -i PATH=$PATH https_proxy=own no_proxy= sh -c '{}'", script)).output;
        let wanted = "HTTPS_PROXY=own\nHTTP_PROXY=http://127.0.0.1:3129\nNODE_USE_ENV_PROXY=1\nNO_PROXY=\nhttp_proxy=http://127.0.0.1:3129\n\
                      https_proxy=own\nno_proxy=\n";
        assert_eq!(told, wanted, "{}", runtime);
        assert_eq!(guest.sh("stat -c '%a %u' /etc/sudoers.d /etc/sudoers.d/*").output, "750 0\n440 0\n", "{}", runtime);

        // Names and listeners of one box mean nothing in another.
        let outcome = neighbour.sh("python3 /tmp/connect 198.18.0.1:80 203.0.113.9:80");
        assert_eq!(outcome.output, "reset\n203.0.113.9:80/3\n", "{}", runtime);

        // Root inside can change nothing of it.
        let before = guest.sh("cat /proc/net/route /proc/net/fib_trie | cksum; cat /proc/net/dev | tail -n +3 | cut -d: -f1").output;
        let tries = [
            "ip link set lo down",
            "ip route del local 0.0.0.0/0 dev lo table local",
            "ip route flush table all",
            "ip addr add 10.0.0.1/8 dev lo",
            "ip link add type dummy",
            "ip tuntap add mode tap",
            "nft flush ruleset",
            "iptables -t mangle -F",
            "unshare -n true",
            "unshare -Urn true",
            "nsenter -t 1 -n true",
            "python3 -c 'import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)'",
            "python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)'",
            "python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'",
            "python3 -c 'import socket; socket.socket().setsockopt(0, 19, 1)'",
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
        ];
        for attempt in tries {
            let outcome = guest.sh(&format!("PATH=$PATH:/usr/local/sbin; {} 2>&1", attempt));
            assert_ne!(exited(&outcome), (0, 0), "{}: {} was allowed", runtime, attempt);
        }
        let after = guest.sh("cat /proc/net/route /proc/net/fib_trie | cksum; cat /proc/net/dev | tail -n +3 | cut -d: -f1").output;
        assert_eq!(before, after, "{}", runtime);
        assert_eq!(after.lines().skip(1).map(str::trim).collect::<Vec<_>>(), ["lo"], "{}", runtime);
        assert_eq!(guest.sh("python3 /tmp/connect 203.0.113.7:4444").output, "203.0.113.7:4444/3\n", "{}", runtime);
        helper.end(&one, false).unwrap();
        helper.end(&other, false).unwrap();
    }
    assert_eq!(helper.stop(), Some(0));
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn under_gvisor_names_lead_out_by_two_ports_and_addresses_do_not() {
    if !runtimes().contains(&"runsc") {
        return;
    }
    let place = Place::new("gvisor-egress");
    let mut helper = place.start();
    let id = place.id("runsc");
    let made = helper.create(&wanted(&id, "upp_1", "runsc")).unwrap();
    let mut guest = helper.guest(&made.wire);
    let script = format!(
        "cat > /tmp/c <<'END'\n{}END\nprintf 'nameserver 127.0.0.1\\n' > /etc/resolv.conf\n\
         python3 /tmp/c one.example:80 one.example:443 one.example:22 203.0.113.7:80",
        CONNECT
    );
    let outcome = guest.sh(&script);
    let wanted = "one.example:80/3\none.example:443/3\nConnection refused\nNo route to host\n";
    assert_eq!(outcome.output, wanted);
    let outcome = guest.sh(
        "bash -c \"exec 3<>/dev/tcp/127.0.0.1/3129; printf 'CONNECT a.example:443 HTTP/1.1\\r\\n\\r\\n' >&3; cat <&3\"",
    );
    assert!(outcome.output.ends_with("\r\n\r\na.example:443/1\n"), "{}", outcome.output);
    helper.end(&id, false).unwrap();
    assert_eq!(helper.stop(), Some(0));
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn limits_hold_and_a_frozen_box_stands_still_on_every_runtime() {
    let place = Place::new("limits");
    let mut helper = place.start();
    for runtime in runtimes() {
        let id = place.id(runtime);
        let upper = format!("upp_{}", runtime);
        // gVisor keeps file contents in memory of its own, which is counted.
        let memory_mb = if runtime == "runsc" { 512 } else { 96 };
        let made = helper
            .create(&Wanted {
                memory_mb,
                processes: 64,
                ..wanted(&id, &upper, runtime)
            })
            .unwrap();
        let mut guest = helper.guest(&made.wire);

        helper.on(protocol::FREEZE, &id).unwrap();
        helper.on(protocol::FREEZE, &id).unwrap();
        assert_eq!(helper.list().0[0].2, 2, "{}", runtime);
        let cpu = |payload: Vec<u8>| Reader::new(&payload).u64().unwrap();
        let before = cpu(helper.on(protocol::STATS, &id).unwrap());
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(
            cpu(helper.on(protocol::STATS, &id).unwrap()),
            before,
            "a frozen box used the processor on {}",
            runtime
        );
        helper.on(protocol::THAW, &id).unwrap();
        assert_eq!(guest.sh("echo awake").output, "awake\n", "{}", runtime);

        // Of those that are there, with what STATS says of them.
        let asked = helper.call(protocol::MEASURE, |w| w.list(&[id.as_str(), "box_neverwas"], |w, id| w.str(id)));
        let payload = asked.unwrap();
        let measured = Reader::new(&payload).list(|r| Ok((r.str()?.to_string(), r.u64()?, r.u64()?))).unwrap();
        assert_eq!(measured.len(), 1, "{}", runtime);
        assert_eq!((measured[0].0.as_str(), measured[0].1 >= before), (id.as_str(), true), "{}", runtime);
        assert!(measured[0].2 > 0, "no memory was measured on {}", runtime);

        // One line as long as the machine's memory; the shell survives its child.
        if runtime != "runsc" {
            let bomb = guest.sh("tail /dev/zero; echo after $?");
            assert_eq!(bomb.output.trim(), "Killed\nafter 137", "{}", runtime);
            let payload = helper.on(protocol::STATS, &id).unwrap();
            let mut reader = Reader::new(&payload);
            let values: Vec<u64> = (0..5).map(|_| reader.u64().unwrap()).collect();
            assert_eq!(values[3], 96 << 20, "{}", runtime);
            assert!(values[2] <= 96 << 20, "memory peak {} on {}", values[2], runtime);
            assert!(values[4] >= 1, "no kill for memory was counted on {}", runtime);
        }
        let full = guest.sh("dd if=/dev/zero of=/workspace/big bs=1M count=200 2>&1; sync");
        assert!(
            full.output.contains("quota") || full.output.contains("No space"),
            "{}: {}",
            runtime,
            full.output
        );
        let payload = helper.on(protocol::STATS, &id).unwrap();
        let mut reader = Reader::new(&payload);
        let disk = (0..5)
            .map(|_| reader.u64().unwrap())
            .last()
            .and_then(|_| reader.u32().ok())
            .map(|_| (reader.u64().unwrap(), reader.u64().unwrap()));
        let (used, limit) = disk.unwrap();
        assert_eq!(limit, 64 << 20, "{}", runtime);
        assert!(
            (32 << 20..=64 << 20).contains(&used),
            "{} bytes on a disk of 64 MiB on {}",
            used,
            runtime
        );
        if runtime != "runsc" {
            let forks = guest.sh("i=0; while [ $i -lt 100 ]; do sleep 20 & i=$((i+1)); done; echo all");
            assert!(
                forks.value != 0 || !forks.output.contains("all") || forks.output.contains("fork"),
                "{}: {}",
                runtime,
                forks.output
            );
        }

        helper.on(protocol::FREEZE, &id).unwrap();
        helper.end(&id, false).unwrap();
        assert_eq!(place.left_of_boxes(), Vec::<String>::new(), "{}", runtime);
    }
    assert_eq!(helper.stop(), Some(0));
    assert_eq!(place.left(), Vec::<String>::new());
}

/// Root inside owns the user namespace's uid, not root's: what the kernel counts per user is counted per box.
#[test]
fn one_box_cannot_use_up_the_inotify_instances_of_another_or_of_root() {
    let place = Place::new("inotify");
    let mut helper = place.start();
    let most: u32 = fs::read_to_string("/proc/sys/fs/inotify/max_user_instances")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(
        most <= 1024,
        "this machine allows {} instances a user: the test would need as many processes",
        most
    );
    for runtime in runtimes().into_iter().filter(|runtime| *runtime != "runsc") {
        let (greedy, other) = (
            place.id(&format!("greedy{}", runtime)),
            place.id(&format!("other{}", runtime)),
        );
        let first = helper
            .create(&Wanted {
                processes: 4_000,
                memory_mb: 1024,
                ..wanted(&greedy, "upp_greedy", runtime)
            })
            .unwrap();
        let second = helper.create(&wanted(&other, "upp_other", runtime)).unwrap();
        // Each `tail -f` on a tmpfs holds one instance; one that gets none says so and falls back to polling.
        let script = format!(
            "cd /dev/shm; touch f; i=0; while [ $i -lt {} ]; do tail -f f >/dev/null 2>>errors & i=$((i+1)); done; \
             until [ $(wc -l < errors) -ge 4 ]; do sleep 0.1; done; head -1 errors",
            most + 4
        );
        let greed = helper.guest(&first.wire).sh(&script);
        assert!(
            greed.output.contains("inotify"),
            "{}: the box was expected to run out, it said {:?}",
            runtime,
            greed.output
        );
        let one = "cd /dev/shm; touch f; timeout 1 tail -f f 2>&1; echo done";
        assert_eq!(helper.guest(&second.wire).sh(one).output, "done\n", "{}", runtime);
        let file = place.data.join("watched");
        fs::write(&file, "").unwrap();
        let on_host = Command::new("timeout")
            .args(["1", "tail", "-f"])
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&on_host.stderr),
            "",
            "root on the host has run out of instances"
        );
        helper.end(&greedy, false).unwrap();
        helper.end(&other, false).unwrap();
    }
    assert_eq!(helper.stop(), Some(0));
}

/// What the kernel counts for the whole machine, and no user namespace divides.
#[test]
fn one_box_cannot_use_up_the_terminals_of_another() {
    if Command::new("python3").arg("--version").output().is_err() {
        panic!("python3 is needed to open terminals: apt-get install python3");
    }
    let place = Place::new("terminals");
    let mut helper = place.start();
    let take = "import os\ntaken = []\ntry:\n while len(taken) < 4000: taken.append(os.open('/dev/ptmx', os.O_RDWR))\nexcept OSError: pass\nprint(len(taken), flush=True)\n";
    for runtime in runtimes().into_iter().filter(|runtime| *runtime != "runsc") {
        let (greedy, other) = (
            place.id(&format!("greedy{}", runtime)),
            place.id(&format!("other{}", runtime)),
        );
        let first = helper.create(&wanted(&greedy, "upp_greedy", runtime)).unwrap();
        let second = helper.create(&wanted(&other, "upp_other", runtime)).unwrap();
        let script = |end: &str| format!("cat > /tmp/take.py <<'END'\n{}END\n{}", take, end);
        let hold = script("sed -i '$a import time; time.sleep(100)' /tmp/take.py; python3 /tmp/take.py > /tmp/taken & until [ -s /tmp/taken ]; do sleep 0.1; done; cat /tmp/taken");
        let taken: usize = helper.guest(&first.wire).sh(&hold).output.trim().parse().unwrap();
        let left: usize = helper
            .guest(&second.wire)
            .sh(&script("python3 /tmp/take.py"))
            .output
            .trim()
            .parse()
            .unwrap();
        assert!(
            taken > 8 && left >= taken,
            "{}: one box took {} terminals and left {} to the other",
            runtime,
            taken,
            left
        );
        helper.end(&greedy, false).unwrap();
        helper.end(&other, false).unwrap();
    }
    assert_eq!(helper.stop(), Some(0));
}

#[test]
fn a_link_in_an_upper_leads_no_mount_out_of_the_box() {
    let place = Place::new("link");
    // A template without a /usr of the host's, in whose boxes /usr is a folder of the upper like any other.
    let plain = place.data.join("templates/debian");
    fs::create_dir_all(plain.join("root")).unwrap();
    for folder in ["usr", "etc", "proc", "dev", "sys", "tmp", "run", "root", "workspace"] {
        fs::create_dir_all(plain.join("root").join(folder)).unwrap();
    }
    fs::write(plain.join("meta"), "fingerprint=test\ndetail=test\nmasked=0\n").unwrap();
    let mut helper = place.start();
    for runtime in runtimes().into_iter().filter(|runtime| *runtime != "runsc") {
        let (id, upper) = (place.id(runtime), format!("upp_{}", runtime));
        helper
            .create(&Wanted {
                template: "debian",
                ..wanted(&id, &upper, runtime)
            })
            .unwrap();
        helper.end(&id, true).unwrap();
        // As root inside would: with the box ended only its upper is left to write to.
        let written = place.data.join("pool/uppers").join(&upper).join("upper");
        let written = if written.is_dir() {
            written
        } else {
            place.data.join("pool").join(&upper).join("upper")
        };
        std::os::unix::fs::symlink("/etc", written.join("usr")).unwrap();
        let refused = helper
            .create(&Wanted {
                fresh: 0,
                ..wanted(&id, &upper, runtime)
            })
            .map(|_| ())
            .unwrap_err();
        assert_eq!(refused.0, code::INVALID, "{}", refused.1);
        // The threads that put boxes together still see the machine as it is.
        let next = place.id(&format!("next{}", runtime));
        let made = helper
            .create(&wanted(&next, &format!("upp_next{}", runtime), runtime))
            .unwrap();
        assert_eq!(helper.guest(&made.wire).sh("ls -d /usr/bin").output, "/usr/bin\n");
        helper.end(&next, false).unwrap();
        helper.call(protocol::DROP_UPPER, |writer| writer.str(&upper)).unwrap();
    }
    assert_eq!(helper.stop(), Some(0));
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn all_boxes_together_leave_the_machine_numbers_and_memory() {
    let place = Place::new("share");
    let mut helper = place.start();
    let id = place.id("a");
    helper.create(&wanted(&id, "upp_a", "")).unwrap();
    let parent = format!("delta-{}", folder_digest(&place.data));
    let read = |paths: [String; 2]| -> u64 {
        paths
            .iter()
            .find_map(|path| fs::read_to_string(path).ok())
            .unwrap_or_else(|| panic!("{:?}", paths))
            .trim()
            .parse()
            .unwrap()
    };
    let root = "/sys/fs/cgroup";
    let numbers = read([
        format!("{}/pids/{}/pids.max", root, parent),
        format!("{}/{}/pids.max", root, parent),
    ]);
    let most: u64 = fs::read_to_string("/proc/sys/kernel/pid_max")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(numbers < most, "{} of {}", numbers, most);
    let memory = read([
        format!("{}/memory/{}/memory.limit_in_bytes", root, parent),
        format!("{}/{}/memory.max", root, parent),
    ]);
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let total: u64 = text.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(memory <= (total << 10) - (256 << 20), "{} of {}", memory, total << 10);
    helper.end(&id, false).unwrap();
    assert_eq!(helper.stop(), Some(0));
}

#[test]
fn a_box_whose_guest_dies_is_news_and_can_still_be_ended() {
    let place = Place::new("death");
    let mut helper = place.start();
    for runtime in runtimes() {
        let id = place.id(runtime);
        let made = helper
            .create(&wanted(&id, &format!("upp_{}", runtime), runtime))
            .unwrap();
        unsafe { ffi::kill(made.pid, 9) };
        let (kind, payload) = helper.wait_for_news();
        let mut reader = Reader::new(&payload);
        assert_eq!(
            (kind, reader.str().unwrap(), reader.u8().unwrap()),
            (protocol::BOX_DIED, id.as_str(), 0)
        );
        assert_eq!(helper.list().0[0].2, 3);
        assert_eq!(helper.on(protocol::FREEZE, &id).unwrap_err().0, code::NOT_FOUND);
        helper.end(&id, false).unwrap();
        assert_eq!(place.left_of_boxes(), Vec::<String>::new(), "{}", runtime);
    }
    assert_eq!(helper.stop(), Some(0));
}

#[test]
fn what_breaks_the_rules_is_refused_and_does_nothing() {
    let place = Place::new("refusals");
    let mut helper = place.start();
    let fine = wanted("sbx_a", "upp_a", "");
    let bad: Vec<Wanted<'_>> = vec![
        Wanted { id: "", ..fine.clone() },
        Wanted {
            id: "../../etc",
            ..fine.clone()
        },
        Wanted {
            id: "sbx_A",
            ..fine.clone()
        },
        Wanted {
            id: "sbx_a/b",
            ..fine.clone()
        },
        Wanted {
            id: "sbx_a\0",
            ..fine.clone()
        },
        Wanted {
            id: "sbx_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            ..fine.clone()
        },
        Wanted {
            upper: "upp_..",
            ..fine.clone()
        },
        Wanted {
            fresh: 2,
            ..fine.clone()
        },
        Wanted {
            template: "../host",
            ..fine.clone()
        },
        Wanted {
            template: "",
            ..fine.clone()
        },
        Wanted {
            runtime: "sh",
            ..fine.clone()
        },
        Wanted {
            runtime: "/usr/bin/crun",
            ..fine.clone()
        },
        Wanted {
            cpu_milli: 0,
            ..fine.clone()
        },
        Wanted {
            cpu_milli: u32::MAX,
            ..fine.clone()
        },
        Wanted {
            memory_mb: 0,
            ..fine.clone()
        },
        Wanted {
            memory_mb: u32::MAX,
            ..fine.clone()
        },
        Wanted {
            disk_mb: 0,
            ..fine.clone()
        },
        Wanted {
            processes: 0,
            ..fine.clone()
        },
        Wanted {
            processes: u32::MAX,
            ..fine.clone()
        },
        Wanted {
            hostname: "",
            ..fine.clone()
        },
        Wanted {
            hostname: "a\"},{\"b",
            ..fine.clone()
        },
    ];
    for (at, wanted) in bad.iter().enumerate() {
        assert_eq!(
            helper.create(wanted).err().expect("it was made").0,
            code::INVALID,
            "number {}",
            at
        );
    }
    assert_eq!(
        helper
            .call(protocol::CREATE, |writer| writer.str("sbx_a"))
            .unwrap_err()
            .0,
        code::INVALID
    );
    assert_eq!(
        helper
            .call(protocol::CREATE, |writer| writer.u32(u32::MAX))
            .unwrap_err()
            .0,
        code::INVALID
    );
    assert_eq!(
        helper
            .create(&Wanted {
                fresh: 0,
                ..fine.clone()
            })
            .err()
            .unwrap()
            .0,
        code::NOT_FOUND
    );
    assert_eq!(
        helper
            .create(&Wanted {
                template: "unheard",
                ..fine.clone()
            })
            .err()
            .unwrap()
            .0,
        code::NOT_FOUND
    );
    for kind in [protocol::FREEZE, protocol::THAW, protocol::STATS] {
        assert_eq!(helper.on(kind, "sbx_nobody").unwrap_err().0, code::NOT_FOUND);
        assert_eq!(helper.on(kind, "../x").unwrap_err().0, code::INVALID);
    }
    assert_eq!(helper.call(77, |_| {}).unwrap_err().0, code::NOT_SUPPORTED);
    assert_eq!(
        helper
            .call(protocol::BUILD_TEMPLATE, |writer| writer.str("/etc"))
            .unwrap_err()
            .0,
        code::NOT_FOUND
    );
    helper.end("sbx_nobody", false).unwrap();
    assert_eq!(helper.list(), (Vec::new(), Vec::new()));
    assert_eq!(place.left_of_boxes(), Vec::<String>::new());

    helper.create(&fine).unwrap();
    assert_eq!(helper.create(&fine).err().unwrap().0, code::EXISTS);
    assert_eq!(
        helper
            .create(&Wanted {
                id: "sbx_b",
                ..fine.clone()
            })
            .err()
            .unwrap()
            .0,
        code::BUSY
    );
    assert_eq!(helper.on(protocol::DROP_UPPER, "upp_a").unwrap_err().0, code::BUSY);
    helper.end("sbx_a", true).unwrap();
    assert_eq!(
        helper
            .create(&Wanted {
                id: "sbx_b",
                ..fine.clone()
            })
            .err()
            .unwrap()
            .0,
        code::EXISTS
    );
    assert_eq!(
        helper.list().1,
        ["upp_a"],
        "a refused create dropped an upper that was there before it"
    );
    helper.on(protocol::DROP_UPPER, "upp_a").unwrap();
    helper.on(protocol::DROP_UPPER, "upp_a").unwrap();
    assert_eq!(helper.stop(), Some(0));
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn a_guest_forged_in_the_upper_is_not_what_starts_on_it_again() {
    let place = Place::new("forged");
    let mut helper = place.start();
    let made = helper.create(&wanted("sbx_a", "upp_a", "")).unwrap();
    let forge = "rm -rf /.delta && mkdir -p /.delta/deep/deeper && printf '#!/bin/sh\\nsleep 1000\\n' > /.delta/guest && chmod 755 /.delta/guest && cat /.delta/guest";
    assert!(helper.guest(&made.wire).sh(forge).output.contains("sleep 1000"));
    for _ in 0..2 {
        helper.end("sbx_a", true).unwrap();
        let again = helper
            .create(&Wanted {
                fresh: 0,
                ..wanted("sbx_a", "upp_a", "")
            })
            .unwrap();
        let mut guest = helper.guest(&again.wire);
        assert_eq!(
            guest.sh("head -c 4 /.delta/guest | tail -c 3; ls /.delta").output,
            "ELFguest\nwire\n"
        );
        guest.sh("rm -f /.delta/guest");
    }
    assert_eq!(helper.stop(), Some(0));
}

#[test]
fn after_a_kill_boxes_are_adopted_with_their_processes_and_their_state() {
    let place = Place::new("adopt");
    let mut helper = place.start();
    for runtime in runtimes() {
        let id = place.id(runtime);
        let made = helper
            .create(&wanted(&id, &format!("upp_{}", runtime), runtime))
            .unwrap();
        helper
            .guest(&made.wire)
            .sh("echo $$ > /workspace/before; sleep 1000 >/dev/null 2>&1 &");
    }
    helper.create(&wanted("sbx_frozen", "upp_frozen", "")).unwrap();
    helper.on(protocol::FREEZE, "sbx_frozen").unwrap();
    let dead = helper.create(&wanted("sbx_dead", "upp_dead", "")).unwrap();
    let before = helper.list().0.len();
    helper.kill();
    unsafe { ffi::kill(dead.pid, 9) };

    let mut helper = place.start();
    let (boxes, free) = helper.list();
    assert_eq!((boxes.len(), free), (before - 1, vec!["upp_dead".to_string()]));
    for (id, _, state, wire) in &boxes {
        assert_eq!(*state, if id == "sbx_frozen" { 2 } else { 1 }, "{}", id);
        if id == "sbx_frozen" {
            helper.on(protocol::THAW, id).unwrap();
        } else {
            let seen = helper
                .guest(wire)
                .sh("cat /workspace/before >/dev/null && ps ax 2>/dev/null | grep -c '[s]leep 1000'");
            assert_eq!(seen.output, "1\n", "{}", id);
        }
        assert_eq!(
            helper
                .create(&Wanted {
                    id,
                    ..wanted(id, "upp_new", "")
                })
                .err()
                .unwrap()
                .0,
            code::EXISTS
        );
    }
    // A range of an adopted box is not given to another.
    let fresh = helper.create(&wanted("sbx_fresh", "upp_fresh", "")).unwrap();
    let taken: Vec<String> = fs::read_dir(place.data.join("state/boxes"))
        .unwrap()
        .flatten()
        .map(|entry| range_of(&entry.path()))
        .collect();
    let distinct: std::collections::HashSet<&String> = taken.iter().collect();
    assert_eq!(distinct.len(), taken.len(), "two boxes share a uid range");
    assert!(fresh.uid_first > place.uid_base);
    // An adopted box's death is seen like any other.
    let (id, pid) = ("sbx_fresh", fresh.pid);
    unsafe { ffi::kill(pid, 9) };
    let (_, payload) = helper.wait_for_news();
    assert_eq!(Reader::new(&payload).str().unwrap(), id);
    assert_eq!(helper.stop(), Some(0));
    assert_eq!(place.left(), Vec::<String>::new());
}

fn range_of(folder: &Path) -> String {
    let spec = fs::read_to_string(folder.join("spec")).unwrap();
    spec.lines()
        .find_map(|line| line.strip_prefix("range="))
        .unwrap()
        .to_string()
}

/// The helper kills itself at every step of making and ending boxes in turn. Whatever the next one finds, a box is there and
/// works, or nothing of it is.
#[test]
fn a_kill_at_any_step_loses_nothing_and_leaves_nothing() {
    let place = Place::new("crash");
    let id = &place.id("a");
    let all = runtimes();
    let most = 24;
    let mut reached_the_end = false;
    for step in 1..=most {
        let runtime = all[step % all.len()];
        let mut helper = place.start_with(&[("DELTA_TEST_CRASH_AT", &step.to_string())]);
        let number = helper.send_create(&wanted(id, "upp_a", runtime));
        let made = helper.wait(number);
        let mut ended = None;
        if let Some(made) = &made {
            made.as_ref().expect("the box is made or the helper dies");
            let number = helper.send(protocol::END, |writer| {
                writer.str(id);
                writer.u8(0);
            });
            ended = helper.wait(number);
        }
        helper.kill_if_alive();

        let mut helper = place.start();
        let (boxes, free) = helper.list();
        if ended.is_some() {
            assert_eq!(
                (boxes.len(), free.len()),
                (0, 0),
                "step {} on {}: ended, and yet there",
                step,
                runtime
            );
            reached_the_end = true;
        } else if let Some(found) = boxes.first() {
            assert_eq!(
                helper.guest(&found.3).sh("echo alive").output,
                "alive\n",
                "step {} on {}",
                step,
                runtime
            );
        } else {
            assert_eq!(
                place.left_of_boxes(),
                Vec::<String>::new(),
                "step {} on {}",
                step,
                runtime
            );
            assert!(
                free.is_empty() || free == ["upp_a"],
                "step {} on {}: {:?}",
                step,
                runtime,
                free
            );
        }
        helper.end(id, false).unwrap();
        helper.on(protocol::DROP_UPPER, "upp_a").unwrap();
        assert_eq!(
            place.left_of_boxes(),
            Vec::<String>::new(),
            "step {} on {}",
            step,
            runtime
        );
        assert_eq!(helper.stop(), Some(0), "step {} on {}", step, runtime);
        if reached_the_end {
            break;
        }
    }
    assert!(
        reached_the_end,
        "making and ending a box has more than {} steps: raise the number",
        most
    );
    assert_eq!(place.left(), Vec::<String>::new());
}

/// As above, but the moment is any: between two steps, inside a runtime, while several boxes are made at once.
#[test]
fn a_kill_at_any_moment_of_several_creates_loses_nothing_and_leaves_nothing() {
    let place = Place::new("moments");
    let all = runtimes();
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    for round in 0..10 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let mut helper = place.start();
        helper.list();
        for number in 0..4 {
            let (id, upper) = (place.id(&number.to_string()), format!("upp_{}", number));
            helper.send_create(&wanted(&id, &upper, all[(round + number) % all.len()]));
        }
        std::thread::sleep(Duration::from_micros(seed % 200_000));
        helper.kill();

        let mut helper = place.start();
        let (boxes, free) = helper.list();
        for (id, _, state, wire) in &boxes {
            assert_eq!(*state, 1, "round {}", round);
            assert_eq!(helper.guest(wire).sh("echo alive").output, "alive\n", "round {}", round);
            helper.end(id, false).unwrap();
        }
        for upper in &free {
            helper.on(protocol::DROP_UPPER, upper).unwrap();
        }
        assert_eq!(place.left_of_boxes(), Vec::<String>::new(), "round {}", round);
        assert_eq!(helper.list(), (Vec::new(), Vec::new()), "round {}", round);
        assert_eq!(helper.stop(), Some(0), "round {}", round);
        assert_eq!(place.left(), Vec::<String>::new(), "round {}", round);
    }
}

#[test]
fn many_creates_at_once_all_succeed_and_a_termination_leaves_them_running() {
    let place = Place::new("many");
    let mut helper = place.start();
    let count = 40;
    let numbers: Vec<u32> = (0..count)
        .map(|at| helper.send_create(&wanted(&format!("sbx_{}", at), &format!("upp_{}", at), "")))
        .collect();
    for number in numbers {
        helper.wait(number).expect("the helper is gone").unwrap();
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = mounts
        .lines()
        .filter(|line| line.contains(&*place.data.to_string_lossy()))
        .count();
    assert!(ours <= 1, "boxes are in the host's mount table:\n{}", mounts);
    unsafe { ffi::kill(helper.child.id() as i32, 15) };
    let (kind, payload) = helper.wait_for_news();
    assert_eq!((kind, payload), (protocol::SHUTDOWN, vec![2]));
    helper.socket.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(helper.child.wait().unwrap().success());

    let since = Instant::now();
    let mut helper = place.start();
    assert_eq!(helper.list().0.len(), count);
    assert!(since.elapsed() < CALL_WAIT);
    unsafe { ffi::kill(helper.child.id() as i32, 2) };
    let (kind, payload) = helper.wait_for_news();
    assert_eq!((kind, payload), (protocol::SHUTDOWN, vec![1]));
    helper.socket.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(helper.child.wait().unwrap().success());
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn a_second_helper_on_the_same_folder_is_refused() {
    let place = Place::new("second");
    let mut helper = place.start();
    helper.list();
    let second = Command::new(env!("CARGO_BIN_EXE_delta-helper"))
        .args(["end-all"])
        .env("DELTA_DATA_DIR", &place.data)
        .env("DELTA_GUEST", env!("CARGO_BIN_EXE_delta-guest"))
        .output()
        .unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another helper runs"));
    assert_eq!(helper.stop(), Some(0));
}
