//! Makes, ends and adopts boxes.
//!
//! A box's folder `<data>/state/boxes/<boxId>` exists, with `spec` in it, before the first effect and goes after the last, so no
//! crash leaves anything that the next start cannot find. `ready` is written last: a box without it was never made. While it is made,
//! `spec` is locked by everything that works on it, the runtime's processes included.

mod disks;
mod locks;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::io::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::bases::{self, Base};
use super::cgroup::{self, Cgroups, Stats, Usage};
use super::error::{code, Context, Error, Result};
use super::ffi;
use super::guest_layer;
use super::network::Plan;
use super::overlay::{Layers, Share, Stage};
use super::pool::Pool;
use super::record::{check_id, BoxLimits, Life, Record, Request};
use super::runtime::{Kind, Run, Runtime};
use super::spec;
use super::sys::{self, Epoll};

pub const RANGE_UIDS: u32 = 65_536;
/// Tokens of the event loop from here on are boxes.
pub const FIRST_BOX_TOKEN: u64 = 1 << 32;
/// How long the end of a killed process is waited for.
const DEATH_WAIT: Duration = Duration::from_secs(20);
/// How long a runtime that outlived a killed helper is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(20);
/// How long a guest that binds its own wire (gVisor) may take.
const WIRE_WAIT: Duration = Duration::from_secs(20);
const WIRE_BACKLOG: i32 = 16;
/// In a box's folder while it is frozen for a snapshot.
const FREEZING: &str = "freezing";
const GUEST_PATH: &str = "/.delta/guest";
/// `/.delta` of an upper that a sandbox wrote itself is moved here.
const STALE_FOLDERS_MAX: usize = 10_000;

pub struct BoxesOptions {
    pub data: PathBuf,
    pub default_kind: Kind,
    pub uid_base: u32,
    /// Ranges of `RANGE_UIDS`, the first of them the HTTP process's.
    pub ranges: u32,
    /// Who may connect to the wires.
    pub client_uid: u32,
    /// Bytes of the machine's memory with less of which left no box is made.
    pub memory_reserve: u64,
    /// The guest's program, copied to the data folder.
    pub guest: PathBuf,
    /// Called after each step of making and ending a box; tests die there. @default nothing
    pub step: fn(&str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Making,
    Running,
    Frozen,
    Dead,
}

struct View {
    state: State,
    life: Option<Life>,
    handle: Option<OwnedFd>,
    token: u64,
    /// Its end is wanted, so it is no news.
    ending: bool,
    /// Why it ended, or is about to.
    cause: Option<Cause>,
}

/// Why a box ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Itself,
    Memory,
    Locks,
}

impl Cause {
    /// As the protocol numbers it.
    pub fn number(self) -> u8 {
        match self {
            Cause::Itself => 0,
            Cause::Memory => 1,
            Cause::Locks => 2,
        }
    }
}

struct Slot {
    /// As the box was made; `limits` may have changed since.
    record: Record,
    limits: Mutex<BoxLimits>,
    /// Held by the operation that changes the box; at most one does.
    busy: Mutex<()>,
    view: Mutex<View>,
}

#[derive(Default)]
struct Table {
    boxes: HashMap<String, Arc<Slot>>,
    tokens: HashMap<u64, String>,
    ranges: BTreeSet<u32>,
    /// Ranges are given out in turn, so that one is not used again at once.
    next_range: u32,
    next_token: u64,
    /// Uppers that no box uses and something else works on.
    claimed: HashSet<String>,
}

pub struct Boxes {
    options: BoxesOptions,
    pub pool: Pool,
    pub cgroups: Cgroups,
    epoll: Arc<Epoll>,
    folder: PathBuf,
    wires: OwnedFd,
    wires_path: PathBuf,
    guest: String,
    network: Plan,
    boot_id: String,
    runtimes: Mutex<HashMap<Kind, Arc<Runtime>>>,
    /// What the operator should know of the start.
    warnings: Mutex<Vec<String>>,
    table: Mutex<Table>,
}

pub use disks::{Claim, Taken};
pub use locks::{LockWatch, LOCKS_MAX};

#[derive(Debug)]
pub struct Made {
    pub pid: i32,
    pub uid_first: u32,
    pub wire: String,
    pub timings: Vec<(&'static str, u32)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub box_id: String,
    pub upper_id: String,
    /// 1 running, 2 frozen, 3 dead, 4 dead for memory, 5 for locks of files.
    pub state: u8,
    pub pid: i32,
    pub wire: String,
    pub template: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn unknown(box_id: &str) -> Error {
    Error::new(code::NOT_FOUND, format!("there is no box {}", box_id))
}

fn make_folder(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(path).context(format_args!("making {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .context(format_args!("setting the mode of {}", path.display()))
}

/// Refuses while there is time to: a machine without memory ends programs, and not those that one would choose. None: it does not say.
fn check_memory(available: Option<u64>, reserve: u64) -> Result<()> {
    match available {
        Some(available) if available < reserve => Err(Error::new(
            code::LIMIT,
            format!(
                "the machine has {} MiB of memory left, and {} are kept free: end sandboxes, or lower DELTA_MEMORY_RESERVE_MB",
                available >> 20,
                reserve >> 20
            ),
        )),
        _ => Ok(()),
    }
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .context(format_args!("writing {}", path.display()))
}

/// How long the phases of making a box took.
struct Phases {
    since: Instant,
    done: Vec<(&'static str, u32)>,
    step: fn(&str),
}

impl Phases {
    fn end(&mut self, name: &'static str) {
        self.done
            .push((name, self.since.elapsed().as_micros().min(u128::from(u32::MAX)) as u32));
        (self.step)(name);
        self.since = Instant::now();
    }
}

impl Boxes {
    pub fn open(options: BoxesOptions, pool: Pool, cgroups: Cgroups, epoll: Arc<Epoll>) -> Result<Boxes> {
        let state = options.data.join("state");
        let folder = state.join("boxes");
        for path in [&state, &folder] {
            make_folder(path, 0o700)?;
        }
        let wires_path = options.data.join("wires");
        make_folder(&wires_path, 0o711)?;
        let wires = ffi::open_directory(&wires_path).context(format_args!("opening {}", wires_path.display()))?;
        let guest = guest_layer::install(&options.data, &options.guest)?;
        cgroups.make_parent()?;
        let network = Plan::new();
        let mut warnings = Vec::new();
        if let Err(cause) = network.try_out(options.uid_base) {
            warnings.push(format!(
                "connections of programs that know no proxy leave sandboxes only by name and by ports 80 and 443: {}",
                cause
            ));
        }
        Ok(Boxes {
            options,
            pool,
            cgroups,
            epoll,
            folder,
            wires,
            wires_path,
            guest,
            network,
            boot_id: sys::boot_id(),
            runtimes: Mutex::new(HashMap::new()),
            warnings: Mutex::new(warnings),
            table: Mutex::new(Table {
                next_range: 1,
                next_token: FIRST_BOX_TOKEN,
                ..Table::default()
            }),
        })
    }

    pub fn data(&self) -> &Path {
        &self.options.data
    }

    pub fn step(&self, name: &str) {
        (self.options.step)(name);
    }

    pub fn wires_path(&self) -> &Path {
        &self.wires_path
    }

    pub fn warnings(&self) -> Vec<String> {
        self.pool
            .warnings()
            .iter()
            .cloned()
            .chain(lock(&self.warnings).iter().cloned())
            .collect()
    }

    pub fn runtime(&self, kind: Kind) -> Result<Arc<Runtime>> {
        let mut runtimes = lock(&self.runtimes);
        if let Some(runtime) = runtimes.get(&kind) {
            return Ok(runtime.clone());
        }
        let runtime = Arc::new(Runtime::find(kind)?);
        runtimes.insert(kind, runtime.clone());
        Ok(runtime)
    }

    fn box_folder(&self, box_id: &str) -> PathBuf {
        self.folder.join(box_id)
    }

    fn first_uid(&self, range: u32) -> u32 {
        self.options.uid_base + range * RANGE_UIDS
    }

    fn slot(&self, box_id: &str) -> Option<Arc<Slot>> {
        lock(&self.table).boxes.get(box_id).cloned()
    }

    /// Takes the box's id, its upper and a range; none of them can be taken twice.
    fn reserve(&self, request: &Request) -> Result<Arc<Slot>> {
        check_memory(cgroup::memory_available(), self.options.memory_reserve)?;
        let kind = request.runtime.unwrap_or(self.options.default_kind);
        let mut table = lock(&self.table);
        if table.boxes.contains_key(&request.box_id) {
            return Err(Error::new(
                code::EXISTS,
                format!("there is a box {} already", request.box_id),
            ));
        }
        if let Some(other) = table
            .boxes
            .values()
            .find(|slot| slot.record.upper_id == request.upper_id)
        {
            return Err(Error::new(
                code::BUSY,
                format!("the upper {} is used by {}", request.upper_id, other.record.box_id),
            ));
        }
        if table.claimed.contains(&request.upper_id) {
            return Err(Error::new(
                code::BUSY,
                format!("the upper {} is being read or written", request.upper_id),
            ));
        }
        let count = self.options.ranges;
        let next = table.next_range;
        let range = (next..count)
            .chain(1..next)
            .find(|range| !table.ranges.contains(range))
            .ok_or_else(|| {
                Error::new(
                    code::LIMIT,
                    format!(
                        "all {} uid ranges are in use: end sandboxes, or widen DELTA_UID_COUNT",
                        count - 1
                    ),
                )
            })?;
        table.next_range = if range + 1 < count { range + 1 } else { 1 };
        table.ranges.insert(range);
        let slot = Arc::new(Slot {
            record: Record {
                box_id: request.box_id.clone(),
                upper_id: request.upper_id.clone(),
                template: request.template.clone(),
                kind,
                range,
                limits: request.limits,
                guest: self.guest.clone(),
                volumes: request.volumes.iter().map(|volume| volume.id.clone()).collect(),
            },
            limits: Mutex::new(request.limits),
            busy: Mutex::new(()),
            view: Mutex::new(View {
                state: State::Making,
                life: None,
                handle: None,
                token: 0,
                ending: false,
                cause: None,
            }),
        });
        table.boxes.insert(request.box_id.clone(), slot.clone());
        Ok(slot)
    }

    fn release(&self, slot: &Slot) {
        let mut table = lock(&self.table);
        let token = lock(&slot.view).token;
        table.tokens.remove(&token);
        table.ranges.remove(&slot.record.range);
        table.boxes.remove(&slot.record.box_id);
    }

    pub fn create(&self, stage: &Stage, request: &Request) -> Result<Made> {
        let slot = self.reserve(request)?;
        let _busy = lock(&slot.busy);
        let mut made_upper = false;
        let made = self.make(stage, request, &slot, &mut made_upper);
        if made.is_err() {
            stage.sweep();
            lock(&slot.view).ending = true;
            match self.dismantle(&slot.record, None, made_upper) {
                Ok(()) => self.release(&slot),
                // Its folder is still there, so END and the next start can finish this.
                Err(_) => lock(&slot.view).state = State::Dead,
            }
        }
        made
    }

    fn make(&self, stage: &Stage, request: &Request, slot: &Slot, made_upper: &mut bool) -> Result<Made> {
        let record = &slot.record;
        let id = &record.box_id;
        let first = self.first_uid(record.range);
        let mut phases = Phases {
            since: Instant::now(),
            done: Vec::new(),
            step: self.options.step,
        };
        let runtime = self.runtime(record.kind)?;
        let base = bases::resolve(&self.options.data, &self.pool, &record.template)?;

        let folder = self.box_folder(id);
        fs::create_dir(&folder).context(format_args!("making {}", folder.display()))?;
        let lock_file = self.write_spec(&folder, record)?;
        phases.end("record");

        let quota = u64::from(record.limits.disk_mb) << 20;
        let upper = if request.fresh {
            *made_upper = true;
            let upper = self.pool.make_upper(&record.upper_id, &record.template, quota);
            *made_upper = !matches!(&upper, Err(error) if error.code == code::EXISTS);
            let upper = upper?;
            // It may have got low between the look at the room and now.
            if self.pool.is_low() {
                self.pool.adapt(&record.upper_id, quota)?;
            }
            upper
        } else {
            self.known_upper(record, quota)?
        };
        phases.end("upper");

        let plan = if runtime.joins_namespaces() { Some(&self.network) } else { None };
        let sys::Namespaces {
            user: user_namespace,
            network,
        } = sys::namespaces(first, RANGE_UIDS, plan).context("making the box's namespaces")?;
        let redirected = network.as_ref().and_then(|network| network.redirected.as_ref().ok());
        phases.end("userns");

        let root = self.mount(stage, &base, &upper, &user_namespace, first)?;
        for volume in &request.volumes {
            let share = Share {
                folder: &self.pool.volume_path(&volume.id)?,
                path: &volume.path,
                read_only: volume.read_only,
            };
            root.share(&share, &user_namespace, first)?;
        }
        phases.end("overlay");

        self.cgroups.make(id)?;
        phases.end("cgroup");

        let wire = self.open_wire(&runtime, id, first)?;
        let wire_folder = self.wires_path.join(wire_folder_name(id));
        let own = |fd: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
        let user_path = own(&user_namespace);
        let network_path = network.as_ref().map(|network| own(&network.namespace));
        let cgroup_path = self.cgroups.runtime_path(id);
        let config = spec::Config {
            kind: record.kind,
            root: &stage.root(),
            hostname: &request.hostname,
            uid_first: first,
            uid_count: RANGE_UIDS,
            user_namespace: if runtime.joins_namespaces() {
                Some(&user_path)
            } else {
                None
            },
            network_namespace: network_path.as_deref(),
            cgroup: if record.kind == Kind::Runc {
                Some(&cgroup_path)
            } else {
                None
            },
            arguments: &guest_arguments(&runtime, record.limits.memory_mb, redirected.is_some()),
            wire_folder: if runtime.passes_descriptors() {
                None
            } else {
                Some(&wire_folder)
            },
        };
        write_file(&stage.bundle().join("config.json"), &spec::build(&config))?;
        phases.end("config");

        let doors = if runtime.starts_in_cgroup() {
            self.cgroups.doors(id)?
        } else {
            Vec::new()
        };
        let door_fds: Vec<RawFd> = doors.iter().map(|door| door.as_raw_fd()).collect();
        let pid = runtime.run(&Run {
            box_id: id,
            bundle: &stage.bundle(),
            state: &stage.state(),
            wire: wire.as_ref().map(|wire| wire.as_raw_fd()),
            redirected: redirected.map(|socket| socket.as_raw_fd()),
            lock: lock_file.as_raw_fd(),
            cgroups: &door_fds,
        })?;
        drop((wire, root, user_namespace, network));
        stage.sweep();
        phases.end("runtime");

        // After the runtime, which needs more than the smallest boxes have; no program of a user has run yet.
        self.cgroups.limit(id, &record.limits.cgroup())?;
        if !runtime.passes_descriptors() {
            self.secure_bound_wire(id, pid)?;
        }
        let life = Life::of(pid).ok_or_else(|| Error::new(code::IO, "the guest ended at once"))?;
        // Looked at after its start time: a guest that ended at once may have left its number to a program of the host.
        if !self.cgroups.holds(id, pid) {
            return Err(Error::new(code::IO, "the guest ended at once"));
        }
        self.begin(slot, &life, State::Running)?;
        write_file(&folder.join("ready"), &life.encode(&self.boot_id))?;
        phases.end("ready");
        Ok(Made {
            pid,
            uid_first: first,
            wire: self.wire_name(record.kind, id),
            timings: phases.done,
        })
    }

    fn mount<'a>(
        &self,
        stage: &'a Stage,
        base: &Base,
        upper: &Path,
        user_namespace: &OwnedFd,
        first: u32,
    ) -> Result<super::overlay::Root<'a>> {
        let guest = self.options.data.join("guest").join(&self.guest);
        let lowers: Vec<&Path> = std::iter::once(&guest).chain(&base.roots).map(|path| path.as_path()).collect();
        let root = Layers {
            lowers: &lowers,
            upper,
            upper_name: "upper",
            work: "work",
        };
        let usr_lowers: Vec<&Path> = base.usrs.iter().map(|path| path.as_path()).collect();
        let usr = match usr_lowers.is_empty() {
            true => None,
            false => {
                make_usr(upper)?;
                Some(Layers {
                    lowers: &usr_lowers,
                    upper,
                    upper_name: "usr",
                    work: "usr-work",
                })
            }
        };
        stage.mount_root(&root, usr.as_ref(), user_namespace, first)
    }

    /// An upper to start on again. What its last sandbox wrote to `/.delta` is moved out of sight in one rename, however deep it
    /// is: the guest that starts is always the platform's.
    fn known_upper(&self, record: &Record, quota: u64) -> Result<PathBuf> {
        let upper_id = &record.upper_id;
        if !self.pool.has_upper(upper_id) {
            return Err(Error::new(code::NOT_FOUND, format!("there is no upper {}", upper_id)));
        }
        self.pool.settle_template(upper_id, &record.template)?;
        self.pool.adapt(upper_id, quota)?;
        let upper = self.pool.upper_path(upper_id);
        let written = upper.join("upper/.delta");
        for number in 0..STALE_FOLDERS_MAX {
            if written.symlink_metadata().is_err() {
                return Ok(upper);
            }
            match ffi::rename_new(&written, &upper.join(format!("stale-{}", number))) {
                Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {}
                other => other.context("putting the sandbox's own /.delta aside")?,
            }
        }
        Err(Error::new(
            code::LIMIT,
            format!("the upper {} was started too often on a /.delta of its own", upper_id),
        ))
    }

    /// The file stays open and locked while the box is made.
    fn write_spec(&self, folder: &Path, record: &Record) -> Result<File> {
        let path = folder.join("spec");
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = file.context(format_args!("opening {}", path.display()))?;
        // SAFETY: a plain descriptor.
        ffi::check(unsafe { ffi::flock(file.as_raw_fd(), ffi::LOCK_EX | ffi::LOCK_NB) })
            .context("taking the box's lock")?;
        file.write_all(record.encode().as_bytes())
            .context(format_args!("writing {}", path.display()))?;
        Ok(file)
    }

    /// Of a box that was made: nobody waits for the lock on its file any more.
    fn replace_spec(&self, record: &Record) -> Result<()> {
        let folder = self.box_folder(&record.box_id);
        let fresh = folder.join("spec.new");
        write_file(&fresh, &record.encode())?;
        fs::rename(&fresh, folder.join("spec")).context(format_args!("changing {}", folder.join("spec").display()))
    }

    fn wire_name(&self, kind: Kind, box_id: &str) -> String {
        match kind {
            Kind::Runsc => format!("{}/wire", wire_folder_name(box_id)),
            _ => box_id.to_string(),
        }
    }

    fn open_wire(&self, runtime: &Runtime, box_id: &str, first: u32) -> Result<Option<OwnedFd>> {
        if runtime.passes_descriptors() {
            let wire =
                sys::listen_at(self.wires.as_raw_fd(), box_id, 0o600, WIRE_BACKLOG).context("binding the wire")?;
            self.give(box_id, self.options.client_uid, ffi::AT_SYMLINK_NOFOLLOW)?;
            return Ok(Some(wire));
        }
        // gVisor passes no descriptor on: the guest binds in a folder of its own, which is closed to it right after.
        let path = self.wires_path.join(wire_folder_name(box_id));
        fs::create_dir(&path).context(format_args!("making {}", path.display()))?;
        self.give(&wire_folder_name(box_id), first, ffi::AT_SYMLINK_NOFOLLOW)?;
        Ok(None)
    }

    fn give(&self, name: &str, uid: u32, flags: i32) -> Result<()> {
        let name = ffi::c_path(Path::new(name)).context("naming the wire")?;
        // SAFETY: the name lives through the call.
        ffi::check(unsafe { ffi::fchownat(self.wires.as_raw_fd(), name.as_ptr(), uid, uid, flags) })
            .context("giving the wire away")?;
        Ok(())
    }

    /// A socket that only the HTTP process may connect to, for one stream.
    pub fn open_stream(&self, name: &str) -> Result<OwnedFd> {
        let listener = sys::listen_at(self.wires.as_raw_fd(), name, 0o600, 1).context("opening a stream")?;
        if let Err(error) = self.give(name, self.options.client_uid, ffi::AT_SYMLINK_NOFOLLOW) {
            self.close_stream(name);
            return Err(error);
        }
        Ok(listener)
    }

    pub fn close_stream(&self, name: &str) {
        let _ = fs::remove_file(self.wires_path.join(name));
    }

    /// Waits until the guest has bound its wire, then takes the folder and the socket from it: it can put nothing else there.
    fn secure_bound_wire(&self, box_id: &str, pid: i32) -> Result<()> {
        let path = self.wires_path.join(wire_folder_name(box_id));
        let socket = path.join("wire");
        let name = format!("{}/wire", wire_folder_name(box_id));
        let end = Instant::now() + WIRE_WAIT;
        // A socket has its name a moment before it listens.
        while !sys::answers_at(self.wires.as_raw_fd(), &name) {
            if Instant::now() > end || sys::start_time(pid).is_none() {
                return Err(Error::new(
                    code::TIMED_OUT,
                    "the guest did not open its wire: see `delta doctor`",
                ));
            }
            sleep(Duration::from_millis(1));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).context("closing the wire's folder")?;
        self.give(&wire_folder_name(box_id), 0, ffi::AT_SYMLINK_NOFOLLOW)?;
        use std::os::unix::fs::FileTypeExt;
        let found = socket.symlink_metadata().context("looking at the wire")?;
        if !found.file_type().is_socket() {
            return Err(Error::new(code::IO, "the guest's wire is not a socket"));
        }
        // The folder is root's now, so what was just looked at cannot be exchanged.
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).context("closing the wire")?;
        self.give(&name, self.options.client_uid, ffi::AT_SYMLINK_NOFOLLOW)
    }

    /// Watches a box's first process from now on.
    fn begin(&self, slot: &Slot, life: &Life, state: State) -> Result<()> {
        let handle = sys::pidfd_open(life.pid).context("watching the guest")?;
        if Life::of(life.pid).as_ref() != Some(life) {
            return Err(Error::new(code::IO, "the guest ended at once: see `delta doctor`"));
        }
        let mut table = lock(&self.table);
        let token = table.next_token;
        table.next_token += 1;
        table.tokens.insert(token, slot.record.box_id.clone());
        let fd = handle.as_raw_fd();
        *lock(&slot.view) = View {
            state,
            life: Some(life.clone()),
            handle: Some(handle),
            token,
            ending: false,
            cause: None,
        };
        drop(table);
        self.epoll.add(fd, sys::EPOLLIN, token).context("watching the guest")
    }

    /// A watched process ended: the box and the cause, unless its end was wanted.
    pub fn died(&self, token: u64) -> Option<(String, Cause)> {
        let id = lock(&self.table).tokens.remove(&token)?;
        let slot = self.slot(&id)?;
        let mut view = lock(&slot.view);
        if let Some(handle) = &view.handle {
            let _ = self.epoll.remove(handle.as_raw_fd());
        }
        if view.ending {
            return None;
        }
        let cause = match view.cause {
            Some(cause) => cause,
            None if self.cgroups.oom_kills(&id) > 0 => Cause::Memory,
            None => Cause::Itself,
        };
        view.cause = Some(cause);
        view.state = State::Dead;
        drop(view);
        Some((id, cause))
    }

    /// Ends a box; one that is not there is success. With `keep_upper` its files stay.
    pub fn end(&self, box_id: &str, keep_upper: bool) -> Result<()> {
        let slot = match self.slot(box_id) {
            Some(slot) => slot,
            None => return Ok(()),
        };
        let _busy = lock(&slot.busy);
        if self.slot(box_id).map_or(true, |now| !Arc::ptr_eq(&now, &slot)) {
            return Ok(());
        }
        let handle = {
            let mut view = lock(&slot.view);
            view.ending = true;
            view.handle.take()
        };
        let ended = self.dismantle(&slot.record, handle, !keep_upper);
        match &ended {
            Ok(()) => self.release(&slot),
            Err(_) => lock(&slot.view).state = State::Dead,
        }
        ended
    }

    /// Removes everything of a box, last made first. Every step finds what an earlier try already did.
    fn dismantle(&self, record: &Record, handle: Option<OwnedFd>, drop_upper: bool) -> Result<()> {
        let id = &record.box_id;
        if let Some(handle) = handle {
            let _ = sys::pidfd_signal(handle.as_raw_fd(), sys::SIGKILL);
            if self.cgroups.is_frozen(id) {
                self.cgroups.freeze(id, false)?;
            }
            let ended = sys::wait_readable(&[handle.as_raw_fd()], DEATH_WAIT).context("waiting for the guest's end")?;
            if !ended[0] {
                return Err(Error::new(
                    code::BUSY,
                    format!("the first process of {} does not end: it waits in the kernel", id),
                ));
            }
            let _ = self.epoll.remove(handle.as_raw_fd());
        }
        self.cgroups.kill_all(id)?;
        (self.options.step)("killed");
        self.cgroups.remove(id)?;
        (self.options.step)("cgroup removed");
        self.remove_wire(id)?;
        (self.options.step)("wire removed");
        if drop_upper {
            self.pool.drop_upper(&record.upper_id)?;
            (self.options.step)("upper dropped");
        }
        let folder = self.box_folder(id);
        match fs::remove_dir_all(&folder) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::from_io(format_args!("removing {}", folder.display()), &cause))
            }
            _ => Ok(()),
        }
    }

    fn remove_wire(&self, box_id: &str) -> Result<()> {
        let gone = |result: std::io::Result<()>| match result {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::from_io("removing the wire", &cause))
            }
            _ => Ok(()),
        };
        gone(fs::remove_file(self.wires_path.join(box_id)))?;
        // One level, nothing deeper: the guest could make nothing but its socket there.
        gone(fs::remove_dir_all(self.wires_path.join(wire_folder_name(box_id))))
    }

    pub fn freeze(&self, box_id: &str, frozen: bool) -> Result<()> {
        let slot = self.slot(box_id).ok_or_else(|| unknown(box_id))?;
        let _busy = lock(&slot.busy);
        let state = lock(&slot.view).state;
        match (state, frozen) {
            (State::Making, _) => return Err(Error::new(code::BUSY, format!("{} is being made", box_id))),
            (State::Dead, _) => return Err(unknown(box_id)),
            (State::Running, true) | (State::Frozen, false) => {}
            (State::Running, false) | (State::Frozen, true) => return Ok(()),
        }
        self.cgroups.freeze(box_id, frozen)?;
        lock(&slot.view).state = if frozen { State::Frozen } else { State::Running };
        Ok(())
    }

    /// Gives a box other limits than it was made with. Where one of them cannot be set, others may be changed already: whoever asked ends
    /// the box.
    pub fn limit(&self, box_id: &str, limits: BoxLimits) -> Result<()> {
        let slot = self.slot(box_id).ok_or_else(|| unknown(box_id))?;
        let _busy = lock(&slot.busy);
        match lock(&slot.view).state {
            State::Making => return Err(Error::new(code::BUSY, format!("{} is being made", box_id))),
            State::Dead => return Err(unknown(box_id)),
            State::Running | State::Frozen => {}
        }
        if *lock(&slot.limits) == limits {
            return Ok(());
        }
        let record = Record {
            limits,
            ..slot.record.clone()
        };
        self.replace_spec(&record)?;
        self.cgroups.limit(box_id, &limits.cgroup())?;
        // Known before it is set: whoever adapts all uppers to the room meanwhile must not bring the old one back.
        *lock(&slot.limits) = limits;
        self.pool.adapt(&slot.record.upper_id, u64::from(limits.disk_mb) << 20)
    }

    /// Counters, the bytes its disk has got since the last snapshot (None: not counted), and how many these may be.
    pub fn stats(&self, box_id: &str) -> Result<(Stats, Option<u64>, u64)> {
        let slot = self.slot(box_id).ok_or_else(|| unknown(box_id))?;
        let stats = self.cgroups.stats(box_id)?;
        let (written, limit) = self.pool.written(&slot.record.upper_id)?;
        let wished = u64::from(lock(&slot.limits).disk_mb) << 20;
        // Less than was wished while the disk is short of room; more until data that is no longer kept is taken from the limit too.
        let limit = if limit > 0 { limit.min(wished) } else { wished };
        Ok((stats, written, limit))
    }

    /// What a box has used and uses; None where there is none. Asked of many at a time, so it reads no more than these two.
    pub fn measure(&self, box_id: &str) -> Option<Usage> {
        self.slot(box_id)?;
        self.cgroups.usage(box_id)
    }

    /// Boxes that were made, and uppers no box uses.
    pub fn list(&self) -> Result<(Vec<Listed>, Vec<String>)> {
        let uppers = self.pool.list_uppers()?;
        let table = lock(&self.table);
        let mut boxes: Vec<Listed> = Vec::new();
        for slot in table.boxes.values() {
            let view = lock(&slot.view);
            let state = match view.state {
                State::Making => continue,
                State::Running => 1,
                State::Frozen => 2,
                State::Dead => 3 + view.cause.map_or(0, Cause::number),
            };
            boxes.push(Listed {
                box_id: slot.record.box_id.clone(),
                upper_id: slot.record.upper_id.clone(),
                state,
                pid: view.life.as_ref().map_or(0, |life| life.pid),
                wire: self.wire_name(slot.record.kind, &slot.record.box_id),
                template: slot.record.template.clone(),
            });
        }
        let used: HashSet<&str> = table.boxes.values().map(|slot| slot.record.upper_id.as_str()).collect();
        let free = uppers.into_iter().filter(|id| !used.contains(id.as_str())).collect();
        boxes.sort_by(|one, other| one.box_id.cmp(&other.box_id));
        Ok((boxes, free))
    }

    pub fn drop_upper(&self, upper_id: &str) -> Result<()> {
        check_id(upper_id)?;
        // The table stays locked, so that no create takes the upper between the look and the removal.
        let table = lock(&self.table);
        if let Some(slot) = table.boxes.values().find(|slot| slot.record.upper_id == upper_id) {
            return Err(Error::new(
                code::BUSY,
                format!("the upper {} is used by {}", upper_id, slot.record.box_id),
            ));
        }
        if table.claimed.contains(upper_id) {
            return Err(Error::new(
                code::BUSY,
                format!("the upper {} is being read or written", upper_id),
            ));
        }
        self.pool.drop_upper(upper_id)
    }

    /// Tells every upper in use what the room on the disk allows it. What cannot be told is said.
    pub fn adapt_uppers(&self, low: bool) -> Vec<String> {
        // First this: a box whose upper is opened from here on adapts it itself.
        self.pool.set_low(low);
        let slots: Vec<Arc<Slot>> = lock(&self.table).boxes.values().cloned().collect();
        let adapt = |by: &dyn Fn(&str, u64) -> Result<()>| -> Vec<String> {
            let each = slots.iter().map(|slot| (slot, lock(&slot.limits).disk_mb));
            each.filter_map(|(slot, disk_mb)| match by(&slot.record.upper_id, u64::from(disk_mb) << 20) {
                // Ended meanwhile, or not yet made.
                Err(error) if error.code != code::NOT_FOUND => Some(error.message),
                _ => None,
            })
            .collect()
        };
        let failures = adapt(&|id, quota| self.pool.adapt(id, quota));
        if !low {
            return failures;
        }
        // What is held is counted once it is written; until then those limits are too tight even for removing.
        match self.pool.flush() {
            Ok(()) => adapt(&|id, quota| self.pool.adapt_flushed(id, quota)),
            Err(error) => vec![error.message],
        }
    }

    pub fn ids(&self) -> Vec<String> {
        lock(&self.table).boxes.keys().cloned().collect()
    }

    /// After a crash of the helper: takes on the boxes that live and removes everything else it left. Uppers stay.
    pub fn adopt(&self) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let mut known: HashSet<String> = HashSet::new();
        for entry in fs::read_dir(&self.folder).context("listing the boxes")?.flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            if check_id(&id).is_err() {
                warnings.push(format!("{} is not a box: remove it", entry.path().display()));
                continue;
            }
            // What a snapshot had frozen when the helper was killed is thawed by nobody else.
            if entry.path().join(FREEZING).exists() {
                let _ = self.cgroups.freeze(&id, false);
                let _ = fs::remove_file(entry.path().join(FREEZING));
            }
            match self.adopt_one(&id) {
                Ok(true) => {
                    known.insert(id);
                }
                Ok(false) => {}
                Err(error) => warnings.push(format!("{} could not be removed: {}", id, error.message)),
            }
        }
        self.remove_rests(&known, &mut warnings);
        *lock(&self.warnings) = warnings.clone();
        Ok(warnings)
    }

    fn adopt_one(&self, id: &str) -> Result<bool> {
        let folder = self.box_folder(id);
        let record = fs::read_to_string(folder.join("spec"))
            .ok()
            .and_then(|text| Record::decode(id, &text));
        let life =
            Life::read(&folder.join("ready"), &self.boot_id).filter(|life| Life::of(life.pid).as_ref() == Some(life));
        if let (Some(record), Some(life)) = (&record, &life) {
            if self.cgroups.processes(id).contains(&life.pid) && record.range > 0 && record.range < self.options.ranges
            {
                return self.adopt_living(record, life).map(|()| true);
            }
        }
        self.wait_for_runtime(id)?;
        let blank = Record {
            box_id: id.to_string(),
            upper_id: String::new(),
            template: String::new(),
            kind: self.options.default_kind,
            range: 0,
            limits: BoxLimits {
                cpu_milli: 0,
                memory_mb: 0,
                disk_mb: 0,
                processes: 0,
            },
            guest: String::new(),
            volumes: Vec::new(),
        };
        self.dismantle(&record.unwrap_or(blank), None, false)?;
        Ok(false)
    }

    fn adopt_living(&self, record: &Record, life: &Life) -> Result<()> {
        let state = if self.cgroups.is_frozen(&record.box_id) {
            State::Frozen
        } else {
            State::Running
        };
        let slot = Arc::new(Slot {
            record: record.clone(),
            limits: Mutex::new(record.limits),
            busy: Mutex::new(()),
            view: Mutex::new(View {
                state: State::Making,
                life: None,
                handle: None,
                token: 0,
                ending: false,
                cause: None,
            }),
        });
        {
            let mut table = lock(&self.table);
            table.ranges.insert(record.range);
            table.next_range = table.next_range.max(record.range + 1) % self.options.ranges.max(2);
            table.next_range = table.next_range.max(1);
            table.boxes.insert(record.box_id.clone(), slot.clone());
        }
        self.begin(&slot, life, state)
    }

    /// A runtime that was at work when the helper was killed dies with it, but not in the same instant; each of its processes
    /// holds the box's lock, and so may what it started.
    fn wait_for_runtime(&self, id: &str) -> Result<()> {
        let folder = self.box_folder(id);
        let file = match File::open(folder.join("spec")) {
            Ok(file) => file,
            Err(_) => return Ok(()),
        };
        let end = Instant::now() + LOCK_WAIT;
        loop {
            self.cgroups.kill_all(id)?;
            // SAFETY: a plain descriptor.
            if unsafe { ffi::flock(file.as_raw_fd(), ffi::LOCK_EX | ffi::LOCK_NB) } == 0 {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(Error::new(
                    code::BUSY,
                    format!(
                        "a runtime still works in {}: find it with `fuser` and kill it",
                        folder.display()
                    ),
                ));
            }
            sleep(Duration::from_millis(2));
        }
    }

    /// Cgroups, wires and runtime records that no box folder names, and guests that no box runs.
    fn remove_rests(&self, known: &HashSet<String>, warnings: &mut Vec<String>) {
        for id in self.cgroups.boxes() {
            if !known.contains(&id) {
                if let Err(error) = self.cgroups.kill_all(&id).and_then(|()| self.cgroups.remove(&id)) {
                    warnings.push(format!("the cgroup of {} could not be removed: {}", id, error.message));
                }
            }
        }
        let names = |path: &Path| -> Vec<String> {
            fs::read_dir(path)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        };
        for name in names(&self.wires_path) {
            let id = name.trim_end_matches(".d");
            if !known.contains(id) {
                let _ = self.remove_wire(id);
            }
        }
        let table = lock(&self.table);
        let running: HashSet<&str> = table.boxes.values().map(|slot| slot.record.guest.as_str()).collect();
        let guests = self.options.data.join("guest");
        for name in names(&guests)
            .iter()
            .filter(|name| *name != &self.guest && !running.contains(name.as_str()))
        {
            let _ = fs::remove_dir_all(guests.join(name));
        }
    }

    /// After the last box: the cgroups and the pool go too.
    pub fn close(&self) -> Result<()> {
        self.cgroups.remove_parent()?;
        self.pool.close()
    }
}

/// The part of an upper that is the upper of `/usr`.
fn make_usr(upper: &Path) -> Result<()> {
    for (name, mode) in [("usr", 0o755), ("usr-work", 0o700)] {
        match fs::create_dir(upper.join(name)) {
            Ok(()) => fs::set_permissions(upper.join(name), fs::Permissions::from_mode(mode))
                .context("making the upper of /usr")?,
            Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(cause) => return Err(Error::from_io("making the upper of /usr", &cause)),
        }
    }
    Ok(())
}

fn wire_folder_name(box_id: &str) -> String {
    format!("{}.d", box_id)
}

/// The guest cannot see its limit, which is set after it has started.
fn guest_arguments(runtime: &Runtime, memory_mb: u32, redirected: bool) -> Vec<String> {
    let wire = if runtime.passes_descriptors() {
        ["--fd", "3"]
    } else {
        ["--unix", "/.delta/wire/wire"]
    };
    let memory = memory_mb.to_string();
    let more: &[&str] = if redirected { &["--redirected-fd", "4"] } else { &[] };
    [GUEST_PATH, "serve", wire[0], wire[1], "--memory-mb", &memory, "--egress"]
        .iter()
        .chain(more)
        .map(|word| word.to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_box_is_made_with_less_memory_left_than_is_kept() {
        let refused = check_memory(Some(100 << 20), 128 << 20).unwrap_err();
        assert_eq!(refused.code, code::LIMIT);
        assert!(
            refused.message.contains("has 100 MiB of memory left, and 128 are kept free"),
            "{}",
            refused.message
        );
        assert!(check_memory(Some(128 << 20), 128 << 20).is_ok());
        assert!(check_memory(Some(0), 0).is_ok());
        assert!(check_memory(None, 128 << 20).is_ok());
    }
}
