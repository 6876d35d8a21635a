//! What the helper reads from its environment.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::doctor::DoctorOptions;
use super::error::{code, Context, Error, Result};
use super::pool::{system_program, PoolOptions};
use super::runtime::{Kind, KINDS};

/// The range that systemd's table of uids leaves to nobody.
pub const DEFAULT_UID_BASE: u32 = 1_879_048_192;
pub const DEFAULT_UID_COUNT: u32 = 268_435_456;
/// What the helper, the server and a few requests need to go on while sandboxes end.
const DEFAULT_MEMORY_RESERVE_MB: u32 = 128;

#[derive(Clone, Debug)]
pub struct Settings {
    pub data: PathBuf,
    pub kind: Kind,
    pub uid_base: u32,
    pub uid_count: u32,
    pub memory_reserve_mb: u32,
    pub pool: PoolOptions,
    /// SIGTERM ends every sandbox, as SIGINT does.
    pub stop_all: bool,
    pub guest: PathBuf,
    pub node: Option<PathBuf>,
    /// What everything costs, where the operator says so.
    pub rate_card: Option<PathBuf>,
    /// The server's entry file.
    pub server: PathBuf,
}

/// It becomes one variable of an environment, which the kernel allows 128 KiB.
const RATE_CARD_BYTES: u64 = 65_536;

type Get<'a> = &'a dyn Fn(&str) -> Option<String>;

fn number(get: Get<'_>, name: &str, default: u32) -> Result<u32> {
    match get(name) {
        None => Ok(default),
        Some(text) => text
            .parse()
            .map_err(|_| Error::new(code::INVALID, format!("{} is {:?}: use a whole number", name, text))),
    }
}

fn flag(get: Get<'_>, name: &str) -> Result<bool> {
    match get(name).as_deref() {
        None | Some("0") | Some("false") => Ok(false),
        Some("1") | Some("true") => Ok(true),
        Some(other) => Err(Error::new(
            code::INVALID,
            format!("{} is {:?}: use 1 or 0", name, other),
        )),
    }
}

/// The first that is installed.
fn default_kind() -> Kind {
    KINDS
        .iter()
        .copied()
        .find(|kind| system_program(kind.name()).is_some())
        .unwrap_or(Kind::Crun)
}

fn find_node(beside: &Path) -> Option<PathBuf> {
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let own = beside.join(format!("../node/node_modules/node-linux-{}/bin/node", machine));
    if own.is_file() {
        return Some(own);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("node"))
        .find(|path| path.is_file())
}

impl Settings {
    /// `program` is the helper's own file: the guest, the server and Node lie in known places around it.
    pub fn read(get: Get<'_>, program: &Path) -> Result<Settings> {
        let get = &|name: &str| get(name).filter(|text| !text.is_empty());
        let data = PathBuf::from(get("DELTA_DATA_DIR").unwrap_or_else(|| "data".to_string()));
        let beside = program.parent().unwrap_or_else(|| Path::new("/"));
        let kind = match get("DELTA_RUNTIME") {
            Some(name) => Kind::parse(&name)
                .map_err(|error| Error::new(code::INVALID, format!("DELTA_RUNTIME: {}", error.message)))?,
            None => default_kind(),
        };
        let uid_base = number(get, "DELTA_UID_BASE", DEFAULT_UID_BASE)?;
        let most = u32::MAX - 65_536 - uid_base.min(u32::MAX - 65_536);
        let uid_count = number(get, "DELTA_UID_COUNT", DEFAULT_UID_COUNT.min(most))?;
        if uid_base < 65_536 || uid_count < 2 * 65_536 || uid_count > most {
            let message = format!(
                "DELTA_UID_BASE {} and DELTA_UID_COUNT {}: use a range above 65535 of at least 131072 uids",
                uid_base, uid_count
            );
            return Err(Error::new(code::INVALID, message));
        }
        Ok(Settings {
            data,
            kind,
            uid_base,
            uid_count,
            memory_reserve_mb: number(get, "DELTA_MEMORY_RESERVE_MB", DEFAULT_MEMORY_RESERVE_MB)?,
            pool: PoolOptions::from_environment(get)?,
            stop_all: flag(get, "DELTA_STOP_ALL")?,
            guest: get("DELTA_GUEST").map_or_else(|| beside.join("delta-guest"), PathBuf::from),
            node: get("DELTA_NODE").map(PathBuf::from).or_else(|| find_node(beside)),
            rate_card: get("DELTA_RATE_CARD").map(PathBuf::from),
            server: get("DELTA_SERVER").map_or_else(|| beside.join("../server/main.mjs"), PathBuf::from),
        })
    }

    /// Makes the data folder, for root alone but passable: sockets below it are reached by another uid.
    pub fn make_data(&mut self) -> Result<()> {
        std::fs::create_dir_all(&self.data).context(format_args!("making {}", self.data.display()))?;
        self.data = self
            .data
            .canonicalize()
            .context(format_args!("looking at {}", self.data.display()))?;
        Ok(())
    }

    /// The server sees no file but its own, so its text is handed over. Whether it is a rate card is for the server to say.
    pub fn rate_card_text(&self) -> Result<Option<String>> {
        let path = match &self.rate_card {
            Some(path) => path,
            None => return Ok(None),
        };
        let mut text = String::new();
        let file = File::open(path).context(format_args!("DELTA_RATE_CARD: opening {}", path.display()))?;
        file.take(RATE_CARD_BYTES + 1)
            .read_to_string(&mut text)
            .context(format_args!("DELTA_RATE_CARD: reading {}", path.display()))?;
        if text.len() as u64 > RATE_CARD_BYTES {
            let message = format!("DELTA_RATE_CARD: {} has more than {} bytes", path.display(), RATE_CARD_BYTES);
            return Err(Error::new(code::INVALID, message));
        }
        Ok(Some(text))
    }

    pub fn doctor(&self) -> DoctorOptions {
        DoctorOptions {
            data: self.data.clone(),
            uid_base: self.uid_base,
            uid_count: self.uid_count,
            reserve_percent: self.pool.reserve_percent,
            runtime: self.kind.name().to_string(),
            node: self.node.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &'static [(&'static str, &'static str)]) -> Result<Settings> {
        let get = move |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_string());
        Settings::read(&get, Path::new("/opt/delta/bin/delta-helper"))
    }

    #[test]
    fn an_empty_environment_gives_the_documented_defaults() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.data, PathBuf::from("data"));
        assert_eq!(
            (settings.uid_base, settings.uid_count),
            (DEFAULT_UID_BASE, DEFAULT_UID_COUNT)
        );
        assert_eq!(settings.guest, PathBuf::from("/opt/delta/bin/delta-guest"));
        assert!(!settings.stop_all);
    }

    #[test]
    fn the_rate_card_is_handed_over_as_it_is_or_refused_by_name() {
        let mut settings = read(&[]).unwrap();
        assert_eq!(settings.rate_card_text().unwrap(), None);
        let file = std::env::temp_dir().join(format!("delta-rate-card-{}.json", std::process::id()));
        settings.rate_card = Some(file.clone());
        let refused = |settings: &Settings| settings.rate_card_text().unwrap_err().message;
        assert!(refused(&settings).contains("DELTA_RATE_CARD: opening"));
        std::fs::write(&file, "{ }").unwrap();
        assert_eq!(settings.rate_card_text().unwrap().as_deref(), Some("{ }"));
        std::fs::write(&file, [0xff, 0xfe]).unwrap();
        assert!(refused(&settings).contains("DELTA_RATE_CARD: reading"));
        std::fs::write(&file, " ".repeat(65_537)).unwrap();
        assert!(refused(&settings).contains("more than 65536 bytes"));
        std::fs::remove_file(&file).unwrap();
        settings.rate_card = Some(std::env::temp_dir());
        assert!(refused(&settings).contains("DELTA_RATE_CARD: reading"));
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        let bad: [&'static [(&'static str, &'static str)]; 6] = [
            &[("DELTA_RUNTIME", "docker")],
            &[("DELTA_UID_BASE", "-1")],
            &[("DELTA_UID_BASE", "1000")],
            &[("DELTA_UID_COUNT", "65536")],
            &[("DELTA_STOP_ALL", "maybe")],
            &[("DELTA_UID_BASE", "4294967295")],
        ];
        for pairs in bad {
            let message = read(pairs).unwrap_err().message;
            assert!(message.contains("DELTA_"), "{}", message);
        }
    }
}
