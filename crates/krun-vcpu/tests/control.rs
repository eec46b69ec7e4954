//! Pausing, resuming and stopping vCPUs together.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

mod common;

use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::{Guest, Log, kvm, within_a_minute};
use krun_vcpu::{Controller, Enrolled, Error, ExitHandler, Flow, Kvm, Stop, VmOptions};

/// Counts in rbx and at 0x20000 for ever. Interrupts are on, although none come: Bochs lets its own machine's timer
/// interrupt a guest only if the guest would take interrupts, and a single CPU has this loop and the test to run.
const COUNT: &[u8] = &[
    0xfb, // sti
    0x48, 0xff, 0xc3, // inc rbx
    0x48, 0x89, 0x1c, 0x25, 0x00, 0x00, 0x02, 0x00, // mov [0x20000], rbx
    0xeb, 0xf3, // jmp to the inc
];

fn start(mut vcpu: Enrolled) -> JoinHandle<Result<Stop, Error>> {
    thread::Builder::new().name("vcpu".into()).spawn(move || vcpu.run(&Log::default())).unwrap()
}

/// A VM whose first vCPU counts and whose second waits for its INIT.
fn counting(kvm: &Kvm, controller: &Controller) -> (Guest, Vec<JoinHandle<Result<Stop, Error>>>) {
    let guest = Guest::new(kvm, &VmOptions::new(2));
    let first = guest.load(COUNT).long_mode();
    let second = guest.vm.create_vcpu(1).unwrap();
    second.configure(&guest.vm.cpu_config()).unwrap();
    let threads = [first, second].map(|vcpu| start(controller.enrol(vcpu))).into();
    (guest, threads)
}

fn count(guest: &Guest) -> u64 {
    guest.word(0x2_0000)
}

fn wait_for_more(guest: &Guest, than: u64) {
    for _ in 0..60_000 {
        if count(guest) > than {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert!(count(guest) > than, "the guest does not run");
}

fn join(threads: Vec<JoinHandle<Result<Stop, Error>>>) -> Vec<Stop> {
    within_a_minute(|| threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect())
}

#[test]
fn a_thousand_pauses() {
    let Some(kvm) = kvm() else { return };
    let controller = Controller::new();
    let (guest, threads) = counting(&kvm, &controller);
    wait_for_more(&guest, 0);
    let mut last = 0;
    for round in 0..1000 {
        controller.pause();
        let now = count(&guest);
        assert!(now >= last, "round {round}");
        last = now;
        if round % 100 == 0 {
            thread::sleep(Duration::from_millis(2));
            assert_eq!(count(&guest), now, "nothing runs while paused");
        }
        controller.resume();
        if round % 100 == 0 {
            wait_for_more(&guest, now);
        }
    }
    assert_eq!(controller.stop(Stop::Shutdown), Stop::Shutdown);
    assert_eq!(join(threads), [Stop::Shutdown, Stop::Shutdown]);
}

#[test]
fn what_starts_paused_waits() {
    let Some(kvm) = kvm() else { return };
    let controller = Controller::new();
    controller.pause();
    assert!(controller.is_paused());
    let (guest, threads) = counting(&kvm, &controller);
    let rips = controller.visit(|vcpu| (vcpu.id(), vcpu.fd().get_regs().unwrap().rip)).unwrap();
    assert_eq!(rips[0], (0, common::CODE));
    assert_eq!(rips[1].0, 1);
    assert_eq!(count(&guest), 0);
    controller.resume();
    wait_for_more(&guest, 0);
    controller.stop(Stop::Code(4));
    assert_eq!(join(threads), [Stop::Code(4), Stop::Code(4)]);
}

#[test]
fn visits_need_a_pause_and_see_every_vcpu_at_rest() {
    let Some(kvm) = kvm() else { return };
    let controller = Controller::new();
    let (guest, threads) = counting(&kvm, &controller);
    assert!(matches!(controller.visit(|_| ()), Err(Error::NotPaused)));
    wait_for_more(&guest, 0);
    for _ in 0..50 {
        controller.pause();
        let counts = controller.visit(|vcpu| vcpu.fd().get_regs().unwrap().rbx).unwrap();
        assert!(counts[0] == count(&guest) || counts[0] == count(&guest) + 1, "register and memory agree");
        assert_eq!(controller.save().unwrap().len(), 2);
        controller.resume();
    }
    controller.stop(Stop::Reset);
    assert_eq!(join(threads), [Stop::Reset, Stop::Reset]);
}

#[test]
fn the_first_end_ends_all() {
    let Some(kvm) = kvm() else { return };
    let controller = Controller::new();
    let guest = Guest::new(&kvm, &VmOptions::new(2));
    let first = guest.load(&[0xb0, 9, 0xe6, common::DONE]).long_mode(); // mov al, 9; out DONE, al
    let second = guest.vm.create_vcpu(1).unwrap();
    let threads = vec![start(controller.enrol(second)), start(controller.enrol(first))];
    assert_eq!(join(threads), [Stop::Code(9), Stop::Code(9)]);
    assert_eq!(controller.stop(Stop::Shutdown), Stop::Code(9), "the first reason holds");
}

#[test]
fn an_error_on_one_ends_the_others() {
    let Some(kvm) = kvm() else { return };
    let controller = Controller::new();
    let guest = Guest::new(&kvm, &VmOptions::new(2));
    let code = [
        0xb8, 0x00, 0x00, 0x00, 0xd0, // mov eax, 0xd0000000
        0xff, 0xe0, // jmp rax: where no memory is
    ];
    let first = guest.load(&code).long_mode();
    let second = guest.vm.create_vcpu(1).unwrap();
    let waiting = start(controller.enrol(second));
    let failing = start(controller.enrol(first));
    assert!(matches!(within_a_minute(|| failing.join().unwrap()), Err(Error::Internal(_))));
    assert_eq!(join(vec![waiting]), [Stop::Kicked]);
}

#[test]
fn one_that_never_ran_or_is_gone_holds_nobody_up() {
    let Some(kvm) = kvm() else { return };
    let controller = Controller::new();
    let (guest, threads) = counting(&kvm, &controller);
    let other = Guest::new(&kvm, &VmOptions::bare());
    let outside = controller.enrol(other.load(&[0xf4]).real_mode());
    wait_for_more(&guest, 0);
    controller.pause(); // Does not wait for `outside`, which is in nobody's run.
    drop(outside);
    assert_eq!(controller.visit(|_| ()).unwrap().len(), 2);
    controller.stop(Stop::Shutdown);
    assert_eq!(join(threads), [Stop::Shutdown, Stop::Shutdown]);
}

/// Pauses its own VM when the guest asks for it.
struct PauseMe(Controller, Log);

impl ExitHandler for PauseMe {
    fn mmio_read(&self, address: u64, data: &mut [u8]) -> Flow {
        self.1.mmio_read(address, data)
    }

    fn mmio_write(&self, address: u64, data: &[u8]) -> Flow {
        self.1.mmio_write(address, data)
    }

    fn port_write(&self, port: u16, width: u8, data: &[u8]) -> Flow {
        if port == 0x10 {
            self.0.pause();
            assert!(matches!(self.0.visit(|_| ()), Err(Error::NotPaused)), "not from a vCPU's own thread");
        }
        self.1.port_write(port, width, data)
    }
}

#[test]
fn a_handler_may_pause_its_own_vcpu() {
    let Some(kvm) = kvm() else { return };
    let controller = Controller::new();
    let guest = Guest::new(&kvm, &VmOptions::bare());
    let code = [
        0xe6,
        0x10, // out 0x10, al
        0xb0,
        3, // mov al, 3
        0xe6,
        common::DONE, // out DONE, al
    ];
    let mut vcpu = controller.enrol(guest.load(&code).long_mode());
    let handler = Arc::new(PauseMe(controller.clone(), Log::default()));
    let thread = thread::Builder::new().name("vcpu".into()).spawn(move || vcpu.run(&*handler)).unwrap();
    while !controller.is_paused() {
        thread::sleep(Duration::from_millis(1));
    }
    controller.pause(); // Now from outside: waits until it has parked.
    let rip = controller.visit(|vcpu| vcpu.fd().get_regs().unwrap().rip).unwrap();
    assert_eq!(rip, [common::CODE + 2], "the access is complete");
    controller.resume();
    assert_eq!(join(vec![thread]), [Stop::Code(3)]);
}

/// Pauses the VM once another handler is about to do the same.
struct PauseTogether(Controller, Arc<Barrier>, Log);

impl ExitHandler for PauseTogether {
    fn mmio_read(&self, address: u64, data: &mut [u8]) -> Flow {
        self.2.mmio_read(address, data)
    }

    fn mmio_write(&self, address: u64, data: &[u8]) -> Flow {
        self.2.mmio_write(address, data)
    }

    fn port_write(&self, port: u16, width: u8, data: &[u8]) -> Flow {
        if port == 0x10 {
            self.1.wait();
            self.0.pause();
        }
        self.2.port_write(port, width, data)
    }
}

#[test]
fn handlers_that_pause_at_once_do_not_wait_for_each_other() {
    let Some(kvm) = kvm() else { return };
    let controller = Controller::new();
    let barrier = Arc::new(Barrier::new(2));
    let code = [
        0xe6,
        0x10, // out 0x10, al
        0xb0,
        3, // mov al, 3
        0xe6,
        common::DONE, // out DONE, al
    ];
    let guests = [(); 2].map(|()| Guest::new(&kvm, &VmOptions::bare()));
    let threads = guests.each_ref().map(|guest| {
        let mut vcpu = controller.enrol(guest.load(&code).long_mode());
        let handler = PauseTogether(controller.clone(), Arc::clone(&barrier), Log::default());
        thread::Builder::new().name("vcpu".into()).spawn(move || vcpu.run(&handler)).unwrap()
    });
    let outside = controller.clone();
    let rips = within_a_minute(move || {
        while !outside.is_paused() {
            thread::sleep(Duration::from_millis(1));
        }
        outside.pause(); // Waits until both have parked.
        outside.visit(|vcpu| vcpu.fd().get_regs().unwrap().rip).unwrap()
    });
    assert_eq!(rips, [common::CODE + 2; 2]);
    controller.resume();
    assert_eq!(join(threads.into()), [Stop::Code(3), Stop::Code(3)]);
}

/// Pauses the VM, and visits it while somebody else waits in a visit.
struct VisitMe(Controller, Arc<Barrier>, Log);

impl ExitHandler for VisitMe {
    fn mmio_read(&self, address: u64, data: &mut [u8]) -> Flow {
        self.2.mmio_read(address, data)
    }

    fn mmio_write(&self, address: u64, data: &[u8]) -> Flow {
        self.2.mmio_write(address, data)
    }

    fn port_write(&self, port: u16, width: u8, data: &[u8]) -> Flow {
        if port == 0x10 {
            self.0.pause();
            self.1.wait();
            thread::sleep(Duration::from_millis(100));
            assert!(matches!(self.0.visit(|_| ()), Err(Error::NotPaused)));
        }
        self.2.port_write(port, width, data)
    }
}

#[test]
fn a_handler_that_visits_does_not_wait_for_a_visit_that_waits_for_it() {
    let Some(kvm) = kvm() else { return };
    let controller = Controller::new();
    let guest = Guest::new(&kvm, &VmOptions::bare());
    let code = [
        0xe6,
        0x10, // out 0x10, al
        0xb0,
        3, // mov al, 3
        0xe6,
        common::DONE, // out DONE, al
    ];
    let barrier = Arc::new(Barrier::new(2));
    let mut vcpu = controller.enrol(guest.load(&code).long_mode());
    let handler = VisitMe(controller.clone(), Arc::clone(&barrier), Log::default());
    let thread = thread::Builder::new().name("vcpu".into()).spawn(move || vcpu.run(&handler)).unwrap();
    let outside = controller.clone();
    let visited = within_a_minute(move || {
        barrier.wait();
        outside.visit(|vcpu| vcpu.id()).unwrap()
    });
    assert_eq!(visited, [0]);
    controller.resume();
    assert_eq!(join(vec![thread]), [Stop::Code(3)]);
}
