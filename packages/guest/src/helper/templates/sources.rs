//! apt's package sources in both of their forms, as far as the template `debian` needs them.

use super::secrets;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub address: String,
    pub suite: String,
    pub components: Vec<String>,
    pub signed_by: Option<String>,
}

/// `deb [option=value …] address suite component …`
pub fn one_line_style(text: &str) -> Vec<Source> {
    text.lines().filter_map(one_line).collect()
}

fn one_line(line: &str) -> Option<Source> {
    let rest = line.split('#').next()?.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracket) => bracket.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_string);
    let (address, suite) = (words.next()?, words.next()?);
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_string);
    Some(Source { address, suite, components: words.collect(), signed_by })
}

/// deb822: stanzas of `Name: value` separated by empty lines; values go on in lines that begin with a space.
pub fn stanza_style(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for stanza in text.split("\n\n") {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in stanza.lines().filter(|line| !line.starts_with('#')) {
            match line.split_once(':') {
                Some((name, value)) if !line.starts_with(|first: char| first == ' ' || first == '\t') => {
                    fields.push((name.to_ascii_lowercase(), value.trim().to_string()))
                }
                _ => {
                    if let Some(last) = fields.last_mut() {
                        last.1 = format!("{} {}", last.1, line.trim());
                    }
                }
            }
        }
        sources.extend(of_stanza(&fields));
    }
    sources
}

fn of_stanza(fields: &[(String, String)]) -> Vec<Source> {
    let words = |name: &str| -> Vec<String> {
        let value = fields.iter().find(|field| field.0 == name).map_or("", |field| field.1.as_str());
        value.split_whitespace().map(str::to_string).collect()
    };
    let off = words("enabled").first().map_or(false, |value| value.eq_ignore_ascii_case("no"));
    if off || !words("types").iter().any(|kind| kind == "deb") {
        return Vec::new();
    }
    // A key may be written out in the field itself: only a path is taken over.
    let signed_by = words("signed-by").into_iter().next().filter(|value| value.starts_with('/'));
    let mut sources = Vec::new();
    for address in words("uris") {
        for suite in words("suites") {
            sources.push(Source {
                address: address.clone(),
                suite,
                components: words("components"),
                signed_by: signed_by.clone(),
            });
        }
    }
    sources
}

/// The sources of the release itself, its updates and its security fixes, in one-line style. Others' packages stay away, and so does
/// an address with a password.
pub fn of_release(sources: &[Source], release: &str) -> String {
    let suites = [release.to_string(), format!("{}-updates", release), format!("{}-security", release)];
    let mut lines: Vec<String> = Vec::new();
    for source in sources {
        let is_archive = suites.contains(&source.suite) && source.components.iter().any(|component| component == "main");
        let is_web = source.address.starts_with("http://") || source.address.starts_with("https://");
        if !is_archive || !is_web || source.address.contains('@') || secrets::reason(source.address.as_bytes()).is_some() {
            continue;
        }
        // These keyrings are part of the release, so the path holds inside too.
        let keyring = source
            .signed_by
            .as_deref()
            .filter(|path| path.starts_with("/usr/share/keyrings/") && path.contains("-archive-keyring."));
        let options = keyring.map_or(String::new(), |path| format!("[signed-by={}] ", path));
        let line = format!("deb {}{} {} {}\n", options, source.address, source.suite, source.components.join(" "));
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    // Updates alone make no system.
    if !sources.iter().any(|source| source.suite == release) {
        return String::new();
    }
    lines.concat()
}

/// The project's own mirrors, for a host that names none.
pub fn official(release: &str) -> String {
    if std::fs::read_to_string("/etc/os-release").map_or(false, |text| text.lines().any(|line| line == "ID=ubuntu")) {
        return format!(
            "deb http://archive.ubuntu.com/ubuntu {0} main universe\ndeb http://archive.ubuntu.com/ubuntu {0}-updates main universe\n\
             deb http://security.ubuntu.com/ubuntu {0}-security main universe\n",
            release
        );
    }
    format!(
        "deb http://deb.debian.org/debian {0} main\ndeb http://deb.debian.org/debian {0}-updates main\n\
         deb http://deb.debian.org/debian-security {0}-security main\n",
        release
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_only_the_release_without_passwords_is_taken() {
        let mut sources = one_line_style(
            "# deb http://old bookworm main\ndeb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror/debian bookworm main contrib\n\
             deb-src http://mirror/debian bookworm main\ndeb http://bob:pw1@private/debian bookworm main\ndeb https://download.docker.com/linux/debian bookworm stable\nnonsense\n",
        );
        sources.extend(stanza_style(
            "Types: deb deb-src\nURIs: http://mirror/debian\nSuites: bookworm-updates\n bookworm-security\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n\n\
             Types: deb\nEnabled: no\nURIs: http://off/debian\nSuites: bookworm\nComponents: main\n",
        ));
        assert_eq!(
            of_release(&sources, "bookworm"),
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror/debian bookworm main contrib\n\
             deb http://mirror/debian bookworm-updates main\ndeb http://mirror/debian bookworm-security main\n"
        );
        assert_eq!(of_release(&sources, "trixie"), "");
    }
}
