//! What a box is: the request as checked, and what of it lies on disk so that the next helper can adopt or remove it.

use std::path::Path;

use super::cgroup::Limits;
use super::error::{code, Error, Result};
use super::runtime::Kind;
use super::sys;
use crate::wire::{Reader, WireError};

pub const CPU_MILLI: (u32, u32) = (10, 256_000);
pub const MEMORY_MB: (u32, u32) = (16, 1 << 20);
pub const DISK_MB: (u32, u32) = (16, 16 << 20);
/// The guest and the runtime's own helpers need a few.
pub const PROCESSES: (u32, u32) = (8, 1 << 20);
pub const VOLUMES_MAX: usize = 16;
const VOLUME_PATH_BYTES: usize = 1_024;
/// What the runtime mounts over, and the platform's own.
const VOLUME_PATHS_TAKEN: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/.delta"];
const HOSTNAME_BYTES: usize = 63;
const TEMPLATE_BYTES: usize = 64;

/// What CREATE asks for, as it comes from the HTTP process: nothing of it is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub box_id: String,
    pub upper_id: String,
    pub fresh: bool,
    pub template: String,
    /// None: the configured one.
    pub runtime: Option<Kind>,
    pub limits: BoxLimits,
    pub hostname: String,
    pub volumes: Vec<Volume>,
}

/// A shared folder in a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub id: String,
    /// Absolute, without `.` and `..`.
    pub path: String,
    pub read_only: bool,
}

impl Volume {
    fn read(reader: &mut Reader<'_>) -> std::result::Result<Volume, WireError> {
        let (id, path) = (reader.str()?.to_string(), reader.str()?.to_string());
        let read_only = reader.u8()? != 0;
        Ok(Volume { id, path, read_only })
    }

    fn check(&self) -> Result<()> {
        check_id(&self.id)?;
        let bad = |why: &str| Err(Error::new(code::INVALID, format!("a volume's path {}", why)));
        if self.path.len() > VOLUME_PATH_BYTES || self.path.contains('\0') {
            return bad("is longer than 1,024 bytes or holds a NUL");
        }
        let is_name = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
        if !self.path.strip_prefix('/').map_or(false, |rest| rest.split('/').all(is_name)) {
            return bad("must be absolute, name a folder and have no `.`, `..` or empty part");
        }
        if VOLUME_PATHS_TAKEN.iter().any(|taken| lies_within(&self.path, taken)) {
            return bad("must not lie below /proc, /sys, /dev, /run or /.delta");
        }
        Ok(())
    }
}

fn lies_within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).map_or(false, |rest| rest.is_empty() || rest.starts_with('/'))
}

fn read_volumes(reader: &mut Reader<'_>) -> Result<Vec<Volume>> {
    let volumes = reader.list(Volume::read).map_err(|_| Error::new(code::INVALID, "the request is cut short or malformed"))?;
    if volumes.len() > VOLUMES_MAX {
        return Err(Error::new(code::LIMIT, format!("more than {} volumes", VOLUMES_MAX)));
    }
    for (at, volume) in volumes.iter().enumerate() {
        volume.check()?;
        let nested = |other: &Volume| lies_within(&other.path, &volume.path) || lies_within(&volume.path, &other.path);
        if volumes[..at].iter().any(nested) {
            return Err(Error::new(code::INVALID, "one volume's path lies within another's"));
        }
    }
    Ok(volumes)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoxLimits {
    pub cpu_milli: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    pub processes: u32,
}

impl BoxLimits {
    /// The four numbers as they stand in CREATE and LIMITS, each within its bounds.
    pub fn read(reader: &mut Reader<'_>) -> Result<BoxLimits> {
        let mut number = || reader.u32().map_err(|_| Error::new(code::INVALID, "the request is cut short or malformed"));
        let limits = BoxLimits {
            cpu_milli: number()?,
            memory_mb: number()?,
            disk_mb: number()?,
            processes: number()?,
        };
        check_range("cpuMilli", limits.cpu_milli, CPU_MILLI)?;
        check_range("memoryMb", limits.memory_mb, MEMORY_MB)?;
        check_range("diskMb", limits.disk_mb, DISK_MB)?;
        check_range("processes", limits.processes, PROCESSES)?;
        Ok(limits)
    }

    pub fn cgroup(&self) -> Limits {
        Limits {
            cpu_milli: self.cpu_milli,
            memory_mb: self.memory_mb,
            processes: self.processes,
        }
    }
}

/// `[a-z]{3}_[a-z0-9]{1,40}`: such an id is safe as a name in a path, a cgroup and a command line.
pub fn check_id(id: &str) -> Result<()> {
    let bytes = id.as_bytes();
    let rest = bytes.get(4..).unwrap_or(&[]);
    let fits = (1..=40).contains(&rest.len())
        && bytes[..3].iter().all(u8::is_ascii_lowercase)
        && bytes[3] == b'_'
        && rest
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if fits {
        return Ok(());
    }
    Err(Error::new(
        code::INVALID,
        "an id must be three letters, an underscore and 1 to 40 of a-z0-9",
    ))
}

fn check_range(name: &str, value: u32, range: (u32, u32)) -> Result<()> {
    if (range.0..=range.1).contains(&value) {
        return Ok(());
    }
    Err(Error::new(
        code::INVALID,
        format!("{} is {}: it must be from {} to {}", name, value, range.0, range.1),
    ))
}

fn check_name(what: &str, name: &str, most: usize, extra: &[u8]) -> Result<()> {
    let bytes = name.as_bytes();
    let known = |byte: &u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_uppercase() || byte.is_ascii_digit() || extra.contains(byte)
    };
    let fits =
        !bytes.is_empty() && bytes.len() <= most && bytes.iter().all(known) && bytes[0] != b'-' && bytes[0] != b'.';
    if fits {
        return Ok(());
    }
    Err(Error::new(
        code::INVALID,
        format!(
            "the {} must be 1 to {} letters, digits or one of {:?}",
            what,
            most,
            String::from_utf8_lossy(extra)
        ),
    ))
}

pub fn check_template(name: &str) -> Result<()> {
    check_name("template", name, TEMPLATE_BYTES, b"-_.")
}

pub fn check_disk(disk_mb: u32) -> Result<()> {
    check_range("diskMb", disk_mb, DISK_MB)
}

impl Request {
    pub fn read(reader: &mut Reader<'_>) -> Result<Request> {
        let bad = |_| Error::new(code::INVALID, "the request is cut short or malformed");
        let box_id = reader.str().map_err(bad)?.to_string();
        let upper_id = reader.str().map_err(bad)?.to_string();
        let fresh = reader.u8().map_err(bad)?;
        let template = reader.str().map_err(bad)?.to_string();
        let runtime = reader.str().map_err(bad)?;
        let limits = BoxLimits::read(reader)?;
        let hostname = reader.str().map_err(bad)?.to_string();
        let volumes = read_volumes(reader)?;
        check_id(&box_id)?;
        check_id(&upper_id)?;
        if fresh > 1 {
            return Err(Error::new(code::INVALID, "fresh must be 0 or 1"));
        }
        check_template(&template)?;
        let runtime = if runtime.is_empty() {
            None
        } else {
            Some(Kind::parse(runtime)?)
        };
        check_name("hostname", &hostname, HOSTNAME_BYTES, b"-.")?;
        Ok(Request {
            box_id,
            upper_id,
            fresh: fresh == 1,
            template,
            runtime,
            limits,
            hostname,
            volumes,
        })
    }
}

/// A box the helper has given a range and a runtime; written to `spec` before the first effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub box_id: String,
    pub upper_id: String,
    pub template: String,
    pub kind: Kind,
    /// Which range of uids is its own; 0 is the HTTP process's and never given out.
    pub range: u32,
    pub limits: BoxLimits,
    /// Folder name of the guest it runs, so that a newer platform does not take it away.
    pub guest: String,
    /// Ids of the volumes it shows.
    pub volumes: Vec<String>,
}

impl Record {
    pub fn encode(&self) -> String {
        format!(
            "upperId={}\ntemplate={}\nruntime={}\nrange={}\ncpuMilli={}\nmemoryMb={}\ndiskMb={}\nprocesses={}\nguest={}\nvolumes={}\n",
            self.upper_id,
            self.template,
            self.kind.name(),
            self.range,
            self.limits.cpu_milli,
            self.limits.memory_mb,
            self.limits.disk_mb,
            self.limits.processes,
            self.guest,
            self.volumes.join(",")
        )
    }

    pub fn decode(box_id: &str, text: &str) -> Option<Record> {
        let field = |key: &str| {
            text.lines()
                .find_map(|line| line.split_once('=').filter(|pair| pair.0 == key).map(|pair| pair.1))
        };
        let number = |key: &str| field(key)?.parse().ok();
        check_id(box_id).ok()?;
        check_id(field("upperId")?).ok()?;
        Some(Record {
            box_id: box_id.to_string(),
            upper_id: field("upperId")?.to_string(),
            template: field("template")?.to_string(),
            kind: Kind::parse(field("runtime")?).ok()?,
            range: number("range")?,
            limits: BoxLimits {
                cpu_milli: number("cpuMilli")?,
                memory_mb: number("memoryMb")?,
                disk_mb: number("diskMb")?,
                processes: number("processes")?,
            },
            guest: field("guest")?.to_string(),
            // Boxes of an earlier version had none.
            volumes: field("volumes").unwrap_or("").split(',').filter(|id| check_id(id).is_ok()).map(String::from).collect(),
        })
    }
}

/// The process a box is known by, for as long as the machine runs: a pid alone may belong to another one by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    pub pid: i32,
    pub start: u64,
}

impl Life {
    pub fn of(pid: i32) -> Option<Life> {
        sys::start_time(pid).map(|start| Life { pid, start })
    }

    pub fn encode(&self, boot_id: &str) -> String {
        format!("{} {} {}\n", self.pid, self.start, boot_id)
    }

    pub fn decode(text: &str, boot_id: &str) -> Option<Life> {
        let mut fields = text.trim_end().split(' ');
        let life = Life {
            pid: fields.next()?.parse().ok()?,
            start: fields.next()?.parse().ok()?,
        };
        (fields.next()? == boot_id && !boot_id.is_empty()).then_some(life)
    }

    pub fn read(path: &Path, boot_id: &str) -> Option<Life> {
        Life::decode(&std::fs::read_to_string(path).ok()?, boot_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Writer;

    fn request(change: impl Fn(&mut Request)) -> Result<Request> {
        let mut wanted = Request {
            box_id: "sbx_a1".into(),
            upper_id: "upp_a1".into(),
            fresh: true,
            template: "host".into(),
            runtime: Some(Kind::Crun),
            limits: BoxLimits {
                cpu_milli: 1000,
                memory_mb: 512,
                disk_mb: 4096,
                processes: 512,
            },
            hostname: "box".into(),
            volumes: vec![Volume { id: "vol_a1".into(), path: "/data/shared".into(), read_only: true }],
        };
        change(&mut wanted);
        let mut payload = Vec::new();
        let mut writer = Writer::new(&mut payload);
        writer.str(&wanted.box_id);
        writer.str(&wanted.upper_id);
        writer.u8(1);
        writer.str(&wanted.template);
        writer.str("crun");
        for value in [
            wanted.limits.cpu_milli,
            wanted.limits.memory_mb,
            wanted.limits.disk_mb,
            wanted.limits.processes,
        ] {
            writer.u32(value);
        }
        writer.str(&wanted.hostname);
        writer.list(&wanted.volumes, |writer, volume| {
            writer.str(&volume.id);
            writer.str(&volume.path);
            writer.u8(u8::from(volume.read_only));
        });
        Request::read(&mut Reader::new(&payload))
    }

    #[test]
    fn a_request_within_limits_is_read_as_it_was_written() {
        assert_eq!(request(|_| {}).unwrap().limits.memory_mb, 512);
    }

    #[test]
    fn ids_names_and_limits_outside_their_form_are_refused() {
        for id in [
            "", "sbx", "sbx_", "sbx_A", "sbx_a/b", "sbx_..", "../x_a", "sbx_a\0", "sbx_é", "abcd_a",
        ] {
            assert_eq!(
                request(|wanted| wanted.box_id = id.into()).unwrap_err().code,
                code::INVALID,
                "{:?}",
                id
            );
            assert_eq!(
                request(|wanted| wanted.upper_id = id.into()).unwrap_err().code,
                code::INVALID,
                "{:?}",
                id
            );
        }
        for name in ["", "-a", ".", "../host", "a/b", "a b", "a\n"] {
            assert_eq!(
                request(|wanted| wanted.template = name.into()).unwrap_err().code,
                code::INVALID,
                "{:?}",
                name
            );
            assert_eq!(
                request(|wanted| wanted.hostname = name.into()).unwrap_err().code,
                code::INVALID,
                "{:?}",
                name
            );
        }
        for value in [0, u32::MAX] {
            assert!(request(|wanted| wanted.limits.memory_mb = value).is_err());
            assert!(request(|wanted| wanted.limits.cpu_milli = value).is_err());
            assert!(request(|wanted| wanted.limits.disk_mb = value).is_err());
            assert!(request(|wanted| wanted.limits.processes = value).is_err());
        }
    }

    #[test]
    fn volumes_stay_within_the_box_and_apart() {
        let volume = |path: &str| Volume { id: "vol_a".into(), path: path.into(), read_only: false };
        for path in [
            "", "/", "data", "/a/../b", "/a/./b", "/a//b", "/a/", "/proc", "/sys/x", "/dev/shm/x", "/run/x", "/.delta", "/a\0",
        ] {
            assert!(request(|wanted| wanted.volumes = vec![volume(path)]).is_err(), "{:?}", path);
        }
        for path in ["/data", "/processes", "/workspace/.delta", "/é"] {
            assert!(request(|wanted| wanted.volumes = vec![volume(path)]).is_ok(), "{:?}", path);
        }
        for (one, other) in [("/a", "/a"), ("/a", "/a/b"), ("/a/b", "/a")] {
            assert!(request(|wanted| wanted.volumes = vec![volume(one), volume(other)]).is_err());
        }
        let many: Vec<Volume> = (0..=VOLUMES_MAX).map(|at| volume(&format!("/v{}", at))).collect();
        assert!(request(|wanted| wanted.volumes = many.clone()).is_err());
        assert!(request(|wanted| wanted.volumes = many[1..].to_vec()).is_ok());
    }

    #[test]
    fn a_record_survives_the_disk_and_a_cut_one_is_none() {
        let record = Record {
            box_id: "sbx_a1".into(),
            upper_id: "upp_a1".into(),
            template: "host".into(),
            kind: Kind::Runc,
            range: 7,
            limits: BoxLimits {
                cpu_milli: 1,
                memory_mb: 2,
                disk_mb: 3,
                processes: 4,
            },
            guest: "abc".into(),
            volumes: vec!["vol_a".into(), "vol_b".into()],
        };
        let text = record.encode();
        assert_eq!(Record::decode("sbx_a1", &text), Some(record));
        assert_eq!(Record::decode("sbx_a1", &text[..text.len() / 2]), None);
    }

    #[test]
    fn a_process_of_another_boot_is_not_taken_for_ours() {
        let text = Life { pid: 5, start: 9 }.encode("boot-a");
        assert_eq!(Life::decode(&text, "boot-a"), Some(Life { pid: 5, start: 9 }));
        assert_eq!(Life::decode(&text, "boot-b"), None);
    }
}
