//! Why the workload could not be run.

use crate::protocol::{Failed, MAX_DETAIL, Stage, ToHost};
use crate::sys::{Errno, Result};
use crate::text::Text;

/// What was attempted, on what, and what the kernel said.
#[derive(Debug)]
pub(crate) struct Failure {
    stage: Stage,
    errno: Errno,
    detail: Text<MAX_DETAIL>,
}

impl Failure {
    pub(crate) fn new(stage: Stage, detail: &[u8], errno: Errno) -> Self {
        Self { stage, errno, detail: Text::of(&[detail]) }
    }

    /// The frame that tells the host.
    pub(crate) fn frame(&self) -> ToHost<'_> {
        ToHost::Failed(Failed { stage: self.stage, errno: self.errno.0, detail: self.detail.bytes() })
    }
}

/// Turns an error number into a [`Failure`].
pub(crate) trait At<T> {
    /// Says what was attempted, and on what.
    fn at(self, stage: Stage, detail: &[u8]) -> core::result::Result<T, Failure>;
}

impl<T> At<T> for Result<T> {
    fn at(self, stage: Stage, detail: &[u8]) -> core::result::Result<T, Failure> {
        self.map_err(|errno| Failure::new(stage, detail, errno))
    }
}
