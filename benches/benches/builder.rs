//! What it costs to get a VM ready, beside the bare system calls that nobody can do without.
//!
//! - `ram/*`: reserving guest memory, against one `mmap` and `munmap` of the same size. The ratio is what alignment,
//!   trimming and advice add; it is paid once per VM, and does not grow with the memory.
//! - `layout/plan`: planning the address space with 45 devices, the most that one kernel command line names. No peer: it
//!   has to be lost beside a single system call (about 100 ns).
//! - `build/*`: a whole `build()` (all checks, KVM opened, a kernel file read, directories opened), against opening
//!   `/dev/kvm`, the kernel and the directory. Needs `/dev/kvm`.
#![expect(clippy::unwrap_used, reason = "a benchmark has nobody to report to")]

use std::fs::File;
use std::hint::black_box;
use std::path::PathBuf;

use criterion::{Criterion, criterion_group, criterion_main};
use krun_builder::{Command, GuestRam, KernelSource, Layout, LayoutConfig, RamBacking, Vm};

const GIB: u64 = 1 << 30;

fn ram(c: &mut Criterion) {
    let mut group = c.benchmark_group("ram");
    let layout = Layout::plan(&LayoutConfig { memory: GIB, ..LayoutConfig::default() }).unwrap();
    group.bench_function("reserve 1 GiB", |b| {
        b.iter(|| GuestRam::new(black_box(&layout), &RamBacking::Anonymous).unwrap())
    });
    group.bench_function("raw mmap of 1 GiB", |b| b.iter(|| raw_mmap(black_box(GIB))));
    group.finish();
}

fn layout(c: &mut Criterion) {
    let config = LayoutConfig { memory: 5 * GIB, devices: 45, serial: true, windows: vec![GIB / 2; 4] };
    c.bench_function("layout/plan 45 devices", |b| b.iter(|| Layout::plan(black_box(&config)).unwrap()));
}

fn build(c: &mut Criterion) {
    if File::open("/dev/kvm").is_err() {
        return;
    }
    let kernel = tiny_kernel();
    let dir = tempfile::tempdir().unwrap();
    let mut group = c.benchmark_group("build");
    group.bench_function("builder", |b| {
        b.iter(|| {
            let builder = Vm::builder().kernel(KernelSource::File(kernel.path.clone())).root(dir.path());
            builder.command(Command::new("/bin/true")).build().unwrap()
        });
    });
    group.bench_function("raw opens", |b| {
        b.iter(|| {
            let kvm = File::options().read(true).write(true).open("/dev/kvm").unwrap();
            (kvm, std::fs::read(&kernel.path).unwrap(), File::open(dir.path()).unwrap())
        });
    });
    group.finish();
}

/// An ELF file that is just enough of a kernel to be opened: one page, loaded and started at 16 MiB.
fn tiny_kernel() -> Kernel {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vmlinux");
    let mut elf = Vec::new();
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // ELF-64 header: executable, x86-64, entry, program headers at 64, none of sections.
    for (value, size) in [
        (2, 2),
        (62, 2),
        (1, 4),
        (0x100_0000, 8),
        (64, 8),
        (0, 8),
        (0, 4),
        (64, 2),
        (56, 2),
        (1, 2),
        (0, 2),
        (0, 2),
        (0, 2),
    ] {
        push(&mut elf, value, size);
    }
    // One PT_LOAD, readable and executable.
    for (value, size) in [(1, 4), (5, 4), (4096, 8), (0x100_0000, 8), (0x100_0000, 8), (4096, 8), (4096, 8), (4096, 8)]
    {
        push(&mut elf, value, size);
    }
    elf.resize(8192, 0xf4);
    std::fs::write(&path, elf).unwrap();
    Kernel { path, _dir: dir }
}

struct Kernel {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn push(bytes: &mut Vec<u8>, value: u64, size: usize) {
    bytes.extend(value.to_le_bytes().iter().take(size));
}

#[expect(unsafe_code, reason = "the system calls themselves are what is measured")]
fn raw_mmap(size: u64) {
    let len = usize::try_from(size).unwrap();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, unmapped at once.
    unsafe {
        let base = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(base, libc::MAP_FAILED);
        libc::munmap(base, len);
    }
}

criterion_group!(benches, ram, layout, build);
criterion_main!(benches);
