//! The doctor on this machine, as root.

use std::fs;
use std::path::PathBuf;

use delta::helper::doctor::{examine, DoctorOptions, Finding, Status};

fn options(data: PathBuf) -> DoctorOptions {
    DoctorOptions {
        data,
        uid_base: 1_879_048_192,
        uid_count: 65_536 * 1000,
        reserve_percent: 5,
        runtime: "crun".into(),
        node: None,
    }
}

fn named<'a>(findings: &'a [Finding], name: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.name == name).unwrap_or_else(|| panic!("no finding {}", name))
}

#[test]
fn the_doctor_really_tries_and_leaves_nothing_behind() {
    let data = std::env::temp_dir().join(format!("delta-doctor-test-{}", std::process::id()));
    fs::create_dir_all(&data).unwrap();
    let backing = || {
        fs::read_dir("/sys/block")
            .unwrap()
            .flatten()
            .filter_map(|entry| fs::read_to_string(entry.path().join("loop/backing_file")).ok())
    };
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let findings = examine(&options(data.clone()));
    for finding in &findings {
        println!("{:4} {:28} {} -- {}", finding.status.name(), finding.name, finding.found, finding.meaning);
        assert!(!finding.found.is_empty() && finding.meaning.ends_with('.'), "{:?}", finding);
    }
    for name in [
        "root",
        "kernel",
        "user namespaces",
        "idmapped mount of data folder",
        "idmapped mount of /usr",
        "overlayfs",
        "btrfs pool",
        "uid range",
        "crun",
    ] {
        assert_eq!(named(&findings, name).status, Status::Ok, "{:?}", named(&findings, name));
    }
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
    assert!(!mounts().contains("delta-doctor-test"), "{}", mounts());
    assert_eq!(backing().filter(|path| path.contains("delta-doctor-test")).count(), 0);
    fs::remove_dir_all(&data).unwrap();
}

#[test]
fn what_is_wrong_is_named_with_what_to_do() {
    let mut options = options(PathBuf::from("/nonexistent/delta"));
    options.runtime = "nosuch".into();
    options.uid_base = 0;
    options.node = Some("/bin/false".into());
    let findings = examine(&options);
    for (name, word) in [
        ("data folder", "DELTA_DATA_DIR"),
        ("free space", "DELTA_DATA_DIR"),
        ("uid range", "DELTA_UID_BASE"),
        ("Node", "npm start"),
    ] {
        let finding = named(&findings, name);
        assert_eq!(finding.status, Status::Fail, "{:?}", finding);
        assert!(finding.meaning.contains(word), "{:?}", finding);
    }
}
