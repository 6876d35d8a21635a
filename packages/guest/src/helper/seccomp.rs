//! Which system calls reach the kernel from inside a sandbox.
//!
//! An allow-list: what is not in the table answers EPERM, and what this table is too old to know answers ENOSYS, so that
//! programs fall back to what they did before. The table and the rules below are the only source; from them come the filter the
//! kernel runs (crun) and the OCI profile (runc).

use super::seccomp_table::{ALLOWED, CHECKED, NOT_FOR_SERVER};

const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSYS: u32 = 38;
const EPROTONOSUPPORT: u32 = 93;
const EAFNOSUPPORT: u32 = 97;
/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. (NEWTIME is 0x80, which in `clone` is part of the signal.)
const NEW_NAMESPACES: u32 = 0x7e02_0000;
const NEW_TIME: u32 = 0x80;
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;
/// F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW; F_SETLEASE; F_NOTIFY. Locks of open file descriptions stay with a file that is in no process's
/// table, so nobody could tell whose they are, and the kernel counts them for nobody: see `boxes/locks.rs`. A lease makes whoever opens
/// a file of a shared volume wait. Older kernels answer EINVAL.
const REFUSED_FCNTL: [u32; 5] = [36, 37, 38, 1024, 1026];
const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
/// SOCK_NONBLOCK and SOCK_CLOEXEC are or-ed to the kind.
const SOCKET_KIND: u32 = 0xf;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
/// Default, TCP, UDP, and the two kinds of ping sockets.
const PROTOCOLS: [u32; 5] = [0, 6, 17, 1, 58];
/// PER_LINUX, ADDR_NO_RANDOMIZE (debuggers), and the question which one is set.
const PERSONALITIES: [u32; 3] = [0, 0x0004_0000, 0xffff_ffff];
/// Largest number any architecture's table knows; newer calls are unknown to this program.
const LAST_KNOWN: u32 = 462;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: (u32, &str) = (0xc000_003e, "SCMP_ARCH_X86_64");
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: (u32, &str) = (0xc000_00b7, "SCMP_ARCH_AARCH64");

/// As the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    code: u16,
    yes: u8,
    no: u8,
    value: u32,
}

fn op(code: u16, value: u32) -> Instruction {
    Instruction {
        code,
        yes: 0,
        no: 0,
        value,
    }
}

fn test(code: u16, value: u32, yes: u8, no: u8) -> Instruction {
    Instruction { code, yes, no, value }
}

fn refuse(number: u32) -> Instruction {
    op(RETURN, ERRNO | number)
}

/// Loads the low half of an argument; the kernel looks at no more of the arguments checked here.
fn argument(index: u32) -> Instruction {
    op(LOAD, 16 + 8 * index)
}

fn here(row: &(&'static str, i32, i32)) -> Option<u32> {
    let number = if cfg!(target_arch = "x86_64") { row.1 } else { row.2 };
    u32::try_from(number).ok()
}

/// Returns ALLOW if the loaded value is one of `values`, else goes on.
fn allow_any(code: &mut Vec<Instruction>, values: &[u32]) {
    for (at, value) in values.iter().enumerate() {
        code.push(test(JUMP_EQUAL, *value, (values.len() - at) as u8, 0));
    }
    code.push(op(JUMP, 1));
    code.push(op(RETURN, ALLOW));
}

fn check_code(name: &str) -> Vec<Instruction> {
    let mut code = Vec::new();
    match name {
        "clone" => code.extend([
            argument(0),
            test(JUMP_ANY_BIT, NEW_NAMESPACES, 0, 1),
            refuse(EPERM),
            op(RETURN, ALLOW),
        ]),
        "unshare" => code.extend([
            argument(0),
            test(JUMP_ANY_BIT, NEW_NAMESPACES | NEW_TIME, 0, 1),
            refuse(EPERM),
            op(RETURN, ALLOW),
        ]),
        // Its flags are in memory, where a filter cannot look. Everyone falls back to clone.
        "clone3" => code.push(refuse(ENOSYS)),
        // Its events are counted for the whole machine (fs.aio-max-nr): one sandbox would take them all. As where the kernel was
        // built without it, programs go on with threads.
        "io_setup" => code.push(refuse(ENOSYS)),
        "ioctl" => code.extend([
            argument(1),
            test(JUMP_EQUAL, TIOCSTI, 1, 0),
            test(JUMP_EQUAL, TIOCLINUX, 0, 1),
            refuse(EPERM),
            op(RETURN, ALLOW),
        ]),
        "fcntl" => {
            code.push(argument(1));
            for (at, command) in REFUSED_FCNTL.iter().enumerate() {
                code.push(test(JUMP_EQUAL, *command, (REFUSED_FCNTL.len() - at) as u8, 0));
            }
            code.extend([op(RETURN, ALLOW), refuse(EINVAL)]);
        }
        "personality" => {
            code.push(argument(0));
            allow_any(&mut code, &PERSONALITIES);
            code.push(refuse(EPERM));
        }
        "socketpair" => code.extend([
            argument(0),
            test(JUMP_EQUAL, AF_UNIX, 0, 1),
            op(RETURN, ALLOW),
            refuse(EAFNOSUPPORT),
        ]),
        "socket" => {
            code.push(argument(0));
            code.push(test(JUMP_EQUAL, AF_UNIX, 0, 1));
            code.push(op(RETURN, ALLOW));
            // Netlink: the routing family alone, which getaddrinfo and getifaddrs ask.
            code.push(test(JUMP_EQUAL, AF_NETLINK, 0, 4));
            code.extend([
                argument(2),
                test(JUMP_EQUAL, 0, 0, 1),
                op(RETURN, ALLOW),
                refuse(EPROTONOSUPPORT),
            ]);
            code.push(test(JUMP_EQUAL, AF_INET, 2, 0));
            code.push(test(JUMP_EQUAL, AF_INET6, 1, 0));
            code.push(refuse(EAFNOSUPPORT));
            code.extend([
                argument(1),
                op(AND, SOCKET_KIND),
                test(JUMP_EQUAL, SOCK_STREAM, 2, 0),
                test(JUMP_EQUAL, SOCK_DGRAM, 1, 0),
                refuse(EPERM),
            ]);
            code.push(argument(2));
            allow_any(&mut code, &PROTOCOLS);
            code.push(refuse(EPROTONOSUPPORT));
        }
        _ => code.push(refuse(EPERM)),
    }
    code
}

/// What the numbers from `from` on get, up to the next leaf.
struct Leaf {
    from: u32,
    code: Vec<Instruction>,
}

/// `refused` are calls of the table that this program does without.
fn leaves(refused: &[&str]) -> Vec<Leaf> {
    let mut answers: Vec<Option<Vec<Instruction>>> = vec![None; LAST_KNOWN as usize + 1];
    for row in ALLOWED {
        if let Some(number) = here(row) {
            answers[number as usize] = Some(vec![op(RETURN, ALLOW)]);
        }
    }
    for row in CHECKED {
        if let Some(number) = here(row) {
            answers[number as usize] = Some(check_code(row.0));
        }
    }
    for row in ALLOWED.iter().chain(CHECKED).filter(|row| refused.contains(&row.0)) {
        if let Some(number) = here(row) {
            answers[number as usize] = None;
        }
    }
    let mut leaves: Vec<Leaf> = Vec::new();
    for (number, answer) in answers.into_iter().enumerate() {
        let code = answer.unwrap_or_else(|| vec![refuse(EPERM)]);
        if leaves.last().map_or(true, |last| last.code != code) {
            leaves.push(Leaf {
                from: number as u32,
                code,
            });
        }
    }
    leaves.push(Leaf {
        from: LAST_KNOWN + 1,
        code: vec![refuse(ENOSYS)],
    });
    leaves
}

/// A binary search: about eight comparisons for any call, where a list takes hundreds.
fn search(leaves: &[Leaf]) -> Vec<Instruction> {
    if leaves.len() == 1 {
        return leaves[0].code.clone();
    }
    let (low, high) = leaves.split_at(leaves.len() / 2);
    let (low_code, high_code) = (search(low), search(high));
    let mut code = vec![test(JUMP_AT_LEAST, high[0].from, 0, 1), op(JUMP, low_code.len() as u32)];
    code.extend(low_code);
    code.extend(high_code);
    code
}

fn program(refused: &[&str]) -> Vec<Instruction> {
    // Another ABI (32-bit calls on this kernel, x32) has other numbers for the same calls: none of it is served.
    let mut code = vec![
        op(LOAD, 4),
        test(JUMP_EQUAL, ARCHITECTURE.0, 1, 0),
        refuse(ENOSYS),
        op(LOAD, 0),
    ];
    code.extend(search(&leaves(refused)));
    code
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len() / 3 * 4 + 4);
    for chunk in bytes.chunks(3) {
        let value = chunk.iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(value >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= chunk.len() { digit as char } else { '=' });
        }
    }
    out
}

/// The filter as the kernel takes it, for crun's annotation.
pub fn filter_base64() -> String {
    let mut bytes = Vec::new();
    for instruction in program(&[]) {
        bytes.extend_from_slice(&instruction.code.to_ne_bytes());
        bytes.extend_from_slice(&[instruction.yes, instruction.no]);
        bytes.extend_from_slice(&instruction.value.to_ne_bytes());
    }
    base64(&bytes)
}

/// The HTTP process's filter: a sandbox's, without what no server of Node's needs.
pub fn server_filter() -> Vec<Instruction> {
    program(NOT_FOR_SERVER)
}

/// `value` is the mask and `valueTwo` what must be left of the argument under it.
fn masked(index: u32, mask: u32, left: u32) -> String {
    format!(
        r#"{{"index":{},"value":{},"valueTwo":{},"op":"SCMP_CMP_MASKED_EQ"}}"#,
        index, mask, left
    )
}

fn allow_rule(name: &str, arguments: &[String]) -> String {
    format!(
        r#"{{"names":["{}"],"action":"SCMP_ACT_ALLOW","args":[{}]}}"#,
        name,
        arguments.join(",")
    )
}

/// Profiles can only list what is allowed, and libseccomp compares whole 64-bit values, while the kernel looks at the low half. So
/// "none of these" is said by what begins otherwise: a rule for each run of leading bits that none of them begins with.
fn all_but(name: &str, index: u32, refused: &[u32]) -> Vec<String> {
    let mut rules = Vec::new();
    let mut begun = vec![(0u32, 0u32)];
    while let Some((bits, start)) = begun.pop() {
        let mask = if bits == 0 { 0 } else { u32::MAX << (32 - bits) };
        if !refused.iter().any(|value| value & mask == start) {
            rules.push(allow_rule(name, &[masked(index, mask, start)]));
        } else if bits < 32 {
            begun.extend([(bits + 1, start), (bits + 1, start | 1 << (31 - bits))]);
        }
    }
    rules
}

fn profile() -> String {
    let names: Vec<String> = ALLOWED.iter().map(|row| format!("\"{}\"", row.0)).collect();
    let mut rules = vec![
        format!(r#"{{"names":[{}],"action":"SCMP_ACT_ALLOW"}}"#, names.join(",")),
        format!(
            r#"{{"names":["clone3","io_setup"],"action":"SCMP_ACT_ERRNO","errnoRet":{}}}"#,
            ENOSYS
        ),
        allow_rule("clone", &[masked(0, NEW_NAMESPACES, 0)]),
        allow_rule("unshare", &[masked(0, NEW_NAMESPACES | NEW_TIME, 0)]),
        allow_rule("socketpair", &[masked(0, u32::MAX, AF_UNIX)]),
        allow_rule("socket", &[masked(0, u32::MAX, AF_UNIX)]),
        allow_rule("socket", &[masked(0, u32::MAX, AF_NETLINK), masked(2, u32::MAX, 0)]),
    ];
    rules.extend(
        PERSONALITIES
            .iter()
            .map(|value| allow_rule("personality", &[masked(0, u32::MAX, *value)])),
    );
    for family in [AF_INET, AF_INET6] {
        for kind in [SOCK_STREAM, SOCK_DGRAM] {
            for protocol in PROTOCOLS {
                let arguments = [
                    masked(0, u32::MAX, family),
                    masked(1, SOCKET_KIND, kind),
                    masked(2, u32::MAX, protocol),
                ];
                rules.push(allow_rule("socket", &arguments));
            }
        }
    }
    rules.extend(all_but("ioctl", 1, &[TIOCSTI, TIOCLINUX]));
    rules.extend(all_but("fcntl", 1, &REFUSED_FCNTL));
    rules.extend(REFUSED_FCNTL.iter().map(|command| {
        format!(
            r#"{{"names":["fcntl"],"action":"SCMP_ACT_ERRNO","errnoRet":{},"args":[{}]}}"#,
            EINVAL,
            masked(1, u32::MAX, *command)
        )
    }));
    format!(
        r#"{{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":{},"architectures":["{}"],"syscalls":[{}]}}"#,
        EPERM,
        ARCHITECTURE.1,
        rules.join(",")
    )
}

/// The same rules as an OCI profile, for runc.
pub fn profile_json() -> String {
    profile()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel does with the program, as far as its instructions go.
    fn run(code: &[Instruction], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let load = |at: u32| match at {
            0 => number,
            4 => architecture,
            other => arguments[(other as usize - 16) / 8] as u32,
        };
        let (mut at, mut value) = (0usize, 0u32);
        loop {
            let instruction = code[at];
            at += 1;
            let taken = match instruction.code {
                LOAD => {
                    value = load(instruction.value);
                    continue;
                }
                AND => {
                    value &= instruction.value;
                    continue;
                }
                JUMP => {
                    at += instruction.value as usize;
                    continue;
                }
                RETURN => return instruction.value,
                JUMP_EQUAL => value == instruction.value,
                JUMP_AT_LEAST => value >= instruction.value,
                JUMP_ANY_BIT => value & instruction.value != 0,
                other => panic!("unknown instruction {}", other),
            };
            at += usize::from(if taken { instruction.yes } else { instruction.no });
        }
    }

    fn number(name: &str) -> u32 {
        ALLOWED
            .iter()
            .chain(CHECKED)
            .find(|row| row.0 == name)
            .and_then(here)
            .unwrap()
    }

    fn answer(name: &str, arguments: &[u64]) -> u32 {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        run(&program(&[]), ARCHITECTURE.0, number(name), all)
    }

    #[test]
    fn every_listed_call_is_allowed_and_every_other_is_not() {
        let code = program(&[]);
        let mut allowed = 0;
        for call in 0..LAST_KNOWN + 1 {
            let listed = ALLOWED.iter().any(|row| here(row) == Some(call));
            let checked = CHECKED.iter().any(|row| here(row) == Some(call));
            if !checked {
                assert_eq!(
                    run(&code, ARCHITECTURE.0, call, [0; 6]),
                    if listed { ALLOW } else { ERRNO | EPERM },
                    "call {}",
                    call
                );
                allowed += u32::from(listed);
            }
        }
        assert!(allowed > 250);
        assert_eq!(run(&code, ARCHITECTURE.0, 4000, [0; 6]), ERRNO | ENOSYS);
        assert!(code.len() < 4096);
    }

    #[test]
    fn the_numbers_are_those_of_the_kernels_headers() {
        let headers = [
            ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "#define __NR_", 1),
            ("/usr/include/asm-generic/unistd.h", "#define __NR_", 2),
            ("/usr/include/asm-generic/unistd.h", "#define __NR3264_", 2),
        ];
        let mut compared = 0;
        for (path, prefix, column) in headers {
            let text = match std::fs::read_to_string(path) {
                Ok(text) => text,
                Err(_) => continue,
            };
            for line in text.lines() {
                let mut words = line.strip_prefix(prefix).unwrap_or("").split_whitespace();
                let (name, number) = (words.next().unwrap_or(""), words.next().and_then(|word| word.parse::<i32>().ok()));
                // Where a call has a name for 64 bits of its own, the header gives it beside the old one.
                let name = match name {
                    "fstatat" => "newfstatat",
                    other => other,
                };
                let row = ALLOWED.iter().chain(CHECKED).find(|row| row.0 == name);
                if let (Some(row), Some(number)) = (row, number) {
                    let known = if column == 1 { row.1 } else { row.2 };
                    assert!(known == number, "{} is {} in {}, {} in the table", name, number, path, known);
                    compared += 1;
                }
            }
        }
        // Without the headers of libc there is nothing to compare with, and nothing could have been built.
        assert!(compared > 200, "{} numbers compared", compared);
    }

    #[test]
    fn no_call_is_listed_twice_and_what_the_server_does_without_is_in_the_table() {
        let names: Vec<&str> = ALLOWED.iter().chain(CHECKED).map(|row| row.0).collect();
        let different: std::collections::HashSet<&str> = names.iter().copied().collect();
        assert_eq!(different.len(), names.len());
        for name in NOT_FOR_SERVER {
            assert!(different.contains(name), "{}", name);
        }
    }

    #[test]
    fn the_server_gets_less_than_a_sandbox() {
        let code = server_filter();
        for name in NOT_FOR_SERVER {
            assert_eq!(run(&code, ARCHITECTURE.0, number(name), [0; 6]), ERRNO | EPERM, "{}", name);
        }
        for name in ["read", "write", "execve", "epoll_wait", "futex", "mmap", "pwrite64", "clone"] {
            assert_eq!(run(&code, ARCHITECTURE.0, number(name), [0; 6]), ALLOW, "{}", name);
        }
        // mount, bpf, keyctl, kexec_load, perf_event_open, setns, io_uring_setup, userfaultfd are in no table.
        for name in ["mount", "bpf", "keyctl", "kexec_load", "perf_event_open", "setns", "io_uring_setup", "userfaultfd"] {
            assert!(ALLOWED.iter().chain(CHECKED).all(|row| row.0 != name), "{}", name);
        }
        assert_eq!(run(&code, ARCHITECTURE.0, number("clone"), [0x1000_0000, 0, 0, 0, 0, 0]), ERRNO | EPERM);
        assert_eq!(run(&code, 0x4000_0003, number("write"), [0; 6]), ERRNO | ENOSYS);
    }

    #[test]
    fn calls_of_another_abi_are_refused() {
        let code = program(&[]);
        assert_eq!(run(&code, 0x4000_0003, number("write"), [0; 6]), ERRNO | ENOSYS);
        assert_eq!(
            run(&code, ARCHITECTURE.0, 0x4000_0000 | number("write"), [0; 6]),
            ERRNO | ENOSYS
        );
    }

    #[test]
    fn namespaces_are_refused_bit_by_bit() {
        for bit in [
            0x0002_0000u64,
            0x0200_0000,
            0x0400_0000,
            0x0800_0000,
            0x1000_0000,
            0x2000_0000,
            0x4000_0000,
        ] {
            assert_eq!(answer("clone", &[bit | 17]), ERRNO | EPERM);
            assert_eq!(answer("unshare", &[bit]), ERRNO | EPERM);
        }
        assert_eq!(answer("clone", &[0x003d_0f00]), ALLOW);
        assert_eq!(answer("unshare", &[0x200]), ALLOW);
        assert_eq!(answer("unshare", &[u64::from(NEW_TIME)]), ERRNO | EPERM);
        assert_eq!(answer("clone3", &[0]), ERRNO | ENOSYS);
    }

    #[test]
    fn asynchronous_io_that_the_machine_counts_as_one_is_not_there() {
        assert_eq!(answer("io_setup", &[1]), ERRNO | ENOSYS);
        assert!(profile_json().contains(r#""clone3","io_setup""#));
    }

    #[test]
    fn terminal_injection_is_refused_whatever_the_high_half_says() {
        for high in [0u64, 1 << 32, u64::MAX << 32] {
            assert_eq!(answer("ioctl", &[0, high | u64::from(TIOCSTI)]), ERRNO | EPERM);
            assert_eq!(answer("ioctl", &[0, high | u64::from(TIOCLINUX)]), ERRNO | EPERM);
        }
        assert_eq!(answer("ioctl", &[0, 0x5413]), ALLOW);
    }

    #[test]
    fn sockets_are_unix_tcp_udp_and_routes() {
        let socket = |domain: u64, kind: u64, protocol: u64| answer("socket", &[domain, kind, protocol]);
        for kind in [1, 2, 1 | 0o2004000] {
            assert_eq!(socket(1, kind, 0), ALLOW);
            assert_eq!(socket(2, kind, 0), ALLOW);
            assert_eq!(socket(10, kind, 0), ALLOW);
        }
        assert_eq!(socket(2, 1, 6), ALLOW);
        assert_eq!(socket(16, 3, 0), ALLOW);
        assert_eq!(socket(2, 3, 1), ERRNO | EPERM);
        assert_eq!(socket(2, 1, 132), ERRNO | EPROTONOSUPPORT);
        assert_eq!(socket(16, 3, 15), ERRNO | EPROTONOSUPPORT);
        for exotic in [0, 17, 38, 40, 44] {
            assert_eq!(socket(exotic, 3, 0), ERRNO | EAFNOSUPPORT, "family {}", exotic);
        }
    }

    #[test]
    fn what_the_design_forbids_is_in_no_table() {
        for name in [
            "bpf",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "userfaultfd",
            "perf_event_open",
            "keyctl",
            "add_key",
            "request_key",
            "kexec_load",
            "kexec_file_load",
            "fsopen",
            "fsmount",
            "fsconfig",
            "fspick",
            "move_mount",
            "open_tree",
            "mount_setattr",
            "mount",
            "umount2",
            "pivot_root",
            "setns",
            "init_module",
            "finit_module",
            "delete_module",
            "reboot",
            "swapon",
            "swapoff",
            "open_by_handle_at",
            "fanotify_init",
            "quotactl",
            "syslog",
            "acct",
            "iopl",
            "ioperm",
            "settimeofday",
            "clock_settime",
            "sethostname",
            "setdomainname",
        ] {
            assert!(!ALLOWED.iter().chain(CHECKED).any(|row| row.0 == name), "{}", name);
        }
    }

    #[test]
    fn the_profile_covers_all_values_but_the_refused() {
        for refused in [&[TIOCSTI, TIOCLINUX][..], &REFUSED_FCNTL] {
            // Every rule is (mask, left); a value is allowed when some rule fits.
            let rules: Vec<(u32, u32)> = all_but("ioctl", 1, refused)
                .iter()
                .map(|rule| {
                    let field = |key: &str| {
                        rule.split(key)
                            .nth(1)
                            .unwrap()
                            .trim_start_matches(':')
                            .split(',')
                            .next()
                            .unwrap()
                            .parse()
                            .unwrap()
                    };
                    (field("\"value\""), field("\"valueTwo\""))
                })
                .collect();
            let allowed = |value: u32| rules.iter().filter(|(mask, left)| value & mask == *left).count();
            for value in (0..0x10000).chain([u32::MAX, 0x8004_5430]) {
                assert_eq!(allowed(value), usize::from(!refused.contains(&value)), "{:x}", value);
            }
        }
    }

    #[test]
    fn locks_that_belong_to_no_process_leases_and_notices_are_refused_as_by_an_older_kernel() {
        for command in [36u64, 37, 38, 1024, 1026] {
            for high in [0u64, 1 << 32] {
                assert_eq!(answer("fcntl", &[3, high | command]), ERRNO | EINVAL, "{}", command);
            }
        }
        // F_DUPFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW, F_SETOWN_EX, F_GETLEASE, F_DUPFD_CLOEXEC, F_SETPIPE_SZ, F_ADD_SEALS.
        for command in [0u64, 3, 4, 5, 6, 7, 15, 1025, 1030, 1031, 1033] {
            assert_eq!(answer("fcntl", &[3, command]), ALLOW, "{}", command);
        }
    }

    #[test]
    fn base64_is_the_usual_one() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes), text);
        }
    }
}
