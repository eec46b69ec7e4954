//! Loading kernels, beside the least it can cost.
//!
//! - `bundle`: opening and loading a bundle against one bare copy of the same bytes to the same place. The ratio is
//!   what the dynamic linker and all checks add to a `memcpy`.
//! - `elf`, `bzimage`: a kernel file, from the page cache, against linux-loader's loader on the same file. The ratio is
//!   the price of the checks that linux-loader leaves out.
//! - `tables`: command line, `boot_params` and MP table for 1 and 254 CPUs, against clearing as many bytes. It is
//!   what a VM pays beside the copy.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says so")]

use std::fs::{self, File};
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use krun_kernel_loader::vm_memory::{Bytes, GuestAddress};
use krun_kernel_loader::{
    BootParams, Cmdline, Kernel, MachineDescription, VirtioMmio, write_boot_params, write_mp_table,
};
use linux_loader::loader::KernelLoader;
use tempfile::TempDir;

#[path = "../../crates/krun-kernel-loader/tests/common/mod.rs"]
mod common;

use common::{BzImage, Elf, Library, MIB, Segment, pattern, ram};

/// About what libkrunfw's kernel has.
const KERNEL: usize = 20 << 20;

fn bundle(c: &mut Criterion) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("libkrunfw.so.5");
    let library = Library { image: pattern(KERNEL), size: KERNEL as u64, ..Library::bundle() };
    fs::write(&path, library.bytes()).unwrap();
    let (ram, layout) = ram(64 * MIB);

    let mut group = c.benchmark_group("bundle");
    group.throughput(Throughput::Bytes(KERNEL as u64));
    group.bench_function("load", |b| {
        b.iter(|| Kernel::bundle(&path).unwrap().load(&ram, &layout).unwrap());
    });
    group.bench_function("bare copy", |b| {
        b.iter(|| ram.write_slice(black_box(&library.image), GuestAddress(library.address)).unwrap());
    });
    group.finish();
}

/// As a VM meets it: memory that nobody has touched.
fn bundle_into_fresh_memory(c: &mut Criterion) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("libkrunfw.so.5");
    let library = Library { image: pattern(KERNEL), size: KERNEL as u64, ..Library::bundle() };
    fs::write(&path, library.bytes()).unwrap();

    let mut group = c.benchmark_group("bundle into fresh memory");
    group.throughput(Throughput::Bytes(KERNEL as u64));
    group.bench_function("load", |b| {
        b.iter_batched_ref(
            || ram(64 * MIB),
            |(ram, layout)| Kernel::bundle(&path).unwrap().load(ram, layout).unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("bare copy", |b| {
        b.iter_batched_ref(
            || ram(64 * MIB),
            |(ram, _)| ram.write_slice(black_box(&library.image), GuestAddress(library.address)).unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn elf(c: &mut Criterion) {
    let segments =
        vec![Segment::load(0x100_0000, pattern(KERNEL - (1 << 20))), Segment::load(0x300_0000, pattern(1 << 20))];
    against_linux_loader::<linux_loader::loader::elf::Elf>(c, "elf", &Elf { segments, ..Elf::kernel() }.bytes());
}

fn bzimage(c: &mut Criterion) {
    let file = BzImage { payload: pattern(KERNEL), init_size: 40 << 20, ..BzImage::kernel() }.bytes();
    against_linux_loader::<linux_loader::loader::bzimage::BzImage>(c, "bzimage", &file);
}

fn against_linux_loader<L: KernelLoader>(c: &mut Criterion, name: &str, bytes: &[u8]) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    let (ram, layout) = ram(64 * MIB);

    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Bytes(KERNEL as u64));
    group.bench_function("load", |b| {
        b.iter(|| Kernel::open(&path).unwrap().load(&ram, &layout).unwrap());
    });
    group.bench_function("linux-loader", |b| {
        b.iter(|| L::load(&ram, None, &mut File::open(&path).unwrap(), None).unwrap());
    });
    group.finish();
}

fn tables(c: &mut Criterion) {
    let (ram, layout) = ram(64 * MIB);
    let kernel = Kernel::from_image(std::io::Cursor::new(Elf::kernel().bytes())).unwrap().load(&ram, &layout).unwrap();
    let mut group = c.benchmark_group("tables");
    for cpus in [1, 254] {
        let virtio_mmio: Vec<_> = (0..8)
            .map(|n| VirtioMmio { base: 0xd000_0000 + u64::from(n) * 0x1000, size: 0x1000, irq: 5 + n })
            .collect();
        let machine = MachineDescription { virtio_mmio, ..MachineDescription::new(cpus) };
        group.bench_function(format!("write/{cpus} CPUs"), |b| {
            b.iter(|| {
                let mut cmdline = Cmdline::new();
                cmdline.raw("console=hvc0 rootfstype=virtiofs rw").unwrap();
                machine.add_virtio_words(&mut cmdline).unwrap();
                write_mp_table(&ram, &machine).unwrap();
                let params =
                    BootParams { kernel: &kernel, layout: &layout, cmdline: &cmdline, initrd: None, acpi_rsdp: None };
                write_boot_params(&ram, &params).unwrap()
            });
        });
    }
    let page = [0u8; 4096];
    group.bench_function("clear two pages", |b| {
        b.iter(|| {
            ram.write_slice(black_box(&page), GuestAddress(0x7000)).unwrap();
            ram.write_slice(black_box(&page), GuestAddress(0xf_0000)).unwrap();
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = bundle, bundle_into_fresh_memory, elf, bzimage, tables
}
criterion_main!(benches);
