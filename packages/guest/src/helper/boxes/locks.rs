//! Locks of files, which the kernel counts for nobody: a box of 64 MB could hold all of the machine's memory in them. So all locks there
//! are get counted a few times a second, and a box that holds more than any program needs is ended.
//!
//! `/proc/locks` has each lock once, with the pid that took it and its file, but a process can take a lock that outlives it, and its
//! number may be another's by then. So a lock belongs to a box when its file lies on a file system that only this box has, or
//! when a process of the box has it among its descriptors. What neither shows is bounded otherwise: the filter refuses
//! locks of open file descriptions (`F_OFD_SETLK`), and of `flock` and leases there is one for each open file, which is counted.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::raw::{c_int, c_long, c_uint};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::io::AsRawFd;
use std::path::Path;
use std::sync::{Arc, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use super::{lock, write_file, Boxes, Cause, Slot, State, FREEZING};
use crate::helper::record::Life;
use crate::helper::{ffi, sys};

/// git, dpkg, SQLite and PostgreSQL hold dozens at once, a build server hundreds. As many take 3 MB of the kernel's memory, about what
/// an idle box takes anyhow.
pub const LOCKS_MAX: usize = 16_384;
/// Locks looked at, each processor's newest first. The kernel walks its list from the start for each page of it, so the time grows with
/// the square, and what one processor gave may lie behind all of another's: whose they are is told by descriptors, where this does not.
const LOOKED_AT: usize = LOCKS_MAX + 1;
/// A box takes about a million a second.
const PAUSE: Duration = Duration::from_millis(250);
/// A look that had to search pauses so many times as long as it took, where the kernel tells how many locks there are: it is made at once
/// when they have become many more. Else at most so long.
const REST: u32 = 10;
const REST_MOST: Duration = Duration::from_secs(1);
/// So long one box's descriptors are searched while it runs on. One with more of them than can be seen in that time stands still until it is
/// known whose the locks are: else it could take them while it is searched, and hide in a crowd of processes.
const SEARCH_RUNNING: Duration = Duration::from_millis(50);
const LINE_BYTES: usize = 256;
/// File systems of which each mount is one of its own.
const OWN_KINDS: [&str; 5] = ["overlay", "tmpfs", "mqueue", "devpts", "proc"];

type Device = (u32, u32);

/// Whose a lock is, as far as its line says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Holder {
    /// Who took it; perhaps gone, or another process by now.
    pid: i32,
    device: Device,
    inode: u64,
}

/// A line of `/proc/locks`, or what follows `lock:` in `fdinfo`: `7: -> POSIX  ADVISORY  WRITE 12 fe:00:34 0 EOF`.
fn holder(line: &str) -> Option<Holder> {
    let mut words = line
        .split_ascii_whitespace()
        .skip(1)
        .skip_while(|word| *word == "->")
        .skip(3);
    let pid = words.next()?.parse().ok()?;
    let mut file = words.next()?.split(':');
    let device = (
        u32::from_str_radix(file.next()?, 16).ok()?,
        u32::from_str_radix(file.next()?, 16).ok()?,
    );
    let inode = file.next()?.parse().ok()?;
    Some(Holder { pid, device, inode })
}

/// Device and kind of each mount.
fn mounts(path: &Path) -> Vec<(Device, String)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(mount).collect()
}

fn mount(line: &str) -> Option<(Device, String)> {
    let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
    let kind = line.split(" - ").nth(1)?.split(' ').next()?;
    Some(((major.parse().ok()?, minor.parse().ok()?), kind.to_string()))
}

/// Which file systems are whose.
struct Owners {
    /// Those that one box has and nobody else.
    own: HashMap<Device, String>,
    /// All that a box's files may lie on, but for those the kernel mounts for itself.
    reached: HashSet<Device>,
    host: HashSet<Device>,
}

impl Owners {
    fn of<'a>(host: Vec<(Device, String)>, boxes: impl Iterator<Item = (&'a str, Vec<(Device, String)>)>) -> Owners {
        let host: HashSet<Device> = host.into_iter().map(|(device, _)| device).collect();
        let mut own: HashMap<Device, Option<String>> = HashMap::new();
        let mut reached = HashSet::new();
        for (id, mounts) in boxes {
            for (device, kind) in mounts {
                reached.insert(device);
                let is_own = OWN_KINDS.contains(&kind.as_str()) && !host.contains(&device);
                let known = own
                    .entry(device)
                    .or_insert_with(|| if is_own { Some(id.to_string()) } else { None });
                if known.as_deref() != Some(id) {
                    *known = None;
                }
            }
        }
        let own = own
            .into_iter()
            .filter_map(|(device, id)| id.map(|id| (device, id)))
            .collect();
        Owners { own, reached, host }
    }

    /// Whether a box may hold a lock there at all. What has no mount (memory files, pipes, events) anybody may.
    fn may_be_a_boxes(&self, device: Device) -> bool {
        self.reached.contains(&device) || (device.0 == 0 && !self.host.contains(&device))
    }
}

/// Counts line by line until a box is found.
#[derive(Default)]
struct Count {
    by_box: HashMap<String, usize>,
    /// On file systems of several.
    shared: HashMap<Holder, usize>,
}

impl Count {
    /// The box that holds too many, as soon as this lock tells.
    fn add(&mut self, owners: &Owners, holder: Holder) -> Option<String> {
        if let Some(id) = owners.own.get(&holder.device) {
            let held = self.by_box.entry(id.clone()).or_insert(0);
            *held += 1;
            return if *held > LOCKS_MAX { Some(id.clone()) } else { None };
        }
        if owners.may_be_a_boxes(holder.device) {
            *self.shared.entry(holder).or_insert(0) += 1;
        }
        None
    }

    /// Whether a box holds too many, with those of the shared ones that its descriptors show to be its. `show` gives each line to a function
    /// that says when it has seen enough, and returns whether it showed all.
    fn judge(&self, id: &str, show: impl FnOnce(&mut dyn FnMut(&str) -> bool) -> bool) -> Verdict {
        let mut held = self.by_box.get(id).copied().unwrap_or(0);
        let mut seen = HashSet::new();
        let whole = show(&mut |line| {
            if let Some((holder, count)) = holder(line).and_then(|holder| self.shared.get_key_value(&holder)) {
                held += if seen.insert(holder) { *count } else { 0 };
            }
            held > LOCKS_MAX
        });
        Verdict::of(held, whole)
    }
}

/// Whether a box holds too many, by its descriptors alone, each lock counted once through however many it is seen.
fn judge_all(show: impl FnOnce(&mut dyn FnMut(&str) -> bool) -> bool) -> Verdict {
    let mut seen = HashSet::new();
    let whole = show(&mut |line| {
        // After the number that each file counts anew.
        let lock = line.split_once(':').map_or(line, |(_, lock)| lock);
        seen.insert(lock.to_string());
        seen.len() > LOCKS_MAX
    });
    Verdict::of(seen.len(), whole)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    TooMany,
    Fine,
    /// There was no time to see all.
    NotSeen,
}

impl Verdict {
    fn of(held: usize, whole: bool) -> Verdict {
        match (held > LOCKS_MAX, whole) {
            (true, _) => Verdict::TooMany,
            (false, true) => Verdict::Fine,
            (false, false) => Verdict::NotSeen,
        }
    }
}

/// How many locks the kernel has memory for; None where it does not tell.
fn all_locks() -> Option<usize> {
    let text = fs::read_to_string("/proc/slabinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("file_lock_cache "))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// What is known from one look to the next.
#[derive(Default)]
pub struct LockWatch {
    /// Nobody was found when there were so many, and the next search is not before then.
    resting: Option<(usize, Instant)>,
}

impl LockWatch {
    /// Ends the box that holds too many locks. Tells which, and how long to wait before the next look.
    pub fn look(&mut self, boxes: &Boxes) -> (io::Result<Option<String>>, Duration) {
        if let Some((many, until)) = &mut self.resting {
            let now = all_locks().unwrap_or(usize::MAX);
            // Fewer of others' would hide as many of somebody's.
            *many = now.min(*many);
            if now <= *many + LOCKS_MAX && Instant::now() < *until {
                return (Ok(None), PAUSE);
            }
        }
        let since = Instant::now();
        let found = find(boxes);
        let rest = since.elapsed() * REST;
        // One that is dying already is no news.
        let found = found.map(|found| found.filter(|id| boxes.condemn(id)));
        self.resting = match (&found, all_locks()) {
            (Ok(None), Some(many)) if rest > PAUSE => Some((many, Instant::now() + rest)),
            _ => None,
        };
        let pause = if self.resting.is_some() { PAUSE } else { rest.min(REST_MOST).max(PAUSE) };
        (found, pause)
    }
}

fn find(boxes: &Boxes) -> io::Result<Option<String>> {
    let mut file = BufReader::with_capacity(64 << 10, File::open("/proc/locks")?);
    let mut kept = Vec::new();
    let mut line = String::with_capacity(LINE_BYTES);
    // The first look: on nearly every machine it ends here, after a page or two.
    while kept.len() < LOOKED_AT {
        line.clear();
        if file.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        kept.extend(holder(&line));
    }
    drop(file);
    let living = boxes.living();
    let owners = owners(&living);
    let mut count = Count::default();
    for holder in kept {
        if let Some(id) = count.add(&owners, holder) {
            return Ok(Some(id));
        }
    }
    let inodes: HashSet<u64> = count.shared.keys().map(|holder| holder.inode).collect();
    let by_these = |id: &str, until| {
        let processes = boxes.cgroups.processes(id);
        count.judge(id, |seen| show(&processes, Some(&inodes), until, seen))
    };
    let by_all = |id: &str, until| {
        let processes = boxes.cgroups.processes(id);
        judge_all(|seen| show(&processes, None, until, seen))
    };
    Ok(search(boxes, &living, by_these).or_else(|| search(boxes, &living, by_all)))
}

fn owners(living: &[(String, Life)]) -> Owners {
    let of_box = |life: &Life| {
        let found = mounts(Path::new(&format!("/proc/{}/mountinfo", life.pid)));
        // Asked after: the number may have become another's meanwhile.
        if Life::of(life.pid).as_ref() == Some(life) {
            found
        } else {
            Vec::new()
        }
    };
    Owners::of(
        mounts(Path::new("/proc/self/mountinfo")),
        living.iter().map(|(id, life)| (id.as_str(), of_box(life))),
    )
}

/// The box that holds too many. Those with too much to see stand still from when that shows until they are judged.
fn search(
    boxes: &Boxes,
    living: &[(String, Life)],
    judge: impl Fn(&str, Option<Instant>) -> Verdict,
) -> Option<String> {
    let slots: Vec<Arc<Slot>> = living.iter().filter_map(|(id, _)| boxes.slot(id)).collect();
    let mut later = Vec::new();
    for slot in &slots {
        let id = &slot.record.box_id;
        match judge(id, Some(Instant::now() + SEARCH_RUNNING)) {
            Verdict::TooMany => return Some(id.clone()),
            Verdict::Fine => {}
            Verdict::NotSeen => later.push((id, Still::make(boxes, slot))),
        }
    }
    let found = later.iter().find(|(id, _still)| judge(id, None) == Verdict::TooMany);
    found.map(|(id, _still)| (*id).clone())
}

/// A box that stands still as long as this lives. After a kill of the helper in between, the next one wakes it.
struct Still<'a> {
    boxes: &'a Boxes,
    slot: &'a Slot,
    _busy: MutexGuard<'a, ()>,
}

impl<'a> Still<'a> {
    /// None where an operation changes the box just now, or it stands still anyhow.
    fn make(boxes: &'a Boxes, slot: &'a Slot) -> Option<Still<'a>> {
        let busy = match slot.busy.try_lock() {
            Ok(busy) => busy,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let id = &slot.record.box_id;
        if lock(&slot.view).state != State::Running || write_file(&boxes.box_folder(id).join(FREEZING), "").is_err() {
            return None;
        }
        let still = Still { boxes, slot, _busy: busy };
        // Where it can't be frozen it is searched while it runs: what was begun is undone all the same.
        let _ = boxes.cgroups.freeze(id, true);
        Some(still)
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        let id = &self.slot.record.box_id;
        if self.boxes.cgroups.freeze(id, false).is_err() {
            lock(&self.slot.view).state = State::Frozen;
        }
        let _ = fs::remove_file(self.boxes.box_folder(id).join(FREEZING));
    }
}

/// Descriptors that are looked at between two looks at the clock.
const AT_ONCE: usize = 256;

/// The locks that processes have among their descriptors, until `seen` has seen enough or the time is over; false where not all was shown.
/// The newest come first, as in the kernel's list, and only of the files with these numbers, where there are some: to read what is locked in
/// a file takes longer than to see which it is.
fn show(
    pids: &[i32],
    inodes: Option<&HashSet<u64>>,
    until: Option<Instant>,
    seen: &mut dyn FnMut(&str) -> bool,
) -> bool {
    // Who takes locks now was started last, more often than not.
    for pid in pids.iter().rev() {
        for task in names(Path::new(&format!("/proc/{}/task", pid))) {
            if shares_descriptors(*pid, &task) {
                continue;
            }
            let folder = match File::open(task.join("fd")) {
                Ok(folder) => folder,
                Err(_) => continue,
            };
            for (at, path) in names(&task.join("fd")).into_iter().rev().enumerate() {
                if at % AT_ONCE == 0 && until.map_or(false, |until| Instant::now() > until) {
                    return false;
                }
                let name = path.file_name().unwrap_or_default();
                let is_meant = |inodes: &HashSet<u64>| inode_at(&folder, name).map_or(false, |number| inodes.contains(&number));
                if !inodes.map_or(true, is_meant) {
                    continue;
                }
                let lines = File::open(task.join("fdinfo").join(name)).map(BufReader::new);
                for line in lines
                    .into_iter()
                    .flat_map(|file| file.lines().map_while(io::Result::ok))
                {
                    if line.strip_prefix("lock:").map_or(false, &mut *seen) {
                        return true;
                    }
                }
            }
        }
    }
    true
}

/// Whether a thread has the same descriptors as its process, which is another thread and is looked at itself. Where the kernel does not tell,
/// it has its own.
fn shares_descriptors(pid: i32, task: &Path) -> bool {
    const KCMP_FILES: c_int = 2;
    let thread: Option<i32> = task.file_name().and_then(|name| name.to_str()?.parse().ok());
    thread.map_or(false, |thread| {
        // SAFETY: numbers alone.
        thread != pid && unsafe { ffi::syscall(ffi::SYS_KCMP, pid, thread, KCMP_FILES, 0 as c_long, 0 as c_long) } == 0
    })
}

/// The number of the file that a descriptor is open on.
fn inode_at(folder: &File, name: &OsStr) -> Option<u64> {
    const AT_STATX_DONT_SYNC: c_int = 0x4000;
    const STATX_INO: c_uint = 0x100;
    const STATX_WORDS: usize = 32;
    const INO_WORD: usize = 4;
    let name = CString::new(name.as_bytes()).ok()?;
    let mut found = [0u64; STATX_WORDS];
    // SAFETY: the kernel writes one statx, which is 256 bytes, and reads the name.
    let done = unsafe {
        ffi::syscall(
            ffi::SYS_STATX,
            folder.as_raw_fd(),
            name.as_ptr(),
            AT_STATX_DONT_SYNC,
            STATX_INO,
            found.as_mut_ptr(),
        )
    };
    if done == 0 {
        Some(found[INO_WORD])
    } else {
        None
    }
}

fn names(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder);
    entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

impl Boxes {
    /// Boxes in which a program may run, and their first processes.
    fn living(&self) -> Vec<(String, Life)> {
        let table = lock(&self.table);
        let mut found = Vec::new();
        for (id, slot) in &table.boxes {
            let view = lock(&slot.view);
            if let (State::Running | State::Frozen, Some(life)) = (view.state, &view.life) {
                found.push((id.clone(), life.clone()));
            }
        }
        found
    }

    /// Kills a box's first process, and with it all others; its death is told with the reason. False where it is ending anyhow.
    fn condemn(&self, id: &str) -> bool {
        let slot = match self.slot(id) {
            Some(slot) => slot,
            None => return false,
        };
        let mut view = lock(&slot.view);
        if view.ending || view.cause.is_some() {
            return false;
        }
        let killed = view.handle.as_ref().map_or(false, |handle| {
            sys::pidfd_signal(handle.as_raw_fd(), sys::SIGKILL).is_ok()
        });
        if killed {
            view.cause = Some(Cause::Locks);
        }
        let frozen = view.state == State::Frozen;
        drop(view);
        if frozen {
            // It dies when it runs again, and takes nothing more until then.
            let _ = self.freeze(id, false);
        }
        killed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: Device = (0, 77);

    fn held(pid: i32, device: Device) -> Holder {
        Holder { pid, device, inode: 5 }
    }

    fn kind(device: Device, name: &str) -> (Device, String) {
        (device, name.to_string())
    }

    fn owners() -> Owners {
        let host = vec![kind((0, 6), "devtmpfs"), kind((0xfe, 0), "ext4")];
        let boxes = vec![
            (
                "box_a",
                vec![
                    kind(DEVICE, "overlay"),
                    kind((0, 6), "devtmpfs"),
                    kind((0, 40), "btrfs"),
                    kind((0, 41), "tmpfs"),
                ],
            ),
            (
                "box_b",
                vec![
                    kind((0, 78), "overlay"),
                    kind((0, 6), "devtmpfs"),
                    kind((0, 41), "tmpfs"),
                ],
            ),
        ];
        Owners::of(host, boxes.into_iter())
    }

    #[test]
    fn every_kind_of_line_tells_who_took_it_and_where() {
        for line in [
            "22: POSIX  ADVISORY  WRITE 3080 fe:00:7763301 0 EOF",
            "10: -> FLOCK  ADVISORY  WRITE 3080 fe:00:7763301 0 EOF",
            "10:   -> POSIX  *NOINODE* READ 3080 fe:00:7763301 128 128",
            "\t1: LEASE  BREAKING  UNLCK 3080 fe:00:7763301 0 EOF",
        ] {
            let found = holder(line).unwrap();
            assert_eq!(
                (found.pid, found.device, found.inode),
                (3080, (0xfe, 0), 7_763_301),
                "{}",
                line
            );
        }
        assert_eq!(holder("3: OFDLCK ADVISORY  WRITE -1 00:10:1039 2 2").unwrap().pid, -1);
        for line in [
            "",
            "1:",
            "1: POSIX  ADVISORY  WRITE 12 <none>:0 0 EOF",
            "1: POSIX ADVISORY WRITE x 0:0:1 0 EOF",
        ] {
            assert_eq!(holder(line), None, "{}", line);
        }
    }

    #[test]
    fn a_mount_tells_its_device_in_decimals() {
        let line = "561 560 0:167 / /tmp rw,nosuid shared:1 - tmpfs tmpfs rw,size=64k";
        assert_eq!(mount(line), Some(((0, 167), "tmpfs".to_string())));
        assert_eq!(mount("561 560"), None);
    }

    #[test]
    fn a_file_system_of_two_boxes_or_of_the_host_is_nobodys_own() {
        let owners = owners();
        assert_eq!(owners.own.get(&DEVICE).map(String::as_str), Some("box_a"));
        assert_eq!(owners.own.get(&(0, 78)).map(String::as_str), Some("box_b"));
        for device in [(0, 6), (0, 40), (0, 41)] {
            assert_eq!(owners.own.get(&device), None);
            assert!(owners.may_be_a_boxes(device));
        }
        // Memory files, pipes and events have no mount. A disk that no box sees is the host's.
        assert!(owners.may_be_a_boxes((0, 1)));
        assert!(!owners.may_be_a_boxes((0xfe, 0)));
    }

    #[test]
    fn a_box_is_found_by_the_lock_past_the_limit_whoever_the_line_says_took_it() {
        let owners = owners();
        let mut count = Count::default();
        for number in 0..LOCKS_MAX {
            assert_eq!(count.add(&owners, held(number as i32, DEVICE)), None);
        }
        assert_eq!(count.add(&owners, held(-1, (0, 78))), None);
        assert_eq!(count.add(&owners, held(-1, DEVICE)), Some("box_a".to_string()));
    }

    #[test]
    fn locks_on_what_is_shared_count_for_the_box_whose_descriptors_show_them_each_once() {
        let owners = owners();
        let mut count = Count::default();
        for _ in 0..100 {
            assert_eq!(count.add(&owners, held(7, (0, 6))), None);
            count.add(&owners, held(8, (0, 1)));
            count.add(&owners, held(9, (0xfe, 0)));
        }
        count.add(&owners, held(7, DEVICE));
        assert_eq!(count.shared.values().sum::<usize>(), 200);
        for _ in 0..LOCKS_MAX - 101 {
            count.add(&owners, held(7, DEVICE));
        }
        let shows = |pid: i32| {
            // Seen through as many descriptors and threads as may be.
            move |seen: &mut dyn FnMut(&str) -> bool| {
                for _ in 0..LOCKS_MAX {
                    seen(&format!("\t1: POSIX  ADVISORY  WRITE {} 00:06:5 0 0", pid));
                }
                true
            }
        };
        assert_eq!(count.judge("box_a", shows(7)), Verdict::Fine);
        assert_eq!(count.judge("box_b", shows(7)), Verdict::Fine);
        count.add(&owners, held(7, DEVICE));
        assert_eq!(count.judge("box_a", shows(3)), Verdict::Fine);
        assert_eq!(count.judge("box_a", shows(7)), Verdict::TooMany);
        assert_eq!(count.judge("box_b", |_| false), Verdict::NotSeen);
    }

    #[test]
    fn by_its_descriptors_alone_a_box_holds_each_lock_once() {
        let shows = |locks: usize| {
            move |seen: &mut dyn FnMut(&str) -> bool| {
                for at in 0..2 * locks {
                    let at = at % locks;
                    seen(&format!("\t{}: POSIX  ADVISORY  WRITE 7 00:01:{} {} {}", at % 7, at % 5, at, at));
                }
                true
            }
        };
        assert_eq!(judge_all(shows(LOCKS_MAX)), Verdict::Fine);
        assert_eq!(judge_all(shows(LOCKS_MAX + 1)), Verdict::TooMany);
        assert_eq!(judge_all(|_| false), Verdict::NotSeen);
    }

    #[test]
    fn the_descriptors_of_a_process_show_its_locks() {
        let path = std::env::temp_dir().join(format!("delta-locks-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        let inode = std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
        let own = [std::process::id() as i32];
        let shows = |until: Option<Instant>| {
            let mut found = false;
            let inodes = std::iter::once(inode).collect();
            let whole = show(&own, Some(&inodes), until, &mut |line| {
                found |= holder(line).map_or(false, |holder| holder.inode == inode && holder.pid == own[0]);
                found
            });
            assert_eq!(whole, until.is_none() || found);
            found
        };
        assert!(!shows(None));
        // SAFETY: a plain descriptor.
        assert_eq!(
            unsafe { crate::helper::ffi::flock(file.as_raw_fd(), crate::helper::ffi::LOCK_EX) },
            0
        );
        assert!(shows(None));
        assert!(!shows(Some(Instant::now() - Duration::from_secs(1))));
        fs::remove_file(path).unwrap();
    }
}
