//! What the run loop costs: one exit of a guest and back, through `Vcpu::run` with a handler, beside the same exits through
//! kvm-ioctls' bare `VcpuFd::run` in the same process. The ratio of the two is the price of typed exits, borrowed data
//! and kicks without signal handlers; most of each time is the processor's and KVM's.
//!
//! `kick` is the time from a kick to `run`'s return, out of a guest that loops.

#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to say")]

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use krun_vcpu::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use krun_vcpu::{Entry, ExitHandler, Flow, Kvm, KvmVm, LongMode, Stop, Vcpu, VmOptions};
use kvm_ioctls::VcpuExit;

/// Where the guest's code lies.
const CODE: GuestAddress = GuestAddress(0x1_0000);
/// Port writes for ever.
const PORT: &[u8] = &[
    0xe6, 0x10, // out 0x10, al
    0xeb, 0xfc, // jmp to the out
];
/// Memory writes for ever, where no memory is.
const MMIO: &[u8] = &[
    0xbe, 0x00, 0x00, 0x00, 0xd0, // mov esi, 0xd0000000
    0x89, 0x06, // mov [rsi], eax
    0xeb, 0xfc, // jmp to the mov
];
/// Nothing for ever.
const LOOP: &[u8] = &[0xeb, 0xfe];

/// Counts accesses and stops at the last one.
#[derive(Default)]
struct Countdown(AtomicU64);

impl Countdown {
    fn count(&self) -> Flow {
        match self.0.fetch_sub(1, Ordering::Relaxed) {
            1 => ControlFlow::Break(Stop::Code(0)),
            _ => ControlFlow::Continue(()),
        }
    }
}

impl ExitHandler for Countdown {
    fn mmio_write(&self, _address: u64, _data: &[u8]) -> Flow {
        self.count()
    }

    fn port_write(&self, _port: u16, _width: u8, _data: &[u8]) -> Flow {
        self.count()
    }
}

/// A VM in long mode about to run `code`.
fn guest(kvm: &Kvm, code: &[u8]) -> (KvmVm, GuestMemoryMmap, Vcpu) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("map memory");
    memory.write_slice(code, CODE).expect("write the code");
    let vm = kvm.create_vm(&VmOptions::bare()).expect("make a VM");
    vm.add_memory(&memory).expect("add memory");
    let vcpu = vm.create_vcpu(0).expect("make a vCPU");
    vcpu.configure(&vm.cpu_config()).expect("configure the vCPU");
    let entry = LongMode::new(CODE, GuestAddress(0));
    vcpu.set_entry(&memory, &Entry::LongMode(entry)).expect("set the entry");
    (vm, memory, vcpu)
}

/// The same guest on a vCPU of kvm-ioctls' own, with the registers of one of ours.
fn bare_guest(kvm: &Kvm, code: &[u8]) -> (KvmVm, GuestMemoryMmap, kvm_ioctls::VcpuFd) {
    let (_, memory, ours) = guest(kvm, code);
    let vm = kvm.create_vm(&VmOptions::bare()).expect("make a VM");
    vm.add_memory(&memory).expect("add memory");
    let bare = vm.fd().create_vcpu(0).expect("make a vCPU");
    bare.set_sregs(&ours.fd().get_sregs().expect("system registers")).expect("set system registers");
    bare.set_regs(&ours.fd().get_regs().expect("registers")).expect("set registers");
    (vm, memory, bare)
}

fn exits(c: &mut Criterion) {
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        #[expect(clippy::print_stderr, reason = "says why nothing is measured")]
        Err(error) => {
            eprintln!("not measured: {error}");
            return;
        }
    };
    for (name, code) in [("port write", PORT), ("memory write", MMIO)] {
        let mut group = c.benchmark_group(name);
        let (_vm, _memory, mut vcpu) = guest(&kvm, code);
        let handler = Countdown::default();
        group.bench_function("krun-vcpu", |b| {
            b.iter_custom(|exits| {
                handler.0.store(exits, Ordering::Relaxed);
                let start = Instant::now();
                vcpu.run(&handler).expect("run");
                start.elapsed()
            });
        });
        let (_vm, _memory, mut bare) = bare_guest(&kvm, code);
        group.bench_function("kvm-ioctls", |b| {
            b.iter_custom(|exits| {
                let start = Instant::now();
                for _ in 0..exits {
                    match bare.run().expect("run") {
                        VcpuExit::IoOut(..) | VcpuExit::MmioWrite(..) => {}
                        other => unreachable!("{other:?}"),
                    }
                }
                start.elapsed()
            });
        });
        group.finish();
    }
    kicks(c, &kvm);
}

fn kicks(c: &mut Criterion, kvm: &Kvm) {
    let (_vm, _memory, mut vcpu) = guest(kvm, LOOP);
    let handle = vcpu.handle();
    let (ready, go) = mpsc::channel::<()>();
    let (kicked, times) = mpsc::channel::<Instant>();
    let kicker = thread::Builder::new()
        .name("kicker".into())
        .spawn(move || {
            while go.recv().is_ok() {
                thread::sleep(Duration::from_micros(200));
                let now = Instant::now();
                handle.kick();
                if kicked.send(now).is_err() {
                    return;
                }
            }
        })
        .expect("start the kicker");
    c.bench_function("kick", |b| {
        b.iter_custom(|kicks| {
            let mut sum = Duration::ZERO;
            for _ in 0..kicks {
                ready.send(()).expect("the kicker lives");
                vcpu.run(&Countdown::default()).expect("run");
                let end = Instant::now();
                sum += end.duration_since(times.recv().expect("the kicker lives"));
            }
            sum
        });
    });
    drop(ready);
    let _ = kicker.join();
}

criterion_group!(benches, exits);
criterion_main!(benches);
