//! Whether this computer's own KVM can run real guests.

use std::fs::OpenOptions;
use std::path::Path;

/// Why the host's KVM will not do, in half a sentence; `None` when it will.
pub(crate) fn unusable() -> Option<String> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Some(format!("/dev/kvm cannot be opened: {error}"));
    }
    judge(|module| Path::new("/sys/module").join(module).exists())
}

/// A KVM without hardware behind it interprets a guest's privileged code and does not get through a kernel's boot.
fn judge(has_module: impl Fn(&str) -> bool) -> Option<String> {
    if has_module("kvm_intel") || has_module("kvm_amd") {
        return None;
    }
    Some("/dev/kvm has no hardware virtualization behind it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hardware_backends_will_do() {
        assert_eq!(judge(|module| module == "kvm_amd"), None);
        assert_eq!(judge(|module| module == "kvm_intel"), None);
        assert!(judge(|module| module == "kvm_pvm").is_some());
    }
}
