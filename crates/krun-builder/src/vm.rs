//! A VM that is ready to start: everything it needs from outside is open.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use krun_console::{HostFd, Output};
use krun_init::Host;
use krun_kernel_loader::{Cmdline, Kernel, MachineDescription};
use krun_vcpu::{ExitHandler, Kvm, Vcpu, VmOptions};

use crate::boot;
use crate::builder::VmBuilder;
use crate::bus::Bus;
use crate::config::{Config, KernelSource};
use crate::control::Control;
use crate::devices::{Devices, InitPort};
use crate::error::{BuildError, Error, Problem};
use crate::layout::Layout;
use crate::log::Log;
use crate::machine::Machine;
use crate::memory::{self, GuestRam, RamBacking};
use crate::running::RunningVm;
use crate::shared::{Message, Shared};
use crate::signals;
use crate::start;
use crate::supervisor::Supervisor;
use crate::sys::{add_ram, borrow_kvm};
use crate::vcpus::Vcpus;

/// Name of the thread that looks after a VM.
pub(crate) const THREAD_NAME: &str = "krun-vm";

/// A VM that is ready to start.
///
/// Made by [`Vm::builder`]. It holds open files (KVM, the kernel, the shared directories, the streams) and no memory of a
/// guest yet; the process may give up its privileges now.
#[derive(Debug)]
pub struct Vm {
    kvm: Kvm,
    vcpus: u32,
    layout: Layout,
    ram_file: Option<OwnedFd>,
    kernel: Kernel,
    initrd: Option<File>,
    cmdline: Cmdline,
    machine: MachineDescription,
    control: Option<Control>,
    devices: Devices,
    serial: Option<HostFd>,
}

impl Vm {
    /// The settings of a new VM.
    pub fn builder() -> VmBuilder {
        VmBuilder::new()
    }

    /// Acquires what `config` names; `problems` are those known already.
    pub(crate) fn acquire(mut config: Config, mut problems: Vec<Problem>) -> Result<Self, BuildError> {
        let kvm = found(&mut problems, open_kvm(&config));
        let mut kernel = config.kernel.as_ref().and_then(|source| found(&mut problems, open_kernel(source)));
        let initrd = config.initrd.as_ref().and_then(|path| found(&mut problems, open_initrd(path)));
        let layout = config.layout().ok();
        let line = match (&mut kernel, &layout) {
            (Some(kernel), Some(layout)) => {
                let machine = boot::machine(&config, layout);
                found(&mut problems, boot::cmdline(&config, kernel, layout, &machine)).map(|line| (line, machine))
            }
            _ => None,
        };
        let (control, init) = match found(&mut problems, conversation(&config)).flatten() {
            Some((control, init)) => (Some(control), Some(init)),
            None => (None, None),
        };
        let serial = config.serial.take().and_then(|fd| found(&mut problems, open_serial(fd)));
        let devices = Devices::new(&mut config, init, &mut problems);
        BuildError::of(problems)?;
        match (kvm, kernel, layout, line) {
            (Some(kvm), Some(kernel), Some(layout), Some((cmdline, machine))) => Ok(Self {
                kvm,
                vcpus: config.vcpus,
                // Last: it empties a file, which a mistake elsewhere is no reason for.
                ram_file: open_ram(&config.backing, &layout)?,
                layout,
                kernel,
                initrd,
                cmdline,
                machine,
                control,
                devices,
                serial,
            }),
            // Each of them has left a problem behind if it is missing.
            _ => Err(Problem::new("builder", "", "something is missing", "report this defect of krun-builder").into()),
        }
    }

    /// Where everything lies in the guest's address space.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The kernel's command line.
    #[must_use]
    pub fn kernel_cmdline(&self) -> String {
        self.cmdline.to_string()
    }

    /// The descriptors that this VM holds, and needs to start and to run: a jail that is entered now must leave these
    /// open, and the streams among them, and may close every other. Paths are not needed any more. A bundle's library
    /// is mapped and has no descriptor. For devices of your own it is what they
    /// [say](krun_virtio::VirtioDevice::descriptors).
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = vec![borrow_kvm(&self.kvm)];
        all.extend(self.kernel.descriptor());
        all.extend(self.initrd.as_ref().map(AsFd::as_fd));
        all.extend(self.ram_file.as_ref().map(AsFd::as_fd));
        all.extend(self.control.as_ref().and_then(Control::descriptor));
        all.extend(self.serial.as_ref().and_then(Output::fd));
        all.extend(self.devices.descriptors());
        all
    }

    /// Makes the guest's memory and CPUs, and lets them run.
    ///
    /// # Errors
    ///
    /// [`Error`] when the host has no memory, descriptors or threads for it, KVM refuses, or the kernel does not fit.
    pub fn start(mut self) -> Result<RunningVm, Error> {
        let ram = Arc::new(GuestRam::from_file(&self.layout, self.ram_file.as_ref())?);
        let entry =
            boot::load(&mut self.kernel, self.initrd.as_ref(), &ram, &self.layout, &self.cmdline, &self.machine)?;
        // A bundle's library is not needed any more: its pages were copied.
        drop(self.kernel);
        let kvm = self.kvm.create_vm(&VmOptions::new(self.vcpus))?;
        add_ram(&kvm, &ram)?;
        let vcpus = (0..self.vcpus).map(|id| kvm.create_vcpu(id)).collect::<Result<Vec<Vcpu>, _>>()?;
        let cpu = kvm.cpu_config();
        vcpus.iter().try_for_each(|vcpu| vcpu.configure(&cpu))?;
        if let Some(first) = vcpus.first() {
            first.set_entry(&*ram, &entry)?;
        }
        let console = self.devices.console.clone();
        let serial = self.serial.map(|out| Log::new(Some(out)));
        let bus = Arc::new(Bus::connect(&kvm, &ram, &self.layout, self.devices.all, serial.clone())?);
        let shared = Arc::new(Shared::new()?);
        let report = {
            let shared = Arc::clone(&shared);
            move |vcpu, why| shared.send(Message::Left { vcpu, why })
        };
        let handler: Arc<dyn ExitHandler> = Arc::clone(&bus) as Arc<dyn ExitHandler>;
        let vcpus = signals::blocked(|| Vcpus::start(vcpus, &handler, report)).map_err(mask_failed)??;
        let machine = Arc::new(Mutex::new(Some(Machine::new(vcpus, bus, kvm))));
        let supervisor = Supervisor {
            shared: Arc::clone(&shared),
            machine: Arc::clone(&machine),
            ram,
            control: self.control,
            console,
            serial,
        };
        let thread = std::thread::Builder::new().name(THREAD_NAME.into());
        let spawned = signals::blocked(|| thread.spawn(move || supervisor.run())).map_err(mask_failed)?;
        let thread = spawned.map_err(|source| Error::Thread { name: THREAD_NAME.into(), source })?;
        Ok(RunningVm::new(shared, machine, thread))
    }
}

fn mask_failed(source: std::io::Error) -> Error {
    Error::Thread { name: THREAD_NAME.into(), source }
}

/// The value, or one more problem.
fn found<T>(problems: &mut Vec<Problem>, result: Result<T, Problem>) -> Option<T> {
    result.map_err(|problem| problems.push(problem)).ok()
}

fn open_kvm(config: &Config) -> Result<Kvm, Problem> {
    let kvm = Kvm::open().map_err(|error| {
        let remedy = "run on a host with hardware virtualization, and give this user access to /dev/kvm";
        Problem::caused_by("kvm", "", error, remedy)
    })?;
    let max = kvm.max_vcpus();
    if config.vcpus > max {
        let reason = format!("the host's KVM gives a guest {max} at most");
        return Err(Problem::new("vcpus", config.vcpus.to_string(), reason, "use fewer"));
    }
    Ok(kvm)
}

fn open_kernel(source: &KernelSource) -> Result<Kernel, Problem> {
    let (opened, path, remedy) = match source {
        KernelSource::Bundle(path) => {
            (Kernel::bundle(path), path, "install libkrunfw (package libkrunfw5 or libkrunfw), or name a kernel file")
        }
        KernelSource::File(path) => {
            (Kernel::open(path), path, "name a kernel bundle (libkrunfw.so.5), a vmlinux or a bzImage")
        }
    };
    opened.map_err(|error| Problem::caused_by("kernel", path.display().to_string(), error, remedy))
}

fn open_ram(backing: &RamBacking, layout: &Layout) -> Result<Option<OwnedFd>, Problem> {
    memory::open(backing, layout.ram.size()).map_err(|error| {
        Problem::caused_by("ram_backing", format!("{backing:?}"), error, "name a file that may be written, with room")
    })
}

fn open_initrd(path: &std::path::Path) -> Result<File, Problem> {
    File::open(path).map_err(|error| {
        Problem::caused_by("initrd", path.display().to_string(), error, "name a file that can be read")
    })
}

fn open_serial(fd: OwnedFd) -> Result<HostFd, Problem> {
    HostFd::output(fd).map_err(|error| Problem::caused_by("serial", "", error, "give a descriptor to write to"))
}

/// Our end and the guest's end of the conversation with init, if there is a command to tell it of.
fn conversation(config: &Config) -> Result<Option<(Control, InitPort)>, Problem> {
    let Some(command) = &config.command else { return Ok(None) };
    let (start, scope) = start::request(config, command);
    let host = Host::new(&start)
        .map_err(|error| Problem::caused_by("command", "", error, "see the limits in `Command`'s documentation"))?;
    let opened = Control::new(host, scope).and_then(|(control, socket)| {
        let closer = control.closer()?;
        Ok((control, InitPort { socket, closer }))
    });
    let opened = opened
        .map_err(|error| Problem::caused_by("command", "", error, "raise the limit on open files (ulimit -n)"))?;
    Ok(Some(opened))
}
