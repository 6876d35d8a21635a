//! The helper's protocol (docs/helper-protocol.md): requests in, answers out. What a request says is checked here or in `record`.

use super::boxes::Boxes;
use super::doctor;
use super::error::{code, Error, Result};
use super::layers::Limits;
use super::overlay::Stage;
use super::pool::is_snapshot;
use super::record::{check_disk, check_id, check_template, BoxLimits, Request};
use super::settings::Settings;
use super::streams::{self, Streams};
use super::templates;
use crate::wire::{Reader, WireError, Writer};

pub const INFO: u8 = 1;
pub const CREATE: u8 = 2;
pub const END: u8 = 3;
pub const FREEZE: u8 = 4;
pub const THAW: u8 = 5;
pub const STATS: u8 = 6;
pub const LIST: u8 = 7;
pub const DROP_UPPER: u8 = 8;
pub const TEMPLATES: u8 = 9;
pub const BUILD_TEMPLATE: u8 = 10;
pub const DOCTOR: u8 = 11;
pub const USAGE: u8 = 12;
pub const LIMITS: u8 = 13;
pub const SNAPSHOT: u8 = 14;
pub const MAKE_UPPER: u8 = 15;
pub const DROP_SNAPSHOT: u8 = 16;
pub const DISKS: u8 = 17;
pub const PACK: u8 = 18;
pub const APPLY: u8 = 19;
pub const CHANGES: u8 = 20;
pub const READ: u8 = 21;
pub const MAKE_VOLUME: u8 = 22;
pub const DROP_VOLUME: u8 = 23;
pub const MEASURE: u8 = 24;
pub const BOX_DIED: u8 = 100;
pub const SHUTDOWN: u8 = 101;
pub const ROOM: u8 = 102;

pub const MAX_REQUEST_BYTES: usize = 64 << 10;
pub const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Which threads a request runs on: those with a stage, those for quick ones, or one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Boxes,
    /// Without a stage, and bounded by the disk rather than by the processors.
    Disks,
    /// These three answer early and go on: a snapshot is packed, a layer is applied, somebody looks at a snapshot.
    Packs,
    Applies,
    Looks,
    Quick,
    Slow,
}

pub fn lane(kind: u8) -> Lane {
    match kind {
        CREATE | END | DROP_UPPER => Lane::Boxes,
        SNAPSHOT | MAKE_UPPER | DROP_SNAPSHOT | MAKE_VOLUME | DROP_VOLUME => Lane::Disks,
        PACK => Lane::Packs,
        APPLY => Lane::Applies,
        CHANGES | READ => Lane::Looks,
        BUILD_TEMPLATE | DOCTOR => Lane::Slow,
        _ => Lane::Quick,
    }
}

/// Every request type is let through the frame decoder, so that an unknown one gets an answer.
pub fn rules(kind: u8) -> Option<usize> {
    (kind < BOX_DIED).then_some(MAX_REQUEST_BYTES)
}

fn malformed(_: WireError) -> Error {
    Error::new(code::INVALID, "the request is cut short or malformed")
}

fn id<'a>(reader: &mut Reader<'a>) -> Result<&'a str> {
    let text = reader.str().map_err(malformed)?;
    check_id(text)?;
    Ok(text)
}

/// A template's name says what it is by its form: only snapshots have this one.
fn snapshot_id<'a>(reader: &mut Reader<'a>) -> Result<&'a str> {
    let id = id(reader)?;
    if is_snapshot(id) {
        return Ok(id);
    }
    Err(Error::new(code::INVALID, "a snapshot's id must begin with snp_"))
}

fn template<'a>(reader: &mut Reader<'a>) -> Result<&'a str> {
    let name = reader.str().map_err(malformed)?;
    check_template(name)?;
    Ok(name)
}

/// Megabytes as bytes.
fn quota(reader: &mut Reader<'_>) -> Result<u64> {
    let disk_mb = reader.u32().map_err(malformed)?;
    check_disk(disk_mb)?;
    Ok(u64::from(disk_mb) << 20)
}

/// Answers one request; `stage` is there on the lane of boxes.
pub fn answer(boxes: &Boxes, settings: &Settings, stage: Option<&Stage>, kind: u8, payload: &[u8]) -> Result<Vec<u8>> {
    let mut reader = Reader::new(payload);
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    match kind {
        INFO => info(boxes, settings, &mut writer)?,
        CREATE => {
            let request = Request::read(&mut reader)?;
            let stage = stage.ok_or_else(|| Error::new(code::NOT_SUPPORTED, "no stage on this thread"))?;
            let made = boxes.create(stage, &request)?;
            writer.u32(made.pid as u32);
            writer.u32(made.uid_first);
            writer.str(&made.wire);
            writer.list(&made.timings, |writer, (phase, micros)| {
                writer.str(phase);
                writer.u32(*micros);
            });
        }
        END => {
            let id = id(&mut reader)?;
            boxes.end(id, reader.u8().map_err(malformed)? != 0)?;
        }
        FREEZE => boxes.freeze(id(&mut reader)?, true)?,
        THAW => boxes.freeze(id(&mut reader)?, false)?,
        LIMITS => {
            let id = id(&mut reader)?;
            boxes.limit(id, BoxLimits::read(&mut reader)?)?;
        }
        STATS => {
            let (stats, used, limit) = boxes.stats(id(&mut reader)?)?;
            for value in [
                stats.cpu_micros,
                stats.memory_bytes,
                stats.memory_peak_bytes,
                stats.memory_limit_bytes,
                stats.oom_kills,
            ] {
                writer.u64(value);
            }
            writer.u32(stats.processes);
            writer.u64(used.unwrap_or(u64::MAX));
            writer.u64(limit);
        }
        MEASURE => {
            let ids = reader.list(|reader| reader.str()).map_err(malformed)?;
            ids.iter().try_for_each(|id| check_id(id))?;
            let measured: Vec<_> = ids.iter().filter_map(|id| Some((*id, boxes.measure(id)?))).collect();
            writer.list(&measured, |writer, (id, usage)| {
                writer.str(id);
                writer.u64(usage.cpu_micros);
                writer.u64(usage.memory_bytes);
            });
        }
        LIST => {
            let (listed, free) = boxes.list()?;
            writer.list(&listed, |writer, item| {
                writer.str(&item.box_id);
                writer.str(&item.upper_id);
                writer.u8(item.state);
                writer.u32(item.pid as u32);
                writer.str(&item.wire);
                writer.str(&item.template);
            });
            writer.list(&free, |writer, id| writer.str(id));
        }
        DROP_UPPER => boxes.drop_upper(id(&mut reader)?)?,
        SNAPSHOT => {
            let (upper, snapshot) = (id(&mut reader)?, snapshot_id(&mut reader)?);
            let taken = boxes.snapshot(upper, snapshot)?;
            writer.u64(taken.flush_micros);
            writer.u64(taken.frozen_micros);
            writer.u64(taken.bytes.unwrap_or(u64::MAX));
        }
        MAKE_UPPER => {
            let upper = id(&mut reader)?;
            let from = template(&mut reader)?;
            let quota = quota(&mut reader)?;
            boxes.make_upper(upper, from, quota, reader.u8().map_err(malformed)? != 0)?;
        }
        DROP_SNAPSHOT => boxes.drop_snapshot(snapshot_id(&mut reader)?)?,
        DISKS => {
            writer.list(&boxes.pool.list_snapshots(), |writer, snapshot| {
                writer.str(&snapshot.id);
                writer.str(&snapshot.template);
            });
            writer.list(&boxes.pool.list_volumes()?, |writer, id| writer.str(id));
        }
        MAKE_VOLUME => {
            let volume = id(&mut reader)?;
            boxes.pool.make_volume(volume, quota(&mut reader)?)?;
        }
        DROP_VOLUME => boxes.drop_volume(id(&mut reader)?)?,
        TEMPLATES => {
            let found = templates::list(&settings.data);
            writer.list(&found, |writer, item| {
                writer.str(&item.name);
                writer.str(item.state.name());
                writer.str(&item.detail);
            });
        }
        BUILD_TEMPLATE => {
            let name = reader.str().map_err(malformed)?;
            if !templates::NAMES.contains(&name) {
                return Err(Error::new(
                    code::NOT_FOUND,
                    format!(
                        "there is no template {:?}: {} can be built",
                        name,
                        templates::NAMES.join(" and ")
                    ),
                ));
            }
            templates::build(&settings.data, name, &mut |_| {})?;
        }
        DOCTOR => {
            let findings = doctor::examine(&settings.doctor());
            writer.list(&findings, |writer, finding| {
                writer.str(&finding.name);
                writer.str(finding.status.name());
                writer.str(&finding.found);
                writer.str(&finding.meaning);
            });
        }
        USAGE => {
            let usage = boxes.pool.usage()?;
            for value in [usage.total, usage.used, usage.backing_free, usage.reserve] {
                writer.u64(value);
            }
            writer.u8(u8::from(usage.read_only));
        }
        other => {
            return Err(Error::new(
                code::NOT_SUPPORTED,
                format!("there is no request {}", other),
            ))
        }
    }
    if out.len() > MAX_ANSWER_BYTES - 1024 {
        return Err(Error::new(
            crate::wire::code::TOO_LARGE,
            "the answer is larger than an answer may be",
        ));
    }
    Ok(out)
}

/// Answers a request for a stream and then is its one end until it is over.
pub fn stream(boxes: &Boxes, all: &Streams, kind: u8, payload: &[u8], answer: streams::Answer<'_>) {
    let mut reader = Reader::new(payload);
    let asked = match kind {
        APPLY => read_apply(&mut reader).map(|(upper, limits)| streams::apply(all, boxes, upper, limits, answer)),
        _ => read_pair(&mut reader, kind).map(|pair| match kind {
            PACK => streams::pack(all, boxes, pair, answer),
            CHANGES => streams::changes(all, boxes, pair, answer),
            _ => streams::read(all, boxes, pair, answer),
        }),
    };
    if let Err(error) = asked {
        answer(Err(error));
    }
}

fn read_apply<'a>(reader: &mut Reader<'a>) -> Result<(&'a str, Limits)> {
    let upper = id(reader)?;
    let max_bytes = reader.u64().map_err(malformed)?;
    let max_entries = reader.u64().map_err(malformed)?;
    Ok((upper, Limits { max_bytes, max_entries }))
}

/// A snapshot, or for PACK a template, and a parent or a path.
fn read_pair<'a>(reader: &mut Reader<'a>, kind: u8) -> Result<(&'a str, &'a str)> {
    let source = if kind == PACK { template(reader)? } else { snapshot_id(reader)? };
    let other = reader.str().map_err(malformed)?;
    if kind != READ && !other.is_empty() && !is_snapshot(other) {
        return Err(Error::new(code::INVALID, "a snapshot's id must begin with snp_"));
    }
    Ok((source, other))
}

fn info(boxes: &Boxes, settings: &Settings, writer: &mut Writer<'_>) -> Result<()> {
    let runtime = boxes.runtime(settings.kind)?;
    let ready: Vec<String> = templates::list(&settings.data)
        .into_iter()
        .filter(|item| item.state == templates::State::Ready)
        .map(|item| item.name)
        .collect();
    writer.str(env!("CARGO_PKG_VERSION"));
    writer.str(settings.kind.name());
    writer.str(&runtime.version);
    writer.str(boxes.cgroups.version.name());
    writer.str(boxes.pool.kind().name());
    writer.u32(settings.uid_base);
    writer.u32(settings.uid_count);
    writer.list(&ready, |writer, name| writer.str(name));
    writer.list(&boxes.warnings(), |writer, warning| writer.str(warning));
    writer.str(
        std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim(),
    );
    writer.str(&boxes.wires_path().to_string_lossy());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_may_be_of_unknown_kinds_but_news_may_not_be_sent_to_the_helper() {
        assert_eq!(rules(99), Some(MAX_REQUEST_BYTES));
        assert_eq!(rules(BOX_DIED), None);
        assert_eq!(rules(255), None);
    }
}
