//! The guest's file systems: its root with init in it, and the volumes.

use krun_virtio::VirtioDevice;

use crate::config::Config;
use crate::error::Problem;

/// Adds a device for the root and one for each volume.
pub(crate) fn add(_config: &Config, _devices: &mut Vec<Box<dyn VirtioDevice>>, _problems: &mut Vec<Problem>) {}
