//! Tiny guests: a few bytes of code, and a handler that writes down what they do.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "support code of tests: what fails here fails the test"
)]

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use krun_vcpu::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use krun_vcpu::{Entry, ExitHandler, Flow, Kvm, KvmVm, LongMode, Pvh, RealMode, Stop, Vcpu, VmOptions};

/// KVM, or `None` after saying why not. With KRUN_TEST_KVM=required a missing KVM fails the test.
pub fn kvm() -> Option<Kvm> {
    match Kvm::open() {
        Ok(kvm) => Some(kvm),
        #[expect(clippy::disallowed_methods, reason = "how the caller of the tests says that KVM must be there")]
        Err(error) if std::env::var_os("KRUN_TEST_KVM").is_some_and(|v| v == "required") => {
            panic!("KVM is required: {error}")
        }
        Err(error) => {
            println!("not tested: {error}");
            None
        }
    }
}

/// Where guests' code lies.
pub const CODE: u64 = 0x1_0000;
/// A port whose writes end the run with the value written.
pub const PORT_DONE: u16 = 0xf4;
/// The same as an operand.
pub const DONE: u8 = 0xf4;
/// Guest memory of every test.
pub const MEMORY: usize = 1 << 20;

/// What the handler saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    In(u16, u8, usize),
    Out(u16, u8, Vec<u8>),
}

/// Writes down every access; answers reads with a running number; ends on [`PORT_DONE`].
#[derive(Debug, Default)]
pub struct Log {
    pub events: Mutex<Vec<Event>>,
    pub answer: Mutex<u64>,
}

impl Log {
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap())
    }

    pub fn answering(value: u64) -> Self {
        Self { answer: Mutex::new(value), ..Self::default() }
    }

    fn push(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

impl ExitHandler for Log {
    fn mmio_read(&self, address: u64, data: &mut [u8]) -> Flow {
        self.push(Event::Read(address, data.len()));
        let answer = self.answer.lock().unwrap().to_le_bytes();
        data.copy_from_slice(&answer[..data.len()]);
        ControlFlow::Continue(())
    }

    fn mmio_write(&self, address: u64, data: &[u8]) -> Flow {
        self.push(Event::Write(address, data.to_vec()));
        ControlFlow::Continue(())
    }

    fn port_read(&self, port: u16, width: u8, data: &mut [u8]) -> Flow {
        self.push(Event::In(port, width, data.len()));
        let answer = self.answer.lock().unwrap().to_le_bytes();
        for (to, from) in data.iter_mut().zip(answer.iter().cycle()) {
            *to = *from;
        }
        ControlFlow::Continue(())
    }

    fn port_write(&self, port: u16, width: u8, data: &[u8]) -> Flow {
        if port == PORT_DONE {
            return ControlFlow::Break(Stop::Code(i32::from(data[0])));
        }
        self.push(Event::Out(port, width, data.to_vec()));
        ControlFlow::Continue(())
    }
}

/// A VM with 1 MiB of memory.
pub struct Guest {
    pub vm: KvmVm,
    pub memory: GuestMemoryMmap,
}

impl Guest {
    pub fn new(kvm: &Kvm, options: &VmOptions) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let vm = kvm.create_vm(options).unwrap();
        vm.add_memory(&memory).unwrap();
        Self { vm, memory }
    }

    /// Writes code at [`CODE`].
    pub fn load(&self, code: &[u8]) -> &Self {
        self.memory.write_slice(code, GuestAddress(CODE)).unwrap();
        self
    }

    /// vCPU 0 about to run the code in real mode: segment 0x1000, stack below 0x8000.
    pub fn real_mode(&self) -> Vcpu {
        let vcpu = self.vm.create_vcpu(0).unwrap();
        vcpu.configure(&self.vm.cpu_config()).unwrap();
        vcpu.set_entry(&self.memory, &Entry::RealMode(RealMode { cs: 0x1000, ip: 0, sp: 0x8000 })).unwrap();
        vcpu
    }

    /// vCPU 0 about to run the code in long mode, 4 GiB mapped one to one.
    pub fn long_mode(&self) -> Vcpu {
        let vcpu = self.vm.create_vcpu(0).unwrap();
        vcpu.configure(&self.vm.cpu_config()).unwrap();
        let entry = LongMode::new(GuestAddress(CODE), GuestAddress(0x7000));
        vcpu.set_entry(&self.memory, &Entry::LongMode(entry)).unwrap();
        vcpu
    }

    /// vCPU 0 about to run the code in protected mode, with `ebx` as given; flat segments, no paging.
    pub fn protected_mode(&self, ebx: u64) -> Vcpu {
        let vcpu = self.vm.create_vcpu(0).unwrap();
        vcpu.configure(&self.vm.cpu_config()).unwrap();
        let entry = Pvh::new(GuestAddress(CODE), GuestAddress(ebx));
        vcpu.set_entry(&self.memory, &Entry::Pvh(entry)).unwrap();
        vcpu
    }

    /// The same vCPU at the beginning of its code again, in long mode.
    pub fn restart(&self, vcpu: Vcpu) -> Vcpu {
        let entry = LongMode::new(GuestAddress(CODE), GuestAddress(0x7000));
        vcpu.set_entry(&self.memory, &Entry::LongMode(entry)).unwrap();
        vcpu
    }

    pub fn word(&self, address: u64) -> u64 {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }
}

/// A bare VM in real mode with this code.
pub fn real_mode(kvm: &Kvm, code: &[u8]) -> (Guest, Vcpu) {
    let guest = Guest::new(kvm, &VmOptions::bare());
    let vcpu = guest.load(code).real_mode();
    (guest, vcpu)
}

/// A bare VM in long mode with this code.
pub fn long_mode(kvm: &Kvm, code: &[u8]) -> (Guest, Vcpu) {
    let guest = Guest::new(kvm, &VmOptions::bare());
    let vcpu = guest.load(code).long_mode();
    (guest, vcpu)
}

/// Runs `work` on a thread of its own and gives its result, unless that takes longer than a minute.
pub fn within_a_minute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("test".into()).spawn(move || send.send(work())).unwrap();
    receive.recv_timeout(std::time::Duration::from_secs(60)).expect("the guest neither ended nor was stopped")
}

/// Shares a handler with a thread.
pub fn shared(log: Log) -> Arc<Log> {
    Arc::new(log)
}
