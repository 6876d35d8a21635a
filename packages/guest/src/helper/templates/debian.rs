//! The template `debian`: a Debian made from packages by mmdebstrap, from the host's own package sources.

use std::path::Path;

use super::Built;
use crate::helper::error::{code, Error, Result};

pub fn fingerprint() -> String {
    "1".into()
}

pub fn build(work: &Path, progress: &mut dyn FnMut(&str)) -> Result<Built> {
    let _ = (work, progress);
    Err(Error::new(code::NOT_SUPPORTED, "the template debian cannot be built yet"))
}
