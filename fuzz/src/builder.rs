//! Fuzzes `krun-builder`: any settings are judged without a panic, and any plan that comes out holds.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use arbitrary::{Arbitrary, Unstructured};
use krun_builder::{Command, KernelSource, Layout, LayoutConfig, RamBacking, Rlimit, Root, Vm, VmBuilder, Volume};

/// One call on the builder.
#[derive(Debug, Arbitrary)]
enum Setting {
    Vcpus(u32),
    Memory(u64),
    MemoryMib(u32),
    Backing(u8),
    Kernel(bool, Vec<u8>),
    Initrd(Vec<u8>),
    Cmdline(String),
    Root(Vec<u8>, bool),
    Volume { source: Vec<u8>, target: Vec<u8>, tag: Option<String>, read_only: bool },
    Command(Vec<Vec<u8>>),
    Env(Vec<u8>, Vec<u8>),
    CurrentDir(Vec<u8>),
    Rlimit(u32, u64, u64),
    Hostname(Vec<u8>),
}

/// Numbers that a plan depends on.
#[derive(Debug, Arbitrary)]
struct Numbers {
    memory: u64,
    devices: u16,
    serial: bool,
    windows: Vec<u64>,
}

/// Half of the input makes settings, half a layout.
pub fn config(data: &[u8]) {
    let mut input = Unstructured::new(data);
    if let Ok(settings) = Vec::<Setting>::arbitrary(&mut input) {
        settings_are_judged(settings);
    }
    if let Ok(numbers) = Numbers::arbitrary(&mut input) {
        plans_hold(&numbers);
    }
}

fn settings_are_judged(settings: Vec<Setting>) {
    let mut command = None;
    let mut builder = Vm::builder();
    for setting in settings {
        builder = apply(builder, setting, &mut command);
    }
    if let Some(command) = command {
        builder = builder.command(command);
    }
    if let Err(error) = builder.check() {
        // Every problem says what to do, on one line.
        assert!(!error.problems().is_empty());
        for problem in error.problems() {
            assert!(!problem.field.is_empty() && !problem.remedy.is_empty());
        }
        assert!(!error.to_string().is_empty());
    }
}

fn apply(builder: VmBuilder, setting: Setting, command: &mut Option<Command>) -> VmBuilder {
    let mut edit = |edit: &dyn Fn(Command) -> Command| {
        *command = Some(edit(command.take().unwrap_or_else(|| Command::new("/bin/true"))));
    };
    match setting {
        Setting::Vcpus(vcpus) => return builder.vcpus(vcpus),
        Setting::Memory(bytes) => return builder.memory(bytes),
        Setting::MemoryMib(mib) => return builder.memory_mib(mib),
        Setting::Backing(0) => return builder.ram_backing(RamBacking::Memfd),
        Setting::Backing(_) => return builder.ram_backing(RamBacking::Anonymous),
        Setting::Kernel(true, path) => return builder.kernel(KernelSource::Bundle(path_of(path))),
        Setting::Kernel(false, path) => return builder.kernel(KernelSource::File(path_of(path))),
        Setting::Initrd(path) => return builder.initrd(path_of(path)),
        Setting::Cmdline(words) => return builder.kernel_cmdline(words),
        Setting::Root(path, true) => return builder.root(Root::new(path_of(path)).read_only()),
        Setting::Root(path, false) => return builder.root(path_of(path)),
        Setting::Hostname(name) => return builder.hostname(OsString::from_vec(name)),
        Setting::Volume { source, target, tag, read_only } => {
            let volume = Volume::new(path_of(source), path_of(target));
            let volume = tag.into_iter().fold(volume, Volume::tag);
            return builder.volume(if read_only { volume.read_only() } else { volume });
        }
        Setting::Command(args) => edit(&|command| command.args(args.iter().cloned().map(OsString::from_vec))),
        Setting::Env(key, value) => {
            edit(&|command| command.env(OsString::from_vec(key.clone()), OsString::from_vec(value.clone())));
        }
        Setting::CurrentDir(dir) => edit(&|command| command.current_dir(path_of(dir.clone()))),
        Setting::Rlimit(resource, soft, hard) => edit(&|command| command.rlimit(Rlimit { resource, soft, hard })),
    }
    builder
}

fn plans_hold(numbers: &Numbers) {
    let Numbers { memory, devices, serial, ref windows } = *numbers;
    let config = LayoutConfig { memory, devices: devices.into(), serial, windows: windows.clone() };
    let Ok(layout) = Layout::plan(&config) else { return };
    assert_eq!((layout.ram.size(), layout.devices.len()), (memory, config.devices));
    let mut ranges: Vec<(u64, u64)> = layout.ram.regions().map(|range| (range.start, range.end)).collect();
    ranges.extend(layout.devices.iter().map(|slot| (slot.base, slot.base + Layout::MMIO_WINDOW)));
    ranges.extend(layout.windows.iter().map(|range| (range.start, range.end)));
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        if let [(_, end), (start, _)] = pair {
            assert!(end <= start, "overlap at {start:#x}");
        }
    }
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}
