//! `delta-helper serve`: the privileged parent of the HTTP process. See docs/helper-protocol.md.

use std::path::{Path, PathBuf};
use std::process::exit;

use delta::helper::doctor::{self, Finding, Status};
use delta::helper::error::{code, Error, Result};
use delta::helper::serve::{self, Peer};
use delta::helper::settings::Settings;
use delta::helper::spec::{self, quoted};
use delta::helper::{crash, templates};

const USAGE: &str = "usage: delta-helper serve [--stop-all]
       delta-helper helper-only (--fd N | --socket PATH) [--stop-all]
       delta-helper doctor [--json]
       delta-helper template build NAME
       delta-helper end-all
       delta-helper config

serve         starts the platform: the HTTP process and its sandboxes
helper-only   answers the helper's protocol on a descriptor or socket, without an HTTP process
doctor        looks at the machine and says what each finding means
template      builds a template: host or debian
end-all       ends every sandbox that a killed helper left, and unmounts the pool
config        prints the OCI configuration that the runtime gets for a sandbox

Settings are read from DELTA_DATA_DIR (./data), DELTA_RUNTIME, DELTA_UID_BASE, DELTA_UID_COUNT, DELTA_POOL,
DELTA_POOL_MAX_GB, DELTA_POOL_RESERVE, DELTA_MEMORY_RESERVE_MB, DELTA_STOP_ALL, PORT and HOST.
";

fn settings() -> Result<Settings> {
    let program = std::env::current_exe().unwrap_or_default();
    Settings::read(&|name| std::env::var(name).ok(), &program)
}

/// The value after a flag; removes both.
fn take_value(words: &mut Vec<String>, flag: &str) -> Option<String> {
    let at = words.iter().position(|word| word == flag)?;
    if at + 1 >= words.len() {
        return None;
    }
    words.remove(at);
    Some(words.remove(at))
}

fn take_flag(words: &mut Vec<String>, flag: &str) -> bool {
    let before = words.len();
    words.retain(|word| word != flag);
    words.len() < before
}

fn bad_usage(words: &[String]) -> Error {
    Error::new(
        code::INVALID,
        format!("{} is not understood\n\n{}", words.join(" "), USAGE),
    )
}

fn need_root() -> Result<()> {
    // SAFETY: no arguments.
    if unsafe { delta::helper::ffi::getuid() } == 0 {
        return Ok(());
    }
    Err(Error::new(
        code::PERMISSION_DENIED,
        "it mounts file systems and maps uids, which needs root: use sudo",
    ))
}

fn show(findings: &[Finding], json: bool) -> i32 {
    if json {
        let item = |finding: &Finding| {
            format!(
                "{{\"name\":{},\"status\":{},\"found\":{},\"meaning\":{}}}",
                quoted(&finding.name),
                quoted(finding.status.name()),
                quoted(&finding.found),
                quoted(&finding.meaning)
            )
        };
        println!("[{}]", findings.iter().map(item).collect::<Vec<_>>().join(",\n"));
    } else {
        for finding in findings {
            println!(
                "{:<5} {}: {}\n      {}",
                finding.status.name(),
                finding.name,
                finding.found,
                finding.meaning
            );
        }
    }
    i32::from(findings.iter().any(|finding| finding.status == Status::Fail))
}

fn run(mut words: Vec<String>) -> Result<i32> {
    let mut settings = settings()?;
    settings.stop_all |= take_flag(&mut words, "--stop-all");
    let command = if words.is_empty() {
        String::new()
    } else {
        words.remove(0)
    };
    match command.as_str() {
        "serve" if words.is_empty() => {
            need_root()?;
            serve::serve(settings, Peer::Server, crash::step())
        }
        "helper-only" => {
            need_root()?;
            let fd = take_value(&mut words, "--fd").and_then(|text| text.parse().ok());
            let path = take_value(&mut words, "--socket").map(PathBuf::from);
            let peer = match (fd, path, words.is_empty()) {
                (Some(fd), None, true) => Peer::Descriptor(serve::given_descriptor(fd)?),
                (None, Some(path), true) => Peer::Path(path),
                _ => return Err(bad_usage(&words)),
            };
            serve::serve(settings, peer, crash::step())
        }
        "doctor" => {
            let json = take_flag(&mut words, "--json");
            if !words.is_empty() {
                return Err(bad_usage(&words));
            }
            Ok(show(&doctor::examine(&settings.doctor()), json))
        }
        "template" if words.len() == 2 && words[0] == "build" => {
            need_root()?;
            settings.make_data()?;
            let template = templates::build(&settings.data, &words[1], &mut |line| eprintln!("{}", line))?;
            println!("{}: {}", template.name, template.detail);
            Ok(0)
        }
        "end-all" if words.is_empty() => {
            need_root()?;
            serve::end_all(settings)
        }
        "config" if words.is_empty() => {
            let config = spec::Config {
                kind: settings.kind,
                root: Path::new("/mnt/root"),
                hostname: "sandbox",
                uid_first: settings.uid_base,
                uid_count: 65_536,
                user_namespace: None,
                network_namespace: None,
                cgroup: None,
                arguments: &["/.delta/guest".to_string(), "serve".to_string(), "--fd".to_string(), "3".to_string()],
                wire_folder: None,
            };
            println!("{}", spec::build(&config));
            Ok(0)
        }
        "--help" | "-h" | "help" => {
            print!("{}", USAGE);
            Ok(0)
        }
        "--version" => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            Ok(0)
        }
        _ => {
            words.insert(0, command);
            Err(bad_usage(&words))
        }
    }
}

fn main() {
    let name = std::env::args().next().unwrap_or_default();
    let name = Path::new(&name)
        .file_name()
        .map_or("delta-helper".into(), |name| name.to_string_lossy().into_owned());
    match run(std::env::args().skip(1).collect()) {
        Ok(number) => exit(number),
        Err(error) => {
            eprintln!("{}: {}", name, error);
            exit(2)
        }
    }
}
