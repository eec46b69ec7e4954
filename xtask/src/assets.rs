//! What guests and nested machines are made of. The system's own pieces go first; the rest comes through the package
//! clients at hand (pip, apt) into the target directory. Nothing is installed.

mod amd;
mod apt;
mod digest;
mod intel;
mod rootfs;
mod store;
mod wheel;

use std::path::PathBuf;

use anyhow::Result;

pub(crate) use self::amd::{CloudKernel, Tool};
use self::apt::Apt;
pub(crate) use self::intel::Bochs;
use self::store::Store;
use crate::progress::say;
use crate::workspace::Workspace;

/// Finds or fetches each piece when it is first asked for.
#[derive(Debug)]
pub(crate) struct Assets {
    store: Store,
    apt: Apt,
}

/// What a guest needs, wherever it runs.
#[derive(Debug, Clone)]
pub(crate) struct GuestAssets {
    /// The kernel bundle `libkrunfw.so.5`.
    pub(crate) kernel: PathBuf,
    /// A statically linked busybox.
    pub(crate) busybox: PathBuf,
    /// A root directory with busybox in it.
    pub(crate) root: PathBuf,
}

impl Assets {
    /// The assets of this workspace.
    pub(crate) fn new(workspace: &Workspace) -> Self {
        let store = Store::new(workspace.assets());
        let apt = Apt::new(store.downloads("apt"));
        Self { store, apt }
    }

    /// Kernel bundle, busybox and root directory.
    pub(crate) fn guest(&self) -> Result<GuestAssets> {
        let kernel = wheel::kernel_bundle(&self.store)?;
        let busybox = rootfs::busybox(&self.store, &self.apt)?;
        let root = rootfs::root(&self.store, &busybox)?;
        Ok(GuestAssets { kernel, busybox, root })
    }

    /// The kernel that nested machines run, and that tests boot as a stock distribution kernel.
    pub(crate) fn cloud_kernel(&self) -> Result<CloudKernel> {
        amd::kernel(&self.store, &self.apt)
    }

    /// The emulator of the AMD machine.
    pub(crate) fn qemu(&self) -> Result<Tool> {
        amd::qemu(&self.store, &self.apt)
    }

    /// The emulator of the Intel machine.
    pub(crate) fn bochs(&self) -> Result<Bochs> {
        intel::bochs(&self.store, &self.apt)
    }

    /// Everything, and where it lies.
    pub(crate) fn all(&self) -> Result<()> {
        let guest = self.guest()?;
        say(format!("guest kernel:  {}", guest.kernel.display()));
        say(format!("guest root:    {}", guest.root.display()));
        say(format!("AMD machine:   {}", self.qemu()?.program.display()));
        say(format!("its kernel:    {}", self.cloud_kernel()?.image.display()));
        say(format!("Intel machine: {}", self.bochs()?.emulator.program.display()));
        Ok(())
    }
}
