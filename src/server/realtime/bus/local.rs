//! One node: nobody else is there.

use super::{Bus, Hint};

#[derive(Clone, Copy, Debug, Default)]
pub struct Local;

impl Bus for Local {
    fn announce(&self, _: Hint) {}
}
