//! The registers against a model of sections 2.1, 3.1.1 and 4.2.2, and one by one.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, numbers are small"
)]

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use krun_virtio::mmio::registers as reg;
use krun_virtio::testing::{MockDriver, Upper};
use krun_virtio::{
    Context, Error, Inline, InterruptLine, MmioTransport, Ram, SharedMemory, SharedWindow, Task, VirtioDevice, Worker,
    read_config_bytes,
};
use proptest::prelude::*;

/// Two queues, a feature in each half, a config space of 12 bytes of which the first four can be written.
#[derive(Debug)]
struct Face {
    config: Vec<u8>,
}

const FEATURES: u64 = 1 << 3 | 1 << 50;
const SIZES: [u16; 2] = [8, 64];

impl Face {
    fn new() -> Self {
        Self { config: (1..=12).collect() }
    }
}

#[derive(Debug)]
struct Idle;

impl Worker for Idle {
    fn queue_event(&mut self, _index: u16, _cx: &mut Context<'_>) {}
}

impl VirtioDevice for Face {
    fn device_type(&self) -> u32 {
        7
    }

    fn name(&self) -> String {
        "face".into()
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, from) in self.config.iter_mut().take(4).skip(at).zip(data) {
            *to = *from;
        }
    }

    fn shared_memory(&self) -> Option<(u8, u64)> {
        Some((2, 0x20_0000))
    }

    fn tasks(&mut self) -> Vec<Task> {
        vec![Task::new(0..2, Idle)]
    }
}

/// What the specification says that a driver can see.
#[derive(Debug, Default, Clone, Copy)]
struct Model {
    status: u32,
    device_sel: u32,
    driver_sel: u32,
    features: u64,
    queue_sel: u32,
    shm_sel: u32,
    ready: [bool; 2],
    live: [bool; 2],
    needs_reset: bool,
    config: [u8; 4],
    faults: u64,
}

impl Model {
    fn offered() -> u64 {
        FEATURES | reg::TRANSPORT_FEATURES
    }

    fn fault(&mut self) {
        self.faults += 1;
    }

    fn write(&mut self, offset: u64, value: u32) {
        let queue = self.queue_sel as usize;
        match offset {
            reg::DEVICE_FEATURES_SEL => self.device_sel = value,
            reg::DRIVER_FEATURES_SEL => self.driver_sel = value,
            reg::QUEUE_SEL => self.queue_sel = value,
            reg::SHM_SEL => self.shm_sel = value,
            reg::DRIVER_FEATURES => {
                let open = self.status & reg::DRIVER != 0 && self.status & reg::FEATURES_OK == 0;
                match self.driver_sel {
                    0 if open => self.features = self.features >> 32 << 32 | u64::from(value),
                    1 if open => self.features = self.features & 0xffff_ffff | u64::from(value) << 32,
                    _ if open && value == 0 => {}
                    _ => self.fault(),
                }
            }
            reg::STATUS if value == 0 => {
                *self = Self { config: self.config, faults: self.faults, ..Self::default() };
            }
            reg::STATUS => self.write_status(value & !reg::NEEDS_RESET),
            reg::QUEUE_NOTIFY => {
                if value >= 2 {
                    self.fault();
                }
            }
            reg::INTERRUPT_ACK => {}
            reg::QUEUE_READY if value & 1 == 1 => {
                if self.ready.get(queue) == Some(&true) {
                    return;
                }
                let late = self.status & reg::DRIVER_OK != 0 && self.features & reg::F_RING_RESET == 0;
                if self.status & reg::FEATURES_OK == 0 || late || queue >= 2 {
                    return self.fault();
                }
                self.ready[queue] = true;
                if self.status & reg::DRIVER_OK != 0 {
                    self.start(queue);
                }
            }
            reg::QUEUE_READY => self.stop(queue),
            reg::QUEUE_RESET if value & 1 == 1 => {
                if self.features & reg::F_RING_RESET == 0 || self.status & reg::DRIVER_OK == 0 {
                    return self.fault();
                }
                self.stop(queue);
            }
            reg::QUEUE_SIZE | 0x80 | 0x84 | 0x90 | 0x94 | 0xa0 | 0xa4 => {
                let late = self.status & reg::DRIVER_OK != 0 && self.features & reg::F_RING_RESET == 0;
                let locked = self.ready.get(queue).is_none_or(|ready| *ready);
                if self.status & reg::FEATURES_OK == 0 || late || locked {
                    self.fault();
                }
            }
            _ => self.fault(),
        }
    }

    fn stop(&mut self, queue: usize) {
        match self.ready.get_mut(queue) {
            Some(ready) => *ready = false,
            None => self.fault(),
        }
    }

    /// Rings lie at 0 with their largest size, which is memory: all is well, unless they were told otherwise. The test
    /// writes no addresses, so only sizes could go wrong, and those it writes are right.
    fn start(&mut self, queue: usize) {
        self.live[queue] = true;
    }

    fn write_status(&mut self, value: u32) {
        let all = 0x80 | 0xf;
        if value & !all != 0 || self.status & !value != 0 {
            return self.fault();
        }
        for (bit, needs) in [(1, 0), (2, 1), (8, 2), (4, 8), (0x80, 0)] {
            if value & bit == 0 || self.status & bit != 0 {
                continue;
            }
            if self.status & needs != needs {
                self.needs_reset |= bit == 4;
                return self.fault();
            }
            if bit == 8 && (self.features & !Self::offered() != 0 || self.features & reg::F_VERSION_1 == 0) {
                // Refused: what builds on it in the same write is out of order.
                if value & 4 != 0 {
                    self.needs_reset = true;
                    return self.fault();
                }
                self.fault();
                continue;
            }
            self.status |= bit;
            if bit == 4 {
                (0..2).filter(|i| self.ready[*i]).for_each(|i| self.live[i] = true);
            }
        }
    }

    fn read(&self, offset: u64) -> u32 {
        let half = |value: u64, select: u32| if select < 2 { (value >> (32 * select)) as u32 } else { 0 };
        let queue = self.queue_sel as usize;
        let shm = |value: u64, high: u32| half(if self.shm_sel == 2 { value } else { u64::MAX }, high);
        match offset {
            0 => 0x7472_6976,
            4 => 2,
            8 => 7,
            0xc => reg::VENDOR,
            reg::DEVICE_FEATURES => half(Self::offered(), self.device_sel),
            reg::QUEUE_SIZE_MAX => SIZES.get(queue).map_or(0, |size| u32::from(*size)),
            reg::QUEUE_READY => u32::from(self.ready.get(queue) == Some(&true)),
            reg::STATUS if self.status == 0 => 0,
            reg::STATUS => self.status | if self.needs_reset { reg::NEEDS_RESET } else { 0 },
            0xb0 => shm(0x20_0000, 0),
            0xb4 => shm(0x20_0000, 1),
            0xb8 => shm(0x1_4000_0000, 0),
            0xbc => shm(0x1_4000_0000, 1),
            _ => 0,
        }
    }
}

#[derive(Debug)]
struct Window;

impl SharedWindow for Window {
    fn len(&self) -> u64 {
        0x20_0000
    }

    fn map(&self, _: u64, _: BorrowedFd<'_>, _: u64, _: u64, _: bool) -> std::io::Result<()> {
        Ok(())
    }

    fn unmap(&self, _: u64, _: u64) -> std::io::Result<()> {
        Ok(())
    }
}

fn shared() -> SharedMemory {
    SharedMemory { base: 0x1_4000_0000, window: Arc::new(Window) }
}

fn write() -> impl Strategy<Value = (u64, u32)> {
    let status = prop_oneof![
        2 => Just(0u32), 4 => Just(1), 6 => Just(3), 8 => Just(0xb), 8 => Just(0xf), 1 => Just(7), 1 => Just(0x83),
        1 => Just(0x4f), 1 => any::<u32>(),
    ];
    let low = prop_oneof![3 => Just(1 << 29 | 1 << 3), 2 => Just(0u32), 1 => any::<u32>()];
    let high = prop_oneof![6 => Just(1u32), 4 => Just(1 | 1 << 8), 1 => Just(0), 1 => any::<u32>()];
    let sel = || prop_oneof![8 => 0u32..2, 1 => Just(2), 1 => any::<u32>()];
    prop_oneof![
        6 => status.prop_map(|v| (reg::STATUS, v)),
        3 => sel().prop_map(|v| (reg::DRIVER_FEATURES_SEL, v)),
        2 => low.prop_map(|v| (reg::DRIVER_FEATURES, v)),
        4 => high.prop_map(|v| (reg::DRIVER_FEATURES, v)),
        2 => sel().prop_map(|v| (reg::DEVICE_FEATURES_SEL, v)),
        4 => sel().prop_map(|v| (reg::QUEUE_SEL, v)),
        2 => prop_oneof![Just(1u32), Just(2), any::<u32>()].prop_map(|v| (reg::SHM_SEL, v)),
        4 => prop_oneof![3 => Just(1u32), 1 => Just(0), 1 => any::<u32>()].prop_map(|v| (reg::QUEUE_READY, v)),
        2 => prop_oneof![3 => Just(1u32), 1 => Just(0)].prop_map(|v| (reg::QUEUE_RESET, v)),
        2 => prop_oneof![Just(8u32), Just(4), Just(1)].prop_map(|v| (reg::QUEUE_SIZE, v)),
        1 => (0u32..4).prop_map(|v| (reg::QUEUE_NOTIFY, v)),
        1 => any::<u32>().prop_map(|v| (reg::INTERRUPT_ACK, v)),
        1 => (0u64..0x40, any::<u32>()).prop_filter_map("not modelled", |(word, v)| {
            let at = word * 4;
            (!matches!(at, 0x38 | 0x80..0xa8)).then_some((at, v))
        }),
    ]
}

/// The usual way up, with RING_RESET or without: random writes begin somewhere along it.
fn way_up(ring_reset: bool) -> Vec<(u64, u32)> {
    let high = if ring_reset { 1 | 1 << 8 } else { 1 };
    let features = [(reg::DRIVER_FEATURES_SEL, 1), (reg::DRIVER_FEATURES, high)];
    let queue = [(reg::QUEUE_SEL, 1), (reg::QUEUE_READY, 1)];
    let status = |value| [(reg::STATUS, value)];
    [status(1).as_slice(), &status(3), &features, &status(0xb), &queue, &status(0xf)].concat()
}

proptest! {
    #[test]
    fn the_registers_do_what_the_model_does(
        ring_reset in any::<bool>(),
        steps in 0usize..9,
        random in prop::collection::vec(write(), 1..40),
    ) {
        let mut writes = way_up(ring_reset);
        writes.truncate(steps);
        writes.extend(random);
        let driver = MockDriver::builder(Face::new()).shared_memory(shared()).build();
        let mut model = Model { config: [1, 2, 3, 4], ..Model::default() };
        for (offset, value) in writes {
            driver.write(offset, value);
            model.write(offset, value);
            for offset in (0..reg::CONFIG).step_by(4) {
                prop_assert_eq!(driver.read(offset), model.read(offset), "{:#x} after {:#x} = {:#x}: {:?}", offset, offset, value, model);
            }
            prop_assert_eq!(driver.transport().faults(), model.faults, "after {:#x} = {:#x}: {:?}", offset, value, model);
        }
    }

    #[test]
    fn any_access_of_any_width_is_survived(accesses in prop::collection::vec((any::<bool>(), 0u64..0x120, prop::collection::vec(any::<u8>(), 0..17)), 1..100)) {
        let driver = MockDriver::builder(Face::new()).build();
        for (write, offset, mut data) in accesses {
            if write {
                driver.transport().write(offset, &data);
            } else {
                driver.transport().read(offset, &mut data);
                if offset < reg::CONFIG && data.len() != 4 {
                    prop_assert!(data.iter().all(|byte| *byte == 0));
                }
            }
        }
    }
}

#[test]
fn config_space_takes_any_width() {
    let mut driver = MockDriver::new(Face::new());
    assert_eq!(driver.config::<1>(2), [3]);
    assert_eq!(driver.config::<2>(1), [2, 3]);
    assert_eq!(driver.config::<8>(8), [9, 10, 11, 12, 0, 0, 0, 0]);
    assert_eq!(driver.config::<4>(0x800), [0; 4]);
    driver.write_config(1, &[7, 8, 9, 10, 11]);
    assert_eq!(driver.config::<8>(0), [1, 7, 8, 9, 5, 6, 7, 8]);
    // A reset keeps it (it is the device's), and without DRIVER nobody writes it.
    driver.reset();
    driver.write_config(0, &[0; 4]);
    assert_eq!((driver.config::<4>(0), driver.transport().faults()), ([1, 7, 8, 9], 1));
}

#[test]
fn a_config_change_moves_the_generation_and_tells() {
    let mut driver = MockDriver::builder(Face::new()).build();
    let generation = driver.read(reg::CONFIG_GENERATION);
    // Before DRIVER_OK the device sends nothing.
    driver.transport().interrupt().config();
    assert_eq!((driver.interrupts(), driver.read(reg::INTERRUPT_STATUS)), (0, 0));
    assert_ne!(driver.read(reg::CONFIG_GENERATION), generation);
    driver.initialise();
    driver.transport().interrupt().config();
    driver.transport().interrupt().queue(0);
    assert_eq!((driver.interrupts(), driver.read(reg::INTERRUPT_STATUS)), (2, 3));
    driver.write(reg::INTERRUPT_ACK, reg::INTERRUPT_QUEUE);
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), reg::INTERRUPT_CONFIG);
    assert_eq!(driver.acknowledge(), reg::INTERRUPT_CONFIG);
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 0);
}

#[test]
fn needs_reset_is_told_once_and_cleared_by_a_reset() {
    let mut driver = MockDriver::new(Face::new());
    let interrupt = driver.transport().interrupt();
    (0..3).for_each(|_| interrupt.needs_reset());
    assert!(driver.needs_reset());
    assert_eq!((driver.interrupts(), driver.read(reg::INTERRUPT_STATUS)), (1, reg::INTERRUPT_CONFIG));
    driver.initialise();
    assert!(!driver.needs_reset());
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 0);
}

#[test]
fn rings_in_no_memory_cost_the_device() {
    for (register, value) in
        [(reg::QUEUE_DESC_HIGH, 1u32), (reg::QUEUE_DRIVER_LOW, 1), (reg::QUEUE_SIZE, 3), (reg::QUEUE_SIZE, 0x1_0008)]
    {
        let mut driver = MockDriver::builder(Face::new()).build();
        driver.negotiate();
        driver.set_up(0);
        driver.write(reg::QUEUE_SEL, 1);
        driver.write(register, value);
        driver.write(reg::QUEUE_READY, 1);
        driver.go();
        assert!(driver.needs_reset(), "{register:#x} = {value:#x}");
        assert_eq!((driver.interrupts(), driver.transport().faults()), (1, 1));
        driver.initialise();
        assert!(!driver.needs_reset());
    }
}

#[test]
fn a_shared_line_is_one_descriptor_for_all() {
    let line = InterruptLine::new().unwrap();
    let mut a = MockDriver::builder(Face::new()).line(line.clone()).start();
    let b = MockDriver::builder(Upper).line(line.clone()).start();
    a.transport().interrupt().queue(0);
    b.transport().interrupt().config();
    assert_eq!(line.event().read().unwrap(), 2);
    // Each device knows what was its own.
    assert_eq!((a.acknowledge(), b.acknowledge()), (reg::INTERRUPT_QUEUE, reg::INTERRUPT_CONFIG));
    assert_eq!(a.interrupts(), 0);
}

#[test]
fn a_call_descriptor_keeps_the_queue_bit_set() {
    let driver = MockDriver::new(Face::new());
    let call = driver.transport().interrupt().call_fd(0).unwrap();
    call.write(1).unwrap();
    assert_eq!(driver.acknowledge(), reg::INTERRUPT_QUEUE);
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), reg::INTERRUPT_QUEUE);
    assert_eq!(driver.transport().line().event().read().unwrap(), 1);
}

#[test]
fn a_notification_is_a_write_to_the_kick() {
    let driver = MockDriver::builder(Face::new()).build();
    driver.kick(1);
    driver.kick(1);
    let kicks = driver.transport().kicks();
    assert_eq!(kicks.len(), 2);
    assert_eq!(kicks[1].read().unwrap(), 2);
    assert!(kicks[0].read().is_err());
}

/// A face whose tasks or queue sizes are wrong.
struct Wrong(&'static [u16], &'static [(u16, u16)]);

impl VirtioDevice for Wrong {
    fn device_type(&self) -> u32 {
        1
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        self.0
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn tasks(&mut self) -> Vec<Task> {
        self.1.iter().map(|(from, to)| Task::new(*from..*to, Idle)).collect()
    }
}

#[test]
fn wrongly_made_devices_are_told_so() {
    let make = |device: Wrong| {
        let ram = MockDriver::builder(Face::new()).build().ram().clone();
        MmioTransport::new(Box::new(device), Arc::new(Inline::new()), Ram::clone(&ram)).map(drop).unwrap_err()
    };
    assert!(matches!(make(Wrong(&[8, 8], &[(0, 1)])), Error::Tasks { queue: 1, tasks: 0, .. }));
    assert!(matches!(make(Wrong(&[8, 8], &[(0, 2), (1, 2)])), Error::Tasks { queue: 1, tasks: 2, .. }));
    let error = make(Wrong(&[8, 12], &[(0, 2)]));
    assert!(matches!(error, Error::QueueSize { queue: 1, size: 12, .. }));
    assert_eq!(
        error.to_string(),
        "device `virtio-1`: queue 1 may have 12 entries; a power of two from 1 to 32768 is needed"
    );
}
