//! The state of a VM outside its vCPUs: interrupt controllers, timer, clock.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip, kvm_pit_state2,
};

use crate::error::{Error, StateError};
use crate::plain;
use crate::sections::{Format, Sections, Writer};
use crate::vm::{Irqchip, KvmVm};

use super::state::read_required;

/// What KVM knows of a VM besides its vCPUs and memory.
#[derive(Debug, Clone, PartialEq)]
pub struct VmState {
    /// The interrupt controllers and the timer, if they are all in the kernel.
    pub irqchip: Option<IrqchipState>,
    /// The clock kvm-clock guests see. Its time goes on from here when it is restored.
    pub clock: kvm_clock_data,
}

/// In-kernel interrupt controllers and timer.
#[derive(Debug, Clone, PartialEq)]
pub struct IrqchipState {
    /// First PIC: `struct kvm_pic_state`.
    pub pic_master: [u8; 512],
    /// Second PIC.
    pub pic_slave: [u8; 512],
    /// I/O APIC: `struct kvm_ioapic_state`.
    pub ioapic: [u8; 512],
    /// Timer.
    pub pit: kvm_pit_state2,
}

const FORMAT: Format = Format {
    name: "VM",
    magic: *b"krun-vm\0",
    version: 1,
    sections: &["clock", "first PIC", "second PIC", "I/O APIC", "timer"],
};

/// Numbers of the sections: places in [`FORMAT`].
mod section {
    pub(super) const CLOCK: u32 = 0;
    pub(super) const PIC_MASTER: u32 = 1;
    pub(super) const PIC_SLAVE: u32 = 2;
    pub(super) const IOAPIC: u32 = 3;
    pub(super) const PIT: u32 = 4;
}

impl VmState {
    /// The state as bytes, for a file or a wire. They begin with a version.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new(&FORMAT);
        out.section(section::CLOCK, plain::bytes(&self.clock));
        if let Some(irqchip) = &self.irqchip {
            out.section(section::PIC_MASTER, &irqchip.pic_master);
            out.section(section::PIC_SLAVE, &irqchip.pic_slave);
            out.section(section::IOAPIC, &irqchip.ioapic);
            out.section(section::PIT, plain::bytes(&irqchip.pit));
        }
        out.finish()
    }

    /// The state these bytes hold.
    ///
    /// # Errors
    ///
    /// The bytes are not what [`VmState::to_bytes`] makes, or of another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let sections = Sections::read(&FORMAT, bytes)?;
        let clock = read_required(&sections, section::CLOCK)?;
        // All four or none.
        let controllers = [section::PIC_MASTER, section::PIC_SLAVE, section::IOAPIC, section::PIT];
        let irqchip = if controllers.iter().any(|number| sections.get(*number).is_some()) {
            Some(IrqchipState {
                pic_master: chip(&sections, section::PIC_MASTER)?,
                pic_slave: chip(&sections, section::PIC_SLAVE)?,
                ioapic: chip(&sections, section::IOAPIC)?,
                pit: read_required(&sections, section::PIT)?,
            })
        } else {
            None
        };
        Ok(Self { irqchip, clock })
    }
}

fn chip(sections: &Sections<'_>, number: u32) -> Result<[u8; 512], StateError> {
    let bytes = sections.require(number)?;
    bytes.try_into().map_err(|_| StateError::Length(bytes.len().abs_diff(512) as u64, sections.name(number)))
}

impl KvmVm {
    /// The VM's state. Its vCPUs should be paused.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn save(&self) -> Result<VmState, Error> {
        let fd = self.fd();
        let chip = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            fd.get_irqchip(&mut chip).map_err(Error::kvm("tell an interrupt controller's state"))?;
            Ok::<_, Error>(plain::irqchip_bytes(&chip))
        };
        let irqchip = match self.inner.irqchip {
            Irqchip::Kernel => Some(IrqchipState {
                pic_master: chip(KVM_IRQCHIP_PIC_MASTER)?,
                pic_slave: chip(KVM_IRQCHIP_PIC_SLAVE)?,
                ioapic: chip(KVM_IRQCHIP_IOAPIC)?,
                pit: fd.get_pit2().map_err(Error::kvm("tell the timer's state"))?,
            }),
            Irqchip::None | Irqchip::Split { .. } => None,
        };
        let clock = fd.get_clock().map_err(Error::kvm("tell the VM's clock"))?;
        Ok(VmState { irqchip, clock })
    }

    /// Gives the VM this state. Its vCPUs must not run.
    ///
    /// # Errors
    ///
    /// The state is of a VM with other interrupt controllers, or KVM refuses.
    pub fn restore(&self, state: &VmState) -> Result<(), Error> {
        let fd = self.fd();
        match (&state.irqchip, self.inner.irqchip) {
            (Some(irqchip), Irqchip::Kernel) => {
                for (chip_id, bytes) in [
                    (KVM_IRQCHIP_PIC_MASTER, &irqchip.pic_master),
                    (KVM_IRQCHIP_PIC_SLAVE, &irqchip.pic_slave),
                    (KVM_IRQCHIP_IOAPIC, &irqchip.ioapic),
                ] {
                    fd.set_irqchip(&plain::irqchip(chip_id, bytes))
                        .map_err(Error::kvm("set an interrupt controller's state"))?;
                }
                fd.set_pit2(&irqchip.pit).map_err(Error::kvm("set the timer's state"))?;
            }
            (None, Irqchip::None | Irqchip::Split { .. }) => {}
            (Some(_), _) => return Err(StateError::Unfit("the VM has no in-kernel interrupt controllers").into()),
            (None, _) => return Err(StateError::Missing("I/O APIC").into()),
        }
        // Only the time itself: realtime and host TSC describe the moment of saving.
        let clock = kvm_clock_data { clock: state.clock.clock, ..Default::default() };
        fd.set_clock(&clock).map_err(Error::kvm("set the VM's clock"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(controllers: bool) -> VmState {
        let irqchip = controllers.then(|| IrqchipState {
            pic_master: [1; 512],
            pic_slave: [2; 512],
            ioapic: [3; 512],
            pit: kvm_pit_state2 { flags: 1, ..Default::default() },
        });
        VmState { irqchip, clock: kvm_clock_data { clock: 77, ..Default::default() } }
    }

    #[test]
    fn there_and_back() {
        for controllers in [false, true] {
            let state = state(controllers);
            assert_eq!(VmState::from_bytes(&state.to_bytes()), Ok(state));
        }
    }

    #[test]
    fn half_the_controllers_are_refused() {
        let whole = state(true).to_bytes();
        let without_timer = &whole[..whole.len() - 8 - 112];
        assert_eq!(VmState::from_bytes(without_timer), Err(StateError::Missing("timer")));
    }

    proptest! {
        #[test]
        fn random_sections_never_panic(body in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut bytes = b"krun-vm\0\x01\0\0\0".to_vec();
            bytes.extend(body);
            let _ = VmState::from_bytes(&bytes);
        }
    }
}
