//! Fuzz targets as ordinary functions.
//!
//! Each target takes bytes and must return, whatever they are. `cargo test -p krun-fuzz` replays the corpus under
//! `corpus/`; the libFuzzer binaries in `fuzz_targets/` are one line each around the same functions (feature
//! `libfuzzer`, stable toolchain: `cargo xtask fuzz`).

pub mod builder;
pub mod console;
pub mod init;
pub mod kernel_loader;
pub mod vcpu;
pub mod virtio;
pub mod virtio_fs;

/// A fuzz target: its name is also the name of its corpus directory and of its libFuzzer binary.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// `<crate>_<what>`.
    pub name: &'static str,
    /// Runs one input.
    pub run: fn(&[u8]),
}

/// Every target there is.
pub const TARGETS: &[Target] = &[
    Target { name: "builder_config", run: builder::config },
    Target { name: "console_device", run: console::device },
    Target { name: "init_frames", run: init::frames },
    Target { name: "kernel_loader_image", run: kernel_loader::image },
    Target { name: "vcpu_state", run: vcpu::state },
    Target { name: "virtio_mmio", run: virtio::mmio },
    Target { name: "virtio_fs_requests", run: virtio_fs::requests },
];
