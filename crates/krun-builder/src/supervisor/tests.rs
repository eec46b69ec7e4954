//! Ends of VMs that have no CPUs: the guest is a driver of the console device.

use std::io::Read as _;
use std::thread::{Builder, JoinHandle};

use krun_console::config::Role;
use krun_console::control::{Event as Word, Header};
use krun_console::{Console, Port};
use krun_init::protocol::{Hello, Scope, Started, ToHost};
use krun_init::{Host, Start};
use krun_virtio::testing::{MockDriver, Request};

use super::*;
use crate::control::Closer;
use crate::layout::{Layout, LayoutConfig};
use crate::memory::RamBacking;

/// A VM without CPUs: its guest is what a test does to the console device.
struct Vm {
    shared: Arc<Shared>,
    driver: MockDriver,
    stdout: std::io::PipeReader,
    supervisor: JoinHandle<()>,
    /// As the console's listener has it.
    _closer: Closer,
}

const INIT: usize = 1;
const STDOUT: usize = 2;

impl Vm {
    fn new() -> Self {
        let host = Host::new(&Start::new(["/bin/true"])).unwrap();
        let (control, theirs) = Control::new(host, Scope::Process).unwrap();
        let closer = control.closer().unwrap();
        let (stdout, end) = std::io::pipe().unwrap();
        let init = Port::named("init").input_fd(theirs.try_clone().unwrap()).unwrap().output_fd(theirs).unwrap();
        let ports = vec![Port::console(), init, Port::named("stdout").output_fd(end).unwrap()];
        let console = Console::new(ports).unwrap();
        let handle = console.handle();
        let mut driver = MockDriver::builder(console).threads().build();
        driver.initialise();
        let header = |event, id, value| Request::new().readable(Header { id, event, value }.to_bytes());
        driver.submit(Role::ControlTransmit.queue(), &header(Word::DeviceReady, u32::MAX, 1));
        for port in 0..3 {
            driver.submit(Role::ControlTransmit.queue(), &header(Word::PortReady, port, 1));
            driver.submit(Role::ControlTransmit.queue(), &header(Word::PortOpen, port, 1));
        }
        let shared = Arc::new(Shared::new().unwrap());
        let layout = Layout::plan(&LayoutConfig { memory: 64 << 20, ..LayoutConfig::default() }).unwrap();
        let supervisor = Supervisor {
            shared: Arc::clone(&shared),
            machine: Arc::default(),
            ram: Arc::new(GuestRam::new(&layout, &RamBacking::Anonymous).unwrap()),
            control: Some(control),
            console: Some(handle),
            serial: None,
        };
        let supervisor = Builder::new().name("krun-vm".into()).spawn(move || supervisor.run()).unwrap();
        Self { shared, driver, stdout, supervisor, _closer: closer }
    }

    /// Queues output on a port, and does not wait for it to be taken.
    fn write(&mut self, port: usize, bytes: &[u8]) {
        let queue = Role::Transmit(port).queue();
        self.driver.post(queue, &Request::new().readable(bytes));
        self.driver.kick(queue);
    }

    fn say(&mut self, frames: &[ToHost<'_>]) {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        self.write(INIT, &bytes);
    }

    fn signal(&self) -> Result<(), crate::Error> {
        self.shared.send_to_command("signal it", Message::Signal(15))
    }

    fn start_command(&mut self) {
        self.say(&[ToHost::Hello(Hello { features: 0 }), ToHost::Started(Started { pid: 7 })]);
        within("the command runs", || self.signal().is_ok());
    }

    fn leave(&self) {
        self.shared.send(Message::Left { vcpu: 0, why: Ok(Stop::Reset) });
    }

    fn status(self) -> ExitStatus {
        within("the VM has ended", || self.shared.status().is_some());
        self.supervisor.join().unwrap();
        self.shared.wait()
    }
}

fn within(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(8);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// More than the socket and the supervisor take in a few steps.
fn flood() -> Vec<u8> {
    vec![0; 8 << 20]
}

#[test]
fn an_exit_code_on_its_way_is_heard() {
    let mut vm = Vm::new();
    vm.start_command();
    vm.say(&[ToHost::Exited(Exit::Code(3))]);
    vm.leave();
    assert_eq!(vm.status(), ExitStatus::Exited(3));
}

#[test]
fn a_flood_of_nonsense_does_not_hold_the_end_up() {
    let mut vm = Vm::new();
    vm.write(INIT, &flood());
    assert!(matches!(vm.status(), ExitStatus::Failed { .. }));
}

#[test]
fn a_flood_after_the_exit_does_not_hold_the_end_up() {
    let mut vm = Vm::new();
    vm.start_command();
    vm.say(&[ToHost::Exited(Exit::Code(3))]);
    for _ in 0..4 {
        vm.write(INIT, &flood());
    }
    vm.leave();
    assert_eq!(vm.status(), ExitStatus::Exited(3));
}

#[test]
fn while_output_waits_for_its_reader_no_signal_is_taken_any_more() {
    let mut vm = Vm::new();
    vm.start_command();
    vm.write(STDOUT, &[b'x'; 1 << 20]);
    vm.leave();
    within("signals are refused", || vm.signal().is_err());
    assert_eq!(vm.shared.status(), None, "the output is not with its reader yet");
    let mut output = vec![0; 1 << 20];
    vm.stdout.read_exact(&mut output).unwrap();
    assert_eq!(vm.status(), ExitStatus::Rebooted);
}
