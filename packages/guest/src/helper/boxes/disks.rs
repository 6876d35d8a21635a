//! Disks as boxes see them: what a box uses is frozen before it is kept, and not dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{check_id, lock, make_usr, write_file, Boxes, Slot, State, FREEZING};
use crate::helper::bases::{self, Base};
use crate::helper::error::{code, Error, Result};
use crate::helper::layers::View;
use crate::helper::pool::is_snapshot;

/// Flushes before a box is frozen. One that writes faster than the disk takes it is never flushed, and is frozen for longer.
const FLUSHES_MAX: usize = 5;
/// What a flush of this time or less leaves is written within the freeze.
const SHORT_FLUSH: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub flush_micros: u64,
    /// 0 where no box stood still for it.
    pub frozen_micros: u64,
    /// None: nothing counts them.
    pub bytes: Option<u64>,
}

/// An upper that no box uses, and none takes as long as this lives.
pub struct Claim<'a> {
    boxes: &'a Boxes,
    upper_id: String,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        lock(&self.boxes.table).claimed.remove(&self.upper_id);
    }
}

fn micros(since: Instant) -> u64 {
    since.elapsed().as_micros() as u64
}

impl Boxes {
    /// The box that uses an upper.
    fn user_of(&self, upper_id: &str) -> Option<Arc<Slot>> {
        let table = lock(&self.table);
        let user = table.boxes.values().find(|slot| slot.record.upper_id == upper_id);
        user.cloned()
    }

    /// `not_found` where there is no such upper, `busy` while something else uses it.
    pub fn claim(&self, upper_id: &str) -> Result<Claim<'_>> {
        check_id(upper_id)?;
        let mut table = lock(&self.table);
        if let Some(slot) = table.boxes.values().find(|slot| slot.record.upper_id == upper_id) {
            return Err(Error::new(code::BUSY, format!("the upper {} is used by {}", upper_id, slot.record.box_id)));
        }
        if !self.pool.has_upper(upper_id) {
            return Err(Error::new(code::NOT_FOUND, format!("there is no upper {}", upper_id)));
        }
        if !table.claimed.insert(upper_id.to_string()) {
            return Err(Error::new(code::BUSY, format!("the upper {} is being read or written", upper_id)));
        }
        Ok(Claim { boxes: self, upper_id: upper_id.to_string() })
    }

    /// Keeps what an upper holds now. A box that uses it stands still for the moment this takes, after what it wrote before is on the disk.
    pub fn snapshot(&self, upper_id: &str, snapshot_id: &str) -> Result<Taken> {
        self.pool.check_snapshot(upper_id, snapshot_id)?;
        loop {
            let slot = match self.user_of(upper_id) {
                Some(slot) => slot,
                None => match self.claim(upper_id) {
                    // A box came meanwhile.
                    Err(error) if error.code == code::BUSY && self.user_of(upper_id).is_some() => continue,
                    claim => {
                        let _claim = claim?;
                        return self.take_still(upper_id, snapshot_id);
                    }
                },
            };
            let _busy = lock(&slot.busy);
            // It may have ended, and another begun, while its end was waited for.
            if self.slot(&slot.record.box_id).map_or(true, |now| !Arc::ptr_eq(&now, &slot)) {
                continue;
            }
            let state = lock(&slot.view).state;
            return match state {
                State::Making => Err(Error::new(code::BUSY, format!("{} is being made", slot.record.box_id))),
                State::Running => self.take_running(&slot, snapshot_id),
                State::Frozen | State::Dead => {
                    let taken = self.take_still(upper_id, snapshot_id)?;
                    self.raise(&slot);
                    Ok(taken)
                }
            };
        }
    }

    fn take_still(&self, upper_id: &str, snapshot_id: &str) -> Result<Taken> {
        let since = Instant::now();
        self.pool.flush_upper(upper_id)?;
        let flush_micros = micros(since);
        let bytes = self.pool.snapshot(upper_id, snapshot_id)?;
        (self.options.step)("snapshot taken");
        Ok(Taken { flush_micros, frozen_micros: 0, bytes })
    }

    /// What was just kept no longer counts to what the box may write. Where that cannot be told, its limit stays as tight as it was until it is set
    /// again: no reason to deny a snapshot that was taken.
    fn raise(&self, slot: &Slot) {
        let disk_mb = lock(&slot.limits).disk_mb;
        let _ = self.pool.adapt(&slot.record.upper_id, u64::from(disk_mb) << 20);
        (self.options.step)("limit raised");
    }

    fn take_running(&self, slot: &Slot, snapshot_id: &str) -> Result<Taken> {
        let (id, upper_id) = (&slot.record.box_id, &slot.record.upper_id);
        let since = Instant::now();
        for _ in 0..FLUSHES_MAX {
            let one = Instant::now();
            self.pool.flush_upper(upper_id)?;
            if one.elapsed() <= SHORT_FLUSH {
                break;
            }
        }
        let flush_micros = micros(since);
        let note = self.box_folder(id).join(FREEZING);
        write_file(&note, "")?;
        let since = Instant::now();
        let taken = self.cgroups.freeze(id, true).and_then(|()| {
            (self.options.step)("frozen");
            let bytes = self.pool.snapshot(upper_id, snapshot_id);
            (self.options.step)("snapshot taken");
            if bytes.is_ok() {
                self.raise(slot);
            }
            bytes
        });
        let thawed = self.cgroups.freeze(id, false);
        let frozen_micros = micros(since);
        (self.options.step)("thawed");
        if thawed.is_err() {
            lock(&slot.view).state = State::Frozen;
        }
        let _ = std::fs::remove_file(&note);
        let bytes = taken?;
        thawed?;
        Ok(Taken { flush_micros, frozen_micros, bytes })
    }

    /// A new upper: with all that a snapshot holds, or empty on it or on a template.
    pub fn make_upper(&self, upper_id: &str, from: &str, quota_bytes: u64, empty: bool) -> Result<()> {
        check_id(upper_id)?;
        if is_snapshot(from) && !empty {
            self.pool.fork(from, upper_id, quota_bytes)?;
        } else {
            bases::resolve(&self.options.data, &self.pool, from)?;
            self.pool.make_empty(upper_id, from, quota_bytes)?;
            if self.pool.is_low() {
                self.pool.adapt(upper_id, quota_bytes)?;
            }
        }
        (self.options.step)("upper made");
        Ok(())
    }

    /// Where a layer is unpacked: an upper that is claimed, and what lies below it.
    pub fn writable(&self, upper_id: &str) -> Result<(View, Base)> {
        self.pool.check_room()?;
        let template = self.pool.template_of_upper(upper_id).ok_or_else(|| {
            Error::new(code::INVALID, format!("the upper {} is older than layers: start a sandbox on it once", upper_id))
        })?;
        let base = bases::resolve(&self.options.data, &self.pool, &template)?;
        let folder = self.pool.upper_path(upper_id);
        let mut view = View { root: folder.join("upper"), usr: None };
        if !base.usrs.is_empty() {
            make_usr(&folder)?;
            view.usr = Some(folder.join("usr"));
        }
        Ok((view, base))
    }

    pub fn drop_snapshot(&self, snapshot_id: &str) -> Result<()> {
        check_id(snapshot_id)?;
        // The table stays locked, so that no create takes it as its template between the look and the removal.
        let table = lock(&self.table);
        if let Some(slot) = table.boxes.values().find(|slot| slot.record.template == snapshot_id) {
            return Err(Error::new(code::BUSY, format!("{} runs on the snapshot {}", slot.record.box_id, snapshot_id)));
        }
        self.pool.drop_snapshot(snapshot_id)?;
        drop(table);
        (self.options.step)("snapshot dropped");
        Ok(())
    }

    pub fn drop_volume(&self, volume_id: &str) -> Result<()> {
        check_id(volume_id)?;
        // As above.
        let table = lock(&self.table);
        let uses = |slot: &&Arc<Slot>| slot.record.volumes.iter().any(|volume| volume == volume_id);
        if let Some(slot) = table.boxes.values().find(uses) {
            return Err(Error::new(code::BUSY, format!("the volume {} is used by {}", volume_id, slot.record.box_id)));
        }
        self.pool.drop_volume(volume_id)
    }
}
