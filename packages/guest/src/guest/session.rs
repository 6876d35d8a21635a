//! Signals to every process of a session, wherever its processes have put themselves.

use super::sys;
use std::fs;
use std::os::unix::io::AsRawFd;

/// Rounds of looking for processes to kill; a session that forks meanwhile is caught by a later one.
const MAX_ROUNDS: usize = 20;

/// Signals all of a session but its leader, whose fate the loop knows. For a worker: reads /proc. KILL is repeated until
/// nobody is left, other signals go once to each process.
pub fn signal_followers(session_id: i32, number: i32) {
    let rounds = if number == sys::SIGKILL { MAX_ROUNDS } else { 1 };
    for _ in 0..rounds {
        if signal_once(session_id, number) == 0 {
            return;
        }
    }
}

fn signal_once(session_id: i32, number: i32) -> usize {
    let mut found = 0;
    let entries = match fs::read_dir("/proc") {
        Ok(entries) => entries,
        Err(_) => {
            // Without /proc the leader's own group is all that can be named.
            drop(sys::send_signal(-session_id, number));
            return 0;
        }
    };
    for entry in entries.flatten() {
        let pid: i32 = match entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            Some(pid) if pid > 1 && pid != session_id => pid,
            _ => continue,
        };
        // The pidfd is taken before the session is read: the signal then reaches the process that was looked at or none.
        let pidfd = sys::pidfd(pid);
        match fs::read(format!("/proc/{pid}/stat")) {
            Ok(stat) if session_of(&stat) == Some(session_id) => {}
            _ => continue,
        }
        found += 1;
        drop(match pidfd {
            Ok(pidfd) => sys::pidfd_signal(pidfd.as_raw_fd(), number),
            Err(_) => sys::send_signal(pid, number),
        });
    }
    found
}

/// The sixth field. The second is the program's name in parentheses, which may itself hold any character. None for a zombie.
fn session_of(stat: &[u8]) -> Option<i32> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_session_past_any_name() {
        assert_eq!(session_of(b"12 (a) b) S 1 12 7 34816 12"), Some(7));
        assert_eq!(session_of(b"12 (x) Z 1 12 7 0"), None);
        assert_eq!(session_of(b"12 (x"), None);
        assert_eq!(session_of(b""), None);
    }
}
