//! The real guest as a plain process, over a real socket.

#[allow(dead_code)]
mod guest_client;

use delta::wire::{self, code, op, Reader};
use guest_client::{exec, sh, until, Guest, Wire, ATTACH, KEEP_STDIN, PTY};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn alive(pid: u32) -> bool {
    // A zombie is not alive.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(false, |stat| !stat.contains(") Z"))
}

mod execs {
    use super::*;

    #[test]
    fn output_of_both_streams_and_the_exit_code_come_back() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let outcome = wire.run(&sh("a", "echo out; echo err >&2; exit 7"));
        assert_eq!((text(&outcome.stdout), text(&outcome.stderr)), ("out\n", "err\n"));
        assert_eq!((outcome.kind, outcome.value, outcome.flags, outcome.output_bytes), (0, 7, 0, 8));
    }

    #[test]
    fn a_death_by_signal_is_not_an_exit_code() {
        let guest = Guest::start();
        let outcome = guest.connect().run(&sh("a", "kill -11 $$"));
        assert_eq!((outcome.kind, outcome.value), (1, 11));
    }

    #[test]
    fn many_at_once_each_get_their_own() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let ids: Vec<String> = (0..50).map(|number| format!("e{number}")).collect();
        let channels: Vec<u32> = ids.iter().map(|id| wire.open_exec(&sh(id, &format!("echo {id}")))).collect();
        for (id, channel) in ids.iter().zip(channels) {
            assert_eq!(text(&wire.collect(channel).stdout).trim(), id);
        }
    }

    #[test]
    fn programs_get_a_clean_process() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let script = "umask; ulimit -c; env | sort; ls /proc/self/fd; grep -E 'SigBlk|SigIgn' /proc/self/status; \
                      cut -d' ' -f5,6 /proc/$$/stat; echo $$; cat /proc/self/oom_score_adj";
        let mut args = sh("a", script);
        args.env = vec!["PATH=/usr/bin:/bin", "ONLY=this"];
        let outcome = wire.run(&args);
        let lines: Vec<&str> = text(&outcome.stdout).lines().collect();
        assert_eq!(&lines[..2], ["0022", "0"]);
        assert!(
            lines.contains(&"ONLY=this") && lines.iter().filter(|line| line.contains('=')).count() <= 3,
            "{lines:?}"
        );
        let fds: Vec<&str> = lines.iter().copied().filter(|line| line.len() == 1 && *line <= "9").collect();
        // 0 of `ulimit -c`, then the standard streams and ls's own folder.
        assert_eq!(fds, ["0", "0", "1", "2", "3"]);
        assert!(lines.iter().any(|line| line.starts_with("SigBlk") && line.ends_with("0000000000000000")));
        assert!(lines.iter().any(|line| line.starts_with("SigIgn") && line.ends_with("0000000000000000")), "{lines:?}");
        let pid = lines[lines.len() - 2];
        assert_eq!(lines[lines.len() - 3], format!("{pid} {pid}"), "its own group and session");
        assert_eq!(lines[lines.len() - 1], "500");
    }

    #[test]
    fn programs_run_as_the_user_asked_for() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let run = |wire: &mut Wire, id: &str, user: &str| {
            let mut args = exec(id, &["/usr/bin/id"]);
            args.user = user;
            String::from_utf8(wire.run(&args).stdout).unwrap()
        };
        assert!(run(&mut wire, "a", "nobody").starts_with("uid=65534(nobody) gid=65534"));
        assert_eq!(run(&mut wire, "b", "12345:6").split(' ').take(2).collect::<Vec<_>>(), ["uid=12345", "gid=6(disk)"]);
        assert!(run(&mut wire, "c", "root").starts_with("uid=0(root) gid=0(root) groups=0(root)"));
    }

    #[test]
    fn a_start_that_fails_says_why_and_leaves_its_id_free() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let file = guest.path("text");
        std::fs::write(&file, "not a program").unwrap();
        let fail = |wire: &mut Wire, change: &dyn Fn(&mut guest_client::ExecArgs<'_>)| {
            let mut args = exec("x", &["/bin/true"]);
            change(&mut args);
            wire.run(&args).code
        };
        let argv = |argv: &[&str]| argv.iter().map(|argument| argument.as_bytes().to_vec()).collect::<Vec<_>>();
        assert_eq!(fail(&mut wire, &|args| args.argv = argv(&["/no/such"])), code::NOT_FOUND);
        assert_eq!(fail(&mut wire, &|args| args.argv = argv(&["no-such-program"])), code::NOT_FOUND);
        assert_eq!(fail(&mut wire, &|args| args.argv = argv(&["/etc/passwd"])), code::PERMISSION_DENIED);
        assert_eq!(fail(&mut wire, &|args| args.argv = argv(&["/etc"])), code::PERMISSION_DENIED);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(fail(&mut wire, &|args| args.argv = argv(&[&file])), code::NOT_EXECUTABLE);
        assert_eq!(fail(&mut wire, &|args| args.argv = vec![]), code::INVALID);
        assert_eq!(fail(&mut wire, &|args| args.argv = vec![b"a\0b".to_vec()]), code::INVALID);
        assert_eq!(
            fail(&mut wire, &|args| args.argv = vec![b"/bin/true".to_vec(), vec![b'x'; 200_000]]),
            code::TOO_LARGE
        );
        assert_eq!(fail(&mut wire, &|args| args.cwd = "/no/such"), code::NOT_FOUND);
        assert_eq!(fail(&mut wire, &|args| args.cwd = "/etc/passwd"), code::NOT_A_DIRECTORY);
        assert_eq!(fail(&mut wire, &|args| args.cwd = "relative"), code::INVALID);
        assert_eq!(fail(&mut wire, &|args| args.user = "no-such-user"), code::UNKNOWN_USER);
        assert_eq!(fail(&mut wire, &|args| args.id = "bad id"), code::INVALID);
        assert_eq!(fail(&mut wire, &|_| {}), code::OK);
        let outcome = wire.run(&exec("y", &["true"]));
        assert_eq!((outcome.code, outcome.kind, outcome.value), (0, 0, 0), "found in PATH");
    }

    #[test]
    fn a_known_id_is_followed_not_started_again() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let file = guest.path("count");
        let args = sh("same", &format!("echo run >> {file}; echo done"));
        assert_eq!(text(&wire.run(&args).stdout), "done\n");
        let channel = wire.open_exec(&args);
        assert_eq!(wire.opened(channel).1, 1);
        assert_eq!(text(&wire.collect(channel).stdout), "done\n");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "run\n");
    }

    #[test]
    fn background_execs_outlive_their_connection_and_resume_from_any_offset() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let mut args = sh("bg", "echo 0123456789; sleep 0.3; echo abcdef");
        args.flags = 0;
        let channel = wire.open_exec(&args);
        let closed = wire.closed(channel).unwrap();
        let mut r = closed.reader();
        assert_eq!(r.u8(), Ok(3), "running");
        drop(wire);
        let mut wire = guest.connect();
        // Its first line has come when it shows; until then there is nothing at offset 4 to resume from.
        let first = wire.attach("bg", 0);
        assert_eq!(wire.opened(first).1, 1);
        assert_eq!(wire.next(first).kind, wire::DATA);
        let channel = wire.attach("bg", 4);
        assert_eq!(wire.opened(channel).1, 1);
        let outcome = wire.collect(channel);
        assert_eq!((text(&outcome.stdout), outcome.first), ("456789\nabcdef\n", Some(4)));
        assert_eq!((outcome.kind, outcome.value, outcome.output_bytes), (0, 0, 18));
        let channel = wire.attach("bg", 18);
        assert_eq!(wire.collect(channel).stdout, b"");
        let channel = wire.attach("bg", 19);
        assert_eq!(wire.collect(channel).code, code::INVALID);
        let channel = wire.attach("other", 0);
        assert_eq!(wire.collect(channel).code, code::UNKNOWN_EXEC);
    }

    #[test]
    fn an_attached_exec_goes_on_after_its_connection() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let channel = wire.open_exec(&sh("a", "echo one; sleep 0.3; echo two"));
        wire.opened(channel);
        drop(wire);
        let mut wire = guest.connect();
        let channel = wire.attach("a", 0);
        assert_eq!(text(&wire.collect(channel).stdout), "one\ntwo\n");
    }

    #[test]
    fn execs_are_listed_newest_first_and_can_be_forgotten() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        wire.run(&sh("first", "exit 3"));
        std::thread::sleep(std::time::Duration::from_millis(5));
        let mut args = exec("second", &["/bin/sleep", "60"]);
        args.tag = "tagged";
        let second = wire.open_exec(&args);
        let pid = wire.opened(second).0;
        let listed = wire.paths(op::EXECS, |_| {}).unwrap();
        let infos = listed
            .reader()
            .list(|r| {
                let (id, pid, kind, value) = (r.str()?.to_string(), r.u32()?, r.u8()?, r.u8()?);
                (r.u8()?, r.u64()?, r.u64()?, r.u64()?, r.u64()?);
                let argv = r.list(|r| r.bytes().map(<[u8]>::to_vec))?;
                (r.str()?, r.str()?);
                let tag = r.str()?.to_string();
                r.u8()?;
                Ok((id, pid, kind, value, argv.len(), tag))
            })
            .unwrap();
        assert_eq!(infos[0], ("second".into(), pid, 3, 0, 2, "tagged".into()));
        assert_eq!((infos[1].0.as_str(), infos[1].2, infos[1].3), ("first", 0, 3));
        let forget = |wire: &mut Wire, id: &str| wire.paths(op::FORGET, |w| w.str(id)).map(drop);
        assert_eq!(forget(&mut wire, "second"), Err(code::BUSY));
        assert_eq!(forget(&mut wire, "first"), Ok(()));
        assert_eq!(forget(&mut wire, "first"), Err(code::UNKNOWN_EXEC));
    }

    #[test]
    fn signals_reach_the_process_or_its_whole_session() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let signal = |wire: &mut Wire, id: &str, number: u8, scope: u8| {
            wire.paths(op::SIGNAL, |w| {
                w.str(id);
                w.u8(number);
                w.u8(scope);
            })
            .map(drop)
        };
        let channel = wire.open_exec(&exec("a", &["/bin/sleep", "60"]));
        wire.opened(channel);
        assert_eq!(signal(&mut wire, "a", 10, 0), Ok(()));
        let outcome = wire.collect(channel);
        assert_eq!((outcome.kind, outcome.value), (1, 10));
        assert_eq!(signal(&mut wire, "a", 10, 0), Err(code::NOT_FOUND));
        assert_eq!(signal(&mut wire, "none", 10, 0), Err(code::UNKNOWN_EXEC));
        assert_eq!(signal(&mut wire, "a", 65, 0), Err(code::INVALID));

        // A child in a group of its own is not in the leader's group, only in its session.
        let channel = wire.open_exec(&exec("b", &["/bin/bash", "-c", "set -m; sleep 60 & echo $!; wait"]));
        wire.opened(channel);
        let data = wire.next(channel);
        let child: u32 = text(&data.payload[9..]).trim().parse().unwrap();
        assert!(alive(child));
        assert_eq!(signal(&mut wire, "b", 9, 1), Ok(()));
        assert_eq!(wire.collect(channel).value, 9);
        until("the whole session is gone", || if alive(child) { None } else { Some(()) });
        // CONTROL does the same on the exec's own channel.
        let channel = wire.open_exec(&exec("c", &["/bin/sleep", "60"]));
        wire.opened(channel);
        wire.send(wire::CONTROL, channel, |w| {
            w.u8(1);
            w.u8(15);
        });
        assert_eq!(wire.collect(channel).value, 15);
    }

    #[test]
    fn a_timeout_ends_the_session_even_with_no_host_connected() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let pids = guest.path("pids");
        let script = format!("trap '' TERM; (trap '' TERM; sleep 60) & echo $$ $! > {pids}; wait; sleep 60");
        let mut args = sh("t", &script);
        args.timeout_ms = 150;
        args.flags = 0;
        let channel = wire.open_exec(&args);
        wire.closed(channel).unwrap();
        drop(wire);
        let pids: Vec<u32> = until("both wrote their pids", || {
            let read = std::fs::read_to_string(&pids).ok()?;
            let pids: Vec<u32> = read.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
            if pids.len() == 2 {
                Some(pids)
            } else {
                None
            }
        });
        until("KILL came after TERM was ignored", || if pids.iter().any(|pid| alive(*pid)) { None } else { Some(()) });
        let mut wire = guest.connect();
        let channel = wire.attach("t", 0);
        let outcome = wire.collect(channel);
        assert_eq!((outcome.kind, outcome.value, outcome.flags), (1, 9, 1));
    }

    #[test]
    fn a_program_that_heeds_term_at_its_timeout_keeps_its_own_exit() {
        let guest = Guest::start();
        let mut args = sh("t", "trap 'exit 5' TERM; sleep 60 & wait");
        args.timeout_ms = 150;
        let outcome = guest.connect().run(&args);
        assert_eq!((outcome.kind, outcome.value, outcome.flags), (0, 5, 1));
    }

    #[test]
    fn a_background_child_that_holds_the_output_does_not_hold_the_exit() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let go = guest.path("go");
        let script = format!("(while [ ! -e {go} ]; do sleep 0.05; done; echo later) & echo now");
        let outcome = wire.run(&sh("a", &script));
        assert_eq!((text(&outcome.stdout), outcome.kind, outcome.value), ("now\n", 0, 0));
        std::fs::write(go, "").unwrap();
        let later = until("the child's output is kept", || {
            let channel = wire.attach("a", 0);
            let outcome = wire.collect(channel);
            if outcome.stdout.len() > 4 {
                Some(outcome)
            } else {
                None
            }
        });
        assert_eq!(text(&later.stdout), "now\nlater\n");
    }
}

mod output {
    use super::*;

    #[test]
    fn a_slow_reader_holds_the_program_back_and_loses_nothing() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let progress = guest.path("progress");
        let script = format!("for i in $(seq 64); do head -c 1000000 /dev/zero; echo $i > {progress}; done");
        let channel = wire.open_exec(&sh("a", &script));
        wire.opened(channel);
        // With one MiB of credit and no more, it stops near that.
        std::thread::sleep(std::time::Duration::from_millis(500));
        let reached: u32 = std::fs::read_to_string(&progress).map_or(0, |text| text.trim().parse().unwrap_or(0));
        assert!(reached <= 2, "{reached}");
        // Another exec is not held up by it.
        assert_eq!(text(&wire.run(&sh("b", "echo quick")).stdout), "quick\n");
        let outcome = wire.collect(channel);
        assert_eq!((outcome.stdout.len(), outcome.gaps, outcome.value), (64_000_000, 0, 0));
        assert!(guest.resident_kb() < 16 << 10, "{} kB", guest.resident_kb());
    }

    #[test]
    fn with_nobody_attached_the_oldest_is_overwritten_and_the_gap_shows() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let mut args = sh("a", "seq 2000000; sleep 0.2; echo end");
        args.flags = 0;
        let channel = wire.open_exec(&args);
        wire.closed(channel).unwrap();
        let total = (1..=2_000_000u64).map(|number| number.to_string().len() as u64 + 1).sum::<u64>() + 4;
        let outcome = until("it ended", || {
            let channel = wire.attach("a", 0);
            let outcome = wire.collect(channel);
            if outcome.output_bytes == total {
                Some(outcome)
            } else {
                None
            }
        });
        let channel = wire.attach("a", 0);
        let (_, _, start) = wire.opened(channel);
        let again = wire.collect(channel);
        assert_eq!(again.first, Some(start));
        assert_eq!(start + again.stdout.len() as u64, outcome.output_bytes);
        assert!(again.stdout.len() <= 4 << 20 && again.stdout.len() > 3 << 20, "{}", again.stdout.len());
        assert!(again.stdout.ends_with(b"1999999\n2000000\nend\n"));
        assert!(guest.resident_kb() < 12 << 10, "{} kB", guest.resident_kb());
    }

    #[test]
    fn a_host_that_does_not_read_at_all_stops_nobody_else() {
        let guest = Guest::start();
        let mut stuck = guest.connect();
        for number in 0..20 {
            let id = format!("s{number}");
            let channel = stuck.open_exec(&sh(&id, "cat /dev/zero"));
            stuck.credit(channel, 1 << 30);
        }
        let mut wire = guest.connect();
        assert_eq!(text(&wire.run(&sh("b", "echo quick")).stdout), "quick\n");
        assert!(guest.resident_kb() < 110 << 10, "{} kB", guest.resident_kb());
    }
}

mod input {
    use super::*;

    #[test]
    fn stdin_sent_with_the_exec_is_read_to_its_end() {
        let guest = Guest::start();
        let mut args = exec("a", &["/usr/bin/wc", "-c"]);
        args.stdin = vec![b'x'; 3 << 20];
        assert_eq!(text(&guest.connect().run(&args).stdout).trim(), (3 << 20).to_string());
    }

    #[test]
    fn stdin_is_empty_unless_given() {
        let guest = Guest::start();
        assert_eq!(text(&guest.connect().run(&exec("a", &["/usr/bin/wc", "-c"])).stdout).trim(), "0");
    }

    #[test]
    fn stdin_streams_with_credit_as_the_program_reads() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let mut args = sh("a", "sleep 0.2; sha256sum");
        args.flags = ATTACH | KEEP_STDIN;
        let channel = wire.open_exec(&args);
        wire.opened(channel);
        let bytes: Vec<u8> = (0..5_000_000u32).map(|index| (index * 7 >> 3) as u8).collect();
        let (mut sent, mut credit) = (0, 1 << 20);
        while sent < bytes.len() {
            let count = (bytes.len() - sent).min(credit).min(60_000);
            if count == 0 {
                let frame = wire.next(channel);
                assert_eq!(frame.kind, wire::CREDIT);
                credit += frame.reader().u32().unwrap() as usize;
                continue;
            }
            wire.data(channel, sent as u64, &bytes[sent..sent + count]);
            sent += count;
            credit -= count;
        }
        wire.send(wire::END, channel, |_| {});
        let outcome = wire.collect(channel);
        std::fs::write(guest.path("copy"), &bytes).unwrap();
        let expected = std::process::Command::new("sha256sum").arg(guest.path("copy")).output().unwrap();
        assert_eq!(outcome.stdout[..64], expected.stdout[..64]);
    }

    #[test]
    fn input_for_a_program_that_does_not_read_it_is_dropped_with_its_credit_returned() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let mut args = sh("a", "exec 0<&-; sleep 0.5");
        args.flags = ATTACH | KEEP_STDIN;
        let channel = wire.open_exec(&args);
        wire.opened(channel);
        for index in 0..16 {
            wire.data(channel, index * 65536, &[0; 65536]);
        }
        let mut credit = 0;
        while credit < 1 << 20 {
            let frame = wire.next(channel);
            assert_eq!(frame.kind, wire::CREDIT);
            credit += frame.reader().u32().unwrap();
        }
        assert_eq!(wire.collect(channel).value, 0);
    }

    #[test]
    fn stdin_of_a_running_exec_can_be_written_by_another_channel_while_it_is_open() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let mut args = exec("a", &["/bin/cat"]);
        args.flags = KEEP_STDIN;
        let channel = wire.open_exec(&args);
        wire.closed(channel).unwrap();
        let attach = |wire: &mut Wire| {
            wire.open(op::ATTACH, |w| {
                w.str("a");
                w.u64(0);
                w.u8(1);
            })
        };
        let first = attach(&mut wire);
        wire.opened(first);
        wire.data(first, 0, b"one ");
        wire.send(wire::CANCEL, first, |_| {});
        let second = attach(&mut wire);
        wire.opened(second);
        wire.data(second, 0, b"two");
        wire.send(wire::CONTROL, second, |w| w.u8(3));
        let third = attach(&mut wire);
        assert_eq!(text(&wire.collect(second).stdout), "one two");
        assert_eq!(wire.collect(third).code, code::INVALID);
    }

    #[test]
    fn a_script_larger_than_any_argument_runs_from_memory() {
        let guest = Guest::start();
        let mut args = exec("a", &["/bin/sh"]);
        args.argv.push(b"\0script".to_vec());
        args.argv.push(b"argument".to_vec());
        args.user = "nobody";
        let script = format!("#{}\necho \"got $1\"; sed -n 2p \"$0\" | head -c 4\n", "x".repeat(1 << 20));
        args.script = Some(script.into_bytes());
        let outcome = guest.connect().run(&args);
        assert_eq!(text(&outcome.stdout), "got argument\necho", "{}", text(&outcome.stderr));
    }

    #[test]
    fn a_terminal_has_a_size_an_owner_echo_and_signals() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let mut args =
            sh("a", "tty >/dev/null && echo tty; stty size; stat -c %U $(tty); read line; stty size; read never");
        args.flags = ATTACH | PTY;
        args.size = (100, 30);
        args.user = "nobody";
        let channel = wire.open_exec(&args);
        wire.opened(channel);
        let mut seen = Vec::new();
        while !text(&seen).contains("nobody") {
            seen.extend_from_slice(&wire.next(channel).payload[9..]);
        }
        assert_eq!(text(&seen), "tty\r\n30 100\r\nnobody\r\n");
        wire.send(wire::CONTROL, channel, |w| {
            w.u8(2);
            w.u16(120);
            w.u16(40);
        });
        wire.data(channel, 0, b"go\n");
        let mut seen = Vec::new();
        while !text(&seen).contains("40 120") {
            let frame = wire.next(channel);
            if frame.kind == wire::DATA {
                seen.extend_from_slice(&frame.payload[9..]);
            }
        }
        wire.data(channel, 3, b"\x03");
        let outcome = wire.collect(channel);
        assert_eq!((outcome.kind, outcome.value), (1, 2), "Ctrl-C");
    }
}

mod files {
    use super::*;

    #[test]
    fn a_file_comes_back_as_written_whole_and_in_ranges() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let path = guest.path("deep/er/file");
        let bytes: Vec<u8> = (0..3_000_000u32).map(|index| (index * 31 >> 4) as u8).collect();
        assert_eq!(wire.write(&path, &bytes, 0o640, 0, None), Err(code::NOT_FOUND), "parents only when asked for");
        let entry = wire.write(&path, &bytes, 0o640, 1 | 4, None).unwrap();
        assert_eq!((entry.kind, entry.size, entry.mode), (1, 3_000_000, 0o640));
        assert!(wire.read(&path, 0, u64::MAX).unwrap() == bytes);
        assert!(wire.read(&path, 1_000_001, 70_000).unwrap() == bytes[1_000_001..1_070_001]);
        assert_eq!(wire.read(&path, 2_999_999, 10).unwrap(), &bytes[2_999_999..]);
        assert_eq!(wire.read(&path, 5_000_000, 10).unwrap(), b"");
        assert_eq!(wire.read(&path, 0, 0).unwrap(), b"");
        assert_eq!(wire.write(&path, b"", 0, 0, None).unwrap().size, 0);
        assert!(guest.resident_kb() < 8 << 10, "{} kB", guest.resident_kb());
    }

    #[test]
    fn a_replaced_file_keeps_its_mode_and_owner_unless_told() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let path = guest.path("a");
        std::fs::write(&path, "old").unwrap();
        std::os::unix::fs::symlink("a", guest.path("link")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o604)).unwrap();
        let entry = wire.write(&guest.path("link"), b"new", 0o644, 0, None).unwrap();
        assert_eq!((entry.mode, entry.kind), (0o604, 1));
        assert_eq!(std::fs::read(&path).unwrap(), b"new", "a link is written through");
        assert!(std::fs::symlink_metadata(guest.path("link")).unwrap().file_type().is_symlink());
        assert_eq!(wire.write(&path, b"new", 0x8000_0000 | 0o755, 0, None).unwrap().mode, 0o755);
    }

    #[test]
    fn conditions_on_a_write_are_kept() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let path = guest.path("a");
        assert_eq!(wire.write(&path, b"1", 0o644, 0, Some("\"x\"")), Err(code::PRECONDITION_FAILED));
        let first = wire.write(&path, b"1", 0o644, 2, None).unwrap();
        assert_eq!(wire.write(&path, b"2", 0o644, 2, None), Err(code::EXISTS));
        let second = wire.write(&path, b"22", 0o644, 0, Some(&first.etag())).unwrap();
        assert_eq!(wire.write(&path, b"3", 0o644, 0, Some(&first.etag())), Err(code::PRECONDITION_FAILED));
        assert_eq!(wire.stat(&path).unwrap(), second);
    }

    #[test]
    fn a_cut_or_cancelled_write_leaves_the_old_file_and_no_rest() {
        let guest = Guest::start();
        let path = guest.path("a");
        std::fs::write(&path, "old").unwrap();
        let names = || std::fs::read_dir(guest.files()).unwrap().count();
        let mut wire = guest.connect();
        let channel = wire.open_write(&path, 0o644, 0, None);
        wire.data(channel, 0, &[b'n'; 60_000]);
        wire.send(wire::CANCEL, channel, |_| {});
        assert_eq!(wire.closed(channel).map(drop), Err(code::CANCELED));
        let channel = wire.open_write(&path, 0o644, 0, None);
        wire.data(channel, 0, &[b'n'; 60_000]);
        assert_eq!(wire.next(channel).kind, wire::OPENED);
        assert_eq!(wire.next(channel).kind, wire::CREDIT);
        let open = guest.descriptors();
        drop(wire);
        until("the guest let go of the file", || if guest.descriptors() < open { Some(()) } else { None });
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(), 1);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let fifo = guest.path("fifo");
        std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert_eq!(wire.read(&fifo, 0, 1), Err(code::NOT_A_FILE));
        assert_eq!(wire.write(&fifo, b"x", 0o644, 0, None), Err(code::NOT_A_FILE));
        assert_eq!(wire.read("/dev/zero", 0, 1), Err(code::NOT_A_FILE));
        assert_eq!(wire.read(&guest.path(""), 0, 1), Err(code::IS_A_DIRECTORY));
        assert_eq!(wire.write(&guest.path(""), b"x", 0o644, 0, None), Err(code::IS_A_DIRECTORY));
        assert_eq!(wire.stat(&fifo).unwrap().kind, 4);
    }

    #[test]
    fn bad_paths_are_refused_with_their_reason() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        std::os::unix::fs::symlink("loop", guest.path("loop")).unwrap();
        assert_eq!(wire.stat("relative"), Err(code::INVALID));
        assert_eq!(wire.stat(""), Err(code::INVALID));
        assert_eq!(wire.stat("/a\0b"), Err(code::INVALID));
        assert_eq!(wire.stat(&format!("/{}", "x".repeat(256))), Err(code::NAME_TOO_LONG));
        assert_eq!(wire.stat(&"/x".repeat(3000)), Err(code::NAME_TOO_LONG));
        assert_eq!(wire.stat("/no/such"), Err(code::NOT_FOUND));
        assert_eq!(wire.stat("/etc/passwd/x"), Err(code::NOT_A_DIRECTORY));
        assert_eq!(wire.read(&guest.path("loop"), 0, 1), Err(code::SYMLINK_LOOP));
        assert_eq!(wire.write(&guest.path("loop"), b"", 0o644, 0, None), Err(code::SYMLINK_LOOP));
        assert_eq!(wire.stat(&guest.path("loop")).unwrap().target.as_deref(), Some("loop"));
        assert_eq!(wire.remove("/", true), Err(code::INVALID));
        assert_eq!(wire.remove(&guest.path(".."), true), Err(code::INVALID));
    }

    #[test]
    fn folders_are_made_moved_changed_and_removed() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let mkdir = |wire: &mut Wire, path: String, mode: u32, parents: u8| {
            let channel = wire.open(op::MKDIR, |w| {
                w.bytes(path.as_bytes());
                w.u32(mode);
                w.str("0:0");
                w.u8(parents);
            });
            wire.entry(channel)
        };
        let rename = |wire: &mut Wire, from: String, to: String, overwrite: u8| {
            let channel = wire.open(op::MOVE, |w| {
                w.bytes(from.as_bytes());
                w.bytes(to.as_bytes());
                w.u8(overwrite);
            });
            wire.entry(channel).map(|entry| entry.path)
        };
        assert_eq!(mkdir(&mut wire, guest.path("a/b"), 0o755, 0), Err(code::NOT_FOUND));
        assert_eq!(mkdir(&mut wire, guest.path("a/b"), 0o1770, 1).unwrap().mode, 0o1770);
        assert_eq!(mkdir(&mut wire, guest.path("a/b"), 0o755, 1).unwrap().kind, 2);
        assert_eq!(mkdir(&mut wire, guest.path("a/b"), 0o755, 0), Err(code::EXISTS));
        std::fs::write(guest.path("f"), "f").unwrap();
        assert_eq!(mkdir(&mut wire, guest.path("f"), 0o755, 1), Err(code::EXISTS));
        assert_eq!(mkdir(&mut wire, guest.path("f/x"), 0o755, 1), Err(code::NOT_A_DIRECTORY));
        assert_eq!(rename(&mut wire, guest.path("f"), guest.path("a/b/g"), 0), Ok(guest.path("a/b/g")));
        std::fs::write(guest.path("h"), "h").unwrap();
        assert_eq!(rename(&mut wire, guest.path("h"), guest.path("a/b/g"), 0), Err(code::EXISTS));
        assert_eq!(rename(&mut wire, guest.path("h"), guest.path("a/b/g"), 1), Ok(guest.path("a/b/g")));
        assert_eq!(rename(&mut wire, guest.path("a"), guest.path("a/b/c"), 0), Err(code::INVALID));
        assert_eq!(rename(&mut wire, guest.path("none"), guest.path("x"), 0), Err(code::NOT_FOUND));
        let channel = wire.open(op::CHMOD, |w| {
            w.bytes(guest.path("a/b/g").as_bytes());
            w.u32(0o4711);
        });
        assert_eq!(wire.entry(channel).unwrap().mode, 0o4711);
        assert_eq!(wire.remove(&guest.path("a"), false), Err(code::NOT_EMPTY));
        assert_eq!(wire.remove(&guest.path("a"), true), Ok(3));
        assert_eq!(wire.remove(&guest.path("a"), true), Err(code::NOT_FOUND));
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let guest = Guest::start();
        // Chains short enough to be named are put one into another.
        let chain = vec!["0123456789"; 300].join("/");
        std::fs::create_dir(guest.path("deep")).unwrap();
        for _ in 0..5 {
            std::fs::create_dir_all(guest.path(&format!("next/{chain}"))).unwrap();
            std::fs::rename(guest.path("deep"), guest.path(&format!("next/{chain}/deep"))).unwrap();
            std::fs::rename(guest.path("next"), guest.path("deep")).unwrap();
        }
        std::os::unix::fs::symlink("/etc", guest.path("deep/etc")).unwrap();
        let mut wire = guest.connect();
        assert_eq!(wire.remove(&guest.path("deep"), true), Ok(1507));
        assert!(std::path::Path::new("/etc/passwd").exists());
        assert_eq!(std::fs::read_dir(guest.files()).unwrap().count(), 0);
    }

    #[test]
    fn listings_go_on_where_a_page_ended_at_any_depth() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let mut all = Vec::new();
        for folder in ["a", "a.b", "b", "b/c", "b/c/d"] {
            std::fs::create_dir(guest.path(folder)).unwrap();
            for number in 0..50 {
                std::fs::write(guest.path(&format!("{folder}/f{number}")), "").unwrap();
                all.push(guest.path(&format!("{folder}/f{number}")));
            }
            all.push(guest.path(folder));
        }
        std::os::unix::fs::symlink("..", guest.path("b/up")).unwrap();
        all.push(guest.path("b/up"));
        // Depth first: a folder, then what is in it, before its next sibling; names in byte order.
        all.sort_by_key(|path| path.split('/').map(str::to_owned).collect::<Vec<_>>());
        let root = guest.path("");
        let (whole, more) = wire.list(&root, 9, "", 10_000).unwrap();
        assert_eq!(whole.iter().map(|entry| entry.path.clone()).collect::<Vec<_>>(), all);
        assert!(!more);
        for limit in [1, 7, 100] {
            let (mut seen, mut after) = (Vec::new(), String::new());
            loop {
                let (page, more) = wire.list(&root, 9, &after, limit).unwrap();
                seen.extend(page.iter().map(|entry| entry.path.clone()));
                if !more {
                    break;
                }
                assert_eq!(page.len(), limit as usize);
                after = seen.last().unwrap().clone();
            }
            assert_eq!(seen, all, "limit {limit}");
        }
        let (top, _) = wire.list(&root, 1, "", 100).unwrap();
        assert_eq!(
            top.iter().map(|entry| entry.path.clone()).collect::<Vec<_>>(),
            ["a", "a.b", "b"].map(|n| guest.path(n))
        );
        let (two, _) = wire.list(&root, 2, &guest.path("b/up"), 100).unwrap();
        assert_eq!(two, []);
        assert_eq!(wire.list(&root, 1, "/etc", 10).map(drop), Err(code::INVALID));
        assert_eq!(wire.list(&guest.path("a/f1"), 1, "", 10).map(drop), Err(code::NOT_A_DIRECTORY));
    }

    #[test]
    fn a_folder_of_many_thousand_entries_is_listed_at_flat_memory() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        for number in 0..20_000 {
            std::fs::write(guest.path(&format!("file-with-a-rather-long-name-{number:06}")), "").unwrap();
        }
        let (entries, more) = wire.list(&guest.path(""), 1, "", u32::MAX).unwrap();
        assert_eq!((entries.len(), more), (20_000, false));
        assert!(entries.windows(2).all(|pair| pair[0].path < pair[1].path));
        assert!(guest.resident_kb() < 8 << 10, "{} kB", guest.resident_kb());
    }

    #[test]
    fn a_full_disk_says_so_and_leaves_no_rest() {
        let guest = Guest::start();
        // A file system of its own and small, in a namespace that goes with its shell.
        let mount = guest.path("small");
        std::fs::create_dir(&mount).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "delta-guest-test", &mount])
            .status()
            .unwrap();
        assert!(mounted.success(), "mounting a tmpfs needs root");
        let mut wire = guest.connect();
        let result = wire.write(&format!("{mount}/big"), &vec![1; 3 << 20], 0o644, 0, None);
        let left = until("the space is free again", || {
            let left = std::fs::read_dir(&mount).unwrap().count();
            if wire.write(&format!("{mount}/small"), &[1; 900 << 10], 0o644, 0, None).is_ok() {
                Some(left)
            } else {
                None
            }
        });
        let unmounted = std::process::Command::new("umount").args(["-l", &mount]).status().unwrap();
        assert!(unmounted.success());
        assert_eq!((result.map(drop), left), (Err(code::NO_SPACE), 0));
    }
}

mod watching {
    use super::*;

    /// The next events as (kind, path below the folder), until one is `last`.
    fn events(wire: &mut Wire, channel: u32, guest: &Guest, last: (u8, &str)) -> Vec<(u8, String)> {
        let mut seen = Vec::new();
        while seen.last().map(|(kind, path): &(u8, String)| (*kind, path.as_str())) != Some(last) {
            seen.extend(frame_events(wire, channel, guest));
        }
        seen
    }

    fn frame_events(wire: &mut Wire, channel: u32, guest: &Guest) -> Vec<(u8, String)> {
        let mut seen = Vec::new();
        let frame = wire.next(channel);
        assert_eq!(frame.kind, wire::DATA, "{frame:?}");
        wire.credit(channel, frame.payload.len() as u32 - 9);
        let mut r = Reader::new(&frame.payload[9..]);
        while let Ok(record) = r.bytes() {
            let mut r = Reader::new(record);
            let (kind, path) = (r.u8().unwrap(), text(r.bytes().unwrap()).to_string());
            let below = path.strip_prefix(guest.files().to_str().unwrap()).unwrap();
            seen.push((kind, below.trim_start_matches('/').to_string()));
        }
        seen
    }

    fn watch(wire: &mut Wire, path: &str, recursive: u8) -> u32 {
        let channel = wire.open(op::WATCH, |w| {
            w.bytes(path.as_bytes());
            w.u8(recursive);
        });
        assert_eq!(wire.next(channel).kind, wire::OPENED);
        channel
    }

    #[test]
    fn changes_at_any_depth_are_told_also_in_folders_made_later() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        std::fs::create_dir(guest.path("old")).unwrap();
        let channel = watch(&mut wire, &guest.path(""), 1);
        let pairs =
            |seen: &[(u8, String)]| seen.iter().map(|(kind, path)| format!("{kind} {path}")).collect::<Vec<_>>();
        std::fs::write(guest.path("old/f"), "x").unwrap();
        let seen = events(&mut wire, channel, &guest, (2, "old/f"));
        assert_eq!(pairs(&seen), ["1 old/f", "2 old/f"]);
        std::fs::create_dir_all(guest.path("new/er")).unwrap();
        std::fs::write(guest.path("new/er/f"), "x").unwrap();
        let seen = until("the file in the new folder is told", || {
            let seen = events(&mut wire, channel, &guest, (1, "new/er/f"));
            Some(seen)
        });
        assert!(pairs(&seen).contains(&"1 new".to_string()) && pairs(&seen).contains(&"1 new/er".to_string()));
        std::fs::rename(guest.path("new"), guest.path("moved")).unwrap();
        let seen = events(&mut wire, channel, &guest, (1, "moved/er/f"));
        assert!(pairs(&seen).contains(&"4 new".to_string()) && pairs(&seen).contains(&"1 moved".to_string()));
        std::fs::set_permissions(guest.path("moved/er/f"), std::fs::Permissions::from_mode(0o600)).unwrap();
        events(&mut wire, channel, &guest, (5, "moved/er/f"));
        std::fs::remove_file(guest.path("moved/er/f")).unwrap();
        events(&mut wire, channel, &guest, (3, "moved/er/f"));
        wire.send(wire::CANCEL, channel, |_| {});
        assert_eq!(wire.closed(channel).map(drop), Err(code::CANCELED));
    }

    #[test]
    fn a_write_over_the_wire_shows_as_one_change_and_its_temporary_never() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let path = guest.path("a");
        std::fs::write(&path, "old").unwrap();
        let channel = watch(&mut wire, &guest.path(""), 0);
        wire.write(&path, &[1; 200_000], 0o644, 0, None).unwrap();
        wire.write(&guest.path("b"), &[1; 200_000], 0o644, 0, None).unwrap();
        let seen = events(&mut wire, channel, &guest, (1, "b"));
        assert_eq!(seen, [(2, "a".to_string()), (1, "b".to_string())]);
    }

    #[test]
    fn a_flood_ends_in_an_overflow_and_not_in_memory() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let channel = watch(&mut wire, &guest.path(""), 0);
        for number in 0..40_000 {
            let path = guest.path(&format!("{number:0100}"));
            std::fs::write(&path, "").unwrap();
            std::fs::remove_file(&path).unwrap();
        }
        // What came while there was room again may follow it; a loss never goes without one behind it.
        std::fs::write(guest.path("end"), "").unwrap();
        let mut seen = Vec::new();
        while !seen.iter().any(|(kind, path): &(u8, String)| (*kind, path.as_str()) == (6, "")) {
            seen.extend(frame_events(&mut wire, channel, &guest));
        }
        while seen.last().map_or(true, |(kind, path)| *kind != 6 && path != "end") {
            seen.extend(frame_events(&mut wire, channel, &guest));
        }
        assert!(seen.len() > 100);
        assert!(guest.resident_kb() < 12 << 10, "{} kB", guest.resident_kb());
    }

    #[test]
    fn watching_ends_with_its_folder_and_the_instance_with_the_last() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let before = guest.descriptors();
        std::fs::create_dir(guest.path("d")).unwrap();
        let channel = watch(&mut wire, &guest.path("d"), 1);
        assert_eq!(guest.descriptors(), before + 1);
        std::fs::remove_dir(guest.path("d")).unwrap();
        assert_eq!(wire.closed(channel).map(drop), Err(code::NOT_FOUND));
        until("the instance is closed", || if guest.descriptors() == before { Some(()) } else { None });
        let channel = wire.open(op::WATCH, |w| {
            w.bytes(guest.path("d").as_bytes());
            w.u8(1);
        });
        assert_eq!(wire.closed(channel).map(drop), Err(code::NOT_FOUND));
    }
}

mod dialling {
    use super::*;

    fn dial(wire: &mut Wire, port: u16) -> u32 {
        wire.open(op::DIAL, |w| w.u16(port))
    }

    #[test]
    fn a_server_inside_is_reached_both_ways_with_half_closes() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = match TcpListener::bind(address) {
                Ok(listener) => listener,
                Err(error) => panic!("{address}: {error}"),
            };
            let port = listener.local_addr().unwrap().port();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                stream.write_all(&all).unwrap();
            });
            let channel = dial(&mut wire, port);
            wire.data(channel, 0, b"early ");
            assert_eq!(wire.next(channel).kind, wire::OPENED);
            wire.data(channel, 6, &[b'x'; 60_000]);
            wire.send(wire::END, channel, |_| {});
            let mut seen = 0;
            let mut ended = false;
            loop {
                let frame = wire.next(channel);
                match frame.kind {
                    wire::DATA => seen += frame.payload.len() - 9,
                    wire::END => ended = true,
                    wire::CLOSE => break assert_eq!(frame.reader().u16(), Ok(0)),
                    _ => {}
                }
            }
            assert_eq!((seen, ended), (60_006, true));
            server.join().unwrap();
        }
    }

    #[test]
    fn a_server_that_floods_is_held_back_by_credit() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut sent = 0;
            while sent < 50_000_000 && stream.write_all(&[7; 100_000]).is_ok() {
                sent += 100_000;
            }
        });
        let channel = dial(&mut wire, port);
        assert_eq!(wire.next(channel).kind, wire::OPENED);
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(guest.resident_kb() < 8 << 10, "{} kB", guest.resident_kb());
        let mut seen = 0;
        loop {
            let frame = wire.next(channel);
            match frame.kind {
                wire::DATA => {
                    let count = frame.payload.len() - 9;
                    seen += count;
                    wire.credit(channel, count as u32);
                }
                wire::END => break,
                kind => panic!("frame {kind}"),
            }
        }
        assert_eq!(seen, 50_000_000);
        drop(wire);
        server.join().unwrap();
    }

    #[test]
    fn a_port_nobody_listens_on_is_refused() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let channel = dial(&mut wire, port);
        assert_eq!(wire.closed(channel).map(drop), Err(code::CONNECTION_REFUSED));
        let channel = dial(&mut wire, 0);
        assert_eq!(wire.closed(channel).map(drop), Err(code::INVALID));
    }
}

mod connections {
    use super::*;

    #[test]
    fn a_violation_ends_its_connection_and_no_other() {
        let guest = Guest::start();
        let mut good = guest.connect();
        let socket = guest.folder.join("wire");
        // Instead of HELLO.
        let mut bad = Wire::raw(&socket);
        bad.stream.write_all(&[0xff; 64]).unwrap();
        assert!(bad.is_cut());
        let mut bad = Wire::raw(&socket);
        bad.send(wire::PING, 0, |w| w.u64(1));
        assert!(bad.is_cut());
        let cut = |violate: &dyn Fn(&mut Wire)| {
            let mut bad = guest.connect();
            violate(&mut bad);
            assert!(bad.is_cut());
        };
        cut(&|bad| bad.stream.write_all(&[0, 0, 0, 0, 0]).unwrap());
        cut(&|bad| bad.stream.write_all(&[255, 255, 255, 255, 4, 0, 0, 0, 0]).unwrap());
        cut(&|bad| bad.send(99, 0, |_| {}));
        cut(&|bad| bad.send(wire::HELLO, 0, |_| {}));
        cut(&|bad| bad.send(wire::DATA, 7, |w| w.raw(&[0; 9])));
        cut(&|bad| bad.send(wire::CREDIT, 2, |w| w.u32(1)));
        cut(&|bad| bad.send(wire::OPEN, 2, |w| w.u8(op::EXECS)));
        cut(&|bad| bad.send(wire::OPEN, 1, |w| w.u8(99)));
        cut(&|bad| bad.send(wire::OPEN, 1, |w| w.raw(&[op::STAT, 255, 255, 255, 255])));
        cut(&|bad| {
            bad.send(wire::OPEN, 3, |w| w.u8(op::EXECS));
            bad.send(wire::OPEN, 1, |w| w.u8(op::EXECS));
        });
        // More than its credit, and at a wrong offset.
        cut(&|bad| {
            let mut args = exec("stopped", &["/bin/sleep", "60"]);
            args.flags = ATTACH | KEEP_STDIN;
            let channel = bad.open_exec(&args);
            for index in 0..18u64 {
                let frame = bad.try_send(wire::DATA, channel, |w| {
                    w.u8(0);
                    w.u64(index * 65536);
                    w.raw(&[0; 65536]);
                });
                if frame.is_err() {
                    break;
                }
            }
        });
        cut(&|bad| {
            let channel = bad.open_exec(&exec("offset", &["/bin/sleep", "60"]));
            bad.data(channel, 1, b"x");
        });
        good.ping();
        assert_eq!(text(&good.run(&sh("fine", "echo fine")).stdout), "fine\n");
    }

    #[test]
    fn random_bytes_after_hello_never_stop_the_guest() {
        let guest = Guest::start();
        let mut seed = 0x1234_5678_9abc_def1u64;
        let mut random = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..200 {
            let mut bad = guest.connect();
            let mut bytes = Vec::new();
            for channel in 0..8u32 {
                let payload: Vec<u8> = (0..random() % 64).map(|_| random() as u8).collect();
                wire::put_frame(&mut bytes, (random() % 13) as u8, channel, |w| {
                    // A real op, so that its parser meets the rest.
                    w.u8([1, 2, 3, 4, 5, 10, 11, 12, 18, 20, 30][(random() % 11) as usize]);
                    w.raw(&payload);
                });
            }
            drop(bad.stream.write_all(&bytes));
        }
        let mut wire = until("a connection is free", || {
            let mut wire = guest.connect_if_served()?;
            wire.ping();
            Some(wire)
        });
        assert_eq!(text(&wire.run(&sh("fine", "echo fine")).stdout), "fine\n");
    }

    #[test]
    fn a_ninth_connection_is_closed_until_one_ends() {
        let guest = Guest::start();
        let mut eight: Vec<Wire> = (0..8).map(|_| guest.connect()).collect();
        assert!(Wire::raw(&guest.folder.join("wire")).is_cut());
        eight.pop();
        until("a place is free", || guest.connect_if_served());
        eight.iter_mut().for_each(Wire::ping);
    }

    #[test]
    fn the_guest_keeps_its_boot_id_and_frames_for_closed_channels_are_ignored() {
        let guest = Guest::start();
        let mut first = Wire::raw(&guest.folder.join("wire"));
        let mut second = Wire::raw(&guest.folder.join("wire"));
        assert_eq!(first.hello(), second.hello());
        let channel = first.open_exec(&exec("a", &["/bin/true"]));
        first.collect(channel);
        first.credit(channel, 1);
        first.send(wire::CANCEL, channel, |_| {});
        first.send(wire::END, channel, |_| {});
        first.ping();
    }

    #[test]
    fn metrics_and_sync_answer_and_the_clock_is_not_ours_to_set() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let metrics = wire.paths(op::METRICS, |_| {}).unwrap();
        let mut r = metrics.reader();
        let (_, used, total, processes) = (r.u64().unwrap(), r.u64().unwrap(), r.u64().unwrap(), r.u32().unwrap());
        assert!(used > 0 && used < total && processes > 0);
        assert_eq!(wire.paths(op::SYNC, |_| {}).map(drop), Ok(()));
        assert_eq!(wire.paths(op::CLOCK, |w| w.u64(1)).map(drop), Err(code::NOT_SUPPORTED));
        let egress = wire.paths(op::EGRESS, |w| {
            w.str("example.org");
            w.u16(80);
            w.u8(wire::via::HTTP);
        });
        assert_eq!(egress.map(drop), Err(code::NOT_SUPPORTED));
    }

    /// What is kept of ended execs' output tells how much may be kept: a smaller limit makes room as new output comes.
    #[test]
    fn output_kept_follows_a_memory_limit_that_is_changed_later() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        assert_eq!(wire.paths(op::MEMORY, |w| w.u32(0)).map(drop), Err(code::INVALID));
        let kept = |wire: &mut Wire, limit_mb: u32, round: &str| {
            assert_eq!(wire.paths(op::MEMORY, |w| w.u32(limit_mb)).map(drop), Ok(()));
            let ids: Vec<String> = (0..6).map(|number| format!("{round}{number}")).collect();
            for id in &ids {
                wire.run(&sh(id, "head -c 4194304 /dev/zero"));
            }
            ids.iter().filter(|id| wire.paths(op::FORGET, |w| w.str(id)).is_ok()).count()
        };
        // An eighth: 16 MiB hold four rings of 4 MiB, 32 MiB all six.
        assert_eq!(kept(&mut wire, 128, "small"), 4);
        assert_eq!(kept(&mut wire, 256, "large"), 6);
        assert_eq!(kept(&mut wire, 64, "tiny"), 2);
    }

    #[test]
    fn everything_opened_is_closed() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let idle = guest.descriptors();
        for number in 0..30 {
            let id = format!("e{number}");
            wire.run(&sh(&id, "echo x"));
            wire.write(&guest.path("f"), b"x", 0o644, 0, None).unwrap();
            wire.read(&guest.path("f"), 0, 9).unwrap();
            wire.list(&guest.path(""), 2, "", 9).unwrap();
        }
        drop(wire);
        until("only what it started with is open", || if guest.descriptors() < idle { Some(()) } else { None });
    }

    #[test]
    fn term_ends_the_sessions_first() {
        let guest = Guest::start();
        let mut wire = guest.connect();
        let mark = guest.path("mark");
        let script = format!("trap 'echo bye > {mark}; exit' TERM; echo ready; sleep 60 & wait");
        let channel = wire.open_exec(&sh("a", &script));
        wire.opened(channel);
        wire.next(channel);
        let killed = std::process::Command::new("kill").arg(guest.pid().to_string()).status().unwrap();
        assert!(killed.success());
        while wire.read_frame().is_some() {}
        assert_eq!(std::fs::read_to_string(mark).unwrap(), "bye\n");
    }
}

/// The guest as PID 1, with enemies inside.
mod hostile {
    use super::*;

    #[test]
    fn orphans_are_reaped() {
        let guest = Guest::start_as_init();
        let mut wire = guest.connect();
        let outcome = wire.run(&sh("a", "for i in 1 2 3 4 5 6 7 8; do (sleep 0.1 & echo $!); done"));
        let orphans: Vec<&str> = text(&outcome.stdout).lines().collect();
        assert_eq!(orphans.len(), 8);
        let mut number = 0;
        until("no orphan is left, not even as a zombie", || {
            number += 1;
            let id = format!("look{number}");
            let left = wire.run(&sh(
                &id,
                &format!(
                    "ls -d {} 2>/dev/null | wc -l",
                    orphans.iter().map(|pid| format!("/proc/{pid} ")).collect::<String>()
                ),
            ));
            if text(&left.stdout).trim() == "0" {
                Some(())
            } else {
                None
            }
        });
        // Only the guest, and the programs that look.
        let left = wire.run(&sh("last", "ls -d /proc/[0-9]* | wc -l"));
        assert!(text(&left.stdout).trim().parse::<u32>().unwrap() <= 4);
    }

    #[test]
    fn no_signal_from_inside_ends_stops_or_confuses_it() {
        let guest = Guest::start_as_init();
        let mut wire = guest.connect();
        let script = "i=1; while [ $i -le 64 ]; do [ $i = 32 ] || [ $i = 33 ] || kill -$i 1; i=$((i+1)); done 2>/dev/null; kill -9 -- -1; true";
        wire.run(&sh("a", script));
        wire.ping();
        assert_eq!(text(&wire.run(&sh("b", "echo still here")).stdout), "still here\n");
    }

    #[test]
    fn its_memory_and_descriptors_are_closed_to_programs() {
        let guest = Guest::start_as_init();
        let mut args = sh("a", "cat /proc/1/environ /proc/1/maps; ls /proc/1/fd; echo end");
        args.user = "nobody";
        let outcome = guest.connect().run(&args);
        assert_eq!(text(&outcome.stdout), "end\n");
        assert!(text(&outcome.stderr).matches("Permission denied").count() >= 3, "{}", text(&outcome.stderr));
    }

    #[test]
    fn a_passwd_made_into_a_fifo_or_a_giant_neither_blocks_nor_grows_it() {
        let guest = Guest::start_as_init();
        let mut wire = guest.connect();
        let (fifo, giant) = (guest.path("fifo"), guest.path("giant"));
        let run = |wire: &mut Wire, id: &str, user: &str, script: &str| {
            let mut args = sh(id, script);
            args.user = user;
            wire.run(&args).code
        };
        assert_eq!(run(&mut wire, "a", "0", &format!("mkfifo {fifo}; mount --bind {fifo} /etc/passwd")), 0);
        assert_eq!(run(&mut wire, "b", "root", "true"), code::UNKNOWN_USER);
        assert_eq!(run(&mut wire, "c", "0", &format!("truncate -s 10G {giant}; mount --bind {giant} /etc/passwd")), 0);
        assert_eq!(run(&mut wire, "d", "root", "true"), code::UNKNOWN_USER);
        assert_eq!(run(&mut wire, "e", "0", "true"), 0);
        wire.write(&guest.path("f"), b"x", 0o644, 0, None).unwrap();
        let resident = wire.run(&sh("g", "grep VmHWM /proc/1/status"));
        let peak_kb: u64 = text(&resident.stdout).split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(peak_kb < 12 << 10, "{peak_kb} kB");
    }

    #[test]
    fn a_program_kept_from_starting_holds_up_nothing_else() {
        let guest = Guest::start_as_init();
        let mut wire = guest.connect();
        // Stops whatever becomes this user, over and over.
        let mut stopper = exec("stopper", &["/usr/bin/perl", "-e", "$| = 1; print 1; kill(19, -1) while 1"]);
        stopper.user = "4242";
        let channel = wire.open_exec(&stopper);
        wire.opened(channel);
        wire.next(channel);
        let victims: Vec<String> = (0..10).map(|number| format!("v{number}")).collect();
        for id in &victims {
            let mut args = sh(id, "true");
            args.user = "4242";
            args.timeout_ms = 500;
            wire.open_exec(&args);
        }
        wire.ping();
        wire.paths(op::SIGNAL, |w| {
            w.str("stopper");
            w.u8(9);
            w.u8(0);
        })
        .unwrap();
        assert_eq!(text(&wire.run(&sh("b", "echo on")).stdout), "on\n");
    }
}

mod windows {
    use super::*;

    /// Bytes of DATA that come on the channel before it is given more.
    fn sent_unasked(wire: &mut Wire, channel: u32) -> usize {
        let mut got = 0;
        wire.send(wire::PING, 0, |w| w.u64(1));
        loop {
            let frame = wire.read_frame().expect("a frame");
            match frame.kind {
                wire::DATA if frame.channel == channel => got += frame.payload.len() - wire::DATA_HEADER_BYTES,
                // What was to be sent before was sent by then.
                wire::PONG => return got,
                _ => {}
            }
        }
    }

    fn open_read(wire: &mut Wire, path: &str) -> u32 {
        let channel = wire.open(op::READ, |w| {
            w.bytes(path.as_bytes());
            w.u64(0);
            w.u64(u64::MAX);
        });
        assert_eq!(wire.next(channel).kind, wire::OPENED);
        channel
    }

    #[test]
    fn towards_a_host_that_starts_small_a_channel_waits_for_credit_after_16_kib() {
        let guest = Guest::start();
        let path = guest.path("large");
        std::fs::write(&path, vec![7u8; 3 << 20]).unwrap();
        let mut wire = Wire::raw(&std::path::Path::new(&path).parent().unwrap().parent().unwrap().join("wire"));
        wire.hello_naming(wire::STARTS_SMALL);
        let channel = open_read(&mut wire, &path);
        let mut got = 0;
        while got < wire::SMALL_CREDIT_BYTES as usize {
            got += sent_unasked(&mut wire, channel);
        }
        assert_eq!(got, wire::SMALL_CREDIT_BYTES as usize);
        wire.send(wire::CREDIT, channel, |w| w.u32(1000));
        let mut more = 0;
        while more < 1000 {
            more += sent_unasked(&mut wire, channel);
        }
        assert_eq!((more, sent_unasked(&mut wire, channel)), (1000, 0));
    }

    #[test]
    fn any_other_host_is_sent_1_mib_as_before() {
        let guest = Guest::start();
        let path = guest.path("large");
        std::fs::write(&path, vec![7u8; 3 << 20]).unwrap();
        let mut wire = guest.connect();
        let channel = open_read(&mut wire, &path);
        let mut got = 0;
        while got < wire::INITIAL_CREDIT_BYTES as usize {
            got += sent_unasked(&mut wire, channel);
        }
        assert_eq!((got, sent_unasked(&mut wire, channel)), (wire::INITIAL_CREDIT_BYTES as usize, 0));
    }
}
