//! The HTTP process's confinement, judged from inside by Node, as root on this machine.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::io::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use delta::helper::confine::{
    api_key_hash, ensure_api_key, ensure_secret_key, spawn_server, Ending, Server, ServerOptions,
};
use delta::helper::error::code;
use delta::helper::ffi;

const UID: u32 = 1_879_048_192;

struct Data(PathBuf);

impl Data {
    fn new(name: &str) -> Data {
        let path = std::env::temp_dir().join(format!("delta-confine-{}-{}", name, std::process::id()));
        fs::create_dir_all(path.join("data/pool/uppers")).unwrap();
        fs::create_dir_all(path.join("data/wire")).unwrap();
        fs::create_dir_all(path.join("program")).unwrap();
        fs::set_permissions(path.join("data"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(path.join("data/pool/secret"), "canary").unwrap();
        Data(path.canonicalize().unwrap())
    }

    fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// Starts Node on a script and returns what it writes to the helper's socket until it ends.
    fn run(&self, script: &str, change: impl FnOnce(&mut ServerOptions)) -> (String, Ending) {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut server = self.start(script, &theirs, change).unwrap();
        drop(theirs);
        let mut said = String::new();
        ours.read_to_string(&mut said).unwrap();
        (said, server.wait().unwrap())
    }

    fn start(
        &self,
        script: &str,
        socket: &UnixStream,
        change: impl FnOnce(&mut ServerOptions),
    ) -> Result<Server, delta::helper::error::Error> {
        fs::write(self.0.join("program/main.cjs"), script).unwrap();
        let mut options = ServerOptions {
            node: node(),
            arguments: vec![self.0.join("program/main.cjs").into_os_string()],
            readable: vec![self.0.join("program"), self.0.join("data/wire")],
            data: self.data(),
            uid: UID,
            helper_socket: socket.as_raw_fd(),
            environment: std::env::vars_os().collect(),
            extra_environment: vec![("DELTA_API_KEY_SHA256".into(), "00".into())],
        };
        change(&mut options);
        spawn_server(&options)
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn node() -> PathBuf {
    let found = Command::new("sh").args(["-c", "command -v node"]).output().unwrap();
    PathBuf::from(String::from_utf8(found.stdout).unwrap().trim())
}

const SAY: &str =
    "const fs = require('fs'); const say = (x) => fs.writeSync(3, (typeof x === 'string' ? x : JSON.stringify(x)) + '\\n');\n";

#[test]
fn the_server_is_an_unprivileged_pid_1_with_nothing_to_gain() {
    let data = Data::new("rights");
    let script = format!("{}say(fs.readFileSync('/proc/self/status', 'utf8')); say(process.pid + ' ' + require('os').userInfo().username + ' ' + require('os').hostname());
        say(fs.readFileSync('/proc/self/limits', 'utf8')); process.umask(); say('umask ' + process.umask().toString(8)); say(fs.readdirSync('/proc/self/fd').length + ' fds')", SAY);
    let (said, ending) = data.run(&script, |_| {});
    assert_eq!(ending, Ending::Exited(0), "{}", said);
    let line = |name: &str| {
        said.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{} in {}", name, said)).to_string()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(set).split_whitespace().nth(1), Some("0000000000000000"), "{}", set);
    }
    assert_eq!(line("NoNewPrivs:").split_whitespace().nth(1), Some("1"));
    // A filter, not merely the strict mode of old.
    assert_eq!(line("Seccomp:").split_whitespace().nth(1), Some("2"));
    assert_eq!(line("Groups:").split_whitespace().count(), 1);
    let id = UID.to_string();
    assert_eq!(line("Uid:").split_whitespace().skip(1).collect::<Vec<_>>(), [id.as_str(); 4]);
    assert_eq!(line("Gid:").split_whitespace().skip(1).collect::<Vec<_>>(), [id.as_str(); 4]);
    assert!(said.contains("\n1 delta delta\n"), "{}", said);
    let files: Vec<String> = line("Max open files").split_whitespace().map(str::to_string).collect();
    assert_eq!(files[3], files[4], "{}", line("Max open files"));
    assert_eq!(line("Max core file size").split_whitespace().nth(4), Some("0"));
    assert!(said.contains("umask 77"), "{}", said);
}

#[test]
fn the_server_sees_the_program_and_its_folder_and_nothing_else_of_the_host() {
    let data = Data::new("view");
    fs::write(data.0.join("program/readable"), "program").unwrap();
    let script = r#"
        const attempt = (act) => { try { return act() ?? 'did it' } catch (error) { return error.code } };
        const list = (path) => attempt(() => fs.readdirSync(path).sort());
        const write = (path) => attempt(() => fs.writeFileSync(path, '1'));
        say({
          root: list('/'), up: list(base), data: list(base + '/data'), dev: list('/dev'), etc: list('/etc'), usr: list('/usr'),
          server: write(base + '/data/server/x'), program: write(base + '/program/x'), rootWrite: write('/x'), lib: write('/usr/lib/x'),
          read: fs.readFileSync(base + '/program/readable', 'utf8'),
          shadow: attempt(() => fs.readFileSync('/etc/shadow')), rootHome: list('/root'), home: list('/home'), sys: list('/sys'),
          pids: list('/proc').filter((name) => /^\d+$/.test(name)),
          cert: attempt(() => fs.readFileSync('/etc/ssl/certs/ca-certificates.crt').length > 1000),
          random: fs.readSync(fs.openSync('/dev/urandom'), Buffer.alloc(8)),
          mounts: fs.readFileSync('/proc/self/mountinfo', 'utf8'),
        })"#;
    let script = format!("{}const base = {:?};{}", SAY, data.0.to_string_lossy(), script);
    let (said, ending) = data.run(&script, |_| {});
    assert_eq!(ending, Ending::Exited(0), "{}", said);
    let has = |part: &str| assert!(said.contains(part), "{} in {}", part, said);
    has("\"data\":[\"server\",\"wire\"]");
    has("\"dev\":[\"full\",\"null\",\"random\",\"urandom\",\"zero\"]");
    has("\"up\":[\"data\",\"program\"]");
    has("\"server\":\"did it\"");
    has("\"program\":\"EROFS\"");
    has("\"read\":\"program\"");
    has("\"rootWrite\":\"EROFS\"");
    has("\"lib\":\"EROFS\"");
    has("\"shadow\":\"ENOENT\"");
    has("\"rootHome\":\"ENOENT\"");
    has("\"sys\":\"ENOENT\"");
    has("\"pids\":[\"1\"]");
    has("\"cert\":true");
    has("\"random\":8");
    assert!(!said.contains("pool") && !said.contains("canary"), "{}", said);
    assert_eq!(fs::metadata(data.data().join("server/x")).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_data_folder_inside_the_program_is_hidden_too() {
    let data = Data::new("nested");
    let script = format!("{}const d = {:?}; say(fs.readdirSync(d + '/data').sort().join()); try {{ fs.mkdirSync(d + '/data/other'); say('made') }} catch (e) {{ say(e.code) }}", SAY, data.0.to_string_lossy());
    let (said, ending) = data.run(&script, |options| options.readable = vec![data.0.clone(), data.0.join("data/wire")]);
    assert_eq!((said.as_str(), ending), ("server,wire\nEROFS\n", Ending::Exited(0)));
}

#[test]
fn what_an_attacker_in_the_server_would_try_is_refused() {
    let data = Data::new("attack");
    // Without a compiler in its view an attacker has Node: worker threads, child processes, signals, raw sockets through bindings.
    let script = format!(
        "{}const {{ spawnSync }} = require('child_process'); const t = (f) => {{ try {{ return f() }} catch (e) {{ return e.code }} }};
        say(['/bin/sh', '/usr/bin/mount', '/usr/bin/unshare'].map((p) => t(() => fs.existsSync(p))).join());
        say(t(() => process.setuid(0)) ?? 'became root'); say(t(() => process.setgroups([0])) ?? 'joined root'); say(t(() => fs.chownSync({:?} + '/data/server', 0, 0)) ?? 'gave away');
        say(t(() => process.kill({}, 0)) === true ? 'signalled' : 'no such process');
        const self = spawnSync(process.execPath, ['-e', 'process.exit(process.getuid() === 0 ? 1 : 0)']); say('child ' + self.status)",
        SAY,
        data.0.to_string_lossy(),
        std::process::id()
    );
    let (said, _) = data.run(&script, |_| {});
    assert_eq!(said.lines().collect::<Vec<_>>(), ["false,false,false", "EPERM", "EPERM", "EPERM", "no such process", "child 0"]);
}

#[test]
fn what_the_server_writes_it_cannot_run() {
    let data = Data::new("noexec");
    let script = format!(
        "{}const {{ spawnSync }} = require('child_process'); const own = {:?} + '/data/server/';
        fs.copyFileSync(process.execPath, own + 'program'); fs.chmodSync(own + 'program', 0o755); say(spawnSync(own + 'program', ['-v']).error?.code ?? 'it ran');
        const library = ['/usr/lib/x86_64-linux-gnu', '/usr/lib/aarch64-linux-gnu', '/usr/lib64'].map((folder) => folder + '/libm.so.6').find((path) => fs.existsSync(path));
        fs.copyFileSync(library, own + 'module.node'); try {{ process.dlopen({{ exports: {{}} }}, own + 'module.node'); say('it was loaded') }} catch (error) {{ say(/failed to map|not permitted/i.test(error.message) ? 'refused' : error.message) }}",
        SAY,
        data.0.to_string_lossy()
    );
    let (said, ending) = data.run(&script, |_| {});
    assert_eq!((said.as_str(), ending), ("EACCES\nrefused\n", Ending::Exited(0)));
}

#[test]
fn the_environment_is_the_allow_list() {
    let data = Data::new("environment");
    let script = format!("{}say(Object.keys(process.env).sort().join()); say(process.env.DELTA_API_KEY_SHA256)", SAY);
    let (said, _) = data.run(&script, |options| {
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        options.environment = vec![
            pair("PORT", "8001"),
            pair("NODE_OPTIONS", "--require=/nonexistent"),
            pair("LD_PRELOAD", "/nonexistent"),
            pair("AWS_SECRET_ACCESS_KEY", "x"),
            pair("DELTA_RUNTIME", "crun"),
            pair("DELTA_API_KEY_SHA256", "forged"),
        ];
    });
    assert_eq!(said, "DELTA_API_KEY_SHA256,DELTA_RUNTIME,HOME,LANG,MALLOC_MMAP_THRESHOLD_,PATH,PORT,SQLITE_TMPDIR,TMPDIR,UV_THREADPOOL_SIZE\n00\n");
}

#[test]
fn the_server_reaches_sockets_of_the_wire_folder_made_after_it_started_if_they_are_its() {
    let data = Data::new("wire");
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let script = format!(
        "{}const net = require('net'); fs.readSync(3, Buffer.alloc(1)); let left = 2; const done = () => --left || process.exit(0);
        for (const name of ['mine', 'roots']) net.connect({:?} + '/data/wire/' + name).on('connect', () => {{ say(name + ' connected'); done() }}).on('error', (e) => {{ say(name + ' ' + e.code); done() }})",
        SAY,
        data.0.to_string_lossy()
    );
    let mut server = data.start(&script, &theirs, |_| {}).unwrap();
    drop(theirs);
    let _mine = UnixListener::bind(data.data().join("wire/mine")).unwrap();
    let _roots = UnixListener::bind(data.data().join("wire/roots")).unwrap();
    assert!(Command::new("chown").arg(UID.to_string()).arg(data.data().join("wire/mine")).status().unwrap().success());
    fs::set_permissions(data.data().join("wire/roots"), fs::Permissions::from_mode(0o600)).unwrap();
    ours.write_all(b"x").unwrap();
    let mut said = String::new();
    ours.read_to_string(&mut said).unwrap();
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["mine connected", "roots EACCES"]);
    assert_eq!(server.wait().unwrap(), Ending::Exited(0));
}

#[test]
fn the_end_is_seen_by_pidfd_and_signals_reach_only_the_server() {
    let data = Data::new("end");
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let mut server = data.start("setInterval(() => {}, 1000)", &theirs, |_| {}).unwrap();
    assert_eq!(server.try_wait().unwrap(), None);
    assert!(Path::new(&format!("/proc/{}", server.pid)).exists());
    server.signal(9).unwrap();
    assert_eq!(server.wait().unwrap(), Ending::Signalled(9));
    assert_eq!(server.try_wait().unwrap(), Some(Ending::Signalled(9)));
    server.signal(9).unwrap();
    assert!(!Path::new(&format!("/proc/{}", server.pid)).exists());
}

#[test]
fn a_start_that_fails_says_which_step_and_leaves_nothing() {
    let data = Data::new("failure");
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let missing = data.start("", &theirs, |options| options.node = "/nonexistent/node".into()).unwrap_err();
    assert_eq!(missing.code, code::NOT_FOUND);
    fs::write(data.0.join("no-program"), "garbage").unwrap();
    fs::set_permissions(data.0.join("no-program"), fs::Permissions::from_mode(0o755)).unwrap();
    let garbage = data.start("", &theirs, |options| options.node = data.0.join("no-program")).unwrap_err();
    assert!(garbage.message.contains("becoming Node"), "{}", garbage.message);
    fs::set_permissions(data.0.join("program"), fs::Permissions::from_mode(0o700)).unwrap();
    let closed = data.start("", &theirs, |_| {}).unwrap_err();
    assert!(closed.code == code::PERMISSION_DENIED && closed.message.contains("chmod"), "{}", closed.message);
    let root = data.start("", &theirs, |options| options.uid = 0).unwrap_err();
    assert_eq!(root.code, code::INVALID);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
}

#[test]
fn the_servers_folder_changes_hands_with_the_uid_and_links_in_it_lead_nowhere() {
    let data = Data::new("owner");
    fs::create_dir_all(data.data().join("server/deep/er")).unwrap();
    fs::write(data.data().join("server/deep/file"), "x").unwrap();
    let canary = data.0.join("canary");
    fs::write(&canary, "root's").unwrap();
    std::os::unix::fs::symlink(&canary, data.data().join("server/link")).unwrap();
    data.run(SAY, |_| {});
    for path in ["server", "server/deep", "server/deep/er", "server/deep/file", "server/link", "server/tmp"] {
        let found = fs::symlink_metadata(data.data().join(path)).unwrap();
        assert_eq!((found.uid(), found.gid()), (UID, UID), "{}", path);
    }
    assert_eq!(fs::metadata(&canary).unwrap().uid(), 0);
    assert_eq!(fs::metadata(data.data().join("server")).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn the_first_api_key_is_made_once_also_by_two_at_once_and_only_root_reads_it() {
    let data = Data::new("key");
    let makers: Vec<_> = (0..8)
        .map(|_| {
            let path = data.data();
            std::thread::spawn(move || ensure_api_key(&path).unwrap())
        })
        .collect();
    let made: Vec<(String, bool)> = makers.into_iter().map(|maker| maker.join().unwrap()).collect();
    assert_eq!(made.iter().filter(|made| made.1).count(), 1);
    assert!(made.iter().all(|other| other.0 == made[0].0));
    let path = data.data().join("api-key");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&path).unwrap().trim(), made[0].0);
    let summed = Command::new("sh").args(["-c", "printf %s \"$1\" | sha256sum", "sh", &made[0].0]).output().unwrap();
    assert!(String::from_utf8_lossy(&summed.stdout).starts_with(&api_key_hash(&made[0].0)));
    assert_eq!(
        fs::read_dir(data.data())
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(".api-key"))
            .count(),
        0
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    ensure_api_key(&data.data()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    fs::write(&path, "rubbish").unwrap();
    assert!(ensure_api_key(&data.data()).unwrap_err().message.contains("remove it"));
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
    assert!(ensure_api_key(&data.data()).is_err());
    assert_ne!(unsafe { ffi::getuid() }, UID);
}

#[test]
fn the_secret_key_is_made_once_and_only_root_reads_it() {
    let data = Data::new("secret");
    let (secret, made) = ensure_secret_key(&data.data()).unwrap();
    assert!(made && secret.len() == 64);
    assert_eq!(ensure_secret_key(&data.data()).unwrap(), (secret.clone(), false));
    let path = data.data().join("secret-key");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&path).unwrap().trim(), secret);
    fs::write(&path, "short").unwrap();
    assert!(ensure_secret_key(&data.data()).unwrap_err().message.contains("restore it"));
}
