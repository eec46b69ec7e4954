//! Kicks: they get vCPUs out of their guests, are never lost, and leave no trace in the process.

#![expect(clippy::panic, reason = "helpers of tests: what fails here fails the test")]

mod common;

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{Guest, Log, kvm, long_mode, within_a_minute};
use krun_vcpu::{Error, Stop, VmOptions};

/// Counts in rbx and at 0x20000 for ever. Interrupts are on, although none come: Bochs lets its own machine's timer
/// interrupt a guest only if the guest would take interrupts, and a single CPU has this loop and the test to run.
const COUNT: &[u8] = &[
    0xfb, // sti
    0x48, 0xff, 0xc3, // inc rbx
    0x48, 0x89, 0x1c, 0x25, 0x00, 0x00, 0x02, 0x00, // mov [0x20000], rbx
    0xeb, 0xf3, // jmp to the inc
];

fn wait_until(condition: impl Fn() -> bool) {
    for _ in 0..60_000 {
        if condition() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("waited for a minute");
}

#[test]
fn out_of_a_loop_and_back() {
    let Some(kvm) = kvm() else { return };
    let (guest, mut vcpu) = long_mode(&kvm, COUNT);
    let handle = vcpu.handle();
    let runner = thread::Builder::new()
        .name("vcpu".into())
        .spawn(move || {
            let first = vcpu.run(&Log::default()).unwrap();
            let counted = vcpu.fd().get_regs().unwrap().rbx;
            let second = vcpu.run(&Log::default()).unwrap();
            (first, counted, second)
        })
        .unwrap();
    wait_until(|| guest.word(0x2_0000) > 0);
    handle.kick();
    wait_until(|| guest.word(0x2_0000) > 100);
    let before = guest.word(0x2_0000);
    wait_until(|| guest.word(0x2_0000) > before);
    handle.kick();
    let (first, counted, second) = within_a_minute(|| runner.join().unwrap());
    assert_eq!((first, second), (Stop::Kicked, Stop::Kicked));
    assert!(counted > 0 && counted <= guest.word(0x2_0000));
}

#[test]
fn before_the_run_it_is_not_lost_and_counts_once() {
    let Some(kvm) = kvm() else { return };
    let (guest, mut vcpu) = long_mode(&kvm, &[0xb0, 6, 0xe6, common::DONE]); // mov al, 6; out DONE, al
    for _ in 0..10 {
        vcpu.handle().kick();
    }
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Kicked);
    assert_eq!(vcpu.fd().get_regs().unwrap().rip, common::CODE, "the guest was not entered");
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Code(6));
    drop(guest);
}

#[test]
fn from_the_handler_it_comes_after_the_access() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0xe6,
        0x10, // out 0x10, al
        0xb0,
        6, // mov al, 6
        0xe6,
        common::DONE, // out DONE, al
    ];
    let (_guest, mut vcpu) = long_mode(&kvm, &code);
    struct Kicker(krun_vcpu::VcpuHandle, Log);
    impl krun_vcpu::ExitHandler for Kicker {
        fn mmio_read(&self, address: u64, data: &mut [u8]) -> krun_vcpu::Flow {
            self.1.mmio_read(address, data)
        }
        fn mmio_write(&self, address: u64, data: &[u8]) -> krun_vcpu::Flow {
            self.1.mmio_write(address, data)
        }
        fn port_write(&self, port: u16, width: u8, data: &[u8]) -> krun_vcpu::Flow {
            if port == 0x10 {
                self.0.kick();
            }
            self.1.port_write(port, width, data)
        }
    }
    let handler = Kicker(vcpu.handle(), Log::default());
    assert_eq!(vcpu.run(&handler).unwrap(), Stop::Kicked);
    assert_eq!(vcpu.fd().get_regs().unwrap().rip, common::CODE + 2, "the access is complete");
    assert_eq!(vcpu.run(&handler).unwrap(), Stop::Code(6));
}

#[test]
fn a_storm_from_several_threads() {
    let Some(kvm) = kvm() else { return };
    let (_guest, mut vcpu) = long_mode(&kvm, COUNT);
    let stop = Arc::new(AtomicBool::new(false));
    let kickers: Vec<_> = (0..2)
        .map(|n| {
            let (handle, stop) = (vcpu.handle(), Arc::clone(&stop));
            thread::Builder::new()
                .name(format!("kicker {n}"))
                .spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        handle.kick();
                        thread::yield_now();
                    }
                })
                .unwrap()
        })
        .collect();
    let runs = within_a_minute(move || {
        for _ in 0..300 {
            assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Kicked);
        }
        vcpu
    });
    stop.store(true, Ordering::Relaxed);
    for kicker in kickers {
        kicker.join().unwrap();
    }
    // One may be left over; after it the vCPU is quiet again.
    let mut vcpu = runs;
    let handle = vcpu.handle();
    handle.kick();
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Kicked);
    let again = thread::Builder::new().name("vcpu".into()).spawn(move || vcpu.run(&Log::default()).unwrap()).unwrap();
    thread::sleep(Duration::from_millis(20));
    assert!(!again.is_finished(), "no kick is left, so the guest runs");
    handle.kick();
    assert_eq!(within_a_minute(|| again.join().unwrap()), Stop::Kicked);
}

#[test]
fn when_thread_or_vcpu_are_gone_it_does_nothing() {
    let Some(kvm) = kvm() else { return };
    let (_guest, mut vcpu) = long_mode(&kvm, &[0xf4]);
    let handle = vcpu.handle();
    let mut vcpu = thread::Builder::new()
        .name("vcpu".into())
        .spawn(move || {
            assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Halted);
            vcpu
        })
        .unwrap()
        .join()
        .unwrap();
    for _ in 0..100 {
        handle.kick();
    }
    // The thread is gone, the vCPU is not: it has been kicked.
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Kicked);
    drop(vcpu);
    for _ in 0..100 {
        handle.kick();
    }
}

#[test]
fn a_vcpu_that_waits_for_an_interrupt_wakes() {
    let Some(kvm) = kvm() else { return };
    let guest = Guest::new(&kvm, &VmOptions::new(2));
    let mut vcpu = guest.load(&[0xf4, 0xeb, 0xfd]).real_mode(); // hlt, for ever
    // Never started by the first one: it waits for its INIT.
    let mut waiting = guest.vm.create_vcpu(1).unwrap();
    for vcpu in [&mut vcpu, &mut waiting] {
        let handle = vcpu.handle();
        thread::scope(|scope| {
            let runner =
                thread::Builder::new().name("vcpu".into()).spawn_scoped(scope, || vcpu.run(&Log::default())).unwrap();
            thread::sleep(Duration::from_millis(20));
            assert!(!runner.is_finished(), "an in-kernel interrupt controller keeps it");
            handle.kick();
            assert_eq!(runner.join().unwrap().unwrap(), Stop::Kicked);
        });
    }
}

#[expect(unsafe_code, reason = "asks for the process's signal dispositions and the thread's signal mask")]
fn signals(signal: i32) -> (bool, bool, bool) {
    // SAFETY: out-parameters that are alive and initialised by the calls before they are read.
    unsafe {
        let mut action = MaybeUninit::<libc::sigaction>::uninit();
        assert_eq!(libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()), 0);
        let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), mask.as_mut_ptr()), 0);
        let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
        assert_eq!(libc::sigpending(pending.as_mut_ptr()), 0);
        (
            action.assume_init().sa_sigaction == libc::SIG_DFL,
            libc::sigismember(mask.as_ptr(), signal) == 1,
            libc::sigismember(pending.as_ptr(), signal) == 1,
        )
    }
}

#[test]
fn the_process_keeps_its_signals() {
    let Some(kvm) = kvm() else { return };
    let signal = libc::SIGRTMIN() + 3;
    let guest = Guest::new(&kvm, &VmOptions { kick_signal: Some(signal), ..VmOptions::bare() });
    let mut vcpu = guest.load(COUNT).long_mode();
    let handle = vcpu.handle();
    let kicker = thread::Builder::new()
        .name("kicker".into())
        .spawn(move || {
            thread::sleep(Duration::from_millis(20));
            handle.kick();
        })
        .unwrap();
    assert_eq!(signals(signal), (true, false, false));
    assert_eq!(vcpu.run(&Log::default()).unwrap(), Stop::Kicked);
    kicker.join().unwrap();
    assert_eq!(signals(signal), (true, false, false), "default action, not blocked, not pending");
}

static HANDLED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    HANDLED.store(true, Ordering::SeqCst);
}

#[test]
fn other_signals_reach_their_handlers_and_the_guest_runs_on() {
    let Some(kvm) = kvm() else { return };
    let (guest, mut vcpu) = long_mode(&kvm, COUNT);
    let handle = vcpu.handle();
    let handler: extern "C" fn(libc::c_int) = note;
    #[expect(unsafe_code, reason = "installs a handler for a signal of the test's own")]
    // SAFETY: the handler only stores to an atomic.
    let installed = unsafe { libc::signal(libc::SIGUSR2, handler as *const () as libc::sighandler_t) };
    assert_ne!(installed, libc::SIG_ERR);
    thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let runner = thread::Builder::new()
            .name("vcpu".into())
            .spawn_scoped(scope, move || {
                #[expect(unsafe_code, reason = "asks for the thread's id")]
                // SAFETY: cannot fail.
                tell.send(unsafe { libc::gettid() }).unwrap();
                vcpu.run(&Log::default())
            })
            .unwrap();
        let thread_id = told.recv().unwrap();
        wait_until(|| guest.word(0x2_0000) > 0);
        #[expect(unsafe_code, reason = "sends a signal to a thread")]
        // SAFETY: three numbers; the thread has not been joined yet.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread_id, libc::SIGUSR2) };
        assert_eq!(sent, 0);
        wait_until(|| HANDLED.load(Ordering::SeqCst));
        let before = guest.word(0x2_0000);
        wait_until(|| guest.word(0x2_0000) > before);
        assert!(!runner.is_finished());
        handle.kick();
        assert_eq!(runner.join().unwrap().unwrap(), Stop::Kicked);
    });
}

#[test]
fn only_real_time_signals_kick() {
    let Some(kvm) = kvm() else { return };
    let options = VmOptions { kick_signal: Some(libc::SIGUSR1), ..VmOptions::bare() };
    assert!(matches!(kvm.create_vm(&options), Err(Error::KickSignal { signal: libc::SIGUSR1 })));
}
