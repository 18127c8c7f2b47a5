//! To be filled.

use crate::Case;

pub(crate) const CASES: &[Case] = &[];
