//! Whether this computer's own KVM can run real guests.

use krun_vcpu::{Probe, probe_real_code};

/// Why the host's KVM will not do, in one line; `None` when it will.
pub(crate) fn unusable() -> Option<String> {
    match probe_real_code() {
        Ok(Probe::RealCode) => None,
        // It opens and answers every question, and yet no kernel would get through its boot.
        Ok(Probe::EmulatesOnly(_)) => Some("KVM here runs no real guests (it only emulates instructions)".to_owned()),
        Err(error) => Some(format!("there is no usable KVM here: {error}")),
    }
}
