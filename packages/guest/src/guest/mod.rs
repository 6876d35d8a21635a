//! PID 1 of a sandbox: runs what the host asks for over the wire, and reaps what others leave behind.

mod connection;
mod dial;
mod disk;
mod egress;
mod exec;
mod failure;
mod files;
mod frames;
pub mod messages;
mod metrics;
mod outbound;
mod place;
mod poll;
mod ring;
mod serve;
mod session;
mod spawn;
mod sys;
mod users;
mod watch;
mod workers;

use std::io;
use std::os::unix::io::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const USAGE: &str = "usage: delta-guest serve (--fd N | --unix PATH) [--memory-mb N] [--own-clock] [--egress [--redirected-fd N]]

  --fd N           serve on a listening unix socket inherited as descriptor N
  --unix PATH      make the listening socket at PATH
  --memory-mb N    the sandbox's memory limit; an eighth of it may hold output (otherwise its cgroup's, or 512)
  --own-clock      the guest is alone on its kernel and may set the clock
  --egress         programs inside reach the outside through the host: an HTTP proxy on 127.0.0.1:3129, names on 127.0.0.1:53
  --redirected-fd N
                   descriptor N listens for TCP connections to addresses outside, which are redirected to it

or: delta-guest place    puts the files that come on standard input where they belong (src/guest/place.rs says how they come)";

/// Runs `delta-guest` with its arguments; the exit code.
pub fn main(arguments: &[String]) -> i32 {
    if arguments == ["place"] {
        // SAFETY: only sets the mask; folders made on the way are then open to all.
        unsafe { sys::umask(0o022) };
        return match place::place(&mut io::stdin().lock()) {
            Ok(_) => 0,
            Err(error) => {
                say(format_args!("{error}"));
                1
            }
        };
    }
    let options = match parse(arguments) {
        Ok(options) => options,
        Err(reason) => {
            say(format_args!("{reason}\n{USAGE}"));
            return 2;
        }
    };
    match prepare(options).and_then(serve::serve) {
        Ok(()) => 0,
        Err(error) => {
            say(format_args!("{error}"));
            1
        }
    }
}

/// Where nobody listens it is lost; `eprintln` would end this process, and with it the sandbox.
fn say(text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    drop(writeln!(io::stderr(), "delta-guest: {text}"));
}

struct Arguments {
    fd: Option<RawFd>,
    unix: Option<String>,
    memory_mb: Option<u64>,
    owns_clock: bool,
    egress: bool,
    redirected: Option<RawFd>,
}

fn parse(arguments: &[String]) -> Result<Arguments, String> {
    let mut parsed =
        Arguments { fd: None, unix: None, memory_mb: None, owns_clock: false, egress: false, redirected: None };
    let mut rest = arguments.iter();
    if rest.next().map(String::as_str) != Some("serve") {
        return Err("the commands are serve and place".into());
    }
    while let Some(name) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--fd" => parsed.fd = Some(value()?.parse().map_err(|_| "--fd takes a number".to_string())?),
            "--unix" => parsed.unix = Some(value()?.clone()),
            "--memory-mb" => {
                parsed.memory_mb = Some(value()?.parse().map_err(|_| "--memory-mb takes a number".to_string())?)
            }
            "--own-clock" => parsed.owns_clock = true,
            "--egress" => parsed.egress = true,
            "--redirected-fd" => {
                parsed.redirected = Some(value()?.parse().map_err(|_| "--redirected-fd takes a number".to_string())?)
            }
            other => return Err(format!("{other} is not known")),
        }
    }
    if parsed.fd.is_some() == parsed.unix.is_some() {
        return Err("give one of --fd and --unix".into());
    }
    if [parsed.fd, parsed.redirected].iter().flatten().any(|fd| *fd < 3) || (parsed.fd.is_some() && parsed.fd == parsed.redirected) {
        return Err("--fd and --redirected-fd take descriptors from 3 on, two different ones".into());
    }
    Ok(parsed)
}

/// Takes over the process: signals, descriptors, memory. After this nothing inherited reaches a program.
fn prepare(arguments: Arguments) -> io::Result<serve::Options> {
    sys::tune_malloc();
    sys::forbid_tracing();
    sys::default_signals();
    sys::close_inherited(&[arguments.fd, arguments.redirected]);
    // The standard streams exist, so that no descriptor opened later takes the number of one.
    while let Ok(fd) = sys::open_at(sys::AT_FDCWD, &sys::cstring(b"/dev/null")?, sys::O_RDWR, 0) {
        if fd.as_raw_fd() > 2 {
            break;
        }
        std::mem::forget(fd);
    }
    // SAFETY: only sets the mask; modes asked for are then given exactly.
    unsafe { sys::umask(0) };
    let inherited = |fd| -> io::Result<OwnedFd> {
        sys::set_cloexec(fd)?;
        sys::set_nonblocking(fd)?;
        // SAFETY: the descriptor was handed to this process for this purpose and is used nowhere else.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    let redirected = arguments.redirected.map(inherited).transpose()?;
    let listener = match (arguments.fd, arguments.unix) {
        (Some(fd), _) => inherited(fd)?,
        (None, path) => {
            let path = path.unwrap_or_default();
            // One left by a guest before this one; nobody else may name a socket there.
            drop(std::fs::remove_file(&path));
            // SAFETY: only sets the mask: the socket is for root alone from its first moment.
            unsafe { sys::umask(0o177) };
            let listener = sys::listen_at(path.as_bytes());
            unsafe { sys::umask(0) };
            listener?
        }
    };
    // It holds no folder that someone may want to remove or unmount.
    std::env::set_current_dir("/")?;
    Ok(serve::Options {
        listener,
        memory_mb: arguments.memory_mb,
        owns_clock: arguments.owns_clock,
        egress: arguments.egress,
        redirected,
    })
}
